"""Folders of results as the harness and its forks write them, from a few values.

The forms are those of published studies: results/ of jmichaelov/emergent-inabilities (0.3), evals/
of EleutherAI/pythia (0.3, GPT-NeoX and BigScience's fork), and files of 0.4 in public forks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Values = Mapping[str, Mapping[str, Any]]
DATE = "2024-05-01T10-11-12.345678"


def old(
    path: Path,
    model_args: Any,
    results: Any,
    *,
    shots: int = 0,
    version: Any = 0,
    limit: Any = None,
    **other: Any,
) -> Path:
    """A file of 0.3: `results` as they are."""
    config = {"model": "hf-causal-experimental", "model_args": model_args, "num_fewshot": shots}
    config |= {"batch_size": None, "no_cache": False, "limit": limit, "bootstrap_iters": 100000}
    versions = dict.fromkeys(results, version) if isinstance(results, dict) else {}
    content = {"results": results, "versions": versions, "config": config, **other}
    return write(path, content)


def new(
    folder: Path,
    model_args: Any,
    results: Values,
    *,
    date: str = DATE,
    shots: int = 0,
    version: Any = 1.0,
    n: int | None = 100,
    groups: Mapping[str, list[str]] | None = None,
    config: Mapping[str, Any] | None = None,
    **other: Any,
) -> Path:
    """A file of 0.4 in `folder`; metrics of `results` get their filter `none`."""
    rows = {}
    for task, row in results.items():
        named = {
            key if "," in key or key == "alias" else f"{key},none": v for key, v in row.items()
        }
        rows[task] = {"alias": f" - {task}", **named}
    groups = groups or {}
    tasks = [task for task in rows if task not in groups]
    content = {
        "results": rows,
        "groups": {group: rows[group] for group in groups},
        "group_subtasks": {**groups, **{task: [] for task in tasks}},
        "configs": {task: {"task": task, "num_fewshot": shots} for task in tasks},
        "versions": dict.fromkeys(rows, version),
        "n-shot": dict.fromkeys(rows, shots),
        "config": {"model": "hf", "model_args": model_args, "limit": None, **(config or {})},
        "model_source": "hf",
        **other,
    }
    if n is not None:
        content["n-samples"] = {task: {"original": n, "effective": n} for task in tasks}
    return write(folder / f"results_{date}.json", content)


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2), encoding="utf-8")
    return path


def sample(
    doc_id: int,
    scores: list[float],
    target: Any,
    *,
    prompt: str = "Is it?",
    choices: list[str] | None = None,
    doc: Mapping[str, Any] | None = None,
    **metrics: Any,
) -> dict[str, Any]:
    """One logged sample of a multiple-choice task."""
    texts = choices or [f"choice {k}" for k in range(len(scores))]
    return {
        "doc_id": doc_id,
        "doc": {"question": prompt, **(doc or {})},
        "target": str(target),
        "arguments": {
            f"gen_args_{k}": {"arg_0": prompt, "arg_1": f" {text}"} for k, text in enumerate(texts)
        },
        "resps": [[[str(score), "False"]] for score in scores],
        "filtered_resps": [[str(score), "False"] for score in scores],
        "filter": "none",
        "metrics": list(metrics),
        "doc_hash": f"{doc_id:064x}",
        **metrics,
    }


def write_samples(
    folder: Path, task: str, samples: list[dict[str, Any]], *, date: str = DATE
) -> Path:
    path = folder / f"samples_{task}_{date}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in samples), encoding="utf-8")
    return path


def checkpoint(ckpt: str, family: str, parameters: int, step: int, **other: Any) -> dict[str, Any]:
    """A row of checkpoints.tsv."""
    row = {"ckpt": ckpt, "family": family, "parameters": parameters, "step": step}
    row |= {"tokens": step * 1000, "seed": 0, "source": f"hub:x/{ckpt}", "revision": "main"}
    return {**row, "tokenizer": "", "known_bad": "", **other}
