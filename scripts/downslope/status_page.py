"""The status of a study as text for a terminal and as a table for programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

import pandas as pd

from downslope.sizes import size_name
from downslope.status import STATES, Standing, TaskStanding

AT_ONCE = 15
"""Checkpoints listed for one state; a full queue would fill the screen."""

TOLD = ("running", "fetching", "waiting for disk", "queued", "failed", "stopped")
"""States of which each checkpoint is named: what is done or simply waits is only counted."""

COLUMNS = ("ckpt", "task", "state", "packs_done", "packs", "checkpoint_state", "detail", "log")

_KEY = "# all scored, 1-9 tenths of them, . none, ! one has failed"
_KEY_ALL = "# scored, + some packs are, . none is, ! failed, ~ outdated, x excluded"
_SIGNS = {"done": "#", "part": "+", "missing": ".", "failed": "!", "old": "~", "excluded": "x"}


def status_page(
    title: str, tasks: Sequence[str], standings: Sequence[Standing], *, every: bool = False
) -> str:
    """The page: counts, a line for each family and size (with `every` for each checkpoint) with
    one sign a task, and what each checkpoint is at that is neither done nor simply waiting.
    """
    usable = [standing for standing in standings if standing.state != "excluded"]
    pairs, done = len(usable) * len(tasks), sum(standing.done for standing in usable)
    counts = Counter(standing.state for standing in standings)
    share = f" ({_percent(done, pairs)})" if pairs else ""
    if old := sum(task.state == "old" for standing in usable for task in standing.tasks):
        share += f"; {old:,} are there from other plans, weights or code and will be scored again"
    parts = [
        f"{title}: {len(standings)} checkpoints x {len(tasks)} tasks\n"
        f"scores       {done:,} of {pairs:,}{share}\n"
        f"checkpoints  {', '.join(f'{counts[s]} {s}' for s in STATES if counts[s])}",
        "\n".join(_checkpoints(standings) if every else _groups(standings)),
        f"{_KEY_ALL if every else _KEY}\ntasks, from left to right: {', '.join(tasks)}",
    ]
    parts += list(_told(standings, None if every else AT_ONCE))
    return "\n\n".join(parts) + "\n"


def status_table(standings: Iterable[Standing]) -> pd.DataFrame:
    """One row for each checkpoint and task: its state, its packs, and the checkpoint's state."""
    rows = [
        (
            *(standing.row.ckpt, task.task, task.state, task.packs_done, task.packs),
            *(standing.state, task.reason or standing.detail, standing.log),
        )
        for standing in standings
        for task in standing.tasks
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _groups(standings: Sequence[Standing]) -> Iterator[str]:
    """A line for each family and size."""
    groups = [
        (f"{family} {size_name(parameters)}", list(members))
        for (family, parameters), members in groupby(
            standings, key=lambda s: (s.row.family, s.row.parameters)
        )
    ]
    width = max((len(name) for name, _ in groups), default=0)
    yield f"{'':{width}}  checkpoints  done  at work  failed  tasks"
    for name, members in groups:
        counts = Counter(standing.state for standing in members)
        at_work = sum(counts[state] for state in TOLD) - counts["failed"]
        numbers = f"{len(members):11}  {counts['done']:4}  {at_work or '':7}  "
        yield f"{name:{width}}  {numbers}{counts['failed'] or '':6}  {_signs_of(members)}"


def _signs_of(members: Sequence[Standing]) -> str:
    columns = zip(*(m.tasks for m in members if m.state != "excluded"), strict=True)
    return "".join(map(_tenths, columns)) or "excluded"


def _tenths(column: Sequence[TaskStanding]) -> str:
    states = Counter(task.state for task in column)
    if states["failed"]:
        return "!"
    if states["done"] == len(column):
        return "#"
    # Neither of all and none is said before it is true.
    return str(max(1, 10 * states["done"] // len(column))) if states["done"] else "."


def _checkpoints(standings: Sequence[Standing]) -> Iterator[str]:
    """A line for each checkpoint."""
    width = max((len(standing.row.ckpt) for standing in standings), default=0)
    for standing in standings:
        signs = "".join(_SIGNS[task.state] for task in standing.tasks)
        yield f"{standing.row.ckpt:{width}}  {signs}  {standing.state}"


def _told(standings: Sequence[Standing], most: int | None) -> Iterator[str]:
    """What each checkpoint is at, by state."""
    for state in TOLD:
        members = [standing for standing in standings if standing.state == state]
        if not members:
            continue
        width = max(len(standing.row.ckpt) for standing in members[:most])
        lines = [_line(standing, width) for standing in members[:most]]
        if left := len(members) - len(lines):
            lines.append(f"  and {left} more (--all shows them)")
        yield "\n".join([state, *lines])


def _line(standing: Standing, width: int) -> str:
    words = [f"{standing.row.ckpt:{width}}", standing.detail]
    # Where something went wrong, the log says more; one that runs is watched by the same name.
    return "  " + "  ".join(filter(None, [*words, standing.log]))


def _percent(done: int, all_of_them: int) -> str:
    share = 100 * done / all_of_them
    return f"{min(share, 99.9):.1f}%" if done < all_of_them else "100%"
