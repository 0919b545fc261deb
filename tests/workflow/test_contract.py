"""The contract of reruns: what an edit costs, asked of Snakemake itself."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import tiny_study
from forked import snakemake
from tiny_study import (
    COLUMNS,
    DATASET_COLUMNS,
    ROOT,
    TASK_COLUMNS,
    add_dataset,
    checkpoint_row,
    make_model,
    prize_lines,
    task_row,
    write_config,
    write_tsv_rows,
)

FIGURES = {
    f"plot_{name}": 1 for name in ("accuracy", "heatmap", "forest", "shapes", "slopes", "drift")
}
FITS = {"fit_effects": 1, "fit_shapes": 1, "fit_run_trends": 1, "measure_drift": 1}
TABLES = {"write_table1": 1, "write_verdicts": 1}
STATISTICS = {**FITS, **TABLES, **FIGURES}
AGGREGATES = {"score_cells": 2, "cells": 1, "coverage": 1, "bootstrap_items": 2, **STATISTICS}
NO_LEVEL = ("plot_accuracy", "plot_heatmap")
NOTHING: dict[str, int] = {}


def jobs(study: Path, *arguments: str, root: Path = ROOT) -> dict[str, int]:
    """Jobs by rule that Snakemake would run now."""
    printed = snakemake(study, "--dry-run", "--quiet", "rules", *arguments, root=root)
    table = re.search(r"Job stats:\njob +count\n[- ]+\n(.*?)\n\n", printed + "\n\n", re.DOTALL)
    if table is None:
        assert "Nothing to be done" in printed, printed
        return NOTHING
    counts = dict(line.split() for line in table[1].splitlines() if line.strip())
    return {rule: int(n) for rule, n in counts.items() if rule not in ("all", "total", "partial")}


def packs_scored(study: Path) -> Counter[str]:
    """Packs that were scored, not found, over all files of the store, by task."""
    counts: Counter[str] = Counter()
    for path in study.glob("resources/scored/*/*.parquet"):
        facts = json.loads(pq.read_schema(path).metadata[b"downslope"])
        counts[path.name.split(".")[0]] += facts["job"]["packs_scored"]
    return counts


def edit(path: Path, before: str, after: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert before in text
    path.write_text(text.replace(before, after), encoding="utf-8")


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """A copy of the workflow's own code, to be edited."""
    copy = tmp_path / "code"
    for name in ("Snakefile", "rules", "scripts", "envs"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            copy.mkdir(exist_ok=True)
            shutil.copy(source, copy / name)
    shutil.copytree(ROOT / "config/schemas", copy / "config/schemas")
    for table in ("datasets.tsv", "calibration.tsv"):
        shutil.copy(ROOT / "config" / table, copy / "config")
    return copy


def test_a_second_run_has_nothing_to_do(study: Path) -> None:
    assert jobs(study) == NOTHING
    assert "Nothing to be done" in snakemake(study)


def test_what_it_costs_can_be_asked_at_any_time(study: Path) -> None:
    printed = snakemake(study, "cost")
    assert "# What this study costs" in printed
    assert "All of it is scored: nothing is left to do." in printed
    assert (study / "results/cost.tsv").read_text().splitlines()[0].startswith("ckpt\t")
    assert "Nothing to be done" in snakemake(study)


def test_another_checkout_of_the_same_code_has_nothing_to_do(study: Path, code: Path) -> None:
    assert jobs(study, root=code) == NOTHING


def test_a_new_checkpoint_is_scored_and_nothing_else(study: Path) -> None:
    rows = [*(checkpoint_row(w, s) for w in (8, 16) for s in (1, 2, 4)), checkpoint_row(8, 8)]
    make_model(study / "models/w8-s8", seed=9, width=8)
    write_tsv_rows(study / "config/checkpoints.tsv", COLUMNS, rows)
    assert jobs(study) == {"fingerprint": 1, "score": 1, **AGGREGATES}


def test_reordered_rows_change_nothing(study: Path) -> None:
    table = study / "config/checkpoints.tsv"
    header, *rows = table.read_text().splitlines()
    table.write_text("\n".join([header, *reversed(rows)]) + "\n")
    assert jobs(study) == NOTHING


def test_a_removed_checkpoint_costs_only_the_aggregates(study: Path) -> None:
    table = study / "config/checkpoints.tsv"
    table.write_text("\n".join(table.read_text().splitlines()[:-1]) + "\n")
    assert jobs(study) == AGGREGATES


def test_weights_that_were_put_in_the_place_of_others_are_noticed(study: Path) -> None:
    """Of an older date, by `cp -p` or `mv`: Snakemake by itself looks for newer files only."""
    make_model(study / "models/other", seed=77, width=8)
    weights = study / "models/other/model.safetensors"
    os.utime(weights, (1e9, 1e9))
    weights.replace(study / "models/w8-s2/model.safetensors")
    assert jobs(study)["fingerprint"] == 1
    snakemake(study, "resources/fingerprints/w8-s2.tsv")
    assert jobs(study) == {"score": 1, **AGGREGATES}


def test_a_checkpoint_with_a_slip_in_its_run_is_told(study: Path) -> None:
    rows = [checkpoint_row(w, s) for w in (8, 16) for s in (1, 2, 4)]
    rows[1]["parameters"] = 800
    write_tsv_rows(study / "config/checkpoints.tsv", COLUMNS, rows)
    printed = snakemake(study, "--dry-run")
    assert "line 3 (w8-s2): it is the only checkpoint of its run (family" in printed


def test_a_task_left_out_of_the_report_costs_only_the_aggregates(study: Path) -> None:
    edit(study / "config/tasks.tsv", "Beta\tControl\taccuracy=0.5\tmichaelov2023,mckenzie2023\tyes",
         "Beta\tControl\taccuracy=0.5\tmichaelov2023,mckenzie2023\tno")  # fmt: skip
    write_config(study, ["alpha"])
    found = jobs(study)
    assert "score" not in found
    assert set(found) <= set(AGGREGATES)


@pytest.mark.slow
def test_a_new_task_is_scored_alone(study: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in study.glob("resources/scored/*/*")}
    datasets = [
        add_dataset(study, f"tiny-{name}", prize_lines(count, name))
        for name, count in (("alpha", 12), ("beta", 8), ("gamma", 5))
    ]
    write_tsv_rows(study / "config/datasets.tsv", DATASET_COLUMNS, datasets)
    tasks = [task_row("alpha"), task_row("beta"), task_row("gamma")]
    write_tsv_rows(study / "config/tasks.tsv", TASK_COLUMNS, tasks)
    write_config(study, ["alpha", "beta", "gamma"])
    planned = jobs(study)
    assert planned["score"] == 6, "each checkpoint is loaded once"
    assert planned["make_items"] == planned["make_plan"] == 1
    snakemake(study)
    assert {path: path.stat().st_mtime_ns for path in before} == before, "nothing was scored again"
    assert len(list(study.glob("resources/scored/*/gamma.*.parquet"))) == 6
    assert jobs(study) == NOTHING


def test_a_touched_data_set_changes_nothing(study: Path) -> None:
    (study / "data/tiny-alpha.jsonl").touch()
    (study / "resources/datasets/tiny-alpha/tiny-alpha.jsonl").touch()
    assert jobs(study) == NOTHING


def test_a_data_set_that_was_changed_after_it_was_fetched_is_refused(study: Path) -> None:
    edit(study / "resources/datasets/tiny-alpha/tiny-alpha.jsonl", "number 3:", "number 4:")
    printed = snakemake(study, check=False)
    assert "tiny-alpha.jsonl: has the sha256" in printed
    assert "Delete it, and it is fetched anew." in printed


def test_the_level_concerns_what_is_printed_with_it(study: Path) -> None:
    write_config(study, ["alpha", "beta"], level=0.01)
    printed = {"fit_shapes": 1, "measure_drift": 1, **TABLES, **FIGURES}
    assert jobs(study) == {rule: n for rule, n in printed.items() if rule not in NO_LEVEL}


def test_the_families_concern_statistics_and_what_follows(study: Path) -> None:
    write_config(study, ["alpha"])
    assert jobs(study) == STATISTICS


def test_another_precision_scores_everything(study: Path) -> None:
    write_config(study, ["alpha", "beta"], dtype="bfloat16")
    assert jobs(study) == {"score": 6, **AGGREGATES}


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("scripts/downslope/engine.py", {"score": 6, **AGGREGATES}),
        ("scripts/downslope/metrics.py", AGGREGATES),
        (
            "scripts/downslope/regression.py",
            {"fit_effects": 1, "write_table1": 1, "write_verdicts": 1, "plot_forest": 1},
        ),
        ("scripts/downslope/verdicts.py", {"write_verdicts": 1}),
        ("scripts/downslope/figures.py", {"plot_accuracy": 1}),
        ("scripts/plot_accuracy.py", {"plot_accuracy": 1}),
        ("scripts/downslope/errors.py", NOTHING),
    ],
)
def test_an_edit_of_code_reruns_what_depends_on_it(
    study: Path, code: Path, file: str, expected: dict[str, int]
) -> None:
    with open(code / file, "a", encoding="utf-8") as handle:
        handle.write("# edited\n")
    assert jobs(study, root=code) == expected


