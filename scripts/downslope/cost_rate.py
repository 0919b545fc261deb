"""How fast a device scores: measured in this study, stated in its config, or assumed.

A rate is useful operations (`cost_work`) a second while a task is being scored. What a checkpoint
costs beside them, starting a process and reading the weights, is `fixed_seconds`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any, NamedTuple

from downslope.cost_work import Span
from downslope.sizes import size_name

DEVICE = "NVIDIA H100 SXM"
TFLOPS = {"float16": 989.4, "bfloat16": 989.4, "float32": 66.9}
"""The device that is assumed where nothing is known, and its greatest rate by dtype in 10^12
operations a second (dense products; NVIDIA's data sheet of the H100)."""

SHARE = 0.3
"""The share of that rate that is assumed to go into useful operations."""

START_SECONDS = 20
READ_BYTES_PER_SECOND = 1e9


class Job(NamedTuple):
    """Scoring that was done: useful operations and seconds of one checkpoint on one device."""

    ckpt: str
    parameters: int
    device: str
    operations: float
    seconds: float


@dataclass(frozen=True)
class Rate:
    """Operations a second by number of parameters; one key 0 stands for every size.

    `source` is measured, stated or assumed; `text` says in a sentence where it comes from.
    """

    device: str
    source: str
    text: str
    by_size: Mapping[int, Span]

    def of(self, parameters: int) -> Span:
        """The rate of that size, or of the one nearest to it by ratio."""
        return self.by_size[self._nearest(parameters)]

    def source_of(self, parameters: int) -> str:
        """`source` of the rate of that size: of another one's if it was measured at none."""
        near = self._nearest(parameters)
        elsewhere = self.source == "measured" and near != parameters
        return f"measured at {size_name(near)}" if elsewhere else self.source

    def _nearest(self, parameters: int) -> int:
        return min(self.by_size, key=lambda size: (abs(math.log(max(size, 1) / parameters)), size))

    @property
    def is_gpu(self) -> bool:
        return not self.device.startswith("cpu")


def choose_rate(jobs: Iterable[Job], stated: Mapping[str, float] | None, dtype: str) -> Rate:
    """Measured on a GPU; else `stated` (tflops, share); else measured on a CPU; else assumed."""
    measured = measured_rate(jobs)
    if measured is not None and (measured.is_gpu or not stated):
        return measured
    peak, used = (stated["tflops"], stated["share"]) if stated else (TFLOPS[dtype], SHARE)
    each = peak * 1e12 * used
    if stated:
        device = "a GPU"
        text = f"Rate: {used:.0%} of {peak:g} TFLOP/s, as config.yaml states."
    else:
        device = DEVICE
        text = (
            f"**Assumed, not measured:** one {DEVICE} at {used:.0%} of its {peak:g} TFLOP/s "
            f"({dtype}, dense products). At half that share everything but the fixed costs takes "
            "twice as long."
        )
    return Rate(device, "stated" if stated else "assumed", text, {0: Span(each, each, each)})


def measured_rate(jobs: Iterable[Job]) -> Rate | None:
    """The rate of the device that has done most, GPUs before CPUs; None without jobs.

    By size: the median over its checkpoints, the lowest and the highest.
    """
    done: dict[tuple[bool, str], dict[str, list[Job]]] = {}
    for job in jobs:
        if job.seconds > 0 and job.operations > 0:
            key = not job.device.startswith("cpu"), job.device
            done.setdefault(key, {}).setdefault(job.ckpt, []).append(job)
    if not done:
        return None
    key = max(done, key=lambda key: (key[0], _operations(done[key]), key[1]))
    sizes: dict[int, list[float]] = {}
    for each in done[key].values():
        rate = sum(job.operations for job in each) / sum(job.seconds for job in each)
        sizes.setdefault(each[0].parameters, []).append(rate)
    by_size = {size: Span(min(r), median(r), max(r)) for size, r in sorted(sizes.items())}
    found = [rate.best / 1e12 for rate in by_size.values()]
    shown = " to ".join(f"{rate:.3g}" for rate in dict.fromkeys([min(found), max(found)]))
    text = (
        f"Measured in this study on {key[1]}: {shown} TFLOP/s over {len(done[key])} checkpoints "
        f"of {len(by_size)} sizes. Sizes without a measurement take the nearest one's; larger "
        "models are often faster, smaller ones slower."
    )
    return Rate(key[1], "measured", text, by_size)


def _operations(by_ckpt: Mapping[str, list[Job]]) -> float:
    return sum(job.operations for jobs in by_ckpt.values() for job in jobs)


def fixed_seconds(weights: float) -> float:
    """Seconds that a checkpoint of so many bytes costs beside the scoring itself: assumed."""
    return START_SECONDS + weights / READ_BYTES_PER_SECOND


def device_of(job: Mapping[str, Any]) -> str:
    """The device of a score file's facts: the GPU's name, or `cpu` with processor and threads."""
    if job.get("gpu"):
        return str(job["gpu"])
    return f"cpu ({job.get('processor', 'unknown')}, {job.get('threads', '?')} threads)"
