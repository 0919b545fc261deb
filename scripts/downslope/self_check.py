"""The self-check at load: which path of the engine a model honours."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from downslope.engine import Scorer
from downslope.packing import Pack, excerpt

TOLERANCE = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""Largest difference of a log-probability between two paths that rounding explains."""

_HEAD_SLACK = 5  # a model rounds its logits to its own dtype, which `head` does not


def choose_path(scorer: Scorer, packs: Sequence[Pack]) -> float:
    """Self-check: leave a path that the model does not honour, with a warning.

    From the pack with the longest request, that one and a few from all over it, so that strangers
    and branches stand side by side, are scored one at a time and as a pack. A model whose
    attention ignores what it may see gives plausible, wrong numbers: beyond the dtype's tolerance
    the path becomes `plain`. Where even the output layer is not the one assumed, it becomes
    `whole`: the model's own forward pass down to its logits, for whole batches.

    Returns the largest difference of a log-probability between the path taken and one request at
    a time (NaN where nothing could be compared).
    """
    sample = _sample(max(packs, key=lambda pack: int(pack.depth.max())))
    whole = Scorer(scorer.model, "whole", inner=1).target_logprobs(sample)
    if not np.isfinite(whole).all():
        return float("nan")  # damaged weights: scoring will name the item
    scorer.path = "plain"
    difference = _difference(Scorer(scorer.model, "plain", inner=1), sample, whole)
    if not difference <= _HEAD_SLACK * TOLERANCE[scorer.dtype]:
        scorer.path = "whole"
        _warn("the model's output layer is not the one assumed", difference)
        return 0.0
    plain = Scorer(scorer.model, "plain", inner=1).target_logprobs(sample)
    packed = _difference(Scorer(scorer.model, "packed"), sample, plain)
    if not packed <= TOLERANCE[scorer.dtype]:
        _warn("the model's attention does not honour the mask", packed)
        return difference
    scorer.path = "packed"
    return packed


def _sample(pack: Pack) -> Pack:
    """The request with the longest context of a pack, and four from all over it."""
    count = len(pack.request_start) - 1
    last = pack.request_targets[pack.request_start[1:] - 1]
    longest = int(pack.depth[pack.target_position[last]].argmax())
    return excerpt(pack, {longest, *np.linspace(0, count - 1, 4).astype(int).tolist()})


def _difference(scorer: Scorer, sample: Pack, reference: NDArray[np.float64]) -> float:
    """Largest difference from the reference; infinite where the path fails outright."""
    try:
        return float(np.abs(scorer.target_logprobs(sample) - reference).max())
    except (TypeError, ValueError, RuntimeError, AttributeError, KeyError) as error:
        first = str(error).strip().splitlines() or [""]
        logging.getLogger("downslope").warning(
            "self-check: the %s path fails with %s: %s", scorer.path, type(error).__name__, first[0]
        )
        return float("inf")


def _warn(why: str, difference: float) -> None:
    logging.getLogger("downslope").warning(
        "self-check: log-probabilities differ by %.2g, far more than rounding: %s; "
        "scored in a slower way",
        *(difference, why),
    )
