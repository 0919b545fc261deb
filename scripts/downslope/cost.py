"""What a study costs before it starts: GPU hours, download and disk, by checkpoint.

It goes by what lies in the study's folder at the time: plans where they have been made, bytes of
the data sets where not (`cost_work`); rates of what has been scored (`cost_rate`); sizes of the
lock where there is one (`checkpoint_costs`, whose config/costs.tsv overrules all of it).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from downslope.checkpoint_costs import BYTES_PER_PARAMETER, checkpoint_costs
from downslope.cost_inputs import data_at_hand
from downslope.cost_left import is_fetched, left_tasks
from downslope.cost_rate import Rate, fixed_seconds
from downslope.cost_study import scores_of, study_rate, study_works
from downslope.cost_work import Work
from downslope.panel import FloatArray
from downslope.scoring_resources import ScoringResources
from downslope.study import Checkpoint, Study

HOURS = ("gpu_hours", "gpu_hours_low", "gpu_hours_high")
LEFT = tuple(f"left_{name}" for name in (*HOURS, "download_gb"))


@dataclass(frozen=True)
class Cost:
    """Costs by checkpoint, and what they rest on.

    table  a row per checkpoint that is not known_bad: ckpt, family, parameters, step, seed;
           gpus; tasks, left_tasks; gpu_hours (of all of its GPUs together) with _low, _high and
           the same of what is left to do; gpu_source; download_gb (10^9 bytes, and as many on
           disk: a local folder takes none), left_download_gb, download_source
    works  tokenizer -> task -> Work
    data_gb  data sets that are not on this disk
    """

    study: Study
    table: pd.DataFrame
    works: Mapping[str, Mapping[str, Work]]
    rate: Rate
    data_gb: float


def study_cost(
    study: Study,
    *,
    locked_bytes: Mapping[str, int],
    local_bytes: Mapping[str, int],
    weights: Mapping[str, str] | None = None,
    measured: Sequence[Mapping[str, Any]] = (),
    mirror: str | None = None,
    tell: Callable[[str], None] = print,
) -> Cost:
    """Costs of a study that scores its checkpoints, from its folder as it is now.

    `locked_bytes` are the lock's sizes by checkpoint, where there is one, `local_bytes` those of
    local folders, `weights` what is known of digests (`current_weights`): scores of other weights
    are to be made anew. `measured` are the rows of config/costs.tsv; `tell` gets notes on what
    could not be used.
    """
    works, digests = study_works(study, tell)
    scores = {row.ckpt: scores_of(study, row) for row in study.usable}
    rate = study_rate(study, scores, works)
    rows = [vars(row) for row in study.checkpoints]
    # No hours by parameters: what costs.tsv does not give is reckoned here.
    prices = checkpoint_costs(rows, 0.0, locked_bytes, measured).to_dict("index")
    on_disk = {**locked_bytes, **local_bytes}
    asked = ScoringResources(study, lambda ckpt: on_disk.get(ckpt, 0))
    table = []
    for row in sorted(study.usable, key=lambda c: (c.family, c.parameters, c.seed, c.step)):
        digest = (weights or {}).get(row.ckpt)
        left = left_tasks(study, scores[row.ckpt], digests[row.tokenizer], digest)
        fetched = is_fetched(study.folder / "resources/weights" / row.ckpt, digest)
        table.append(
            _row(
                row,
                works[row.tokenizer],
                left,
                rate,
                prices[row.ckpt],
                local=local_bytes.get(row.ckpt, 0),
                gpus=asked.gpus(row.ckpt) if rate.is_gpu else 1,
                fetched=fetched,
            )
        )
    missing = {
        task.dataset
        for task in study.tasks
        if not data_at_hand(study.datasets[task.dataset], study.folder, mirror)
    }
    data_gb = sum(study.datasets[name]["bytes"] for name in missing) / 1e9
    return Cost(study, pd.DataFrame(table), works, rate, data_gb)


def _row(
    row: Checkpoint,
    works: Mapping[str, Work],
    left: Sequence[str],
    rate: Rate,
    price: Mapping[Hashable, Any],
    *,
    local: int,
    gpus: int,
    fetched: bool,
) -> dict[str, Any]:
    """The table's row of one checkpoint; `left` are the tasks on which it is to be scored, `local`
    the bytes of its own folder."""
    download = float(price["download_gb"])
    weights = local or download * 1e9 or row.parameters * BYTES_PER_PARAMETER
    hours = gpus * _hours(works, works, row.parameters, rate, weights)
    left_hours = gpus * _hours(left, works, row.parameters, rate, weights)
    source = rate.source_of(row.parameters)
    if price["gpu_source"] == "costs.tsv":
        source = "costs.tsv"
        left_hours = left_hours[0] / hours[0] * np.full(3, price["gpu_hours"])
        hours = np.full(3, price["gpu_hours"])
    return {
        **{key: getattr(row, key) for key in ("ckpt", "family", "parameters", "step", "seed")},
        "gpus": gpus,
        "tasks": len(works),
        "left_tasks": len(left),
        **dict(zip(HOURS, map(float, hours), strict=True)),
        **dict(zip(LEFT, map(float, left_hours), strict=False)),
        "gpu_source": source,
        "download_gb": download,
        "left_download_gb": 0.0 if fetched or not left else download,
        "download_source": price["download_source"],
    }


def _hours(
    tasks: Iterable[str], works: Mapping[str, Work], parameters: int, rate: Rate, weights: float
) -> FloatArray:
    """(best, low, high) hours of one checkpoint on these tasks; nothing costs nothing."""
    operations = [works[task].operations(parameters) for task in tasks]
    if not operations:
        return np.zeros(3)
    # The lowest work at the highest rate, and the other way round.
    seconds = np.sum(operations, axis=0) / np.array(rate.of(parameters)[::-1])
    low, best, high = (seconds + fixed_seconds(weights)) / 3600
    return np.array([best, low, high])
