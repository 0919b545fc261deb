"""Products of a CPU: who makes them, that they are the same, and that a model gets its own back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from architectures import PACKED, PLAIN
from downslope import attention, head, products
from downslope.engine import Scorer
from downslope.job_report import environment
from downslope.packing import Pack, pack_requests
from downslope.products import by_onednn, product, take_products
from downslope.protocols import Request
from downslope.self_check import choose_path

GENERATOR = torch.Generator().manual_seed(3)


@pytest.fixture(autouse=True)
def asked_anew() -> Iterator[None]:
    by_onednn.cache_clear()
    yield
    by_onednn.cache_clear()


@pytest.fixture
def onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any processor can multiply by oneDNN, whether or not it is the faster way."""
    monkeypatch.setattr(products, "by_onednn", lambda: True)


def small(name: str) -> Any:
    """A random model of an architecture that answers from all of its prompt."""
    import transformers

    kind, fields = {**PACKED, **PLAIN}[name]
    config = transformers.AutoConfig.for_model(kind, **{**fields, "vocab_size": 256})
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = transformers.AutoModelForCausalLM.from_config(config)
        for parameter in model.parameters():
            if parameter.ndim == 1:  # biases are drawn too, which would be 0 and could be forgotten
                torch.nn.init.normal_(parameter, std=0.25)
    return model.eval()


def packs_of(count: int) -> list[Pack]:
    draw = np.random.default_rng(1)
    read = [(7, 8, *draw.integers(0, 256, size).tolist()) for size in range(4, 4 + count)]
    packs, _ = pack_requests([Request(tokens, 2) for tokens in read], 64)
    return packs


@pytest.mark.parametrize(
    ("capability", "vendor", "mkl", "mkldnn", "expected"),
    [
        ("AVX512", "AuthenticAMD", True, True, True),
        ("AVX512", "GenuineIntel", True, True, False),  # MKL takes AVX-512 there
        ("AVX2", "AuthenticAMD", True, True, False),  # no more than MKL takes
        ("AVX512", "", True, True, False),  # not known: as torch has it
        ("AVX512", "AuthenticAMD", False, True, False),  # torch multiplies by something else
        ("AVX512", "AuthenticAMD", True, False, False),
    ],
)
def test_onednn_multiplies_where_mkl_does_not_take_all_of_the_processor(
    capability: str, vendor: str, mkl: bool, mkldnn: bool, expected: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(products, "processor", lambda field: {"vendor_id": vendor}[field])
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: mkl)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: mkldnn)
    assert by_onednn() is expected


