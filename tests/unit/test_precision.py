"""Variance of the interaction against explicit covariances, least squares and published cells."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import statsmodels.api as sm
from statsmodels.stats.power import TTestPower

from downslope.precision import Candidates, ErrorModel, detectable, interaction_variance
from downslope.published import import_published
from downslope.tables import read_table
from tiny_study import ROOT

MODEL = ErrorModel()
# Nothing but independent errors: ordinary least squares.
INDEPENDENT = ErrorModel(correlated=0, run_intercept=0, run_slope=0)


def grid(sizes, tokens, seeds=(0,)):
    """Rows of a full grid."""
    return [
        {"family": "toy", "parameters": size, "seed": seed, "tokens": count}
        for size in sizes
        for seed in seeds
        for count in tokens
    ]


def gls_variance(rows, chosen, model):
    """Variance of the last coefficient from the covariance written down cell by cell."""
    size = np.log10([row["parameters"] for row in rows])
    tokens = np.log10([row["tokens"] for row in rows])
    x, t = (size - size.mean())[chosen], (tokens - tokens.mean())[chosen]
    run = [(row["parameters"], row["seed"]) for row, used in zip(rows, chosen, strict=True) if used]
    covariance = np.zeros((len(x), len(x)))
    for i in range(len(x)):
        for j in range(len(x)):
            if run[i] == run[j]:
                decay = np.exp(-abs(t[i] - t[j]) / model.correlation_length)
                covariance[i, j] = model.run_intercept + model.run_slope * t[i] * t[j]
                covariance[i, j] += model.correlated * decay + (1 - model.correlated) * (i == j)
    design = np.column_stack([np.ones(len(x)), x, t, x * t])
    return np.linalg.inv(design.T @ np.linalg.inv(covariance) @ design)[3, 3]


@pytest.mark.parametrize(
    "model",
    [
        MODEL,
        INDEPENDENT,
        ErrorModel(correlated=0, run_intercept=0.15, run_slope=0.54),
        ErrorModel(correlated=0.99, correlation_length=2, run_intercept=5, run_slope=0),
    ],
)
def test_variance_is_that_of_generalised_least_squares(model):
    rng = np.random.default_rng(1)
    rows = grid([7e7, 4e8, 1e9, 1.2e10], [4e9, 3e10, 1e11, 1.3e11, 3e11], seeds=(0, 1))
    candidates = Candidates.from_rows(rows)
    for share in (0.3, 0.6, 1.0):
        chosen = rng.random(len(rows)) < share
        expected = gls_variance(rows, chosen, model)
        assert interaction_variance(candidates, chosen, model) == pytest.approx(expected, rel=1e-9)


def test_independent_errors_give_ordinary_least_squares():
    rows = grid([1e6, 1e7, 1e9], [1e9, 1e10, 3e10])
    size, tokens = np.log10([[row["parameters"], row["tokens"]] for row in rows]).T
    # The interaction does not depend on where the columns have their zero.
    fit = sm.OLS(np.arange(9.0), np.column_stack([np.ones(9), size, tokens, size * tokens])).fit()
    variance = interaction_variance(Candidates.from_rows(rows), np.ones(9, bool), INDEPENDENT)
    assert variance == pytest.approx(fit.normalized_cov_params[3, 3])


def test_by_hand():
    """x, t in {-1, 0, 1}: the squares of x t sum to 4, and x t is orthogonal to the rest."""
    rows = grid([1e6, 1e7, 1e8], [1e9, 1e10, 1e11])
    candidates, everything = Candidates.from_rows(rows), np.ones(9, bool)
    assert interaction_variance(candidates, everything, INDEPENDENT) == pytest.approx(1 / 4)
    # Slopes of three runs, each with the variance 1 / 2 + 3, on sizes -1, 0, 1.
    slopes = replace(INDEPENDENT, run_slope=3)
    assert interaction_variance(candidates, everything, slopes) == pytest.approx(3.5 / 2)


def test_a_further_checkpoint_never_harms():
    rows = grid([7e7, 4e8, 1e9], [4e9, 3e10, 1e11, 3e11])
    candidates, rng = Candidates.from_rows(rows), np.random.default_rng(2)
    chosen = np.zeros(12, bool)
    chosen[[0, 3, 8, 11]] = True
    before = interaction_variance(candidates, chosen, MODEL)
    for further in rng.permutation(np.flatnonzero(~chosen)):
        chosen[further] = True
        after = interaction_variance(candidates, chosen, MODEL)
        assert after <= before * (1 + 1e-12)
        before = after


def test_units_of_size_and_tokens_do_not_matter():
    plain = grid([7e7, 4e8, 1e9], [4e9, 3e10, 1e11])
    other = grid([7e1, 4e2, 1e3], [4e3, 3e4, 1e5])
    chosen = np.array([1, 0, 1, 1, 1, 1, 0, 1, 1], bool)
    first, second = (
        interaction_variance(Candidates.from_rows(rows), chosen, MODEL) for rows in (plain, other)
    )
    assert first == pytest.approx(second)


@pytest.mark.parametrize(
    ("sizes", "tokens"), [([1e6], [1e9, 1e10]), ([1e6, 1e8], [1e9]), ([1e6], [1e9])]
)
def test_one_size_or_one_step_tells_nothing(sizes, tokens):
    rows = grid(sizes, tokens)
    chosen = np.ones(len(rows), bool)
    assert interaction_variance(Candidates.from_rows(rows), chosen, MODEL) == np.inf
    assert interaction_variance(Candidates.from_rows(rows), ~chosen, MODEL) == np.inf


@pytest.mark.parametrize("runs", [4, 5, 8, 32])
def test_detectable_against_statsmodels(runs):
    """Its one-sample t-test with n - 1 degrees of freedom has sqrt(n) d as noncentrality."""
    n = runs - 1
    d = TTestPower().solve_power(nobs=n, alpha=0.05, power=0.8, alternative="two-sided")
    assert detectable(1.0, runs) == pytest.approx(d * np.sqrt(n), rel=1e-5)


def test_detectable_of_many_and_of_too_few_runs():
    assert detectable(2.0, 100_000) == pytest.approx(2 * (1.959964 + 0.841621), rel=1e-4)
    assert detectable(1.0, 3) > detectable(1.0, 4)
    assert np.isnan(detectable(1.0, 2))
    assert np.isnan(detectable(np.inf, 8))


def reml(values, rows, model):
    """Restricted log-likelihood of outcomes (k, n) that share `model`, up to a constant, and the
    residual standard deviation of each."""
    candidates = Candidates.from_rows(rows)
    covariance = np.zeros((len(rows), len(rows)))
    for run in candidates.by_run():
        covariance[np.ix_(run, run)] = model.covariance(candidates.tokens[run])
    design = sm.add_constant(
        np.column_stack([candidates.size, candidates.tokens, candidates.size * candidates.tokens])
    )
    inverse = np.linalg.inv(covariance)
    information = design.T @ inverse @ design
    rest = inverse - inverse @ design @ np.linalg.solve(information, design.T @ inverse)
    df = len(rows) - 4
    variance = np.einsum("ki,ij,kj->k", values, rest, values) / df
    both = np.linalg.slogdet(covariance)[1] + np.linalg.slogdet(information)[1]
    return -0.5 * (df * np.log(variance).sum() + len(values) * both), np.sqrt(variance)


def test_defaults_are_what_the_published_cells_say(mirror: Path):
    rows = read_table(ROOT / "config/published/checkpoints.tsv", "checkpoints")
    cells = import_published(mirror / "published" / "pythia_accuracies.tsv", rows)
    values = (
        cells.set_index(["task", "metric", "ckpt"])["value"]
        .unstack()[[row["ckpt"] for row in rows]]
        .to_numpy()
    )
    likelihood, residuals = reml(values, rows, MODEL)
    assert len(residuals) == 12
    assert np.median(residuals) == pytest.approx(MODEL.residual_sd, rel=0.01)
    # Estimates of the correlation: moving away costs. The caution about runs costs 0.6 at most.
    for change in (
        *({"correlated": share} for share in (0.8, 0.93)),
        *({"correlation_length": length} for length in (0.28, 0.43)),
    ):
        assert reml(values, rows, replace(MODEL, **change))[0] < likelihood - 0.2, change
    alike = replace(MODEL, run_intercept=0, run_slope=0, correlation_length=0.39)
    assert 0 < reml(values, rows, alike)[0] - likelihood < 0.7
    uncorrelated = ErrorModel(correlated=0, run_intercept=0.33, run_slope=0.51)
    assert likelihood - reml(values, rows, uncorrelated)[0] == pytest.approx(40, abs=1)
