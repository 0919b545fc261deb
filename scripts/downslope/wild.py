"""The wild cluster restricted bootstrap: the sign of each run's residuals is drawn anew.

Cameron, Gelbach & Miller 2008: bootstrap-t with the null imposed and Rademacher weights. With w
the weights of the runs, everything that a replicate's t needs is linear in w, so that a replicate
costs a product with a (G, G) matrix, not a fit (Roodman et al. 2019, section 5).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np

from downslope.panel import FloatArray, TextArray
from downslope.robust import cr1_factor, membership

# 2^12 = 4,096 vectors at most are all taken; beyond, so many are drawn, always the same ones.
MOST_ENUMERATED_RUNS = 12
DRAWS = 9_999
SEED = 20080801
# |t*| and |t| differ in their last digits where the same numbers are added in another order.
_TIES = 1e-9
LEVEL = 0.05  # of the intervals
# Doublings of the distance from the estimate after which an interval is called unbounded.
_DOUBLINGS = 60
_HALVINGS = 60
_SCORES_AT_ONCE = 4_000_000  # of vectors x runs x outcomes: some 100 MB of work space


def weights(runs: int, draws: int | None = None) -> FloatArray:
    """Rademacher vectors (vectors, runs); the first is the identity, all ones.

    w and -w give the same |t|, so of all 2^runs vectors only those that begin with 1 are listed:
    shares are the same. Beyond 12 runs the identity is followed by `draws` (9,999) drawn ones.
    """
    if runs <= MOST_ENUMERATED_RUNS:
        rest = np.array(list(itertools.product((1.0, -1.0), repeat=runs - 1)))
        return np.hstack([np.ones((len(rest), 1)), rest])
    size = (DRAWS if draws is None else draws, runs)
    drawn = np.random.default_rng(SEED).choice((1.0, -1.0), size=size)
    return np.vstack([np.ones((1, runs)), drawn])


def smallest_p(runs: int) -> float:
    """The least p that any data can give: 2 / 2^runs where all vectors are taken; 1 without runs.

    It is the share of the vectors that change no |t|: the identity, and what was drawn like it.
    """
    if not runs:
        return 1.0
    return float((np.abs(weights(runs).sum(axis=1)) == runs).mean())


def wild_p(
    design: FloatArray,
    values: FloatArray,
    run: TextArray,
    column: int,
    draws: int | None = None,
) -> FloatArray:
    """Two-sided p (m,) that the coefficient of `column` is zero, for values (n, m).

    The share of vectors, the identity among them, whose |t*| is at least |t|; t has CR1 errors.
    `draws` replaces the 9,999 of more than 12 runs.
    """
    signs = weights(len(np.unique(run)), draws)
    at_once = max(1, _SCORES_AT_ONCE // signs.size)
    shares = []
    for start in range(0, values.shape[1], at_once):
        part = values[:, start : start + at_once]
        numerator, scores = _replicates(design, part, run, column, signs)
        shares.append(_as_extreme(numerator, (scores**2).sum(axis=1)).mean(axis=0))
    return np.concatenate(shares)


def wild_interval(
    design: FloatArray, value: FloatArray, run: TextArray, column: int
) -> tuple[float, float]:
    """The 95 % interval of one coefficient for a value (n,): where the test does not reject.

    With b as the null, value - b x column takes the value's place; numerator and scores of every
    vector are linear in b, so they are computed once. Each end is searched from the estimate
    outwards by doubling, then by halving. NaN where the test rejects nowhere on that side, which
    is so whenever the smallest p exceeds 5 % (up to five runs): the interval has no end there.
    """
    both = np.column_stack([value, design[:, column]])
    signs = weights(len(np.unique(run)))
    numerator, scores = _replicates(design, both, run, column, signs)
    start = numerator[0, 0]
    squares = (scores**2).sum(axis=1)
    product = (scores[..., 0] * scores[..., 1]).sum(axis=1)
    unit = np.sqrt(squares[0, 0] * cr1_factor(scores.shape[1], *design.shape))

    def rejects(null: float) -> bool:
        shifted = numerator[:, 0] - null * numerator[:, 1]
        variance = squares[:, 0] - 2 * null * product + null**2 * squares[:, 1]
        return bool(_as_extreme(shifted, variance).mean() < LEVEL)

    return _end(rejects, start, -unit), _end(rejects, start, unit)


def _end(rejects: Callable[[float], bool], start: float, step: float) -> float:
    for _ in range(_DOUBLINGS):
        if rejects(start + step):
            break
        step *= 2
    else:
        return float("nan")
    inside, outside = 0.0, step
    for _ in range(_HALVINGS):
        middle = (inside + outside) / 2
        if rejects(start + middle):
            outside = middle
        else:
            inside = middle
    return float(start + (inside + outside) / 2)


def _as_extreme(numerator: FloatArray, variance: FloatArray) -> np.ndarray:
    """Whether t*^2 >= t^2, t being the first row; without division, as a variance may be zero."""
    return numerator**2 * variance[0] >= numerator[0] ** 2 * variance * (1 - _TIES)


def _replicates(
    design: FloatArray, values: FloatArray, run: TextArray, column: int, signs: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Per vector of `signs`: the coefficient (vectors, m), and the runs' scores (vectors, G, m).

    With a the row of the pseudo-inverse that gives the coefficient and e the residuals without
    the column, a replicate's coefficient is the sum over runs h of w_h (a_h . e_h), because a is
    orthogonal to the fitted part; its scores are a_g . [residuals of the replicate]_g, which is
    the sum over h of w_h (a_g . M_gh e_h), with M = 1 - X X^+.
    """
    member = membership(run)
    restricted = np.delete(design, column, axis=1)
    residual = values - restricted @ (np.linalg.pinv(restricted) @ values)
    inverse = np.linalg.pinv(design)
    row = inverse[column]
    annihilator = np.eye(len(design)) - design @ inverse
    by_run = (member * row) @ annihilator  # (G, n)
    numerator = signs @ ((member * row) @ residual)
    # [h, g, m]: what run h's residuals contribute to the score of run g.
    contribution = np.stack([by_run[:, rows] @ residual[rows] for rows in member.astype(bool)])
    return numerator, np.tensordot(signs, contribution, axes=1)
