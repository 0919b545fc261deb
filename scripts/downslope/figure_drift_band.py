"""One run in the figure of drift: its history as coloured cells, its newest checkpoint as marks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.patches import Rectangle

from downslope.drift import newest
from downslope.figure_marks import EMPHASIS, Mark, striped
from downslope.figure_matrix import ROW, Group, grouped, matrix, write_ends
from downslope.figure_names import Row, signed
from downslope.figure_page import Sheet
from downslope.figure_style import INK, MUTED, short_numbers, text_width
from downslope.panel import FloatArray

_HEADINGS = {"best": "Against the best so far", "previous": "Against the one before"}
_ROOM = 2.4  # inches for the columns of the longest run
_NEWEST, _NUMBERS, _GAP = 1.9, 1.25, 0.22  # the newest checkpoint, the numbers beside it
_BAR, _INSET = 0.028, 0.018  # the mark in a cell: its height, its distance from the edge
# Orange fell, purple rose; without the darkest ends, on which a black bar would not show.
COLOURS = LinearSegmentedColormap.from_list(
    "fell-rose", mpl.colormaps["PuOr"](np.linspace(0.14, 0.86, 255))
)


class Scale(NamedTuple):
    """What the bands of all runs share: widths in inches and the ranges of values.

    `names` is the room for the outcomes' names, `longest` the most checkpoints that a run has,
    `reach` the difference with the darkest colour, `low` and `high` the ends of the axis of the
    newest checkpoint.
    """

    names: float
    longest: int
    reach: float
    low: float
    high: float

    @property
    def cells(self) -> float:
        """The width of the cells of the longest run."""
        return grouped([""], [self.longest], _ROOM)[0].width

    @property
    def history(self) -> float:
        """The width of a history: of its cells or of its heading."""
        return max(self.cells, *(text_width(text, 7.0) for text in _HEADINGS.values()))

    @property
    def width(self) -> float:
        return self.names + 2 * (self.history + _GAP) + _NEWEST + _NUMBERS

    @property
    def norm(self) -> Normalize:
        return Normalize(-self.reach, self.reach)


LOOKS = {"best": Mark(EMPHASIS, "D", 3.6, 1.5), "previous": Mark("#8a8a8a", "o", 3.0)}
_DOWN = {"best": -0.035, "previous": 0.04}  # inches from the middle of a row


def draw_band(
    sheet: Sheet,
    left: float,
    down: float,
    changes: pd.DataFrame,
    rows: Sequence[Row],
    scale: Scale,
) -> None:
    """Draw one run's two histories and its newest checkpoint; its cells begin at `down`."""
    steps = sorted(int(step) for step in changes["step"].unique())
    group = Group("", 0.0, scale.cells * len(steps) / scale.longest, len(steps))
    left += scale.names
    for against, heading in _HEADINGS.items():
        own = changes[changes["against"] == against]
        titles = [row.title if against == "best" else "" for row in rows]
        axes = _draw_history(sheet, (left, down), group, own, steps, titles, scale.norm)
        axes.text(0, -0.05, heading, size=7.0, ha="left", va="bottom")
        ends = short_numbers([steps[0], steps[-1]])
        write_ends(axes, [group], ends[:1], ends[1:])
        left += scale.history + _GAP
    axes = sheet.axes(left, down, _NEWEST, len(rows) * ROW)
    _draw_newest(axes, newest(changes), rows, scale)


def _draw_history(
    sheet: Sheet,
    place: tuple[float, float],
    group: Group,
    changes: pd.DataFrame,
    steps: Sequence[int],
    titles: Sequence[str],
    norm: Normalize,
) -> Axes:
    """Cells coloured by the difference; bars where q is small; a frame round the newest."""
    grids = {
        name: changes.pivot(index="row", columns="step", values=name)
        .reindex(index=range(len(titles)), columns=pd.Index(steps))
        .to_numpy(np.float64)
        for name in ("difference", "fell", "rose")
    }
    axes = matrix(sheet, *place, [group], titles, [grids["difference"]], colours=COLOURS, norm=norm)
    edges = group.edges
    wide = edges[1] - edges[0]
    for name in ("fell", "rose"):
        for row, column in np.argwhere(grids[name] == 1):
            axes.add_patch(_bar(name, edges[column], row * ROW, wide))
    frame = Rectangle((edges[-2], 0), wide, len(titles) * ROW, fill=False, zorder=5)
    frame.set(edgecolor=INK, linewidth=1.0, clip_on=False, label="_newest")
    axes.add_patch(frame)
    return axes


