"""The output layer, only where an answer is predicted, and never more than a block of it at once.

A vocabulary of 50,304 makes the logits of one token 200 KB: of a pack they would be larger than
the model's own activations. So rows are taken some at a time and the vocabulary in columns; the
softmax's normaliser is summed along the way, in float32 whatever the model's dtype.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from downslope.products import product
from downslope.sight import to_device

ROWS, COLUMNS = 1024, 4096
"""Logits held at once: 16 MB in float32. Fewer rows make slower products, more columns leave
the cache before the softmax has read them."""

_LOG2_E = float(np.float32(math.log2(math.e)))  # as the products below round it

_SOFTCAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
"""What Gemma 2, RecurrentGemma and xLSTM call theirs."""

Found = tuple[torch.Tensor, torch.Tensor]
"""(targets,) each: log-probability of a target, and whether no token is likelier; on the device."""

_LOWEST = torch.finfo(torch.float32).min / 2
"""Finite, also times log2(e), so that columns of minus infinity add nothing."""


@dataclass(frozen=True)
class Head:
    """A model's output layer: weight (vocabulary, hidden), bias (vocabulary,) or None.

    `softcap` bounds logits by softcap * tanh(logit / softcap) (Gemma 2), `scale` multiplies them
    (Cohere, Falcon-H1; its inverse in Granite).
    """

    weight: torch.Tensor
    bias: torch.Tensor | None = None
    softcap: float | None = None
    scale: float = 1.0

    @classmethod
    def of(cls, model: Any) -> Head:
        """The output layer of a causal language model; TypeError where it is no linear layer."""
        layer, config = model.get_output_embeddings(), model.config.get_text_config()
        if not isinstance(layer, torch.nn.Linear):
            raise TypeError(f"its output layer is {type(layer).__name__}, not linear")
        return cls(
            layer.weight,
            layer.bias,
            next((cap for name in _SOFTCAPS if (cap := getattr(config, name, None))), None),
            (getattr(config, "logit_scale", None) or 1.0)
            * (getattr(config, "lm_head_multiplier", None) or 1.0)
            / (getattr(config, "logits_scaling", None) or 1.0),
        )

    def logprobs(self, hidden: torch.Tensor, row: NDArray[Any], token: NDArray[Any]) -> Found:
        """Log-probability of `token` after `hidden[row]`, and whether no token is likelier.

        hidden (rows, hidden); row and token (targets,). Returns float64 and bool, (targets,) each,
        on the device of the weights; NaN for a token that is not in the vocabulary.
        """
        device = self.weight.device
        hidden = hidden.to(device)
        order = np.argsort(row, kind="stable")
        row, token = row[order].astype(np.int64), token[order].astype(np.int64)
        parts = []
        for first in range(0, len(hidden), ROWS):
            span = slice(*np.searchsorted(row, (first, first + ROWS)))
            here = (to_device(array, device) for array in (row[span] - first, token[span]))
            parts.append(self._some(hidden[first : first + ROWS], *here))
        back = to_device(np.argsort(order), device)
        logprob, top = (torch.cat(part)[back] for part in zip(*parts, strict=True))
        return logprob, top

    def _some(self, hidden: torch.Tensor, row: torch.Tensor, token: torch.Tensor) -> Found:
        """The same for at most ROWS rows: one pass over the vocabulary, with a running maximum."""
        largest = hidden.new_full((len(hidden), 1), _LOWEST, dtype=torch.float32)
        total = torch.zeros_like(largest)
        shift = largest * _LOG2_E
        chosen = hidden.new_full((len(token),), math.nan, dtype=torch.float32)
        for first in range(0, len(self.weight), COLUMNS):
            logits = self._logits(hidden, slice(first, first + COLUMNS))
            inside = (token >= first) & (token < first + logits.shape[1])
            at = torch.where(inside, token - first, 0)
            chosen = torch.where(inside, logits[row, at], chosen)
            largest = torch.maximum(largest, logits.amax(1, keepdim=True)).clamp_(min=_LOWEST)
            # 2 ** (x * log2(e)) is exp(x) at half its price, and the product comes with the
            # difference that is taken anyway. What `shift` is rounded by is taken back below.
            before, shift = shift, largest * _LOG2_E
            total *= torch.exp2(before - shift)
            shifted = torch.add(-shift, logits, alpha=_LOG2_E, out=logits)
            total += shifted.exp2_().sum(1, keepdim=True)
        top = chosen >= largest[row, 0]
        normaliser = shift.double() / _LOG2_E + total.double().log()
        return chosen.double() - normaliser[row, 0], top

    def _logits(self, hidden: torch.Tensor, columns: slice) -> torch.Tensor:
        """(rows, columns) logits in float32, accumulated in it from weights of any dtype."""
        weight = self.weight[columns]
        if weight.dtype != torch.float32 and weight.device.type != "cpu":
            logits = torch.mm(hidden.to(weight.dtype), weight.T, out_dtype=torch.float32)
        else:
            logits = product(hidden.float(), weight.float())
        if self.bias is not None:
            logits += self.bias[columns]
        if self.scale != 1.0:
            logits *= self.scale
        if self.softcap is not None:
            logits = torch.tanh_(logits.div_(self.softcap)).mul_(self.softcap)
        return logits
