"""`snakemake --profile slurm` on a real SLURM cluster: what was submitted, asked for and kept.

The profile's first block is filled in, in a copy of the repository, as its user would do; that
copy is also a study of its own, so that the bare command has something to run. The tests of the
demo study run the whole of the workflow on the same cluster; here it ends at the cells.
"""

from __future__ import annotations

import base64
import contextlib
import os
import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import pytest
from test_contract import edit, packs_scored

from cluster import Cluster, Job
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
    task_row,
    write_config,
    write_tsv_rows,
)

pytestmark = [pytest.mark.slow, pytest.mark.slurm]

TOKEN, SECRET = "hf_planted_token_9f27", "planted_secret_b41c"
PLANTED = {"HF_TOKEN": TOKEN, "MY_STORAGE_PASSWORD": SECRET, "AWS_ACCESS_KEY_ID": SECRET}
CELLS = "results/cells.tsv"


def filled_in(root: Path, **site: str) -> Path:
    """A copy of the repository whose SLURM profile knows the toy cluster's site facts."""
    root.mkdir()
    for name in ("Snakefile", "rules", "scripts", "envs", "profiles", "config", "slurm"):
        source = ROOT / name
        if source.is_dir() and not source.is_symlink():
            shutil.copytree(source, root / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, root / name, follow_symlinks=False)
    profile = root / "profiles/slurm/profile.yaml"
    edit(profile, "# slurm_partition: cpu ", "slurm_partition: cpu ")
    edit(profile, "# slurm_partition: gpu ", "slurm_partition: gpu ")
    edit(profile, "# gpu_model: a100 ", "gpu_model: fake ")
    for before, after in site.items():
        edit(profile, before, after)
    return root


def snakemake_slurm(
    cluster: Cluster,
    root: Path,
    *arguments: str,
    check: bool = True,
    seconds: float = 900,
    **env: str,
) -> str:
    """Type `snakemake --profile slurm` and `arguments` in `root`; returns what was printed.

    SLURM is asked for the first time when a job of some 9 s has ended on a machine as busy as
    this one: a look too early puts off the next one. Snakemake can wait for ever where SLURM
    stops answering, so `seconds` end it.
    """
    command = ["snakemake", "--profile", "slurm", *arguments]
    first_look = min(30, round(10 * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))))
    with subprocess.Popen(
        [*command, "--slurm-init-seconds-before-status-checks", str(first_look)],
        cwd=root,
        env={**os.environ, "OMP_NUM_THREADS": "1", **cluster.env, **env},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        try:
            printed, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            printed, _ = process.communicate()
            raise AssertionError(
                f"{' '.join(command)}: no end after {seconds:.0f} s\n{printed[-6000:]}"
            ) from None
    if check and process.returncode:
        raise AssertionError(f"{' '.join(command)} failed:\n{printed[-9000:]}")
    return printed


class Environments:
    """While a `with` block runs, the environments in which a study's scripts were started."""

    def __init__(self, study: Path) -> None:
        self.study = study.resolve()
        self.of: dict[str, list[dict[str, str]]] = {}
        """By the script's name, as /proc shows them: what a process inherited."""
        self._seen: set[int] = set()
        self._over = threading.Event()

    def __enter__(self) -> Environments:
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.3):
            for place in Path("/proc").glob("[0-9]*"):
                if int(place.name) not in self._seen:
                    with contextlib.suppress(OSError):
                        self._look(place)

    def _look(self, place: Path) -> None:
        arguments = (place / "cmdline").read_bytes().decode(errors="replace").split("\0")
        scripts = [Path(name).name for name in arguments if name.endswith(".py")]
        if not scripts or (place / "cwd").readlink() != self.study:
            return
        entries = (place / "environ").read_bytes().decode(errors="replace").split("\0")
        self._seen.add(int(place.name))
        script = scripts[-1].split(".", 1)[-1]
        self.of.setdefault(script, []).append(dict(e.split("=", 1) for e in entries if "=" in e))


@dataclass
class Step:
    """One Snakemake run of the story: what it submitted, computed and printed."""

    submitted: list[Job]
    packs: Counter[str]
    """Packs scored in this run, by task."""
    printed: str
    cells: str
    environments: dict[str, list[dict[str, str]]] = field(default_factory=dict)

    @property
    def rules(self) -> Counter[str]:
        return Counter(job.rule for job in self.submitted)


@dataclass
class Story:
    """A study on the cluster: made, then with a checkpoint more, a task more, a checkpoint less."""

    study: Path
    made: Step
    checkpoint: Step
    task: Step
    removed: Step
    store: dict[str, dict[Path, int]]
    """Dates of the scored files before and after the new task."""


