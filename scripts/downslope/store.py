"""The score store: finished tasks, and the finished packs of unfinished ones.

    {folder}/{task}.{identity}.parquet           a finished task
    {folder}/{task}.{identity}.packs/*.parquet   finished packs of an unfinished one
    {folder}/{task}.{identity}.failed            a failure that repeating cannot mend

The store is no declared output of a rule, so it survives a job that fails. Every file appears
whole, by renaming; a killed job loses what it had not yet written and nothing else. One process
at a time writes (see `claim`); it makes sure of that before each file.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from downslope.arrow import numbers
from downslope.errors import StudyError
from downslope.failures import FAILED, FILES
from downslope.files import atomic_write, matching, sha256_text, when_full
from downslope.plan import Plan

_KEY = b"downslope"

_UNREADABLE = (OSError, pa.ArrowException, KeyError, TypeError, ValueError)
"""What pyarrow and JSON raise for what is no table of ours, or half of one."""


def _nobody_else() -> None:
    """The writer is alone."""


@dataclass
class TaskStore:
    """What is known of one task's scores for one checkpoint under one identity.

    `confirm` is called before each write and raises where another process has taken over. `files`
    say what lies in the checkpoint's folder, tokenizer included, which an identity does not name;
    None where that is not known, and weights may have gone.
    """

    folder: Path
    task: str
    identity: str
    confirm: Callable[[], None] = _nobody_else
    files: Sequence[str] | None = None

    @property
    def finished(self) -> Path:
        return self.folder / f"{self.task}.{self.identity}.parquet"

    @property
    def marker(self) -> Path:
        return self.folder / f"{self.task}.{self.identity}{FAILED}"

    @property
    def _packs(self) -> Path:
        return self.folder / f"{self.task}.{self.identity}.packs"

    def load_packs(self, plan: Plan) -> tuple[NDArray[np.float32], NDArray[np.bool_], set[int]]:
        """Log-likelihoods and greedy flags by request, as far as stored, and the packs stored."""
        count = int(plan.request_offsets[-1])
        loglikelihood = np.full(count, np.nan, np.float32)
        greedy = np.zeros(count, bool)
        done: set[int] = set()
        for shard in sorted(self._packs.glob("*.parquet")):
            table = _whole_shard(shard)
            request = table["request"].to_numpy()
            loglikelihood[request] = table["loglikelihood"].to_numpy()
            greedy[request] = table["greedy"].to_numpy()
            done.update(np.unique(table["pack"].to_numpy()).tolist())
        return loglikelihood, greedy, done

    def packs_stored(self) -> int:
        """How many packs of an unfinished task are stored, by the names of files alone.

        A file holds the packs from its first to its last that no earlier one had.
        """
        packs: set[int] = set()
        for path in matching(self._packs, "*-*.parquet"):
            first, last = map(int, path.stem.split("-"))
            packs.update(range(first, last + 1))
        return len(packs)

    def save_packs(
        self,
        plan: Plan,
        packs: list[int],
        loglikelihood: NDArray[np.float32],
        greedy: NDArray[np.bool_],
    ) -> None:
        """Store some finished packs of the arrays over all requests."""
        offsets = plan.request_offsets
        request = np.concatenate([np.arange(offsets[k], offsets[k + 1]) for k in packs])
        sizes = [int(offsets[k + 1] - offsets[k]) for k in packs]
        table = pa.table(
            {
                "pack": numbers(np.repeat(np.array(packs, np.int32), sizes)),
                "request": numbers(request),
                "loglikelihood": numbers(loglikelihood[request]),
                "greedy": numbers(greedy[request]),
            }
        )
        with self._write(self._packs / f"{packs[0]:06d}-{packs[-1]:06d}.parquet") as temporary:
            pq.write_table(table, temporary)

    def finish(self, scores: pa.Table, parts: str, job: Mapping[str, Any]) -> None:
        """Write the finished task with its identity, the identity's parts and the job's facts.

        Markers of the task go, whatever they were about.
        """
        facts = {"identity": self.identity, "parts": json.loads(parts), "job": dict(job)}
        table = scores.replace_schema_metadata({_KEY: json.dumps(facts, sort_keys=True).encode()})
        with self._write(self.finished) as temporary:
            pq.write_table(table, temporary)
        for marker in matching(self.folder, f"{self.task}.*{FAILED}"):
            if marker.name.rsplit(".", 2)[0] == self.task:  # a task's name may have dots
                marker.unlink(missing_ok=True)
        shutil.rmtree(self._packs, ignore_errors=True)

    def publish(self, output: Path) -> None:
        """Copy the finished task to a declared output; StudyError where it is damaged."""
        with self._write(output) as temporary:
            read_scores(self.finished)
            shutil.copyfile(self.finished, temporary)

    def fail(self, message: str) -> None:
        """Leave a marker, so that a retry stops before it loads anything."""
        with self._write(self.marker) as temporary:
            lines = [" ".join(message.split()), *self._files]
            temporary.write_text("\n".join([*lines, ""]), encoding="utf-8")

    def refuse_known_failure(self) -> None:
        """Raise StudyError where this identity is known to fail, with other files than these
        excepted."""
        try:
            lines = self.marker.read_text(encoding="utf-8").splitlines()
        except (FileNotFoundError, UnicodeDecodeError):
            return
        if not lines or (lines[1:] and self._files and lines[1:] != self._files):
            return
        raise StudyError(
            f"failed before, and nothing that it depends on has changed: {lines[0]}",
            where=f"task {self.task}",
            remedy="Mend the cause and run again. To try once more all the same, delete "
            f"{self.folder}/*{FAILED}.",
        )

    @property
    def _files(self) -> list[str]:
        if self.files is None:
            return []
        return [FILES + sha256_text("\n".join(self.files))[:16]]

    @contextlib.contextmanager
    def _write(self, path: Path) -> Iterator[Path]:
        """`atomic_write` by the one who may; StudyError where the disk is full."""
        self.confirm()
        try:
            with atomic_write(path) as temporary:
                yield temporary
        except OSError as error:
            kept = "nothing is half-written, what is stored is kept, and only the rest is scored."
            if told := when_full(error, path, kept):
                raise told from None
            raise


@dataclass
class TaskJob:
    """A task to be scored: its plan, where its scores are kept, and the identity's parts."""

    plan: Plan
    store: TaskStore
    parts: str


