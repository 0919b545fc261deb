"""Weights of a hub pass through a disk budget while SLURM scores them, and one never comes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from test_slurm import CELLS, filled_in, gpus_asked_for, most_gpus_at_once, snakemake_slurm
from test_weights_pass import REPO, Watch, files, make_hub_study, published, weight_files_sent

from cluster import Cluster, Job
from forked import snakemake
from loopback import Hub
from tiny_study import make_model

pytestmark = [pytest.mark.slow, pytest.mark.slurm]

STEPS = [1, 2, 3, 4, 5]
GONE = "w16-s3"
SOUND = {f"w16-s{step}" for step in STEPS} - {GONE}


@dataclass
class Passed:
    study: Path
    hub: Hub
    budget: int
    watch: Watch
    jobs: list[Job]
    printed: str


@pytest.fixture(scope="module")
def passed(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Passed]:
    """Five checkpoints under a budget of two; of one the hub has lost the weights."""
    place = tmp_path_factory.mktemp("weights")
    root = filled_in(place / "downslope")
    study = make_hub_study(place / "study", STEPS)
    with Hub() as hub:
        for step in STEPS:
            make_model(place / f"model{step}", seed=step, width=16)
            hub.publish(REPO, f"step{step}", files(place / f"model{step}"))
        size = max(sum(map(len, held.values())) for held in hub.commits.values())
        env = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0"}
        snakemake(study, "resolve", **env)
        hub.commits[REPO, hub.branches[REPO, "step3"]].pop("model.safetensors")
        budget, watch, known = round(2.3 * size), Watch(study), len(cluster.jobs())
        machine = f"machine={json.dumps({'disk_budget_gb': budget / 1e9})}"
        with watch.running():
            printed = snakemake_slurm(
                cluster,
                root,
                *(CELLS, "--directory", str(study), "--config", machine),
                check=False,
                **env,
            )
        snakemake(study, "partial", **env)
        yield Passed(study, hub, budget, watch, cluster.jobs()[known:], printed)


def test_the_budget_holds_and_the_others_go_on(passed: Passed) -> None:
    assert published(passed.study) == SOUND, passed.printed[-5000:]
    assert passed.budget / 2 < passed.watch.most_bytes <= passed.budget
    assert weight_files_sent(passed.hub) == dict.fromkeys(SOUND, 1)


def test_downloads_are_no_jobs_of_slurm(passed: Passed) -> None:
    assert gpus_asked_for(passed.jobs) == {("score", 1, "gpu")}
    assert {job.wildcards for job in passed.jobs if job.rule == "score"} == SOUND
    assert most_gpus_at_once(passed.jobs) <= 2
    assert not {"fetch", "fetch_tokenizer", "list_plans"} & {job.rule for job in passed.jobs}


def test_what_exists_has_tables_and_figures_and_what_does_not_has_a_reason(passed: Passed) -> None:
    assert not (passed.study / CELLS).exists(), "the study is not whole"
    partial = passed.study / "results/partial"
    missing = [
        line
        for line in (partial / "coverage.tsv").read_text().splitlines()
        if "\tmissing\t" in line
    ]
    assert len(missing) == 1
    assert missing[0].startswith(f"{GONE}\talpha\t")
    assert "has no file model.safetensors" in missing[0]
    cells = (partial / "cells.tsv").read_text().splitlines()[1:]
    assert {line.split("\t")[0] for line in cells} == SOUND
    for name in ("figures/accuracy.pdf", "stats/table1.md", "stats/verdicts.md"):
        assert (partial / name).stat().st_size > 0, name
