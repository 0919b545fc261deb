"""Attention over ancestors: a block of tokens beside the keys that it may need, and no others.

The model's own code calls `attend` in each layer, through the registry that transformers keeps for
such functions; `sight` says which blocks there are and what each may look at. Keys arrive with
their positions applied, so those of a stem can be kept and used again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from downslope.last_layer import KeysFound, narrow_last_layer
from downslope.products import take_products
from downslope.sight import Index, Sight, sight_at_hand

NAME = "downslope"
"""What this attention is called in transformers' registry."""

_switching = threading.Lock()
_switched: dict[int, tuple[int, Callable[[], None]]] = {}
"""By config: passes under way, and what leaves the model as it was before the first of them."""


class GivenUp(Exception):
    """A pass in a lane ends at its next layer, since nobody waits for it."""


@contextmanager
def ancestors_only(model: Any) -> Iterator[None]:
    """The model's layers call `attend`, until the last of its passes has ended, in any thread."""
    key = id(model.config)
    with _switching:
        passes, restore = _switched.get(key) or (0, _switch(model))
        _switched[key] = passes + 1, restore
    try:
        yield
    finally:
        with _switching:
            passes, restore = _switched.pop(key)
            if passes > 1:
                _switched[key] = passes - 1, restore
            else:
                restore()


def _switch(model: Any) -> Callable[[], None]:
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, attend)
    give_back, widen = take_products(model), narrow_last_layer(model)
    config, own = model.config, model.config._attn_implementation
    config._attn_implementation = NAME

    def restore() -> None:
        config._attn_implementation = own
        widen()
        give_back()

    return restore


def attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    scaling: float | None = None,
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
    # Qwen2-MoE says its window in its masks alone, which are not looked at; its layers know it.
    window = other.get("sliding_window", getattr(module, "sliding_window", None))
    sight = sight_at_hand()
    if sight is None:
        raise RuntimeError("attention outside of a pass")
    if sight.given_up.is_set():
        raise GivenUp("nobody waits for this pass")
    last = sight.last
    if last is not None and last.keys_values is not None:
        if module is not last.module:
            raise NotImplementedError("more attention behind that of the last layer")
        (key, value), sight = last.keys_values, last.sight
    else:
        key, value = _with_those_before(sight, module, key, value)
        if last is not None:
            last.module, last.keys_values = module, (key, value)
            raise KeysFound
    heads, groups = query.shape[1], query.shape[1] // key.shape[1]
    # Tokens first: a gathered row is then one run of memory, all heads of a token.
    q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    out = v.new_empty(len(q), heads, v.shape[2])
    indices = sight.indices(query.device)
    biases = sight.biases(query.device, query.dtype, window)
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


def _with_those_before(
    sight: Sight, module: Any, key: torch.Tensor, value: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values behind those that the pass looks back on; kept, where it keeps them."""
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
    return key, value


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
