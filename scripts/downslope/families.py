"""Families of tests: the declared ones, and one more for every other metric that the cells hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from downslope.errors import StudyError
from downslope.metrics import METRICS
from downslope.outcomes import Outcome


def all_families(
    families: Mapping[str, Sequence[str]], cells: pd.DataFrame
) -> dict[str, list[str]]:
    """The declared families, then those of the other metrics: name -> `task/protocol/metric`."""
    declared = declared_outcomes(families)
    found: dict[str, list[str]] = {}
    for tests, outcome in [*declared, *further_outcomes(declared, cells)]:
        found.setdefault(tests, []).append(str(outcome))
    return found


def declared_outcomes(families: Mapping[str, Sequence[str]]) -> list[tuple[str, Outcome]]:
    """(family, outcome) in declared order; StudyError for an outcome in two families, or twice."""
    seen: dict[Outcome, str] = {}
    for tests, outcomes in families.items():
        for outcome in map(Outcome.parse, outcomes):
            if outcome in seen:
                raise StudyError(
                    f"the outcome {outcome} is declared in {seen[outcome]!r} and in {tests!r}",
                    where="config/config.yaml, families",
                    remedy="Keep it in one: a test is corrected within one family.",
                )
            seen[outcome] = tests
    return [(tests, outcome) for outcome, tests in seen.items()]


def further_outcomes(
    declared: Sequence[tuple[str, Outcome]], cells: pd.DataFrame
) -> list[tuple[str, Outcome]]:
    """(family/metric, outcome) for the other metrics of the declared tasks and protocols.

    Metrics in the order of metrics.py, others after them by name; a pair of task and protocol
    that stands in two families goes with the first.
    """
    held = {Outcome(*key) for key in outcome_keys(cells)}
    metrics = [*METRICS, *sorted({outcome.metric for outcome in held} - set(METRICS))]
    seen = {outcome for _, outcome in declared}
    further = []
    for family in dict.fromkeys(tests for tests, _ in declared):
        pairs = dict.fromkeys(outcome[:2] for tests, outcome in declared if tests == family)
        for metric in metrics:
            for pair in pairs:
                outcome = Outcome(*pair, metric)
                if outcome in held and outcome not in seen:
                    seen.add(outcome)
                    further.append((f"{family}/{metric}", outcome))
    return further


def outcome_keys(cells: pd.DataFrame) -> list[tuple[str, str, str]]:
    """(task, protocol, metric) of every cell."""
    return list(cells[["task", "protocol", "metric"]].itertuples(index=False, name=None))
