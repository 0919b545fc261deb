"""Logged samples of lm-evaluation-harness 0.4: what each item's values and answers were."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from downslope.errors import StudyError
from downslope.metrics import Answers, Floats

# Keys of a sample that are no metrics; early 0.4 does not list the metrics of a sample.
_OTHER_KEYS = frozenset(
    {
        *("doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "filter"),
        *("metrics", "doc_hash", "prompt_hash", "target_hash", "task_name"),
    }
)
_MOVE_AWAY = (
    "Log the samples again, or move this file out of the folder: the task then has cells without "
    "item values."
)


@dataclass(frozen=True)
class Samples:
    """The samples of one task of one run.

    ids      numbers of the items (`doc_id`), ascending
    hashes   the harness's digest of each item's content; empty in early 0.4
    values   metric -> one value per item, NaN for an item without one. Only metrics whose
             sample values are numbers; filters in names as in `Entry.values`
    answers  the choices' log-likelihoods, None for tasks that are not multiple choice
    """

    path: Path
    ids: tuple[int, ...]
    hashes: tuple[str, ...]
    values: Mapping[str, Floats]
    answers: Answers | None


def read_samples(path: Path, delimiter: str) -> Samples:
    """The samples of one file; `delimiter` stands between prompt and choice in its requests.

    Raises StudyError, with the line, for what is not JSON or lacks its item's number, and for an
    item that is there twice.
    """
    by_filter: dict[str, dict[int, dict[str, Any]]] = {}
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            sample = _parsed(line, f"{path}, line {number}")
            rows = by_filter.setdefault(str(sample.get("filter", "none")), {})
            if rows.setdefault(sample["doc_id"], sample) is not sample:
                raise StudyError(
                    f"the item {sample['doc_id']} is there twice",
                    where=f"{path}, line {number}",
                    remedy=_MOVE_AWAY,
                )
    if not by_filter:
        raise StudyError("holds no samples", where=str(path), remedy=_MOVE_AWAY)
    ids = sorted(set().union(*by_filter.values()))
    main = by_filter.get("none") or next(iter(by_filter.values()))
    values: dict[str, Floats] = {}
    for name, rows in by_filter.items():
        for metric in dict.fromkeys(key for row in rows.values() for key in _metrics(row)):
            column = [_number(rows.get(item, {}).get(metric)) for item in ids]
            if not np.isnan(column).all():
                values[metric if name == "none" else f"{metric},{name}"] = np.array(column)
    samples = [main[item] for item in ids if item in main]
    return Samples(
        path=path,
        ids=tuple(ids),
        hashes=tuple(str(row.get("doc_hash", "")) for row in samples),
        values=values,
        answers=_answers(samples, delimiter) if len(samples) == len(ids) else None,
    )


def _parsed(line: str, where: str) -> dict[str, Any]:
    try:
        sample = json.loads(line)
    except ValueError as error:
        raise StudyError(f"is not JSON ({error})", where=where, remedy=_MOVE_AWAY) from None
    if not isinstance(sample, dict) or not isinstance(sample.get("doc_id"), int):
        raise StudyError("is no sample with a doc_id", where=where, remedy=_MOVE_AWAY)
    return sample


def _metrics(sample: Mapping[str, Any]) -> Sequence[str]:
    return sample.get("metrics") or [key for key in sample if key not in _OTHER_KEYS]


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else np.nan


def _answers(samples: Sequence[Mapping[str, Any]], delimiter: str) -> Answers | None:
    """The answers as metrics take them, None where a sample is no multiple-choice one.

    Requests that are equal count once, as one choice.
    """
    parsed = [_choices(sample) for sample in samples]
    longest = max((len(requests) for requests, _, _ in parsed), default=0)
    if not parsed or min(len(requests) for requests, _, _ in parsed) < 2:
        return None
    shape = len(parsed), longest
    loglikelihood, characters = np.zeros(shape), np.ones(shape, np.int64)
    valid, right = np.zeros(shape, bool), np.zeros(shape, bool)
    for i, (requests, scores, gold) in enumerate(parsed):
        first = [requests.index(request) for request in requests]
        for k, (_, continuation) in enumerate(requests):
            loglikelihood[i, k] = scores[k]
            characters[i, k] = len(continuation.removeprefix(delimiter))
            valid[i, k] = first[k] == k
        right[i, [first[k] for k in gold if 0 <= k < len(requests)]] = True
    try:
        return Answers(loglikelihood, valid, right, characters, np.full((len(parsed), 0), -1))
    except ValueError:  # a log-likelihood that is not finite
        return None


def _choices(
    sample: Mapping[str, Any],
) -> tuple[list[tuple[str, str]], list[float], Sequence[int]]:
    """Requests (prompt, choice), their log-likelihoods and the right ones; nothing where the
    sample has no such thing.
    """
    try:
        given = sample["arguments"]
        pairs = [tuple(a.values()) for a in given.values()] if isinstance(given, dict) else given
        requests = [(str(pair[0]), str(pair[1])) for pair in pairs]
        scores = [float(response[0][0]) for response in sample["resps"]]
    except (KeyError, TypeError, ValueError, IndexError):
        return [], [], ()
    half = len(requests) // 2
    if half > 1 and requests[0][0] and not any(prompt for prompt, _ in requests[half:]):
        requests, scores = requests[:half], scores[:half]  # the rest is for acc_mutual_info
    if len(scores) < len(requests):
        return [], [], ()
    return requests, scores, _gold(sample, requests)


def _gold(sample: Mapping[str, Any], requests: Sequence[tuple[str, str]]) -> Sequence[int]:
    """Which choices are right: by number, by text, or by TruthfulQA's labels."""
    document = sample.get("doc")
    for name in ("mc2_targets", "mc1_targets"):
        targets = document.get(name) if isinstance(document, dict) else None
        labels = targets.get("labels") if isinstance(targets, dict) else None
        if isinstance(labels, list) and len(labels) == len(requests):
            return [index for index, label in enumerate(labels) if label == 1]
    target = str(sample.get("target", ""))
    try:
        value = ast.literal_eval(target)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        value = target
    listed = value if isinstance(value, list | tuple) else [value]
    if all(isinstance(entry, int) for entry in listed):
        return list(listed)
    return [k for k, (_, text) in enumerate(requests) if text.strip() == target.strip()]
