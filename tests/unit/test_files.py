"""Files that others make and delete at the same time."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from downslope.files import matching


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
