"""The costs of a study as a page: one table by size, and what its numbers rest on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pandas as pd

from downslope.cost import HOURS, LEFT, Cost
from downslope.cost_rate import READ_BYTES_PER_SECOND, START_SECONDS
from downslope.cost_work import VOCABULARY, WIDTH_PER_LAYER, Span, Work
from downslope.figure_style import short_numbers

_WHOLE = (*HOURS, "download_gb")


def cost_page(cost: Cost) -> str:
    """The page as Markdown."""
    parts = [
        "# What this study costs",
        _summary(cost),
        _table(cost),
        "## What these numbers rest on",
        _bullets(_reasons(cost)),
    ]
    advice = list(_advice(cost))
    if advice:
        parts += ["## To know it better", _bullets(advice)]
    return "\n\n".join(parts) + "\n"


def amount(value: float) -> str:
    """Three significant digits, and no exponent: `0.0213`, `4.2`, `396`, `12,300`."""
    if 0 < value < 0.001:
        return "< 0.001"
    return f"{float(f'{value:.3g}'):,.0f}" if value >= 999.5 else f"{value:.3g}"


def _unit(cost: Cost) -> str:
    return "GPU hours" if cost.rate.is_gpu else "CPU hours"


def _summary(cost: Cost) -> str:
    table, total = cost.table, cost.table.sum(numeric_only=True)
    works = [work for works in cost.works.values() for work in works.values()]
    guessed = sum(not work.planned for work in works)
    text = (
        f"**{len(table)} checkpoints, {len(cost.study.tasks)} tasks: "
        f"{_between(cost, total, HOURS)}, {amount(total['download_gb'])} GB to download and to "
        f"keep.** On {cost.rate.device}, at a rate that is {cost.rate.source}"
    )
    text += f"; {guessed} of {len(works)} tasks estimated by bytes." if guessed else "."
    done = int((table["left_tasks"] == 0).sum())
    if not total["left_tasks"]:
        return f"{text} All of it is scored: nothing is left to do."
    if any(total[left] < total[whole] for left, whole in zip(LEFT, _WHOLE, strict=True)):
        return (
            f"{text} {done} checkpoints are scored. Still to do: {_between(cost, total, LEFT)}, "
            f"{amount(total['left_download_gb'])} GB to download."
        )
    return f"{text} Nothing of it is done yet."


def _between(cost: Cost, total: pd.Series, names: tuple[str, ...]) -> str:
    best, low, high = (amount(total[name]) for name in names[:3])
    span = f" ({low} to {high})" if low != high else ""
    return f"about {best} {_unit(cost)}{span}"


def _table(cost: Cost) -> str:
    lines = [
        f"| model | checkpoints | {_unit(cost)} | low | high | download, disk GB | largest GB |",
        "| :--- |" + " ---: |" * 6,
    ]
    table = cost.table
    for family, size in dict.fromkeys(zip(table["family"], table["parameters"], strict=True)):
        rows = table[(table["family"] == family) & (table["parameters"] == size)]
        lines.append(_line(f"{family} {short_numbers([size])[0]}", rows, _WHOLE))
    lines.append(_line("**all**", table, _WHOLE))
    if (table[list(LEFT)].sum().to_numpy() < table[list(_WHOLE)].sum().to_numpy()).any():
        lines.append(_line("**still to do**", table[table["left_tasks"] > 0], LEFT))
    return "\n".join(lines)


def _line(name: str, rows: pd.DataFrame, columns: Iterable[str]) -> str:
    shown = [amount(float(rows[column].sum())) for column in columns]
    largest = amount(float(rows["download_gb"].max())) if len(rows) else "0"
    return f"| {name} | {len(rows)} | {' | '.join(shown)} | {largest} |"


def _reasons(cost: Cost) -> list[str]:
    table = cost.table
    lines = [line for name in cost.works for line in _tokens(name, cost.works[name])]
    lines += [
        "Operations: 2 for each computed token and parameter outside of the embeddings, 4 x width "
        "x layers for each pair of tokens that attend, 2 x width x vocabulary for each scored "
        "position; width and layers by rule from the number of parameters (a vocabulary of "
        f"{VOCABULARY}, a width of {WIDTH_PER_LAYER} times the layers). That is within 10 % for "
        "Pythia's eight sizes, 3 % from 1 billion on; others can be further off.",
        cost.rate.text,
        f"Assumed beside it, for each checkpoint: {START_SECONDS} s to start, and its weights "
        f"read at {READ_BYTES_PER_SECOND / 1e9:g} GB/s.",
    ]
    given = int((table["gpu_source"] == "costs.tsv").sum())
    if given:
        lines.append(f"Hours of {given} checkpoints are those of config/costs.tsv.")
    sources = table["download_source"].value_counts(sort=False)
    shown = "; ".join(f"{count} from {source}" for source, count in sources.items())
    data = f" Data sets add {amount(cost.data_gb)} GB." if cost.data_gb else ""
    lines.append(f"Download, by checkpoint: {shown}. GB are 10^9 bytes.{data}")
    size, ckpt = max(zip(table["download_gb"], table["ckpt"], strict=True))
    if size:
        lines.append(
            "Disk: room for all weights at once; the least is room for the largest checkpoint, "
            f"{ckpt} with {amount(size)} GB."
        )
    if cost.rate.is_gpu:
        each = table["gpu_hours"].sum() / table["parameters"].sum() * 1e9
        lines.append(
            "`choose_checkpoints` goes by parameters alone, at the rate of the published study "
            f"unless told otherwise: `gpu_hours_per_billion: {float(f'{each:.3g}'):g}`, under "
            "`budget` in config.yaml, makes it spend these hours."
        )
    bad = len(cost.study.checkpoints) - len(table)
    if bad:
        lines.append(f"Not counted: {bad} checkpoints that are known_bad.")
    return lines


def _tokens(tokenizer: str, works: Mapping[str, Work]) -> list[str]:
    planned = [work for work in works.values() if work.planned]
    guessed = [work for work in works.values() if not work.planned]
    lines = []
    if planned:
        count = sum(work.tokens().best for work in planned)
        lines.append(
            f"Counted from plans (tokenizer {tokenizer}): {_names(planned)}; {amount(count)} "
            "tokens to compute."
        )
    if guessed:
        low, best, high = (
            sum(each) for each in zip(*(work.tokens() for work in guessed), strict=True)
        )
        lines.append(
            f"**Estimated by bytes, for want of a plan** (tokenizer {tokenizer}): "
            f"{_names(guessed)}; about {amount(best)} tokens{_range(Span(low, best, high))}. "
            "Tokens per byte are those of data sets of the same form; low and high are the "
            "extremes among these and no bounds."
        )
    return lines


def _range(span: Span) -> str:
    return f" ({amount(span.low)} to {amount(span.high)})" if span.low < span.high else ""


def _names(works: Iterable[Work]) -> str:
    return ", ".join(work.task for work in works)


def _advice(cost: Cost) -> Iterable[str]:
    hub = [row for row in cost.study.usable if row.is_hub]
    unlocked = not cost.table["download_source"].isin(["lock", "local folder", "costs.tsv"]).all()
    if hub and unlocked:
        yield "`snakemake --cores 1 resolve` looks sizes up and writes the lock (network)."
    if any(not work.planned for works in cost.works.values() for work in works.values()):
        yield (
            "`snakemake --cores all --keep-going plans` makes the plans that are missing; it needs "
            "the data sets and, for a tokenizer of the hub, the lock and the network."
        )
    if cost.rate.source == "assumed":
        yield (
            "State your GPU in config.yaml, `cost: {tflops: 155, share: 0.3}`, or score one "
            "checkpoint: its rate is then used."
        )


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
