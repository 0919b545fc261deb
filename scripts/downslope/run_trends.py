"""Each run's own trend over training, with the error that the choice of items makes.

Regressions over all runs cannot show an effect that only the largest models have. A run's own
slope can; but its checkpoints are one training run's, and at eight of them no error estimated
from their residuals keeps its level. So the items give the error, and the trend answers less.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from downslope.correction import corrected
from downslope.errors import StudyError
from downslope.outcomes import Outcome
from downslope.panel import ROUNDING, RUN, FloatArray

# What the intervals mean: tables and figures print it beside them.
QUESTION = "this run on these items: another draw of items, not another training run"
COLUMNS = (
    *("task", "protocol", "metric", "family", "parameters", "seed"),
    *("slope", "se", "low", "high", "p", "q", "p_holm", "n", "items", "status", "tests"),
)
_CONSTANT = "every cell has the value"
# Two points lie on a line whatever the trend.
LEAST_CHECKPOINTS = 3
# The mean of the replicates is the cell, but for their sampling error; beyond this many of its
# standard deviations the items are not those that the cell was computed from.
_AGREEMENT = 8.0
# Of a value: cells are written with six digits, item values with seven.
_SIX_DIGITS = 1e-5

_OUTCOME = list(Outcome._fields)


def run_trends(
    cells: pd.DataFrame,
    families: Mapping[str, Sequence[str]],
    replicates: Callable[[Outcome], pd.DataFrame],
) -> pd.DataFrame:
    """A row per outcome x run: the slope over training, its error, and the corrected p.

    `cells` are the study's; a cell without a value counts as missing. `families` maps each family
    of tests to its outcomes, written task/protocol/metric. `replicates` gives an outcome's cells
    recomputed on resampled items (`item_bootstrap`), empty where there are no item-level scores.

    slope is `training_slope` over the run's n checkpoints, in the metric's units per tenfold of
    tokens; se is the standard deviation of the slopes of the replicates. Where every item has a
    value, the slope is the mean over items of each item's own slope, so low and high are slope
    -+ t se, 95 %, and p is two-sided, by Student's t with items - 1 degrees of freedom.
    Percentiles of the replicates cover no better where many items change between checkpoints,
    and worse where few do (10 of 150 without a trend: 92 % for 95 %, these 95 %); their p ends at
    2 / (replicates + 1), too coarse for a single finding among runs x outcomes. Where few items
    change and most in one direction, both cover some 90 to 93 %. q (Benjamini-Hochberg) and p_holm
    correct over the runs x outcomes of a family.

    The error is that of `QUESTION`. A run's slope would differ in another training run, with
    another seed or order of data, by an amount that one run cannot tell.

    status is `ok`; `no interval: why`, with the slope; or `not estimable: why`. Raises StudyError
    where a cell is given twice or is infinite.
    """
    used = _checked(cells)
    runs = used[RUN].drop_duplicates().sort_values(RUN)
    by_run = dict(list(used[used["value"].notna()].groupby([*_OUTCOME, *RUN], sort=False)))
    rows: list[dict[str, Any]] = []
    for tests, outcomes in families.items():
        for outcome in map(Outcome.parse, outcomes):
            resampled = replicates(outcome)
            for run in runs.itertuples(index=False, name=None):
                labels = dict(zip(RUN, run, strict=True))
                trend = _trend(by_run.get((*outcome, *run), used.iloc[:0]), resampled)
                rows.append({**outcome._asdict(), **labels, **trend, "tests": tests})
    trends = pd.DataFrame(rows, columns=[c for c in COLUMNS if c not in ("q", "p_holm")])
    for _, group in trends.groupby("tests", sort=False):
        columns = corrected(group["p"].to_numpy(dtype=np.float64))
        for column in ("q", "p_holm"):
            trends.loc[group.index, column] = columns[column]
    return trends.reindex(columns=list(COLUMNS)).astype({"items": "Int64"})


def training_slope(tokens: FloatArray, values: FloatArray) -> FloatArray:
    """Least-squares slope of values on log10 tokens: the change per tenfold of training tokens.

    `tokens` (checkpoints,), of at least two numbers; `values` (..., checkpoints), each row a run.
    """
    x = np.log10(tokens)
    x = x - x.mean()
    return np.asarray(values @ (x / (x @ x)))


def directions(trends: pd.DataFrame, better: str, level: float) -> pd.Series:
    """What performance does in each run of one outcome: falls, rises, no clear trend, constant, not
    tested.

    `trends` are rows of `run_trends`; `better` is `higher` or `lower`, as the metric has it.
    Falling and rising are claimed where q < `level`; constant is a run whose cells are all equal.
    """
    gain = trends["slope"] if better == "higher" else -trends["slope"]
    clear = trends["q"] < level
    found = pd.Series("no clear trend", index=trends.index)
    found[clear & (gain < 0)] = "falls"
    found[clear & (gain > 0)] = "rises"
    found[trends["p"].isna()] = "not tested"
    found[trends["status"].str.startswith(f"not estimable: {_CONSTANT}")] = "constant"
    return found


def largest_only(trends: pd.DataFrame, better: str, level: float) -> bool:
    """Whether performance falls over training in the largest models only, for one outcome.

    True where some run falls, and in each family with such a run every falling run is larger than
    all tested runs that do not fall, of which there is at least one. That smaller runs do not
    fall clearly is no proof that they do not fall: their slopes and intervals stand beside it.
    """
    found = directions(trends, better, level)
    falling = trends[found == "falls"]
    others = trends[found.isin(["rises", "no clear trend", "constant"])]
    return len(falling) > 0 and all(
        of_family["parameters"].min()
        > others.loc[others["family"] == family, "parameters"].max()  # none: NaN, so False
        for family, of_family in falling.groupby("family")
    )


def _checked(cells: pd.DataFrame) -> pd.DataFrame:
    twice = cells.duplicated(["ckpt", *_OUTCOME])
    infinite = np.isinf(cells["value"].to_numpy(dtype=np.float64))
    for wrong, what in ((twice, "this cell is given twice"), (infinite, "the value is infinite")):
        if wrong.any():
            cell = cells.loc[wrong].iloc[0]
            raise StudyError(
                what,
                where=f"cells, {cell['ckpt']}, {'/'.join(cell[_OUTCOME])}",
                remedy="Make the cells anew from the study's present tables.",
            )
    return cells.sort_values("tokens", kind="stable")


def _trend(cells: pd.DataFrame, resampled: pd.DataFrame) -> dict[str, Any]:
    """slope, se, low, high, p, n, items and status from one run's cells of one outcome.

    items is the least that any of the cells rests on: a metric may be undefined for some.
    """
    tokens = cells["tokens"].to_numpy(dtype=np.float64)
    value = cells["value"].to_numpy(dtype=np.float64)
    trend = {
        **dict.fromkeys(("slope", "se", "low", "high", "p"), np.nan),
        "n": len(cells),
        "items": cells["n"].astype("Int64").min(),
    }
    reason = _obstacle(tokens, value)
    if reason:
        return {**trend, "status": f"not estimable: {reason}"}
    trend["slope"] = slope = float(training_slope(tokens, value))
    drawn = resampled.reindex(columns=cells["ckpt"]).to_numpy(dtype=np.float64)
    reason = _gap(cells, drawn)
    if reason:
        return {**trend, "status": f"no interval: {reason}"}
    se = float(training_slope(tokens, drawn).std(ddof=1))
    if se <= ROUNDING * np.abs(value).max():
        return {**trend, "status": "no interval: every draw of items gives the same slope"}
    df = int(trend["items"]) - 1
    reach = float(stats.t.ppf(0.975, df)) * se
    p = float(2 * stats.t.sf(abs(slope) / se, df))
    return {**trend, "se": se, "low": slope - reach, "high": slope + reach, "p": p, "status": "ok"}


def _obstacle(tokens: FloatArray, value: FloatArray) -> str:
    """Why a run has no slope, or "" where it has."""
    if len(value) == 0:
        return "no cells"
    if len(value) < LEAST_CHECKPOINTS:
        found = "1 checkpoint" if len(value) == 1 else f"{len(value)} checkpoints"
        return f"{found}, at least {LEAST_CHECKPOINTS} are needed"
    if np.ptp(tokens) == 0:
        return "all checkpoints have one number of training tokens"
    if np.ptp(value) <= ROUNDING * np.abs(value).max():
        return f"{_CONSTANT} {value[0]:.6g}"
    return ""


def _gap(cells: pd.DataFrame, drawn: FloatArray) -> str:
    """Why the items give no error for this run's slope, or "" where they do.

    `drawn` (replicates, checkpoints) holds the replicates of `cells`, NaN where there are none.
    """
    lacking = int(np.isnan(drawn).all(axis=0).sum())
    if lacking == len(cells):
        return "no item-level scores"
    if lacking:
        return f"no item-level scores of {lacking} of {len(cells)} checkpoints"
    if cells["n"].isna().any():
        return "the cells do not say how many items they rest on"
    empty = int(np.isnan(drawn).any(axis=1).sum())
    if empty:
        return (
            f"the metric is defined for so few items that {empty} of {len(drawn)} draws hold none"
        )
    value = cells["value"].to_numpy(dtype=np.float64)
    error = _AGREEMENT * drawn.std(axis=0) / np.sqrt(len(drawn)) + _SIX_DIGITS * np.abs(value)
    apart = np.abs(drawn.mean(axis=0) - value) > error
    if apart.any():
        i = int(np.argmax(apart))
        ckpt, found = cells["ckpt"].iloc[i], drawn[:, i].mean()
        return f"the item-level scores of {ckpt} give {found:.6g}, its cell is {value[i]:.6g}"
    return ""
