"""One run of the benchmark: every shape on every set, in a given time.

Fixed cost and memory are measured first, in processes of their own. Then each shape gets a part of
the remaining time that grows with the fourth root of what a token costs it, and within a shape the
cheapest set comes first, so that what it leaves goes to the others.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from downslope.allocation import keep_freed_memory
from downslope.bench.harness import Harness, Tried, require_harness
from downslope.bench.kernels import kernel_seconds, most_pairs
from downslope.bench.models import ARCHITECTURES, POSITIONS, SHAPES, known, random_model
from downslope.bench.operations import MatrixRate, costs_of
from downslope.bench.page import Report
from downslope.bench.process import fixed_cost, score_in_process
from downslope.bench.rounds import TIES, Model, measure
from downslope.bench.sets import (
    ROOT,
    TOKENIZER,
    BenchSet,
    Layout,
    Work,
    find_mirror,
    read_sets,
)
from downslope.bench.table import Row
from downslope.engine import Scorer
from downslope.errors import StudyError
from downslope.lanes import lanes_for
from downslope.logs import duration
from downslope.plan import Plan, write_plan
from downslope.process import cores
from downslope.self_check import choose_path
from downslope.tables import read_yaml
from downslope.tokenization import FolderTokenizer

log = logging.getLogger("downslope")


@dataclass(frozen=True)
class Settings:
    """What to measure: shapes and sets by name, and how long it may take in all."""

    shapes: Sequence[str]
    sets: Sequence[str]
    architecture: str
    seconds: float
    device: str
    dtype: str
    harness: bool

    def name(self, shape: str) -> str:
        """What a model of this run is called in its table."""
        return f"{self.architecture}-{shape}"


def check(settings: Settings) -> None:
    """StudyError for settings that nothing can be measured with, before anything is."""
    for shape in settings.shapes:
        known(shape, SHAPES, "the shape")
    known(settings.architecture, ARCHITECTURES, "the architecture")
    known(settings.dtype, TIES, "the dtype")
    known(settings.device, ("cpu", "cuda"), "the device")
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise StudyError("torch finds no GPU here", remedy="Leave --device out, or ask for cpu.")


def bench(settings: Settings) -> Report:
    """Measure; raises StudyError where items, harness or device are not at hand."""
    from transformers.utils.logging import disable_progress_bar

    check(settings)
    disable_progress_bar()
    ends = time.monotonic() + settings.seconds
    version = require_harness() if settings.harness else None
    mirror = find_mirror()
    sets = read_sets(settings.sets, mirror)
    torch.set_num_threads(cores())
    keep_freed_memory()  # as a scoring process does
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        layout = _layout(mirror, folder / "tokenizer")
        log.info("laying out %d items", sum(len(each.items) for each in sets))
        plans = {each.name: layout.plan(each) for each in sets}
        works = {each.name: layout.work(each, plans[each.name]) for each in sets}
        rate = MatrixRate(torch.device(settings.device), getattr(torch, settings.dtype))
        report = Report([], {}, rate, settings.dtype, version, TIES[settings.dtype], "packed")
        # The largest pack of each set: the first one for the fixed cost, all for memory.
        packs = [max(plan.packs, key=lambda pack: len(pack.tokens)) for plan in plans.values()]
        write_plan(replace(plans[sets[0].name], packs=packs), folder / "plan")
        _in_processes(settings, report, layout, folder, len(packs))
        waiting = list(settings.shapes)
        while waiting:
            weights = [(SHAPES[s].hidden ** 2 * SHAPES[s].layers) ** 0.25 for s in waiting]
            log.info("%s left in all", duration(max(0.0, ends - time.monotonic())))
            seconds = (ends - time.monotonic()) * weights[0] / sum(weights)
            _measure_shape(settings, waiting.pop(0), sets, plans, works, layout, seconds, report)
    return report


def _layout(mirror: Path, folder: Path) -> Layout:
    """Pythia's tokenizer, in a folder as a checkpoint has it, and the paper's study's packs."""
    folder.mkdir()
    shutil.copyfile(mirror / TOKENIZER, folder / "tokenizer.json")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "GPTNeoXTokenizer"}\n')
    config = read_yaml(ROOT / "config/config.yaml")
    return Layout(folder, FolderTokenizer(folder), POSITIONS, config["pack_tokens"])


