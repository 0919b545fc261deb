"""The benchmark's one table: rows, the row for all sets at their full sizes, and how it is shown.

A row is a fraction of a data set under one model. The last row of a model adds all sets up at
their full sizes: each set's seconds times (tokens of all its requests / tokens of those timed).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import groupby
from typing import Any

from downslope.bench.operations import Needed
from downslope.bench.sets import Work


@dataclass(frozen=True)
class Row:
    """What was measured of one set under one model.

    part, whole     what the timed fraction, `1/every`, and the whole set ask for
    seconds         of Downslope: planning (tokenising included) and scoring
    both_seconds    the same under all protocols that the set can be scored under, if timed
    operations      useful ones of the whole set
    share           of the matrix rate, at packs of the whole set (see `own_packs`)
    rate            the matrix rate between the fraction's runs, in operations a second
    harness_seconds of the one call; `batch` is the one chosen. None where it did not run, like
                    the largest difference of a log-likelihood, the number of items whose decision
                    differs, and the number on which the harness itself cannot decide (ties)
    """

    model: str
    set: str
    every: int
    part: Work
    whole: Work
    plan_seconds: float
    score_seconds: float
    seconds: float
    operations: float
    share: float
    rate: float
    both_seconds: float | None = None
    harness_seconds: float | None = None
    batch: int | None = None
    difference: float | None = None
    differ: int | None = None
    ties: int | None = None

    @property
    def ratio(self) -> float | None:
        """How many times as long the harness takes."""
        return None if self.harness_seconds is None else self.harness_seconds / self.seconds

    @property
    def tokens_per_second(self) -> float:
        """Computed tokens a second of scoring."""
        return self.part.computed / self.score_seconds

    @property
    def factor(self) -> float:
        """The size of the whole set in fractions."""
        return self.whole.naive / self.part.naive


def in_proportion(rows: Sequence[Row]) -> Row:
    """All sets of one model at their full sizes, as one row."""
    whole = _added([row.whole for row in rows])

    def total(seconds: Callable[[Row], float | None]) -> float | None:
        found = [(seconds(row), row.factor) for row in rows]
        known = [value * factor for value, factor in found if value is not None]
        return sum(known) if len(known) == len(found) else None

    def known(numbers: Sequence[Any]) -> list[Any]:
        return [number for number in numbers if number is not None]

    scoring = sum(row.score_seconds * row.factor for row in rows)
    operations = sum(row.operations for row in rows)
    differences = known([row.difference for row in rows])
    return Row(
        model=rows[0].model,
        set="all in proportion",
        every=1,
        part=whole,
        whole=whole,
        plan_seconds=sum(row.plan_seconds * row.factor for row in rows),
        score_seconds=scoring,
        seconds=sum(row.seconds * row.factor for row in rows),
        operations=operations,
        share=operations / sum(row.operations / row.share for row in rows),
        rate=sum(row.score_seconds * row.factor * row.rate for row in rows) / scoring,
        both_seconds=total(lambda row: row.both_seconds),
        harness_seconds=total(lambda row: row.harness_seconds),
        difference=max(differences) if differences else None,
        differ=sum(known([row.differ for row in rows])) if differences else None,
        ties=sum(known([row.ties for row in rows])) if differences else None,
    )


def _added(works: Sequence[Work]) -> Work:
    def total(name: str) -> int:
        return sum(getattr(work, name) for work in works)

    least = Needed(*(sum(getattr(work.needed, f.name) for work in works) for f in fields(Needed)))
    numbers = {f.name: total(f.name) for f in fields(Work) if f.name != "needed"}
    return Work(**numbers, needed=least)


@dataclass(frozen=True)
class Column:
    """A column: what stands above it (`group` above several), and a row's text in it."""

    group: str
    title: str
    text: Callable[[Row], str]
    harness: bool | None = None  # only with the harness, only without it, or always


def seconds_text(seconds: float | None) -> str:
    """Three digits, so that a column of seconds can be compared at a glance."""
    if seconds is None:
        return ""
    digits = 0 if seconds >= 100 else 1 if seconds >= 10 else 2
    return f"{seconds:,.{digits}f}"


