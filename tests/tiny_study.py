"""A real study small enough for tests: random tiny models, a byte tokenizer, two tasks."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COLUMNS = [
    *("ckpt", "family", "parameters", "step", "tokens", "seed"),
    *("source", "revision", "tokenizer", "known_bad"),
]
TASK_COLUMNS = ["task", "dataset", "title", "cause", "chance", "protocols", "report"]
DATASET_COLUMNS = [
    *("dataset", "format", "file", "mirror_path", "bytes", "sha256"),
    *("items", "licence", "citation", "sources"),
]


def write_tsv_rows(path: Path, columns: list[str], rows: list[dict[str, object]]) -> None:
    """Write a table by hand, so that tests do not depend on the code under test."""
    lines = ["\t".join(columns)]
    lines += ["\t".join(str(row.get(column, "")) for column in columns) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def make_tokenizer(folder: Path) -> None:
    """A byte-level tokenizer without merges: 256 bytes and one special token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<|endoftext|>": 0} | {char: k + 1 for k, char in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"})
    )


def make_model(folder: Path, *, seed: int, width: int = 16) -> None:
    """A random GPT-NeoX with large initial weights, so that its answers differ; its tokenizer."""
    import torch
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    config = GPTNeoXConfig(
        vocab_size=257,
        hidden_size=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=4 * width,
        max_position_embeddings=256,
        initializer_range=0.3,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = GPTNeoXForCausalLM(config)
    model.save_pretrained(folder)
    make_tokenizer(folder)


def prize_lines(count: int, word: str) -> str:
    """Items in the prize's format; two classes, right ones alternating."""
    return "".join(
        json.dumps(
            {
                "prompt": f"{word} number {k}: the answer is",
                "classes": "[' yes', ' no']",
                "answer_index": int(k % 3 == 0),
                "round": 1,
                "part": 1,
            }
        )
        + "\n"
        for k in range(count)
    )


def add_dataset(study: Path, name: str, text: str) -> dict[str, object]:
    """Write a data set into the study and return its row of the register."""
    path = study / "data" / f"{name}.jsonl"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return {
        "dataset": name,
        "format": "prize",
        "file": path.name,
        "bytes": len(text.encode()),
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
        "items": text.count("\n"),
        "licence": "CC0",
        "citation": "none",
        "sources": f"data/{path.name}",
    }


def task_row(name: str, **other: object) -> dict[str, object]:
    """A row of tasks.tsv with both protocols."""
    return {
        "task": name,
        "dataset": f"tiny-{name}",
        "title": name.capitalize(),
        "cause": "Control",
        "chance": "accuracy=0.5",
        "protocols": "michaelov2023,mckenzie2023",
        "report": "yes",
    } | other


def checkpoint_row(width: int, step: int, **other: object) -> dict[str, object]:
    """A row of checkpoints.tsv for the folder models/w{width}-s{step}."""
    return {
        "ckpt": f"w{width}-s{step}",
        "family": "tiny",
        "parameters": width * 1000,
        "step": step,
        "tokens": step * 100,
        "seed": 1,
        "source": f"models/w{width}-s{step}",
        "tokenizer": "bytes",
    } | other


def make_study(study: Path) -> Path:
    """Two sizes x three steps, two tasks, local folders only; returns the folder."""
    (study / "config").mkdir(parents=True)
    datasets = [
        add_dataset(study, "tiny-alpha", prize_lines(12, "alpha")),
        add_dataset(study, "tiny-beta", prize_lines(8, "beta")),
    ]
    write_tsv_rows(study / "config/datasets.tsv", DATASET_COLUMNS, datasets)
    tasks = [task_row("alpha"), task_row("beta")]
    write_tsv_rows(study / "config/tasks.tsv", TASK_COLUMNS, tasks)
    rows = [checkpoint_row(width, step) for width in (8, 16) for step in (1, 2, 4)]
    write_tsv_rows(study / "config/checkpoints.tsv", COLUMNS, rows)
    for number, row in enumerate(rows):
        width = int(str(row["parameters"])) // 1000
        make_model(study / str(row["source"]), seed=number, width=width)
    make_tokenizer(study / "tokenizer")
    write_config(study, ["alpha", "beta"])
    return study


def write_config(study: Path, tasks: list[str], **other: object) -> None:
    """Write config.yaml (JSON is YAML) with one family over the accuracies of `tasks`."""
    config: dict[str, object] = {
        "title": "A tiny study",
        "cells": "scores",
        "dtype": "float32",
        "pack_tokens": 128,
        "tokenizers": {"bytes": {"source": "tokenizer", "max_length": 256}},
        "level": 0.05,
        "families": {"tiny": [f"{task}/mckenzie2023/accuracy" for task in tasks]},
    }
    (study / "config/config.yaml").write_text(json.dumps(config | other, indent=1))


def snakemake(
    study: Path, *arguments: str, check: bool = True, root: Path = ROOT, **env: str
) -> str:
    """Run the workflow in `root` on a study with two cores; returns what it printed."""
    return snakemake_by([sys.executable, "-m", "snakemake"], study, arguments, check, root, env)


def snakemake_by(
    program: list[str],
    study: Path,
    arguments: tuple[str, ...],
    check: bool,
    root: Path,
    env: dict[str, str],
) -> str:
    """What `snakemake` does, with `program` in the place of Snakemake."""
    place = ["--snakefile", str(root / "Snakefile"), "--directory", str(study)]
    done = subprocess.run(
        [*program, *place, "--cores", "2", "--nocolor", *arguments],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, **env},
        check=False,
    )
    if check and done.returncode:
        said = done.stdout[-6000:]
        raise AssertionError(f"snakemake {' '.join(arguments)} failed:\n{said}")
    return done.stdout
