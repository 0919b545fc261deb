"""What the self-check makes of models that no study of today has: none may give wrong numbers."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from downslope import head, self_check
from downslope.engine import Scorer
from downslope.errors import StudyError, UnusableFolder
from downslope.packing import pack_requests
from downslope.protocols import Request
from downslope.self_check import TOLERANCE, choose_path

VOCABULARY = 97
SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
WIDE = SHAPE | {"intermediate_size": 64, "initializer_range": 0.3}
EXPERTS = WIDE | {"num_key_value_heads": 2, "num_local_experts": 8, "num_experts_per_tok": 2}
LOOKING_AHEAD: dict[str, dict[str, Any]] = {
    "bert": WIDE,
    "electra": WIDE | {"embedding_size": 32},
    "xlnet": {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64, "initializer_range": 0.3},
}
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def model_of(kind: str, seed: int = 7, **fields: Any) -> Any:
    """A tiny random model as AutoModelForCausalLM makes it."""
    config = transformers.AutoConfig.for_model(kind, vocab_size=VOCABULARY, **fields)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return transformers.AutoModelForCausalLM.from_config(config).eval()


def requests_of(count: int = 30, seed: int = 3) -> list[Request]:
    draw = np.random.default_rng(seed)
    sizes = draw.integers(4, 40, count).tolist()
    return [Request(tuple(draw.integers(1, VOCABULARY, size).tolist()), 2) for size in sizes]


@torch.inference_mode()
def one_by_one(model: Any, requests: list[Request]) -> list[float]:
    """Log-likelihoods from a forward pass for each request."""
    found = []
    for request in requests:
        logits = model(input_ids=torch.tensor([request.tokens[:-1]]), use_cache=False).logits[0]
        logprobs = torch.log_softmax(logits.double(), dim=-1)[-request.answer :]
        answer = torch.tensor(request.tokens[-request.answer :])
        found.append(float(logprobs.gather(1, answer[:, None]).sum()))
    return found


def scored(model: Any, requests: list[Request]) -> tuple[str, np.ndarray]:
    """The path that the self-check chooses, and the log-likelihoods by it."""
    packs, number = pack_requests(requests, 100)
    scorer = Scorer(model)
    choose_path(scorer, packs)
    return scorer.path, np.concatenate([scorer.score_pack(pack)[0] for pack in packs])[number]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", LOOKING_AHEAD)
def test_a_model_that_reads_what_follows_is_refused(kind: str, dtype: torch.dtype) -> None:
    model = model_of(kind, **LOOKING_AHEAD[kind]).to(dtype)
    packs, _ = pack_requests(requests_of(), 100)
    with pytest.raises(UnusableFolder, match=r"(LMHeadModel|ForCausalLM): is no causal"):
        choose_path(Scorer(model), packs)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_same_layers_as_a_decoder_are_scored(dtype: torch.dtype) -> None:
    model = model_of("bert", **WIDE, is_decoder=True).to(dtype)
    packs, _ = pack_requests(requests_of(), 100)
    choose_path(Scorer(model), packs)


@pytest.mark.parametrize("seed", range(4))
def test_an_expert_that_rounding_chooses_is_no_look_ahead(seed: int) -> None:
    """A stranger's token changes how many go to an expert together, and so the last digit."""
    model = model_of("mixtral", seed, **EXPERTS).to(torch.bfloat16)
    packs, _ = pack_requests(requests_of(seed=seed), 100)
    choose_path(Scorer(model), packs)


@pytest.mark.parametrize("seed", range(2))
def test_a_deep_model_of_experts_is_scored_though_rounding_grows_with_every_layer(
    seed: int,
) -> None:
    deep = EXPERTS | {"hidden_size": 256, "num_hidden_layers": 24}
    model = model_of("mixtral", seed, **deep)
    requests = requests_of(seed=seed)
    _, found = scored(model, requests)
    # Where two experts are as good, rounding may choose: that is the model's own doing.
    assert np.median(np.abs(found - one_by_one(model, requests))) < 1e-3


@pytest.mark.parametrize("tokens", [(5, 6), (5, 6, 7), (9, 9, 9, 9)])
def test_a_task_of_one_short_request(tokens: tuple[int, ...]) -> None:
    model = model_of("gpt_neox", **WIDE)
    scorer = Scorer(model)
    packs, _ = pack_requests([Request(tokens, 1)], 100)
    assert choose_path(scorer, packs) < 1e-4
    found, _ = scorer.score_pack(packs[0])
    np.testing.assert_allclose(found, one_by_one(model, [Request(tokens, 1)]), atol=1e-5)


