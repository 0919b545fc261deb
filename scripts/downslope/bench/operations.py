"""What scoring needs at least, counted in operations, and how fast this machine multiplies.

The share of the matrix rate that a benchmark prints is useful work over possible work. Useful is
what no layout can avoid: the products of the model's body for each distinct token, attention from
each of them to its ancestors and itself, the output layer where an answer is predicted. Of the last
layer only keys and values are needed of every token, and the rest where an answer is predicted.

    requests      The cat sat | on        distinct tokens        The cat sat dog
                  The cat sat | down      depth                    0   1   2   1
                  The dog     | ran       pairs with ancestors     1 + 2 + 3 + 2 = 8
                                          rows of the head       after `sat` and after `dog`: 2
                                          their pairs              3 + 2 = 5

A multiplication with its addition counts as two operations, as machines are rated.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from downslope.products import onednn_multiplies, product
from downslope.protocols import Request

SIDE = 4096
"""Rows and columns of the matrices whose product is the machine's matrix rate."""

_AT_ONCE = {"cpu": 1, "cuda": 50}  # products between two readings of the clock


@dataclass(frozen=True)
class Needed:
    """Distinct tokens of a set of requests, their pairs with an ancestor or themselves, the tokens
    among them after which something is predicted, and the pairs of those."""

    tokens: int
    pairs: int
    rows: int
    row_pairs: int


def needed(requests: Sequence[Request]) -> Needed:
    """What any way of scoring these requests has to compute.

    Sorted by what is read, a request adds to the tree what lies behind the beginning that it
    shares with the one before it.
    """
    reads = sorted(
        ((request.tokens[:-1], request.answer) for request in requests), key=lambda pair: pair[0]
    )
    tokens = pairs = 0
    rows: dict[int, int] = {}  # depth, from 1, by number
    before = np.zeros(0, np.int64)
    nodes = np.zeros(0, np.int64)  # of the tokens of `before`, as numbers
    for read, answer in reads:
        ids = np.asarray(read, np.int64)
        least = min(len(ids), len(before))
        differs = ids[:least] != before[:least]
        shared = int(differs.argmax()) if differs.any() else least
        added = len(ids) - shared
        nodes = np.concatenate([nodes[:shared], np.arange(tokens, tokens + added)])
        tokens += added
        pairs += (len(ids) * (len(ids) + 1) - shared * (shared + 1)) // 2
        first = len(ids) - answer
        rows.update(zip(nodes[first:].tolist(), range(first + 1, len(ids) + 1), strict=True))
        before = ids
    return Needed(tokens, pairs, len(rows), sum(rows.values()))


@dataclass(frozen=True)
class Costs:
    """Operations of a model for one token, pair, row and pair of a row, as `Needed` counts them."""

    token: int
    pair: int
    row: int
    row_pair: int

    def of(self, needed: Needed) -> int:
        return (
            self.token * needed.tokens
            + self.pair * needed.pairs
            + self.row * needed.rows
            + self.row_pair * needed.row_pairs
        )


def costs_of(model: Any) -> Costs:
    """The costs of a causal language model, from the layers that it has.

    Every weight of a linear layer is used once for each token, in the last layer those for keys and
    values; the others there, and those of the output layer, once for each row. Attention takes a
    product for the scores and one for the values, as wide as the hidden states, in each layer.
    """
    from transformers.pytorch_utils import Conv1D  # GPT-2's linear layer, its weight transposed

    def weights(part: Any) -> int:
        linear = (m for m in part.modules() if isinstance(m, torch.nn.Linear | Conv1D))
        return sum(module.weight.numel() for module in linear)

    config = model.config
    (layers,) = (m for m in model.modules() if isinstance(m, torch.nn.ModuleList))
    heads = config.num_attention_heads
    groups = getattr(config, "num_key_value_heads", None) or heads
    keys_values = 2 * config.hidden_size * config.hidden_size * groups // heads
    pair = 4 * config.hidden_size
    return Costs(
        token=2 * (sum(map(weights, layers[:-1])) + keys_values),
        pair=pair * (len(layers) - 1),
        row=2 * (weights(layers[-1]) - keys_values + model.get_output_embeddings().weight.numel()),
        row_pair=pair,
    )


@dataclass
class MatrixRate:
    """Products of two square matrices, timed again and again between the runs of a benchmark.

    They are made as the engine makes its own (see `products`); `torch_rates` are those of torch's.
    """

    device: torch.device
    dtype: torch.dtype
    rates: list[float] = field(default_factory=list)
    torch_rates: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        sides = (torch.randn(SIDE, SIDE, generator=generator) for _ in range(2))
        self._one, self._other = (side.to(self.device, self.dtype) for side in sides)
        self.take()
        self.rates.clear()  # the first one found a cold machine
        self.take()

    def take(self) -> float:
        """Operations per second of the product, now."""
        self.rates.append(self._timed(product))
        return self.rates[-1]

    def take_torch(self) -> None:
        """Time torch's own product, where the engine's is another."""
        if onednn_multiplies(self.dtype, self.device):
            self.torch_rates.append(self._timed(torch.nn.functional.linear))

    def _timed(self, multiply: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> float:
        count = _AT_ONCE[self.device.type]

        def work() -> None:
            for _ in range(count):
                multiply(self._one, self._other)

        return count * 2 * SIDE**3 / seconds_of(work, self.device)

    @property
    def median(self) -> float:
        return statistics.median(self.rates)

    @property
    def seconds(self) -> float:
        """What taking it once costs."""
        return _AT_ONCE[self.device.type] * 2 * SIDE**3 / self.median


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """How long the device takes for some work."""
    wait_for(device)
    begun = time.perf_counter()
    work()
    wait_for(device)
    return time.perf_counter() - begun


def wait_for(device: torch.device) -> None:
    """Return when the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
