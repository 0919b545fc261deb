"""What all figures share: type, colours, number labels, axes ticks, and files with stable bytes."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.textpath import TextPath
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from downslope.files import atomic_write

INK, MUTED, RULE = "#1a1a1a", "#5f5f5f", "#e4e4e4"
_MARKERS = "osD^vP*X"  # one per model family
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

# DejaVu Sans comes with matplotlib, so that figures look the same on every machine.
_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 7.5,
    "text.color": INK,
    "text.parse_math": False,  # a title may hold a dollar sign
    "axes.formatter.useoffset": False,  # ticks say what they are, also in a narrow range
    "axes.labelcolor": INK,
    "axes.edgecolor": "#9a9a9a",
    "axes.linewidth": 0.6,
    "axes.titlesize": 8.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 5.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.color": "#9a9a9a",
    "ytick.color": "#9a9a9a",
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": 7.0,
    "ytick.labelsize": 7.0,
    "xtick.major.size": 2.5,
    "xtick.minor.size": 1.5,
    "xtick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "ytick.major.size": 0.0,
    "lines.solid_capstyle": "round",
    "lines.solid_joinstyle": "round",
    "legend.frameon": False,
    "pdf.fonttype": 42,  # whole TrueType fonts: text in the PDF can be searched and edited
    "svg.fonttype": "path",  # looks the same where DejaVu Sans is not installed
    "svg.hashsalt": "downslope",  # element ids from the content, not from a random number
    "savefig.dpi": 200,
}
_METADATA = {".pdf": {"CreationDate": None, "ModDate": None}, ".svg": {"Date": None}, ".png": {}}


@contextlib.contextmanager
def style() -> Iterator[None]:
    """This project's look for the enclosed block, whatever the user's own matplotlibrc says."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        yield


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write `figure` in the format of the file's ending (pdf, svg, png), without a date in it.

    The same figure gives the same bytes under the same versions.
    """
    target = Path(path)
    kind = target.suffix.lower()
    with style(), atomic_write(target) as temporary:
        figure.savefig(temporary, format=kind[1:], metadata=_METADATA[kind])


def palette(count: int) -> list[str]:
    """Ordered colours from light (small) to dark (large): viridis, which colour-blind readers
    can order too, without its yellow, which is too light for lines on white."""
    shades = np.linspace(0.86, 0.0, count) if count > 1 else np.array([0.25])
    return [to_hex(colour) for colour in mpl.colormaps["viridis"](shades)]


class Look(NamedTuple):
    """How the lines of one model size are drawn, the same in every panel and the legend."""

    label: str
    colour: str
    hollow: bool
    marker: str

    def line(self, x: Any, y: Any) -> Line2D:
        return Line2D(
            x,
            y,
            label=self.label,
            color=self.colour,
            linewidth=1.2,
            marker=self.marker,
            markersize=3.0,
            markeredgewidth=0.8,
            markerfacecolor="white" if self.hollow else self.colour,
        )

    def thin_line(self, x: Any, y: Any) -> Line2D:
        return Line2D(
            x,
            y,
            label="_run",
            color=self.colour,
            alpha=0.4,
            linewidth=0.6,
            marker="o",
            markersize=1.2,
            markeredgewidth=0.0,
        )


def looks_of(plan: pd.DataFrame) -> dict[tuple[str, int], Look]:
    """(family, parameters) -> look, small to large: colour by size, marker by family.

    In one family every second size below the largest has hollow markers, so that neighbours
    differ by more than a shade.
    """
    sizes = sorted(plan["parameters"].unique())
    markers = family_markers(plan["family"])
    labels, colours = short_numbers(sizes), palette(len(sizes))
    looks = {}
    for size, family in sorted(set(zip(plan["parameters"], plan["family"], strict=True))):
        rank = sizes.index(size)
        hollow = len(markers) == 1 and (len(sizes) - rank) % 2 == 0
        looks[family, size] = Look(labels[rank], colours[rank], hollow, markers[family])
    return looks


def family_markers(families: Iterable[str]) -> dict[str, str]:
    """A marker for each of the families, in the order of their names."""
    names = sorted(set(families))
    return {name: _MARKERS[rank % len(_MARKERS)] for rank, name in enumerate(names)}


def legend_rows(looks: Mapping[tuple[str, int], Look]) -> list[tuple[str, list[Line2D]]]:
    """Rows of the legend: sizes, and with several families which marker is whose."""
    markers = {family: look.marker for (family, _), look in looks.items()}
    several = len(markers) > 1
    sizes = {look.label: look._replace(marker="") if several else look for look in looks.values()}
    rows = [("Parameters", [look.line([], []) for look in sizes.values()])]
    if several:
        kinds = sorted(markers.items())
        named = [Look(family, MUTED, False, marker) for family, marker in kinds]
        rows.append(("Family", [look.line([], []) for look in named]))
    return rows if looks else []


def short_numbers(values: Sequence[float]) -> list[str]:
    """Counts as people say them: 70M, 1.4B, 25k; with as many digits as keep them apart."""
    for digits in range(2, 16):
        labels = [_short(value, digits) for value in values]
        if len(set(labels)) == len(set(values)):
            break
    return labels


def _short(value: float, digits: int) -> str:
    """`value` with at least `digits` digits; digits before the point are never dropped."""
    rounded = float(f"{value:.{max(digits, 3) - 1}e}")  # 999,999 is 1M, not 1000k
    for unit, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"), (1.0, "")):
        if rounded >= unit:
            places = max(digits, len(str(int(value / unit))))
            return f"{value / unit:.{places}g}{letter}"
    return f"{value:.{digits}g}"


def powers(values: Sequence[float]) -> list[str]:
    """Large numbers as powers of ten: 10¹⁹, 3·10¹⁹."""
    labels = []
    for value in values:
        digits, exponent = f"{value:.2e}".split("e")
        times = "" if float(digits) == 1 else f"{float(digits):g}·"
        labels.append(f"{times}10{str(int(exponent)).translate(_SUPERSCRIPTS)}")
    return labels


def log_x(
    axes: Axes, values: Iterable[float], names: Callable[[Sequence[float]], list[str]] | None
) -> None:
    """Make x logarithmic, from the least to the largest of `values` with a margin.

    `names` writes the ticks, such as `short_numbers`; None leaves them without labels.
    """
    known = [float(value) for value in values]
    low, high = (min(known), max(known)) if known else (1.0, 10.0)
    margin = (high / low) ** 0.05 if high > low else 1.5
    axes.set_xscale("log")
    axes.set_xlim(low / margin, high * margin)
    ticks = log_ticks(low / margin, high * margin)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_major_formatter(FixedFormatter(names(ticks) if names else [""] * len(ticks)))
    axes.xaxis.set_minor_locator(NullLocator())


def text_width(text: str, size: float, weight: str = "normal") -> float:
    """The width of a line of text in inches, from the outlines of its letters; `size` in points."""
    font = FontProperties(family="DejaVu Sans", weight=weight)
    # A blank at the end has no outline.
    return float(TextPath((0, 0), text + ".", size=size, prop=font).vertices[:, 0].max()) / 72


def log_ticks(low: float, high: float) -> list[float]:
    """Ticks for a logarithmic axis from `low` to `high`: the sparsest row with at least three."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks: list[float] = []
    for steps in ((1,), (1, 3), (1, 2, 5), range(1, 10)):
        every = (step * 10.0**decade for decade, step in itertools.product(decades, steps))
        ticks = [tick for tick in every if low <= tick <= high]
        if len(ticks) >= 3:
            break
    return ticks[:: math.ceil(len(ticks) / 6)] if ticks else [low, high]
