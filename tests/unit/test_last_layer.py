"""The last layer, computed for the tokens alone that predict."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from test_engine import PACKED, one_by_one, right_after_check, score

from downslope import last_layer
from downslope.engine import Scorer
from downslope.packing import Pack, pack_requests
from downslope.protocols import Request
from downslope.sight import looking, sight_of

MODELS = ("GPTNeoX", "GPT2", "OPT", "Llama", "Gemma2")


@pytest.fixture(scope="module")
def requests() -> list[Request]:
    """Long prompts, two answers of one token each behind every one."""
    random = np.random.default_rng(5)
    prompts = [(*range(40), *random.integers(0, 97, 9).tolist()) for _ in range(24)]
    return [Request((*prompt, answer), 1) for prompt in prompts for answer in (1, 2)]


def rows_of_last_layer(model: Any) -> list[int]:
    """Filled with the rows of each product behind the attention of the last layer."""
    (layers,) = (m for m in model.base_model.modules() if isinstance(m, torch.nn.ModuleList))
    products = [m for m in layers[-1].modules() if type(m).__name__ in ("Linear", "Conv1D")]
    rows: list[int] = []
    products[-1].register_forward_hook(lambda _, args, out: rows.append(out[..., 0].numel()))
    return rows


def predicting(pack: Pack) -> int:
    return len(np.unique(pack.target_position))


@pytest.mark.parametrize("inner", [None, 30])
@pytest.mark.parametrize("name", MODELS)
def test_what_predicts_nothing_is_not_computed(
    name: str, inner: int | None, requests: list[Request]
) -> None:
    """Once for each token that predicts; one for a part or a stem in which none does."""
    model = PACKED[name]()
    packs, number = pack_requests(requests, 60)
    assert {len(pack.stem) for pack in packs} == {40}
    expected, _ = one_by_one(model, requests)
    rows = rows_of_last_layer(model)
    found, _ = score(Scorer(model, inner=inner), packs, number)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    whole = [len(packs[0].stem), *(len(pack.tokens) for pack in packs)]
    parts = sum(-(-tokens // (inner or tokens)) for tokens in whole)
    wanted = sum(map(predicting, packs))
    assert wanted < sum(rows) <= wanted + parts
    assert len(rows) == parts
    rows.clear()
    score(Scorer(model, inner=inner, narrow=0.0), packs, number)
    assert sum(rows) == sum(whole)


def test_where_most_tokens_predict_all_are_computed() -> None:
    """Keys and values of a token that predicts are made twice."""
    model = PACKED["GPTNeoX"]()
    (pack,), number = pack_requests([Request(tuple(range(20)), answer=11)], 100)
    rows = rows_of_last_layer(model)
    score(Scorer(model), [pack], number)
    (pack,), number = pack_requests([Request(tuple(range(20)), answer=9)], 100)
    score(Scorer(model), [pack], number)
    assert rows == [19, 9]


@pytest.mark.parametrize("narrow", [0.0, 0.5, 1.0])
def test_a_model_is_left_as_it_was(narrow: float, requests: list[Request]) -> None:
    model = PACKED["GPTNeoX"]()
    packs, number = pack_requests(requests, 60)
    score(Scorer(model, narrow=narrow), packs, number)
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())


class Neighbours(torch.nn.Module):
    """A norm that adds to each token what the one before it has become."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        before = torch.nn.functional.pad(hidden, (0, 0, 1, 0))[:, :-1]
        found: torch.Tensor = self.norm(hidden + before)
        return found


def test_what_follows_the_last_layer_and_looks_at_other_tokens_is_found(
    requests: list[Request],
) -> None:
    """Where it looks along the pack, not along the path, a pack cannot be right at all."""
    model = PACKED["GPTNeoX"]()
    model.base_model.final_layer_norm = Neighbours(model.base_model.final_layer_norm)
    scorer = right_after_check(model, requests, 60)
    assert scorer.path == "plain"


