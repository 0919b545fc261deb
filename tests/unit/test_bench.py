"""The benchmark's table, its arithmetic, its budget and its refusals; nothing here is timed."""

from __future__ import annotations

import contextlib
import importlib.metadata
import math
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import bench_engine
from downslope import products
from downslope.bench import harness, kernels, operations, process
from downslope.bench.harness import (
    Allowance,
    Tried,
    best_of,
    give_up,
    logits_bytes,
    require_harness,
    try_batches,
)
from downslope.bench.kernels import Kernels, kernel_seconds, most_pairs
from downslope.bench.models import SHAPES, Shape
from downslope.bench.operations import Costs, MatrixRate, Needed
from downslope.bench.own_packs import drawn, share_of_rate
from downslope.bench.page import Report, as_frame, markdown_page, terminal_page
from downslope.bench.process import FixedCost, score_in_process
from downslope.bench.rounds import Model, Rounds, Run, _row, fraction
from downslope.bench.sets import Asked, BenchSet, Layout, Work, named, read_sets
from downslope.bench.table import Row, in_proportion, terminal_table
from downslope.engine import Scorer
from downslope.errors import StudyError
from downslope.items import Item
from downslope.models import load_model
from downslope.packing import pack_requests
from downslope.plan import write_plan
from downslope.protocols import Request
from downslope.tokenization import FolderTokenizer
from tiny_study import make_model

PART = Work(
    items=10, requests=40, different=30, naive=1000, sequences=20, read=700,
    needed=Needed(tokens=200, pairs=5000, rows=60, row_pairs=1500), computed=220,
)  # fmt: skip
WHOLE = replace(PART, items=100, requests=400, naive=8000, computed=1500)
ROW = Row(
    model="70m", set="neqa", every=10, part=PART, whole=WHOLE, plan_seconds=0.5, score_seconds=2.0,
    seconds=2.5, operations=30e9, share=0.75, rate=2e9, both_seconds=3.0, harness_seconds=10.0,
    batch=4, difference=2e-6, differ=1, ties=2,
)  # fmt: skip
OTHER = replace(
    ROW, set="truthfulqa", whole=replace(WHOLE, naive=2000), score_seconds=1.0, seconds=1.5,
    harness_seconds=60.0, batch=64, operations=10e9, share=0.5, rate=4e9, difference=4e-6,
    differ=0, ties=0, both_seconds=1.5,
)  # fmt: skip
TRIED = [Tried(1, 0.002, 20), Tried(4, 0.001, 20), Tried(16, None, why="the one before was slower")]


def report(*rows: Row, harness: str | None = "0.4.13") -> Report:
    rate = MatrixRate.__new__(MatrixRate)
    rate.device, rate.dtype, rate.rates = torch.device("cpu"), torch.float32, [90e9, 120e9, 130e9]
    rate.torch_rates = [60e9]
    trials = {("70m", "neqa"): TRIED}
    fixed, memory = ("70m", FixedCost(6.0, 0.5, 5.0)), ("410m", 700_000_000, 1_600_000_000)
    kernels = "70m", Kernels(0.5, {"flash": 0.5, "efficient": None, "math": 0.75})
    given = {"fixed": fixed, "memory": memory, "kernels": kernels}
    return Report(list(rows), trials, rate, "float32", harness, 1e-4, "packed", **given)


def alone(row: Row) -> Row:
    nothing = {"harness_seconds": None, "batch": None, "difference": None}
    return replace(row, **nothing, differ=None, ties=None)


def test_ratio_and_rate_of_a_row():
    assert ROW.ratio == 4.0
    assert ROW.tokens_per_second == 110


