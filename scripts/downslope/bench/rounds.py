"""Both systems on the same items in turn, within a budget of seconds.

    product  Downslope  product  harness  product  Downslope  ...  product

What else the machine does at a time then falls on both sides and on its matrix rate alike; each
number is the median of its repetitions (the share alone is measured once, see `own_packs`). Before
that the harness tries its batches on a sample, and from what the sample took follows which fraction
of the set fits into the budget.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from downslope.bench.harness import (
    Allowance,
    Harness,
    Tried,
    best_of,
    free_memory,
    try_batches,
)
from downslope.bench.operations import Costs, MatrixRate, wait_for
from downslope.bench.own_packs import share_of_rate
from downslope.bench.sets import (
    PROTOCOL,
    BenchSet,
    Layout,
    Work,
    agreement,
    decided_among,
    harness_requests,
    plan_scores,
)
from downslope.bench.table import Row
from downslope.engine import Scorer
from downslope.logs import duration
from downslope.packing import Pack, computed_tokens
from downslope.plan import Plan
from downslope.protocols import PROTOCOLS, ScoringProtocol

TIES = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}
"""Scores that lie closer than this are equal but for rounding, by dtype."""

MOST_ROUNDS = 3
LEAST_ITEMS = 8
"""Items that are timed however little time there is."""

_TRYING = 0.35  # of a set's budget, at most, goes into trying batches
_LOOK = 700  # tokens of a first look at how long Downslope takes
_BOTH = 1.15  # what both protocols are guessed to take instead of one


@dataclass
class Model:
    """A model on both sides: Downslope's scorer, the harness (or None), and what it costs."""

    name: str
    dtype: str
    scorer: Scorer
    harness: Harness | None
    costs: Costs
    rate: MatrixRate


class Run(NamedTuple):
    """Downslope on a set once."""

    plan: Plan
    planning: float
    scoring: float
    loglikelihood: NDArray[np.float32]

    @property
    def seconds(self) -> float:
        return self.planning + self.scoring


@dataclass
class Rounds:
    """Repetitions: of Downslope under one protocol and under both, of the harness's seconds, of
    the matrix rate; and the harness's last answers."""

    one: list[Run] = field(default_factory=list)
    both: list[Run] = field(default_factory=list)
    harness: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    answers: Sequence[float] = ()


def measure(
    model: Model,
    bench: BenchSet,
    whole: Work,
    packs: Sequence[Pack],
    layout: Layout,
    *,
    seconds: float,
    both: bool,
) -> tuple[Row, list[Tried]]:
    """One row of the table within about `seconds`, and how the harness's batches did.

    `whole` is the work of the full set, `packs` are its plan's; `both`: time Downslope under both
    protocols too.
    """
    begun = time.monotonic()
    tried: list[Tried] = []
    if model.harness is not None:
        allowed = Allowance(seconds * _TRYING, free_memory(model.scorer.device))
        tried = try_batches(model.harness, bench, whole, layout, allowed, model.name)
    own = _first_look(model, bench, whole, layout)
    share = share_of_rate(model.scorer, model.costs, model.rate, packs)
    runs = (2 if tried else 1) * (1 + _BOTH * both)
    harness = whole.read * (best_of(tried).seconds or 0.0) if tried else 0.0
    left = seconds - (time.monotonic() - begun)
    every, rounds = fraction(runs * own + harness, (runs + 2) * model.rate.seconds, left)
    part = bench.thinned(min(every, max(1, len(bench.items) // LEAST_ITEMS)))
    logging.getLogger("downslope").info(
        "%s, %s: timing %d of %d items, in turn %d times, about %s", model.name, bench.name,
        len(part.items), len(bench.items), rounds,
        duration(rounds * (runs * own + harness) / part.every),
    )  # fmt: skip
    done = in_turn(model, part, layout, tried, rounds=rounds, both=both)
    return _row(model, part, whole, layout, done, share, tried), tried


def _first_look(model: Model, bench: BenchSet, whole: Work, layout: Layout) -> float:
    """About how long Downslope takes for the whole set, from a few of its items."""
    count = max(1, round(_LOOK * whole.items / whole.computed))
    few = bench.thinned(max(1, whole.items // count))
    _run(model, few, layout)  # a first run is a slow one
    run = _run(model, few, layout)
    return run.seconds * whole.computed / computed_tokens(run.plan.packs)


def fraction(round_seconds: float, fixed: float, left: float) -> tuple[int, int]:
    """(every, rounds): every so many items fit once into `left` seconds, or all of them several
    times. A round of all items takes `round_seconds`, and any round `fixed` ones more."""
    every = max(1, math.ceil(round_seconds / max(left - fixed, 1e-3 * round_seconds)))
    if every > 1:
        return every, 1
    return 1, max(1, min(MOST_ROUNDS, int(left / (round_seconds + fixed))))


def in_turn(
    model: Model,
    part: BenchSet,
    layout: Layout,
    tried: Sequence[Tried],
    *,
    rounds: int,
    both: bool,
) -> Rounds:
    """Repeat both systems on the same items, a matrix product before and after each."""
    asked = harness_requests(part.items, PROTOCOLS[PROTOCOL])
    done = Rounds()
    if model.scorer.device.type == "cuda":
        # A GPU loads a kernel when it is first asked for one, so all packs are shown to it.
        _run(model, part, layout)

    def downslope() -> None:
        done.rates.append(model.rate.take())
        done.one.append(_run(model, part, layout))
        if both:
            done.rates.append(model.rate.take())
            done.both.append(_run(model, part, layout, part.protocols))

    for _ in range(rounds):
        downslope()
        if model.harness is not None:
            done.rates.append(model.rate.take())
            done.answers, seconds = model.harness.loglikelihoods(asked, best_of(tried).batch)
            done.harness.append(seconds)
            downslope()
    done.rates.append(model.rate.take())
    return done


def _run(
    model: Model, part: BenchSet, layout: Layout, protocols: Sequence[ScoringProtocol] = ()
) -> Run:
    wait_for(model.scorer.device)
    begun = time.perf_counter()
    plan = layout.plan(part, protocols)
    planned = time.perf_counter()
    scores = [loglikelihood for loglikelihood, _ in model.scorer.score_packs(plan.packs)]
    scored = time.perf_counter()
    return Run(plan, planned - begun, scored - planned, np.concatenate(scores))


def _row(
    model: Model,
    part: BenchSet,
    whole: Work,
    layout: Layout,
    done: Rounds,
    share: float,
    tried: Sequence[Tried],
) -> Row:
    last = done.one[-1]
    work = layout.work(part, last.plan)
    row = Row(
        model=model.name,
        set=part.name,
        every=part.every,
        part=work,
        whole=whole,
        plan_seconds=median(run.planning for run in done.one),
        score_seconds=median(run.scoring for run in done.one),
        seconds=median(run.seconds for run in done.one),
        operations=model.costs.of(whole.needed),
        share=share,
        rate=median(done.rates),
        both_seconds=median(run.seconds for run in done.both) if done.both else None,
    )
    if not tried:
        return row
    asked = harness_requests(part.items, PROTOCOLS[PROTOCOL])
    reference = {
        (ask.item, ask.choice): answer for ask, answer in zip(asked, done.answers, strict=True)
    }
    scores = plan_scores(last.plan, last.loglikelihood)
    among = decided_among(part.items, PROTOCOLS[PROTOCOL])
    found = agreement(scores, reference, among, TIES[model.dtype])
    return replace(
        row,
        harness_seconds=median(done.harness),
        batch=best_of(tried).batch,
        difference=found.difference,
        differ=found.differ,
        ties=found.ties,
    )
