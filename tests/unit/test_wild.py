"""The wild bootstrap against refits of every sign vector with statsmodels."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import statsmodels.api as sm

from downslope import wild
from downslope.panel import design_matrix
from downslope.wild import smallest_p, weights, wild_interval, wild_p


def toy(sizes=(1e6, 3e6, 1e7, 1e8, 1e9), tokens=(1e9, 1e10, 1e11), dropped=()):
    """A small panel: design, run, and a value with an effect of size and an error per run."""
    rows = list(itertools.product(sizes, tokens))
    parameters, training = np.array([r for i, r in enumerate(rows) if i not in dropped]).T
    rng = np.random.default_rng(11)
    run = np.array([f"toy/{size:g}/0" for size in parameters])
    design = design_matrix(parameters, training)
    shared = rng.normal(size=len(sizes))[np.unique(run, return_inverse=True)[1]]
    return design, run, 1.5 * design[:, 1] + shared + rng.normal(size=len(run))


def t_by_statsmodels(value, design, run, column):
    groups = np.unique(run, return_inverse=True)[1]
    fit = sm.OLS(value, design).fit(cov_type="cluster", cov_kwds={"groups": groups}, use_t=True)
    return fit.tvalues[column]


def share_by_refits(value, design, run, column, vectors):
    """|t*| >= |t| over `vectors`, each a refit; the null is imposed by leaving the column out."""
    groups = np.unique(run, return_inverse=True)[1]
    restricted = sm.OLS(value, np.delete(design, column, axis=1)).fit()
    t = abs(t_by_statsmodels(value, design, run, column))
    replicates = [restricted.fittedvalues + restricted.resid * w[groups] for w in vectors]
    stars = [abs(t_by_statsmodels(y, design, run, column)) for y in replicates]
    return np.mean([star >= t - 1e-9 * t for star in stars])


@pytest.mark.parametrize("dropped", [(), (0, 4, 7)], ids=["balanced", "cells missing"])
@pytest.mark.parametrize("column", [1, 2, 3])
def test_p_is_the_share_over_all_sign_vectors(column, dropped):
    design, run, value = toy(dropped=dropped)
    vectors = np.array(list(itertools.product((1.0, -1.0), repeat=5)))
    expected = share_by_refits(value, design, run, column, vectors)
    assert 2 / 32 <= expected < 1
    assert wild_p(design, value[:, None], run, column)[0] == pytest.approx(expected)


def test_drawn_vectors_give_the_share_that_refits_give(monkeypatch):
    monkeypatch.setattr(wild, "MOST_ENUMERATED_RUNS", 4)
    monkeypatch.setattr(wild, "DRAWS", 99)
    design, run, value = toy()
    vectors = weights(5)
    assert vectors.shape == (100, 5)
    expected = share_by_refits(value, design, run, 2, vectors)
    assert wild_p(design, value[:, None], run, 2)[0] == pytest.approx(expected)


def test_vectors_begin_with_the_identity_and_none_is_another_s_negative():
    vectors = weights(6)
    assert (vectors[0] == 1).all()
    assert len({tuple(w) for w in np.vstack([vectors, -vectors])}) == 2**6
    assert smallest_p(8) == 2 / 256
    assert smallest_p(0) == 1
    assert weights(12).shape == (2**11, 12)


def test_beyond_twelve_runs_the_same_vectors_are_drawn_again():
    vectors = weights(13)
    assert vectors.shape == (10_000, 13)
    assert set(np.unique(vectors)) == {-1.0, 1.0}
    assert (vectors[0] == 1).all()
    assert abs(vectors[1:].mean()) < 0.01
    assert (vectors == weights(13)).all()
    # The identity, and two of 2^13 vectors among the draws: 1 + 9,999 / 4,096 is 3.4.
    like_identity = (vectors == vectors[:, :1]).all(axis=1).sum()
    assert smallest_p(13) == like_identity / 10_000
    assert 1 < like_identity < 8
    assert smallest_p(30) == 1 / 10_000


def test_a_column_of_values_does_not_depend_on_its_neighbours():
    design, run, value = toy()
    values = np.column_stack([value, -3 * value, np.random.default_rng(1).normal(size=len(run))])
    together = wild_p(design, values, run, 1)
    alone = [wild_p(design, column[:, None], run, 1)[0] for column in values.T]
    assert list(together) == alone
    assert together[0] == together[1]


@pytest.mark.parametrize("column", [1, 2, 3])
def test_the_interval_s_ends_are_where_the_test_begins_to_reject(column):
    design, run, value = toy(sizes=(1e6, 3e6, 1e7, 3e7, 1e8, 3e8, 1e9))
    low, high = wild_interval(design, value, run, column)
    assert low < sm.OLS(value, design).fit().params[column] < high

    def p(null):
        return wild_p(design, (value - null * design[:, column])[:, None], run, column)[0]

    step = 1e-6 * (high - low)
    assert p(low - step) < 0.05 <= p(low + step)
    assert p(high + step) < 0.05 <= p(high - step)


def test_five_runs_can_reject_nothing_so_the_interval_has_no_ends():
    design, run, value = toy()
    assert smallest_p(5) > 0.05
    assert np.isnan(wild_interval(design, value, run, 1)).all()
