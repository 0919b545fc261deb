"""Verdicts: what the statistics allow one to say about each task, in words.

The rule from statistics to words. Every sentence is about performance, so a metric that is
better when lower falls when its value rises.

1. One robust method is the judge (config key `robust`; the default is the one that the calibration
   chose). An effect that this method finds, its p corrected over the family (Benjamini-Hochberg,
   q < level), is stated: performance `falls` or `rises`.
2. An effect that only other methods find, in whatever direction, is `not established`, with the
   methods' names.
3. An effect that no method finds is `no clear change`. That is not evidence of none: the interval
   says how large a change could hide.
4. Where the judge cannot estimate the effect, or no p it can give would be small enough, the word
   is `cannot tell`, with the reason.
5. `in larger models` reads the interaction: training helps `less` there (or harms more), or `more`.
6. The bootstrap of items (`item`) is no judge of any of these: it asks whether these very runs
   would look the same on other items. It tells what single runs did during their training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from downslope.figure_style import short_numbers
from downslope.outcomes import Outcome, printed_titles
from downslope.panel import EFFECTS, LEFT_OUT, reason_of
from downslope.run_trends import directions, largest_only
from downslope.verdict_words import (
    AXES,
    CANNOT_TELL,
    FALLS,
    NO_CLEAR_CHANGE,
    NOT_ESTABLISHED,
    RISES,
    Reading,
    sentences,
)
from downslope.wild import smallest_p

_OTHER_QUESTION = "item"
_THRESHOLDED = ("accuracy", "acc_norm", "mc1")


def read_effect(effects: pd.DataFrame, robust: str, level: float, better: str) -> Reading:
    """The reading of one effect from its rows of the effects table, one per method."""
    by_method = effects.set_index("method")
    judge: dict[Any, Any] = by_method.loc[robust].to_dict()
    asked = by_method.drop(index=_OTHER_QUESTION, errors="ignore")
    # A method whose smallest possible p is too large did not look, whatever the data.
    blind = asked["status"].str.startswith("below resolution") & ~(asked["q"] < level)
    if "wild" in asked.index and smallest_p(int(asked["runs"].max())) >= level:
        blind["wild"] = True
    asked = asked[asked["p"].notna() & ~blind]
    found = asked[asked["q"] < level]
    reason = ""
    if robust in found.index:
        found = found[found["estimate"] * judge["estimate"] > 0]  # others may see the opposite
        word = FALLS if (judge["estimate"] < 0) == (better == "higher") else RISES
    elif robust not in asked.index:
        word, reason = CANNOT_TELL, str(judge["status"])
    else:
        word = NO_CLEAR_CHANGE if found.empty else NOT_ESTABLISHED
    return Reading(
        word=word,
        methods=tuple(found.index),
        asked=len(asked),
        q=judge["q"],
        change=judge["per_tenfold"],
        low=judge["per_tenfold_low"],
        high=judge["per_tenfold_high"],
        reason=reason,
    )


def verdicts(
    effects: pd.DataFrame,
    trends: pd.DataFrame,
    run_trends: pd.DataFrame,
    outcomes: Mapping[str, Sequence[str]],
    titles: Mapping[str, str],
    causes: Mapping[str, str],
    better: Mapping[str, str],
    *,
    robust: str,
    level: float,
) -> pd.DataFrame:
    """The verdict table: a row per declared outcome, families in order.

    `outcomes` maps declared families to outcomes `task/protocol/metric`, `titles` tasks to printed
    names, `causes` tasks to what is said to make models fail, `better` metrics to `higher` or
    `lower`. Numbers are those of `robust`; `*_methods` names every method that finds the effect,
    `left_out` the runs that `robust` does not rest on, `own_trends` the runs that fall during
    training on these items, or `untested` why none could be asked, `shape_*` the shape on each
    axis, `verdict` says all of it in words.
    """
    rows = []
    for family, texts in outcomes.items():
        parsed = [Outcome.parse(text) for text in texts]
        for outcome, title in zip(parsed, printed_titles(parsed, titles), strict=True):
            of_outcome = _rows(effects, outcome)
            readings = {
                effect: read_effect(
                    of_outcome[of_outcome["effect"] == effect],
                    robust,
                    level,
                    better[outcome.metric],
                )
                for effect in EFFECTS
            }
            runs = _rows(run_trends, outcome)
            own = own_trends(runs, level, better[outcome.metric])
            row: dict[str, Any] = {
                "task": outcome.task,
                "title": title,
                "cause": causes[outcome.task],
                **_labels(outcome),
                "tests": family,
            }
            for effect, name in zip(EFFECTS, ("size", "training", "interaction"), strict=True):
                reading = readings[effect]
                row |= {
                    name: reading.word,
                    f"{name}_change": reading.change,
                    f"{name}_low": reading.low,
                    f"{name}_high": reading.high,
                    f"{name}_q": reading.q,
                    f"{name}_methods": " ".join(reading.methods),
                    f"{name}_asked": reading.asked,
                }
            lines = _rows(trends, outcome).set_index("axis")
            row |= {f"shape_{axis}": lines["shape"].get(axis, "") for axis in AXES}
            row |= {
                "left_out": left_out(of_outcome[of_outcome["method"] == robust]),
                "own_trends": own,
                "untested": "" if own else _reasons(runs["status"]),
                "log_odds": _log_odds(effects, outcome, readings, robust, level),
                "n": int(of_outcome["n"].max()),
                "expected": int(of_outcome["expected"].iloc[0]),
            }
            words = sentences(readings, row, better[outcome.metric], lines)
            rows.append({**row, "verdict": words})
    return pd.DataFrame(rows)


def own_trends(runs: pd.DataFrame, level: float, better: str) -> str:
    """`2 of 8 runs, the largest only: 6.9B, 12B`: the runs whose own slope over training falls.

    `runs` are an outcome's rows of run_trends.tsv. A run whose cells are all equal counts as one
    that does not fall; runs that could not be tested do not count. Empty where none could.
    """
    found = directions(runs, better, level)
    if runs["q"].isna().all():
        return ""
    known = runs[found != "not tested"].sort_values(["parameters", "family", "seed"])
    falling = known[found[known.index] == FALLS]
    if falling.empty:
        return f"none of {len(known)} run{'s' * (len(known) > 1)}"
    if len(falling) == len(known):
        return f"all {len(known)} runs" if len(known) > 1 else "the only run"
    sizes = sorted(known["parameters"].unique())
    label = dict(zip(sizes, short_numbers(sizes), strict=True))
    families = known["family"].nunique() > 1
    seeds = known.groupby(["family", "parameters"])["seed"].nunique().max() > 1
    names = [
        f"{f'{run.family} ' if families else ''}{label[run.parameters]}"
        f"{f' (seed {run.seed})' if seeds else ''}"
        for run in falling.itertuples()
    ]
    where = ", the largest only" if largest_only(known, better, level) else ""
    return f"{len(falling)} of {len(known)} runs{where}: {', '.join(names)}"


def left_out(of_judge: pd.DataFrame) -> str:
    """The runs of an outcome that its judge has left out of the fit, and why."""
    return _reasons(of_judge["status"][of_judge["status"].str.startswith(LEFT_OUT)])


def _reasons(statuses: pd.Series) -> str:
    return "; ".join(dict.fromkeys(map(reason_of, statuses)))


def _rows(table: pd.DataFrame, outcome: Outcome) -> pd.DataFrame:
    same = (table["task"] == outcome.task) & (table["protocol"] == outcome.protocol)
    return table[same & (table["metric"] == outcome.metric)]


def _labels(outcome: Outcome) -> dict[str, str]:
    return {"protocol": outcome.protocol, "metric": outcome.metric}


def _log_odds(
    effects: pd.DataFrame,
    outcome: Outcome,
    readings: Mapping[str, Reading],
    robust: str,
    level: float,
) -> str:
    """Whether the log-odds show what a count of right answers shows: a threshold can make a break
    out of a slow change (Schaeffer et al. 2023, arXiv 2304.15004).

    `agrees`, `agrees in part`, `not established` or `differs` (some effect has the other sign).
    """
    margins = _rows(effects, outcome._replace(metric="margin"))
    stated = {e: r.word for e, r in readings.items() if r.word in (FALLS, RISES)}
    if margins.empty or outcome.metric not in _THRESHOLDED or not stated:
        return ""
    found = {
        effect: read_effect(margins[margins["effect"] == effect], robust, level, "higher").word
        for effect in stated
    }
    if any({found[effect], word} == {FALLS, RISES} for effect, word in stated.items()):
        return "differs"
    agree = [found[effect] == word for effect, word in stated.items()]
    return "agrees" if all(agree) else "agrees in part" if any(agree) else "not established"
