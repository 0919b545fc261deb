"""Attention over ancestors: a block of tokens beside the keys that it may need, and no others.

In depth-first order (see `packing`) most of a pack is strangers to any one token; a mask over all
pairs spends nearly all of its work on them. So queries are taken in blocks of consecutive tokens.
What a block needs to see, besides itself, is the path that leads to its first token: an ancestor
of a later token that lies before the block is an ancestor of the first one too.

    stem  s0 s1 s2          a beginning that the pack shares with others, computed before
    pack   0  1  2 | 3  4   two blocks; 3 is a child of 0, and 4 of 3

    keys of the block (3, 4):   s0 s1 s2  0  3  4        1 and 2 are never touched

Blocks with about equally many keys are stacked and computed at once. The model's own code calls
`attend` in each layer, through the registry that transformers keeps for such functions. Keys
arrive there with their positions applied, so those of a stem can be kept and used again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import scaled_dot_product_attention

NAME = "downslope"
"""What this attention is called in transformers' registry."""

BLOCK = 128
"""Queries in a block: of 32 to 256, the fastest or near it on every set tried."""

FEWEST_KEYS = 0.75
"""A block with fewer keys than this share of the most in its stack goes into another stack."""

_ALIGNED = 8  # GPU kernels ask for rows of a mask that are multiples of this

KeyValues = dict[Any, tuple[torch.Tensor, torch.Tensor]]
"""Keys and values by attention module, each (1, heads, tokens, width)."""


@dataclass(frozen=True)
class Stack:
    """Blocks with about equally many keys. Indices count the tokens of the forward pass (rows),
    or those behind all that it looks back on (keys); both are padded with tokens that exist.

    rows, row_depth   (blocks, BLOCK)
    keys, key_depth   (blocks, keys)
    seen              (blocks, BLOCK, keys) which keys are ancestors of the row, or the row itself
    """

    rows: NDArray[np.int64]
    row_depth: NDArray[np.int32]
    keys: NDArray[np.int64]
    key_depth: NDArray[np.int32]
    seen: NDArray[np.bool_]

    def within(self, window: int | None) -> NDArray[np.bool_]:
        """`seen`, but at most the last `window` tokens of a path."""
        if window is None:
            return self.seen
        return self.seen & (self.row_depth[:, :, None] - self.key_depth[:, None, :] < window)


@dataclass
class Sight:
    """What the tokens of one forward pass may look at.

    `place` says where each token's result lies in the stacks, one after another. `before` are
    keys and values that the pass looks back on; where `kept` is given, it leaves those and its own
    there, once for each of the modules that it has `met`.
    """

    stacks: list[Stack]
    place: NDArray[np.int64]
    before: KeyValues | None = None
    kept: KeyValues | None = None
    met: set[Any] = field(default_factory=set, repr=False)
    _ready: dict[Any, list[torch.Tensor]] = field(default_factory=dict, repr=False)

    def indices(self, device: torch.device) -> list[torch.Tensor]:
        """`place`, then rows and keys of each stack, on a device."""
        return self._once(device, lambda: [
            to_device(array.ravel(), device)
            for array in (self.place, *(a for s in self.stacks for a in (s.rows, s.keys)))
        ])  # fmt: skip

    def biases(
        self, device: torch.device, dtype: torch.dtype, window: int | None
    ) -> list[torch.Tensor]:
        """(blocks, 1, BLOCK, keys) for each stack: 0 where a key is seen, else minus infinity.

        With a sliding `window` only the last so many tokens of a path are seen.
        """
        if window is not None and all(stack.row_depth.max() < window for stack in self.stacks):
            window = None

        def make() -> list[torch.Tensor]:
            made = []
            for stack in self.stacks:
                mask = to_device(stack.within(window), device)[:, None]
                bias = torch.zeros(mask.shape, dtype=dtype, device=device)
                made.append(bias.masked_fill_(~mask, float("-inf")))
            return made

        return self._once((device, dtype, window), make)

    def _once(self, key: Any, make: Any) -> list[torch.Tensor]:
        if key not in self._ready:
            self._ready[key] = make()
        return self._ready[key]


