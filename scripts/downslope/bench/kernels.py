"""Which of torch's attention kernels is the fastest here, at what the engine asks of them.

The engine leaves the choice to torch, which goes by rules of its own; this measures whether another
one would be faster.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch.nn.attention import SDPBackend, sdpa_kernel

from downslope.bench.operations import wait_for
from downslope.engine import Scorer
from downslope.packing import Pack

KERNELS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}
_REPEATED = 2


class Kernels(NamedTuple):
    """Seconds that a pack takes with torch's choice and by each kernel; None where it refuses."""

    chosen: float
    by_kernel: dict[str, float | None]


def most_pairs(packs: Sequence[Pack]) -> Pack:
    """The pack whose tokens have the most ancestors."""
    return max(packs, key=lambda pack: int(pack.depth.sum()))


def kernel_seconds(scorer: Scorer, pack: Pack) -> Kernels:
    """Time a pack of the packed path; of repetitions, the fastest counts."""

    def taken() -> float:
        scorer.score_pack(pack)
        return min(_seconds(lambda: scorer.score_pack(pack), scorer) for _ in range(_REPEATED))

    by_kernel: dict[str, float | None] = {}
    for name, kernel in KERNELS.items():
        with sdpa_kernel(kernel):
            try:
                by_kernel[name] = taken()
            except RuntimeError:  # that it takes no mask, no such dtype, or not this device
                by_kernel[name] = None
    return Kernels(taken(), by_kernel)


def _seconds(work: Callable[[], object], scorer: Scorer) -> float:
    wait_for(scorer.device)
    begun = time.perf_counter()
    work()
    wait_for(scorer.device)
    return time.perf_counter() - begun
