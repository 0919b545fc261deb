"""The figure of slopes against size: marks and intervals at the table's numbers, and its words."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from downslope.figure_slopes import slopes_figure
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

SIZES = (70_000_000, 410_000_000, 1_400_000_000, 12_000_000_000)


def table(outcomes, sizes=SIZES, seeds=(1,), family="toy"):
    """A table of the runs' own trends in which every slope differs; the two largest have a q."""
    rows = []
    for text in outcomes:
        task, protocol, metric = text.split("/")
        for size in sizes:
            for seed in seeds:
                slope = -0.2 * np.sin(1 + len(rows)) ** 2
                rows.append(
                    {"task": task, "protocol": protocol, "metric": metric, "family": family}
                    | {"parameters": size, "seed": seed, "slope": slope, "low": slope - 0.04}
                    | {"high": slope + 0.03, "status": "ok"}
                    | {"p": 0.01, "q": 0.001 if size > 1e9 else 0.4}
                )
    return pd.DataFrame(rows)


def figure_of(trends, outcomes, tasks, **more):
    return slopes_figure(trends, tasks, outcomes, BETTER, level=0.05, **more)


def drawn(axes, family="toy"):
    found = np.concatenate([points(axes, f"_{family} {fill}") for fill in ("hollow", "filled")])
    return found[np.argsort(found[:, 0])]


def test_slopes_and_intervals_stand_at_the_numbers_of_the_table_in_points():
    outcomes, tasks = outcomes_and_tasks(3)
    trends = table(outcomes)
    for number, axes in enumerate(figure_of(trends, outcomes, tasks).axes):
        own = trends[trends["task"] == f"t{number}"]
        found = drawn(axes)
        assert found[:, 0] == pytest.approx(np.array(SIZES, dtype=float))
        assert found[:, 1] == pytest.approx(100 * own["slope"].to_numpy())
        bars = ends(axes, "_interval")
        assert bars[:, 0, 0] == pytest.approx(found[:, 0])
        assert bars[:, 0, 1] == pytest.approx(100 * own["low"].to_numpy())
        assert bars[:, 1, 1] == pytest.approx(100 * own["high"].to_numpy())
        assert len(lines(axes, "_zero")) == 1
        low, high = axes.get_ylim()
        assert low < 100 * own["low"].min()
        assert high > 0


def test_as_many_markers_are_filled_as_have_a_small_q():
    outcomes, tasks = outcomes_and_tasks(3)
    trends = table(outcomes)
    axes = figure_of(trends, outcomes, tasks).axes
    for fill, q in (("filled", trends["q"] < 0.05), ("hollow", trends["q"] >= 0.05)):
        of_fill = [lines(each, f"_toy {fill}")[0] for each in axes]
        assert sum(len(line.get_xdata()) for line in of_fill) == q.sum() > 0
        assert {is_filled(line) for line in of_fill} == {fill == "filled"}


def test_it_says_where_only_the_largest_fall_and_what_the_intervals_mean():
    outcomes, tasks = outcomes_and_tasks(2)
    trends = table(outcomes)
    trends.loc[trends["task"] == "t1", "q"] = 0.9
    said = words(figure_of(trends, outcomes, tasks))
    assert "falls in 2 of 4 runs, the largest only" in said
    assert "falls in none of 4 runs" in said
    assert "this run on these items" in said
    trends.loc[(trends["task"] == "t1") & (trends["parameters"] == SIZES[0]), "q"] = 0.001
    assert "falls in 1 of 4 runs," not in words(figure_of(trends, outcomes[1:], tasks))


def test_lower_is_better_turns_the_words_and_not_the_numbers():
    outcomes, tasks = outcomes_and_tasks(1, metric="class_loss")
    trends = table(outcomes)
    figure = figure_of(trends, outcomes, tasks)
    assert drawn(figure.axes[0])[:, 1] == pytest.approx(trends["slope"].to_numpy())  # nats
    assert "falls in none of 4 runs" in words(figure)
    rising = trends.assign(slope=-trends["slope"], low=-trends["high"], high=-trends["low"])
    assert "falls in 2 of 4 runs" in words(figure_of(rising, outcomes, tasks))
    assert "falling is better" in figure.axes[0].get_ylabel()


