"""A folder of results as one table: what is taken, what is left out, what is refused."""

from __future__ import annotations

import csv
import logging
import math
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from downslope.cells import COLUMNS
from downslope.errors import StudyError
from downslope.harness_cells import cell_rows, cells_frame, gather, read_results
from downslope.harness_metrics import MetricNames
from downslope.published import OUTCOMES, import_published
from downslope.tables import read_table
from harness_folders import checkpoint, new, old
from tiny_study import ROOT

RULE = {"pattern": r"/(?P<family>m)-(?P<parameters>[^,]+),revision=step(?P<step>\d+)", "seed": 0}
ROWS = [
    checkpoint(f"m-{size}-step{step}", "m", parameters, step)
    for size, parameters in (("1m", 10**6), ("2m", 2 * 10**6))
    for step in (1, 2)
]


def args(size: str, step: int) -> str:
    return f"pretrained=x/m-{size},revision=step{step}"


def load(
    folder: Path, wanted: list[str], rows: list[dict[str, Any]] = ROWS, **config: Any
) -> pd.DataFrame:
    config = {"folder": str(folder), "models": [RULE], **config}
    names = MetricNames(config.get("metrics", {}), "harness.metrics")
    found = gather(read_results(config), config, rows, wanted, names)
    cells = [row for task in wanted for row in cell_rows(task, found[task], names)]
    return cells_frame(cells, rows, wanted, names)


def fill(folder: Path, task: str = "arc_easy") -> None:
    """A file for each of ROWS; the value is size + step / 10 in hundredths."""
    for size in (1, 2):
        for step in (1, 2):
            values = {"acc": size / 100 + step / 1000, "acc_stderr": 0.01}
            old(folder / f"m-{size}m_step{step}.json", args(f"{size}m", step), {task: values})


def test_cells_are_those_of_the_files(tmp_path: Path) -> None:
    fill(tmp_path)
    cells = load(tmp_path, ["arc_easy"])
    assert list(cells.columns) == list(COLUMNS)
    assert list(cells["ckpt"]) == [row["ckpt"] for row in ROWS]
    assert list(cells["value"]) == [0.011, 0.012, 0.021, 0.022]
    assert set(cells["metric"]) == {"accuracy"}
    assert set(cells["protocol"]) == {"harness"}
    assert cells["n"].isna().all(), "0.3 does not say it"
    assert cells["flops"].iloc[3] == 6 * 2e6 * 2000


def test_both_generations_and_many_tasks_in_one_folder(tmp_path: Path) -> None:
    """Tasks spread over files as their makers spread them; cells in the study's own order."""
    fill(tmp_path / "old")
    for step in (2, 1):
        values = {"acc": 0.5, "acc_stderr": 0.1, "acc_norm": 0.4, "acc_norm_stderr": "N/A"}
        new(tmp_path / f"{step}", args("1m", step), {"piqa": values, "a_task": {"acc": 0.1}}, n=50)
    cells = load(tmp_path, ["piqa", "arc_easy"])
    assert len(cells) == 4 + 2 * 2
    first = cells[cells["ckpt"] == "m-1m-step1"]
    assert list(zip(first["task"], first["metric"], strict=True)) == [
        ("piqa", "accuracy"),
        ("piqa", "acc_norm"),
        ("arc_easy", "accuracy"),
    ]
    assert first["n"].tolist()[:2] == [50, 50]
    assert math.isnan(first["se"].iloc[1])


