"""How far log-likelihoods move with layout, dtype and device, on real items and one checkpoint.

All are compared with float32 on a CPU in a study's packs. Random weights would not do: what
rounding decides hangs on how far apart a model puts its answers.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from downslope.bench.sets import (
    PROTOCOL,
    ROOT,
    BenchSet,
    Layout,
    agreement,
    decided_among,
    plan_scores,
)
from downslope.engine import Scorer
from downslope.models import empty_model, load_model, longest_sequence
from downslope.protocols import PROTOCOLS
from downslope.self_check import choose_path
from downslope.tables import read_yaml
from downslope.tokenization import FolderTokenizer

log = logging.getLogger("downslope")

Answers = dict[tuple[int, int], float]
"""Log-likelihood by item and choice, both by number."""


class Way(NamedTuple):
    """A way of scoring: dtype, device, tokens of a pack; or without packs, each request by itself
    through all of the model's own code."""

    dtype: str
    device: str
    pack_tokens: int
    whole: bool = False

    @property
    def name(self) -> str:
        layout = "one request at a time" if self.whole else f"packs of {self.pack_tokens:,}"
        device = "a CPU" if self.device == "cpu" else "a GPU"
        return f"{self.dtype} on {device}, {layout}"


class Moved(NamedTuple):
    """What a way changes on a set: the largest and the median difference of an answer's
    log-likelihood, and the number of items that are decided otherwise."""

    way: str
    set: str
    items: int
    largest: float
    median: float
    differ: int


def ways(pack_tokens: int, *, gpu: bool) -> list[Way]:
    """The reference, then what is compared with it."""
    first = Way("float32", "cpu", pack_tokens)
    coarse = [first._replace(dtype=dtype) for dtype in ("float16", "bfloat16")]
    layouts = [first._replace(pack_tokens=pack_tokens // 2), first._replace(whole=True)]
    on_gpu = [way._replace(device="cuda") for way in (first, *coarse)] if gpu else []
    return [first, *layouts, *coarse, *on_gpu]


def moved(folder: Path, sets: Sequence[BenchSet]) -> Iterator[Moved]:
    """Compare all ways on a checkpoint; StudyError where the folder cannot be scored."""
    encode = FolderTokenizer(folder)
    positions = longest_sequence(empty_model(folder, dtype="float32")) or 2048
    pack_tokens = read_yaml(ROOT / "config/config.yaml")["pack_tokens"]
    reference: Mapping[str, Answers] = {}
    compared = ways(pack_tokens, gpu=torch.cuda.is_available())
    for (dtype, device), alike in groupby(compared, key=lambda way: way[:2]):
        model = load_model(folder, dtype=dtype, device=device)
        for way in alike:
            log.info("scoring: %s", way.name)
            layout = Layout(folder, encode, positions, way.pack_tokens)
            found = _answers(model, way, layout, sets)
            if not reference:
                reference = found
                continue
            for bench in sets:
                yield _compared(way, bench, found[bench.name], reference[bench.name])


def _answers(
    model: torch.nn.Module, way: Way, layout: Layout, sets: Sequence[BenchSet]
) -> dict[str, Answers]:
    plans = {bench.name: layout.plan(bench) for bench in sets}
    scorer = Scorer(model)
    choose_path(scorer, [pack for plan in plans.values() for pack in plan.packs])
    scorer.path = "whole" if way.whole else scorer.path
    return {
        name: plan_scores(plan, np.concatenate([ll for ll, _ in scorer.score_packs(plan.packs)]))
        for name, plan in plans.items()
    }


def _compared(way: Way, bench: BenchSet, found: Answers, reference: Answers) -> Moved:
    among = decided_among(bench.items, PROTOCOLS[PROTOCOL])
    differences = [abs(found[key] - value) for key, value in reference.items()]
    differ = agreement(found, reference, among, 0.0).differ
    largest, median = max(differences), float(np.median(differences))
    return Moved(way.name, bench.name, len(bench.items), largest, median, differ)