def _in_processes(
    settings: Settings, report: Report, layout: Layout, folder: Path, packs: int
) -> None:
    """Fixed cost at the first shape, memory at the last, of processes that score a plan."""
    first, last = settings.shapes[0], settings.shapes[-1]
    given = {"dtype": settings.dtype, "device": settings.device}
    log.info("fixed cost of a scoring process, %s", first)
    checkpoint = _written(settings, first, layout, folder)
    report.fixed = (
        settings.name(first),
        fixed_cost(checkpoint, folder / "plan", threads=cores(), **given),
    )
    if settings.device != "cpu":
        return  # of a GPU's memory, torch keeps account in this process too
    log.info("memory of a scoring process, %s", last)
    checkpoint = _written(settings, last, layout, folder)
    process = score_in_process(checkpoint, folder / "plan", threads=cores(), packs=packs, **given)
    report.memory = settings.name(last), process.peak - process.weights, process.weights


def _written(settings: Settings, shape: str, layout: Layout, folder: Path) -> Path:
    """A checkpoint with random weights, as a study would find it."""
    place = folder / shape
    if not place.is_dir():
        model = random_model(
            settings.architecture, shape, dtype=settings.dtype, device=settings.device
        )
        model.save_pretrained(place)
        shutil.copytree(layout.tokenizer, place, dirs_exist_ok=True)
    return place


def _measure_shape(
    settings: Settings,
    shape: str,
    sets: Sequence[BenchSet],
    plans: Mapping[str, Plan],
    works: Mapping[str, Work],
    layout: Layout,
    seconds: float,
    report: Report,
) -> None:
    """Add a shape's rows to the report, in the order of `sets`."""
    ends = time.monotonic() + seconds
    name = settings.name(shape)
    log.info("%s: making the model", name)
    sides = [
        random_model(settings.architecture, shape, dtype=settings.dtype, device=settings.device)
        for _ in range(2 if settings.harness else 1)
    ]
    scorer = Scorer(sides[0], lanes=lanes_for(cores(), settings.device))
    if scorer.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    loaded = torch.cuda.memory_allocated()  # 0 without a GPU
    waiting = sorted(sets, key=lambda each: works[each.name].read)
    choose_path(scorer, plans[waiting[0].name].packs)
    report.path = report.path if scorer.path == "packed" else scorer.path
    harness = Harness(sides[1], layout.tokenizer) if settings.harness else None
    if report.kernels is None and scorer.path == "packed":
        log.info("%s: attention kernels", name)
        largest = most_pairs([pack for plan in plans.values() for pack in plan.packs])
        report.kernels = name, kernel_seconds(scorer, largest)
    model = Model(name, settings.dtype, scorer, harness, costs_of(sides[0]), report.rate)
    rows: dict[str, Row] = {}
    trials: dict[tuple[str, str], Sequence[Tried]] = {}
    while waiting:
        left = max(0.0, ends - time.monotonic())
        each = waiting[0]
        log.info("%s, %s: sets to go at this shape: %d, time left for them: %s", name, each.name,
                 len(waiting), duration(left))  # fmt: skip
        rows[each.name], trials[name, each.name] = measure(
            model,
            each,
            works[each.name],
            plans[each.name].packs,
            layout,
            seconds=left / len(waiting),
            both=shape == settings.shapes[0],
        )
        waiting = waiting[1:]
    report.rows += [rows[each.name] for each in sets]
    report.trials.update(trials)
    if scorer.device.type == "cuda" and not settings.harness:
        weights = sum(parameter.nbytes for parameter in scorer.model.parameters())
        report.memory = name, torch.cuda.max_memory_allocated() - loaded, weights
