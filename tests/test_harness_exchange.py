"""Exchange with lm-evaluation-harness 0.4.13: its own output in, ours in its format out.

The output is made here by the harness; values are compared with what its files say, and metrics
that it does not have with sums written out from its log-likelihoods.
"""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("lm_eval", reason="the reference, lm-evaluation-harness, is not installed")

import yaml

from downslope.errors import StudyError
from downslope.harness_cells import cells_frame, gather, read_results
from downslope.harness_export import DATE
from downslope.harness_items import import_task
from downslope.harness_metrics import MetricNames
from downslope.item_values import outcomes_in, read_item_values
from downslope.tables import read_table
from downslope.tsv import read_tsv
from harness_output import MODELS, evaluate
from scored import export_all
from tiny_study import ROOT

Imported = tuple[pd.DataFrame, dict[str, dict[tuple[str, str], pd.DataFrame]]]


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return evaluate(tmp_path_factory.mktemp("harness"))


@pytest.fixture
def copy(output: Path, tmp_path: Path) -> Path:
    """The harness's output for a test to spoil."""
    return Path(shutil.copytree(output, tmp_path / "copy"))


def adopt(results: Path, study: Path, *options: str) -> str:
    """Run the command as a user does; returns what it printed, errors included."""
    command = [sys.executable, str(ROOT / "scripts/adopt_harness.py"), str(results), str(study)]
    done = subprocess.run([*command, *options], text=True, capture_output=True, check=False)
    return done.stdout + done.stderr


def load(study: Path, folder: Path | None = None) -> Imported:
    """Cells and item values of an adopted study; `folder` takes the place of the config's."""
    config = yaml.safe_load((study / "config/config.yaml").read_text())["harness"]
    if folder is not None:
        config["folder"] = str(folder)
    checkpoints = read_table(study / "config/checkpoints.tsv", "checkpoints")
    tasks = pd.read_csv(study / "config/tasks.tsv", sep="\t")["task"].tolist()
    names = MetricNames(config.get("metrics", {}), "harness.metrics")
    found = gather(read_results(config), config, checkpoints, tasks, names)
    rows, items = [], {}
    for task in tasks:
        own, items[task] = import_task(task, found[task], names)
        rows += own
    return cells_frame(rows, checkpoints, tasks, names), items


def results_of(folder: Path) -> dict[tuple[str, int], tuple[Path, dict[str, Any]]]:
    """(model, step) -> file and content, by the model's own path and not by the file's name."""
    found = {}
    for path in folder.rglob("results_*.json"):
        content = json.loads(path.read_text())
        model, step = content["model_name"].split("/")[-2:]
        found[model, int(step.removeprefix("step"))] = path, content
    return found


