"""Room for weights: who waits for what, and that nothing is deleted but what may go."""

from __future__ import annotations

import os
import shutil
from collections import namedtuple
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from downslope.disk_budget import Clock, DiskBudget
from downslope.errors import StudyError
from downslope.held import Held, Need
from downslope.reclaim import (
    bytes_below,
    drop_hollow_lists,
    empty_folder,
    finish_deleting,
    remove_folder,
)

LISTED = "file\tbytes\tdigest\nmodel.safetensors\t100\tsha256:0\n"


def make_folder(weights: Path, name: str, size: int = 100, *, age: int = 0) -> Path:
    """A fetched checkpoint whose list of files was written `age` seconds ago."""
    folder = weights / name
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"w" * size)
    (folder / "fetched.tsv").write_text(LISTED)
    os.utime(folder / "fetched.tsv", (1e9 - age, 1e9 - age))
    return folder


def tree(folder: Path) -> dict[str, bytes | str]:
    """Everything below a folder, links by where they lead."""
    return {
        str(path.relative_to(folder)): str(path.readlink())
        if path.is_symlink()
        else path.read_bytes()
        for path in folder.rglob("*")
        if path.is_symlink() or path.is_file()
    }


# Measuring and deleting


def test_bytes_are_those_on_this_disk(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "weights", "a")
    begun = folder / ".cache/huggingface/download/x.y.incomplete"
    begun.parent.mkdir(parents=True)
    begun.write_bytes(b"x" * 30)
    (tmp_path / "big").write_bytes(b"x" * 5000)
    (folder / "link").symlink_to(tmp_path / "big")
    (folder / "elsewhere").symlink_to(tmp_path)
    (folder / "twice").hardlink_to(folder / "model.safetensors")
    assert bytes_below(folder) == 100 + len(LISTED) + 30
    (tmp_path / "resources").symlink_to(tmp_path / "weights")
    assert bytes_below(tmp_path / "resources") == 100 + len(LISTED) + 30, "weights may be a link"


def test_a_folder_is_emptied_but_for_its_list(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, "a")
    (folder / ".claim").mkdir()
    empty_folder(folder)
    assert sorted(path.name for path in folder.iterdir()) == [".claim", "fetched.tsv"]
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("delete", [empty_folder, remove_folder])
def test_nothing_behind_a_link_is_deleted(tmp_path: Path, delete) -> None:
    precious = make_folder(tmp_path / "elsewhere", "precious")
    folder = make_folder(tmp_path / "weights", "a")
    (folder / "file").symlink_to(precious / "model.safetensors")
    (folder / "folder").symlink_to(precious)
    (folder / "up").symlink_to(tmp_path)
    (tmp_path / "weights/linked").symlink_to(precious)
    before = tree(tmp_path / "elsewhere")
    with pytest.raises(StudyError, match="is a link"):
        delete(tmp_path / "weights/linked")
    delete(folder)
    assert tree(tmp_path / "elsewhere") == before
    assert (tmp_path / "weights/linked").is_symlink()
    assert not (folder / "folder").is_symlink()


