"""Columns are those that pyarrow makes of the same values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from downslope.arrow import numbers, texts


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.int64, np.float32, np.float64, np.bool_])
@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 1000])
def test_numbers_are_pyarrows(dtype: Any, length: int) -> None:
    values = np.random.default_rng(length).integers(-9, 9, length).astype(dtype)
    for some in (values, values[::2]):
        found = numbers(some)
        found.validate(full=True)
        assert found.equals(pa.array(some))
        assert found.type == pa.array(some).type


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=9), max_size=20))
def test_texts_are_pyarrows(values: list[str]) -> None:
    found = texts(values)
    found.validate(full=True)
    assert found.equals(pa.array(values, pa.string()))


def test_more_text_than_a_column_holds_is_refused() -> None:
    class Long(str):
        def encode(self, *_: Any) -> Any:
            return range(2**31)

    with pytest.raises(OverflowError, match="2147483648 bytes of text in one column"):
        texts([Long("x")])
