"""The metrics: what each one computes from the log-likelihoods of an item's choices.

To add a metric, write one function below: `Answers` in, one float per item out, decorated
with what a reader of the results has to know. Its name is the metric's name. It then appears
in results/cells.tsv and results/metrics.tsv by itself, and costs no scoring.

    @metric(better="higher", low=0.0, high=1.0, meaning="highest probability among the choices")
    def confidence(answers: Answers) -> Floats:
        return answers.probability.max(axis=1)

A metric that an item cannot have (its log-odds without any wrong choice, say) is NaN for that
item, never infinite: the cell is the mean over the other items, and its n says how many.
Definitions: Michaelov & Bergen 2023, McKenzie et al. 2023 (class loss), Lin et al. 2022 (mc1,
mc2), lm-evaluation-harness 0.4.13 (acc_norm).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

Floats = npt.NDArray[np.float64]
_TOLERANCE = 1e-9  # of a bound; rounding of sums in float64 stays far below it


@dataclass(frozen=True)
class Answers:
    """The choices of a batch of items under one protocol, padded to the longest item.

    loglikelihood  float (items, K)  summed log-likelihood L of each choice
    valid          bool  (items, K)  False: padding, or the text of an earlier choice again; such
                                     a text counts once, as right if any of its choices is right
    right          bool  (items, K)  which choices are right: any number, also none or all
    characters     int   (items, K)  length of each choice's text
    mc1            int   (items, K1) MC1 answers as columns of the other arrays, the right one
                                     first; -1: padding, or an answer that the protocol cannot
                                     reach. All -1: the item has no MC1 question; K1 may be 0

    Whatever stands where `valid` is False is overwritten (log-likelihood -inf, wrong, not in
    mc1), so that no content of the padding can reach a metric. Raises ValueError where shapes
    disagree, an item has no column at all, or a valid log-likelihood is not finite.
    """

    loglikelihood: Floats
    valid: npt.NDArray[np.bool_]
    right: npt.NDArray[np.bool_]
    characters: npt.NDArray[np.int64]
    mc1: npt.NDArray[np.int64]

    def __post_init__(self) -> None:
        valid = np.asarray(self.valid, dtype=bool)
        given = np.asarray(self.loglikelihood, dtype=np.float64)
        if valid.ndim != 2 or valid.shape[1] == 0:
            raise ValueError(f"answers need a column for each choice, got shape {valid.shape}")
        shapes = {np.shape(a) for a in (given, valid, self.right, self.characters)}
        if len(shapes) > 1 or np.shape(self.mc1)[:1] != valid.shape[:1]:
            raise ValueError(f"arrays of answers disagree in shape: {sorted(shapes)}")
        if not np.isfinite(given[valid]).all():
            raise ValueError("a log-likelihood is not finite")
        listed = np.asarray(self.mc1, dtype=np.int64)
        reached = np.take_along_axis(valid, np.maximum(listed, 0), axis=1) & (listed >= 0)
        for name, value in {
            "loglikelihood": np.where(valid, given, -np.inf),
            "valid": valid,
            "right": np.asarray(self.right, dtype=bool) & valid,
            "characters": np.where(valid, np.asarray(self.characters, dtype=np.int64), 1),
            "mc1": np.where(reached, listed, -1),
        }.items():
            object.__setattr__(self, name, value)

    def logsumexp(self, chosen: npt.NDArray[np.bool_]) -> Floats:
        """log of the summed exp(L) over the `chosen` choices, shape (items,); -inf over none.

        With max-shift: plain exp is 0 below L = -745, and its logarithm no number.
        """
        masked = np.where(chosen, self.loglikelihood, -np.inf)
        best = masked.max(axis=1)
        shift = np.where(np.isfinite(best), best, 0.0)
        with np.errstate(divide="ignore"):
            return shift + np.log(np.exp(masked - shift[:, None]).sum(axis=1))

    @functools.cached_property
    def log_total(self) -> Floats:
        """log of the summed exp(L) over the item's choices, shape (items,)."""
        return self.logsumexp(self.valid)

    @functools.cached_property
    def log_right(self) -> Floats:
        """log p(right), the right choices summed, shape (items,); -inf where none is right."""
        some = self.right.any(axis=1)
        difference = self.logsumexp(self.right) - np.where(some, self.log_total, 0.0)
        # A probability: two sums of the same numbers in another order can differ by rounding.
        return np.minimum(difference, 0.0)

    @property
    def probability(self) -> Floats:
        """p = softmax of L over the item's choices, shape (items, K); 0 in the padding."""
        some = self.valid.any(axis=1)
        return np.exp(self.loglikelihood - np.where(some, self.log_total, 0.0)[:, None])

    def is_right(self, column: npt.NDArray[np.intp]) -> Floats:
        """1.0 where the item's choice in `column`, shape (items,), is right, else 0.0."""
        return self.right[np.arange(len(column)), column].astype(np.float64)


