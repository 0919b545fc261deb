"""Strict readers for a study's tables and config: closed schemas, errors with line and remedy.

Tables are tab separated, UTF-8, with a header and without quoting, so that what a person sees
in an editor is what is read. Nothing is guessed: no missing-value words, no type inference.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Hashable, Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from downslope.errors import StudyError
from downslope.text import read_text

SCHEMAS = Path(__file__).resolve().parents[2] / "config" / "schemas"

_FAST_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@functools.cache
def _schema(kind: str) -> dict[str, Any]:
    text = (SCHEMAS / f"{kind}.schema.yaml").read_text(encoding="utf-8")
    return yaml.load(text, Loader=_FAST_LOADER)


@functools.cache
def _validator(kind: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(_schema(kind))


@functools.cache
def _column_validator(kind: str, column: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(_schema(kind)["properties"][column])


def read_table(path: Path, kind: str) -> list[dict[str, Any]]:
    """Rows of a tab separated table, checked against `config/schemas/{kind}.schema.yaml`.

    Each row is a dictionary in the schema's column order, integers converted, plus the key
    `line` (1-based, the header being line 1). The first column is the key and must be unique.
    Raises StudyError naming file, line, column, what was found and what is expected.
    """
    properties = _schema(kind)["properties"]
    columns = list(properties)
    lines = read_text(path).split("\n")
    header = lines[0].rstrip("\r").split("\t")
    if sorted(header) != sorted(columns):
        missing = [c for c in columns if c not in header]
        unknown = [c for c in header if c not in columns]
        twice = sorted({c for c in header if header.count(c) > 1})
        parts = [
            f"{word} {', '.join(map(repr, names))}"
            for word, names in (("lacks", missing), ("has unknown", unknown), ("repeats", twice))
            if names
        ]
        raise StudyError(
            f"the header {' and '.join(parts)}",
            where=f"{path}, line 1",
            remedy=f"Its columns are, separated by tabs: {' '.join(columns)}.",
        )
    rows = []
    for number, line in enumerate(lines[1:], start=2):
        text = line.rstrip("\r")
        if not text.strip():
            continue
        fields = text.split("\t")
        where = f"{path}, line {number}"
        if len(fields) != len(header):
            raise StudyError(
                f"has {len(fields)} fields where the header has {len(header)}",
                where=where,
                remedy="Look for a missing, an extra or an embedded tab or line break.",
            )
        row = dict(zip(header, fields, strict=True))
        rows.append({**_typed_row(row, kind, where), "line": number})
    if not rows:
        raise StudyError("has no rows", where=str(path), remedy="Add at least one.")
    require_unique(rows, (columns[0],), path)
    return rows


def _typed_row(row: dict[str, str], kind: str, where: str) -> dict[str, Any]:
    typed: dict[str, Any] = {}
    for column in _schema(kind)["properties"]:
        typed[column], problem, remedy = _field(kind, column, row[column])
        if problem:
            raise StudyError(problem, where=where, remedy=remedy)
    return typed


@functools.cache
def _field(kind: str, column: str, text: str) -> tuple[int | str, str, str]:
    """A field's value, and what is wrong with it and the remedy, or two empty texts.

    A column's schema sees nothing of the rest of the row, and most fields stand in many rows.
    """
    if any(ord(char) < 32 or ord(char) == 127 for char in text):
        return text, f"{column} is {text!r} and holds a control character", "Remove it."
    spec = _schema(kind)["properties"][column]
    value = _whole_number(text) if spec.get("type") == "integer" else text
    if _column_validator(kind, column).is_valid(value):
        return value, "", ""
    return value, f"{column} is {text!r}, expected {spec['description']}", "Mend this row."


def _whole_number(text: str) -> int | str:
    """An integer from `143000`, `70e6` or `1.4e9`; the text itself where it is no whole number."""
    if text.isascii() and text.isdigit():
        return int(text)
    mantissa, e, exponent = text.lower().partition("e")
    whole, _, fraction = mantissa.partition(".")
    plain = all(part.isascii() and part.isdigit() for part in (whole, exponent, fraction or "0"))
    if e and plain and len(fraction) <= int(exponent) <= 18:
        return int(whole + fraction) * 10 ** (int(exponent) - len(fraction))
    return text


def require_unique(rows: list[dict[str, Any]], columns: tuple[str, ...], path: Path) -> None:
    """Raise StudyError where two rows agree in all of `columns`, naming both lines."""
    seen: dict[Hashable, int] = {}
    for row in rows:
        key = tuple(row[column] for column in columns)
        if key in seen:
            shown = ", ".join(f"{c} {row[c]!r}" for c in columns)
            raise StudyError(
                f"{shown} is already in line {seen[key]}",
                where=f"{path}, line {row['line']}",
                remedy="Each row needs its own; remove or rename one of the two.",
            )
        seen[key] = row["line"]


class _UniqueKeys(yaml.SafeLoader):
    """A loader that refuses a key given twice; YAML itself would silently keep the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: dict[Hashable, int] = {}
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise StudyError(
                    f"the key {key!r} is already in line {seen[key]}",
                    where=f"{self.name}, line {key_node.start_mark.line + 1}",
                    remedy="Remove or rename one of the two.",
                )
            seen[key] = key_node.start_mark.line + 1
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> Any:
    """A YAML file as plain objects; StudyError for broken syntax and for repeated keys."""
    loader = _UniqueKeys(read_text(path))
    loader.name = str(path)
    try:
        return loader.get_single_data()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise StudyError(
            f"is not valid YAML: {getattr(error, 'problem', None) or error}",
            where=f"{path}, line {mark.line + 1}" if mark else str(path),
            remedy="Look for a missing colon, quote or indentation.",
        ) from None
    finally:
        loader.dispose()