@pytest.mark.parametrize("records", ["kept", "lost"])
def test_in_a_touched_clone_changed_code_is_an_error_and_never_an_old_number(
    study: Path, code: Path, records: str
) -> None:
    if records == "lost":
        shutil.rmtree(study / ".snakemake")
    snakemake(study, "--touch", root=code)
    assert jobs(study, root=code) == NOTHING, "touched, and nothing else"
    with open(code / "scripts/downslope/engine.py", "a", encoding="utf-8") as handle:
        handle.write("# edited\n")
    if records == "kept":
        assert jobs(study, root=code)["score"] == 6, "Snakemake knows of the edit by itself"
        disguise_as_current(study, code)
    printed = snakemake(study, check=False, root=code)
    assert "was computed from other modules than this study has now" in printed
    assert "Delete results/scores and run once with `-R score`" in printed


@pytest.mark.parametrize("deleted", ["results", "results/scores"])
def test_after_the_remedy_nothing_old_is_left_even_without_its_option(
    study: Path, deleted: str
) -> None:
    shutil.rmtree(study / ".snakemake")
    write_config(study, ["alpha", "beta"], dtype="bfloat16", drift={"allowed_loss": 1})
    shutil.rmtree(study / deleted)
    assert jobs(study).items() >= {"score": 6, "score_cells": 2, "cells": 1}.items()
    assert jobs(study, "--", "drift").items() >= {"score": 6, "score_cells": 2, "cells": 1}.items()
    found = jobs(study, "-R", "score", "--", "results/stats/verdicts.md")
    assert found.items() >= {"score": 6, "score_cells": 2, "cells": 1, "write_verdicts": 1}.items()


