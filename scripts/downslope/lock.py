"""The lock `checkpoints.lock.tsv`: which files, at which commit, with which content, are meant.

A row per file of every checkpoint and tokenizer that lives on the hub. Tokenizers have the ckpt
`tokenizer:<name>`. A digest is `sha256:...` where the hub states it (large files), otherwise
`git-sha1:...`, the file's git blob id. Duplicate weights, download size and stale tables are seen
from the lock alone, before the first byte is fetched.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from downslope.errors import StudyError
from downslope.identity import is_weights
from downslope.text import read_text
from downslope.tsv import write_tsv

COLUMNS = ["ckpt", "source", "revision", "commit", "file", "bytes", "digest"]

TOKENIZER_PREFIX = "tokenizer:"

RESOLVE = "Run `snakemake --cores 1 resolve` (it needs the network) and commit the lock."

_SLUG = r"[a-z0-9]+(?:[._-][a-z0-9]+)*"
_FIELDS = {
    "ckpt": (rf"(?:{TOKENIZER_PREFIX})?{_SLUG}", "a checkpoint's id, or `tokenizer:` and a name"),
    "source": (
        r"hub:[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*",
        "`hub:owner/name`",
    ),
    "revision": (r"[A-Za-z0-9][A-Za-z0-9._/-]*", "a branch, tag or commit"),
    "commit": (r"[0-9a-f]{40}", "40 hexadecimal digits"),
    "file": (r".*", "a file name"),
    "bytes": (r"0|[1-9][0-9]{0,17}", "a whole number"),
    "digest": (r"sha256:[0-9a-f]{64}|git-sha1:[0-9a-f]{40}", "`sha256:` or `git-sha1:` and digits"),
}

Rows = pd.DataFrame | Iterable[Mapping[str, Any]]
"""Rows of checkpoints.tsv, as a frame or as mappings."""


class LockedFile(NamedTuple):
    """One row of the lock."""

    ckpt: str
    source: str
    revision: str
    commit: str
    file: str
    bytes: int
    digest: str


def safe_name(name: str, where: str = "") -> str:
    """`name` itself, when it is a relative path that cannot leave its folder.

    Names from the hub, from archives and from `*.index.json` become paths, so StudyError for
    absolute ones, for `..`, backslashes, control characters, empty parts and a leading `-`.
    """
    parts = name.split("/")
    if (
        any(part in {"", ".", ".."} for part in parts)
        or any(ord(char) < 32 or ord(char) == 127 for char in name)
        or "\\" in name
        or name.startswith("-")
        or re.match(r"[A-Za-z]:", name)
    ):
        raise StudyError(
            f"{name!r} could lead outside its folder",
            where=where,
            remedy="Expected a plain relative name, without `..`, backslash or leading `-` or `/`.",
        )
    return name


def empty_lock() -> pd.DataFrame:
    """A lock without rows."""
    return pd.DataFrame({column: [] for column in COLUMNS}).astype({"bytes": "int64"})


def read_lock(path: Path) -> pd.DataFrame:
    """The lock at `path`, checked field by field; without rows when there is no such file.

    Raises StudyError with the line for anything out of form, for a file locked twice, and for
    a checkpoint whose rows disagree about source, revision or commit.
    """
    if not path.exists():
        return empty_lock()
    lines = [line.rstrip("\r") for line in read_text(path).split("\n")]
    remedy = f"The lock is written by a program; delete the rows concerned. {RESOLVE}"
    if lines[0].split("\t") != COLUMNS:
        raise StudyError(
            f"the header is {lines[0]!r}, expected {' '.join(COLUMNS)!r} with tabs",
            where=f"{path}, line 1",
            remedy=remedy,
        )
    rows: list[dict[str, str]] = []
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip():
            continue
        where, fields = f"{path}, line {number}", line.split("\t")
        if len(fields) != len(COLUMNS):
            raise StudyError(
                f"has {len(fields)} fields, expected {len(COLUMNS)}", where=where, remedy=remedy
            )
        row = dict(zip(COLUMNS, fields, strict=True))
        for column, text in row.items():
            if not _in_form(column, text):
                expected = _FIELDS[column][1]
                raise StudyError(
                    f"{column} is {text!r}, expected {expected}", where=where, remedy=remedy
                )
        for column in ("revision", "file"):
            if not _is_safe(row[column]):
                safe_name(row[column], where=f"{where}, column {column}")
        rows.append(row)
    lock = pd.DataFrame(rows, columns=COLUMNS).astype({"bytes": "int64"})
    _require_consistent(lock, path, remedy)
    return lock


@cache
def _in_form(column: str, text: str) -> bool:
    """Whether a field has its column's form; most fields stand in many rows."""
    return re.fullmatch(_FIELDS[column][0], text) is not None


