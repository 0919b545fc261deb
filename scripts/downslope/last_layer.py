"""The last layer, for those tokens alone after which something is predicted.

Of most tokens nobody asks what the last layer makes of them: later tokens look at their keys and
values there, and no further layer follows. So that layer is asked twice: for the keys and values
of all tokens, up to where it would attend (queries come with them, and are dropped); then as a
whole, for the wanted tokens alone.

    tokens   The cat sat dog      keys and values          The cat sat dog
    wanted           x   x        attention, feed-forward          sat dog

Its output has a row for every token again, with zeros for those that nobody asks for, so that the
model's own code behind it finds what it expects.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch

from downslope.sight import Sight, sight_at_hand


@dataclass
class LastLayer:
    """The last layer of a pass: what its wanted tokens look at, and, once the layer's attention
    (`module`) has been met, keys and values of all tokens."""

    sight: Sight
    module: Any = None
    keys_values: tuple[torch.Tensor, torch.Tensor] | None = None


class KeysFound(Exception):
    """The last layer has come to its attention: keys and values of all tokens are known."""


def narrow_last_layer(model: Any) -> Callable[[], None]:
    """From here on the last layer computes what a pass wants of it (`Sight.wanted`), until the
    returned function is called. A model without one list of its layers stays as it is."""
    count = getattr(model.config, "num_hidden_layers", None)
    lists = [
        module
        for module in model.base_model.modules()
        if isinstance(module, torch.nn.ModuleList) and len(module) == count
    ]
    if len(lists) != 1:
        return lambda: None
    handles = (
        lists[0][-1].register_forward_pre_hook(_narrowed, with_kwargs=True),
        lists[0][-1].register_forward_hook(_widened),
    )

    def widen() -> None:
        for handle in handles:
            handle.remove()

    return widen


def _narrowed(
    layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Any, dict[str, Any]] | None:
    """The layer's arguments, for wanted tokens only, once it has made all keys and values."""
    sight = sight_at_hand()
    if sight is None or sight.wanted is None:
        return None
    hidden = args[0] if args else kwargs.get("hidden_states")
    if getattr(hidden, "shape", ())[:-1] != (1, sight.tokens):
        return None  # a layer of another kind, whose tokens lie elsewhere
    sight.last = LastLayer(sight.only(sight.wanted))
    with suppress(KeysFound):
        layer.forward(*args, **kwargs)
    if sight.last.keys_values is None:  # its attention is of another kind: it computes all tokens
        sight.last = None
        return None
    return _rows(args, sight), {name: _rows(value, sight) for name, value in kwargs.items()}


def _rows(value: Any, sight: Sight) -> Any:
    """The wanted tokens of whatever has one row a token, behind a batch of one or not."""
    if isinstance(value, tuple | list):
        return type(value)(_rows(one, sight) for one in value)
    if not isinstance(value, torch.Tensor):
        return value
    shape = tuple(value.shape)
    if shape[:2] == (1, sight.tokens):
        return value.index_select(1, sight.wanted_on(value.device))
    if shape[:1] == (sight.tokens,):
        return value.index_select(0, sight.wanted_on(value.device))
    return value


def _widened(layer: Any, args: tuple[Any, ...], output: Any) -> Any:
    """The layer's output with a row for every token again."""
    sight = sight_at_hand()
    if sight is None or sight.last is None:
        return None
    hidden, *rest = output if isinstance(output, tuple) else (output,)
    wide = hidden.new_zeros(1, sight.tokens, *hidden.shape[2:])
    wide[:, sight.wanted_on(hidden.device)] = hidden
    return (wide, *rest) if isinstance(output, tuple) else wide
