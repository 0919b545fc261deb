"""Accidents on a real SLURM cluster: nothing is lost, doubled or scored again, each time.

One study, a checkpoint for each accident, and two runs of Snakemake. In the first one, jobs are
cancelled, run into their time limit, lose their Python to kill -9, find a full disk, broken
weights and a wrong tokenizer, while slurmd is killed and restarted. In the second one Snakemake
itself is killed with two jobs in the middle of their work; after `--unlock` a third run submits
both once more, and of each pair of twins one waits.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from test_slurm import filled_in, snakemake_slurm

from cluster import Cluster, Job
from downslope.claim import CLAIM, holder
from downslope.scoring import SAVE_EVERY
from downslope.status import StudyStatus
from downslope.store import read_facts
from downslope.study import load_study
from tiny_study import (
    COLUMNS,
    DATASET_COLUMNS,
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

pytestmark = [pytest.mark.slow, pytest.mark.slurm]

CELLS = "results/cells.tsv"
TASKS = {"alpha": 12, "long": 3000}
# Tasks are scored in this order; the first is finished in a moment, the second takes seconds.
CANCELLED, OVERTIME, KILLED, FULL = (f"w8-s{step}" for step in (1, 2, 3, 4))
NAN, TOKENIZER = "w8-s5", "w8-s6"
ROWS = [checkpoint_row(8, step) for step in range(1, 7)]


def make_faulty_study(study: Path, root: Path) -> Path:
    """Six checkpoints, of which one has no numbers and one another tokenizer."""
    (study / "config").mkdir(parents=True)
    datasets = [add_dataset(study, f"tiny-{t}", prize_lines(n, t)) for t, n in TASKS.items()]
    write_tsv_rows(study / "config/datasets.tsv", DATASET_COLUMNS, datasets)
    write_tsv_rows(study / "config/tasks.tsv", TASK_COLUMNS, [task_row(task) for task in TASKS])
    write_tsv_rows(study / "config/checkpoints.tsv", COLUMNS, ROWS)
    write_config(study, list(TASKS))
    make_tokenizer(study / "tokenizer")
    for number, row in enumerate(ROWS):
        make_model(study / str(row["source"]), seed=number, width=8)
    # What comes before scoring is no part of this story; it is done once, for both studies.
    plans = [f"resources/plans/bytes/{task}.safetensors" for task in TASKS]
    prints = [f"resources/fingerprints/{row['ckpt']}.tsv" for row in ROWS]
    snakemake(study, *plans, *prints, root=root)
    shutil.copytree(study, study.with_name("undisturbed"))
    spoil_weights(study / f"models/{NAN}")
    spoil_tokenizer(study / f"models/{TOKENIZER}")
    return study


def spoil_weights(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    weights["embed_out.weight"][:] = np.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def spoil_tokenizer(folder: Path) -> None:
    content = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (folder / "tokenizer.json").write_text(json.dumps(content))


def mend(study: Path, ckpt: str) -> None:
    """Put the right files in the place of the wrong ones; nothing else is asked of anybody."""
    right = study.with_name("undisturbed") / f"models/{ckpt}"
    for path in right.iterdir():
        shutil.copyfile(path, study / f"models/{ckpt}/{path.name}")


@dataclass
class Run:
    """`snakemake --profile slurm` on the study, started and not waited for."""

    cluster: Cluster
    root: Path
    study: Path
    arguments: tuple[str, ...]
    printed: str = ""
    _pauses: dict[int, float] = field(default_factory=dict)

    def __enter__(self) -> Run:
        self._output = open(self.study.with_name("printed.txt"), "w+")
        self._process = subprocess.Popen(
            [
                *("snakemake", "--profile", "slurm", "--directory", str(self.study)),
                *("--slurm-init-seconds-before-status-checks", "5", "--nocolor"),
                *self.arguments,
            ],
            cwd=self.root,
            env={**os.environ, "OMP_NUM_THREADS": "1", **self.cluster.env},
            stdout=self._output,
            stderr=subprocess.STDOUT,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._output.seek(0)
        self.printed = self._output.read()
        self._output.close()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def alive(self) -> bool:
        return self._process.poll() is None

    def wait(self, seconds: float = 400) -> int:
        return self._process.wait(seconds)

    def store(self, ckpt: str) -> Path:
        return self.study / "resources/scored" / ckpt

    def log(self, ckpt: str) -> str:
        path = self.study / f"logs/score/{ckpt}.log"
        return path.read_text() if path.exists() else ""

    def in_the_middle(self, ckpt: str) -> int | None:
        """The process that scores a checkpoint, once it has stored some packs of a task.

        Packs are saved every five seconds, and on a fast machine it could end before that: it is
        stopped for as long, and saves what it has when it goes on.
        """
        found = holder(self.store(ckpt))
        if found is None or found.is_dead() or "long: 0 of " not in self.log(ckpt):
            return None
        process = int(found.facts["pid"])
        if process not in self._pauses:
            os.kill(process, signal.SIGSTOP)
            self._pauses[process] = time.monotonic() + SAVE_EVERY + 0.5
        elif time.monotonic() > self._pauses[process]:
            os.kill(process, signal.SIGCONT)
            self._pauses[process] = float("inf")
        return process if list(self.store(ckpt).glob("long.*.packs/*.parquet")) else None

    def jobs(self, ckpt: str) -> list[Job]:
        return [job for job in self.cluster.jobs("score") if job.wildcards == ckpt]

    def until(self, ready: Callable[[], object], *, seconds: float = 400) -> None:
        end = time.monotonic() + seconds
        while not ready():
            if time.monotonic() > end or not self.alive():
                self._output.seek(0)
                raise AssertionError(f"it did not come to that\n{self._output.read()[-5000:]}")
            time.sleep(0.1)


@dataclass
class Story:
    """What happened, kept for the tests to ask about."""

    study: Path
    printed: str = ""
    """What the first run said."""
    jobs: dict[str, list[Job]] = field(default_factory=dict)
    """SLURM jobs of the first run, by checkpoint."""
    ends: dict[str, str] = field(default_factory=dict)
    """Logs of jobs that had an accident and could still say something."""
    asked: str = ""
    """Time that the job asked for whose limit was shortened while it ran."""
    across: int = 0
    """The SLURM job that ran while slurmd was killed and started again."""
    replacement: str = ""
    """What the job said that followed the one whose Python was killed."""
    logs: dict[str, str] = field(default_factory=dict)
    """Logs at the end of the first run: those of the last attempts."""
    orphans: dict[str, int] = field(default_factory=dict)
    """Processes that went on without their Snakemake."""
    orphaned: dict[str, Job] = field(default_factory=dict)
    twins: dict[str, str] = field(default_factory=dict)
    """Logs that two twins have written."""

    def facts(self, ckpt: str, task: str = "long") -> dict[str, int]:
        facts = read_facts(self.study / f"results/scores/{ckpt}/{task}.parquet")
        assert facts is not None
        return facts["job"]


@contextlib.contextmanager
def small_disk(place: Path) -> Iterator[None]:
    """A file system of its own, in which next to nothing fits."""
    place.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32k", "tmpfs", str(place)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def accidents(run: Run, story: Story) -> Callable[[], bool]:
    """A step that lets each accident happen when its time has come; True when all have."""
    left = {CANCELLED, OVERTIME, KILLED, FULL}

    def step() -> bool:
        for ckpt in sorted(left):
            if ckpt == FULL:
                if "quota is full" not in run.log(ckpt):
                    continue
                options = ["mount", "-o", "remount,size=64m", str(run.store(ckpt))]
                subprocess.run(options, check=True)
            elif (process := run.in_the_middle(ckpt)) is None:
                continue
            elif ckpt == CANCELLED:
                run.cluster.scancel(str(run.jobs(ckpt)[-1].id))
            elif ckpt == OVERTIME:
                os.kill(process, signal.SIGSTOP)
                job = run.jobs(ckpt)[-1]
                story.asked = job.limit
                # The least that SLURM knows, for this one alone: others may be slow.
                run.cluster.scontrol("update", f"JobId={job.id}", "TimeLimit=1")
            elif ckpt == KILLED:
                os.kill(process, signal.SIGKILL)
            if ckpt == CANCELLED:
                run.until(lambda: "ended by SIGTERM" in run.log(CANCELLED))
            story.ends[ckpt] = run.log(ckpt)
            left.discard(ckpt)
        return not left

    return step


@pytest.fixture(scope="module")
def story(
    start_cluster: Callable[..., Cluster], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Story]:
    cluster = start_cluster(gpus=4)
    root = filled_in(tmp_path_factory.mktemp("site") / "downslope")
    study = make_faulty_study(tmp_path_factory.mktemp("faults") / "study", root)
    told = Story(study)
    with small_disk(study / f"resources/scored/{FULL}"):
        arguments = (CELLS, "--set-resources", "score:runtime=10*attempt")
        with Run(cluster, root, study, arguments) as run:
            run.until(accidents(run, told))
            # By then the one that met its time limit is known to have done so.
            run.until(lambda: len(run.jobs(OVERTIME)) > 1)
            # Without slurmd a job may seem to have failed; its next attempt begins the log anew.
            run.until(lambda: "taking over from" in run.log(KILLED))
            told.replacement, told.across = run.log(KILLED), run.jobs(KILLED)[-1].id
            cluster.kill_slurmd()
            cluster.start_slurmd()
            # Meanwhile the same study without any accident.
            snakemake(study.with_name("undisturbed"), CELLS, root=root)
            run.wait(900)
        told.printed = run.printed
        told.jobs = {str(row["ckpt"]): run.jobs(str(row["ckpt"])) for row in ROWS}
        told.logs = {str(row["ckpt"]): run.log(str(row["ckpt"])) for row in ROWS}
        kill_snakemake_and_run_again(cluster, root, told)
        yield told


def kill_snakemake_and_run_again(cluster: Cluster, root: Path, told: Story) -> None:
    """Two jobs go on without the Snakemake that submitted them, and a new one submits twins."""
    pair = (NAN, TOKENIZER)
    for ckpt in pair:
        mend(told.study, ckpt)
    scores = tuple(f"results/scores/{ckpt}/long.parquet" for ckpt in pair)
    with Run(cluster, root, told.study, scores) as first:

        def both_stopped() -> bool:
            for ckpt in set(pair) - set(told.orphans):
                if process := first.in_the_middle(ckpt):
                    os.kill(process, signal.SIGSTOP)
                    told.orphans[ckpt] = process
            return len(told.orphans) == len(pair)

        first.until(both_stopped)
        told.orphaned = {ckpt: first.jobs(ckpt)[-1] for ckpt in pair}
        first.kill()

    def beat() -> None:
        """For those that stand still, so that nobody takes over before the twins have met them."""
        for ckpt in pair:
            for heart in (told.study / "resources/scored" / ckpt / CLAIM).glob("*.json"):
                os.utime(heart)

    refused = snakemake_slurm(cluster, root, "--directory", str(told.study), *scores, check=False)
    assert "--unlock" in refused
    beat()
    snakemake_slurm(cluster, root, "--directory", str(told.study), "--unlock")
    with Run(cluster, root, told.study, scores) as second:
        second.until(
            lambda: beat() or all("waiting for process" in second.log(ckpt) for ckpt in pair)
        )
        os.kill(told.orphans[NAN], signal.SIGCONT)
        os.kill(told.orphans[TOKENIZER], signal.SIGKILL)
        assert second.wait() == 0
    told.twins = {ckpt: second.log(ckpt) for ckpt in pair}
    snakemake(told.study, CELLS, root=root)


def test_cells_are_those_of_the_undisturbed_run(story: Story) -> None:
    undisturbed = story.study.with_name("undisturbed") / CELLS
    assert (story.study / CELLS).read_bytes() == undisturbed.read_bytes()


@pytest.mark.parametrize("ckpt", [CANCELLED, OVERTIME, KILLED])
def test_only_the_missing_packs_are_scored_again(story: Story, ckpt: str) -> None:
    facts = story.facts(ckpt)
    assert facts["packs_found"] > 0
    assert facts["packs_scored"] == facts["packs"] - facts["packs_found"]
    numbers = [str(job.id) for job in story.jobs[ckpt]]
    assert story.facts(ckpt, "alpha")["slurm_job"] == numbers[0], "a finished task stays as it is"
    assert facts["slurm_job"] in numbers[1:]


def test_time_and_memory_grow_with_the_attempt(story: Story) -> None:
    first, second, *_ = story.jobs[OVERTIME]
    assert first.state == "TIMEOUT"
    assert (story.asked, second.limit) == ("00:10:00", "00:20:00")
    assert second.memory_mb == 2 * first.memory_mb


def test_a_cancelled_job_ends_in_order(story: Story) -> None:
    assert story.jobs[CANCELLED][0].state == "CANCELLED"
    assert "long: stopped early; all finished packs are saved" in story.ends[CANCELLED]
    assert "ended by SIGTERM, as by scancel" in story.ends[CANCELLED]


def test_a_job_whose_python_was_killed_is_replaced_at_once(story: Story) -> None:
    assert f"{KILLED}: taking over from process " in story.replacement
    assert f"(SLURM job {story.jobs[KILLED][0].id})" in story.replacement
    assert "it has ended" in story.replacement


def test_a_job_lives_on_without_its_slurmd(story: Story) -> None:
    (job,) = (job for job in story.jobs[KILLED] if job.id == story.across)
    assert job.state == "COMPLETED"


def test_a_full_disk_is_told_and_keeps_what_is_finished(story: Story) -> None:
    assert "cannot be written, the disk or its quota is full" in story.ends[FULL]
    assert "Make room and run again" in story.ends[FULL]
    assert story.facts(FULL, "alpha")["slurm_job"] == str(story.jobs[FULL][0].id)


@pytest.mark.parametrize(("ckpt", "words"), [(NAN, "is nan"), (TOKENIZER, "the tokenizer in")])
def test_a_failure_for_good_ends_every_retry_before_anything_is_loaded(
    story: Story, ckpt: str, words: str
) -> None:
    assert len(story.jobs[ckpt]) == 3, "the profile's retries"
    assert "failed before, and nothing that it depends on has changed" in story.logs[ckpt]
    assert words in story.logs[ckpt]
    assert "in the store already" not in story.logs[ckpt]
    assert f"logs/score/{ckpt}.log" in story.printed
    assert words in story.printed, "the message ends with the log's last lines"


def test_of_twins_one_waits_and_says_for_whom(story: Story) -> None:
    """The first one goes on and finishes; the second finds all in the store and loads nothing."""
    told, first = story.twins[NAN], story.orphans[NAN]
    assert f"waiting for process {first} on " in told
    assert "the other process is gone; going on" in told
    assert "published 2 tasks" in told
    assert "in the store already" not in told, "the first thing that scoring says"
    facts = story.facts(NAN)
    assert facts["packs_found"] == 0, "the first one was stopped, not ended"
    assert facts["slurm_job"] == str(story.orphaned[NAN].id)


def test_of_twins_one_takes_over_when_the_other_dies(story: Story) -> None:
    told, first = story.twins[TOKENIZER], story.orphans[TOKENIZER]
    assert f"waiting for process {first} on " in told
    assert f"taking over from process {first} on " in told
    facts = story.facts(TOKENIZER)
    assert facts["packs_found"] > 0
    assert facts["packs_scored"] == facts["packs"] - facts["packs_found"]
    assert facts["slurm_job"] != str(story.orphaned[TOKENIZER].id)


def test_nothing_is_left_behind(story: Story) -> None:
    store = story.study / "resources/scored"
    names = sorted(path.name.split(".")[0] for path in store.glob("*/*"))
    assert names == ["alpha"] * 6 + ["long"] * 6, "a finished file for each, and nothing else"
    status = StudyStatus(load_study(story.study))
    assert [standing.state for standing in status.standings()] == ["done"] * 6
