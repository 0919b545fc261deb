"""Weights pass through a disk budget: real Snakemake, the real client, a hub on loopback."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from test_contract import jobs

from downslope.files import matching
from loopback import Hub
from tiny_study import (
    COLUMNS,
    DATASET_COLUMNS,
    ROOT,
    TASK_COLUMNS,
    add_dataset,
    checkpoint_row,
    make_model,
    make_tokenizer,
    prize_lines,
    snakemake,
    task_row,
    write_config,
    write_tsv_rows,
)

REPO = "lab/tiny"
STEPS = [1, 2, 3, 4, 5, 6, 7, 8]
CKPTS = [f"w16-s{step}" for step in STEPS]
BROKEN = {"w16-s2": b"\xff\xff\xff\x7f", "w16-s3": b"\xfe\xff\xff\x7f"}
"""Their weights are nothing but this NaN: scoring fails for good."""
GONE = "w16-s6"
"""The hub no longer has its locked weights."""
SOUND = [ckpt for ckpt in CKPTS if ckpt not in BROKEN and ckpt != GONE]
PROFILE = (
    "--resources",
    "gpu=1",
    "fetch=1",
    "--retries",
    "1",
    "--keep-going",
    "--rerun-incomplete",
)


def files(folder: Path, nan: bytes = b"") -> dict[str, bytes]:
    """A model folder's files; with `nan`, every number of the weights is this one."""
    found = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    if nan:
        weights = found["model.safetensors"]
        start = 8 + int.from_bytes(weights[:8], "little")
        found["model.safetensors"] = weights[:start] + nan * ((len(weights) - start) // 4)
    return found


def make_hub_study(study: Path, steps: list[int]) -> Path:
    """A study of one task, whose checkpoints are these steps of the hub's model."""
    (study / "config").mkdir(parents=True)
    make_tokenizer(study / "tokenizer")
    datasets = [add_dataset(study, "tiny-alpha", prize_lines(12, "alpha"))]
    write_tsv_rows(study / "config/datasets.tsv", DATASET_COLUMNS, datasets)
    write_tsv_rows(study / "config/tasks.tsv", TASK_COLUMNS, [task_row("alpha")])
    list_steps(study, steps)
    write_config(study, ["alpha"])
    return study


def list_steps(study: Path, steps: list[int]) -> None:
    """Write these steps of the hub's model into the table of checkpoints."""
    rows = [checkpoint_row(16, s, source=f"hub:{REPO}", revision=f"step{s}") for s in steps]
    write_tsv_rows(study / "config/checkpoints.tsv", COLUMNS, rows)


@dataclass
class Watch:
    """What was seen in a study while Snakemake ran."""

    study: Path
    most_bytes: int = 0

    def look(self) -> None:
        sizes: dict[tuple[int, int], int] = {}  # a file that is renamed meanwhile counts once
        for place, _, names in os.walk(self.study / "resources/weights"):
            for name in names:
                try:
                    file = os.lstat(f"{place}/{name}")
                except OSError:
                    continue
                sizes[file.st_dev, file.st_ino] = file.st_size
        self.most_bytes = max(self.most_bytes, sum(sizes.values()))

    @contextmanager
    def running(self) -> Iterator[Watch]:
        over = threading.Event()

        def watch() -> None:
            while not over.wait(0.01):
                self.look()

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            over.set()
            thread.join()


@dataclass
class Passed:
    """A study of eight checkpoints under a budget of two, killed once and run again."""

    study: Path
    hub: Hub
    env: dict[str, str]
    budget: int
    watch: Watch
    before_the_kill: dict[str, int]
    scored_before: set[str]
    on_disk_before: set[str]
    fetched_beside: dict[str, set[str]]
    printed: str

    def machine(self, budget: float | None = None, **other: float) -> tuple[str, ...]:
        facts = {"disk_budget_gb": (budget or self.budget) / 1e9, **other}
        return ("--config", f"machine={json.dumps(facts)}")


def weight_files_sent(hub: Hub) -> Counter[str]:
    """Times that the hub began to send the weights of each commit's branch."""
    branches = {commit: branch for (_, branch), commit in hub.branches.items() if branch != commit}
    sent = (path.split("/") for path in hub.paths() if path.startswith("/storage/"))
    return Counter(f"w16-s{branches[part[4]].removeprefix('step')}" for part in sent)


def published(study: Path) -> set[str]:
    return {path.parent.name for path in study.glob("results/scores/*/alpha.parquet")}


def whole_folders(study: Path) -> list[Path]:
    return sorted(study.glob("resources/weights/*/model.safetensors"))


@pytest.fixture(scope="module")
def passed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Passed]:
    place = tmp_path_factory.mktemp("budget")
    study = make_hub_study(place / "study", STEPS)
    with Hub() as hub:
        for step, ckpt in zip(STEPS, CKPTS, strict=True):
            make_model(place / ckpt, seed=step, width=16)
            hub.publish(REPO, f"step{step}", files(place / ckpt, BROKEN.get(ckpt, b"")))
        size = max(sum(map(len, held.values())) for held in hub.commits.values())
        env = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0"}
        snakemake(study, "resolve", **env)
        hub.commits[REPO, hub.branches[REPO, "step6"]].pop("model.safetensors")
        watch = Watch(study)
        found = Passed(study, hub, env, round(2.3 * size), watch, {}, set(), set(), {}, "")
        arguments = [*PROFILE, *found.machine(), "--"]
        scores = {ckpt: f"results/scores/{ckpt}/alpha.parquet" for ckpt in CKPTS}
        # Behind a download that fails, Snakemake starts nothing until another job has ended, so
        # the lost one is asked for when no scoring process stands still.
        there = [score for ckpt, score in scores.items() if ckpt != GONE]
        with watch.running():
            killed_after(2, found, ["--cores", "1", *arguments, *there])
            found.printed = snakemake(study, *arguments, *scores.values(), check=False, **env)
        snakemake(study, "results/partial/coverage.tsv", **env)
        yield found