def test_what_nothing_notices_without_records_can_be_made_anew(study: Path) -> None:
    """As the README says, of a config that has changed since a study was copied."""
    shutil.rmtree(study / ".snakemake")
    write_config(study, ["alpha", "beta"], level=0.01)
    assert jobs(study) == NOTHING
    assert jobs(study, "-R", "score_cells") == AGGREGATES
    assert jobs(study, "-R", "make_items").items() >= {"make_plan": 2, **AGGREGATES}.items()


def test_a_deleted_score_is_published_again_and_nothing_is_scored(study: Path) -> None:
    before = packs_scored(study)
    (study / "results/scores/w8-s1/alpha.parquet").unlink()
    assert jobs(study)["score"] == 1
    assert jobs(study, "--", "cost") == {"cost": 1}
    snakemake(study, "--until", "score")
    assert (study / "results/scores/w8-s1/alpha.parquet").is_file()
    assert packs_scored(study) == before


def disguise_as_current(study: Path, code: Path) -> None:
    """What `snakemake --touch` does after an edit: Snakemake's records name the new code."""
    program = "from downslope.identity import *; print(modules_digest(SCORING_MODULES))"
    old, new = (
        subprocess.run(
            [sys.executable, "-c", program], cwd=root / "scripts", check=True,
            capture_output=True, text=True,
        ).stdout.strip()
        for root in (ROOT, code)
    )  # fmt: skip
    for record in (study / ".snakemake/metadata").iterdir():
        record.write_text(record.read_text().replace(old, new))


