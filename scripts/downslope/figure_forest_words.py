"""What the caption of the forest plot says: only of what is drawn, and of what is missing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from downslope.figure_names import Row, reasons, signed, turned_sentence
from downslope.panel import LEFT_OUT, reason_of

OTHER_QUESTION = "item"
MIXED = "sd of the value"


def forest_caption(marks: pd.DataFrame, rows: Sequence[Row], robust: str, unit: str) -> str:
    """`marks` are what figure_forest draws; sentences in the order in which a reader asks."""
    sentences = [
        f"Lines: 95 % intervals; {robust} is the method that the verdicts take.",
        "Filled markers: significant after Benjamini-Hochberg correction within each method.",
        "Size and training are slopes at the mean of the other predictor; the third panel is how "
        "the slope over training changes with size.",
    ]
    if unit == MIXED:
        sentences.append(
            "The outcomes have several units, so changes are in standard deviations (sd) of the "
            "value per sd of the predictor's logarithm."
        )
    sentences += turned_sentence(rows)
    drawn = marks[marks["x"].notna()]
    if (drawn["method"] == OTHER_QUESTION).any():
        sentences.append(
            f"{OTHER_QUESTION} (dashed) answers another question, what these same runs would show "
            "on other items: it does not stand beside the rest."
        )
    bounded = drawn["low"].notna()
    if not bounded.all():
        without = ", ".join(drawn.loc[~bounded, "method"].unique())
        sentences.append(f"Without a line ({without}): no interval can be given.")
    if drawn["beyond"].any():
        sentences.append("Arrowheads: the interval goes on.")
    noted = drawn[drawn["status"].str.startswith(LEFT_OUT)]
    if len(noted):
        sentences.append(f"Left out: {_listed(noted, rows, marks)}.")
    stuck = drawn[drawn["stuck"]]
    if len(stuck):
        why = "; ".join(reason_of(status) for status in stuck["status"].unique())
        sentences.append(f"?: even the smallest p that the method can give is too large ({why}).")
    absent = marks[marks["x"].isna()]
    if len(absent):
        sentences.append(f"Not estimable (–): {_listed(absent, rows, marks)}.")
    return " ".join(sentences)


def with_interval(x: float, low: float, high: float, unit: str) -> str:
    """`−4.0 [−4.8, −3.2]`, or a dash where there is no estimate."""
    if np.isnan(x):
        return "–"
    if np.isnan(low):
        return signed(x, unit)
    return f"{signed(x, unit)} [{signed(low, unit)}, {signed(high, unit)}]"


def _listed(some: pd.DataFrame, rows: Sequence[Row], marks: pd.DataFrame) -> str:
    """`item in all outcomes: no item-level scores; all methods in NeQA: every cell has ...`."""
    methods, titles = marks["method"].unique(), [row.title for row in rows]
    by_reason: dict[str, dict[tuple[int, ...], list[str]]] = {}
    for (status, method), group in some.groupby(["status", "method"], sort=False):
        where = tuple(sorted(set(group["row"])))
        by_reason.setdefault(reason_of(str(status)), {}).setdefault(where, []).append(str(method))
    found = []
    for reason, places in by_reason.items():
        for where, which in places.items():
            who = "all methods" if len(which) == len(methods) > 1 else ", ".join(which)
            there = [titles[number] for number in where]
            place = "all outcomes" if len(there) == len(titles) > 1 else ", ".join(there)
            found.append((f"{who} in {place}", reason))
    return reasons(found, "effects.tsv")
