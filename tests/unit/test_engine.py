"""The engine against one forward pass per request, and faults that must not go unseen."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray

from downslope import attention, engine, head, self_check
from downslope.attention import attend
from downslope.engine import LEAST_INNER, Scorer
from downslope.errors import StudyError
from downslope.packing import Pack, pack_requests
from downslope.protocols import Request
from downslope.self_check import choose_path
from downslope.sight import Sight, sight_of

VOCABULARY = 97


def make(name: str, **other: Any) -> Any:
    """A tiny random model of an architecture; large weights, so that its answers differ."""
    config = getattr(transformers, f"{name}Config")(
        vocab_size=VOCABULARY, initializer_range=0.3, **other
    )
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return getattr(transformers, f"{name}ForCausalLM")(config).eval()


SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
WIDE = SHAPE | {"intermediate_size": 64, "max_position_embeddings": 128}
PACKED: dict[str, Callable[[], Any]] = {
    "GPTNeoX": lambda: make("GPTNeoX", **WIDE),
    "GPT2": lambda: transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, initializer_range=0.3
        )
    ).eval(),
    "OPT": lambda: make(
        "OPT", **SHAPE, ffn_dim=64, word_embed_proj_dim=32, max_position_embeddings=128
    ),
    "Llama": lambda: make("Llama", **WIDE, num_key_value_heads=2),
    "Olmo2": lambda: make("Olmo2", **WIDE, num_key_value_heads=4),
    "Qwen2": lambda: make("Qwen2", **WIDE, num_key_value_heads=2),
    "Qwen3": lambda: make("Qwen3", **WIDE, num_key_value_heads=2, head_dim=8),
    "Gemma": lambda: make("Gemma", **WIDE, num_key_value_heads=1, head_dim=8),
    # A window shorter than a request in every other layer, and both of its soft caps.
    "Gemma2": lambda: make(
        "Gemma2", **WIDE, num_key_value_heads=2, head_dim=8, sliding_window=5,
        attn_logit_softcapping=2.0, final_logit_softcapping=3.0, attn_implementation="eager",
    ),
    "Cohere": lambda: make("Cohere", **WIDE, num_key_value_heads=2, logit_scale=0.25),
    "Granite": lambda: make("Granite", **WIDE, num_key_value_heads=2, logits_scaling=4.0),
}  # fmt: skip
PLAIN: dict[str, Callable[[], Any]] = {
    "Bloom": lambda: make("Bloom", hidden_size=32, n_layer=2, n_head=4),
    "Mamba": lambda: make("Mamba", hidden_size=32, num_hidden_layers=2),
}


@pytest.fixture(scope="module")
def requests() -> list[Request]:
    """Items with a common beginning, three choices each of one to four tokens."""
    random = np.random.default_rng(3)
    made = []
    for _ in range(12):
        prompt = (1, 2, 3, *random.integers(0, VOCABULARY, random.integers(3, 12)).tolist())
        for _ in range(3):
            answer = random.integers(0, VOCABULARY, random.integers(1, 5)).tolist()
            made.append(Request((*prompt, *answer), len(answer)))
    return made


@torch.inference_mode()
def one_by_one(model: Any, requests: list[Request]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Log-likelihood and greedy flag from a forward pass for each request by itself."""
    sums, greedy = [], []
    for request in requests:
        ids = torch.tensor([request.tokens[:-1]])
        logits = model(input_ids=ids, use_cache=False).logits[0]
        logprobs = torch.log_softmax(logits.float(), dim=-1)
        answer = torch.tensor(request.tokens[-request.answer :])
        rows = logprobs[-request.answer :]
        sums.append(float(rows.gather(1, answer[:, None]).sum()))
        greedy.append(bool((rows.argmax(dim=-1) == answer).all()))
    return np.array(sums), np.array(greedy)


