"""How far a study has come, from its files and SLURM alone, whether Snakemake runs or not.

What counts as done is what the store holds under the identity that the study wants now: a score
of other weights, plans or code is not there yet. No model is loaded, and nothing is written but an
empty file for a moment, by which the folder's clock is read.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from downslope.claim import holder
from downslope.errors import StudyError
from downslope.failures import fetch_marker, reason_in
from downslope.files import amount, file_time, matching
from downslope.identity import SCORING_MODULES, modules_digest, score_identity
from downslope.listed import ListedFiles
from downslope.locked import NOT_LOCKED, Lock
from downslope.logs import duration
from downslope.plan import read_plan
from downslope.reclaim import bytes_below
from downslope.slurm_queue import Submitted
from downslope.store import TaskStore, read_facts
from downslope.study import Checkpoint, Study

STATES = (
    *("done", "running", "fetching", "waiting for disk", "queued", "failed", "stopped"),
    *("waiting", "excluded"),
)
"""Of checkpoints, in the order in which a page counts them."""

_PROGRESS = re.compile(r"scored .*?, ([\d.]+)/s, (.+ left)")
_TAIL = 4096
_WORDS = 120
"""Characters of a log's last line that are shown."""


@dataclass(frozen=True)
class TaskStanding:
    """One task of a checkpoint: `done`, `part`, `failed` (`reason` says why), `missing`,
    `excluded`, or `old`: published from other plans, weights or code."""

    task: str
    state: str
    packs_done: int = 0
    packs: int = 0
    reason: str = ""


@dataclass(frozen=True)
class Standing:
    """One checkpoint: its state, what there is to say of it, and the log that says more."""

    row: Checkpoint
    state: str
    detail: str
    log: str
    tasks: list[TaskStanding]

    @property
    def done(self) -> int:
        return sum(task.state == "done" for task in self.tasks)


