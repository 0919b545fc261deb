"""`make status`: every state is told from files and SLURM, whatever else is going on."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from test_scoring import plan_of

from downslope.claim import claimed
from downslope.identity import SCORING_MODULES, model_digest, modules_digest, score_identity
from downslope.lock import COLUMNS as LOCK_COLUMNS
from downslope.plan import write_plan
from downslope.sizes import size_name
from downslope.slurm_queue import Submitted, submitted
from downslope.status import StudyStatus
from downslope.status_page import status_page, status_table
from downslope.store import TaskStore
from downslope.study import load_study
from tiny_study import (
    COLUMNS,
    DATASET_COLUMNS,
    ROOT,
    TASK_COLUMNS,
    add_dataset,
    checkpoint_row,
    prize_lines,
    task_row,
    write_config,
    write_tsv_rows,
)

DIGEST = "sha256:" + "0" * 63
LOCAL = [checkpoint_row(8, step) for step in (1, 2, 3, 4, 5, 6)]
HUB = [
    checkpoint_row(16, step, source="hub:lab/tiny", revision=f"step{step}") for step in (1, 2, 3, 4)
]
BAD = checkpoint_row(16, 5, known_bad="serves other weights")


def make_tables(study: Path, rows: list[dict[str, object]], tasks: list[str]) -> None:
    """A study's tables, its lock, and lists of its local files: all that status needs to know."""
    (study / "config").mkdir(parents=True)
    datasets = [add_dataset(study, f"tiny-{task}", prize_lines(2, task)) for task in tasks]
    write_tsv_rows(study / "config/datasets.tsv", DATASET_COLUMNS, datasets)
    write_tsv_rows(study / "config/tasks.tsv", TASK_COLUMNS, [task_row(task) for task in tasks])
    write_tsv_rows(study / "config/checkpoints.tsv", COLUMNS, rows)
    write_config(study, tasks)
    locked = []
    for number, row in enumerate(rows):
        common = {"ckpt": row["ckpt"], "source": row["source"], "revision": row.get("revision")}
        if str(row["source"]).startswith("hub:"):
            commit = {"commit": f"{number:040x}", "bytes": 2000}
            locked += [
                {**common, **commit, "file": "config.json", "digest": f"{DIGEST}{1}"},
                {**common, **commit, "file": "model.safetensors", "digest": digest_of(number)},
            ]
        else:
            place = study / f"resources/fingerprints/{row['ckpt']}.tsv"
            place.parent.mkdir(parents=True, exist_ok=True)
            file = {"file": "model.safetensors", "bytes": 1, "digest": digest_of(number)}
            write_tsv_rows(place, ["file", "bytes", "digest"], [file])
    write_tsv_rows(study / "config/checkpoints.lock.tsv", LOCK_COLUMNS, locked)


def digest_of(number: int) -> str:
    return f"sha256:{number:064x}"


class Known:
    """The stores of a study's checkpoints, computed without the code under test."""

    def __init__(self, study: Path, rows: list[dict[str, object]], plans: dict[str, str]) -> None:
        self.study, self.rows, self.plans = study, rows, plans
        self.modules = modules_digest(SCORING_MODULES)

    def store(self, ckpt: str, task: str) -> TaskStore:
        (number,) = (k for k, row in enumerate(self.rows) if row["ckpt"] == ckpt)
        files = [("model.safetensors", digest_of(number))]
        if str(self.rows[number]["source"]).startswith("hub:"):
            files.append(("config.json", f"{DIGEST}{1}"))
        identity, _ = score_identity(
            plan=self.plans[task],
            weights=model_digest(files),
            dtype="float32",
            modules=self.modules,
        )
        return TaskStore(self.study / "resources/scored" / ckpt, task, identity)

    def score(self, ckpt: str, task: str) -> None:
        path = self.store(ckpt, task).finished
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    def shard(self, ckpt: str, task: str, name: str) -> None:
        finished = self.store(ckpt, task).finished
        place = finished.with_name(finished.stem + ".packs")
        place.mkdir(parents=True, exist_ok=True)
        (place / name).touch()


