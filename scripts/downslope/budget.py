"""Which checkpoints to score when the money does not reach for all: an integer programme.

Chosen is what gives the interaction of size and training the smallest variance, under the error
model of `downslope.precision`. For fixed b the information of a choice, (-b, 1) I (-b, 1), is a
sum over runs of numbers that belong to the set of checkpoints taken from each; the information
that counts is its minimum over b. So the programme picks at most one set per run and maximises a
variable that is bounded by such sums, one for each of a growing list of b: the worst b of every
solution is added until the bound meets the best solution (cutting planes, Kelley 1960).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pulp

from downslope.budget_fill import filled
from downslope.panel import FloatArray
from downslope.precision import (
    BoolArray,
    Candidates,
    ErrorModel,
    Positions,
    profiled,
    with_size,
)
from downslope.run_sets import RunSets, sets_of_run, thinned

# A run with more checkpoints than this has too many sets: it is thinned first, and filled up last.
MOST_IN_RUN = 10
# Bound and best solution may differ by this share of the information.
TOLERANCE = 1e-6
# The fractional programme only prepares cuts: it need not be solved as far as that.
_ROUGHLY = 1e-4
# Limits in steps, not in seconds, so that a choice does not depend on the machine's speed.
_ROUNDS, _NODES = 200, 20_000
# The information of everything, in the solver's units: well above its absolute tolerances.
_SCALE = 1000.0


@dataclass(frozen=True)
class Choice:
    """The chosen checkpoints, as a mask over the candidates.

    `gap` bounds how much more information a better choice could have, as a share of this one's.
    Where runs were thinned, it holds among what was left; from the `set_aside` candidates
    checkpoints were then added while the money lasted.
    """

    chosen: BoolArray
    gap: float
    set_aside: int


def choose(
    candidates: Candidates,
    costs: FloatArray,
    *,
    sizes: int,
    least: int,
    model: ErrorModel,
    most: int = MOST_IN_RUN,
) -> Choice | None:
    """The affordable choice with the smallest variance of the interaction; None if there is none.

    `costs` (n, resources) are shares of the budget: every resource of a choice sums to at most 1.
    Runs of at least `sizes` distinct sizes are used, and a run with at least `least` checkpoints
    or not at all. Up to `TOLERANCE` no choice is better where no run has more than `most`
    candidates.
    """
    if sizes < 2 or least < 2:
        raise ValueError("an interaction needs two sizes and two checkpoints of a run")
    pools = _pools(candidates, costs, least, model, max(most, least))
    if not pools:
        return None
    programme = _Programme(pools, sizes)
    fractional = _solved(programme, whole=False, tolerance=_ROUGHLY)
    best = fractional and _solved(programme, whole=True, tolerance=TOLERANCE)
    if not (fractional and best):
        return None
    chosen: BoolArray = np.zeros(len(candidates), dtype=np.bool_)
    for pool, counts in zip(pools, best.counts, strict=True):
        taken = np.repeat(np.arange(len(pool.sets)), counts.astype(int))
        for rows, index in zip(pool.runs, taken, strict=False):
            chosen[rows[pool.sets.members[index]]] = True
    offered = sum(len(rows) for rows in candidates.by_run() if len(rows) >= least)
    set_aside = offered - sum(len(rows) for pool in pools for rows in pool.runs)
    if set_aside:
        chosen = filled(candidates, costs, chosen, model)
    upper = min(fractional.bound, best.bound)
    return Choice(chosen, max(upper / best.value - 1, 0.0), set_aside)


def _solved(programme: _Programme, *, whole: bool, tolerance: float) -> _Solution | None:
    """Solve and cut until the bound is within `tolerance` of the best solution; None if none."""
    best: _Solution | None = None
    for _ in range(_ROUNDS):
        solved = programme.solve(whole=whole)
        if solved is None:
            return None
        bound = min(best.bound, solved.bound) if best else solved.bound
        better = solved if best is None or solved.value > best.value else best
        best = replace(better, bound=bound)
        if bound - best.value <= tolerance * best.value or not solved.proven:
            break
    return best


def cheapest(candidates: Candidates, costs: FloatArray, sizes: int, least: int) -> FloatArray:
    """The least that `sizes` sizes with `least` checkpoints of one run cost (resources,).

    For each resource by itself; infinite where there are not so many sizes with such a run.
    """
    of_size: dict[float, FloatArray] = {}
    for rows in candidates.by_run():
        if len(rows) >= least:
            cost = np.sort(costs[rows], axis=0)[:least].sum(axis=0)
            size = float(candidates.size[rows[0]])
            of_size[size] = np.minimum(of_size.get(size, np.inf), cost)
    if len(of_size) < sizes:
        return np.full(costs.shape[1], np.inf)
    return np.sort(np.array(list(of_size.values())), axis=0)[:sizes].sum(axis=0)


@dataclass(frozen=True)
class _Pool:
    """Runs that are alike in size, tokens and costs, so that it only counts how many take a set.

    `runs` holds the positions of the candidates that the sets' members stand for.
    """

    size: float
    runs: list[Positions]
    sets: RunSets


def _pools(
    candidates: Candidates, costs: FloatArray, least: int, model: ErrorModel, most: int
) -> list[_Pool]:
    alike: dict[tuple[float, bytes, bytes], list[Positions]] = {}
    for rows in candidates.by_run():
        if len(rows) >= least:
            kept = rows[thinned(candidates.tokens[rows], most)]
            tokens, prices = candidates.tokens[kept], costs[kept]
            key = float(candidates.size[kept[0]]), tokens.tobytes(), prices.tobytes()
            alike.setdefault(key, []).append(kept)
    pools = []
    for (size, _, _), runs in alike.items():
        sets = sets_of_run(candidates.tokens[runs[0]], costs[runs[0]], least, model)
        pools.append(_Pool(size, runs, sets))
    return pools


@dataclass(frozen=True)
class _Solution:
    """How many runs of each pool take each set, the information in that, the proven bound on the
    information in any solution, and whether the solver came to its end."""

    counts: list[FloatArray]
    value: float
    bound: float
    proven: bool


class _Programme:
    """The programme with the cuts found so far."""

    def __init__(self, pools: Sequence[_Pool], sizes: int) -> None:
        self.pools = pools
        self.problem = pulp.LpProblem("choice", pulp.LpMaximize)
        self.information = pulp.LpVariable("information", 0)
        self.problem += self.information
        self.counts = [
            [
                pulp.LpVariable(f"pool{number}_set{index}", 0, len(pool.runs), "Integer")
                for index in range(len(pool.sets))
            ]
            for number, pool in enumerate(pools)
        ]
        for pool, counts in zip(pools, self.counts, strict=True):
            self.problem += pulp.lpSum(counts) <= len(pool.runs)
        for resource in range(pools[0].sets.costs.shape[1]):
            self.problem += self._sum([pool.sets.costs[:, resource] for pool in pools]) <= 1
        used = []
        for number, size in enumerate(dict.fromkeys(pool.size for pool in pools)):
            used.append(pulp.LpVariable(f"size{number}", 0, 1))
            pairs = zip(pools, self.counts, strict=True)
            self.problem += used[-1] <= pulp.lpSum(c for p, c in pairs if p.size == size)
        self.problem += pulp.lpSum(used) >= sizes
        # The last set of a pool is its dearest; their information sets the scale of the numbers.
        dearest = [np.eye(len(pool.sets))[-1] * len(pool.runs) for pool in pools]
        self.unit = self._information(dearest)[0] / _SCALE
        self.add_cut(dearest)

    def add_cut(self, counts: Sequence[FloatArray]) -> float:
        """Bound the information by its linear form at the worst b of `counts`; its value there."""
        value, (b0, b1, b2) = self._information(counts)
        forms = []
        for pool in self.pools:
            left = np.array([-b0 - b1 * pool.size, pool.size - b2])  # intercept and slope
            forms.append(pool.sets.information @ left @ left / self.unit)
        self.problem += self.information <= self._sum(forms)
        return value / self.unit

    def solve(self, *, whole: bool) -> _Solution | None:
        """The best counts under the cuts, whole or fractional; None where there are none.

        The cut at their worst b is added.
        """
        solver = pulp.PULP_CBC_CMD(
            mip=whole, msg=False, threads=1, gapRel=TOLERANCE / 2, maxNodes=_NODES
        )
        self.problem.solve(solver)
        if self.problem.status == pulp.LpStatusInfeasible:
            return None
        if self.problem.status != pulp.LpStatusOptimal:
            raise RuntimeError(f"the solver stopped: {pulp.LpStatus[self.problem.status]}")
        proven = not whole or self.problem.sol_status == pulp.LpSolutionOptimal
        bound = self.information.value() * (1 + TOLERANCE / 2) if proven else np.inf
        counts = [np.array([count.value() for count in taken]) for taken in self.counts]
        if whole:
            counts = [np.round(taken) for taken in counts]
        return _Solution(counts, self.add_cut(counts), bound, proven)

    def _information(self, counts: Sequence[FloatArray]) -> tuple[float, FloatArray]:
        """The information on the interaction in `counts`, and its worst b."""
        total = np.zeros((4, 4))
        for pool, taken in zip(self.pools, counts, strict=True):
            total += with_size(np.tensordot(taken, pool.sets.information, axes=1), pool.size)
        return profiled(total)

    def _sum(self, factors: Sequence[FloatArray]) -> pulp.LpAffineExpression:
        return pulp.lpSum(
            pulp.LpAffineExpression(zip(counts, map(float, row), strict=True))
            for counts, row in zip(self.counts, factors, strict=True)
        )
