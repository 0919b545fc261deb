"""From score files to the cells of a task, after asking each file whether it is the right one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from downslope.cells import COLUMNS, cells_of, values_of
from downslope.errors import StudyError
from downslope.identity import model_digest, score_identity
from downslope.item_values import Key
from downslope.layout import layouts_of
from downslope.lock import weights_digest
from downslope.plan import read_plan
from downslope.protocols import PROTOCOLS
from downslope.store import read_scores, require_identity
from downslope.tsv import read_tsv

Wanted = Mapping[str, tuple[str, str]]
"""ckpt -> the identity that its scores must have, and the identity's parts."""


def wanted_identities(
    checkpoints: Iterable[Mapping[str, Any]],
    locked: Mapping[str, str],
    plans: Iterable[str],
    *,
    dtype: str,
    modules: str,
) -> dict[str, tuple[str, str]]:
    """The identity that each checkpoint's scores of a task must have now.

    `locked` holds the model digest of each checkpoint of the hub, and an empty text for local
    folders, whose fingerprint is read instead; a checkpoint without one yet has no identity.
    `plans` are paths `.../{tokenizer}/{task}.safetensors`. Raises StudyError for two local folders
    with the same weights; for the hub, the lock has seen to that.
    """
    digests = {Path(path).parent.name: read_plan(Path(path)).digest for path in plans}
    wanted = {}
    owner: dict[str, str] = {}
    for row in checkpoints:
        weights = locked[row["ckpt"]]
        if not weights:
            fingerprint = Path(f"resources/fingerprints/{row['ckpt']}.tsv")
            try:
                files = read_tsv(fingerprint)
            except FileNotFoundError:  # not made yet, or about to be made anew
                continue
            weights = model_digest(zip(files["file"], files["digest"], strict=True))
            same = owner.setdefault(weights_digest(files.assign(ckpt="-"), "-"), row["ckpt"])
            if same != row["ckpt"]:
                raise StudyError(
                    f"{same} and {row['ckpt']} have the same weights: one model would count twice",
                    where="config/checkpoints.tsv",
                    remedy="Mend the source of one, or give it a reason under known_bad.",
                )
        wanted[row["ckpt"]] = score_identity(
            plan=digests[row["tokenizer"]], weights=weights, dtype=dtype, modules=modules
        )
    return wanted


def published_scores(paths: Iterable[str], wanted: Wanted) -> dict[str, pd.DataFrame]:
    """Score tables by checkpoint from `.../{ckpt}/{task}.parquet`.

    Raises StudyError for a file whose identity is not the wanted one: its numbers would be
    those of other data, weights or code, whatever its date says.
    """
    found = {}
    for path in map(Path, paths):
        table, facts = read_scores(path)
        require_identity(facts, *wanted[path.parent.name], path)
        found[path.parent.name] = table.to_pandas()
    return found


def of_wanted(paths: Iterable[str], wanted: Wanted) -> list[Path]:
    """Of files in the store those whose names say a wanted identity; others are none of ours."""
    return [
        path
        for path in map(Path, paths)
        if path.parent.name in wanted
        and path.suffixes[-2].removeprefix(".") == wanted[path.parent.name][0]
    ]


def stored_scores(paths: Iterable[str], wanted: Wanted) -> dict[str, pd.DataFrame]:
    """Score tables by checkpoint from the store."""
    return {path.parent.name: read_scores(path)[0].to_pandas() for path in of_wanted(paths, wanted)}


def task_cells(
    task: str,
    items: Path,
    scores: Mapping[str, pd.DataFrame],
    checkpoints: Iterable[Mapping[str, Any]],
    protocols: Sequence[str],
) -> tuple[pd.DataFrame, dict[Key, pd.DataFrame]]:
    """Cells, and item values by (protocol, metric), of all checkpoints with scores of a task."""
    ddof = {name: PROTOCOLS[name].ddof for name in protocols}
    table = pq.read_table(items).to_pandas()
    layouts = layouts_of(table, task, protocols)
    frames = [pd.DataFrame(columns=list(COLUMNS))]
    columns: dict[Key, dict[str, np.ndarray]] = {}
    for row in checkpoints:
        if row["ckpt"] not in scores:
            continue
        values = values_of(scores[row["ckpt"]], layouts, row["ckpt"], task, protocols)
        frames.append(cells_of(values, row, task, ddof))
        for key, of_items in values.items():
            columns.setdefault(key, {})[row["ckpt"]] = of_items.astype(np.float32)
    found = {key: pd.DataFrame(of, index=table["item"]) for key, of in columns.items()}
    return pd.concat(frames[1:] or frames), found
