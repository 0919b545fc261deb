"""Every class of broken table or config is refused with file, line and remedy."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from downslope.errors import StudyError
from downslope.study import Study, load_study
from downslope.study_checks import lone_checkpoints, own_files
from downslope.tables import read_yaml
from tiny_study import checkpoint_row


@pytest.fixture
def place(fresh_study: Path, tmp_path: Path) -> Path:
    shutil.copytree(fresh_study / "config", tmp_path / "config")
    return tmp_path


def edit(path: Path, change: Callable[[str], str]) -> None:
    before = path.read_text(encoding="utf-8")
    after = change(before)
    assert after != before, "the edit changed nothing"
    path.write_text(after, encoding="utf-8")


def refusal(place: Path) -> str:
    with pytest.raises(StudyError) as caught:
        load_study(place)
    return str(caught.value)


def test_the_tiny_study_is_sound(place: Path) -> None:
    study = load_study(place)
    assert [row.ckpt for row in study.usable] == sorted(row.ckpt for row in study.checkpoints)
    assert study.by_task["alpha"].chance == {"accuracy": 0.5}
    assert [str(outcome) for outcome in study.primary] == [
        "alpha/mckenzie2023/accuracy",
        "beta/mckenzie2023/accuracy",
    ]


BROKEN_ROWS = {
    "a wrong type": ("\t8000\t", "\teight\t", ["line 2", "parameters is 'eight'", "whole number"]),
    "out of range": ("\t100\t", "\t0\t", ["line 2", "tokens is '0'", "at least 1"]),
    "an id that climbs": ("w8-s1\t", "../w8\t", ["line 2", "ckpt is '../w8'", "slug"]),
    "an absolute id": ("w8-s1\t", "/etc/x\t", ["line 2", "ckpt is '/etc/x'", "slug"]),
    "a capital in an id": ("w8-s1\t", "W8\t", ["line 2", "ckpt is 'W8'", "slug"]),
    "an empty id": ("w8-s1\t", "\t", ["line 2", "ckpt is ''", "slug"]),
    "a tab in an id": ("w8-s1\t", "w8\ts1\t", ["line 2", "11 fields", "tab"]),
    "a line break in an id": ("w8-s1\t", "w8\ns1\t", ["line 2", "1 fields", "line break"]),
    "a control character": ("w8-s1\t", "w8\x0bs1\t", ["line 2", "control character"]),
    "an id twice": ("w8-s2\t", "w8-s1\t", ["line 3", "'w8-s1' is already in line 2"]),
    "a source twice": ("models/w8-s2", "models/w8-s1", ["line 3", "already in line 2"]),
    "a step twice": ("\t2\t200\t", "\t1\t200\t", ["line 3", "already in line 2"]),
    "tokens that shrink": ("\t2\t200\t", "\t2\t50\t", ["line 3", "50 tokens", "grow"]),
    "a dangling tokenizer": ("\tbytes\t", "\tbites\t", ["line 2", "'bites'", "'bytes'"]),
    "a folder with a revision": (
        "models/w8-s1\t\t",
        "models/w8-s1\tmain\t",
        ["line 2", "cannot have the revision 'main'"],
    ),
    "a checkpoint with a column's name": (
        "\nw8-s1\t",
        "\nmetric\t",
        ["line 2", "'metric' is that of a column", "another name"],
    ),
    "a hub source without revision": (
        "models/w8-s1\t\t",
        "hub:a/b\t\t",
        ["line 2", "no revision", "changes unseen"],
    ),
    "a revision that climbs": (
        "models/w8-s1\t\t",
        "hub:a/b\t../../x\t",
        ["line 2", "revision is '../../x'"],
    ),
    "a repository that climbs": (
        "models/w8-s1\t\t",
        "hub:../b\tmain\t",
        ["line 2", "source is 'hub:../b'"],
    ),
    "an unknown column": ("known_bad", "known_good", ["line 1", "known_bad", "known_good"]),
}


@pytest.mark.parametrize("kind", BROKEN_ROWS)
def test_a_broken_row_is_refused_by_file_and_line(place: Path, kind: str) -> None:
    before, after, expected = BROKEN_ROWS[kind]
    edit(place / "config/checkpoints.tsv", lambda text: text.replace(before, after, 1))
    message = refusal(place)
    assert "config/checkpoints.tsv" in message
    for part in expected:
        assert part in message
    assert message.endswith((".", "?")), "a remedy follows"


def test_a_file_in_another_encoding_is_refused(place: Path) -> None:
    path = place / "config/tasks.tsv"
    path.write_bytes(path.read_bytes().replace(b"Alpha", b"Alph\xe4"))
    assert "line 2: is not UTF-8 (byte 0xe4). Save the file in UTF-8." in refusal(place)


def test_a_byte_order_mark_is_refused(place: Path) -> None:
    path = place / "config/checkpoints.tsv"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert "byte-order mark" in refusal(place)


def test_a_missing_table_says_how_a_study_is_chosen(place: Path) -> None:
    (place / "config/tasks.tsv").unlink()
    message = refusal(place)
    assert "config/tasks.tsv" in message
    assert "--directory" in message


@pytest.mark.parametrize(
    ("file", "before", "after", "expected"),
    [
        ("tasks.tsv", "tiny-alpha", "tiny-alpa", ["line 2", "'tiny-alpa'", "mean 'tiny-alpha'?"]),
        ("tasks.tsv", "michaelov2023,", "michaelov,", ["'michaelov'", "mean 'michaelov2023'?"]),
        ("tasks.tsv", "accuracy=0.5", "acuracy=0.5", ["'acuracy'", "mean 'accuracy'?"]),
        ("tasks.tsv", "accuracy=0.5", "accuracy=1.5", ["chance is 'accuracy=1.5'"]),
        ("tasks.tsv", "Control", "Bad Luck", ["cause is 'Bad Luck'", "Strong Prior"]),
        ("tasks.tsv", "\tyes", "\tmaybe", ["report is 'maybe'"]),
        ("datasets.tsv", "tiny-alpha\t", "truthfulqa\t", ["in the register that ships"]),
        ("datasets.tsv", "tiny-alpha.jsonl", "../alpha.jsonl", ["file is '../alpha.jsonl'"]),
        ("config.yaml", '"level"', '"lvel"', ["'level'"]),
        ("config.yaml", '"level": 0.05', '"level": 5', ["level is 5", "between 0 and 1"]),
        ("config.yaml", '"title"', '"tutle": 1, "title"', ["unknown key 'tutle'", "title"]),
        ("config.yaml", '"dtype"', '"title": "x", "dtype"', ["'title' is already in line"]),
        ("config.yaml", '"float32"', '"float8"', ["dtype is 'float8'", "bfloat16"]),
        ("config.yaml", "alpha/mck", "alpa/mck", ["'alpa'", "mean 'alpha'?"]),
        ("config.yaml", "2023/accuracy", "2023/acuracy", ["'acuracy'", "mean 'accuracy'?"]),
        ("config.yaml", "2023/accuracy", "2023/mc1", ["mc1 is not defined for the format 'prize'"]),
        ("config.yaml", "beta/mck", "alpha/mck", ["is there twice"]),
        ("config.yaml", '"level": 0.05,', '"level": 0.05, [', ["not valid YAML", "line"]),
    ],
)  # fmt: skip
def test_dangling_and_wrong_entries_are_refused(
    place: Path, file: str, before: str, after: str, expected: list[str]
) -> None:
    edit(place / "config" / file, lambda text: text.replace(before, after, 1))
    message = refusal(place)
    for part in [file, *expected]:
        assert part in message


def test_truthfulqa_is_refused_under_a_protocol_that_does_not_define_it(place: Path) -> None:
    edit(place / "config/tasks.tsv", lambda text: text.replace("tiny-alpha", "truthfulqa", 1))
    assert "mckenzie2023 does not define how the format 'truthfulqa'" in refusal(place)


def test_an_outcome_belongs_to_one_family(place: Path) -> None:
    edit(
        place / "config/config.yaml",
        lambda text: text.replace(
            '"families": {', '"families": {"other": ["beta/mckenzie2023/accuracy"],'
        ),
    )
    assert "families other and tiny" in refusal(place)


def test_numbers_may_be_written_with_an_exponent(place: Path) -> None:
    edit(place / "config/checkpoints.tsv", lambda text: text.replace("\t8000\t", "\t8e3\t", 1))
    edit(place / "config/checkpoints.tsv", lambda text: text.replace("\t100\t", "\t1.0e2\t", 1))
    row = load_study(place).checkpoints[0]
    assert (row.parameters, row.tokens) == (8000, 100)


def test_a_slip_that_makes_a_run_of_its_own_is_told(pytestconfig: pytest.Config) -> None:
    rows = load_study(pytestconfig.rootpath).checkpoints
    path = Path("checkpoints.tsv")
    assert lone_checkpoints(rows, path) == []
    slip = replace(rows[3], parameters=rows[3].parameters // 10)
    (said,) = lone_checkpoints([*rows[:3], slip, *rows[4:]], path)
    assert said.startswith(f"checkpoints.tsv, line {slip.line} ({slip.ckpt}): it is the only")
    assert f"family pythia, {slip.parameters} parameters, seed 1234" in said
    last = {row.run: row for row in rows}
    assert lone_checkpoints([*last.values()], path) == [], "a study of final checkpoints"
    assert lone_checkpoints([*rows[:8], *list(last.values())[1:3]], path) == [], "two beside a run"
    assert lone_checkpoints([], path) == []


def test_a_fraction_is_no_whole_number(place: Path) -> None:
    edit(place / "config/checkpoints.tsv", lambda text: text.replace("\t8000\t", "\t1.25e1\t", 1))
    assert "parameters is '1.25e1'" in refusal(place)


def test_rows_of_the_fixture_are_what_a_person_would_write() -> None:
    assert checkpoint_row(8, 1)["ckpt"] == "w8-s1"


def test_yaml_that_repeats_a_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("a: 1\nb:\n  c: 1\n  c: 2\n")
    with pytest.raises(StudyError, match=r"line 4: the key 'c' is already in line 3"):
        read_yaml(path)


@pytest.mark.parametrize(
    ("stated", "said"),
    [
        ({"level": math.nan}, "level is nan"),
        ({"drift": {"allowed_loss": math.nan}}, "drift.allowed_loss is nan"),
        ({"machine": {"gpu_gb": "nan"}}, "machine.gpu_gb is nan"),
        ({"harness": {"models": [{}, {"low": math.nan}]}}, "harness.models.1.low is nan"),
    ],
)
def test_a_number_that_is_within_no_bounds_is_refused(
    place: Path, stated: dict[str, object], said: str
) -> None:
    config = read_yaml(place / "config/config.yaml") | stated
    with pytest.raises(StudyError, match=f"config.yaml: {said}, expected a number"):
        load_study(place, config)


def test_a_data_set_of_the_study_itself_is_looked_for_beforehand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/mine.jsonl").touch()
    row = {"dataset": "mine", "line": 3, "sources": "data/mine.jsonl https://example.org/x.csv"}
    assert own_files(row, Path("datasets.tsv")) == ["data/mine.jsonl"]
    made = row | {"sources": "resources/made.zip!/a.jsonl"}
    assert own_files(made, Path("datasets.tsv")) == ["resources/made.zip"], "a rule makes it"
    for sources, missing in (
        ("data/mien.jsonl", "data/mien.jsonl"),
        ("data/my own.jsonl", "data/my"),
    ):
        said = rf"datasets.tsv, line 3 \(mine\): the source '{missing}' is no file of this study"
        with pytest.raises(StudyError, match=said):
            own_files(row | {"sources": sources}, Path("datasets.tsv"))


def test_the_papers_study(pytestconfig: pytest.Config) -> None:
    study: Study = load_study(pytestconfig.rootpath)
    assert (len(study.checkpoints), len(study.tasks), len(study.primary)) == (64, 11, 12)
    assert len(study.usable) == 58
    assert {row.parameters for row in study.checkpoints} == {
        *(70_000_000, 160_000_000, 410_000_000, 1_000_000_000),
        *(1_400_000_000, 2_800_000_000, 6_900_000_000, 12_000_000_000),
    }
    assert all(row.tokens == row.step * 2_097_152 for row in study.checkpoints)
    steps = {row.step for row in study.checkpoints}
    assert steps == {2000, 4000, 8000, 16000, 32000, 64000, 128000, 143000}
    bad = [row for row in study.checkpoints if row.known_bad]
    assert {row.step for row in bad} == {2000, 4000, 8000, 16000, 32000, 64000}
    assert {row.parameters for row in bad} == {2_800_000_000}
    assert all("EleutherAI/pythia#" in row.known_bad for row in bad)
