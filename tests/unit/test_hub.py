"""Resolving and fetching by the real client, against a small hub on loopback."""

from __future__ import annotations

import hashlib
import json
import logging
import socket
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from huggingface_hub import HfApi
from huggingface_hub.utils import enable_progress_bars

from downslope.errors import StudyError
from downslope.hub import _minute_lines, fetch, fetch_tokenizer
from downslope.lock import empty_lock, read_lock, weights_digest
from downslope.lock_check import check_lock
from downslope.logs import log_to
from downslope.resolve import resolve, update_lock
from downslope.tsv import read_tsv
from loopback import Answer, Hub, git_blob

REPO = "lab/tiny"
WEIGHTS = bytes(range(256)) * 40
FILES = {
    "README.md": b"a model",
    "config.json": b'{"model_type": "gpt_neox"}',
    "model.safetensors": WEIGHTS,
    "modeling_tiny.py": b"raise SystemExit('never run')",
    "pytorch_model.bin": b"the same, pickled",
    "tokenizer.json": b'{"version": "1.0"}',
}
SHARDS = {
    "config.json": b"{}",
    "model-00001-of-00002.safetensors": b"first" * 100,
    "model-00002-of-00002.safetensors": b"second" * 100,
}
TOKENIZERS = {"tiny": {"source": f"hub:{REPO}", "revision": "step1", "max_length": 64}}


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The hub's client, with no token and no cache but this test's, and no proxy on the way."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def hub(client: None) -> Iterator[Hub]:
    with Hub() as running:
        yield running


def row(ckpt: str, **changes: str) -> dict[str, str]:
    return {
        "ckpt": ckpt,
        "source": f"hub:{REPO}",
        "revision": ckpt,
        "tokenizer": "tiny",
        "known_bad": "",
        **changes,
    }


def look(hub: Hub, *rows: dict[str, str], old: pd.DataFrame | None = None, tokenizers=None):
    lock = empty_lock() if old is None else old
    return resolve(rows, tokenizers or {}, lock, HfApi(endpoint=hub.url), pauses=(0, 0))


def update(hub: Hub, path: Path, *rows: dict[str, str]) -> None:
    update_lock(rows, {}, path, HfApi(endpoint=hub.url), pauses=(0, 0))


def bring(hub: Hub, destination: Path, files=FILES) -> pd.DataFrame:
    """Publish files, lock them and fetch them."""
    hub.publish(REPO, "step1", files)
    return fetch("step1", look(hub, row("step1")).lock, destination, endpoint=hub.url)


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


# Resolving


def test_the_lock_states_commit_size_and_hash_without_any_download(hub):
    commit = hub.publish(REPO, "step1", FILES)
    lock, report, failures = look(hub, row("step1"), tokenizers=TOKENIZERS)
    assert failures == []
    assert {line.split(":")[0] for line in report} == {"step1", "tokenizer"}
    sha256 = hashlib.sha256(WEIGHTS).hexdigest()
    head = ("step1", f"hub:{REPO}", "step1", commit)
    assert list(lock[lock["ckpt"] == "step1"].itertuples(index=False, name=None)) == [
        (*head, "config.json", 26, f"git-sha1:{git_blob(FILES['config.json'])}"),
        (*head, "tokenizer.json", 18, f"git-sha1:{git_blob(FILES['tokenizer.json'])}"),
        (*head, "model.safetensors", 10240, f"sha256:{sha256}"),
    ]
    assert list(lock[lock["ckpt"] == "tokenizer:tiny"]["file"]) == ["config.json", "tokenizer.json"]
    assert all(path.startswith("/api/models/") for path in hub.paths())
    assert hub.paths("HEAD") == []


def test_weights_in_subfolders_are_other_formats(hub):
    hub.publish(REPO, "step1", {"config.json": b"{}", "onnx/model.safetensors": WEIGHTS})
    (failure,) = look(hub, row("step1")).failures
    assert "step1: hub:lab/tiny, revision step1: has no weights" in failure


def test_a_moved_branch_is_told_and_its_rows_stay_until_they_are_deleted(hub, tmp_path):
    path = tmp_path / "lock.tsv"
    first = hub.publish(REPO, "step1", FILES)
    update(hub, path, row("step1"))
    second = hub.publish(REPO, "step1", {**FILES, "model.safetensors": b"other"})
    lock, report, _ = look(hub, row("step1"), old=read_lock(path))
    assert set(lock["commit"]) == {first}
    assert "moved since it was locked" in report[0]
    assert first in report[0]
    assert second in report[0]
    path.unlink()
    update(hub, path, row("step1"))
    assert set(read_lock(path)["commit"]) == {second}


