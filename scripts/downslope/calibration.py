"""What the calibration table says: which methods keep their level, and which one to rest on.

The table (rejection_rates.py) counts over simulated panels how often each method claims what is
not there and finds what is.

The rule. A method keeps its level where, in every setting (each rho),

- each effect's share of single tests rejected at 5 % under no effect is at most 7.5 %, half as much
  again as promised (Bradley's liberal criterion, 1978);
- the share of panels with any rejection by Holm, with any discovery by Benjamini-Hochberg and with
  any by Benjamini-Yekutieli, under no effect, and the false discovery rate of Benjamini-Hochberg
  with planted interactions are at most 5 % and three Monte Carlo standard errors,
  sqrt(.05 x .95 / panels). Three, because a dozen rates are held against this limit and one of an
  exact test would exceed two errors too often.

The default is the robust method that keeps its level and finds the largest share of the planted
interactions after Benjamini-Hochberg, averaged over the settings. A method that finds none at all
has no say while another finds some: with few runs the wild bootstrap keeps its level because its p
cannot be small enough to reject. One that finds few has: that a study is too small is no reason
to trust a test that errs. Where no other method keeps its level, it is the one whose error by Holm
is least at its worst; `level_notes` then says that it does not.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd

from downslope.errors import StudyError
from downslope.panel import EFFECTS
from downslope.tsv import FLOATS, INTEGERS, read_tsv

SHIPPED = Path(__file__).resolve().parents[2] / "config" / "calibration.tsv"
"""The table that ships with Downslope: the published design, 8 models x 8 checkpoints."""

LEVEL = 0.05
SINGLE_LIMIT = 0.075
FEW = 0.01
"""The share of planted interactions below which a study is said to be too small."""
ROBUST = ("cluster", "jackknife", "two-stage", "wild")
SINGLE = tuple(f"rate_{effect}" for effect in EFFECTS)
PROMISED = ("fwer_holm", "any_bh", "any_by", "fdr_bh")
RATES = (*SINGLE, *PROMISED, "power_bh")
COLUMNS = ("method", "rho", "panels", *RATES, "keeps_level", "status")


def read_calibration(path: str | os.PathLike[str] = SHIPPED) -> pd.DataFrame:
    """The calibration table as it was written; without a path the one that ships."""
    return read_tsv(path, integers=INTEGERS | {"panels"}, floats=FLOATS | {"rho", *RATES})


def promised_limit(panels: int) -> float:
    """The largest rate over so many panels that is still taken for 5 %."""
    return LEVEL + 3 * float(np.sqrt(LEVEL * (1 - LEVEL) / panels))


def keeps_level(table: pd.DataFrame) -> dict[str, str]:
    """yes or no by the rule above for each method of the table, "" where nothing was counted."""
    kept = {}
    for method in dict.fromkeys(table["method"]):
        rows = table[(table["method"] == method) & (table["status"] == "ok")]
        within = [
            row[rate] <= (SINGLE_LIMIT if rate in SINGLE else promised_limit(row["panels"]))
            for row in rows.to_dict("records")
            for rate in (*SINGLE, *PROMISED)
            if not np.isnan(row[rate])
        ]
        kept[method] = ("yes" if all(within) else "no") if within else ""
    return kept


def default_method(table: pd.DataFrame) -> str:
    """The robust method to rest on, by the rule above; the first in the table wins a tie.

    Raises StudyError where no robust method can be used on the grid at all.
    """
    robust = table[table["method"].isin(ROBUST) & (table["status"] == "ok")]
    if robust.empty:
        raise StudyError(
            "no robust method can be used on this study's runs and checkpoints",
            where="calibration",
            remedy="See the table's status column; at least three runs of two sizes are needed.",
        )
    by_method = robust.groupby("method", sort=False)
    power, worst = by_method["power_bh"].mean(), by_method["fwer_holm"].max()
    kept = keeps_level(robust)
    keeping = np.array([kept[method] == "yes" for method in power.index])
    able = (power > 0).to_numpy()
    if (keeping & able).any():
        return str(power[keeping & able].idxmax())
    return str(worst[able].idxmin() if able.any() else power.idxmax())


def level_notes(table: pd.DataFrame) -> dict[str, str]:
    """A sentence for each method of effects that does not keep its level, with its worst rates."""
    notes = {}
    for method, kept in keeps_level(table).items():
        rows = table[table["method"] == method]
        if kept == "no" and rows["fwer_holm"].notna().any():
            single = float(rows[list(SINGLE)].to_numpy().max())
            family = float(rows["fwer_holm"].max())
            notes[method] = (
                f"The method {method} does not keep its level: in simulated studies without any "
                f"effect it rejects up to {100 * single:.0f} % of single tests at 5 %, and after "
                f"Holm's correction it still claims something in up to {100 * family:.0f} % of "
                "the studies."
            )
    return notes


def as_markdown(table: pd.DataFrame) -> str:
    """The table for people: a row per method, the rates at each rho beside each other."""
    rhos = " / ".join(f"{rho:g}" for rho in table["rho"].unique())
    chosen, kept = default_method(table), keeps_level(table)
    lines = [
        f"Shares at 5 %, with errors within a run that correlate by rho = {rhos}:",
        "",
        "| method | parameters | tokens | interaction | Holm: any | BH: any | BY: any "
        "| BH: false | BH: found | keeps its level |",
        "| :--- |" + " ---: |" * 8 + " :--- |",
    ]
    for method in kept:
        rows = table[table["method"] == method]
        shown = f"**{method}**" if method == chosen else method
        cells = [" / ".join(map(_rate, rows[rate])).strip(" /") for rate in RATES]
        verdict = kept[method] or rows["status"].iloc[0]
        lines.append(f"| {shown} | {' | '.join(cells)} | {verdict} |")
    families = table[table["power_bh"].notna()]
    panels = int(families["panels"].max())
    fewer = families[families["panels"] < panels].drop_duplicates("method")
    other = "".join(f" ({row.method}: {row.panels})" for row in fewer.itertuples())
    error = float(np.sqrt(LEVEL * (1 - LEVEL) / panels))
    why = "which finds most among those that keep their level."
    if kept[chosen] != "yes":
        why = "whose error by Holm is least; none that finds anything keeps its level."
    elif families.loc[families["method"] == chosen, "power_bh"].mean() < FEW:
        why += " It finds next to nothing: these checkpoints are too few."
    notes = [
        "parameters, tokens, interaction: single tests rejected without any effect; own-trend rows "
        "test one run's trend over training, and have no family.",
        "any: studies of 12 outcomes without any effect in which at least one of 36 tests is "
        "rejected after the correction. false: share of false ones among the discoveries when "
        "interactions are planted in 3 of 12 outcomes. found: the share of those discovered.",
        f"{panels} simulated studies a setting{other}: a rate of 5 % has a Monte Carlo standard "
        f"error of {100 * error:.1f} % for a correction and less for single tests; a promise "
        f"counts as kept up to {100 * promised_limit(panels):.1f} %, for single tests up to "
        f"{100 * SINGLE_LIMIT:.1f} %.",
        f"Default robust method: **{chosen}**, {why}",
    ]
    return "\n".join([*lines, "", *(f"- {note}" for note in notes), ""])


def _rate(rate: float) -> str:
    """A share as .05, and nothing where there is none."""
    return "" if np.isnan(rate) else f"{rate:.2f}".removeprefix("0")