def write_tables(study: Path, steps: tuple[int, ...], tasks: dict[str, int]) -> None:
    """The tables of a study of one size; `tasks` maps a name to its items."""
    (study / "config").mkdir(exist_ok=True)
    datasets = [add_dataset(study, f"tiny-{t}", prize_lines(n, t)) for t, n in tasks.items()]
    write_tsv_rows(study / "config/datasets.tsv", DATASET_COLUMNS, datasets)
    write_tsv_rows(study / "config/tasks.tsv", TASK_COLUMNS, [task_row(task) for task in tasks])
    rows = [checkpoint_row(8, step) for step in steps]
    write_tsv_rows(study / "config/checkpoints.tsv", COLUMNS, rows)
    write_config(study, list(tasks))
    for step in steps:
        if not (study / f"models/w8-s{step}").exists():
            make_model(study / f"models/w8-s{step}", seed=step, width=8)


@pytest.fixture(scope="module")
def story(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Story:
    root = filled_in(tmp_path_factory.mktemp("site") / "downslope")
    study = tmp_path_factory.mktemp("elsewhere") / "study"
    make_tokenizer(root / "tokenizer")

    def run(place: Path, *arguments: str) -> Step:
        known, packs = len(cluster.jobs()), packs_scored(place)
        with Environments(place) as environments:
            printed = snakemake_slurm(cluster, root, *arguments, CELLS, **PLANTED)
        return Step(
            submitted=cluster.jobs()[known:],
            packs=packs_scored(place) - packs,
            printed=printed,
            cells=(place / "results/cells.tsv").read_text(),
            environments=environments.of,
        )

    write_tables(root, (1, 2, 4), {"alpha": 12})
    made = run(root)

    # The study moves out of the repository, dates and records included.
    parts = (".snakemake", "config", "data", "models", "tokenizer", "resources", "results", "logs")
    for name in parts:
        shutil.copytree(root / name, study / name)
    elsewhere = ("--directory", str(study))
    write_tables(study, (1, 2, 4, 8), {"alpha": 12})
    checkpoint = run(study, *elsewhere)

    before = dates(study)
    write_tables(study, (1, 2, 4, 8), {"alpha": 12, "beta": 8})
    task = run(study, *elsewhere)
    after = dates(study)

    write_tables(study, (1, 2, 4), {"alpha": 12, "beta": 8})
    removed = run(study, *elsewhere)
    return Story(study, made, checkpoint, task, removed, store={"before": before, "after": after})


def dates(study: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in study.glob("resources/scored/*/*.parquet")}


def gpus_asked_for(jobs: list[Job]) -> set[tuple[str, int, str]]:
    """Rule, number of GPUs and partition of the jobs that asked for any, or should have."""
    return {(job.rule, job.gpus, job.partition) for job in jobs if job.gpus or job.rule == "score"}


def started_at(job: Job) -> datetime:
    assert job.started is not None, job
    return job.started


def ended_at(job: Job) -> datetime:
    assert job.ended is not None, job
    return job.ended


def most_gpus_at_once(jobs: list[Job]) -> int:
    """The most GPUs in use together; a job that ends in the second another starts is over."""
    changes = [(started_at(job), job.gpus) for job in jobs]
    changes += [(ended_at(job), -job.gpus) for job in jobs]
    most = now = 0
    for _, gpus in sorted(changes):
        now += gpus
        most = max(most, now)
    return most


def test_the_bare_command_scores_a_study(story: Story) -> None:
    assert story.made.rules == {
        "make_items": 1, "make_plan": 1, "score": 3, "score_cells": 1,
    }  # fmt: skip
    assert {job.state for job in story.made.submitted} == {"COMPLETED"}
    _, *cells = story.made.cells.splitlines()
    assert {cell.split("\t")[0] for cell in cells} == {"w8-s1", "w8-s2", "w8-s4"}


def test_scoring_jobs_ask_for_a_gpu_and_no_others_do(story: Story, cluster: Cluster) -> None:
    jobs = [*story.made.submitted, *story.task.submitted]
    assert gpus_asked_for(jobs) == {("score", 1, "gpu")}
    assert {job.partition for job in jobs if job.rule != "score"} == {"cpu"}
    assert "gres:gpu:fake:1" in cluster.scontrol("show", "job", str(story.made.submitted[2].id))


def test_never_more_than_two_gpus_at_once(story: Story) -> None:
    scored = [job for job in story.made.submitted if job.rule == "score"]
    assert max(map(started_at, scored)) >= min(map(ended_at, scored)), "the third one waited"
    assert most_gpus_at_once(scored) == 2


def test_a_new_checkpoint_is_one_scoring_job(story: Story) -> None:
    assert story.checkpoint.rules == {"score": 1, "score_cells": 1}
    (job,) = (job for job in story.checkpoint.submitted if job.rule == "score")
    assert job.wildcards == "w8-s8"
    assert Path(job.workdir) == Path(story.study.resolve())


def test_a_new_task_is_scored_alone_and_each_checkpoint_loaded_once(story: Story) -> None:
    assert story.task.rules["score"] == 4
    assert story.task.rules["make_items"] == story.task.rules["make_plan"] == 1
    assert set(story.task.packs) == {"beta"}
    for path, date in story.store["before"].items():
        assert story.store["after"][path] == date, f"{path} was scored again"
    new = set(story.store["after"]) - set(story.store["before"])
    assert sorted(path.parent.name for path in new) == ["w8-s1", "w8-s2", "w8-s4", "w8-s8"]
    assert all(path.name.startswith("beta.") for path in new)


def test_a_removed_checkpoint_costs_only_the_aggregates(story: Story) -> None:
    assert set(story.removed.rules) == {"score_cells"}
    assert not story.removed.packs
    kept = [line for line in story.task.cells.splitlines() if not line.startswith("w8-s8\t")]
    assert story.removed.cells.splitlines() == kept


def test_submitted_jobs_have_no_secret_and_no_network(story: Story) -> None:
    started = story.made.environments
    assert len(started["score_checkpoint.py"]) >= 3
    for script in ("score_checkpoint.py", "make_plan.py", "score_cells.py"):
        for environment in started[script]:
            assert environment.get("SLURM_JOB_ID"), f"{script} ran outside of SLURM"
            assert environment["HF_HUB_OFFLINE"] == "1"
            assert not {TOKEN, SECRET} & set(environment.values()), script
    for environment in started["fingerprint_folder.py"]:
        assert environment["HF_TOKEN"] == TOKEN, "local jobs, downloads among them, keep theirs"


def test_a_planted_secret_is_written_nowhere(story: Story, cluster: Cluster) -> None:
    wanted = [
        form
        for secret in (TOKEN, SECRET)
        for form in (secret.encode(), *base64_forms(secret.encode()))
    ]
    looked_at = Counter[str]()
    for folder in (story.study, cluster.folder / "log"):
        for path in folder.rglob("*"):
            if path.is_file():
                content = path.read_bytes()
                assert not [form for form in wanted if form in content], f"a secret lies in {path}"
                looked_at[path.suffix or path.parent.name] += 1
    assert looked_at[".parquet"]
    assert looked_at[".tsv"]
    assert looked_at["metadata"]
    for step in (story.made, story.checkpoint, story.task, story.removed):
        assert TOKEN not in step.printed
        assert SECRET not in step.printed


def base64_forms(secret: bytes) -> list[bytes]:
    """What base64 makes of a secret at each of the three places it can start at."""
    return [base64.b64encode(b"x" * shift + secret)[4:-4] for shift in range(3)]


def test_the_local_profile_needs_no_cluster(tmp_path: Path) -> None:
    write_tables(tmp_path, (1,), {"alpha": 3})
    make_tokenizer(tmp_path / "tokenizer")
    place = ("--directory", str(tmp_path), "resources/fingerprints/w8-s1.tsv")
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--profile", "profiles/local", *place],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert 'gpu=Resource("gpu", 1)' in done.stdout
    assert 'fetch=Resource("fetch", 1)' in done.stdout


@pytest.fixture(scope="module")
def accounted(
    start_cluster: Callable[..., Cluster], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Cluster, Path]:
    """A cluster with an accounting database, and a site whose profile asks it."""
    root = filled_in(
        tmp_path_factory.mktemp("accounted") / "downslope",
        **{
            "# slurm_account: myproject ": "slurm_account: toy ",
            "slurm-status-command: squeue": "slurm-status-command: sacct",
        },
    )
    return start_cluster(accounting=True), root


def test_with_accounting_and_a_job_that_fails(
    accounted: tuple[Cluster, Path], story: Story
) -> None:
    """One sound checkpoint more, and one whose weights are not numbers."""
    import torch
    from safetensors.torch import load_file, save_file

    cluster, root = accounted
    study = root.parent / "study"
    shutil.copytree(story.study, study)
    write_tables(study, (1, 2, 4, 8, 16), {"alpha": 12, "beta": 8})
    weights = study / "models/w8-s16/model.safetensors"
    broken = {name: torch.full_like(value, torch.nan) for name, value in load_file(weights).items()}
    save_file(broken, weights, metadata={"format": "pt"})
    for path in study.glob("res*/scor*/w8-s8"):
        shutil.rmtree(path)
    printed = snakemake_slurm(
        cluster, root, "--directory", str(study), "--retries", "0", CELLS, check=False
    )
    listed = cluster.sacct("-X", "-n", "-P", "-o", "JobID,Comment,State,Account,ReqTRES")
    by_comment = {line.split("|")[1]: line.split("|") for line in listed.splitlines()}
    sound, failed = (by_comment[f"rule_score_wildcards_w8-s{step}"] for step in (8, 16))
    assert (sound[2], failed[2]) == ("COMPLETED", "FAILED")
    assert sound[3] == "toy"
    assert "gres/gpu=1" in sound[4]
    assert (study / "results/scores/w8-s8/beta.parquet").exists()

    message = printed[printed.index("Error in rule score") :]
    assert "log: logs/score/w8-s16.log" in message
    assert f"slurm_logs/rule_score/w8-s16/{failed[0]}.log" in message
    last = (study / "logs/score/w8-s16.log").read_text().splitlines()[-1]
    assert last in message, "the message ends with the log's last lines"
