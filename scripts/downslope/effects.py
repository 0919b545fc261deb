"""From cells to effects: every outcome, method and effect gets a row, or a reason."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from downslope.correction import CORRECTIONS, corrected
from downslope.errors import StudyError
from downslope.families import declared_outcomes, further_outcomes, outcome_keys
from downslope.outcomes import Outcome
from downslope.panel import EFFECTS, RUN, FloatArray, Panel, per_tenfold, runs_of
from downslope.regression import METHODS, Estimate

COLUMNS = (
    *("task", "protocol", "metric", "method", "effect"),
    *("estimate", "se", "statistic", "df", "p", "q", "q_by", "p_holm"),
    *("status", "tests", "n", "expected", "runs", "low", "high"),
    *("per_tenfold", "per_tenfold_low", "per_tenfold_high"),
)

# Outcome -> its cells on resampled items: a row per replicate, a column per checkpoint.
Replicates = Callable[[Outcome], pd.DataFrame] | Mapping[Outcome, pd.DataFrame]


def fit_effects(
    cells: pd.DataFrame,
    checkpoints: Sequence[Mapping[str, Any]],
    families: Mapping[str, Sequence[str]],
    replicates: Replicates | None = None,
    methods: Sequence[str] = tuple(METHODS),
) -> pd.DataFrame:
    """The effects table: a row per outcome x method x effect of every family, in declared order.

    `cells` has a row per scored checkpoint and outcome; `checkpoints` has the study's rows with
    `ckpt` and `known_bad`; `families` maps the name of a family of tests to its outcomes, written
    `task/protocol/metric`. After the declared families comes one for every other metric that the
    cells hold for a family's tasks and protocols, named `family/metric`; no outcome is in two.
    `replicates` gives an outcome's cells on resampled items (item_bootstrap.py), an empty frame or
    no entry where there are no item-level scores; the method `item` rests on them.

    `n` counts the cells used, `runs` the training runs that they belong to, `expected` the study's
    checkpoints; an effect from fewer than expected is still `ok`. q, q_by and p_holm correct over
    the family's estimable effects within one method. per_tenfold and its 95 % interval are the
    estimate in the metric's units per tenfold of the predictor: see `panel.per_tenfold`.

    Raises StudyError where cells are given twice, are not finite, or belong to a checkpoint that
    the study lacks or has marked known_bad, and where two families declare the same outcome. In
    the families that were not declared, a cell without a value (NaN: the metric is undefined for
    all its items) counts as missing.
    """
    declared = declared_outcomes(families)
    further = further_outcomes(declared, cells)
    undefined = _among(cells, {outcome for _, outcome in further}) & cells["value"].isna()
    tested = [*declared, *further]
    used = _checked(cells[~undefined], checkpoints, {outcome for _, outcome in tested})
    by_outcome = dict(list(used.groupby(["task", "protocol", "metric"], sort=False)))
    rows = []
    for tests, outcome in tested:
        panel = _panel(
            by_outcome.get(tuple(outcome), used.iloc[:0]), _resampled(replicates, outcome)
        )
        for method in methods:
            estimates = METHODS[method](panel)
            scaled = _per_tenfold(panel, estimates)
            for effect, estimate, units in zip(EFFECTS, estimates, scaled, strict=True):
                labels = {**outcome._asdict(), "method": method, "effect": effect}
                numbers = vars(estimate) | units | {"tests": tests, "expected": len(checkpoints)}
                rows.append(labels | numbers | _used(panel, estimate))
    effects = pd.DataFrame(rows, columns=[c for c in COLUMNS if c not in CORRECTIONS])
    for _, group in effects.groupby(["tests", "method"], sort=False):
        for column, values in corrected(group["p"].to_numpy(dtype=np.float64)).items():
            effects.loc[group.index, column] = values
    return effects.reindex(columns=list(COLUMNS))


def _among(cells: pd.DataFrame, outcomes: set[Outcome]) -> pd.Series:
    return pd.Series(
        [key in outcomes for key in outcome_keys(cells)], index=cells.index, dtype=bool
    )


def _checked(
    cells: pd.DataFrame, checkpoints: Sequence[Mapping[str, Any]], outcomes: set[Outcome]
) -> pd.DataFrame:
    """The cells of the tested outcomes, after refusing those that no fit should see."""
    used = cells[_among(cells, outcomes)]
    reasons = {row["ckpt"]: row["known_bad"] for row in checkpoints}
    seen: set[tuple[str, Outcome]] = set()
    for cell in used.to_dict("records"):
        ckpt, outcome = cell["ckpt"], Outcome(cell["task"], cell["protocol"], cell["metric"])
        what = ""
        if (ckpt, outcome) in seen:
            what = "this cell is given twice"
        elif ckpt not in reasons:
            what = "this checkpoint is not in checkpoints.tsv"
        elif reasons[ckpt]:
            what = f"this checkpoint is marked known_bad ({reasons[ckpt]}) and has a value"
        elif not np.isfinite(cell["value"]):
            what = f"the value is {cell['value']}, expected a finite number"
        if what:
            raise StudyError(
                what,
                where=f"cells, {ckpt}, {outcome}",
                remedy="Make the cells anew from the study's present tables.",
            )
        seen.add((ckpt, outcome))
    return used


def _panel(cells: pd.DataFrame, resampled: pd.DataFrame | None) -> Panel:
    """The cells of one outcome as arrays; a run is one (family, size, seed)."""
    replicates = None
    if resampled is not None and not resampled.empty:
        # A checkpoint without item-level scores becomes a column of NaN.
        replicates = resampled.reindex(columns=cells["ckpt"]).to_numpy(dtype=np.float64)
    return Panel(
        value=cells["value"].to_numpy(dtype=np.float64),
        parameters=cells["parameters"].to_numpy(dtype=np.float64),
        tokens=cells["tokens"].to_numpy(dtype=np.float64),
        run=runs_of(cells[RUN].to_dict("records")),
        se=cells["se"].to_numpy(dtype=np.float64, na_value=np.nan),
        replicates=replicates,
    )


def _used(panel: Panel, estimate: Estimate) -> dict[str, int]:
    """Cells and runs that an estimate rests on."""
    used = panel.run[~np.isin(panel.run, estimate.left_out)]
    return {"n": len(used), "runs": len(np.unique(used))}


def _resampled(replicates: Replicates | None, outcome: Outcome) -> pd.DataFrame | None:
    if replicates is None:
        return None
    return replicates(outcome) if callable(replicates) else replicates.get(outcome)


def _per_tenfold(panel: Panel, estimates: Sequence[Estimate]) -> list[dict[str, float]]:
    """The estimates and their intervals in the metric's units; NaN where there is no estimate."""
    factors: FloatArray = np.full(len(EFFECTS), np.nan)
    if any(np.isfinite(e.estimate) for e in estimates):
        factors = per_tenfold(panel)
    return [
        {
            "per_tenfold": e.estimate * factor,
            "per_tenfold_low": e.low * factor,
            "per_tenfold_high": e.high * factor,
        }
        for e, factor in zip(estimates, factors, strict=True)
    ]
