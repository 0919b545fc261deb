"""What each checkpoint costs, where that number comes from, and what may be spent."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

import pandas as pd

from downslope.errors import StudyError
from downslope.precision import ErrorModel

# Michaelov & Bergen 2023 scored their 64 checkpoints, 197.92 billion parameters in sum, on all
# tasks in 42 GPU hours (RTX A6000). The time goes with the size, nearly.
GPU_HOURS_PER_BILLION = 42 / 197.92
BYTES_PER_PARAMETER = 2
RESOURCES = {"gpu_hours": "GPU hours", "download_gb": "GB of download"}
CONFIG = "config/config.yaml, budget"
TABLE = "config/costs.tsv"


@dataclass(frozen=True)
class Budget:
    """What may be spent, and what a choice must hold at least.

    limits                 amount of each resource that is limited: gpu_hours, download_gb (10^9
                           bytes)
    gpu_hours_per_billion  cost of scoring one checkpoint, per 10^9 parameters
    min_models             least number of distinct model sizes, since the interaction compares
                           sizes: further seeds of a size do not count
    min_checkpoints        least number of checkpoints of a run that is used at all
    """

    limits: dict[str, float]
    gpu_hours_per_billion: float = GPU_HOURS_PER_BILLION
    min_models: int = 4
    min_checkpoints: int = 3
    model: ErrorModel = field(default_factory=ErrorModel)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Budget:
        """From the mapping `budget` of config.yaml; StudyError where it limits nothing."""
        stated = dict(config)
        limits = {name: float(stated.pop(name)) for name in RESOURCES if name in stated}
        if not limits:
            raise StudyError(
                "limits nothing",
                where=CONFIG,
                remedy=f"Give at least one of {' and '.join(RESOURCES)}.",
            )
        return cls(limits, model=ErrorModel(**stated.pop("error_model", {})), **stated)


def checkpoint_costs(
    checkpoints: Sequence[Mapping[str, Any]],
    gpu_hours_per_billion: float,
    locked_bytes: Mapping[str, int],
    measured: Sequence[Mapping[str, Any]] = (),
) -> pd.DataFrame:
    """Costs by checkpoint: gpu_hours, download_gb, and the source of each (gpu_source, ...).

    `checkpoints` have ckpt, parameters and source; `locked_bytes` are the sizes that the lock
    states; `measured` are rows of costs.tsv, whose empty fields leave the number as it is. What is
    neither measured nor locked is reckoned from the size; a folder costs no download. Raises
    StudyError for a row of costs.tsv whose checkpoint the study lacks or whose cost is no number.
    """
    rows = []
    for row in checkpoints:
        ckpt, parameters = row["ckpt"], float(row["parameters"])
        download = parameters * BYTES_PER_PARAMETER, f"{BYTES_PER_PARAMETER} bytes per parameter"
        if not str(row["source"]).startswith("hub:"):
            download = 0.0, "local folder"
        elif ckpt in locked_bytes:
            download = float(locked_bytes[ckpt]), "lock"
        rows.append(
            {
                "ckpt": ckpt,
                "gpu_hours": gpu_hours_per_billion * parameters / 1e9,
                "gpu_source": f"{gpu_hours_per_billion:.3g} GPU hours per 10^9 parameters",
                "download_gb": download[0] / 1e9,
                "download_source": download[1],
            }
        )
    costs = pd.DataFrame(rows).set_index("ckpt")
    for row in measured:
        where = f"{TABLE}, line {row['line']} ({row['ckpt']})"
        if row["ckpt"] not in costs.index:
            close = get_close_matches(row["ckpt"], list(costs.index), n=1)
            raise StudyError(
                "the study has no such checkpoint",
                where=where,
                remedy=f"Did you mean {close[0]!r}?" if close else "Remove the row.",
            )
        for column, source in (("gpu_hours", "gpu_source"), ("download_gb", "download_source")):
            if row[column] != "":
                costs.loc[row["ckpt"], column] = _amount(row[column], column, where)
                costs.loc[row["ckpt"], source] = "costs.tsv"
    return costs


def _amount(text: str, column: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise StudyError(
            f"{column} is {text!r}, expected a number from 0, or nothing",
            where=where,
            remedy="Mend this field.",
        )
    return value
