"""The scoring job as a process: twins, signals, a full disk, secrets, and failures for good."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from test_scoring import job_of, plan_of

from downslope.claim import CLAIM, ClaimLost, claimed
from downslope.engine import Scorer
from downslope.errors import StudyError
from downslope.identity import model_digest
from downslope.models import load_model
from downslope.plan import write_plan
from downslope.plan_list import list_plans
from downslope.reclaim import empty_folder
from downslope.scoring import score_tasks
from downslope.store import TaskJob, TaskStore, read_scores
from downslope.tokenization import FolderTokenizer
from downslope.weights import MANIFEST, fingerprint
from tiny_study import ROOT, make_model, write_tsv_rows

TASKS = ("a", "b")

# A scoring job of which the test can slow down the packs, limit the size of files, and see at the
# end whether it has imported torch, and what bytes the kernel has to find for 20 tensors of 50 MB.
PROGRAM = """
import gc, json, os, resource, sys, time
settings = json.loads(sys.argv[1])
if settings["largest_file"]:
    resource.setrlimit(resource.RLIMIT_FSIZE, (settings["largest_file"],) * 2)
import score_checkpoint
if settings["pause"]:
    from downslope.engine import Scorer
    score = Scorer.score_packs
    def slowly(self, packs):
        for number, scores in enumerate(score(self, packs)):
            time.sleep(settings["pause"])
            if number == 3:  # the packs before it are finished; the test does what it waits for
                print("three packs", flush=True)
                while settings["waits"]:
                    time.sleep(0.05)
            yield scores
    Scorer.score_packs = slowly
def go():
    os.unlink(os.path.join(settings["job"]["folder"], "model.safetensors"))
if settings["weights_go"] == "before":
    look = score_checkpoint.unfinished
    def unfinished(jobs):
        go()
        return look(jobs)
    score_checkpoint.unfinished = unfinished
if settings["weights_go"] == "after":
    from downslope import scoring
    score_tasks = scoring.score_tasks
    def scored(*given):
        score_tasks(*given)
        go()
    scoring.score_tasks = scored
def found_anew(blocks):
    import torch
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(blocks):
        torch.empty(50_000_000, dtype=torch.uint8).fill_(1)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) * resource.getpagesize()
said = {}
try:
    score_checkpoint.main(**settings["job"])
finally:
    said |= {"torch": "torch" in sys.modules, "names": sorted(os.environ)}
    if said["torch"]:
        found_anew(2)
        said |= {"found_anew": found_anew(20), "frozen": gc.get_freeze_count()}
        said |= {"never_used": [n for n in ("jsonschema", "pandas", "scipy") if n in sys.modules]}
    print(json.dumps(said))
