"""From the log-likelihoods of one checkpoint on one task to answers: arrays, one row per item."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from downslope.errors import StudyError
from downslope.metrics import Answers
from downslope.protocols import PROTOCOLS

# One request is scored once, so equal texts have equal log-likelihoods; batches of another
# shape move them by some 5e-4 in float32. More than this is another request.
_SAME_REQUEST = 1e-3

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Layout:
    """The choices of all items of a task under one protocol: all of Answers but the scores.

    names   ids of the items
    counts  choices of each item as the protocol reads them, shape (items,)
    first   column of the first choice with the same text, for every choice, item after item
    right, mc1  as in Answers
    """

    names: pd.Index
    counts: Ints
    first: Ints
    right: npt.NDArray[np.bool_]
    mc1: Ints


def answers_of(
    scores: pd.DataFrame,
    items: pd.DataFrame | Mapping[str, Layout],
    ckpt: str,
    task: str,
    protocols: Iterable[str],
) -> dict[str, Answers]:
    """The answers under each protocol, items in the order of the item table.

    scores   item, protocol, choice, loglikelihood, characters: a row per choice of each item
    items    item, choices, right, mc1, classes: the task's item table, or what `layouts_of`
             made of it, once for many checkpoints

    Raises StudyError, naming task, checkpoint and item, unless the scores hold every choice of
    every item exactly once per protocol, all finite. The values of a metric for each item are
    `METRICS[name](answers_of(...)[protocol])`.
    """
    where = f"task {task}, checkpoint {ckpt}"
    wanted = list(protocols)
    found = [str(name) for name in scores["protocol"].unique()]
    if set(found) != set(wanted):
        raise _not_these_items(
            where, f"holds scores of the protocols {_listed(found)}, expected {_listed(wanted)}"
        )
    layouts = layouts_of(items, task, wanted) if isinstance(items, pd.DataFrame) else items
    return {
        name: _fill(layouts[name], scores[scores["protocol"] == name], f"{where}, protocol {name}")
        for name in wanted
    }


def layouts_of(items: pd.DataFrame, task: str, protocols: Iterable[str]) -> dict[str, Layout]:
    """What the item table says about the choices that each protocol reads.

    A protocol may read fewer choices than the item table has (michaelov2023 cuts class lists at
    apostrophes). A right choice that it does not reach is no choice: the item counts as wrong.
    """
    if not items["item"].is_unique:
        twice = items.loc[items["item"].duplicated(), "item"].iloc[0]
        raise StudyError(
            "appears twice in the item table",
            where=f"task {task}, item {twice}",
            remedy="Make the item table again; each of its rows needs an id of its own.",
        )
    return {protocol: _layout(items, protocol) for protocol in protocols}


def _layout(items: pd.DataFrame, protocol: str) -> Layout:
    read = PROTOCOLS[protocol].choices
    texts = [read(c, raw) for c, raw in zip(items["choices"], items["classes"], strict=True)]
    counts = np.array([len(t) for t in texts], dtype=np.int64)
    first = np.concatenate([np.zeros(0, np.int64), *map(_first_of_text, texts)])
    starts = np.cumsum(counts) - counts

    right = np.zeros((len(items), max(1, counts.max(initial=0))), dtype=bool)
    position, _, choice = _entries(items["right"], counts)
    right[position, first[starts[position] + choice]] = True

    longest = max((len(listed) for listed in items["mc1"]), default=0)
    mc1 = np.full((len(items), longest), -1, dtype=np.int64)
    position, order, choice = _entries(items["mc1"], counts)
    mc1[position, order] = first[starts[position] + choice]
    return Layout(pd.Index(items["item"]), counts, first, right, mc1)


def _entries(lists: pd.Series, counts: Ints) -> tuple[Ints, Ints, Ints]:
    """Item, place in its list and value of every choice listed; those out of reach left out."""
    lengths = np.array([len(listed) for listed in lists], dtype=np.int64)
    item = np.repeat(np.arange(len(lengths)), lengths)
    place = np.arange(len(item)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    value = np.array([choice for listed in lists for choice in listed], dtype=np.int64)
    reached = value < counts[item]
    return item[reached], place[reached], value[reached]


def _first_of_text(texts: Sequence[str]) -> Ints:
    if len(set(texts)) == len(texts):
        return np.arange(len(texts), dtype=np.int64)
    return np.array([texts.index(text) for text in texts], dtype=np.int64)


def _fill(layout: Layout, scores: pd.DataFrame, where: str) -> Answers:
    """Put the scores of one protocol into the layout, checking that the design is complete."""
    position = layout.names.get_indexer(pd.Index(scores["item"]))
    choice = scores["choice"].to_numpy(np.int64)
    loglikelihood = scores["loglikelihood"].to_numpy(np.float64)
    if (position < 0).any():
        item = scores["item"].iloc[int(np.argmax(position < 0))]
        raise _not_these_items(f"{where}, item {item}", "no such item is in the item table")
    outside = (choice < 0) | (choice >= layout.counts[position])
    if outside.any():
        i = int(np.argmax(outside))
        count = layout.counts[position[i]]
        what = f"choice {choice[i]} is scored, the item has {count} choices, counted from 0"
        raise _not_these_items(f"{where}, item {layout.names[position[i]]}", what)

    starts = np.cumsum(layout.counts) - layout.counts
    times = np.bincount(starts[position] + choice, minlength=len(layout.first))
    if (times != 1).any():
        flat = int(np.argmax(times != 1))
        i = int(np.searchsorted(starts + layout.counts, flat, side="right"))
        what = f"choice {flat - starts[i]} is scored {times[flat]} times, expected once"
        raise _not_these_items(f"{where}, item {layout.names[i]}", what)
    if not np.isfinite(loglikelihood).all():
        i = int(np.argmax(~np.isfinite(loglikelihood)))
        raise StudyError(
            f"the log-likelihood of choice {choice[i]} is {loglikelihood[i]}",
            where=f"{where}, item {layout.names[position[i]]}",
            remedy="The weights or their arithmetic are broken: check the checkpoint and dtype; "
            "set known_bad for a checkpoint that cannot be mended.",
        )

    values = np.zeros(layout.right.shape)
    values[position, choice] = loglikelihood
    characters = np.zeros(layout.right.shape, dtype=np.int64)
    characters[position, choice] = scores["characters"].to_numpy(np.int64)
    first = layout.first[starts[position] + choice]
    valid = np.zeros(layout.right.shape, dtype=bool)
    valid[position, choice] = first == choice
    apart = np.abs(loglikelihood - values[position, first]) > _SAME_REQUEST
    if apart.any():
        i = int(np.argmax(apart))
        what = f"choices {first[i]} and {choice[i]} have one text and two log-likelihoods"
        raise _not_these_items(f"{where}, item {layout.names[position[i]]}", what)
    return Answers(values, valid, layout.right, characters, layout.mc1)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def _not_these_items(where: str, what: str) -> StudyError:
    return StudyError(
        what,
        where=where,
        remedy="The score file does not belong to this item table: delete it and run again.",
    )
