"""Fetching under a disk budget: whose weights are needed, whose are not, and what is left alone."""

from __future__ import annotations

import errno
import functools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest
from huggingface_hub import HfApi

from downslope.claim import CLAIM, PACE, ClaimLost, claimed
from downslope.errors import StudyError
from downslope.failures import failure_reasons, reason_in
from downslope.fetching import RunEnded, fetch_checkpoint, keep_locked
from downslope.held import Held, Holdings, Need
from downslope.hub import fetch
from downslope.identity import SCORING_MODULES, model_digest, modules_digest, score_identity
from downslope.items import parse_items
from downslope.lock import locked_files, locked_records, read_lock
from downslope.plan import make_plan, write_plan
from downslope.plan_list import list_plans
from downslope.process import this_process
from downslope.protocols import PROTOCOLS
from downslope.reclaim import bytes_below, drop_hollow_lists
from downslope.resolve import resolve
from downslope.store import TaskStore
from downslope.study import Study, load_study
from downslope.study_checks import require_within
from downslope.tokenization import FolderTokenizer
from loopback import Answer, Hub
from tiny_study import (
    COLUMNS,
    DATASET_COLUMNS,
    ROOT,
    TASK_COLUMNS,
    add_dataset,
    checkpoint_row,
    make_tokenizer,
    prize_lines,
    task_row,
    write_config,
    write_tsv_rows,
)

REPO = "lab/tiny"
WEIGHTS = 50_000
MODULES = modules_digest(SCORING_MODULES)


@pytest.fixture(scope="module")
def plans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study's config and plans, and nothing fetched or scored."""
    study = tmp_path_factory.mktemp("plans")
    (study / "config").mkdir()
    make_tokenizer(study / "tokenizer")
    encode = FolderTokenizer(study / "tokenizer")
    for name in ("alpha", "beta"):
        add_dataset(study, f"tiny-{name}", prize_lines(3, name))
        items, _ = parse_items(study / f"data/tiny-{name}.jsonl", "prize", 3)
        plan, _ = make_plan(
            name, items, list(PROTOCOLS.values()), encode,
            tokenizer=encode.digest, max_length=256, pack_tokens=128,
        )  # fmt: skip
        write_plan(plan, study / f"resources/plans/bytes/{name}.safetensors")
    datasets = [add_dataset(study, f"tiny-{n}", prize_lines(3, n)) for n in ("alpha", "beta")]
    write_tsv_rows(study / "config/datasets.tsv", DATASET_COLUMNS, datasets)
    write_tsv_rows(study / "config/tasks.tsv", TASK_COLUMNS, [task_row("alpha"), task_row("beta")])
    return study


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A hub with three checkpoints of the study, asked by a client without token and cache."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-token"))
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")
    with Hub() as running:
        here = functools.partial(fetch, endpoint=running.url, pauses=(0, 0))
        monkeypatch.setattr("downslope.fetching.fetch", here)
        for step in (1, 2, 4):
            files = {"config.json": b"{}", "model.safetensors": bytes([step]) * WEIGHTS}
            running.publish(REPO, f"step{step}", files)
        yield running


class Place:
    """A study on disk, and what a test puts there."""

    def __init__(self, folder: Path, hub: Hub) -> None:
        self.folder, self.hub = folder, hub
        self.weights = folder / "resources/weights"
        self.run = "one"
        self.rows: list[dict[str, object]] = [
            checkpoint_row(8, step, source=f"hub:{REPO}", revision=f"step{step}")
            for step in (1, 2, 4)
        ]
        lock, _, failures = resolve(
            [vars(row) for row in self.study().checkpoints], {}, read_lock(folder / "none"),
            HfApi(endpoint=hub.url),
        )  # fmt: skip
        assert not failures
        self.lock = lock

    def study(self, **machine: object) -> Study:
        write_tsv_rows(self.folder / "config/checkpoints.tsv", COLUMNS, self.rows)
        write_config(self.folder, ["alpha", "beta"], **({"machine": machine} if machine else {}))
        return load_study(self.folder)

    def fetch(self, ckpt: str, **machine: object) -> None:
        fetch_checkpoint(ckpt, self.study(**machine), self.lock, self.run)

    def held(self, ckpt: str) -> tuple[Need, str]:
        (found,) = (held for held in self.holdings().look("") if held.path.name == ckpt)
        return found.need, found.why

    def holdings(self) -> Holdings:
        return Holdings(self.study(), self.lock)

    def store(self, ckpt: str, task: str) -> TaskStore:
        from downslope.plan import read_plan

        plan = read_plan(self.folder / f"resources/plans/bytes/{task}.safetensors")
        files = locked_files(self.lock, ckpt)
        weights = model_digest(zip(files["file"], files["digest"], strict=True))
        identity, _ = score_identity(
            plan=plan.digest, weights=weights, dtype="float32", modules=MODULES
        )
        return TaskStore(self.folder / "resources/scored" / ckpt, task, identity)

    def score(self, ckpt: str, *tasks: str) -> None:
        for task in tasks or ("alpha", "beta"):
            path = self.store(ckpt, task).finished
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"scores")

    def sent(self) -> int:
        """Weight files that the hub began to send."""
        return sum(path.startswith("/storage/") for path in self.hub.paths())

    def whole(self) -> set[str]:
        return {path.parent.name for path in self.weights.glob("*/model.safetensors")}


