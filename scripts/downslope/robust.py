"""Fits of many outcomes at once: errors that respect runs (CR1, CR3, two-stage) and others.

All functions take values as an array (n, m), a column per outcome; every estimate is linear in
the values, so that one matrix product fits all columns. `run` has the name of each row's run.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from downslope.panel import FloatArray, TextArray

LEAST_SPREAD = 0.1
"""Of the median run's spread of tokens (sum of squares about the mean; runs of one value aside) the
share from which on a run has a slope: with less, that has over ten times the others' variance."""


class Fits(NamedTuple):
    """Coefficients and standard errors, both (coefficients, m)."""

    estimate: FloatArray
    se: FloatArray


def membership(run: TextArray) -> FloatArray:
    """(G, n): 1 where the row belongs to the run, else 0; runs in the order of their names."""
    return (np.unique(run)[:, None] == run[None, :]).astype(np.float64)


def classical(design: FloatArray, values: FloatArray) -> Fits:
    """Least squares with the errors of independent cells of one variance: (k, m) each."""
    n, k = design.shape
    inverse = np.linalg.pinv(design)
    estimate = inverse @ values
    variance = ((values - design @ estimate) ** 2).sum(axis=0) / (n - k)
    return Fits(estimate, np.sqrt((inverse**2).sum(axis=1)[:, None] * variance))


def hac(design: FloatArray, values: FloatArray, lags: int) -> Fits:
    """Least squares of series in the order of time with Newey & West's (1987) errors: (k, m) each.

    Bartlett weights 1 - lag / (lags + 1), no correction for few cells: statsmodels'
    `cov_type="HAC"`.
    """
    inverse = np.linalg.pinv(design)
    estimate = inverse @ values
    scores = inverse[:, :, None] * (values - design @ estimate)  # (k, n, m)
    variance = (scores**2).sum(axis=1)
    for lag in range(1, lags + 1):
        product = (scores[:, lag:] * scores[:, :-lag]).sum(axis=1)
        variance += 2 * (1 - lag / (lags + 1)) * product
    return Fits(estimate, np.sqrt(np.maximum(variance, 0.0)))


def cr1(design: FloatArray, values: FloatArray, run: TextArray) -> Fits:
    """Least squares with the covariance CR1, clustered by run: (k, m) each.

    G/(G-1) (n-1)/(n-k) times the sandwich of the runs' scores (Liang & Zeger 1986, with the usual
    correction), which is what statsmodels' `cov_type="cluster"` gives.
    """
    n, k = design.shape
    inverse = np.linalg.pinv(design)
    estimate = inverse @ values
    member = membership(run)
    scores = (member[:, None, :] * inverse) @ (values - design @ estimate)  # (G, k, m)
    return Fits(estimate, np.sqrt(cr1_factor(len(member), n, k) * (scores**2).sum(axis=0)))


def cr1_factor(runs: int, n: int, k: int) -> float:
    """CR1's correction for few runs and cells: G/(G-1) (n-1)/(n-k)."""
    return runs / (runs - 1) * (n - 1) / (n - k)


def cr3(design: FloatArray, values: FloatArray, run: TextArray) -> Fits:
    """Least squares with the covariance CR3, the jackknife over runs: (k, m) each.

    (G-1)/G times the sum over runs of the squared change that leaving the run out makes (Bell &
    McCaffrey 2002; MacKinnon, Nielsen & Webb 2023). The columns of `design` stay as
    they are: nothing is scaled anew without the run. Every run must be dispensable, see
    `indispensable_run`.
    """
    inverse = np.linalg.pinv(design)
    estimate = inverse @ values
    total = np.zeros_like(estimate)
    member = membership(run)
    for left_out in member.astype(bool):
        kept = np.linalg.pinv(design[~left_out]) @ values[~left_out]
        total += (kept - estimate) ** 2
    return Fits(estimate, np.sqrt((len(member) - 1) / len(member) * total))


def indispensable_run(design: FloatArray, run: TextArray) -> str:
    """The first run without which the design loses rank, or "" where there is none."""
    rank = np.linalg.matrix_rank(design)
    for name in np.unique(run):
        if np.linalg.matrix_rank(design[run != name]) < rank:
            return str(name)
    return ""


def two_stage(size: FloatArray, tokens: FloatArray, values: FloatArray, run: TextArray) -> Fits:
    """A line per run, then the runs' lines on size: (3, m) each, in the order of `EFFECTS`.

    First stage: each run's values on `tokens`, which gives a slope and a level, the fitted value
    where `tokens` is 0. Second stage, least squares over the G runs on `size` centred on the mean
    over runs: `parameters` is the slope of the levels, `interaction` the slope of the slopes,
    `tokens` the intercept of the slopes; errors have G - 2 degrees of freedom. All lines count
    alike, so `runs_without_slope` are not for it.
    """
    lines = []
    sizes = []
    for rows in membership(run).astype(bool):
        first = np.column_stack([np.ones(rows.sum()), tokens[rows]])
        lines.append(np.linalg.pinv(first) @ values[rows])
        sizes.append(size[rows][0])
    levels, slopes = np.stack(lines, axis=1)  # (G, m) each
    centred = np.array(sizes) - np.mean(sizes)
    second = np.column_stack([np.ones(len(centred)), centred])
    estimates, errors = [], []
    for outcome in (levels, slopes):
        estimate = np.linalg.pinv(second) @ outcome
        squares = ((outcome - second @ estimate) ** 2).sum(axis=0) / (len(centred) - 2)
        estimates.append(estimate)
        errors.append(np.sqrt(squares / (second**2).sum(axis=0)[:, None]))
    (_, parameters), (intercept, interaction) = estimates
    (_, parameters_se), (intercept_se, interaction_se) = errors
    return Fits(
        np.stack([parameters, intercept, interaction]),
        np.stack([parameters_se, intercept_se, interaction_se]),
    )


def runs_without_slope(tokens: FloatArray, run: TextArray) -> list[str]:
    """The runs with one value of `tokens` (on the scale of the fit, a logarithm), and those whose
    values hardly vary beside the others' (LEAST_SPREAD).

    Through the former goes no line. Through the latter goes one that is noise, and the second
    stage, to which all lines are alike, would drown in it: in the published study less the six
    checkpoints of one model that serve the weights of another step it would find nothing at all.
    """
    names = np.unique(run)
    own = [tokens[run == name] for name in names]
    # The mean of equal numbers may differ from them by a rounding.
    spread = np.array([((t - t.mean()) ** 2).sum() if np.ptp(t) else 0.0 for t in own])
    usual = np.median(spread[spread > 0]) if spread.any() else 0.0
    without = (spread == 0) | (spread < LEAST_SPREAD * usual)
    return [str(name) for name in names[without]]
