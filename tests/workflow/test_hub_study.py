"""A study of the hub from lock to cells: the real client, a hub on loopback, one moved branch."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_contract import jobs

from forked import snakemake
from loopback import Hub
from tiny_study import COLUMNS, checkpoint_row, make_model, write_config, write_tsv_rows

REPO = "lab/tiny"


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture(scope="module")
def hub(fresh_study: Path) -> Iterator[Hub]:
    with Hub() as running:
        for step in (1, 2, 4):
            running.publish(REPO, f"step{step}", files(fresh_study / f"models/w8-s{step}"))
        running.publish(REPO, "copy", files(fresh_study / "models/w8-s4"))
        yield running


def rows(*, known_bad: str = "") -> list[dict[str, object]]:
    """Three steps and a fourth whose revision serves the third one's weights."""
    made = [
        checkpoint_row(8, step, source=f"hub:{REPO}", revision=f"step{step}") for step in (1, 2, 4)
    ]
    bad = checkpoint_row(8, 8, source=f"hub:{REPO}", revision="copy", known_bad=known_bad)
    return [*made, bad]


@pytest.mark.slow
def test_from_lock_to_cells(hub: Hub, fresh_study: Path, tmp_path: Path) -> None:
    study = tmp_path / "study"
    study.mkdir()
    for name in ("config", "data"):
        shutil.copytree(fresh_study / name, study / name)
    write_config(
        study,
        ["alpha", "beta"],
        tokenizers={"bytes": {"source": f"hub:{REPO}", "revision": "step1", "max_length": 256}},
    )
    online = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_TOKEN": "hf_planted_token"}
    table, lock = study / "config/checkpoints.tsv", study / "config/checkpoints.lock.tsv"

    write_tsv_rows(table, COLUMNS, rows())
    refused = snakemake(study, "resolve", check=False, **online)
    assert lock.is_file(), "what resolved is written, whatever is wrong with it"
    assert not [path for path in hub.paths() if path.endswith("model.safetensors")]
    again = snakemake(study, check=False, **online)
    for printed in (refused, again):
        assert "w8-s4" in printed
        assert "w8-s8" in printed
        assert "known_bad" in printed
    assert not (study / "resources/weights").exists(), "duplicates stop before any download"

    write_tsv_rows(table, COLUMNS, rows(known_bad="serves the weights of step 4"))
    snakemake(study, "resolve", **online)
    snakemake(study, **online)
    coverage = (study / "results/coverage.tsv").read_text()
    assert coverage.count("\tscored\t") == 6
    assert coverage.count("\texcluded\tserves the weights of step 4") == 2
    assert "Nothing to be done" in snakemake(study, **online)

    locked = lock.read_bytes()
    make_model(tmp_path / "other", seed=99, width=8)
    hub.publish(REPO, "step2", files(tmp_path / "other"))
    printed = snakemake(study, "resolve", **online)
    assert "moved since it was locked" in printed
    assert lock.read_bytes() == locked, "a locked row is not moved in silence"
    assert "Nothing to be done" in snakemake(study, **online)

    kept = [line for line in lock.read_text().splitlines() if not line.startswith("w8-s2\t")]
    lock.write_text("\n".join(kept) + "\n")
    assert "w8-s2" in snakemake(study, check=False, **online), "a stale lock stops the run"
    before = (study / "results/cells.tsv").read_text()
    snakemake(study, "resolve", **online)
    planned = jobs(study)
    assert planned["fetch"] == planned["score"] == 1
    snakemake(study, "results/cells.tsv", **online)
    after = (study / "results/cells.tsv").read_text()
    assert [line for line in after.splitlines() if "w8-s2" not in line] == [
        line for line in before.splitlines() if "w8-s2" not in line
    ]
    assert after != before, "the moved checkpoint was scored again, and only that one"
    for path in study.rglob("*"):
        if path.is_file():
            assert b"hf_planted_token" not in path.read_bytes(), f"a token lies in {path}"