@pytest.fixture(scope="module")
def place(byte_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A study with a checkpoint in each state; its claims are held by this very process."""
    study = tmp_path_factory.mktemp("status") / "study"
    rows = [*LOCAL, *HUB, BAD]
    make_tables(study, rows, ["alpha", "beta"])
    plans = {task: plan_of(byte_tokenizer, task, 30) for task in ("alpha", "beta")}
    for task, plan in plans.items():
        write_plan(plan, study / f"resources/plans/bytes/{task}.safetensors")
    known = Known(study, rows, {task: plan.digest for task, plan in plans.items()})
    for ckpt in ("w8-s1", "w16-s4"):
        known.score(ckpt, "alpha")
        known.score(ckpt, "beta")
    for ckpt in ("w8-s2", "w8-s3", "w8-s4"):
        known.score(ckpt, "alpha")
    known.shard("w8-s2", "beta", "000000-000001.parquet")
    known.shard("w8-s3", "beta", "000000-000000.parquet")
    known.store("w8-s4", "beta").fail("log-likelihood of item 7 is nan")
    logs = study / "logs/score"
    logs.mkdir(parents=True)
    (logs / "w8-s2.log").write_text(
        "10:00:00 scored 5 of 9 tokens (55%), 8200.0/s, 12 min left; beta (1 of 1 tasks), peak "
        "memory 0.5 GB\n"
    )
    (logs / "w8-s4.log").write_text("10:00:00 task beta: log-likelihood of item 7 is nan\n")
    fetch = study / "logs/fetch"
    fetch.mkdir()
    (fetch / "w16-s2.log").write_text(
        "10:00:00 waiting for disk: w16-s2 needs 4.0 kB, and 2.0 kB are lacking\n"
        "  resources/weights/w16-s1: 4.0 kB, waits to be scored\n"
    )
    (study / "resources/weights").mkdir()
    (study / "resources/weights/w16-s3.failed").write_text("HTTP status 403\n")
    killed = subprocess.Popen(
        [sys.executable, "-c", "import sys, time; from pathlib import Path\n"
         "from downslope.claim import claimed\n"
         "with claimed(Path(sys.argv[1])): print('in', flush=True); time.sleep(60)",
         str(study / "resources/scored/w8-s3")],
        env={**os.environ, "PYTHONPATH": str(ROOT / "scripts")}, stdout=subprocess.PIPE,
    )  # fmt: skip
    with killed, ExitStack() as stack:
        assert killed.stdout is not None
        assert killed.stdout.readline() == b"in\n"
        killed.kill()
        killed.wait()
        for folder in ("scored/w8-s2", "weights/w16-s1", "weights/w16-s2"):
            stack.enter_context(claimed(study / "resources" / folder))
        (study / "resources/weights/w16-s1/model.safetensors").write_bytes(b"x" * 1000)
        yield study


@pytest.fixture(scope="module")
def status(place: Path) -> StudyStatus:
    queued = Submitted("55", "score", "w8-s5", "PENDING", "Priority")
    return StudyStatus(load_study(place), [queued])


def test_each_state_is_told_with_its_reason(status: StudyStatus) -> None:
    found = {standing.row.ckpt: standing for standing in status.standings()}
    assert {ckpt: standing.state for ckpt, standing in found.items()} == {
        "w8-s1": "done",
        "w8-s2": "running",
        "w8-s3": "stopped",
        "w8-s4": "failed",
        "w8-s5": "queued",
        "w8-s6": "waiting",
        "w16-s1": "fetching",
        "w16-s2": "waiting for disk",
        "w16-s3": "failed",
        "w16-s4": "done",
        "w16-s5": "excluded",
    }
    told = {ckpt: standing.detail for ckpt, standing in found.items()}
    packs = found["w8-s2"].tasks[1].packs
    share = f"{100 * (packs + 2) / (2 * packs):.0f}% of {2 * packs} packs"
    assert told["w8-s2"].startswith(f"{share}; 8,200 tokens/s, 12 min left; process {os.getpid()}")
    assert "sign of life" in told["w8-s2"]
    assert "has ended, the next job takes over" in told["w8-s3"]
    assert told["w8-s4"] == "beta: log-likelihood of item 7 is nan"
    assert found["w8-s4"].log == "logs/score/w8-s4.log"
    assert told["w8-s5"] == "SLURM job 55 (Priority)"
    assert told["w16-s1"].startswith("1.")
    assert " kB of 4.0 kB; process " in told["w16-s1"]
    assert told["w16-s2"] == "w16-s2 needs 4.0 kB, and 2.0 kB are lacking"
    assert found["w16-s2"].log == "logs/fetch/w16-s2.log"
    assert told["w16-s3"] == "download: HTTP status 403"
    assert told["w16-s5"] == "serves other weights"


def test_the_page_counts_and_names_what_is_neither_done_nor_waiting(status: StudyStatus) -> None:
    page = status_page("A study", status.tasks, status.standings())
    lines = page.splitlines()
    assert lines[0] == "A study: 11 checkpoints x 2 tasks"
    assert lines[1] == "scores       7 of 20 (35.0%)"
    assert lines[2] == (
        "checkpoints  2 done, 1 running, 1 fetching, 1 waiting for disk, 1 queued, 2 failed, "
        "1 stopped, 1 waiting, 1 excluded"
    )
    assert "tiny 8k             6     1        3       1  6!" in page
    assert "tiny 16k            5     1        2       1  22" in page
    assert "tasks, from left to right: alpha, beta" in page
    for ckpt in ("w8-s1", "w8-s6", "w16-s4", "w16-s5"):
        assert f"{ckpt} " not in page
    every = status_page("A study", status.tasks, status.standings(), every=True)
    assert "w8-s2   #+  running\n" in every
    assert "w8-s4   #!  failed\n" in every
    assert "w16-s5  xx  excluded\n" in every


def test_the_table_has_a_row_for_every_checkpoint_and_task(status: StudyStatus) -> None:
    table = status_table(status.standings())
    assert len(table) == 22
    row = table[(table["ckpt"] == "w8-s2") & (table["task"] == "beta")].iloc[0]
    assert (row["state"], row["packs_done"], row["checkpoint_state"]) == ("part", 2, "running")


def test_scores_of_other_code_are_not_there_yet(place: Path, status: StudyStatus) -> None:
    published = place / "results/scores/w8-s6/alpha.parquet"
    published.parent.mkdir(parents=True)
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"x": [1]}), published)
    page = status_page("A study", status.tasks, status.standings())
    published.unlink()
    assert "scores       7 of 20 (35.0%); 1 are there from other plans, weights or code" in page


def test_the_script_prints_page_and_table(place: Path) -> None:
    command = [sys.executable, str(ROOT / "scripts/show_status.py"), str(place)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "\nrunning\n  w8-s2" in done.stdout
    done = subprocess.run([*command, "--tsv"], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[0].startswith("ckpt\ttask\tstate\t")
    done = subprocess.run([*command[:2], str(place / "nowhere")], capture_output=True, text=True)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


def test_a_table_stays_a_table_when_slurm_does_not_answer(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    squeue = tmp_path / "bin/squeue"
    squeue.parent.mkdir()
    squeue.write_text("#!/bin/sh\necho 'slurm_load_jobs error: down' >&2; exit 1\n")
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{squeue.parent}{os.pathsep}{os.environ['PATH']}")
    command = [sys.executable, str(ROOT / "scripts/show_status.py"), str(place)]
    page, table = (
        subprocess.run([*command, *more], capture_output=True, text=True, check=True)
        for more in ([], ["--tsv"])
    )
    said = "SLURM does not answer (slurm_load_jobs error: down)"
    assert said in page.stdout
    assert said in table.stderr
    assert "SLURM" not in table.stdout


def test_slurm_is_asked_for_this_studys_jobs_and_never_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    squeue = tmp_path / "bin/squeue"
    squeue.parent.mkdir()
    monkeypatch.setenv("PATH", f"{squeue.parent}{os.pathsep}{os.environ['PATH']}")
    study = tmp_path / "study"
    lines = [
        f"7|PENDING|Resources|{study}|rule_score_wildcards_w8-s1",
        "8|RUNNING|None|/elsewhere|rule_score_wildcards_w8-s2",
        f"9|RUNNING|None|{study}|(null)",
        f"10|RUNNING|None|{study}|rule_cells",
    ]
    squeue.write_text("#!/bin/sh\ncat <<'END'\n" + "\n".join(lines) + "\nEND\n")
    squeue.chmod(0o755)
    assert submitted(study) == (
        [
            Submitted("7", "score", "w8-s1", "PENDING", "Resources"),
            Submitted("10", "cells", "", "RUNNING", "None"),
        ],
        "",
    )
    squeue.write_text("#!/bin/sh\necho 'slurm_load_jobs error: Unable to contact' >&2; exit 1\n")
    assert submitted(study)[1].startswith("SLURM does not answer (slurm_load_jobs error")
    squeue.write_text(
        "#!/bin/sh\necho fatal: Could not establish a configuration source >&2; exit 1\n"
    )
    assert submitted(study) == ([], ""), "its programs are there, and no cluster"
    squeue.write_text("#!/bin/sh\nexec sleep 30\n")
    begun = time.monotonic()
    assert "took more than 1 s" in submitted(study, patience=1.0)[1]
    assert time.monotonic() - begun < 29
    monkeypatch.setenv("PATH", "/nowhere")
    assert submitted(study) == ([], "")


def test_sizes_are_said_as_people_say_them() -> None:
    said = {
        70426624: "70.4M", 1414647808: "1.41B", 11846072320: "11.8B", 25472: "25.5k", 12: "12",
        999_499_999: "999M", 999_600_000: "1B", 999_600: "1M", 999: "999",
        1_200_000_000_000: "1.2T",
    }  # fmt: skip
    assert {n: size_name(n) for n in said} == said


@pytest.mark.slow
def test_a_large_study_is_told_in_seconds_on_one_screen(
    byte_tokenizer: Path, tmp_path: Path
) -> None:
    """1,232 checkpoints x 12 tasks, most of them scored."""
    study, tasks = tmp_path / "study", [f"task{k:02d}" for k in range(12)]
    rows = [
        checkpoint_row(
            width, step, source=f"hub:lab/tiny-{width}", revision=f"step{step}",
            parameters=width * 10**7,
        )
        for width in (7, 16, 41, 101, 140, 280, 690, 1180)
        for step in range(1, 155)
    ]  # fmt: skip
    make_tables(study, rows, tasks)
    plans = {}
    for task in tasks:
        plan = plan_of(byte_tokenizer, task, 3)
        write_plan(plan, study / f"resources/plans/bytes/{task}.safetensors")
        plans[task] = plan.digest
    known = Known(study, rows, plans)
    for row in rows[:1100]:
        for task in tasks:
            known.score(str(row["ckpt"]), task)
    begun = time.monotonic()
    before = os.times()
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts/show_status.py"), str(study)],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    after = os.times()
    seconds = after.children_user + after.children_system
    seconds -= before.children_user + before.children_system
    print(f"{seconds:.1f} s of CPU, {time.monotonic() - begun:.1f} s")
    assert "scores       13,200 of 14,784 (89.3%)" in done.stdout
    assert len(done.stdout.splitlines()) < 25
    assert max(map(len, done.stdout.splitlines()[:14])) <= 100
    assert seconds < 5


def test_a_fingerprint_may_go_while_it_is_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Snakemake deletes it when it is to be made anew."""
    make_tables(tmp_path / "study", LOCAL[:1], ["alpha"])
    status = StudyStatus(load_study(tmp_path / "study"))
    (tmp_path / "study/resources/fingerprints/w8-s1.tsv").unlink()
    monkeypatch.setattr(Path, "is_file", lambda path: True)
    assert status.identity("w8-s1", "alpha") is None


def test_what_is_no_plan_any_more_does_not_stop_status(tmp_path: Path) -> None:
    """An earlier version's, say: it is made again, and so is what was scored by it."""
    make_tables(tmp_path / "study", LOCAL[:1], ["alpha"])
    plan = tmp_path / "study/resources/plans/bytes/alpha.safetensors"
    plan.parent.mkdir(parents=True)
    plan.write_bytes(b"no plan")
    status = StudyStatus(load_study(tmp_path / "study"))
    assert status.identity("w8-s1", "alpha") is None
