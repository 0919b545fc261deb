"""The figure of shapes: cells and lines at the numbers of the tables, shapes in words."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from downslope.figure_shapes import shapes_figure
from downslope.figure_style import powers, save_figure
from drawn import BETTER, assert_text_is_apart, lines, outcomes_and_tasks, points, words

SIZES = (70_000_000, 410_000_000, 1_400_000_000, 12_000_000_000)
PER_STEP = 2097152


def study(outcomes, value, sizes=SIZES, steps=(2000, 16000, 64000, 143000), axis="flops"):
    """Cells whose value is `value(log10 of the axis)`."""
    rows = []
    for size in sizes:
        for step in steps:
            for text in outcomes:
                task, protocol, metric = text.split("/")
                tokens = step * PER_STEP
                place = {"parameters": size, "tokens": tokens, "flops": 6.0 * size * tokens}
                rows.append(
                    {"ckpt": f"toy-{size}-{step}", "family": "toy", "seed": 1, "step": step}
                    | {**place, "task": task, "protocol": protocol, "metric": metric}
                    | {"value": value(np.log10(place[axis])), "se": 0.01}
                )
    return pd.DataFrame(rows)


def trend(text, axis="flops", shape="inverse", **numbers):
    """A row of the trends table."""
    task, protocol, metric = text.split("/")
    columns = ("slope", "slope_low", "slope_high", "p", "q", "breakpoint", "turn_p", "turn_q")
    sides = ("left_slope", "left_p", "right_slope", "right_p")
    return (
        {"task": task, "protocol": protocol, "metric": metric, "axis": axis, "shape": shape}
        | dict.fromkeys([*columns, *sides], np.nan)
        | {"status": "ok"}
        | numbers
    )


def figure_of(trends, cells, outcomes, tasks, **more):
    return shapes_figure(pd.DataFrame(trends), cells, tasks, outcomes, BETTER, **more)


def of_cells(axes):
    return np.concatenate([points(axes, label) for label in ("70M", "410M", "1.4B", "12B")])


def test_the_cells_are_drawn_in_the_colours_of_their_sizes():
    outcomes, tasks = outcomes_and_tasks(2)
    cells = study(outcomes, lambda x: 0.5 + np.sin(x) / 3)
    (axes, _) = figure_of([trend(text) for text in outcomes], cells, outcomes, tasks).axes
    own = cells[cells["task"] == "t0"]
    assert of_cells(axes) == pytest.approx(own[["flops", "value"]].to_numpy())
    assert len({lines(axes, name)[0].get_color() for name in ("70M", "410M", "1.4B", "12B")}) == 4
    assert axes.get_xscale() == "log"


@pytest.mark.parametrize("axis", ["parameters", "tokens", "flops"])
def test_the_line_goes_through_cells_that_lie_on_one(axis):
    outcomes, tasks = outcomes_and_tasks(1)
    cells = study(outcomes, lambda x: 1.7 - 0.05 * x, axis=axis)
    found = [trend(outcomes[0], axis=axis, slope=-0.05, slope_low=-0.06, slope_high=-0.04, q=0.01)]
    (axes,) = figure_of(found, cells, outcomes, tasks, axis=axis).axes
    (line,) = lines(axes, "_trend")
    x, y = line.get_data()
    assert y == pytest.approx(1.7 - 0.05 * np.log10(x))
    assert x == pytest.approx([cells[axis].min(), cells[axis].max()])
    assert not line.is_dashed()


def test_two_lines_meet_the_cells_on_both_sides_of_the_breakpoint():
    outcomes, tasks = outcomes_and_tasks(1)
    turn = 6.0 * 1_400_000_000 * 2000 * PER_STEP
    kink = np.log10(turn)
    cells = study(outcomes, lambda x: 0.4 + np.where(x < kink, -0.1, 0.2) * (x - kink))
    # The breakpoint is written with six digits and belongs to both sides.
    found = trend(outcomes[0], shape="U", slope=0.01, left_slope=-0.1, right_slope=0.2, turn_q=0.02)
    found["breakpoint"] = float(f"{turn:.6g}")
    figure = figure_of([found], cells, outcomes, tasks)
    left, right = lines(figure.axes[0], "_trend")
    x, y = left.get_data()
    assert y == pytest.approx(0.4 - 0.1 * (np.log10(x) - kink))
    assert x == pytest.approx([cells["flops"].min(), turn])
    x, y = right.get_data()
    assert y == pytest.approx(0.4 + 0.2 * (np.log10(x) - kink))
    assert x == pytest.approx([turn, cells["flops"].max()])
    said = words(figure)
    assert "falls, then rises (U)" in said
    assert "−10.0, then +20.0 per tenfold, q 0.02" in said
    assert len(lines(figure.axes[0], "_breakpoint")) == 1


def test_on_tokens_a_run_with_one_checkpoint_does_not_move_the_line():
    outcomes, tasks = outcomes_and_tasks(1)
    cells = study(outcomes, lambda x: 1.7 - 0.05 * x, axis="tokens")
    alone = cells.iloc[[0]].assign(parameters=5_000_000_000, value=0.01)
    found = [trend(outcomes[0], axis="tokens", slope=-0.05, q=0.01)]
    (axes,) = figure_of(found, pd.concat([cells, alone]), outcomes, tasks, axis="tokens").axes
    x, y = lines(axes, "_trend")[0].get_data()
    assert y == pytest.approx(1.7 - 0.05 * np.log10(x))


@pytest.mark.parametrize(
    ("shape", "said", "sure"),
    [
        ("inverse", "falls (inverse)", True),
        ("positive", "rises (positive)", True),
        ("flat", "no trend found (flat)", False),
        ("not testable", "turn not testable; falls overall", False),
    ],
)
def test_shapes_are_named_and_only_sure_ones_are_solid(shape, said, sure):
    outcomes, tasks = outcomes_and_tasks(1)
    cells = study(outcomes, lambda x: 1.7 - 0.05 * x)
    found = trend(outcomes[0], shape=shape, slope=-0.05, slope_low=-0.071, slope_high=0.0, q=0.04)
    if shape == "not testable":
        found["status"] = "not testable: why; over the whole axis performance falls"
    figure = figure_of([found], cells, outcomes, tasks)
    assert said in words(figure)
    assert "−5.0 [−7.1, 0.0] per tenfold, q 0.04" in words(figure)
    (line,) = lines(figure.axes[0], "_trend")
    assert line.is_dashed() != sure


def test_what_is_not_estimable_has_no_line_and_a_reason():
    outcomes, tasks = outcomes_and_tasks(2)
    cells = study(outcomes, lambda x: 0.5)
    reason = "not estimable: every cell has the value 0.5"
    found = [trend(text, shape="not testable", status=reason) for text in outcomes]
    figure = figure_of(found, cells, outcomes, tasks)
    assert all(not lines(axes, "_trend") for axes in figure.axes)
    assert "Not estimable: every cell has the value 0.5 (all outcomes)." in words(figure)
    assert "shape not testable" in words(figure)


def test_an_outcome_without_cells_or_row_says_so():
    outcomes, tasks = outcomes_and_tasks(2)
    cells = study(outcomes[:1], lambda x: 1.7 - 0.05 * x)
    figure = figure_of([trend(outcomes[0], slope=-0.05, q=0.01)], cells, outcomes, tasks)
    assert "no cells" in words(figure)
    assert "not in the table of trends" in words(figure)
    assert "No cells" in words(figure_of([trend(outcomes[0])], cells.iloc[:0], outcomes, tasks))
    assert "No cells" in words(figure_of([trend(outcomes[0])], cells, [], tasks))


def test_lower_is_better_is_said_at_the_axis():
    outcomes, tasks = outcomes_and_tasks(1, metric="brier")
    cells = study(outcomes, lambda x: 1.7 - 0.05 * x)
    found = [trend(outcomes[0], shape="positive", slope=-0.05, q=0.01)]
    figure = figure_of(found, cells, outcomes, tasks)
    assert figure.axes[0].get_ylabel() == "Brier score\n(lower is better)"
    assert "performance" in words(figure)


def test_values_and_lines_are_inside_the_panel():
    outcomes, tasks = outcomes_and_tasks(1)
    cells = study(outcomes, lambda x: 0.5 + 0.01 * np.sin(9 * x))
    (axes,) = figure_of([trend(outcomes[0], slope=-0.2, q=0.01)], cells, outcomes, tasks).axes
    low, high = axes.get_ylim()
    y = np.concatenate([line.get_ydata() for line in axes.lines])
    assert low < y.min() < y.max() < high


@pytest.mark.parametrize("count", [1, 5, 12, 30])
def test_text_is_apart(count):
    outcomes, tasks = outcomes_and_tasks(count, "Pattern Match Suppression and More of It {}")
    sizes = [int(14e6 * 1.7**rank) for rank in range(10)]
    cells = study(outcomes, lambda x: 0.5 + np.sin(x) / 3, sizes=sizes)
    shapes = ("inverse", "inverted U", "not testable")
    numbers = {"slope": -0.128, "slope_low": -0.234, "slope_high": -0.122, "q": 0.00058}
    numbers |= {"breakpoint": 1e20, "left_slope": 0.1, "right_slope": -0.1, "turn_q": 0.012}
    numbers["status"] = "left out: 2 runs with one checkpoint"
    found = [trend(text, shape=shapes[n % 3], **numbers) for n, text in enumerate(outcomes)]
    figure = figure_of(found, cells, outcomes, tasks, title="A title that goes on and on " * 6)
    assert_text_is_apart(figure)


def test_compute_is_written_in_powers_of_ten():
    assert powers([1e19, 3e19, 2.5e-3]) == ["10¹⁹", "3·10¹⁹", "2.5·10⁻³"]


def test_the_file_has_stable_bytes(tmp_path):
    outcomes, tasks = outcomes_and_tasks(2)
    cells = study(outcomes, lambda x: 1.7 - 0.05 * x)
    for name in ("one", "two"):
        figure = figure_of(
            [trend(text, slope=-0.05, q=0.01) for text in outcomes], cells, outcomes, tasks
        )
        save_figure(figure, tmp_path / f"{name}.svg")
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
