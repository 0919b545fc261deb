"""From answers to cells: every metric of a checkpoint on a task as value, standard error and n."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from downslope.errors import StudyError
from downslope.item_values import Key
from downslope.layout import Layout, answers_of
from downslope.metrics import METRICS, Floats

COLUMNS = (
    *("ckpt", "family", "parameters", "step", "tokens", "flops", "seed"),
    *("task", "protocol", "metric", "value", "se", "n"),
)
_OF_CHECKPOINT = ("ckpt", "family", "parameters", "step", "tokens", "seed")


def values_of(
    scores: pd.DataFrame,
    items: pd.DataFrame | Mapping[str, Layout],
    ckpt: str,
    task: str,
    protocols: Iterable[str],
) -> dict[Key, Floats]:
    """Every metric of every item: (protocol, metric) -> values in the order of the item table.

    NaN where the metric is not defined for an item. Metrics that need an MC1 question are left
    out where no item has one. In the order of `protocols` and of metrics.py; arguments and errors
    as in `layout.answers_of`.
    """
    return {
        (protocol, name): metric(answers)
        for protocol, answers in answers_of(scores, items, ckpt, task, protocols).items()
        for name, metric in METRICS.items()
        if not metric.needs_mc1 or (answers.mc1 >= 0).any()
    }


def cells_of(
    values: Mapping[Key, Floats],
    checkpoint: Mapping[str, Any],
    task: str,
    ddof: Mapping[str, int],
) -> pd.DataFrame:
    """The cells of one checkpoint on one task, a row for each of `values`, in their order.

    values      (protocol, metric) -> one value per item, NaN where it has none: see `values_of`
    checkpoint  ckpt, family, parameters, step, tokens, seed: a row of checkpoints.tsv
    ddof        protocol -> delta degrees of freedom of its standard errors (michaelov2023 1,
                mckenzie2023 0)

    value is the mean over the n items for which the metric is defined, se the standard
    deviation over these items divided by sqrt(n); se is NaN where n <= ddof, value too where
    n = 0. flops is 6 x parameters x tokens (Kaplan et al. 2020).
    """
    rows = []
    for (protocol, metric), of_items in values.items():
        value, se, n = mean_and_error(of_items[~np.isnan(of_items)], ddof[protocol])
        rows.append(
            {
                **{column: checkpoint[column] for column in _OF_CHECKPOINT},
                "flops": 6.0 * int(checkpoint["parameters"]) * int(checkpoint["tokens"]),
                "task": task,
                "protocol": protocol,
                "metric": metric,
                "value": value,
                "se": se,
                "n": n,
            }
        )
    return pd.DataFrame(rows, columns=list(COLUMNS))


def sort_cells(cells: pd.DataFrame, tasks: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """Cells in their one order, whatever order they were computed in.

    By family, parameters, seed and step; then like `tasks` (task to its protocols, both in the
    order wanted) and the metrics of metrics.py. Raises StudyError for a cell that these do not
    name and for two cells of one outcome and checkpoint.
    """
    outcomes = [(t, p, m) for t, protocols in tasks.items() for p in protocols for m in METRICS]
    place = {outcome: number for number, outcome in enumerate(outcomes)}
    found = list(zip(cells["task"], cells["protocol"], cells["metric"], strict=True))
    unknown = [outcome for outcome in found if outcome not in place]
    if unknown:
        raise StudyError(
            f"the outcome {'/'.join(unknown[0])} is not one of this study's",
            where="cells",
            remedy="Check tasks.tsv for the task and its protocols, metrics.tsv for the metric.",
        )
    keys = ["family", "parameters", "seed", "step", "ckpt", "outcome"]
    ordered = cells.assign(outcome=[place[outcome] for outcome in found]).sort_values(keys)
    twice = ordered.duplicated(["ckpt", "outcome"])
    if twice.any():
        row = ordered.loc[twice].iloc[0]
        raise StudyError(
            f"two cells for {row['task']}/{row['protocol']}/{row['metric']}",
            where=f"cells, checkpoint {row['ckpt']}",
            remedy="Each checkpoint has one cell for an outcome; remove one of the two sources.",
        )
    return ordered[list(COLUMNS)].reset_index(drop=True)


def mean_and_error(values: Floats, ddof: int) -> tuple[float, float, int]:
    """Mean, standard error sd(ddof)/sqrt(n) and n of item values; NaN where n is too small."""
    n = len(values)
    value = float(values.mean()) if n > 0 else float("nan")
    se = float(values.std(ddof=ddof) / np.sqrt(n)) if n > ddof else float("nan")
    return value, se, n
