"""What the lock says about a study's checkpoints, asked one at a time by the rules."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import pandas as pd

from downslope.errors import StudyError
from downslope.identity import model_digest
from downslope.lock import TOKENIZER_PREFIX, locked_files, read_lock
from downslope.lock_check import check_lock
from downslope.study import Checkpoint, Study

NOT_LOCKED = "not locked yet"


class Lock:
    """The lock of a study, read and checked when the first question comes.

    `tell` gets sentences that stop nothing, such as that a dry run goes on without a lock.
    """

    def __init__(self, study: Study, path: Path, tell: Callable[[str], None]) -> None:
        self.study, self.path, self.tell = study, path, tell
        self._told = False

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
        files = locked_files(self._rows, name)
        return model_digest(zip(files["file"], files["digest"], strict=True))

    def sizes(self) -> dict[str, int]:
        """Bytes to download for each locked checkpoint; empty where there is no lock."""
        if not self.path.is_file():
            return {}
        sums = self._rows.groupby("ckpt")["bytes"].sum()
        return {ckpt: int(size) for ckpt, size in sums.items() if ckpt in self.study.by_ckpt}


def local_files(row: Checkpoint) -> list[str]:
    """The files of a local checkpoint folder that decide what is scored.

    A folder under resources/ may not exist yet, since a rule of the study can make it: it is then
    expected to hold config.json and model.safetensors. Any other must be there: StudyError.
    """
    folder = Path(row.source)
    if not folder.is_dir() and folder.parts[0] != "resources":
        raise StudyError(
            f"the folder {row.source!r} does not exist",
            where=f"config/checkpoints.tsv, line {row.line} ({row.ckpt})",
            remedy="Mend the source: a path relative to the study, or an absolute one; a model of "
            "the hub is written hub:owner/name.",
        )
    weights = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    names = [path.name for path in weights] or ["model.safetensors"]
    return [f"{row.source}/{name}" for name in ["config.json", *names]]
