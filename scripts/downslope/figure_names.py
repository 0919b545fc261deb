"""What figures call outcomes, runs and units, and which way performance falls."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from downslope.figure_style import short_numbers
from downslope.outcomes import Outcome, printed_titles
from downslope.panel import RUN
from downslope.verdict_words import UNITS

_METRICS = {
    **dict.fromkeys(("accuracy", "acc_norm", "mc1", "mc2"), "Accuracy"),
    "margin": "Margin (log-odds)",
    "class_loss": "Class loss (nats)",
    "brier": "Brier score",
    "mass": "Log-probability",
}
_MOST_REASONS = 6  # that a caption gives one by one

Run = tuple[str, int, int]


class Row(NamedTuple):
    """One outcome as figures show it.

    `sign` is 1 where higher values are better, else -1; `factor` turns values into `unit`.
    """

    outcome: Outcome
    title: str
    sign: int
    factor: float
    unit: str

    def of(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The rows of `frame` that belong to the outcome."""
        same = frame["task"] == self.outcome.task
        same &= frame["protocol"] == self.outcome.protocol
        return frame[same & (frame["metric"] == self.outcome.metric)]

    @property
    def y_label(self) -> str:
        """The name of an axis of values; it says so where lower is better."""
        metric = self.outcome.metric
        return _METRICS.get(metric, metric) + "\n(lower is better)" * (self.sign < 0)


def rows_of(
    outcomes: Sequence[str], tasks: Sequence[Mapping[str, Any]], better: Mapping[str, str]
) -> list[Row]:
    """The outcomes in their order; `tasks` have task and title, `better` says of each metric
    whether `higher` or `lower` values are."""
    parsed = [Outcome.parse(outcome) for outcome in outcomes]
    titles = printed_titles(parsed, {row["task"]: row["title"] for row in tasks})
    return [
        Row(
            outcome,
            title,
            -1 if better[outcome.metric] == "lower" else 1,
            *UNITS.get(outcome.metric, (1.0, outcome.metric)),
        )
        for outcome, title in zip(parsed, titles, strict=True)
    ]


def turned_sentence(rows: Sequence[Row]) -> list[str]:
    """Which metrics a figure has turned round, so that a fall of performance is negative."""
    metrics = dict.fromkeys(row.outcome.metric for row in rows if row.sign < 0)
    if not metrics:
        return []
    verb = "is" if len(metrics) == 1 else "are"
    return [f"{', '.join(metrics)} {verb} better when lower: shown with the sign turned round."]


def listed(some: pd.DataFrame, rows: Sequence[Row], source: str) -> str:
    """Reasons in `status` with the outcomes that they hold for; `row` is an outcome's number."""
    by_status = some.groupby("status", sort=False)
    found = ((outcomes_of(group, rows), str(status)) for status, group in by_status)
    return reasons(found, source)


def outcomes_of(some: pd.DataFrame, rows: Sequence[Row]) -> str:
    """`NeQA, Redefine`: the outcomes of `row`, or `all outcomes` where these are several."""
    numbers = some["row"].unique()
    if len(numbers) == len(rows) > 1:
        return "all outcomes"
    return ", ".join(rows[number].title for number in numbers)


def run_names(frame: pd.DataFrame) -> dict[Run, str]:
    """(family, parameters, seed) -> `12B`, small to large; with the family and the seed only where
    the runs of `frame` differ in them."""
    runs = sorted(
        set(frame[RUN].itertuples(index=False, name=None)), key=lambda run: (run[0], run[1:])
    )
    sizes = sorted({run[1] for run in runs})
    size = dict(zip(sizes, short_numbers(sizes), strict=True))
    families = {run[0] for run in runs}
    seeded = len({run[:2] for run in runs}) < len(runs)
    return {
        (family, parameters, seed): (f"{family} " if len(families) > 1 else "")
        + size[parameters]
        + (f" seed {seed}" if seeded else "")
        for family, parameters, seed in runs
    }


def signed(value: float, unit: str) -> str:
    """`−4.0` for points, `+0.12` for other units, `0.0` without a sign where that is all."""
    digits = 1 if unit == "points" else 2
    text = f"{value:+.{digits}f}"
    return text.replace("-", "−").replace("inf", "∞") if float(text) else text[1:]


def reasons(found: Iterable[tuple[str, str]], source: str) -> str:
    """`no item-level scores (NeQA, Redefine); 1 run, at least ...` from (name, reason) pairs.

    Reasons beyond the first few are counted, and `source` is the table that has them.
    """
    by_reason: dict[str, dict[str, None]] = {}
    for name, reason in found:
        by_reason.setdefault(reason, {})[name] = None
    told = [f"{reason} ({', '.join(names)})" for reason, names in by_reason.items()]
    if len(told) > _MOST_REASONS:
        further = f"{len(told) - _MOST_REASONS} further reasons, see {source}"
        told = [*told[:_MOST_REASONS], further]
    return "; ".join(told)


def sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."
