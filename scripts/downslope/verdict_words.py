"""The words of a verdict: readings of effects become sentences with numbers and units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

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


def sentences(readings: Mapping[str, Reading], row: Mapping[str, Any]) -> str:
    """Everything that is said of one outcome; `row` is its row of the verdict table so far."""
    size, training, interaction = (readings[effect] for effect in EFFECTS)
    metric = row["metric"]
    if {size.word, training.word, interaction.word} == {NO_CLEAR_CHANGE}:
        said = [
            f"No clear change with size: {_change(size, metric)} per tenfold parameters; with "
            f"training: {_change(training, metric)} per tenfold tokens; or between smaller and "
            "larger models."
        ]
    else:
        said = [
            _main(size, "with size", "tenfold parameters", metric),
            _main(training, "with training", "tenfold tokens", metric),
            _larger(interaction, training),
        ]
    if row["own_trends"]:
        said.append(f"On these items, performance falls during training in {row['own_trends']}.")
    turns = [axis for axis in AXES if str(row[f"shape_{axis}"]) in ("U", "inverted U")]
    said += [f"{row[f'shape_{axis}']}-shaped over {AXES[axis]}." for axis in turns]
    if row["log_odds"] in ("differs", "agrees in part"):
        said.append(
            "The log-odds of the right answer do not show all of this: the threshold may make it."
        )
    return " ".join(sentence for sentence in said if sentence)


def _main(reading: Reading, with_what: str, per: str, metric: str) -> str:
    if reading.word == CANNOT_TELL:
        return f"Cannot tell {with_what}: {reading.reason.split(': ', 1)[-1]}."
    change = f"{_change(reading, metric)} per {per}"
    if reading.word in (FALLS, RISES):
        return f"{reading.word.capitalize()} {with_what}: {change}."
    if reading.word == NOT_ESTABLISHED:
        return f"A change {with_what} is not established, only {_found(reading)}: {change}."
    return f"No clear change {with_what}: {change}."


def _larger(interaction: Reading, training: Reading) -> str:
    if interaction.word == FALLS:
        how = "fall faster" if training.word == FALLS else "gain less or lose more"
        return f"With training, larger models {how}."
    if interaction.word == RISES:
        how = "rise faster" if training.word == RISES else "gain more or lose less"
        return f"With training, larger models {how}."
    if interaction.word == NOT_ESTABLISHED:
        return (
            "That training acts otherwise on larger models is not established, only "
            f"{_found(interaction)}."
        )
    if interaction.word == CANNOT_TELL:
        return ""
    return "Training acts on larger models as on smaller ones, as far as one can tell."


def _found(reading: Reading) -> str:
    names = ", ".join(reading.methods)
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
