"""The words of a verdict: readings of effects become sentences with numbers and units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from downslope.panel import EFFECTS

FALLS, RISES = "falls", "rises"
NOT_ESTABLISHED, NO_CLEAR_CHANGE, CANNOT_TELL = "not established", "no clear change", "cannot tell"
AXES = {"parameters": "parameters", "tokens": "training tokens", "flops": "training compute"}


@dataclass(frozen=True)
class Reading:
    """What is said of one effect of one outcome.

    word     FALLS, RISES, NOT_ESTABLISHED, NO_CLEAR_CHANGE or CANNOT_TELL
    methods  methods with q < level, without `item`
    asked    how many methods could have found it, without `item`
    q        the judge's corrected p
    change, low, high  the judge's change per tenfold with its 95 % interval, in the metric's units
    reason   why, where nothing can be told
    """

    word: str
    methods: tuple[str, ...]
    asked: int
    q: float
    change: float
    low: float
    high: float
    reason: str = ""


def sentences(
    readings: Mapping[str, Reading], row: Mapping[str, Any], better: str, lines: pd.DataFrame
) -> str:
    """Everything that is said of one outcome.

    `row` is its row of the verdict table so far; `lines` are its rows of trends.tsv by axis: where
    an effect cannot be told, the whole line over its axis is quoted.
    """
    size, training, interaction = (readings[effect] for effect in EFFECTS)
    metric = row["metric"]
    if {size.word, training.word, interaction.word} == {NO_CLEAR_CHANGE}:
        said = [
            f"No clear change with size: {_change(size, metric)} per tenfold increase in "
            f"parameters; with training: {_change(training, metric)} per tenfold increase in "
            f"tokens; or between smaller and larger models: {_change(interaction, metric)}."
        ]
    else:
        said = [
            _main(size, "with size", "parameters", metric, lines),
            _main(training, "with training", "tokens", metric, lines),
            _larger(interaction, training, metric),
        ]
    if better == "lower":
        said.insert(0, "Lower is better; falls and rises are those of performance.")
    own = str(row["own_trends"])
    if own.startswith("none"):
        said.append("On these items no run falls clearly during training.")
    elif own:
        said.append(f"On these items performance falls clearly during training in {own}.")
    said += [_TURNS[shape].format(axis) for shape, axis in _turns(row)]
    if row["log_odds"] in _LOG_ODDS:
        said.append(_LOG_ODDS[row["log_odds"]].format(_ODDS.get(metric, "the right answer")))
    return " ".join(said)


_TURNS = {
    "U": "Over {} it falls, then rises (U, two-lines test).",
    "inverted U": "Over {} it rises, then falls (inverted U, two-lines test).",
}
_LOG_ODDS = {
    "differs": "The log-odds of {} move the other way: see the margin's own rows.",
    "agrees in part": "In the log-odds of {} only part of this is established.",
    "not established": "In the log-odds of {} this is not established.",
}
_ODDS = {"mc1": "all right answers, MC2's,"}
"""What a margin is of where it is not of the one answer that the metric asks for."""


def _turns(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(shape, axis in words) for every axis with a turn."""
    shapes = ((str(row[f"shape_{axis}"]), words) for axis, words in AXES.items())
    return [(shape, words) for shape, words in shapes if shape in _TURNS]


def _main(reading: Reading, with_what: str, per: str, metric: str, lines: pd.DataFrame) -> str:
    if reading.word == CANNOT_TELL:
        said = f"{with_what.capitalize()}: cannot tell ({reading.reason})."
        for line in lines[lines.index == per].to_dict("records"):
            if not np.isnan(line["q"]):
                ends = line["slope"], line["slope_low"], line["slope_high"]
                said += f" Over {per} alone: {change_with_interval(*ends, metric)} per tenfold "
                said += f"increase, q = {line['q']:.2g}."
        return said
    change = f"{_change(reading, metric)} per tenfold increase in {per}"
    if reading.word in (FALLS, RISES):
        return f"{reading.word.capitalize()} {with_what}: {change}."
    if reading.word == NOT_ESTABLISHED:
        return f"A change {with_what} is not established: only {_found(reading)}; {change}."
    return f"No clear change {with_what}: {change}."


def _larger(interaction: Reading, training: Reading, metric: str) -> str:
    """What training does in larger models, from the interaction and the effect of training."""
    change = f"the slope changes by {_change(interaction, metric)} per tenfold increase of both"
    if interaction.word == FALLS:
        how = "fall faster" if training.word == FALLS else "gain less or lose more"
        return f"With training, larger models {how}: {change}."
    if interaction.word == RISES:
        how = "rise faster" if training.word == RISES else "gain more or lose less"
        return f"With training, larger models {how}: {change}."
    if interaction.word == NOT_ESTABLISHED:
        return (
            "That training affects larger models differently is not established: only "
            f"{_found(interaction)}; {change}."
        )
    if interaction.word == CANNOT_TELL:
        return f"Whether it differs in larger models: cannot tell ({interaction.reason})."
    return f"No clear difference between smaller and larger models: {change}."


def _found(reading: Reading) -> str:
    *others, last = reading.methods
    names = f"{', '.join(others)} and {last}" if others else last
    return f"{names} {'finds' if len(reading.methods) == 1 else 'find'} it"


def _change(reading: Reading, metric: str) -> str:
    return change_with_interval(reading.change, reading.low, reading.high, metric)


def change_with_interval(change: float, low: float, high: float, metric: str) -> str:
    """`−14.5 points (95% −20.1 to −8.9)`; metrics from 0 to 1 in points, hundredths."""
    scale, unit = UNITS.get(metric, (1.0, metric))
    text = f"{_signed(scale * change, scale)} {unit}"
    if np.isnan([low, high]).any():
        return text
    return f"{text} (95% {_signed(scale * low, scale)} to {_signed(scale * high, scale)})"


UNITS = {
    **dict.fromkeys(("accuracy", "acc_norm", "mc1", "mc2", "brier"), (100.0, "points")),
    **dict.fromkeys(("margin", "class_loss", "mass"), (1.0, "nats")),
}
"""Metric -> factor and unit in which changes are printed; others are printed as they are."""


def _signed(value: float, scale: float) -> str:
    text = f"{value:+.1f}" if scale > 1 else f"{value:+.3g}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "−")