def _bar(change: str, left: float, down: float, wide: float) -> Rectangle:
    """The mark of a cell that `fell` or `rose`, along its lower or its upper edge."""
    top = ROW - _INSET - _BAR if change == "fell" else _INSET
    look: dict[str, Any] = {"facecolor": INK, "linewidth": 0, "zorder": 4, "label": f"_{change}"}
    return Rectangle((left + 0.1 * wide, down + top), 0.8 * wide, _BAR, **look)


def draw_sample(axes: Axes, change: str) -> None:
    """A cell for the legend."""
    axes.set(xlim=(0, ROW), ylim=(ROW, 0))
    axes.set_axis_off()
    colour = COLOURS(0.25 if change == "fell" else 0.75)
    axes.add_patch(Rectangle((0, 0), ROW, ROW, facecolor=colour, linewidth=0))
    axes.add_patch(_bar(change, 0, 0, ROW))


def _draw_newest(axes: Axes, changes: pd.DataFrame, rows: Sequence[Row], scale: Scale) -> None:
    """Differences of the newest checkpoint from both references, with intervals and numbers."""
    axes.set_xlim(scale.low, scale.high)
    striped(axes, len(rows), ROW)
    for against, look in LOOKS.items():
        own = changes[(changes["against"] == against) & changes["difference"].notna()]
        y = (own["row"] + 0.5) * ROW + _DOWN[against]
        bars: dict[str, Any] = {"color": look.colour, "linewidth": look.width, "zorder": 2}
        axes.hlines(y, own["low"], own["high"], label=f"_interval {against}", **bars)
        clear = own["fell"] | own["rose"]
        for filled in (False, True):
            some = own.loc[clear == filled, "difference"]
            label = f"_{against} {'filled' if filled else 'hollow'}"
            line = look.at(some, y[some.index], filled=filled, label=label)
            line.set_zorder(4 if against == "best" else 3)
            axes.add_line(line)
    _write_numbers(axes, changes[changes["against"] == "best"], rows)


def _write_numbers(axes: Axes, changes: pd.DataFrame, rows: Sequence[Row]) -> None:
    """The differences from the best so far, and how many items were lost and gained."""
    across = axes.get_yaxis_transform()
    counted = changes["lost"].notna().any()
    column = 1 + (_NUMBERS - 0.62 * counted) / _NEWEST
    end = 1 + _NUMBERS / _NEWEST
    look: dict[str, Any] = {"transform": across, "ha": "right", "size": 6.5}
    axes.text(0, -0.05, "Newest: fell ← → rose", transform=across, size=7.0, ha="left", va="bottom")
    axes.text(column, -0.05, "from best", color=MUTED, va="bottom", **look)
    if counted:
        axes.text(end, -0.05, "lost, gained", color=MUTED, va="bottom", **look)
    for change in changes.to_dict("records"):
        number, difference = change["row"], change["difference"]
        words = "–" if np.isnan(difference) else signed(difference, rows[number].unit)
        colour = INK if change["fell"] or change["rose"] else MUTED
        here = look | {"va": "center", "color": colour}
        axes.text(column, (number + 0.5) * ROW, words, **here)
        if not pd.isna(change["lost"]):
            items = f"{change['lost']}, {change['gained']}"
            axes.text(end, (number + 0.5) * ROW, items, **here)


def limits(changes: pd.DataFrame) -> tuple[float, float]:
    """The ends of an axis that holds zero, all differences and their intervals."""
    values: FloatArray = changes[["difference", "low", "high"]].to_numpy(np.float64)
    low = min(0.0, float(np.nanmin(values, initial=0.0)))
    high = max(0.0, float(np.nanmax(values, initial=0.0)))
    margin = 0.05 * (high - low) or 1.0
    return low - margin, high + margin
