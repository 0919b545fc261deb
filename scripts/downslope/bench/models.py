"""Models to measure on: the sizes of the Pythia suite, random weights, several architectures.

Time depends on a model's shape, not on what it learned, so no weights are fetched. Every
architecture has the vocabulary and the positions of Pythia and a body of about as many weights:
Llama's feed-forward layer has three matrices instead of two, each two thirds as large.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from downslope.errors import StudyError

VOCABULARY = 50304
POSITIONS = 2048
SEED = 0


@dataclass(frozen=True)
class Shape:
    """Width of the hidden states, number of layers, number of attention heads."""

    hidden: int
    layers: int
    heads: int


SHAPES = {
    "70m": Shape(512, 6, 8),
    "160m": Shape(768, 12, 12),
    "410m": Shape(1024, 24, 16),
    "1b": Shape(2048, 16, 8),
    "1.4b": Shape(2048, 24, 16),
    "2.8b": Shape(2560, 32, 32),
    "6.9b": Shape(4096, 32, 32),
    "12b": Shape(5120, 36, 40),
}
"""The Pythia suite (Biderman et al. 2023, Table 1)."""


def _gpt_neox(shape: Shape) -> dict[str, Any]:
    return {**_common(shape), "intermediate_size": 4 * shape.hidden}


def _gpt2(shape: Shape) -> dict[str, Any]:
    return {
        "vocab_size": VOCABULARY,
        "n_embd": shape.hidden,
        "n_layer": shape.layers,
        "n_head": shape.heads,
        "n_positions": POSITIONS,
        "n_ctx": POSITIONS,
    }


def _opt(shape: Shape) -> dict[str, Any]:
    return {
        **_common(shape),
        "ffn_dim": 4 * shape.hidden,
        "word_embed_proj_dim": shape.hidden,
    }


def _llama(shape: Shape) -> dict[str, Any]:
    return {
        **_common(shape),
        "intermediate_size": -(-8 * shape.hidden // (3 * 128)) * 128,
    }


def _common(shape: Shape) -> dict[str, Any]:
    return {
        "vocab_size": VOCABULARY,
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "max_position_embeddings": POSITIONS,
    }


ARCHITECTURES: dict[str, tuple[str, Callable[[Shape], dict[str, Any]]]] = {
    "gpt-neox": ("GPTNeoXConfig", _gpt_neox),
    "gpt2": ("GPT2Config", _gpt2),
    "opt": ("OPTConfig", _opt),
    "llama": ("LlamaConfig", _llama),
}


def known(name: str, names: Any, what: str) -> str:
    """`name`, or StudyError where it is none of the names."""
    if name not in names:
        raise StudyError(f"{what} {name!r} is not known", remedy=f"Known are {', '.join(names)}.")
    return name


def config_of(architecture: str, shape: str) -> Any:
    """The library's config of an architecture in one of the shapes."""
    import transformers

    name, arguments = ARCHITECTURES[known(architecture, ARCHITECTURES, "the architecture")]
    return getattr(transformers, name)(**arguments(SHAPES[known(shape, SHAPES, "the shape")]))


def random_model(architecture: str, shape: str, *, dtype: str, device: str) -> Any:
    """A model with random weights in evaluation mode; the same ones each time it is made."""
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(), torch.device(device):
        torch.manual_seed(SEED)
        model = AutoModelForCausalLM.from_config(
            config_of(architecture, shape),
            dtype=getattr(torch, dtype),
            attn_implementation="sdpa",
        )
    return model.to(device).eval()
