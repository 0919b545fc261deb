"""Figure 1 of Michaelov & Bergen 2023 for any study: outcomes over training, a line per size."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, MaxNLocator, NullLocator

from downslope.errors import StudyError
from downslope.figure_coverage import coverage_sentences, has_seeds, planned
from downslope.figure_page import Page
from downslope.figure_style import (
    MUTED,
    Look,
    legend_rows,
    log_ticks,
    looks_of,
    short_numbers,
    style,
)
from downslope.outcomes import Outcome, printed_titles

# Names of the y axis; other metrics are called by their own names.
_METRIC_LABELS = {
    **dict.fromkeys(("accuracy", "acc_norm", "mc1", "mc2"), "Accuracy"),
    "margin": "Margin (log-odds)",
    "class_loss": "Class loss (nats)",
    "brier": "Brier score",
    "mass": "Log-probability",
}
_MOST_COLUMNS = 4
_Z95 = 1.96
# Opacity of all bands of a panel where they lie over each other: lines must stand out from it.
_BANDS = 0.34
_TITLE = 27  # characters of a panel's title that fit its width
# A chance level further from the values than this share of their range would flatten the lines:
# an arrow then says where it lies.
_REACH = 0.6


def accuracy_figure(
    cells: pd.DataFrame,
    tasks: Sequence[Mapping[str, Any]],
    outcomes: Sequence[str],
    *,
    expected: int,
    title: str = "",
    checkpoints: Sequence[Mapping[str, Any]] | None = None,
) -> Figure:
    """Panels of `outcomes` in their order: value over training tokens, a line per model size.

    `cells` is the study's cells frame; `tasks` are rows with task, title and chance (metric ->
    level); `expected` is the number of the study's checkpoints; `checkpoints` are its rows
    (family, parameters, seed, tokens, step), by which the figure knows what is missing (without
    them: `figure_coverage.planned`).

    With one seed a line is that run; with several it is their mean, drawn where every seed has a
    cell, and the single runs lie behind it. Bands are 1.96 standard errors to each side; for a
    mean, the mean standard error, since the seeds share their items. A missing cell is a gap in
    the line, and the caption says what is missing. Raises StudyError where a cell is given twice.
    """
    parsed = [Outcome.parse(outcome) for outcome in outcomes]
    shown = cells.assign(outcome=cells["task"] + "/" + cells["protocol"] + "/" + cells["metric"])
    shown = shown[shown["outcome"].isin(list(outcomes))]
    twice = shown[shown.duplicated(["outcome", "family", "parameters", "seed", "tokens"])]
    if len(twice):
        raise StudyError(
            "another checkpoint of the same run has as many tokens and a value too",
            where=f"cells, {twice['ckpt'].iloc[0]}, {twice['outcome'].iloc[0]}",
            remedy="Remove one of the two, or give them different families or seeds.",
        )
    plan = planned(shown, checkpoints)
    looks = looks_of(plan)
    names = printed_titles(parsed, {row["task"]: row["title"] for row in tasks})
    chance = {row["task"]: row["chance"] for row in tasks}
    levels = [chance.get(outcome.task, {}).get(outcome.metric) for outcome in parsed]
    panels = [shown[shown["outcome"] == str(outcome)] for outcome in parsed]
    titles = [textwrap.fill(name, _TITLE) for name in names]
    y_labels = [_METRIC_LABELS.get(outcome.metric, outcome.metric) for outcome in parsed]
    own_axes = len(set(y_labels)) > 1
    with style():
        page = Page(
            len(parsed),
            # At most four columns, the rows as even as that allows: six panels are 2 x 3.
            math.ceil(len(parsed) / math.ceil(len(parsed) / _MOST_COLUMNS)),
            title=title,
            caption=" ".join(
                coverage_sentences(plan, list(zip(names, map(len, panels), strict=True)), expected)
                + _key_sentences(shown, plan, levels)
            ),
            legend=legend_rows(looks),
            x_label="Training tokens",
            title_lines=max(title.count("\n") + 1 for title in titles),
            y_labels=own_axes,
        )
        for index, panel in enumerate(panels):
            axes = page.panel(index)
            axes.set_title(titles[index])
            _draw_models(axes, panel, plan, looks)
            _draw_chance(axes, panel, levels[index])
            _set_x(axes, plan.loc[~plan["excluded"], "tokens"], labels=page.is_lowest(index))
            if index % page.columns == 0 or own_axes:
                axes.set_ylabel(y_labels[index])
                axes.yaxis.set_label_coords(-0.2, 0.5)
    return page.figure


def _key_sentences(
    cells: pd.DataFrame, plan: pd.DataFrame, levels: Sequence[float | None]
) -> list[str]:
    """What the marks mean; only of those that are drawn."""
    sentences = []
    if has_seeds(plan):
        sentences.append("Thick lines: means over all seeds; thin lines: single runs.")
    if cells["se"].notna().any():
        sentences.append("Bands: ±1.96 standard errors over items.")
    if any(level is not None for level in levels):
        sentences.append("Dashed: chance.")
    return sentences


def _draw_models(
    axes: Axes,
    cells: pd.DataFrame,
    plan: pd.DataFrame,
    looks: Mapping[tuple[str, int], Look],
) -> None:
    """Draw bands and lines, small models first so that the largest lie on top."""
    opacity = 1 - (1 - _BANDS) ** (1 / max(1, len(looks)))
    for order, ((family, size), look) in enumerate(looks.items()):
        wanted = plan[(plan["family"] == family) & (plan["parameters"] == size)]
        tokens, seeds = sorted(wanted["tokens"].unique()), sorted(wanted["seed"].unique())
        own = cells[(cells["family"] == family) & (cells["parameters"] == size)]
        # Rows are the planned tokens, columns the planned seeds: a missing cell is NaN, a gap.
        value, se = (
            own.pivot(index="tokens", columns="seed", values=column)
            .reindex(index=tokens, columns=seeds)
            .astype("float64")
            for column in ("value", "se")
        )
        mean = value.mean(axis="columns", skipna=False).to_numpy()
        half = _Z95 * se.mean(axis="columns", skipna=False).to_numpy()
        x = np.array(tokens, dtype=np.float64)
        known = np.isfinite(half)
        if known.any():
            low, high = mean - half, mean + half
            axes.fill_between(x, low, high, color=look.colour, alpha=opacity, linewidth=0, zorder=2)
            # A band needs two neighbours; a cell between gaps gets a bar instead.
            alone = known & ~np.append(known[1:], False) & ~np.append(False, known[:-1])
            if alone.any():
                axes.vlines(
                    x[alone], low[alone], high[alone], color=look.colour, alpha=0.4, linewidth=1.0
                )
        if len(seeds) > 1:
            for seed in seeds:
                axes.add_line(look.thin_line(x, value[seed].to_numpy()))
        line = look.line(x, mean)
        line.set_zorder(3 + order / 100)
        axes.add_line(line)


def _draw_chance(axes: Axes, cells: pd.DataFrame, chance: float | None) -> None:
    """The chance line, and limits that hold values, bands and (where it is near) chance."""
    if cells.empty:
        axes.text(0.5, 0.5, "no cells", transform=axes.transAxes, ha="center", color=MUTED)
        axes.yaxis.set_major_locator(NullLocator())
        return
    half = _Z95 * cells["se"].astype("float64").fillna(0.0)
    low, high = float((cells["value"] - half).min()), float((cells["value"] + half).max())
    if chance is not None:
        axes.axhline(
            chance, color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1.5, label="_chance"
        )
        reach = _REACH * max(high - low, 0.02)
        if low - reach <= chance <= high + reach:
            low, high = min(low, chance), max(high, chance)
        else:
            up = chance > high
            axes.text(
                0.99,
                0.98 if up else 0.02,
                f"chance {chance:g} {'↑' if up else '↓'}",
                transform=axes.transAxes,
                ha="right",
                va="top" if up else "bottom",
                size=6.0,
                color=MUTED,
            )
    span = max(high - low, 0.02)
    axes.set_ylim(low - 0.06 * span, high + 0.06 * span)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=4, steps=[1, 2, 2.5, 5, 10]))


def _set_x(axes: Axes, tokens: pd.Series, *, labels: bool) -> None:
    """A logarithmic axis, the same in all panels, labelled in the lowest of each column."""
    low, high = (float(tokens.min()), float(tokens.max())) if len(tokens) else (1.0, 10.0)
    margin = (high / low) ** 0.04 if high > low else 1.5
    axes.set_xscale("log")
    axes.set_xlim(low / margin, high * margin)
    ticks = log_ticks(low / margin, high * margin)
    names = short_numbers(ticks) if labels else [""] * len(ticks)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_major_formatter(FixedFormatter(names))
    axes.xaxis.set_minor_locator(NullLocator())