def test_without_intervals_there_are_points_alone_and_the_caption_says_so():
    outcomes, tasks = outcomes_and_tasks(2)
    trends = table(outcomes).assign(
        low=np.nan, high=np.nan, p=np.nan, q=np.nan, status="no interval: no item-level scores"
    )
    figure = figure_of(trends, outcomes, tasks)
    assert len(drawn(figure.axes[0])) == 4
    assert len(ends(figure.axes[0], "_interval")) == 0
    assert not figure.legends
    said = words(figure)
    assert "No interval: no item-level scores (all outcomes)." in said
    assert "nothing here says what is more than chance" in said
    assert "not tested" in said


def test_one_run_without_an_interval_is_a_hollow_point_among_the_rest():
    outcomes, tasks = outcomes_and_tasks(1)
    trends = table(outcomes)
    trends.loc[3, ["low", "high", "p", "q"]] = np.nan
    trends.loc[3, "status"] = "no interval: no item-level scores of 1 of 8 checkpoints"
    figure = figure_of(trends, outcomes, tasks)
    assert len(drawn(figure.axes[0])) == 4
    assert len(ends(figure.axes[0], "_interval")) == 3
    assert len(points(figure.axes[0], "_toy filled")) == 1
    assert "no item-level scores of 1 of 8 checkpoints (12B)" in words(figure)
    assert "falls in 1 of 3 runs" in words(figure)


def test_seeds_of_a_size_stand_side_by_side_and_families_have_markers():
    outcomes, tasks = outcomes_and_tasks(1)
    trends = pd.concat([table(outcomes, seeds=(1, 2, 3)), table(outcomes, family="other")])
    figure = figure_of(trends, outcomes, tasks)
    axes = figure.axes[0]
    x = np.concatenate([drawn(axes)[:, 0], drawn(axes, "other")[:, 0]])
    assert len(set(np.round(np.log10(x), 6))) == 16
    near = np.abs(np.log10(x)[:, None] - np.log10(SIZES)[None]).min(axis=1)
    assert near.max() < 0.2
    assert (
        lines(axes, "_toy filled")[0].get_marker() != lines(axes, "_other filled")[0].get_marker()
    )
    assert "Family" in words(figure)


def test_what_cannot_be_estimated_is_said():
    outcomes, tasks = outcomes_and_tasks(2)
    trends = table(outcomes)
    numbers = ["slope", "low", "high", "p", "q"]
    constant = trends["task"] == "t1"
    trends.loc[constant, numbers] = np.nan
    trends.loc[constant, "status"] = "not estimable: every cell has the value 0.5"
    said = words(figure_of(trends, outcomes, tasks))
    assert "Not estimable: every cell has the value 0.5 (Task 1)." in said
    none = trends.assign(**dict.fromkeys(numbers, np.nan), status="not estimable: no cells")
    assert "No run's own trend can be estimated" in words(figure_of(none, outcomes, tasks))
    assert "has none of these" in words(figure_of(trends.iloc[:0], outcomes, tasks))
    assert "has none of these" in words(figure_of(trends, [], tasks))


def test_a_run_that_is_too_short_is_named_and_not_laid_at_all_doors():
    outcomes, tasks = outcomes_and_tasks(3)
    trends = table(outcomes)
    smallest = trends["parameters"] == trends["parameters"].min()
    trends.loc[smallest, ["slope", "low", "high", "p", "q"]] = np.nan
    trends.loc[smallest, "status"] = "not estimable: 2 checkpoints, at least 3 are needed"
    said = words(figure_of(trends, outcomes, tasks))
    assert "Not estimable: 2 checkpoints, at least 3 are needed (70M in all outcomes)." in said
    trends.loc[smallest & (trends["task"] == "t2"), "status"] = "not estimable: no cells"
    said = words(figure_of(trends, outcomes, tasks))
    assert "at least 3 are needed (70M in Task 0, Task 1); not estimable: no cells" in said
    assert "no cells (70M in Task 2)." in said


@pytest.mark.parametrize(("count", "sizes", "seeds"), [(1, 1, 1), (12, 8, 1), (30, 10, 2)])
def test_text_is_apart(count, sizes, seeds):
    outcomes, tasks = outcomes_and_tasks(count, "Pattern Match Suppression and More of It {}")
    of_size = [int(14e6 * 1.7**rank) for rank in range(sizes)]
    trends = table(outcomes, sizes=of_size, seeds=range(1, seeds + 1))
    figure = figure_of(trends, outcomes, tasks, title="A title that goes on and on " * 6)
    assert_text_is_apart(figure)


def test_the_file_has_stable_bytes(tmp_path):
    outcomes, tasks = outcomes_and_tasks(2)
    for name in ("one", "two"):
        save_figure(figure_of(table(outcomes), outcomes, tasks), tmp_path / f"{name}.svg")
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
