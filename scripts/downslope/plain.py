"""The plain path's batches: each distinct sequence of a pack by itself, beside others as long.

Right padding follows what is scored, so a causal model never sees it, and no mask is needed. Read
`whole`, a batch goes through all of the model's own code, down to its logits.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from downslope.head import Found, Head
from downslope.packing import Pack
from downslope.products import take_products
from downslope.sight import to_device


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
        place = np.full(len(nodes), -1)
        place[leaves] = np.arange(len(leaves))
        targets = np.flatnonzero(place[owner] >= 0)
        yield Batch(
            ids=ids,
            targets=targets,
            number=place[owner[targets]],
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


def read(model: Any, batch: Batch, *, whole: bool) -> Found:
    """Log-probability of each target of a batch, and whether no token is likelier."""
    device = next(model.parameters()).device
    ids = to_device(batch.ids, device)
    if not whole:
        give_back = take_products(model)
        try:
            hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
        finally:
            give_back()
        flat = batch.number * batch.ids.shape[1] + batch.depth
        positions, row = np.unique(flat, return_inverse=True)
        kept = hidden.flatten(0, 1)[to_device(positions, hidden.device)]
        return Head.of(model).logprobs(kept, row, batch.token)
    columns, column = np.unique(batch.depth, return_inverse=True)
    keep = to_device(columns.astype(np.int64), device)
    if "logits_to_keep" in inspect.signature(model.forward).parameters:
        logits = model(input_ids=ids, use_cache=False, logits_to_keep=keep).logits
    else:
        logits = model(input_ids=ids, use_cache=False).logits[:, keep]
    wanted = (batch.number, column, batch.token)
    at = (to_device(array.astype(np.int64), logits.device) for array in wanted)
    return _of_logits(logits.float(), *at)


def _of_logits(
    logits: torch.Tensor, number: torch.Tensor, column: torch.Tensor, token: torch.Tensor
) -> Found:
    """The same from (batch, columns, vocabulary) logits."""
    chosen = logits[number, column, token].double()
    normaliser = torch.logsumexp(logits, dim=-1)[number, column].double()
    return chosen - normaliser, chosen >= logits.amax(-1)[number, column]
