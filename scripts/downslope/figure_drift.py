"""Drift, a band per run: what each checkpoint lost and gained, and what the newest has lost."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from downslope.drift import newest
from downslope.figure_drift_band import (
    COLOURS,
    LOOKS,
    Scale,
    draw_band,
    draw_sample,
    limits,
)
from downslope.figure_drift_words import drift_caption, verdict
from downslope.figure_matrix import ROW, colour_bar
from downslope.figure_names import Row, rows_of, run_names
from downslope.figure_page import EDGE, LEFT, Legend, Sheet, empty_figure
from downslope.figure_style import INK, MUTED, style, text_width
from downslope.panel import RUN

_ONE_ABOVE_ANOTHER = 4  # runs; more stand in two columns
_NAME, _LINE = 0.2, 0.145  # a band's name, a line of its words
_OVER, _UNDER, _BETWEEN = 0.26, 0.42, 0.4  # a band's headings, its ticks; between two columns
_CHARACTER = 0.061  # mean width of one in a band's words
# Differences beyond this share of all have the darkest colour; the bar's arrows say so.
_SHARE = 0.98


def drift_figure(
    drift: pd.DataFrame,
    tasks: Sequence[Mapping[str, Any]],
    outcomes: Sequence[str],
    better: Mapping[str, str],
    *,
    level: float,
    title: str = "",
) -> Figure:
    """A band per run: outcomes x checkpoints against the best so far and against the one before,
    then the newest checkpoint's differences with 95 % intervals and the items lost and gained.

    `drift` is the drift table; `tasks` have task and title; `better` maps metrics to `higher` or
    `lower`. Differences count so that a fall of performance is negative. A bar at a cell's lower
    edge says that it fell with q < `level`, at the upper edge that it rose. What the newest
    checkpoint has lost stands in words above its band. Missing comparisons are hatched.
    """
    rows = rows_of(outcomes, tasks, better)
    changes = _changes(drift, rows, level)
    with style():
        if changes.empty:
            return empty_figure(title, "Nothing to compare: no run has two checkpoints.")
        scales = _scales(changes, rows)
        bands = _bands(changes, rows, scales)
        width = max(scale.width for scale in scales.values())
        columns = 1 if len(bands) <= _ONE_ABOVE_ANOTHER else 2
        lines = [bands[start : start + columns] for start in range(0, len(bands), columns)]
        tested = bool(changes["q"].notna().any())
        sheet = Sheet(
            2 * EDGE + columns * width + (columns - 1) * _BETWEEN,
            math.fsum(_words(line) + _tall(line) for line in lines),
            title=title,
            caption=drift_caption(changes, rows, level),
            legend=_legend(level, tested),
            above=0.62,
            below=0.0,
        )
        _explain_cells(sheet, scales, level, tested)
        down = 0.0
        for line in lines:
            for column, band in enumerate(line):
                left = EDGE + column * (width + _BETWEEN)
                look = {"ha": "left", "va": "top"}
                sheet.text(left, down, band.name, size=8.5, weight="bold", **look)
                for number, words in enumerate(band.words):
                    sheet.text(left, down + _NAME + number * _LINE, words, size=7.5, **look)
                draw_band(sheet, left, down + _words(line), band.changes, band.rows, band.scale)
            down += _words(line) + _tall(line)
    return sheet.figure


class _Band(NamedTuple):
    """A run in one unit: what is said above it and what is drawn; `row` counts in `rows`."""

    name: str
    words: list[str]
    changes: pd.DataFrame
    rows: list[Row]
    scale: Scale


def _bands(changes: pd.DataFrame, rows: Sequence[Row], scales: Mapping[str, Scale]) -> list[_Band]:
    """Run by run, and within a run unit by unit."""
    bands = []
    for run, name in run_names(changes).items():
        of_run = changes[(changes[RUN] == list(run)).all(axis=1)]
        heading = f"{name}, newest checkpoint: step {of_run['step'].max()}"
        for unit, scale in scales.items():
            members = [number for number, row in enumerate(rows) if row.unit == unit]
            own = of_run[of_run["row"].isin(members)]
            own = own.assign(row=own["row"].map({n: place for place, n in enumerate(members)}))
            kept = [rows[number] for number in members]
            words = textwrap.wrap(verdict(newest(own), kept), int(scale.width / _CHARACTER))
            of_unit = f" ({unit})" if len(scales) > 1 else ""
            bands.append(_Band(heading + of_unit, words, own, kept, scale))
    return bands


def _words(line: Sequence[_Band]) -> float:
    """The height of what stands above the cells of bands side by side."""
    return _NAME + max(len(band.words) for band in line) * _LINE + _OVER


def _tall(line: Sequence[_Band]) -> float:
    """The height of the cells of bands side by side, with what stands under them."""
    return max(len(band.rows) for band in line) * ROW + _UNDER


def _changes(drift: pd.DataFrame, rows: Sequence[Row], level: float) -> pd.DataFrame:
    """The comparisons to show, with `row` (number of the outcome), `fell` and `rose` (q < level).

    Differences and intervals are in the figure's units and direction.
    """
    parts = []
    for number, row in enumerate(rows):
        part = row.of(drift)
        ends = part[["difference", "low", "high"]].to_numpy(np.float64) * row.sign * row.factor
        difference, low, high = ends.T if row.sign > 0 else ends[:, [0, 2, 1]].T
        clear = part["q"].to_numpy(np.float64) < level
        found = {"fell": clear & (difference < 0), "rose": clear & (difference > 0)}
        parts.append(part.assign(row=number, difference=difference, low=low, high=high, **found))
    return pd.concat(parts, ignore_index=True) if parts else drift.iloc[:0]


def _scales(changes: pd.DataFrame, rows: Sequence[Row]) -> dict[str, Scale]:
    """A scale for each unit; all have the same places."""
    scales = {}
    for unit in dict.fromkeys(row.unit for row in rows):
        members = [number for number, row in enumerate(rows) if row.unit == unit]
        own = changes[changes["row"].isin(members)]
        sizes = own["difference"].abs().dropna()
        reach = float(sizes.quantile(_SHARE)) if len(sizes) else 0.0
        low, high = limits(newest(own))
        scales[unit] = Scale(
            names=max(text_width(row.title, 7.5) for row in rows) + 0.14,
            longest=int(changes.groupby(RUN)["step"].nunique().max()),
            reach=reach if reach > 0 else 1.0,
            low=low,
            high=high,
        )
    return scales


def _legend(level: float, tested: bool) -> Legend:
    best, previous = LOOKS["best"], LOOKS["previous"]
    marks = [
        best.at([], [], filled=tested, label="newest against the best so far"),
        previous.at([], [], filled=tested, label="newest against the one before"),
    ]
    if tested:
        plain = previous._replace(colour=INK)
        marks.append(plain.at([], [], filled=True, label=f"q < {level:g}"))
        marks.append(plain.at([], [], filled=False, label=f"q ≥ {level:g}"))
    return [("Marks", marks)]


def _explain_cells(sheet: Sheet, scales: Mapping[str, Scale], level: float, tested: bool) -> None:
    """The scales of colours and what the bars mean, under the legend."""
    down, left = -0.47, LEFT + EDGE
    look: dict[str, Any] = {"size": 7.5, "va": "center", "ha": "left"}
    sheet.text(EDGE, down, "Cells", size=7.5, color=MUTED, ha="left", va="center")
    for unit, scale in scales.items():
        place = (left, down - 0.05, 1.5, 0.09)
        colour_bar(sheet, place, colours=COLOURS, norm=scale.norm, extend="both")
        sheet.text(left + 1.65, down, unit, **look)
        left += 1.65 + text_width(unit, 7.5) + 0.3
    for word in ("fell", "rose") if tested else ():
        draw_sample(sheet.axes(left, down - ROW / 2, ROW, ROW), word)
        words = f"{word}, q < {level:g}"
        sheet.text(left + ROW + 0.07, down, words, **look)
        left += ROW + 0.07 + text_width(words, 7.5) + 0.2
