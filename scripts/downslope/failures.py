"""Why something is missing, in the words that the jobs which failed have left behind.

resources/scored/{ckpt}/{task}.{identity}.failed   scoring one task; repeating cannot mend it
resources/weights/{ckpt}.failed                    fetching; the next success removes it
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

from downslope.files import matching

FAILED = ".failed"

FILES = "files "
"""How the line of a marker begins that says which files were there: with others it says nothing."""


def fetch_marker(weights: Path, ckpt: str) -> Path:
    """Where it is said why a checkpoint could not be fetched."""
    return weights / f"{ckpt}{FAILED}"


def failure_reasons(
    resources: Path,
    wanted: Callable[[str, str], str | None],
    of_hub: Collection[str],
) -> list[tuple[str, str, str]]:
    """Checkpoint, task and reason of everything that failed; the task is empty for a download.

    `wanted` says under which identity the study wants a checkpoint's scores of a task now; what
    failed under another one says nothing of it. A download counts for checkpoints `of_hub` alone:
    others have come from a folder since. Sorted, so that equal failures are an equal list.
    """
    found = []
    for path in matching(resources, f"scored/*/*{FAILED}"):
        task, identity, _ = path.name.rsplit(".", 2)
        if wanted(path.parent.name, task) == identity:
            found.append((path.parent.name, task, reason_in(path)))
    for path in matching(resources, f"weights/*{FAILED}"):
        ckpt = path.name.removesuffix(FAILED)
        if ckpt in of_hub:
            found.append((ckpt, "", reason_in(path)))
    return sorted((ckpt, task, reason) for ckpt, task, reason in found if reason is not None)


def reason_in(marker: Path) -> str | None:
    """What a marker says, on one line: it becomes a field of a table. None where there is none
    (the job that succeeds removes it), or one that says nothing."""
    try:
        lines = marker.read_text(encoding="utf-8").splitlines()
    except (FileNotFoundError, UnicodeDecodeError):
        return None
    return " ".join(" ".join(line for line in lines if not line.startswith(FILES)).split()) or None
