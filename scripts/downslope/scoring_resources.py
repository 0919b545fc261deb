"""What a scoring job asks for: GPUs, memory and minutes, from the model's size and the plans.

Limits, not forecasts (`cost` forecasts): a job that hits one is killed, and one that asks for too
much only waits longer in the queue. Memory and minutes are multiplied by the attempt in the rule.
For the paper's study, as long as neither plans nor weights are at hand and no rate is known:

    parameters   GPUs of 80, 40, 24 GB   memory, MB   minutes
          70 M         1      1      1          4200        15
         160 M         1      1      1          4500        15
         410 M         1      1      1          5200        20
         1.0 B         1      1      1          6800        30
         1.4 B         1      1      1          7900        35
         2.8 B         1      1      1         11700        65
         6.9 B         1      1      1         22900       145
        12.0 B         1      1      2         36800       250

Nothing here is a parameter of a rule: another machine is no reason to score again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from downslope.study import Checkpoint, Study

# What answers need is imported when one is asked for: every job of a cluster reads the rules again.
if TYPE_CHECKING:
    from downslope.cost_rate import Rate
    from downslope.cost_work import Work

GPU_GB = 80.0
"""Memory of one GPU in 10^9 bytes where no profile says it."""

BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}

_ROUNDED = 1.05
"""Nominal sizes are rounded, also downwards."""

_CONTEXT_BYTES = 1e9
_LIBRARIES_MB = 4000
_MAPPED = 1.3
_WIDTHS = 24
"""Assumed: a GPU's share for its driver and products' workspace; memory of the process beside the
weights; the weights in it, mapped or on their way to the device, with room for what is converted;
tensors of a pack's length and the model's width that are alive at once in a layer."""

_READ_BYTES_PER_SECOND = 1e8
_START_MINUTES = 10
_SLOWER = 3.0
_CAREFUL = {"float32": 2e12, "float16": 8e12, "bfloat16": 8e12}
"""Assumed, far below what is usual: a cold shared file system; starting on a busy node; how much
slower than a known rate a job may be; operations a second of a GPU of which nothing is known."""


class ScoringResources:
    """Answers by checkpoint; whatever they rest on is looked up once, and when first asked.

    `bytes_on_disk` says what a checkpoint's files take, as far as it is known, else 0: the weights
    there may have another dtype than the study's. Missing or broken plans are never an error here.
    """

    def __init__(self, study: Study, bytes_on_disk: Callable[[str], int]) -> None:
        self.study, self.bytes_on_disk = study, bytes_on_disk
        self._operations: dict[tuple[str, int], float] = {}

    def gpus(self, ckpt: str) -> int:
        """How many GPUs hold the weights in the study's dtype beside what computing takes.

        Never fewer than `placement` needs on GPUs of that size, as long as the table's number of
        parameters is true. On a machine without GPUs it is only a counter.
        """
        from downslope.cost_work import VOCABULARY, shape

        each = self.study.machine.get("gpu_gb", GPU_GB) * 1e9
        size, (width, _) = BYTES[self.study.config["dtype"]], shape(self._parameters(ckpt))
        room = each - _CONTEXT_BYTES - working_bytes(width, self.study.config["pack_tokens"], size)
        # Among several GPUs no layer is torn apart: each may stay empty by the largest module.
        torn = size * max(12 * width**2, VOCABULARY * width)
        return gpus_needed(self._weights(ckpt), room, torn)

    def memory_mb(self, ckpt: str) -> int:
        """MB of the process: the weights as they are on disk or in the study's dtype, whichever
        is larger, since files are mapped and, on a CPU, the model stays in memory."""
        weights = max(self._weights(ckpt), self.bytes_on_disk(ckpt))
        return _LIBRARIES_MB + _up(_MAPPED * weights / 1e6, 100)

    def minutes(self, ckpt: str) -> int:
        """Minutes for reading the weights and for all tasks of the study.

        The rate is the one that `cost` goes by, three times slower; a careful one where that is
        neither measured in this study nor stated in its config.
        """
        row = self.study.by_ckpt[ckpt]
        weights = max(self._weights(ckpt), self.bytes_on_disk(ckpt))
        seconds = weights / _READ_BYTES_PER_SECOND + self._work(row) / self._rate(row)
        return _up(_START_MINUTES + seconds / 60, 5)

    def _parameters(self, ckpt: str) -> float:
        """By the table, or what the files hold at least, were they float32 throughout."""
        return max(self.study.by_ckpt[ckpt].parameters, self.bytes_on_disk(ckpt) / 4)

    def _weights(self, ckpt: str) -> float:
        return _ROUNDED * self._parameters(ckpt) * BYTES[self.study.config["dtype"]]

    def _work(self, row: Checkpoint) -> float:
        """Operations of a checkpoint on all tasks; where there is no plan, the most they may be."""
        key = row.tokenizer, row.parameters
        if key not in self._operations:
            works = self._works[row.tokenizer].values()
            self._operations[key] = sum(work.operations(row.parameters).high for work in works)
        return self._operations[key]

    def _rate(self, row: Checkpoint) -> float:
        rate, careful = self._known_rate, _CAREFUL[self.study.config["dtype"]]
        if rate.source == "assumed":
            return careful
        known = rate.of(row.parameters).low / _SLOWER
        measured_elsewhere = rate.source == "measured" and row.parameters not in rate.by_size
        # On a GPU, small models are slow: theirs is no rate for a large one.
        return max(known, careful) if measured_elsewhere and rate.is_gpu else known

    @cached_property
    def _works(self) -> dict[str, dict[str, Work]]:
        from downslope.cost_study import study_works

        works, _ = study_works(self.study, tell=lambda note: None)
        return works

    @cached_property
    def _known_rate(self) -> Rate:
        from downslope.cost_study import scores_of, study_rate

        scored = _one_scored_of_each_size(self.study)
        scores = {row.ckpt: scores_of(self.study, row) for row in scored}
        return study_rate(self.study, scores, self._works)


def gpus_needed(weights: float, room: float, torn: float) -> int:
    """GPUs with `room` bytes each for `weights` bytes; of several, each is filled up to `torn`."""
    if weights <= room:
        return 1
    return max(2, math.ceil(weights / max(room - torn, torn)))


def working_bytes(width: float, tokens: int, size: int) -> float:
    """Bytes that computing a pack takes beside the weights, in numbers of `size` bytes."""
    from downslope.placement import WORKING_BYTES

    return max(WORKING_BYTES, _WIDTHS * tokens * width * size)


def _one_scored_of_each_size(study: Study) -> Sequence[Checkpoint]:
    """A published checkpoint of every size: reading the facts of all of a large study's files
    would take longer than the rest of a dry run."""
    sizes: dict[int, Checkpoint] = {}
    for row in study.usable:
        place = study.folder / f"results/scores/{row.ckpt}"
        if row.parameters not in sizes and place.is_dir():
            sizes[row.parameters] = row
    return list(sizes.values())


def _up(value: float, step: int) -> int:
    return step * math.ceil(value / step)
