"""The item bootstrap: every cell of a task recomputed on items drawn anew.

Items are drawn with replacement, as many as the task has, once per task: all checkpoints,
protocols and metrics share the draw, which makes differences between checkpoints paired (Efron &
Tibshirani 1993, chapter 6; Miller 2024, arXiv 2411.00640, on why items must be shared). The draw
says how these checkpoints would do on other items of the same kind. It says nothing about other
training runs, and takes items as independent: where many are made from one template, errors from
it are too small.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from downslope.files import atomic_write, sha256_text
from downslope.item_values import Key, outcomes_in, read_item_values
from downslope.outcomes import Outcome

REPLICATES = 2000
_LABEL = "item"  # of a file of item values; its other columns are values
# What is multiplied at once: 250 x 20,000 items and 20,000 items x 64 are some 50 MB together.
_REPLICATES_AT_ONCE, _CHECKPOINTS_AT_ONCE = 250, 64

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.uint16]


def bootstrap_items(
    values: str | os.PathLike[str],
    output: str | os.PathLike[str],
    task: str,
    replicates: int = REPLICATES,
) -> int:
    """Resample a task's file of item values into a file of replicates; how many outcomes it has.

    One outcome is in memory at a time. A file without item-level scores gives one without rows.
    """
    outcomes = outcomes_in(values)
    ckpts = [name for name in pq.read_schema(values).names if name != _LABEL]
    items = pd.Index(pq.read_table(values, columns=["item"])["item"].unique().to_pylist())
    read = functools.partial(read_item_values, values)
    write_replicates(output, ckpts, resample(outcomes, read, items, task, replicates))
    return len(outcomes)


def resample(
    outcomes: Iterable[Key],
    read: Callable[[str, str], pd.DataFrame],
    items: pd.Index,
    task: str,
    replicates: int = REPLICATES,
) -> Iterator[tuple[Key, pd.DataFrame]]:
    """Each outcome of a task with its replicates: a row per draw, a column per checkpoint.

    `read(protocol, metric)` gives the item values of an outcome (index item, a column per
    checkpoint). `items` are those that any outcome of the task has, in their order; all are drawn
    from. The task's name is the seed, so that a new checkpoint or metric changes no draw. An item
    for which a metric is undefined (NaN), or that an outcome lacks, is left out of the mean of
    that metric and checkpoint; a draw in which no item has a value gives NaN.
    """
    counts = draw_items(len(items), task, replicates)
    for key in outcomes:
        yield key, _resampled(read(*key), items, counts)


def _resampled(values: pd.DataFrame, items: pd.Index, counts: Counts) -> pd.DataFrame:
    """The replicates of one outcome; a function of its own, so that the values are let go."""
    means = np.empty((len(counts), values.shape[1]))
    for first in range(0, values.shape[1], _CHECKPOINTS_AT_ONCE):
        some = slice(first, first + _CHECKPOINTS_AT_ONCE)
        block = values.iloc[:, some].reindex(items).to_numpy(dtype=np.float64)
        means[:, some] = resampled_means(block, counts)
    return pd.DataFrame(means, columns=values.columns).rename_axis(index="replicate")


def draw_items(items: int, task: str, replicates: int = REPLICATES) -> Counts:
    """How often each item is drawn in each replicate, shape (replicates, items); rows sum to items.

    Seeded by the sha256 of the task's name.
    """
    rng = np.random.default_rng(int(sha256_text(task), 16))
    counts = np.zeros((replicates, items), dtype=np.uint16)  # no item is drawn 65,536 times
    for row in counts if items else ():
        row[:] = np.bincount(rng.integers(items, size=items), minlength=items)
    return counts


def resampled_means(values: Floats, counts: Counts) -> Floats:
    """Means of item values over drawn items, shape (replicates, checkpoints).

    `values` (items, checkpoints) may hold NaN, which takes no part in a mean; `counts`
    (replicates, items) says how often an item is drawn. NaN where a draw holds no value.
    """
    means = np.full((len(counts), values.shape[1]), np.nan)
    known = ~np.isnan(values)
    present = known.astype(np.float64)
    if (known == known[:, :1]).all():  # the usual case: one column stands for all
        present = present[:, :1]
    values = np.where(known, values, 0.0)
    for first in range(0, len(counts), _REPLICATES_AT_ONCE):
        some = slice(first, first + _REPLICATES_AT_ONCE)
        drawn = counts[some].astype(np.float64)
        total = np.broadcast_to(drawn @ present, means[some].shape)
        np.divide(drawn @ values, total, out=means[some], where=total > 0)
    return means


def write_replicates(
    path: str | os.PathLike[str],
    ckpts: Sequence[str],
    replicates: Iterable[tuple[Key, pd.DataFrame]],
) -> None:
    """Write a task's replicates: protocol, metric, replicate, a float64 column per checkpoint.

    A row group holds one outcome, so that one can be read without the others.
    """
    schema = pa.schema(
        [
            *(("protocol", pa.string()), ("metric", pa.string()), ("replicate", pa.int32())),
            *((ckpt, pa.float64()) for ckpt in ckpts),
        ]
    )
    with atomic_write(path) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        for (protocol, metric), frame in replicates:
            columns = {
                "protocol": [protocol] * len(frame),
                "metric": [metric] * len(frame),
                "replicate": np.arange(len(frame), dtype=np.int32),
                **{ckpt: frame[ckpt].to_numpy() for ckpt in ckpts},
            }
            writer.write_table(pa.table(columns, schema=schema), row_group_size=max(1, len(frame)))


def read_replicates(path: str | os.PathLike[str], protocol: str, metric: str) -> pd.DataFrame:
    """The replicates of one outcome: index replicate, a column per checkpoint.

    A frame without rows and columns where the file has no item-level scores of this outcome.
    """
    wanted = [("protocol", "==", protocol), ("metric", "==", metric)]
    frame = pq.read_table(path, filters=wanted).to_pandas().set_index("replicate")
    frame = frame.drop(columns=["protocol", "metric"])
    return frame if len(frame) else frame.iloc[:, :0]


def replicates_in(
    paths: Mapping[str, str | os.PathLike[str]],
) -> Callable[[Outcome], pd.DataFrame]:
    """A function from an outcome to its replicates; `paths` maps tasks to files of replicates.

    An outcome whose task has no file has no item-level scores: its frame is empty.
    """

    def replicates(outcome: Outcome) -> pd.DataFrame:
        if outcome.task not in paths:
            return pd.DataFrame()
        return read_replicates(paths[outcome.task], outcome.protocol, outcome.metric)

    return replicates
