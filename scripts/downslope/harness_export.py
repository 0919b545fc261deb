"""Our scores of one checkpoint as lm-evaluation-harness 0.4 would have written them.

    {folder}/results_{DATE}.json                       every task, every metric
    {folder}/samples_{task}_{protocol}_{DATE}.jsonl    prompt, choices, log-likelihoods, metrics

Tasks are called {task}_{protocol}. Of the harness's fields there are: in the results name, alias,
sample_len, metrics with their standard errors, group_subtasks, configs (task, output_type,
target_delimiter, num_fewshot), versions, n-shot, higher_is_better, n-samples, config (model,
model_args, model_dtype), task_hashes, model_source, model_name, model_name_sanitized; all fields of
samples. There are none about the harness, its machine and its clock (lm_eval_version, git_hash,
pretty_env_info, date, ...): it did not run. One key is not the harness's: config.downslope says
which row of checkpoints.tsv this is, so that an import needs no pattern. The examples of a prompt
stand in the prompt itself, so that num_fewshot is 0.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from downslope.cells import mean_and_error, values_of
from downslope.files import atomic_write
from downslope.harness_metrics import SAME
from downslope.metrics import METRICS, Floats
from downslope.protocols import PROTOCOLS

DATE = "2000-01-01T00-00-00.000000"
"""In place of a clock: the same scores give the same files. Tools want a date in the names."""
_HARNESS_NAME = {ours: theirs for theirs, ours in SAME.items()}
_VERSION = 1.0


def export_harness(
    folder: Path,
    checkpoint: Mapping[str, Any],
    tasks: Mapping[str, tuple[pd.DataFrame, pd.DataFrame, Sequence[str]]],
    dtype: str,
) -> None:
    """Write the files of one checkpoint into `folder`.

    checkpoint  its row of checkpoints.tsv
    tasks       task -> its item table, its scores (results/scores/{ckpt}/{task}.parquet), its
                protocols in the order of tasks.tsv
    dtype       the arithmetic of the model

    Raises StudyError where scores and items do not belong together.
    """
    results: dict[str, Any] = _about(checkpoint, dtype)
    for task, (items, scores, protocols) in tasks.items():
        every = values_of(scores, items, str(checkpoint["ckpt"]), task, protocols)
        for protocol in protocols:
            name = f"{task}_{protocol}"
            values = {
                _HARNESS_NAME.get(metric, metric): column
                for (own, metric), column in every.items()
                if own == protocol and not np.isnan(column).all()
            }
            scored = scores[scores["protocol"] == protocol]
            samples = _samples(items, scored, protocol, values)
            _add_task(results, name, protocol, values, samples)
            with atomic_write(folder / f"samples_{name}_{DATE}.jsonl") as temporary:
                temporary.write_text("".join(_line(sample) for sample in samples), "utf-8")
    text = json.dumps(results, indent=2, ensure_ascii=False) + "\n"
    with atomic_write(folder / f"results_{DATE}.json") as temporary:
        temporary.write_text(text, encoding="utf-8")


def _about(checkpoint: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    name = str(checkpoint["source"]).removeprefix("hub:")
    revision = f",revision={checkpoint['revision']}" if checkpoint["revision"] else ""
    labels = ("family", "parameters", "seed", "step", "tokens", "ckpt")
    return {
        "results": {},
        "group_subtasks": {},
        "configs": {},
        "versions": {},
        "n-shot": {},
        "higher_is_better": {},
        "n-samples": {},
        "config": {
            "model": "downslope",
            "model_args": f"pretrained={name}{revision},dtype={dtype}",
            "model_dtype": f"torch.{dtype}",
            "limit": None,
            "downslope": {label: checkpoint[label] for label in labels},
        },
        "task_hashes": {},
        "model_source": "downslope",
        "model_name": name,
        "model_name_sanitized": re.sub(r"[\"<>:/|\\?*\[\]]+", "__", name),
    }


def _add_task(
    results: dict[str, Any],
    name: str,
    protocol: str,
    values: Mapping[str, Floats],
    samples: Sequence[Mapping[str, Any]],
) -> None:
    row: dict[str, Any] = {"name": name, "alias": name, "sample_len": len(samples)}
    for metric, column in values.items():
        known = column[~np.isnan(column)]
        value, se, _ = mean_and_error(known, PROTOCOLS[protocol].ddof)
        row[f"{metric},none"] = value
        row[f"{metric}_stderr,none"] = "N/A" if math.isnan(se) else se
    better = {metric: METRICS[SAME.get(metric, metric)].better == "higher" for metric in values}
    digests = ("doc_hash", "prompt_hash", "target_hash")
    results["results"][name] = row
    results["group_subtasks"][name] = []
    results["configs"][name] = {
        "task": name,
        "output_type": "multiple_choice",
        "target_delimiter": PROTOCOLS[protocol].delimiter,
        "num_fewshot": 0,
        "metadata": {"version": _VERSION, "protocol": protocol},
    }
    results["versions"][name] = _VERSION
    results["n-shot"][name] = 0
    results["higher_is_better"][name] = better
    results["n-samples"][name] = {"original": len(samples), "effective": len(samples)}
    results["task_hashes"][name] = _digest("".join(s[key] for s in samples for key in digests))


def _samples(
    items: pd.DataFrame, scores: pd.DataFrame, protocol: str, values: Mapping[str, Floats]
) -> list[dict[str, Any]]:
    """One sample per item, in the order of the item table."""
    place = pd.Index(items["item"]).get_indexer(pd.Index(scores["item"]))
    order = np.lexsort((scores["choice"], place))
    greedy = scores["greedy"].to_numpy()[order].tolist()
    loglikelihood = scores["loglikelihood"].to_numpy()[order].tolist()
    ends = np.cumsum(np.bincount(place, minlength=len(items)))
    read, delimiter = PROTOCOLS[protocol].choices, PROTOCOLS[protocol].delimiter
    samples = []
    for number, row in enumerate(items.to_dict("records")):
        choices = read(row["choices"], row["classes"])
        mine = slice(ends[number] - len(choices), ends[number])
        pairs = zip(loglikelihood[mine], greedy[mine], strict=True)
        answered = [[str(score), str(bool(flag))] for score, flag in pairs]
        right = [int(index) for index in row["right"]]
        document = {
            "item": row["item"],
            "prompt": row["prompt"],
            "choices": [str(choice) for choice in row["choices"]],
            "right": right,
            "mc1": [int(index) for index in row["mc1"]],
            "classes": row["classes"],
        }
        target = str(right[0] if len(right) == 1 else right)
        metrics = {
            metric: float(column[number])
            for metric, column in values.items()
            if not math.isnan(column[number])
        }
        samples.append(
            {
                "doc_id": number,
                "doc": document,
                "target": target,
                "arguments": {
                    f"gen_args_{k}": {"arg_0": row["prompt"], "arg_1": delimiter + choice}
                    for k, choice in enumerate(choices)
                },
                "resps": [[answer] for answer in answered],
                "filtered_resps": answered,
                "filter": "none",
                "metrics": list(metrics),
                "doc_hash": _digest(json.dumps(document, indent=2, ensure_ascii=False)),
                "prompt_hash": _digest(row["prompt"]),
                "target_hash": _digest(target),
                **metrics,
            }
        )
    return samples


def _line(sample: Mapping[str, Any]) -> str:
    return json.dumps(sample, ensure_ascii=False) + "\n"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
