"""The work of a study's tasks and the rate of its devices, by what lies in its folder now."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from downslope.cost_rate import Job, Rate, choose_rate, device_of
from downslope.cost_work import Counts, Work, count_packs, task_works
from downslope.errors import StudyError
from downslope.identity import SCORING_MODULES, modules_digest
from downslope.plan import read_plan
from downslope.store import read_facts
from downslope.study import Checkpoint, Study

Facts = Mapping[tuple[str, str], Mapping[str, Any]]
"""Facts of a checkpoint's finished scores by task and identity."""


def study_works(
    study: Study, tell: Callable[[str], None]
) -> tuple[dict[str, dict[str, Work]], dict[str, dict[str, str]]]:
    """The work of each task, and the digests of its plans where there are any, by tokenizer; empty
    digests of those that will be made anew.

    `tell` gets notes on plans that could not be used.
    """
    works, digests = {}, {}
    for tokenizer in sorted({row.tokenizer for row in study.usable}):
        planned, digests[tokenizer] = _plans(study, tokenizer, tell)
        works[tokenizer] = task_works(_tasks(study), planned)
    return works, digests


def study_rate(
    study: Study, scores: Mapping[str, Facts], works: Mapping[str, Mapping[str, Work]]
) -> Rate:
    """The rate that `scores` (by checkpoint) were computed at, or that the config states, or an
    assumed one, as `choose_rate` says."""
    return choose_rate(_jobs(study, scores, works), study.config.get("cost"), study.config["dtype"])


def scores_of(study: Study, row: Checkpoint) -> dict[tuple[str, str], dict[str, Any]]:
    """The facts of a checkpoint's finished scores, published or in the store only, by task and
    identity."""
    found = {}
    for task in study.by_task:
        published = study.folder / f"results/scores/{row.ckpt}/{task}.parquet"
        stored = (study.folder / "resources/scored" / row.ckpt).glob(f"{task}.*.parquet")
        for path in [*stored, *([published] if published.is_file() else [])]:
            try:
                facts = read_facts(path)
            except StudyError:
                if path.is_file():
                    raise
                continue  # a job that starts deletes what it will publish
            if facts:
                found[task, facts["identity"]] = facts
    return found


def _tasks(study: Study) -> list[dict[str, Any]]:
    rows = [(task, study.datasets[task.dataset]) for task in study.tasks]
    return [
        {
            "task": task.task,
            "dataset": task.dataset,
            "form": data["format"],
            "bytes": data["bytes"],
        }
        for task, data in sorted(rows, key=lambda pair: pair[0].task)
    ]


def _plans(
    study: Study, tokenizer: str, tell: Callable[[str], None]
) -> tuple[dict[str, Counts], dict[str, str]]:
    """Counts and digests of the plans that exist and fit the config."""
    counts, digests = {}, {}
    for task in study.tasks:
        path = study.folder / f"resources/plans/{tokenizer}/{task.task}.safetensors"
        if not path.is_file():
            continue
        wanted = {
            "protocols": list(task.protocols),
            "max_length": study.config["tokenizers"][tokenizer]["max_length"],
            "pack_tokens": study.config["pack_tokens"],
        }
        items = study.datasets[task.dataset]["items"]
        try:
            plan = read_plan(path)
            fits = all(plan.facts.get(key) == value for key, value in wanted.items())
            fits = fits and len(plan.item_ids) == items
        except (StudyError, KeyError):
            fits = False
        if not fits:
            tell(
                f"{path} was made by another version, for another config or for other items, and "
                "is not used"
            )
            digests[task.task] = ""
            continue
        size = study.datasets[task.dataset]["bytes"]
        counts[task.task] = count_packs(plan.packs, size)
        digests[task.task] = plan.digest
    return counts, digests


def _jobs(
    study: Study,
    scores: Mapping[str, Facts],
    works: Mapping[str, Mapping[str, Work]],
) -> list[Job]:
    """What was scored in the study's dtype, with its operations in proportion to its tokens; by
    the present engine, or by an older one where that is all there is."""
    now = modules_digest(SCORING_MODULES)
    current: list[Job] = []
    older: list[Job] = []
    for row in study.usable:
        for (task, _), facts in scores.get(row.ckpt, {}).items():
            parts, job, work = facts["parts"], facts["job"], works[row.tokenizer][task]
            if parts.get("dtype") == study.config["dtype"]:
                share = job["tokens_computed"] / work.tokens().best
                done = share * work.operations(row.parameters).best
                jobs = current if parts.get("modules") == now else older
                jobs.append(Job(row.ckpt, row.parameters, device_of(job), done, job["seconds"]))
    return current or older
