"""The forest plot: marks at the table's numbers, filled by q, and words where there is nothing."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from downslope.figure_forest import forest_figure
from downslope.figure_style import save_figure
from drawn import (
    BETTER,
    assert_text_is_apart,
    ends,
    is_filled,
    lines,
    outcomes_and_tasks,
    points,
    words,
)

METHODS = ("ols", "cluster", "jackknife", "two-stage", "wild", "item")
EFFECTS = ("parameters", "tokens", "interaction")


def table(outcomes, methods=METHODS):
    """An effects table in which every number differs; q crosses 0.05 from row to row."""
    rows = []
    for text in outcomes:
        task, protocol, metric = text.split("/")
        for method in methods:
            for effect in EFFECTS:
                k = len(rows)
                estimate = np.sin(k) / 2
                rows.append(
                    {"task": task, "protocol": protocol, "metric": metric, "method": method}
                    | {"effect": effect, "estimate": estimate, "low": estimate - 0.3}
                    | {"high": estimate + 0.2, "q": 0.01 if k % 3 else 0.5, "status": "ok"}
                    | {"per_tenfold": estimate / 10, "per_tenfold_low": estimate / 10 - 0.03}
                    | {"per_tenfold_high": estimate / 10 + 0.02}
                )
    return pd.DataFrame(rows)


def figure_of(effects, outcomes, tasks, robust="jackknife", **more):
    return forest_figure(effects, tasks, outcomes, BETTER, robust=robust, level=0.05, **more)


def panels(figure):
    return dict(zip(EFFECTS, figure.axes, strict=True))


def of(effects, method, effect):
    return effects[(effects["method"] == method) & (effects["effect"] == effect)]


def test_marks_and_intervals_stand_at_the_numbers_of_the_table_in_points():
    outcomes, tasks = outcomes_and_tasks(3)
    effects = table(outcomes)
    for effect, axes in panels(figure_of(effects, outcomes, tasks)).items():
        left, right = axes.get_xlim()
        for method in METHODS:
            own = of(effects, method, effect)
            found = np.concatenate(
                [points(axes, f"_{method} {fill}") for fill in ("filled", "hollow")]
            )
            found = found[np.argsort(found[:, 1])]  # down the page, as in the table
            assert found[:, 0] == pytest.approx(100 * own["per_tenfold"].to_numpy())
            segments = ends(axes, f"_interval {method}")
            for side, column in ((0, "per_tenfold_low"), (1, "per_tenfold_high")):
                expected = (100 * own[column]).clip(left, right)
                assert segments[:, side, 0] == pytest.approx(expected.to_numpy())
            assert segments[:, 0, 1] == pytest.approx(found[:, 1])


def test_outcomes_lie_in_their_order_and_methods_do_not_meet():
    outcomes, tasks = outcomes_and_tasks(4)
    (axes, *_) = figure_of(table(outcomes), outcomes, tasks).axes
    heights = {
        (number, method): place
        for method in METHODS
        for number, place in enumerate(
            sorted(
                np.concatenate(
                    [points(axes, f"_{method} {fill}")[:, 1] for fill in ("filled", "hollow")]
                )
            )
        )
    }
    order = [heights[number, method] for number in range(4) for method in METHODS]
    assert order == sorted(set(order))
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # down the page


def test_as_many_markers_are_filled_as_have_a_small_q():
    outcomes, tasks = outcomes_and_tasks(5)
    effects = table(outcomes)
    filled = hollow = 0
    for axes in figure_of(effects, outcomes, tasks).axes:
        for method in METHODS:
            for fill, expected in (("filled", True), ("hollow", False)):
                for line in lines(axes, f"_{method} {fill}"):
                    assert is_filled(line) == expected
            filled += len(points(axes, f"_{method} filled"))
            hollow += len(points(axes, f"_{method} hollow"))
    assert filled == (effects["q"] < 0.05).sum()
    assert hollow == (effects["q"] >= 0.05).sum()


def test_worse_is_left_also_where_lower_is_better():
    outcomes, tasks = outcomes_and_tasks(2, metric="brier")
    effects = table(outcomes)
    figure = figure_of(effects, outcomes, tasks)
    for effect, axes in panels(figure).items():
        own = of(effects, "ols", effect)
        found = np.concatenate([points(axes, f"_ols {f}") for f in ("filled", "hollow")])
        found = found[np.argsort(found[:, 1])]
        assert found[:, 0] == pytest.approx(-100 * own["per_tenfold"].to_numpy())
        segments = ends(axes, "_interval ols")
        assert (segments[:, 0, 0] <= segments[:, 1, 0]).all()
        assert "← worse" in axes.get_xlabel()
    assert "brier is better when lower" in words(figure)


def test_several_units_are_shown_in_standard_deviations():
    outcomes, tasks = outcomes_and_tasks(2)
    outcomes[1] = "t1/p/margin"
    effects = table(outcomes)
    figure = figure_of(effects, outcomes, tasks)
    axes = figure.axes[0]
    own = of(effects, "ols", "parameters")
    found = np.concatenate([points(axes, f"_ols {f}") for f in ("filled", "hollow")])
    assert sorted(found[:, 0]) == pytest.approx(sorted(own["estimate"]))
    assert "sd of the value" in axes.get_xlabel()
    assert "several units" in words(figure)
    assert "points" in figure_of(effects, outcomes[:1], tasks).axes[0].get_xlabel()


def test_the_judge_is_emphasised_and_given_in_numbers():
    outcomes, tasks = outcomes_and_tasks(1)
    effects = table(outcomes)
    effects.loc[of(effects, "two-stage", "tokens").index, "per_tenfold"] = -0.0401
    effects.loc[of(effects, "two-stage", "tokens").index, "per_tenfold_low"] = -0.0483
    effects.loc[of(effects, "two-stage", "tokens").index, "per_tenfold_high"] = 0.0003
    figure = figure_of(effects, outcomes, tasks, robust="two-stage")
    numbers = [text.get_text() for text in figure.axes[1].texts]
    assert numbers == ["two-stage [95 %]", "−4.0 [−4.8, 0.0]"]
    sizes = {
        method: max(
            line.get_markersize()
            for line in figure.axes[0].lines
            if str(line.get_label()).startswith(f"_{method} ")
        )
        for method in METHODS
    }
    assert max(sizes, key=sizes.get) == "two-stage"


def test_item_stands_apart_and_the_caption_says_why():
    outcomes, tasks = outcomes_and_tasks(1)
    effects = table(outcomes)
    figure = figure_of(effects, outcomes, tasks)
    (bars,) = [c for c in figure.axes[0].collections if c.get_label() == "_interval item"]
    assert bars.get_linestyle()[0][1] is not None  # dashed
    (others,) = [c for c in figure.axes[0].collections if c.get_label() == "_interval wild"]
    assert others.get_linestyle()[0][1] is None
    assert "another question" in words(figure)
    without = figure_of(effects[effects["method"] != "item"], outcomes, tasks)
    assert "another question" not in words(without)


def test_what_cannot_be_estimated_is_a_dash_and_a_reason():
    outcomes, tasks = outcomes_and_tasks(2)
    effects = table(outcomes)
    numbers = ["estimate", "low", "high", "q", "per_tenfold", "per_tenfold_low", "per_tenfold_high"]
    constant = effects["task"] == "t1"
    effects.loc[constant, numbers] = np.nan
    effects.loc[constant, "status"] = "not estimable: every cell has the value 0.5"
    wild = (effects["method"] == "wild") & ~constant
    effects.loc[wild, numbers] = np.nan
    effects.loc[wild, "status"] = "not estimable: 2 runs, at least 3 are needed"
    figure = figure_of(effects, outcomes, tasks)
    for axes in figure.axes:
        dashes = [text for text in axes.texts if text.get_text() == " –"]
        assert len(dashes) == 5  # wild has no line where it estimates nothing anywhere
        assert [t.get_text() for t in axes.texts].count("–") == 1  # the judge's number
    said = words(figure)
    assert "every cell has the value 0.5 (all methods in Task 1)" in said
    assert "2 runs, at least 3 are needed (wild in Task 0)" in said


def test_a_p_at_its_floor_is_marked_unless_it_is_enough():
    outcomes, tasks = outcomes_and_tasks(2)
    effects = table(outcomes)
    floor = effects["method"] == "wild"
    effects.loc[floor, "status"] = "below resolution: 8 runs allow no p under 0.0078"
    effects.loc[floor, "q"] = np.where(effects.loc[floor, "task"] == "t0", 0.047, 0.094)
    figure = figure_of(effects, outcomes, tasks)
    for axes in figure.axes:
        assert len(points(axes, "_wild stuck")) == 1
        assert len(points(axes, "_wild filled")) == 1
    assert "8 runs allow no p under 0.0078" in words(figure)
    effects.loc[floor, "q"] = 0.047
    assert "8 runs allow" not in words(figure_of(effects, outcomes, tasks))


def test_an_interval_beyond_the_panel_or_without_an_end_has_an_arrowhead():
    outcomes, tasks = outcomes_and_tasks(2)
    effects = table(outcomes)
    x = effects["per_tenfold"]
    short = effects.assign(per_tenfold_low=x - 1e-3, per_tenfold_high=x + 1e-3)
    assert "Arrowheads" not in words(figure_of(short, outcomes, tasks))
    wild, ols = (short["method"] == name for name in ("wild", "ols"))
    short.loc[wild & (short["task"] == "t0"), "per_tenfold_low"] = np.nan
    short.loc[ols & (short["task"] == "t1"), "per_tenfold_high"] = 9.0
    figure = figure_of(short, outcomes, tasks)
    for axes in figure.axes:
        heads = points(axes, "_beyond")
        assert sorted(heads[:, 0]) == pytest.approx(axes.get_xlim())
    assert "Arrowheads" in words(figure)


def test_a_method_without_intervals_has_markers_alone():
    outcomes, tasks = outcomes_and_tasks(2)
    effects = table(outcomes)
    wild = effects["method"] == "wild"
    effects.loc[wild, ["per_tenfold_low", "per_tenfold_high"]] = np.nan
    figure = figure_of(effects, outcomes, tasks)
    assert (
        len(points(figure.axes[0], "_wild filled")) + len(points(figure.axes[0], "_wild hollow"))
        == 2
    )
    assert len(ends(figure.axes[0], "_interval wild")) == 0
    assert "Without a line (wild)" in words(figure)
    bare = figure_of(effects, outcomes, tasks, robust="wild")
    assert "[" not in bare.axes[0].texts[1].get_text()


def test_nothing_estimable_and_no_rows_are_said_in_words():
    outcomes, tasks = outcomes_and_tasks(1)
    effects = table(outcomes)
    numbers = ["estimate", "low", "high", "q", "per_tenfold", "per_tenfold_low", "per_tenfold_high"]
    none = effects.assign(**dict.fromkeys(numbers, np.nan), status="not estimable: no cells")
    assert "not estimable: no cells" in words(figure_of(none, outcomes, tasks))
    assert "no rows" in words(figure_of(effects.iloc[:0], outcomes, tasks))
    assert "no rows" in words(figure_of(effects, [], tasks))


@pytest.mark.parametrize("count", [1, 2, 12, 30])
def test_text_is_apart(count):
    outcomes, tasks = outcomes_and_tasks(count, "Pattern Match Suppression and More of It {}")
    effects = table(outcomes)
    effects.loc[::5, "status"] = "not estimable: model size and tokens do not vary independently"
    effects.loc[::5, ["per_tenfold", "per_tenfold_low", "per_tenfold_high", "q"]] = np.nan
    figure = figure_of(effects, outcomes, tasks, title="A title that goes on and on " * 8)
    assert_text_is_apart(figure)


def test_wide_numbers_get_the_space_that_they_need():
    """Sizes next to each other, extrapolated to a tenfold, give changes of hundreds of points."""
    outcomes, tasks = outcomes_and_tasks(2)
    wide = table(outcomes)
    wide[["per_tenfold", "per_tenfold_low", "per_tenfold_high"]] *= 1000
    figure, usual = (figure_of(e, outcomes, tasks) for e in (wide, table(outcomes)))
    assert_text_is_apart(figure)
    figure.draw_without_rendering()
    for axes in figure.axes:
        right = axes.get_window_extent().x1
        assert all(text.get_window_extent().x0 > right for text in axes.texts if "[" in str(text))
    assert figure.get_figwidth() > usual.get_figwidth() + 0.5


def test_runs_that_a_method_leaves_out_are_named():
    outcomes, tasks = outcomes_and_tasks(2)
    effects = table(outcomes)
    judge = effects["method"] == "jackknife"
    effects.loc[judge, "status"] = "left out: toy/7e+07/0 (tokens that hardly vary)"
    said = words(figure_of(effects, outcomes, tasks))
    named = "toy/7e+07/0 (tokens that hardly vary) (jackknife in all outcomes)"
    assert f"Left out: {named}." in said


def test_the_file_has_stable_bytes(tmp_path):
    outcomes, tasks = outcomes_and_tasks(2)
    for name in ("one", "two"):
        save_figure(figure_of(table(outcomes), outcomes, tasks), tmp_path / f"{name}.svg")
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
