"""A forest plot: every outcome's three effects, a marker and an interval per method."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath
from matplotlib.transforms import ScaledTranslation

from downslope.figure_forest_words import MIXED, OTHER_QUESTION, forest_caption, with_interval
from downslope.figure_marks import EMPHASIS, Mark, striped
from downslope.figure_names import Row, rows_of
from downslope.figure_page import EDGE, Legend, Sheet, empty_figure
from downslope.figure_style import INK, MUTED, style, text_width
from downslope.panel import EFFECTS

_HEADINGS = ("Model size", "Training", "Training × model size")
_PER = ("per tenfold parameters", "per tenfold tokens", "per tenfold of each")
# Greys from light to dark and a marker each, so that methods differ in print without colours.
_LOOKS = {
    "ols": ("#a6a6a6", "o"),
    "cluster": ("#8f8f8f", "s"),
    "jackknife": ("#757575", "D"),
    "two-stage": ("#5c5c5c", "^"),
    "wild": ("#454545", "v"),
    OTHER_QUESTION: ("#b3541e", "p"),
}
# Inches: a panel, the least for the numbers beside it, the space after them.
_PLOT, _NUMBERS, _GAP = 1.75, 1.16, 0.24
_SMALL = 6.5  # points, of those numbers
_LINE, _APART, _BETWEEN = 0.1, 0.05, 0.12  # a method's line; above `item`; between outcomes
# Limits hold all estimates, and the judge's intervals as far as this many times the farthest.
_REACH = 1.6
# Beside a marker: the method could not have found anything.
_QUESTION = TextPath((-3, -3.5), "?", size=10, prop=FontProperties(family="DejaVu Sans"))


def forest_figure(
    effects: pd.DataFrame,
    tasks: Sequence[Mapping[str, Any]],
    outcomes: Sequence[str],
    better: Mapping[str, str],
    *,
    robust: str,
    level: float,
    title: str = "",
) -> Figure:
    """Rows of `outcomes`, a panel per effect, a line per method: estimate and 95 % interval.

    `effects` is the effects table; `tasks` have task and title; `better` maps metrics to `higher`
    or `lower`; `robust` is the method that the verdicts take, emphasised and given in numbers.
    The scale is the change per tenfold of the predictor in the metric's units, or standard
    deviations where the outcomes have several units. Left is worse, also for metrics that are
    better when lower. Filled markers have q < `level`. Methods that estimate nothing have no line.
    """
    rows = rows_of(outcomes, tasks, better)
    marks = _marks(effects, rows, level)
    with style():
        if marks.empty:
            return empty_figure(title, "The effects table has no rows of these outcomes.")
        if marks["x"].isna().all():
            why = "; ".join(dict.fromkeys(marks["status"]))
            return empty_figure(title, f"No effect of any outcome can be estimated. {why}.")
        able = set(marks.loc[marks["x"].notna(), "method"]) | {robust}
        methods = [method for method in marks["method"].unique() if method in able]
        looks = {method: _look(method, robust) for method in methods}
        offsets = {
            method: _BETWEEN / 2 + (index + 0.5) * _LINE + _APART * (method == OTHER_QUESTION)
            for index, method in enumerate(methods)
        }
        block = max(offsets.values()) + (_LINE + _BETWEEN) / 2
        unit = rows[0].unit if len({row.unit for row in rows}) == 1 else MIXED
        left = EDGE + max(text_width(row.title, 7.5) for row in rows) + 0.14
        numbers = _numbers(marks, robust, unit)
        beside = max(_NUMBERS, *(text_width(text, _SMALL) + 0.08 for text in numbers.values()))
        pitch = _PLOT + beside + _GAP
        ends = {effect: _limits(marks[marks["effect"] == effect], robust) for effect in EFFECTS}
        low, high = (marks["effect"].map({e: ends[e][side] for e in EFFECTS}) for side in (0, 1))
        marks["beyond"] = (marks["low"] < low) | (marks["high"] > high)
        sheet = Sheet(
            left + len(EFFECTS) * pitch - _GAP + EDGE,
            len(rows) * block,
            title=title,
            caption=forest_caption(marks, rows, robust, unit),
            legend=_legend(marks, looks, level),
            above=0.44,
            below=0.6,
        )
        for index, row in enumerate(rows):
            place = (left - 0.1, (index + 0.5) * block)
            sheet.text(*place, row.title, ha="right", va="center", size=7.5)
        for index, effect in enumerate(EFFECTS):
            axes = sheet.axes(left + index * pitch, 0, _PLOT, len(rows) * block)
            axes.set_title(_HEADINGS[index])
            per = _PER[index] if unit != MIXED else "per sd of the predictor"
            axes.set_xlabel(f"{unit} {per}\n← worse        better →")
            of_effect = marks[marks["effect"] == effect]
            axes.set_xlim(ends[effect])
            striped(axes, len(rows), block)
            _draw(axes, of_effect, looks, offsets, block)
            _write_numbers(axes, of_effect, numbers, robust, block, beside)
    return sheet.figure


def _look(method: str, robust: str) -> Mark:
    """The judge is larger and darker; `item`, another question, has dashes."""
    colour, marker = _LOOKS.get(method, ("#757575", "h"))
    if method == robust:
        return Mark(EMPHASIS, marker, 4.6, 1.7)
    return Mark(colour, marker, 3.2, dashes=(0, (2.2, 1.2)) if method == OTHER_QUESTION else "-")


def _marks(effects: pd.DataFrame, rows: Sequence[Row], level: float) -> pd.DataFrame:
    """A row per mark: row (of the outcome), method, effect, x, low, high, clear, stuck, status.

    Numbers are in the figure's unit and direction, NaN where nothing can be estimated; `clear`
    says q < level, `stuck` that the method's smallest p would not be enough.
    """
    one_unit = len({row.unit for row in rows}) == 1
    names = ["estimate", "low", "high"]
    if one_unit:
        names = ["per_tenfold", "per_tenfold_low", "per_tenfold_high"]
    parts = []
    for number, row in enumerate(rows):
        part = row.of(effects)
        ends = row.sign * (row.factor if one_unit else 1.0) * part[names].to_numpy(np.float64)
        x, low, high = ends.T if row.sign > 0 else ends[:, [0, 2, 1]].T
        # An end that is not known while the other is: no null is refused on that side.
        half = np.isnan(low) != np.isnan(high)
        low, high = (
            np.where(half & np.isnan(e), to, e) for e, to in ((low, -np.inf), (high, np.inf))
        )
        clear = part["q"].to_numpy(np.float64) < level
        stuck = part["status"].str.startswith("below resolution")
        found = {"x": x, "low": low, "high": high, "clear": clear, "stuck": stuck & ~clear}
        parts.append(part[["method", "effect", "status"]].assign(row=number, **found))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _legend(marks: pd.DataFrame, looks: Mapping[str, Mark], level: float) -> Legend:
    drawn = marks[marks["x"].notna()]
    plain = Mark(INK, "o", 4.0)
    markers = []
    if drawn["clear"].any():
        markers.append(plain.at([], [], filled=True, label=f"q < {level:g}"))
    if not drawn["clear"].all():
        markers.append(plain.at([], [], filled=False, label=f"q ≥ {level:g}"))
    if drawn["stuck"].any():
        question = Mark(INK, _QUESTION, 5.0)
        markers.append(question.at([], [], filled=True, label="too few runs for a small p"))
    methods = [look.with_line(method) for method, look in looks.items()]
    return [("Method", methods), ("Marker", markers)]


def _limits(marks: pd.DataFrame, robust: str) -> tuple[float, float]:
    """The ends of a panel, which hold zero, all estimates and most of the judge's intervals."""
    x = np.append(marks["x"].dropna(), 0.0)
    reach = _REACH * (float(np.abs(x).max()) or 1.0)
    judge = marks.loc[marks["method"] == robust, ["low", "high"]].to_numpy(np.float64)
    judge = judge[~np.isnan(judge)].clip(-reach, reach)
    low, high = (float(end(np.append(judge, x))) for end in (np.min, np.max))
    margin = 0.06 * (high - low) or 1.0
    return low - margin, high + margin


