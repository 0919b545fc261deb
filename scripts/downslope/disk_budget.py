"""The disk budget of weights: what was scored goes, what is to be scored has to fit.

A resource of Snakemake does not bound the disk: a job ends and its weights stay. So a download
measures what lies there, gives up folders that nobody needs any more (only as many as it takes:
on a large disk all weights stay for the next task), and waits for the others to be scored.
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from downslope.errors import StudyError
from downslope.files import amount, atomic_write
from downslope.held import Held, Need
from downslope.logs import duration
from downslope.reclaim import bytes_below, finish_deleting
from downslope.weights import MANIFEST

WEIGHTS_WAIT = 1440.0
"""Minutes without any change after which a download gives up: a day, since a scoring job may be
in the queue of a busy cluster for as long, and all that waiting costs is a sleeping process."""

NOTES = 2000
"""Bytes for each file beside its own: its line in the list of files and the client's notes."""

_LOOK = 2.0
_TELL = 60.0

log = logging.getLogger("downslope")


@dataclass(frozen=True)
class Clock:
    """Time as the wait sees it, in seconds."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


@dataclass
class DiskBudget:
    """Room for one checkpoint under a budget of `limit` bytes for all that lies in `weights`.

    `look` says what is held now, but for the checkpoint's own folder. `wait` is in minutes. `run`
    names the run of the workflow: where one download has waited in vain, the next ones of the
    same run do not wait once more for the same folders.
    """

    weights: Path
    limit: float
    look: Callable[[], Sequence[Held]]
    wait: float = WEIGHTS_WAIT
    run: str = ""
    clock: Clock = Clock()
    confirm: Callable[[], None] = lambda: None
    """Called before each look and before anything is deleted; it raises where this process has to
    stop, since another one has taken over or nobody waits for it any more."""

    def make_room(self, ckpt: str, size: int, there: int) -> None:
        """Return when `size` bytes of `ckpt`, of which `there` are on disk, fit.

        Raises StudyError where they never will, or where nothing has changed for `wait` minutes:
        it names the folders in the way and what each waits for.
        """
        seen, since, told = "", self.clock.now(), -_TELL
        while True:
            self.confirm()
            finish_deleting(self.weights)
            held = list(self.look())
            over = self._lacking(held, size, there)
            freed, in_the_way = self._give_up(held, over)
            if over <= freed:
                return
            if freed:
                continue  # that may have taken minutes: nothing more is deleted by an old look
            listed = "".join(f"\n  {f.path}: {amount(f.bytes)}, {f.why}" for f in in_the_way)
            free = shutil.disk_usage(self.weights).free
            lack = (
                f"{ckpt} needs {amount(size - there)}, and {amount(over)} are lacking "
                f"(free on this disk: {amount(free)}){listed}"
            )
            if all(folder.trace is None for folder in in_the_way):
                raise self._refusal(lack, "Nothing here will go by itself")
            trace = repr([(folder.path.name, folder.trace) for folder in in_the_way])
            if trace != seen:
                seen, since = trace, self.clock.now()
            if self._known_vain(trace) or self.clock.now() - since >= 60 * self.wait:
                self._remember_vain(trace)
                raise self._refusal(lack, f"Nothing has changed for {duration(60 * self.wait)}")
            if self.clock.now() - told >= _TELL:
                told = self.clock.now()
                log.info("waiting for disk: %s", lack)
            self.clock.sleep(_LOOK)

    def _lacking(self, held: Sequence[Held], size: int, there: int) -> float:
        """Bytes by which the budget, or what is free on the disk, is too small."""
        loose = 0
        for path in self.weights.iterdir():
            with contextlib.suppress(FileNotFoundError):  # the marker of a failure that was mended
                loose += path.lstat().st_size if path.is_file() else 0
        used = sum(folder.bytes for folder in held) + loose
        return max(used + size - self.limit, size - there - shutil.disk_usage(self.weights).free)

    def _give_up(self, held: Sequence[Held], over: float) -> tuple[int, list[Held]]:
        """Delete one folder that nobody needs, the least needed and oldest of those that can be
        deleted, where bytes are lacking; returns the bytes that this set free, and the folders that
        are in the way.
        """
        in_the_way = [folder for folder in held if folder.bytes and not folder.may_go]
        begun = sum(folder.spare for folder in held if folder.need is Need.INCOMPLETE)
        for folder in sorted(held, key=lambda f: (f.need, _age(f.path))):
            if over <= 0:
                break
            if not folder.may_go or not folder.spare:
                continue
            if folder.need is Need.INCOMPLETE and over > begun:
                break  # what is half downloaded goes only where that makes room
            self.confirm()
            try:
                folder.give_up()
            except StudyError as error:
                in_the_way.append(replace(folder, need=Need.NOT_OURS, why=error.what))
                continue
            if (freed := folder.bytes - bytes_below(folder.path)) > 0:
                log.info("%s %s: %s given back", folder.path, folder.why, amount(freed))
                return freed, in_the_way
        return 0, in_the_way

    def _refusal(self, lack: str, why: str) -> StudyError:
        return StudyError(
            f"{lack}\n{why}",
            where=f"disk budget of {amount(self.limit)} for {self.weights}",
            remedy="See the logs of the folders that wait to be scored; raise machine: "
            "disk_budget_gb in the profile, or weights_wait where queues are longer; then run "
            "again. What is scored or on disk is kept.",
        )

    @property
    def _vain(self) -> Path:
        return self.weights / ".waited.json"

    def _known_vain(self, trace: str) -> bool:
        """Whether another download of this run has waited for the same, and nothing changed."""
        try:
            stated = json.loads(self._vain.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        return bool(self.run) and stated == {"run": self.run, "trace": trace}

    def _remember_vain(self, trace: str) -> None:
        with atomic_write(self._vain) as temporary:
            temporary.write_text(json.dumps({"run": self.run, "trace": trace}), encoding="utf-8")


def _age(path: Path) -> float:
    """When a folder's list of files was written; 0 where there is none."""
    try:
        return (path / MANIFEST).stat().st_mtime
    except OSError:
        return 0.0