@pytest.fixture(scope="module")
def study(output: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("adopted") / "study"
    said = adopt(output, place, "--tokens-per-step", "100", "--title", "Made elsewhere")
    assert f"snakemake --directory {place} --cores all" in said, said
    return place


def test_a_study_is_adopted_with_one_command(output: Path, study: Path) -> None:
    rows = read_table(study / "config/checkpoints.tsv", "checkpoints")
    found = {(r["ckpt"], r["family"], r["parameters"], r["step"], r["tokens"]) for r in rows}
    assert found == {
        ("tiny-8k-step1", "tiny", 8000, 1, 100),
        ("tiny-8k-step2", "tiny", 8000, 2, 200),
        ("tiny-16k-step1", "tiny", 16000, 1, 100),
    }
    config = yaml.safe_load((study / "config/config.yaml").read_text())
    assert config["title"] == "Made elsewhere"
    assert config["families"]["harness"] == [
        f"{task}/harness/accuracy" for task in ("tiny_cloze", "tiny_first", "tiny_second")
    ]
    assert config["harness"]["metrics"] == {
        "perplexity": {"better": "lower", "log": True, "as": "log_perplexity"}
    }
    assert "nothing is overwritten" in adopt(output, study, "--tokens-per-step", "100")


def test_cells_are_what_the_harness_wrote(output: Path, study: Path) -> None:
    cells, _ = load(study)
    ours = {"acc": "accuracy", "brier_score": "brier", "perplexity": "log_perplexity"}
    counts = {"tiny_first": 20, "tiny_second": 12, "tiny_cloze": 10}
    table = cells.set_index(["ckpt", "task", "metric"])
    checked = 0
    for (model, step), (_, content) in results_of(output).items():
        for task, n in counts.items():
            for key, value in content["results"][task].items():
                metric = key.removesuffix(",none")
                if not key.endswith(",none") or metric.endswith("_stderr"):
                    continue
                row = table.loc[f"{model}-step{step}", task, ours.get(metric, metric)]
                error = content["results"][task][f"{metric}_stderr,none"]
                if metric == "perplexity":  # its logarithm is imported
                    value, error = math.log(value), error / value
                assert row["value"] == value
                assert row["se"] == error or (math.isnan(row["se"]) and error == "N/A")
                assert row["n"] == n
                checked += 1
    assert checked == len(MODELS) * 7
    assert "tiny_group" not in set(cells["task"]), "an average over tasks is no task"
    assert set(cells["protocol"]) == {"harness"}


def test_items_have_the_logged_values_and_what_follows_from_log_likelihoods(
    output: Path, study: Path
) -> None:
    cells, items = load(study)
    for (model, step), (path, _) in results_of(output).items():
        date = path.stem.removeprefix("results_")
        for task in ("tiny_first", "tiny_second"):
            lines = path.with_name(f"samples_{task}_{date}.jsonl").read_text().splitlines()
            samples = {sample["doc_id"]: sample for sample in map(json.loads, lines)}
            ckpt = f"{model}-step{step}"
            own = {metric: frame[ckpt] for (_, metric), frame in items[task].items()}
            assert list(own["accuracy"].index) == [str(k) for k in range(len(samples))]
            for k, sample in samples.items():
                likelihood = np.exp([float(r[0][0]) for r in sample["resps"]])
                right = likelihood[int(sample["target"])]
                wrong = likelihood.sum() - right
                assert own["accuracy"][str(k)] == sample["acc"]
                assert own["acc_norm"][str(k)] == sample["acc_norm"]
                assert own["margin"][str(k)] == pytest.approx(math.log(right / wrong))
                assert own["class_loss"][str(k)] == pytest.approx(
                    -math.log(right / (right + wrong))
                )
            row = cells.query("ckpt == @ckpt and task == @task and metric == 'margin'").iloc[0]
            assert row["value"] == pytest.approx(own["margin"].mean())
            spread = own["margin"].std(ddof=1) / math.sqrt(len(samples))
            assert row["se"] == pytest.approx(spread)
    assert {metric for _, metric in items["tiny_cloze"]} == {"accuracy"}, "no item has a perplexity"


def test_the_harnesss_own_brier_score_is_ours(study: Path) -> None:
    """The harness computes it from softmaxes of its own; ours, by item, averages to the same."""
    cells, items = load(study)
    stated = cells.query("task == 'tiny_second' and metric == 'brier'").set_index("ckpt")["value"]
    averages = items["tiny_second"]["harness", "brier"].mean()
    assert averages.to_dict() == pytest.approx(stated.to_dict(), abs=1e-6)


def test_the_job_writes_cells_and_a_file_of_items_for_each_task(
    study: Path, tmp_path: Path
) -> None:
    import import_harness

    config = yaml.safe_load((study / "config/config.yaml").read_text())["harness"]
    tasks = ["tiny_cloze", "tiny_first", "tiny_second"]
    paths = [tmp_path / "item_values" / f"{task}.parquet" for task in tasks]
    import_harness.main(
        harness=config,
        checkpoints=read_table(study / "config/checkpoints.tsv", "checkpoints"),
        tasks=tasks,
        cells=str(tmp_path / "cells.tsv"),
        item_values=[str(path) for path in paths],
        log=str(tmp_path / "log"),
    )
    cells, items = load(study)
    written = read_tsv(tmp_path / "cells.tsv")
    np.testing.assert_allclose(written["value"], cells["value"], rtol=1e-5)
    assert list(written["n"]) == list(cells["n"])
    for task, path in zip(tasks, paths, strict=True):
        assert outcomes_in(path) == list(items[task])
    margins = read_item_values(paths[1], "harness", "margin")
    expected = items["tiny_first"]["harness", "margin"]
    np.testing.assert_allclose(margins[expected.columns], expected, rtol=1e-6)
    assert "tiny_group" in (tmp_path / "log").read_text(), "what is left out is in the log"


def spoil_accuracy(path: Path, content: dict[str, Any]) -> str:
    content["results"]["tiny_first"]["acc,none"] = 0.05
    path.write_text(json.dumps(content))
    return "averages to"


def spoil_document(path: Path, _: dict[str, Any]) -> str:
    samples = next(path.parent.glob("samples_tiny_first_*"))
    rows = [json.loads(line) for line in samples.read_text().splitlines()]
    rows[3]["doc_hash"] = "0" * 64
    samples.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"1 items of tiny_first are not those in .*item {rows[3]['doc_id']}"


def spoil_length(path: Path, _: dict[str, Any]) -> str:
    samples = next(path.parent.glob("samples_tiny_first_*"))
    samples.write_text("".join(samples.read_text().splitlines(keepends=True)[:-1]))
    return "samples of 19 items; .* says 20|1 items of tiny_first are not those"


def spoil_line(path: Path, _: dict[str, Any]) -> str:
    samples = next(path.parent.glob("samples_tiny_first_*"))
    samples.write_text(samples.read_text()[:-40])
    return "line 20: is not JSON"


def spoil_date(path: Path, content: dict[str, Any]) -> str:
    path.with_name("results_2020-01-01T00-00-00.000000.json").write_text(json.dumps(content))
    return "tiny_cloze/log_perplexity of tiny-16k-step1 is .* here and .* in "


@pytest.mark.parametrize(
    "spoil", [spoil_accuracy, spoil_document, spoil_length, spoil_line, spoil_date]
)
def test_files_that_contradict_each_other_are_refused_by_name(
    copy: Path, study: Path, spoil: Callable[[Path, dict[str, Any]], str]
) -> None:
    load(study, copy)
    path, content = results_of(copy)["tiny-16k", 1]
    expected = spoil(path, content)
    with pytest.raises(StudyError, match=expected) as caught:
        load(study, copy)
    said = str(caught.value)
    assert said.count(str(copy)) >= (1 if spoil is spoil_line else 2), "both files are named"


def test_the_harness_reads_what_is_exported(output: Path, tmp_path: Path) -> None:
    """Its table, its names of files, its schema; samples have the keys that it writes itself."""
    from lm_eval import result_schema
    from lm_eval.utils import (
        get_file_datetime,
        get_file_task_name,
        get_results_filenames,
        get_sample_results_filenames,
        make_table,
    )

    export_all(tmp_path)
    names = [str(path) for path in tmp_path.rglob("*") if path.is_file()]
    (first, *_), samples = get_results_filenames(names), get_sample_results_filenames(names)
    assert get_file_datetime(Path(first).name.replace("json", "jsonl")) == DATE
    assert {get_file_task_name(Path(name).name) for name in samples} == {
        "labels_michaelov2023",
        "labels_mckenzie2023",
        "questions_michaelov2023",
    }
    content = json.loads(Path(first).read_text())
    assert set(content) <= set(result_schema.EvalResults.__annotations__)
    table = make_table(content)
    assert table.count("|none") == 7 + 7 + 8  # metrics; MC1 for the questions only
    theirs = json.loads(next(output.rglob("samples_tiny_second_*")).read_text().splitlines()[0])
    ours = json.loads(Path(samples[0]).read_text().splitlines()[0])
    assert set(ours) - set(ours["metrics"]) == set(theirs) - set(theirs["metrics"])
    for key in ("arguments", "resps", "filtered_resps", "target", "doc_id"):
        assert type(ours[key]) is type(theirs[key])
    assert [[type(part) for part in answer] for answer in ours["filtered_resps"]] == [
        [type(part) for part in answer] for answer in theirs["filtered_resps"]
    ]
