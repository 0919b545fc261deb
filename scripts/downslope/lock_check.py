"""What the lock says about a study before anything is downloaded: stale rows, duplicate weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from downslope.errors import StudyError
from downslope.lock import (
    RESOLVE,
    TOKENIZER_PREFIX,
    LockedFile,
    Rows,
    digest_of_weights,
    records_by_name,
)
from downslope.weights import checkpoint_files, tokenizer_files

LOCK = "config/checkpoints.lock.tsv"


def records(rows: Rows) -> list[dict[str, Any]]:
    """Table rows as dictionaries, from a frame or from any sequence of mappings."""
    if isinstance(rows, pd.DataFrame):
        return [{str(key): value for key, value in row.items()} for row in rows.to_dict("records")]
    return [dict(row) for row in rows]


def wanted(checkpoints: Rows, tokenizers: Mapping[str, Mapping[str, Any]]) -> dict[str, dict]:
    """What has to be locked: `ckpt` or `tokenizer:<name>` -> its source, revision, known_bad.

    Only what lives on the hub; folders are read in place. An empty revision means `main`.
    """
    named = {str(row["ckpt"]): dict(row) for row in records(checkpoints)}
    named |= {f"{TOKENIZER_PREFIX}{name}": dict(spec) for name, spec in tokenizers.items()}
    return {
        name: {
            "source": row["source"],
            "revision": row.get("revision") or "main",
            "known_bad": row.get("known_bad") or "",
        }
        for name, row in named.items()
        if str(row["source"]).startswith("hub:")
    }


def is_locked(lock: pd.DataFrame, name: str, want: Mapping[str, Any]) -> bool:
    """Whether the lock has rows of `name` for the wanted source and revision."""
    return is_meant(records_by_name(lock[lock["ckpt"] == name]).get(name, ()), want)


def is_meant(files: Sequence[LockedFile], want: Mapping[str, Any]) -> bool:
    """Whether there are locked files, all of them of the wanted source and revision."""
    meant = want["source"], want["revision"]
    return bool(files) and all((file.source, file.revision) == meant for file in files)


def duplicates(lock: pd.DataFrame, checkpoints: Rows) -> list[list[str]]:
    """Groups of checkpoints, in table order, whose locked weights are the same files."""
    return _same_weights(records_by_name(lock), wanted(checkpoints, {}))


def _same_weights(
    locked: Mapping[str, Sequence[LockedFile]], wants: Mapping[str, Mapping[str, Any]]
) -> list[list[str]]:
    groups: dict[str, list[str]] = {}
    for name, want in wants.items():
        files = locked.get(name, ())
        if is_meant(files, want):
            digest = digest_of_weights((file.file, file.digest) for file in files)
            groups.setdefault(digest, []).append(name)
    return [group for group in groups.values() if len(group) > 1]


def check_lock(
    lock: pd.DataFrame, checkpoints: Rows, tokenizers: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """Compare the lock with a study's tables; return notes, sentences that stop nothing.

    Raises StudyError for hub rows that are not locked or locked for another source or revision
    (known_bad checkpoints are never fetched, so they may lack), for those of which a file that is
    needed has no row, and for checkpoints with the same weights of which more than one is not
    marked known_bad: the same model would count twice.
    """
    wants = wanted(checkpoints, tokenizers)
    locked = records_by_name(lock)
    needed = {name: want for name, want in wants.items() if not want["known_bad"]}
    missing = [name for name in needed if name not in locked]
    stale = [name for name in needed if name in locked and not is_meant(locked[name], wants[name])]
    if missing or stale:
        parts = [f"does not hold {_some(missing)}"] if missing else []
        parts += [f"is stale: source or revision differ for {_some(stale)}"] if stale else []
        raise StudyError(" and ".join(parts), where=LOCK, remedy=RESOLVE)
    _require_complete({name: locked[name] for name in needed})

    groups = _same_weights(locked, wanted(checkpoints, {}))
    for group in groups:
        unmarked = [name for name in group if not wants[name]["known_bad"]]
        if len(unmarked) > 1:
            raise StudyError(
                f"{_some(unmarked)} have the same weights, so one model would count as several",
                where=LOCK,
                remedy="In config/checkpoints.tsv mark all of them but one as known_bad, with the "
                "reason, or give the revisions that were meant.",
            )
    notes = [*_mended(locked, wants, groups), *_other_tokenizers(lock, checkpoints, wants)]
    if dropped := sorted(set(locked) - set(wants)):
        notes.append(f"{LOCK} holds rows of no checkpoint of the study: {_some(dropped)}")
    return notes


def _require_complete(locked: Mapping[str, Sequence[LockedFile]]) -> None:
    """Every checkpoint has its config and all of its weights, every tokenizer its files."""
    for name, files in locked.items():
        needed = tokenizer_files if name.startswith(TOKENIZER_PREFIX) else checkpoint_files
        try:
            needed([file.file for file in files])
        except StudyError as error:
            raise StudyError(
                f"{name} {error.what}",
                where=LOCK,
                remedy="Rows are missing: delete those that are left of it and run `snakemake "
                "--cores 1 resolve`.",
            ) from None


def _mended(
    locked: Mapping[str, Sequence[LockedFile]],
    wants: Mapping[str, Mapping[str, Any]],
    groups: Sequence[Sequence[str]],
) -> list[str]:
    """Notes on known_bad checkpoints whose weights are, by now, those of no other."""
    shared = {name for group in groups for name in group}
    return [
        f"{name} is marked known_bad ({want['known_bad']}), but its weights at the locked commit "
        "differ from those of every other checkpoint: they may have been mended since"
        for name, want in wants.items()
        if want["known_bad"] and is_meant(locked.get(name, ()), want) and name not in shared
    ]


def _other_tokenizers(
    lock: pd.DataFrame, checkpoints: Rows, wants: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """Notes on checkpoints that bring another tokenizer.json than the one they are scored with."""
    digests = lock[lock["file"] == "tokenizer.json"].set_index("ckpt")["digest"].to_dict()
    differing: dict[str, list[str]] = {}
    for row in records(checkpoints):
        name, tokenizer = str(row["ckpt"]), f"{TOKENIZER_PREFIX}{row.get('tokenizer', '')}"
        own, used = digests.get(name), digests.get(tokenizer)
        # A git blob id and a sha256 of the same bytes cannot be compared.
        comparable = own and used and own.split(":")[0] == used.split(":")[0]
        if name in wants and comparable and own != used:
            differing.setdefault(tokenizer, []).append(name)
    return [
        f"{_some(names)} bring a tokenizer.json that differs from that of {tokenizer}"
        for tokenizer, names in differing.items()
    ]


def _some(names: Sequence[str], most: int = 5) -> str:
    """Names joined by commas, the tail of a long list as its number."""
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")
