"""Tiny models of many architectures on real items: the engine against lm-evaluation-harness.

Whether attention, positions, windows, soft caps and the output layer are those of the model shows
only in numbers, so each architecture is saved, loaded, self-checked and scored as a checkpoint
is, and compared request by request with what the harness finds. TruthfulQA's packs follow a stem;
NeQA's pack is longer than a block of attention, and Memo Trap's is shorter.
"""

from __future__ import annotations

import dataclasses
import logging
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

pytest.importorskip("lm_eval", reason="the reference, lm-evaluation-harness, is not installed")

from architectures import PACKED, PLAIN, WINDOW, save_model
from downslope import attention
from downslope.attention import attend
from downslope.engine import Scorer
from downslope.items import Item, parse_items
from downslope.models import load_model
from downslope.packing import Pack
from downslope.plan import Plan, make_plan
from downslope.protocols import PROTOCOLS
from downslope.self_check import choose_path
from downslope.sight import BLOCK
from downslope.tokenization import FolderTokenizer
from harness import harness_loglikelihoods, michaelov_pairs

# File, format, its number of items; which of them are scored; tokens of a pack.
TASKS = {
    "neqa": ("inverse_scaling/neqa_classification.jsonl", "prize", 300, (0, 75, 150, 225), 160),
    "memo-trap": ("inverse_scaling/memo-trap_classification.jsonl", "prize", 936, (0, 468), 160),
    "truthfulqa": ("truthfulqa/mc_task.json", "truthfulqa", 817, (0, 286, 594), 80),
}

Key = tuple[str, str, int]
"""Task, item, choice."""


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A saved model, and its plans of the tasks."""

    folder: Path
    plans: Mapping[str, Plan]

    @property
    def packs(self) -> list[Pack]:
        return [pack for plan in self.plans.values() for pack in plan.packs]

    def scorer(self, dtype: str = "float32") -> Scorer:
        """A scorer of weights read anew, on the path that it chooses."""
        scorer = Scorer(load_model(self.folder, dtype=dtype, device="cpu"))
        choose_path(scorer, self.packs)
        return scorer

    def scores(self, scorer: Scorer) -> dict[Key, tuple[float, bool]]:
        """Log-likelihood and greedy flag of every choice."""
        found = {}
        for task, plan in self.plans.items():
            parts = zip(*scorer.score_packs(plan.packs), strict=True)
            table = plan.scores(*(np.concatenate(part) for part in parts))
            for row in table.to_pylist():
                key = task, row["item"], row["choice"]
                found[key] = row["loglikelihood"], row["greedy"]
        return found


@pytest.fixture(scope="module")
def items(mirror: Path) -> dict[str, list[Item]]:
    """The items of each task that are scored."""
    return {
        task: [item for item in parse_items(mirror / file, form, count)[0] if item.row in rows]
        for task, (file, form, count, rows, _) in TASKS.items()
    }


@pytest.fixture(scope="module")
def checkpoint(
    items: dict[str, list[Item]], mirror: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Checkpoint]:
    """A checkpoint of an architecture by its name, saved when it is first asked for."""
    made: dict[str, Checkpoint] = {}

    def make(name: str) -> Checkpoint:
        if name not in made:
            folder = save_model(name, tmp_path_factory.mktemp("model"), mirror)
            made[name] = Checkpoint(folder, plans_of(folder, items))
        return made[name]

    return make


def plans_of(folder: Path, items: Mapping[str, list[Item]]) -> dict[str, Plan]:
    """Plans by the tokenizer in `folder`, as the model's own type makes it behave."""
    encode = FolderTokenizer(folder)
    # The harness adds the special tokens that a tokenizer adds by default (0.4.13 has no rule of
    # its own for any model type, Gemma's among them), and Downslope's protocol adds none. Like is
    # compared with like because this tokenizer adds none either, in any model's folder.
    texts = [item.prompt for of_task in items.values() for item in of_task]
    assert encode(texts, special_tokens=True) == encode(texts, special_tokens=False)
    return {
        task: make_plan(
            task, of_task, [PROTOCOLS["michaelov2023"]], encode,
            tokenizer=encode.digest, max_length=2048, pack_tokens=TASKS[task][-1],
        )[0]
        for task, of_task in items.items()
    }  # fmt: skip


@pytest.fixture(autouse=True)
def transformers_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    """What transformers logs reaches `caplog` too."""
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)


def path_of(name: str) -> str:
    return "packed" if name in PACKED else "plain"