def sight_of(
    end: NDArray[np.int32],
    depth: NDArray[np.int32],
    *,
    first: int = 0,
    stop: int | None = None,
    stem: int = 0,
    block: int = BLOCK,
) -> Sight:
    """What the tokens [first, stop) of a pack may look at, `first` and `stem` tokens behind them.

    `end` and `depth` are the whole pack's (see `packing`), `stem` the number of tokens before it.
    """
    stop = len(end) if stop is None else stop
    starts = range(first, stop, block)
    visible = [
        np.concatenate([np.flatnonzero(end[:at] > at), np.arange(at, min(at + block, stop))])
        for at in starts
    ]
    waiting = sorted(range(len(starts)), key=lambda number: -len(visible[number]))
    stacks = []
    place = np.empty(len(starts) * block, np.int64)
    filled = 0
    while waiting:
        most = stem + len(visible[waiting[0]])
        chosen = [n for n in waiting if stem + len(visible[n]) >= FEWEST_KEYS * most]
        waiting = waiting[len(chosen) :]
        rows = np.minimum(np.array(starts)[chosen][:, None] + np.arange(block), stop - 1)
        keys = np.zeros((len(chosen), -(-most // _ALIGNED) * _ALIGNED), np.int64)
        seen = np.zeros((*rows.shape, keys.shape[1]), bool)
        keys[:, :stem] = np.arange(stem)
        seen[:, :, :stem] = True
        for at, number in enumerate(chosen):
            own, row = visible[number], rows[at][:, None]
            span = slice(stem, stem + len(own))
            keys[at, span] = stem + own
            seen[at, :, span] = (own <= row) & (row < end[own])
            place[number * block : (number + 1) * block] = np.arange(filled, filled + block)
            filled += block
        deep = np.concatenate([np.arange(stem, dtype=np.int32), depth])
        stacks.append(Stack(rows - first, depth[rows], keys, deep[keys], seen))
    return Sight(stacks, place[: stop - first])


def to_device(array: NDArray[Any], device: torch.device) -> torch.Tensor:
    """An array as a tensor; to a GPU it travels while that is still busy with what came before."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


_looking: ContextVar[Sight] = ContextVar("looking")


@contextmanager
def looking(sight: Sight) -> Iterator[None]:
    """Forward passes of a model with this attention see what `sight` says."""
    token = _looking.set(sight)
    try:
        yield
    finally:
        _looking.reset(token)


def attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **other: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of one layer, with the signature of transformers' attention functions.

    query (1, heads, tokens, width); key and value may have fewer heads, each serving a group.
    Returns (1, tokens, heads, width). NotImplementedError for what would change the numbers and
    is not computed here (learned sinks, biases by position): the model is then scored plainly.
    """
    for name in ("s_aux", "position_bias"):
        if other.get(name) is not None:
            raise NotImplementedError(f"attention with {name}")
    sight = _looking.get()
    if sight.before is not None:
        keys_before, values_before = sight.before[module]
        key = torch.cat([keys_before, key], dim=2)
        value = torch.cat([values_before, value], dim=2)
    if sight.kept is not None:
        if module in sight.met:
            raise NotImplementedError("a layer that is used twice")
        sight.met.add(module)
        # A value may be a view of something larger, such as queries, keys and values in one.
        sight.kept[module] = key.contiguous(), value.clone()
    heads, groups = query.shape[1], query.shape[1] // key.shape[1]
    # Tokens first: a gathered row is then one run of memory, all heads of a token.
    q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    place, *indices = sight.indices(query.device)
    biases = sight.biases(query.device, query.dtype, sliding_window)
    parts = []
    for number, (stack, bias) in enumerate(zip(sight.stacks, biases, strict=True)):
        rows, keys = indices[2 * number : 2 * number + 2]
        blocks = len(stack.rows)
        some_q, some_k, some_v = (
            tensor.index_select(0, index).unflatten(0, (blocks, -1)).transpose(1, 2)
            for tensor, index in ((q, rows), (k, keys), (v, keys))
        )
        if groups > 1:
            some_k = some_k.repeat_interleave(groups, dim=1)
            some_v = some_v.repeat_interleave(groups, dim=1)
        if softcap is None:
            out = scaled_dot_product_attention(
                some_q, some_k, some_v, attn_mask=bias, scale=scaling
            )
        else:
            out = _capped(some_q, some_k, some_v, bias, scaling, softcap)
        parts.append(out.transpose(1, 2).reshape(-1, heads, out.shape[-1]))
    return torch.cat(parts).index_select(0, place)[None], None


def _capped(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bias: torch.Tensor,
    scaling: float | None,
    softcap: float,
) -> torch.Tensor:
    """Attention whose scores are bounded by softcap * tanh(score / softcap), as in Gemma 2."""
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    score = softcap * torch.tanh(query @ key.transpose(2, 3) * scale / softcap)
    return torch.softmax((score + bias).float(), dim=-1).to(value.dtype) @ value
