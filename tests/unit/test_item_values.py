"""Item values: what is written is read, an outcome at a time, and means are the cells."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from downslope.errors import StudyError
from downslope.item_values import outcomes_in, read_item_values, write_item_values

ACCURACY = pd.DataFrame({"a-1": [1.0, 0.0], "b.2": [0.0, 0.0]}, index=["i0", "i1"])
MARGIN = pd.DataFrame({"a-1": [np.nan, -0.25], "b.2": [2.5, 0.0]}, index=["i0", "i1"])
VALUES = {("p", "accuracy"): ACCURACY, ("p", "margin"): MARGIN, ("other", "margin"): -MARGIN}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    write_item_values(path, VALUES)
    assert outcomes_in(path) == list(VALUES)
    for (protocol, metric), frame in VALUES.items():
        found = read_item_values(path, protocol, metric)
        pd.testing.assert_frame_equal(found, frame, check_names=False)


def test_without_items_there_are_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    write_item_values(path, {})
    assert outcomes_in(path) == []
    assert read_item_values(path, "p", "accuracy").shape == (0, 0)
    write_item_values(path, VALUES)
    assert read_item_values(path, "p", "brier").empty


def test_an_item_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    twice = pd.concat([ACCURACY, ACCURACY.iloc[:1]])
    with pytest.raises(StudyError, match=r"p/accuracy: the item i0 is there twice"):
        write_item_values(tmp_path / "t.parquet", {("p", "accuracy"): twice})
    assert not (tmp_path / "t.parquet").exists()


def test_outcomes_with_other_checkpoints_are_refused(tmp_path: Path) -> None:
    values = {("p", "accuracy"): ACCURACY, ("p", "margin"): MARGIN[["a-1"]]}
    with pytest.raises(StudyError, match="p/margin: has the checkpoints"):
        write_item_values(tmp_path / "t.parquet", values)
