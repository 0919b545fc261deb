"""Packs: distinct requests laid out as prefix trees, each token computed once.

Requests that begin alike share their beginning. Written down in depth-first order, a tree of
token sequences is one flat sequence in which the subtree of a token is a contiguous run behind
it, so three numbers per token say everything:

    requests      The cat sat | on        (| marks where the answer begins; the last token
                  The cat sat | down       of a request is predicted, never read)
                  The dog     | ran off

    index  i      0     1     2     3     4
    token         The   cat   sat   dog   ran
    depth         0     1     2     1     2       position id
    end           5     3     3     5     5       one past the token's subtree

    token j is an ancestor of token i (or i itself) exactly when  j <= i < end[j]

                   j 0 1 2 3 4
             i 0     x                    what each token may attend to: itself and its
             i 1     x x                  ancestors, never a sibling branch or another tree
             i 2     x x x
             i 3     x . . x
             i 4     x . . x x

    targets       (2, on) (2, down)       request 0: target 0     request 1: target 1
                  (3, ran) (4, off)       request 2: targets 2 and 3

A pack holds whole requests and at most `pack_tokens` tokens, or a quarter more than its first
request has behind the stem where that is longer (so that the choices of a long prompt stay
together). Where a new pack begins, the beginning that its first request shares with the pack before
is computed again; boundaries are chosen so that this costs least or, where packs are few, nearly
least in packs of one size.

A beginning that many packs share (the examples before every question) is their stem: computed
once, before the first of them, and no part of their tokens. All tokens of a pack descend from its
stem, so `depth` begins at the stem's length and the rule above says the rest.

    stem          Answer  briefly  :          depth 0 1 2, visible to all of the pack
    pack, i       0       1        2          depth 3 4 4 ...
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from downslope.pack_boundaries import FEW, even_starts, fewest_starts, stem_spans
from downslope.protocols import Request

Ints = NDArray[np.int32]


@dataclass(frozen=True)
class Pack:
    """One flat sequence of trees; see the picture above. All arrays are int32.

    stem                   (stem,) tokens before the pack, shared with its neighbours; often none
    tokens, depth, end     (tokens,)
    target_position        (targets,) index of the token whose output predicts
    target_token           (targets,) the token predicted there
    request_start          (requests + 1,) request r owns request_targets[start[r]:start[r + 1]]
    request_targets        indices into the targets; their log-probabilities add up to a score
    """

    stem: Ints
    tokens: Ints
    depth: Ints
    end: Ints
    target_position: Ints
    target_token: Ints
    request_start: Ints
    request_targets: Ints

    def request(self, number: int) -> Request:
        """A request's tokens and answer as they were before it was laid out."""
        first, stop = self.request_start[number : number + 2]
        targets = self.request_targets[first:stop]
        read = self.tokens[self.path(int(self.target_position[targets[-1]]))]
        predicted = self.target_token[targets[-1]]
        tokens = (*self.stem.tolist(), *read.tolist(), int(predicted))
        return Request(tokens, int(stop - first))

    def path(self, position: int) -> NDArray[np.intp]:
        """Indices of a token's ancestors in the pack and the token itself, from the root on."""
        before = np.arange(position + 1)
        return before[self.end[: position + 1] > position]


def pack_together(requests: Sequence[Request]) -> tuple[Pack, NDArray[np.int64]]:
    """Lay distinct requests out in a single pack; the rest is as in `pack_requests`."""
    ((pack,), number) = pack_requests(requests, 2**31, even=False)
    return pack, number


