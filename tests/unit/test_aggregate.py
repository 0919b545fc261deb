"""Before scores become cells, each is asked whether it is the one that the study wants."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_plan import plan_of

from downslope.aggregate import of_wanted, stored_scores, wanted_identities
from downslope.errors import StudyError
from downslope.plan import write_plan
from downslope.tokenization import FolderTokenizer

ROWS = [{"ckpt": ckpt, "tokenizer": "t"} for ckpt in ("a", "b")]


@pytest.fixture
def plan(byte_tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "plans/t/x.safetensors"
    write_plan(plan_of(FolderTokenizer(byte_tokenizer)), path)
    return str(path)


def fingerprint(ckpt: str, weights: str) -> None:
    path = Path(f"resources/fingerprints/{ckpt}.tsv")
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ["file\tbytes\tdigest", "config.json\t1\tsha256:c", f"model.safetensors\t1\t{weights}"]
    path.write_text("\n".join(lines) + "\n")


def wanted(plan: str, locked: dict[str, str]) -> dict[str, tuple[str, str]]:
    return wanted_identities(ROWS, locked, [plan], dtype="float32", modules="m")


def test_local_folders_are_known_by_their_fingerprints(plan: str) -> None:
    fingerprint("a", "sha256:1")
    before = wanted(plan, {"a": "", "b": ""})
    assert set(before) == {"a"}, "a folder without fingerprint has no identity yet"
    fingerprint("b", "sha256:2")
    after = wanted(plan, {"a": "", "b": ""})
    assert after["a"] == before["a"] != after["b"]
    assert wanted(plan, {"a": "locked", "b": ""})["a"] != before["a"]


def test_a_fingerprint_may_go_while_it_is_looked_for(
    plan: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "is_file", lambda path: True)
    assert wanted(plan, {"a": "", "b": "locked"}).keys() == {"b"}


def test_two_folders_with_the_same_weights_are_refused(plan: str) -> None:
    fingerprint("a", "sha256:1")
    fingerprint("b", "sha256:1")
    with pytest.raises(StudyError, match="a and b have the same weights"):
        wanted(plan, {"a": "", "b": ""})


def test_the_store_is_read_by_identity(tmp_path: Path) -> None:
    stale = tmp_path / "a/x.0000.parquet"
    stale.parent.mkdir()
    stale.write_bytes(b"never read")
    assert stored_scores([str(stale)], {"a": ("1111", "{}")}) == {}
    assert stored_scores([str(stale)], {}) == {}
    assert of_wanted([str(stale)], {"a": ("1111", "{}")}) == of_wanted([str(stale)], {}) == []
    assert of_wanted([str(stale)], {"a": ("0000", "{}")}) == [stale]
