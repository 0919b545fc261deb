"""What must hold between the rows of a study's tables and its config; each check raises StudyError
for the first thing that is wrong, naming file, line and remedy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from downslope.errors import StudyError
from downslope.files import amount
from downslope.harness_models import compile_rules
from downslope.metrics import METRICS
from downslope.outcomes import Outcome
from downslope.protocols import PROTOCOLS
from downslope.tables import require_unique

if TYPE_CHECKING:
    from downslope.study import Checkpoint, Task


_NEEDED = {
    "scores": ("dtype", "pack_tokens", "tokenizers"),
    "import": (),
    "harness": ("harness",),
}

_SEVERAL = 3
"""Checkpoints of a run, of which a trend can be estimated."""

_COLUMNS = ("item", "protocol", "metric", "replicate")
"""Names that no checkpoint may have."""


def check_checkpoints(rows: list[Checkpoint], config: Mapping[str, Any], path: Path) -> None:
    """Keys of the config, unique sources and runs, revisions, tokenizers, growing tokens."""
    for key in _NEEDED[config["cells"]]:
        if key not in config:
            raise StudyError(
                f"lacks the key {key!r}, which a study with `cells: {config['cells']}` needs",
                where=str(path.parent / "config.yaml"),
                remedy="See config/README.md for what to write.",
            )
    table = [vars(row) for row in rows]
    require_unique(table, ("source", "revision"), path)
    require_unique(table, ("family", "parameters", "seed", "step"), path)
    for row in rows:
        where = f"{path}, line {row.line} ({row.ckpt})"
        if row.ckpt in _COLUMNS:
            raise StudyError(
                f"the name {row.ckpt!r} is that of a column in tables with one for each checkpoint",
                where=where,
                remedy="Give the checkpoint another name.",
            )
        if row.is_hub and not row.revision:
            raise StudyError(
                f"{row.source} has no revision",
                where=where,
                remedy="Name a branch, tag or commit: a model without one changes unseen.",
            )
        if not row.is_hub and row.revision:
            raise StudyError(
                f"the folder {row.source!r} cannot have the revision {row.revision!r}",
                where=where,
                remedy="Empty the revision, or write the source as hub:owner/name.",
            )
        if config["cells"] == "scores":
            _known(row.tokenizer, config.get("tokenizers", {}), "tokenizer", where, "config.yaml")
    ordered = sorted(rows, key=lambda row: (row.run, row.step))
    for before, after in pairwise(ordered):
        if before.run == after.run and after.tokens <= before.tokens:
            raise StudyError(
                f"step {after.step} has {after.tokens} tokens, not more than step "
                f"{before.step} of the same run ({before.tokens} in line {before.line})",
                where=f"{path}, line {after.line} ({after.ckpt})",
                remedy="Within a run, tokens grow with steps; mend one of the two rows.",
            )


def lone_checkpoints(rows: Sequence[Checkpoint], path: Path) -> list[str]:
    """Sentences about runs of one checkpoint, unless they outnumber those of several: a slip of the
    pen in family, parameters or seed passes for a run of its own."""
    runs = Counter(row.run for row in rows)
    alone = [row for row in rows if runs[row.run] == 1]
    if len(alone) > sum(count >= _SEVERAL for count in runs.values()):
        return []
    return [
        f"{path}, line {row.line} ({row.ckpt}): it is the only checkpoint of its run (family "
        f"{row.family}, {row.parameters} parameters, seed {row.seed}), where others have "
        f"{_SEVERAL} or more. Is one of the three misspelt?"
        for row in alone
    ]


def require_within(row: Checkpoint, size: int, budget_gb: float) -> None:
    """Raise StudyError for a checkpoint whose files alone are larger than the disk budget."""
    if size > budget_gb * 1e9:
        raise StudyError(
            f"its files take {amount(size)}, and the disk budget is {amount(budget_gb * 1e9)} "
            "for all weights together",
            where=f"config/checkpoints.tsv, line {row.line} ({row.ckpt})",
            remedy="Raise disk_budget_gb (section machine of the profile), or mark the row "
            "known_bad.",
        )


def own_files(row: Mapping[str, Any], path: Path) -> list[str]:
    """The files of the study among a data set's sources; StudyError where one does not exist.

    One under resources/ need not exist yet, since a rule of the study can make it.
    """
    sources = [source.split("!/")[0] for source in str(row["sources"]).split()]
    files = [source for source in sources if "://" not in source]
    for file in files:
        if not Path(file).is_file() and Path(file).parts[:1] != ("resources",):
            raise StudyError(
                f"the source {file!r} is no file of this study",
                where=f"{path}, line {row['line']} ({row['dataset']})",
                remedy="Mend its path, relative to the study. Sources are joined by spaces, so "
                "that a path has none of its own.",
            )
    return files


def check_harness(config: Mapping[str, Any], path: Path) -> None:
    """Patterns that name checkpoints, where cells come from lm-evaluation-harness."""
    if config["cells"] == "harness":
        compile_rules(config["harness"]["models"], f"{path}, harness.models")


def check_tasks(
    tasks: list[Task],
    datasets: Mapping[str, dict[str, Any]],
    metrics: Sequence[str],
    config: Mapping[str, Any],
    path: Path,
) -> None:
    """Data sets, metrics and protocols that exist and fit each other."""
    for task in tasks:
        where = f"{path}, line {task.line} ({task.task})"
        register = "the register config/datasets.tsv"
        place = "a study of harness output" if config["cells"] == "harness" else register
        _known(task.dataset, datasets, "data set", where, place)
        for metric in task.chance:
            _known(metric, metrics, "metric in chance:", where, "the metrics")
        if len(set(task.protocols)) < len(task.protocols):
            raise StudyError("names a protocol twice", where=where, remedy="Name each once.")
        form = datasets[task.dataset]["format"]
        for name in task.protocols:
            protocols = datasets if config["cells"] == "harness" else PROTOCOLS
            _known(name, protocols, "protocol", where, "the protocols")
            if config["cells"] == "scores" and form not in PROTOCOLS[name].formats:
                fitting = [p.name for p in PROTOCOLS.values() if form in p.formats]
                raise StudyError(
                    f"the protocol {name} does not define how the format {form!r} is scored",
                    where=where,
                    remedy=f"Protocols that do: {', '.join(fitting) or 'none'}.",
                )


def check_families(
    families: Mapping[str, list[Outcome]],
    tasks: list[Task],
    datasets: Mapping[str, dict[str, Any]],
    metrics: Sequence[str],
    config: Mapping[str, Any],
    path: Path,
) -> None:
    """Outcomes that exist, each in one family, at least one of them reported."""
    by_task = {task.task: task for task in tasks}
    owner: dict[Outcome, str] = {}
    for name, outcomes in families.items():
        for outcome in outcomes:
            where = f"{path}, families.{name}, {outcome}"
            _known(outcome.task, by_task, "task", where, "tasks.tsv")
            task = by_task[outcome.task]
            _known(outcome.protocol, task.protocols, "protocol", where, f"task {task.task}")
            _known(outcome.metric, metrics, "metric", where, "the metrics")
            needs_mc1 = outcome.metric in METRICS and METRICS[outcome.metric].needs_mc1
            form = datasets[task.dataset]["format"]
            if config["cells"] == "scores" and needs_mc1 and form != "truthfulqa":
                raise StudyError(
                    f"the metric {outcome.metric} is not defined for the format {form!r}",
                    where=where,
                    remedy="Choose another metric.",
                )
            if outcome in owner:
                raise StudyError(
                    f"is in the families {owner[outcome]} and {name}"
                    if owner[outcome] != name
                    else "is there twice",
                    where=where,
                    remedy="An outcome is tested in one family, once.",
                )
            owner[outcome] = name
    if not any(by_task[outcome.task].report for outcome in owner):
        raise StudyError(
            "no outcome of any family belongs to a task that is reported",
            where=f"{path}, families",
            remedy="Set report to yes for at least one of their tasks in tasks.tsv.",
        )


def _known(name: str, among: Any, kind: str, where: str, place: str) -> None:
    if name in among:
        return
    close = next(iter(get_close_matches(name, list(among), n=1)), None)
    raise StudyError(
        f"the {kind} {name!r} is not in {place}",
        where=where,
        remedy=f"Did you mean {close!r}?" if close else f"Known: {', '.join(among) or 'none'}.",
    )
