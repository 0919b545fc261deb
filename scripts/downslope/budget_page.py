"""A choice of checkpoints as a page: which, for how much, how precise, and what is lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from downslope.budget import TOLERANCE, Choice
from downslope.budget_table import CHOSEN, FULL, Offer
from downslope.checkpoint_costs import RESOURCES
from downslope.figure_style import short_numbers
from downslope.panel import RUN

# More steps than this make no readable grid.
_MOST_STEPS = 24


def choice_page(
    checkpoints: Sequence[Mapping[str, Any]], given: Offer, choice: Choice, table: pd.DataFrame
) -> str:
    """The page as Markdown; `checkpoints` are all rows of the study, known_bad ones included, and
    `table` is that of `budget_table.precision_table`."""
    by_name = table.set_index("choice")
    parts = [
        "# Choice of checkpoints",
        _summary(given, by_name),
        _grid(pd.DataFrame(checkpoints), given, choice),
        "## What it buys",
        _comparison(table),
        "Standard error: of the interaction, against that of the full grid. Smallest detectable: "
        "the interaction that one two-sided test at 5 % finds with a power of 80 % (t with runs - "
        "2 degrees of freedom), in points (hundredths of the metric) per tenfold of parameters "
        f"and of training tokens, for a task with a residual of {_residual(given)} points; it is "
        "in proportion to that residual.",
        *_advice(by_name),
        "## What is lost",
        _bullets(_losses(given, choice, by_name)),
        "## How it was chosen",
        _method(given, choice),
        "## Costs",
        _bullets(_sources(given)),
    ]
    return "\n\n".join(parts) + "\n"


def _summary(given: Offer, table: pd.DataFrame) -> str:
    best, full = table.loc[CHOSEN], table.loc[FULL]
    spent = [
        f"{best[name]:.4g} of {limit:.4g} {RESOURCES[name]}"
        for name, limit in given.budget.limits.items()
    ]
    ratios = [
        f"{best[name] / full[name]:.0%} of the {RESOURCES[name]}"
        for name in given.budget.limits
        if full[name] > 0
    ]
    return (
        f"**{best['checkpoints']:.0f} of {full['checkpoints']:.0f} checkpoints, "
        f"{best['runs']:.0f} of {full['runs']:.0f} runs: {' and '.join(spent)}.** "
        f"For {' and '.join(ratios) or 'nothing'} that the full grid costs, the standard error of "
        f"the interaction of size and training is {best['relative_se']:.3f} times the full grid's. "
        "`checkpoints.tsv` beside this page is ready to be copied to `config/`."
    )


def _grid(checkpoints: pd.DataFrame, given: Offer, choice: Choice) -> str:
    """Runs x steps with marks, or the chosen steps of each run where there are too many."""
    chosen = set(given.rows.loc[choice.chosen, "ckpt"])
    steps = sorted(checkpoints["step"].unique())
    runs = list(checkpoints.sort_values(RUN).groupby(RUN, sort=False))
    names = _run_names([run for run, _ in runs])
    if len(steps) > _MOST_STEPS:
        lines = ["| run | chosen | steps |", "| :--- | ---: | :--- |"]
        for name, (_, rows) in zip(names, runs, strict=True):
            taken = sorted(rows.loc[rows["ckpt"].isin(chosen), "step"])
            shown = ", ".join(map(str, taken)) or "–"
            lines.append(f"| {name} | {len(taken)} of {len(rows)} | {shown} |")
        return "\n".join(lines)
    lines = [
        f"| run | {' | '.join(map(str, steps))} |",
        "| :--- |" + " :---: |" * len(steps),
    ]
    for name, (_, rows) in zip(names, runs, strict=True):
        marks = {
            row["step"]: "×" if row["known_bad"] else "●" if row["ckpt"] in chosen else "·"
            for row in rows.to_dict("records")
        }
        lines.append(f"| {name} | {' | '.join(marks.get(step, '') for step in steps)} |")
    key = "● chosen, · left out" + (", × known bad" if checkpoints["known_bad"].any() else "")
    return "\n".join([*lines, "", f"{key}; columns are training steps."])


def _run_names(runs: Sequence[tuple[Any, ...]]) -> list[str]:
    """`pythia 70M`, with the seed where a family and size has several."""
    sizes = dict(
        zip((run[1] for run in runs), short_numbers([run[1] for run in runs]), strict=True)
    )
    models = [run[:2] for run in runs]
    return [
        f"{family} {sizes[size]}" + (f" seed {seed}" if models.count((family, size)) > 1 else "")
        for family, size, seed in runs
    ]


def _comparison(table: pd.DataFrame) -> str:
    head = "| | checkpoints | runs | GPU hours | GB | standard error | smallest detectable |"
    lines = [head, "| :--- |" + " ---: |" * 6]
    for row in table.to_dict("records"):
        if pd.isna(row["checkpoints"]) or pd.isna(row["relative_se"]):
            lines.append(f"| {row['choice']} | {row['status']} |" + " |" * 5)
            continue
        found = row["detectable_points"]
        numbers = [
            *(f"{row[name]:.0f}" for name in ("checkpoints", "runs")),
            *(f"{row[name]:.4g}" for name in ("gpu_hours", "download_gb")),
            f"{row['relative_se']:.3f}",
            f"{found:.2g} points" if np.isfinite(found) else row["status"],
        ]
        lines.append(f"| {row['choice']} | {' | '.join(numbers)} |")
    return "\n".join(lines)


def _advice(table: pd.DataFrame) -> list[str]:
    """Where more sizes would let a test find smaller effects, although the variance is larger."""
    others = table[table.index.str.startswith("best from")].dropna(subset=["detectable_points"])
    if others.empty:
        return []
    best = others.sort_values("detectable_points", kind="stable").iloc[0]
    own = float(table["detectable_points"][CHOSEN])
    if not best["detectable_points"] < own:
        return []
    return [
        f"With `min_models: {best['sizes']:.0f}` the variance is larger and yet a test finds "
        f"smaller interactions ({best['detectable_points']:.2g} points instead of "
        f"{own:.2g}): more runs leave it more degrees of freedom."
    ]


def _losses(given: Offer, choice: Choice, table: pd.DataFrame) -> list[str]:
    rows = given.rows.assign(chosen=choice.chosen)
    by_run = rows.groupby(RUN)["chosen"].agg(["sum", "size"])
    names = _run_names(list(by_run.index))
    unused = [name for name, count in zip(names, by_run["sum"], strict=True) if count == 0]
    used = by_run[by_run["sum"] > 0]
    few = int((used["sum"] < used["size"]).sum())
    losses = []
    if unused:
        losses.append(f"Nothing is learnt of {', '.join(unused)}.")
    if few:
        losses.append(
            f"Runs with gaps: {few} of the {len(used)} that are used; with fewer than four "
            f"checkpoints: {int((used['sum'] < 4).sum())}. A change of direction in a gap goes "
            "unseen."
        )
    if losses:
        losses.append(
            "The choice trusts that performance is linear in log parameters and log tokens. For "
            "shapes, for drift from checkpoint to checkpoint, and for effects in one model only, "
            "score the full grid of the models in question."
        )
    more = max(float(table["relative_se"][CHOSEN]) - 1, 0.0)
    losses.append(f"Standard error of the interaction: {more:.1%} more than in full.")
    return losses


def _method(given: Offer, choice: Choice) -> str:
    budget, model = given.budget, given.budget.model
    text = (
        "Criterion: the smallest variance of the interaction's estimate by generalised least "
        f"squares, with at least {budget.min_models} model sizes and at least "
        f"{budget.min_checkpoints} checkpoints of every run that is used. Error model: the mean "
        "is linear in log10 parameters, log10 tokens and their product; about it, relative to the "
        f"residual variance, runs differ in level ({model.run_intercept:g}) and in slope per "
        f"tenfold of tokens ({model.run_slope:g}), and of the residual {model.correlated:.0%} is "
        "shared with neighbouring checkpoints, with the correlation exp(-distance / "
        f"{model.correlation_length:g}) at a distance in tenfolds of tokens."
    )
    gap = f"no choice has more information by a larger share than {max(choice.gap, TOLERANCE):.1g}"
    if choice.set_aside:
        return (
            f"{text}\n\nRuns with many checkpoints were thinned evenly ({choice.set_aside} of "
            f"{len(given.rows)} candidates set aside); of what remained, {gap} (proven by the "
            "integer programme). The money that was left went one by one to the checkpoint that "
            "lowers the variance most for its cost, which proves nothing."
        )
    return f"{text}\n\nProven by the integer programme: {gap}."


def _sources(given: Offer) -> list[str]:
    lines = []
    for name, source in (("gpu_hours", "gpu_source"), ("download_gb", "download_source")):
        counts = given.costs[source].value_counts(sort=False)
        shown = "; ".join(f"{count} from {origin}" for origin, count in counts.items())
        limit = "" if name in given.budget.limits else " (not limited)"
        lines.append(f"{RESOURCES[name]}{limit}, by checkpoint: {shown}.")
    return lines


def _residual(given: Offer) -> str:
    return f"{100 * given.budget.model.residual_sd:.2g}"


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
