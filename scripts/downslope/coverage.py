"""Which checkpoint has been scored on which task, and why not where it has not."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import pandas as pd

COLUMNS = ("ckpt", "task", "state", "reason")
NOT_REPORTED = "report is no in tasks.tsv"


def coverage(
    checkpoints: pd.DataFrame,
    tasks: pd.DataFrame,
    scored: Collection[tuple[str, str]],
    reasons: Mapping[tuple[str, str], str],
    absent: str = "not scored yet",
) -> pd.DataFrame:
    """One row for every checkpoint x task, however little of it exists.

    checkpoints  ckpt, family, parameters, seed, step, known_bad (empty: nothing is wrong)
    tasks        task, report (yes or no), in the order wanted
    scored       the pairs (ckpt, task) that have cells
    reasons      for pairs that are missing, why: of the pair, else of (ckpt, "") where the
                 whole checkpoint is concerned, else `absent`

    state is `excluded` where the tables take the pair out of the study, with the reason given
    by known_bad or report (also if it was scored before that), else `scored` with an empty
    reason, else `missing`. Pairs of rows that the tables no longer have are no part of the
    study. Sorted by family, parameters, seed, step and ckpt, then like `tasks`.
    """
    rows = []
    order = checkpoints.sort_values(["family", "parameters", "seed", "step", "ckpt"])
    for ckpt, known_bad in zip(order["ckpt"], order["known_bad"], strict=True):
        for task, report in zip(tasks["task"], tasks["report"], strict=True):
            if known_bad:
                state, reason = "excluded", known_bad
            elif report == "no":
                state, reason = "excluded", NOT_REPORTED
            elif (ckpt, task) in scored:
                state, reason = "scored", ""
            else:
                whole = reasons.get((ckpt, ""), absent)
                state, reason = "missing", reasons.get((ckpt, task), whole)
            rows.append((ckpt, task, state, reason))
    return pd.DataFrame(rows, columns=list(COLUMNS))
