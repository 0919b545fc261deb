"""What makes results of several files one table: the same task in each, each cell once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from downslope.errors import StudyError
from downslope.harness_metrics import MetricNames
from downslope.harness_models import Found

_ROUNDING = 1e-6  # by which a sum of floats may pass a bound
_OTHER_ITEMS = "Means over different items are no trend"
_ASPECTS = (
    ("shots", "examples in the prompt", "Other prompts make another task"),
    ("version", "as the task's version", "The harness counts up when a task's results change"),
    ("limit", "as --limit", _OTHER_ITEMS),
    ("n", "as number of items", _OTHER_ITEMS),
)


def require_alike(listed: Sequence[Found]) -> None:
    """A task is one task: the same prompt, version and items in all files.

    What a file does not say is not compared. Raises StudyError naming two files that differ.
    """
    for source in dict.fromkeys(found.source for found in listed):
        for aspect, words, why in _ASPECTS:
            first: Found | None = None
            for found in listed:
                value = getattr(found.entry, aspect)
                if found.source != source or value is None or (aspect == "version" and not value):
                    continue
                first = first or found
                old = getattr(first.entry, aspect)
                if value != old:
                    raise StudyError(
                        f"{source} has {_shown(value)} {words}, but {_shown(old)} in "
                        f"{first.file.path}",
                        where=str(found.file.path),
                        remedy=f"{why}: choose files of one kind with harness.files (--files), "
                        "or leave the task out of tasks.tsv (--without).",
                    )


def require_bounds(listed: Iterable[Found], names: MetricNames) -> None:
    """Raise StudyError for a value that its metric cannot have."""
    for found in listed:
        for metric, (value, _) in found.entry.values.items():
            name = names.of(found.source, metric)
            if name is None or math.isnan(value):
                continue
            low, high = names.bounds(name)
            below = low is not None and value < low - _ROUNDING
            above = high is not None and value > high + _ROUNDING
            if math.isinf(value) or below or above:
                raise StudyError(
                    f"{metric} of {found.source} is {value:g}, which {name} cannot be",
                    where=str(found.file.path),
                    remedy="Look at the file; if the metric means something else there, describe "
                    "it under harness.metrics.",
                )


def require_once(task: str, listed: Iterable[Found], names: MetricNames) -> None:
    """Raise StudyError where two files (or two tasks of one) give the same cell.

    Equal values are refused as well: one of the files is a copy or a second run, often of
    another checkpoint under a wrong name, and neither is for a program to choose.
    """
    seen: dict[tuple[str, str], tuple[Found, float]] = {}
    twice = []
    for found in listed:
        for metric, (value, _) in found.entry.values.items():
            name = names.of(found.source, metric)
            if name is None:
                continue
            first, old = seen.setdefault((found.checkpoint["ckpt"], name), (found, value))
            if first is not found:
                twice.append((found, first, name, value, old))
    if not twice:
        return
    found, first, name, value, old = twice[0]
    where, other = str(found.file.path), str(first.file.path)
    remedy = (
        "Keep one of the two: move the other file out of the folder, or choose with "
        "harness.files (--files)."
    )
    if found.source != first.source:
        where, other = f"{where}, {found.source}", f"{other}, {first.source}"
        remedy = "Give them tasks or metrics of their own under harness.tasks or harness.metrics."
    rest = f" ({len(twice) - 1} more such cells of this task)" if len(twice) > 1 else ""
    raise StudyError(
        f"{task}/{name} of {found.checkpoint['ckpt']} is {value:.6g} here and {old:.6g} in "
        f"{other}{rest}",
        where=where,
        remedy=remedy,
    )


def _shown(value: object) -> str:
    return str(value) if value != "" else "none"
