"""What the tokens of one forward pass may look at: blocks of them, and the keys of each block.

In depth-first order (see `packing`) most of a pack is strangers to any one token; a mask over all
pairs spends nearly all of its work on them. So queries are taken in blocks of consecutive tokens.
What a block needs to see, besides itself, is the path that leads to its first token: an ancestor
of a later token that lies before the block is an ancestor of the first one too.

    stem  s0 s1 s2          a beginning that the pack shares with others, computed before
    pack   0  1  2 | 3  4   two blocks; 3 is a child of 0, and 4 of 3

    keys of the block (3, 4):   s0 s1 s2  0  3  4        1 and 2 are never touched

Where a long path has ended, a new block begins, which need not look at it. For a GPU, blocks with
about equally many keys are stacked, to be computed at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

if TYPE_CHECKING:
    from downslope.last_layer import LastLayer

BLOCK = 64
"""Most queries in a block: of 64 to 256, the fastest or near it on every set tried, on a CPU."""

STACKED_BLOCK = 128
"""The same where blocks are stacked: half as many keys to gather."""

FEWEST_KEYS = 0.75
"""A block with fewer keys than this share of the most in its stack goes into another stack."""

_ALIGNED = 8  # GPU kernels ask for rows of a mask that are multiples of this

KeyValues = dict[Any, tuple[torch.Tensor, torch.Tensor]]
"""Keys and values by attention module, each (1, heads, tokens, width)."""

Index = slice | torch.Tensor
"""Tokens of a pass: a run of neighbours, which are looked at in place, or their numbers."""


@dataclass(frozen=True)
class Stack:
    """Blocks with about equally many keys. Rows count the tokens of the forward pass; keys count
    all that it looks back on, then its own. Both are padded with tokens that exist.

    rows, row_depth   (blocks, tokens)
    keys, key_depth   (blocks, keys)
    seen              (blocks, tokens, keys) which keys are ancestors of the row, or the row itself
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

    def only(self, tokens: NDArray[np.int64]) -> Stack | None:
        """The same for those rows alone that are among `tokens` (ascending), counted by their
        place there; None where none is."""
        among = np.isin(self.rows, tokens)
        among[:, 1:] &= self.rows[:, 1:] != self.rows[:, :-1]  # padding repeats the last row
        blocks = np.flatnonzero(among.any(axis=1))
        if not len(blocks):
            return None
        # Rows that stay come first, in their order; what is short of the most repeats its last.
        count = among[blocks].sum(axis=1)
        place = np.minimum(np.arange(count.max()), count[:, None] - 1)
        column = np.take_along_axis(np.argsort(~among[blocks], axis=1, kind="stable"), place, 1)
        at = blocks[:, None], column
        return Stack(
            rows=np.searchsorted(tokens, self.rows[at]),
            row_depth=self.row_depth[at],
            keys=self.keys[blocks],
            key_depth=self.key_depth[blocks],
            seen=self.seen[at],
        )


