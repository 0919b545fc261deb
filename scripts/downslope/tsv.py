"""Result tables: tab separated, UTF-8, six significant digits, the same bytes for the same frame.

Input tables, which people write, are read by `downslope.tables`; this module reads only what
`write_tsv` wrote.
"""

from __future__ import annotations

import csv
import math
import numbers
import os
from collections.abc import Collection
from typing import Any

import pandas as pd

from downslope.errors import StudyError
from downslope.files import atomic_write

_VERDICT_EFFECTS = ("size", "training", "interaction")

# Columns of result tables that hold numbers; every other column is text. Types are declared, not
# inferred: a task called `1e5` or a checkpoint called `nan` stays what it is called.
INTEGERS = frozenset(
    {
        *("parameters", "step", "tokens", "seed", "n", "expected", "line", "row"),
        *("runs", "sizes", "checkpoints", "items", "points_left", "points_right", "lost", "gained"),
        *("panels", "size_asked", "training_asked", "interaction_asked"),
    }
)
FLOATS = frozenset(
    {
        *("flops", "value", "se", "estimate", "statistic", "df", "p", "q", "q_by", "p_holm"),
        *("low", "high", "per_tenfold", "per_tenfold_low", "per_tenfold_high"),
        *("slope", "slope_low", "slope_high", "breakpoint", "turn_p", "turn_q"),
        *("left_slope", "left_p", "right_slope", "right_p"),
        *("reference_value", "difference", "margin", "reference_margin"),
        *("gpu_hours", "download_gb", "relative_se", "se_points", "detectable_points", "gap"),
        "rho",
        *(f"{e}_{c}" for e in _VERDICT_EFFECTS for c in ("change", "low", "high", "q")),
    }
)


def write_tsv(frame: pd.DataFrame, path: str | os.PathLike[str]) -> None:
    """Write `frame` without its index; floats as `%.6g`, missing values as empty fields.

    Six digits: differences between machines are smaller than that. The write is atomic. Raises
    StudyError for text with a tab or a line break, which no reader could tell from a border.
    """
    for column in frame.columns:
        _text(column, "the header", path)
    with atomic_write(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as out:
        out.write("\t".join(map(str, frame.columns)) + "\n")
        for number, row in enumerate(frame.itertuples(index=False, name=None), start=2):
            out.write("\t".join(_text(value, f"line {number}", path) for value in row) + "\n")


def _text(value: Any, where: str, path: str | os.PathLike[str]) -> str:
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, str):
        if any(border in value for border in "\t\n\r"):
            raise StudyError(
                f"the text {value!r} holds a tab or a line break",
                where=f"{os.fspath(path)}, {where}",
                remedy="Remove it from the name or the title that it comes from.",
            )
        return value
    if isinstance(value, numbers.Integral):  # also numpy's; a bool is written as 0 or 1
        return str(int(value))
    if isinstance(value, numbers.Real):
        return f"{float(value) + 0.0:.6g}"  # + 0.0 turns -0.0 into 0.0
    raise TypeError(f"{os.fspath(path)}, {where}: cannot write {type(value).__name__} as a field")


def read_tsv(
    path: str | os.PathLike[str],
    *,
    integers: Collection[str] = INTEGERS,
    floats: Collection[str] = FLOATS,
) -> pd.DataFrame:
    """Read a table that `write_tsv` wrote; types by column name, all others text (empty: "").

    Integer columns are int64, or Int64 with missing values where fields are empty; float columns
    are float64 with NaN. Raises StudyError for a row of the wrong length or a field that is not
    of its column's type.
    """
    with open(path, encoding="utf-8", newline="") as handle:
        rows = list(csv.reader(handle, delimiter="\t", quoting=csv.QUOTE_NONE, lineterminator="\n"))
    if not rows:
        raise StudyError("is empty", where=os.fspath(path), remedy="Delete it and run again.")
    header, *body = rows
    for number, row in enumerate(body, start=2):
        if len(row) != len(header):
            raise StudyError(
                f"has {len(row)} fields, expected {len(header)}",
                where=f"{os.fspath(path)}, line {number}",
                remedy="The table was cut or edited: delete it and run again.",
            )
    frame = pd.DataFrame(body, columns=header, dtype="str")
    for column in header:
        if column in integers or column in floats:
            kind = "Int64" if column in integers else "float64"
            frame[column] = _parsed(frame[column], kind, path)
    return frame


def _parsed(fields: pd.Series, kind: str, path: str | os.PathLike[str]) -> pd.Series:
    """Fields of one column as numbers; `int` and `float` are exact where pandas rounds."""
    convert = int if kind == "Int64" else float
    values: list[Any] = []
    for number, field in enumerate(fields, start=2):
        try:
            values.append(convert(field) if field else None)
        except ValueError:
            raise StudyError(
                f"{fields.name} is {field!r}, expected a number",
                where=f"{os.fspath(path)}, line {number}",
                remedy="The table was edited: delete it and run again.",
            ) from None
    column = pd.Series(values, index=fields.index, name=fields.name, dtype=kind)
    if kind == "Int64" and not column.isna().any():
        return column.astype("int64")
    return column
