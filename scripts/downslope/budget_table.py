"""A choice of checkpoints beside the full grid and beside what one would take without thinking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from downslope.budget import Choice, cheapest, choose
from downslope.checkpoint_costs import CONFIG, RESOURCES, Budget
from downslope.errors import StudyError
from downslope.panel import FloatArray
from downslope.precision import BoolArray, Candidates, detectable, interaction_variance

COLUMNS = (
    *("choice", "checkpoints", "runs", "sizes", "gpu_hours", "download_gb"),
    *("relative_se", "se_points", "detectable_points", "gap", "status"),
)
CHOSEN, FULL = "choice", "full grid"
# Sums of shares of the budget may be over 1 by this much.
_ROUNDING = 1e-9
_EVERY = {
    0: "every n-th checkpoint",
    1: "every checkpoint",
    2: "every other checkpoint",
    3: "every third checkpoint",
}


@dataclass(frozen=True)
class Offer:
    """What there is to choose from and what it costs; `costs` has a row per row of `rows`."""

    rows: pd.DataFrame
    costs: pd.DataFrame
    budget: Budget

    @property
    def candidates(self) -> Candidates:
        return Candidates.from_rows([dict(row) for _, row in self.rows.iterrows()])

    @property
    def shares(self) -> FloatArray:
        """Costs (n, resources) as shares of what may be spent, limited resources only."""
        limits = self.budget.limits
        return np.column_stack([self.costs[name].to_numpy() / limits[name] for name in limits])


def offer(checkpoints: Sequence[Mapping[str, Any]], costs: pd.DataFrame, budget: Budget) -> Offer:
    """The checkpoints that are not known_bad, by run and step, with their costs."""
    rows = pd.DataFrame([row for row in checkpoints if not row["known_bad"]])
    if rows.empty:
        raise StudyError(
            "there is no checkpoint to choose from",
            where="config/checkpoints.tsv",
            remedy="Add rows that are not marked known_bad.",
        )
    rows = rows.sort_values(["family", "parameters", "seed", "step"], ignore_index=True)
    return Offer(rows, costs.loc[rows["ckpt"]].reset_index(), budget)


def best_choice(given: Offer, sizes: int | None = None) -> Choice:
    """The affordable choice with the smallest variance of the interaction, from at least `sizes`
    sizes (default: the budget's min_models).

    Raises StudyError where there is none, with what the cheapest would cost.
    """
    budget, shares = given.budget, given.shares
    asked = budget.min_models if sizes is None else sizes
    least = budget.min_checkpoints
    lowest = cheapest(given.candidates, shares, asked, least)
    if (lowest <= 1 + _ROUNDING).all():
        choice = choose(given.candidates, shares, sizes=asked, least=least, model=budget.model)
        if choice is not None:
            return choice
    wanted = f"{asked} model sizes with {least} checkpoints of a run each"
    if not np.isfinite(lowest).all():
        raise StudyError(
            f"asks for {wanted}, and the study has not so many that are not known_bad",
            where=CONFIG,
            remedy="Lower min_models or min_checkpoints.",
        )
    prices = [
        f"{share * limit:.4g} {RESOURCES[name]} ({limit:.4g} are allowed)"
        for share, (name, limit) in zip(lowest, budget.limits.items(), strict=True)
    ]
    together = ", though not both at once" if len(prices) > 1 else ""
    raise StudyError(
        f"is too small for {wanted}: the cheapest cost {' and '.join(prices)}{together}",
        where=CONFIG,
        remedy="Allow more, or lower min_models or min_checkpoints.",
    )


def precision_table(given: Offer, choice: Choice) -> pd.DataFrame:
    """What a choice buys: rows for it, the full grid, the same money spent naively, and the best
    choices from more sizes than it has.

    relative_se is the standard error of the interaction over that of the full grid; se_points and
    detectable_points are 100 times the metric's units per tenfold of parameters and tokens, for a
    residual as large as the error model's. `gap` is `Choice.gap`. Rows that stand for no choice
    say why in `status`.
    """
    full = np.ones(len(given.rows), dtype=np.bool_)
    table = [_of_choice(given, CHOSEN, choice), _row(given, FULL, full)]
    smallest = _smallest_first(given)
    table.append(_row(given, "smallest models first", smallest))
    every, stride = _every_step(given)
    table.append(_row(given, _EVERY.get(stride, f"every {stride}th checkpoint"), every))
    for sizes in range(int(table[0]["sizes"]) + 1, given.rows["parameters"].nunique() + 1):
        label = f"best from at least {sizes} sizes"
        lowest = cheapest(given.candidates, given.shares, sizes, given.budget.min_checkpoints)
        if not np.isfinite(lowest).all():
            table.append({"choice": label, "status": "not possible: too few checkpoints"})
            continue
        try:
            table.append(_of_choice(given, label, best_choice(given, sizes)))
        except StudyError:
            table.append({"choice": label, "status": "not affordable"})
    return pd.DataFrame(table, columns=list(COLUMNS))


def _of_choice(given: Offer, label: str, choice: Choice) -> dict[str, Any]:
    record = {**_row(given, label, choice.chosen), "gap": choice.gap}
    if choice.set_aside and record["status"] == "ok":
        record["status"] = f"ok; {choice.set_aside} candidates were thinned out before the gap"
    return record


def _row(given: Offer, label: str, chosen: BoolArray) -> dict[str, Any]:
    rows, model = given.rows[chosen], given.budget.model
    candidates = given.candidates
    runs = len(rows[["family", "parameters", "seed"]].drop_duplicates())
    record: dict[str, Any] = {"choice": label, "status": "ok"}
    if not len(rows):
        return {**record, "status": "not affordable"}
    variance = interaction_variance(candidates, chosen, model)
    whole = interaction_variance(candidates, np.ones(len(candidates), dtype=np.bool_), model)
    record |= {
        "checkpoints": len(rows),
        "runs": runs,
        "sizes": rows["parameters"].nunique(),
        "gpu_hours": given.costs.loc[chosen, "gpu_hours"].sum(),
        "download_gb": given.costs.loc[chosen, "download_gb"].sum(),
    }
    if not np.isfinite(variance):
        return {**record, "status": "not estimable: size and training do not both vary"}
    se = 100 * model.residual_sd * np.sqrt(variance)
    record |= {"relative_se": np.sqrt(variance / whole), "se_points": se}
    record["detectable_points"] = detectable(se, runs)
    if runs < 3:
        record["status"] = f"not testable: {runs} runs, at least 3 are needed"
    return record


def _smallest_first(given: Offer) -> BoolArray:
    """Whole runs, the smallest model first, until one does not fit."""
    chosen = np.zeros(len(given.rows), dtype=np.bool_)
    for rows in sorted(given.candidates.by_run(), key=lambda rows: given.candidates.size[rows[0]]):
        chosen[rows] = True
        if not _affordable(given, chosen):
            chosen[rows] = False
            break
    return chosen


def _every_step(given: Offer) -> tuple[BoolArray, int]:
    """Every n-th checkpoint of every run, counted from the last, for the smallest n that fits.

    Nothing and 0 where not even the last ones do.
    """
    runs = given.candidates.by_run()
    for stride in range(1, max(map(len, runs)) + 1):
        chosen = np.zeros(len(given.rows), dtype=np.bool_)
        for rows in runs:
            chosen[rows[::-1][::stride]] = True
        if _affordable(given, chosen):
            return chosen, stride
    return np.zeros(len(given.rows), dtype=np.bool_), 0


def _affordable(given: Offer, chosen: BoolArray) -> bool:
    return bool((given.shares[chosen].sum(axis=0) <= 1 + _ROUNDING).all())
