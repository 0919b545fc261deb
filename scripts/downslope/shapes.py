"""The shape of every outcome over model size, training tokens and training compute.

A shape is about performance: `inverse` falls, `positive` rises, `U` falls and then rises,
`inverted U` rises and then falls, whichever way the metric counts. `flat` means that neither a
trend nor a turn was found; the interval of the slope says how much of one may be hidden.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from downslope.correction import corrected
from downslope.errors import StudyError
from downslope.metrics import BETTER
from downslope.outcomes import Outcome
from downslope.panel import ROUNDING, RUN, runs_of
from downslope.two_lines import LEAST_RUNS, Line, Points, has_error, line, two_lines

# Axis -> what one value of it is called where all checkpoints share it.
AXES = {
    "parameters": "model size",
    "tokens": "number of training tokens",
    "flops": "amount of training compute",
}
COLUMNS = (
    *("task", "protocol", "metric", "axis", "shape"),
    *("slope", "slope_low", "slope_high", "p", "q"),
    *("breakpoint", "left_slope", "left_p", "right_slope", "right_p", "turn_p", "turn_q"),
    *("points_left", "points_right", "runs", "n", "status", "tests"),
)
_OUTCOME = list(Outcome._fields)
# Compute is written with six digits: logarithms that agree to five decimals are one x.
_DECIMALS = 5


def shapes(
    cells: pd.DataFrame,
    families: Mapping[str, Sequence[str]],
    level: float,
    better: Mapping[str, str] = BETTER,
) -> pd.DataFrame:
    """The trends table: a row per outcome and axis of every family, in declared order.

    `cells` are a study's; a cell without a value counts as missing. `families` maps each family of
    tests to its outcomes, written task/protocol/metric. x is log10 of the axis; all runs lie on
    one axis together, of whatever family.

    slope, with its 95 % interval and p, is that of one line through all n cells, in the metric's
    units per tenfold; its error comes from leaving runs out, t has runs - 1 degrees of freedom. On
    `tokens` every run has a level of its own, so that it is compared with itself and models
    scored at few checkpoints bring no trend of their own; a run with one checkpoint is left out.
    On the other axes one line goes through all cells: runs are compared with runs. Where each has
    one cell, the cells are the runs. Where larger models are better and longer training is worse,
    or the reverse, a turn on `flops` can come from which sizes were trained to which compute.

    The turn is the two-lines test's (two_lines.py): `breakpoint` in units of the axis, a slope and
    p on each side, the number of distinct x there, turn_p the larger p of the two (1 where their
    signs are not opposite). q and turn_q correct over the outcomes of a family and axis
    (Benjamini-Hochberg). The shape is `U` or `inverted U` where turn_q < `level`; else `inverse`
    or `positive` where q < `level`; else `flat`; but `not testable` where there is no line or no
    possible turn, so that `inverse` and `positive` mean that a turn was looked for.

    status is `ok`; `left out: ...` with what was left out; `not testable: why`, with what the
    whole line says; or `not estimable: why`. Raises StudyError where a cell is given twice or is
    infinite, an axis is not positive, or a metric is unknown.
    """
    used = _checked(cells, families, better)
    by_outcome = dict(list(used.groupby(_OUTCOME, sort=False)))
    rows = [
        {**outcome._asdict(), "axis": axis, "tests": tests}
        | _trend(by_outcome.get(tuple(outcome), used.iloc[:0]), axis)
        for tests, outcomes in families.items()
        for outcome in map(Outcome.parse, outcomes)
        for axis in AXES
    ]
    trends = pd.DataFrame(rows).reindex(columns=list(COLUMNS))
    for _, group in trends.groupby(["tests", "axis"], sort=False):
        for p, q in (("p", "q"), ("turn_p", "turn_q")):
            trends.loc[group.index, q] = corrected(group[p].to_numpy(dtype=np.float64))["q"]
    judged = [_judged(row, level, better[row["metric"]]) for _, row in trends.iterrows()]
    trends["shape"] = [shape for shape, _ in judged]
    trends["status"] = [status for _, status in judged]
    return trends.astype({"points_left": "Int64", "points_right": "Int64"})


def _checked(
    cells: pd.DataFrame, families: Mapping[str, Sequence[str]], better: Mapping[str, str]
) -> pd.DataFrame:
    """The cells that have a value, after refusing those that no fit should see."""
    for text in (text for outcomes in families.values() for text in outcomes):
        metric = Outcome.parse(text).metric
        if metric not in better:
            raise StudyError(
                f"the metric {metric!r} of {text} is unknown, and whether more of it is better",
                where="config/config.yaml, families",
                remedy=f"Known are {', '.join(better)}; add it to metrics.py.",
            )
    used = cells[cells["value"].notna()]
    wrong = {
        "this cell is given twice": used.duplicated(["ckpt", *_OUTCOME]),
        "the value is infinite": np.isinf(used["value"].to_numpy(dtype=np.float64)),
    }
    for axis in AXES:
        wrong[f"{axis} is not positive and has no logarithm"] = ~(used[axis] > 0)
    for what, which in wrong.items():
        if which.any():
            cell = used.loc[which].iloc[0]
            raise StudyError(
                what,
                where=f"cells, {cell['ckpt']}, {'/'.join(cell[_OUTCOME])}",
                remedy="Make the cells anew from the study's present tables.",
            )
    return used


def _trend(cells: pd.DataFrame, axis: str) -> dict[str, Any]:
    """One outcome on one axis, before any correction; `status` as far as it is known by then."""
    points, single = _points(cells, axis)
    trend: dict[str, Any] = {"n": len(points.x), "runs": len(np.unique(points.run))}
    reason = _obstacle(points, axis, single)
    if reason:
        return {**trend, "status": f"not estimable: {reason}"}
    whole = line(points)
    if np.isnan(whole.se):
        reason = "the runs agree exactly, so errors are unknown"
        return {**trend, "status": f"not estimable: {reason}"}
    low, high = whole.interval
    trend |= {"slope": whole.slope, "slope_low": low, "slope_high": high, "p": whole.p}
    turn = two_lines(points)
    notes = [turn.status] * (turn.status != "ok")
    notes += [f"left out: {_runs(single)} with one checkpoint"] * (single > 0)
    return {
        **trend,
        **{f"left_{name}": value for name, value in _slope_and_p(turn.left).items()},
        **{f"right_{name}": value for name, value in _slope_and_p(turn.right).items()},
        "breakpoint": 10**turn.breakpoint,
        "turn_p": turn.p,
        "points_left": turn.points_left,
        "points_right": turn.points_right,
        "status": "; ".join(notes) or "ok",
    }


def _points(cells: pd.DataFrame, axis: str) -> tuple[Points, int]:
    """The cells on an axis, and how many runs were left out on `tokens` for their one cell."""
    x = np.log10(cells[axis].to_numpy(dtype=np.float64))
    # Every x becomes the first of those that agree with it.
    _, first, same = np.unique(np.round(x, _DECIMALS), return_index=True, return_inverse=True)
    run = runs_of(cells[RUN].to_dict("records"))
    value = cells["value"].to_numpy(dtype=np.float64)
    points = Points(x[first][same], value, run, own_levels=axis == "tokens")
    if not points.own_levels:
        return points, 0
    names, count = np.unique(run, return_counts=True)
    return points.where(np.isin(run, names[count > 1])), int((count == 1).sum())


def _obstacle(points: Points, axis: str, single: int) -> str:
    """Why no line can be estimated, or "" where it can."""
    number = len(np.unique(points.run))
    if number == 0 and not single:
        return "no cells"
    if number < LEAST_RUNS:
        of_what = f"{_runs(number)} with several checkpoints" if single else _runs(number)
        return f"{of_what}, at least {LEAST_RUNS} are needed"
    if np.ptp(points.y) <= ROUNDING * np.abs(points.y).max():
        return f"every cell has the value {points.y[0]:.6g}"
    if np.ptp(points.x) == 0:
        return f"all checkpoints have one {AXES[axis]}"
    if not has_error(points):
        return f"without one of the runs all checkpoints have one {AXES[axis]}"
    return ""


def _runs(number: int) -> str:
    return "1 run" if number == 1 else f"{number} runs"


def _slope_and_p(found: Line | None) -> dict[str, float]:
    return {"slope": np.nan, "p": np.nan} if found is None else {"slope": found.slope, "p": found.p}


def _judged(row: pd.Series, level: float, better: str) -> tuple[str, str]:
    """The shape, and the status in full."""
    gain = 1 if better == "higher" else -1
    if np.isnan(row["p"]):
        return "not testable", row["status"]
    overall = "flat"
    if row["q"] < level:
        overall = "positive" if gain * row["slope"] > 0 else "inverse"
    if np.isnan(row["turn_p"]):
        found = {"flat": "shows no trend", "positive": "rises", "inverse": "falls"}[overall]
        return "not testable", f"{row['status']}; over the whole axis performance {found}"
    if row["turn_q"] < level:
        return ("U" if gain * row["right_slope"] > 0 else "inverted U"), row["status"]
    return overall, row["status"]
