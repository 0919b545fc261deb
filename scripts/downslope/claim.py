"""Claims: one process at a time writes in a folder, also where file locks do not work.

    {folder}/.claim/{token}.json    the holder's facts; the file's date is its heartbeat
    {folder}/.claim.{token}.over/   what is left of a claim that another process took over

A claim appears whole and ends whole, by renaming a folder, which fails where the target has
anything in it: of several that want it, one wins. Whoever meets a claim waits, saying for whom,
until it ends or its holder is known or presumed to be dead. It retires the claim to a name with
the dead one's token, which can happen only once, so that of several takers, too, one wins.

Dates are compared with that of a file touched at the same moment in the same file system: clocks
of machines may differ. A heartbeat may be read a minute late (attribute caches of NFS), which the
limit allows for. A holder that was stopped for longer finds its file gone and must not write.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import shutil
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from downslope.errors import StudyError
from downslope.files import file_time, matching
from downslope.logs import duration
from downslope.process import runs, this_process
from downslope.termination import terminated_in_order

CLAIM = ".claim"

_TAKEN = (errno.ENOTEMPTY, errno.EEXIST)
_GONE = (errno.ENOENT, errno.ESTALE)

log = logging.getLogger("downslope")


@dataclass(frozen=True)
class Pace:
    """Seconds between heartbeats, of silence after which a holder is presumed dead, between looks
    at a claim that is waited for, and between sentences about it."""

    beat: float = 15.0
    limit: float = 120.0
    look: float = 2.0
    tell: float = 60.0


PACE = Pace()


class ClaimLost(StudyError):
    """Another process took over; nothing more may be written."""


@dataclass(frozen=True)
class Holder:
    """Who holds a claim, and how many seconds ago it last gave a sign of life."""

    token: str
    facts: Mapping[str, Any]
    silent: float

    def __str__(self) -> str:
        if not self.facts:
            return "a process that left no facts"
        job = self.facts.get("slurm_job")
        return (
            f"process {self.facts['pid']} on {self.facts['host']}"
            f"{f' (SLURM job {job})' if job else ''}, begun {self.facts['begun']}"
        )

    def is_dead(self) -> bool:
        """Whether this machine knows that the process has ended; False where it cannot know."""
        here = this_process()
        # Process numbers mean something only under the same kernel and in the same container.
        if any(self.facts.get(key) != here[key] for key in ("boot", "pid_namespace")):
            return False
        return here["boot"] is not None and not runs(self.facts["pid"], self.facts["pid_start"])

    def is_alive(self, limit: float = PACE.limit) -> bool:
        """Whether it still counts as the holder: not known to have ended, nor silent for longer
        than `limit` seconds."""
        return not self.is_dead() and self.silent <= limit


def holder(folder: Path, *, now: float | None = None) -> Holder | None:
    """Who holds the claim on a folder; None where nobody does.

    `now` is `file_time` of that file system, for callers that ask about many folders.
    """
    place = folder / CLAIM
    try:
        paths = list(place.glob("*.json"))
        path = paths[0] if paths else place
        seen, facts = path.stat().st_mtime, {}
        if paths:
            # Opening asks the file server anew; a bare stat may be answered from a cache.
            with open(path, encoding="utf-8") as handle:
                seen = os.fstat(handle.fileno()).st_mtime
                with contextlib.suppress(ValueError):
                    facts = json.load(handle)
    except OSError as error:
        if error.errno not in _GONE:
            raise
        return None
    token = path.stem if paths else "unknown"
    return Holder(token, facts, (file_time(folder) if now is None else now) - seen)


class Claim:
    """The right to write in a folder, kept alive by a thread that ends with the process."""

    def __init__(self, folder: Path, pace: Pace) -> None:
        self.folder, self.pace = folder, pace
        self.token = uuid.uuid4().hex[:12]
        self._place = folder / CLAIM
        self._private = folder / f"{CLAIM}.{self.token}.new"
        self._own = self._place / f"{self.token}.json"
        self._retired: list[Path] = []
        self._lost = False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="claim", daemon=True)

    def confirm(self) -> None:
        """Raise ClaimLost where another process has taken over; call it before each write."""
        if self._lost or not self._touch():
            raise ClaimLost(
                f"another process has taken over ({holder(self.folder) or 'it has ended'}), since "
                f"this one gave no sign of life for {duration(self.pace.limit)}",
                where=str(self.folder),
                remedy="This one stops before it writes anything more; nothing stored is lost.",
            )

    def take(self) -> None:
        """Get the claim, waiting for a holder that lives and taking over from one that is dead."""
        self._private.mkdir()
        (self._private / self._own.name).write_text(json.dumps(this_process()), encoding="utf-8")
        told = -self.pace.tell
        while not self._put():
            now = (self._private / self._own.name).stat().st_mtime
            found = holder(self.folder, now=now)
            if found is None:
                continue
            if not found.is_alive(self.pace.limit) and self._retire(found.token):
                why = "it has ended" if found.is_dead() else f"silent for {duration(found.silent)}"
                log.warning("%s: taking over from %s: %s", self.folder, found, why)
                continue
            if time.monotonic() - told >= self.pace.tell:
                told = time.monotonic()
                log.info("%s: waiting for %s, which writes here", self.folder, found)
            time.sleep(self.pace.look)
        if told > 0:
            log.info("%s: the other process is gone; going on", self.folder)
        self._thread.start()

    def release(self) -> None:
        """End the claim, unless another process has it."""
        self._over.set()
        if self._thread.ident is not None:
            self._thread.join()
        if not self._lost and self._touch():
            self._retire(self.token)
        for path in (self._private, *self._retired, *self._left_behind()):
            shutil.rmtree(path, ignore_errors=True)

    def _left_behind(self) -> list[Path]:
        """What processes left that were killed while they waited or took over."""
        oldest, found = file_time(self.folder) - 10 * self.pace.limit, []
        for file in matching(self.folder, f"{CLAIM}.*/*"):
            # Those of a process that lives are renamed at any moment.
            with contextlib.suppress(OSError):
                if file.stat().st_mtime < oldest:
                    found.append(file.parent)
        return found

    def _put(self) -> bool:
        """Try to put the prepared folder in place."""
        if self._private.is_dir():
            os.utime(self._private / self._own.name)
        try:
            self._private.rename(self._place)
        except OSError as error:
            # A file server that answers a repeated question says that the source is gone.
            if error.errno not in _TAKEN and not self._own.exists():
                raise
            return error.errno not in _TAKEN
        return True

    def _retire(self, token: str) -> bool:
        """Move the claim with this token out of the way; False where another process did."""
        over = self.folder / f"{CLAIM}.{token}.over"
        try:
            self._place.rename(over)
        except FileNotFoundError:
            return False
        except OSError as error:
            if error.errno not in _TAKEN:
                raise
            return False
        self._retired.append(over)
        # The old holder may still reach its file by a cached name, so the file itself must go;
        # the folder stays, and not empty, so that nobody retires this token again.
        (over / "over").touch()
        (over / f"{token}.json").unlink(missing_ok=True)
        return True

    def _beat(self) -> None:
        while not self._over.wait(self.pace.beat):
            if not self._touch():
                return

    def _touch(self) -> bool:
        """Give a sign of life; False, for ever after, where the claim is another's."""
        try:
            os.utime(self._own)
        except OSError as error:
            self._lost |= error.errno in _GONE
        return not self._lost


@contextlib.contextmanager
def claimed(folder: Path, *, pace: Pace = PACE) -> Iterator[Claim]:
    """Hold the claim on `folder` (which is made) while the block runs.

    Waits as long as another process that lives holds it. SIGTERM raises Terminated inside, so
    that what the block does at its end is done, and the claim is released.
    """
    folder.mkdir(parents=True, exist_ok=True)
    claim = Claim(folder, pace)
    with terminated_in_order():
        try:
            claim.take()
            yield claim
        finally:
            claim.release()
