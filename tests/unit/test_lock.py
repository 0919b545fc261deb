"""The lock: its form, and what it says about a study without network or download."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from downslope.errors import StudyError
from downslope.lock import (
    COLUMNS,
    download_size,
    read_lock,
    safe_name,
    weights_digest,
    write_lock,
)
from downslope.lock_check import check_lock, duplicates

A, B, C = (f"sha256:{letter * 64}" for letter in "abc")
GIT = "git-sha1:" + "d" * 40
COMMIT = "1" * 40
TOKENIZERS = {"neox": {"source": "hub:lab/tiny", "revision": "main", "max_length": 64}}


def model(ckpt: str, weights: str, *, revision: str = "", file: str = "model.safetensors") -> list:
    """Lock rows of a checkpoint: config and one weight file."""
    head = [ckpt, "hub:lab/tiny", revision or ckpt, COMMIT]
    return [[*head, "config.json", 500, GIT], [*head, file, 1000, weights]]


def tokenizer(digest: str = GIT) -> list:
    return [["tokenizer:neox", "hub:lab/tiny", "main", COMMIT, "tokenizer.json", 40, digest]]


def lock_of(*groups: list) -> pd.DataFrame:
    rows = [row for group in groups for row in group]
    return pd.DataFrame(rows, columns=COLUMNS).astype({"bytes": "int64"})


def row(ckpt: str, **changes: str) -> dict[str, str]:
    table_row = {"ckpt": ckpt, "source": "hub:lab/tiny", "revision": ckpt, "known_bad": ""}
    return {**table_row, "tokenizer": "neox", **changes}


@pytest.mark.parametrize("name", ["config.json", "model-00001-of-00002.safetensors", "a/b", "a..b"])
def test_plain_relative_names_are_safe(name):
    assert safe_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "..",
        "../x",
        "a/../x",
        "/etc/passwd",
        "a\\b",
        "C:x",
        "-x",
        "a//b",
        "./a",
        "a/",
        "a\n",
        "\0",
    ],
)
def test_names_that_could_leave_their_folder_are_not(name):
    with pytest.raises(StudyError, match="outside its folder"):
        safe_name(name)


def test_a_lock_survives_writing_and_reading_in_an_order_of_its_own(tmp_path):
    path = tmp_path / "checkpoints.lock.tsv"
    lock = lock_of(model("step2", B), tokenizer(), model("step1", A))
    write_lock(lock, path)
    back = read_lock(path)
    assert list(back["ckpt"]) == ["step1", "step1", "step2", "step2", "tokenizer:neox"]
    assert back["bytes"].sum() == 2 * 1500 + 40
    text = path.read_bytes()
    write_lock(back.iloc[::-1], path)
    assert path.read_bytes() == text


def test_a_missing_lock_and_one_without_rows_are_empty(tmp_path):
    assert read_lock(tmp_path / "none.tsv").empty
    write_lock(lock_of(), tmp_path / "lock.tsv")
    assert read_lock(tmp_path / "lock.tsv").empty


LINE = ["step1", "hub:lab/tiny", "step1", COMMIT, "config.json", "500", GIT]


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("ckpt", "../step1"),
        ("ckpt", "Step 1"),
        ("source", "lab/tiny"),
        ("source", "hub:../../x/y"),
        ("revision", "../main"),
        ("revision", "a/../../main"),
        ("commit", "main"),
        ("commit", COMMIT[1:]),
        ("file", "../config.json"),
        ("file", "/etc/passwd"),
        ("file", ""),
        ("bytes", "-1"),
        ("bytes", "1e3"),
        ("digest", "sha256:abc"),
        ("digest", "md5:" + "a" * 32),
    ],
)
def test_a_field_out_of_form_is_refused_with_its_line(tmp_path, column, value):
    fields = [value if name == column else field for name, field in zip(COLUMNS, LINE, strict=True)]
    path = tmp_path / "lock.tsv"
    path.write_text("\n".join("\t".join(line) for line in (COLUMNS, LINE, fields)) + "\n")
    with pytest.raises(StudyError, match=rf"line 3.*{column}"):
        read_lock(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ckpt\tfile\n", "line 1"),
        ("\t".join([*COLUMNS, "extra"]) + "\n", "line 1"),
        ("\t".join(COLUMNS) + "\nstep1\tmore\n", "line 2.*has 2 fields"),
        ("\n".join("\t".join(line) for line in (COLUMNS, LINE, LINE)), "config.json twice"),
        (
            "\n".join(
                "\t".join(line)
                for line in (COLUMNS, LINE, [*LINE[:3], "2" * 40, "model.bin", "1", A])
            ),
            "step1 disagree about",
        ),
    ],
)
def test_a_broken_lock_is_refused(tmp_path, text, message):
    path = tmp_path / "lock.tsv"
    path.write_text(text)
    with pytest.raises(StudyError, match=message):
        read_lock(path)


def test_weights_are_equal_when_their_files_are_whatever_these_are_called():
    lock = lock_of(model("one", A), model("same", A, file="pytorch_model.bin"), model("other", B))
    assert weights_digest(lock, "one") == weights_digest(lock, "same")
    assert weights_digest(lock, "one") != weights_digest(lock, "other")


def test_all_shards_count_and_their_index_does_not():
    def shards(ckpt: str, first: str, second: str, index: str) -> list:
        head = [ckpt, "hub:lab/tiny", ckpt, COMMIT]
        return [
            [*head, "model-00001-of-00002.safetensors", 1000, first],
            [*head, "model-00002-of-00002.safetensors", 1000, second],
            [*head, "model.safetensors.index.json", 90, index],
        ]

    lock = lock_of(shards("x", A, B, GIT), shards("y", A, B, C), shards("z", A, C, GIT))
    assert weights_digest(lock, "x") == weights_digest(lock, "y") != weights_digest(lock, "z")
    shuffled = lock.sample(frac=1, random_state=1)
    assert weights_digest(shuffled, "x") == weights_digest(lock, "x")


def test_download_size_counts_a_shared_content_once():
    lock = lock_of(model("step1", A), model("step2", B), model("step3", A))
    # 500 bytes of one config.json in common, 1000 of A and 1000 of B
    assert download_size(lock, ["step1", "step2", "step3"]) == 2500
    assert download_size(lock, ["step1", "step3"]) == 1500
    assert download_size(lock, ["step1", "step1"]) == 1500


def test_duplicates_that_nobody_marked_stop_the_study_and_are_named():
    lock = lock_of(model("step1", A), model("step2", B), model("step3", A), tokenizer())
    table = [row("step1"), row("step2"), row("step3")]
    assert duplicates(lock, table) == [["step1", "step3"]]
    assert duplicates(lock, pd.DataFrame(table)) == [["step1", "step3"]]
    with pytest.raises(StudyError, match=r"step1, step3 have the same weights.*known_bad"):
        check_lock(lock, table, TOKENIZERS)


def test_a_lock_that_has_lost_a_row_is_refused_by_name():
    whole = [*model("step1", A), *model("step2", B), *tokenizer()]
    table = [row("step1"), row("step2")]
    assert check_lock(lock_of(whole), table, TOKENIZERS) == []
    for file, words in (
        ("model.safetensors", "step2 has no weights"),
        ("config.json", "step2 has no config.json"),
    ):
        lost = [each for each in whole if (each[0], each[4]) != ("step2", file)]
        assert len(lost) == len(whole) - 1
        with pytest.raises(StudyError, match=rf"checkpoints\.lock\.tsv: {words}.*resolve"):
            check_lock(lock_of(lost), table, TOKENIZERS)
    bare = [*whole[: -len(tokenizer())], [*tokenizer()[0][:4], "config.json", 500, GIT]]
    with pytest.raises(StudyError, match=r"tokenizer:\w+ has no tokenizer"):
        check_lock(lock_of(bare), table, TOKENIZERS)


def test_marking_all_but_one_of_the_duplicates_lets_the_study_pass():
    lock = lock_of(model("step1", A), model("step2", A), model("step3", A), tokenizer())
    marked = {"known_bad": "serves the final weights"}
    table = [row("step1", **marked), row("step2", **marked), row("step3")]
    assert check_lock(lock, table, TOKENIZERS) == []
    with pytest.raises(StudyError, match="step2, step3"):
        check_lock(lock, [row("step1", **marked), row("step2"), row("step3")], TOKENIZERS)


def test_marked_weights_that_differ_again_are_noted():
    lock = lock_of(model("step1", A), model("step2", B), tokenizer())
    notes = check_lock(lock, [row("step1", known_bad="a copy of step2"), row("step2")], TOKENIZERS)
    assert len(notes) == 1
    assert "step1" in notes[0]
    assert "a copy of step2" in notes[0]


def test_what_is_not_locked_or_locked_for_another_revision_stops_the_study():
    lock = lock_of(model("step1", A), tokenizer())
    with pytest.raises(StudyError, match=r"does not hold step2.*snakemake --cores 1 resolve"):
        check_lock(lock, [row("step1"), row("step2")], TOKENIZERS)
    with pytest.raises(StudyError, match=r"stale.*step1"):
        check_lock(lock, [row("step1", revision="main")], TOKENIZERS)
    with pytest.raises(StudyError, match=r"stale.*step1"):
        check_lock(lock, [row("step1", source="hub:lab/other")], TOKENIZERS)
    with pytest.raises(StudyError, match="does not hold tokenizer:neox"):
        check_lock(lock_of(model("step1", A)), [row("step1")], TOKENIZERS)
    with pytest.raises(StudyError, match="and 59 more"):
        check_lock(lock, [row(f"other{n}") for n in range(64)], TOKENIZERS)


def test_folders_and_marked_checkpoints_need_no_lock():
    table = [row("step1", source="models/step1", revision=""), row("step2", known_bad="broken")]
    assert check_lock(lock_of(), table, {"own": {"source": "models/own"}}) == []


def test_rows_of_the_lock_without_a_checkpoint_are_noted():
    lock = lock_of(model("step1", A), model("step0", B), tokenizer())
    (note,) = check_lock(lock, [row("step1")], TOKENIZERS)
    assert "step0" in note


def test_a_checkpoint_with_another_tokenizer_is_noted():
    own = [["step1", "hub:lab/tiny", "step1", COMMIT, "tokenizer.json", 41, "git-sha1:" + "e" * 40]]
    lock = lock_of(model("step1", A), own, model("step2", B), tokenizer())
    (note,) = check_lock(lock, [row("step1"), row("step2")], TOKENIZERS)
    assert "step1" in note
    assert "step2" not in note
    assert "tokenizer:neox" in note


def test_the_lock_of_the_paper_when_there_is_one_is_in_form():
    path = Path(__file__).parents[2] / "config" / "checkpoints.lock.tsv"
    assert list(read_lock(path).columns) == COLUMNS
