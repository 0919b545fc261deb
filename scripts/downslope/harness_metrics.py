"""The harness's metrics under our names, and what those mean that are none of ours.

A metric that metrics.py computes keeps its meaning there (acc is accuracy). Any other one, a
perplexity say, has to be described in the config before it is imported: which direction is
better is nothing to guess.

    metrics:
      ppl: {better: lower, log: true, as: log_ppl}            # its logarithm is imported
      exact_match,strict-match: {better: higher, as: exact_match}
      truthfulqa_mc1/acc: mc1                                 # of one task only; one of ours
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import pandas as pd

from downslope.errors import StudyError
from downslope.metrics import METRICS, metric_catalogue

# The same definitions under other names. brier_score is the sum over choices of the squared
# distance, averaged over items, in both.
SAME = {"acc": "accuracy", "brier_score": "brier"}

# Early checkpoints have perplexities in the millions: on their own scale a few of them decide every
# fit. Their logarithm is the loss.
LOGARITHMIC = frozenset({"ppl", "perplexity", "word_perplexity", "byte_perplexity"})

# For output of 0.3, which does not say which direction is better.
BETTER = {
    **dict.fromkeys(LOGARITHMIC, "lower"),
    **dict.fromkeys(("bits_per_byte", "ter", "wer", "mae", "mse"), "lower"),
    **dict.fromkeys(("em", "exact", "exact_match", "exact_str_match", "f1", "mcc"), "higher"),
    **dict.fromkeys(("HasAns_exact", "HasAns_f1", "NoAns_exact", "NoAns_f1"), "higher"),
    **dict.fromkeys(("best_exact", "best_f1", "multiple_choice_grade"), "higher"),
    **dict.fromkeys(("bleu", "chrf", "rouge1", "rouge2", "rougeL", "bleurt"), "higher"),
    **dict.fromkeys(("bleu_acc", "rouge1_acc", "rouge2_acc", "rougeL_acc"), "higher"),
    **dict.fromkeys(("acc_bytes", "acc_mutual_info"), "higher"),
}


@dataclass(frozen=True)
class ForeignMetric:
    """A metric that the harness computed and metrics.py does not: what its values mean.

    `log` says that the natural logarithm of the harness's value is imported; bounds are those of
    the harness's value.
    """

    name: str
    better: str
    low: float | None = None
    high: float | None = None
    meaning: str = "computed by lm-evaluation-harness"
    log: bool = False


class MetricNames:
    """From a task's metric in the harness's words to a metric of the study."""

    def __init__(self, given: Mapping[str, Any], where: str) -> None:
        """`given` is `harness.metrics` of the config; StudyError for one that is no metric."""
        self._names: dict[str, str] = {}
        self.foreign: dict[str, ForeignMetric] = {}
        for key, value in given.items():
            place = f"{where}, {key}"
            if isinstance(value, str):
                self._names[key] = value
                continue
            name = value.get("as", plain_name(key.rpartition("/")[2]))
            if name in METRICS:
                raise StudyError(
                    f"describes {name}, which Downslope defines itself",
                    where=place,
                    remedy=f"Write `{key}: {name}` if that is what it is, else another `as`.",
                )
            described = ForeignMetric(name, **{k: v for k, v in value.items() if k != "as"})
            if self.foreign.setdefault(name, described) != described:
                raise StudyError(
                    f"{name} is described twice, and differently",
                    where=place,
                    remedy="Give one of the two another name with `as`.",
                )
            self._names[key] = name
        for key, name in self._names.items():
            if name not in METRICS and name not in self.foreign:
                close = get_close_matches(name, [*METRICS, *self.foreign], n=1)
                raise StudyError(
                    f"the metric {name!r} is not known",
                    where=f"{where}, {key}",
                    remedy=f"Did you mean {close[0]!r}?"
                    if close
                    else "Describe it: {better: higher} or {better: lower}.",
                )

    def of(self, task: str, metric: str) -> str | None:
        """The study's name of a metric of a harness task, None for one that is not described."""
        for key in (f"{task}/{metric}", metric):
            if key in self._names:
                return self._names[key]
        name = SAME.get(metric, metric)
        return name if name in METRICS else None

    def imported(self, name: str, value: float, se: float, where: str) -> tuple[float, float]:
        """A value and its standard error as cells have them: logarithms where the config says so,
        the error by the delta method. StudyError for a value that has no logarithm."""
        if name in METRICS or not self.foreign[name].log:
            return value, se
        if value <= 0:
            raise StudyError(
                f"{name} is the logarithm of {value:g}, which has none",
                where=where,
                remedy="Look at the file, or remove `log: true` under harness.metrics.",
            )
        return math.log(value), se / value

    def bounds(self, name: str) -> tuple[float | None, float | None]:
        """Lowest and highest possible value of a metric of the study."""
        metric = METRICS.get(name) or self.foreign[name]
        return metric.low, metric.high

    @property
    def better(self) -> dict[str, str]:
        """Which way each metric of the study is better: `higher` or `lower`."""
        described = {name: metric.better for name, metric in self.foreign.items()}
        return {name: metric.better for name, metric in METRICS.items()} | described

    @property
    def order(self) -> list[str]:
        """All metrics in the order of cells: ours, then the foreign ones as the config has them."""
        return [*METRICS, *self.foreign]

    def catalogue(self) -> pd.DataFrame:
        """`metric_catalogue` with the foreign metrics at its end."""
        rows = [vars(metric) for metric in self.foreign.values()]
        more = pd.DataFrame(rows, columns=["name", "better", "low", "high", "meaning"])
        more = more.rename(columns={"name": "metric"}).astype({"low": float, "high": float})
        return (
            pd.concat([metric_catalogue(), more], ignore_index=True)
            if rows
            else (metric_catalogue())
        )


def plain_name(metric: str) -> str:
    """A metric's name as outcomes spell it: `exact_match,strict-match` has a comma too many."""
    return metric.replace(",", ".").replace("/", ".").replace(" ", "-")
