"""Plans: one log-likelihood for every item, protocol and choice; equal plans are equal bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from downslope.errors import StudyError
from downslope.items import Item
from downslope.plan import Plan, make_plan, read_plan, write_plan
from downslope.protocols import PROTOCOLS
from downslope.tokenization import FolderTokenizer, tokenizer_digest

ITEMS = [
    Item(0, "It is", (" hot", " very cold"), (0,), classes="[' hot', ' very cold']", item="a"),
    Item(1, "It was", (" hot", " wet", " dry"), (2,), classes="[' hot', ' wet', ' dry']", item="b"),
]
BOTH = list(PROTOCOLS.values())


def plan_of(encode: FolderTokenizer, items: list[Item] = ITEMS, pack_tokens: int = 64) -> Plan:
    return make_plan(
        "x", items, BOTH, encode, tokenizer="t", max_length=64, pack_tokens=pack_tokens
    )[0]


@pytest.fixture(scope="module")
def encode(byte_tokenizer: Path) -> FolderTokenizer:
    return FolderTokenizer(byte_tokenizer)


def test_rows_are_items_then_protocols_then_choices(encode: FolderTokenizer) -> None:
    plan = plan_of(encode)
    count = int(plan.request_offsets[-1])
    table = plan.scores(np.arange(count, dtype=np.float32), np.zeros(count, bool)).to_pandas()
    assert list(zip(table["item"], table["protocol"], table["choice"], strict=True)) == [
        *(("a", "michaelov2023", 0), ("a", "michaelov2023", 1)),
        *(("a", "mckenzie2023", 0), ("a", "mckenzie2023", 1)),
        *(("b", "michaelov2023", 0), ("b", "michaelov2023", 1), ("b", "michaelov2023", 2)),
        *(("b", "mckenzie2023", 0), ("b", "mckenzie2023", 1), ("b", "mckenzie2023", 2)),
    ]
    # Bytes: " hot" is 4 tokens; the paper's second space makes it 5. Characters: the class only.
    assert table["tokens"].tolist() == [5, 11, 4, 10, 5, 5, 5, 4, 4, 4]
    assert table["characters"].tolist() == [4, 10, 4, 10, 4, 4, 4, 4, 4, 4]


def test_each_row_gets_the_score_of_its_own_text(encode: FolderTokenizer) -> None:
    plan = plan_of(encode)
    requests = [pack.request(r) for pack in plan.packs for r in range(len(pack.request_start) - 1)]
    for row in range(len(plan.rows["item"])):
        item = ITEMS[plan.rows["item"][row]]
        protocol = BOTH[plan.rows["protocol"][row]]
        text = item.prompt + protocol.delimiter + item.choices[plan.rows["choice"][row]]
        request = requests[plan.rows["request"][row]]
        assert list(request.tokens) == encode([text], special_tokens=False)[0]
        assert plan.row_of_request(plan.rows["request"][row]).startswith(f"item {item.item}")


def test_equal_requests_are_scored_once(encode: FolderTokenizer) -> None:
    again = [*ITEMS, Item(2, "It is", (" hot", " new"), (0,), classes="[' hot', ' new']", item="c")]
    plan = plan_of(encode, again)
    assert len(plan.rows["request"]) == 14
    assert int(plan.request_offsets[-1]) == 12


def test_a_plan_survives_its_file_and_is_the_same_bytes(
    encode: FolderTokenizer, tmp_path: Path
) -> None:
    plan = plan_of(encode)
    write_plan(plan, tmp_path / "1")
    write_plan(plan_of(encode), tmp_path / "2")
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()
    again = read_plan(tmp_path / "1")
    assert again.digest == plan.digest
    assert again.facts == plan.facts
    for one, two in zip(again.packs, plan.packs, strict=True):
        assert all(np.array_equal(getattr(one, k), getattr(two, k)) for k in vars(one))


def test_the_digest_follows_items_layout_and_tokenizer(encode: FolderTokenizer) -> None:
    digest = plan_of(encode).digest
    changed = [Item(0, "It is", (" hot", " very cold"), (1,), classes=ITEMS[0].classes, item="a")]
    assert plan_of(encode, [*changed, ITEMS[1]]).digest != digest, "another right choice"
    assert plan_of(encode, pack_tokens=32).digest != digest
    other, _ = make_plan("x", ITEMS, BOTH, encode, tokenizer="u", max_length=64, pack_tokens=64)
    assert other.digest != digest


def test_cut_items_are_counted_in_the_log(encode: FolderTokenizer) -> None:
    _, notes = make_plan("x", ITEMS, BOTH, encode, tokenizer="t", max_length=12, pack_tokens=64)
    assert notes[0].startswith("michaelov2023: 1 of 2 items are longer than can be read")
    assert notes[1].startswith("mckenzie2023: 1 of 2 items")


def test_what_is_no_plan_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"no plan")
    with pytest.raises(StudyError, match=r"is not a plan.*Delete it"):
        read_plan(tmp_path / "x")


def test_the_tokenizers_digest_ignores_formatting_and_sees_the_vocabulary(
    byte_tokenizer: Path, tmp_path: Path
) -> None:
    import json

    content = json.loads((byte_tokenizer / "tokenizer.json").read_text())
    content["padding"] = {
        "strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": None,
        "pad_id": 0, "pad_type_id": 0, "pad_token": "<|endoftext|>",
    }  # fmt: skip
    content["truncation"] = {
        "direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0,
    }  # fmt: skip
    (tmp_path / "tokenizer.json").write_text(json.dumps(content, indent=7))
    assert tokenizer_digest(tmp_path) == tokenizer_digest(byte_tokenizer)
    vocabulary = content["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    assert tokenizer_digest(tmp_path) != tokenizer_digest(byte_tokenizer)


def test_the_tokenizers_digest_sees_what_the_library_makes_of_the_same_file(
    byte_tokenizer: Path, tmp_path: Path
) -> None:
    """Beside a Qwen 2 every digit is a token by itself, whatever its tokenizer.json says."""
    import json

    content = json.loads((byte_tokenizer / "tokenizer.json").read_text())
    content["model"]["vocab"]["12"] = len(content["model"]["vocab"])
    content["model"]["merges"] = [["1", "2"]]
    found = {}
    for kind in ("gpt_neox", "qwen2", ""):
        folder = tmp_path / f"model-{kind}"
        folder.mkdir()
        (folder / "tokenizer.json").write_text(json.dumps(content))
        (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "GPTNeoXTokenizer"}')
        if kind:
            (folder / "config.json").write_text(json.dumps({"model_type": kind}))
        (ids,) = FolderTokenizer(folder)(["12"], special_tokens=False)
        found[kind] = len(ids), tokenizer_digest(folder)
    assert found["gpt_neox"] == found[""]
    assert (found["gpt_neox"][0], found["qwen2"][0]) == (1, 2)
    assert found["gpt_neox"][1] != found["qwen2"][1]


def test_a_tokenizer_that_cannot_be_loaded_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text('{"model": "none"}')
    with pytest.raises(StudyError, match="its tokenizer cannot be loaded"):
        tokenizer_digest(tmp_path)


@pytest.mark.parametrize("error", [MemoryError("no more"), OSError(116, "Stale file handle")])
def test_a_failing_machine_is_not_called_a_bad_tokenizer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    import transformers

    def fails(*_: object, **__: object) -> None:
        raise error

    (tmp_path / "tokenizer.json").write_text("{}")
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", fails)
    with pytest.raises(type(error), match=str(error.args[-1])) as raised:
        tokenizer_digest(tmp_path)
    assert not isinstance(raised.value, StudyError)


def test_a_folder_without_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="holds no tokenizer"):
        tokenizer_digest(tmp_path)
