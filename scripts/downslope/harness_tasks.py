"""Tasks and metrics of a folder of the harness's output, as tables and families of a study."""

from __future__ import annotations

import fnmatch
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from downslope.errors import StudyError
from downslope.harness_cells import PROTOCOL
from downslope.harness_defaults import TASK_METRICS, known_tasks
from downslope.harness_files import HarnessFile
from downslope.harness_metrics import BETTER, LOGARITHMIC, MetricNames, plain_name
from downslope.harness_models import slug
from downslope.outcomes import Outcome

DATASET = "harness"
"""What stands in the column dataset of tasks that this study has no items of."""
CAUSE = "Other"
_LEADING = ("accuracy",), ("mc1", "mc2")  # what a task's main outcomes are, the first that it has

log = logging.getLogger("downslope")


@dataclass(frozen=True)
class TaskTables:
    """What the files say of tasks and metrics.

    rows      of tasks.tsv
    names     harness.tasks of the config: harness task -> task, where a slug does not say it
    metrics   harness.metrics of the config
    families  families of tests: the main outcomes of all tasks, then a family for each other
              metric
    unknown   metric of which nothing says what is better -> number of its values
    """

    rows: list[dict[str, Any]]
    names: dict[str, str]
    metrics: dict[str, Any]
    families: dict[str, list[str]]
    unknown: dict[str, int]


def task_tables(
    files: Sequence[HarnessFile],
    wanted: Sequence[str],
    unwanted: Sequence[str],
    better: Mapping[str, str],
) -> TaskTables:
    """Tables of all tasks in `files`, or of those whose harness names match one of `wanted`
    (globs), without those that match one of `unwanted`. Aggregates of several tasks are none,
    nor are tasks of which no metric is described: by metrics.py, by the files, by what is known
    of its name, or by `better` (metric to `higher` or `lower`). Raises StudyError where there is
    no task.
    """
    found: dict[str, dict[str, int]] = {}
    higher: dict[str, set[bool]] = {}
    for file in files:
        for source, entry in file.entries.items():
            if source in file.groups or _matches(source, unwanted):
                continue
            if wanted and not _matches(source, wanted):
                continue
            counts = found.setdefault(source, {})
            for metric in entry.values:
                counts[metric] = counts.get(metric, 0) + 1
                higher.setdefault(metric, set()).update(
                    better for name, better in entry.higher.items() if name == _plain(metric)
                )
    if not found:
        raise StudyError(
            f"no task of the files matches {' or '.join(wanted) or 'anything'}",
            where="--tasks",
            remedy="Write names or patterns as for files: --tasks 'blimp_*' arc_easy.",
        )
    known = known_tasks(found)
    metrics, unknown = _metrics(found, higher, better, known)
    resolve = MetricNames(metrics, "harness.metrics").of
    rows: dict[str, dict[str, Any]] = {}
    names: dict[str, str] = {}
    outcomes: dict[str, dict[str, None]] = {}
    for source in sorted(found):
        described = [name for metric in found[source] if (name := resolve(source, metric))]
        if not described:
            continue
        ours = known.get(source, {})
        task = str(ours.get("task", slug(source)))
        names |= {source: task} if ours else {}
        rows.setdefault(task, _row(task, source, ours))
        outcomes.setdefault(task, {}).update(dict.fromkeys(described))
    left = [source for source in sorted(found) if slug(source) not in rows and source not in names]
    if not rows:
        raise StudyError(
            f"nothing says which way the metrics of {', '.join(left)} are better: "
            f"{', '.join(unknown)}",
            where="--tasks",
            remedy="Say it: --better METRIC=higher or --better METRIC=lower.",
        )
    if left:
        log.warning("left out, none of their metrics is described: %s", ", ".join(left))
    return TaskTables(list(rows.values()), names, metrics, _families(outcomes), unknown)


def _matches(source: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(source, pattern) for pattern in patterns)


def _plain(metric: str) -> str:
    return metric.partition(",")[0]


def _row(task: str, source: str, ours: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "task": task,
        "dataset": DATASET,
        "title": ours.get("title", source),
        "cause": ours.get("cause", CAUSE),
        "chance": ours.get("chance", ""),
        "protocols": PROTOCOL,
        "report": "yes",
    }


def _metrics(
    found: Mapping[str, Mapping[str, int]],
    higher: Mapping[str, set[bool]],
    said: Mapping[str, str],
    known: Mapping[str, Any],
) -> tuple[dict[str, Any], dict[str, int]]:
    """harness.metrics for what is none of our metrics, and the metrics that nothing describes."""
    metrics: dict[str, Any] = {}
    for source in sorted(set(TASK_METRICS) & set(known)):
        metrics |= {f"{source}/{old}": new for old, new in TASK_METRICS[source].items()}
    ours = MetricNames(metrics, "harness.metrics")
    unknown: dict[str, int] = {}
    for source, counts in found.items():
        for metric, count in counts.items():
            if ours.of(source, metric) is not None or metric in metrics:
                continue
            told = {"higher" if flag else "lower" for flag in higher[metric]}
            better = said.get(metric, BETTER.get(_plain(metric), "") if not told else "")
            if not better and len(told) == 1:
                better = next(iter(told))
            if not better:
                unknown[metric] = unknown.get(metric, 0) + count
                continue
            log_scale = _plain(metric) in LOGARITHMIC
            name = "log_" * log_scale + plain_name(metric)
            described = {"better": better} | ({"log": True} if log_scale else {})
            metrics[metric] = described | ({"as": name} if name != metric else {})
    return metrics, unknown


def _families(outcomes: Mapping[str, Mapping[str, None]]) -> dict[str, list[str]]:
    """The main outcomes of all tasks in one family, every other metric in one of its own."""
    families: dict[str, list[str]] = {PROTOCOL: []}
    for task, metrics in outcomes.items():
        shown = ([m for m in some if m in metrics] for some in _LEADING)
        leading = next(filter(None, shown), list(metrics)[:1])
        for metric in metrics:
            family = PROTOCOL if metric in leading else slug(metric)
            families.setdefault(family, []).append(str(Outcome(task, PROTOCOL, metric)))
    return {name: listed for name, listed in families.items() if listed}