def largest_difference(one: Mapping[Key, Any], other: Mapping[Key, Any]) -> float:
    assert one.keys() == other.keys()
    return max(abs(one[key][0] - other[key][0]) for key in one)


def test_the_layouts_have_what_can_go_wrong(checkpoint: Callable[[str], Checkpoint]) -> None:
    here = checkpoint("Llama")
    stems = {task: [len(pack.stem) for pack in plan.packs] for task, plan in here.plans.items()}
    assert sum(stem > BLOCK for stem in stems["truthfulqa"]) > 2, "stems of more than one block"
    lengths = [len(pack.tokens) for pack in here.packs]
    assert min(lengths) < BLOCK < max(lengths)
    first = [int(pack.depth[pack.target_position].min()) for pack in here.packs]
    assert min(first) >= WINDOW, "no answer is predicted with all of its prompt in the window"


@pytest.mark.slow
@pytest.mark.parametrize("name", [*PACKED, *PLAIN])
def test_scores_are_those_of_the_harness(
    name: str,
    checkpoint: Callable[[str], Checkpoint],
    items: dict[str, list[Item]],
    mirror: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Log-likelihoods within 1e-3, decisions equal but at ties, and the path that is expected."""
    here = checkpoint(name)
    scorer = here.scorer()
    found = here.scores(scorer)
    # Mamba's own code says that it would be faster with a kernel that is not installed.
    said = [record.getMessage() for record in caplog.records if "hub_kernels" not in record.name]
    assert scorer.path == path_of(name)
    assert len(said) == (name in PLAIN)
    assert all("does not honour the mask" in message for message in said)

    pairs = {
        (task, item.item, choice): pair
        for task, of_task in items.items()
        for item in of_task
        for choice, pair in enumerate(michaelov_pairs(task, mirror)[item.row])
    }
    reference = dict(
        zip(pairs, harness_loglikelihoods(here.folder, list(pairs.values())), strict=True)
    )
    difference = largest_difference(found, reference)
    ties, gaps = [], []
    for task, of_task in items.items():
        for item in of_task:
            keys = [key for key in pairs if key[:2] == (task, item.item)]
            theirs, mine = (np.array([s[key][0] for key in keys]) for s in (reference, found))
            best = np.sort(theirs)[::-1]
            if best[0] - best[1] <= 2e-3:
                ties.append(item.item)
            else:
                assert mine.argmax() == theirs.argmax(), f"{task}, {item.item}"
            if task == "neqa":
                gaps.append(theirs[0] - theirs[1])
    print(f"\n{name}: {scorer.path}, {len(pairs)} requests, largest difference {difference:.1e}, "
          f"ties {ties}")  # fmt: skip
    assert difference <= 1e-3
    assert all(found[key][1] == reference[key][1] for key in pairs), "greedy flags differ"
    assert np.ptp(gaps) > 0.1, "how much likelier A is than B does not depend on the question"


@pytest.mark.parametrize("name", [*PACKED, *PLAIN])
def test_weights_read_anew_give_the_same_bytes(
    name: str, checkpoint: Callable[[str], Checkpoint]
) -> None:
    here = checkpoint(name)
    scorers = [
        Scorer(load_model(here.folder, dtype="float32", device="cpu"), path_of(name))
        for _ in range(2)
    ]
    one, two = (
        b"".join(scores[0].tobytes() for scores in scorer.score_packs(here.packs))
        for scorer in scorers
    )
    assert one == two


# Faults of the layout. Each must move log-likelihoods by far more than rounding does.


def positions_off_by_one(pack: Pack) -> Pack:
    """Behind the first branch, since rotary models do not see that all positions are."""
    depth = pack.depth.copy()
    depth[np.flatnonzero(np.diff(depth) < 0)[0] + 1 :] += 1
    return dataclasses.replace(pack, depth=depth)


def sibling_visible(pack: Pack) -> Pack:
    """The first branch that ends before its pack does stays visible to what follows it."""
    end = pack.end.copy()
    end[np.flatnonzero(end < len(end))[0]] = len(end)
    return dataclasses.replace(pack, end=end)


def answer_read_one_token_late(pack: Pack) -> Pack:
    late = np.minimum(pack.target_position + 1, len(pack.tokens) - 1)
    return dataclasses.replace(pack, target_position=late)


@pytest.mark.parametrize("name", ["GPT-2", "OPT", "Llama"])
@pytest.mark.parametrize(
    "fault", [positions_off_by_one, sibling_visible, answer_read_one_token_late]
)
def test_a_fault_in_the_layout_shows(
    name: str, fault: Callable[[Pack], Pack], checkpoint: Callable[[str], Checkpoint]
) -> None:
    here = checkpoint(name)
    model = here.scorer().model
    alone = Scorer(model, "plain", inner=1).score_packs(here.packs)
    sound, faulty = (
        Scorer(model, "packed").score_packs(packs)
        for packs in (here.packs, [fault(pack) for pack in here.packs])
    )
    moved = []
    for expected, right, wrong in zip(alone, sound, faulty, strict=True):
        assert np.abs(right[0] - expected[0]).max() < 1e-4
        moved.append(np.abs(wrong[0] - expected[0]).max())
    assert max(moved) > 1e-1


# Models and attention that do not do what the layout asks for.


def deaf_to_the_layout(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model's layers call their own attention, whatever they are told."""
    code: Any = sys.modules[type(model).__module__]
    registry, own = code.ALL_ATTENTION_FUNCTIONS, model.config._attn_implementation

    class Deaf:
        @staticmethod
        def get_interface(name: str, default: Any) -> Any:
            return registry.get_interface(own, default)

    monkeypatch.setattr(code, "ALL_ATTENTION_FUNCTIONS", Deaf)


def without(argument: str, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The packed path's attention forgets something that the model asks of it."""

    def forgetful(*tensors: Any, **given: Any) -> Any:
        return attend(*tensors, **given | {argument: None})

    monkeypatch.setattr(attention, "attend", forgetful)


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        *(pytest.param(name, deaf_to_the_layout, id=f"{name}-deaf") for name in PACKED),
        *(
            pytest.param(name, partial(without, what), id=f"{name}-without-{what}")
            for name, what in [
                ("Mistral", "sliding_window"),
                ("Gemma 2", "sliding_window"),
                ("Gemma 2", "softcap"),
            ]
        ),
    ],
)
def test_what_does_not_honour_the_layout_is_caught_and_scored_plainly(
    name: str,
    spoil: Callable[[Any, pytest.MonkeyPatch], None],
    checkpoint: Callable[[str], Checkpoint],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here = checkpoint(name)
    scorer = here.scorer()
    assert scorer.path == "packed"
    expected = here.scores(scorer)
    spoil(scorer.model, monkeypatch)
    assert largest_difference(here.scores(scorer), expected) > 1e-1
    assert not caplog.records
    choose_path(scorer, here.packs)
    assert scorer.path == "plain"
    assert "does not honour the mask" in caplog.text
    assert largest_difference(here.scores(scorer), expected) < 1e-3


# Half precision.

LAST_PLACE = {"bfloat16": 2**-5, "float16": 2**-8}
"""Between 4 and 8, where the largest logits lie: the model rounds its logits, the engine's head
does not."""


@torch.inference_mode()
def one_by_one(model: Any, pack: Pack) -> NDArray[np.float64]:
    """Log-likelihoods of a pack's requests, from a forward pass of the model for each."""
    sums = []
    for number in range(len(pack.request_start) - 1):
        request = pack.request(number)
        read = torch.tensor([request.tokens[:-1]])
        answer = torch.tensor(request.tokens[-request.answer :])
        logits = model(input_ids=read, logits_to_keep=request.answer).logits[0]
        logprobs = torch.log_softmax(logits.double(), dim=-1)
        sums.append(float(logprobs.gather(1, answer[:, None]).sum()))
    return np.array(sums)


@pytest.mark.parametrize("dtype", LAST_PLACE)
@pytest.mark.parametrize("name", ["GPT-NeoX", "Llama"])
def test_half_precision_takes_the_packed_path(
    name: str, dtype: str, checkpoint: Callable[[str], Checkpoint], caplog: pytest.LogCaptureFixture
) -> None:
    """Of an answer's tokens, none may differ by more than a last place on the average."""
    here = checkpoint(name)
    scorer = here.scorer(dtype)
    assert scorer.path == "packed"
    assert not caplog.records
    differences = []
    for pack in here.packs:
        apart = np.abs(scorer.score_pack(pack)[0] - one_by_one(scorer.model, pack))
        differences.append(apart / np.diff(pack.request_start))
    largest = np.concatenate(differences).max()
    print(f"\n{name}, {dtype}: largest difference a token {largest:.1e}")
    assert 0 < largest < LAST_PLACE[dtype]
