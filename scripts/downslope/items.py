"""Items: one canonical table per task, whatever the format of the published file.

    item     id from the content (prompt, choices, right ones), so that it survives reordering
    row      0-based position in the published file
    prompt   the text before the choice
    choices  the texts to choose from
    right    indices of the right choices
    mc1      indices of the choices that take part in MC1, the right one first; else empty
    classes  the published text of the class list, for protocols that parse it their own way

Bad rows stop the run with file and line. What is odd but legitimate (the same item twice) comes
back as notes for the log.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from downslope.errors import StudyError
from downslope.files import atomic_write
from downslope.protocols import parse_python_list
from downslope.text import read_text
from downslope.truthfulqa_preset import QA_PRESET

SCHEMA = pa.schema(
    [
        ("item", pa.string()),
        ("row", pa.int32()),
        ("prompt", pa.string()),
        ("choices", pa.list_(pa.string())),
        ("right", pa.list_(pa.int32())),
        ("mc1", pa.list_(pa.int32())),
        ("classes", pa.string()),
    ]
)


@dataclass(frozen=True)
class Item:
    """One question; see the module's table for the fields."""

    row: int
    prompt: str
    choices: tuple[str, ...]
    right: tuple[int, ...]
    mc1: tuple[int, ...] = ()
    classes: str = ""
    item: str = field(default="")

    def content(self) -> str:
        """The canonical JSON of what makes this item what it is."""
        return json.dumps(
            [self.prompt, self.choices, self.right, self.mc1, self.classes], ensure_ascii=False
        )


def parse_items(path: Path, form: str, expected: int) -> tuple[list[Item], list[str]]:
    """Items of a published file and notes for the log.

    `form` is the register's format (`prize` or `truthfulqa`), `expected` its number of items.
    Raises StudyError for the first bad row, naming file and line (or entry).
    """
    parsers: dict[str, Callable[[Path], Iterable[Item]]] = {
        "prize": _parse_prize,
        "truthfulqa": _parse_truthfulqa,
    }
    if form not in parsers:
        raise StudyError(
            f"has the format {form!r}, which has no parser",
            where=str(path),
            remedy=f"Formats that can be scored are {', '.join(parsers)}.",
        )
    items = list(parsers[form](path))
    if len(items) != expected:
        raise StudyError(
            f"has {len(items)} items where the register says {expected}",
            where=str(path),
            remedy="The file or its row in config/datasets.tsv is wrong.",
        )
    return _with_ids(items)


def _with_ids(items: Sequence[Item]) -> tuple[list[Item], list[str]]:
    """Give each item the id of its content; a repeated content gets `-2`, `-3`, ... behind it."""
    seen: Counter[str] = Counter()
    named, repeated = [], []
    for item in items:
        digest = hashlib.sha256(item.content().encode()).hexdigest()[:16]
        seen[digest] += 1
        count = seen[digest]
        named.append(replace(item, item=digest if count == 1 else f"{digest}-{count}"))
        if count > 1:
            repeated.append(item.row)
    notes = []
    if repeated:
        numbers = _some(repeated)
        notes.append(f"{len(repeated)} items repeat an earlier one: {numbers} in the file; kept")
    return named, notes


def _text(path: Path) -> str:
    """A file's text; where it is not UTF-8, what there is to mend is the source, not this copy."""
    try:
        return read_text(path)
    except StudyError as error:
        raise _bad(error.where, error.what) from None


def _parse_prize(path: Path) -> Iterable[Item]:
    """The Inverse Scaling Prize's classification format: one JSON object a line."""
    lines = _text(path).split("\n")
    if lines and not lines[-1]:
        lines.pop()
    for row, line in enumerate(lines):
        where = f"{path}, line {row + 1}"
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise _bad(where, f"is not JSON ({error.msg}, column {error.colno})") from None
        if not isinstance(record, dict):
            raise _bad(where, "is not a JSON object")
        for key in ("prompt", "classes", "answer_index"):
            if key not in record:
                raise _bad(where, f"lacks {key!r}")
        prompt, classes, index = (record[key] for key in ("prompt", "classes", "answer_index"))
        if not isinstance(prompt, str) or not prompt.strip():
            raise _bad(where, f"prompt is {prompt!r}, expected a text that is not empty")
        if not isinstance(classes, str):
            raise _bad(where, f"classes is {classes!r}, expected a text that holds a list")
        try:
            choices = parse_python_list(classes)
        except ValueError as error:
            raise _bad(where, f"classes is {classes!r} and {error}") from None
        if len(choices) < 2 or not all(choices):
            raise _bad(where, f"classes is {classes!r}, expected at least two, none of them empty")
        if len(set(choices)) < len(choices):
            raise _bad(where, f"classes is {classes!r} and names a class twice")
        if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < len(choices):
            raise _bad(
                where, f"answer_index is {index!r}, expected a number from 0 to {len(choices) - 1}"
            )
        yield Item(row, prompt, tuple(choices), (index,), classes=classes)


