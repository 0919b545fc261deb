"""What a benchmark says around its table: machine, method, how it was done, further figures."""

from __future__ import annotations

import platform
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from statistics import median

import pandas as pd
import torch

from downslope.bench.harness import Tried
from downslope.bench.kernels import Kernels
from downslope.bench.operations import SIDE, MatrixRate
from downslope.bench.own_packs import ROUNDS
from downslope.bench.process import FixedCost
from downslope.bench.table import Row, grouped, markdown_table, seconds_text, terminal_table
from downslope.process import cores, processor

WIDTH = 120
FIXED_GOAL, MEMORY_GOAL = 1.5, 1e9

Trials = dict[tuple[str, str], Sequence[Tried]]
"""How the harness's batches did, by model and set."""


@dataclass
class Report:
    """All that one run of the benchmark found; the parts that were not measured are None.

    memory  name of the model, and bytes at the process's peak above those of the weights
    """

    rows: list[Row]
    trials: Trials
    rate: MatrixRate
    dtype: str
    harness: str | None
    tie: float
    path: str
    fixed: tuple[str, FixedCost] | None = None
    memory: tuple[str, int, int] | None = None
    kernels: tuple[str, Kernels] | None = None


def machine(report: Report) -> list[str]:
    """Date, processor, versions, and the matrix rate that shares are of."""
    device = report.rate.device
    where = (
        f"{processor() or platform.machine()}, {cores()} cores, {torch.get_num_threads()} threads"
    )
    if device.type == "cuda":
        where = f"{torch.cuda.get_device_name(device)}; {where}"
    versions = [f"{name} {version(name)}" for name in ("torch", "transformers")]
    low, high = min(report.rate.rates) / 1e9, max(report.rate.rates) / 1e9
    own = report.rate.torch_rates
    lines = [
        f"{datetime.now().astimezone():%Y-%m-%d %H:%M %Z}; {where}",
        f"{', '.join(versions)}, Python {platform.python_version()}; random weights in "
        f"{report.dtype}",
        f"{report.rate.median / 1e9:,.0f} GFLOP/s: median of {len(report.rate.rates)} products of "
        f"{SIDE} x {SIDE} {report.dtype} matrices between the runs ({low:,.0f} to {high:,.0f})",
    ]
    if own:
        usual = median(own) / 1e9
        lines.append(f"by oneDNN, as the engine's; torch's own, by MKL: {usual:,.0f} GFLOP/s")
    return lines


def title(report: Report) -> str:
    if report.harness is None:
        return "Downslope's engine"
    return f"Downslope's engine and lm-evaluation-harness {report.harness} (Hugging Face backend)"


def legend(report: Report) -> list[str]:
    """What the columns say."""
    texts = [
        "items: the fraction timed (every so many items). tokens: naive, of all requests read one "
        "by one; distinct, those that differ in themselves or in what precedes them; computed, by "
        "Downslope's packs. s: seconds; Downslope's include plan, that is tokenising and layout.",
        "all in proportion: each set's seconds times the naive tokens of the whole set over those "
        "of the fraction, added up; requests and tokens are those of the whole sets.",
        "share: useful operations (products for distinct tokens and attention to their ancestors, "
        "but the last layer, beyond keys and values, only where an answer is predicted, as the "
        "output layer) a second, over the matrix rate before and after, at packs of the whole set, "
        f"{ROUNDS} for each that is computed at a time: a fraction has others, and fewer.",
    ]
    if report.harness is not None:
        texts[1:1] = [
            "harness: at its fastest batch of 1, 4, 16 and 64; one call for all requests, as its "
            "evaluator makes it. Freed memory goes back to the system as in any process, where "
            "Downslope keeps it for what comes next. ratio: its seconds over Downslope's. gap: "
            "largest difference of a log-likelihood. flips: items decided differently, in brackets "
            f"all whose two best choices the harness scores within {report.tie:g}.",
        ]
    return texts


def sets_timed(report: Report) -> Iterator[str]:
    """Of each row the counts behind its fraction, and how the harness's batches did."""
    for row in report.rows:
        part = row.part
        text = (
            f"{row.model}, {row.set}: {part.items} of {row.whole.items} items, {part.requests:,} "
            f"requests, {part.different:,} of them different"
        )
        tried = report.trials.get((row.model, row.set), ())
        rates = [f"batch {t.batch} {1 / t.seconds:,.0f}" for t in tried if t.seconds]
        if rates:
            text += f"; harness tokens/s on a sample: {', '.join(rates)}"
        text += "".join(f"; {t.batch} not tried: {t.why}" for t in tried if t.seconds is None)
        yield text


