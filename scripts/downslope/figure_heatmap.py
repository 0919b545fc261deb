"""A heat map of the whole study: how far each cell is from chance, and from its run's best."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.colors import Colormap, FuncNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator

from downslope.errors import StudyError
from downslope.figure_coverage import coverage_sentences, planned
from downslope.figure_matrix import (
    ROW,
    colour_bar,
    grouped,
    matrix,
    name_height,
    write_ends,
    write_names,
)
from downslope.figure_names import Row, rows_of, run_names, turned_sentence
from downslope.figure_page import EDGE, Sheet, empty_figure
from downslope.figure_style import short_numbers, style, text_width
from downslope.panel import RUN, FloatArray

_POINT = [*RUN, "tokens", "step"]
_ROOM = 9.6  # inches for the columns, before they get too narrow
_BAR = 0.85  # least height of a block, for its colour bar
_HEADING, _AFTER = 0.2, 0.3  # a block's heading; below a block
_RIGHT = 0.75  # the colour bar and its ticks


class _Block(NamedTuple):
    """Rows of one kind in one unit, with one scale of colours."""

    heading: str
    rows: list[Row]
    values: FloatArray
    colours: Colormap
    norm: Normalize


def heatmap_figure(
    cells: pd.DataFrame,
    tasks: Sequence[Mapping[str, Any]],
    outcomes: Sequence[str],
    better: Mapping[str, str],
    *,
    expected: int,
    title: str = "",
    checkpoints: Sequence[Mapping[str, Any]] | None = None,
) -> Figure:
    """Outcomes x checkpoints, the columns by run and training tokens, in two blocks per unit.

    The first block shows value minus chance, of outcomes whose task has a level of chance: cividis,
    grey at chance, so that the side can be told without colours. The second shows how far a cell
    is below the best of its run so far, itself included. Both count so that worse is less, also
    for metrics that are better when lower. Arguments are those of `figures.accuracy_figure`, and
    `better` maps metrics to `higher` or `lower`. Missing cells are hatched.
    """
    rows = rows_of(outcomes, tasks, better)
    shown = cells.iloc[:0] if not rows else pd.concat([row.of(cells) for row in rows])
    shown = shown[shown["value"].notna()]
    if shown.empty:
        with style():
            return empty_figure(title, "No cells of these outcomes yet.")
    plan = planned(shown, checkpoints)
    names = run_names(plan)
    of_run = [plan[(plan[RUN] == list(run)).all(axis=1)] for run in names]
    columns = pd.MultiIndex.from_frame(pd.concat(of_run)[_POINT])
    values = np.array([_values(row, shown, columns) for row in rows])
    starts = np.cumsum([0, *map(len, of_run)])
    chance = {row["task"]: row["chance"] for row in tasks}
    blocks = _blocks(rows, values, starts, chance)
    with style():
        if not blocks:
            why = (
                "No task has a level of chance and no run has two checkpoints: nothing to compare."
            )
            return empty_figure(title, why)
        groups = grouped(list(names.values()), [len(part) for part in of_run], _ROOM)
        left = EDGE + max(text_width(row.title, 7.5) for row in rows) + 0.14
        heights = [max(_BAR, len(block.rows) * ROW) for block in blocks]
        above = _HEADING + name_height(groups)
        first, last = (
            short_numbers([float(part["tokens"].iloc[at]) for part in of_run]) for at in (0, -1)
        )
        sheet = Sheet(
            max(left + groups[-1].right + _RIGHT, 5.5),
            sum(heights) + len(blocks) * (above + _AFTER),
            title=title,
            caption=" ".join(_sentences(rows, blocks, plan, shown, expected, chance)),
            above=0.12,
            below=0.08,
        )
        down = 0.0
        for block, height in zip(blocks, heights, strict=True):
            sheet.text(left, down, block.heading, ha="left", va="top", size=8.5, weight="bold")
            down += above
            parts = np.split(block.values, starts[1:-1], axis=1)
            titles = [row.title for row in block.rows]
            look: dict[str, Any] = {"colours": block.colours, "norm": block.norm}
            axes = matrix(sheet, left, down, groups, titles, parts, **look)
            write_names(axes, groups)
            write_ends(axes, groups, first, last)
            bar = colour_bar(sheet, (left + groups[-1].right + 0.14, down, 0.1, height), **look)
            bar.yaxis.set_major_locator(FixedLocator(_ticks(block.norm)))
            down += height + _AFTER
    return sheet.figure


def _values(row: Row, cells: pd.DataFrame, columns: pd.MultiIndex) -> FloatArray:
    """The cells of one outcome in the order of the columns, NaN where there is none."""
    own = row.of(cells)
    twice = own[own.duplicated(_POINT)]
    if len(twice):
        raise StudyError(
            "another checkpoint of the same run has as many tokens and a value too",
            where=f"cells, {twice['ckpt'].iloc[0]}, {row.outcome}",
            remedy="Remove one of the two, or give them different families or seeds.",
        )
    return own.set_index(_POINT)["value"].reindex(columns).to_numpy(np.float64)


def _blocks(
    rows: Sequence[Row],
    values: FloatArray,
    starts: FloatArray,
    chance: Mapping[str, Mapping[str, float]],
) -> list[_Block]:
    """For every unit, the level where chance is known and the loss where a run has a history."""
    blocks = []
    for unit in dict.fromkeys(row.unit for row in rows):
        of_unit = [(row, values[i]) for i, row in enumerate(rows) if row.unit == unit]
        level = [
            (row, row.sign * row.factor * (value - chance[row.outcome.task][row.outcome.metric]))
            for row, value in of_unit
            if row.outcome.metric in chance.get(row.outcome.task, {})
        ]
        if level:
            found = np.array([value for _, value in level])
            reach = _largest(found)
            heading = f"Value against chance, {unit}"
            blocks.append(
                _Block(
                    heading,
                    [row for row, _ in level],
                    found,
                    mpl.colormaps["cividis"],
                    _by_roots(-reach, reach),
                )
            )
        if np.diff(starts).max() > 1:
            found = np.array([row.factor * _loss(row.sign * v, starts) for row, v in of_unit])
            heading = f"Change against the best of the run so far, {unit}"
            norm = _by_roots(-_largest(found), 0.0)
            members = [row for row, _ in of_unit]
            blocks.append(_Block(heading, members, found, mpl.colormaps["YlOrBr_r"], norm))
    return blocks


def _loss(performance: FloatArray, starts: FloatArray) -> FloatArray:
    """Each value minus the best of its run up to and with it; zero at a new best."""
    runs = np.split(performance, starts[1:-1])
    return np.concatenate([run - np.fmax.accumulate(run) for run in runs])


def _by_roots(low: float, high: float) -> Normalize:
    """Colours by the square root of the distance from zero, so that small differences show."""
    return FuncNorm(
        (lambda x: np.sign(x) * np.sqrt(np.abs(x)), lambda x: np.sign(x) * x**2), low, high
    )


def _ticks(norm: Normalize) -> list[float]:
    """Zero and a few round numbers on its sides, apart enough for their square roots."""
    reach = -float(norm.vmin or 0.0)
    ticks: list[float] = []
    power = math.floor(math.log10(reach))
    for step in (n * 10.0**k for k in (power, power - 1, power - 2) for n in (5, 2, 1)):
        last = ticks[-1] if ticks else 2 * reach
        if step <= reach and math.sqrt(last) - math.sqrt(step) > 0.22 * math.sqrt(reach):
            ticks.append(step)
    if ticks and ticks[-1] < 0.05 * reach:
        ticks.pop()  # too near to zero
    return sorted([-t for t in ticks] + [0.0] + [t for t in ticks if t <= (norm.vmax or 0.0)])


def _largest(values: FloatArray) -> float:
    largest = float(np.nanmax(np.abs(values), initial=0.0))
    return largest if largest > 0 else 1.0


def _sentences(
    rows: Sequence[Row],
    blocks: Sequence[_Block],
    plan: pd.DataFrame,
    cells: pd.DataFrame,
    expected: int,
    chance: Mapping[str, Mapping[str, float]],
) -> list[str]:
    counts = [(row.title, len(row.of(cells))) for row in rows]
    shown = plan.loc[~plan["excluded"], "tokens"] if not plan["excluded"].all() else plan["tokens"]
    low, high = short_numbers([float(shown.min()), float(shown.max())])
    sentences = [
        *coverage_sentences(plan, counts, expected),
        f"Columns: checkpoints of each run in the order of training tokens, {low} to {high}.",
        "Colours go by square roots, so that small differences show.",
    ]
    if any(np.isnan(block.values).any() for block in blocks):
        sentences.append("Hatched: no value.")
    without = [
        row.title for row in rows if row.outcome.metric not in chance.get(row.outcome.task, {})
    ]
    if len(without) == len(rows):
        sentences.append("Chance is not known for any of the tasks.")
    elif without:
        sentences.append(f"Chance is not known for {', '.join(without)}.")
    if any("best" in block.heading for block in blocks):
        sentences.append(
            "The best of several values is in part luck, so small falls below it may mean nothing: "
            "where items were scored, the figure of drift tests them."
        )
    return sentences + turned_sentence(rows)
