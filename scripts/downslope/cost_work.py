"""The work that scoring asks of a GPU, in floating-point operations (a multiply-add is two).

A plan counts it: products of each computed token, attention over (token, ancestor) pairs, head
rows. Of a checkpoint only the nominal number of parameters is known before its download, so its
shape is a rule's. Where there is no plan yet, the work goes by the bytes of the data set's file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from downslope.packing import Pack, computed_tokens

VOCABULARY = 50304
WIDTH_PER_LAYER = 85
"""The rule of shape: this vocabulary, in and out, and a width of 85 times the layers. Operations
by it are within 10 % of those of Pythia's eight shapes, and within 3 % from 1 billion on."""


class Span(NamedTuple):
    """A number that is not known exactly: the best guess, and how low and high it may be."""

    low: float
    best: float
    high: float


class Counts(NamedTuple):
    """What a data set of `bytes` bytes asks of any model.

    tokens  computed tokens
    pairs   (token, ancestor or itself) pairs that attention looks at
    rows    distinct positions at which the head's logits are needed
    """

    bytes: int
    tokens: int
    pairs: int
    rows: int


# Counted with Pythia's tokenizer under all protocols of the paper's study.
SHIPPED = {
    "prize": {
        "hindsight-neglect": Counts(953341, 200224, 66484046, 630),
        "memo-trap": Counts(165763, 15965, 328827, 6557),
        "neqa": Counts(84046, 8795, 309317, 600),
    },
    "truthfulqa": {"truthfulqa": Counts(710607, 51937, 9088417, 41312)},
}
LEAST_COUNTED = 3
"""Fewer own plans of a form than this say too little of its range: SHIPPED joins them."""


@dataclass(frozen=True)
class Work:
    """One task under one tokenizer: `bytes` of its data set and the counts that it goes by.

    Those are its plan's own (`planned`), or else those of data sets of the same form; among them
    may be the set's own that SHIPPED has (`counted`).
    """

    task: str
    dataset: str
    bytes: int
    planned: bool
    counts: tuple[Counts, ...]
    counted: Counts | None = None

    def operations(self, parameters: float) -> Span:
        """Operations of one checkpoint: by bytes over all counts, or by the set's own that SHIPPED
        has; lowest and highest by one of all."""
        return self._by_bytes(lambda count: operations(parameters, count))

    def tokens(self) -> Span:
        """Computed tokens, in the same way."""
        return self._by_bytes(lambda count: count.tokens)

    def _by_bytes(self, amount: Callable[[Counts], float]) -> Span:
        each = [amount(count) / count.bytes for count in self.counts]
        likely = [self.counted] if self.counted else self.counts
        best = sum(map(amount, likely)) / sum(count.bytes for count in likely)
        return Span(*(self.bytes * rate for rate in (min(each), best, max(each))))


def count_packs(packs: Sequence[Pack], size: int) -> Counts:
    """The counts of a plan's packs; `size` is the data set's bytes. A stem counts once for all
    consecutive packs that have it."""
    pairs, stem = 0, np.empty(0, np.int32)
    for pack in packs:
        if not np.array_equal(pack.stem, stem):
            stem = pack.stem
            pairs += len(stem) * (len(stem) + 1) // 2
        pairs += int(pack.depth.sum(dtype=np.int64)) + len(pack.depth)
    rows = sum(len(np.unique(pack.target_position)) for pack in packs)
    return Counts(size, computed_tokens(packs), pairs, rows)


def task_works(
    tasks: Iterable[Mapping[str, Any]], planned: Mapping[str, Counts]
) -> dict[str, Work]:
    """The work of each task (task, dataset, form, bytes) under one tokenizer; `planned` holds
    the counts of those that have a plan."""
    rows = list(tasks)
    works = {}
    for row in rows:
        name, form = row["task"], row["form"]
        own = {r["dataset"]: planned[r["task"]] for r in rows
               if r["form"] == form and r["task"] in planned}  # fmt: skip
        if len(own) < LEAST_COUNTED:
            every = [counts for sets in SHIPPED.values() for counts in sets.items()]
            own = dict(SHIPPED.get(form, {}).items() or every) | own
        if name in planned:
            works[name] = Work(name, row["dataset"], row["bytes"], True, (planned[name],))
            continue
        counted = SHIPPED.get(form, {}).get(row["dataset"])
        if counted and counted.bytes != row["bytes"]:
            counted = None
        counts = tuple(dict.fromkeys([*own.values(), *([counted] if counted else [])]))
        works[name] = Work(name, row["dataset"], row["bytes"], False, counts, counted)
    return works


def operations(parameters: float, counts: Counts) -> float:
    """Operations by which a checkpoint of that size scores what is counted.

    Two for each parameter outside of the embeddings and computed token, 4 x width x layers for
    each pair, 2 x width x vocabulary for each head row.
    """
    width, layers = shape(parameters)
    body = parameters - 2 * VOCABULARY * width
    return (
        2 * body * counts.tokens
        + 4 * width * layers * counts.pairs
        + 2 * width * VOCABULARY * counts.rows
    )


def shape(parameters: float) -> tuple[float, float]:
    """Width h and layers L of a model, from parameters = 12 h^2 L + 2 h VOCABULARY and
    h = WIDTH_PER_LAYER x L."""
    cubic, linear = 12 / WIDTH_PER_LAYER, 2 * VOCABULARY
    width = (parameters / cubic) ** (1 / 3)
    # Newton's method falls onto the root from above, where the cubic is convex.
    for _ in range(50):
        width -= (cubic * width**3 + linear * width - parameters) / (3 * cubic * width**2 + linear)
    return width, width / WIDTH_PER_LAYER