def unfinished(jobs: Sequence[TaskJob]) -> list[TaskJob]:
    """Those of the jobs whose scores are missing; StudyError where one is known to fail."""
    missing = [job for job in jobs if not job.store.finished.is_file()]
    for job in missing:
        job.store.refuse_known_failure()
    return missing


def read_scores(path: Path) -> tuple[pa.Table, dict[str, Any]]:
    """A score table and its facts (identity, parts, job); StudyError where it has none."""
    try:
        table = pq.ParquetFile(path).read()  # read_table would import pandas in a scoring job
        return table, json.loads(table.schema.metadata[_KEY])
    except _UNREADABLE as error:
        raise _damaged(path, error) from None


def read_facts(path: Path) -> dict[str, Any] | None:
    """The facts of a score table without its rows; None where there are none.

    Raises StudyError for a file that is no table, or half of one.
    """
    try:
        stated = (pq.read_schema(path).metadata or {}).get(_KEY)
        return json.loads(stated) if stated else None
    except _UNREADABLE as error:
        raise _damaged(path, error) from None


def _whole_shard(path: Path) -> pa.Table:
    try:
        return pq.read_table(path)
    except _UNREADABLE as error:
        remedy = "Delete it and run again: its packs are scored anew."
        raise _damaged(path, error, "is damaged", remedy) from None


def _damaged(
    path: Path,
    error: Exception,
    what: str = "is no score table",
    remedy: str = "Delete it and run the workflow again: what else is stored is kept. If that "
    "names its original in resources/scored/, delete it too, and it is scored anew.",
) -> StudyError:
    if isinstance(error, OSError) and error.errno is not None:  # the disk, not the table
        what, remedy = "cannot be read", "Try again, or look at the disk that it lies on."
    return StudyError(f"{what} ({error})", where=str(path), remedy=remedy)


def require_identity(facts: Mapping[str, Any], wanted: str, parts: str, path: Path) -> None:
    """Raise StudyError where a score file belongs to another identity than the study wants."""
    if facts["identity"] == wanted:
        return
    now = json.loads(parts)
    changed = [name for name in now if facts["parts"].get(name) != now[name]]
    raise StudyError(
        f"was computed from other {' and other '.join(changed)} than this study has now",
        where=str(path),
        remedy=f"Delete this file and run the workflow again; only what changed is scored. "
        f"(identity {facts['identity'][:8]}, wanted {wanted[:8]})",
    )