class StudyStatus:
    """Looks at a study's folder; `submitted` is what SLURM has of it (see `slurm_queue`)."""

    def __init__(self, study: Study, submitted: Iterable[Submitted] = ()) -> None:
        self.study, self.folder = study, study.folder
        self.tasks = sorted(study.by_task)
        self._submitted = {(job.rule, job.ckpt): job for job in submitted}
        self._lock = Lock(study, self.folder / "config/checkpoints.lock.tsv", tell=lambda _: None)
        self._modules = modules_digest(SCORING_MODULES)

    def standings(self) -> list[Standing]:
        """Every checkpoint, by family, parameters, seed and step."""
        rows = sorted(
            self.study.checkpoints, key=lambda r: (r.family, r.parameters, r.seed, r.step, r.ckpt)
        )
        return [self._standing(row) for row in rows]

    def _standing(self, row: Checkpoint) -> Standing:
        if row.known_bad:
            tasks = [TaskStanding(task, "excluded") for task in self.tasks]
            return Standing(row, "excluded", row.known_bad, "", tasks)
        tasks = self._tasks(row)
        log = f"logs/score/{row.ckpt}.log"
        state, detail = self._scoring(row, tasks, log) or self._fetching(row) or ("waiting", "")
        if state in ("fetching", "waiting for disk") or detail.startswith("download"):
            log = f"logs/fetch/{row.ckpt}.log"
        return Standing(row, state, detail, log if (self.folder / log).is_file() else "", tasks)

    def _scoring(
        self, row: Checkpoint, tasks: list[TaskStanding], log: str
    ) -> tuple[str, str] | None:
        """What the store, its claim and SLURM say; None where nothing has begun."""
        if all(task.state == "done" for task in tasks):
            return "done", ""
        place = self.folder / "resources/scored" / row.ckpt
        found = holder(place, now=self._now) if place.is_dir() else None
        share = _share(tasks)
        if found and found.is_alive():
            words = [share, self._rate(log), f"{found}, sign of life {duration(found.silent)} ago"]
            return "running", "; ".join(filter(None, words))
        if failures := [task for task in tasks if task.state == "failed"]:
            return "failed", "; ".join(f"{task.task}: {task.reason}" for task in failures)
        if job := self._submitted.get(("score", row.ckpt)):
            if job.state == "PENDING":
                return "queued", f"SLURM job {job.id} ({job.reason})"
            return "running", f"starting, SLURM job {job.id} ({job.state.lower()})"
        if found:
            dead = "has ended" if found.is_dead() else f"silent for {duration(found.silent)}"
            return "stopped", f"{share}; {found}: {dead}, the next job takes over"
        if any(task.packs_done for task in tasks):  # a job ended early, and none has followed yet
            last = _tail(self.folder / log)
            end = last[-1].partition(" ")[2][:_WORDS] if last else ""
            return "stopped", "; ".join(filter(None, [share, end]))
        return None

    def _fetching(self, row: Checkpoint) -> tuple[str, str] | None:
        if not row.is_hub:
            return None
        weights = self.folder / "resources/weights"
        place = weights / row.ckpt
        found = holder(place, now=self._now) if place.is_dir() else None
        if found and found.is_alive():
            last = _tail(self.folder / f"logs/fetch/{row.ckpt}.log")
            waits = [line for line in last if "waiting for disk" in line]
            if waits and waits[-1] == next((x for x in reversed(last) if x[:1] != " "), ""):
                return "waiting for disk", waits[-1].partition("waiting for disk: ")[2]
            size = f" of {amount(self._sizes[row.ckpt])}" if row.ckpt in self._sizes else ""
            return "fetching", f"{amount(bytes_below(place))}{size}; {found}"
        if (reason := reason_in(fetch_marker(weights, row.ckpt))) is not None:
            return "failed", f"download: {reason}"
        return None

    def _tasks(self, row: Checkpoint) -> list[TaskStanding]:
        scored = _names(self.folder / "resources/scored" / row.ckpt)
        published = _names(self.folder / "results/scores" / row.ckpt)
        weights = self._weights(row)
        return [self._task(row, task, weights, scored, published) for task in self.tasks]

    def _task(
        self, row: Checkpoint, task: str, weights: str, scored: set[str], published: set[str]
    ) -> TaskStanding:
        packs = self._plans.get((row.tokenizer, task), ("", 0))[1]
        absent = "old" if f"{task}.parquet" in published else "missing"
        identity = self._identity(row, task, weights)
        if identity is None:
            return TaskStanding(task, absent)
        store = TaskStore(self.folder / "resources/scored" / row.ckpt, task, identity)
        if store.finished.name in scored:
            return TaskStanding(task, "done", packs, packs)
        if absent == "old":  # or the store was deleted, and what it held is kept here
            facts = None
            # A job that starts deletes what it will publish, and a torn file is none.
            with contextlib.suppress(OSError, StudyError):
                facts = read_facts(self.folder / f"results/scores/{row.ckpt}/{task}.parquet")
            if facts and facts["identity"] == identity:
                return TaskStanding(task, "done", packs, packs)
        if (reason := reason_in(store.marker)) is not None:
            return TaskStanding(task, "failed", 0, packs, reason)
        done = store.packs_stored() if store.finished.stem + ".packs" in scored else 0
        return TaskStanding(task, "part" if done else absent, done, packs)

    def identity(self, ckpt: str, task: str) -> str | None:
        """The identity that a checkpoint's scores of a task must have now; None where it has no
        such scores, or its plan or its weights are not known yet."""
        row = self.study.by_ckpt.get(ckpt)
        if row is None or row.known_bad or task not in self.study.by_task:
            return None
        return self._identity(row, task, self._weights(row))

    def _identity(self, row: Checkpoint, task: str, weights: str) -> str | None:
        plan, _ = self._plans.get((row.tokenizer, task), ("", 0))
        if not (plan and weights):
            return None
        identity, _ = score_identity(
            plan=plan, weights=weights, dtype=self.study.config["dtype"], modules=self._modules
        )
        return identity

    def _weights(self, row: Checkpoint) -> str:
        """Digest of a checkpoint's weights; empty where they are not known yet."""
        if row.is_hub:
            digest = self._lock.digest(row.ckpt, needed=False)
            return "" if digest == NOT_LOCKED else digest
        path = self.folder / f"resources/fingerprints/{row.ckpt}.tsv"
        try:
            return ListedFiles.of(path, Path(row.source)).weights
        except StudyError:  # none, or half of one: Snakemake makes it anew
            return ""

    @cached_property
    def _plans(self) -> Mapping[tuple[str, str], tuple[str, int]]:
        """Digest and packs of each plan that has been made, by tokenizer and task."""
        plans = {}
        for path in matching(self.folder, "resources/plans/*/*.safetensors"):
            # A plan of an earlier version will be made again; so will all that was scored by it.
            with contextlib.suppress(FileNotFoundError, StudyError):
                plan = read_plan(path)
                plans[path.parent.name, path.stem] = plan.digest, len(plan.packs)
        return plans

    @cached_property
    def _sizes(self) -> dict[str, int]:
        return self._lock.sizes()

    @cached_property
    def _now(self) -> float:
        place = self.folder / "resources"
        return file_time(place if place.is_dir() else self.folder)

    def _rate(self, log: str) -> str:
        """Tokens per second and time left, by the last line of the log that says it."""
        found = [m for line in _tail(self.folder / log) if (m := _PROGRESS.search(line))]
        return f"{float(found[-1][1]):,.0f} tokens/s, {found[-1][2]}" if found else ""


def _share(tasks: Iterable[TaskStanding]) -> str:
    tasks = list(tasks)
    done, packs = sum(t.packs_done for t in tasks), sum(t.packs for t in tasks)
    return f"{100 * done / packs:.0f}% of {packs} packs" if packs else "nothing scored"


def _names(folder: Path) -> set[str]:
    try:
        return {path.name for path in folder.iterdir()}
    except OSError:
        return set()


def _tail(path: Path) -> list[str]:
    """The last lines of a text file."""
    try:
        with open(path, "rb") as handle:
            handle.seek(0, 2)
            handle.seek(max(0, handle.tell() - _TAIL))
            return handle.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return []
