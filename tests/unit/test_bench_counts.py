"""What the benchmark counts, against counts by hand, by brute force and by published tasks."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from downslope.bench.models import ARCHITECTURES, SHAPES, VOCABULARY, Shape, random_model
from downslope.bench.operations import Costs, Needed, costs_of, needed
from downslope.bench.sets import (
    SETS,
    BenchSet,
    Layout,
    agreement,
    decided_among,
    find_mirror,
    harness_requests,
    plan_scores,
    read_sets,
)
from downslope.errors import StudyError
from downslope.items import Item
from downslope.protocols import PROTOCOLS, Request
from downslope.tokenization import FolderTokenizer
from harness import PRIZE_FILES, TRUTHFULQA, _rows, michaelov_pairs

MICHAELOV = PROTOCOLS["michaelov2023"]
QUIZ = Item(0, "Is it?", ("yes", "no", "nobody knows"), (0,), mc1=(0, 2))


def test_needed_of_the_tree_in_the_docstring():
    the, cat, sat, on, down, dog, ran = range(7)
    requests = [
        Request((the, cat, sat, on), 1),
        Request((the, cat, sat, down), 1),
        Request((the, dog, ran), 1),
    ]
    assert needed(requests) == Needed(tokens=4, pairs=1 + 2 + 3 + 2, rows=2, row_pairs=3 + 2)


def test_needed_counts_a_request_inside_another_and_one_asked_twice():
    # (1 2 3) is read; after 2 and 3 something is predicted, by two requests after 2.
    long, short = Request((1, 2, 3, 4), 2), Request((1, 2, 9), 1)
    assert needed([long, short, long]) == Needed(tokens=3, pairs=6, rows=2, row_pairs=2 + 3)


def test_needed_against_sets_of_prefixes():
    random = np.random.default_rng(5)
    for _ in range(20):
        requests = []
        for _ in range(40):
            tokens = tuple(random.integers(0, 3, random.integers(2, 9)).tolist())
            requests.append(Request(tokens, int(random.integers(1, len(tokens)))))
        prefixes = {r.tokens[:n] for r in requests for n in range(1, len(r.tokens))}
        rows = {
            r.tokens[:n] for r in requests for n in range(len(r.tokens) - r.answer, len(r.tokens))
        }
        pairs, row_pairs = (sum(map(len, some)) for some in (prefixes, rows))
        assert needed(requests) == Needed(len(prefixes), pairs, len(rows), row_pairs)


def test_operations_are_costs_times_counts():
    costs = Costs(token=1000, pair=100, row=10, row_pair=1)
    assert costs.of(Needed(tokens=3, pairs=5, rows=2, row_pairs=4)) == 3524


@pytest.mark.parametrize(
    ("architecture", "others"),
    [
        # A layer of width 64: queries and output 2 x 64 x 64, feed-forward 2 x 64 x 256.
        ("gpt-neox", 10 * 64 * 64),
        ("gpt2", 10 * 64 * 64),
        ("opt", 10 * 64 * 64),
        # Three matrices 64 x 256 here: two thirds of 256, in whole steps of 128.
        ("llama", 2 * 64 * 64 + 3 * 64 * 256),
    ],
)
def test_costs_of_each_architecture_by_hand(architecture, others, monkeypatch):
    """Two layers: all of the first for every token, keys and values of the last."""
    monkeypatch.setitem(SHAPES, "tiny", Shape(hidden=64, layers=2, heads=4))
    model = random_model(architecture, "tiny", dtype="float32", device="cpu")
    both = 2 * 64 * 64  # keys and values
    assert costs_of(model) == Costs(
        token=2 * (others + both + both),
        pair=4 * 64,
        row=2 * (others + 64 * VOCABULARY),
        row_pair=4 * 64,
    )


@pytest.mark.parametrize(("shape", "parameters"), [("70m", 70_426_624), ("410m", 405_334_016)])
def test_shapes_have_the_parameters_of_the_published_models(shape, parameters):
    model = random_model("gpt-neox", shape, dtype="float32", device="meta")
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_a_model_is_the_same_each_time_it_is_made(monkeypatch):
    monkeypatch.setitem(SHAPES, "tiny", Shape(hidden=64, layers=1, heads=4))
    one, other = (random_model("opt", "tiny", dtype="float32", device="cpu") for _ in range(2))
    assert all((a == b).all() for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_unknown_names_are_refused_with_the_known_ones():
    with pytest.raises(StudyError, match=r"architecture 'mamba'.*gpt-neox, gpt2, opt, llama"):
        random_model("mamba", "70m", dtype="float32", device="cpu")
    with pytest.raises(StudyError, match=r"shape '71m'.*70m, 160m, 410m"):
        random_model("opt", "71m", dtype="float32", device="cpu")
    assert set(ARCHITECTURES) == {"gpt-neox", "gpt2", "opt", "llama"}


def test_requests_are_those_of_the_harness_tasks_on_real_items(mirror):
    for bench in read_sets(SETS, mirror):
        asked = Counter((ask.context, ask.continuation) for ask in harness_requests(
            bench.items, MICHAELOV
        ))  # fmt: skip
        if bench.name in PRIZE_FILES:
            pairs = [pair for item in michaelov_pairs(bench.name, mirror) for pair in item]
        else:
            rows = _rows(TRUTHFULQA, mirror)
            contexts = [item[0][0] for item in michaelov_pairs(TRUTHFULQA, mirror)]
            pairs = [
                (context, " " + answer)
                for targets in ("mc1_targets", "mc2_targets")
                for context, row in zip(contexts, rows, strict=True)
                for answer in row[targets]
            ]
        assert asked == Counter(pairs)


def test_decisions_fall_among_the_choices_of_mc1_or_all():
    prize = Item(0, "It is", (" so", " not so"), (0,), classes="[' so', ' not so']")
    assert decided_among([QUIZ, prize], MICHAELOV) == [(0, 2), (0, 1)]


def test_agreement_counts_differing_decisions_and_ties():
    reference = {(0, 0): -1.0, (0, 1): -9.0, (0, 2): -1.00005, (1, 0): -4.0, (1, 1): -5.0}
    scores = {**reference, (0, 2): -0.99995, (1, 1): -5.25}
    # Item 0 is a tie between 0 and 2 that falls to the other side; item 1 stays as it is.
    assert agreement(scores, reference, [(0, 2), (0, 1)], 1e-4) == (0.25, 1, 1)
    # The second item's own decision differs although it is no tie.
    assert agreement({**reference, (1, 1): -3.0}, reference, [(0, 1), (0, 1)], 1e-4) == (2, 1, 0)


def test_work_of_a_set_by_hand(byte_tokenizer):
    layout = Layout(byte_tokenizer, FolderTokenizer(byte_tokenizer), 100, 64)
    items = [QUIZ, Item(1, "Is it so?", ("yes", "no"), (0,), mc1=(0, 1))]
    bench = BenchSet("quiz", items)
    work = layout.work(bench, layout.plan(bench))
    # Bytes read, the last one of each answer is not: " yes" 3, " no" 2, " nobody knows" 12.
    first, second = len("Is it?"), len("Is it so?")
    assert (work.items, work.requests, work.different) == (2, 2 + 2 + 3 + 2, 5)
    mc1 = (first + 3) + (first + 12) + (second + 3) + (second + 2)
    mc2 = (first + 3) + (first + 2) + (first + 12) + (second + 3) + (second + 2)
    assert work.naive == mc1 + mc2
    # " n" of " no" is the beginning of " nobody know".
    assert (work.sequences, work.read) == (5, mc2)
    tree = len("Is it") + len("? ") + len("ye") + len("nobody know") + len(" so? ") + len("yen")
    assert work.needed.tokens == work.computed == tree
    assert work.needed.rows == len("? " + "ye" + "nobody know") + len("? " + "ye" + "n")


def test_scores_go_back_to_their_items(byte_tokenizer):
    layout = Layout(byte_tokenizer, FolderTokenizer(byte_tokenizer), 100, 64)
    plan = layout.plan(BenchSet("quiz", [QUIZ]))
    numbers = np.arange(3, dtype=np.float32)
    found = plan_scores(plan, numbers)
    text = {(0, k): choice for k, choice in enumerate(QUIZ.choices)}
    order = sorted(found, key=found.__getitem__)
    assert [text[key] for key in order] == sorted(QUIZ.choices)


def test_no_mirror_no_benchmark(tmp_path, monkeypatch):
    monkeypatch.setenv("DOWNSLOPE_MIRROR", str(tmp_path))
    with pytest.raises(StudyError, match=r"no items to measure on.*Set DOWNSLOPE_MIRROR"):
        find_mirror()
    monkeypatch.delenv("DOWNSLOPE_MIRROR")
    monkeypatch.setattr("downslope.bench.sets.ROOT", tmp_path / "repository")
    with pytest.raises(StudyError, match=r"shared/data: there is no pythia_tokenizer"):
        find_mirror()


def test_sets_are_the_registers_and_as_long_as_their_files(tmp_path):
    with pytest.raises(StudyError, match=r"no data set 'memotrap'.*memo-trap"):
        read_sets(["memotrap"], tmp_path)
    with pytest.raises(StudyError, match=r"neqa_classification.jsonl: cannot be read"):
        read_sets(["neqa"], tmp_path)
    path = tmp_path / PRIZE_FILES["neqa"]
    path.parent.mkdir()
    row = {"prompt": "Is it", "classes": "[' so', ' not so']", "answer_index": 1}
    path.write_text(f"{json.dumps(row)}\n" * 5)
    (bench,) = read_sets(["neqa"], tmp_path)
    assert len(bench.items) == 5
    assert [item.row for item in bench.thinned(2).items] == [0, 2, 4]


def test_both_protocols_where_both_apply(tmp_path):
    prize = BenchSet("a", [Item(0, "It", (" a", " b"), (0,), classes="[' a', ' b']")])
    assert [p.name for p in prize.protocols] == ["michaelov2023", "mckenzie2023"]
    assert [p.name for p in BenchSet("b", [QUIZ]).protocols] == ["michaelov2023"]


def test_the_mirror_is_named_or_beside_the_repository(tmp_path, monkeypatch):
    place = tmp_path / "shared/data"
    (place / "pythia_tokenizer").mkdir(parents=True)
    (place / "pythia_tokenizer/tokenizer.json").touch()
    monkeypatch.setenv("DOWNSLOPE_MIRROR", str(place))
    assert find_mirror() == place.resolve()
    monkeypatch.delenv("DOWNSLOPE_MIRROR")
    (tmp_path / "repository").mkdir()
    monkeypatch.setattr("downslope.bench.sets.ROOT", Path(tmp_path / "repository"))
    assert find_mirror() == place.resolve()
