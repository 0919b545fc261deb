"""A sheet with title and legend above and a caption below; a page is one with rows of panels.

All sizes are in inches: panels keep theirs and the sheet grows, so that type is equally large in
every figure.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from downslope.figure_style import INK, MUTED, text_width

PANEL = (2.05, 1.5)
GAP = (0.5, 0.46)
NAMED_GAP = 0.74  # between columns where every panel names its own y axis
MOST_COLUMNS = 4
LEFT, RIGHT, EDGE = 0.72, 0.2, 0.16
AXIS = 0.46  # below the last row: tick labels and the name of the axis
LINE = 0.15  # a line of small text
# Mean width of a character, as a share of its size: enough to break lines before the edge.
_SET = 0.56
_ENTRY = 0.62  # width of an entry of the legend with a short name
PAD = 10.0  # points that a line of words above a panel takes
_NONE = 0.5  # height of the words where there is nothing to draw

Legend = Sequence[tuple[str, Sequence[Artist]]]
"""(name, handles) of each row of the legend."""


class Sheet:
    """An empty sheet, `width` wide, with room for axes of the height `body`; see `axes`."""

    def __init__(
        self,
        width: float,
        body: float,
        *,
        title: str,
        caption: str,
        legend: Legend = (),
        x_label: str = "",
        above: float = 0.42,
        below: float = AXIS,
    ) -> None:
        """`above` and `below` are left free over and under the body, for headings, ticks and
        `x_label`, which stands below the middle of the body."""
        titles = _wrap(title, width, 10.5)
        captions = _wrap(caption, width, 7.0)
        rows = [
            (name, handles, entries, math.ceil(len(handles) / entries))
            for name, handles in legend
            for entries in [_entries(handles, width - LEFT)]
        ]
        self._head = EDGE + 0.2 * len(titles) + LINE * sum(n for *_, n in rows) + above
        self._foot = below + LINE * len(captions) + EDGE
        self._size = (width, self._head + body + self._foot)
        self.figure = Figure(figsize=self._size, facecolor="white")
        self._lines(titles, EDGE, 10.5, 0.2, weight="bold", color=INK)
        self._lines(captions, self._size[1] - EDGE - LINE * len(captions), 7.0, LINE, color=MUTED)
        if x_label:
            self.figure.text(
                (LEFT + (width - RIGHT)) / 2 / width,
                (self._foot - below + 0.07) / self._size[1],
                x_label,
                ha="center",
                va="bottom",
                color=INK,
                size=8.0,
            )
        down = EDGE + 0.2 * len(titles) + 0.07
        for name, handles, entries, height_in_rows in rows:
            self._legend(name, handles, entries, down)
            down += LINE * height_in_rows

    def axes(self, left: float, down: float, width: float, height: float) -> Axes:
        """Axes `left` of the sheet's edge and `down` from the top of its body."""
        whole, tall = self._size
        place = (left / whole, 1 - (self._head + down + height) / tall)
        return self.figure.add_axes((*place, width / whole, height / tall))

    def text(self, left: float, down: float, text: str, **look: Any) -> None:
        """Write `text` at a place counted as in `axes`."""
        whole, tall = self._size
        self.figure.text(left / whole, 1 - (self._head + down) / tall, text, **look)

    def _lines(self, lines: list[str], down: float, size: float, line: float, **look: Any) -> None:
        width, height = self._size
        for number, text in enumerate(lines):
            self.figure.text(
                EDGE / width,
                1 - (down + number * line) / height,
                text,
                ha="left",
                va="top",
                size=size,
                **look,
            )

    def _legend(self, name: str, handles: Sequence[Artist], entries: int, down: float) -> None:
        width, height = self._size
        top = 1 - down / height
        self.figure.text(EDGE / width, top, name, ha="left", va="top", size=7.5, color=MUTED)
        self.figure.legend(
            handles=list(handles),
            loc="upper left",
            bbox_to_anchor=((EDGE + 0.72) / width, top),
            ncols=min(entries, len(handles)),
            borderaxespad=0.0,
            borderpad=0.0,
            handlelength=1.5,
            handletextpad=0.45,
            columnspacing=1.3,
            labelspacing=0.35,
            fontsize=7.5,
        )


class Page(Sheet):
    """An empty page for `count` panels in `columns`; `panel(i)` gives the axes one by one."""

    def __init__(
        self,
        count: int,
        columns: int,
        *,
        title: str,
        caption: str,
        legend: Legend,
        x_label: str,
        title_lines: int = 1,
        y_labels: bool = False,
    ) -> None:
        """`title_lines` is the most lines that a panel's title has; `y_labels` says that every
        panel names its y axis."""
        self.count, self.columns = count, columns
        rows = math.ceil(count / columns)
        more = 0.15 * (title_lines - 1)
        self._gap = (NAMED_GAP if y_labels else GAP[0], GAP[1] + more)
        width = LEFT + columns * PANEL[0] + (columns - 1) * self._gap[0] + RIGHT
        body = rows * PANEL[1] + (rows - 1) * self._gap[1]
        super().__init__(
            width,
            body,
            title=title,
            caption=caption,
            legend=legend,
            x_label=x_label,
            above=0.42 + more,
        )

    def panel(self, index: int) -> Axes:
        """The axes of panel `index`, counted along the rows from the upper left."""
        row, column = divmod(index, self.columns)
        return self.axes(
            LEFT + column * (PANEL[0] + self._gap[0]), row * (PANEL[1] + self._gap[1]), *PANEL
        )

    def is_lowest(self, index: int) -> bool:
        """Whether no panel lies below panel `index`, so that it carries the x axis."""
        return index + self.columns >= self.count


def even_columns(count: int) -> int:
    """At most four columns, the rows as even as that allows: six panels are 2 x 3."""
    return math.ceil(count / math.ceil(count / MOST_COLUMNS))


def above(axes: Axes, words: str, line: int = 0, *, color: str = MUTED) -> None:
    """A small line of words right above a panel; `line` 1 is the one over line 0. Each
    takes `PAD` points from the panel's title, and one of the `title_lines` of its page."""
    axes.annotate(
        words,
        (0, 1),
        (0, 5 + 9 * line),
        xycoords="axes fraction",
        textcoords="offset points",
        size=6.8,
        color=color,
    )


def empty_figure(title: str, words: str, width: float = 6.0) -> Figure:
    """A sheet that says why there is nothing to see."""
    sheet = Sheet(width, _NONE, title=title, caption="", above=0.1, below=0.0)
    text = "\n".join(_wrap(words, width, 8.5))
    sheet.text(EDGE, 0.1, text, ha="left", va="top", size=8.5, color=MUTED)
    return sheet.figure


def _entries(handles: Sequence[Artist], width: float) -> int:
    """How many entries of a legend stand side by side in `width`."""
    names = [str(handle.get_label()) for handle in handles]
    longest = 0.4 + max(map(len, names), default=0) * _SET * 7.5 / 72
    if longest > _ENTRY and sum(0.42 + text_width(name, 7.5) for name in names) < width - 2 * EDGE:
        return len(names)  # of unequal length: all in one row
    return max(1, int(width / max(_ENTRY, longest)))


def _wrap(text: str, width: float, size: float) -> list[str]:
    characters = int((width - 2 * EDGE) * 72 / (size * _SET))
    return [line for part in text.splitlines() for line in textwrap.wrap(part, characters)]