def test_all_in_proportion_scales_each_set_by_its_naive_tokens():
    total = in_proportion([ROW, OTHER])  # 8 fractions of one, 2 of the other
    assert total.harness_seconds == 8 * 10 + 2 * 60
    assert total.seconds == 8 * 2.5 + 2 * 1.5
    assert total.ratio == 200 / 23
    assert total.both_seconds == 8 * 3 + 2 * 1.5
    assert (total.plan_seconds, total.score_seconds) == (5.0, 18.0)
    assert total.operations == 40e9
    assert total.share == 40 / (30 / 0.75 + 10 / 0.5)  # of operations that were possible
    assert total.rate == (16 * 2e9 + 2 * 4e9) / 18
    assert (total.part.requests, total.part.naive, total.part.computed) == (800, 10_000, 3000)
    assert total.part.needed.tokens == 400
    assert (total.difference, total.differ, total.ties) == (4e-6, 1, 2)


def test_without_the_harness_nothing_is_said_of_it():
    total = in_proportion([alone(ROW), alone(OTHER)])
    assert total.harness_seconds is total.ratio is total.difference is total.differ is None
    page = terminal_page(replace(report(alone(ROW), alone(OTHER), harness=None), trials={}))
    assert "harness" not in page.lower()
    assert "tokens/s" in page
    assert "ratio" not in page.replace("operations", "")


def test_terminal_table_in_aligned_columns():
    large = replace(
        OTHER, whole=replace(WHOLE, requests=9996, naive=1_806_034), harness_seconds=123.4
    )
    text = terminal_table([ROW, replace(large, set="hindsight-neglect")])
    lines = text.split("\n")
    assert lines[2:4] == ["", "70m"]
    heading, first, second, last = (lines[k] for k in (1, 4, 5, 6))
    assert len({len(line) for line in (heading, first, second, last)}) == 1
    assert len(heading) <= 120
    assert first.split() == [
        *("neqa", "1/10", "40", "1,000", "200", "220", "4", "10.0", "0.50", "2.50", "4.0"),
        *("2e-06", "1", "(2)", "0.75"),
    ]
    assert last.startswith("all in proportion")
    assert last.split()[3:6] == ["all", "10,396", "1,814,034"]
    # Names of groups stand above their columns.
    for group, title in (("tokens", "distinct"), ("harness", "batch"), ("Downslope", "plan")):
        at = lines[0].index(group)
        assert at < heading.index(title) + len(title)
        assert heading.index(title) < at + len(group)


def test_a_single_set_has_no_row_for_all():
    assert "proportion" not in terminal_table([ROW])


def test_the_page_says_machine_method_and_further_figures():
    text = terminal_page(report(ROW, OTHER))
    assert max(map(len, text.split("\n"))) <= 120
    for part in (
        "lm-evaluation-harness 0.4.13",
        "120 GFLOP/s: median of 3 products of 4096 x 4096 float32 matrices",
        "(90 to 130) by oneDNN, as the engine's; torch's own, by MKL: 60 GFLOP/s",
        "all in proportion: 1.17 times the time (27.0 s instead of 23.0 s)",
        "0.50 s of it for the self-check",
        "takes 5.00 s: 1.20 times (aim: at most 1.5).",
        "0.70 GB above the 1.60 GB of weights",
        "takes 0.50 s by the kernel that torch picks, which is the engine's; flash 0.50 s, math "
        "0.75 s; refused: efficient.",
        "70m, neqa: 10 of 100 items, 40 requests, 30 of them different; harness tokens/s on a "
        "sample: batch 1 500, batch 4 1,000",
        "16 not tried: the one before was slower",
        "scores within 0.0001",
    ):
        assert part in " ".join(text.split())
    page = markdown_page(report(ROW, OTHER))
    assert "| 70m | neqa | 1/10 | 40 | 1,000 |" in page
    table = [line for line in page.split("\n") if line.startswith("|")]
    assert len({line.count("|") for line in table}) == 1


def test_what_was_not_measured_is_not_printed():
    bare = replace(report(replace(ROW, both_seconds=None)), fixed=None, memory=None, kernels=None)
    text = terminal_page(bare)
    assert not any(word in text for word in ("Both protocols", "Fixed cost", "Memory", "Attention"))
    assert "refused" not in text
    assert "self-check refused the packed path: its plain path" in terminal_page(
        replace(bare, path="plain")
    )


