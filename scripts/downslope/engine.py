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

import logging
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from downslope.attention import ancestors_only
from downslope.head import Found, Head
from downslope.lanes import lanes
from downslope.packing import Pack
from downslope.plain import batches, read
from downslope.shortage import out_of_memory, refuse_without_products
from downslope.sight import KeyValues, looking, sight_of, to_device

PLAIN_BATCH_TOKENS = 1024
"""Tokens, padding included, of one batch of the plain path."""

NARROW = 0.5
"""Where at most this share of tokens predicts, the last layer is computed for them alone: it makes
their queries, keys and values twice."""

LEAST_INNER = 16
"""Tokens of the smallest part of a pack; where even that does not fit, memory is really short."""

Scores = tuple[NDArray[np.float32], NDArray[np.bool_]]
"""Log-likelihood (natural log) and greedy flag of each request of a pack."""


class _Pass(threading.local):
    """The forward pass that a thread is at: its tokens, and the fewest that one could have."""

    tokens = least = 0


@dataclass
class Scorer:
    """A causal language model that scores packs.

    `path` is `packed`, `plain` or `whole` (see `self_check`). `inner` bounds the tokens of one
    forward pass, and is None until memory has run out. The pack, not the pass, decides what a
    token sees, so passes over parts of a pack give the same scores but for rounding. Where at most
    the share `narrow` of a pass's tokens predicts, its last layer is computed for these alone, with
    0 never. On a CPU the packed path takes `lanes` packs at once (see `lanes`) on `threads`.
    """

    model: Any
    path: str = "packed"
    inner: int | None = None
    narrow: float = NARROW
    lanes: int = 1
    threads: int = field(default_factory=torch.get_num_threads)
    _stem: tuple[bytes, KeyValues | None] = field(default=(b"", None), repr=False)
    _stem_lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _pass: _Pass = field(default_factory=_Pass, repr=False)
    _given_up: threading.Event = field(default_factory=threading.Event, repr=False)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.model.parameters()).dtype

    def score_packs(self, packs: Iterable[Pack]) -> Generator[Scores]:
        """Scores of each pack, in order.

        On a GPU the next pack is laid out and launched before the last one's numbers are asked
        for, so that the device does not wait for Python; with lanes, one is waiting for the first
        lane that is free. Who stops early closes the iterator, so that lanes end too.
        """
        launched: deque[tuple[Pack, Callable[[], Found]]] = deque()
        with self._launching() as (launch, ahead):
            for pack in packs:
                launched.append((pack, launch(pack)))
                if len(launched) > ahead:
                    pack, found = launched.popleft()
                    yield _added_up(pack, found())
            for pack, found in launched:
                yield _added_up(pack, found())

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

    @contextmanager
    def _launching(self) -> Iterator[tuple[Callable[[Pack], Callable[[], Found]], int]]:
        """What launches a pack, to be asked for its numbers later, and how many may be launched
        before the first is asked for them."""

        def now(pack: Pack) -> Callable[[], Found]:
            found = self._launch(pack)
            return lambda: found

        if self.path != "packed" or self.lanes == 1:
            yield now, 0 if self.device.type == "cpu" else 1
            return
        try:
            with lanes(self.lanes) as submit:
                try:
                    yield lambda pack: submit(self._launch, pack).result, self.lanes
                finally:
                    self._given_up.set()
        finally:
            self._given_up = threading.Event()

    @torch.inference_mode()
    def _launch(self, pack: Pack) -> Found:
        """Score a pack; out of memory, once more with passes of half the tokens, and so on, down to
        LEAST_INNER of a pack (`packed`) or to a sequence by itself."""
        while True:
            try:
                return self._packed(pack) if self.path == "packed" else self._plain(pack)
            except RuntimeError as error:
                refuse_without_products(error)
                if not out_of_memory(error):
                    raise
                tokens, least = self._pass.tokens, self._pass.least
                if tokens <= least:
                    raise
                # Another lane may have come down further while this one was at its pass.
                self.inner = max(least, min(tokens // 2, self.inner or tokens))
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
        before = None
        if len(pack.stem):
            with self._stem_lock:
                before = self._stem_of(pack.stem)
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
        self._pass.tokens, self._pass.least = size, LEAST_INNER
        stem = int(depth[0])
        rows = []
        for first in range(0, len(tokens), size):
            stop = min(first + size, len(tokens))
            sight = sight_of(
                *(end, depth), first=first, stop=stop, stem=stem, stacked=self.device.type != "cpu"
            )
            sight.before, sight.given_up = before, self._given_up
            sight.kept = kept if kept is not None or stop == len(tokens) else {}
            wanted = positions[(positions >= first) & (positions < stop)].astype(np.int64) - first
            if max(1, len(wanted)) <= self.narrow * (stop - first):
                # Shapes of no tokens are too much for some layers: one is computed at least.
                sight.wanted = wanted if len(wanted) else np.zeros(1, np.int64)
            ids, positions_of = (
                to_device(array[None, first:stop].astype(np.int64), self.device)
                for array in (tokens, depth)
            )
            with ancestors_only(self.model), looking(sight):
                hidden = self.model.base_model(
                    input_ids=ids, position_ids=positions_of, use_cache=False
                ).last_hidden_state
            before = sight.kept
            rows.append(hidden[0].index_select(0, to_device(wanted, hidden.device)))
        return torch.cat(rows)

    def _plain(self, pack: Pack) -> Found:
        most = min(self.inner or PLAIN_BATCH_TOKENS, PLAIN_BATCH_TOKENS)
        order, parts = [], []
        for batch in batches(pack, 1 if self.path == "whole" else most):
            self._pass.tokens, self._pass.least = batch.ids.size, batch.ids.shape[1]
            order.append(batch.targets)
            parts.append(read(self.model, batch, whole=self.path == "whole"))
        logprob, top = (torch.cat(part) for part in zip(*parts, strict=True))
        back = to_device(np.argsort(np.concatenate(order)), logprob.device)
        return logprob[back], top[back]


def _added_up(pack: Pack, found: Found) -> Scores:
    """Sums over the answers' tokens."""
    logprob, top = (tensor.cpu().numpy() for tensor in found)
    begins = pack.request_start[:-1]
    total = np.add.reduceat(logprob[pack.request_targets], begins)
    greedy = np.logical_and.reduceat(top[pack.request_targets], begins)
    return total.astype(np.float32), greedy
