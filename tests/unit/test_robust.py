"""Batched errors against statsmodels, refits without each run, and a calculation by hand."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm

from downslope.panel import design_matrix
from downslope.robust import cr1, cr3, indispensable_run, runs_without_slope, two_stage

SIZES, TOKENS = (7e7, 4.1e8, 1.4e9, 6.9e9, 1.2e10), (4e9, 8e9, 3e10, 3e11)


def grid(dropped=(), seeds=1):
    """parameters, tokens and run of a full grid without the rows `dropped`."""
    rows = [
        (size, tokens, f"toy/{size:g}/{seed}")
        for size in SIZES
        for seed in range(seeds)
        for tokens in TOKENS
    ]
    kept = [row for number, row in enumerate(rows) if number not in dropped]
    parameters, tokens, run = zip(*kept, strict=True)
    return np.array(parameters), np.array(tokens), np.array(run)


DESIGNS = {
    "balanced": grid(),
    "cells missing": grid(dropped=(0, 5, 6, 7, 13)),  # the second run keeps one checkpoint
    "two seeds a size": grid(seeds=2),
    "a run per cell": (*grid()[:2], np.array([f"toy/{i}" for i in range(20)])),
}
every_design = pytest.mark.parametrize(
    ("parameters", "tokens", "run"), DESIGNS.values(), ids=DESIGNS
)


@every_design
def test_cr1_is_that_of_statsmodels(parameters, tokens, run):
    design = design_matrix(parameters, tokens)
    values = np.random.default_rng(3).normal(size=(len(run), 4)).cumsum(axis=0)
    groups = np.unique(run, return_inverse=True)[1]
    fits = cr1(design, values, run)
    for column, value in enumerate(values.T):
        fit = sm.OLS(value, design).fit(cov_type="cluster", cov_kwds={"groups": groups}, use_t=True)
        assert fits.estimate[:, column] == pytest.approx(fit.params, rel=1e-9)
        assert fits.se[:, column] == pytest.approx(fit.bse, rel=1e-9)


@every_design
def test_cr3_is_the_jackknife_of_refits(parameters, tokens, run):
    design = design_matrix(parameters, tokens)
    values = np.random.default_rng(4).normal(size=(len(run), 3)).cumsum(axis=0)
    fits = cr3(design, values, run)
    names = np.unique(run)
    for column, value in enumerate(values.T):
        whole = sm.OLS(value, design).fit().params
        without = [sm.OLS(value[run != g], design[run != g]).fit().params for g in names]
        covariance = sum(np.outer(b - whole, b - whole) for b in without)
        covariance *= (len(names) - 1) / len(names)
        assert fits.estimate[:, column] == pytest.approx(whole, rel=1e-9)
        assert fits.se[:, column] == pytest.approx(np.sqrt(np.diag(covariance)), rel=1e-9)


def test_two_stage_by_hand():
    """Three runs at sizes 1, 2, 3: levels 0, 2, 1 and slopes 1, 3, 2 over tokens -1, 0, 1.

    Level on centred size: slope (1 - 0) / 2, residuals -1/2, 1, -1/2, so 3/2 with one degree of
    freedom; errors sqrt(3/2 / 2) for a slope and sqrt(3/2 / 3) for an intercept. The slopes are
    the levels plus 1. A pattern (1, -2, 1) within a run changes neither level nor slope.
    """
    size, tokens = np.repeat([1.0, 2.0, 3.0], 3), np.tile([-1.0, 0.0, 1.0], 3)
    level, slope = np.repeat([0.0, 2.0, 1.0], 3), np.repeat([1.0, 3.0, 2.0], 3)
    values = level + slope * tokens + 7 * np.tile([1.0, -2.0, 1.0], 3)
    fits = two_stage(size, tokens, values[:, None], np.repeat(["a", "b", "c"], 3))
    assert fits.estimate[:, 0] == pytest.approx([0.5, 2.0, 0.5])
    assert fits.se[:, 0] == pytest.approx(np.sqrt([0.75, 0.5, 0.75]))


def test_two_stage_reads_the_level_where_tokens_are_zero():
    """Lines y = size + size * tokens, seen at other tokens in every run: no error remains."""
    size = np.repeat([-1.0, 1.0, 3.0], 2)
    tokens = np.array([-1.0, 2.0, 3.0, 4.0, -5.0, 0.5])
    fits = two_stage(size, tokens, (size + size * tokens)[:, None], np.repeat(["a", "b", "c"], 2))
    # The mean size is 1, where the slope over training is 1.
    assert fits.estimate[:, 0] == pytest.approx([1, 1, 1])
    assert fits.se[:, 0] == pytest.approx([0, 0, 0], abs=1e-12)


@every_design
def test_a_column_does_not_depend_on_its_neighbours(parameters, tokens, run):
    design = design_matrix(parameters, tokens)
    values = np.random.default_rng(5).normal(size=(len(run), 3))
    for fit in (cr1, cr3):
        together, alone = fit(design, values, run), fit(design, values[:, [1]], run)
        assert together.se[:, 1] == pytest.approx(alone.se[:, 0], rel=1e-12)


def test_order_of_rows_does_not_matter():
    parameters, tokens, run = grid(dropped=(2, 11))
    order = np.random.default_rng(6).permutation(len(run))
    design = design_matrix(parameters, tokens)
    values = np.random.default_rng(7).normal(size=(len(run), 2))
    for fit in (cr1, cr3):
        assert fit(design[order], values[order], run[order]).se == pytest.approx(
            fit(design, values, run).se, rel=1e-9
        )
    _, size, training, _ = design.T
    plain = two_stage(size, training, values, run)
    shuffled = two_stage(size[order], training[order], values[order], run[order])
    assert shuffled.se == pytest.approx(plain.se, rel=1e-9)


def test_a_run_is_indispensable_where_it_alone_has_a_second_size():
    parameters = np.array([1e6, 1e6, 1e6, 1e6, 1e9, 1e9])
    tokens = np.array([1e9, 1e10] * 3)
    run = np.repeat(["a", "b", "only"], 2)
    assert indispensable_run(design_matrix(parameters, tokens), run) == "only"
    assert indispensable_run(design_matrix(*grid()[:2]), grid()[2]) == ""


def test_runs_without_slope_are_those_with_one_token_count():
    tokens = np.array([1e9, 1e10, 1e9, 1e10, 1e10])
    assert runs_without_slope(tokens, np.array(["b", "b", "a", "c", "c"])) == ["a", "c"]


def test_a_run_whose_tokens_hardly_vary_is_measured_by_those_that_do():
    """Spreads 2, 2 and 0.02; three runs of one checkpoint have no say in what is usual."""
    tokens = np.array([0.0, 1, 2, 0, 1, 2, 1.9, 2, 2.1, 0, 1, 2])
    run = np.array([*"aaabbbccc", "x", "y", "z"])
    assert runs_without_slope(tokens, run) == ["c", "x", "y", "z"]
    # A tenth of the usual is enough: spreads 2, 2 and 0.2.
    tokens[6:9] = np.array([-1, 0, 1]) * np.sqrt(0.1001)
    assert runs_without_slope(tokens, run) == ["x", "y", "z"]