def score(scorer: Scorer, packs: list[Pack], number: NDArray[Any]) -> tuple[Any, Any]:
    parts = [scorer.score_pack(pack) for pack in packs]
    return (
        np.concatenate([part[0] for part in parts])[number],
        np.concatenate([part[1] for part in parts])[number],
    )


def right_after_check(model: Any, requests: list[Request], pack_tokens: int) -> Scorer:
    """A scorer on the path that the self-check takes, whose scores are those of `one_by_one`."""
    packs, number = pack_requests(requests, pack_tokens)
    scorer = Scorer(model)
    choose_path(scorer, packs)
    expected, _ = one_by_one(model, requests)
    np.testing.assert_allclose(score(scorer, packs, number)[0], expected, atol=1e-4)
    return scorer


@pytest.mark.parametrize("name", [*PACKED, *PLAIN])
def test_scores_are_those_of_each_request_by_itself(name: str, requests: list[Request]) -> None:
    model = (PACKED | PLAIN)[name]()
    packs, number = pack_requests(requests, 100)
    assert len(packs) > 1
    scorer = Scorer(model)
    choose_path(scorer, packs)
    assert scorer.path == ("packed" if name in PACKED else "plain")
    found, flags = score(scorer, packs, number)
    expected, greedy = one_by_one(model, requests)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    np.testing.assert_array_equal(flags, greedy)


@pytest.fixture(scope="module")
def model() -> Any:
    return PACKED["GPTNeoX"]()


@pytest.mark.parametrize("pack_tokens", [1, 20, 64, 4096])
def test_any_packing_gives_the_same_scores(
    model: Any, requests: list[Request], pack_tokens: int
) -> None:
    packs, number = pack_requests(requests, pack_tokens)
    expected, _ = one_by_one(model, requests)
    for path in ("packed", "plain"):
        found, _ = score(Scorer(model, path), packs, number)
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_the_same_pack_gives_the_same_bytes(model: Any, requests: list[Request]) -> None:
    packs, _ = pack_requests(requests, 100)
    one, two = (Scorer(model).score_pack(packs[0])[0] for _ in range(2))
    assert one.tobytes() == two.tobytes()


def test_greedy_answers_are_found(model: Any) -> None:
    with torch.inference_mode():
        best = int(model(input_ids=torch.tensor([[5, 6]])).logits[0, -1].argmax())
    requests = [Request((5, 6, best), 1), Request((5, 6, (best + 1) % VOCABULARY), 1)]
    packs, number = pack_requests(requests, 64)
    assert score(Scorer(model), packs, number)[1].tolist() == [True, False]


def test_half_precision_is_summed_in_single(requests: list[Request]) -> None:
    model = PACKED["GPTNeoX"]().to(torch.bfloat16)
    packs, number = pack_requests(requests, 4096)
    found, _ = score(Scorer(model), packs, number)
    expected, _ = one_by_one(model, requests)
    assert found.dtype == np.float32
    # Rounding to bfloat16 would leave at most 8 significant bits; sums carry more.
    assert len(np.unique(found * 2**10 % 1)) > len(found) // 2
    np.testing.assert_allclose(found, expected, atol=0.5)


# Faults. Each must move log-likelihoods by far more than rounding does.


def sibling_visible(pack: Pack) -> Pack:
    """The first branch that ends before its pack does stays visible to what follows it."""
    end = pack.end.copy()
    end[np.flatnonzero(end < len(end))[0]] = len(end)
    return dataclasses.replace(pack, end=end)


def positions_off_by_one_after_a_branch(pack: Pack) -> Pack:
    depth = pack.depth.copy()
    branch = np.flatnonzero(np.diff(depth) < 0)[0] + 1
    depth[branch:] += 1
    return dataclasses.replace(pack, depth=depth)


def subtree_ends_too_early(pack: Pack) -> Pack:
    end = pack.end.copy()
    inner = np.flatnonzero(end > np.arange(len(end)) + 1)[2]
    end[inner] -= 1
    return dataclasses.replace(pack, end=end)