def test_the_tables_file_has_a_row_for_all_and_empty_fields_without_harness():
    frame = as_frame([ROW, OTHER])
    assert frame["set"].tolist() == ["neqa", "truthfulqa", "all in proportion"]
    assert frame["ratio"].tolist() == [4.0, 40.0, 200 / 23]
    assert frame["of_items"].tolist() == [100, 100, 200]
    assert as_frame([alone(ROW)])["harness_seconds"].isna().all()


@pytest.mark.parametrize(
    ("round_seconds", "fixed", "left", "expected"),
    [
        (100, 5, 30, (4, 1)),  # 25 seconds for 100: every fourth item
        (100, 5, 105, (1, 1)),
        (20, 5, 60, (1, 2)),
        (1, 0, 1000, (1, 3)),
        (100, 5, 2, (1000, 1)),  # no time left: as few as are allowed
    ],
)
def test_the_fraction_that_fits(round_seconds, fixed, left, expected):
    assert fraction(round_seconds, fixed, left) == expected


def test_the_fastest_batch_and_when_to_stop_looking():
    assert best_of(TRIED).batch == 4
    assert not give_up(TRIED[:1])
    assert not give_up(TRIED)
    assert not give_up([Tried(1, 1.0), Tried(4, 1.05)])
    assert give_up([Tried(1, 1.0), Tried(4, 0.8), Tried(16, 0.9)])
    # Two and a half times 64 x 650 rows of 50,304 numbers in float32.
    assert logits_bytes(64, 650, 4) == 2.5 * 64 * 650 * 50304 * 4


class Stub:
    """A harness that takes a given time for a token at each batch."""

    width = 4

    def __init__(self, seconds):
        self.seconds, self.asked = seconds, []

    def loglikelihoods(self, asked, batch):
        self.asked.append((batch, len(asked)))
        tokens = 4 * len({ask.context for ask in asked})
        return [0.0] * len(asked), tokens * self.seconds[batch]


def test_the_harness_has_the_c_library_s_own_ways_with_memory(monkeypatch):
    """While it works, and not while Downslope does."""
    ordinary = []

    @contextlib.contextmanager
    def entered():
        ordinary.append(True)
        yield
        ordinary.pop()

    def loglikelihood(requests, **_):
        assert ordinary
        return [(0.0, True) for _ in requests]

    monkeypatch.setattr(harness, "ordinary_allocation", entered)
    side = object.__new__(harness.Harness)
    side._model = SimpleNamespace(loglikelihood=loglikelihood)
    side._request, side._device = SimpleNamespace, torch.device("cpu")
    assert side.loglikelihoods([Asked(0, 0, "a", "b")], 1)[0] == [0.0]
    assert not ordinary


def trial(byte_tokenizer, took, **allowed):
    """try_batches on 400 items by a Stub; both choices of an item are one sequence of 4 bytes."""
    items = [Item(k, f"{k:03}", ("a", "b"), (0,), mc1=(0, 1)) for k in range(400)]
    layout = Layout(byte_tokenizer, FolderTokenizer(byte_tokenizer), 100, 64)
    bench = BenchSet("quiz", items)
    stub, whole = Stub(took), layout.work(bench, layout.plan(bench))
    given = {"seconds": 1e3, "memory": math.inf} | allowed
    tried = try_batches(stub, bench, whole, layout, Allowance(**given), "70m")
    return tried, stub


@pytest.mark.parametrize(
    ("packs", "lanes", "expected"),
    [
        (9, 1, [0, 8]),
        (9, 2, [0, 3, 5, 8]),  # the thirds of 8, rounded
        (3, 2, [0, 2]),  # one round: of two, the second would keep one lane waiting
        (1, 2, [0]),
    ],
)
def test_own_packs_are_spread_over_the_set_and_keep_all_lanes_at_work(packs, lanes, expected):
    assert drawn(list(range(packs)), lanes) == expected


