"""From a folder of the harness's results to the cells and item values of a study.

Which file belongs to which checkpoint is asked first, for all files at once, so that a folder
with a contradiction in it is refused before anything is written: two files with the same cell,
files whose tasks differ in examples, version or items, models that no row names.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from downslope.cells import COLUMNS
from downslope.errors import StudyError
from downslope.harness_checks import require_alike, require_bounds, require_once
from downslope.harness_files import HarnessFile, read_folder
from downslope.harness_metrics import MetricNames
from downslope.harness_models import (
    Found,
    Model,
    compile_pattern,
    compile_rules,
    disagreement,
    place,
    slug,
)

PROTOCOL = "harness"
"""The protocol of all cells that come from the harness's output."""
CONFIG = "config/config.yaml, harness"
_MOST_NAMED = 5

log = logging.getLogger("downslope")


def read_results(config: Mapping[str, Any]) -> list[HarnessFile]:
    """The files of results in `harness.folder`; other JSON files there are logged."""
    files, others = read_folder(Path(config["folder"]), config.get("files", "**/*.json"))
    _say("JSON files that are no results of the harness", [str(path) for path in others])
    return files


def gather(
    files: Sequence[HarnessFile],
    config: Mapping[str, Any],
    checkpoints: Sequence[Mapping[str, Any]],
    tasks: Iterable[str],
    names: MetricNames,
) -> dict[str, list[Found]]:
    """Everything in the files that belongs to the study, by task, in the order of `tasks`.

    config       the key `harness` of config.yaml: models, leave_out, tasks
    checkpoints  rows of checkpoints.tsv; files of those marked known_bad are left out
    names        the metrics (`MetricNames(config["metrics"])`)

    What is left out is logged with its count. Raises StudyError, naming the files, for a model
    that no rule reads or no row of checkpoints.tsv has and `leave_out` does not name; a cell
    that two files give; a value outside its metric's bounds; files that disagree about a task's
    examples, version or number of items.
    """
    found: dict[str, list[Found]] = {task: [] for task in tasks}
    named = config.get("tasks", {})
    aggregates: Counter[str] = Counter()
    unlisted: Counter[str] = Counter()
    bad: list[str] = []
    for file, row in _placed(files, config, checkpoints):
        if row["known_bad"]:
            bad.append(file.name)
            continue
        for source, entry in file.entries.items():
            task = named.get(source, slug(source))
            if source in file.groups and source not in named:
                aggregates[source] += 1
            elif task not in found:
                unlisted[source] += 1
            else:
                found[task].append(Found(row, file, source, entry))
    _say("files of checkpoints marked known_bad", bad)
    _say("aggregates of several tasks (named under harness.tasks they are read)", aggregates)
    _say("tasks that tasks.tsv does not report", unlisted)
    _say_metrics(found, names)
    _say_unused(files, config)
    for task, listed in found.items():
        require_alike(listed)
        require_bounds(listed, names)
        require_once(task, listed, names)
    return found


def cell_rows(task: str, listed: Iterable[Found], names: MetricNames) -> list[dict[str, Any]]:
    """Cells of one task as the files have them; n is None where a file does not say it.

    A metric without a number (NaN) gives no cell: it is missing, and logged as such.
    """
    rows = []
    for found in listed:
        for metric, (value, se) in found.entry.values.items():
            name = names.of(found.source, metric)
            if name is not None and not math.isnan(value):
                where = f"{found.file.path}, {metric} of {found.source}"
                numbers = names.imported(name, value, se, where)
                rows.append(cell(found.checkpoint, task, name, *numbers, found.entry.n))
    return rows


def cell(
    checkpoint: Mapping[str, Any], task: str, metric: str, value: float, se: float, n: int | None
) -> dict[str, Any]:
    """One row of the cells."""
    labels = ("ckpt", "family", "parameters", "step", "tokens", "seed")
    return {
        **{column: checkpoint[column] for column in labels},
        "flops": 6.0 * checkpoint["parameters"] * checkpoint["tokens"],
        "task": task,
        "protocol": PROTOCOL,
        "metric": metric,
        "value": value,
        "se": se,
        "n": n,
    }


