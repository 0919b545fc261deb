"""The calibration table: how often each method rejects, over simulated panels of a grid."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from downslope.calibration import COLUMNS, LEVEL, RATES, keeps_level
from downslope.panel import FloatArray
from downslope.panel_tests import (
    CALIBRATED,
    OWN_TREND,
    any_holm,
    benjamini_hochberg,
    benjamini_yekutieli,
    obstacles,
    own_trend_p_values,
    p_values,
)
from downslope.simulation import OUTCOMES, Grid, simulate
from downslope.wild import MOST_ENUMERATED_RUNS

PANELS = 2000
PLANTED = 3
RHOS = (0.0, 0.5, 0.8)
SEED = 20230525
# Series of a single run that its own trend's tests see, and the least checkpoints they need.
SERIES, LEAST_CHECKPOINTS = 2000, 5
# Beyond 12 runs the wild bootstrap draws its vectors: fewer and in fewer panels, or it takes hours.
WILD_DRAWS, WILD_PANELS = 999, 400
_PANELS_AT_ONCE = 100


def calibrate(
    grid: Grid,
    panels: int = PANELS,
    rhos: Sequence[float] = RHOS,
    series: int = SERIES,
    seed: int = SEED,
) -> pd.DataFrame:
    """The calibration table: a row per method and rho, columns `calibration.COLUMNS`.

    Panels without effect give, at 5 %: rate_{effect}, the share of single tests rejected;
    fwer_holm, any_bh and any_by, the share of panels in which any of the 36 tests is rejected after
    correction (without effect every rejection is false, so any_bh is also the false discovery
    rate). As many panels with interactions planted in 3 of 12 outcomes give fdr_bh, the mean share
    of false ones among the discoveries, and power_bh, the share of planted ones discovered.

    The rows `own-trend ...` have the share of single tests rejected of one run's trend over
    training, the longest run's, where such tests do best; they belong to no family of tests and
    their `panels` are `series`. `status` says why there is nothing to count on this grid, and
    keeps_level is empty there. `item` has no rows: it answers another question.
    """
    reasons = obstacles(grid)
    estimable = [method for method in CALIBRATED if not reasons[method]]
    rows = []
    for number, rho in enumerate(rhos):
        counted = _counted(estimable, grid, panels, rho, np.random.default_rng((seed, number)))
        for method in CALIBRATED:
            blank = {"panels": 0, "status": reasons[method]}
            rows.append({"method": method, "rho": rho, **counted.get(method, blank)})
    for number, rho in enumerate(rhos):
        rng = np.random.default_rng((seed, len(rhos) + number))
        rows += [{"rho": rho, **row} for row in _own_trends(grid, rho, series, rng)]
    table = pd.DataFrame(rows, columns=[c for c in COLUMNS if c != "keeps_level"])
    place = {name: number for number, name in enumerate((*CALIBRATED, *OWN_TREND))}
    table = table.sort_values("method", key=lambda names: names.map(place), kind="stable")
    kept = keeps_level(table)
    return table.assign(keeps_level=table["method"].map(kept))[list(COLUMNS)].reset_index(drop=True)


def _counted(
    methods: Sequence[str], grid: Grid, panels: int, rho: float, rng: np.random.Generator
) -> dict[str, dict[str, object]]:
    """The rates of each method at one rho; all methods see the same panels."""
    drawn = len(np.unique(grid.run)) > MOST_ENUMERATED_RUNS
    wanted = {m: min(panels, WILD_PANELS) if drawn and m == "wild" else panels for m in methods}
    counts: dict[str, list[FloatArray]] = {method: [] for method in methods}
    for start in range(0, panels if methods else 0, _PANELS_AT_ONCE):
        at_once = min(_PANELS_AT_ONCE, panels - start)
        null = simulate(grid, at_once, rho, rng)
        planted = simulate(grid, at_once, rho, rng, planted=PLANTED)
        for method in methods:
            if start < wanted[method]:
                counts[method].append(
                    _counts(_tests(method, grid, null), _tests(method, grid, planted))
                )
    return {
        method: {
            "panels": wanted[method],
            "status": "ok",
            **dict(zip(RATES, np.concatenate(parts)[: wanted[method]].mean(axis=0), strict=True)),
        }
        for method, parts in counts.items()
    }


def _tests(method: str, grid: Grid, cells: FloatArray) -> FloatArray:
    """p (panels, effects, outcomes) of cells (n, panels, outcomes); 1 where nothing is tested."""
    p = p_values(method, grid, cells.reshape(len(grid), -1), draws=WILD_DRAWS)
    return np.nan_to_num(p.reshape(3, *cells.shape[1:]).transpose(1, 0, 2), nan=1.0)


def _counts(null: FloatArray, planted: FloatArray) -> FloatArray:
    """Per panel the contribution to each of `RATES`: (panels, rates)."""
    family = null.reshape(len(null), -1)
    single = (null < LEVEL).mean(axis=2)
    found = benjamini_hochberg(planted.reshape(len(planted), -1), LEVEL).reshape(planted.shape)
    true = found[:, 2, :PLANTED].sum(axis=1)  # the interactions of the first outcomes
    total = found.sum(axis=(1, 2))
    return np.column_stack(
        [
            single,
            any_holm(family, LEVEL),
            benjamini_hochberg(family, LEVEL).any(axis=1),
            benjamini_yekutieli(family, LEVEL).any(axis=1),
            (total - true) / np.maximum(total, 1),
            true / PLANTED,
        ]
    )


def _own_trends(
    grid: Grid, rho: float, series: int, rng: np.random.Generator
) -> list[dict[str, object]]:
    """A row per test of a run's own trend, from series of the run with most token counts."""
    names = np.unique(grid.run)
    longest = max(names, key=lambda name: len(np.unique(grid.tokens[grid.run == name])))
    rows = np.flatnonzero(grid.run == longest)
    rows = rows[np.argsort(grid.tokens[rows], kind="stable")]
    run = Grid(grid.parameters[rows], grid.tokens[rows], grid.run[rows])
    if len(np.unique(run.tokens)) < LEAST_CHECKPOINTS:
        status = f"not estimable: no run has {LEAST_CHECKPOINTS} checkpoints"
        return [{"method": method, "panels": 0, "status": status} for method in OWN_TREND]
    cells = simulate(run, -(-series // OUTCOMES), rho, rng).reshape(len(run), -1)[:, :series]
    return [
        {
            "method": method,
            "panels": series,
            "rate_tokens": float((own_trend_p_values(method, run.tokens, cells) < LEVEL).mean()),
            "status": "ok",
        }
        for method in OWN_TREND
    ]