@pytest.mark.parametrize(
    "bias",
    [
        None,
        torch.randn(48, generator=GENERATOR),
        torch.randn(96, generator=GENERATOR)[::2],
        torch.randn(1, generator=GENERATOR).expand(48),
    ],
)
@pytest.mark.parametrize("shape", [(70,), (1, 5), (2, 3), (0,)])
def test_a_product_is_that_of_double_precision(
    shape: tuple[int, ...], bias: torch.Tensor | None, onednn: None
) -> None:
    """Also of a weight that lies transposed, as GPT-2's do, and of some of a weight's rows."""
    rows = torch.randn(*shape, 32, generator=GENERATOR)
    weight = torch.randn(96, 32, generator=GENERATOR)[::2]
    expected = rows.double() @ weight.double().T + (0 if bias is None else bias.double())
    for laid_out in (weight, weight.contiguous(), weight.T.contiguous().T):
        found = product(rows, laid_out, bias)
        assert found.shape == (*shape, 48)
        assert torch.allclose(found.double(), expected, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes_are_torch_s_affair(dtype: torch.dtype, onednn: None) -> None:
    rows, weight = (torch.randn(8, 16, generator=GENERATOR).to(dtype) for _ in range(2))
    assert torch.equal(product(rows, weight), torch.nn.functional.linear(rows, weight))


def test_other_devices_are_torch_s_affair(onednn: None, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, weight = (torch.empty(size, device="meta") for size in ((8, 16), (4, 16)))
    asked = []
    monkeypatch.setattr(torch.nn.functional, "linear", lambda *given: asked.append(given))
    product(rows, weight)
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("name", "layers"),
    [("GPT-NeoX", 2 * 4 + 1), ("GPT-2", 2 * 4 + 1), ("Llama", 2 * 7 + 1)],
)
def test_a_model_s_layers_multiply_by_it_and_get_their_own_back(
    name: str, layers: int, onednn: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small(name)
    ids = torch.arange(6)[None]
    own = model(input_ids=ids).logits
    asked = []

    def counted(rows: torch.Tensor, *rest: Any) -> torch.Tensor:
        asked.append(rows.shape)
        return product(rows, *rest)

    monkeypatch.setattr(products, "product", counted)
    give_back = take_products(model)
    with torch.inference_mode():
        taken = model(input_ids=ids).logits
    give_back()
    assert len(asked) == layers
    assert torch.allclose(taken, own, atol=1e-4)
    assert torch.equal(model(input_ids=ids).logits, own)
    assert len(asked) == layers


class Added(torch.nn.Linear):
    """A linear layer that does something else."""

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return rows + 1.0


def test_a_layer_that_somebody_has_changed_stays_as_it_is(onednn: None) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4), Added(4, 4))
    model[1].forward = lambda rows: rows + 1.0
    rows = torch.zeros(1, 4)
    give_back = take_products(model)
    assert "forward" in vars(model[0])
    assert all(torch.equal(model[k](rows), rows + 1.0) for k in (1, 2))
    give_back()
    assert all(torch.equal(model[k](rows), rows + 1.0) for k in (1, 2))


@pytest.mark.parametrize("name", ["GPT-NeoX", "GPT-2", "Bloom", "Mamba"])
def test_scores_are_those_of_torch_s_products(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers and output layer multiply by oneDNN on either path; read whole, the model does not."""
    asked = {"layers": 0, "output layer": 0}

    def counted(who: str) -> Any:
        def multiply(*given: Any) -> torch.Tensor:
            asked[who] += 1
            return product(*given)

        return multiply

    monkeypatch.setattr(products, "product", counted("layers"))
    monkeypatch.setattr(head, "product", counted("output layer"))
    model, found = small(name), {}
    for by in (False, True):
        monkeypatch.setattr(products, "by_onednn", lambda by=by: by)
        scorer = Scorer(model, "plain" if name in PLAIN else "packed")
        found[by] = np.concatenate([ll for ll, _ in scorer.score_packs(packs_of(20))])
        assert bool(asked["layers"]) is by
    np.testing.assert_allclose(found[True], found[False], rtol=1e-5)
    assert asked["output layer"]
    asked["layers"] = 0
    whole = Scorer(model, "whole")
    whole.score_pack(packs_of(2)[0])
    assert asked["layers"] == 0
    assert environment(scorer)["products"] == "oneDNN"
    assert environment(whole)["products"] == "torch"
    scorer.model.bfloat16()
    assert environment(scorer)["products"] == "torch"


@pytest.mark.parametrize("name", ["GPT-NeoX", "Bloom"])
def test_products_that_are_wrong_are_found_by_the_self_check(
    name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The reference is the model with its own products."""

    def wrong(rows: torch.Tensor, *rest: Any) -> torch.Tensor:
        return 1.01 * torch.nn.functional.linear(rows, *rest)

    monkeypatch.setattr(products, "by_onednn", lambda: True)
    monkeypatch.setattr(products, "product", wrong)
    scorer = Scorer(small(name))
    choose_path(scorer, packs_of(20))
    assert scorer.path == "whole"
    assert "self-check" in caplog.text


def test_a_model_whose_products_cannot_be_taken_is_left_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(model: Any) -> None:
        raise ImportError("no Conv1D")

    model = small("GPT-NeoX")
    own = model.config._attn_implementation
    monkeypatch.setattr(attention, "take_products", refuse)
    with pytest.raises(ImportError):
        Scorer(model).score_pack(packs_of(2)[0])
    assert model.config._attn_implementation == own
    assert not any(module._forward_hooks for module in model.modules())