@pytest.fixture
def place(plans: Path, hub: Hub, tmp_path: Path) -> Place:
    shutil.copytree(plans, tmp_path / "study")
    return Place(tmp_path / "study", hub)


ROOM_FOR_TWO = 2.2 * WEIGHTS / 1e9


def test_what_is_needed_and_what_is_not(place: Place) -> None:
    for ckpt in ("w8-s1", "w8-s2", "w8-s4"):
        place.fetch(ckpt)
    assert place.held("w8-s1") == (Need.WAITED_FOR, "waits to be scored")
    place.score("w8-s1", "alpha")
    assert place.held("w8-s1")[0] is Need.WAITED_FOR
    assert "has stopped at 1 of 2 tasks" in place.held("w8-s1")[1]
    packs = place.store("w8-s1", "beta").finished.with_suffix(".packs")
    packs.mkdir()
    for name in ("000000-000002", "000001-000001", "000004-000006"):
        (packs / f"{name}.parquet").touch()
    assert "1 of 2 tasks and 6 packs of the next" in place.held("w8-s1")[1]
    with claimed(place.folder / "resources/scored/w8-s1"):
        assert "is being scored by process" in place.held("w8-s1")[1]
    place.score("w8-s1")
    assert place.held("w8-s1") == (Need.SCORED, "is fully scored")
    with claimed(place.folder / "resources/scored/w8-s1"):
        assert place.held("w8-s1")[0] is Need.WAITED_FOR, "it is being published"

    place.store("w8-s2", "alpha").fail("log-likelihood is nan")
    assert place.held("w8-s2")[0] is Need.FAILED
    with claimed(place.weights / "w8-s2"):
        assert "is being fetched by process" in place.held("w8-s2")[1]
    (place.weights / "w8-s4/model.safetensors").write_bytes(b"half")
    assert place.held("w8-s4")[0] is Need.INCOMPLETE

    (place.weights / ".reclaimed.w8-s9.abc").mkdir()
    assert place.held(".reclaimed.w8-s9.abc") == (
        Need.NOT_OURS,
        "could not be deleted; delete it by hand",
    )

    del place.rows[0]
    place.rows[0]["known_bad"] = "NaN"
    assert place.held("w8-s1") == (Need.LEFT_OUT, "is no longer in the study's tables")
    assert place.held("w8-s2") == (Need.LEFT_OUT, "is no longer to be scored")


def test_scores_of_another_identity_do_not_count(place: Place) -> None:
    place.fetch("w8-s1")
    place.score("w8-s1")
    plan = place.folder / "resources/plans/bytes/beta.safetensors"
    other = plan.read_bytes()
    shutil.copy(plan.with_name("alpha.safetensors"), plan)
    assert place.held("w8-s1")[0] is Need.WAITED_FOR
    plan.unlink()
    assert place.held("w8-s1")[0] is Need.WAITED_FOR, "without a plan nothing is known"
    plan.write_bytes(other)
    assert place.held("w8-s1")[0] is Need.SCORED


def test_what_another_lock_names_is_incomplete(place: Place) -> None:
    place.fetch("w8-s1")
    place.hub.publish(REPO, "step1", {"config.json": b"[]", "model.safetensors": b"\7" * WEIGHTS})
    rows = [vars(row) for row in place.study().checkpoints]
    place.lock = resolve(
        rows, {}, place.lock[place.lock["ckpt"] != "w8-s1"], HfApi(endpoint=place.hub.url)
    ).lock
    assert place.held("w8-s1")[0] is Need.INCOMPLETE