def test_the_cells_rule_asks_each_score_what_it_was_computed_from(study: Path) -> None:
    """Two checkpoints' scores swapped by hand: dates and Snakemake's records say nothing."""
    one, two = (study / f"results/scores/{ckpt}/alpha.parquet" for ckpt in ("w8-s1", "w8-s2"))
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)
    printed = snakemake(study, "--forcerun", "score_cells", check=False)
    assert "was computed from other weights than this study has now" in printed
    assert "Delete this file" in printed


def test_scores_of_another_version_of_torch_are_told_in_table_1(study: Path) -> None:
    """An update of torch, of which the identity knows nothing, then a checkpoint more."""
    for path in (study / "results/scores/w8-s1").iterdir():
        table = pq.read_table(path)
        facts = json.loads(table.schema.metadata[b"downslope"])
        facts["job"]["torch"] = "1.0"
        stated = {b"downslope": json.dumps(facts).encode()}
        pq.write_table(table.replace_schema_metadata(stated), path)
    table1 = study / "results/stats/table1.md"
    assert "several versions" not in table1.read_text()
    snakemake(study, "results/stats/table1.md")
    assert "several versions: torch 1.0, transformers" in table1.read_text()
    assert "(5 checkpoints)" in table1.read_text()


@pytest.mark.slow
def test_deleting_a_tasks_row_scores_nothing(study: Path) -> None:
    before = packs_scored(study)
    write_tsv_rows(study / "config/tasks.tsv", TASK_COLUMNS, [task_row("alpha")])
    write_config(study, ["alpha"])
    snakemake(study, "results/cells.tsv")
    assert packs_scored(study) == before


@pytest.mark.slow
def test_an_interrupted_run_ends_in_the_same_cells(
    fresh_study: Path, finished_study: Path, tmp_path: Path
) -> None:
    """Half of the store is lost, among it one task of a checkpoint: only that is scored."""
    place = tmp_path / "study"
    shutil.copytree(finished_study, place)
    shutil.rmtree(place / "results")
    (lost,) = place.glob("resources/scored/w8-s1/beta.*.parquet")
    lost.unlink()
    kept = {path: path.stat().st_mtime_ns for path in place.glob("resources/scored/*/*.parquet")}
    names = ["cells.tsv", "coverage.tsv", "stats/effects.tsv", "stats/verdicts.md"]
    # In processes of their own, whose sets have other orders than those of the forks.
    tiny_study.snakemake(place, *(f"results/{name}" for name in names))
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    for name in names:
        assert (place / "results" / name).read_bytes() == (
            finished_study / "results" / name
        ).read_bytes()