@dataclass(frozen=True)
class Metric:
    """A metric: how to compute it for each item, and what its values mean.

    low, high: the bounds of a value, None where there is none. needs_mc1: only for tasks with
    MC1 questions.
    """

    name: str
    better: Literal["higher", "lower"]
    low: float | None
    high: float | None
    meaning: str
    needs_mc1: bool
    function: Callable[[Answers], Floats]

    def __call__(self, answers: Answers) -> Floats:
        """One value per item, NaN where the item has none; ValueError outside the bounds."""
        values = np.asarray(self.function(answers), dtype=np.float64)
        if values.shape != answers.valid.shape[:1]:
            raise ValueError(f"metric {self.name}: one value per item, got {values.shape}")
        low = -np.inf if self.low is None else self.low - _TOLERANCE
        high = np.inf if self.high is None else self.high + _TOLERANCE
        if np.isinf(values).any() or (values < low).any() or (values > high).any():
            raise ValueError(f"metric {self.name}: a value is infinite or out of its bounds")
        return values


METRICS: dict[str, Metric] = {}  # in the order of the definitions below, which is that of cells


def metric(
    *,
    better: Literal["higher", "lower"],
    low: float | None,
    high: float | None,
    meaning: str,
    needs_mc1: bool = False,
) -> Callable[[Callable[[Answers], Floats]], Metric]:
    """Register the decorated function as a metric under its own name."""

    def register(function: Callable[[Answers], Floats]) -> Metric:
        name = function.__name__
        if name in METRICS:
            raise ValueError(f"metric {name} is defined twice")
        METRICS[name] = Metric(name, better, low, high, meaning, needs_mc1, function)
        return METRICS[name]

    return register


def metric_catalogue() -> pd.DataFrame:
    """What each metric means: metric, better, low, high (empty: no bound), meaning."""
    return pd.DataFrame(
        {
            "metric": list(METRICS),
            "better": [m.better for m in METRICS.values()],
            "low": np.array([m.low for m in METRICS.values()], dtype=np.float64),
            "high": np.array([m.high for m in METRICS.values()], dtype=np.float64),
            "meaning": [m.meaning for m in METRICS.values()],
        }
    )


@metric(
    better="higher",
    low=0.0,
    high=1.0,
    meaning="share of items whose most likely choice is right; the first choice wins a tie",
)
def accuracy(answers: Answers) -> Floats:
    return answers.is_right(answers.loglikelihood.argmax(axis=1))


@metric(
    better="higher",
    low=0.0,
    high=1.0,
    meaning="accuracy with each log-likelihood divided by the characters of its choice",
)
def acc_norm(answers: Answers) -> Floats:
    per_character = answers.loglikelihood / np.maximum(answers.characters, 1)
    value = answers.is_right(per_character.argmax(axis=1))
    empty = (answers.characters < 1).any(axis=1)  # an empty choice has no length to divide by
    return np.where(empty, np.nan, value)


@metric(
    better="higher",
    low=0.0,
    high=1.0,
    needs_mc1=True,
    meaning="share of items whose one right MC1 answer is more likely than, or level with, "
    "every wrong one",
)
def mc1(answers: Answers) -> Floats:
    if answers.mc1.shape[1] == 0:
        return np.full(len(answers.mc1), np.nan)
    likelihood = np.take_along_axis(answers.loglikelihood, np.maximum(answers.mc1, 0), axis=1)
    likelihood = np.where(answers.mc1 >= 0, likelihood, -np.inf)
    some = (answers.mc1 >= 0).any(axis=1)
    return np.where(some, likelihood.argmax(axis=1) == 0, np.nan)


@metric(
    better="higher",
    low=0.0,
    high=1.0,
    meaning="probability of the right choices together, among the item's choices",
)
def mc2(answers: Answers) -> Floats:
    return np.exp(answers.log_right)


@metric(
    better="higher",
    low=None,
    high=None,
    meaning="log-odds of the right choices against the wrong ones, in nats",
)
def margin(answers: Answers) -> Floats:
    wrong = answers.valid & ~answers.right
    defined = answers.right.any(axis=1) & wrong.any(axis=1)  # else it would be infinite
    with np.errstate(invalid="ignore"):
        difference = answers.logsumexp(answers.right) - answers.logsumexp(wrong)
    return np.where(defined, difference, np.nan)


@metric(
    better="lower",
    low=0.0,
    high=None,
    meaning="negative log-probability of the right choices among the item's choices, in nats; "
    "the prize's classification loss",
)
def class_loss(answers: Answers) -> Floats:
    return np.where(answers.right.any(axis=1), 0.0 - answers.log_right, np.nan)


@metric(
    better="lower",
    low=0.0,
    high=2.0,
    meaning="squared distance between the choices' probabilities and the truth, which is shared "
    "equally by the right choices",
)
def brier(answers: Answers) -> Floats:
    count = answers.right.sum(axis=1, keepdims=True)
    truth = answers.right / np.maximum(count, 1)
    distance = ((answers.probability - truth) ** 2).sum(axis=1)
    return np.where(count[:, 0] > 0, distance, np.nan)


@metric(
    better="higher",
    low=None,  # nor high: choices of which one begins another can sum to more than 1
    high=None,
    meaning="log-probability that the model gives to the choices together, in nats; it depends "
    "on their number and length and is not comparable between tasks",
)
def mass(answers: Answers) -> Floats:
    return np.where(answers.valid.any(axis=1), answers.log_total, np.nan)


BETTER = {name: metric.better for name, metric in METRICS.items()}
"""Metric -> `higher` or `lower`, which is better; what other programs computed may add to it."""
