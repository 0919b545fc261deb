"""The sets of checkpoints of one run that are worth considering, and what each tells and costs."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from downslope.panel import FloatArray
from downslope.precision import BoolArray, ErrorModel, Positions

# Costs are compared as shares of the budget, to this many decimals.
_DECIMALS = 12
_ROUNDING = 1e-10


@dataclass(frozen=True)
class RunSets:
    """Sets of one run's checkpoints, a row each.

    members      (sets, checkpoints) which checkpoints a set holds
    information  (sets, 2, 2) what it tells about the run's intercept and slope
    costs        (sets, resources) what it costs
    """

    members: BoolArray
    information: FloatArray
    costs: FloatArray

    def __len__(self) -> int:
        return len(self.members)


def sets_of_run(tokens: FloatArray, costs: FloatArray, least: int, model: ErrorModel) -> RunSets:
    """All sets of at least `least` checkpoints, less those that another set makes needless.

    `tokens` (n,) are centred log10 tokens, `costs` (n, resources) shares of the budget. A set is
    needless where another costs no more of anything and tells at least as much about every
    combination of intercept and slope (the difference of the informations has no negative
    eigenvalue): no best choice needs it. Of equal sets the first stays.
    """
    members, information = _all_sets(tokens, least, model)
    sums = np.round(members @ costs, _DECIMALS)
    # A set comes after those that can make it needless: they cost no more and tell no less.
    trace = information[:, 0, 0] + information[:, 1, 1]
    order = np.lexsort((-trace, sums.sum(axis=1)))
    kept: list[int] = []
    for position in order:
        rivals = np.array(kept, dtype=np.intp)
        cheaper = rivals[(sums[rivals] <= sums[position]).all(axis=1)]
        more = information[cheaper] - information[position]
        if not (_least_eigenvalue(more) >= -_ROUNDING * trace[position]).any():
            kept.append(int(position))
    return RunSets(members[kept], information[kept], sums[kept])


def _all_sets(tokens: FloatArray, least: int, model: ErrorModel) -> tuple[BoolArray, FloatArray]:
    """Members and information of every set, one batch of linear algebra per number of members."""
    covariance = model.covariance(tokens)
    line = np.column_stack([np.ones(len(tokens)), tokens])
    members = [np.zeros((0, len(tokens)), dtype=np.bool_)]
    information = [np.zeros((0, 2, 2))]
    for count in range(least, len(tokens) + 1):
        rows = np.array(list(combinations(range(len(tokens)), count)))
        chosen = np.zeros((len(rows), len(tokens)), dtype=np.bool_)
        np.put_along_axis(chosen, rows, True, axis=1)
        blocks = covariance[rows[:, :, None], rows[:, None, :]]
        lines = line[rows]
        members.append(chosen)
        information.append(lines.transpose(0, 2, 1) @ np.linalg.solve(blocks, lines))
    return np.concatenate(members), np.concatenate(information)


def _least_eigenvalue(matrices: FloatArray) -> FloatArray:
    """The smaller eigenvalue of symmetric matrices (n, 2, 2)."""
    first, second = matrices[:, 0, 0], matrices[:, 1, 1]
    return (first + second) / 2 - np.hypot((first - second) / 2, matrices[:, 0, 1])


def thinned(tokens: FloatArray, most: int) -> Positions:
    """Positions of at most `most` of `tokens` (n,), spread evenly, the first and last included."""
    if len(tokens) <= most:
        return np.arange(len(tokens))
    wanted = np.linspace(tokens.min(), tokens.max(), most)
    return np.unique(np.abs(tokens[:, None] - wanted).argmin(axis=0))
