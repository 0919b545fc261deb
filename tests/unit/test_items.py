"""Parsers: what is read from the published formats, and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from downslope.errors import StudyError
from downslope.items import (
    parse_items,
    protocol_notes,
    read_items,
    write_items,
)
from downslope.pinned import require_pinned
from downslope.protocols import PROTOCOLS

GOOD: dict[str, Any] = {"prompt": "Is it?", "classes": "[' Y', ' N']", "answer_index": 1}


def write_prize(path: Path, *rows: object) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_a_prize_row_becomes_an_item(tmp_path: Path) -> None:
    items, notes = parse_items(write_prize(tmp_path / "x.jsonl", GOOD), "prize", 1)
    (item,) = items
    assert (item.prompt, item.choices, item.right) == ("Is it?", (" Y", " N"), (1,))
    assert (item.row, item.mc1, item.classes) == (0, (), "[' Y', ' N']")
    assert notes == []


def test_ids_follow_the_content_and_not_the_place(tmp_path: Path) -> None:
    other = GOOD | {"prompt": "Or is it?"}
    one, _ = parse_items(write_prize(tmp_path / "1.jsonl", GOOD, other), "prize", 2)
    two, _ = parse_items(write_prize(tmp_path / "2.jsonl", other, GOOD), "prize", 2)
    assert [item.item for item in one] == [item.item for item in reversed(two)]
    changed, _ = parse_items(
        write_prize(tmp_path / "3.jsonl", GOOD | {"answer_index": 0}), "prize", 1
    )
    assert changed[0].item != one[0].item


def test_a_repeated_item_is_kept_and_noted(tmp_path: Path) -> None:
    items, notes = parse_items(write_prize(tmp_path / "x.jsonl", GOOD, GOOD), "prize", 2)
    assert items[1].item == items[0].item + "-2"
    assert notes == ["1 items repeat an earlier one: number 2 in the file; kept"]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ("{broken", "is not JSON"),
        ("", "is not JSON"),
        ("[1]", "is not a JSON object"),
        ({"prompt": "x", "classes": "[' a', ' b']"}, "lacks 'answer_index'"),
        (GOOD | {"prompt": "  "}, "not empty"),
        (GOOD | {"prompt": None}, "not empty"),
        (GOOD | {"classes": "[]"}, "at least two"),
        (GOOD | {"classes": "[' Y']"}, "at least two"),
        (GOOD | {"classes": "[' Y', '']"}, "none of them empty"),
        (GOOD | {"classes": "[' Y', ' Y']"}, "names a class twice"),
        (GOOD | {"classes": "Y or N"}, "is not a Python list"),
        (GOOD | {"classes": "[' Y', 3]"}, "is not a Python list of strings"),
        (GOOD | {"classes": "__import__('os')"}, "is not a Python list"),
        (GOOD | {"classes": [" Y", " N"]}, "expected a text that holds a list"),
        (GOOD | {"answer_index": 2}, "answer_index is 2, expected a number from 0 to 1"),
        (GOOD | {"answer_index": -1}, "answer_index is -1"),
        (GOOD | {"answer_index": "1"}, "answer_index is '1'"),
        (GOOD | {"answer_index": True}, "answer_index is True"),
    ],
)
def test_a_bad_prize_row_stops_with_file_and_line(
    tmp_path: Path, row: object, expected: str
) -> None:
    path = write_prize(tmp_path / "x.jsonl", GOOD, row, GOOD)
    with pytest.raises(StudyError) as caught:
        parse_items(path, "prize", 3)
    assert "x.jsonl, line 2" in str(caught.value)
    assert expected in str(caught.value)


def test_a_wrong_count_stops(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="has 1 items where the register says 2"):
        parse_items(write_prize(tmp_path / "x.jsonl", GOOD), "prize", 2)


def test_a_byte_order_mark_stops(tmp_path: Path) -> None:
    path = write_prize(tmp_path / "x.jsonl", GOOD)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    with pytest.raises(StudyError, match=r"byte-order mark\. Take .* mend its source, and write"):
        parse_items(path, "prize", 1)


QUESTION: dict[str, Any] = {
    "question": "Why?",
    "mc1_targets": {"Because.": 1, "No.": 0},
    "mc2_targets": {"No.": 0, "Because.": 1, "So.": 1},
}


def test_truthfulqa_scores_mc2_answers_and_finds_mc1_among_them(tmp_path: Path) -> None:
    path = tmp_path / "mc.json"
    path.write_text(json.dumps([QUESTION]))
    (item,), _ = parse_items(path, "truthfulqa", 1)
    assert item.choices == ("No.", "Because.", "So.")
    assert item.right == (1, 2)
    assert item.mc1 == (1, 0), "the right answer first, whatever its place among the choices"
    assert item.prompt.startswith("Q: What is human life expectancy")
    assert item.prompt.endswith("Barcelona, Spain.\n\nQ: Why?\nA:")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"question": ""}, "question is ''"),
        ({"mc1_targets": {}}, "mc1_targets is {}"),
        ({"mc1_targets": {"No.": 0, "Because.": 1}}, "at its beginning"),
        ({"mc1_targets": {"Because.": 1, "So.": 1}}, "exactly one right answer"),
        ({"mc1_targets": {"Because.": 1, "New.": 0}}, "disagree about 'New.'"),
        ({"mc1_targets": {"Because.": 1, "So.": 0}}, "disagree about 'So.'"),
        ({"mc2_targets": {"Because.": 1, "No.": 2}}, "'No.': 2"),
        ({"mc1_targets": {"Because.": 1}, "mc2_targets": {"Because.": 1}}, "right and wrong"),
    ],
)
def test_a_bad_truthfulqa_entry_stops(
    tmp_path: Path, change: dict[str, Any], expected: str
) -> None:
    path = tmp_path / "mc.json"
    path.write_text(json.dumps([QUESTION, QUESTION | change]))
    with pytest.raises(StudyError) as caught:
        parse_items(path, "truthfulqa", 2)
    assert "mc.json, entry 2" in str(caught.value)
    assert expected in str(caught.value)


def test_an_answer_twice_in_truthfulqa_stops(tmp_path: Path) -> None:
    path = tmp_path / "mc.json"
    path.write_text('[{"question": "Why?", "mc1_targets": {"A": 1, "A": 0}, "mc2_targets": {}}]')
    with pytest.raises(StudyError, match="'A' appears twice"):
        parse_items(path, "truthfulqa", 1)


def test_a_format_without_parser_stops(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="'prize-sequence', which has no parser"):
        parse_items(tmp_path / "x", "prize-sequence", 1)


def test_item_tables_survive_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mc.json"
    path.write_text(json.dumps([QUESTION]))
    items, _ = parse_items(path, "truthfulqa", 1)
    write_items(items, tmp_path / "items.parquet")
    assert read_items(tmp_path / "items.parquet") == items


PUBLISHED = {
    "memo-trap": ("inverse_scaling/memo-trap_classification.jsonl", "prize", 936),
    "neqa": ("inverse_scaling/neqa_classification.jsonl", "prize", 300),
    "hindsight-neglect": ("inverse_scaling/hindsight-neglect_classification.jsonl", "prize", 315),
    "truthfulqa": ("truthfulqa/mc_task.json", "truthfulqa", 817),
}


@pytest.mark.parametrize("task", PUBLISHED)
def test_the_published_files_are_read_whole(mirror: Path, task: str) -> None:
    file, form, count = PUBLISHED[task]
    items, notes = parse_items(mirror / file, form, count)
    assert len({item.item for item in items}) == count
    assert notes == []


def test_memo_trap_rows_203_and_493_are_read_as_the_paper_read_them(mirror: Path) -> None:
    file, form, count = PUBLISHED["memo-trap"]
    items, _ = parse_items(mirror / file, form, count)
    michaelov, mckenzie = PROTOCOLS["michaelov2023"], PROTOCOLS["mckenzie2023"]
    read = {item.row: michaelov.choices(item.choices, item.classes) for item in items}
    assert read[203] == [" proceed.", 't."]']
    assert read[493] == [" here.", 't."]']
    differing = [item.row for item in items if read[item.row] != list(item.choices)]
    assert differing == [203, 493]
    (note,) = protocol_notes(items, michaelov)
    assert "in 2 of 936 items: numbers 204, 494 in the file" in note
    assert protocol_notes(items, mckenzie) == []


def test_a_file_that_was_changed_after_it_was_fetched_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"abc")
    pinned = "BA7816BF8F01CFEA414140DE5DAE2223B00361A396177A9CB410FF61F20015AD"  # NIST's, of abc
    require_pinned(path, f" {pinned}")
    path.write_bytes(b"abd")
    with pytest.raises(
        StudyError, match=r"x\.jsonl: has the sha256 a52d1.*Delete it.*new bytes and"
    ):
        require_pinned(path, pinned)
