"""Why something is missing, in the words that the jobs which failed have left behind.

resources/scored/{ckpt}/{task}.{identity}.failed   scoring one task; repeating cannot mend it
resources/weights/{ckpt}.failed                    fetching; the next success removes it
"""

from __future__ import annotations

from pathlib import Path

from downslope.files import matching

FAILED = ".failed"


def fetch_marker(weights: Path, ckpt: str) -> Path:
    """Where it is said why a checkpoint could not be fetched."""
    return weights / f"{ckpt}{FAILED}"


def failure_reasons(resources: Path) -> list[tuple[str, str, str]]:
    """Checkpoint, task and reason of everything that failed; the task is empty for a download.

    Sorted, so that equal failures are an equal list.
    """
    reasons = []
    for path in matching(resources, f"scored/*/*{FAILED}"):
        reasons.append((path.parent.name, path.name.rsplit(".", 2)[0], reason_in(path)))
    for path in matching(resources, f"weights/*{FAILED}"):
        reasons.append((path.name.removesuffix(FAILED), "", reason_in(path)))
    return sorted(reasons)


def reason_in(marker: Path) -> str:
    """What a marker says, on one line: it becomes a field of a table."""
    return " ".join(marker.read_text(encoding="utf-8").split())
