"""Arrow columns from NumPy arrays and texts, without pandas.

`pyarrow.array` imports pandas to see whether it was given something of its kind. Scoring has
nothing of that kind, and every one of its processes would wait for it and hold its memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


def numbers(values: NDArray[Any]) -> pa.Array:
    """(n,) integers, floats or booleans as a column of the same type, without nulls."""
    kind = pa.from_numpy_dtype(values.dtype)
    memory = np.ascontiguousarray(values)
    if memory.dtype == np.bool_:
        memory = np.packbits(memory, bitorder="little")
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(memory)])


def texts(values: Sequence[str]) -> pa.Array:
    """(n,) strings as a column, without nulls; OverflowError for 2 GB of text or more."""
    encoded = [value.encode() for value in values]
    ends = np.cumsum([0, *map(len, encoded)])
    if ends[-1] > np.iinfo(np.int32).max:
        raise OverflowError(f"{ends[-1]} bytes of text in one column")
    buffers = [None, pa.py_buffer(ends.astype(np.int32)), pa.py_buffer(b"".join(encoded))]
    return pa.Array.from_buffers(pa.string(), len(encoded), buffers)
