"""Logged samples: values of items, and metrics that follow from the log-likelihoods."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from downslope.errors import StudyError
from downslope.harness_files import read_folder
from downslope.harness_items import import_task
from downslope.harness_metrics import MetricNames
from downslope.harness_models import Found
from downslope.harness_samples import read_samples
from harness_folders import DATE, checkpoint, new, sample, write_samples

Frames = dict[str, pd.DataFrame]


def load(
    folder: Path,
    samples: dict[str, list[dict[str, Any]]],
    results: dict[str, dict[str, Any]] | None = None,
    **metrics: Any,
) -> tuple[dict[str, dict[str, Any]], Frames]:
    """Cells by metric and frames by metric of one checkpoint; `samples` by task."""
    if results is None:
        results = {
            task: {
                metric: sum(row[metric] for row in rows) / len(rows)
                for metric in rows[0]["metrics"]
            }
            for task, rows in samples.items()
        }
    count = max(len({row["doc_id"] for row in rows}) for rows in samples.values())
    new(folder, "pretrained=x", results, n=count)
    for task, rows in samples.items():
        write_samples(folder, task, rows)
    (file,), _ = read_folder(folder, "**/*.json")
    row = checkpoint("m", "m", 10**6, 5)
    found = [Found(row, file, source, entry) for source, entry in file.entries.items()]
    rows, frames = import_task("task", found, MetricNames(metrics, ""))
    return {row["metric"]: row for row in rows}, {metric: f for (_, metric), f in frames.items()}


def test_values_by_hand(tmp_path: Path) -> None:
    """Two items of two and three choices; probabilities 3/4 : 1/4 and 1/2 : 1/4 : 1/4."""
    logs = {k: math.log(k) for k in (0.5, 0.25, 0.1, 0.3)}
    rows = [
        sample(1, [logs[0.1], logs[0.3]], 0, choices=["a", "longer"], acc=0.0, acc_norm=0.0),
        sample(0, [logs[0.5], logs[0.25], logs[0.25]], 0, acc=1.0, acc_norm=1.0),
    ]
    cells, frames = load(tmp_path, {"t": rows})
    assert list(frames["accuracy"].index) == ["0", "1"]
    assert frames["accuracy"]["m"].tolist() == [1, 0]
    assert frames["margin"]["m"].tolist() == pytest.approx([0, math.log(1 / 3)])
    assert frames["class_loss"]["m"].tolist() == pytest.approx([math.log(2), math.log(4)])
    assert frames["brier"]["m"].tolist() == pytest.approx([0.25 + 2 / 16, 2 * 9 / 16])
    assert cells["margin"]["value"] == pytest.approx(math.log(1 / 3) / 2)
    assert cells["margin"]["se"] == pytest.approx(math.log(3) / 2)  # sd of two, over sqrt(2)
    assert cells["accuracy"]["value"] == 0.5
    assert cells["accuracy"]["n"] == cells["mass"]["n"] == 2


@pytest.mark.parametrize(
    "targets",
    [("0", "1"), ("choice 0", "choice 1"), ("[0]", "[1]"), (0, " choice 1 ")],
)
def test_targets_by_number_by_text_and_in_lists(tmp_path: Path, targets: tuple[Any, Any]) -> None:
    rows = [sample(k, [-1.0, -2.0], target, acc=1.0 - k) for k, target in enumerate(targets)]
    _, frames = load(tmp_path, {"t": rows})
    assert frames["margin"]["m"].tolist() == pytest.approx([1, -1])


def test_several_right_answers_count_together(tmp_path: Path) -> None:
    rows = [sample(0, [-1.0, -2.0, -2.0], [1, 2], acc=0.0)]
    _, frames = load(tmp_path, {"t": rows})
    assert frames["margin"]["m"].iloc[0] == pytest.approx(math.log(2) - 1)


def test_truthfulqas_labels_say_what_is_right(tmp_path: Path) -> None:
    """0.4 gives target 0 for both halves; the labels lie in the document."""
    labels = {"mc2_targets": {"choices": ["a", "b", "c"], "labels": [1, 1, 0]}}
    share = (math.exp(-1) + math.exp(-2)) / (math.exp(-1) + 2 * math.exp(-2))
    rows = [sample(0, [-1.0, -2.0, -2.0], 0, doc=labels, acc=share)]
    cells, frames = load(tmp_path, {"t": rows}, acc="mc2")
    assert cells["mc2"]["value"] == pytest.approx(share)
    assert frames["margin"]["m"].iloc[0] == pytest.approx(math.log(share / (1 - share)))
    assert cells["accuracy"]["value"] == 1


def test_choices_that_differ_in_their_prompts(tmp_path: Path) -> None:
    """Winogrande scores one continuation after two contexts; its target is that text."""
    rows = [sample(k, [-1.0, -2.0], 0, acc=1.0) for k in range(2)]
    for row in rows:
        for k, pair in enumerate(row["arguments"].values()):
            pair["arg_0"], pair["arg_1"] = f"context {k}", " the same"
    _, frames = load(tmp_path, {"t": rows})
    assert frames["margin"]["m"].tolist() == pytest.approx([1, 1])


def test_unconditional_requests_are_no_choices(tmp_path: Path) -> None:
    rows = [sample(0, [-1.0, -2.0, -9.0, -9.0], 0, choices=["a", "b"] * 2, acc=1.0)]
    for name in ("gen_args_2", "gen_args_3"):
        rows[0]["arguments"][name]["arg_0"] = ""
    _, frames = load(tmp_path, {"t": rows})
    assert frames["margin"]["m"].iloc[0] == pytest.approx(1)


def test_answers_that_are_not_understood_give_no_metric(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Logged accuracy contradicts the log-likelihoods: only what was logged is taken."""
    rows = [sample(0, [-1.0, -2.0], 0, acc=0.0), sample(1, [-1.0, -2.0], 1, acc=1.0)]
    with caplog.at_level(logging.WARNING):
        cells, frames = load(tmp_path, {"t": rows})
    assert set(cells) == set(frames) == {"accuracy"}
    assert "is not what the harness logged" in caplog.text


