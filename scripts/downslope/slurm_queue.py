"""What SLURM has in its queue of a study: asked once, and never waited for."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

PATIENCE = 10.0
"""Seconds that squeue may take; without a controller it would wait for minutes."""


@dataclass(frozen=True)
class Submitted:
    """A job that Snakemake has submitted: its number, rule, checkpoint, state and, where it is
    pending, SLURM's reason."""

    id: str
    rule: str
    ckpt: str
    state: str
    reason: str


def submitted(study: Path, *, patience: float = PATIENCE) -> tuple[list[Submitted], str]:
    """Jobs of the study in SLURM's queue, and a sentence where SLURM does not answer.

    Both are empty where there is no SLURM. The executor writes rule and wildcards into a job's
    comment; a job belongs to the study in whose folder it works.
    """
    if shutil.which("squeue") is None:
        return [], ""
    command = ["squeue", "--noheader", "--format=%i|%T|%r|%Z|%k"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=patience)
    except subprocess.TimeoutExpired:
        return [], _unheard(f"squeue took more than {patience:.0f} s")
    if "configuration source" in done.stderr:
        return [], ""  # its programs are installed, and there is no cluster
    if done.returncode:
        why = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        return [], _unheard(why)
    return [job for line in done.stdout.splitlines() if (job := _parse(line, study))], ""


def _parse(line: str, study: Path) -> Submitted | None:
    fields = line.split("|", 4)
    if len(fields) < 5:
        return None
    number, state, reason, place, comment = fields
    rule, _, wildcards = comment.removeprefix("rule_").partition("_wildcards_")
    if not comment.startswith("rule_") or Path(place).resolve() != study.resolve():
        return None
    return Submitted(number, rule, wildcards, state, reason)


def _unheard(why: str) -> str:
    return f"SLURM does not answer ({why}): what is queued there is not shown."
