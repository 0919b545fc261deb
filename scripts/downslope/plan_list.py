"""The list of a tokenizer's plans: one file that stands for all of them.

    resources/plans/{tokenizer}.tsv                   task, digest
    resources/plans/{tokenizer}/{task}.safetensors    the plans

A scoring job needs every plan. With each of them as an input, a study of a thousand checkpoints
would cost Snakemake tens of thousands of dependencies; so jobs depend on the list, and compare
what they read with it.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from downslope.errors import StudyError
from downslope.files import atomic_write
from downslope.plan import Plan, read_plan


def list_plans(plans: Sequence[Path], output: Path) -> None:
    """Write task and digest of each plan, in the order of tasks."""
    rows = sorted((path.stem, read_plan(path).digest) for path in plans)
    with atomic_write(output) as temporary:
        lines = ["task\tdigest", *("\t".join(row) for row in rows)]
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def read_list(path: Path) -> dict[str, str]:
    """Task -> digest of what the list at `path` names."""
    with open(path, encoding="utf-8", newline="") as table:
        return {row["task"]: row["digest"] for row in csv.DictReader(table, delimiter="\t")}


def listed_plans(path: Path, tasks: Iterable[str]) -> Iterator[Plan]:
    """The plans of `tasks`, in that order, as the list at `path` names them.

    StudyError for a plan that is not listed, is gone, or is another than the one listed.
    """
    listed = read_list(path)
    for task in tasks:
        file = path.with_suffix("") / f"{task}.safetensors"
        if not file.is_file() or task not in listed:
            raise _mismatch(file, path, f"there is no such plan, or {path.name} does not list it")
        plan = read_plan(file)
        if plan.digest != listed[task]:
            raise _mismatch(file, path, f"is not the plan that {path.name} lists")
        yield plan


def _mismatch(file: Path, path: Path, what: str) -> StudyError:
    remedy = f"Delete {path} and this file, then run again; what is scored is kept."
    return StudyError(what, where=str(file), remedy=remedy)
