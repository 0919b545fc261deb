"""The self-check at load: which path of the engine a model honours."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from downslope.engine import Scorer
from downslope.errors import StudyError, UnusableFolder
from downslope.packing import Pack, pack_together
from downslope.plain import Batch, read
from downslope.protocols import Request
from downslope.shortage import out_of_memory

TOLERANCE = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""Largest difference of a log-probability between two paths that rounding explains."""

_HEAD_SLACK = 5
_BRANCH = 32  # tokens of the longest request before another one leaves it
_COMMON = 32  # tokens of what neighbours have in common, unless they share it with others
_OTHER_HEAD = "its output layer is not the one assumed, or it sees padding"


class _Refused(Exception):
    """A path that the model does not honour, and why."""


def choose_path(scorer: Scorer, packs: Sequence[Pack]) -> float:
    """Leave every path that the model does not honour, with a warning.

    A few requests of the packs, and some made from them so that strangers and branches stand side
    by side, are scored by the model itself, one at a time (`whole`), as a pack (`packed`) and,
    where that fails, in padded batches (`plain`). The fastest path that agrees within the dtype's
    rounding is taken: a pack whose last layer is computed for the tokens that predict, and where
    that fails, for all of them. A pack has to pass two more tests: computed in two parts, as one
    behind a stem is, it gives the same, and what a token predicts does not change with the
    strangers and siblings around it. A model whose attention ignores what it may see gives
    plausible, wrong numbers.

    Returns the largest difference of a log-probability on the path taken, NaN where the weights
    give nothing to compare. Raises UnusableFolder for a model that is not causal, StudyError for
    one that fails by itself.
    """
    long, short = _sample(packs)
    sample, _ = pack_together([*long, *short])
    scorer.path = "whole"
    tolerance = TOLERANCE[scorer.dtype]
    try:
        _require_causal(scorer.model, long[0], tolerance)
        whole = _scored(Scorer(scorer.model, "whole"), sample)
    except _Refused as refused:
        remedy = "Look at its config.json, or leave the checkpoint out (known_bad)."
        where = type(scorer.model).__name__
        raise StudyError(str(refused), where=where, remedy=remedy) from refused.__cause__
    if not np.isfinite(whole).all():  # damaged weights, or overflow: scoring will name the item
        _warn("log-probabilities that are no finite numbers; scored one at a time")
        return float("nan")
    reference = whole
    if scorer.dtype != torch.float32:
        # A model rounds its logits to its own dtype, which `head` does not: it is checked first.
        by_itself = Scorer(scorer.model, "plain", inner=1)
        try:
            reference = _agreed(by_itself, sample, whole, _HEAD_SLACK * tolerance, _OTHER_HEAD)
        except _Refused as refused:
            _warn(f"{refused}; scored in a slower way")
            return 0.0
    left: dict[str, str] = {}  # of a path left twice, the second reason is the one to know
    for path, narrow, why in (
        ("packed", 1.0, "its last layer, or what follows it, looks at tokens that predict nothing"),
        ("packed", 0.0, "it does not honour the mask, or its output layer is not the one assumed"),
        ("plain", 0.0, _OTHER_HEAD),
    ):
        try:
            fast = Scorer(scorer.model, path, narrow=narrow)
            found = _agreed(fast, sample, reference, tolerance, why)
            if path == "packed":
                _check_alone(fast, short, packs, tolerance)
        except _Refused as refused:
            left[path] = f"{'all of its last layer is computed: ' if narrow else ''}{refused}"
            continue
        scorer.path, scorer.narrow = path, min(scorer.narrow, narrow)
        break
    for reason in left.values():
        _warn(f"{reason}; scored in a slower way")
    return 0.0 if scorer.path == "whole" else float(np.abs(found - reference).max())


def _require_causal(model: Any, request: Request, tolerance: float) -> None:
    """Raise UnusableFolder where predictions change with tokens that follow.

    The library gives an output layer to BERT and XLNet too; read as language models they score an
    answer by what stands behind it. The beginning of a request is read twice in one batch, once
    with other tokens in its second half: in the first no more than rounding may change. Where
    experts take tokens in groups, it does, and may send a token to another one; hence the median.
    """
    # What is predicted last is no token that is read: a model may have no position for it.
    tokens = np.array(request.tokens[: min(_BRANCH, max(2, len(request.tokens) - 1))], np.int64)
    half = len(tokens) // 2
    other = tokens.copy()
    other[half:] = np.where(tokens[half:] > 0, tokens[half:] - 1, 1)
    both = Batch(
        ids=np.stack([tokens, other]),
        targets=np.arange(2 * half),
        number=np.repeat([0, 1], half),
        depth=np.tile(np.arange(half, dtype=np.int32), 2),
        token=np.tile(tokens[1 : half + 1].astype(np.int32), 2),
    )
    one, two = np.split(_tried("whole", lambda: read(model, both, whole=True)[0].cpu().numpy()), 2)
    if float(np.median(np.abs(two - one))) > tolerance:
        raise UnusableFolder(
            "is no causal language model: what it predicts depends on what follows, or on chance",
            where=type(model).__name__,
            remedy="Leave the checkpoint out (known_bad in checkpoints.tsv).",
        )


