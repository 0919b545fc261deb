"""Identities: a digest of everything that a score depends on.

Snakemake decides whether a job runs; the identity decides what it computes. A stored score is
used again exactly when its identity is the one wanted, whatever the dates of files say.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent

SCORING_MODULES = (
    *("attention.py", "engine.py", "head.py", "lanes.py", "last_layer.py", "models.py"),
    *("packing.py", "plain.py", "products.py", "scoring.py", "self_check.py", "shortage.py"),
    "sight.py",
)
"""Modules between a plan and its log-likelihoods. An edit of one re-scores everything."""


def modules_digest(names: Iterable[str]) -> str:
    """Digest (16 hexadecimal digits) of the text of modules of this package.

    Snakemake does not see what a script imports; rules carry this digest as a parameter, so
    that an edit reruns them while a touch or another checkout does not.
    """
    digest = hashlib.sha256()
    for name in sorted(names):
        digest.update(f"{name}\n".encode() + (PACKAGE / name).read_bytes())
    return digest.hexdigest()[:16]


def is_weights(file: str) -> bool:
    """Whether a file name is that of a weight file, rather than of its index or the config."""
    return file.endswith((".safetensors", ".bin"))


def makes_model(file: str) -> bool:
    """Whether a file of a checkpoint enters the identity of its scores, by its name."""
    return is_weights(file) or file == "config.json"


def model_digest(files: Iterable[tuple[str, str]]) -> str:
    """Hexadecimal digest of what makes a model: its weight files and its config.json.

    `files` are pairs of name and digest, from the lock, from a fetched folder's list or from a
    local folder's fingerprint. Those of a tokenizer (no weights) are taken whole.
    """
    files = list(files)
    if any(is_weights(file) for file, _ in files):
        files = [(file, digest) for file, digest in files if makes_model(file)]
    lines = sorted(f"{file} {digest}" for file, digest in files)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:32]


def score_identity(*, plan: str, weights: str, dtype: str, modules: str) -> tuple[str, str]:
    """The identity (32 hexadecimal digits) of a task's scores, and its parts as JSON.

    `plan` is the plan's digest, which covers items, protocols, tokenizer and pack layout;
    `weights` the digest of the checkpoint's weight files; `modules` that of SCORING_MODULES.
    """
    parts = {"dtype": dtype, "modules": modules, "plan": plan, "weights": weights}
    text = json.dumps(parts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32], text
