"""The share of the matrix rate that scoring reaches at a data set's own packs.

A fraction of a set is not what a user scores: its packs are fewer and emptier, and where two are
computed at a time one is easily left over.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

import numpy as np

from downslope.bench.operations import Costs, MatrixRate, needed, seconds_of
from downslope.engine import Scorer
from downslope.packing import Pack

ROUNDS = 2
"""Packs that are timed, for each that is computed at a time."""

_PRODUCTS = 2  # before, and as many after


def drawn(packs: Sequence[Pack], lanes: int) -> list[Pack]:
    """ROUNDS packs a lane or, of a smaller set, as many rounds as it has, evenly spread."""
    count = min(ROUNDS, max(1, len(packs) // lanes)) * lanes
    chosen = np.linspace(0, len(packs) - 1, min(count, len(packs))).round().astype(int)
    return [packs[k] for k in chosen]


def share_of_rate(scorer: Scorer, costs: Costs, rate: MatrixRate, packs: Sequence[Pack]) -> float:
    """Useful operations of a few of these packs, over those of matrix products in that time; timed
    once. A beginning that each of them computes anew counts once, as in the whole set."""
    few = drawn(packs, scorer.lanes)
    requests = [
        pack.request(number) for pack in few for number in range(len(pack.request_start) - 1)
    ]

    def score() -> None:
        for _ in scorer.score_packs(few):
            pass

    if scorer.device.type == "cuda":
        score()  # a GPU loads a kernel when it is first asked for one
    rate.take_torch()
    rates = [rate.take() for _ in range(_PRODUCTS)]
    seconds = seconds_of(score, scorer.device)
    rates += [rate.take() for _ in range(_PRODUCTS)]
    return costs.of(needed(requests)) / seconds / median(rates)
