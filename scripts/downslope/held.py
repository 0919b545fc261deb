"""What lies under resources/weights: how much, for whom, and whether anybody still needs it."""

from __future__ import annotations

from collections.abc import Collection, Hashable
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from pathlib import Path

import pandas as pd

from downslope.claim import CLAIM, PACE, Holder, holder
from downslope.errors import StudyError
from downslope.files import file_time
from downslope.identity import SCORING_MODULES, model_digest, modules_digest, score_identity
from downslope.lock import LockedFile, records_by_name
from downslope.plan import read_plan
from downslope.reclaim import HIDDEN, bytes_below, empty_folder, remove_folder
from downslope.store import TaskStore
from downslope.study import Study
from downslope.tsv import read_tsv
from downslope.weights import MANIFEST

_CLIENT = ".cache/huggingface"
"""What the hub's client keeps beside a download that has not ended."""


class Need(IntEnum):
    """What a folder is still good for; those before `WAITED_FOR` may go, in this order."""

    LEFT_OUT = 0
    SCORED = 1
    FAILED = 2
    INCOMPLETE = 3
    WAITED_FOR = 4
    NOT_OURS = 5


@dataclass(frozen=True)
class Held:
    """A folder under resources/weights; `trace` is another one when something has happened."""

    path: Path
    bytes: int
    need: Need
    why: str
    trace: Hashable = None

    @property
    def may_go(self) -> bool:
        return self.need < Need.WAITED_FOR

    @property
    def _keeps_list(self) -> bool:
        # A scoring job that is already planned looks for the list of files and loads nothing.
        return self.need in (Need.SCORED, Need.FAILED)

    @property
    def spare(self) -> int:
        """Bytes that giving it up sets free."""
        return self.bytes - (max(_size(self.path / MANIFEST), 0) if self._keeps_list else 0)

    def give_up(self) -> None:
        """Delete its weights; StudyError where that cannot be."""
        try:
            (empty_folder if self._keeps_list else remove_folder)(self.path)
        except (FileNotFoundError, StudyError):
            if self.path.exists():  # else somebody has deleted it by hand
                raise


