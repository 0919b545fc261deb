"""A fetched data set is the one that its row pins, as long as nobody changes it."""

from __future__ import annotations

from pathlib import Path

from downslope.errors import StudyError
from downslope.files import sha256


def require_pinned(path: Path, expected: str) -> None:
    """Raise StudyError unless the file has the sha256 of its row in config/datasets.tsv."""
    found = sha256(path)
    if found != expected.strip().lower():
        raise StudyError(
            f"has the sha256 {found}, and config/datasets.tsv {expected}: it was changed after it "
            "had been fetched",
            where=str(path),
            remedy="Delete it, and it is fetched anew. To change a data set of your own, mend its "
            "source, and write the new bytes and sha256 into config/datasets.tsv.",
        )
