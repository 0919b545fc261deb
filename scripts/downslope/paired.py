"""Two checkpoints on the same items: the mean difference, its interval, and paired tests.

Comparisons are columns: `difference` is (items, comparisons), value minus reference value for
each item, NaN where one of the two has no value. One pair at a time is a single column.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar as mcnemar_test

from downslope.panel import FloatArray

# Below this many discordant items the chi-squared form of McNemar's test is too rough.
EXACT_BELOW = 25
# At most this many differences that are not zero, and all 2 ** 13 = 8,192 sign vectors are tried;
# with more, as many as below are drawn.
ENUMERATED = 13
SIGN_VECTORS = 9_999
SAMPLED = f"{SIGN_VECTORS:,} sign flips"
MEASURES = (
    *("value", "reference_value", "difference", "se", "low", "high"),
    *("lost", "gained", "n", "test", "p", "status"),
)
_BLOCK = 256  # sign vectors in memory at a time: 43 MB with 20,897 items
# Sums this close, as a share of the sum of absolute differences, are ties.
_ROUNDING = 1e-9

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class MeanDifference:
    """Mean item differences; every array has an entry per comparison.

    n counts the items with both values; mean is NaN where n = 0, se, low and high where n < 2.
    """

    mean: FloatArray
    se: FloatArray
    low: FloatArray
    high: FloatArray
    n: IntArray


def mean_difference(difference: FloatArray) -> MeanDifference:
    """Mean, paired standard error and 95 % interval of each column of `difference`.

    se = sd(item differences, ddof 1) / sqrt(n) (Miller 2024, arXiv 2411.00640, section 4.2);
    the interval is Student's with n - 1 degrees of freedom, zero wide where all differences are
    equal. Items count as independent draws from the task.
    """
    known = ~np.isnan(difference)
    n = known.sum(axis=0)
    total = np.where(known, difference, 0.0).sum(axis=0)
    mean = np.divide(total, n, out=np.full(n.shape, np.nan), where=n > 0)
    squares = np.where(known, (difference - mean) ** 2, 0.0).sum(axis=0)
    variance = np.divide(squares, n - 1, out=np.full(n.shape, np.nan), where=n > 1)
    se = np.sqrt(variance / np.maximum(n, 1))
    reach = stats.t.ppf(0.975, np.maximum(n - 1, 1)) * se
    return MeanDifference(mean, se, mean - reach, mean + reach, n)


@functools.cache
def mcnemar(lost: int, gained: int) -> tuple[float, str]:
    """Two-sided p of McNemar's test, and which form it is.

    `lost` items went from right to wrong, `gained` from wrong to right; the others say nothing.
    Exact (binomial) below 25 discordant items, else chi-squared with the continuity correction,
    which stays off where both counts are equal: the evidence is none, and p is 1 (as in R).
    """
    exact = lost + gained < EXACT_BELOW
    table = [[0, lost], [gained, 0]]
    test = mcnemar_test(table, exact=exact, correction=lost != gained)
    return float(test.pvalue), "exact McNemar" if exact else "chi-squared McNemar"


def sign_flips(difference: FloatArray, seed: int) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
    """Two-sided p of the paired permutation test of each mean difference; whether it is exact.

    Without an effect the two checkpoints could be exchanged within any item, which flips the
    sign of its difference; p is the share of sign vectors whose absolute sum is no smaller than
    the one seen. With at most 13 differences that are not zero all vectors are tried, else 9,999
    are drawn and the one seen counts as one more (Phipson & Smyth 2010), so that p is never
    below 1 / 10,000. All columns share the vectors: an item keeps its signs, and p of a
    comparison does not depend on which others are made. Differences all zero have p = 1.
    """
    known = np.nan_to_num(difference)
    exact = np.count_nonzero(known, axis=0) <= ENUMERATED
    p = np.empty(known.shape[1])
    for column in np.flatnonzero(exact):
        p[column] = _enumerated(known[known[:, column] != 0, column])
    if not exact.all():
        p[~exact] = _sampled(known[:, ~exact], seed)
    return p, exact


def _enumerated(known: FloatArray) -> float:
    """The share among all sign vectors; row j of `bits` is j in binary, 1 for a kept sign."""
    places = np.arange(len(known))
    bits = (np.arange(2 ** len(known))[:, None] >> places) & 1
    return float(np.mean(np.abs(2 * (bits @ known) - known.sum()) >= _seen(known)))


def _sampled(known: FloatArray, seed: int) -> FloatArray:
    rng = np.random.default_rng(seed)
    items, comparisons = known.shape
    total, seen = known.sum(axis=0), _seen(known)
    as_large = np.ones(comparisons)  # the vector seen, all signs kept
    for start in range(0, SIGN_VECTORS, _BLOCK):
        count = min(_BLOCK, SIGN_VECTORS - start)
        packed = rng.integers(0, 256, size=(count, -(-items // 8)), dtype=np.uint8)
        bits = np.unpackbits(packed, axis=1, count=items).astype(np.float64)
        as_large += (np.abs(2 * (bits @ known) - total) >= seen).sum(axis=0)
    return as_large / (SIGN_VECTORS + 1)


def _seen(known: FloatArray) -> FloatArray:
    """The absolute sum of each column, less what rounding could take from an equal one."""
    return np.abs(known.sum(axis=0)) - _ROUNDING * np.abs(known).sum(axis=0)


def compare(
    value: FloatArray, reference: FloatArray, *, right_or_wrong: bool, sign: int, seed: int
) -> pd.DataFrame:
    """Every comparison of one outcome: a row per column of `value` and `reference`, see `MEASURES`.

    Both are (items, comparisons) with NaN where an item has no value; values are means over the
    items that have both. `right_or_wrong`: all are 0 or 1, so that items flip and McNemar's test
    applies; else lost and gained are missing and signs are flipped, drawn from `seed`. `sign` is
    1 where higher values are better, -1 where lower ones are. `status` is `ok`, or says on how
    few of the items that either has the comparison rests, or that it rests on none.
    """
    difference = value - reference
    shared = ~np.isnan(difference)
    mean = mean_difference(difference)
    either = (~np.isnan(value) | ~np.isnan(reference)).sum(axis=0)
    frame = pd.DataFrame(vars(mean)).rename(columns={"mean": "difference"})
    for column, of_items in (("value", value), ("reference_value", reference)):
        total = np.where(shared, of_items, 0.0).sum(axis=0)
        frame[column] = total / np.where(mean.n > 0, mean.n, np.nan)
    if right_or_wrong:
        frame["lost"] = (sign * difference < 0).sum(axis=0)
        frame["gained"] = (sign * difference > 0).sum(axis=0)
        flips = zip(frame["lost"], frame["gained"], strict=True)
        frame[["p", "test"]] = [mcnemar(lost, gained) for lost, gained in flips]
    else:
        frame[["lost", "gained"]] = None
        frame["p"], exact = sign_flips(difference, seed)
        frame["test"] = np.where(exact, "exact sign flips", SAMPLED)
    frame["status"] = [_status(n, of) for n, of in zip(mean.n, either, strict=True)]
    nothing = frame["n"] == 0
    frame.loc[nothing, ["lost", "gained", "p"]] = None
    frame.loc[nothing, "test"] = ""
    return frame[list(MEASURES)]


def _status(n: int, either: int) -> str:
    if n == 0:
        return "no test: no item has a value in both checkpoints"
    if n < either:
        return f"on {n} of {either} items: the others have a value in one checkpoint only"
    return "ok" if n > 1 else "no interval: the task has one item"