def test_what_is_not_locked_now_is_kept(place: Place) -> None:
    for ckpt in ("w8-s1", "w8-s2"):
        place.fetch(ckpt)
    place.lock = place.lock[place.lock["ckpt"] != "w8-s1"]
    assert place.held("w8-s1") == (Need.NOT_OURS, "is not locked now")
    place.score("w8-s2")
    place.fetch("w8-s4", disk_budget_gb=ROOM_FOR_TWO)
    assert place.whole() == {"w8-s1", "w8-s4"}


def test_an_odd_file_of_one_checkpoint_stops_no_other_download(place: Place) -> None:
    for ckpt in ("w8-s1", "w8-s2"):
        place.fetch(ckpt)
    marker = place.store("w8-s2", "alpha").marker
    marker.parent.mkdir(parents=True)
    for torn in (b"", b"\xff\xfe"):
        marker.write_bytes(torn)
        assert place.held("w8-s2") == (Need.WAITED_FOR, "waits to be scored")
        assert reason_in(marker) is None
    for torn in (b"", b"file\n", b"\xff\xfe"):
        (place.weights / "w8-s1/fetched.tsv").write_bytes(torn)
        assert place.held("w8-s1")[0] is Need.INCOMPLETE
    held = place.holdings().look("")
    for name in ("w8-s1", "w8-s2"):
        shutil.rmtree(place.weights / name)
    for need in (Need.SCORED, Need.INCOMPLETE):
        for folder in held:
            replace(folder, need=need).give_up()


def test_weights_whose_fetch_is_just_starting_are_kept(place: Place) -> None:
    """Snakemake deletes the list when the job starts; its claim comes after its imports."""
    place.fetch("w8-s1")
    folder = place.weights / "w8-s1"
    (folder / "fetched.tsv").unlink()
    for _ in range(2):
        assert place.held("w8-s1") == (Need.WAITED_FOR, "is about to be looked through")
    # A killed download has left its claim; looking at it does not make the folder young again.
    (folder / ".claim").mkdir()
    old = time.time() - 2 * PACE.limit
    os.utime(folder / ".claim", (old, old))
    os.utime(folder, (old, old))
    for _ in range(2):
        assert place.held("w8-s1") == (Need.INCOMPLETE, "is no complete download of what is locked")


def test_only_what_fetch_made_is_ever_given_up(place: Place, tmp_path: Path) -> None:
    """A user's own folders and links under resources/weights, and a local checkpoint there."""
    place.fetch("w8-s1")
    place.score("w8-s1")
    mine, local = place.weights / "my-notes", place.weights / "local"
    for folder in (mine, local, tmp_path / "elsewhere"):
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"x" * 1000)
    shutil.copy(place.weights / "w8-s1/fetched.tsv", local)
    shutil.copy(place.weights / "w8-s1/fetched.tsv", tmp_path / "elsewhere")
    (place.weights / "linked").symlink_to(tmp_path / "elsewhere")
    place.rows.append(checkpoint_row(8, 16, ckpt="mine", source="resources/weights/local"))
    assert place.held("my-notes") == (Need.NOT_OURS, "was not made by fetch")
    assert place.held("local")[0] is Need.NOT_OURS
    before = {p: p.read_bytes() for p in (mine, local, tmp_path / "elsewhere") for p in p.iterdir()}
    with pytest.raises(StudyError, match="was not made by fetch"):
        place.fetch("w8-s2", disk_budget_gb=(WEIGHTS + 5000) / 1e9)
    place.fetch("w8-s2", disk_budget_gb=(WEIGHTS + 9000) / 1e9)
    assert {path: path.read_bytes() for path in before} == before
    assert (place.weights / "linked").is_symlink()