"""


class Job:
    """One checkpoint with two tasks in a folder, and processes that score it."""

    def __init__(self, folder: Path, *, spoilt: bool = False) -> None:
        self.folder, self.model = folder, folder / "model"
        self.store, self.log = folder / "store", folder / "log.txt"
        make_model(self.model, seed=3)
        if spoilt:
            spoil(self.model)
        self.manifest = folder / "manifest.tsv"
        files = fingerprint(self.model)
        write_tsv_rows(self.manifest, list(files.columns), files.to_dict(orient="records"))
        self.plans = [plan_of(self.model, task, 40) for task in TASKS]
        paths = [folder / f"plans/{task}.safetensors" for task in TASKS]
        for plan, path in zip(self.plans, paths, strict=True):
            write_plan(plan, path)
        list_plans(paths, folder / "plans.tsv")
        self.outputs = [folder / f"out/{task}.parquet" for task in TASKS]

    def start(
        self,
        *,
        pause: float = 0.0,
        waits: bool = False,
        largest_file: int = 0,
        weights_go: str = "",
        **env: str,
    ) -> subprocess.Popen[str]:
        job = {
            "folder": str(self.model),
            "manifest": str(self.manifest),
            "plans": str(self.folder / "plans.tsv"),
            "tasks": TASKS,
            "store": str(self.store),
            "dtype": "float32",
            "modules": "m",
            "threads": 1,
            "outputs": [str(path) for path in self.outputs],
            "log": str(self.log),
        }
        settings = {"job": job, "pause": pause, "waits": waits, "largest_file": largest_file}
        settings["weights_go"] = weights_go
        paths = [str(ROOT / "scripts")]
        return subprocess.Popen(
            [sys.executable, "-c", PROGRAM, json.dumps(settings)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def run(
        self, *, largest_file: int = 0, weights_go: str = "", **env: str
    ) -> tuple[int, dict[str, object]]:
        """Exit status of a whole run, and what it says of itself at its end."""
        process = self.start(largest_file=largest_file, weights_go=weights_go, **env)
        printed, _ = process.communicate(timeout=120)
        return process.returncode, json.loads(printed)

    @property
    def jobs(self) -> list[TaskJob]:
        files = fingerprint(self.model)
        weights = model_digest(zip(files["file"], files["digest"], strict=True))
        return [job_of(plan, self.store, weights) for plan in self.plans]

    def facts(self, task: str) -> dict[str, int]:
        return read_scores(self.folder / f"out/{task}.parquet")[1]["job"]

    def wait_for(self, words: str, process: subprocess.Popen[str]) -> None:
        """Wait until the log has these words."""
        deadline = time.monotonic() + 120
        while not (self.log.exists() and words in self.log.read_text()):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.05)


def spoil(folder: Path) -> None:
    """Make the weights of a blank not a number."""
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    (blank,) = FolderTokenizer(folder)([" "], special_tokens=False)[0]
    weights["embed_out.weight"][blank] = np.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(tmp_path)


def test_sigterm_saves_the_finished_packs_and_releases_the_claim(job: Job) -> None:
    """No pack is lost, though the next saving was seconds away; nothing is scored twice."""
    with job.start(pause=0.05, waits=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "three packs\n"
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 128 + signal.SIGTERM
    log = job.log.read_text()
    assert "a: stopped early; all finished packs are saved" in log
    assert "ended by SIGTERM" in log
    assert not (job.store / CLAIM).exists()
    assert len(list(job.store.glob("a.*.packs/*.parquet"))) == 1
    assert not any(path.exists() for path in job.outputs)

    planted = {"HF_TOKEN": "hf_planted", "HF_TOKEN_PATH": "/secret", "WANDB_API_KEY": "planted"}
    status, said = job.run(**planted)
    assert status == 0
    assert not {"HF_TOKEN", "WANDB_API_KEY"} & set(said["names"])  # type: ignore[call-overload]
    facts = job.facts("a")
    assert 3 == facts["packs_found"] < facts["packs"]
    assert facts["packs_found"] + facts["packs_scored"] == facts["packs"]
    assert job.facts("b")["packs_found"] == 0
    whole = [job_of(plan, job.folder / "whole") for plan in job.plans]
    score_tasks(whole, lambda: Scorer(load_model(job.model, dtype="float32", device="cpu")))
    for one, path in zip(whole, job.outputs, strict=True):
        assert read_scores(path)[0].equals(read_scores(one.store.finished)[0])
    assert "scored " in job.log.read_text()
    assert "; b (2 of 2 tasks), peak memory 0." in job.log.read_text()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_freed_memory_and_imports_stay(job: Job) -> None:
    status, said = job.run()
    assert status == 0
    # A block may find its place taken by something small, and go to another one once.
    assert int(str(said["found_anew"])) < 200_000_000
    assert int(str(said["frozen"])) > 100_000
    assert said["never_used"] == []


def test_a_twin_loads_nothing_and_publishes_what_the_other_scored(job: Job) -> None:
    with contextlib.ExitStack() as stack:
        with claimed(job.store):
            process = stack.enter_context(job.start())
            stack.callback(process.kill)
            job.wait_for("waiting for process", process)
            score_tasks(
                job.jobs, lambda: Scorer(load_model(job.model, dtype="float32", device="cpu"))
            )
            assert process.poll() is None
            assert not any(path.exists() for path in job.outputs)
        printed, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert json.loads(printed)["torch"] is False
    assert f"waiting for process {os.getpid()} on " in job.log.read_text()
    assert "published 2 tasks" in job.log.read_text()
    for one, path in zip(job.jobs, job.outputs, strict=True):
        assert path.read_bytes() == one.store.finished.read_bytes()


def test_a_failure_for_good_ends_the_next_try_before_torch_is_loaded(tmp_path: Path) -> None:
    job = Job(tmp_path, spoilt=True)
    status, said = job.run()
    assert (status, said["torch"]) == (1, True)
    assert "is nan" in job.log.read_text()
    status, said = job.run()
    assert (status, said["torch"]) == (1, False)
    log = job.log.read_text()
    assert "task a: failed before, and nothing that it depends on has changed" in log
    assert "Traceback" not in log
    assert not (job.store / CLAIM).exists()


def test_a_folder_that_gave_its_weights_up_changes_nothing_of_why_it_failed(tmp_path: Path) -> None:
    """The retry of a job that failed for good finds the list of files and nothing else."""
    job = Job(tmp_path, spoilt=True)
    assert job.run()[0] == 1
    shutil.copy(job.manifest, job.model / MANIFEST)
    empty_folder(job.model)
    job.log.unlink()
    status, said = job.run()
    assert (status, said["torch"]) == (1, False)
    assert "task a: failed before, and nothing that it" in job.log.read_text()
    assert all("is nan" in path.read_text() for path in job.store.glob("*.failed"))


def test_weights_that_went_before_they_were_scored_leave_no_failure_for_good(job: Job) -> None:
    copy = shutil.copytree(job.model, job.folder / "copy")
    (job.model / "model.safetensors").unlink()
    status, said = job.run()
    assert (status, said["torch"]) == (1, False)
    missing = f"{job.model}: model.safetensors missing or not as listed in {job.manifest}. Delete "
    assert missing in job.log.read_text()
    assert [path for path in job.store.rglob("*") if path.is_file()] == []
    shutil.copy(copy / "model.safetensors", job.model)
    assert job.run()[0] == 0


@pytest.mark.parametrize("cut", [True, False])
def test_weights_that_were_exchanged_since_they_were_listed_are_not_scored(
    job: Job, cut: bool
) -> None:
    """Of the same size and older than the list: their date says nothing."""
    copy = shutil.copytree(job.model, job.folder / "copy")
    weights = job.model / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-8:] = b"" if cut else b"\0" * 8
    (job.folder / "other").write_bytes(content)
    os.utime(job.folder / "other", (1, 1))
    (job.folder / "other").replace(weights)
    status, said = job.run()
    assert (status, said["torch"]) == (1, False)
    assert "model.safetensors missing or not as listed" in job.log.read_text()
    assert [path for path in job.store.rglob("*") if path.is_file()] == []
    shutil.copy(copy / "model.safetensors", job.model)  # younger than the list, and right
    assert job.run()[0] == 0


def test_nothing_is_stored_once_the_weights_have_changed(job: Job) -> None:
    """On a CPU the file is mapped: what is copied over it is what is scored from then on."""
    with job.start(pause=0.05, waits=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "three packs\n"
            os.utime(job.model / "model.safetensors")
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)
        finally:
            process.kill()
    assert "model.safetensors changed while scores were computed from it" in job.log.read_text()
    assert [path for path in job.store.rglob("*") if path.is_file()] == []


def test_a_tokenizer_that_was_put_back_is_tried_though_no_list_says_so(job: Job) -> None:
    (job.model / "tokenizer.json").rename(job.folder / "tokenizer.json")
    assert job.run()[0] == 1
    assert "holds no tokenizer" in job.log.read_text()
    (job.folder / "tokenizer.json").rename(job.model / "tokenizer.json")
    os.utime(job.model / "tokenizer.json")
    assert job.run()[0] == 0


def test_what_is_stored_is_published_though_its_weights_go_meanwhile(job: Job) -> None:
    assert job.run()[0] == 0
    for output in job.outputs:
        output.unlink()
    status, said = job.run(weights_go="before")
    assert (status, said["torch"]) == (0, False)
    assert not (job.model / "model.safetensors").exists()
    assert all(output.is_file() for output in job.outputs)


def test_what_has_been_scored_is_published_though_its_weights_go_then(job: Job) -> None:
    """Another run gives them up as soon as the store has all scores."""
    assert job.run(weights_go="after")[0] == 0
    assert not (job.model / "model.safetensors").exists()
    assert all(output.is_file() for output in job.outputs)


def test_a_file_of_another_size_is_found_though_the_list_was_touched(job: Job) -> None:
    os.truncate(job.model / "model.safetensors", 1000)
    os.utime(job.manifest, (4e9, 4e9))
    status, said = job.run()
    assert (status, said["torch"]) == (1, False)
    assert "model.safetensors missing or not as listed" in job.log.read_text()


def test_half_of_a_list_is_said_in_a_sentence(job: Job) -> None:
    job.manifest.write_text("file\tbytes\nmodel.safetensors\n")
    assert job.run()[0] == 1
    assert f"{job.manifest}: is no list of files. Delete" in job.log.read_text()


def test_a_list_of_no_weights_is_refused_before_anything_is_loaded(job: Job) -> None:
    job.manifest.write_text("file\tbytes\tdigest\n")
    status, said = job.run()
    assert (status, said["torch"]) == (1, False)
    assert f"{job.manifest}: lists no weights. Delete" in job.log.read_text()


def test_a_list_that_went_is_said_in_a_sentence(job: Job) -> None:
    job.manifest.unlink()
    assert job.run()[0] == 1
    assert job.log.read_text().endswith(f"{job.manifest}: is gone. Run again.\n")


def test_a_full_disk_is_said_in_a_sentence_and_leaves_nothing_half_written(job: Job) -> None:
    status, _ = job.run(largest_file=1500)
    log = job.log.read_text()
    assert status == 1
    assert "cannot be written, the disk or its quota is full" in log
    assert "Make room and run again" in log
    assert "Traceback" not in log
    assert [path for path in job.store.rglob("*") if path.is_file()] == []
    assert job.run()[0] == 0


def test_who_lost_the_claim_writes_nothing(job: Job) -> None:
    def lost() -> None:
        raise ClaimLost("another process has taken over")

    plan = job.plans[0]
    store = TaskStore(job.store, "a", "identity", confirm=lost)
    scorer = Scorer(load_model(job.model, dtype="float32", device="cpu"))
    with pytest.raises(ClaimLost):
        score_tasks([TaskJob(plan, store, "{}")], lambda: scorer, save_every=0)
    with pytest.raises(ClaimLost):
        store.fail("nan")
    with pytest.raises(ClaimLost):
        store.publish(job.outputs[0])
    assert not job.store.exists()
    assert not job.outputs[0].parent.exists()


def test_the_first_error_is_told_when_saving_fails_too(
    job: Job, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (one, _) = job.jobs

    def full(*_: object) -> None:
        raise StudyError("cannot be written, the disk is full")

    monkeypatch.setattr(TaskStore, "save_packs", full)
    monkeypatch.setattr(TaskStore, "finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    scorer = Scorer(load_model(job.model, dtype="float32", device="cpu"))
    with pytest.raises(KeyboardInterrupt), torch.inference_mode():
        score_tasks([one], lambda: scorer)
    assert f"{len(one.plan.packs)} packs are not saved: cannot be written" in caplog.text