@cache
def _is_safe(name: str) -> bool:
    try:
        safe_name(name)
    except StudyError:
        return False
    return True


def _require_consistent(lock: pd.DataFrame, path: Path, remedy: str) -> None:
    twice = lock[lock.duplicated(["ckpt", "file"])]
    if not twice.empty:
        what = f"{twice['ckpt'].iloc[0]} has {twice['file'].iloc[0]} twice"
        raise StudyError(what, where=str(path), remedy=remedy)
    meant = lock[["ckpt", "source", "revision", "commit"]].drop_duplicates()
    torn = meant.loc[meant.duplicated("ckpt"), "ckpt"]
    if not torn.empty:
        what = f"the rows of {torn.min()} disagree about source, revision or commit"
        raise StudyError(what, where=str(path), remedy=remedy)


def write_lock(lock: pd.DataFrame, path: Path) -> None:
    """Write a lock, sorted by checkpoint and file, so that versions of it compare line by line."""
    ordered = lock[COLUMNS].sort_values(["ckpt", "file"], kind="stable")
    write_tsv(ordered, path)


def locked_files(lock: pd.DataFrame, ckpt: str) -> pd.DataFrame:
    """The lock's rows of one checkpoint or `tokenizer:<name>`; StudyError when there are none."""
    rows = lock[lock["ckpt"] == ckpt]
    if rows.empty:
        raise StudyError(f"{ckpt} is not locked", where="checkpoints.lock.tsv", remedy=RESOLVE)
    return rows


def locked_records(lock: pd.DataFrame, ckpt: str) -> list[LockedFile]:
    """`locked_files` as records, smallest file first."""
    rows = locked_files(lock, ckpt)[COLUMNS].to_dict("records")
    return sorted(
        (LockedFile(**{str(key): value for key, value in row.items()}) for row in rows),
        key=lambda record: (record.bytes, record.file),
    )


def records_by_name(lock: pd.DataFrame) -> dict[str, list[LockedFile]]:
    """All rows as records, by checkpoint or `tokenizer:<name>`, in one pass over the lock."""
    found: dict[str, list[LockedFile]] = {}
    for row in zip(*(lock[column].tolist() for column in COLUMNS), strict=True):
        record = LockedFile(*row)
        found.setdefault(record.ckpt, []).append(record)
    return found


def weights_digest(lock: pd.DataFrame, ckpt: str) -> str:
    """Hexadecimal digest of a checkpoint's weights: equal exactly when the weight files are.

    Names do not enter, so two revisions that serve the same blobs are equal whatever they call
    them. Tensors saved in another format or split differently are other files, hence differ.
    """
    rows = locked_files(lock, ckpt)
    return digest_of_weights(zip(rows["file"], rows["digest"], strict=True))


def digest_of_weights(files: Iterable[tuple[str, str]]) -> str:
    """`weights_digest` from pairs of file name and digest."""
    digests = sorted(digest for file, digest in files if is_weights(file))
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def download_size(lock: pd.DataFrame, ckpts: Iterable[str]) -> int:
    """Bytes of the locked files of `ckpts`; a content that several of them share counts once."""
    rows = lock[lock["ckpt"].isin(list(ckpts))]
    return int(rows.drop_duplicates("digest")["bytes"].sum())
