"""The gate: whether the newest checkpoint of any run has lost more than the config allows.

What it prints is read by people in the middle of a training run: it names the checkpoint, the one
it is compared with, the task and the size of the fall, and never keeps a fall to itself because a
test could not confirm it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from downslope.drift import MARGINS, NOTES, OUTCOME, newest
from downslope.errors import StudyError
from downslope.metrics import BETTER
from downslope.panel import RUN
from downslope.verdict_words import UNITS

_COMPARISON = ["ckpt", "against"]
_NAMES = {"previous": "the one before", "best": "the best before it"}
_NEEDED = (
    "Tests need item-level scores of both checkpoints: score them here, or import results with "
    "their samples (lm_eval --log_samples)."
)
_UNSEEN = (
    "Either it has no results, or none before it has: results/coverage.tsv says what is missing. "
    "Get them, or mark it known_bad in config/checkpoints.tsv."
)
_ACCEPTABLE = "If a loss is acceptable, raise drift.allowed_loss in config/config.yaml."
# A fall that equals what is allowed is allowed, whatever its last binary digit.
_ROUNDING = 1e-9


def losses(
    drift: pd.DataFrame,
    allowed_loss: float,
    level: float,
    better: Mapping[str, str] = BETTER,
) -> pd.DataFrame:
    """The rows of `drift` that make the gate fail.

    Newest checkpoints and declared outcomes only: performance fell by more than `allowed_loss`
    (in the metric's own unit: 0.02 is two points of accuracy; a lower-better metric falls by
    rising) and q is below `level`.
    """
    table = judged(drift, allowed_loss, level, better)
    return drift.loc[table.index[table["verdict"] == "lost"]]


def judged(
    drift: pd.DataFrame,
    allowed_loss: float,
    level: float,
    better: Mapping[str, str] = BETTER,
) -> pd.DataFrame:
    """Newest checkpoints and declared outcomes, with `fall` (performance lost) and `verdict`.

    verdict is `lost`; `undecided` where the fall is larger than allowed and no test could say
    whether it is chance (no item-level scores, or below the test's resolution); `maybe chance`
    where it is larger than allowed and q is not below `level`; `missing` where a value is; else
    `allowed`.
    """
    table = newest(drift[~drift["tests"].str.endswith(MARGINS)])
    sign = [-1.0 if better[name] == "higher" else 1.0 for name in table["metric"]]
    table = table.assign(fall=np.array(sign) * table["difference"])
    larger = table["fall"] > allowed_loss + _ROUNDING
    untested = table["q"].isna() | table["status"].str.startswith("below resolution")
    table["verdict"] = np.select(
        [table["fall"].isna(), ~larger, table["q"] < level, untested],
        ["missing", "allowed", "lost", "undecided"],
        "maybe chance",
    )
    return table


def check(
    drift: pd.DataFrame,
    allowed_loss: float,
    level: float,
    flipped: str,
    better: Mapping[str, str] = BETTER,
    checkpoints: Sequence[Mapping[str, Any]] = (),
) -> str:
    """What was compared and what was found, as text; `flipped` is the path named for the items,
    `checkpoints` are the rows of those that the study uses.

    Raises StudyError with all rows of `losses`, with all falls that are larger than allowed and
    cannot be tested, and with every run's newest checkpoint that no row is about: a gate that
    cannot decide does not open.
    """
    table = judged(drift, allowed_loss, level, better)
    if allowed_loss >= 1 and len(table) and table["metric"].map(_in_points).all():
        raise StudyError(
            f"allowed_loss is {allowed_loss:g}, and no outcome here can lose as much",
            where="config/config.yaml, drift",
            remedy=f"Write {allowed_loss / 100:g} for {allowed_loss:g} points.",
        )
    allowed = f"{100 * allowed_loss:g} points"
    if not table["metric"].map(_in_points).all():
        allowed += f" ({allowed_loss:g} of a metric without points)"
    problems = []
    if (table["verdict"] == "lost").any():
        head = f"a checkpoint has lost more than the {allowed} that the config allows:"
        problems += [head, *_listed(table, "lost")]
    if (table["verdict"] == "undecided").any():
        head = f"a checkpoint fell by more than {allowed}, and no test can say whether by chance:"
        problems += [head, *_listed(table, "undecided"), _NEEDED]
    remedy = [_ACCEPTABLE] if problems else []
    if missed := _unseen(drift, checkpoints):
        head = "the newest checkpoint of a run was compared with none:"
        problems += [head, *(f"  {ckpt}" for ckpt in missed), _UNSEEN]
    warned = [f"Warning: {text}" for text in warnings(table, level)]
    items = (
        [f"Items that flipped: {flipped}; their texts: resources/items/."]
        if table["lost"].notna().any()
        else []
    )
    if problems:
        raise StudyError("\n".join([*problems, *warned, *items, *remedy]), where="drift")
    if table.empty:
        return "Nothing to compare: no run has a second checkpoint yet.\n"
    lines = [f"No outcome is known to have lost more than the {allowed} that the config allows."]
    for _, group in table.groupby(_COMPARISON, sort=False):
        lines += _summary(group, allowed_loss)
    return "\n".join([*lines, *warned, *items, "", *NOTES]) + "\n"


def warnings(table: pd.DataFrame, level: float) -> list[str]:
    """What does not fail the gate and must be seen, from a table that `judged` made."""
    found = []
    if (table["verdict"] == "maybe chance").any():
        head = f"fell by more than allowed, but it may be chance (q is not below {level:g}):"
        found.append("\n".join([head, *_listed(table, "maybe chance")]))
    if (table["verdict"] == "missing").any():
        found.append("\n".join(["not compared:", *_listed(table, "missing")]))
    blind = int(((table["verdict"] == "allowed") & table["q"].isna()).sum())
    if blind:
        text = f"{blind} of {len(table)} comparisons fell by no more than allowed but are untested"
        told = (table["verdict"] == "undecided").any()
        found.append(text if told else f"{text}. {_NEEDED}")
    return found


def _unseen(drift: pd.DataFrame, checkpoints: Sequence[Mapping[str, Any]]) -> list[str]:
    """The newest checkpoint of each run that has several, where the drift table lacks it."""
    by_run: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in checkpoints:
        by_run.setdefault(tuple(row[name] for name in RUN), []).append(row)
    newest_of = (max(rows, key=lambda row: row["step"]) for rows in by_run.values() if rows[1:])
    return sorted({str(row["ckpt"]) for row in newest_of} - set(drift["ckpt"]))


def _listed(table: pd.DataFrame, verdict: str) -> list[str]:
    """Lines for the rows of one verdict, largest fall first, headed by their comparison."""
    lines = []
    chosen = table[table["verdict"] == verdict]
    for (ckpt, against), group in chosen.groupby(_COMPARISON, sort=False):
        lines.append(f"  {ckpt} against {_NAMES[str(against)]}:")
        ordered = group.sort_values("fall", ascending=False, kind="stable")
        lines += [f"    {_line(row)}" for _, row in ordered.iterrows()]
    return lines


def _line(row: pd.Series) -> str:
    """One comparison, such as `t/p/accuracy: from 80.0 (a) to 70.0, worse by 10.0 points ...`."""
    outcome = "/".join(row[column] for column in OUTCOME)
    if row["verdict"] == "missing":
        return f"{outcome}: {row['status']}"
    points = _in_points(row["metric"])
    before, after, fall = (
        f"{100 * row[name]:.1f}" if points else f"{row[name]:.4g}"
        for name in ("reference_value", "value", "fall")
    )
    text = f"{outcome}: from {before} ({row['reference']}) to {after}, worse by {fall}"
    text += " points" if points else ""
    if np.isfinite(row["low"]):
        ends = sorted(row["fall"] + side * (row["high"] - row["low"]) / 2 for side in (-1, 1))
        low, high = (f"{100 * end:.1f}" if points else f"{end:.4g}" for end in ends)
        text += f" (95 % interval {low} to {high})"
    text += f", {_q(row['q'])}" if np.isfinite(row["q"]) else ""
    text += f", {row['status']}" if row["status"] != "ok" else ""
    if not pd.isna(row["lost"]):
        text += f"; of {row['n']} items {row['lost']} lost, {row['gained']} gained"
    return text


def _summary(group: pd.DataFrame, allowed_loss: float) -> list[str]:
    """What one comparison found where nothing stopped the gate, and what it could not exclude."""
    ckpt, against = group[_COMPARISON].iloc[0]
    tested = int(group["q"].notna().sum())
    lines = [f"{ckpt} against {_NAMES[against]}: {tested} of {len(group)} outcomes tested"]
    fallen = group[group["fall"] > 0].sort_values("fall", ascending=False, kind="stable")
    lines.append(f"  largest fall: {_line(fallen.iloc[0])}" if len(fallen) else "  nothing fell")
    reach = group["fall"] + (group["high"] - group["low"]) / 2
    open_ = int((reach > allowed_loss + _ROUNDING).sum())
    if open_:
        lines.append(
            f"  intervals that include a loss larger than allowed: {open_} of {len(group)} "
            "(not to find a loss is not to exclude it)"
        )
    return lines


def _in_points(metric: str) -> bool:
    """Shares are printed as points of a hundred, other metrics in their own unit."""
    return UNITS.get(metric, (1.0, ""))[1] == "points"


def _q(q: float) -> str:
    return "q < 0.001" if q < 0.001 else f"q = {q:.3f}"
