"""lm-evaluation-harness with the Hugging Face backend, as one side of the benchmark.

It is given what its own tasks would give it, in one call for all tasks, as its evaluator does. It
then runs equal sequences once, sorts by length and pads within a batch. Which batch suits a set is
found out by trying; larger ones make better products but write larger logits, all of them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import torch

from downslope.allocation import ordinary_allocation
from downslope.bench.models import VOCABULARY
from downslope.bench.operations import wait_for
from downslope.bench.sets import PROTOCOL, Asked, BenchSet, Layout, Work, harness_requests
from downslope.errors import StudyError
from downslope.logs import duration
from downslope.protocols import PROTOCOLS

BATCHES = (1, 4, 16, 64)
CLEARLY = 1.1
"""A batch that takes this many times the best one's time ends the search: larger ones only grow."""

LEAST_SAMPLE = 4
"""Sequences on which a batch is tried, at least."""

_COPIES = 2.5  # of a batch's logits: themselves, their log-softmax, and what else is at hand


def require_harness() -> str:
    """The installed version of the harness; StudyError where it is absent."""
    try:
        return version("lm_eval")
    except PackageNotFoundError:
        raise StudyError(
            "lm-evaluation-harness (lm_eval) is not installed, so there is nothing to compare with",
            remedy="`make bench` installs it (requirements-test.txt); --no-harness times "
            "Downslope alone.",
        ) from None


class Harness:
    """The harness around a model that is in memory already."""

    def __init__(self, model: Any, tokenizer: Path) -> None:
        from transformers import AutoTokenizer

        # It warns of a model handed over, and of each request that it cuts.
        logging.getLogger("lm_eval").setLevel(logging.ERROR)
        reader = AutoTokenizer.from_pretrained(str(tokenizer), local_files_only=True)
        backend = import_module("lm_eval.models.huggingface")
        self._model = backend.HFLM(pretrained=model, tokenizer=reader, batch_size=1)
        self._request = import_module("lm_eval.api.instance").Instance
        self._device = torch.device(model.device)
        self.width = model.dtype.itemsize

    def loglikelihoods(self, asked: Sequence[Asked], batch: int) -> tuple[list[float], float]:
        """Log-likelihood of each request, and the seconds of the one call that gives them."""
        self._model.batch_size_per_gpu = batch
        requests = [
            self._request(
                request_type="loglikelihood",
                doc={},
                arguments=(ask.context, ask.continuation),
                idx=number,
            )
            for number, ask in enumerate(asked)
        ]
        wait_for(self._device)
        with ordinary_allocation():  # as in its own process
            begun = time.perf_counter()
            answers = self._model.loglikelihood(requests, disable_tqdm=True)
            seconds = time.perf_counter() - begun
        return [float(loglikelihood) for loglikelihood, _ in answers], seconds


class Tried(NamedTuple):
    """A batch on a sample: seconds for each token of its sequences, or why it was not tried."""

    batch: int
    seconds: float | None
    sequences: int = 0
    why: str = ""


@dataclass(frozen=True)
class Allowance:
    """What a search for the best batch may use: seconds in all, and bytes of logits."""

    seconds: float
    memory: float


def try_batches(
    harness: Harness, bench: BenchSet, whole: Work, layout: Layout, allowed: Allowance, name: str
) -> list[Tried]:
    """How long the harness takes for a token at each batch, smallest first.

    Each runs on every so many items, as many as the seconds have room for and as the batch needs.
    The smallest is tried in any case. `name` is the model's, for the log.
    """
    log = logging.getLogger("downslope")
    begun = time.monotonic()
    # A first run is a slow one; it says about how long a token takes and is not counted.
    first = replace(bench, items=bench.items[:1])
    _, took = harness.loglikelihoods(harness_requests(first.items, PROTOCOLS[PROTOCOL]), BATCHES[0])
    guess = took / layout.work(first, layout.plan(first)).read
    affordable = int(allowed.seconds / len(BATCHES) / guess / (whole.read / whole.sequences))
    tried: list[Tried] = []
    for batch in BATCHES:
        count = max(batch, LEAST_SAMPLE, min(affordable, 2 * BATCHES[-1]))
        sample = bench.thinned(max(1, min(len(bench.items), whole.sequences // count)))
        work = layout.work(sample, layout.plan(sample))
        logits = logits_bytes(min(batch, work.sequences), work.read / work.sequences, harness.width)
        left = allowed.seconds - (time.monotonic() - begun)
        if give_up(tried):
            why = "the one before was slower"
        elif logits > allowed.memory:
            why = f"its logits need {logits / 1e9:.0f} GB"
        elif tried and work.read * guess > left:
            why = f"{work.sequences} sequences would take {duration(work.read * guess)}"
        else:
            why = ""
        if why:
            tried.append(Tried(batch, None, why=why))
            continue
        asked = harness_requests(sample.items, PROTOCOLS[PROTOCOL])
        log.info("%s, %s: the harness at batch %d on %d sequences, about %s", name, bench.name,
                 batch, work.sequences, duration(work.read * guess))  # fmt: skip
        guess = harness.loglikelihoods(asked, batch)[1] / work.read
        tried.append(Tried(batch, guess, work.sequences))
    return tried


def logits_bytes(batch: int, length: float, width: int) -> float:
    """Memory that the harness needs for the logits of a batch, `width` bytes a number."""
    return _COPIES * batch * length * VOCABULARY * width


def best_of(tried: Sequence[Tried]) -> Tried:
    """The batch that took least time for a token."""
    return min((t for t in tried if t.seconds is not None), key=lambda t: t.seconds or 0.0)


def give_up(tried: Sequence[Tried]) -> bool:
    """Whether the last batch tried was clearly slower than the best before it."""
    seconds = [t.seconds for t in tried if t.seconds is not None]
    return len(seconds) > 1 and seconds[-1] > CLEARLY * min(seconds[:-1])


def free_memory(device: torch.device) -> float:
    """Bytes that can still be taken on the device."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    found = Path("/proc/meminfo")
    for line in found.read_text().splitlines() if found.is_file() else []:
        if line.startswith("MemAvailable:"):
            return 1024.0 * int(line.split()[1])
    return float("inf")