def _decisions(row: Row) -> str:
    if row.differ is None:
        return ""
    return f"{row.differ} ({row.ties})" if row.ties else f"{row.differ}"


COLUMNS = (
    Column("", "set", lambda row: row.set),
    Column("", "items", lambda row: "all" if row.every == 1 else f"1/{row.every}"),
    Column("", "requests", lambda row: f"{row.part.requests:,}"),
    Column("tokens", "naive", lambda row: f"{row.part.naive:,}"),
    Column("tokens", "distinct", lambda row: f"{row.part.needed.tokens:,}"),
    Column("tokens", "computed", lambda row: f"{row.part.computed:,}"),
    Column("harness", "batch", lambda row: f"{row.batch or ''}", True),
    Column("harness", "s", lambda row: seconds_text(row.harness_seconds), True),
    Column("Downslope", "plan", lambda row: seconds_text(row.plan_seconds)),
    Column("Downslope", "s", lambda row: seconds_text(row.seconds)),
    Column("", "ratio", lambda row: f"{row.ratio or 0:.1f}", True),
    Column("agreement", "gap", lambda row: f"{row.difference:.0e}", True),
    Column("agreement", "flips", _decisions, True),
    Column("", "tokens/s", lambda row: f"{row.tokens_per_second:,.0f}", False),
    Column("", "share", lambda row: f"{row.share:.2f}"),
)


def columns_of(rows: Sequence[Row]) -> list[Column]:
    """The columns that have something to say about these rows."""
    compared = any(row.harness_seconds is not None for row in rows)
    return [column for column in COLUMNS if column.harness in (None, compared)]


def grouped(rows: Sequence[Row]) -> Iterator[tuple[str, list[Row]]]:
    """The rows of each model, with the row for all sets behind those of several."""
    for model in dict.fromkeys(row.model for row in rows):
        own = [row for row in rows if row.model == model]
        yield model, [*own, in_proportion(own)] if len(own) > 1 else own


def terminal_table(rows: Sequence[Row]) -> str:
    """The table in aligned columns, a block for each model."""
    columns = columns_of(rows)
    blocks = list(grouped(rows))
    cells = [[[c.text(row) for c in columns] for row in own] for _, own in blocks]
    widths = [
        max(len(column.title), *(len(line[k]) for block in cells for line in block))
        for k, column in enumerate(columns)
    ]
    gaps = [
        0 if k == 0 else 1 if c.group and c.group == columns[k - 1].group else 2
        for k, c in enumerate(columns)
    ]
    heading = ""
    for name, first, stop in _groups(columns):
        inside = sum(widths[first:stop]) + sum(gaps[first + 1 : stop])
        widths[first] += max(0, len(name) - inside)
        before = sum(widths[:first]) + sum(gaps[: first + 1])
        heading = heading.ljust(before) + name.center(max(inside, len(name)))

    def line(texts: Sequence[str]) -> str:
        parts = [
            " " * gap + (text.ljust(width) if k == 0 else text.rjust(width))
            for k, (gap, width, text) in enumerate(zip(gaps, widths, texts, strict=True))
        ]
        return "".join(parts).rstrip()

    lines = [heading.rstrip(), line([column.title for column in columns])]
    for (model, own), block in zip(blocks, cells, strict=True):
        lines += ["", model]
        lines += [line(texts) for texts in block[: len(own)]]
    return "\n".join(lines)


def _groups(columns: Sequence[Column]) -> Iterator[tuple[str, int, int]]:
    """Name, first column and the one behind the last of each group that has a name."""
    first = 0
    for name, members in groupby(columns, key=lambda column: column.group):
        stop = first + len(list(members))
        if name:
            yield name, first, stop
        first = stop


def markdown_table(rows: Sequence[Row]) -> str:
    """The same table for a page."""
    columns = columns_of(rows)
    titles = [f"{c.group} {c.title}".strip() for c in columns]
    lines = [
        f"| model | {' | '.join(titles)} |",
        f"| --- | --- |{' ---: |' * (len(columns) - 1)}",
    ]
    for model, own in grouped(rows):
        lines += [f"| {model} | {' | '.join(c.text(row) for c in columns)} |" for row in own]
    return "\n".join(lines)
