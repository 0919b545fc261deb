"""The verdict table as a page: a person's first look at a study."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from downslope.panel import runs_of
from downslope.verdict_words import CANNOT_TELL, FALLS, RISES, change_with_interval

_EFFECTS = {"size": "with size", "training": "with training"}
_OWN_TRENDS = (
    "`Falls while training` counts single runs whose own slope falls clearly, on these items: "
    "another training run may do otherwise."
)
_CALIBRATION = (
    "How far to trust each method was counted on simulated studies of 8 models at 8 checkpoints "
    "(config/calibration.tsv), from which the judge was chosen. `snakemake calibrate` counts it "
    "for this study's own checkpoints; to follow that table, set `robust` in the config. Shapes "
    "are no part of it."
)
_METHODS = (
    "The methods: ols takes every checkpoint as independent (the published analysis); cluster and "
    "jackknife allow for the dependence of a run's checkpoints; two-stage fits a line per run and "
    "compares the lines; wild flips the signs of whole runs; item resamples the items."
)
_CAUSES = (
    "A cause is what is thought to lead models astray on a task (tasks.tsv; four of them are those "
    "of McKenzie et al. 2023). It groups the tasks and is not tested."
)
_LARGER = {FALLS: "worse", RISES: "better"}


def as_markdown(
    table: pd.DataFrame,
    *,
    title: str,
    robust: str,
    level: float,
    level_notes: Mapping[str, str],
    notes: Sequence[str] = (),
) -> str:
    """The page: an answer in a sentence, a table, every verdict in words, and how to read it.

    A section per family of tests. `level_notes` says of each method how it did in the calibration;
    `notes` are further sentences on this study.
    """
    lines = [f"# What gets worse: {_plain(title)}", ""]
    for family, rows in table.groupby("tests", sort=False):
        if table["tests"].nunique() > 1:
            lines += [f"## {family}", ""]
        lines += [*_answer(rows), "", *_table(rows), "", *_by_cause(rows)]
        lines += [f"- **{_plain(r.title)}.** {_plain(r.verdict)}" for r in rows.itertuples()]
        lines += [""]
    lines += ["## How to read this", ""]
    said = [*_reading(table, robust, level), *notes, *level_notes.values(), _CALIBRATION]
    return "\n".join([*lines, *(f"- {_plain(sentence)}" for sentence in said), ""])


def design_notes(checkpoints: Sequence[Mapping[str, Any]], fewest: int) -> list[str]:
    """What has to be said about a study's own design, from the rows of its usable checkpoints, and
    the fewest of them that an outcome has cells of."""
    counts = Counter(runs_of(checkpoints).tolist())
    sizes = len({row["parameters"] for row in checkpoints})
    notes = []
    if len(counts) > sizes:
        notes.append(
            f"{len(counts)} runs of {sizes} sizes: errors are clustered by run, and what is said "
            "about size still rests on the number of sizes."
        )
    if len(set(counts.values())) > 1:
        notes.append(
            f"Runs differ in their number of checkpoints ({min(counts.values())} to "
            f"{max(counts.values())}): the methods were calibrated on equal ones, and how far they "
            "keep their level here is told by `snakemake calibrate`."
        )
    elif fewest < len(checkpoints):
        notes.append(
            f"Some outcomes have cells of {fewest} of the {len(checkpoints)} checkpoints: the "
            "methods were calibrated on complete grids, and how far they keep their level on "
            "others is not known."
        )
    if len({row["family"] for row in checkpoints}) > 1:
        notes.append(
            "Several families are compared as one: a family that is better at every size looks "
            "like an effect of size where families differ in their sizes."
        )
    return notes


def _answer(rows: pd.DataFrame) -> list[str]:
    """What falls and what rises, by name."""
    said = []
    for effect, words in _EFFECTS.items():
        for word, verb in ((FALLS, "gets worse"), (RISES, "gets better")):
            named = rows.loc[rows[effect] == word, "title"].map(_plain).tolist()
            if named or word == FALLS:
                bold = "**" if word == FALLS and named else ""
                names = ", ".join(named) or "none established"
                said.append(f"{bold}{verb.capitalize()} {words}{bold}: {names}.")
        unknown = rows.loc[rows[effect] == CANNOT_TELL, "title"].map(_plain).tolist()
        if unknown:
            said.append(f"Cannot tell {words}: {', '.join(unknown)}.")
    return ["  \n".join(said)]


def _table(rows: pd.DataFrame) -> list[str]:
    heads = ["Task", "With size", "With training", "Training, in larger models"]
    own = rows["own_trends"].ne("").any()
    heads += ["Falls while training"] if own else []
    lines = [f"| {' | '.join(heads)} |", "|" + " :--- |" * len(heads)]
    for row in rows.to_dict("records"):
        effects = (*_EFFECTS, "interaction")
        cells = [_plain(row["title"]), *(_effect(row, effect) for effect in effects)]
        cells += [_plain(row["own_trends"]) or "–"] if own else []
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _by_cause(rows: pd.DataFrame) -> list[str]:
    """What gets worse, cause by cause; nothing where the tasks have one cause."""
    if rows["cause"].nunique() < 2:
        return []
    falls = {words: rows[effect] == FALLS for effect, words in _EFFECTS.items()}
    shown = {f"Gets worse {words}": found for words, found in falls.items()}
    shown["Neither is established"] = ~pd.concat(falls, axis=1).any(axis=1)
    lines = [f"| Cause | {' | '.join(shown)} |", "|" + " :--- |" * (1 + len(shown))]
    for cause, of_cause in rows.groupby("cause", sort=False):
        named = [of_cause.loc[found[of_cause.index], "title"] for found in shown.values()]
        cells = [_plain(cause), *(", ".join(map(_plain, titles)) or "–" for titles in named)]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def _effect(row: Mapping[Any, Any], effect: str) -> str:
    """`**falls** −14.5 points (95% −20.1 to −8.9), 5 of 5`"""
    word = str(row[effect])
    if word == CANNOT_TELL:
        return word
    change, low, high = (float(row[f"{effect}_{name}"]) for name in ("change", "low", "high"))
    shown = change_with_interval(change, low, high, row["metric"])
    text = _LARGER.get(word, word) if effect == "interaction" else word
    return f"{f'**{text}**' if word == FALLS else text} {shown}{_count(row, effect)}"


def _count(row: Mapping[Any, Any], effect: str) -> str:
    found = len(str(row[f"{effect}_methods"]).split())
    return f", {found} of {row[f'{effect}_asked']}"


def _reading(table: pd.DataFrame, robust: str, level: float) -> list[str]:
    counts = {(row.n, row.expected) for row in table.itertuples()}
    causes = [_CAUSES] if table.groupby("tests")["cause"].nunique().max() > 1 else []
    used = " and ".join(f"{n} of {expected}" for n, expected in sorted(counts))
    return [
        f"The judge is the method {robust}: an effect is stated where its p, corrected over the "
        f"family of tests (Benjamini-Hochberg), is below {level:g}. `3 of 5` counts the methods "
        "that find it, of those that could have found it; effects.tsv has them all.",
        "`Not established`: other methods find it, the judge does not. `No clear change` is not "
        "evidence of none; the interval says how large a change could hide. Intervals are 95 % for "
        "one effect by itself, while the words are corrected over the family, so an interval "
        "without zero can stand beside `not established`.",
        _METHODS,
        "Changes are per tenfold increase in parameters or in training tokens, at the mean of the "
        "other; in larger models: how the slope over training changes per tenfold increase in "
        "parameters. A point is a hundredth of the metric.",
        *_single_runs(table),
        *causes,
        *_left_out(table, robust),
        f"Checkpoints used: {used}.",
    ]


def _single_runs(table: pd.DataFrame) -> list[str]:
    """What the runs' own trends are, or why no run has one."""
    if table["own_trends"].ne("").any():
        return [_OWN_TRENDS]
    return [f"Single runs are not tested: {'; '.join(dict.fromkeys(table['untested']))}."]


def _left_out(table: pd.DataFrame, robust: str) -> list[str]:
    """Which runs the judge does not rest on, and for which outcomes."""
    lines = []
    for runs in filter(None, dict.fromkeys(table["left_out"])):
        rows = table[table["left_out"] == runs]
        where = f", for {', '.join(rows['title'])}" if len(rows) < len(table) else ""
        lines.append(
            f"{robust} leaves out {runs}{where}: what is said of size, training and larger models "
            "is said of the others."
        )
    return lines


def _plain(text: object) -> str:
    """Text that Markdown shows as it is."""
    shown = "" if text is None or (isinstance(text, float) and np.isnan(text)) else str(text)
    for mark in ("\\", "|", "*", "_", "<"):
        shown = shown.replace(mark, f"\\{mark}")
    return shown
