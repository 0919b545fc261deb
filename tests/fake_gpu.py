"""Score packs on GPUs that are not there: devices and shapes are followed, no number is computed.

    python tests/fake_gpu.py [FAULT]      prints what went through, a line each, or fails

Fake tensors (torch's own, made for its compiler) refuse an operation on tensors of two devices, and
one that has to know a number that only the device has. On a real GPU the first would fail, and the
second would keep it waiting for Python. It is a process of its own, since torch is told of a device
that it has not got.

FAULT breaks something that must then be refused: `left` leaves indices on the CPU, `asked` has the
output layer ask for a number.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from accelerate import dispatch_model
from numpy.typing import NDArray
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import backend_registration

sys.path += [str(Path(__file__).parent), str(Path(__file__).parents[1] / "scripts")]
from architectures import PACKED
from downslope import engine, head, last_layer, plain, sight
from downslope.engine import Scorer
from downslope.packing import Pack, pack_requests
from downslope.protocols import Request

VOCABULARY = 256
NAMES = ("GPT-NeoX", "OPT", "Llama", "Gemma 2")
PARTS = {"model.embed_tokens": 0, "model.layers.0": 0, "model.layers.1": 1} | dict.fromkeys(
    ("model.norm", "model.rotary_emb", "lm_head"), 1
)
"""Modules of a Llama on two GPUs."""


def packs_with_stems() -> list[Pack]:
    """A pack without a stem, and several behind one."""
    draw = np.random.default_rng(0)
    shared = tuple(range(100))
    alone = [tuple(draw.integers(0, VOCABULARY, size).tolist()) for size in (5, 90, 150)]
    behind = [(*shared, *draw.integers(0, VOCABULARY, 30).tolist()) for _ in range(24)]
    packs, _ = pack_requests([Request(tokens, 3) for tokens in (*alone, *behind)], 256)
    assert {len(pack.stem) > 0 for pack in packs} == {True, False}
    return packs


def model_on(places: Mapping[str, int], name: str) -> Any:
    """An architecture's model whose weights have shapes, bfloat16 and a device, and no values.

    `places` has a GPU for each of its modules, "" being the whole model.
    """
    kind, fields = PACKED[name]
    config = transformers.AutoConfig.for_model(kind, vocab_size=VOCABULARY, **fields)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
    for part, gpu in places.items():
        for module in model.get_submodule(part).modules():
            for key, value in module._parameters.items():
                if value is not None:
                    there = torch.empty(value.shape, dtype=value.dtype, device=f"gpu:{gpu}")
                    module._parameters[key] = torch.nn.Parameter(there, requires_grad=False)
            for key, value in module._buffers.items():
                if value is not None:
                    there = torch.empty(value.shape, dtype=value.dtype, device=f"gpu:{gpu}")
                    module._buffers[key] = there
    return model


def score(scorer: Scorer, packs: list[Pack]) -> None:
    for pack in packs:
        logprob, top = scorer._launch(pack)
        assert logprob.device.type == top.device.type == "gpu"
        assert logprob.shape == top.shape == pack.target_token.shape
        assert (logprob.dtype, top.dtype) == (torch.float64, torch.bool)


def arrives(array: NDArray[Any], device: torch.device) -> torch.Tensor:
    """What `to_device` returns, less the numbers, which a fake tensor cannot bring along."""
    return torch.empty(array.shape, dtype=torch.from_numpy(array[:0].copy()).dtype, device=device)


def left(array: NDArray[Any], _: torch.device) -> torch.Tensor:
    return arrives(array, torch.device("cpu"))


def asked(logits: Any) -> Any:
    """The output layer's logits, after a look at whether they are numbers."""

    def checked(self: head.Head, *args: Any) -> torch.Tensor:
        found: torch.Tensor = logits(self, *args)
        assert not bool(found.isnan().any())
        return found

    return checked


def main(fault: str) -> None:
    backend_registration._setup_privateuseone_for_python_backend("gpu")
    transformers.utils.logging.set_verbosity_error()
    for module in (engine, head, last_layer, plain, sight):
        module.to_device = left if fault == "left" else arrives  # type: ignore[attr-defined]
    if fault == "asked":
        head.Head._logits = asked(head.Head._logits)  # type: ignore[method-assign]
    packs = packs_with_stems()
    with FakeTensorMode():
        for name in NAMES:
            model = model_on({"": 0}, name)
            for path, inner in (("packed", None), ("packed", 100), ("plain", None)):
                score(Scorer(model, path, inner), packs)
                print(f"{name}, {path}, {inner}")
        places = {part: f"gpu:{gpu}" for part, gpu in PARTS.items()}
        both = dispatch_model(model_on(PARTS, "Llama"), places, force_hooks=True)
        for inner in (None, 100):
            score(Scorer(both, "packed", inner), packs)
            print(f"two GPUs, packed, {inner}")


if __name__ == "__main__":
    main(*sys.argv[1:] or ("",))
