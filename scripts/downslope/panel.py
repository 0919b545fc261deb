"""One outcome as a panel of cells: the arrays, the design matrix, and why a fit may be refused."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

EFFECTS = ("parameters", "tokens", "interaction")
# How the status of an estimate begins that does not rest on all runs.
LEFT_OUT = "left out: "
# What names a training run, the unit that robust methods cluster by.
RUN = ["family", "parameters", "seed"]
# An intercept and three slopes: with fewer cells no residual is left to estimate an error from.
LEAST_CELLS = 5
# Values that differ by less than this share of their size are equal: accuracies such as 137/300
# come back from text and from other programs with differences in the last binary digit.
ROUNDING = 1e-12

FloatArray = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
TextArray = np.ndarray[tuple[int, ...], np.dtype[np.str_]]


@dataclass(frozen=True)
class Panel:
    """The cells of one outcome; all arrays have one entry per checkpoint, in the same order.

    `run` identifies the training run (family, size, seed), the unit that robust methods cluster
    by; `se` is the standard error of `value`, NaN where unknown. `replicates` (B, n) holds the
    cells recomputed on B resamples of the items, NaN where a checkpoint has no item-level scores;
    None where no checkpoint has any.
    """

    value: FloatArray
    parameters: FloatArray
    tokens: FloatArray
    run: TextArray
    se: FloatArray
    replicates: FloatArray | None = None

    def __len__(self) -> int:
        return len(self.value)

    @property
    def runs(self) -> int:
        return len(np.unique(self.run))


def reason_of(status: str) -> str:
    """What stands behind the first words of a status: `not estimable: 2 runs` -> `2 runs`."""
    return status.split(": ", 1)[-1]


def runs_of(rows: Iterable[Mapping[Any, Any]]) -> TextArray:
    """The run of each row of a table, written `family/parameters/seed`."""
    return np.array(["/".join(str(row[name]) for name in RUN) for row in rows], dtype=np.str_)


def zscore(values: FloatArray) -> FloatArray:
    """Values minus their mean, over their sample standard deviation (ddof 1), as R's scale()."""
    return (values - values.mean()) / values.std(ddof=1)


def design(panel: Panel) -> FloatArray:
    """The design matrix (n, 4): see `design_matrix`."""
    return design_matrix(panel.parameters, panel.tokens)


def design_matrix(parameters: FloatArray, tokens: FloatArray) -> FloatArray:
    """The design matrix (n, 4): 1, z(log10 parameters), z(log10 tokens) and the product of both.

    The product is taken after scaling and not scaled again, so that a main effect is the slope at
    the mean of the other predictor.
    """
    size, training = zscore(np.log10(parameters)), zscore(np.log10(tokens))
    return np.column_stack([np.ones(len(size)), size, training, size * training])


def per_tenfold(panel: Panel) -> FloatArray:
    """What turns a standardised coefficient into the value's own units, one factor per effect.

    sd(value) / sd(log10 predictor): the change of the value per tenfold of parameters, or of
    tokens; for the interaction the change of the slope over training per tenfold of parameters.
    """
    value = panel.value.std(ddof=1)
    size, tokens = (np.log10(x).std(ddof=1) for x in (panel.parameters, panel.tokens))
    return value / np.array([size, tokens, size * tokens])


def negligible(panel: Panel) -> float:
    """The size below which a standardised number is a rounding error of this panel's values."""
    return float(ROUNDING * max(1.0, np.abs(panel.value).max() / panel.value.std(ddof=1)))


def obstacle(panel: Panel) -> str:
    """Why the three effects cannot be estimated from this panel, or "" where they can."""
    if len(panel) == 0:
        return "not estimable: no cells"
    if len(panel) < LEAST_CELLS:
        cells = "1 cell" if len(panel) == 1 else f"{len(panel)} cells"
        return f"not estimable: {cells}, at least {LEAST_CELLS} are needed"
    if np.ptp(panel.parameters) == 0:
        return "not estimable: all checkpoints have one model size"
    if np.ptp(panel.tokens) == 0:
        return "not estimable: all checkpoints have one training step"
    if np.ptp(panel.value) <= ROUNDING * np.abs(panel.value).max():
        return f"not estimable: every cell has the value {panel.value[0]:.6g}"
    if np.linalg.matrix_rank(design(panel)) < 4:
        return "not estimable: model size and training tokens do not vary independently"
    return ""
