"""Attention over ancestors: a block of tokens beside the keys that it may need, and no others.

The model's own code calls `attend` in each layer, through the registry that transformers keeps for
such functions; `sight` says which blocks there are and what each may look at. Keys arrive with
their positions applied, so those of a stem can be kept and used again.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from downslope.sight import Index, Sight

NAME = "downslope"
"""What this attention is called in transformers' registry."""

_switching = threading.Lock()
_switched: dict[int, tuple[int, str | None]] = {}
"""By config: passes under way, and the attention that it named before the first of them."""


class GivenUp(Exception):
    """A pass in a lane ends at its next layer, since nobody waits for it."""


_looking: ContextVar[Sight] = ContextVar("looking")


@contextmanager
def looking(sight: Sight) -> Iterator[None]:
    """Forward passes of a model with this attention see what `sight` says."""
    token = _looking.set(sight)
    try:
        yield
    finally:
        _looking.reset(token)


@contextmanager
def ancestors_only(model: Any) -> Iterator[None]:
    """The model's layers call `attend`, until the last of its passes has ended, in any thread."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, attend)
    config = model.config
    with _switching:
        passes, own = _switched.get(id(config), (0, config._attn_implementation))
        _switched[id(config)] = passes + 1, own
        config._attn_implementation = NAME
    try:
        yield
    finally:
        with _switching:
            passes, own = _switched.pop(id(config))
            if passes > 1:
                _switched[id(config)] = passes - 1, own
            else:
                config._attn_implementation = own


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
    if sight.given_up.is_set():
        raise GivenUp("nobody waits for this pass")
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
    out = v.new_empty(len(q), heads, v.shape[2])
    indices = sight.indices(query.device)
    biases = sight.biases(query.device, query.dtype, sliding_window)
    for stack, (rows, keys), bias in zip(sight.stacks, indices, biases, strict=True):
        some_q, some_k, some_v = (
            _taken(tensor, index).unflatten(0, (len(stack.rows), -1)).transpose(1, 2)
            for tensor, index in ((q, rows), (k, keys), (v, keys))
        )
        if groups > 1:
            some_k = some_k.repeat_interleave(groups, dim=1)
            some_v = some_v.repeat_interleave(groups, dim=1)
        if softcap is None:
            found = scaled_dot_product_attention(
                some_q, some_k, some_v, attn_mask=bias, scale=scaling
            )
        else:
            found = _capped(some_q, some_k, some_v, bias, scaling, softcap)
        # A padded row stands for a token once more, with the same result.
        out[rows] = found.transpose(1, 2).flatten(0, 1)
    return out[None], None


def _taken(tensor: torch.Tensor, index: Index) -> torch.Tensor:
    return tensor[index] if isinstance(index, slice) else tensor.index_select(0, index)


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