@pytest.mark.parametrize("score", [-math.inf, math.nan])
def test_scores_that_are_not_finite_leave_what_was_logged(tmp_path: Path, score: float) -> None:
    rows = [sample(0, [-1.0, score], 0, acc=1.0), sample(1, [-1.0, -2.0], 0, acc=1.0)]
    cells, frames = load(tmp_path, {"t": rows})
    assert set(cells) == set(frames) == {"accuracy"}


def test_tasks_that_generate_text(tmp_path: Path) -> None:
    """Two filters, two rows per item: the metric of each filter is its own."""
    rows = []
    for name, values in (("strict-match", [0.0, 1.0]), ("flexible-extract", [1.0, 1.0])):
        for k, value in enumerate(values):
            row = sample(k, [], "7", exact_match=value)
            row |= {"filter": name, "arguments": {"gen_args_0": {"arg_0": "?", "arg_1": {}}}}
            rows.append({**row, "resps": [["7"]], "filtered_resps": ["7"]})
    results = {"t": {"exact_match,strict-match": 0.5, "exact_match,flexible-extract": 1.0}}
    described = {key: {"better": "higher"} for key in results["t"]}
    _, frames = load(tmp_path, {"t": rows}, results, **described)
    assert {metric: frame["m"].tolist() for metric, frame in frames.items()} == {
        "exact_match.strict-match": [0, 1],
        "exact_match.flexible-extract": [1, 1],
    }