def killed_after(count: int, found: Passed, arguments: list[str]) -> None:
    """Run Snakemake, and kill it with all that it started once so many checkpoints are scored.

    Each scoring process is stopped until another checkpoint's weights lie beside its own.
    """
    printed = found.study / "killed.txt"
    with printed.open("w") as out:
        running = subprocess.Popen(
            [
                *(sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")),
                *("--directory", str(found.study), *arguments),
            ],
            env={**os.environ, **found.env},
            start_new_session=True,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    deadline = time.monotonic() + 600
    while len(published(found.study)) < count and time.monotonic() < deadline:
        if running.poll() is not None:
            break
        for ckpt, process in scoring_in(found.study, running.pid):
            if ckpt not in found.fetched_beside:
                begun = {ckpt, *found.fetched_beside}
                with suppress(psutil.NoSuchProcess):  # it may end before it can be stopped
                    waiting = fetched_while_stopped(found.study, process, begun)
                    found.fetched_beside[ckpt] = waiting
        time.sleep(0.05)
    with suppress(ProcessLookupError):
        os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    assert running.returncode == -signal.SIGKILL, printed.read_text()[-4000:]
    found.before_the_kill = dict(weight_files_sent(found.hub))
    found.scored_before = published(found.study)
    found.on_disk_before = {
        path.parent.name for path in found.study.glob("resources/weights/*/fetched.tsv")
    }
    snakemake(found.study, "--unlock")


def scoring_in(study: Path, pid: int) -> list[tuple[str, psutil.Process]]:
    """The scoring processes below a process, by the checkpoint whose log each writes."""
    found: list[tuple[str, psutil.Process]] = []
    with suppress(psutil.NoSuchProcess):
        for process in psutil.Process(pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                for file in process.open_files():
                    path = Path(file.path)
                    if path.parent == study / "logs/score":
                        found.append((path.stem, process))
    return found


def fetched_while_stopped(study: Path, process: psutil.Process, begun: set[str]) -> set[str]:
    """Checkpoints that were not `begun` and have whole weights while a process stands still."""
    others: set[str] = set()
    deadline = time.monotonic() + 120
    process.suspend()
    try:
        while not others and time.monotonic() < deadline:
            time.sleep(0.05)
            manifests = matching(study, "resources/weights/*/fetched.tsv")
            others = {path.parent.name for path in manifests} - begun
    finally:
        process.resume()
    return others


def test_eight_checkpoints_pass_through_room_for_two(passed: Passed) -> None:
    assert published(passed.study) == set(SOUND), passed.printed[-5000:]
    assert 0.8 * passed.budget < passed.watch.most_bytes <= passed.budget
    both = (passed.study / "killed.txt").read_text() + passed.printed
    assert "Missing files after" not in both, "a job's weights went before it had run"


def test_the_next_one_is_fetched_while_another_is_scored(passed: Passed) -> None:
    assert len(passed.fetched_beside) >= 2
    assert all(passed.fetched_beside.values()), passed.fetched_beside


def test_after_a_kill_only_what_must_be_scored_is_fetched_again(passed: Passed) -> None:
    assert len(passed.scored_before) >= 2
    sent = weight_files_sent(passed.hub)
    for ckpt in CKPTS:
        if ckpt in passed.on_disk_before:
            assert sent[ckpt] == 1, f"{ckpt} was scored, known to fail, or whole on disk"
        elif ckpt == GONE:
            assert sent[ckpt] == 0
        else:
            assert sent[ckpt] == 1 + passed.before_the_kill.get(ckpt, 0)


def test_what_failed_is_named_with_its_reason_and_the_rest_has_its_tables(passed: Passed) -> None:
    table = (passed.study / "results/partial/coverage.tsv").read_text().splitlines()
    rows = {line.split("\t")[0]: line.split("\t")[2:] for line in table[1:]}
    assert {ckpt for ckpt, (state, _) in rows.items() if state == "scored"} == set(SOUND)
    for ckpt in BROKEN:
        assert rows[ckpt][0] == "missing"
        assert "is nan" in rows[ckpt][1]
    assert "has no file model.safetensors" in rows[GONE][1]
    cells = (passed.study / "results/partial/cells.tsv").read_text().splitlines()[1:]
    assert {line.split("\t")[0] for line in cells} == set(SOUND)


def test_what_is_in_the_store_is_published_without_weights(passed: Passed) -> None:
    lost, *_ = sorted(set(SOUND) - {p.parent.name for p in whole_folders(passed.study)})
    score = passed.study / f"results/scores/{lost}/alpha.parquet"
    before, sent = score.read_bytes(), weight_files_sent(passed.hub)
    score.unlink()
    snakemake(passed.study, *PROFILE, *passed.machine(), "--", str(score.relative_to(passed.study)),
              **passed.env)  # fmt: skip
    assert score.read_bytes() == before
    assert weight_files_sent(passed.hub) == sent


def test_rows_that_come_and_go_cost_what_they_must(passed: Passed) -> None:
    """A finished study whose weights are gone: nothing is fetched for what is scored."""
    study, machine = passed.study, passed.machine()
    kept = [step for step, ckpt in zip(STEPS, CKPTS, strict=True) if ckpt in SOUND]
    list_steps(study, kept)
    found = jobs(study, *machine)
    assert "fetch" not in found
    assert "score" not in found
    model = files(study.parent / "w16-s1")
    weights = model["model.safetensors"]
    passed.hub.publish(REPO, "step9", model | {"model.safetensors": weights[:-1] + b"\0"})
    list_steps(study, [*kept, 9])
    snakemake(study, "resolve", **passed.env)
    found = jobs(study, *machine)
    assert (found["fetch"], found["score"]) == (1, 1)
    refused = snakemake(study, *passed.machine(1000), check=False, **passed.env)
    assert re.search(r"checkpoints.tsv, line 7 \(w16-s9\): its files take 6.* kB", refused)
    assert "the disk budget is 1.0 kB" in refused
    assert "Select jobs to execute" not in refused, "refused before any job"
    list_steps(study, kept)
    datasets = [add_dataset(study, f"tiny-{n}", prize_lines(12, n)) for n in ("alpha", "beta")]
    write_tsv_rows(study / "config/datasets.tsv", DATASET_COLUMNS, datasets)
    write_tsv_rows(study / "config/tasks.tsv", TASK_COLUMNS, [task_row("alpha"), task_row("beta")])
    found = jobs(study, *machine)
    assert (found["fetch"], found["score"]) == (len(SOUND), len(SOUND))