def cells_frame(
    rows: Sequence[Mapping[str, Any]],
    checkpoints: Sequence[Mapping[str, Any]],
    tasks: Sequence[str],
    names: MetricNames,
) -> pd.DataFrame:
    """Cells in their one order: by run and step, then like `tasks`, then like the metrics.

    Cells that some checkpoints have and others lack are logged with their count.
    """
    usable = [row for row in checkpoints if not row["known_bad"]]
    have = {(row["ckpt"], row["task"], row["metric"]) for row in rows}
    outcomes = sorted({key[1:] for key in have})
    lacking = [
        f"{task}/{metric} of {row['ckpt']}"
        for row in usable
        for task, metric in outcomes
        if (row["ckpt"], task, metric) not in have
    ]
    log.info("%d cells of %d checkpoints and %d tasks", len(rows), len(usable), len(tasks))
    _say("cells that other checkpoints have and the files lack", lacking)
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    place_of = {task: number for number, task in enumerate(tasks)}
    metric_of = {name: number for number, name in enumerate(names.order)}
    frame = frame.assign(t=frame["task"].map(place_of), m=frame["metric"].map(metric_of))
    frame = frame.sort_values(["family", "parameters", "seed", "step", "t", "m"])
    numbers = {"n": "Int64", "value": "float64", "se": "float64", "flops": "float64"}
    return frame[list(COLUMNS)].astype(numbers).reset_index(drop=True)


def _placed(
    files: Iterable[HarnessFile],
    config: Mapping[str, Any],
    checkpoints: Iterable[Mapping[str, Any]],
) -> list[tuple[HarnessFile, Mapping[str, Any]]]:
    """Each file with its row of checkpoints.tsv."""
    rules = compile_rules(config["models"], f"{CONFIG}.models")
    leave = [compile_pattern(text, f"{CONFIG}.leave_out") for text in config.get("leave_out", [])]
    by_key = {(r["family"], r["parameters"], r["seed"], r["step"]): r for r in checkpoints}
    placed, left, odd = [], [], []
    for file in files:
        model = place(file, rules)
        row = by_key.get(model.key) if model is not None else None
        if row is not None and model is not None:
            placed.append((file, row))
            said = disagreement(file, model)
            odd += [f"{file.name} ({said})"] if said else []
        elif any(pattern.search(file.model) or pattern.search(file.name) for pattern in leave):
            left.append(file.name)
        else:
            raise _stray(file, model)
    _say("files that harness.leave_out names", left)
    _say("files whose names disagree with their contents; the contents count", odd)
    return placed


def _stray(file: HarnessFile, model: Model | None) -> StudyError:
    if model is None:
        return StudyError(
            f"no pattern of harness.models matches {file.shown!r}",
            where=str(file.path),
            remedy="Add a rule for this model, or name it under harness.leave_out.",
        )
    return StudyError(
        f"is of {model.family} with {model.parameters} parameters, seed {model.seed}, step "
        f"{model.step}, which is no row of checkpoints.tsv",
        where=str(file.path),
        remedy="Add its row (with a reason under known_bad to leave it out of all fits), or name "
        "it under harness.leave_out.",
    )


def _say_unused(files: Iterable[HarnessFile], config: Mapping[str, Any]) -> None:
    """Names in the config that no file has: mistyped, or of files that are gone."""
    pairs = {(task, metric) for f in files for task, e in f.entries.items() for metric in e.values}
    tasks = {task for task, _ in pairs}
    metrics = {metric for _, metric in pairs} | {f"{task}/{metric}" for task, metric in pairs}
    for key, known in (("tasks", tasks), ("metrics", metrics)):
        unused = [name for name in config.get(key, {}) if name not in known]
        _say(f"names under harness.{key} that no file has", unused)


def _say(what: str, which: Sequence[str] | Counter[str]) -> None:
    if not which:
        return
    names = list(which)
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    log.warning("%d %s: %s%s", len(names), what, ", ".join(names[:_MOST_NAMED]), more)


def _say_metrics(found: Mapping[str, Sequence[Found]], names: MetricNames) -> None:
    """Metrics that are not imported, each once with the number of its cells."""
    unknown: Counter[str] = Counter()
    empty: Counter[str] = Counter()
    for listed in found.values():
        for each in listed:
            for metric, (value, _) in each.entry.values.items():
                if names.of(each.source, metric) is None:
                    unknown[metric] += 1
                elif math.isnan(value):
                    empty[f"{metric} of {each.source} in {each.file.name}"] += 1
    for metric, count in unknown.most_common():
        log.warning(
            "%d cells of the metric %s are not imported: describe it under harness.metrics, such "
            "as {%s: {better: higher}}",
            count, metric, metric,
        )  # fmt: skip
    _say("metrics that are NaN, taken as missing", empty)
