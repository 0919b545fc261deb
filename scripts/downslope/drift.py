"""Drift: what every checkpoint lost and gained since earlier ones of its own run, item by item.

Each checkpoint is compared with the one before it (`previous`) and with the best so far (`best`),
on the same items, in every declared outcome and in the margins beneath them. A margin moves before
an answer flips, so it shows what accuracy does not show yet.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence

import numpy as np
import pandas as pd

from downslope.correction import corrected
from downslope.errors import StudyError
from downslope.metrics import BETTER
from downslope.outcomes import Outcome
from downslope.paired import MEASURES, SAMPLED, SIGN_VECTORS, compare
from downslope.panel import RUN

OUTCOME = list(Outcome._fields)
COLUMNS = (
    *("ckpt", *RUN, "step", "against", "reference", *OUTCOME),
    *MEASURES[:-1],
    *("q", "p_holm", "status", "tests"),
)
FLIPPED = (
    *("ckpt", "against", "reference", *OUTCOME),
    *("item", "change", "margin", "reference_margin"),
)
AGAINST = ("previous", "best")
# Names of families of tests hold no space: what ends so is derived, not declared.
MARGINS = " margins"
NOTES = (
    "difference is value minus reference_value over the n items that have both; se is the sd of "
    "the item differences over sqrt(n) (arXiv 2411.00640), low to high its 95 % interval.",
    "p is that of the pair: McNemar's test where items are right or wrong, else sign flips of the "
    "item differences. q (Benjamini-Hochberg) and p_holm correct it over the outcomes of `tests`, "
    "within each checkpoint and each of previous and best.",
    "The best so far was chosen for its value, which is in part luck: a later checkpoint that is "
    "just as good falls below it on average. q and p_holm allow for that: p is first multiplied "
    "by the number of checkpoints that the best was chosen from (under `test`). The difference "
    "and its interval are not corrected; against the best they overstate a loss on average.",
    "Nothing is corrected over checkpoints: whoever looks at many of them will now and then "
    "see a loss that is not real.",
)
_COMPARED = ["ckpt", "against", "reference"]
_SEED = 1
_PAIRS_AT_ONCE = 256  # 43 MB of item differences where there are 20,897 items

ItemValues = Callable[[Outcome], pd.DataFrame]
"""Outcome -> item ids as index, a column per checkpoint; no rows: no item-level scores."""


def drift(
    cells: pd.DataFrame,
    item_values: ItemValues,
    families: Mapping[str, Sequence[str]],
    level: float = 0.05,
    better: Mapping[str, str] = BETTER,
) -> pd.DataFrame:
    """The drift table: a row per checkpoint x (previous, best) x outcome; see `COLUMNS`, `NOTES`.

    `families` maps the name of a family of tests to its outcomes, written `task/protocol/metric`.
    The margins of the same (task, protocol) that are in `cells` form one more family for each,
    `<name> margins`, unless they are declared themselves. A run is (family, parameters, seed); its
    first checkpoint has no row. `previous` is the nearest earlier checkpoint with a value of the
    outcome, `best` the earlier one with the best value, the earliest where several have it.

    `lost` counts the items that went from right to wrong, `gained` those from wrong to right; both
    are missing where values are not 0 and 1. Without item values of both checkpoints, value and
    difference come from the cells, untested. `status` is `ok`, or says what is missing, on how few
    items a comparison rests, or that q cannot come below `level` with p at its test's floor
    (`below resolution`).

    Multiplying p by the k candidates makes the test against the best valid whatever rule chose it
    (Bonferroni): that any of k true comparisons has p below a / k has at most probability a.

    `better` says of each metric whether `higher` or `lower` is better. Raises StudyError where a
    cell is given twice.
    """
    checkpoints = cells[["ckpt", *RUN, "step"]].drop_duplicates("ckpt")
    checkpoints = checkpoints.sort_values([*RUN, "step", "ckpt"], ignore_index=True)
    by_outcome = {Outcome(*map(str, key)): of for key, of in cells.groupby(OUTCOME, sort=False)}
    parts = []
    for tests, outcome in _outcomes(families, by_outcome):
        values = _values(by_outcome.get(outcome, cells.iloc[:0]), outcome)
        sign = _sign(outcome, better)
        rows = _rows(checkpoints, values, outcome, sign).assign(tests=tests)
        pairs = rows.loc[rows["obstacle"] == "", ["ckpt", "reference"]].drop_duplicates()
        measured = _measured(pairs, item_values(outcome), sign)
        rows = rows.merge(measured, how="left", on=["ckpt", "reference"])
        rows["value"] = rows["value"].fillna(rows["ckpt"].map(values))
        rows["reference_value"] = rows["reference_value"].fillna(rows["reference"].map(values))
        parts.append(rows)
    table = pd.concat(parts, ignore_index=True)
    table["difference"] = table["difference"].fillna(table["value"] - table["reference_value"])
    table["test"] = table["test"].fillna("")
    untested = table["status"].fillna("no test: no item-level scores")
    table["status"] = untested.where(table["obstacle"] == "", table["obstacle"])
    _correct(table, level)
    table = table.sort_values(["place", "rank"], kind="stable", ignore_index=True)
    return table[list(COLUMNS)].astype(dict.fromkeys(("lost", "gained", "n"), "Int64"))


def flipped(
    drift: pd.DataFrame, item_values: ItemValues, better: Mapping[str, str] = BETTER
) -> pd.DataFrame:
    """The items that flipped, for the newest checkpoint of every run against both references.

    Columns are `FLIPPED`; change is `lost` (from right to wrong) or `gained`. In the order of
    `drift`; within a comparison the lost items first, and first those whose margin moved most.
    Margins are NaN where there are none.
    """
    rows = newest(drift).reset_index(drop=True)
    rows = rows[(rows["lost"] + rows["gained"]).fillna(0) > 0]
    parts = [pd.DataFrame(columns=[*FLIPPED, "place"])]
    for key, group in rows.groupby(OUTCOME, sort=False):
        outcome = Outcome(*map(str, key))
        values = item_values(outcome)
        margins = item_values(outcome._replace(metric="margin"))
        margins = margins.reindex(index=values.index, columns=values.columns)
        for place, ckpt, against, reference in group[_COMPARED].itertuples(name=None):
            change = _sign(outcome, better) * (values[ckpt] - values[reference])
            listed = pd.DataFrame({"change": change, "moved": margins[ckpt] - margins[reference]})
            listed = listed.assign(margin=margins[ckpt], reference_margin=margins[reference])
            listed = listed[change.abs() > 0].assign(moved=listed["moved"] * -listed["change"])
            listed = listed.sort_values(["change", "moved"], kind="stable")
            listed["change"] = listed["change"].map({-1.0: "lost", 1.0: "gained"})
            listed["item"] = listed.index
            labels = {**outcome._asdict(), "against": against, "place": place}
            parts.append(listed.assign(ckpt=ckpt, reference=reference, **labels))
    table = pd.concat(parts[1:] or parts, ignore_index=True)
    return table.sort_values("place", kind="stable", ignore_index=True)[list(FLIPPED)]


def newest(drift: pd.DataFrame) -> pd.DataFrame:
    """The rows of the newest checkpoint of every run."""
    return drift[drift["step"] == drift.groupby(RUN)["step"].transform("max")]


def _outcomes(
    families: Mapping[str, Sequence[str]], present: Container[Outcome]
) -> list[tuple[str, Outcome]]:
    """(family of tests, outcome): all declared ones, then the margins beneath each family."""
    declared = {name: list(map(Outcome.parse, texts)) for name, texts in families.items()}
    found = [(name, outcome) for name, outcomes in declared.items() for outcome in outcomes]
    taken = {outcome for _, outcome in found}
    for name, outcomes in declared.items():
        for outcome in outcomes:
            margin = outcome._replace(metric="margin")
            if margin not in taken and margin in present:
                taken.add(margin)
                found.append((name + MARGINS, margin))
    return found


def _sign(outcome: Outcome, better: Mapping[str, str]) -> int:
    return 1 if better[outcome.metric] == "higher" else -1


def _values(cells: pd.DataFrame, outcome: Outcome) -> dict[str, float]:
    """The values of one outcome by checkpoint, without those that are not defined."""
    twice = cells["ckpt"].duplicated()
    if twice.any():
        raise StudyError(
            "this cell is given twice",
            where=f"cells, {cells.loc[twice, 'ckpt'].iloc[0]}, {outcome}",
            remedy="Make the cells anew from the study's present tables.",
        )
    known = cells[cells["value"].notna()]
    infinite = np.isinf(known["value"].astype(float))
    if infinite.any():
        raise StudyError(
            "the value is infinite, expected a number",
            where=f"cells, {known.loc[infinite, 'ckpt'].iloc[0]}, {outcome}",
            remedy="Make the cells anew from the study's present tables.",
        )
    return dict(zip(known["ckpt"], known["value"].astype(float), strict=True))


def _rows(
    checkpoints: pd.DataFrame, values: Mapping[str, float], outcome: Outcome, sign: int
) -> pd.DataFrame:
    """A row for each checkpoint but the first of a run, and each of `AGAINST`.

    `place` and `rank` give the order of checkpoints and of `AGAINST`; `choices` is the number of
    checkpoints that the reference was chosen from for its value; where nothing can be compared
    the reference is empty and `obstacle` says why.
    """
    rows: list[tuple[object, ...]] = []
    for _, run in checkpoints.groupby(RUN, sort=False):
        first, earlier, previous, best = True, 0, "", ""
        for place, ckpt in run["ckpt"].items():
            obstacle = ""
            if ckpt not in values:
                obstacle = "not compared: this checkpoint has no value"
            elif not earlier:
                obstacle = "not compared: no earlier checkpoint of its run has a value"
            if not first:
                for rank, (reference, choices) in enumerate(((previous, 1), (best, earlier))):
                    rows.append((place, rank, "" if obstacle else reference, choices, obstacle))
            first = False
            if ckpt in values:
                earlier, previous = earlier + 1, ckpt
                if not best or sign * values[ckpt] > sign * values[best]:
                    best = ckpt
    table = pd.DataFrame(rows, columns=["place", "rank", "reference", "choices", "obstacle"])
    table["against"] = [AGAINST[rank] for rank in table["rank"]]
    labels = checkpoints.loc[table["place"]].reset_index(drop=True)
    return pd.concat([labels, table], axis=1).assign(**outcome._asdict())


def _measured(pairs: pd.DataFrame, items: pd.DataFrame, sign: int) -> pd.DataFrame:
    """The `MEASURES` of those pairs of checkpoints that both have item values."""
    matrix = items.to_numpy(np.float64)
    right_or_wrong = bool((np.isnan(matrix) | (matrix == 0) | (matrix == 1)).all())
    kept = pairs[pairs.isin(items.columns if len(items) else ()).all(axis=1)]
    parts = [pd.DataFrame(columns=["ckpt", "reference", *MEASURES])]
    for start in range(0, len(kept), _PAIRS_AT_ONCE):
        block = kept.iloc[start : start + _PAIRS_AT_ONCE].reset_index(drop=True)
        value, reference = (
            matrix.take(items.columns.get_indexer(pd.Index(block[side])), axis=1)
            for side in ("ckpt", "reference")
        )
        measures = compare(value, reference, right_or_wrong=right_or_wrong, sign=sign, seed=_SEED)
        parts.append(pd.concat([block, measures], axis=1))
    return pd.concat(parts[1:] or parts)


def _correct(table: pd.DataFrame, level: float) -> None:
    """Add q and p_holm, and say where p against the best was multiplied and where q is stuck."""
    table["p"] = table["p"].astype(float)
    choices = table["choices"].where(table["against"] == "best", 1)
    chosen = (table["p"] * choices).clip(upper=1.0).to_numpy(np.float64)
    columns = {column: np.full(len(table), np.nan) for column in ("q", "p_holm")}
    groups = table.groupby(["ckpt", "against", "tests"], sort=False).indices.values()
    for rows in groups:
        found = corrected(chosen[rows])
        for column, values in columns.items():
            values[rows] = found[column]
    table[list(columns)] = np.column_stack(list(columns.values()))
    floor = (table["test"] == SAMPLED) & (table["p"] * (SIGN_VECTORS + 1) < 1.5)
    stuck = floor & (table["q"] >= level)
    table.loc[stuck, "status"] = [
        f"below resolution: p is at the floor of {SAMPLED}, too high for q < {level:g}"
        for _ in range(stuck.sum())
    ]
    shown = zip(table["test"], table["against"], table["choices"], strict=True)
    table["test"] = [
        f"{test}, best of {choices}" if test and against == "best" else test
        for test, against, choices in shown
    ]
