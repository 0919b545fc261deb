"""Marks with intervals: filled or hollow markers, and axes whose rows lie on stripes."""

from __future__ import annotations

from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.path import Path
from matplotlib.ticker import MaxNLocator, NullLocator

from downslope.figure_style import INK

EMPHASIS = "#123f8c"  # what the reader should see first
_STRIPE = "#f4f4f4"


class Mark(NamedTuple):
    """How markers and their intervals are drawn: filled says that q is below the level."""

    colour: str
    marker: str | Path
    size: float
    width: float = 0.8  # of the interval's line
    dashes: Any = "-"

    def at(self, x: Any, y: Any, *, filled: bool, label: str) -> Line2D:
        """Markers at x and y, without lines; x and y may be empty, for a legend."""
        return Line2D(
            x,
            y,
            label=label,
            color=self.colour,
            linestyle="",
            linewidth=self.width,
            marker=self.marker,
            markersize=self.size,
            markeredgewidth=0.8,
            markerfacecolor=self.colour if filled else "white",
        )

    def with_line(self, label: str) -> Line2D:
        """A filled marker on its line, for a legend."""
        line = self.at([], [], filled=True, label=label)
        line.set_linestyle(self.dashes)
        return line


def striped(axes: Axes, rows: int, height: float) -> None:
    """Count y in inches from above, with a stripe behind every second row of `height` and a line
    at zero."""
    axes.set_ylim(rows * height, 0)
    axes.yaxis.set_major_locator(NullLocator())
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 5, 10]))
    axes.grid(axis="x")
    axes.spines["left"].set_visible(False)
    for row in range(0, rows, 2):
        axes.axhspan(row * height, (row + 1) * height, color=_STRIPE, linewidth=0, zorder=0.2)
    axes.axvline(0, color=INK, linewidth=0.8, zorder=1.5, label="_zero")