@pytest.mark.parametrize("delete", [empty_folder, remove_folder])
def test_a_kill_while_deleting_leaves_nothing_that_looks_whole(
    tmp_path: Path, delete, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_folder(tmp_path, "a")

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            delete(folder)
    assert not (folder / "model.safetensors").exists()
    (tmp_path / ".reclaimed.link").symlink_to(tmp_path.parent)
    finish_deleting(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} <= {"a", ".reclaimed.link"}
    assert tmp_path.parent.is_dir()
    drop_hollow_lists(tmp_path)
    assert not (folder / "fetched.tsv").exists()


def test_a_list_goes_only_where_a_file_of_it_is_missing(tmp_path: Path) -> None:
    whole, hollow = make_folder(tmp_path, "whole"), make_folder(tmp_path, "hollow")
    empty_folder(hollow)
    assert drop_hollow_lists(tmp_path) == ["hollow"]
    assert (whole / "fetched.tsv").is_file()
    assert not (hollow / "fetched.tsv").exists()
    assert drop_hollow_lists(tmp_path / "none yet") == []
    with (whole / "model.safetensors").open("ab") as weights:
        weights.write(b"more")
    assert drop_hollow_lists(tmp_path) == ["whole"]
    for half in ("file\n", "file\tbytes\na\n", "file\tbytes\na\tb\n", "", "\udcff"):
        (hollow / "fetched.tsv").write_text(half, errors="surrogateescape")
        assert drop_hollow_lists(tmp_path) == ["hollow"], half
    (hollow / "fetched.tsv").write_text("file\tbytes\tdigest\n")
    assert drop_hollow_lists(tmp_path) == ["hollow"], "a list of nothing"


# Waiting

UNIT = 1000
"""Bytes; a folder of the scene takes a hundred times as many, its list next to nothing."""


@dataclass
class Scene:
    """A folder of weights, a clock that only sleeping moves, and what happens at which second."""

    weights: Path
    needs: dict[str, tuple[Need, object]] = field(default_factory=dict)
    events: dict[int, tuple[str, Need, object]] = field(default_factory=dict)
    seconds: float = 0.0

    def add(self, name: str, need: Need, trace: object = (0, 0), *, age: int = 0) -> Path:
        self.needs[name] = need, trace
        return make_folder(self.weights, name, 100 * UNIT, age=age)

    def look(self) -> list[Held]:
        for at in [at for at in self.events if at <= self.seconds]:
            name, *state = self.events.pop(at)
            self.needs[name] = tuple(state)
        found = []
        for name, (need, trace) in sorted(self.needs.items()):
            path = self.weights / name
            if path.is_dir():
                why = f"is {need.name.lower()}"
                found.append(Held(path, bytes_below(path), need, why, trace))
        return found

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds

    def budget(self, limit: float, *, wait: float = 10, run: str = "one") -> DiskBudget:
        clock = Clock(now=lambda: self.seconds, sleep=self.sleep)
        return DiskBudget(self.weights, limit * UNIT, self.look, wait, run, clock)

    def left(self) -> set[str]:
        """Folders that still have their weights."""
        return {path.parent.name for path in self.weights.glob("*/model.safetensors")}


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    (tmp_path / "weights").mkdir()
    return Scene(tmp_path / "weights")


def test_where_all_fits_nothing_is_given_up(scene: Scene) -> None:
    for name in "abc":
        scene.add(name, Need.SCORED)
    scene.budget(405).make_room("new", 100 * UNIT, 0)
    assert scene.left() == {"a", "b", "c"}
    assert scene.seconds == 0


def test_as_much_goes_as_it_takes_the_least_needed_and_oldest_first(scene: Scene) -> None:
    scene.add("begun", Need.INCOMPLETE)
    scene.add("failed", Need.FAILED)
    scene.add("young", Need.SCORED, age=1)
    scene.add("old", Need.SCORED, age=2)
    scene.add("gone", Need.LEFT_OUT)
    scene.add("waits", Need.WAITED_FOR)
    left = scene.left()
    for lost in ("gone", "old", "young", "failed", "begun"):
        scene.budget(100 * len(left) + 5).make_room("new", 100 * UNIT, 0)
        left -= {lost}
        assert scene.left() == left
    assert (scene.weights / "old/fetched.tsv").is_file(), "a planned scoring job may look for it"
    assert not (scene.weights / "gone").exists()
    assert not (scene.weights / "begun").exists()


def test_nothing_is_deleted_by_an_old_look(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.add("first", Need.SCORED, age=2)
    scene.add("second", Need.SCORED, age=1)
    scene.add("third", Need.SCORED, age=0)
    give_up = Held.give_up

    def slowly(held: Held) -> None:
        give_up(held)
        scene.needs["second"] = Need.WAITED_FOR, "somebody scores it by now"

    monkeypatch.setattr(Held, "give_up", slowly)
    scene.budget(205).make_room("new", 100 * UNIT, 0)
    assert scene.left() == {"second"}


def test_what_giving_up_leaves_behind_is_not_given_up_for_ever(scene: Scene) -> None:
    folder = scene.add("a", Need.SCORED)
    (folder / ".claim").mkdir()
    (folder / ".claim/dead.json").write_text("{}")
    scene.add("waits", Need.WAITED_FOR)
    with pytest.raises(StudyError, match="Nothing has changed"):
        scene.budget(105).make_room("new", 100 * UNIT, 0)
    assert scene.left() == {"waits"}


def test_what_is_half_downloaded_stays_where_its_room_would_not_do(scene: Scene) -> None:
    scene.add("begun", Need.INCOMPLETE)
    scene.add("a", Need.WAITED_FOR)
    scene.add("b", Need.WAITED_FOR)
    with pytest.raises(StudyError):
        scene.budget(205).make_room("new", 150 * UNIT, 0)
    assert scene.left() == {"a", "b", "begun"}
    scene.events[0] = ("b", Need.SCORED, None)
    scene.budget(305).make_room("new", 200 * UNIT, 0)
    assert scene.left() == {"a"}


def test_what_is_there_of_its_own_counts_once(scene: Scene) -> None:
    scene.add("waits", Need.WAITED_FOR)
    scene.budget(205).make_room("new", 100 * UNIT, 60 * UNIT)
    assert scene.seconds == 0


def test_it_waits_until_the_one_in_the_way_is_scored(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "downslope")
    scene.add("a", Need.WAITED_FOR)
    scene.add("b", Need.WAITED_FOR)
    scene.events[150] = ("b", Need.SCORED, None)
    scene.budget(205).make_room("new", 100 * UNIT, 0)
    assert scene.seconds == 150
    assert scene.left() == {"a"}
    told = [text for text in caplog.messages if "waiting for disk: new needs 100.0 kB" in text]
    assert len(told) == 3, "at once, and then once a minute"
    assert "b: 100.0 kB, is waited_for" in told[0]
    assert any("b is scored: 100.0 kB given back" in text for text in caplog.messages)


def test_without_any_change_it_gives_up_and_names_what_is_in_the_way(scene: Scene) -> None:
    scene.add("a", Need.WAITED_FOR)
    scene.add("b", Need.WAITED_FOR)
    scene.events[500] = ("b", Need.WAITED_FOR, (0, 1))
    with pytest.raises(StudyError) as caught:
        scene.budget(205, wait=10).make_room("new", 100 * UNIT, 0)
    assert 1100 <= scene.seconds <= 1104, "ten minutes after the last pack was stored"
    parts = (
        "disk budget of",
        "new needs 100.0 kB",
        "weights/a: 100.0 kB, is waited_for",
        "weights/b: 100.0 kB",
        "Nothing has changed for 10 min",
        "weights_wait",
    )
    for part in parts:
        assert part in str(caught.value)
    assert scene.left() == {"a", "b"}


def test_the_next_download_of_the_run_does_not_wait_again_for_the_same(scene: Scene) -> None:
    scene.add("a", Need.WAITED_FOR)
    with pytest.raises(StudyError):
        scene.budget(105).make_room("new", 100 * UNIT, 0)
    waited = scene.seconds
    with pytest.raises(StudyError, match="Nothing has changed"):
        scene.budget(105).make_room("next", 100 * UNIT, 0)
    assert scene.seconds == waited
    with pytest.raises(StudyError):
        scene.budget(105, run="two").make_room("next", 100 * UNIT, 0)
    assert scene.seconds == 2 * waited, "another run may score what this one did not"
    scene.needs["a"] = Need.WAITED_FOR, (0, 1)
    with pytest.raises(StudyError):
        scene.budget(105, run="two").make_room("next", 100 * UNIT, 0)
    assert scene.seconds == 3 * waited, "something has happened since"


def test_what_will_never_go_is_not_waited_for(scene: Scene) -> None:
    scene.add("mine", Need.NOT_OURS, None)
    with pytest.raises(StudyError, match="Nothing here will go by itself"):
        scene.budget(155).make_room("new", 100 * UNIT, 0)
    with pytest.raises(StudyError, match="Nothing here will go by itself"):
        scene.budget(105).make_room("new", 106 * UNIT, 0)
    assert scene.seconds == 0
    assert scene.left() == {"mine"}


def test_a_folder_that_cannot_be_deleted_is_named(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.add("a", Need.SCORED)

    def refused(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(StudyError, match=r"cannot be deleted \(Permission denied\)"):
        scene.budget(105).make_room("new", 100 * UNIT, 0)


def test_a_full_disk_counts_like_a_budget(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.add("a", Need.SCORED)
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(40 * UNIT))
    scene.budget(10**6).make_room("new", 100 * UNIT, 0)
    assert scene.left() == set()


def test_nothing_is_deleted_once_another_process_has_taken_over(scene: Scene) -> None:
    scene.add("a", Need.SCORED)
    budget = scene.budget(105)

    def lost() -> None:
        raise StudyError("another process has taken over")

    budget.confirm = lost
    with pytest.raises(StudyError, match="taken over"):
        budget.make_room("new", 100 * UNIT, 0)
    assert scene.left() == {"a"}