def test_the_published_study_from_its_own_kind_of_files(mirror: Path, tmp_path: Path) -> None:
    """64 files of 11 tasks, in the 0.3 form that the study's repository has them in: the cells
    are those that the published table gives, read by another reader, in seconds.
    """
    published = mirror / "published/pythia_accuracies.tsv"
    results: dict[tuple[str, str], dict[str, dict[str, float]]] = {}
    with open(published, newline="") as handle:
        for row in csv.DictReader(handle, delimiter="\t"):
            own = results.setdefault((row["ModelName"], row["ModelRevision"]), {})
            task, metric = row["Task"], "acc"
            if task.startswith("truthfulqa_mc"):
                task, metric = "truthfulqa_mc", task[-3:]
            values = own.setdefault(task, {})
            values[metric] = float(row["Accuracy"])
            if row["Accuracy_SE"]:
                values[f"{metric}_stderr"] = float(row["Accuracy_SE"])
    for (model, revision), own in results.items():
        path = tmp_path / f"{model.split('/')[1]}_{revision}.json"
        old(path, f"pretrained={model},revision={revision}", own)
    assert len(list(tmp_path.iterdir())) == 64
    rows = read_table(ROOT / "config/published/checkpoints.tsv", "checkpoints")
    expected = import_published(published, rows).assign(protocol="harness")
    tasks = list(dict.fromkeys(task for task, _ in OUTCOMES.values()))
    names = {name: task for name, (task, _) in OUTCOMES.items()} | {"truthfulqa_mc": "truthfulqa"}
    rule = {
        "pattern": r"/(?P<family>pythia)-(?P<parameters>[^,]+),revision=step(?P<step>\d+)",
        "seed": 1234,
    }
    start = time.process_time()
    cells = load(tmp_path, tasks, rows, models=[rule], tasks=names)
    assert time.process_time() - start < 20
    pd.testing.assert_frame_equal(cells, expected.reset_index(drop=True))


def test_hundreds_of_files_take_seconds(tmp_path: Path) -> None:
    rows = [checkpoint(f"m-1m-step{k}", "m", 10**6, k) for k in range(1, 401)]
    tasks = [f"task{k}" for k in range(60)]
    for row in rows:
        values = {task: {"acc": 0.5, "acc_stderr": 0.1, "acc_norm": 0.5} for task in tasks}
        old(tmp_path / f"{row['step']}.json", args("1m", row["step"]), values)
    start = time.process_time()
    cells = load(tmp_path, tasks, rows)
    assert len(cells) == 400 * 60 * 2
    assert time.process_time() - start < 20  # 2 s on an idle machine


def test_missing_cells_are_counted_and_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fill(tmp_path)
    (tmp_path / "m-2m_step1.json").unlink()
    old(tmp_path / "x.json", args("2m", 1), {"arc_easy": {"acc": float("nan")}})
    with caplog.at_level(logging.WARNING):
        cells = load(tmp_path, ["arc_easy"])
    assert "m-2m-step1" not in set(cells["ckpt"])
    assert "1 cells that other checkpoints have and the files lack" in caplog.text
    assert "arc_easy/accuracy of m-2m-step1" in caplog.text
    assert "NaN, taken as missing: acc of arc_easy in x.json" in caplog.text


def test_metrics_that_nothing_describes_are_listed_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for step in (1, 2):
        values = {"acc": 0.5, "ppl": 26.0, "ppl_stderr": 0.9, "pct_stereotype": 0.6}
        old(tmp_path / f"{step}.json", args("1m", step), {"t": values})
    with caplog.at_level(logging.WARNING):
        cells = load(tmp_path, ["t"], ROWS[:2], metrics={"ppl": {"better": "lower"}})
    assert set(cells["metric"]) == {"accuracy", "ppl"}
    assert cells["se"].tolist()[1] == 0.9
    assert caplog.text.count("pct_stereotype") == 2, "one line, with what to write"
    assert "2 cells of the metric pct_stereotype are not imported" in caplog.text


def test_perplexities_can_be_imported_as_logarithms(tmp_path: Path) -> None:
    """ln 20 = 2.995732; the error of ln x is that of x over x: 0.5 / 20."""
    old(tmp_path / "1.json", args("1m", 1), {"t": {"ppl": 20.0, "ppl_stderr": 0.5}})
    described = {"ppl": {"better": "lower", "log": True, "as": "log_ppl"}}
    cells = load(tmp_path, ["t"], ROWS[:1], metrics=described)
    assert cells["metric"].tolist() == ["log_ppl"]
    assert cells["value"].tolist() == pytest.approx([2.995732])
    assert cells["se"].tolist() == pytest.approx([0.025])
    old(tmp_path / "1.json", args("1m", 1), {"t": {"ppl": 0.0}})
    with pytest.raises(StudyError, match="log_ppl is the logarithm of 0, which has none"):
        load(tmp_path, ["t"], ROWS[:1], metrics=described)