def further(report: Report) -> Iterator[str]:
    """Both protocols instead of one, fixed cost, memory, as far as they were measured."""
    for model, own in grouped(report.rows):
        last = own[-1]
        if last.both_seconds is not None:
            yield (
                f"Both protocols instead of one, {model}, {last.set}: "
                f"{last.both_seconds / last.seconds:.2f} times the time "
                f"({seconds_text(last.both_seconds)} s instead of {seconds_text(last.seconds)} s)."
            )
    if report.fixed is not None:
        model, cost = report.fixed
        yield (
            f"Fixed cost, {model}: {cost.own:.2f} s from the start of a scoring process to its "
            f"first pack, that pack not counted, {cost.check:.2f} s of it for the self-check; "
            "importing torch and transformers and reading the weights takes "
            f"{cost.imports:.2f} s: {cost.ratio:.2f} times (aim: at most {FIXED_GOAL})."
        )
    if report.memory is not None:
        model, above, weights = report.memory
        yield (
            f"Memory, {model}: {above / 1e9:.2f} GB above the {weights / 1e9:.2f} GB of weights at "
            f"its peak (aim: at most {MEMORY_GOAL / 1e9:.1f} GB)."
        )
    if report.kernels is not None:
        model, kernels = report.kernels
        by = kernels.by_kernel.items()
        times = [f"{kernel} {seconds_text(seconds)} s" for kernel, seconds in by if seconds]
        refused = [kernel for kernel, seconds in by if seconds is None]
        yield (
            f"Attention, {model}: the pack with the most of it takes "
            f"{seconds_text(kernels.chosen) or '?'} s by the kernel that torch picks, which is the "
            f"engine's; {', '.join(times)}; refused: {', '.join(refused) or 'none'}."
        )
    if report.path != "packed":
        yield f"Downslope's self-check refused the packed path: its {report.path} path was timed."


def terminal_page(report: Report) -> str:
    """The page for a terminal of 120 columns."""
    lines = [title(report), *machine(report), "", terminal_table(report.rows), ""]
    for text in further(report):
        lines += textwrap.wrap(text, WIDTH)
    lines.append("")
    for text in (*sets_timed(report), "", *legend(report)):
        lines += textwrap.wrap(text, WIDTH, subsequent_indent="  ") or [""]
    return "\n".join(lines)


def markdown_page(report: Report) -> str:
    """The same as a page."""
    lines = [f"# {title(report)}", "", *(f"- {text}" for text in machine(report)), ""]
    lines += [markdown_table(report.rows), "", *(f"- {text}" for text in further(report)), ""]
    lines += ["## How it was timed", "", *(f"- {text}" for text in sets_timed(report)), ""]
    return "\n".join([*lines, *(f"- {text}" for text in legend(report)), ""])


def as_frame(rows: Sequence[Row]) -> pd.DataFrame:
    """Every number of every row, one column each, in seconds, operations and counts."""
    return pd.DataFrame([_record(row) for _, own in grouped(rows) for row in own])


def _record(row: Row) -> dict[str, str | int | float | None]:
    return {
        "model": row.model,
        "set": row.set,
        "items": row.part.items,
        "of_items": row.whole.items,
        "requests": row.part.requests,
        "distinct_requests": row.part.different,
        "harness_sequences": row.part.sequences,
        "naive_tokens": row.part.naive,
        "distinct_tokens": row.part.needed.tokens,
        "computed_tokens": row.part.computed,
        "harness_batch": row.batch,
        "harness_seconds": row.harness_seconds,
        "plan_seconds": row.plan_seconds,
        "score_seconds": row.score_seconds,
        "downslope_seconds": row.seconds,
        "both_protocols_seconds": row.both_seconds,
        "ratio": row.ratio,
        "largest_difference": row.difference,
        "decisions_differ": row.differ,
        "ties": row.ties,
        "tokens_per_second": row.tokens_per_second,
        "useful_operations_of_all": row.operations,
        "matrix_rate": row.rate,
        "share": row.share,
    }
