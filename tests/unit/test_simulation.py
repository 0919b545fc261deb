"""The simulated panels have the errors, items and effects that their description promises."""

from __future__ import annotations

import numpy as np
import pytest

from downslope.simulation import (
    DIFFICULTY_SD,
    INTERACTION,
    Grid,
    autoregressive_factor,
    grid_of,
    simulate,
)

SIZES, TOKENS = (1e7, 1e8, 1e9, 1e10), (4e9, 8e9, 1.6e10, 3.2e10, 6.4e10)


def grid(tokens=TOKENS, order=slice(None)):
    rows = [(s, t, f"toy/{s:g}/0") for s in SIZES for t in tokens]
    parameters, training, run = zip(*rows, strict=True)
    return Grid(np.array(parameters)[order], np.array(training)[order], np.array(run)[order])


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.8])
def test_errors_correlate_by_rho_to_the_distance_within_a_run_only(rho):
    shuffled = grid(order=np.random.default_rng(1).permutation(20))
    factor = autoregressive_factor(shuffled, rho)
    correlation = factor @ factor.T
    for i in range(20):
        for j in range(20):
            apart = abs(TOKENS.index(shuffled.tokens[i]) - TOKENS.index(shuffled.tokens[j]))
            expected = rho**apart if shuffled.run[i] == shuffled.run[j] else 0
            assert correlation[i, j] == pytest.approx(expected)


def test_neighbouring_cells_correlate_and_runs_do_not():
    cells = simulate(grid(), 300, 0.8, np.random.default_rng(2)).reshape(20, -1)
    correlation = np.corrcoef(cells)
    # Sampled answers add to the variance of a cell, a tenth at most.
    assert 0.7 < correlation[0, 1] < 0.8
    assert abs(correlation[0, 5]) < 0.06


def test_mean_and_spread_of_cells_are_those_of_the_rasch_model():
    """By quadrature over ability N(0, .5) and difficulty N(0, 1), 300 items a cell."""
    cells = simulate(grid(), 300, 0.0, np.random.default_rng(3))
    nodes, weight = np.polynomial.hermite_e.hermegauss(60)
    weight = weight / weight.sum()
    chance = 1 / (1 + np.exp(DIFFICULTY_SD * nodes[None, :] - 0.5 * nodes[:, None]))
    mean = chance @ weight  # per ability, over difficulties
    of_ability = weight @ (mean - 0.5) ** 2
    of_answers = weight @ (mean * (1 - mean)) / 300
    assert cells.mean() == pytest.approx(0.5, abs=0.003)
    assert cells.std() == pytest.approx(np.sqrt(of_ability + of_answers), rel=0.02)
    assert np.allclose(cells * 300, np.round(cells * 300))


def test_checkpoints_share_the_items_of_an_outcome(monkeypatch):
    """Without errors of ability, what two checkpoints have in common are hard or easy items."""
    monkeypatch.setattr("downslope.simulation.ABILITY_SD", 0.0)
    cells = simulate(grid(), 300, 0.0, np.random.default_rng(4)).reshape(20, -1)
    nodes, weight = np.polynomial.hermite_e.hermegauss(60)
    spread = weight @ (1 / (1 + np.exp(nodes)) - 0.5) ** 2 / weight.sum()
    shared = np.corrcoef(cells)[np.triu_indices(20, 1)].mean()
    assert shared == pytest.approx(spread / 0.25, abs=0.02)


def test_only_the_first_outcomes_have_an_interaction_and_nothing_else():
    full = grid()
    cells = simulate(full, 200, 0.5, np.random.default_rng(5), planted=3)
    slopes = (np.linalg.pinv(full.design) @ cells.reshape(20, -1)).reshape(4, 200, 12).mean(axis=1)
    assert (slopes[3, :3] < 0.15 * INTERACTION).all()  # accuracy moves by .2 per logit at .5
    assert np.abs(slopes[3, 3:]).max() < 0.01
    assert np.abs(slopes[1:3]).max() < 0.01


def test_same_seed_same_panels():
    one, other = (simulate(grid(), 5, 0.5, np.random.default_rng(6)) for _ in range(2))
    assert (one == other).all()


def test_a_study_s_grid_has_its_usable_checkpoints():
    rows = [
        {"family": "toy", "parameters": 10, "seed": s, "tokens": t, "known_bad": bad}
        for s, t, bad in [(1, 100, ""), (1, 200, "wrong weights"), (2, 100, "")]
    ]
    found = grid_of(rows)
    assert list(found.run) == ["toy/10/1", "toy/10/2"]
    assert list(found.tokens) == [100, 100]