def pack_requests(
    requests: Sequence[Request], pack_tokens: int, *, even: bool = True
) -> tuple[list[Pack], NDArray[np.int64]]:
    """Lay distinct requests out in packs of at most `pack_tokens` tokens.

    Where they would be few, `even` ones are made (see `pack_boundaries`).

    Returns the packs and, for each request given, its number when the requests of all packs are
    counted through. The layout depends on the set of requests alone, not on their order.
    """
    for request in requests:
        if not 0 < request.answer < len(request.tokens):
            raise ValueError(f"a request needs a token before its answer and one in it: {request}")
    keys = [_sort_key(request) for request in requests]
    order = sorted(range(len(requests)), key=keys.__getitem__)
    number = np.empty(len(requests), np.int64)
    distinct: list[Request] = []
    last = None
    for index in order:
        if keys[index] != last:
            distinct.append(requests[index])
            last = keys[index]
        number[index] = len(distinct) - 1
    inputs = [np.asarray(request.tokens[:-1], np.int32) for request in distinct]
    shared = np.zeros(len(inputs), np.int64)
    for index in range(1, len(inputs)):
        shared[index] = _common_prefix(inputs[index - 1], inputs[index])
    lengths = np.array([len(ids) for ids in inputs], np.int64)
    context = np.array([len(request.tokens) - request.answer for request in distinct], np.int64)
    spans = []
    for first, stop, stem in stem_spans(lengths, context, shared, pack_tokens):
        # The first request of a span may share less than the stem with the one before it.
        beyond = np.maximum(shared[first:stop] - stem, 0)
        spans.append((first, stem, lengths[first:stop] - stem, beyond))
    starts = [fewest_starts(own, beyond, pack_tokens) for _, _, own, beyond in spans]
    if even and sum(map(len, starts)) <= FEW:
        starts = [
            even_starts(own, beyond, pack_tokens, fewest)
            for (_, _, own, beyond), fewest in zip(spans, starts, strict=True)
        ]
    packs = []
    for (first, stem, own, _), begins in zip(spans, starts, strict=True):
        for one, other in zip(begins, [*begins[1:], len(own)], strict=True):
            span = slice(first + one, first + other)
            packs.append(_lay_out(distinct[span], inputs[span], shared[span], stem))
    return packs, number


def computed_tokens(packs: Sequence[Pack]) -> int:
    """Tokens that scoring these packs in order computes: their own, and each stem once."""
    stems = [*packs[:1], *(b for a, b in pairwise(packs) if not np.array_equal(a.stem, b.stem))]
    return sum(len(pack.tokens) for pack in packs) + sum(len(pack.stem) for pack in stems)


def largest_token(pack: Pack) -> int:
    """The largest token that a pack reads or predicts."""
    return max(int(some.max(initial=0)) for some in (pack.stem, pack.tokens, pack.target_token))


def _sort_key(request: Request) -> tuple[bytes, int, int]:
    """Depth-first order: what is read, then what is predicted last, then the answer's length."""
    read = np.asarray(request.tokens[:-1], ">u4").tobytes()
    return read, request.tokens[-1], request.answer


def _common_prefix(one: Ints, other: Ints) -> int:
    length = min(len(one), len(other))
    differs = one[:length] != other[:length]
    return int(differs.argmax()) if differs.any() else length


def _lay_out(
    requests: Sequence[Request], inputs: Sequence[Ints], shared: NDArray[np.int64], stem: int
) -> Pack:
    """One pack from requests in depth-first order; `shared[0]` is ignored."""
    keep = [stem, *(int(length) for length in shared[1:])]
    tokens = np.concatenate([ids[k:] for ids, k in zip(inputs, keep, strict=True)])
    depth = np.concatenate([np.arange(k, len(ids)) for ids, k in zip(inputs, keep, strict=True)])
    end = np.full(len(tokens), len(tokens), np.int32)
    path = np.empty(max(len(ids) for ids in inputs), np.int32)
    targets: dict[tuple[int, int], int] = {}
    request_targets: list[int] = []
    request_start = [0]
    count, previous = 0, stem
    for request, ids, k in zip(requests, inputs, keep, strict=True):
        end[path[k:previous]] = count
        path[k : len(ids)] = np.arange(count, count + len(ids) - k)
        count, previous = count + len(ids) - k, len(ids)
        for at in range(len(request.tokens) - request.answer, len(request.tokens)):
            target = (int(path[at - 1]), request.tokens[at])
            request_targets.append(targets.setdefault(target, len(targets)))
        request_start.append(len(request_targets))
    pairs = np.array(list(targets), np.int32).reshape(-1, 2)
    return Pack(
        stem=inputs[0][:stem].copy(),
        tokens=tokens.astype(np.int32),
        depth=depth.astype(np.int32),
        end=end,
        target_position=pairs[:, 0].copy(),
        target_token=pairs[:, 1].copy(),
        request_start=np.array(request_start, np.int32),
        request_targets=np.array(request_targets, np.int32),
    )
