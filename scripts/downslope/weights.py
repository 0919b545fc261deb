"""Which files make a checkpoint or a tokenizer, and whether those on disk are the ones meant.

Nothing is loaded or unpickled here: files are chosen by name and compared by size and digest.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from downslope.errors import StudyError
from downslope.files import atomic_write, digest_as, file_states
from downslope.identity import is_weights
from downslope.lock import digest_of_weights, safe_name
from downslope.tsv import write_tsv

CONFIG = "config.json"

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
)

MANIFEST = "fetched.tsv"

log = logging.getLogger("downslope")


def checkpoint_files(names: Iterable[str]) -> list[str]:
    """Of a checkpoint folder's file names, those that are needed: config, tokenizer, weights.

    Weights are `model.safetensors` or its shards with their index, else `pytorch_model.bin` or
    its shards with their index, as transformers looks for them. StudyError when config.json or
    the weights are missing or a shard is.
    """
    have = set(names)
    if CONFIG not in have:
        raise StudyError("has no config.json", remedy="Give a folder or revision of a model.")
    return [CONFIG, *(name for name in TOKENIZER_FILES if name in have), *_weight_files(have)]


def tokenizer_files(names: Iterable[str]) -> list[str]:
    """Of a folder's file names, those of its tokenizer; StudyError when they do not make one."""
    have = set(names)
    if not ({"tokenizer.json", "tokenizer.model"} & have or {"vocab.json", "merges.txt"} <= have):
        raise StudyError(
            "has no tokenizer (tokenizer.json, tokenizer.model, or vocab.json with merges.txt)",
            remedy="Name a folder or revision that holds one.",
        )
    # config.json tells which class of tokenizer it is, where tokenizer_config.json does not.
    return [name for name in (CONFIG, *TOKENIZER_FILES) if name in have]


def _weight_files(have: set[str]) -> list[str]:
    for stem, suffix in (("model", "safetensors"), ("pytorch_model", "bin")):
        if f"{stem}.{suffix}" in have:
            return [f"{stem}.{suffix}"]
        index = f"{stem}.{suffix}.index.json"
        if index in have:
            pattern = re.compile(rf"{stem}-(\d+)-of-(\d+)\.{suffix}")
            return [index, *_all_shards(index, filter(None, map(pattern.fullmatch, have)))]
    raise StudyError(
        "has no weights (model.safetensors or pytorch_model.bin, whole or in shards)",
        remedy="Other formats are not read; name a revision or a folder that has one of these.",
    )


def _all_shards(index: str, matches: Iterable[re.Match[str]]) -> list[str]:
    shards = {match[0]: (int(match[1]), int(match[2])) for match in matches}
    counts = {count for _, count in shards.values()}
    parts = sorted(part for part, _ in shards.values())
    if len(counts) != 1 or parts != list(range(1, max(counts) + 1)):
        raise StudyError(
            f"has {index}, but of its shards only {', '.join(sorted(shards)) or 'none'}",
            remedy="The upload is incomplete or mixed; name another revision.",
        )
    return sorted(shards)


def check_index(path: Path, names: Sequence[str], where: str) -> None:
    """Check a `*.index.json`: it may name files among `names` only.

    A loader opens what the index names, so a name that leads elsewhere would be read there.
    Raises StudyError for broken JSON and for every other name.
    """
    remedy = "Do not use this checkpoint, or report it to its publisher."
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()
        files = sorted({str(name) for name in listed})
    except (ValueError, KeyError, TypeError, AttributeError):
        raise StudyError(f"{path.name} is no index of shards", where=where, remedy=remedy) from None
    for name in files:
        safe_name(name, where=f"{where}, {path.name}")
        if name not in names:
            raise StudyError(
                f"{path.name} names {name}, which is none of its shards", where=where, remedy=remedy
            )


def fingerprint(folder: Path) -> pd.DataFrame:
    """Columns file, bytes, digest (sha256) of the files that a local checkpoint consists of.

    Raises StudyError, naming the folder, when there is no such folder, config.json or weights are
    missing, an index names files outside it, or a file changes while it is read.
    """
    files = _chosen(folder, checkpoint_files)
    for file in files:
        if file.endswith(".index.json"):
            check_index(folder / file, files, str(folder))
    before = file_states(folder / file for file in files)
    found = _digests(folder, files)
    if file_states(folder / file for file in files) != before:
        raise StudyError(
            "changed while it was read",
            where=str(folder),
            remedy="Run the workflow again when nobody writes there any more.",
        )
    return found


def require_distinct(
    ckpt: str, files: pd.DataFrame, rows: Iterable[Mapping[str, Any]], fingerprints: Path
) -> None:
    """Raise StudyError where another local checkpoint has the same weights as `ckpt`.

    `files` are what `fingerprint` found, `rows` those of checkpoints.tsv, `fingerprints` the folder
    of what was found before. What stands there may be out of date: the other is looked at anew.
    It spares the scoring; what makes sure is `aggregate.wanted_identities`, which sees all at once.
    """
    own = [(file, digest) for file, digest in _pairs(files) if is_weights(file)]
    for row in rows:
        path = fingerprints / f"{row['ckpt']}.tsv"
        if row["ckpt"] == ckpt or row["known_bad"] or not path.is_file():
            continue
        if own[0][1] not in path.read_text(encoding="utf-8"):
            continue
        if digest_of_weights(_pairs(fingerprint(Path(row["source"])))) == digest_of_weights(own):
            raise StudyError(
                f"{row['ckpt']} (line {row['line']}) and {ckpt} have the same weights: one model "
                "would count twice",
                where="config/checkpoints.tsv",
                remedy="Mend the source of one, or give it a reason under known_bad.",
            )


def _pairs(files: pd.DataFrame) -> list[tuple[str, str]]:
    return list(zip(files["file"], files["digest"], strict=True))


def copy_tokenizer(folder: Path, destination: Path) -> pd.DataFrame:
    """Copy a local tokenizer's files to `destination`; return and write their manifest."""
    files = _chosen(folder, tokenizer_files)
    remove_others(destination, files)
    for file in files:
        with atomic_write(destination / file) as temporary:
            shutil.copyfile(folder / file, temporary)
    manifest = _digests(destination, files)
    write_manifest(manifest, destination)
    return manifest


def remove_others(destination: Path, files: Sequence[str]) -> None:
    """Make the folder, and remove what lies in it beside `files`: a loader might prefer it."""
    destination.mkdir(parents=True, exist_ok=True)
    for path in destination.iterdir():
        if path.is_file() and path.name not in files:
            log.info("%s: removing %s, which does not belong there", destination, path.name)
            path.unlink()


def write_manifest(files: pd.DataFrame, destination: Path) -> None:
    """Write `fetched.tsv` (file, bytes, digest): whoever sees it sees complete, checked files."""
    write_tsv(files[["file", "bytes", "digest"]], destination / MANIFEST)


def _chosen(folder: Path, choose: Callable[[Iterable[str]], list[str]]) -> list[str]:
    if not folder.is_dir():
        raise StudyError(
            "is not a folder",
            where=str(folder),
            remedy="A source without `hub:` is a folder, relative to the study or absolute.",
        )
    try:
        return choose(path.name for path in folder.iterdir() if path.is_file())
    except StudyError as error:
        raise StudyError(error.what, where=str(folder), remedy=error.remedy) from None


def _digests(folder: Path, files: Sequence[str]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "file": files,
            "bytes": [(folder / file).stat().st_size for file in files],
            "digest": [digest_as("sha256", folder / file) for file in files],
        }
    )
