"""Tests of many panels at once against the methods, statsmodels and scipy, one at a time."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats

from downslope.correction import corrected
from downslope.panel import Panel
from downslope.panel_tests import (
    CALIBRATED,
    any_holm,
    benjamini_hochberg,
    benjamini_yekutieli,
    obstacles,
    own_trend_p_values,
    p_values,
)
from downslope.regression import METHODS
from downslope.simulation import Grid, simulate

STEPS = 4e9 * 2.0 ** np.arange(6)


def grid(sizes=(1e7, 1e8, 4e8, 1e9, 1e10), dropped=()):
    rows = [(s, t, f"toy/{s:g}/0") for s in sizes for t in STEPS]
    kept = [row for number, row in enumerate(rows) if number not in dropped]
    parameters, tokens, run = zip(*kept, strict=True)
    return Grid(np.array(parameters), np.array(tokens), np.array(run))


GRIDS = {
    "balanced": grid(),
    "cells missing": grid(dropped=(1, 9, 10)),
    "a run with one checkpoint": grid(dropped=(6, 7, 8, 9, 10)),
    "more than twelve runs": grid(sizes=tuple(np.logspace(7, 10, 13))),
}


@pytest.mark.parametrize("full", GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize("method", CALIBRATED)
def test_p_is_that_of_the_method_itself(method, full):
    cells = simulate(full, 2, 0.5, np.random.default_rng(1), planted=3).reshape(len(full), -1)
    together = p_values(method, full, cells)
    for column, value in enumerate(cells.T):
        panel = Panel(value, full.parameters, full.tokens, full.run, value * np.nan)
        alone = [e.p for e in METHODS[method](panel)]
        assert together[:, column] == pytest.approx(alone, rel=1e-7)


def test_own_trends_are_those_of_statsmodels_and_scipy():
    series = np.round(np.random.default_rng(2).normal(size=(6, 8)).cumsum(axis=0), 1)
    x = np.log10(STEPS)
    found = {m: own_trend_p_values(f"own-trend {m}", STEPS, series) for m in ("ols", "hac", "tau")}
    for k, y in enumerate(series.T):
        fit = sm.OLS(y, sm.add_constant(x))
        hac = fit.fit(cov_type="HAC", cov_kwds={"maxlags": 2}, use_t=True)
        assert found["ols"][k] == pytest.approx(fit.fit().pvalues[1])
        assert found["hac"][k] == pytest.approx(hac.pvalues[1])
        assert found["tau"][k] == pytest.approx(stats.kendalltau(x, y).pvalue)


def test_corrections_are_those_of_the_effects_table():
    p = np.random.default_rng(3).uniform(size=(30, 12)) ** np.linspace(1, 9, 30)[:, None]
    p[:, 3] = p[:, 5]  # ties
    expected = [corrected(family) for family in p]
    for column, reject in (("q", benjamini_hochberg), ("q_by", benjamini_yekutieli)):
        rejected = np.array([family[column] < 0.05 for family in expected])
        assert 0 < rejected.mean() < 1
        assert (reject(p, 0.05) == rejected).all()
    holm = np.array([(family["p_holm"] < 0.05).any() for family in expected])
    assert (any_holm(p, 0.05) == holm).all()


def test_obstacles_are_the_methods_own():
    assert set(obstacles(grid()).values()) == {""}
    two = obstacles(grid(sizes=(1e7, 1e9)))
    assert two.pop("ols") == ""
    assert set(two.values()) == {"not estimable: 2 runs, at least 3 are needed"}
    one = obstacles(grid(sizes=(1e7,)))
    assert set(one.values()) == {"not estimable: all checkpoints have one model size"}
