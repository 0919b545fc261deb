"""Each run's own slope over training against its size: where only the largest models fall."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, MaxNLocator

from downslope.figure_marks import EMPHASIS, Mark
from downslope.figure_names import (
    Row,
    listed,
    outcomes_of,
    reasons,
    rows_of,
    run_names,
    sentence,
)
from downslope.figure_page import PAD, Legend, Page, above, empty_figure, even_columns
from downslope.figure_style import (
    INK,
    MUTED,
    family_markers,
    log_x,
    short_numbers,
    style,
)
from downslope.panel import RUN
from downslope.run_trends import QUESTION, directions, largest_only

_NUMBERS = ("slope", "low", "high")
_TITLE = 27  # characters of a panel's title that fit its width
# Runs of one size stand side by side, this share of the axis apart, at most so far in all.
_APART, _MOST_APART = 0.035, 0.14


def slopes_figure(
    run_trends: pd.DataFrame,
    tasks: Sequence[Mapping[str, Any]],
    outcomes: Sequence[str],
    better: Mapping[str, str],
    *,
    level: float,
    title: str = "",
) -> Figure:
    """A panel per outcome: every run's slope over training against its parameters.

    `run_trends` is the table of that name; `tasks` have task and title; `better` maps metrics to
    `higher` or `lower`. Slopes are in the metric's units per tenfold of tokens, in its own
    direction; bars are 95 % intervals over items, where the table has them. Filled markers have
    q < `level`. Runs of one size stand beside each other, families have markers of their own.
    """
    rows = rows_of(outcomes, tasks, better)
    parts = [row.of(run_trends) for row in rows]
    with style():
        if not rows or all(part.empty for part in parts):
            return empty_figure(title, "The table of the runs' own trends has none of these.")
        shown = pd.concat([part.assign(row=number) for number, part in enumerate(parts)])
        if shown["slope"].isna().all():
            why = listed(shown, rows, "run_trends.tsv")
            return empty_figure(title, f"No run's own trend can be estimated: {why}.")
        markers = family_markers(shown["family"])
        places = _places(shown)
        titles = [textwrap.fill(row.title, _TITLE) for row in rows]
        labels = [_y_label(row) for row in rows]
        own_axes = len(set(labels)) > 1
        page = Page(
            len(rows),
            even_columns(len(rows)),
            title=title,
            caption=" ".join(_sentences(shown, rows)),
            legend=_legend(shown, markers, level),
            x_label="Parameters",
            title_lines=max(text.count("\n") for text in titles) + 2,
            y_labels=own_axes,
        )
        for index, (row, part) in enumerate(zip(rows, parts, strict=True)):
            axes = page.panel(index)
            axes.set_title(titles[index], pad=5.0 + PAD)
            log_x(axes, shown["parameters"], short_numbers if page.is_lowest(index) else None)
            _draw(axes, part, row, markers, places, level)
            words = _in_words(part, row, level)
            falls = words.startswith("falls in") and not words.startswith("falls in none")
            above(axes, words, color=INK if falls else MUTED)
            if index % page.columns == 0 or own_axes:
                axes.set_ylabel(labels[index])
                axes.yaxis.set_label_coords(-0.2, 0.5)
    return page.figure


def _places(runs: pd.DataFrame) -> dict[tuple[str, int, int], float]:
    """Where each run stands on the axis: at its size, beside the other runs of that size."""
    known = runs[RUN].drop_duplicates().sort_values(["parameters", "family", "seed"])
    wide = np.log10(known["parameters"].max() / known["parameters"].min()) or 1.0
    places = {}
    for _, group in known.groupby("parameters"):
        apart = min(_APART, _MOST_APART / len(group)) * wide
        for number, run in enumerate(group.itertuples(index=False, name=None)):
            places[run] = float(run[1]) * 10 ** (apart * (number - (len(group) - 1) / 2))
    return places


def _draw(
    axes: Axes,
    runs: pd.DataFrame,
    row: Row,
    markers: Mapping[str, str],
    places: Mapping[tuple[str, int, int], float],
    level: float,
) -> None:
    """Slopes, intervals and the line of no change."""
    runs = runs[runs["slope"].notna()]
    axes.axhline(0, color=INK, linewidth=0.8, zorder=1.5, label="_zero")
    if runs.empty:
        axes.text(0.5, 0.6, "not estimable", transform=axes.transAxes, ha="center", color=MUTED)
        axes.set_ylim(-1, 1)
        axes.yaxis.set_major_locator(FixedLocator([0]))
        return
    x = np.array([places[run] for run in runs[RUN].itertuples(index=False, name=None)])
    y, low, high = (row.factor * runs[name].to_numpy(np.float64) for name in _NUMBERS)
    known = np.isfinite(low) & np.isfinite(high)
    bars: dict[str, Any] = {"color": EMPHASIS, "linewidth": 0.9, "zorder": 2, "label": "_interval"}
    axes.vlines(x[known], low[known], high[known], **bars)
    clear = runs["q"].to_numpy(np.float64) < level
    for family, marker in markers.items():
        for filled in (False, True):
            some = (runs["family"] == family).to_numpy() & (clear == filled)
            label = f"_{family} {'filled' if filled else 'hollow'}"
            line = Mark(EMPHASIS, marker, 4.0).at(x[some], y[some], filled=filled, label=label)
            line.set_zorder(3)
            axes.add_line(line)
    ends = np.concatenate([y, low[known], high[known], [0.0]])
    margin = 0.07 * (float(np.ptp(ends)) or 1.0)
    axes.set_ylim(ends.min() - margin, ends.max() + margin)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=4, steps=[1, 2, 2.5, 5, 10]))


def _in_words(runs: pd.DataFrame, row: Row, level: float) -> str:
    """`falls in 2 of 8 runs, the largest only`: of those that could be tested."""
    better = "higher" if row.sign > 0 else "lower"
    found = directions(runs, better, level)
    tested = int((found != "not tested").sum())
    if not tested:
        return "not tested"
    falls = int((found == "falls").sum())
    words = f"falls in {falls or 'none'} of {tested} runs"
    return words + ", the largest only" * largest_only(runs, better, level)


def _y_label(row: Row) -> str:
    unit = row.unit.capitalize()
    return f"{unit} per tenfold tokens" + "\n(falling is better)" * (row.sign < 0)


def _legend(runs: pd.DataFrame, markers: Mapping[str, str], level: float) -> Legend:
    legend: list[tuple[str, list[Line2D]]] = []
    if runs["q"].notna().any():
        plain = Mark(EMPHASIS, "o", 4.0)
        clear = plain.at([], [], filled=True, label=f"q < {level:g}")
        legend.append(("Marker", [clear, plain.at([], [], filled=False, label=f"q ≥ {level:g}")]))
    if len(markers) > 1:
        named = [
            Mark(EMPHASIS, marker, 4.0).at([], [], filled=True, label=name)
            for name, marker in markers.items()
        ]
        legend.append(("Family", named))
    return legend


def _reasons(other: pd.DataFrame, runs: pd.DataFrame, rows: Sequence[Row]) -> str:
    """Why some have no interval or no slope: the outcomes of what holds for every run, else the
    runs too."""
    names, found = run_names(runs), []
    for status, group in other.groupby("status", sort=False):
        which = set(group[RUN].itertuples(index=False, name=None))
        place = outcomes_of(group, rows)
        if len(which) < len(names):
            here = ", ".join(name for run, name in names.items() if run in which)
            place = here if len(rows) == 1 else f"{here} in {place}"
        found.append((place, str(status)))
    return reasons(found, "run_trends.tsv")


def _sentences(runs: pd.DataFrame, rows: Sequence[Row]) -> list[str]:
    """The question that the intervals answer, and why some runs have none."""
    sentences = ["A marker per run: its own slope over training."]
    if runs["low"].notna().any():
        sentences.append(f"Bars: 95 % intervals for {QUESTION}.")
    if runs["q"].notna().any():
        sentences.append("q is corrected over runs and outcomes.")
        if any(row.sign < 0 for row in rows):
            sentences.append("Where lower is better, performance falls where the value rises.")
    other = runs[runs["status"] != "ok"]
    if len(other):
        sentences.append(sentence(_reasons(other, runs, rows)))
    if runs["low"].isna().all():
        sentences.append("Without intervals nothing here says what is more than chance.")
    return sentences