def _check_alone(
    fast: Scorer, short: list[Request], packs: Sequence[Pack], tolerance: float
) -> None:
    """That a pack can be cut in two, and strangers and siblings be exchanged.

    A coarse dtype's tolerance would excuse much of what a sibling in sight can do; but beside
    other strangers the same sums are taken, and next to nothing may change. The parts compute
    their last layer as `fast` does, the others all of it, which the comparison with the model
    itself has not seen.
    """
    one, other = _among_others(short, packs)
    found = _scored(Scorer(fast.model, narrow=0.0), one)
    parts = Scorer(fast.model, inner=max(1, len(one.tokens) // 2), narrow=fast.narrow)
    _agreed(parts, one, found, tolerance, "parts of a pack do not add up")
    exchanged = Scorer(fast.model, narrow=0.0)
    _agreed(exchanged, other, found, tolerance / 100, "strangers in a pack are seen")


def _sample(packs: Sequence[Pack]) -> tuple[list[Request], list[Request]]:
    """Long: the longest request and one that leaves it early, so that its tokens stand far behind
    their depth. After the first token of either branch something is predicted: one of them stands
    behind the other branch's last. Short: the shortest, neighbours from the fullest pack, and a
    stranger to all.

    The one that leaves and the stranger are made up, from the longest one's tokens backwards.
    """
    of_longest = max(packs, key=lambda pack: int(pack.depth.max()))
    of_shortest = min(packs, key=lambda pack: int(_lengths(pack).min()))
    fullest = max(packs, key=lambda pack: len(pack.request_start))
    longest = of_longest.request(int(_lengths(of_longest).argmax()))
    middle = (len(fullest.request_start) - 1) // 2
    backwards = longest.tokens[::-1]
    leaves = min(_BRANCH, (len(longest.tokens) - longest.answer + 1) // 2)
    away = backwards[: min(12, max(2, len(backwards) // 3))]
    shortest = of_shortest.request(int(_lengths(of_shortest).argmin()))
    neighbours = [fullest.request(number) for number in {max(0, middle - 1), middle}]
    neighbours = min(
        # They may also share their beginning with the others, and would lose that by being cut.
        (neighbours, _brief(neighbours)),
        key=lambda some: len(pack_together([longest, shortest, *some])[0].tokens),
    )
    short = [shortest, *neighbours, Request((*backwards[1:13], 0), 1)]
    branches = [
        Request((*longest.tokens[:leaves], *away), len(away)),
        Request(longest.tokens[: leaves + 2], 1),
    ]
    return [longest, *branches], short


def _among_others(requests: list[Request], packs: Sequence[Pack]) -> tuple[Pack, Pack]:
    """The shortest branch of the fullest pack, behind its sibling and among `requests`; and the
    same with other tokens wherever it should not look. What it predicts is the only target."""
    pack = max(packs, key=lambda pack: len(pack.request_start))
    leaves = np.flatnonzero(pack.end == np.arange(1, len(pack.end) + 1))
    branches = np.append(0, leaves[:-1] + 1)
    shortest = int((leaves - branches)[1:].argmin()) + 1 if len(leaves) > 1 else 0
    paths = [
        pack.tokens[pack.path(int(leaf))] for leaf in leaves[max(0, shortest - 1) : shortest + 1]
    ]
    nearest = [Request((*pack.stem.tolist(), *path.tolist(), 0), 1) for path in paths]
    laid_out, number = pack_together([*requests, *nearest])
    target = laid_out.request_targets[laid_out.request_start[number[-1]]]
    off = np.ones(len(laid_out.tokens), bool)
    off[laid_out.path(int(laid_out.target_position[target]))] = False
    tokens = laid_out.tokens.copy()
    tokens[off] = np.roll(tokens[off], 1)
    one = dataclasses.replace(
        laid_out,
        target_position=laid_out.target_position[[target]],
        target_token=laid_out.target_token[[target]],
    )
    return one, dataclasses.replace(one, tokens=tokens)


def _brief(requests: list[Request]) -> list[Request]:
    """The same without most of the beginning that they have in common."""
    reads = [request.tokens[: -request.answer] for request in requests]
    columns = zip(*reads, strict=False)
    shared = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))
    cut = max(0, shared - _COMMON)
    return [Request(request.tokens[cut:], request.answer) for request in requests]


def _lengths(pack: Pack) -> NDArray[np.int32]:
    """(requests,) tokens that each request of a pack reads."""
    last = pack.request_targets[pack.request_start[1:] - 1]
    return pack.depth[pack.target_position[last]] + 1


def _scored(scorer: Scorer, sample: Pack) -> NDArray[np.float64]:
    """Log-probabilities of the sample's targets; _Refused where the path fails."""
    return _tried(scorer.path, lambda: scorer.target_logprobs(sample))


@torch.inference_mode()
def _tried(path: str, score: Callable[[], NDArray[np.float64]]) -> NDArray[np.float64]:
    try:
        return score()
    except Exception as error:  # a model may refuse what it cannot do in any way it likes
        if out_of_memory(error):
            raise
        first = (str(error).strip().splitlines() or ["without a message"])[0]
        raise _Refused(f"the {path} path fails ({type(error).__name__}: {first})") from error


def _agreed(
    scorer: Scorer, sample: Pack, reference: NDArray[np.float64], most: float, why: str
) -> NDArray[np.float64]:
    """Log-probabilities of the sample's targets; _Refused where they are not the reference's."""
    found = _scored(scorer, sample)
    difference = float(np.abs(found - reference).max())
    if difference <= most:
        return found
    raise _Refused(
        f"log-probabilities differ by {difference:.2g}, at most {most:.0e} is rounding: {why}"
    )


def _warn(reason: str) -> None:
    logging.getLogger("downslope").warning("self-check: %s", reason)
