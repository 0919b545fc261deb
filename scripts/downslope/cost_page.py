"""The costs of a study as a page: one table by size, and what its numbers rest on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pandas as pd

from downslope.cost import HOURS, LEFT, Cost
from downslope.cost_rate import READ_BYTES_PER_SECOND, START_SECONDS
from downslope.cost_work import VOCABULARY, WIDTH_PER_LAYER, Work
from downslope.figure_style import short_numbers
from downslope.scoring_resources import GPU_GB

_WHOLE = (*HOURS, "download_gb")


def cost_page(cost: Cost, study: str = "") -> str:
    """The page as Markdown; commands in it are for the `study` of this folder, if one is named."""
    parts = [
        "# What this study costs",
        _summary(cost),
        _table(cost),
        "## What these numbers rest on",
        _bullets(_reasons(cost)),
    ]
    advice = list(_advice(cost, f"--directory {study} " if study else ""))
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
    download, keep = total["download_gb"], _keep(cost)
    kept = " and to keep" if keep == download else f", at most {amount(keep)} GB of it on disk"
    text = (
        f"**{len(table)} checkpoints, {len(cost.study.tasks)} tasks: "
        f"{_between(cost, total, HOURS)}, {amount(download)} GB to download{kept}.** "
        f"On {cost.rate.device}, at a rate that is {cost.rate.source}"
    )
    text += f"; {guessed} of {len(works)} plans are not made yet." if guessed else "."
    done = int((table["left_tasks"] == 0).sum())
    if not total["left_tasks"]:
        return f"{text} All of it is scored: nothing is left to do."
    if any(total[left] < total[whole] for left, whole in zip(LEFT, _WHOLE, strict=True)):
        return (
            f"{text} {done} of {len(table)} checkpoints are scored. Still to do: "
            f"{_between(cost, total, LEFT)}, "
            f"{amount(total['left_download_gb'])} GB to download."
        )
    return f"{text} Nothing of it is done yet."


def _keep(cost: Cost) -> float:
    """GB of weights that lie on the disk at once."""
    total = float(cost.table["download_gb"].sum())
    return min(total, cost.study.machine.get("disk_budget_gb", total))


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
        "Pythia's eight sizes, 3 % from 1 billion on. Others can be further off: models of "
        "experts need less, since only a few of their parameters work for a token; very small "
        "ones with a small vocabulary need more.",
        cost.rate.text,
        f"Assumed beside it, for each checkpoint: {START_SECONDS} s to start, and its weights "
        f"read at {READ_BYTES_PER_SECOND / 1e9:g} GB/s.",
        _devices(cost),
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
        passing = _keep(cost) < table["download_gb"].sum()
        room = "what `disk_budget_gb` allows" if passing else "room for all weights at once"
        lines.append(
            f"Disk: {room}; the least is room for the largest checkpoint, {ckpt} with "
            f"{amount(size)} GB."
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
    if any(row.source.startswith("resources/") for row in cost.study.usable):
        lines.append(
            "Not counted: what rules of this study make, such as checkpoints under resources/, "
            "in time and on the disk."
        )
    return lines


def _devices(cost: Cost) -> str:
    """What an hour is an hour of."""
    if not cost.rate.is_gpu:
        return "CPU hours are those of a job with as many threads as were measured."
    table, each = cost.table, cost.study.machine.get("gpu_gb", GPU_GB)
    larger = table[table["gpus"] > 1]
    of_size = f"GPU of {each:g} GB (`machine: gpu_gb` says how large yours are)"
    if larger.empty:
        return f"Each checkpoint takes one {of_size}."
    return (
        f"{len(larger)} checkpoints take more than one {of_size}, up to {table['gpus'].max()}, and "
        "an hour of theirs counts as often."
    )


def _tokens(tokenizer: str, works: Mapping[str, Work]) -> list[str]:
    planned = [work for work in works.values() if work.planned]
    counted = [work for work in works.values() if work.counted]
    guessed = [work for work in works.values() if not work.planned and not work.counted]
    lines = []
    if planned:
        count = sum(work.tokens().best for work in planned)
        lines.append(
            f"Counted from plans (tokenizer {tokenizer}): {_names(planned)}; {amount(count)} "
            "tokens to compute."
        )
    if counted:
        lines.append(
            "**Counted before, with Pythia's tokenizer and both protocols, for want of a plan** "
            f"(tokenizer {tokenizer}): {_names(counted)}; about {_in_all(counted)}."
        )
    if guessed:
        lines.append(
            f"**Estimated by bytes, for want of a plan** (tokenizer {tokenizer}): "
            f"{_names(guessed)}; about {_in_all(guessed)}."
        )
    if counted or guessed:
        lines.append(
            "Tokens per byte are those of data sets of the same form; low and high are the "
            "extremes among these and no bounds."
        )
    return lines


def _in_all(works: Iterable[Work]) -> str:
    low, best, high = (sum(each) for each in zip(*(work.tokens() for work in works), strict=True))
    return f"{amount(best)} tokens" + (f" ({amount(low)} to {amount(high)})" if low < high else "")


def _names(works: Iterable[Work]) -> str:
    return ", ".join(work.task for work in works)


def _advice(cost: Cost, place: str) -> Iterable[str]:
    hub = [row for row in cost.study.usable if row.is_hub]
    unlocked = not cost.table["download_source"].isin(["lock", "local folder", "costs.tsv"]).all()
    if hub and unlocked:
        yield f"`snakemake --cores 1 {place}resolve` looks sizes up and writes the lock (network)."
    if any(not work.planned for works in cost.works.values() for work in works.values()):
        yield (
            f"`snakemake --cores all {place}--keep-going plans` makes the plans that are missing; "
            "it needs the data sets and, for a tokenizer of the hub, the lock and the network."
        )
    if cost.rate.source == "assumed":
        yield (
            "State your GPU in config.yaml, `cost: {tflops: 155, share: 0.3}`, or score one "
            "checkpoint: its rate is then used."
        )


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
