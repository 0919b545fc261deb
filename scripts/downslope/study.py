"""A study: its config and tables, read, cross-checked and offered as plain objects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from downslope.errors import StudyError
from downslope.harness_metrics import MetricNames
from downslope.outcomes import Outcome
from downslope.study_checks import (
    check_checkpoints,
    check_families,
    check_harness,
    check_tasks,
)
from downslope.tables import check_config, read_table, read_yaml

REGISTER = Path(__file__).resolve().parents[2] / "config" / "datasets.tsv"
"""The register of data sets that ships with Downslope; a study can add one of its own."""

HUB = "hub:"
HARNESS = "harness"
"""Data set and protocol of results that lm-evaluation-harness computed."""

ROBUST = "two-stage"
"""The default judge of the verdicts, taken from the shipped table by calibration.py's rule."""


@dataclass(frozen=True)
class Checkpoint:
    """One row of checkpoints.tsv: one model at one training step."""

    ckpt: str
    family: str
    parameters: int
    step: int
    tokens: int
    seed: int
    source: str
    revision: str
    tokenizer: str
    known_bad: str
    line: int

    @property
    def is_hub(self) -> bool:
        return self.source.startswith(HUB)

    @property
    def run(self) -> tuple[str, int, int]:
        """Family, parameters and seed: the training run, the unit of clustering."""
        return self.family, self.parameters, self.seed


@dataclass(frozen=True)
class Task:
    """One row of tasks.tsv: a data set and its prompt."""

    task: str
    dataset: str
    title: str
    cause: str
    chance: Mapping[str, float]
    protocols: tuple[str, ...]
    report: bool
    line: int


@dataclass(frozen=True)
class Study:
    """Everything that a study's folder says, checked."""

    folder: Path
    config: Mapping[str, Any]
    checkpoints: list[Checkpoint]
    tasks: list[Task]
    datasets: Mapping[str, dict[str, Any]]
    families: Mapping[str, list[Outcome]]
    metrics: MetricNames

    @cached_property
    def by_ckpt(self) -> dict[str, Checkpoint]:
        return {row.ckpt: row for row in self.checkpoints}

    @cached_property
    def by_task(self) -> dict[str, Task]:
        return {row.task: row for row in self.tasks}

    @property
    def usable(self) -> list[Checkpoint]:
        """Checkpoints that are not known to be bad, sorted by id."""
        return sorted((c for c in self.checkpoints if not c.known_bad), key=lambda c: c.ckpt)

    @property
    def reported(self) -> list[Task]:
        """Tasks whose cells are reported."""
        return [task for task in self.tasks if task.report]

    @property
    def tested(self) -> dict[str, list[Outcome]]:
        """The families of tests, without outcomes of tasks that are not reported."""
        kept = {
            name: [outcome for outcome in outcomes if self.by_task[outcome.task].report]
            for name, outcomes in self.families.items()
        }
        return {name: outcomes for name, outcomes in kept.items() if outcomes}

    @property
    def machine(self) -> Mapping[str, float]:
        """What a profile says about the machine: gpu_gb, disk_budget_gb, weights_wait."""
        return self.config.get("machine", {})

    @property
    def robust(self) -> str:
        """The method whose word the verdicts take."""
        return str(self.config.get("robust", ROBUST))

    @property
    def better(self) -> dict[str, str]:
        """Which way each metric is better: `higher` or `lower`."""
        return self.metrics.better

    @property
    def primary(self) -> list[Outcome]:
        """Outcomes of the first family of tests: those of Table 1 and Figure 1."""
        return next(iter(self.tested.values()))


def load_study(folder: Path, config: Mapping[str, Any] | None = None) -> Study:
    """Read and check the study in `folder`; `config` replaces the file's content where given
    (Snakemake merges the command line into it).

    Raises StudyError for the first thing that is wrong, naming file, line and remedy.
    """
    place = folder / "config"
    path = place / "config.yaml"
    stated = read_yaml(path)
    if not isinstance(stated, dict):
        raise StudyError(
            "is not a mapping of keys to values",
            where=str(path),
            remedy="Write `key: value` lines; config/README.md lists the keys.",
        )
    merged = dict(stated if config is None else config)
    if "machine" in merged:
        merged["machine"] = _numbers(merged["machine"])
    check_config(merged, path)
    checkpoints = [
        Checkpoint(**row) for row in read_table(place / "checkpoints.tsv", "checkpoints")
    ]
    tasks = [_task(row) for row in read_table(place / "tasks.tsv", "tasks")]
    if merged["cells"] == "harness":
        datasets = {HARNESS: {"dataset": HARNESS, "format": HARNESS}}
    else:
        datasets = _register(place / "datasets.tsv")
    metrics = MetricNames(merged.get("harness", {}).get("metrics", {}), f"{path}, harness.metrics")
    check_checkpoints(checkpoints, merged, place / "checkpoints.tsv")
    check_harness(merged, path)
    check_tasks(tasks, datasets, metrics.order, merged, place / "tasks.tsv")
    families = {
        name: [Outcome.parse(text) for text in texts] for name, texts in merged["families"].items()
    }
    check_families(families, tasks, datasets, metrics.order, merged, path)
    return Study(folder, merged, checkpoints, tasks, datasets, families, metrics)


def _numbers(section: Any) -> Any:
    """A section with its texts as numbers, where they are: Snakemake hands on what a profile or
    the command line says as text. What is no mapping or no number is left to the schema.
    """
    if not isinstance(section, Mapping):
        return section
    return {
        key: _number(value) if isinstance(value, str) else value for key, value in section.items()
    }


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _task(row: dict[str, Any]) -> Task:
    pairs = [pair.split("=") for pair in row["chance"].split()]
    return Task(
        **{
            **row,
            "chance": {metric: float(value) for metric, value in pairs},
            "protocols": tuple(row["protocols"].split(",")),
            "report": row["report"] == "yes",
        }
    )


def _register(own: Path) -> dict[str, dict[str, Any]]:
    """The shipped register and the study's own, if it has one.

    A name may stand in both only with the same content, as it does in a copy of the shipped file.
    """
    register = {row["dataset"]: row for row in read_table(REGISTER, "datasets")}
    for row in read_table(own, "datasets") if own.is_file() else []:
        shipped = register.get(row["dataset"])
        if shipped is not None and shipped | {"line": 0} != row | {"line": 0}:
            raise StudyError(
                f"the data set {row['dataset']!r} is in the register that ships with Downslope "
                "with another content",
                where=f"{own}, line {row['line']}",
                remedy="Give yours another name.",
            )
        register[row["dataset"]] = row
    return register
