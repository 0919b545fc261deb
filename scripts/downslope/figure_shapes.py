"""Shapes: every outcome over model size, training tokens or compute, with its line or two lines."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from downslope.figure_names import Row, listed, rows_of, sentence, signed
from downslope.figure_page import PAD, Page, above, empty_figure, even_columns
from downslope.figure_style import (
    INK,
    MUTED,
    Look,
    legend_rows,
    log_x,
    looks_of,
    powers,
    short_numbers,
    style,
)
from downslope.panel import RUN

_AXES: dict[str, tuple[str, Callable[[Sequence[float]], list[str]]]] = {
    "parameters": ("Parameters", short_numbers),
    "tokens": ("Training tokens", short_numbers),
    "flops": ("Training compute (FLOPs)", powers),
}
_WORDS = {
    "inverse": "falls (inverse)",
    "positive": "rises (positive)",
    "U": "falls, then rises (U)",
    "inverted U": "rises, then falls (inverted U)",
    "flat": "no trend found (flat)",
    "not testable": "shape not testable",
}
_TURNS = ("U", "inverted U")
_SURE = ("inverse", "positive", *_TURNS)
_SIDES = ("left", "right")
_OVERALL = "; over the whole axis performance "  # how a status goes on where only a line is known
_TITLE = 27  # characters of a panel's title that fit its width
# Cells agree with a breakpoint written with six digits, in log10.
_SAME = 1e-5


def shapes_figure(
    trends: pd.DataFrame,
    cells: pd.DataFrame,
    tasks: Sequence[Mapping[str, Any]],
    outcomes: Sequence[str],
    better: Mapping[str, str],
    *,
    axis: str = "flops",
    title: str = "",
) -> Figure:
    """A panel per outcome: its cells over `axis` (parameters, tokens, flops) and its shape.

    `trends` is the trends table, `cells` the study's; `tasks` have task and title; `better` maps
    metrics to `higher` or `lower`. Points have the colour of their model size, a thin line joins
    a run. The thick line is the table's: two lines, meeting nowhere in particular, where the shape
    is U or inverted U, dashed where no trend was found or the shape is not testable. Words and
    numbers above each panel are the table's; slopes are per tenfold.
    """
    rows = rows_of(outcomes, tasks, better)
    found = _found(trends, rows, axis)
    parts = [row.of(cells) for row in rows]
    parts = [part[part["value"].notna()] for part in parts]
    with style():
        if not rows or all(part.empty for part in parts):
            return empty_figure(title, "No cells of these outcomes yet.")
        shown = pd.concat(parts)
        looks = looks_of(shown)
        titles = [textwrap.fill(row.title, _TITLE) for row in rows]
        own_axes = len({row.y_label for row in rows}) > 1
        name, write = _AXES[axis]
        page = Page(
            len(rows),
            even_columns(len(rows)),
            title=title,
            caption=" ".join(_sentences(found, rows, axis)),
            legend=legend_rows(looks),
            x_label=name,
            title_lines=max(text.count("\n") for text in titles) + 3,
            y_labels=own_axes,
        )
        for index, (row, part) in enumerate(zip(rows, parts, strict=True)):
            axes = page.panel(index)
            own = found[found["row"] == index]
            trend = own.iloc[0] if len(own) else None
            axes.set_title(titles[index], pad=5.0 + 2 * PAD)
            _draw_cells(axes, part, looks, axis)
            if trend is not None and len(part):
                _draw_lines(axes, part, trend, axis)
            _set_y(axes)
            _write(axes, trend, row)
            log_x(axes, shown[axis], write if page.is_lowest(index) else None)
            if index % page.columns == 0 or own_axes:
                axes.set_ylabel(row.y_label)
                axes.yaxis.set_label_coords(-0.2, 0.5)
    return page.figure


def _found(trends: pd.DataFrame, rows: Sequence[Row], axis: str) -> pd.DataFrame:
    """The rows of the trends table for this axis, with `row`, the number of the outcome."""
    parts = [row.of(trends).assign(row=number) for number, row in enumerate(rows)]
    found = pd.concat(parts) if parts else trends.assign(row=0)
    return found[found["axis"] == axis]


def _draw_cells(
    axes: Axes, cells: pd.DataFrame, looks: Mapping[tuple[str, int], Look], axis: str
) -> None:
    """The cells, small models first, those of a run joined by a thin line."""
    if cells.empty:
        axes.text(0.5, 0.5, "no cells", transform=axes.transAxes, ha="center", color=MUTED)
        axes.yaxis.set_major_locator(NullLocator())
        return
    for (family, size), look in looks.items():
        own = cells[(cells["family"] == family) & (cells["parameters"] == size)]
        for _, run in own.sort_values(axis).groupby(RUN):
            line = look.line(run[axis].to_numpy(np.float64), run["value"].to_numpy(np.float64))
            line.set(linewidth=0.5, markersize=2.6, markeredgewidth=0.6, zorder=2)
            axes.add_line(line)


def _set_y(axes: Axes) -> None:
    """Limits that hold the cells and the lines; values that hardly differ look it."""
    drawn = [line.get_ydata() for line in axes.lines if line.get_label() != "_breakpoint"]
    if not drawn:
        return
    values = np.concatenate(drawn)
    low, high = float(values.min()), float(values.max())
    margin = 0.06 * max(high - low, 0.02)
    axes.set_ylim(low - margin, high + margin)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=4, steps=[1, 2, 2.5, 5, 10]))


def _draw_lines(axes: Axes, cells: pd.DataFrame, trend: pd.Series, axis: str) -> None:
    """The table's slopes, through the means of the cells that they were fitted to.

    A least-squares line goes through the means of x and y. On tokens, runs have levels of their
    own and those with one checkpoint were left out; the line is that of a run of mean level.
    """
    if axis == "tokens":
        cells = cells[cells.groupby(RUN)["tokens"].transform("nunique") > 1]
    x, y = np.log10(cells[axis].to_numpy(np.float64)), cells["value"].to_numpy(np.float64)
    pieces = [(trend["slope"], np.full(len(x), True))]
    if trend["shape"] in _TURNS:
        turn = np.log10(trend["breakpoint"])
        left, right = x <= turn + _SAME, x >= turn - _SAME
        pieces = [(trend["left_slope"], left), (trend["right_slope"], right)]
        axes.axvline(
            trend["breakpoint"], color=MUTED, linewidth=0.6, linestyle=":", label="_breakpoint"
        )
    for slope, side in pieces:
        if np.isfinite(slope) and side.any():
            ends = np.array([x[side].min(), x[side].max()])
            axes.plot(
                10**ends,
                y[side].mean() + slope * (ends - x[side].mean()),
                color=INK,
                linewidth=1.8,
                linestyle="-" if trend["shape"] in _SURE else (0, (3, 1.6)),
                zorder=4,
                label="_trend",
            )


def _write(axes: Axes, trend: pd.Series | None, row: Row) -> None:
    """The shape in words and its slopes, in two lines above the panel."""
    words, numbers = "not in the table of trends", ""
    if trend is not None:
        words = _WORDS[trend["shape"]]
        overall = str(trend["status"]).partition(_OVERALL)[2]
        if overall:
            words = f"turn not testable; {overall} overall"
        if trend["shape"] in _TURNS:
            one, other = (signed(row.factor * trend[f"{side}_slope"], row.unit) for side in _SIDES)
            numbers = f"{one}, then {other} per tenfold, {_q(trend['turn_q'])}"
        elif np.isfinite(trend["slope"]):
            slope, *ends = (
                signed(row.factor * trend[name], row.unit)
                for name in ("slope", "slope_low", "slope_high")
            )
            numbers = f"{slope} [{', '.join(ends)}] per tenfold, {_q(trend['q'])}"
    sure = trend is not None and trend["shape"] in _SURE
    above(axes, words, 1, color=INK if sure else MUTED)
    above(axes, numbers)


def _q(value: float) -> str:
    return f"q {value:.2g}" if value >= 0.001 else "q < 0.001"


def _sentences(found: pd.DataFrame, rows: Sequence[Row], axis: str) -> list[str]:
    """What the marks mean, and why shapes are not testable."""
    units = ", ".join(dict.fromkeys(row.unit for row in rows))
    sentences = [
        f"Thick lines: the trend over all runs, solid where a shape is established, else dashed; "
        f"slopes in {units} per tenfold with 95 % intervals, errors by leaving runs out."
    ]
    if found["shape"].isin(_TURNS).any():
        sentences.append("Dotted: the breakpoint of the two-lines test, on which both lines rest.")
    if axis == "flops":
        sentences.append("Compute is 6 × parameters × tokens.")
    if axis == "tokens":
        sentences.append("Each run is compared with itself.")
    if any(row.sign < 0 for row in rows):
        sentences.append("Falls and rises are those of performance, also where lower is better.")
    other = found[found["status"] != "ok"]
    other = other.assign(status=other["status"].str.split(_OVERALL, regex=False).str[0])
    if len(other):
        sentences.append(sentence(listed(other, rows, "trends.tsv")))
    return sentences
