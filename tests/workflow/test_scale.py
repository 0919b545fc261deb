"""A large study that is finished: what Snakemake still does about it, in what time and memory.

8 sizes x 154 steps x 12 tasks from a hub, with a lock. Its files are stand-ins, as a dry run looks
at their dates only; but Snakemake's records of them are made by Snakemake itself, which lays out
the study's jobs and notes each one as finished. The weights are gone, as from a disk with a budget.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tiny_study import (
    COLUMNS,
    DATASET_COLUMNS,
    ROOT,
    TASK_COLUMNS,
    add_dataset,
    prize_lines,
    task_row,
    write_config,
    write_tsv_rows,
)

SIZES = {"70m": 70e6, "160m": 160e6, "410m": 410e6, "1b": 1e9}
SIZES |= {"1.4b": 1.4e9, "2.8b": 2.8e9, "6.9b": 6.9e9, "12b": 12e9}
STEPS = [0, *(2**k for k in range(10)), *range(1000, 144_000, 1000)]
TASKS = [f"task-{k:02d}" for k in range(12)]
TOKENIZER = ("tokenizer:pythia", "hub:lab/pythia-70m", "step143000")
LOCK_COLUMNS = ["ckpt", "source", "revision", "commit", "file", "bytes", "digest"]

SECONDS, MEGABYTES = 15, 400
SLACK = 2
"""On two quiet cores a dry run takes SECONDS; one that shares them is given this many times."""


@dataclass(frozen=True)
class DryRun:
    """What a dry run printed, its processor time in seconds and its peak memory in MB."""

    printed: str
    seconds: float
    megabytes: float

    @property
    def jobs(self) -> dict[str, int]:
        """Jobs by rule, without `all`."""
        table = re.search(r"Job stats:\njob +count\n[- ]+\n(.*?)\n\n", self.printed, re.DOTALL)
        if table is None:
            assert "Nothing to be done" in self.printed, self.printed
            return {}
        counts = dict(line.split() for line in table[1].splitlines())
        return {rule: int(n) for rule, n in counts.items() if rule not in ("all", "total")}


def checkpoint(size: str, step: int) -> dict[str, object]:
    return {
        "ckpt": f"pythia-{size}-step{step}",
        "family": "pythia",
        "parameters": int(SIZES[size]),
        "step": step,
        "tokens": max(1, step * 2_097_152),
        "seed": 1234,
        "source": f"hub:lab/pythia-{size}",
        "revision": f"step{step}",
        "tokenizer": "pythia",
    }


def locked(name: str, source: str, revision: str) -> Iterator[dict[str, object]]:
    """A lock's rows of a checkpoint, whose weights are its own, or of a tokenizer."""
    files = ["config.json", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json"]
    weights = [] if name.startswith("tokenizer:") else ["model.safetensors"]
    for file in [*files, *weights]:
        digest = hashlib.sha256((name if file in weights else file).encode()).hexdigest()
        fields = [
            *(name, source, revision, hashlib.sha1(name.encode()).hexdigest(), file, 1000),
            f"sha256:{digest}" if file in weights else f"git-sha1:{digest[:40]}",
        ]
        yield dict(zip(LOCK_COLUMNS, fields, strict=True))


def write_checkpoints(study: Path, rows: list[dict[str, object]]) -> None:
    """The table of checkpoints and a lock that fits it."""
    write_tsv_rows(study / "config/checkpoints.tsv", COLUMNS, rows)
    names = [tuple(str(row[key]) for key in ("ckpt", "source", "revision")) for row in rows]
    lines = [line for name in [*names, TOKENIZER] for line in locked(*name)]
    write_tsv_rows(study / "config/checkpoints.lock.tsv", LOCK_COLUMNS, lines)


def make_finished(study: Path, code: Path, steps: list[int]) -> list[dict[str, object]]:
    """The study with every size at these steps, finished under this code; returns its rows."""
    (study / "config").mkdir(parents=True)
    datasets = [add_dataset(study, f"tiny-{task}", prize_lines(4, task)) for task in TASKS]
    write_tsv_rows(study / "config/datasets.tsv", DATASET_COLUMNS, datasets)
    write_tsv_rows(study / "config/tasks.tsv", TASK_COLUMNS, [task_row(task) for task in TASKS])
    source = {"source": TOKENIZER[1], "revision": TOKENIZER[2], "max_length": 2048}
    write_config(study, TASKS, dtype="float16", pack_tokens=2048, tokenizers={"pythia": source})
    rows = [checkpoint(size, step) for size in SIZES for step in steps]
    write_checkpoints(study, rows)
    done = subprocess.run(
        [sys.executable, __file__, str(code), str(study)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, sys.path))},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    shutil.rmtree(study / "resources/weights")
    return rows


