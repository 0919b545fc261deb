"""Item values: each metric of each item, a column per checkpoint; one Parquet file per task.

Cells are means over items. What needs the items themselves (resampling them, comparing two
checkpoints on the same ones) reads them here, one outcome at a time: each outcome is one row group
of the file, so that a study of a thousand checkpoints is never in memory at once.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from downslope.errors import StudyError
from downslope.files import atomic_write

_OUTCOMES = "outcomes"  # key of the file's metadata: its (protocol, metric) pairs, as JSON

Key = tuple[str, str]
"""(protocol, metric): with the file's task, an outcome."""


def write_item_values(path: str | os.PathLike[str], values: Mapping[Key, pd.DataFrame]) -> None:
    """Write the item values of one task.

    `values` maps (protocol, metric) to a frame with item ids as its index and a column of numbers
    per checkpoint that has scores; NaN where the metric is not defined for an item. All frames
    have the same columns. Without any values the file has no rows: there are no item-level
    scores. Values are kept as float32, seven digits. Raises StudyError where an item is there
    twice, and where frames disagree in their checkpoints.
    """
    frames = list(values.values())
    ckpts = [str(name) for name in frames[0].columns] if frames else []
    schema = pa.schema(
        [("item", pa.string()), *((name, pa.float32()) for name in ckpts)],
        metadata={_OUTCOMES: json.dumps(list(values))},
    )
    with atomic_write(path) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        for (protocol, metric), frame in values.items():
            where = f"{os.fspath(path)}, {protocol}/{metric}"
            if [str(name) for name in frame.columns] != ckpts:
                raise StudyError(
                    f"has the checkpoints {list(frame.columns)}, expected {ckpts}",
                    where=where,
                    remedy="All outcomes of a task are computed from the same checkpoints.",
                )
            if not frame.index.is_unique:
                twice = frame.index[frame.index.duplicated()][0]
                raise StudyError(
                    f"the item {twice} is there twice",
                    where=where,
                    remedy="Items need ids of their own: look for a file that was read twice.",
                )
            columns: dict[str, Any] = {
                "item": frame.index.astype(str).tolist(),
                **{name: frame[name].to_numpy() for name in ckpts},
            }
            writer.write_table(pa.table(columns, schema=schema), row_group_size=max(1, len(frame)))


def outcomes_in(path: str | os.PathLike[str]) -> list[Key]:
    """(protocol, metric) of every outcome in a file of item values, in the file's order."""
    stated = pq.read_schema(path).metadata[_OUTCOMES.encode()]
    return [(protocol, metric) for protocol, metric in json.loads(stated)]


def read_item_values(path: str | os.PathLike[str], protocol: str, metric: str) -> pd.DataFrame:
    """Values of one outcome: item ids as index, a float64 column per checkpoint with scores.

    A frame without rows where the file has no item-level scores of this outcome.
    """
    outcomes = outcomes_in(path)
    if (protocol, metric) not in outcomes:
        return pd.DataFrame(index=pd.Index([], name="item"))
    with pq.ParquetFile(path) as file:
        table = file.read_row_group(outcomes.index((protocol, metric)))
    frame = table.to_pandas(split_blocks=True, self_destruct=True)
    return frame.set_index("item").astype("float64")
