"""Scores of three checkpoints on two tasks, made up: item tables, score tables, exports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from downslope.harness_export import export_harness
from downslope.items import parse_items, write_items
from downslope.protocols import PROTOCOLS

PROTOCOLS_OF = {"labels": ("michaelov2023", "mckenzie2023"), "questions": ("michaelov2023",)}
# One list breaks under michaelov2023 (a class with an apostrophe), so that its right class is out
# of that protocol's reach.
CLASSES = [
    ("[' yes', ' no']", 0),
    ("[' yes', ' no']", 1),
    ("[' in', ' out', ' up']", 0),
    ('[" here.", " it isn\'t."]', 1),
    ("[' a', ' b', ' c']", 2),
]
ANSWERS = [
    {"right": 1, "also right": 1, "wrong": 0},
    {"true": 1, "false": 0, "quite false": 0, "so false": 0},
]


def checkpoints() -> list[dict[str, Any]]:
    """Two sizes, one of them at two steps; one from the hub."""
    rows = [("a-8k-s1", 8000, 1, "models/a/1", ""), ("a-8k-s2", 8000, 2, "models/a/2", "")]
    rows += [("a-16k-s1", 16000, 1, "hub:owner/a-16k", "step1")]
    return [
        {
            "ckpt": ckpt,
            "family": "a",
            "parameters": parameters,
            "step": step,
            "tokens": step * 1000,
            "seed": 7,
            "source": source,
            "revision": revision,
            "tokenizer": "bytes",
            "known_bad": "",
        }
        for ckpt, parameters, step, source, revision in rows
    ]


def item_tables(folder: Path) -> dict[str, pd.DataFrame]:
    """Item tables as the workflow makes them from published files."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {"prompt": f"Question {k}\nAnswer:", "classes": text, "answer_index": right}
        for k, (text, right) in enumerate(CLASSES)
    ]
    (folder / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    questions = [
        {
            "question": f"What is {k}?",
            "mc1_targets": dict(list(targets.items())[:1] + list(targets.items())[2:]),
            "mc2_targets": targets,
        }
        for k, targets in enumerate(ANSWERS)
    ]
    (folder / "questions.json").write_text(json.dumps(questions))
    tables = {}
    for task, file, form in (
        ("labels", "labels.jsonl", "prize"),
        ("questions", "questions.json", "truthfulqa"),
    ):
        items, _ = parse_items(folder / file, form, len(rows if task == "labels" else questions))
        write_items(items, folder / f"{task}.parquet")
        tables[task] = pd.read_parquet(folder / f"{task}.parquet")
    return tables


def score_table(task: str, items: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Random log-likelihoods, equal for equal requests of an item."""
    rng = np.random.default_rng(seed)
    rows = []
    for protocol in PROTOCOLS_OF[task]:
        for item in items.to_dict("records"):
            drawn: dict[str, np.float32] = {}
            choices = PROTOCOLS[protocol].choices(item["choices"], item["classes"])
            for number, choice in enumerate(choices):
                value = drawn.setdefault(choice, np.float32(-20 * rng.random()))
                rows.append((item["item"], protocol, number, value, value > -2, 2, len(choice)))
    columns = ["item", "protocol", "choice", "loglikelihood", "greedy", "tokens", "characters"]
    return pd.DataFrame(rows, columns=columns)


def export_all(folder: Path) -> dict[str, dict[str, tuple[pd.DataFrame, pd.DataFrame]]]:
    """Export everything below `folder`/out; returns ckpt -> task -> (items, scores)."""
    tables = item_tables(folder / "items")
    made = {}
    for number, row in enumerate(checkpoints()):
        made[row["ckpt"]] = {
            task: (items, score_table(task, items, seed=number)) for task, items in tables.items()
        }
        tasks = {
            task: (items, scores, PROTOCOLS_OF[task])
            for task, (items, scores) in made[row["ckpt"]].items()
        }
        export_harness(folder / "out" / row["ckpt"], row, tasks, "float32")
    return made
