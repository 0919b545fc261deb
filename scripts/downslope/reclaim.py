"""Bytes on disk, and how they are given back: nothing is deleted but what lies in its own folder.

What is deleted is first renamed to a hidden name, so that a process which is killed in between
leaves no folder that looks whole. A link is never followed: neither counted nor deleted behind.
"""

from __future__ import annotations

import os
import shutil
import stat
import uuid
from pathlib import Path

from downslope.claim import CLAIM
from downslope.errors import StudyError
from downslope.listed import read_listed
from downslope.weights import MANIFEST

HIDDEN = ".reclaimed."
"""How the name begins under which a folder is deleted."""


def bytes_below(folder: Path) -> int:
    """Bytes of all files below a folder; a file with two names counts once, links do not count.

    Files that come or go meanwhile are counted or not.
    """
    total = 0
    seen: set[tuple[int, int]] = set()
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                status = Path(place, name).lstat()
            except OSError:
                continue
            file = (status.st_dev, status.st_ino)
            if stat.S_ISREG(status.st_mode) and file not in seen:
                seen.add(file)
                total += status.st_size
    return total


def empty_folder(folder: Path) -> None:
    """Delete what lies in a checkpoint's folder but the list of its files.

    The list stays, since a scoring job that is already planned wants to see it: it finds all its
    scores in the store, or that it is known to fail, and loads nothing. Raises StudyError where
    the folder is a link, another file system's, or cannot be emptied.
    """
    _require_own(folder)
    hidden = _hidden(folder)
    try:
        hidden.mkdir()
        # Weights are missing from the first renaming on, and a folder without them is not whole.
        for path in sorted(folder.iterdir()):
            if path.name != MANIFEST and not path.name.startswith(CLAIM):
                path.rename(hidden / path.name)
        shutil.rmtree(hidden)
    except OSError as error:
        raise _undeletable(folder, error) from None


def remove_folder(folder: Path) -> None:
    """Delete a folder and all that lies in it; StudyError as `empty_folder` raises."""
    _require_own(folder)
    hidden = _hidden(folder)
    try:
        folder.rename(hidden)
        shutil.rmtree(hidden)
    except OSError as error:
        raise _undeletable(folder, error) from None


def finish_deleting(parent: Path) -> None:
    """Delete what a process that was killed had renamed and no more; what cannot be, stays."""
    for path in sorted(parent.glob(f"{HIDDEN}*")):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)


def drop_hollow_lists(weights: Path) -> list[str]:
    """Delete each list of fetched files that names none, or one which is not there in its size;
    returns their folders.

    What is left of a folder that was given back would pass for a checkpoint that is at hand.
    """
    hollow = []
    for path in sorted(weights.glob(f"*/{MANIFEST}")):
        try:
            files = read_listed(path)
        except StudyError:  # half of a list
            files = []
        if not files or any(_size(path.parent / file) != size for file, size, _ in files):
            try:
                path.unlink(missing_ok=True)
            except PermissionError:  # somebody else's study, which is only looked at
                continue
            hollow.append(path.parent.name)
    return hollow


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def _hidden(folder: Path) -> Path:
    return folder.with_name(f"{HIDDEN}{folder.name}.{uuid.uuid4().hex[:12]}")


def _require_own(folder: Path) -> None:
    """Raise StudyError unless the folder is a real one on the file system of its parent."""
    status, parent = folder.lstat(), folder.parent.stat()
    if not stat.S_ISDIR(status.st_mode) or status.st_dev != parent.st_dev:
        raise StudyError("is a link or another file system's, and is left alone", where=str(folder))


def _undeletable(folder: Path, error: OSError) -> StudyError:
    return StudyError(
        f"cannot be deleted ({error.strerror})",
        where=str(folder),
        remedy="Delete it by hand, or give its files to the user who runs the workflow.",
    )
