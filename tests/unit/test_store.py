"""Damaged files are named, with what to do; markers count under their own identity only."""

from __future__ import annotations

import base64
import errno
import json
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from test_plan import plan_of

from downslope.errors import StudyError
from downslope.failures import failure_reasons, reason_in
from downslope.store import TaskStore, _whole_shard, read_facts, read_scores
from downslope.tokenization import FolderTokenizer
from downslope.touched import refuse_touched


def publish(place: Path, name: str, **parts: str) -> Path:
    """A score file of an empty task that was computed from these parts."""
    store = TaskStore(place / "store", name, "id")
    store.finish(pa.table({}), json.dumps(parts), {})
    path = place / f"results/scores/{name}/x.parquet"
    store.publish(path)
    return path


def refuse(paths: list[Path], place: Path) -> None:
    refuse_touched(paths, dtype="float32", modules="new", records=place / "records")


def test_a_torn_score_file_is_named_with_what_to_do(tmp_path: Path) -> None:
    path = publish(tmp_path, "a", dtype="float32", modules="new")
    assert read_facts(path) is not None
    for content in (b"", path.read_bytes()[:-20]):
        path.write_bytes(content)
        with pytest.raises(StudyError, match=r"x\.parquet: is no score table.*Delete it"):
            refuse([path], tmp_path)


def test_any_damage_is_named(byte_tokenizer: Path, tmp_path: Path) -> None:
    """Bytes that are zeroed anywhere: pyarrow raises errors of many kinds, users see one."""
    plan = plan_of(FolderTokenizer(byte_tokenizer))
    store = TaskStore(tmp_path, "x", "id")
    count = int(plan.request_offsets[-1])
    none = np.zeros(count, np.float32), np.ones(count, bool)
    store.save_packs(plan, [0], *none)
    (shard,) = tmp_path.glob("x.id.packs/*.parquet")
    packs = shard.read_bytes()
    store.finish(plan.scores(*none), "{}", {})
    whole, refused = store.finished.read_bytes(), []
    for path, content in ((store.finished, whole), (shard, packs)):
        path.parent.mkdir(exist_ok=True)
        for start in range(0, len(content) - 32, 61):
            path.write_bytes(content[:start] + bytes(32) + content[start + 32 :])
            for read in (read_facts, read_scores, lambda _: store.load_packs(plan)):
                try:
                    read(path)
                except StudyError as error:
                    refused.append((str(path), str(error)))
        path.unlink()
    assert len(refused) > 20
    assert all(path in said for path, said in refused)


def test_a_disk_that_cannot_be_read_is_no_reason_to_delete_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = publish(tmp_path, "a", dtype="float32", modules="new")

    def refused(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    for name in ("read_schema", "ParquetFile", "read_table"):
        monkeypatch.setattr(f"downslope.store.pq.{name}", refused)
    for read in (read_facts, read_scores, _whole_shard):
        with pytest.raises(
            StudyError, match=r"x\.parquet: cannot be read .*look at the disk"
        ) as at:
            read(path)
        assert "Delete" not in str(at.value)


def test_a_task_that_was_scored_leaves_no_marker_of_its_own(tmp_path: Path) -> None:
    for task, identity in (("x", "old"), ("x", "id"), ("x.y", "id")):
        TaskStore(tmp_path, task, identity).fail("nan")
    TaskStore(tmp_path, "x", "id").finish(pa.table({}), "{}", {})
    assert [path.name for path in tmp_path.glob("*.failed")] == ["x.y.id.failed"]


def test_a_damaged_original_is_not_published(tmp_path: Path) -> None:
    path = publish(tmp_path, "a", dtype="float32", modules="new")
    (original,) = (tmp_path / "store").glob("*.parquet")
    store, before = TaskStore(tmp_path / "store", "a", "id"), path.read_bytes()
    assert original == store.finished
    original.write_bytes(before[:-20])
    with pytest.raises(StudyError, match=r"store/a\.id\.parquet: is no score table.*scored anew"):
        store.publish(path)
    assert path.read_bytes() == before


def test_a_damaged_shard_is_named_with_what_to_do(byte_tokenizer: Path, tmp_path: Path) -> None:
    plan = plan_of(FolderTokenizer(byte_tokenizer))
    store = TaskStore(tmp_path, "x", "id")
    count = int(plan.request_offsets[-1])
    store.save_packs(plan, [0], np.zeros(count, np.float32), np.ones(count, bool))
    assert store.load_packs(plan)[2] == {0}
    (shard,) = tmp_path.glob("x.id.packs/*.parquet")
    shard.write_bytes(b"")
    with pytest.raises(StudyError, match=r"000000-000000\.parquet: is damaged.*Delete it"):
        store.load_packs(plan)


def test_a_run_that_was_cut_off_is_found_wherever_it_stopped(tmp_path: Path) -> None:
    """Half of the files were made anew before `snakemake --touch`; which half does not matter."""
    new = [publish(tmp_path, f"n{k}", dtype="float32", modules="new") for k in range(40)]
    old = [publish(tmp_path, f"o{k}", dtype="float32", modules="old") for k in range(40)]
    refuse(new, tmp_path)
    for paths in ([*new, *old], [*old, *new], [*new[:20], *old, *new[20:]]):
        with pytest.raises(StudyError, match=r"was computed from other modules"):
            refuse(paths, tmp_path)


def test_what_snakemake_will_make_again_is_its_own_affair(tmp_path: Path) -> None:
    path = publish(tmp_path, "a", dtype="float32", modules="old")
    record = tmp_path / "records" / base64.urlsafe_b64encode(str(path).encode()).decode()
    record.parent.mkdir()
    record.write_text(json.dumps({"params": ["'float32'", "'old'"]}))
    refuse([path], tmp_path)
    record.write_text(json.dumps({"params": ["'float32'", "'new'"]}))
    with pytest.raises(StudyError):
        refuse([path], tmp_path)


def test_what_failed_under_another_identity_says_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "scored/c"
    TaskStore(folder, "x", "id1").fail("nan in float16")
    TaskStore(folder, "x", "id2", files=["config.json 2 3"]).fail("nan in\nfloat32")
    TaskStore(folder, "y.z", "id9").fail("too long")
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights/d.failed").write_text("404\n")
    now = {("c", "x"): "id2", ("c", "y.z"): "id9"}
    found = failure_reasons(tmp_path, lambda ckpt, task: now.get((ckpt, task)), {"d"})
    assert found == [("c", "x", "nan in float32"), ("c", "y.z", "too long"), ("d", "", "404")]
    assert failure_reasons(tmp_path, lambda ckpt, task: None, {"d"}) == [("d", "", "404")]


def test_a_marker_may_go_while_it_is_looked_for(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    marker, over = tmp_path / "weights/d.failed", threading.Event()

    def come_and_go() -> None:
        while not over.is_set():
            marker.write_text("404\n")
            marker.unlink()

    thread = threading.Thread(target=come_and_go)
    thread.start()
    try:
        for _ in range(2000):
            assert failure_reasons(tmp_path, lambda *_: None, {"d"}) in (
                [],
                [("d", "", "404")],
            )
    finally:
        over.set()
        thread.join()
    assert reason_in(marker) is None
