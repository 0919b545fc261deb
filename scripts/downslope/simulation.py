"""Simulated panels whose truth is known, on a study's own grid of runs and checkpoints.

A panel holds `OUTCOMES` outcomes. Each has `ITEMS` items, shared by all checkpoints, with
difficulties drawn from N(0, DIFFICULTY_SD) logits. A checkpoint answers an item rightly with the
probability logistic(ability - difficulty), independently given both (Rasch 1960); the cell is the
share of right answers. Its ability is the sum of

- what is planted: nothing, or in the first `planted` outcomes INTERACTION logits times
  z(log10 parameters) z(log10 tokens), a fall over training that is faster in larger models. Both
  main effects are zero, as slopes at the mean of the other predictor;
- an error from N(0, ABILITY_SD) logits, independent between runs and outcomes, and within a run
  an AR(1) series over its checkpoints in the order of their tokens: two checkpoints that are k
  apart correlate by rho^k, whatever the tokens between them.

Mean ability equals mean difficulty, so that cells scatter about .5. Errors of ability give cells a
standard deviation of .10, the drawn answers one of .03: as in most published tasks, the dispersion
far exceeds the binomial. The planted interaction is as strong as the published table's strongest,
some .5 standard deviations of the value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from downslope.panel import FloatArray, TextArray, design_matrix, runs_of

OUTCOMES = 12
ITEMS = 300
DIFFICULTY_SD = 1.0
ABILITY_SD = 0.5
INTERACTION = -0.3
# Answers that are drawn at once: 64 checkpoints x 300 items are 19,200 for one outcome.
_ANSWERS_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class Grid:
    """A study's checkpoints: parameters, tokens and the name of the run, an entry for each."""

    parameters: FloatArray
    tokens: FloatArray
    run: TextArray

    def __len__(self) -> int:
        return len(self.run)

    @property
    def design(self) -> FloatArray:
        return design_matrix(self.parameters, self.tokens)


def grid_of(checkpoints: Sequence[Mapping[str, Any]]) -> Grid:
    """The grid of a study's checkpoint rows, those marked known_bad left out as in every fit."""
    rows = [row for row in checkpoints if not row["known_bad"]]
    return Grid(
        parameters=np.array([row["parameters"] for row in rows], dtype=np.float64),
        tokens=np.array([row["tokens"] for row in rows], dtype=np.float64),
        run=runs_of(rows),
    )


def simulate(
    grid: Grid,
    panels: int,
    rho: float,
    rng: np.random.Generator,
    *,
    planted: int = 0,
    outcomes: int = OUTCOMES,
) -> FloatArray:
    """Cells (n, panels, outcomes): accuracies of simulated panels, the planted outcomes first."""
    effect = np.zeros((len(grid), 1, outcomes))
    if planted:
        effect[:, 0, :planted] = INTERACTION * grid.design[:, [3]]
    noise = rng.standard_normal((len(grid), panels * outcomes))
    error = ABILITY_SD * (autoregressive_factor(grid, rho) @ noise)
    ability = effect + error.reshape(len(grid), panels, outcomes)
    return _accuracy(ability.reshape(len(grid), -1), rng).reshape(ability.shape)


def autoregressive_factor(grid: Grid, rho: float) -> FloatArray:
    """L (n, n) such that L L' holds the correlations of the errors: rho^k within a run, else 0."""
    place = np.empty(len(grid))
    for run in np.unique(grid.run):
        rows = np.flatnonzero(grid.run == run)
        place[rows[np.argsort(grid.tokens[rows], kind="stable")]] = np.arange(len(rows))
    apart = np.abs(place[:, None] - place[None, :])
    same = grid.run[:, None] == grid.run[None, :]
    return np.linalg.cholesky(np.where(same, np.float64(rho) ** apart, 0.0))


def _accuracy(ability: FloatArray, rng: np.random.Generator) -> FloatArray:
    """The share of right answers (n, m) for abilities (n, m); a column has its own items."""
    n, m = ability.shape
    accuracy = np.empty((n, m))
    at_once = max(1, _ANSWERS_AT_ONCE // (n * ITEMS))
    for start in range(0, m, at_once):
        part = ability[:, start : start + at_once].astype(np.float32)
        difficulty = rng.standard_normal((part.shape[1], ITEMS), dtype=np.float32)
        distance = part[:, :, None] - np.float32(DIFFICULTY_SD) * difficulty
        chance = 1 / (1 + np.exp(-distance))
        right = rng.random(chance.shape, dtype=np.float32) < chance
        accuracy[:, start : start + at_once] = right.mean(axis=2)
    return accuracy