def _parse_truthfulqa(path: Path) -> Iterable[Item]:
    """TruthfulQA's `mc_task.json`; choices are the MC2 answers, MC1's are among them.

    The prompt is the published question-answer preset followed by the question, as in the task
    `truthfulqa_mc` (version 1) of lm-evaluation-harness.
    """
    try:
        records = json.loads(_text(path), object_pairs_hook=_unique_pairs)
    except (json.JSONDecodeError, ValueError) as error:
        raise _bad(str(path), f"is not JSON without repeated keys ({error})") from None
    if not isinstance(records, list):
        raise _bad(str(path), "is not a JSON list")
    for row, record in enumerate(records):
        where = f"{path}, entry {row + 1}"
        question = record.get("question") if isinstance(record, dict) else None
        if not isinstance(question, str) or not question.strip():
            raise _bad(where, f"question is {question!r}, expected a text that is not empty")
        mc1, mc2 = (_targets(record, name, where) for name in ("mc1_targets", "mc2_targets"))
        choices = list(mc2)
        if next(iter(mc1.values())) != 1 or sum(mc1.values()) != 1:
            raise _bad(where, "mc1_targets has not exactly one right answer, at its beginning")
        strange = [answer for answer in mc1 if mc2.get(answer) != mc1[answer]]
        if strange:
            raise _bad(where, f"mc1_targets and mc2_targets disagree about {strange[0]!r}")
        if not 0 < sum(mc2.values()) < len(mc2):
            raise _bad(where, "mc2_targets needs right and wrong answers")
        yield Item(
            row,
            f"{QA_PRESET}\n\nQ: {question}\nA:",
            tuple(choices),
            tuple(index for index, answer in enumerate(choices) if mc2[answer]),
            mc1=tuple(choices.index(answer) for answer in mc1),
        )


def _targets(record: dict[str, Any], name: str, where: str) -> dict[str, int]:
    targets = record.get(name)
    if not isinstance(targets, dict) or not targets:
        raise _bad(where, f"{name} is {targets!r}, expected answers with 0 or 1")
    for answer, label in targets.items():
        if not answer.strip() or isinstance(label, bool) or label not in (0, 1):
            raise _bad(where, f"{name} holds {answer!r}: {label!r}, expected a text with 0 or 1")
    return targets


def _unique_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    twice = [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]
    if twice:
        raise ValueError(f"{twice[0]!r} appears twice")
    return dict(pairs)


def _bad(where: str, what: str) -> StudyError:
    return StudyError(
        what,
        where=where,
        remedy="Take the published file; or mend its source, and write the new bytes and sha256 "
        "into config/datasets.tsv.",
    )


def _some(rows: Sequence[int], most: int = 10) -> str:
    """Rows as numbers from 1, as errors and editors count them."""
    shown = ", ".join(str(row + 1) for row in rows[:most])
    word = "number" if len(rows) == 1 else "numbers"
    return f"{word} {shown}" if len(rows) <= most else f"{word} {shown}, ..."


def protocol_notes(items: Sequence[Item], protocol: Any) -> list[str]:
    """Which items a protocol reads differently from the published list; one note for the log."""
    rows = [i.row for i in items if protocol.choices(i.choices, i.classes) != list(i.choices)]
    if not rows:
        return []
    example = next(item for item in items if item.row == rows[0])
    return [
        f"{protocol.name} reads other classes than the published list in {len(rows)} of "
        f"{len(items)} items: {_some(rows)} in the file (of the first, {example.classes} becomes "
        f"{protocol.choices(example.choices, example.classes)}); reproduced"
    ]


def write_items(items: Sequence[Item], path: Path) -> None:
    """Write the canonical item table as Parquet."""
    names = SCHEMA.names
    columns = {name: [getattr(item, name) for item in items] for name in names}
    with atomic_write(path) as temporary:
        pq.write_table(pa.table(columns, schema=SCHEMA), temporary)


def read_items(path: Path) -> list[Item]:
    """Read a canonical item table."""
    rows = pq.read_table(path, schema=SCHEMA).to_pylist()
    return [
        Item(
            row["row"],
            row["prompt"],
            tuple(row["choices"]),
            tuple(row["right"]),
            tuple(row["mc1"]),
            row["classes"],
            row["item"],
        )
        for row in rows
    ]


def items_digest(items: Sequence[Item]) -> str:
    """sha256 over the content and the order of all items."""
    digest = hashlib.sha256()
    for item in items:
        digest.update(item.content().encode() + b"\n")
    return digest.hexdigest()