class Holdings:
    """The weights of a study that are on disk, judged by its tables, its lock and its scores.

    `tasks` are those that are scored now, by default all of the study.
    """

    def __init__(
        self, study: Study, lock: pd.DataFrame, tasks: Collection[str] | None = None
    ) -> None:
        self.study = study
        self.tasks = sorted(study.by_task if tasks is None else tasks)
        self.weights = study.folder / "resources/weights"
        self._locked = records_by_name(lock)
        self._modules = modules_digest(SCORING_MODULES)
        self._plans: dict[Path, tuple[tuple[int, int], str]] = {}

    def files(self, ckpt: str) -> list[LockedFile]:
        """The locked files of a checkpoint; none where it is not locked."""
        return self._locked.get(ckpt, [])

    def is_whole(self, ckpt: str) -> bool:
        """Whether all its files are there with their locked sizes; says nothing of contents."""
        folder = self.weights / ckpt
        files = self.files(ckpt)
        return bool(files) and all(_size(folder / f.file) == f.bytes for f in files)

    def is_scored(self, ckpt: str) -> bool:
        """Whether the store has every task under the identity that is wanted now."""
        stores = self._stores(ckpt)
        return len(stores) == len(self.tasks) and all(s.finished.is_file() for s in stores)

    def known_failure(self, ckpt: str) -> StudyError | None:
        """Why a task that is not scored is known to fail under the identity wanted now."""
        for store in self._stores(ckpt):
            if not store.finished.is_file():
                try:
                    store.refuse_known_failure()
                except StudyError as error:
                    return error
        return None

    def look(self, ckpt: str) -> list[Held]:
        """Every folder but that of `ckpt` itself, links left out: their bytes lie elsewhere."""
        paths = sorted(self.weights.iterdir())
        others = [path for path in paths if path.name != ckpt and not path.name.startswith(CLAIM)]
        # The clock is read beside the folders: read inside, it would change the date it is for.
        now = file_time(self.weights)
        folders = (path for path in others if path.is_dir() and not path.is_symlink())
        return [self._judge(path, now) for path in folders]

    def _judge(self, path: Path, now: float) -> Held:
        size, name = bytes_below(path), path.name
        if any(path.resolve() in (place, *place.parents) for place in self._local):
            return Held(path, size, Need.NOT_OURS, "is the source of a local checkpoint")
        if name.startswith(HIDDEN):
            # What a killed process had left to delete has been deleted before this look.
            return Held(path, size, Need.NOT_OURS, "could not be deleted; delete it by hand")
        if other := _writer(path, now):
            return Held(path, size, Need.WAITED_FOR, f"is being fetched by {other}", other.token)
        progress, trace = self._progress(name)
        if scorer := _writer(self.study.folder / "resources/scored" / name):
            why = f"is being scored by {scorer}: {progress}"
            return Held(path, size, Need.WAITED_FOR, why, (scorer.token, *trace))
        if name not in self._wanted:
            return self._left_out(path, size)
        if self.is_scored(name):
            return Held(path, size, Need.SCORED, "is fully scored")
        if failure := self.known_failure(name):
            return Held(path, size, Need.FAILED, f"failed for good ({failure.where})")
        if self.is_whole(name) and _has_just_lost_its_list(path, now):
            return Held(path, size, Need.WAITED_FOR, "is about to be looked through", "list")
        if not (self.is_whole(name) and self._as_listed(name)):
            return Held(path, size, Need.INCOMPLETE, "is no complete download of what is locked")
        why = "waits to be scored"
        if any(trace):
            why = f"has stopped at {progress}, and nobody scores it now (logs/score/{name}.log)"
        return Held(path, size, Need.WAITED_FOR, why, trace)

    def _left_out(self, path: Path, size: int) -> Held:
        if path.name in self._of_hub:
            # Somebody deletes lock rows while a run is on, to follow a branch.
            return Held(path, size, Need.NOT_OURS, "is not locked now")
        if (path / MANIFEST).is_file() or (path / _CLIENT).is_dir():
            bad = path.name in self.study.by_ckpt
            why = "is no longer to be scored" if bad else "is no longer in the study's tables"
            return Held(path, size, Need.LEFT_OUT, why)
        return Held(path, size, Need.NOT_OURS, "was not made by fetch")

    def _as_listed(self, ckpt: str) -> bool:
        """Whether the folder's own list of files is that of the lock."""
        try:
            listed = read_tsv(self.weights / ckpt / MANIFEST)
            stated = model_digest(zip(listed["file"], listed["digest"], strict=True))
        except (FileNotFoundError, KeyError, ValueError, StudyError):  # none, or half of one
            return False
        return stated == self._digest(ckpt)

    def _progress(self, ckpt: str) -> tuple[str, tuple[int, int]]:
        """How far scoring has come, in words and as tasks finished and further packs stored."""
        stores = self._stores(ckpt)
        done = [store.finished.is_file() for store in stores]
        rest = (s for s, finished in zip(stores, done, strict=True) if not finished)
        packs = sum(store.packs_stored() for store in rest)
        words = f"{sum(done)} of {len(self.tasks)} tasks"
        return words + (f" and {packs} packs of the next" if packs else ""), (sum(done), packs)

    def _stores(self, ckpt: str) -> list[TaskStore]:
        """The stores of a checkpoint's tasks, as far as their plans have been made."""
        if ckpt not in self._wanted:
            return []
        folder = self.study.folder / "resources/scored" / ckpt
        tokenizer = self.study.by_ckpt[ckpt].tokenizer
        stores = []
        for task in self.tasks:
            plan = self._plan(
                self.study.folder / "resources/plans" / tokenizer / f"{task}.safetensors"
            )
            if plan:
                identity, _ = score_identity(
                    plan=plan,
                    weights=self._digest(ckpt),
                    dtype=self.study.config["dtype"],
                    modules=self._modules,
                )
                stores.append(TaskStore(folder, task, identity))
        return stores

    def _plan(self, path: Path) -> str:
        """A plan's digest; empty where there is none yet."""
        try:
            status = path.stat()
            state = status.st_mtime_ns, status.st_size
            if self._plans.get(path, (None,))[0] != state:
                self._plans[path] = state, read_plan(path).digest
        except (FileNotFoundError, StudyError):
            return ""
        return self._plans[path][1]

    def _digest(self, ckpt: str) -> str:
        return model_digest((file.file, file.digest) for file in self.files(ckpt))

    @cached_property
    def _wanted(self) -> set[str]:
        """Checkpoints of the hub that the study scores, and whose files are locked."""
        return {ckpt for ckpt in self._of_hub if self.files(ckpt)}

    @cached_property
    def _of_hub(self) -> set[str]:
        return {row.ckpt for row in self.study.usable if row.is_hub}

    @cached_property
    def _local(self) -> list[Path]:
        sources = (row.source for row in self.study.checkpoints if not row.is_hub)
        return [(self.study.folder / source).resolve() for source in sources]


def _has_just_lost_its_list(folder: Path, now: float) -> bool:
    """Whether a folder without a list was changed less than a claim's limit ago: Snakemake deletes
    what a job will write, and the job has its claim only once its imports are done."""
    try:
        return not (folder / MANIFEST).is_file() and now - folder.stat().st_mtime <= PACE.limit
    except FileNotFoundError:
        return False


def _writer(folder: Path, now: float | None = None) -> Holder | None:
    """Who writes in a folder, as far as that process lives; `now` as for `holder`."""
    found = holder(folder, now=now) if folder.is_dir() else None
    return found if found and found.is_alive() else None


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1
