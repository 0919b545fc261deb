"""What the lock says about a study's checkpoints, asked one at a time by the rules."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import pandas as pd

from downslope.errors import StudyError
from downslope.identity import model_digest
from downslope.lock import TOKENIZER_PREFIX, LockedFile, read_lock, records_by_name
from downslope.lock_check import check_lock, is_meant, wanted
from downslope.study import HUB, Checkpoint, Study

NOT_LOCKED = "not locked yet"


class Lock:
    """The lock of a study, read and checked when the first question comes.

    `tell` gets sentences that stop nothing, such as that a dry run goes on without a lock.
    """

    def __init__(self, study: Study, path: Path, tell: Callable[[str], None]) -> None:
        self.study, self.path, self.tell = study, path, tell
        self._told = False
        self._digests: dict[str, str] = {}

    @cached_property
    def _problem(self) -> StudyError | None:
        try:
            notes = check_lock(
                self._rows,
                [vars(row) for row in self.study.checkpoints],
                self.study.config.get("tokenizers", {}),
            )
        except StudyError as error:
            return error
        for note in notes:
            self.tell(note)
        return None

    @cached_property
    def _rows(self) -> pd.DataFrame:
        return read_lock(self.path)

    @cached_property
    def _records(self) -> dict[str, list[LockedFile]]:
        return records_by_name(self._rows)

    def digest(self, name: str, *, needed: bool) -> str:
        """Digest over the locked files of a checkpoint or `tokenizer:<name>`; empty for a folder.

        Where the lock is missing, stale or refuses the study, raises its StudyError if the
        answer is `needed`, and otherwise tells it once and says `not locked yet`.
        """
        tokenizer = name.removeprefix(TOKENIZER_PREFIX)
        source = (
            self.study.by_ckpt[name].source
            if tokenizer == name
            else self.study.config["tokenizers"][tokenizer]["source"]
        )
        if not source.startswith("hub:"):
            return ""
        if self._problem is not None:
            if needed:
                raise self._problem
            if not self._told:
                self.tell(f"A real run would stop here. {self._problem}")
                self._told = True
            return NOT_LOCKED
        if name not in self._digests:  # rules ask for each checkpoint once for every task
            self._digests[name] = model_digest((f.file, f.digest) for f in self._records[name])
        return self._digests[name]

    def sizes(self) -> dict[str, int]:
        """Bytes to download for each checkpoint that is locked from where its row says; empty where
        there is no lock."""
        return self._sizes

    @cached_property
    def _sizes(self) -> dict[str, int]:
        wants = wanted([vars(row) for row in self.study.checkpoints], {})
        return {
            name: sum(file.bytes for file in files)
            for name, files in sorted(self._records.items())
            if name in wants and is_meant(files, wants[name])
        }


def require_tokenizer_folder(name: str, source: str) -> None:
    """Raise StudyError for a local tokenizer whose folder is not there, as `local_files` does."""
    if not source.startswith(HUB):
        _require_folder(source, f"config/config.yaml, tokenizers.{name}")


def local_files(row: Checkpoint) -> list[str]:
    """The files of a local checkpoint folder that decide what is scored.

    A folder under resources/ may not exist yet, since a rule of the study can make it: it is then
    expected to hold config.json and model.safetensors. Any other must be there: StudyError.
    """
    _require_folder(row.source, f"config/checkpoints.tsv, line {row.line} ({row.ckpt})")
    folder = Path(row.source)
    weights = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    names = [path.name for path in weights] or ["model.safetensors"]
    return [f"{row.source}/{name}" for name in ["config.json", *names]]


def _require_folder(source: str, where: str) -> None:
    if Path(source).is_dir() or Path(source).parts[0] == "resources":
        return
    raise StudyError(
        f"the folder {source!r} does not exist",
        where=where,
        remedy="Mend the source: a path relative to the study, or an absolute one; a model of the "
        "hub is written hub:owner/name.",
    )
