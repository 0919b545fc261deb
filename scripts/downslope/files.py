"""Files that are whole or absent: atomic writes, content hashes, clocks, sizes in words."""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import os
import stat
import time
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

from downslope.errors import StudyError

_BLOCK = 1 << 20


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it into place when the block succeeds.

    A reader sees the old file or the new one, never half of either, also on file systems
    without working locks and when two jobs write the same file. On an error the temporary
    file is removed and `path` stays as it was. The folder is created.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:12]}.partial")
    try:
        yield temporary
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def matching(folder: Path, pattern: str) -> list[Path]:
    """What lies in `folder` under names like `pattern`, sorted; for folders that other processes
    delete meanwhile. `Path.glob` raises where one has gone since it was listed."""
    names = glob.glob(pattern, root_dir=folder)  # noqa: PTH207
    return [folder / name for name in sorted(names)]


def when_full(error: OSError, path: Path, kept: str) -> StudyError | None:
    """The error in words where a disk or its quota is full, None where it is about something else;
    `kept` says what is not lost."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return None
    return StudyError(
        f"cannot be written, the disk or its quota is full ({os.strerror(error.errno)})",
        where=str(path),
        remedy=f"Make room and run again: {kept}",
    )


def sha256(path: str | os.PathLike[str]) -> str:
    """Hexadecimal sha256 of a file's bytes, read in blocks."""
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        while block := handle.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def sha256_text(text: str) -> str:
    """Hexadecimal sha256 of a text's UTF-8 bytes."""
    return hashlib.sha256(text.encode()).hexdigest()


def digest_as(kind: str, path: Path) -> str:
    """A file's content as `sha256:...` or, the way git names a blob, as `git-sha1:...`."""
    if kind == "sha256":
        return f"sha256:{sha256(path)}"
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with open(path, "rb") as handle:
        while block := handle.read(_BLOCK):
            digest.update(block)
    return f"git-sha1:{digest.hexdigest()}"


def is_as_locked(path: Path, size: int, digest: str) -> bool:
    """Whether the file at `path` has the locked size and digest (of either kind)."""
    if not path.is_file() or path.stat().st_size != size:
        return False
    return digest_as(digest.split(":")[0], path) == digest


def file_states(paths: Iterable[Path]) -> list[str]:
    """Name, size and date of each file that is there, in the order of names: what tells at no cost
    that one was exchanged, whichever is the older."""
    states = []
    for path in sorted(paths):
        with contextlib.suppress(FileNotFoundError):  # it may go between two looks
            found = path.stat()
            if stat.S_ISREG(found.st_mode):
                states.append(f"{path.name} {found.st_size} {found.st_mtime_ns}")
    return states


def file_time(folder: Path) -> float:
    """Seconds since the epoch by the clock that dates files in `folder`; this machine's own where
    nothing can be written there."""
    probe = folder / f".clock.{uuid.uuid4().hex[:12]}"
    try:
        probe.touch()
        return probe.stat().st_mtime
    except OSError:
        return time.time()
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()


def amount(size: float) -> str:
    """Bytes as a person says them: `166.0 MB`, `5.7 GB`."""
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} bytes" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
