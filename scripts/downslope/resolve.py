"""From the study's tables to its lock: what every hub row consists of, asked without download."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from huggingface_hub import HfApi
from huggingface_hub.hf_api import ModelInfo, RepoSibling

from downslope.errors import StudyError
from downslope.files import amount
from downslope.hub import PAUSES, look_up
from downslope.lock import (
    COLUMNS,
    TOKENIZER_PREFIX,
    Rows,
    download_size,
    empty_lock,
    read_lock,
    write_lock,
)
from downslope.lock_check import check_lock, is_locked, wanted
from downslope.weights import checkpoint_files, tokenizer_files

log = logging.getLogger("downslope")


class Resolution(NamedTuple):
    """A lock, what there is to say about it, and the rows that failed, each with its reason."""

    lock: pd.DataFrame
    report: list[str]
    failures: list[str]


def resolve(
    checkpoints: Rows,
    tokenizers: Mapping[str, Mapping[str, Any]],
    old_lock: pd.DataFrame,
    api: HfApi | None = None,
    *,
    pauses: Sequence[float] = PAUSES,
) -> Resolution:
    """Look up the files of every hub row; nothing is downloaded.

    Rows that are locked for the same source and revision stay as they are, also when their branch
    has moved since (the report says so); rows of checkpoints no longer wanted are dropped. One
    row's failure does not keep the others from being resolved.
    """
    hub = api or HfApi()
    parts, report, failures = [], [], []
    wants = wanted(checkpoints, tokenizers)
    for name, want in wants.items():
        kept = old_lock[old_lock["ckpt"] == name] if is_locked(old_lock, name, want) else None
        if kept is not None:
            parts.append(kept)
        try:
            info = look_up(hub, want["source"], want["revision"], pauses=pauses)
            if kept is None:
                parts.append(_lock_rows(name, want, info))
        except StudyError as error:
            if kept is not None:
                report.append(f"{name}: stays locked, though it could not be looked up: {error}")
            elif want["known_bad"]:
                report.append(f"{name}: not locked, nor needed, for it is known_bad: {error}")
            else:
                failures.append(f"{name}: {error}")
            continue
        report += _remarks(name, want, info, kept)
    report += [
        f"{name}: dropped, the study has no such row of the hub"
        for name in sorted(set(old_lock["ckpt"]) - set(wants))
    ]
    lock = pd.concat(parts, ignore_index=True) if parts else empty_lock()
    return Resolution(lock[COLUMNS], report, failures)


def update_lock(
    checkpoints: Rows,
    tokenizers: Mapping[str, Mapping[str, Any]],
    path: Path,
    api: HfApi | None = None,
    *,
    pauses: Sequence[float] = PAUSES,
) -> None:
    """Resolve and write the lock at `path`, also what there is of it when some rows fail.

    Raises, after writing, one StudyError that names every row that failed, or that of
    `check_lock`, so that duplicate weights are known at once. An unchanged lock is left alone:
    nothing that depends on the file shall look outdated.
    """
    old = read_lock(path)
    lock, report, failures = resolve(checkpoints, tokenizers, old, api, pauses=pauses)
    for line in report:
        log.info("%s", line)
    if not path.exists() or _lines(old) != _lines(lock):
        write_lock(lock, path)
    if failures:
        raise StudyError(
            f"{len(failures)} of {len(wanted(checkpoints, tokenizers))} rows are not locked:"
            + "".join(f"\n  {failure}" for failure in failures),
            where=str(path),
            remedy="\nThe others are. Mend these and resolve again.",
        )
    for note in check_lock(lock, checkpoints, tokenizers):
        log.info("%s", note)
    fetched = [
        name for name, want in wanted(checkpoints, tokenizers).items() if not want["known_bad"]
    ]
    size = amount(download_size(lock, fetched))
    log.info("%d checkpoints and tokenizers are locked, %s to download", len(fetched), size)


def _lines(lock: pd.DataFrame) -> list[tuple[str, ...]]:
    return sorted(tuple(map(str, row)) for row in lock[COLUMNS].itertuples(index=False))


def _lock_rows(name: str, want: Mapping[str, Any], info: ModelInfo) -> pd.DataFrame:
    """Lock rows of the files that a checkpoint or a tokenizer needs, as the hub states them."""
    where = f"{want['source']}, revision {want['revision']}"
    # Only the top folder counts: subfolders hold other formats of the same model.
    listing = {item.rfilename: item for item in info.siblings or () if "/" not in item.rfilename}
    needed = tokenizer_files if name.startswith(TOKENIZER_PREFIX) else checkpoint_files
    try:
        files = needed(listing)
    except StudyError as error:
        raise StudyError(error.what, where=where, remedy=error.remedy) from None
    if not re.fullmatch(r"[0-9a-f]{40}", info.sha or ""):
        raise StudyError(f"its commit is {info.sha!r}, expected 40 hexadecimal digits", where=where)
    head = [name, want["source"], want["revision"], info.sha]
    rows = [[*head, file, *_stated(listing[file], where)] for file in files]
    return pd.DataFrame(rows, columns=COLUMNS)


def _stated(item: RepoSibling, where: str) -> tuple[int, str]:
    """Size and digest of a file: sha256 of large files, git's blob id of those kept in git."""
    if item.lfs is not None:
        return item.lfs.size, f"sha256:{item.lfs.sha256}"
    if item.size is None or not item.blob_id:
        raise StudyError(f"the hub states no size and hash of {item.rfilename}", where=where)
    return item.size, f"git-sha1:{item.blob_id}"


def _remarks(
    name: str, want: Mapping[str, Any], info: ModelInfo, kept: pd.DataFrame | None
) -> list[str]:
    """Lines of the report on one row: newly locked, moved since, gated."""
    remarks = []
    if kept is None:
        remarks.append(f"{name}: locked at commit {info.sha}")
    elif (commit := kept["commit"].iloc[0]) != info.sha:
        remarks.append(
            f"{name}: {want['revision']} of {want['source']} has moved since it was locked, from "
            f"{commit} to {info.sha}; delete its rows from the lock to take the new commit"
        )
    if info.gated:
        remarks.append(f"{name}: {want['source']} is gated; fetching it will need HF_TOKEN")
    return remarks
