"""The demo study, trained and scored by its rules: signs and ranges, never digits.

Four of the nine checkpoints of one run per size are scored, which is what the expectations look
at; `make demo` scores all. With `make test-slurm`, models are trained and scored on a SLURM
cluster, by `snakemake --profile slurm`, and most of what is recomputed in seconds follows on this
machine: such jobs cost SLURM more than themselves. Else all of it runs on this machine.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from test_slurm import filled_in, gpus_asked_for, most_gpus_at_once, snakemake_slurm

from cluster import Cluster
from downslope.cells import cells_of, values_of
from downslope.demo_expectations import expectations
from downslope.demo_training import SIZES, build_model
from downslope.engine import Scorer
from downslope.plan import read_plan
from downslope.tsv import read_tsv
from tiny_study import ROOT, snakemake

STEPS = ("40", "320", "453", "640")
ON_CLUSTER = ("results/cells.tsv", "results/stats/trends.tsv", "results/figures/accuracy.pdf")

ON_SLURM = bool(os.environ.get("DOWNSLOPE_DEMAND_SLURM"))
pytestmark = [pytest.mark.slow, *([pytest.mark.slurm] if ON_SLURM else [])]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """The demo study after its run."""
    study = tmp_path_factory.mktemp("demo") / "study"
    shutil.copytree(ROOT / "config/demo", study / "config")
    table = study / "config/checkpoints.tsv"
    header, *rows = table.read_text().splitlines()
    kept = [row for row in rows if (f := row.split("\t"))[5] == "1" and f[3] in STEPS]
    assert len(kept) == 12
    table.write_text("\n".join([header, *kept]) + "\n")
    if ON_SLURM:
        root = filled_in(tmp_path_factory.mktemp("site") / "downslope")
        # The toy cluster's node claims more cores than there are; no more jobs than these.
        few = ("--jobs", str(1 + (os.cpu_count() or 1)))
        cluster = request.getfixturevalue("cluster")
        wanted = (*ON_CLUSTER, "--directory", str(study), *few)
        snakemake_slurm(cluster, root, *wanted, seconds=1800)
    snakemake(study)
    return study


@pytest.mark.skipif(not ON_SLURM, reason="runs on this machine; make test-slurm has a cluster")
def test_on_the_cluster_scoring_alone_asked_for_gpus(demo: Path, cluster: Cluster) -> None:
    jobs = cluster.jobs(workdir=demo)
    assert {job.state for job in jobs} == {"COMPLETED"}
    assert gpus_asked_for(jobs) == {("score", 1, "gpu")}
    assert sum(job.rule == "score" for job in jobs) == 12
    assert most_gpus_at_once(jobs) <= 2


def test_what_was_planted_emerges_from_training(demo: Path) -> None:
    assert expectations(read_tsv(demo / "results/cells.tsv")) == []


def test_effects_point_where_they_were_planted(demo: Path) -> None:
    effects = read_tsv(demo / "results/stats/effects.tsv")
    effects = effects[effects["tests"] == "demo"]
    for method in ("ols", "jackknife", "two-stage", "item"):
        fitted = effects[effects["method"] == method]
        assert set(fitted["status"]) == {"ok"}, method
        tokens = fitted[fitted["effect"] == "tokens"].set_index("task")["estimate"]
        assert (tokens[["memo-trap", "resist-correction", "pattern-suppress"]] < 0).all()
        assert (tokens[["saying-cloze", "pattern-continue"]] > 0).all()


def test_every_run_falls_on_these_items_where_it_was_planted(demo: Path) -> None:
    trends = read_tsv(demo / "results/stats/run_trends.tsv")
    trends = trends[trends["metric"] == "accuracy"].set_index("task")
    falls = (trends["q"] < 0.05) & (trends["slope"] < 0)
    assert falls[["memo-trap", "resist-correction"]].all()
    assert not falls[["saying-cloze", "pattern-continue", "unseen-facts"]].any()


def test_the_gate_fails_on_what_training_unlearnt(demo: Path) -> None:
    printed = snakemake(demo, "drift", check=False)
    assert "memo-trap" in printed
    assert not (demo / "results/stats/drift_check.txt").exists()


def test_a_second_run_has_nothing_to_do(demo: Path) -> None:
    assert "Nothing to be done" in snakemake(demo)


def test_untrained_models_fail_what_trained_ones_pass(demo: Path) -> None:
    trained = read_tsv(demo / "results/cells.tsv")
    rows = trained.drop_duplicates("ckpt")[
        ["ckpt", "family", "parameters", "step", "tokens", "seed"]
    ]
    names = dict(zip(sorted(rows["parameters"].unique()), SIZES, strict=True))
    plans = {path.stem: read_plan(path) for path in demo.glob("resources/plans/demo/*.safetensors")}
    vocabulary = len(read_vocabulary(demo))
    cells = []
    for number, row in enumerate(rows.to_dict("records")):
        model = build_model(SIZES[names[row["parameters"]]], vocabulary, seed=100 + number).eval()
        for task, plan in plans.items():
            parts = [Scorer(model).score_pack(pack) for pack in plan.packs]
            scores = plan.scores(*(np.concatenate(part) for part in zip(*parts, strict=True)))
            items = pq.read_table(demo / f"resources/items/{task}.parquet").to_pandas()
            values = values_of(scores.to_pandas(), items, row["ckpt"], task, ["mckenzie2023"])
            cells.append(cells_of(values, row, task, {"mckenzie2023": 0}))
    assert expectations(trained) == []
    assert len(expectations(pd.concat(cells))) >= 6


def read_vocabulary(demo: Path) -> dict[str, int]:
    import json

    content = json.loads((demo / "resources/demo/tokenizer/tokenizer.json").read_text())
    return content["model"]["vocab"]
