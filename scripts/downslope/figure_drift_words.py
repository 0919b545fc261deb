"""The words of the figure of drift: what a newest checkpoint has lost, and the caption."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from downslope.figure_names import Row, reasons, sentence, signed, turned_sentence

_MOST = 3  # falls that are named where nothing could be tested


def verdict(newest: pd.DataFrame, rows: Sequence[Row]) -> str:
    """What the newest checkpoint of a run has lost against the best so far and the one before."""
    if newest["difference"].isna().all():
        return f"Not compared: {_after(newest['status'].iloc[0])}."
    if newest["q"].isna().all():
        below = newest[(newest["against"] == "best") & (newest["difference"] < 0)]
        largest = below.sort_values("difference", kind="stable").head(_MOST)
        why = _after(newest.loc[newest["difference"].notna(), "status"].iloc[0])
        if largest.empty:
            return f"Not tested ({why}); nothing lies below the best so far."
        return f"Not tested ({why}); farthest below the best so far: {_listed(largest, rows)}."
    said = []
    for against, words in (("best", "the best so far"), ("previous", "the one before")):
        own = newest[newest["against"] == against]
        fell = own[own["fell"]].sort_values("difference", kind="stable")
        tested = int(own["q"].notna().sum())
        if fell.empty:
            said.append(f"No clear fall below {words} in {tested} tested outcomes.")
        else:
            count = f"{len(fell)} of {tested} tested outcomes"
            said.append(f"Clear falls below {words} in {count}: {_listed(fell, rows)}.")
    return " ".join(said)


def drift_caption(changes: pd.DataFrame, rows: Sequence[Row], level: float) -> str:
    """`changes` are what figure_drift draws; sentences only of what is there."""
    units = ", ".join(dict.fromkeys(row.unit for row in rows))
    sentences = [f"Differences in {units}; framed: the newest checkpoint."]
    if changes["difference"].isna().any():
        sentences.append("Hatched: not compared.")
    if changes["q"].notna().any():
        sentences += [
            f"Tests compare the same items; q < {level:g} is corrected over the outcomes, not over "
            "checkpoints.",
            "Lines: 95 % intervals, not corrected. Against the best they overstate a fall on "
            "average, because the best was chosen for its value; q allows for that.",
        ]
    sentences += turned_sentence(rows)
    other = changes.loc[changes["status"] != "ok", "status"].value_counts(sort=False)
    if len(other):
        counted = [
            (f"{count} of {len(changes)} comparisons", str(status))
            for status, count in other.items()
        ]
        sentences.append(sentence(reasons(counted, "drift.tsv")))
    return " ".join(sentences)


def _listed(some: pd.DataFrame, rows: Sequence[Row]) -> str:
    pairs = zip(some["row"], some["difference"], strict=True)
    return ", ".join(f"{rows[row].title} {signed(change, rows[row].unit)}" for row, change in pairs)


def _after(status: str) -> str:
    return str(status).split(": ", 1)[-1]
