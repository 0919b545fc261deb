"""A study of lm-evaluation-harness output, from the folder to verdicts, and our own output back."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from downslope.item_values import read_item_values
from downslope.tsv import read_tsv
from forked import snakemake
from harness_folders import new, sample, write_samples
from tiny_study import ROOT

SIZES, STEPS, ITEMS = ("70m", "160m", "410m", "1b"), (1000, 8000, 64000, 143000), 150


def adopt(results: Path, study: Path, *options: str) -> str:
    script = ROOT / "scripts/adopt_harness.py"
    command = [sys.executable, str(script), str(results), str(study), *options]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def answers(size: int, step: int) -> list[dict[str, object]]:
    """Items of which each step of training loses some, and a larger model more."""
    lost = (15 + 8 * size) * step
    return [
        sample(k, [-1.0, -2.0] if k >= lost else [-2.5, -1.0], 0, acc=float(k >= lost))
        for k in range(ITEMS)
    ]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen Pythia checkpoints with samples of one task; a second task without samples."""
    place = tmp_path_factory.mktemp("harness")
    rng = np.random.default_rng(0)
    for size, name in enumerate(SIZES):
        for number, step in enumerate(STEPS):
            folder = place / "output" / f"{name}-{step}"
            rows = answers(size, number)
            values = np.array([row["acc"] for row in rows], dtype=float)
            error = values.std(ddof=1) / np.sqrt(ITEMS)
            acc = {"acc": values.mean(), "acc_stderr": error}
            plain = {"acc": rng.uniform(0.4, 0.6), "acc_stderr": 0.02}
            args = f"pretrained=EleutherAI/pythia-{name},revision=step{step}"
            new(folder, args, {"sayings": acc, "plain": plain}, n=ITEMS)
            write_samples(folder, "sayings", rows)
    adopt(place / "output", place / "study")
    snakemake(place / "study")
    return place / "study"


@pytest.mark.slow
def test_verdicts_come_from_a_folder_of_results(study: Path) -> None:
    verdicts = read_tsv(study / "results/stats/verdicts.tsv").set_index("task")
    assert verdicts.loc["sayings", ["size", "training"]].tolist() == ["falls", "falls"]
    assert verdicts.loc["sayings", "own_trends"] == "all 4 runs"
    assert verdicts.loc["plain", "own_trends"] == "", "there are no samples"
    effects = read_tsv(study / "results/stats/effects.tsv")
    by_items = effects[effects["method"] == "item"].set_index("task")["status"]
    assert (by_items["plain"] == "not estimable: no item-level scores").all()
    sayings = effects[(effects["task"] == "sayings") & (effects["metric"] == "accuracy")]
    assert (sayings.loc[sayings["method"] == "item", "status"] == "ok").all()


@pytest.mark.slow
def test_drift_is_tested_on_the_samples(study: Path) -> None:
    drift = read_tsv(study / "results/stats/drift.tsv")
    drift = drift[(drift["metric"] == "accuracy") & (drift["task"] == "sayings")]
    last = drift[(drift["against"] == "previous") & (drift["step"] == STEPS[-1])]
    assert last.sort_values("parameters")["lost"].tolist() == [15, 23, 31, 39]
    assert (last["gained"] == 0).all()
    values = read_item_values(study / "resources/item_values/sayings.parquet", "harness", "margin")
    assert values.shape == (ITEMS, 16), "margins come from the logged log-likelihoods"


@pytest.mark.slow
def test_a_file_that_is_gone_is_named_and_the_rest_stands(study: Path) -> None:
    (gone,) = (study.parent / "output/1b-8000").glob("results_*.json")
    gone.unlink()
    snakemake(study, "results/coverage.tsv", "results/stats/effects.tsv")
    coverage = read_tsv(study / "results/coverage.tsv")
    missing = coverage[coverage["state"] == "missing"]
    assert set(missing["ckpt"]) == {"pythia-1b-step8000"}
    assert set(missing["reason"]) == {"no result in the folder"}
    assert read_tsv(study / "results/stats/effects.tsv")["n"].eq(15).all()


@pytest.mark.slow
def test_checkpoints_are_chosen_for_a_budget(study: Path) -> None:
    refused = snakemake(study, "choose_checkpoints", check=False)
    assert "lacks the key 'budget'" in refused
    config = study / "config/config.yaml"
    config.write_text(config.read_text() + "budget: {gpu_hours: 0.7, min_checkpoints: 2}\n")
    snakemake(study, "choose_checkpoints")
    chosen = (study / "results/design/checkpoints.tsv").read_text().splitlines()
    offered = (study / "config/checkpoints.tsv").read_text().splitlines()
    assert chosen[0] == offered[0]
    assert set(chosen[1:]) < set(offered[1:])


@pytest.mark.slow
def test_our_scores_survive_the_way_through_the_harness(
    study_with_export: Path, tmp_path: Path
) -> None:
    """Exported, adopted and imported again: the same cells."""
    adopt(study_with_export / "results/harness", tmp_path / "back")
    snakemake(tmp_path / "back", "results/cells.tsv")
    columns = ["ckpt", "metric", "value", "se", "n"]
    ours = read_tsv(study_with_export / "results/cells.tsv")
    ours = ours.assign(task=ours["task"] + "_" + ours["protocol"])
    back = read_tsv(tmp_path / "back/results/cells.tsv")
    order = ["task", "ckpt", "metric"]
    merged = ours[["task", *columns]].merge(back[["task", *columns]], on=order, how="outer")
    assert len(merged) == len(ours) == len(back)
    for name in ("value", "se"):
        np.testing.assert_allclose(merged[f"{name}_x"], merged[f"{name}_y"], rtol=1e-5)
    assert (merged["n_x"] == merged["n_y"]).all()
    refused = snakemake(tmp_path / "back", "export_harness", check=False)
    assert "there are no scores of its own to export" in refused


@pytest.fixture
def study_with_export(finished_study: Path, tmp_path: Path) -> Path:
    place = tmp_path / "scored"
    shutil.copytree(finished_study, place)
    snakemake(place, "export_harness")
    return place
