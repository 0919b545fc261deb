"""Which plans can be made from what lies on this disk, without the network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from downslope.errors import StudyError
from downslope.files import is_as_locked
from downslope.lock import TOKENIZER_PREFIX
from downslope.locked import Lock
from downslope.study import HUB, Study


def plans_at_hand(study: Study, lock: Lock, mirror: str | None) -> list[str]:
    """Paths in the study of the plans whose data set and tokenizer are at hand.

    Raises StudyError where the study scores nothing and so costs nothing.
    """
    if study.config["cells"] != "scores":
        raise StudyError(
            "this study scores nothing, so it costs neither GPU hours nor weights",
            where=f"config/config.yaml, cells: {study.config['cells']}",
            remedy="Ask for the cost of a study with `cells: scores`.",
        )
    if not study.usable:
        raise StudyError(
            "every checkpoint is known_bad, so there is nothing to score",
            where="config/checkpoints.tsv",
            remedy="Leave known_bad empty where a checkpoint can be scored.",
        )
    used = sorted({row.tokenizer for row in study.usable})
    tokenizers = [name for name in used if tokenizer_at_hand(name, study, lock)]
    tasks = [
        task.task
        for task in study.tasks
        if data_at_hand(study.datasets[task.dataset], study.folder, mirror)
    ]
    return [f"resources/plans/{name}/{task}.safetensors" for name in tokenizers for task in tasks]


def data_at_hand(row: Mapping[str, Any], folder: Path, mirror: str | None) -> bool:
    """Whether a register row's file lies on this disk: fetched, in the study, or in the mirror.

    Its content is compared, so that nothing is looked for elsewhere when it is another; but not
    that of an archive of the study, which is taken to hold what it should.
    """
    places = [folder / "resources/datasets" / row["dataset"] / row["file"]]
    if mirror and row["mirror_path"]:
        places.append(Path(mirror) / row["mirror_path"])
    own = [source for source in row["sources"].split() if "://" not in source]
    places += [folder / source for source in own if "!/" not in source]
    if any(is_as_locked(place, row["bytes"], f"sha256:{row['sha256']}") for place in places):
        return True
    return any((folder / source.split("!/")[0]).is_file() for source in own if "!/" in source)


def tokenizer_at_hand(name: str, study: Study, lock: Lock) -> bool:
    """Whether a tokenizer lies on this disk; one of the hub fetched, and in a lock that holds."""
    source = study.config["tokenizers"][name]["source"]
    if not source.startswith(HUB):
        return (study.folder / source / "tokenizer.json").is_file()
    try:
        lock.digest(f"{TOKENIZER_PREFIX}{name}", needed=True)
    except StudyError:
        return False
    return (study.folder / "resources/tokenizers" / name / "fetched.tsv").is_file()
