"""Coloured cells, outcomes in rows and checkpoints in columns, the columns grouped by run.

Axes made here count in inches, so that groups, gaps and labels have the size they are given.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from downslope.figure_page import Sheet
from downslope.figure_style import INK, MUTED, text_width
from downslope.panel import FloatArray

ROW = 0.17  # height of a row
GROUPS = 0.07  # between runs
_WIDEST, _NARROWEST = 0.13, 0.01  # a column
_LEAST = 0.15  # a group, so that its name, turned upright, has room
_GRID = 0.05  # columns narrower than this have no white lines between them
_MOST_QUADS = 5_000  # more cells become one picture: an SVG of so many paths opens slowly
_NAME = 7.0  # size of the names of runs
_HATCH: dict[str, Any] = {
    "facecolor": "white",
    "edgecolor": "#b4b4b4",
    "hatch": "/////",
    "linewidth": 0.0,
}


class Group(NamedTuple):
    """The columns of one run: its name, and the place of its cells in inches."""

    name: str
    left: float
    width: float
    columns: int

    @property
    def edges(self) -> FloatArray:
        return np.linspace(self.left, self.left + self.width, self.columns + 1)

    @property
    def right(self) -> float:
        return self.left + self.width


def grouped(names: Sequence[str], counts: Sequence[int], room: float) -> list[Group]:
    """Groups side by side; columns as wide as `room` inches allow, within limits."""
    total = max(1, sum(counts))
    column = max(min(_WIDEST, room / total), min(_NARROWEST, 1.45 * room / total))
    groups, left = [], 0.0
    for name, count in zip(names, counts, strict=True):
        groups.append(Group(name, left, max(count * column, _LEAST), count))
        left = groups[-1].right + GROUPS
    return groups


def name_height(groups: Sequence[Group]) -> float:
    """The room that the names of the groups take above the cells: more where they stand upright."""
    return max(text_width(g.name, _NAME) for g in groups) + 0.1 if _upright(groups) else 0.17


def _upright(groups: Sequence[Group]) -> bool:
    return any(text_width(group.name, _NAME) > group.width + GROUPS - 0.04 for group in groups)


def matrix(
    sheet: Sheet,
    left: float,
    down: float,
    groups: Sequence[Group],
    titles: Sequence[str],
    values: Sequence[FloatArray],
    *,
    colours: Colormap,
    norm: Normalize,
) -> Axes:
    """Draw the cells of each group, (rows, columns) with NaN where there is none: hatched.

    The axes' data are inches from their upper left corner. `titles` name the rows, left of them.
    """
    rows = len(titles)
    width = groups[-1].right
    axes = sheet.axes(left, down, width, rows * ROW)
    small = sum(group.columns for group in groups) * rows <= _MOST_QUADS
    for group, of_group in zip(groups, values, strict=True):
        corner = (group.left, 0.0)
        if np.isnan(of_group).any():
            axes.add_patch(Rectangle(corner, group.width, rows * ROW, **_HATCH, zorder=1))
        lines = group.width / group.columns >= _GRID
        axes.pcolormesh(
            group.edges,
            np.arange(rows + 1) * ROW,
            np.ma.masked_invalid(of_group),
            cmap=colours,
            norm=norm,
            edgecolors="white" if lines else "face",
            linewidth=0.4 if lines else 0.0,
            rasterized=not small,
            label="_cells",
            zorder=2,
        )
        frame = Rectangle(corner, group.width, rows * ROW, fill=False, edgecolor="#9a9a9a")
        frame.set(linewidth=0.5, zorder=3, clip_on=False)
        axes.add_patch(frame)
    axes.set_xlim(0, width)
    axes.set_ylim(rows * ROW, 0)
    axes.set_axis_off()
    for row, title in enumerate(titles):
        sheet.text(left - 0.08, down + (row + 0.5) * ROW, title, ha="right", va="center", size=7.5)
    return axes


def write_names(axes: Axes, groups: Sequence[Group]) -> None:
    """The runs' names above the cells, upright where one of them is wider than its run."""
    upright = _upright(groups)
    for group in groups:
        axes.text(
            group.left + group.width / 2 if upright else group.left,
            -0.05,
            group.name,
            rotation=90 if upright else 0,
            ha="center" if upright else "left",
            va="bottom",
            size=_NAME,
            color=INK,
        )


def write_ends(
    axes: Axes, groups: Sequence[Group], first: Sequence[str], last: Sequence[str]
) -> bool:
    """What the first and last column of each group are, below the cells, where that fits all."""
    fits = all(
        text_width(one, 6.5) + text_width(other, 6.5) + 0.08 <= group.width
        for group, one, other in zip(groups, first, last, strict=True)
    )
    low = axes.get_ylim()[0] + 0.05
    for group, one, other in zip(groups, first, last, strict=True):
        if fits:
            axes.text(group.left, low, one, ha="left", va="top", size=6.5, color=MUTED)
            axes.text(group.right, low, other, ha="right", va="top", size=6.5, color=MUTED)
    return fits


def colour_bar(
    sheet: Sheet,
    place: tuple[float, float, float, float],
    *,
    colours: Colormap,
    norm: Normalize,
    extend: str = "neither",
) -> Axes:
    """A bar that explains the colours, at left, down, width, height in inches."""
    axes = sheet.axes(*place)
    upright = place[3] > place[2]
    sheet.figure.colorbar(
        ScalarMappable(norm, colours),
        cax=axes,
        extend=extend,
        extendfrac=0.06,
        orientation="vertical" if upright else "horizontal",
    )
    axes.grid(visible=False)
    axis = axes.yaxis if upright else axes.xaxis
    count = int(max(place[2:]) / (0.22 if upright else 0.35))
    axis.set_major_locator(MaxNLocator(nbins=max(2, min(6, count)), steps=[1, 2, 5, 10]))
    axis.set_tick_params(length=2.0, labelsize=6.5)
    return axes