class AsManyAsEver(torch.nn.Module):
    """A layer that insists on the number of tokens that the first one had, or goes wrong."""

    def __init__(self, layer: Any, first: Any, *, silent: bool) -> None:
        super().__init__()
        self.layer, self.tokens, self.silent = layer, 0, silent
        first.register_forward_pre_hook(self.count)

    def count(self, _: Any, args: tuple[torch.Tensor, ...]) -> None:
        self.tokens = args[0].shape[1]

    def forward(self, hidden: torch.Tensor, *args: Any, **given: Any) -> Any:
        if hidden.shape[1] != self.tokens and self.silent:
            hidden = hidden + 1 - 2 * (torch.arange(hidden.shape[2]) % 2)
        elif hidden.shape[1] != self.tokens:
            raise ValueError(f"{hidden.shape[1]} tokens of {self.tokens}")
        return self.layer(hidden, *args, **given)


@pytest.mark.parametrize(
    ("silent", "why"),
    [
        (False, "the packed path fails (ValueError: "),
        (True, "its last layer, or what follows it, looks at tokens that predict nothing"),
    ],
)
def test_a_last_layer_that_needs_all_tokens_gets_them(
    silent: bool, why: str, requests: list[Request], caplog: pytest.LogCaptureFixture
) -> None:
    model = PACKED["GPTNeoX"]()
    layers = model.base_model.layers
    layers[-1] = AsManyAsEver(layers[-1], layers[0], silent=silent)
    scorer = right_after_check(model, requests, 60)
    assert (scorer.path, scorer.narrow) == ("packed", 0.0)
    (said,) = caplog.messages
    assert said.startswith("self-check: all of its last layer is computed: ")
    assert why in said


def test_a_layer_whose_tokens_lie_elsewhere_is_left_alone() -> None:
    """Gemma 3n hands four streams from layer to layer, (4, 1, tokens, width)."""
    sight = sight_of(np.full(6, 6, np.int32), np.arange(6, dtype=np.int32))
    sight.wanted = np.array([5])
    with looking(sight):
        for shape in ((4, 1, 6, 8), (1, 7, 8), (6, 8), (2, 6, 8)):
            assert last_layer._narrowed(None, (torch.zeros(shape),), {}) is None
        assert last_layer._narrowed(None, (), {"other": torch.zeros(1, 6, 8)}) is None
    assert sight.last is None


class WithoutAttention(torch.nn.Module):
    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.norm, self.mlp = layer.post_attention_layernorm, layer.mlp

    def forward(self, hidden: torch.Tensor, *args: Any, **given: Any) -> torch.Tensor:
        return hidden + self.mlp(self.norm(hidden))


def test_a_last_layer_without_attention_computes_all_tokens(
    requests: list[Request], caplog: pytest.LogCaptureFixture
) -> None:
    model = PACKED["GPTNeoX"]()
    model.base_model.layers[-1] = WithoutAttention(model.base_model.layers[-1])
    scorer = right_after_check(model, requests, 60)
    assert scorer.path == "packed"
    assert not caplog.messages


class TwoAttentions(torch.nn.Module):
    """A layer whose second attention looks at what the first has made of all tokens."""

    def __init__(self, one: Any, other: Any) -> None:
        super().__init__()
        self.one, self.other = one, other

    def forward(self, hidden: torch.Tensor, *args: Any, **given: Any) -> Any:
        return self.other(self.one(hidden, *args, **given), *args, **given)


def test_a_last_layer_that_attends_twice_computes_all_tokens(
    requests: list[Request], caplog: pytest.LogCaptureFixture
) -> None:
    model = PACKED["GPTNeoX"]()
    layers = model.base_model.layers
    layers[-1] = TwoAttentions(layers[-1], PACKED["GPTNeoX"]().base_model.layers[-1])
    for layer in (layers[-1].one, layers[-1].other):
        layer.attention.config = model.config
    scorer = right_after_check(model, requests, 60)
    assert (scorer.path, scorer.narrow) == ("packed", 0.0)
    assert "more attention behind that of the last layer" in caplog.text
