"""Files that others make and delete at the same time."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from downslope.files import file_states, matching


def test_what_goes_while_it_is_looked_for_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("b", "a", "gone"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.failed").touch()
    scandir = os.scandir

    def meanwhile(path: Any = ".") -> Any:
        if Path(str(path)).name == "gone":
            raise FileNotFoundError(2, "No such file or directory", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", meanwhile)
    assert matching(tmp_path, "*/*.failed") == [tmp_path / name / "x.failed" for name in "ab"]
    assert matching(tmp_path / "never", "*") == []


def test_states_are_those_of_files_that_are_there(tmp_path: Path) -> None:
    """What goes between listing and looking, and a client's folder, differ without a change."""
    (tmp_path / "model").write_bytes(b"12")
    (tmp_path / ".cache").mkdir()
    os.utime(tmp_path / "model", ns=(0, 5))
    names = ("model", ".cache", "gone")
    assert file_states(tmp_path / name for name in names) == ["model 2 5"]