def _draw(
    axes: Axes,
    marks: pd.DataFrame,
    looks: Mapping[str, Mark],
    offsets: Mapping[str, float],
    block: float,
) -> None:
    left, right = axes.get_xlim()
    for method, look in looks.items():
        own = marks[marks["method"] == method]
        y = own["row"] * block + offsets[method]
        known = own["low"].notna()
        axes.hlines(
            y[known],
            own.loc[known, "low"].clip(left, right),
            own.loc[known, "high"].clip(left, right),
            color=look.colour,
            linewidth=look.width,
            linestyle=look.dashes,
            zorder=2,
            label=f"_interval {method}",
        )
        # 4 and 5 are matplotlib's carets to the left and to the right.
        for over, edge, arrow in ((own["low"] < left, left, 4), (own["high"] > right, right, 5)):
            axes.plot(
                np.full(over.sum(), edge),
                y[over],
                linestyle="",
                marker=arrow,
                markersize=3.6,
                markeredgewidth=0.0,
                color=look.colour,
                clip_on=False,
                label="_beyond",
            )
        for filled in (False, True):
            some = own["x"].notna() & (own["clear"] == filled)
            label = f"_{method} {'filled' if filled else 'hollow'}"
            line = look.at(own.loc[some, "x"], y[some], filled=filled, label=label)
            line.set_zorder(4)
            axes.add_line(line)
        axes.plot(
            own.loc[own["stuck"], ["x", "high"]].max(axis=1).clip(upper=right),
            y[own["stuck"]],
            linestyle="",
            marker=_QUESTION,
            markersize=4.0,
            markeredgewidth=0.2,
            color=INK,
            transform=axes.transData + ScaledTranslation(0.07, 0, axes.figure.dpi_scale_trans),
            clip_on=False,
            label=f"_{method} stuck",
        )
        for place in y[own["x"].isna()]:
            axes.text(left, place, " –", size=7.0, color=look.colour, va="center", ha="left")


def _numbers(marks: pd.DataFrame, robust: str, unit: str) -> dict[Hashable, str]:
    """The judge's estimates and intervals in words, by the index of its marks."""
    own = marks.loc[marks["method"] == robust, ["x", "low", "high"]]
    return {at: with_interval(x, low, high, unit) for at, x, low, high in own.itertuples(name=None)}


def _write_numbers(
    axes: Axes,
    marks: pd.DataFrame,
    numbers: Mapping[Hashable, str],
    robust: str,
    block: float,
    beside: float,
) -> None:
    """The judge's numbers at the right of the space `beside` the panel, dark where q < level."""
    look: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "ha": "right", "size": _SMALL}
    right = 1 + beside / _PLOT
    axes.text(right, -0.04, f"{robust} [95 %]", va="bottom", color=EMPHASIS, **look)
    own = marks.loc[marks["method"] == robust, ["row", "clear"]]
    for at, row, clear in own.itertuples(name=None):
        place, colour = (right, (row + 0.5) * block), INK if clear else MUTED
        axes.text(*place, numbers[at], va="center", color=colour, **look)