def test_aggregates_are_read_only_where_the_config_names_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    results = {"mmlu": {"acc": 0.3}, "mmlu_stem": {"acc": 0.2}}
    new(tmp_path, args("1m", 1), results, groups={"mmlu": ["mmlu_stem"]})
    with caplog.at_level(logging.WARNING):
        assert set(load(tmp_path, ["mmlu_stem", "mmlu"], ROWS[:1])["task"]) == {"mmlu_stem"}
    assert "aggregates of several tasks (named under harness.tasks they are read): mmlu" in (
        caplog.text
    )
    both = load(tmp_path, ["mmlu_stem", "mmlu"], ROWS[:1], tasks={"mmlu": "mmlu"})
    assert both.set_index("task")["value"].to_dict() == {"mmlu_stem": 0.2, "mmlu": 0.3}


def test_two_halves_of_truthfulqa_become_one_task(tmp_path: Path) -> None:
    results = {"truthfulqa_mc1": {"acc": 0.25}, "truthfulqa_mc2": {"acc": 0.4}}
    new(tmp_path, args("1m", 1), results)
    halves = {"truthfulqa_mc1": "truthfulqa", "truthfulqa_mc2": "truthfulqa"}
    metrics = {"truthfulqa_mc1/acc": "mc1", "truthfulqa_mc2/acc": "mc2"}
    cells = load(tmp_path, ["truthfulqa"], ROWS[:1], tasks=halves, metrics=metrics)
    assert cells.set_index("metric")["value"].to_dict() == {"mc1": 0.25, "mc2": 0.4}
    with pytest.raises(
        StudyError,
        match=r"mc2: truthfulqa/accuracy of m-1m-step1 is 0\.4 here and 0\.25 in \S+ \S+_mc1",
    ):
        load(tmp_path, ["truthfulqa"], ROWS[:1], tasks=halves)


