"""Where packs begin: the cuts through sorted requests where the fewest tokens are computed twice.

Requests come in depth-first order (see `packing`), each with the number of tokens that it shares
with the one before it. A cut makes the first request of the pack behind it compute those again:

    requests   The cat sat | on      shared    0
               The cat sat | down              3
               The dog     | ran off           1      the cheapest place for a cut
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

PACK_COST = 16
"""What starting another pack costs, in tokens; it keeps packs full where trees are shallow."""

STEM_COST = 64
"""What computing a stem costs beside its tokens, in tokens; a stem has to save more than that."""

FEW = 16
"""Among more packs than these it does not matter if one is left over."""

LEAST, MOST = 256, 1.03
"""Packs of fewer tokens make slow products; for even ones, so many times the tokens are paid."""

SLACKS = (1.03, 1.1, 1.2, 1.35)
"""Room for cheap cuts, in times of an even share: they can lie a whole item apart."""


def stem_spans(
    lengths: NDArray[np.int64],
    context: NDArray[np.int64],
    shared: NDArray[np.int64],
    pack_tokens: int,
) -> list[tuple[int, int, int]]:
    """Spans of requests (first, stop, stem) such that a long beginning is computed once.

    A span of requests that all begin alike and fill several packs would compute that beginning
    once a pack. From the whole task downwards, a span is divided where its common beginning ends
    as long as its larger parts save more with their own, longer beginnings. A stem ends before
    the last token of any context, so that every answer is predicted inside a pack.
    """
    added = np.concatenate([[0], np.cumsum(lengths - shared)])
    done: list[tuple[int, int, int]] = []

    def saved(first: int, stop: int) -> tuple[int, int]:
        """Tokens saved by a stem of [first, stop), and its length."""
        if stop - first == 1:
            return 0, 0
        stem = int(shared[first + 1 : stop].min(initial=2**31))
        stem = min(stem, int(context[first:stop].min()) - 1)
        tokens = int(added[stop] - added[first] + shared[first]) - stem
        return max(0, -(-tokens // pack_tokens) - 1) * stem, stem

    waiting = [(0, len(lengths))]
    while waiting:
        first, stop = waiting.pop()
        gain, stem = saved(first, stop)
        cuts = first + 1 + np.flatnonzero(shared[first + 1 : stop] <= stem)
        parts = list(pairwise([first, *cuts.tolist(), stop]))
        if len(parts) > 1 and sum(saved(*part)[0] for part in parts) > gain:
            waiting.extend(reversed(parts))
        else:
            done.append((first, stop, stem if gain > STEM_COST else 0))
    return _joined(done)


def _joined(spans: Sequence[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """Neighbouring spans without a stem become one, so that packs can reach across them."""
    joined = [spans[0]]
    for first, stop, stem in spans[1:]:
        if stem == joined[-1][2] == 0:
            joined[-1] = (joined[-1][0], stop, 0)
        else:
            joined.append((first, stop, stem))
    return joined


def even_starts(
    lengths: NDArray[np.int64], shared: NDArray[np.int64], pack_tokens: int, fewest: list[int]
) -> list[int]:
    """First request of each pack, such that a CPU that computes two packs at once (see `lanes`)
    ends first: packs in pairs of about equal size leave no thread idle.

    `fewest` are the boundaries with which the fewest tokens are computed. Others are preferred
    where they cost next to no tokens more, and leave no pack so small that it is slow.
    """
    sizes = _sizes(lengths, shared, fewest)
    share = sizes.sum() / (2 * ((len(fewest) + 1) // 2))
    found = [fewest]
    for slack in SLACKS if share >= LEAST else ():
        starts = fewest_starts(lengths, shared, min(pack_tokens, int(share * slack)))
        even = _sizes(lengths, shared, starts)
        if even.min() >= min(LEAST, sizes.min()) and even.sum() <= MOST * sizes.sum():
            found.append(starts)
    return min(found, key=lambda starts: _ends(_sizes(lengths, shared, starts)))


def _sizes(
    lengths: NDArray[np.int64], shared: NDArray[np.int64], starts: Sequence[int]
) -> NDArray[np.int64]:
    """(packs,) tokens of each pack."""
    return np.add.reduceat(lengths - shared, starts) + shared[starts]


def _ends(sizes: NDArray[np.int64]) -> int:
    """Tokens after which two lanes have computed these packs, each taking the next when free."""
    busy = [0, 0]
    for size in sizes.tolist():
        busy[busy.index(min(busy))] += size + PACK_COST
    return max(busy)


def fewest_starts(
    lengths: NDArray[np.int64], shared: NDArray[np.int64], pack_tokens: int
) -> list[int]:
    """First request of each pack, such that the fewest tokens are computed twice.

    lengths   (requests,) tokens that each request reads, in depth-first order
    shared    (requests,) tokens that it shares with the one before it

    A pack [i, j) costs lengths[i] plus what each later request adds to the one before. Over all
    packs this is a constant plus shared[i] for each first request i, so a shortest path over the
    requests finds the best cut: cost[j] = min over i of cost[i] + shared[i] + PACK_COST.
    """
    count = len(lengths)
    # Tokens of the pack [i, j) are added[j] - floor[i].
    added = np.concatenate([[0], np.cumsum(lengths - shared)])
    floor = added[:-1] - shared
    limit = np.maximum(pack_tokens, lengths + lengths // 4)
    opening = shared + PACK_COST
    cost = np.zeros(count + 1, np.int64)
    chosen = np.zeros(count + 1, np.int64)
    first = 0
    for stop in range(1, count + 1):
        # shared[] is not negative, so added[] alone rules out what lies too far back.
        while first < stop - 1 and added[stop] - added[first] > limit.max():
            first += 1
        window = slice(first, stop)
        fits = added[stop] - floor[window] <= limit[window]
        total = np.where(fits, cost[window] + opening[window], np.iinfo(np.int64).max)
        best = int(total.argmin())
        cost[stop], chosen[stop] = total[best], first + best
    starts = []
    stop = count
    while stop > 0:
        stop = int(chosen[stop])
        starts.append(stop)
    return starts[::-1]