def record_as_finished(code: Path, study: Path) -> None:
    """Make the outputs of every job of the study, in order, and Snakemake's records of them.

    Runs in a process of its own: Snakemake changes the working directory.
    """
    from snakemake.api import SnakemakeApi
    from snakemake.settings.types import DAGSettings, OutputSettings, Quietness, ResourceSettings

    with SnakemakeApi(OutputSettings(quiet={Quietness.ALL})) as api:
        loaded = api.workflow(
            ResourceSettings(cores=2), snakefile=code / "Snakefile", workdir=study
        )
        # As in the profiles, so that the contents of inputs are recorded.
        dag = loaded.dag(DAGSettings(max_checksum_file_size=104_857_600))
        dag.execute_workflow(executor="dryrun")
        workflow = loaded._workflow
        levels = [list(level) for level in workflow.dag.toposorted()]
        score, now = score_file(), time.time()
        for age, job in ((age, job) for age, level in enumerate(levels) for job in level):
            for name in [*job.output, *job.log, *([job.benchmark] if job.benchmark else [])]:
                path = Path(name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(score if job.rule.name == "score" else b"")
                os.utime(path, (now + age / 100,) * 2)
        workflow.iocache.clear()

        async def record() -> None:
            for job in (job for level in levels for job in level):
                await workflow.persistence.finished(job)

        workflow.async_run(record())


def score_file() -> bytes:
    """A table that says of itself what the study's guard against old numbers looks for."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from downslope.identity import SCORING_MODULES, modules_digest

    parts = {"dtype": "float16", "modules": modules_digest(SCORING_MODULES)}
    job = {"gpu": "a GPU", "tokens_computed": 1000, "seconds": 1.0}
    facts = {"identity": "0" * 32, "parts": parts, "job": job}
    table = pa.table({"item": ["a"]}).replace_schema_metadata({"downslope": json.dumps(facts)})
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


# The peak of a process counts in what its parent had when it was started, so this is a small one.
MEASURE = """
import json, resource, subprocess, sys
done = subprocess.run(sys.argv[1:], text=True, stdout=-1, stderr=-2)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([done.returncode, done.stdout, used.ru_utime + used.ru_stime, used.ru_maxrss]))
"""


def dry_run(study: Path, code: Path, *options: str) -> DryRun:
    command = [
        *(sys.executable, "-m", "snakemake", "--snakefile", str(code / "Snakefile")),
        *("--directory", str(study), "--cores", "2", "--nocolor"),
        *("--dry-run", "--quiet", "rules", *options),
    ]
    measured = [sys.executable, "-S", "-c", MEASURE, *command]
    told = subprocess.run(measured, text=True, stdout=subprocess.PIPE, check=True).stdout
    status, printed, seconds, kilobytes = json.loads(told)
    assert status == 0, printed[-4000:]
    return DryRun(printed, seconds, kilobytes / 1024)


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the workflow's code: the records belong to it, whatever is edited meanwhile."""
    copy = tmp_path_factory.mktemp("code")
    for name in ("rules", "scripts", "envs", "profiles", "config/schemas"):
        unwanted = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, copy / name, ignore=unwanted)
    for name in ("Snakefile", "config/datasets.tsv", "config/calibration.tsv"):
        shutil.copy(ROOT / name, copy / name)
    return copy


AGGREGATES = {"score_cells": 12, "cells": 1, "coverage": 1, "bootstrap_items": 12}
AGGREGATES |= dict.fromkeys(["fit_effects", "fit_shapes", "fit_run_trends", "measure_drift"], 1)
AGGREGATES |= dict.fromkeys(["write_table1", "write_verdicts"], 1)
AGGREGATES |= {
    f"plot_{name}": 1 for name in ("accuracy", "heatmap", "forest", "shapes", "slopes", "drift")
}


def record_of(study: Path, output: str) -> Path:
    """The file in which Snakemake keeps what it knows of an output."""
    name = base64.urlsafe_b64encode(output.encode()).decode()
    return study / ".snakemake/metadata" / name


def test_records_decide_what_is_planned(code: Path, tmp_path: Path) -> None:
    """They are worth what those of a real run are: whatever they do not agree with is seen."""
    study = tmp_path / "study"
    make_finished(study, code, [1000])
    finished = dry_run(study, code)
    assert finished.jobs == {}
    assert "missing" not in finished.printed
    records = [record_of(study, f"results/scores/pythia-{size}-step1000/task-03.parquet")
               for size in ("70m", "1b", "12b")]  # fmt: skip
    params, inputs, lost = (json.loads(record.read_text()) for record in records)
    records[0].write_text(json.dumps(params | {"params": ["'another'", *params["params"][1:]]}))
    records[1].write_text(json.dumps(inputs | {"input": inputs["input"][1:]}))
    changed = dry_run(study, code)
    assert changed.jobs == {"fetch": 2, "score": 2, **AGGREGATES}
    for record, facts in zip(records, (params, inputs, lost), strict=True):
        record.write_text(json.dumps(facts))
    records[2].unlink()
    assert "1 jobs have missing provenance" in dry_run(study, code).printed


def test_a_finished_study_of_1232_checkpoints_is_planned_in_seconds(
    code: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = tmp_path / "study"
    rows = make_finished(study, code, STEPS)
    assert len(rows) == 1232
    finished = dry_run(study, code, "--profile", str(code / "profiles/slurm"))
    assert finished.jobs == {}
    assert "missing" not in finished.printed, "every job has its record"
    write_checkpoints(study, [*rows, checkpoint("1b", 1500)])
    added = dry_run(study, code)
    assert added.jobs == {"fetch": 1, "score": 1, **AGGREGATES}
    for run in (finished, added):
        with capsys.disabled():
            print(f"\n{run.seconds:.1f} s of processor time, {run.megabytes:.0f} MB")
        assert run.seconds < SECONDS * SLACK
        assert run.megabytes < MEGABYTES


if __name__ == "__main__":
    record_as_finished(*map(Path, sys.argv[1:]))