def test_the_size_of_the_download_is_told(hub, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    for revision in ("step1", "step2", "step3"):
        weights = revision.encode() * 1000  # 5000 bytes; config.json and tokenizer.json 26 and 18
        hub.publish(REPO, revision, {**FILES, "model.safetensors": weights})
    update(hub, tmp_path / "lock.tsv", row("step1"), row("step2"), row("step3", known_bad="broken"))
    assert "2 checkpoints and tokenizers are locked, 10.0 kB to download" in caplog.text


def test_an_unchanged_lock_is_not_written_again(hub, tmp_path):
    path = tmp_path / "lock.tsv"
    hub.publish(REPO, "step1", FILES)
    update(hub, path, row("step1"))
    before = path.stat()
    update(hub, path, row("step1"))
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == (before.st_mtime_ns, before.st_ino)


def test_rows_are_added_and_dropped_and_others_kept(hub, tmp_path):
    path = tmp_path / "lock.tsv"
    for revision in ("step1", "step2", "step3"):
        hub.publish(REPO, revision, {**FILES, "model.safetensors": revision.encode()})
    update(hub, path, row("step1"), row("step2"))
    kept = read_lock(path).query("ckpt == 'step2'")
    lock, report, _ = look(hub, row("step3"), row("step2"), old=read_lock(path))
    assert set(lock["ckpt"]) == {"step2", "step3"}
    assert lock[lock["ckpt"] == "step2"].to_numpy().tolist() == kept.to_numpy().tolist()
    assert any("step1: dropped" in line for line in report)


def test_a_row_that_names_another_revision_now_is_locked_anew(hub):
    hub.publish(REPO, "step1", FILES)
    commit = hub.publish(REPO, "step2", {**FILES, "model.safetensors": b"other"})
    old = look(hub, row("step1")).lock
    lock = look(hub, row("step1", revision="step2"), old=old).lock
    assert set(lock["revision"]) == {"step2"}
    assert set(lock["commit"]) == {commit}


def test_failures_are_told_together_and_what_resolved_is_kept(hub, tmp_path):
    path = tmp_path / "lock.tsv"
    hub.publish(REPO, "step1", FILES)
    hub.publish("lab/empty", "main", {"config.json": b"{}"})
    hub.serve(
        "/api/models/lab/closed/revision/main",
        Answer(status=403, headers={"X-Error-Code": "GatedRepo"}),
    )
    table = [
        row("no-branch", revision="step9"),
        row("no-weights", source="hub:lab/empty", revision="main"),
        row("step1"),
        row("gated", source="hub:lab/closed", revision="main"),
        row("no-model", source="hub:lab/absent"),
    ]
    with pytest.raises(StudyError) as caught:
        update(hub, path, *table)
    message = str(caught.value)
    assert "4 of 5 rows are not locked" in message
    for part in (
        "no-branch: hub:lab/tiny, revision step9: has no such revision",
        "no-weights: hub:lab/empty, revision main: has no weights",
        "gated: hub:lab/closed, revision main: is gated",
        "https://huggingface.co/lab/closed and set HF_TOKEN",
        "no-model: hub:lab/absent, revision no-model: is unknown to the hub, or private",
    ):
        assert part in message
    assert set(read_lock(path)["ckpt"]) == {"step1"}


def test_a_marked_checkpoint_that_cannot_be_resolved_stops_nothing(hub):
    lock, report, failures = look(hub, row("step1", known_bad="deleted by its publisher"))
    assert failures == []
    assert lock.empty
    assert "known_bad" in report[0]


def test_a_locked_row_outlives_its_branch(hub):
    hub.publish(REPO, "step1", FILES)
    old = look(hub, row("step1")).lock
    del hub.branches[REPO, "step1"]
    lock, report, failures = look(hub, row("step1"), old=old)
    assert failures == []
    assert lock.equals(old)
    assert "stays locked" in report[0]


def test_duplicate_weights_of_two_revisions_stop_the_study_before_any_download(hub, tmp_path):
    """The case of EleutherAI/pythia#205: step branches that serve the final weights."""
    hub.publish(REPO, "step1", {**FILES, "README.md": b"early"})
    hub.publish(REPO, "main", FILES)
    hub.publish(REPO, "step2", {**FILES, "model.safetensors": b"different"})
    table = [row("step1"), row("step2"), row("final", revision="main")]
    lock = look(hub, *table).lock
    assert weights_digest(lock, "step1") == weights_digest(lock, "final")
    with pytest.raises(StudyError, match="step1, final have the same weights"):
        check_lock(lock, table, {})
    with pytest.raises(StudyError, match="step1, final have the same weights"):
        update(hub, tmp_path / "lock.tsv", *table)
    assert len(read_lock(tmp_path / "lock.tsv")) == len(lock)
    assert not [path for path in hub.paths() if "/resolve/" in path]


def test_a_hub_that_is_busy_is_asked_again(hub):
    commit = hub.publish(REPO, "step1", FILES)
    path = "/api/models/lab/tiny/revision/step1"
    record = json.dumps({"id": REPO, "sha": commit, "siblings": []}).encode()
    hub.serve(path, Answer(status=503), Answer(status=429), Answer(record))
    assert "no config.json" in look(hub, row("step1")).failures[0]
    assert len(hub.asked) == 3


@pytest.mark.parametrize("body", [b"<html>log in</html>", b"[]", b"{}"])
def test_an_answer_that_is_no_hubs_is_told(hub, body):
    hub.serve("/api/models/lab/tiny/revision/step1", Answer(body))
    assert "not a hub's answer" in look(hub, row("step1")).failures[0]


def test_a_client_that_is_told_to_stay_offline_says_so(hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in look(hub, row("step1")).failures[0]


@pytest.mark.usefixtures("client")
def test_a_hub_out_of_reach_is_told_without_retrying_forever():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        api = HfApi(endpoint=f"http://127.0.0.1:{unused.getsockname()[1]}")
    (failure,) = resolve([row("step1")], {}, empty_lock(), api, pauses=(0,)).failures
    assert "cannot be reached" in failure


# Fetching


def test_only_what_is_locked_is_fetched_and_checked(hub, tmp_path):
    manifest = bring(hub, tmp_path / "w")
    wanted = {name: FILES[name] for name in ("config.json", "tokenizer.json", "model.safetensors")}
    got = contents(tmp_path / "w")
    del got["fetched.tsv"]
    assert got == wanted
    listed = read_tsv(tmp_path / "w" / "fetched.tsv", integers={"bytes"})
    assert listed.to_numpy().tolist() == manifest.to_numpy().tolist()
    assert dict(zip(listed["file"], listed["bytes"], strict=True)) == {
        name: len(content) for name, content in wanted.items()
    }


def test_what_is_there_is_not_fetched_again(hub, tmp_path):
    bring(hub, tmp_path / "w")
    (tmp_path / "w" / "config.json").write_bytes(b"spoilt")
    hub.asked.clear()
    bring(hub, tmp_path / "w")
    assert {path.rsplit("/", 1)[1] for path in hub.paths() if "/api/" not in path} == {
        "config.json"
    }
    assert (tmp_path / "w" / "config.json").read_bytes() == FILES["config.json"]


def test_a_moved_branch_still_gives_the_locked_commit(hub, tmp_path):
    hub.publish(REPO, "step1", FILES)
    lock = look(hub, row("step1")).lock
    hub.publish(REPO, "step1", {**FILES, "model.safetensors": b"other"})
    fetch("step1", lock, tmp_path / "w", endpoint=hub.url)
    assert (tmp_path / "w" / "model.safetensors").read_bytes() == WEIGHTS


@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
def test_wrong_bytes_are_deleted_and_told(hub, tmp_path, file):
    wrong = b"x" * len(FILES[file])
    hub.instead[file] = [Answer(wrong)]
    with pytest.raises(StudyError) as caught:
        bring(hub, tmp_path / "w")
    message = str(caught.value)
    got = {
        "model.safetensors": f"sha256:{hashlib.sha256(wrong).hexdigest()}",
        "config.json": f"git-sha1:{git_blob(wrong)}",
    }
    assert f"{file} has wrong bytes: expected {len(wrong)} bytes" in message
    assert f"got {len(wrong)} bytes, {got[file]}" in message
    assert "hub:lab/tiny, commit" in message
    left = contents(tmp_path / "w")
    assert file not in left
    assert "fetched.tsv" not in left
    bring(hub, tmp_path / "w")
    assert (tmp_path / "w" / file).read_bytes() == FILES[file]


def test_a_cut_connection_is_resumed_where_it_broke(hub, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)
    hub.instead["model.safetensors"] = [Answer(WEIGHTS, cut=4000)]
    bring(hub, tmp_path / "w")
    assert (tmp_path / "w" / "model.safetensors").read_bytes() == WEIGHTS
    ranges = [request.headers["range"] for request in hub.asked if "range" in request.headers]
    assert ranges == ["bytes=4000-"]


def test_a_file_that_is_gone_is_named(hub, tmp_path):
    commit = hub.publish(REPO, "step1", FILES)
    lock = look(hub, row("step1")).lock
    del hub.commits[REPO, commit]["tokenizer.json"]
    with pytest.raises(StudyError, match=rf"revision {commit}: has no file tokenizer.json"):
        fetch("step1", lock, tmp_path / "w", endpoint=hub.url)


def test_a_gated_model_without_token_says_what_to_do(hub, tmp_path):
    hub.gated.add(REPO)
    with pytest.raises(StudyError) as caught:
        bring(hub, tmp_path / "w")
    message = str(caught.value)
    assert "hub:lab/tiny" in message
    assert "is gated" in message
    assert "https://huggingface.co/lab/tiny and set HF_TOKEN" in message


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device here is always full")
def test_a_log_on_a_full_disk_buries_nothing(capfd):
    def job() -> None:
        with log_to("/dev/full") as log:
            log.info("fetching")
            raise StudyError("cannot be written, the disk is full", where="x")

    with pytest.raises(SystemExit):
        job()
    said = capfd.readouterr().err
    assert "cannot be written, the disk is full" in said
    assert "fetching" in said
    assert "Traceback" not in said
    assert "Logging error" not in said


def test_a_gated_model_comes_with_a_token_that_no_log_repeats(hub, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("HF_TOKEN", "hf_hush")
    hub.gated.add(REPO)
    hub.instead["model.safetensors"] = [Answer(WEIGHTS, cut=10), Answer(b"x" * len(WEIGHTS))]
    with pytest.raises(SystemExit), log_to(tmp_path / "first.log"):
        bring(hub, tmp_path / "w")
    with log_to(tmp_path / "second.log"):
        bring(hub, tmp_path / "w")
    assert (tmp_path / "w" / "model.safetensors").read_bytes() == WEIGHTS
    logs = (tmp_path / "first.log").read_text() + (tmp_path / "second.log").read_text()
    assert "wrong bytes" in logs
    assert "fetching model.safetensors" in logs
    for secret in ("hf_hush", "signed-secret"):
        assert secret not in logs + "".join(capfd.readouterr())


def shards_with(weight_map: dict[str, str]) -> dict[str, bytes]:
    index = json.dumps({"weight_map": weight_map}).encode()
    return {**SHARDS, "model.safetensors.index.json": index}


def test_shards_are_fetched_with_their_index(hub, tmp_path):
    first, second = list(SHARDS)[1:]
    files = shards_with({"a": first, "b": second})
    bring(hub, tmp_path / "w", files)
    got = contents(tmp_path / "w")
    del got["fetched.tsv"]
    assert got == files


@pytest.mark.parametrize("name", ["../../elsewhere.safetensors", "/etc/passwd", "other.bin"])
def test_an_index_that_names_other_files_stops_before_the_weights(hub, tmp_path, name):
    for _ in range(2):  # the index is on disk already when it is tried again
        with pytest.raises(StudyError, match=r"index\.json"):
            bring(hub, tmp_path / "w", shards_with({"a": name}))
    assert not [path for path in hub.paths() if path.endswith(".safetensors")]
    assert "fetched.tsv" not in contents(tmp_path / "w")


def test_weights_that_are_not_locked_are_removed(hub, tmp_path):
    """A loader would take an earlier commit's shards or a pickle for the checkpoint."""
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "model.safetensors").write_bytes(b"of an earlier commit")
    files = {"config.json": b"{}", "pytorch_model.bin": b"the only ones now"}
    bring(hub, tmp_path / "w", files)
    assert set(contents(tmp_path / "w")) == {*files, "fetched.tsv"}


def test_a_tokenizer_is_fetched_without_weights(hub, tmp_path):
    hub.publish(REPO, "step1", FILES)
    lock = look(hub, tokenizers=TOKENIZERS).lock
    fetch_tokenizer("tiny", lock, tmp_path / "t", endpoint=hub.url)
    assert set(contents(tmp_path / "t")) == {"config.json", "tokenizer.json", "fetched.tsv"}


def test_progress_is_whole_lines_in_the_log(caplog):
    enable_progress_bars()  # other tests load models, which turns them off for the process
    caplog.set_level(logging.INFO)
    with _minute_lines("model.safetensors")(total=2_000_000, unit="B", unit_scale=True) as bar:
        assert caplog.messages == []
        bar.n = 500_000
        bar.refresh()
    assert caplog.messages[0] == "model.safetensors: 500.0 kB of 2.0 MB"


def test_what_is_not_locked_cannot_be_fetched(tmp_path):
    with pytest.raises(StudyError, match="step1 is not locked"):
        fetch("step1", empty_lock(), tmp_path / "w")
    assert not (tmp_path / "w").exists()


def test_a_full_disk_is_told_before_the_download(hub, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")(10**6, 10**6 - 100, 100)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(StudyError, match=r"needs 10\.3 kB, but only 100 bytes are free"):
        bring(hub, tmp_path / "w")
    assert not [path for path in hub.paths() if "/resolve/" in path]