def test_the_share_is_useful_over_possible_work(byte_tokenizer, monkeypatch):
    """Two packs in 4 s where products run at 100 a second: 400 operations are possible."""
    layout = Layout(byte_tokenizer, FolderTokenizer(byte_tokenizer), 100, 8)
    items = [Item(k, f"{k}23456", ("a", "b"), (0,), mc1=(0, 1)) for k in range(2)]
    packs = layout.plan(BenchSet("quiz", items)).packs
    assert len(packs) == 2
    clock = iter([10.0, 14.0])
    monkeypatch.setattr(operations.time, "perf_counter", lambda: next(clock))
    scored = []
    scorer = SimpleNamespace(lanes=1, device=torch.device("cpu"))
    scorer.score_packs = lambda some: scored.extend(some) or []
    take = iter([1.0, 100.0, 100.0, 500.0]).__next__
    rate = SimpleNamespace(take=take, take_torch=lambda: scored.append("torch's own product"))
    # An item reads six bytes and the space before either choice; it and the choice are predicted.
    costs = Costs(token=10, pair=0, row=5, row_pair=0)
    assert share_of_rate(scorer, costs, rate, packs) == 2 * (10 * 7 + 5 * 2) / 400
    assert scored == ["torch's own product", *packs]


@pytest.mark.parametrize(
    ("dtype", "by", "torch_s_own"),
    [(torch.float32, True, 1), (torch.float32, False, 0), (torch.bfloat16, True, 0)],
)
def test_the_matrix_rate_is_that_of_the_engine_s_products(dtype, by, torch_s_own, monkeypatch):
    """torch's own is another one for float32 alone, where the engine's are oneDNN's."""
    asked = []
    monkeypatch.setattr(operations, "SIDE", 8)
    monkeypatch.setattr(products, "by_onednn", lambda: by)
    monkeypatch.setattr(operations, "product", lambda *sides: asked.append(sides))
    rate = MatrixRate(torch.device("cpu"), dtype)
    asked.clear()
    assert rate.take() == rate.rates[-1] > 0
    rate.take_torch()
    assert (len(asked), len(rate.torch_rates)) == (1, torch_s_own)


def test_batches_are_tried_until_they_get_slower(byte_tokenizer):
    tried, _ = trial(byte_tokenizer, {1: 4e-6, 4: 1e-6, 16: 2e-6, 64: 1e-9})
    assert best_of(tried).batch == 4
    assert [t.seconds is None for t in tried] == [False, False, False, True]
    assert tried[3].why == "the one before was slower"


def test_each_batch_is_tried_on_enough_sequences(byte_tokenizer):
    tried, _ = trial(byte_tokenizer, {1: 1, 4: 1, 16: 1, 64: 0.9}, seconds=500)
    assert best_of(tried).batch == 64
    assert all(t.sequences >= max(t.batch, 4) for t in tried)


def test_a_batch_that_needs_too_long_or_too_much_is_left_out_and_said(byte_tokenizer):
    same = dict.fromkeys((1, 4, 16, 64), 1e-6)
    tried, stub = trial(byte_tokenizer, same, memory=logits_bytes(16, 4, 4))
    assert [t.batch for t in tried if t.seconds is None] == [64]
    assert tried[3].why == "its logits need 0 GB"
    assert max(batch for batch, _ in stub.asked) == 16
    tried, _ = trial(byte_tokenizer, {**same, 4: 10.0}, seconds=100.0)
    assert [t.batch for t in tried if t.seconds is not None] == [1, 4]
    assert tried[3].why == "the one before was slower"
    tried, _ = trial(byte_tokenizer, dict.fromkeys(same, 10.0), seconds=100.0)
    assert [t.batch for t in tried if t.seconds is not None] == [1]
    assert tried[1].why == "4 sequences would take 3 min"


