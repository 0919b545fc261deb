"""One checkpoint's weights onto this disk: only where they are needed, and only where they fit."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

import pandas as pd

from downslope.claim import ClaimLost, Holder, claimed
from downslope.disk_budget import NOTES, WEIGHTS_WAIT, DiskBudget
from downslope.errors import StudyError
from downslope.failures import fetch_marker
from downslope.files import atomic_write, is_as_locked, when_full
from downslope.held import Holdings
from downslope.hub import fetch
from downslope.lock import LockedFile, locked_records
from downslope.plan_list import read_list
from downslope.reclaim import bytes_below
from downslope.study import Study
from downslope.study_checks import require_within
from downslope.weights import remove_others, write_manifest

log = logging.getLogger("downslope")


class RunEnded(StudyError):
    """The run of the workflow that a download belongs to is over."""


def fetch_checkpoint(ckpt: str, study: Study, lock: pd.DataFrame, run: str) -> None:
    """Fetch what is locked of a checkpoint to resources/weights/{ckpt}, under the disk budget.

    Where the store has all its scores already, only the list of its files is written, and what
    lies there under their names with other bytes is deleted. Raises StudyError where scoring is
    known to fail, which the store says, where there is no room, and as `hub.fetch` does; what is
    about the download is left in resources/weights/{ckpt}.failed until the next success.

    `run` names the run of the workflow by the facts of its process, as JSON: of its downloads only
    one waits in vain, and none waits for longer than that process lives (RunEnded).
    """
    holdings = Holdings(study, lock, _tasks_of_this_run(ckpt, study))
    marker = fetch_marker(holdings.weights, ckpt)
    if failure := holdings.known_failure(ckpt):
        marker.unlink(missing_ok=True)  # the store's own says why, as long as it is true
        raise failure
    try:
        _fetch(ckpt, holdings, lock, run)
    except (ClaimLost, RunEnded):
        raise
    except Exception as error:
        told = _in_words(error, ckpt, holdings.weights)
        with suppress(OSError), atomic_write(marker) as temporary:  # the disk may be full
            temporary.write_text(f"{told}\n", encoding="utf-8")
        if told is error:
            raise
        raise told from None
    marker.unlink(missing_ok=True)


def require_run(run: str) -> None:
    """Raise RunEnded where this machine knows that the process which `run` describes has ended."""
    try:
        process = Holder("", json.loads(run), 0.0)
    except ValueError:  # nobody said to which run this belongs
        return
    if process.is_dead():
        raise RunEnded(
            f"the run of the workflow that started this download has ended ({process})",
            where="waiting for disk",
            remedy="Start the workflow again: it fetches what it needs.",
        )


def _in_words(error: Exception, ckpt: str, weights: Path) -> Exception:
    kept = "what has arrived is kept."
    return (isinstance(error, OSError) and when_full(error, weights / ckpt, kept)) or error


def _tasks_of_this_run(ckpt: str, study: Study) -> Collection[str] | None:
    """The tasks whose plans are listed: the job's input, made for this run. The table of tasks may
    have got rows since, which nobody scores before the next run. None where there is no list.
    """
    path = study.folder / f"resources/plans/{study.by_ckpt[ckpt].tokenizer}.tsv"
    return (read_list(path) or None) if path.is_file() else None


def _fetch(ckpt: str, holdings: Holdings, lock: pd.DataFrame, run: str) -> None:
    folder, files = holdings.weights / ckpt, locked_records(lock, ckpt)
    machine = holdings.study.machine
    with ExitStack() as stack:
        # Of all downloads one at a time measures and waits; what is at hand waits for nothing.
        queue = None
        if "disk_budget_gb" in machine and not holdings.is_whole(ckpt) and not folder.is_symlink():
            queue = stack.enter_context(claimed(holdings.weights))
        claim = stack.enter_context(claimed(folder))
        if holdings.is_scored(ckpt):
            drop_exchanged(files, folder)
            write_manifest(pd.DataFrame(files), folder)
            log.info("%s: the store has all its scores, so no weights are fetched", ckpt)
            return
        there = keep_locked(files, folder)
        if queue is not None:
            hold = queue.confirm

            def confirm() -> None:
                require_run(run)
                hold()

            limit = machine["disk_budget_gb"]
            size = sum(file.bytes for file in files)
            require_within(holdings.study.by_ckpt[ckpt], size, limit)
            budget = DiskBudget(
                holdings.weights,
                1e9 * limit,
                look=lambda: holdings.look(ckpt),
                wait=machine.get("weights_wait", WEIGHTS_WAIT),
                run=run,
                confirm=confirm,
            )
            budget.make_room(ckpt, size + NOTES * len(files), there)
        fetch(ckpt, lock, folder, confirm=claim.confirm)


def drop_exchanged(files: Sequence[LockedFile], folder: Path) -> None:
    """Delete each of these files that has its locked size and other bytes: those of another
    commit. Whoever scores again, in another dtype say, believes the list that names them.
    """
    for file in files:
        path = folder / file.file
        if path.is_file() and not is_as_locked(path, file.bytes, file.digest):
            log.info("%s: removing %s, which is another commit's", folder, file.file)
            path.unlink()


def keep_locked(files: Sequence[LockedFile], destination: Path) -> int:
    """Make the folder and remove from it all that is no part of these files, whole or begun;
    returns the bytes that are left, none of which will be fetched again unless it is wrong.
    """
    remove_others(destination, [file.file for file in files])
    for file in files:
        path = destination / file.file
        if path.is_file() and path.stat().st_size != file.bytes:
            path.unlink()
    contents = {file.digest.split(":")[1] for file in files}
    for path in destination.glob(".cache/huggingface/download/*.incomplete"):
        # The client names what it has begun `{name's hash}.{content's digest}.incomplete`.
        if path.name.split(".")[-2] not in contents:
            path.unlink()
    return bytes_below(destination)