def test_a_perplexity_is_no_mean_over_items(tmp_path: Path) -> None:
    rows = [sample(k, [], " word", perplexity=-2.0 - k, acc=1.0) for k in range(2)]
    for row in rows:
        row |= {
            "arguments": {"gen_args_0": {"arg_0": "a", "arg_1": " word"}},
            "resps": [[["-2", "True"]]],
        }
    results = {"t": {"perplexity": math.exp(2.5), "acc": 1.0}}
    cells, frames = load(tmp_path, {"t": rows}, results, perplexity={"better": "lower"})
    assert cells["perplexity"]["value"] == pytest.approx(math.exp(2.5))
    assert set(frames) == {"accuracy"}


def test_items_without_a_value(tmp_path: Path) -> None:
    """Late 0.4 lets a task leave a metric out of some items: n counts the others."""
    rows = [sample(0, [-1.0, -2.0], 0, acc=1.0), sample(1, [-1.0, -2.0], 0, acc=1.0, extra=0.5)]
    results = {"t": {"acc": 1.0, "extra": 0.5}}
    cells, frames = load(tmp_path, {"t": rows}, results, extra={"better": "higher"})
    assert cells["extra"]["n"] == 1
    assert math.isnan(frames["extra"]["m"]["0"])


def test_checkpoints_without_samples_have_no_column(tmp_path: Path) -> None:
    rows = [sample(k, [-1.0, -2.0], 0, acc=1.0) for k in range(3)]
    new(tmp_path / "a", "pretrained=a", {"t": {"acc": 1.0}}, n=3)
    new(tmp_path / "b", "pretrained=b", {"t": {"acc": 0.5}}, n=3)
    write_samples(tmp_path / "b", "t", [{**row, "acc": 0.5} for row in rows])
    files, _ = read_folder(tmp_path, "**/*.json")
    found = [
        Found(checkpoint(name, "m", 10**6, step), file, "t", file.entries["t"])
        for step, (name, file) in enumerate(zip("ab", files, strict=True), start=1)
    ]
    cells, frames = import_task("t", found, MetricNames({}, ""))
    assert [(row["ckpt"], row["value"]) for row in cells] == [("a", 1.0), ("b", 0.5)]
    assert {frame.columns.tolist()[0] for frame in frames.values()} == {"b"}


def test_early_samples_without_digests_or_lists_of_metrics(tmp_path: Path) -> None:
    rows = [sample(k, [-1.0, -2.0], k, acc=1.0 - k) for k in range(2)]
    for row in rows:
        row["arguments"] = [[a["arg_0"], a["arg_1"]] for a in row["arguments"].values()]
        for key in ("doc_hash", "metrics", "filter"):
            del row[key]
    _, frames = load(tmp_path, {"t": rows}, {"t": {"acc": 0.5}})
    assert frames["margin"]["m"].tolist() == pytest.approx([1, -1])


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (
            ['{"doc_id": 0, "acc": 1}', '{"doc_id": 0, "acc": 1}'],
            "line 2: the item 0 is there twice",
        ),
        (['{"doc_id": 0, "acc": 1}', '{"doc_id"'], "line 2: is not JSON"),
        (['{"acc": 1}'], "line 1: is no sample with a doc_id"),
        ([], "holds no samples"),
    ],
)
def test_broken_files_of_samples(tmp_path: Path, lines: list[str], said: str) -> None:
    path = tmp_path / f"samples_t_{DATE}.jsonl"
    path.write_text("\n".join(lines))
    with pytest.raises(StudyError, match=said):
        read_samples(path, " ")


def test_samples_of_another_run_are_refused_naming_both_files(tmp_path: Path) -> None:
    rows = [sample(k, [-1.0, -2.0], 0, acc=1.0) for k in range(2)]
    with pytest.raises(StudyError, match="acc of the samples averages to 1; ") as caught:
        load(tmp_path, {"t": rows}, {"t": {"acc": 0.5}})
    assert f"samples_t_{DATE}.jsonl" in str(caught.value)
    assert f"results_{DATE}.json says 0.5" in str(caught.value)
    assert json.loads((tmp_path / f"results_{DATE}.json").read_text())["n-samples"]
