"""What a figure should hold and what of it is missing, as a frame and in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import pandas as pd

from downslope.figure_style import short_numbers
from downslope.panel import RUN

_POINT = [*RUN, "tokens", "step"]
_MOST_NAMED = 12  # missing checkpoints that a caption names one by one


def planned(
    cells: pd.DataFrame, checkpoints: Sequence[Mapping[str, Any]] | None = None
) -> pd.DataFrame:
    """A row per checkpoint that the study wants: family, parameters, seed, tokens, step, scored,
    excluded (known_bad).

    `checkpoints` are the study's rows. Without them a run is taken to want its own cells' steps
    and those at which more than half of its family's runs have a cell. `scored` says whether any
    of `cells` is there.
    """
    scored = cells[_POINT].drop_duplicates()
    if checkpoints is not None:
        plan = pd.DataFrame([{key: row[key] for key in _POINT} for row in checkpoints])
    else:
        runs = scored[RUN].drop_duplicates()
        held = scored.groupby(["family", "tokens", "step"], as_index=False).size()
        of_family = held.merge(runs.groupby("family", as_index=False).size(), on="family")
        common = of_family[2 * of_family["size_x"] > of_family["size_y"]]
        plan = pd.concat([scored, runs.merge(common, on="family")[_POINT]]).drop_duplicates()
    plan = plan.merge(scored.assign(scored=True), how="left", on=_POINT)
    plan["scored"] = plan["scored"].notna()
    bad = {tuple(row[key] for key in _POINT) for row in checkpoints or () if row.get("known_bad")}
    points = plan[_POINT].itertuples(index=False, name=None)
    plan["excluded"] = [point in bad for point in points]
    return plan.sort_values(_POINT, ignore_index=True)


def has_seeds(plan: pd.DataFrame) -> bool:
    """Whether any model size was trained with more than one seed."""
    return bool((plan.groupby(["family", "parameters"])["seed"].nunique() > 1).any())


def coverage_sentences(
    plan: pd.DataFrame, counts: Sequence[tuple[str, int]], expected: int
) -> list[str]:
    """`58 of 64 checkpoints; excluded: pythia 2.8B at step 2000, 4000, ...` as sentences.

    What the study does not exclude (known_bad) is `missing`.

    `counts` has the printed title of each outcome and its number of cells; outcomes with fewer
    than the scored checkpoints are listed with that number.
    """
    scored = int(plan["scored"].sum())
    sentences = [f"{scored} of {expected} checkpoints{_absent(plan)}."]
    fewer = [f"{title} {count}" for title, count in counts if count < scored]
    if fewer:
        sentences.append(f"Fewer in {', '.join(fewer)}.")
    return sentences


def _absent(plan: pd.DataFrame) -> str:
    absent = plan[~plan["scored"]]
    if len(absent) > _MOST_NAMED:
        return ""
    named = {
        "excluded": _named(plan, absent[absent["excluded"]]),
        "missing": _named(plan, absent[~absent["excluded"]]),
    }
    return "".join(f"; {word}: {names}" for word, names in named.items() if names)


def _named(plan: pd.DataFrame, absent: pd.DataFrame) -> str:
    """`pythia 2.8B at step 2000, 4000; ...`: some of the plan's checkpoints, run by run."""
    runs = []
    for run, points in absent.groupby(RUN):
        family, size, seed = cast("tuple[str, int, int]", run)
        which = f" seed {seed}" if has_seeds(plan) else ""
        steps = ", ".join(map(str, sorted(points["step"])))
        runs.append(f"{family} {short_numbers([size])[0]}{which} at step {steps}")
    return "; ".join(runs)