def test_weights_pass_through_room_for_two(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    for ckpt in ("w8-s1", "w8-s2"):
        place.fetch(ckpt, disk_budget_gb=ROOM_FOR_TWO)
        place.score(ckpt)
    place.fetch("w8-s4", disk_budget_gb=ROOM_FOR_TWO)
    assert place.whole() == {"w8-s2", "w8-s4"}
    assert bytes_below(place.weights) < 1e9 * ROOM_FOR_TWO
    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", Mock(side_effect=PermissionError))
        assert drop_hollow_lists(place.weights) == [], "who may only look changes nothing"
    assert drop_hollow_lists(place.weights) == ["w8-s1"]


def test_a_task_that_was_added_during_a_run_keeps_no_weights_in_it(place: Place) -> None:
    plans = place.folder / "resources/plans"
    list_plans([*plans.glob("bytes/*.safetensors")], plans / "bytes.tsv")
    for ckpt in ("w8-s1", "w8-s2"):
        place.fetch(ckpt)
    place.score("w8-s1")
    tasks = [task_row("alpha"), task_row("beta"), task_row("gamma", dataset="tiny-beta")]
    write_tsv_rows(place.folder / "config/tasks.tsv", TASK_COLUMNS, tasks)
    assert place.held("w8-s1")[0] is Need.WAITED_FOR, "for the next run"
    place.fetch("w8-s4", disk_budget_gb=ROOM_FOR_TWO, weights_wait=0.05)
    assert place.whole() == {"w8-s2", "w8-s4"}


def test_half_of_a_list_of_plans_makes_nothing_fully_scored(place: Place) -> None:
    place.fetch("w8-s1")
    for torn in ("", "task\tdigest\n"):
        (place.folder / "resources/plans/bytes.tsv").write_text(torn)
        with pytest.raises(StudyError, match="waits to be scored"):
            place.fetch("w8-s2", disk_budget_gb=1.2 * WEIGHTS / 1e9, weights_wait=0.01)
    assert place.whole() == {"w8-s1"}


def test_who_lost_the_queue_gives_nothing_up(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stood still for minutes, while it looked; another download measures by now."""
    place.fetch("w8-s1")
    place.score("w8-s1")
    look = Holdings.look

    def slowly(holdings: Holdings, ckpt: str) -> list[Held]:
        found = look(holdings, ckpt)
        shutil.rmtree(place.weights / CLAIM)
        return found

    monkeypatch.setattr(Holdings, "look", slowly)
    with pytest.raises(ClaimLost):
        place.fetch("w8-s2", disk_budget_gb=1.2 * WEIGHTS / 1e9)
    assert place.whole() == {"w8-s1"}
    assert not (place.weights / "w8-s2.failed").exists(), "nothing is wrong with the download"


def test_without_a_budget_nothing_is_given_up(place: Place) -> None:
    for ckpt in ("w8-s1", "w8-s2", "w8-s4"):
        place.fetch(ckpt)
        place.score(ckpt)
    assert place.whole() == {"w8-s1", "w8-s2", "w8-s4"}


def test_what_the_store_has_is_not_fetched(place: Place) -> None:
    place.score("w8-s1")
    place.fetch("w8-s1", disk_budget_gb=ROOM_FOR_TWO)
    assert place.sent() == 0
    assert (place.weights / "w8-s1/fetched.tsv").is_file()


def test_a_lock_put_back_names_no_weights_of_another_commit(place: Place) -> None:
    place.fetch("w8-s1")
    place.score("w8-s1")
    folder = place.weights / "w8-s1"
    of_a = {path.name: path.read_bytes() for path in folder.iterdir()}
    (folder / "fetched.tsv").unlink()
    place.fetch("w8-s1")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == of_a, "they are right"

    # The branch moves, its new weights of the same size are scored, and the lock is put back.
    (folder / "model.safetensors").write_bytes(b"\7" * WEIGHTS)
    (folder / "added_tokens.json").write_bytes(b"{}")
    (folder / "fetched.tsv").unlink()
    place.fetch("w8-s1")
    assert place.sent() == 1
    kept = ["added_tokens.json", "config.json", "fetched.tsv"]
    assert sorted(path.name for path in folder.iterdir()) == kept
    assert drop_hollow_lists(place.weights) == ["w8-s1"], "who scores again fetches again"
    place.store("w8-s1", "beta").finished.unlink()
    place.fetch("w8-s1")
    assert (folder / "model.safetensors").read_bytes() == of_a["model.safetensors"]


def test_a_checkpoint_that_is_known_to_fail_is_not_fetched(place: Place) -> None:
    place.store("w8-s1", "beta").fail("log-likelihood is nan")
    place.weights.mkdir(parents=True, exist_ok=True)
    (place.weights / "w8-s1.failed").write_text("another lock's file is gone\n")
    with pytest.raises(StudyError, match="task beta: failed before"):
        place.fetch("w8-s1")
    assert place.sent() == 0
    assert (
        failure_reasons(place.folder / "resources", lambda *_: "another dtype's", {"w8-s1"}) == []
    )
    place.store("w8-s1", "beta").marker.unlink()
    place.fetch("w8-s1")
    assert place.sent() == 1
    assert not (place.weights / "w8-s1.failed").exists()


def test_a_failed_download_leaves_its_reason_until_it_succeeds(place: Place) -> None:
    place.hub.instead["model.safetensors"] = [Answer(b"x" * WEIGHTS)]
    with pytest.raises(StudyError, match="wrong bytes"):
        place.fetch("w8-s1")
    assert place.sent() == 1, "wrong bytes are not asked for again"
    ((ckpt, task, reason),) = failure_reasons(
        place.folder / "resources", lambda *_: None, {"w8-s1"}
    )
    assert (ckpt, task) == ("w8-s1", "")
    assert "model.safetensors has wrong bytes" in reason
    of_folders = failure_reasons(place.folder / "resources", lambda *_: None, {"w8-s2"})
    assert of_folders == [], "its source is a folder by now"
    assert "\n" not in reason
    place.store("w8-s1", "beta").fail("is nan")
    now = place.store("w8-s1", "beta").identity
    found = failure_reasons(place.folder / "resources", lambda *_: now, {"w8-s1"})
    assert found[1] == ("w8-s1", "beta", "is nan")
    place.store("w8-s1", "beta").marker.unlink()
    place.fetch("w8-s1")
    assert failure_reasons(place.folder / "resources", lambda *_: None, {"w8-s1"}) == []


def test_what_may_pass_is_tried_again(place: Place) -> None:
    place.hub.instead["model.safetensors"] = [Answer(status=503), Answer(status=500)]
    place.fetch("w8-s1")
    assert place.sent() == 3


def test_a_download_does_not_outlive_its_run(place: Place) -> None:
    command = "import json; from downslope.process import this_process as p; print(json.dumps(p()))"
    ended = subprocess.run(
        [sys.executable, "-c", command],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "scripts")},
    )
    place.fetch("w8-s1")
    room = {"disk_budget_gb": 1.2 * WEIGHTS / 1e9, "weights_wait": 0.05}
    place.run = json.dumps(this_process())
    with pytest.raises(StudyError, match="Nothing has changed"):
        place.fetch("w8-s2", **room)
    (place.weights / "w8-s2.failed").unlink()
    place.run = ended.stdout
    with pytest.raises(RunEnded, match=r"the run .* has ended \(process \d+ on "):
        place.fetch("w8-s2", **room)
    assert place.whole() == {"w8-s1"}
    assert not (place.weights / "w8-s2.failed").exists(), "that says nothing of the checkpoint"


def test_a_full_disk_is_told_in_a_sentence(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("downslope.fetching.fetch", full)
    with pytest.raises(StudyError, match=r"weights/w8-s1: cannot be written, the disk .* is full"):
        place.fetch("w8-s1")
    assert "is full" in (place.weights / "w8-s1.failed").read_text()
    monkeypatch.setattr("downslope.fetching.atomic_write", full)
    with pytest.raises(StudyError, match="is full"):
        place.fetch("w8-s1")


def test_a_download_goes_on_where_it_broke_off_and_counts_once(place: Place) -> None:
    files = locked_records(place.lock, "w8-s1")
    folder = place.weights / "w8-s1"
    begun = folder / ".cache/huggingface/download"
    begun.mkdir(parents=True)
    digest = files[-1].digest.removeprefix("sha256:")
    (begun / f"abc.{digest}.incomplete").write_bytes(b"\1" * 1000)
    (begun / f"abc.{'0' * 64}.incomplete").write_bytes(b"\1" * 1000)
    (folder / "config.json").write_bytes(b"wrong")
    (folder / "pytorch_model.bin").write_bytes(b"another")
    assert keep_locked(files, folder) == 1000


def test_a_link_to_another_disk_needs_no_room_here(place: Place, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    place.weights.mkdir(parents=True)
    (place.weights / "w8-s1").symlink_to(tmp_path / "disk")
    place.fetch("w8-s1", disk_budget_gb=1e-9)
    assert (tmp_path / "disk/model.safetensors").is_file()


def test_a_checkpoint_larger_than_the_budget_is_refused_by_row(place: Place) -> None:
    row = place.study().by_ckpt["w8-s2"]
    require_within(row, 10**9, 1)
    with pytest.raises(StudyError, match=r"line 3 \(w8-s2\): its files take 2.0 GB.* 1.0 GB"):
        require_within(row, 2 * 10**9, 1)
    with pytest.raises(StudyError, match=r"line 3 \(w8-s2\): its files take 50.0 kB"):
        place.fetch("w8-s2", disk_budget_gb=1e-6)
    assert place.sent() == 0


def test_the_machine_is_read_as_a_profile_hands_it_on(place: Place) -> None:
    study = place.study(disk_budget_gb="0.5", weights_wait="30")
    assert study.machine == {"disk_budget_gb": 0.5, "weights_wait": 30}
    assert place.study().machine == {}
    for wrong in ("much", "0", "-1"):
        with pytest.raises(StudyError, match=r"disk_budget_gb is .* expected a number"):
            place.study(disk_budget_gb=wrong)
    with pytest.raises(StudyError, match="unknown key 'disk'"):
        place.study(disk=3)
