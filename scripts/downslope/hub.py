"""The Hugging Face hub's client, with every way in which it can fail put into a sentence.

`fetch` brings what is locked and nothing else. The endpoint and the token come from HF_ENDPOINT
and HF_TOKEN, as everywhere; no message repeats a token or a signed address. No file is loaded
here and no code of a repository is run.
"""

from __future__ import annotations

import io
import logging
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pandas as pd
from huggingface_hub import HfApi, errors, hf_hub_download
from huggingface_hub.hf_api import ModelInfo
from huggingface_hub.utils import logging as hub_logging
from huggingface_hub.utils import tqdm

from downslope.errors import StudyError
from downslope.files import amount, digest_as, is_as_locked
from downslope.lock import TOKENIZER_PREFIX, LockedFile, locked_records, safe_name
from downslope.weights import (
    check_index,
    checkpoint_files,
    remove_others,
    tokenizer_files,
    write_manifest,
)

PAUSES = (1.0, 4.0)
"""Seconds between the tries of a look-up or a file, when it fails for a reason that may pass."""

_PASSING = {408, 429, 500, 502, 503, 504}

log = logging.getLogger("downslope")


def fetch(
    ckpt: str,
    lock: pd.DataFrame,
    destination: Path,
    *,
    endpoint: str | None = None,
    pauses: Sequence[float] = PAUSES,
    confirm: Callable[[], None] = lambda: None,
) -> pd.DataFrame:
    """Bring a checkpoint's locked files to the folder `destination`; return their manifest.

    Files that are there already, as locked, are not fetched again. Every file is compared with
    the lock; a wrong one is deleted and raises StudyError. Files that the lock does not name are
    removed, for a loader might prefer them: `destination` belongs to this function. The manifest
    `fetched.tsv` (file, bytes, digest) is written last. `confirm` is called before each write; it
    raises where another process has taken over.
    """
    return _fetch(ckpt, lock, destination, checkpoint_files, endpoint, pauses, confirm)


def fetch_tokenizer(
    name: str, lock: pd.DataFrame, destination: Path, *, endpoint: str | None = None
) -> pd.DataFrame:
    """Bring the locked files of the tokenizer `name` to `destination`, as `fetch` does."""
    return _fetch(f"{TOKENIZER_PREFIX}{name}", lock, destination, tokenizer_files, endpoint)


def _fetch(
    name: str,
    lock: pd.DataFrame,
    destination: Path,
    needed: Callable[[Iterable[str]], list[str]],
    endpoint: str | None,
    pauses: Sequence[float] = PAUSES,
    confirm: Callable[[], None] = lambda: None,
) -> pd.DataFrame:
    # Small files come first, so an index that names files elsewhere stops before the weights do.
    rows = locked_records(lock, name)
    files = [safe_name(row.file, where=f"lock of {name}") for row in rows]
    needed(files)
    remove_others(destination, files)
    absent = [row for row in rows if not _is_there(row, destination)]
    _require_space(name, destination, sum(row.bytes for row in absent))
    for row in rows:
        if row in absent:
            log.info("%s: fetching %s (%s)", name, row.file, amount(row.bytes))
            confirm()
            _download(row, destination, endpoint, pauses)
        if row.file.endswith(".index.json"):
            check_index(destination / row.file, files, f"{row.source}, commit {row.commit}")
    # The client's own notes about a finished download are of no further use.
    shutil.rmtree(destination / ".cache", ignore_errors=True)
    manifest = pd.DataFrame(rows)[["file", "bytes", "digest"]]
    confirm()
    write_manifest(manifest, destination)
    return manifest


def _is_there(row: LockedFile, destination: Path) -> bool:
    return is_as_locked(destination / row.file, row.bytes, row.digest)


def _download(
    row: LockedFile, destination: Path, endpoint: str | None, pauses: Sequence[float]
) -> None:
    """Fetch one locked file and compare it; of plain files the client itself checks no content.

    A failure that may pass is tried again, from where it broke off; wrong bytes are not.
    """
    path = destination / row.file
    path.unlink(missing_ok=True)
    for pause in (*pauses, None):
        try:
            with _quiet_client():
                hf_hub_download(
                    row.source.removeprefix("hub:"),
                    row.file,
                    revision=row.commit,
                    local_dir=destination,
                    endpoint=endpoint,
                    tqdm_class=_minute_lines(row.file),
                )
            break
        except (httpx2.HTTPError, OSError, ValueError) as error:
            told = in_words(error, row.source, row.commit, row.file)
            if pause is None or not _may_pass(error):
                raise told from None
            log.info("%s; trying again", told.what)
            time.sleep(pause)
    if not _is_there(row, destination):
        kind = row.digest.split(":")[0]
        got = f"{path.stat().st_size} bytes, {digest_as(kind, path)}"
        path.unlink()
        raise StudyError(
            f"{row.file} has wrong bytes: expected {row.bytes} bytes, {row.digest}; got {got}",
            where=f"{row.source}, commit {row.commit}",
            remedy="It was deleted. Try again; if it comes out the same, the server or a proxy on "
            "the way changes files.",
        )


