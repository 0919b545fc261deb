"""The figure of drift: cells and marks at the table's numbers, and what the newest has lost."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from downslope.figure_drift import drift_figure
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

NUMBERS = ["difference", "se", "low", "high", "p", "q", "p_holm"]


def table(outcomes, sizes=(70_000_000,), steps=(2000, 16000, 143000), seeds=(1,)):
    """A drift table in which every difference differs; the first of the steps has no rows."""
    rows = []
    for size in sizes:
        for seed in seeds:
            for place, step in enumerate(steps[1:], start=1):
                for against in ("previous", "best"):
                    for text in outcomes:
                        task, protocol, metric = text.split("/")
                        k = len(rows)
                        difference = 0.3 * np.sin(k)
                        rows.append(
                            {"ckpt": f"toy-{size}-{seed}-{step}", "family": "toy"}
                            | {"parameters": size, "seed": seed, "step": step, "against": against}
                            | {"reference": f"toy-{size}-{seed}-{steps[place - 1]}"}
                            | {"task": task, "protocol": protocol, "metric": metric}
                            | {"difference": difference, "low": difference - 0.05}
                            | {"high": difference + 0.05, "lost": 3 * k, "gained": 2}
                            | {"q": 0.01 if k % 2 else 0.5, "status": "ok"}
                        )
    return pd.DataFrame(rows).astype({"lost": "Int64", "gained": "Int64"})


def figure_of(drift, outcomes, tasks, **more):
    return drift_figure(drift, tasks, outcomes, BETTER, level=0.05, **more)


def histories(figure):
    """The coloured arrays, in the order of the page: of each run against best and previous."""
    return [
        np.ma.filled(mesh.get_array().astype(float), np.nan)
        for axes in figure.axes
        for mesh in axes.collections
        if mesh.get_label() == "_cells"
    ]


def bars(figure, change):
    """(axes, x, y) of the marks of cells that fell or rose, in the histories."""
    return [
        (axes, patch.get_x() + patch.get_width() / 2, patch.get_y() + patch.get_height() / 2)
        for axes in figure.axes
        if any(mesh.get_label() == "_cells" for mesh in axes.collections)
        for patch in axes.patches
        if patch.get_label() == f"_{change}"
    ]


def forests(figure):
    return [axes for axes in figure.axes if lines(axes, "_zero")]


def untested(drift):
    """The table of a study without item-level scores."""
    missing = ["low", "high", "q", "lost", "gained"]
    return drift.assign(**dict.fromkeys(missing, np.nan), status="no test: no item-level scores")


def test_cells_have_the_differences_of_the_table_in_points():
    outcomes, tasks = outcomes_and_tasks(3)
    drift = table(outcomes, sizes=(1, 2))
    found = histories(figure_of(drift.sample(frac=1, random_state=1), outcomes, tasks))
    expected = [
        100
        * drift[(drift["parameters"] == size) & (drift["against"] == against)]
        .pivot(index="task", columns="step", values="difference")
        .to_numpy()
        for size in (1, 2)
        for against in ("best", "previous")
    ]
    assert len(found) == 4
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other)


def test_cells_that_fell_have_a_low_bar_and_cells_that_rose_a_high_one():
    outcomes, tasks = outcomes_and_tasks(4)
    drift = table(outcomes, steps=(1, 2, 3, 4))
    figure = figure_of(drift, outcomes, tasks)
    clear = drift[drift["q"] < 0.05]
    for change, sign in (("fell", -1), ("rose", 1)):
        found = bars(figure, change)
        own = clear[np.sign(clear["difference"]) == sign]
        assert len(found) == len(own) > 0
        for _, _, y in found:
            share = y / 0.17 % 1
            assert share > 0.6 if change == "fell" else share < 0.4
    first = own[(own["against"] == "best")].iloc[0]
    places = {(int(x / 0.13), int(y / 0.17)) for axes, x, y in found if axes is found[0][0]}
    assert (first["step"] - 2, int(first["task"][1:])) in places


def test_the_newest_checkpoint_is_framed_and_drawn_with_its_intervals():
    outcomes, tasks = outcomes_and_tasks(3)
    drift = table(outcomes)
    figure = figure_of(drift, outcomes, tasks)
    (axes,) = forests(figure)
    newest = drift[drift["step"] == 143000]
    for against in ("best", "previous"):
        own = newest[newest["against"] == against]
        found = np.concatenate([points(axes, f"_{against} {f}") for f in ("filled", "hollow")])
        found = found[np.argsort(found[:, 1])]
        assert found[:, 0] == pytest.approx(100 * own["difference"].to_numpy())
        segments = ends(axes, f"_interval {against}")
        assert segments[:, 0, 0] == pytest.approx(100 * own["low"].to_numpy())
        assert segments[:, 1, 0] == pytest.approx(100 * own["high"].to_numpy())
    frames = [p for axes in figure.axes for p in axes.patches if p.get_label() == "_newest"]
    assert [round(frame.get_x() / frame.get_width()) for frame in frames] == [1, 1]


def test_as_many_markers_are_filled_as_have_a_small_q():
    outcomes, tasks = outcomes_and_tasks(5)
    drift = table(outcomes, sizes=(1, 2, 3))
    newest = drift[drift["step"] == 143000]
    axes = forests(figure_of(drift, outcomes, tasks))
    for fill, q in (("filled", newest["q"] < 0.05), ("hollow", newest["q"] >= 0.05)):
        of_fill = [lines(a, f"_{key} {fill}")[0] for a in axes for key in ("best", "previous")]
        assert sum(len(line.get_xdata()) for line in of_fill) == q.sum() > 0
        assert {is_filled(line) for line in of_fill} == {fill == "filled"}


def test_what_the_newest_has_lost_stands_in_words_and_numbers():
    outcomes, tasks = outcomes_and_tasks(3)
    drift = table(outcomes, seeds=(1, 2))
    newest = drift["step"] == 143000
    drift.loc[newest, "difference"] = [0.1, -0.02, -0.03] * 4
    drift.loc[newest, "q"] = [0.001, 0.001, 0.2] * 4
    previous = newest & (drift["against"] == "previous")
    drift.loc[previous, "q"] = 0.9
    drift.loc[newest, ["lost", "gained"]] = [[1, 13], [31, 7], [9, 2]] * 4
    said = words(figure_of(drift, outcomes, tasks))
    assert "70M seed 2, newest checkpoint: step 143000" in said
    assert "Clear falls below the best so far in 1 of 3 tested outcomes: Task 1 −2.0." in said
    assert "No clear fall below the one before in 3 tested" in said.replace("\n", " ")
    assert "31, 7" in said


def test_worse_is_a_fall_also_where_lower_is_better():
    outcomes, tasks = outcomes_and_tasks(2, metric="brier")
    drift = table(outcomes)
    figure = figure_of(drift, outcomes, tasks)
    best = drift[drift["against"] == "best"].pivot(
        index="task", columns="step", values="difference"
    )
    assert histories(figure)[0] == pytest.approx(-100 * best.to_numpy())
    segments = ends(forests(figure)[0], "_interval best")
    assert (segments[:, 0, 0] < segments[:, 1, 0]).all()
    assert "brier is better when lower" in words(figure)


def test_units_are_not_mixed_on_a_scale():
    outcomes, tasks = outcomes_and_tasks(3)
    outcomes[1] = "t1/p/margin"
    figure = figure_of(table(outcomes), outcomes, tasks)
    assert [found.shape for found in histories(figure)] == [(2, 2), (2, 2), (1, 2), (1, 2)]
    said = words(figure)
    assert "step 143000 (points)" in said
    assert "step 143000 (nats)" in said


def test_without_item_level_scores_nothing_is_called_lost():
    outcomes, tasks = outcomes_and_tasks(3)
    drift = untested(table(outcomes))
    figure = figure_of(drift, outcomes, tasks)
    assert not bars(figure, "fell")
    assert not bars(figure, "rose")
    assert all(len(points(axes, "_best filled")) == 0 for axes in forests(figure))
    said = words(figure)
    assert "Not tested (no item-level scores); farthest below the best so far: Task" in said
    assert "No test: no item-level scores (12 of 12 comparisons)" in said
    assert "q < 0.05" not in said
    assert "below the best so far in" not in said


def test_what_was_not_compared_is_hatched():
    outcomes, tasks = outcomes_and_tasks(2)
    drift = table(outcomes)
    gone = (drift["step"] == 143000) & (drift["task"] == "t1")
    drift.loc[gone, ["difference", "low", "high", "q", "lost", "gained"]] = np.nan
    drift.loc[gone, "status"] = "not compared: this checkpoint has no value"
    figure = figure_of(drift, outcomes, tasks)
    assert np.isnan(histories(figure)[0]).tolist() == [[False, False], [False, True]]
    said = words(figure)
    assert "Hatched: not compared." in said
    assert "–" in [text.get_text() for text in forests(figure)[0].texts]
    assert "in 1 tested" in said or "in 1 of 1 tested" in said
    drift.loc[drift["step"] == 143000, ["difference", "low", "high", "q"]] = np.nan
    drift.loc[drift["step"] == 143000, "status"] = "not compared: this checkpoint has no value"
    assert "Not compared: this checkpoint has no value." in words(figure_of(drift, outcomes, tasks))


def test_nothing_to_compare_is_said_in_words():
    outcomes, tasks = outcomes_and_tasks(2)
    drift = table(outcomes)
    assert "no run has two checkpoints" in words(figure_of(drift.iloc[:0], outcomes, tasks))
    assert "no run has two checkpoints" in words(figure_of(drift, [], tasks))


@pytest.mark.parametrize(
    ("count", "sizes", "seeds", "steps"),
    [(1, 1, 1, 2), (12, 8, 1, 8), (30, 1, 2, 3), (2, 10, 2, 3), (3, 1, 1, 154)],
)
def test_text_is_apart(count, sizes, seeds, steps):
    outcomes, tasks = outcomes_and_tasks(count, "Pattern Match Suppression {}")
    drift = table(
        outcomes,
        sizes=[int(14e6 * 1.7**rank) for rank in range(sizes)],
        seeds=range(1, seeds + 1),
        steps=[1000 * (n + 1) for n in range(steps)],
    )
    figure = figure_of(drift, outcomes, tasks, title="A title that goes on and on " * 6)
    assert_text_is_apart(figure)
    assert len(histories(figure)) == 2 * sizes * seeds


def test_the_file_has_stable_bytes(tmp_path):
    outcomes, tasks = outcomes_and_tasks(2)
    for name in ("one", "two"):
        save_figure(figure_of(table(outcomes), outcomes, tasks), tmp_path / f"{name}.svg")
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
