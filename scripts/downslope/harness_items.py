"""Logged samples --> item values: the metrics that the harness logged, and those that follow
from the log-likelihoods of the choices (margin, class_loss, ...), which it does not compute.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from downslope.cells import mean_and_error
from downslope.errors import StudyError
from downslope.harness_cells import PROTOCOL, cell, cell_rows
from downslope.harness_metrics import MetricNames
from downslope.harness_models import Found
from downslope.harness_samples import Samples, read_samples
from downslope.item_values import Key
from downslope.metrics import METRICS, Answers, Floats

DDOF = 1
"""The harness divides by n - 1 in the standard error of a mean; so do cells that it lacks."""
_ROUNDING = 1e-6  # between a mean of the samples and the value in the file of results
_SHOWS = ("accuracy", "mc2")  # by which the answers are known to be understood

log = logging.getLogger("downslope")


def import_task(
    task: str, listed: Sequence[Found], names: MetricNames
) -> tuple[list[dict[str, Any]], dict[Key, pd.DataFrame]]:
    """Cells (rows as `cells_frame` takes them) and item values of one task.

    Frames have the item numbers as index (texts) and a column per checkpoint with samples, NaN
    where an item lacks the metric; without samples there are none. A metric's samples have to
    average to the value in the file of results; n is then their number. Metrics of ours that the
    harness did not compute are added where its samples are multiple choice and accuracy (or mc2)
    from their log-likelihoods is, item by item, the logged one. Raises StudyError, naming both
    files, where samples and results disagree, and where checkpoints have other items.
    """
    rows = {(row["ckpt"], row["metric"]): row for row in cell_rows(task, listed, names)}
    columns: dict[str, dict[str, pd.Series]] = {}
    first: dict[str, tuple[Found, Samples]] = {}
    for found in listed:
        path = found.file.samples(found.source)
        if path is None:
            continue
        samples = read_samples(path, found.entry.delimiter)
        _require_same_items(samples, *first.setdefault(found.source, (found, samples)))
        ckpt = str(found.checkpoint["ckpt"])
        given = _given(found, samples, names)
        added = _added(samples, given)
        index = pd.Index([str(item) for item in samples.ids], name="item")
        for name, values in {**given, **added}.items():
            value, se, n = mean_and_error(values[~np.isnan(values)], DDOF)
            row = rows.setdefault(
                (ckpt, name), cell(found.checkpoint, task, name, value, se, n)
            )  # fmt: skip
            if abs(value - row["value"]) <= _ROUNDING * max(1.0, abs(row["value"])):
                row["n"] = n
                columns.setdefault(name, {})[ckpt] = pd.Series(values, index=index)
    return list(rows.values()), _frames(columns, listed, names)


def _given(found: Found, samples: Samples, names: MetricNames) -> dict[str, Floats]:
    """Logged values of the metrics that are means of them, under the study's names."""
    if found.entry.n is not None and found.entry.n != len(samples.ids):
        raise StudyError(
            f"holds samples of {len(samples.ids)} items; {found.file.path} says {found.entry.n}",
            where=str(samples.path),
            remedy="The file was cut off or belongs to another run: log the samples again, or "
            "move it out of the folder.",
        )
    kept = {}
    for metric, (stated, _) in found.entry.values.items():
        name, values = names.of(found.source, metric), samples.values.get(metric)
        if name is None or values is None or np.isnan(stated):
            continue
        mean = float(np.nanmean(values))
        if abs(mean - stated) <= _ROUNDING * max(1.0, abs(stated)):
            kept[name] = values
        elif name in METRICS:
            raise StudyError(
                f"{metric} of the samples averages to {mean:.6g}; {found.file.path} says "
                f"{stated:.6g}",
                where=str(samples.path),
                remedy="The two are not of one run: move one of them out of the folder.",
            )
        # else a perplexity or the like: no mean over items, so no value of an item either
    return kept


def _added(samples: Samples, given: Mapping[str, Floats]) -> dict[str, Floats]:
    """Values of our metrics that follow from the answers, as far as these are understood."""
    shown = [name for name in _SHOWS if name in given]
    if samples.answers is None or not shown:
        return {}
    if not all(_agree(METRICS[name], samples.answers, given[name]) for name in shown):
        log.warning(
            "%s: %s from its log-likelihoods is not what the harness logged; no other metric is "
            "computed from them",
            samples.path, shown[0],
        )  # fmt: skip
        return {}
    computed = {
        name: metric(samples.answers)
        for name, metric in METRICS.items()
        if name not in given and not metric.needs_mc1
    }
    return {name: values for name, values in computed.items() if not np.isnan(values).all()}


def _agree(metric: Any, answers: Answers, logged: Floats) -> bool:
    return bool(np.allclose(metric(answers), logged, rtol=0, atol=_ROUNDING, equal_nan=True))


def _require_same_items(samples: Samples, found: Found, first: Samples) -> None:
    """The same items, by number and by digest, in the samples of all checkpoints."""
    other = set(samples.ids) ^ set(first.ids)
    if not other:
        both = zip(samples.ids, samples.hashes, first.hashes, strict=False)
        other = {item for item, a, b in both if a and b and a != b}
    if other:
        raise StudyError(
            f"{len(other)} items of {found.source} are not those in {first.path}, the first is "
            f"item {min(other)}",
            where=str(samples.path),
            remedy="Evaluate both on one version of the data, or move one of the files out of "
            "the folder.",
        )


def _frames(
    columns: Mapping[str, Mapping[str, pd.Series]], listed: Sequence[Found], names: MetricNames
) -> dict[Key, pd.DataFrame]:
    """One frame per metric, all with the same checkpoints in the order of the files."""
    some = {ckpt for own in columns.values() for ckpt in own}
    order = [c for c in dict.fromkeys(str(f.checkpoint["ckpt"]) for f in listed) if c in some]
    frames = {}
    for name in sorted(columns, key=names.order.index):
        frame = pd.concat(columns[name], axis=1).reindex(columns=order)
        numbers = frame.index.astype(int).argsort()
        frames[PROTOCOL, name] = frame.iloc[numbers].astype("float64")
    return frames
