"""The scoring engine: log-likelihoods of the requests of a pack under a model.

Packed path: the whole pack is one sequence of batch 1. Each token gets its depth as position id
and attends to its ancestors only (see `packing` for the picture, `attention` for how), so one
forward pass scores every branch of every tree, and each distinct token is computed once. Keys and
values of a stem are computed once for all packs that share it. Logits are computed only at tokens
that predict a token of an answer (`head`).

Plain path: each distinct sequence by itself, in right-padded batches, sorted by length. It serves
models that cannot take such a mask (ALiBi, recurrent ones). Whole: one sequence at a time through
all of the model's own code, for what is stranger than that. Which path a model takes is found out
when it is loaded (`self_check`).
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from downslope.attention import NAME, KeyValues, attend, looking, sight_of, to_device
from downslope.head import Head
from downslope.packing import Pack
from downslope.plain import Batch, batches

PLAIN_BATCH_TOKENS = 1024
"""Tokens, padding included, of one batch of the plain path."""

_SHORT_OF_MEMORY = (
    *("out of memory", "not enough memory", "can't allocate memory", "ALLOC_FAILED"),
)

LEAST_INNER = 16
"""Tokens of the smallest part of a pack; where even that does not fit, memory is really short."""

Scores = tuple[NDArray[np.float32], NDArray[np.bool_]]
"""Log-likelihood (natural log) and greedy flag of each request of a pack."""

Found = tuple[torch.Tensor, torch.Tensor]
"""Log-probability of each target of a pack, and whether no token is likelier; on the device."""


@dataclass
class Scorer:
    """A causal language model that scores packs.

    `path` is `packed`, `plain` or `whole` (see `self_check`). `inner` bounds the tokens of one
    forward pass, and is None until memory has run out. The pack, not the pass, decides what a
    token sees, so passes over parts of a pack give the same scores but for rounding.
    """

    model: Any
    path: str = "packed"
    inner: int | None = None
    _stem: tuple[bytes, KeyValues | None] = field(default=(b"", None), repr=False)
    _pass: tuple[int, int] = field(default=(0, 0), repr=False)  # its tokens, the fewest possible

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.model.parameters()).dtype

    def score_packs(self, packs: Iterable[Pack]) -> Iterator[Scores]:
        """Scores of each pack, in order.

        On a GPU the next pack is laid out and launched before the last one's numbers are asked
        for, so that the device does not wait for Python.
        """
        launched: list[tuple[Pack, Found]] = []
        for pack in packs:
            launched.append((pack, self._launch(pack)))
            if self.device.type == "cpu" or len(launched) > 1:
                yield _added_up(*launched.pop(0))
        for waiting in launched:
            yield _added_up(*waiting)

    def score_pack(self, pack: Pack) -> Scores:
        """Scores of one pack.

        A request's log-likelihood is the sum over its answer's tokens; it is greedy when at each
        of them no other token is more probable.
        """
        (scores,) = self.score_packs([pack])
        return scores

    def target_logprobs(self, pack: Pack) -> NDArray[np.float64]:
        """(targets,) log-probability of each target of a pack."""
        return self._launch(pack)[0].cpu().numpy()

    @torch.inference_mode()
    def _launch(self, pack: Pack) -> Found:
        """Score a pack; out of memory, once more with passes of half the tokens, and so on, down to
        LEAST_INNER of a pack (`packed`) or to a sequence by itself."""
        while True:
            try:
                return self._packed(pack) if self.path == "packed" else self._plain(pack)
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if not out_of_memory(error):
                    raise
                tokens, least = self._pass
                if tokens <= least:
                    raise
                self.inner = max(least, tokens // 2)
                self._stem = (b"", None)
            # Outside the handler, whose traceback holds on to the tensors of the failed pass.
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            logging.getLogger("downslope").warning(
                "out of memory: at most %d tokens%s are computed at once from here on; scores "
                "change by rounding only",
                *(self.inner, "" if self.path == "packed" else ", or one longer sequence,"),
            )

    def _packed(self, pack: Pack) -> Found:
        if not len(pack.stem):
            self._stem = (b"", None)
        before = self._stem_of(pack.stem) if len(pack.stem) else None
        positions, row = np.unique(pack.target_position, return_inverse=True)
        hidden = self._hidden(pack.tokens, pack.depth, pack.end, before, positions)
        return Head.of(self.model).logprobs(hidden, row, pack.target_token)

    def _stem_of(self, stem: NDArray[np.int32]) -> KeyValues:
        """Keys and values of a stem: those at hand, or computed by itself, whatever came before.

        A job that goes on in the middle finds the same bytes as one that began at the beginning.
        """
        tokens, kept = self._stem
        if kept is None or tokens != stem.tobytes():
            self._stem = (b"", None)
            kept = {}
            chain = np.arange(len(stem), dtype=np.int32)
            end = np.full(len(stem), len(stem), np.int32)
            self._hidden(stem, chain, end, None, chain[:0], kept)
            self._stem = (stem.tobytes(), kept)
        return kept

    def _hidden(
        self,
        tokens: NDArray[np.int32],
        depth: NDArray[np.int32],
        end: NDArray[np.int32],
        before: KeyValues | None,
        positions: NDArray[Any],
        kept: KeyValues | None = None,
    ) -> torch.Tensor:
        """(positions, hidden) last hidden states, in one pass or in several of `inner` tokens.

        Keys and values of all tokens are left in `kept`, if given.
        """
        size = min(self.inner or len(tokens), len(tokens))
        self._pass = size, LEAST_INNER
        stem = int(depth[0])
        rows = []
        for first in range(0, len(tokens), size):
            stop = min(first + size, len(tokens))
            sight = sight_of(end, depth, first=first, stop=stop, stem=stem)
            sight.before = before
            sight.kept = kept if kept is not None or stop == len(tokens) else {}
            ids, positions_of = (
                to_device(array[None, first:stop].astype(np.int64), self.device)
                for array in (tokens, depth)
            )
            with _ancestors_only(self.model), looking(sight):
                hidden = self.model.base_model(
                    input_ids=ids, position_ids=positions_of, use_cache=False
                ).last_hidden_state
            before = sight.kept
            wanted = positions[(positions >= first) & (positions < stop)] - first
            rows.append(hidden[0].index_select(0, to_device(wanted, hidden.device)))
        return torch.cat(rows)

    def _plain(self, pack: Pack) -> Found:
        most = min(self.inner or PLAIN_BATCH_TOKENS, PLAIN_BATCH_TOKENS)
        order, parts = [], []
        for batch in batches(pack, 1 if self.path == "whole" else most):
            self._pass = batch.ids.size, batch.ids.shape[1]
            order.append(batch.targets)
            parts.append(self._read(batch))
        logprob, top = (torch.cat(part) for part in zip(*parts, strict=True))
        back = to_device(np.argsort(np.concatenate(order)), logprob.device)
        return logprob[back], top[back]

    def _read(self, batch: Batch) -> Found:
        """Log-probability of each target of a batch, and whether no token is likelier."""
        ids = to_device(batch.ids, self.device)
        if self.path == "plain":
            hidden = self.model.base_model(input_ids=ids, use_cache=False).last_hidden_state
            flat = batch.number * batch.ids.shape[1] + batch.depth
            positions, row = np.unique(flat, return_inverse=True)
            kept = hidden.flatten(0, 1)[to_device(positions, hidden.device)]
            return Head.of(self.model).logprobs(kept, row, batch.token)
        columns, column = np.unique(batch.depth, return_inverse=True)
        keep = to_device(columns.astype(np.int64), self.device)
        if "logits_to_keep" in inspect.signature(self.model.forward).parameters:
            logits = self.model(input_ids=ids, use_cache=False, logits_to_keep=keep).logits
        else:
            logits = self.model(input_ids=ids, use_cache=False).logits[:, keep]
        wanted = (batch.number, column, batch.token)
        at = (to_device(array.astype(np.int64), logits.device) for array in wanted)
        return _of_logits(logits.float(), *at)


def _of_logits(
    logits: torch.Tensor, number: torch.Tensor, column: torch.Tensor, token: torch.Tensor
) -> Found:
    """Log-probability of each token, and whether no token is likelier, from (batch, columns,
    vocabulary) logits."""
    chosen = logits[number, column, token].double()
    normaliser = torch.logsumexp(logits, dim=-1)[number, column].double()
    return chosen - normaliser, chosen >= logits.amax(-1)[number, column]


def _added_up(pack: Pack, found: Found) -> Scores:
    """Sums over the answers' tokens."""
    logprob, top = (tensor.cpu().numpy() for tensor in found)
    begins = pack.request_start[:-1]
    total = np.add.reduceat(logprob[pack.request_targets], begins)
    greedy = np.logical_and.reduceat(top[pack.request_targets], begins)
    return total.astype(np.float32), greedy


def out_of_memory(error: Exception) -> bool:
    """Whether memory ran out, on a GPU or (where torch has no class of its own for it) a CPU."""
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(text in str(error) for text in _SHORT_OF_MEMORY)
    )


@contextmanager
def _ancestors_only(model: Any) -> Iterator[None]:
    """The model's layers attend as `attention` says."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, attend)
    own = model.config._attn_implementation
    model.config._attn_implementation = NAME
    try:
        yield
    finally:
        model.config._attn_implementation = own
