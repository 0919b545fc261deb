"""How precisely a set of checkpoints can tell the interaction of size and training.

The mean of an outcome is b0 + b1 x + b2 t + b3 x t, with x = log10 parameters and t = log10
tokens, both minus their mean over all candidates, so that b3 is the change of the slope over
training, per tenfold of tokens, per tenfold of parameters. `ErrorModel` says how cells vary about
that mean. Runs are independent of one another, so that what they tell adds up: all that counts of
the checkpoints of a run is a 2 x 2 matrix (`run_information`) and the run's size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import optimize, special, stats

from downslope.panel import FloatArray, runs_of

BoolArray = np.ndarray[tuple[int, ...], np.dtype[np.bool_]]
TEST_LEVEL, POWER = 0.05, 0.8
Positions = np.ndarray[tuple[int], np.dtype[np.intp]]
# Below this share of its diagonal element, what is left of an information is rounding.
_ROUNDING = 1e-10


@dataclass(frozen=True)
class ErrorModel:
    """Variances about the mean, relative to the residual variance, which has two parts.

    residual_sd         sd of a cell about its run's own line, in the metric's units
    correlated          share of the residual variance that neighbouring checkpoints have in
                        common: its correlation is exp(-distance / correlation_length)
    correlation_length  in tenfolds of training tokens (AR(1) where checkpoints are spaced evenly)
    run_intercept       variance between runs at the mean of log10 tokens
    run_slope           variance between runs of the slope per tenfold of tokens

    The defaults come from the 768 cells of Michaelov & Bergen 2023, by restricted maximum
    likelihood with one set of relative variances for all 12 outcomes. The correlated part raises
    the log-likelihood by 40 over intercepts and slopes alone; beside it both of these are
    estimated at 0. They stand at 0.05, which costs 0.6: a choice should not bet on runs being
    alike. residual_sd is the median outcome's; it ranges from 0.007 (NeQA) to 0.28 (Modus
    Tollens), and precision is in proportion to it.
    """

    residual_sd: float = 0.037
    correlated: float = 0.87
    correlation_length: float = 0.35
    run_intercept: float = 0.05
    run_slope: float = 0.05

    def covariance(self, tokens: FloatArray) -> FloatArray:
        """Covariance (n, n) of the cells of one run at centred log10 tokens (n,)."""
        distance = np.abs(tokens[:, None] - tokens)
        return (
            self.run_intercept
            + self.run_slope * np.outer(tokens, tokens)
            + self.correlated * np.exp(-distance / self.correlation_length)
            + (1 - self.correlated) * np.eye(len(tokens))
        )


@dataclass(frozen=True)
class Candidates:
    """Checkpoints to choose from; all arrays have one entry per checkpoint, in the same order.

    `size` and `tokens` are log10, minus their mean; `run` is family/parameters/seed.
    """

    size: FloatArray
    tokens: FloatArray
    run: np.ndarray[tuple[int, ...], np.dtype[np.str_]]

    @classmethod
    def from_rows(cls, rows: Sequence[Mapping[str, Any]]) -> Candidates:
        """From rows of checkpoints.tsv with family, parameters, seed and tokens."""
        size = np.log10([float(row["parameters"]) for row in rows])
        tokens = np.log10([float(row["tokens"]) for row in rows])
        return cls(size - size.mean(), tokens - tokens.mean(), runs_of(rows))

    def __len__(self) -> int:
        return len(self.size)

    def by_run(self) -> list[Positions]:
        """The positions of each run's checkpoints, runs in the order of their first."""
        return [np.flatnonzero(self.run == run) for run in dict.fromkeys(self.run.tolist())]


def run_information(tokens: FloatArray, model: ErrorModel) -> FloatArray:
    """What checkpoints at `tokens` (n,) tell about their run's intercept and slope (2, 2).

    The inverse of the variance that generalised least squares gives them.
    """
    line = np.column_stack([np.ones(len(tokens)), tokens])
    information = line.T @ np.linalg.solve(model.covariance(tokens), line)
    return np.asarray(information, dtype=np.float64)


def with_size(information: FloatArray, size: float) -> FloatArray:
    """A run's information (2, 2) as information (4, 4) on 1, x, t and x t; sums over runs."""
    return np.kron(information, np.array([[1, size], [size, size * size]]))


def profiled(information: FloatArray) -> tuple[float, FloatArray]:
    """The information on the interaction when b0, b1, b2 are unknown, and the worst b0, b1, b2.

    That is the minimum over b of (-b, 1) I (-b, 1), the reciprocal of the variance of the
    interaction's estimate; 0 where the interaction cannot be told from the rest.
    """
    fit = np.linalg.lstsq(information[:3, :3], information[:3, 3], rcond=_ROUNDING)
    worst = np.asarray(fit[0], dtype=np.float64)
    left = float(information[3, 3] - information[:3, 3] @ worst)
    return (left if left > _ROUNDING * information[3, 3] else 0.0), worst


def interaction_variance(candidates: Candidates, chosen: BoolArray, model: ErrorModel) -> float:
    """Variance of the interaction's estimate by generalised least squares from `chosen` (n,).

    In units of the residual variance, per tenfold of parameters and tokens; infinite where it
    cannot be estimated.
    """
    total = np.zeros((4, 4))
    for rows in candidates.by_run():
        used = rows[chosen[rows]]
        if len(used):
            size = float(candidates.size[used[0]])
            total += with_size(run_information(candidates.tokens[used], model), size)
    information, _ = profiled(total)
    return 1 / information if information > 0 else np.inf


def detectable(se: float, runs: int) -> float:
    """The smallest true interaction that one two-sided test at 5 % finds with a power of 80 %.

    t has runs - 2 degrees of freedom, since slopes of runs are compared with their sizes (as in
    the two-stage method); NaN where there are fewer than three runs.
    """
    df = runs - 2
    if df < 1 or not np.isfinite(se):
        return np.nan
    # Noncentral t by integrating over the estimated error, since scipy's has gaps at few df.
    nodes, weights = np.polynomial.legendre.leggauss(200)
    longest = np.sqrt(df) + 10
    deviation = (nodes + 1) / 2 * longest
    density = weights / 2 * longest * stats.chi.pdf(deviation, df)
    bar = stats.t.ppf(1 - TEST_LEVEL / 2, df) * deviation / np.sqrt(df)

    def missing_power(effect: float) -> float:
        rejected = special.ndtr(effect - bar) + special.ndtr(-effect - bar)
        return float(density @ rejected) - POWER

    return se * float(optimize.brentq(missing_power, 0, 60, xtol=1e-9))