def test_an_absent_harness_is_said_with_how_to_get_it(monkeypatch):
    def absent(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr("downslope.bench.harness.version", absent)
    with pytest.raises(StudyError, match=r"lm_eval\) is not installed.*requirements-test.txt"):
        require_harness()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "no items to measure on"),
        (["--shapes", "71m"], "the shape '71m' is not known"),
        (["--architecture", "bloom"], "the architecture 'bloom' is not known"),
        (["--dtype", "int8"], "the dtype 'int8' is not known"),
        (["--device", "tpu"], "the device 'tpu' is not known"),
    ],
)
def test_refusals_are_a_sentence_and_status_1(options, message, monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("DOWNSLOPE_MIRROR", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["bench_engine.py", "--no-harness", *options])
    with pytest.raises(SystemExit) as stop:
        bench_engine.main()
    assert stop.value.code == 1
    assert message in caplog.text
    assert "Traceback" not in caplog.text


def test_no_data_set_at_all_is_refused(tmp_path):
    with pytest.raises(StudyError, match=r"no data set is named.*truthfulqa, memo-trap"):
        read_sets(named(","), tmp_path)


def test_a_scoring_process_reports_its_weights_and_its_peak(tmp_path, monkeypatch):
    folder = tmp_path / "checkpoint"
    make_model(folder, seed=1)
    items = [Item(0, "Is it?", ("yes", "no"), (0,), mc1=(0, 1))]
    layout = Layout(folder, FolderTokenizer(folder), 100, 64)
    write_plan(layout.plan(BenchSet("quiz", items)), tmp_path / "p")
    given = {"dtype": "float32", "threads": 1, "device": "cpu", "packs": 1}
    found = score_in_process(folder, tmp_path / "p", **given)
    # Embeddings, final norm and output layer, and twelve tensors in each of two layers.
    layer = 12 * 16 * 16 + 4 * 16 + (3 + 1 + 4 + 1) * 16
    assert found.weights == 4 * (2 * 257 * 16 + 2 * 16 + 2 * layer)
    assert 0 < found.pack < found.first
    assert found.peak > found.weights
    monkeypatch.setattr(sys, "executable", "false")
    with pytest.raises(StudyError, match="a scoring process failed: exit status 1"):
        score_in_process(folder, tmp_path / "p", **given)


def test_each_kernel_that_can_is_timed_at_the_pack_with_the_most_pairs(tmp_path):
    make_model(tmp_path, seed=1)
    scorer = Scorer(load_model(tmp_path, dtype="float32", device="cpu"))
    requests = [Request(tuple(range(size)), 1) for size in (30, 90)]
    packs = [pack for one in requests for pack in pack_requests([one], 100)[0]]
    assert most_pairs(packs) is packs[1]
    found = kernel_seconds(scorer, packs[1])
    assert list(found.by_kernel) == ["flash", "efficient", "cudnn", "math"]
    # What a CPU has; cuDNN is a GPU's.
    assert found.by_kernel["flash"] > 0
    assert found.by_kernel["math"] > 0
    assert found.by_kernel["cudnn"] is None
    assert found.chosen > 0


def test_a_kernel_that_runs_out_of_memory_changes_nothing_for_the_others(tmp_path, monkeypatch):
    make_model(tmp_path, seed=1)
    scorer = Scorer(load_model(tmp_path, dtype="float32", device="cpu"))
    (pack,), _ = pack_requests([Request(tuple(range(90)), 1)], 100)
    own = Scorer._packed

    def scarce(self, pack):
        if kernels.sdpa_kernel.last is kernels.KERNELS["math"] and self.inner is None:
            self._pass.tokens, self._pass.least = 90, 16
            raise torch.OutOfMemoryError("out of memory")
        return own(self, pack)

    @contextlib.contextmanager
    def noted(kernel):
        noted.last = kernel
        yield
        noted.last = None

    noted.last = None
    monkeypatch.setattr(kernels, "sdpa_kernel", noted)
    monkeypatch.setattr(Scorer, "_packed", scarce)
    found = kernel_seconds(scorer, pack)
    assert found.by_kernel["math"] is None
    assert found.by_kernel["flash"] > 0
    assert found.chosen > 0
    assert scorer.inner is None


def test_a_process_scores_as_many_packs_as_it_is_told(tmp_path, monkeypatch, capsys):
    make_model(tmp_path / "model", seed=1)
    layout = Layout(tmp_path / "model", FolderTokenizer(tmp_path / "model"), 100, 8)
    items = [Item(k, f"{k}23456", ("a", "b"), (0,), mc1=(0, 1)) for k in range(4)]
    plan = layout.plan(BenchSet("quiz", items))
    assert len(plan.packs) == 4
    write_plan(plan, tmp_path / "p")
    scored, own = [], Scorer.score_packs

    def counted(self, packs):
        scored.append(len(packs))
        return own(self, packs)

    monkeypatch.setattr(Scorer, "score_packs", counted)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    monkeypatch.setattr("downslope.scoring.keep_freed_memory", lambda: None)
    for packs, others in ((1, 0), (3, 2)):
        scored.clear()
        process.main(0.0, tmp_path / "model", tmp_path / "p", "float32", 1, packs)
        assert scored == [1, 1, others]  # the first one twice
    assert '"check"' in capsys.readouterr().out


def test_operations_of_a_row_are_those_of_the_whole_set(byte_tokenizer):
    layout = Layout(byte_tokenizer, FolderTokenizer(byte_tokenizer), 100, 64)
    items = [Item(k, f"{k}23456", ("a", "b"), (0,), mc1=(0, 1)) for k in range(4)]
    whole = BenchSet("quiz", items)
    part, done = whole.thinned(2), Rounds(rates=[1.0])
    done.one.append(Run(layout.plan(part), 1.0, 2.0, np.zeros(4, np.float32)))
    model = Model("70m", "float32", None, None, Costs(1, 0, 0, 0), None)
    row = _row(model, part, layout.work(whole, layout.plan(whole)), layout, done, 0.5, [])
    assert row.operations == 4 * 7  # six bytes and a space for each item
    assert row.share == 0.5


@pytest.mark.parametrize("harness", [True, False])
def test_a_whole_run_on_a_tiny_shape(harness, mirror, monkeypatch, tmp_path, capsys):
    if harness:
        pytest.importorskip("lm_eval")
    monkeypatch.setenv("DOWNSLOPE_MIRROR", str(mirror))
    monkeypatch.setitem(SHAPES, "tiny", Shape(hidden=64, layers=1, heads=4))
    monkeypatch.setattr("downslope.bench.operations.SIDE", 64)
    monkeypatch.setattr("downslope.bench.run._in_processes", lambda *_: None)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    options = ["--shapes", "tiny", "--sets", "neqa,memo-trap", "--seconds", "3"]
    options += ["--out", str(tmp_path)] + ([] if harness else ["--no-harness"])
    monkeypatch.setattr(sys, "argv", ["bench_engine.py", *options])
    bench_engine.main()
    shown = capsys.readouterr().out
    for name in (
        "neqa",
        "memo-trap",
        "all in proportion",
        "Both protocols instead of one, gpt-neox-tiny",
        "Attention, gpt-neox-tiny",
    ):
        assert name in shown
    lines = (tmp_path / "bench.tsv").read_text().split("\n")
    rows = [dict(zip(lines[0].split("\t"), r.split("\t"), strict=True)) for r in lines[1:4]]
    assert rows[2]["naive_tokens"] == str(43_460 + 28_982)
    assert all(float(row["distinct_tokens"]) <= float(row["computed_tokens"]) for row in rows)
    if harness:
        assert all(0 <= float(row["largest_difference"]) < 1e-4 for row in rows)
        assert all(float(row["ratio"]) > 0 for row in rows)
    else:
        assert {row["harness_seconds"] + row["ratio"] for row in rows} == {""}
    assert Path(tmp_path / "bench.md").read_text().startswith("# Downslope's engine")
