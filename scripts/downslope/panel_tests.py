"""Every method's p-values for many panels on one grid at once, and what corrections make of them.

The same tests as regression.py's, which takes one panel at a time and refuses what cannot be
estimated; here each method is a few matrix products over all panels.
"""

from __future__ import annotations

import numpy as np
from scipy import stats

from downslope import robust
from downslope.panel import EFFECTS, FloatArray, Panel
from downslope.regression import METHODS
from downslope.simulation import Grid
from downslope.wild import wild_p

# `item` asks how these runs would do on other items: without effect or error of a run, nothing
# that is simulated here has a bearing on it.
CALIBRATED = tuple(name for name in METHODS if name != "item")
# What a single run's own trend could be tested by besides the bootstrap of its items.
OWN_TREND = ("own-trend ols", "own-trend hac", "own-trend tau")
LAGS = 2

BoolArray = np.ndarray[tuple[int, ...], np.dtype[np.bool_]]


def obstacles(grid: Grid) -> dict[str, str]:
    """Why a method cannot estimate anything on this grid, or "", by method."""
    value = np.random.default_rng(0).normal(size=len(grid))
    panel = Panel(value, grid.parameters, grid.tokens, grid.run, np.full(len(grid), np.nan))
    statuses = {name: {e.status for e in METHODS[name](panel)} for name in CALIBRATED}
    return {
        name: next(iter(found)) if all(s.startswith("not estimable") for s in found) else ""
        for name, found in statuses.items()
    }


def p_values(method: str, grid: Grid, values: FloatArray, draws: int | None = None) -> FloatArray:
    """Two-sided p (3, m), a row per effect, of one of `CALIBRATED` for values (n, m).

    `draws`: see `wild.wild_p`. NaN where an error is zero.
    """
    design, runs = grid.design, len(np.unique(grid.run))
    if method == "ols":
        return _student(robust.classical(design, values), len(grid) - 4)[1:]
    if method == "cluster":
        return _student(robust.cr1(design, values, grid.run), runs - 1)[1:]
    if method == "jackknife":
        return _student(robust.cr3(design, values, grid.run), runs - 1)[1:]
    if method == "two-stage":
        _, size, tokens, _ = design.T
        without = robust.runs_without_slope(tokens, grid.run)
        used = ~np.isin(grid.run, without)
        fits = robust.two_stage(size[used], tokens[used], values[used], grid.run[used])
        return _student(fits, runs - len(without) - 2)
    if method == "wild":
        columns = range(1, 1 + len(EFFECTS))
        return np.stack([wild_p(design, values, grid.run, k, draws) for k in columns])
    raise ValueError(f"no batched form of the method {method}")


def own_trend_p_values(method: str, tokens: FloatArray, values: FloatArray) -> FloatArray:
    """Two-sided p (m,) of one run's trend over log tokens (n,), for series (n, m) in their order.

    One of `OWN_TREND`: least squares with classical errors, with HAC errors of two lags, both with
    t of n - 2 degrees of freedom, and Kendall's tau.
    """
    if method == "own-trend tau":
        return np.array([stats.kendalltau(tokens, series).pvalue for series in values.T])
    design = np.column_stack([np.ones(len(tokens)), np.log10(tokens) - np.log10(tokens).mean()])
    if method == "own-trend ols":
        return _student(robust.classical(design, values), len(tokens) - 2)[1]
    if method == "own-trend hac":
        return _student(robust.hac(design, values, LAGS), len(tokens) - 2)[1]
    raise ValueError(f"no test of a run's own trend called {method}")


def _student(fits: robust.Fits, df: int) -> FloatArray:
    t = np.divide(fits.estimate, fits.se, out=np.full_like(fits.se, np.nan), where=fits.se > 0)
    return np.asarray(2 * stats.t.sf(np.abs(t), df))


def benjamini_hochberg(p: FloatArray, level: float) -> BoolArray:
    """Which tests are discoveries at q < level, for families of tests (families, tests)."""
    tests = p.shape[1]
    ordered = np.sort(p, axis=1)
    below = ordered < level * np.arange(1, tests + 1) / tests
    count = np.where(below.any(axis=1), tests - below[:, ::-1].argmax(axis=1), 0)
    largest = np.take_along_axis(ordered, np.maximum(count - 1, 0)[:, None], axis=1)
    return (p <= largest) & (count > 0)[:, None]


def benjamini_yekutieli(p: FloatArray, level: float) -> BoolArray:
    """As `benjamini_hochberg`, at a level that holds under any dependence."""
    return benjamini_hochberg(p, level / (1 / np.arange(1, p.shape[1] + 1)).sum())


def any_holm(p: FloatArray, level: float) -> BoolArray:
    """Which families (families,) have any rejection by Holm: the smallest p decides it."""
    return p.min(axis=1) * p.shape[1] < level
