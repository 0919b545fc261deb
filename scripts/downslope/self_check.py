"""The self-check at load: which path of the engine a model honours."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from downslope.engine import Scorer, out_of_memory
from downslope.packing import Pack, pack_requests
from downslope.protocols import Request

TOLERANCE = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""Largest difference of a log-probability between two paths that rounding explains."""

_HEAD_SLACK = 5  # a model rounds its logits to its own dtype, which `head` does not


def choose_path(scorer: Scorer, packs: Sequence[Pack]) -> float:
    """Leave every path that the model does not honour, with a warning.

    A few requests of the packs, and two made from them so that strangers and branches stand side
    by side, are scored by the model itself, one at a time (`whole`), and then as they will be: in
    padded batches (`plain`), as a pack and as a pack in two parts (`packed`). A model whose
    attention ignores what it may see gives plausible, wrong numbers. The fastest path that agrees
    within the dtype's rounding is taken.

    Returns the largest difference of a log-probability on the path taken, NaN where the weights
    give nothing to compare.
    """
    ((sample,), _) = pack_requests(_sample(packs), 10**9)
    scorer.path = "whole"
    whole = Scorer(scorer.model, "whole").target_logprobs(sample)
    if not np.isfinite(whole).all():
        return float("nan")  # damaged weights, or overflow: scoring will name the item
    tolerance = TOLERANCE[scorer.dtype]
    plain = _scored(Scorer(scorer.model, "plain"), sample)
    if not _agree(plain, whole, _HEAD_SLACK * tolerance, "its output layer is not the one assumed"):
        return 0.0
    assert plain is not None
    scorer.path = "plain"
    halves = max(1, len(sample.tokens) // 2)
    found = [_scored(Scorer(scorer.model, "packed", inner), sample) for inner in (None, halves)]
    why = "its attention does not honour the mask"
    if not all(_agree(packed, plain, tolerance, why) for packed in found):
        return float(np.abs(plain - whole).max())
    scorer.path = "packed"
    return max(float(np.abs(packed - plain).max()) for packed in found if packed is not None)


def _sample(packs: Sequence[Pack]) -> list[Request]:
    """The longest and the shortest request, neighbours from the fullest pack, and two made up.

    One of these leaves the longest request in the middle of its context, the other is a stranger
    to it; both repeat its tokens, backwards.
    """
    of_longest = max(packs, key=lambda pack: int(pack.depth.max()))
    of_shortest = min(packs, key=lambda pack: int(_lengths(pack).min()))
    fullest = max(packs, key=lambda pack: len(pack.request_start))
    longest = of_longest.request(int(_lengths(of_longest).argmax()))
    middle = (len(fullest.request_start) - 1) // 2
    chosen = [
        longest,
        of_shortest.request(int(_lengths(of_shortest).argmin())),
        *(fullest.request(number) for number in {max(0, middle - 1), middle}),
    ]
    backwards = longest.tokens[::-1][: max(2, len(longest.tokens) // 3)]
    half = (len(longest.tokens) - longest.answer + 1) // 2
    return [*chosen, Request((*longest.tokens[:half], *backwards), 2), Request((*backwards, 0), 2)]


def _lengths(pack: Pack) -> NDArray[np.int32]:
    """(requests,) tokens that each request of a pack reads."""
    last = pack.request_targets[pack.request_start[1:] - 1]
    return pack.depth[pack.target_position[last]] + 1


def _scored(scorer: Scorer, sample: Pack) -> NDArray[np.float64] | None:
    """Log-probabilities of the sample's targets; None, with a warning, where the path fails."""
    try:
        return scorer.target_logprobs(sample)
    except Exception as error:  # a model may refuse what it cannot do in any way it likes
        if out_of_memory(error):
            raise
        first = (str(error).strip().splitlines() or ["without a message"])[0]
        logging.getLogger("downslope").warning(
            "self-check: the %s path fails (%s: %s); scored in a slower way",
            *(scorer.path, type(error).__name__, first),
        )
        return None


def _agree(
    found: NDArray[np.float64] | None, reference: NDArray[np.float64], most: float, why: str
) -> bool:
    """Whether log-probabilities agree; a warning where they were found and do not."""
    if found is None:
        return False
    difference = float(np.abs(found - reference).max())
    if difference <= most:
        return True
    logging.getLogger("downslope").warning(
        "self-check: log-probabilities differ by %.2g, at most %.0e is rounding: %s; scored in a "
        "slower way",
        *(difference, most, why),
    )
    return False