def check_config(config: dict[str, Any], path: Path) -> None:
    """Check a merged config against its closed schema; StudyError names key and expectation.

    No number may be nan, which is neither above nor below any bound that the schema sets.
    """
    for key, value in _numbers_in(config):
        if math.isnan(value):
            raise StudyError(
                f"{key} is {value}, expected a number",
                where=str(path),
                remedy="Write a number, or leave the key out where it may be absent.",
            )
    problem = next(iter(_validator("config").iter_errors(config)), None)
    if problem is None:
        return
    key = ".".join(str(part) for part in problem.absolute_path)
    if problem.validator == "additionalProperties":
        known = list(problem.schema["properties"])
        unknown = sorted(set(problem.instance) - set(known))
        what = f"unknown key {', '.join(map(repr, unknown))}" + (f" under {key}" if key else "")
        close = get_close_matches(unknown[0], known, n=1)
        remedy = f"Did you mean {close[0]!r}? " if close else ""
        remedy += f"Known keys are {', '.join(known)}."
    elif problem.validator == "required":
        missing = [name for name in problem.validator_value if name not in problem.instance]
        what = f"lacks the key {', '.join(map(repr, missing))}" + (f" under {key}" if key else "")
        remedy = f"Add it: {problem.schema['properties'][missing[0]]['description']}."
    else:
        expected = problem.schema.get("description", problem.message)
        if problem.validator == "pattern" and "description" not in problem.schema:
            expected = "a slug of lower-case letters and digits, joined by single . _ or -"
        what = f"{key or 'a key'} is {problem.instance!r}, expected {expected}"
        remedy = "Mend this key."
    raise StudyError(what, where=str(path), remedy=remedy)


def _numbers_in(value: Any, key: str = "") -> Iterator[tuple[str, float]]:
    """Every fraction in a config with its key, joined by dots."""
    if isinstance(value, float):
        yield key, value
    elif isinstance(value, dict | list):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for name, inner in pairs:
            yield from _numbers_in(inner, f"{key}.{name}".lstrip("."))