def subtree_ends_too_late(pack: Pack) -> Pack:
    end = pack.end.copy()
    end[np.flatnonzero(end < len(end))[-1]] += 1
    return dataclasses.replace(pack, end=end)


def answer_read_one_token_late(pack: Pack) -> Pack:
    return dataclasses.replace(pack, target_position=pack.target_position + 1)


@pytest.mark.parametrize(
    "fault",
    [
        sibling_visible,
        positions_off_by_one_after_a_branch,
        subtree_ends_too_early,
        subtree_ends_too_late,
        answer_read_one_token_late,
    ],
)
def test_a_fault_in_the_layout_shows(
    model: Any, requests: list[Request], fault: Callable[[Pack], Pack]
) -> None:
    (pack, *_), _ = pack_requests(requests, 200)
    laid_out = [pack.request(r) for r in range(len(pack.request_start) - 1)]
    expected, _ = one_by_one(model, laid_out)
    sound, _ = Scorer(model).score_pack(pack)
    np.testing.assert_allclose(sound, expected, atol=1e-4)
    try:
        faulty, _ = Scorer(model).score_pack(fault(pack))
    except IndexError:
        return
    assert np.abs(faulty - expected).max() > 1e-2


def deaf_to_the_mask(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention is causal over the flat sequence, whatever it is asked to be."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.models.gpt_neox import modeling_gpt_neox

    class Deaf:
        @staticmethod
        def get_interface(name: str, default: Any) -> Any:
            return sdpa_attention_forward

    monkeypatch.setattr(modeling_gpt_neox, "ALL_ATTENTION_FUNCTIONS", Deaf)


def deaf_to_positions(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model counts positions itself."""
    rotary = model.base_model.rotary_emb.forward
    monkeypatch.setattr(
        model.base_model.rotary_emb,
        "forward",
        lambda x, position_ids: rotary(x, torch.arange(x.shape[1])[None]),
    )


@pytest.mark.parametrize("deaf", [deaf_to_the_mask, deaf_to_positions])
def test_a_model_that_does_not_honour_the_layout_is_caught(
    model: Any,
    requests: list[Request],
    deaf: Callable[[Any, pytest.MonkeyPatch], None],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    packs, number = pack_requests(requests, 200)
    expected, _ = one_by_one(model, requests)
    deaf(model, monkeypatch)
    scorer = Scorer(model)
    with caplog.at_level(logging.WARNING):
        assert choose_path(scorer, packs) < 1e-4
    assert scorer.path == "plain"
    assert "does not honour the mask" in caplog.text
    np.testing.assert_allclose(score(scorer, packs, number)[0], expected, atol=1e-4)


class OtherHead(torch.nn.Module):
    """A model that does something to its logits that no field of its config says."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.config, self.base_model = model, model.config, model.base_model

    def get_output_embeddings(self) -> Any:
        return self.model.get_output_embeddings()

    def forward(self, **inputs: Any) -> Any:
        out = self.model(**inputs)
        return dataclasses.replace(out, logits=torch.sin(out.logits))


def test_a_model_with_an_unknown_output_layer_is_scored_by_its_own(
    model: Any, requests: list[Request], caplog: pytest.LogCaptureFixture
) -> None:
    packs, number = pack_requests(requests, 200)
    scorer = Scorer(OtherHead(model))
    choose_path(scorer, packs)
    assert scorer.path == "whole"
    assert "output layer is not the one assumed" in caplog.text
    found, flags = score(scorer, packs, number)
    expected, greedy = one_by_one(scorer.model, requests)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    np.testing.assert_array_equal(flags, greedy)


def test_a_sound_model_passes_the_self_check(model: Any, requests: list[Request]) -> None:
    packs, _ = pack_requests(requests, 200)
    scorer = Scorer(model)
    assert choose_path(scorer, packs) < 1e-4
    assert scorer.path == "packed"


# Stems, inner blocks, and the output layer in blocks.


@pytest.fixture(scope="module")
def long_requests() -> list[Request]:
    """Items behind one beginning of 40 tokens, more than any pack can hold."""
    random = np.random.default_rng(5)
    stem = random.integers(0, VOCABULARY, 40).tolist()
    made = []
    for _ in range(20):
        prompt = (*stem, *random.integers(0, VOCABULARY, random.integers(2, 30)).tolist())
        for _ in range(2):
            answer = random.integers(0, VOCABULARY, random.integers(1, 4)).tolist()
            made.append(Request((*prompt, *answer), len(answer)))
    return made


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("name", ["GPTNeoX", "GPT2", "Llama", "Gemma2"])
@pytest.mark.parametrize("inner", [None, 7, 16])
def test_a_stem_and_passes_over_parts_give_the_same_scores(
    name: str,
    inner: int | None,
    stacked: bool,
    long_requests: list[Request],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Blocks by themselves, as on a CPU, or stacked, as on a GPU."""
    blocks = {"stacked": stacked}
    monkeypatch.setattr(engine, "sight_of", lambda *a, **given: sight_of(*a, **given | blocks))
    model = PACKED[name]()
    packs, number = pack_requests(long_requests, 80)
    assert [len(pack.stem) for pack in packs] == [40] * len(packs)
    assert len(packs) > 2
    expected, greedy = one_by_one(model, long_requests)
    found, flags = score(Scorer(model, inner=inner), packs, number)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    np.testing.assert_array_equal(flags, greedy)


def test_a_job_that_goes_on_finds_the_same_bytes(model: Any, long_requests: list[Request]) -> None:
    packs, _ = pack_requests(long_requests, 80)
    one = [scores[0].tobytes() for scores in Scorer(model).score_packs(packs)]
    for begin in range(len(packs)):
        rest = Scorer(model).score_packs(packs[begin:])
        assert [scores[0].tobytes() for scores in rest] == one[begin:]


def test_a_stem_is_computed_once(
    model: Any, long_requests: list[Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    packs, _ = pack_requests(long_requests, 80)
    computed = []
    forward = model.base_model.forward
    monkeypatch.setattr(
        model.base_model,
        "forward",
        lambda **given: computed.append(given["input_ids"].shape[1]) or forward(**given),
    )
    list(Scorer(model).score_packs(packs))
    assert computed == [40, *(len(pack.tokens) for pack in packs)]


@pytest.mark.parametrize("path", ["packed", "plain"])
@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to ..."),
    ],
)
def test_out_of_memory_the_same_pack_is_computed_in_parts(
    model: Any,
    long_requests: list[Request],
    path: str,
    error: Exception,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    packs, number = pack_requests(long_requests, 400)
    forward = model.base_model.forward

    def small_only(**given: Any) -> Any:
        if given["input_ids"].numel() > 100:
            raise error
        return forward(**given)

    expected, _ = one_by_one(model, long_requests)
    monkeypatch.setattr(model.base_model, "forward", small_only)
    scorer = Scorer(model, path)
    found, _ = score(scorer, packs, number)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert scorer.inner is not None
    assert scorer.inner <= 100
    assert "out of memory: at most" in caplog.text


def test_memory_that_does_not_suffice_for_anything_is_an_error(
    model: Any, requests: list[Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(**given: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    packs, _ = pack_requests(requests, 100)
    monkeypatch.setattr(model.base_model, "forward", never)
    with pytest.raises(torch.OutOfMemoryError):
        Scorer(model).score_pack(packs[0])


def test_parts_of_a_pack_never_grow_again(
    model: Any, long_requests: list[Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another lane came down to 25 tokens while this one was at a pass of them all."""
    packs, _ = pack_requests(long_requests, 400)
    forward, scorer = model.base_model.forward, Scorer(model)

    def small_only(**given: Any) -> Any:
        if given["input_ids"].numel() > 25:
            scorer.inner = 25
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(**given)

    monkeypatch.setattr(model.base_model, "forward", small_only)
    scorer.score_pack(packs[0])
    assert scorer.inner == 25


def test_products_that_find_no_memory_end_the_job_in_words(
    model: Any, requests: list[Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    """oneDNN fails from then on, whatever is asked of it; beside that, it fails at odd shapes."""
    packs, _ = pack_requests(requests, 100)
    said = "could not create a primitive"
    for words, error in ((said, StudyError), (f"{said} descriptor for a matmul", RuntimeError)):
        fails = Mock(side_effect=RuntimeError(words))
        monkeypatch.setattr(model.base_model, "forward", fails)
        with pytest.raises(error, match="more memory" if error is StudyError else words):
            Scorer(model).score_pack(packs[0])
        assert fails.call_count == 1


@pytest.mark.parametrize("path", ["packed", "plain"])
def test_no_pass_that_ran_out_of_memory_is_repeated_as_it_was(
    model: Any,
    long_requests: list[Request],
    path: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A pack is halved down to the smallest part, and batches down to single sequences."""
    asked: list[tuple[int, int]] = []

    def never(**given: Any) -> Any:
        asked.append(tuple(given["input_ids"].shape))
        raise torch.OutOfMemoryError("CUDA out of memory")

    packs, _ = pack_requests(long_requests, 80)
    longest = int(packs[0].depth.max()) + 1
    monkeypatch.setattr(model.base_model, "forward", never)
    scorer = Scorer(model, path, inner=1500)
    with pytest.raises(torch.OutOfMemoryError):
        scorer.score_pack(packs[0])
    assert len(asked) == len(set(asked)) > 1
    assert asked[-1] == (1, LEAST_INNER if path == "packed" else longest)
    assert len(caplog.records) == len(asked) - 1, "said as often as there was something to try"
    assert ("or one longer sequence" in caplog.text) == (path == "plain")


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("block", [4, 32])
def test_any_size_of_blocks_gives_the_same_scores(
    model: Any, requests: list[Request], block: int, stacked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks of the attention, of the output layer's rows and of its columns."""
    packs, number = pack_requests(requests, 200)
    expected, _ = one_by_one(model, requests)
    blocks = {"block": block, "stacked": stacked}
    monkeypatch.setattr(engine, "sight_of", lambda *a, **given: sight_of(*a, **given | blocks))
    monkeypatch.setattr(head, "ROWS", 5)
    monkeypatch.setattr(head, "COLUMNS", 10)
    found, _ = score(Scorer(model), packs, number)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_logits_are_held_in_bounded_blocks(
    model: Any, requests: list[Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    held = []
    logits = head.Head._logits

    def watched(self: Any, *given: Any) -> Any:
        held.append(logits(self, *given))
        return held[-1]

    monkeypatch.setattr(head, "ROWS", 5)
    monkeypatch.setattr(head, "COLUMNS", 10)
    monkeypatch.setattr(head.Head, "_logits", watched)
    (pack, *_), _ = pack_requests(requests, 200)
    Scorer(model).score_pack(pack)
    assert max(block.shape[0] for block in held) <= 5
    assert max(block.shape[1] for block in held) <= 10
    rows = len(np.unique(pack.target_position))
    assert sum(block.numel() for block in held) == rows * VOCABULARY, "each row once, no other"


# What the self-check has to find although the longest request alone would not show it.


def long_and_short() -> list[Request]:
    """One long prompt that fills a pack by itself, and short ones with several answers each."""
    random = np.random.default_rng(11)
    long = random.integers(0, VOCABULARY, 90).tolist()
    made = [Request((*long, answer), 1) for answer in (1, 2)]
    for _ in range(10):
        prompt = random.integers(0, VOCABULARY, 8).tolist()
        made += [Request((*prompt, *random.integers(0, VOCABULARY, 3).tolist()), 3) for _ in "ab"]
    return made


def test_requests_of_several_hundred_tokens_are_checked_in_one_pack() -> None:
    random = np.random.default_rng(11)
    long = [tuple(random.integers(0, VOCABULARY, 400).tolist()) for _ in "abc"]
    packs, _ = pack_requests([Request(tokens, 1) for tokens in long], 2048)
    scorer = Scorer(make("GPTNeoX", **(WIDE | {"max_position_embeddings": 512})))
    assert choose_path(scorer, packs) < 1e-3
    assert scorer.path == "packed"


def behind_a_stem(size: int, draw: np.random.Generator) -> list[Pack]:
    """Packs of short questions behind one long beginning."""
    stem = draw.integers(0, VOCABULARY, size).tolist()
    asked = [draw.integers(0, VOCABULARY, 6).tolist() for _ in range(60)]
    packs, _ = pack_requests([Request((*stem, *tokens), 2) for tokens in asked], 100)
    assert all(len(pack.stem) == size for pack in packs)
    return packs


@pytest.mark.parametrize("lost_behind", [20, 100, 140])
def test_what_lies_far_back_in_a_stem_is_looked_at(
    lost_behind: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault that a part of a pack has only beyond so many tokens of those before it."""
    own = attention._with_those_before

    def forgetful(sight: Sight, *given: Any) -> tuple[torch.Tensor, torch.Tensor]:
        if sight.before is None:
            return own(sight, *given)
        lost = {}
        for module, (keys, values) in sight.before.items():
            lost[module] = keys, values.clone()
            lost[module][1][:, :, : max(0, values.shape[2] - lost_behind)] = 0.0
        return own(dataclasses.replace(sight, before=lost), *given)

    packs = behind_a_stem(300, np.random.default_rng(3))
    scorer = Scorer(make("GPTNeoX", **(WIDE | {"max_position_embeddings": 512})))
    choose_path(scorer, packs)
    assert scorer.path == "packed"
    monkeypatch.setattr(attention, "_with_those_before", forgetful)
    choose_path(scorer, packs)
    assert scorer.path == "plain"


def test_neighbours_are_checked_without_most_of_what_they_have_in_common() -> None:
    draw = np.random.default_rng(4)
    packs = behind_a_stem(300, draw)
    others = [tuple(draw.integers(0, VOCABULARY, size).tolist()) for size in (9, 400)]
    alone, _ = pack_requests([Request(tokens, 1) for tokens in others], 500)
    _, (shortest, *neighbours, _) = self_check._sample([*packs, *alone])
    assert len(shortest.tokens) == 9
    assert [len(request.tokens) for request in neighbours] == [32 + 6, 32 + 6]
    # Where the longest begins like them, nothing is won by it.
    _, (shortest, *neighbours, _) = self_check._sample(packs)
    assert [len(request.tokens) for request in (shortest, *neighbours)] == 3 * [306]


@pytest.mark.parametrize("name", PLAIN)
def test_a_plan_whose_longest_request_stands_alone_hides_nothing(name: str) -> None:
    assert right_after_check(PLAIN[name](), long_and_short(), 64).path == "plain"


def test_a_layer_that_is_used_twice_is_found_before_a_stem_needs_it(
    requests: list[Request], long_requests: list[Request]
) -> None:
    """Its two uses would keep their keys in one place."""
    model = PACKED["Llama"]()
    model.model.layers[1] = model.model.layers[0]
    scorer = Scorer(model)
    choose_path(scorer, pack_requests(requests, 200)[0])
    assert scorer.path == "plain"
    packs, number = pack_requests(long_requests, 80)
    expected, _ = one_by_one(model, long_requests)
    np.testing.assert_allclose(score(scorer, packs, number)[0], expected, atol=1e-4)


def test_positions_that_depend_on_the_length_of_a_batch_are_found() -> None:
    """Phi-3's long rope: another scale for all tokens of a batch that is longer than the first."""
    model = make(
        "Phi3", **WIDE, num_key_value_heads=4, pad_token_id=0, bos_token_id=0, eos_token_id=0,
        original_max_position_embeddings=32,
        rope_scaling={"type": "longrope", "short_factor": [1.0] * 4, "long_factor": [4.0] * 4},
    )  # fmt: skip
    assert right_after_check(model, long_and_short(), 256).path == "whole"


def test_where_nothing_can_be_compared_nothing_is_assumed(
    requests: list[Request], caplog: pytest.LogCaptureFixture
) -> None:
    """One item of another task overflows: this task's numbers must be right all the same."""
    model = PLAIN["Mamba"]()
    odd = Request((*range(80, 96), 5, 6), 1)
    with torch.no_grad():
        model.get_input_embeddings().weight[95] = torch.nan
    kept = [request for request in requests if 95 not in request.tokens]
    packs, number = pack_requests(kept, 100)
    scorer = Scorer(model)
    assert np.isnan(choose_path(scorer, [*packs, *pack_requests([odd], 100)[0]]))
    assert "no finite numbers; scored one at a time" in caplog.text
    expected, _ = one_by_one(model, kept)
    np.testing.assert_allclose(score(scorer, packs, number)[0], expected, atol=1e-4)


def test_a_head_with_a_bias(requests: list[Request]) -> None:
    model = make("Phi", **WIDE)
    with torch.no_grad():
        model.lm_head.bias.uniform_(-2, 2)
    packs, number = pack_requests(requests, 100)
    scorer = Scorer(model)
    assert choose_path(scorer, packs) < 1e-4
    assert scorer.path == "packed"
    expected, _ = one_by_one(model, requests)
    np.testing.assert_allclose(score(scorer, packs, number)[0], expected, atol=1e-4)


def test_a_vocabulary_that_begins_with_impossible_tokens(
    model: Any, requests: list[Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A first block of columns that is minus infinity throughout adds nothing."""
    monkeypatch.setattr(head, "COLUMNS", 10)
    bias = torch.zeros(VOCABULARY)
    bias[:10] = -torch.inf
    hidden = torch.randn(4, 32, generator=torch.Generator().manual_seed(1))
    weight = model.get_output_embeddings().weight.detach()
    token = np.array([20, 30, 40, 50])
    found, _ = head.Head(weight, bias).logprobs(hidden, np.arange(4), token)
    expected = torch.log_softmax(hidden @ weight.T + bias, dim=-1)[range(4), token]
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("offset", [0.0, 100.0, 1000.0, 10000.0])
def test_large_logits_cost_no_digits(offset: float) -> None:
    """All logits of a row moved by as much: exact in float32, for they are whole 64ths."""
    random = torch.Generator().manual_seed(4)
    weight = torch.randint(-512, 512, (200, 1), generator=random) / 64
    token = np.arange(200)
    bias = torch.full((200,), offset)
    found, _ = head.Head(weight, bias).logprobs(torch.ones(1, 1), np.zeros(200, int), token)
    expected = torch.log_softmax(weight.double().T, dim=-1)[0]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_stem_is_given_back_when_no_pack_needs_it(
    model: Any, requests: list[Request], long_requests: list[Request]
) -> None:
    scorer = Scorer(model)
    list(scorer.score_packs(pack_requests(long_requests, 80)[0]))
    assert scorer._stem[1]
    _, values = next(iter(scorer._stem[1].values()))
    assert values.untyped_storage().nbytes() == values.nbytes, "not a view of all three in one"
    scorer.score_pack(pack_requests(requests, 4096)[0][0])
    assert scorer._stem == (b"", None)


def test_a_coarse_dtype_hides_no_leak(
    requests: list[Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the token before in the pack adds is too little for bfloat16's tolerance to show."""

    def leaky(*tensors: Any, **given: Any) -> Any:
        found, _ = attend(*tensors, **given)
        return found + 0.01 * found.roll(1, dims=1), None

    packs, _ = pack_requests(requests, 100)
    scorer = Scorer(PACKED["GPTNeoX"]().to(torch.bfloat16))
    monkeypatch.setattr(attention, "attend", leaky)
    choose_path(scorer, packs)
    assert scorer.path == "plain"
