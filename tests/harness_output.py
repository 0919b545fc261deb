"""Real output of lm-evaluation-harness 0.4: tiny local models, tiny local tasks, no network."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from tiny_study import make_model

TOKENIZER = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "bos_token": "<|endoftext|>",  # the harness asks for one
    "eos_token": "<|endoftext|>",
}
MODELS = [("tiny-8k", 1), ("tiny-8k", 2), ("tiny-16k", 1)]
CHOICE = """\
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}, cache_dir: {cache}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}} the answer is"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
  - {{metric: acc_norm, aggregation: mean, higher_is_better: true}}
{more}metadata: {{version: 1.0}}
"""
BRIER = "  - {metric: brier_score, aggregation: brier_score, higher_is_better: false}\n"
CLOZE = """\
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}, cache_dir: {cache}}}
test_split: test
output_type: loglikelihood
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{choices[0]}}}}"
metric_list:
  - {{metric: perplexity, aggregation: perplexity, higher_is_better: false}}
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
metadata: {{version: 1.0}}
"""
GROUP = """\
group: tiny_group
task: [tiny_first, tiny_second]
aggregate_metric_list:
  - {metric: acc, aggregation: mean, weight_by_size: true}
metadata: {version: 1.0}
"""


def questions(count: int, word: str, most: int) -> list[dict[str, Any]]:
    """Questions with two choices to `most`, right ones at changing places."""
    choices = ["yes", "no", "perhaps", "that depends"]
    sizes = [2 + k % (most - 1) for k in range(count)]
    return [
        {"question": f"{word} {k}:", "choices": choices[:size], "answer": (k * k + 1) % size}
        for k, size in enumerate(sizes)
    ]


def write_tasks(folder: Path) -> Path:
    """Two multiple-choice tasks in a group, and a task of single log-likelihoods."""
    folder.mkdir()
    for name, form, count, most, more in (
        ("tiny_first", CHOICE, 20, 4, ""),
        ("tiny_second", CHOICE, 12, 2, BRIER),  # the harness's Brier score wants equal numbers
        ("tiny_cloze", CLOZE, 10, 2, ""),
    ):
        data = folder / f"{name}.jsonl"
        rows = [json.dumps(row) + "\n" for row in questions(count, name, most)]
        data.write_text("".join(rows), encoding="utf-8")
        text = form.format(name=name, data=data, cache=folder / "cache", more=more)
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    (folder / "tiny_group.yaml").write_text(GROUP, encoding="utf-8")
    return folder


def evaluate(folder: Path) -> Path:
    """Evaluate all MODELS as `lm_eval --log_samples --output_path` does; returns the output."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    from lm_eval import simple_evaluate
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(write_tasks(folder / "tasks")), include_defaults=False)
    for seed, (name, step) in enumerate(MODELS):
        model = folder / "models" / name / f"step{step}"
        make_model(model, seed=seed, width=8 if "8k" in name else 16)
        (model / "tokenizer_config.json").write_text(json.dumps(TOKENIZER))
        tracker = EvaluationTracker(output_path=str(folder / "output"))
        results = simple_evaluate(
            model="hf",
            model_args=f"pretrained={model},dtype=float32",
            tasks=["tiny_group", "tiny_cloze"],
            device="cpu",
            batch_size=4,
            bootstrap_iters=10,
            task_manager=manager,
            evaluation_tracker=tracker,
            log_samples=True,
        )
        samples = results.pop("samples")
        tracker.save_results_aggregated(results=results, samples=samples)
        for task in results["configs"]:
            tracker.save_results_samples(task_name=task, samples=samples[task])
    return folder / "output"
