"""Data sets from a mirror, from archives and from plain addresses, never other than as registered.

A register row pins a file by size and sha256 and lists its sources. They are tried in order;
whatever arrives is written under a temporary name, hashed on the way, and takes its final name
only when size and hash are the registered ones.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

from downslope.errors import StudyError
from downslope.files import atomic_write, sha256
from downslope.lock import safe_name
from downslope.web import (
    BLOCK,
    Content,
    Transient,
    Unusable,
    get,
    is_address,
    public_address,
    receive,
    verify,
)

PAUSES = (0.5, 1.0, 2.0)
"""Seconds between the tries of one address, when it fails for a reason that may pass."""

ARCHIVE_LIMIT = 1 << 30
"""Bytes at which an archive is given up: the register knows the size of its members only."""

log = logging.getLogger("downslope")


def download_dataset(
    row: Mapping[str, Any],
    destination: Path,
    *,
    study: Path,
    mirror: str | None,
    pauses: Sequence[float] = PAUSES,
) -> str:
    """Put the file that a register row describes at `destination`; return the source it came from.

    `row` has the columns of the register, of which bytes and sha256 are binding. `mirror`, an
    absolute folder or an http(s) address, is searched first, at the row's mirror_path. Sources
    without a scheme are files of the `study` folder; `address!/member` is one member of a zip
    archive (repeated for an archive inside an archive). Raises StudyError when no source yields
    the registered bytes; it lists each source with its reason.
    """
    where = f"data set {row['dataset']}"
    sources = _sources(row, mirror, where)
    if not str(row["sha256"]).strip():
        raise _without_sha256(where, sources, study)
    expected = Content(int(row["bytes"]), str(row["sha256"]).strip().lower())
    failures = []
    for source in sources:
        shown = public_address(source)
        try:
            with atomic_write(destination) as temporary, open(temporary, "w+b") as target:
                _obtain(source, target, expected, study, pauses)
        except Unusable as reason:
            log.info("%s: not from %s: %s", row["dataset"], shown, reason)
            failures.append(f"{shown}: {reason}")
        else:
            log.info("%s: %d bytes from %s, as registered", row["dataset"], expected.size, shown)
            return shown
    tried = "".join(f"\n  {failure}" for failure in failures) or " it has none"
    raise StudyError(
        f"no source yields the registered file:{tried}",
        where=where,
        remedy=_own(row, study)
        or f"\nGet {row['file']} ({expected}) by other means and {_place(row, mirror)}.",
    )


def _own(row: Mapping[str, Any], study: Path) -> str:
    """What to do where the source is a file of the study, which its owner may have changed."""
    for source in str(row["sources"]).split():
        path = study / source
        inside = not is_address(source) and path.resolve().is_relative_to(study.resolve())
        if inside and path.is_file():
            return (
                f"\nIf {source} as it is now is the one you mean, write its bytes "
                f"({path.stat().st_size}) and sha256 ({sha256(path)}) into config/datasets.tsv."
            )
    return ""


def _sources(row: Mapping[str, Any], mirror: str | None, where: str) -> list[str]:
    """The row's sources in the order in which they are tried, the mirror first."""
    listed = str(row["sources"]).split()
    path = str(row["mirror_path"])
    if not mirror or not path:
        return listed
    safe_name(path, where=f"{where}, column mirror_path")
    if is_address(mirror):
        return [f"{mirror.rstrip('/')}/{quote(path)}", *listed]
    if not Path(mirror).is_absolute():
        raise StudyError(
            f"is {mirror!r}, neither an absolute folder nor an http(s) address",
            where="DOWNSLOPE_MIRROR",
            remedy="Give the absolute path: jobs run in other folders.",
        )
    return [str(Path(mirror) / path), *listed]


def _place(row: Mapping[str, Any], mirror: str | None) -> str:
    """Where a person can put the file so that it is found."""
    path = row["mirror_path"] or "a path that its column mirror_path names"
    if mirror and not is_address(mirror):
        return f"put it at {mirror.rstrip('/')}/{path}"
    return f"put it at {path} below a folder whose absolute path you set as DOWNSLOPE_MIRROR"


def _without_sha256(where: str, sources: Sequence[str], study: Path) -> StudyError:
    """The refusal of a row without sha256; it names the value when the file is at hand."""
    remedy = "Enter the sha256 that the publisher states, or that of a copy which you have checked."
    for source in sources:
        path = study / source
        if not is_address(source) and path.is_file():
            got = Content(path.stat().st_size, sha256(path))
            remedy = f"If {source} is the one you mean: bytes {got.size}, sha256 {got.sha256}."
            break
    return StudyError("has no sha256, so nothing can be checked", where=where, remedy=remedy)


def _obtain(
    source: str, target: BinaryIO, expected: Content, study: Path, pauses: Sequence[float]
) -> None:
    """Write the verified bytes of one source to `target`; Unusable with the reason otherwise."""
    address, *members = source.split("!/")
    if not members:
        _fetch(address, target, expected.size, study, pauses, lambda got: verify(got, expected))
        return
    for member in members:
        _refuse_unsafe(member)
    with contextlib.ExitStack() as stack:
        archive = stack.enter_context(tempfile.TemporaryFile())
        _fetch(address, archive, ARCHIVE_LIMIT, study, pauses, lambda _: _require_zip(archive))
        for member in members[:-1]:
            inner = stack.enter_context(tempfile.TemporaryFile())
            receive(_member(archive, member), inner, ARCHIVE_LIMIT)
            archive = inner
        verify(receive(_member(archive, members[-1]), target, expected.size), expected)


def _fetch(
    address: str,
    target: BinaryIO,
    limit: int,
    study: Path,
    pauses: Sequence[float],
    check: Callable[[Content], None],
) -> None:
    """Write a path's or an address's bytes to `target`, with pauses between tries of an address."""
    if not is_address(address):
        check(receive(_blocks(address, study), target, limit))
        return
    for pause in (*pauses, None):
        target.seek(0)
        target.truncate()
        try:
            get(address, target, limit, check)
            return
        except Transient as reason:
            if pause is None:
                raise Unusable(f"{reason} ({len(pauses) + 1} tries)") from None
            log.info("%s: %s; trying again", public_address(address), reason)
            time.sleep(pause)


def _blocks(path: str, study: Path) -> Iterator[bytes]:
    """Blocks of a file of the mirror (absolute) or of the study (relative, inside its folder)."""
    if not Path(path).is_absolute():
        _refuse_unsafe(path)
    try:
        with open(study / path, "rb") as handle:
            while block := handle.read(BLOCK):
                yield block
    except FileNotFoundError:
        raise Unusable("no such file") from None
    except OSError as error:
        raise Unusable(f"cannot be read ({error.strerror})") from None


def _require_zip(archive: BinaryIO) -> None:
    if not zipfile.is_zipfile(archive):
        raise Unusable("is not a zip archive")


def _member(archive: BinaryIO, name: str) -> Iterator[bytes]:
    """Blocks of one member of a zip archive. Nothing is unpacked: no other name is ever used."""
    try:
        with zipfile.ZipFile(archive) as opened:
            info = opened.getinfo(name)
            if info.flag_bits & 0x1:
                raise Unusable(f"the archive's member {name} is encrypted")
            with opened.open(info) as stream:
                while block := stream.read(BLOCK):
                    yield block
    except KeyError:
        raise Unusable(f"the archive has no member {name}") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise Unusable(f"not a sound zip archive ({error})") from None


def _refuse_unsafe(name: str) -> None:
    try:
        safe_name(name)
    except StudyError as error:
        raise Unusable(f"refused: the name {error}") from None