WINDOWED: dict[str, dict[str, Any]] = {
    "qwen2_moe": EXPERTS | {  # its layers ask for no window, and its masks have one
        "num_experts": 4, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32,
        "use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1,
    },
    "exaone4": WIDE | {  # all layers know of a window, and half of them have none
        "num_key_value_heads": 2, "sliding_window": 6,
        "layer_types": ["sliding_attention", "full_attention"],
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", WINDOWED)
def test_a_window_holds_in_the_layers_that_have_one(kind: str) -> None:
    model = model_of(kind, **WINDOWED[kind])
    path, found = scored(model, requests_of())
    assert path == "packed"
    np.testing.assert_allclose(found, one_by_one(model, requests_of()), atol=1e-4)


@pytest.mark.parametrize("positions", [8, 31, 32])
def test_a_request_as_long_as_the_model_has_positions(positions: int) -> None:
    model = model_of("gpt2", n_embd=32, n_layer=2, n_head=4, n_positions=positions)
    requests = [Request(tuple(range(1, positions + 2)), 2)]
    packs, _ = pack_requests(requests, 100)
    scorer = Scorer(model)
    assert choose_path(scorer, packs) < 1e-4
    found, _ = scorer.score_pack(packs[0])
    np.testing.assert_allclose(found, one_by_one(model, requests), atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (
            "recurrent_gemma",
            {
                **SHAPE,
                "intermediate_size": 64,
                "num_hidden_layers": 3,
                "num_key_value_heads": 1,
                "logits_soft_cap": 0.5,
            },
        ),
        (
            "xlstm",
            {
                "hidden_size": 64,
                "num_heads": 2,
                "num_hidden_layers": 2,
                "output_logit_soft_cap": 0.5,
            },
        ),
        (
            "falcon_h1",
            {
                **SHAPE,
                "intermediate_size": 64,
                "num_key_value_heads": 2,
                "mamba_d_ssm": 32,
                "mamba_n_heads": 4,
                "mamba_d_head": 8,
                "mamba_d_state": 8,
                "initializer_range": 0.3,
                "lm_head_multiplier": 0.25,
            },
        ),
    ],
)
def test_caps_and_factors_of_logits_by_other_names(kind: str, fields: dict[str, Any]) -> None:
    model = model_of(kind, **fields)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(20)  # logits beyond the cap
    path, found = scored(model, requests_of())
    assert path == "plain"
    np.testing.assert_allclose(found, one_by_one(model, requests_of()), atol=1e-3)


def test_a_model_that_fails_by_itself_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("gpt_neox", **WIDE)

    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("selected index k out of range")

    monkeypatch.setattr(model, "forward", fails)
    packs, _ = pack_requests(requests_of(), 100)
    words = r"GPTNeoXForCausalLM: the whole path fails \(RuntimeError: selected index k"
    with pytest.raises(StudyError, match=words) as raised:
        choose_path(Scorer(model), packs)
    assert not isinstance(raised.value, UnusableFolder), "a device may fail once"
    assert isinstance(raised.value.__cause__, RuntimeError), "the log shows where it failed"


def test_memory_that_runs_out_in_the_first_look_is_not_called_a_bad_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = model_of("gpt_neox", **WIDE)

    def fails(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(model, "forward", fails)
    packs, _ = pack_requests(requests_of(), 100)
    with pytest.raises(torch.OutOfMemoryError):
        choose_path(Scorer(model), packs)


@pytest.mark.parametrize(
    ("positions", "by", "causal"),
    [
        (slice(None), 0.5, True),
        (slice(None), 2.0, False),
        (slice(0, 1), 1e6, True),  # an expert was chosen otherwise
        (slice(None, None, 2), 1e6, False),
    ],
)
def test_how_far_predictions_may_change_with_what_follows(
    positions: slice, by: float, causal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`by` that many tolerances, at these of the 15 positions that are compared."""
    read, model = self_check.read, model_of("gpt_neox", **WIDE)

    def moved(model: Any, batch: Any, *, whole: bool) -> Any:
        found, top = read(model, batch, whole=whole)
        if len(batch.ids) == 2:
            found = found.clone()
            found[len(found) // 2 :][positions] += by * TOLERANCE[torch.float32]
        return found, top

    monkeypatch.setattr(self_check, "read", moved)
    packs, _ = pack_requests([Request(tuple(range(1, 32)), 2)], 100)
    with contextlib.nullcontext() if causal else pytest.raises(UnusableFolder):
        choose_path(Scorer(model), packs)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_an_output_layer_of_its_own_is_read_one_at_a_time_and_the_log_says_so(
    dtype: torch.dtype, caplog: pytest.LogCaptureFixture
) -> None:
    model = model_of("gpt_neox", **WIDE).to(dtype)

    def doubled(_: object, __: object, output: Any) -> Any:
        output.logits = 2 * output.logits
        return output

    model.register_forward_hook(doubled)
    path, found = scored(model, requests_of())
    assert path == "whole"
    assert "its output layer is not the one assumed" in caplog.text
    assert "scored in a slower way" in caplog.text
    np.testing.assert_allclose(found, one_by_one(model, requests_of()), atol=1e-4)


def test_a_cap_is_found_in_a_model_whose_language_is_a_part_of_it() -> None:
    text = {"final_logit_softcapping": 3.0, "vocab_size": VOCABULARY, "hidden_size": 8}
    layer = torch.nn.Linear(8, VOCABULARY, bias=False)
    config = transformers.Gemma3Config(text_config=text)
    model = SimpleNamespace(config=config, get_output_embeddings=lambda: layer)
    assert head.Head.of(model).softcap == 3.0


@pytest.mark.parametrize("columns", [10, 4096])
def test_a_token_outside_of_the_vocabulary_has_no_number(
    columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head, "COLUMNS", columns)
    weight = torch.randn(VOCABULARY, 8, generator=torch.Generator().manual_seed(1))
    token = np.array([96, 97, 98, 5000])
    found, top = head.Head(weight).logprobs(torch.ones(4, 8), np.arange(4), token)
    assert torch.isfinite(found).tolist() == [True, False, False, False]
    assert top[1:].tolist() == [False] * 3
