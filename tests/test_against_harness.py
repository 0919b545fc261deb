"""The engine against lm-evaluation-harness 0.4.13: the same weights, the published items.

Prompts and choices come from `harness.py`, which shares no code with Downslope; log-likelihoods
come from the harness itself. A random model answers with one label always and would test little,
so a small one is trained on the items' text first.
"""

from __future__ import annotations

import os
from collections.abc import Sequence, Set
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("lm_eval", reason="the reference, lm-evaluation-harness, is not installed")

from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from downslope.engine import Scorer
from downslope.items import parse_items
from downslope.models import load_model
from downslope.plan import make_plan
from downslope.protocols import PROTOCOLS
from downslope.self_check import choose_path
from downslope.tokenization import FolderTokenizer
from harness import Pair, harness_loglikelihoods, mckenzie_pairs, michaelov_pairs, split_differences

FILES = {
    "hindsight-neglect": ("inverse_scaling/hindsight-neglect_classification.jsonl", "prize", 315),
    "neqa": ("inverse_scaling/neqa_classification.jsonl", "prize", 300),
    "memo-trap": ("inverse_scaling/memo-trap_classification.jsonl", "prize", 936),
    "truthfulqa": ("truthfulqa/mc_task.json", "truthfulqa", 817),
}
# Every k-th item: the harness computes a prompt once for each choice, which takes its time. All
# of them take a quarter of an hour: EVERY_ITEM=1 make test PYTEST=tests/test_against_harness.py
EVERY = (
    dict.fromkeys(FILES, 1)
    if os.environ.get("EVERY_ITEM")
    else {"hindsight-neglect": 5, "neqa": 1, "memo-trap": 1, "truthfulqa": 16}
)
BATCH = {"hindsight-neglect": 1, "neqa": 4, "memo-trap": 4, "truthfulqa": 4}


@pytest.fixture(scope="module")
def folder(reference_model: Path) -> Path:
    return reference_model


def test_checkpoint_has_pythias_shape_and_tokenizer(folder: Path, mirror: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert (model.config.model_type, model.config.vocab_size) == ("gpt_neox", 50304)
    assert model.config.max_position_embeddings == 2048
    assert (folder / "model.safetensors").exists()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    pythia = Tokenizer.from_file(str(mirror / "pythia_tokenizer/tokenizer.json"))
    text = "".join(michaelov_pairs("hindsight-neglect", mirror)[0][0])
    assert tokenizer.encode(text) == pythia.encode(text).ids
    assert tokenizer.encode("  A") == [50276, 34]


def ours(
    folder: Path, mirror: Path, task: str, protocol: str, rows: Sequence[int]
) -> dict[tuple[int, int], tuple[float, bool]]:
    """(row, choice) -> log-likelihood and greedy flag by Downslope."""
    file, form, count = FILES[task]
    items = [item for item in parse_items(mirror / file, form, count)[0] if item.row in set(rows)]
    encode = FolderTokenizer(folder)
    plan, _ = make_plan(
        task, items, [PROTOCOLS[protocol]], encode,
        tokenizer=encode.digest, max_length=2048, pack_tokens=1024,
    )  # fmt: skip
    scorer = Scorer(load_model(folder, dtype="float32", device="cpu"))
    choose_path(scorer, plan.packs)
    assert scorer.path == "packed"
    parts = [scorer.score_pack(pack) for pack in plan.packs]
    table = plan.scores(*(np.concatenate(column) for column in zip(*parts, strict=True)))
    row_of = {item.item: item.row for item in items}
    return {
        (row_of[item], choice): (loglikelihood, greedy)
        for item, choice, loglikelihood, greedy in zip(
            *(table[name].to_pylist() for name in ("item", "choice", "loglikelihood", "greedy")),
            strict=True,
        )
    }


def compare(
    folder: Path,
    mirror: Path,
    task: str,
    protocol: str,
    items: Sequence[Sequence[Pair]],
    unlike: Set[tuple[int, int]] = frozenset(),
) -> None:
    """Log-likelihoods within 1e-3; decisions equal wherever the harness is not at a tie."""
    rows = range(0, len(items), EVERY[task])
    found = ours(folder, mirror, task, protocol, rows)
    keys = [(row, choice) for row in rows for choice in range(len(items[row]))]
    assert sorted(found) == keys
    keys = [key for key in keys if key not in unlike]
    reference = dict(
        zip(
            keys,
            harness_loglikelihoods(
                folder, [items[row][choice] for row, choice in keys], BATCH[task]
            ),
            strict=True,
        )
    )
    difference = max(abs(found[key][0] - reference[key][0]) for key in keys)
    assert difference <= 1e-3
    ties, wins = [], np.zeros(max(map(len, items)), int)
    for row in rows:
        choices = [choice for choice in range(len(items[row])) if (row, choice) in reference]
        theirs = np.array([reference[row, choice][0] for choice in choices])
        mine = np.array([found[row, choice][0] for choice in choices])
        wins[theirs.argmax()] += 1
        best = np.sort(theirs)[::-1]
        if len(best) > 1 and best[0] - best[1] <= 2e-3:
            ties.append(row)
        else:
            assert mine.argmax() == theirs.argmax(), f"{task}, row {row}"
    if task == "truthfulqa":
        assert 0 < wins[0] < len(rows), "the first answer wins always or never"
    else:
        assert wins.min() >= len(rows) / 5, f"one label wins nearly always: {wins}"
    flags = [key for key in keys if found[key][1] != reference[key][1]]
    print(f"\n{task}, {protocol}: {len(keys)} requests, largest difference {difference:.1e}, "
          f"wins {wins.tolist()}, ties in rows {ties}, greedy flags differ {flags}")  # fmt: skip
    assert len(flags) <= len(keys) // 500, "greedy flags differ at ties of single tokens only"


@pytest.mark.slow
@pytest.mark.parametrize("task", FILES)
def test_the_papers_protocol(folder: Path, mirror: Path, task: str) -> None:
    compare(folder, mirror, task, "michaelov2023", michaelov_pairs(task, mirror))


@pytest.mark.slow
@pytest.mark.parametrize("task", [task for task in FILES if task != "truthfulqa"])
def test_the_prizes_protocol(folder: Path, mirror: Path, task: str) -> None:
    items = mckenzie_pairs(task, mirror)
    encode = FolderTokenizer(folder)._tokenizer
    unlike = set(split_differences(encode, items))
    assert len(unlike) <= 2
    compare(folder, mirror, task, "mckenzie2023", items, unlike)
