"""Tiny random models of many architectures with the Pythia tokenizer, as checkpoints in a folder.

Weights are drawn wide (a standard deviation of 0.25, where 0.02 is usual), so that attention is
sharp and answers depend on every token of a prompt and its position. The models measure nothing.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
import transformers

from reference_model import TOKENIZER_CONFIG

WINDOW = 12
"""Tokens of a sliding window: fewer than any prompt of the tests has."""

WIDTH: dict[str, Any] = {"initializer_range": 0.25, "hidden_size": 32}
DEPTH: dict[str, Any] = WIDTH | {"num_hidden_layers": 2, "num_attention_heads": 4}
SHAPE: dict[str, Any] = DEPTH | {"intermediate_size": 64, "max_position_embeddings": 2048}
GROUPED: dict[str, Any] = SHAPE | {"num_key_value_heads": 2}
OPT: dict[str, Any] = DEPTH | {
    "init_std": 0.25, "ffn_dim": 64, "word_embed_proj_dim": 32, "max_position_embeddings": 2048,
}  # fmt: skip
LETTERED: dict[str, Any] = WIDTH | {"n_layer": 2, "n_head": 4}

Architecture = tuple[str, dict[str, Any]]
"""A model type of transformers and the fields of its config."""

PACKED: dict[str, Architecture] = {
    "GPT-NeoX": ("gpt_neox", SHAPE),
    "GPT-2": ("gpt2", LETTERED | {"n_embd": 32, "n_positions": 2048}),
    "OPT": ("opt", OPT),
    # As OPT-350m: norms behind the layers, embeddings narrower than the layers.
    "OPT, narrow": ("opt", OPT | {"word_embed_proj_dim": 16, "do_layer_norm_before": False}),
    "Llama": ("llama", GROUPED),
    "OLMo 2": ("olmo2", GROUPED),
    "Qwen 2": ("qwen2", GROUPED),
    "Qwen 3": ("qwen3", GROUPED | {"head_dim": 8}),
    "Gemma": ("gemma", GROUPED | {"head_dim": 8, "num_key_value_heads": 1}),
    # A window in every other layer, and both soft caps low enough to matter.
    "Gemma 2": (
        "gemma2",
        GROUPED | {
            "head_dim": 8, "sliding_window": WINDOW,
            "attn_logit_softcapping": 1.0, "final_logit_softcapping": 3.0,
        },
    ),
    "Mistral": ("mistral", GROUPED | {"sliding_window": WINDOW}),
}  # fmt: skip
"""What a token sees is its attention's affair, and where it stands is a position id."""

PLAIN: dict[str, Architecture] = {
    "Bloom": ("bloom", LETTERED),  # ALiBi: positions come from the order of the keys
    "Mamba": ("mamba", WIDTH | {"num_hidden_layers": 2, "state_size": 8}),  # recurrent
}
"""Every token sees what comes before it, siblings too: sequences have to stand by themselves."""


def save_model(name: str, folder: Path, mirror: Path, seed: int = 7) -> Path:
    """Write a checkpoint (safetensors, float32) of an architecture to `folder`; return it.

    `mirror` holds the Pythia tokenizer. It adds no special tokens, whatever the model.
    """
    model_type, fields = (PACKED | PLAIN)[name]
    config = transformers.AutoConfig.for_model(model_type, vocab_size=50304, **fields)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for weight in model.parameters():
                if weight.ndim == 1:  # biases begin at 0 and norms at 1, as if they were not there
                    weight += 0.1 * torch.randn_like(weight)
    model.save_pretrained(folder)
    shutil.copyfile(mirror / "pythia_tokenizer/tokenizer.json", folder / "tokenizer.json")
    (folder / "tokenizer_config.json").write_text(json.dumps(TOKENIZER_CONFIG, indent=2) + "\n")
    return folder
