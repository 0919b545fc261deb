"""The plain path's batches: each distinct sequence of a pack by itself, beside others as long.

Right padding follows what is scored, so a causal model never sees it, and no mask is needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from downslope.packing import Pack


@dataclass(frozen=True)
class Batch:
    """Some of a pack's sequences, and the targets that are predicted in them.

    ids                   (sequences, longest) tokens, padded with 0
    targets               (targets,) their numbers in the pack
    number, depth, token  (targets,) sequence, position that predicts, and token predicted
    """

    ids: NDArray[np.int64]
    targets: NDArray[np.intp]
    number: NDArray[np.intp]
    depth: NDArray[np.int32]
    token: NDArray[np.int32]


def batches(pack: Pack, most: int) -> Iterator[Batch]:
    """All sequences of a pack, longest first, at most `most` tokens at a time with padding, or one
    sequence that is longer."""
    nodes = np.flatnonzero(pack.end == np.arange(1, len(pack.end) + 1))
    # In depth-first order the first leaf at or behind a token lies below it.
    owner = np.searchsorted(nodes, pack.target_position)
    lengths = pack.depth[nodes] + 1
    for leaves in _alike(lengths, most):
        ids = np.zeros((len(leaves), lengths[leaves].max()), np.int64)
        for number, leaf in enumerate(leaves):
            sequence = np.concatenate([pack.stem, pack.tokens[pack.path(int(nodes[leaf]))]])
            ids[number, : len(sequence)] = sequence
        targets = np.flatnonzero(np.isin(owner, leaves))
        yield Batch(
            ids=ids,
            targets=targets,
            number=np.argsort(leaves)[np.searchsorted(np.sort(leaves), owner[targets])],
            depth=pack.depth[pack.target_position[targets]],
            token=pack.target_token[targets],
        )


def _alike(lengths: NDArray[Any], most: int) -> Iterator[NDArray[np.intp]]:
    """Numbers of sequences, longest first, as many together as `most` tokens allow."""
    order = np.argsort(-lengths, kind="stable")
    while len(order):
        count = max(1, most // int(lengths[order[0]]))
        yield order[:count]
        order = order[count:]
