"""Which files make a checkpoint, and whether they are the ones that are meant."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

import fingerprint_folder
from downslope import weights
from downslope.errors import StudyError
from downslope.files import digest_as, is_as_locked
from downslope.tsv import read_tsv
from downslope.weights import (
    check_index,
    checkpoint_files,
    copy_tokenizer,
    fingerprint,
    tokenizer_files,
)
from tiny_study import COLUMNS, checkpoint_row, write_tsv_rows

SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
INDEX = "model.safetensors.index.json"


def folder_of(path: Path, **files: bytes) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (path / name).write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("names", "weights"),
    [
        (["model.safetensors", "pytorch_model.bin"], ["model.safetensors"]),
        (["model.safetensors", INDEX, *SHARDS], ["model.safetensors"]),
        ([INDEX, *SHARDS, "pytorch_model.bin"], [INDEX, *SHARDS]),
        (["pytorch_model.bin", "flax_model.msgpack", "tf_model.h5"], ["pytorch_model.bin"]),
        (
            ["pytorch_model.bin.index.json", "pytorch_model-00001-of-00001.bin"],
            ["pytorch_model.bin.index.json", "pytorch_model-00001-of-00001.bin"],
        ),
    ],
)
def test_safetensors_come_before_bin_and_nothing_else_is_taken(names, weights):
    others = ["README.md", "modeling_custom.py", "training_args.bin", "tokenizer.json"]
    chosen = checkpoint_files([*others, *names, "config.json"])
    assert chosen == ["config.json", "tokenizer.json", *weights]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["model.safetensors"], "no config.json"),
        (["config.json", "tf_model.h5"], "no weights"),
        (["config.json", INDEX, SHARDS[0]], "only model-00001"),
        (["config.json", INDEX], "only none"),
        (["config.json", INDEX, *SHARDS, "model-00003-of-00003.safetensors"], "mixed"),
    ],
)
def test_what_is_no_whole_checkpoint_is_refused(names, message):
    with pytest.raises(StudyError, match=message):
        checkpoint_files(names)


def test_a_tokenizer_needs_its_vocabulary():
    assert tokenizer_files(["tokenizer.json", "x", "config.json"]) == [
        "config.json",
        "tokenizer.json",
    ]
    assert tokenizer_files(["merges.txt", "vocab.json"]) == ["vocab.json", "merges.txt"]
    with pytest.raises(StudyError, match="no tokenizer"):
        tokenizer_files(["tokenizer_config.json", "vocab.json"])


@pytest.mark.parametrize(
    ("content", "blob"),
    # Ids that git itself gives: `printf '...' | git hash-object --stdin`
    [
        (b"", "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"),
        (b"hello\n", "ce013625030ba8dba906f756967f9e9ca394464a"),
    ],
)
def test_git_names_a_file_by_its_blob(tmp_path, content, blob):
    (tmp_path / "file").write_bytes(content)
    assert digest_as("git-sha1", tmp_path / "file") == f"git-sha1:{blob}"
    assert is_as_locked(tmp_path / "file", len(content), f"git-sha1:{blob}")
    assert not is_as_locked(tmp_path / "file", len(content) + 1, f"git-sha1:{blob}")


def test_the_published_revision_of_truthfulqa_has_the_blob_that_its_repository_states(mirror):
    # Blob id stated in two repositories that hold this file
    blob = "git-sha1:1a5b482861571979f8c64439f75ed7d82dec7b7a"
    assert digest_as("git-sha1", mirror / "truthfulqa" / "mc_task_2021-10-10.json") == blob


def test_a_sha256_is_checked_with_the_size(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    # FIPS 180-2, appendix B.1
    digest = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert is_as_locked(tmp_path / "file", 3, digest)
    assert not is_as_locked(tmp_path / "file", 3, digest.replace("ba78", "ba79"))
    assert not is_as_locked(tmp_path / "absent", 3, digest)


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        ({"a": "../model.safetensors"}, "outside its folder"),
        ({"a": "/etc/passwd"}, "outside its folder"),
        ({"a": "other.safetensors"}, "none of its shards"),
        (["model.safetensors"], "no index of shards"),
    ],
)
def test_an_index_can_name_its_own_shards_only(tmp_path, weight_map, message):
    path = tmp_path / INDEX
    path.write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(StudyError, match=message):
        check_index(path, SHARDS, "hub:lab/tiny")
    path.write_text(json.dumps({"weight_map": {"a": SHARDS[0], "b": SHARDS[1]}}))
    check_index(path, SHARDS, "hub:lab/tiny")


def test_a_fingerprint_is_of_the_files_that_count(tmp_path):
    files = {"config.json": b"{}", "model.safetensors": b"weights"}
    folder = folder_of(tmp_path / "m", **files, **{"pytorch_model.bin": b"x", "notes.md": b"y"})
    frame = fingerprint(folder)
    assert list(frame["file"]) == ["config.json", "model.safetensors"]
    assert list(frame["bytes"]) == [2, 7]
    assert list(frame["digest"]) == [
        f"sha256:{hashlib.sha256(content).hexdigest()}" for content in files.values()
    ]


def test_of_two_folders_with_the_same_weights_one_sees_the_other(tmp_path, monkeypatch):
    """Also where both are looked through at the same time: what one found lies there already."""
    monkeypatch.chdir(tmp_path)
    names = ("w8-s1", "w8-s2", "w8-s4")
    for name in names:
        files = {"config.json": name.encode(), "model.safetensors": b"one and the same"}
        folder_of(tmp_path / f"models/{name}", **files)
    rows = [checkpoint_row(8, 1), checkpoint_row(8, 2, known_bad="a copy"), checkpoint_row(8, 4)]
    (tmp_path / "config").mkdir()
    write_tsv_rows(tmp_path / "config/checkpoints.tsv", COLUMNS, rows)

    def find(name):
        output = tmp_path / f"resources/fingerprints/{name}.tsv"
        fingerprint_folder.main(name, f"models/{name}", str(output), str(tmp_path / "log"))

    find("w8-s2")  # marked known_bad, so the others may have its weights
    find("w8-s1")
    with pytest.raises(SystemExit):
        find("w8-s4")
    assert "w8-s1 (line 2) and w8-s4 have the same weights" in (tmp_path / "log").read_text()
    assert (tmp_path / "resources/fingerprints/w8-s4.tsv").is_file()
    # What was found before is out of date.
    (tmp_path / "models/w8-s1/model.safetensors").write_bytes(b"others by now")
    find("w8-s4")


def test_a_folder_that_is_written_to_while_it_is_read_is_refused(tmp_path, monkeypatch):
    folder = folder_of(tmp_path / "own", **{"config.json": b"{}", "model.safetensors": b"x"})

    def read_and_written(kind, path):
        path.write_bytes(b"longer than it was")
        return digest_as(kind, path)

    monkeypatch.setattr(weights, "digest_as", read_and_written)
    with pytest.raises(StudyError, match="own: changed while it was read"):
        fingerprint(folder)


def test_a_folder_that_is_no_checkpoint_is_named(tmp_path):
    with pytest.raises(StudyError, match="absent: is not a folder"):
        fingerprint(tmp_path / "absent")
    folder_of(tmp_path / "empty")
    with pytest.raises(StudyError, match=r"empty: has no config\.json"):
        fingerprint(tmp_path / "empty")
    index = json.dumps({"weight_map": {"a": "../../secret"}}).encode()
    shards = dict.fromkeys(SHARDS, b"x")
    folder_of(tmp_path / "led-astray", **{"config.json": b"{}", INDEX: index}, **shards)
    with pytest.raises(StudyError, match=r"led-astray.*outside its folder"):
        fingerprint(tmp_path / "led-astray")


def test_a_local_tokenizer_is_copied_with_its_manifest(tmp_path):
    folder = folder_of(tmp_path / "own", **{"tokenizer.json": b"abc", "model.safetensors": b"x"})
    folder_of(tmp_path / "copy", **{"special_tokens_map.json": b"of an earlier source"})
    copy_tokenizer(folder, tmp_path / "copy")
    assert sorted(p.name for p in (tmp_path / "copy").iterdir()) == [
        "fetched.tsv",
        "tokenizer.json",
    ]
    assert (tmp_path / "copy" / "tokenizer.json").read_bytes() == b"abc"
    manifest = read_tsv(tmp_path / "copy" / "fetched.tsv")
    digest = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert manifest.to_numpy().tolist() == [["tokenizer.json", "3", digest]]