@pytest.fixture(scope="module")
def partial_study(finished_study: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A study of which one checkpoint has no scores at all and another lacks a task."""
    place = tmp_path_factory.mktemp("partial") / "study"
    shutil.copytree(finished_study, place)
    shutil.rmtree(place / "results")
    shutil.rmtree(place / "resources/scored/w8-s2")
    for path in place.glob("resources/scored/w16-s4/beta.*"):
        path.with_suffix(".failed").write_text("log-likelihood of item 7 is nan\n")
        path.unlink()
    snakemake(place, "partial")
    return place


def test_partial_shows_what_exists_and_scores_nothing(partial_study: Path) -> None:
    assert not (partial_study / "results/cells.tsv").exists(), "never over the full tables"
    assert not (partial_study / "resources/scored/w8-s2").exists()
    lines = (partial_study / "results/partial/cells.tsv").read_text().splitlines()
    cells = {(line.split("\t")[0], line.split("\t")[7]) for line in lines[1:]}
    assert len(cells) == 12 - 3
    assert ("w16-s4", "alpha") in cells
    assert (partial_study / "results/partial/figures/accuracy.png").stat().st_size > 0


def test_coverage_says_why_something_is_missing(partial_study: Path) -> None:
    table = (partial_study / "results/partial/coverage.tsv").read_text().splitlines()
    rows = {tuple(line.split("\t")[:2]): line.split("\t")[2:] for line in table[1:]}
    assert len(rows) == 12
    assert rows["w8-s2", "alpha"] == ["missing", "not scored yet"]
    assert rows["w16-s4", "beta"] == ["missing", "log-likelihood of item 7 is nan"]
    assert rows["w16-s4", "alpha"][0] == "scored"


def test_the_papers_dry_run_is_right_without_a_lock() -> None:
    printed = snakemake(ROOT, "--dry-run", "--quiet", "rules", "--profile", "slurm")
    assert printed.count("A real run would stop here. config/checkpoints.lock.tsv") == 1
    found = jobs(ROOT, "--profile", "slurm")
    assert found["score"] == found["fetch"] == 58, "64 checkpoints without the six known bad ones"
    assert found["make_plan"] == found["make_items"] == found["download_dataset"] == 11
    assert found["fetch_tokenizer"] == 1


def test_a_real_run_without_a_lock_says_how_to_make_one(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "config", tmp_path / "config")
    printed = snakemake(tmp_path, check=False)
    assert "checkpoints.lock.tsv" in printed
    assert "resolve" in printed
    assert not (tmp_path / "resources").exists(), "refused before any job"


def test_a_config_of_another_study_is_refused(study: Path, tmp_path: Path) -> None:
    shutil.copy(study / "config/config.yaml", tmp_path / "other.yaml")
    printed = snakemake(study, "-n", "--configfile", str(tmp_path / "other.yaml"), check=False)
    assert "Choose a study by its folder: snakemake --directory STUDY" in printed


def test_a_broken_table_stops_the_run_in_one_sentence(study: Path) -> None:
    edit(study / "config/checkpoints.tsv", "\t8000\t", "\tmany\t")
    printed = snakemake(study, check=False)
    assert "config/checkpoints.tsv, line 2: parameters is 'many'" in printed
    assert "Traceback" not in printed


def test_a_tokenizer_that_does_not_exist_is_refused_by_key(study: Path) -> None:
    edit(study / "config/config.yaml", '"source": "tokenizer"', '"source": "tokeniser"')
    printed = snakemake(study, check=False)
    assert "config/config.yaml, tokenizers.bytes: the folder 'tokeniser' does not ex" in printed


@pytest.mark.parametrize("source", ["data/tiny alpha.jsonl", "data/tiny-alhpa.jsonl", "."])
def test_a_data_set_that_does_not_exist_is_refused_by_row(study: Path, source: str) -> None:
    edit(study / "config/datasets.tsv", "data/tiny-alpha.jsonl", source)
    assert jobs(study) == NOTHING, "its content is here"
    for place in ("resources", "results"):
        shutil.rmtree(study / place)
    printed = snakemake(study, check=False)
    assert not list(study.glob("resources/*/*")), "refused before any job"
    found = source.split()[0]
    assert f"config/datasets.tsv, line 2 (tiny-alpha): the source '{found}' is no fi" in printed
    assert "Sources are joined by spaces" in printed
    assert "# What this study costs" in snakemake(study, "cost")


def test_one_model_under_two_names_stops_before_it_is_scored(study: Path) -> None:
    (study / "models/w8-s8").mkdir()
    for file in (study / "models/w8-s2").iterdir():
        shutil.copy(file, study / "models/w8-s8")
    rows = [*(checkpoint_row(w, s) for w in (8, 16) for s in (1, 2, 4)), checkpoint_row(8, 8)]
    write_tsv_rows(study / "config/checkpoints.tsv", COLUMNS, rows)
    printed = snakemake(study, check=False)
    assert "w8-s2 (line 3) and w8-s8 have the same weights: one model would count" in printed
    assert not (study / "resources/scored/w8-s8").exists()
    # What was found in a folder before says nothing once others lie there.
    make_model(study / "models/w8-s2", seed=77, width=8)
    snakemake(study, "resources/fingerprints/w8-s8.tsv")


def test_a_folder_that_does_not_exist_is_refused_by_row(study: Path) -> None:
    edit(study / "config/checkpoints.tsv", "models/w8-s2", "models/nowhere")
    printed = snakemake(study, check=False)
    assert "config/checkpoints.tsv, line 3 (w8-s2): the folder 'models/nowhere'" in printed
    assert "Traceback" not in printed


def test_snakemakes_linter_finds_nothing() -> None:
    printed = snakemake(ROOT, "--lint")
    assert "Congratulations" in printed