@dataclass
class Sight:
    """What the `tokens` of one forward pass may look at.

    `before` are keys and values that the pass looks back on; where `kept` is given, it leaves those
    and its own there, once for each of the modules that it has `met`. Where only some tokens are
    `wanted` (ascending), the last layer makes nothing of the others but keys and values (see
    `last_layer`). When nobody waits for the pass any more, it is `given_up`.
    """

    stacks: list[Stack]
    tokens: int
    before: KeyValues | None = None
    kept: KeyValues | None = None
    given_up: threading.Event = field(default_factory=threading.Event)
    met: set[Any] = field(default_factory=set, repr=False)
    wanted: NDArray[np.int64] | None = None
    last: LastLayer | None = None
    _ready: dict[Any, list[Any]] = field(default_factory=dict, repr=False)

    def only(self, tokens: NDArray[np.int64]) -> Sight:
        """What some tokens (ascending) may look at, as rows of their own."""
        stacks = (stack.only(tokens) for stack in self.stacks)
        return Sight([stack for stack in stacks if stack is not None], len(tokens))

    def indices(self, device: torch.device) -> list[tuple[Index, Index]]:
        """Rows and keys of each stack, on a device."""
        return self._once(device, lambda: [
            (_index(stack.rows, device), _index(stack.keys, device)) for stack in self.stacks
        ])  # fmt: skip

    def wanted_on(self, device: torch.device) -> torch.Tensor:
        """The wanted tokens' numbers, on a device; where nothing is said, all are wanted."""
        wanted = np.arange(self.tokens) if self.wanted is None else self.wanted
        return self._once(("wanted", device), lambda: [to_device(wanted, device)])[0]

    def biases(
        self, device: torch.device, dtype: torch.dtype, window: int | None
    ) -> list[torch.Tensor]:
        """(blocks, 1, tokens, keys) for each stack: 0 where a key is seen, else minus infinity.

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

    def _once(self, key: Any, make: Callable[[], list[Any]]) -> list[Any]:
        if key not in self._ready:
            self._ready[key] = make()
        return self._ready[key]


_looking: ContextVar[Sight | None] = ContextVar("looking", default=None)


@contextmanager
def looking(sight: Sight) -> Iterator[None]:
    """Forward passes of a model in this thread see what `sight` says."""
    token = _looking.set(sight)
    try:
        yield
    finally:
        _looking.reset(token)


def sight_at_hand() -> Sight | None:
    """What the forward pass that this thread is at may look at; None where it is at none."""
    return _looking.get()


def sight_of(
    end: NDArray[np.int32],
    depth: NDArray[np.int32],
    *,
    first: int = 0,
    stop: int | None = None,
    stem: int = 0,
    stacked: bool = False,
    block: int | None = None,
) -> Sight:
    """What the tokens [first, stop) of a pack may look at, with `first` tokens of the pack and
    `stem` tokens before them.

    `end` and `depth` are the whole pack's (see `packing`), `stem` the number of tokens before it.
    Stacking saves a GPU many small kernels; for a CPU, padding would only be more to compute.
    """
    stop = len(end) if stop is None else stop
    block = block or (STACKED_BLOCK if stacked else BLOCK)
    blocks = list(pairwise([*_starts(depth, first, stop, block), stop]))
    visible = [
        np.concatenate([np.flatnonzero(end[:one] > one), np.arange(one, other)])
        for one, other in blocks
    ]
    waiting = list(range(len(blocks)))
    if stacked:
        waiting.sort(key=lambda number: -len(visible[number]))
    deep = np.concatenate([np.arange(stem, dtype=np.int32), depth])
    stacks = []
    while waiting:
        chosen, most = waiting[:1], stem + len(visible[waiting[0]])
        if stacked:
            chosen = [n for n in waiting if stem + len(visible[n]) >= FEWEST_KEYS * most]
            most = -(-most // _ALIGNED) * _ALIGNED
        waiting = waiting[len(chosen) :]
        starts, stops = np.array([blocks[number] for number in chosen]).T[:, :, None]
        rows = np.minimum(starts + np.arange((stops - starts).max()), stops - 1)
        keys = np.zeros((len(chosen), most), np.int64)
        seen = np.zeros((*rows.shape, most), bool)
        keys[:, :stem] = np.arange(stem)
        seen[:, :, :stem] = True
        for at, number in enumerate(chosen):
            own, row = visible[number], rows[at][:, None]
            span = slice(stem, stem + len(own))
            keys[at, span] = stem + own
            seen[at, :, span] = (own <= row) & (row < end[own])
        stacks.append(Stack(rows - first, depth[rows], keys, deep[keys], seen))
    return Sight(stacks, stop - first)


def _starts(depth: NDArray[np.int32], first: int, stop: int, block: int) -> list[int]:
    """First tokens of blocks of at most `block` tokens, as equally long as can be between places
    where a path of more than that has ended."""
    ended = first + 1 + np.flatnonzero(np.diff(depth[first:stop]) < -block)
    starts: list[int] = []
    for one, other in pairwise([first, *ended.tolist(), stop]):
        count = -(-(other - one) // block)
        starts += [one + (other - one) * number // count for number in range(count)]
    return starts


def _index(numbers: NDArray[np.int64], device: torch.device) -> Index:
    """Tokens by their numbers; neighbours in order need not be gathered."""
    flat = numbers.ravel()
    if (np.diff(flat) == 1).all():
        return slice(int(flat[0]), int(flat[-1]) + 1)
    return to_device(flat, device)


def to_device(array: NDArray[Any], device: torch.device) -> torch.Tensor:
    """An array as a tensor; to a GPU it travels while that is still busy with what came before."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
