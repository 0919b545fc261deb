"""Spend what is left of a budget on further checkpoints of the runs that are in the choice."""

from __future__ import annotations

import numpy as np

from downslope.panel import FloatArray
from downslope.precision import (
    BoolArray,
    Candidates,
    ErrorModel,
    Positions,
    run_information,
    with_size,
)

_ROUNDING = 1e-9


def filled(
    candidates: Candidates, costs: FloatArray, chosen: BoolArray, model: ErrorModel
) -> BoolArray:
    """`chosen` (n,) and, one by one, the checkpoint that lowers the variance most for its cost.

    `costs` (n, resources) are shares of the budget; the cost of a checkpoint is the largest of
    its shares. Only runs of the choice are filled. No best choice is promised, only one that is
    no worse than `chosen`, which must be one that the interaction can be estimated from.
    """
    chosen = chosen.copy()
    run_of = np.full(len(candidates), -1)
    runs = [rows for rows in candidates.by_run() if chosen[rows].any()]
    news, total = np.zeros((len(candidates), 4)), np.zeros((4, 4))
    for number, rows in enumerate(runs):
        run_of[rows] = number
        news[rows] = _news(candidates, rows, chosen, model)
        information = run_information(candidates.tokens[rows[chosen[rows]]], model)
        total += with_size(information, float(candidates.size[rows[0]]))
    while True:
        affordable = (costs[chosen].sum(axis=0) + costs <= 1 + _ROUNDING).all(axis=1)
        possible = np.flatnonzero((run_of >= 0) & ~chosen & affordable)
        if not len(possible):
            return chosen
        # Sherman & Morrison: what one more independent cell takes off the interaction's variance.
        added = news[possible]
        moved = added @ np.linalg.inv(total)
        drop = moved[:, 3] ** 2 / (1 + np.einsum("ni,ni->n", moved, added))
        price = np.maximum(costs[possible].max(axis=1), _ROUNDING)
        best = possible[np.argmax(drop / price)]
        chosen[best] = True
        total += np.outer(news[best], news[best])
        rows = runs[run_of[best]]
        news[rows] = _news(candidates, rows, chosen, model)


def _news(
    candidates: Candidates, rows: Positions, chosen: BoolArray, model: ErrorModel
) -> FloatArray:
    """What each checkpoint of a run adds to the chosen ones: an independent cell (n, 4).

    Its row of (1, x, t, x t) less what the chosen ones predict of it, over the standard deviation
    of what they do not; 0 for the chosen ones themselves.
    """
    tokens, inside = candidates.tokens[rows], chosen[rows]
    covariance, line = model.covariance(tokens), np.column_stack([np.ones(len(rows)), tokens])
    weights = np.linalg.solve(covariance[np.ix_(inside, inside)], covariance[inside])
    variance = covariance.diagonal() - np.einsum("ij,ij->j", covariance[inside], weights)
    rest = (line - weights.T @ line[inside]) / np.sqrt(np.where(inside, np.inf, variance))[:, None]
    size = float(candidates.size[rows[0]])
    return np.column_stack([rest[:, 0], size * rest[:, 0], rest[:, 1], size * rest[:, 1]])
