"""Regressions of an outcome on model size and training tokens, one function per method.

A method takes a `Panel` (the cells of one outcome) and returns an `Estimate` per effect, in the
order of `EFFECTS`. To add a method, write such a function and enter it in `METHODS`: the effects
table, the corrections and Table 1 follow.

All methods give standardised estimates, standard deviations of the value per standard deviation
of the predictor, and 95 % intervals. `ols` takes every cell as independent; `cluster`,
`jackknife`, `two-stage` and `wild` take the runs as the independent units, and answer whether
other runs would show the effect. With several seeds of a size the unit is still the run; what is
known about size then rests on the number of sizes, not of runs. `item` asks something else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats
from statsmodels.regression.linear_model import OLS

from downslope import robust
from downslope.panel import (
    EFFECTS,
    LEFT_OUT,
    FloatArray,
    Panel,
    design,
    negligible,
    obstacle,
    zscore,
)
from downslope.wild import DRAWS, LEVEL, MOST_ENUMERATED_RUNS, smallest_p, wild_interval, wild_p

# Two runs with a line each leave nothing between runs: clustered errors would be zero.
LEAST_RUNS = 3
_COLUMNS = (1, 2, 3)  # of the design matrix, one per effect
_AGREE = "not estimable: the runs agree with the fit exactly, so its error is unknown"


@dataclass(frozen=True)
class Estimate:
    """One coefficient. `status` is `ok`, or says why the numbers are NaN or how to read them.

    `low` and `high` are the ends of the 95 % interval, NaN where a method has none; `left_out` are
    the runs of the panel that it does not rest on.
    """

    estimate: float = np.nan
    se: float = np.nan
    statistic: float = np.nan
    df: float = np.nan
    p: float = np.nan
    low: float = np.nan
    high: float = np.nan
    status: str = "ok"
    left_out: tuple[str, ...] = ()


Method = Callable[[Panel], tuple[Estimate, ...]]


def ols(panel: Panel) -> tuple[Estimate, ...]:
    """The paper's fit: z(value) ~ z(log10 parameters) * z(log10 tokens), ordinary least squares.

    t has n - 4 degrees of freedom, p is two-sided. All cells count as independent, which they are
    not: it is the published analysis, for comparison (Michaelov & Bergen 2023, section 3).
    """
    reason = obstacle(panel) or _no_residual(panel)
    if reason:
        return _none(reason)
    fit = OLS(zscore(panel.value), design(panel)).fit()
    return _student(panel, fit.params[1:], fit.bse[1:], float(fit.df_resid))


def cluster(panel: Panel) -> tuple[Estimate, ...]:
    """The same fit with errors clustered by run: statsmodels' CR1, t with G - 1 degrees of freedom.

    Errors may depend on each other in any way within a run. CR1 rejects too often with few runs.
    """
    reason = _obstacle_to_sandwich(panel)
    if reason:
        return _none(reason)
    groups = np.unique(panel.run, return_inverse=True)[1]
    fit = OLS(zscore(panel.value), design(panel)).fit(
        cov_type="cluster", cov_kwds={"groups": groups}, use_t=True
    )
    return _student(panel, fit.params[1:], fit.bse[1:], panel.runs - 1)


def jackknife(panel: Panel) -> tuple[Estimate, ...]:
    """The same fit with CR3 errors: each run left out in turn, t with G - 1 degrees of freedom.

    The columns stay those of the whole panel when a run is left out.
    """
    reason = _obstacle_to_sandwich(panel)
    if reason:
        return _none(reason)
    fits = robust.cr3(design(panel), zscore(panel.value)[:, None], panel.run)
    return _student(panel, fits.estimate[1:, 0], fits.se[1:, 0], panel.runs - 1)


def two_stage(panel: Panel) -> tuple[Estimate, ...]:
    """A level and a slope per run, then levels and slopes on size: t with G - 2 degrees of freedom.

    The level is a run's fitted value at the panel's mean log tokens; size is centred on the mean
    over runs. `parameters` is the slope of the levels, `tokens` the intercept of the slopes and
    `interaction` the slope of the slopes. Where all runs have the same token counts the estimates
    are those of `ols`. Runs whose tokens hardly vary have no slope to speak of: they are left out
    of all three, and the status names them (`robust.runs_without_slope`).
    """
    reason = _obstacle_to_clustering(panel)
    if reason:
        return _none(reason)
    _, size, tokens, _ = design(panel).T
    left_out = robust.runs_without_slope(tokens, panel.run)
    used = ~np.isin(panel.run, left_out)
    runs = panel.runs - len(left_out)
    if runs < LEAST_RUNS:
        return _none(
            f"not estimable: {_runs(runs)} whose tokens vary, at least {LEAST_RUNS} are needed"
        )
    if np.ptp(panel.parameters[used]) == 0:
        return _none("not estimable: all runs whose tokens vary have one model size")
    values = zscore(panel.value)[:, None]
    fits = robust.two_stage(size[used], tokens[used], values[used], panel.run[used])
    estimates = _student(panel, fits.estimate[:, 0], fits.se[:, 0], runs - 2)
    if not left_out:
        return estimates
    status = f"{LEFT_OUT}{', '.join(left_out)} (tokens that hardly vary)"
    return tuple(
        replace(e, status=status, left_out=tuple(left_out)) if e.status == "ok" else e
        for e in estimates
    )


def wild(panel: Panel) -> tuple[Estimate, ...]:
    """`cluster`'s t against its wild cluster restricted bootstrap distribution: see wild.py.

    p is the share of sign vectors with |t*| >= |t|: of all 2^G for up to 12 runs, else of 9,999
    drawn and the identity. At the least p that so many runs allow, the status says so: a larger
    effect could not give a smaller p. With up to five runs the least is not below 5 %, and the
    status says so of every p. The interval holds the nulls that the test does not reject; an end
    is NaN where no null is rejected on its side.
    """
    clustered = cluster(panel)
    if all(e.status != "ok" for e in clustered):
        return clustered
    matrix, value = design(panel), zscore(panel.value)
    least = smallest_p(panel.runs)
    few = panel.runs <= MOST_ENUMERATED_RUNS
    resolution = f"{panel.runs} runs" if few else f"{DRAWS:,} draws"
    below = f"below resolution: {resolution} allow no p under {least:.2g}"
    estimates = []
    for column, e in zip(_COLUMNS, clustered, strict=True):
        if e.status != "ok":
            estimates.append(e)
            continue
        p = float(wild_p(matrix, value[:, None], panel.run, column)[0])
        low, high = wild_interval(matrix, value, panel.run, column)
        status = below if p < 1.25 * least or least >= LEVEL else "ok"
        estimates.append(replace(e, df=np.nan, p=p, low=low, high=high, status=status))
    return tuple(estimates)


def item(panel: Panel) -> tuple[Estimate, ...]:
    """`ols`' estimates with the errors of a bootstrap of the items.

    It answers another question than the rest: what *these* runs would show on other items of the
    same kind. How other runs would differ does not enter, so its intervals never stand in for
    those of the other methods. Items are resampled once and shared by all checkpoints. The scale
    stays that of the cells themselves. se is the standard deviation over the B replicates, low and
    high their 2.5 and 97.5 percentiles, p the two-sided percentile p, at least 2 / (B + 1).
    """
    reason = obstacle(panel)
    if reason:
        return _none(reason)
    if panel.replicates is None or np.isnan(panel.replicates).all():
        return _none("not estimable: no item-level scores")
    lacking = int(np.isnan(panel.replicates).any(axis=0).sum())
    if lacking:
        return _none(
            f"not estimable: {lacking} of {len(panel)} cells have no item-level scores, "
            "or none in some resample"
        )
    slopes = np.linalg.pinv(design(panel))[1:]
    estimate = slopes @ zscore(panel.value)
    scale = panel.value.std(ddof=1)
    resampled = slopes @ ((panel.replicates - panel.value.mean()) / scale).T  # (3, B)
    se = resampled.std(axis=1, ddof=1)
    low, high = np.quantile(resampled, (0.025, 0.975), axis=1)
    tail = np.minimum((resampled <= 0).sum(axis=1), (resampled >= 0).sum(axis=1))
    p = np.minimum(1.0, 2 * (1 + tail) / (1 + resampled.shape[1]))
    same = "not estimable: the cells are the same for every resample of the items"
    return tuple(
        Estimate(
            estimate=float(estimate[k]),
            se=float(se[k]),
            p=float(p[k]),
            low=float(low[k]),
            high=float(high[k]),
        )
        if se[k] > negligible(panel)
        else Estimate(status=same)
        for k in range(len(EFFECTS))
    )


def _obstacle_to_clustering(panel: Panel) -> str:
    """Why no method can take the runs as its independent units, or "" where it can."""
    reason = obstacle(panel)
    if not reason and panel.runs < LEAST_RUNS:
        return f"not estimable: {_runs(panel.runs)}, at least {LEAST_RUNS} are needed"
    return reason or _no_residual(panel)


def _obstacle_to_sandwich(panel: Panel) -> str:
    """Why the runs' residuals cannot tell the error: also where one run alone carries an effect,
    because the fit then follows that run and leaves it no residual."""
    reason = _obstacle_to_clustering(panel)
    run = "" if reason else robust.indispensable_run(design(panel), panel.run)
    if run:
        return f"not estimable: without the run {run} size and tokens do not vary independently"
    return reason


def _runs(count: int) -> str:
    return "1 run" if count == 1 else f"{count} runs"


def _no_residual(panel: Panel) -> str:
    matrix, value = design(panel), zscore(panel.value)
    residual = value - matrix @ (np.linalg.pinv(matrix) @ value)
    # The z-scored values have n - 1 as their sum of squares.
    if residual @ residual <= negligible(panel) ** 2 * (len(panel) - 1):
        return "not estimable: the fit leaves no residual, so errors are unknown"
    return ""


def _student(panel: Panel, estimate: FloatArray, se: FloatArray, df: float) -> tuple[Estimate, ...]:
    """Two-sided Student tests and 95 % intervals; no test where an error vanishes."""
    reach = float(stats.t.ppf(0.975, df))
    return tuple(
        Estimate(
            estimate=float(b),
            se=float(error),
            statistic=float(b / error),
            df=float(df),
            p=float(2 * stats.t.sf(abs(b / error), df)),
            low=float(b - reach * error),
            high=float(b + reach * error),
        )
        if error > negligible(panel)
        else Estimate(status=_AGREE)
        for b, error in zip(estimate, se, strict=True)
    )


def _none(reason: str) -> tuple[Estimate, ...]:
    return tuple(Estimate(status=reason) for _ in EFFECTS)


METHODS: dict[str, Method] = {
    "ols": ols,
    "cluster": cluster,
    "jackknife": jackknife,
    "two-stage": two_stage,
    "wild": wild,
    "item": item,
}