def test_contents_count_where_names_disagree(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fill(tmp_path)
    (tmp_path / "m-1m_step1.json").rename(tmp_path / "swap")
    (tmp_path / "m-2m_step2.json").rename(tmp_path / "m-1m_step1.json")
    (tmp_path / "swap").rename(tmp_path / "m-2m_step2.json")
    with caplog.at_level(logging.WARNING):
        cells = load(tmp_path, ["arc_easy"])
    assert list(cells["value"]) == [0.011, 0.012, 0.021, 0.022]
    assert "2 files whose names disagree with their contents; the contents count" in caplog.text
    assert "m-1m_step1.json (its name says step 1, its content step 2)" in caplog.text


def spoil(folder: Path, how: str) -> None:
    results = {"arc_easy": {"acc": 0.012, "acc_stderr": 0.01}}
    path = folder / "again.json"
    if how == "copy":
        old(path, args("1m", 2), results)
    elif how == "second run":
        old(path, args("1m", 2), {"arc_easy": {"acc": 0.3}})
    elif how == "shots":
        old(folder / "m-1m_step2.json", args("1m", 2), results, shots=5)
    elif how == "version":
        old(folder / "m-1m_step2.json", args("1m", 2), results, version=1)
    elif how == "limit":
        old(folder / "m-1m_step2.json", args("1m", 2), results, limit=10)
    elif how == "n":
        (folder / "m-1m_step1.json").unlink()
        new(folder / "a", args("1m", 1), {"arc_easy": {"acc": 0.2}}, n=50, version=0)
        (folder / "m-1m_step2.json").unlink()
        new(folder / "b", args("1m", 2), {"arc_easy": {"acc": 0.2}}, n=60, version=0)
    elif how == "bounds":
        old(folder / "m-1m_step2.json", args("1m", 2), {"arc_easy": {"acc": 34.8}})
    elif how == "stranger":
        old(path, "pretrained=facebook/opt-125m", results)
    elif how == "no row":
        old(path, args("1m", 3), results)


REFUSED = {
    "copy": r"m-1m_step2\.json: arc_easy/accuracy of m-1m-step2 is 0.012 here and 0.012 in "
    r"\S+again\.json",
    "second run": r"arc_easy/accuracy of m-1m-step2 is 0.012 here and 0.3 in \S+again\.json",
    "shots": r"step2\.json: arc_easy has 5 examples in the prompt, but 0 in \S+1m_step1\.json",
    "version": r"step2\.json: arc_easy has 1 as the task's version, but 0 in \S+1m_step1\.json",
    "limit": r"step2\.json: arc_easy has 10 as --limit, but none in \S+1m_step1\.json",
    "n": r"b/results\S+: arc_easy has 60 as number of items, but 50 in \S+a/results",
    "bounds": r"m-1m_step2\.json: acc of arc_easy is 34.8, which accuracy cannot be",
    "stranger": r"again\.json: no pattern of harness.models matches 'pretrained=facebook/opt-125m'",
    "no row": r"again\.json: is of m with 1000000 parameters, seed 0, step 3, which is no row",
}


@pytest.mark.parametrize("how", REFUSED)
def test_a_folder_with_a_contradiction_is_refused_by_name(tmp_path: Path, how: str) -> None:
    fill(tmp_path)
    load(tmp_path, ["arc_easy"])
    spoil(tmp_path, how)
    with pytest.raises(StudyError, match=REFUSED[how]):
        load(tmp_path, ["arc_easy"])


@pytest.mark.parametrize("how", ["copy", "second run", "stranger", "no row"])
def test_files_can_be_chosen(tmp_path: Path, how: str) -> None:
    fill(tmp_path)
    spoil(tmp_path, how)
    assert len(load(tmp_path, ["arc_easy"], files="m-*.json")) == 4


@pytest.mark.parametrize("how", ["stranger", "no row"])
def test_models_can_be_left_out(tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture) -> None:
    fill(tmp_path)
    spoil(tmp_path, how)
    with caplog.at_level(logging.WARNING):
        cells = load(tmp_path, ["arc_easy"], leave_out=["opt-", "m-1m,revision=step3"])
    assert len(cells) == 4
    assert "1 files that harness.leave_out names: again.json" in caplog.text


def test_known_bad_checkpoints_and_their_duplicates_do_not_count(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fill(tmp_path)
    spoil(tmp_path, "second run")
    rows = [{**row, "known_bad": "broken" if row["step"] == 2 else ""} for row in ROWS]
    with caplog.at_level(logging.WARNING):
        assert list(load(tmp_path, ["arc_easy"], rows)["step"]) == [1, 1]
    assert "3 files of checkpoints marked known_bad" in caplog.text


def test_tasks_not_in_the_study_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fill(tmp_path)
    with caplog.at_level(logging.WARNING):
        assert load(tmp_path, ["piqa"]).empty
    assert "1 tasks that tasks.tsv does not report: arc_easy" in caplog.text


def test_names_that_no_file_has_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fill(tmp_path)
    names = {"arc_esy": "arc_easy"}
    metrics = {"pl": {"better": "lower"}, "arc_easy/acc": "accuracy"}
    with caplog.at_level(logging.WARNING):
        load(tmp_path, ["arc_easy"], tasks=names, metrics=metrics)
    assert "1 names under harness.tasks that no file has: arc_esy" in caplog.text
    assert "1 names under harness.metrics that no file has: pl" in caplog.text


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        ({"acc": "acuracy"}, "'acuracy' is not known. Did you mean 'accuracy'"),
        ({"ppl": "perplexity"}, "'perplexity' is not known. Describe it"),
        ({"acc": {"better": "lower", "as": "accuracy"}}, "accuracy, which Downslope defines"),
        (
            {"ppl": {"better": "lower"}, "perplexity": {"better": "higher", "as": "ppl"}},
            "ppl is described twice",
        ),
    ],
)
def test_metrics_that_the_config_gets_wrong(metrics: dict[str, Any], said: str) -> None:
    with pytest.raises(StudyError, match=said):
        MetricNames(metrics, "config.yaml, harness.metrics")


def test_foreign_metrics_stand_in_the_catalogue_with_their_direction() -> None:
    described = {
        "ppl": {"better": "lower"},
        "exact_match,strict-match": {"better": "higher", "low": 0, "high": 1},
    }
    names = MetricNames(described, "")
    catalogue = names.catalogue().set_index("metric")
    assert catalogue.loc["ppl", "better"] == names.better["ppl"] == "lower"
    assert catalogue.loc["accuracy", "better"] == names.better["accuracy"] == "higher"
    assert catalogue.loc["exact_match.strict-match", "high"] == 1
    assert names.order[-2:] == ["ppl", "exact_match.strict-match"]
    assert names.of("gsm8k", "exact_match,strict-match") == "exact_match.strict-match"
    assert names.of("gsm8k", "exact_match,flexible-extract") is None
    assert names.bounds("ppl") == (None, None)
