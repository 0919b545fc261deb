"""What of a study is still to do: tasks without scores that hold, weights that are not there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from downslope.errors import StudyError
from downslope.identity import SCORING_MODULES, modules_digest
from downslope.listed import ListedFiles
from downslope.locked import NOT_LOCKED, Lock, local_files
from downslope.study import Checkpoint, Study
from downslope.weights import MANIFEST


def current_weights(study: Study, lock: Lock, tell: Callable[[str], None]) -> dict[str, str]:
    """The digest of each checkpoint's weights as the next run will take them, as far as known.

    Of the hub's it is the lock's. Of a folder it is that of its list of files, and empty where a
    file is younger than the list, which `tell` gets a note on: it will be looked through anew.
    """
    found = {}
    for row in study.usable:
        if row.is_hub:
            known = lock.digest(row.ckpt, needed=False) if row.ckpt in lock.sizes() else NOT_LOCKED
            digest = None if known == NOT_LOCKED else known
        else:
            digest = _of_folder(study, row, tell)
        if digest is not None:
            found[row.ckpt] = digest
    return found


def _of_folder(study: Study, row: Checkpoint, tell: Callable[[str], None]) -> str | None:
    manifest = study.folder / f"resources/fingerprints/{row.ckpt}.tsv"
    try:
        listed = ListedFiles.of(manifest, study.folder / row.source)
        since = manifest.stat().st_mtime_ns
    except (StudyError, FileNotFoundError):  # it has not been looked through, or is at the moment
        return None
    paths = (study.folder / file for file in local_files(row))
    if any(path.is_file() and path.stat().st_mtime_ns > since for path in paths):
        tell(f"{row.source} was touched since it was looked through: counted as not scored yet")
        return ""
    return listed.weights


def left_tasks(
    study: Study,
    scores: Mapping[tuple[str, str], Mapping[str, Any]],
    plans: Mapping[str, str],
    weights: str | None,
) -> list[str]:
    """The tasks of which a checkpoint has no scores, or other ones than the study wants.

    `scores` are the facts of those that it has, `plans` the digests of plans by task, `weights`
    that of its weights: what is not known is taken to be as it was.
    """
    wanted = {"dtype": study.config["dtype"], "modules": modules_digest(SCORING_MODULES)}
    if weights is not None:
        wanted["weights"] = weights
    done = set()
    for (task, _), facts in scores.items():
        now = wanted | ({"plan": plans[task]} if task in plans else {})
        if all(facts["parts"].get(name) == value for name, value in now.items()):
            done.add(task)
    return [task for task in study.by_task if task not in done]


def is_fetched(folder: Path, weights: str | None) -> bool:
    """Whether a fetched checkpoint's files lie in `folder` as they are listed there, and these are
    the `weights` that are wanted, as far as that is known."""
    try:
        listed = ListedFiles.of(folder / MANIFEST, folder)
    except StudyError:
        return False
    return listed.all_there() and weights in (None, listed.weights)
