"""Which of torch's attention kernels is the fastest here, at what the engine asks of them.

The engine leaves the choice to torch, which goes by rules of its own; this measures whether another
one would be faster.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch.nn.attention import SDPBackend, sdpa_kernel

from downslope.bench.operations import seconds_of
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
    """Seconds that a pack takes with torch's choice and by each kernel; None where it refuses, or
    needs more memory than there is."""

    chosen: float | None
    by_kernel: dict[str, float | None]


def most_pairs(packs: Sequence[Pack]) -> Pack:
    """The pack whose tokens have the most ancestors."""
    return max(packs, key=lambda pack: int(pack.depth.sum()))


def kernel_seconds(scorer: Scorer, pack: Pack) -> Kernels:
    """Time a pack of the packed path; of repetitions, the fastest counts."""

    def taken() -> float | None:
        # One of its own: where memory runs out, a scorer takes smaller parts from there on.
        own = Scorer(scorer.model, narrow=scorer.narrow)
        own.score_pack(pack)
        times = [seconds_of(lambda: own.score_pack(pack), own.device) for _ in range(_REPEATED)]
        return min(times) if own.inner is None else None

    by_kernel: dict[str, float | None] = {}
    for name, kernel in KERNELS.items():
        with sdpa_kernel(kernel):
            try:
                by_kernel[name] = taken()
            except RuntimeError:  # that it takes no mask, no such dtype, or not this device
                by_kernel[name] = None
    return Kernels(taken(), by_kernel)