def look_up(
    api: HfApi, source: str, revision: str, *, pauses: Sequence[float] = PAUSES
) -> ModelInfo:
    """The hub's record of a revision, with its files' sizes and hashes; StudyError in words."""
    for pause in (*pauses, None):
        try:
            return api.model_info(
                source.removeprefix("hub:"), revision=revision, files_metadata=True, timeout=30
            )
        except (httpx2.HTTPError, OSError, ValueError, KeyError, TypeError) as error:
            if pause is None or not _may_pass(error):
                raise in_words(error, source, revision) from None
            time.sleep(pause)
    raise AssertionError("the last try returns or raises")


def in_words(error: Exception, source: str, revision: str, file: str = "") -> StudyError:
    """A failure of the hub's client as a StudyError; what is no such failure is raised again."""
    repo = source.removeprefix("hub:")
    if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # the client's way to say that a look-up failed
    remedy = "Check the network (and HF_ENDPOINT, if it is set), then try again."
    if isinstance(error, errors.GatedRepoError):
        what = "is gated, and this access is not granted"
        remedy = f"Accept its terms at https://huggingface.co/{repo} and set HF_TOKEN."
    elif isinstance(error, errors.RevisionNotFoundError):
        what, remedy = "has no such revision", "Correct the revision, or mark the row known_bad."
    elif isinstance(error, errors.EntryNotFoundError):
        what = f"has no file {file}"
        remedy = "The locked commit is gone; delete its rows from the lock and resolve again."
    elif isinstance(error, errors.RepositoryNotFoundError):
        what = "is unknown to the hub, or private"
        remedy = "Correct the name; for a private model, set HF_TOKEN."
    elif isinstance(error, errors.OfflineModeIsEnabled):
        what, remedy = "cannot be asked for, HF_HUB_OFFLINE is set", "Unset it for this step."
    elif isinstance(error, errors.HfHubHTTPError):
        status = error.response.status_code
        what = f"was answered with HTTP status {status}"
        if status in {401, 403}:
            remedy = "The hub refuses this access; check HF_TOKEN."
    elif isinstance(error, httpx2.HTTPError):
        what = f"cannot be reached ({type(error).__name__})"
    elif "Consistency check failed" in str(error):
        what = f"sent {file} cut short"
    elif isinstance(error, (ValueError, KeyError, TypeError, errors.FileMetadataError)):
        what = "was answered with something that is not a hub's answer"
    else:
        raise error
    return StudyError(what, where=f"{source}, revision {revision}", remedy=remedy)


def _may_pass(error: Exception) -> bool:
    if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    if "Consistency check failed" in str(error):
        return True
    if isinstance(error, errors.HfHubHTTPError):
        return error.response.status_code in _PASSING
    return isinstance(error, httpx2.TransportError)


@contextmanager
def _quiet_client() -> Iterator[None]:
    """Keep the client's own warnings out of logs: they repeat signed addresses."""
    before = hub_logging.get_verbosity()
    hub_logging.set_verbosity_error()
    try:
        yield
    finally:
        hub_logging.set_verbosity(before)


def _minute_lines(file: str) -> type[tqdm]:
    """A progress bar for the client that is a line a minute in the log: bars fill log files."""

    class MinuteLines(tqdm):
        monitor_interval = 0

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs |= {"file": io.StringIO(), "mininterval": 60, "miniters": 0, "disable": False}
            super().__init__(*args, **kwargs)

        def display(self, msg: str | None = None, pos: int | None = None) -> bool:
            if self.total and 0 < self.n < self.total:
                log.info("%s: %s of %s", file, amount(self.n), amount(self.total))
            return True

    return MinuteLines


def _require_space(name: str, destination: Path, needed: int) -> None:
    free = shutil.disk_usage(destination).free
    if needed > free:
        raise StudyError(
            f"{name} needs {amount(needed)}, but only {amount(free)} are free",
            where=str(destination),
            remedy="Free some space, or link the folder to a larger disk.",
        )
