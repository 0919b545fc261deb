"""A checkpoint's files as they are listed: what is scored must be what the list says.

A list is written when its files have been read, by a download or for a folder of one's own. Hours
may lie between that and scoring, and meanwhile a person, a purge of scratch or another run may have
exchanged them: the scores would stand under the identity of other weights, for good.
"""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass
from pathlib import Path

from downslope.errors import StudyError
from downslope.files import is_as_locked
from downslope.identity import is_weights, makes_model, model_digest


def read_listed(manifest: Path) -> list[tuple[str, int, str]]:
    """Name, bytes and digest of each file of a list; StudyError where it has gone or is none."""
    try:
        with open(manifest, encoding="utf-8", newline="") as table:
            rows = csv.DictReader(table, delimiter="\t")
            return [(row["file"], int(row["bytes"]), row["digest"]) for row in rows]
    except FileNotFoundError:
        raise StudyError("is gone", where=str(manifest), remedy="Run again.") from None
    except (KeyError, TypeError, ValueError):
        what = "is no list of files"
        raise StudyError(what, where=str(manifest), remedy=_remedy(manifest)) from None


@dataclass(frozen=True)
class ListedFiles:
    """The weights and config of a checkpoint in `folder`, each with its bytes and digest, as a
    `manifest` lists them. A tokenizer is compared with the plan's, by what it does."""

    folder: Path
    manifest: Path
    files: tuple[tuple[str, int, str], ...]

    @classmethod
    def of(cls, manifest: Path, folder: Path) -> ListedFiles:
        """Read a list; StudyError as `read_listed` raises, and for one without weights."""
        files = tuple(row for row in read_listed(manifest) if makes_model(row[0]))
        if not any(is_weights(file) for file, _, _ in files):
            raise StudyError("lists no weights", where=str(manifest), remedy=_remedy(manifest))
        return cls(folder, manifest, files)

    @property
    def weights(self) -> str:
        """Digest of the weights that are listed, for `score_identity`."""
        return model_digest((file, digest) for file, _, digest in self.files)

    def all_there(self) -> bool:
        """Whether no file is missing; a folder that gave its weights up keeps its list."""
        return all((self.folder / file).is_file() for file, _, _ in self.files)

    def states(self) -> list[tuple[int, ...] | None]:
        """What differs as soon as a file is exchanged or written to, at no cost."""
        found = (_status(self.folder / file) for file, _, _ in self.files)
        return [some and (some.st_size, some.st_mtime_ns) for some in found]

    def require_as_listed(self) -> None:
        """Raise StudyError where a file is missing or another one than the list says.

        What has not been touched since the list was written is not read again: no copying or
        renaming sets back the date at which a file's entry last changed. (`snakemake --touch`
        moves the list's own date, and with it says that all is well.)
        """
        listed = self.manifest.stat().st_mtime_ns
        wrong = []
        for file, size, digest in self.files:
            found = _status(self.folder / file)
            touched = max(found.st_mtime_ns, found.st_ctime_ns) if found else listed
            if touched < listed and found and found.st_size == size:
                continue
            if not is_as_locked(self.folder / file, size, digest):
                wrong.append(file)
        if wrong:
            raise StudyError(
                f"{', '.join(wrong)} missing or not as listed in {self.manifest}",
                where=str(self.folder),
                remedy=_remedy(self.manifest),
            )

    def require_unchanged(self, before: list[tuple[int, ...] | None]) -> None:
        """Raise StudyError where the `states` are no longer what they were before."""
        pairs = zip(self.files, before, self.states(), strict=True)
        changed = [file for (file, *_), then, now in pairs if then != now]
        if changed:
            raise StudyError(
                f"{', '.join(changed)} changed while scores were computed from it; none of them is "
                "kept that was not stored before",
                where=str(self.folder),
                remedy="Leave the folder alone and run the workflow again.",
            )


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def _remedy(manifest: Path) -> str:
    return f"Delete {manifest} and run the workflow again: the folder is looked through anew."
