"""The list that stands for a tokenizer's plans, and what it does not let pass."""

from __future__ import annotations

from pathlib import Path

import pytest

from downslope.errors import StudyError
from downslope.items import Item
from downslope.plan import make_plan, read_plan, write_plan
from downslope.plan_list import list_plans, listed_plans
from downslope.protocols import PROTOCOLS
from downslope.tokenization import FolderTokenizer


def write(encode: FolderTokenizer, path: Path, prompt: str) -> Path:
    """A plan of one item."""
    item = Item(0, prompt, (" yes", " no"), (0,), classes="[' yes', ' no']", item="a")
    plan, _ = make_plan(
        path.stem,
        [item],
        [PROTOCOLS["mckenzie2023"]],
        encode,
        tokenizer="t",
        max_length=64,
        pack_tokens=64,
    )
    write_plan(plan, path)
    return path


@pytest.fixture(scope="module")
def encode(byte_tokenizer: Path) -> FolderTokenizer:
    return FolderTokenizer(byte_tokenizer)


@pytest.fixture
def plans(encode: FolderTokenizer, tmp_path: Path) -> Path:
    """The list of two plans, and the plans."""
    folder = tmp_path / "bytes"
    made = [write(encode, folder / f"{t}.safetensors", f"{t}:") for t in ("beta", "alpha")]
    list_plans(made, tmp_path / "bytes.tsv")
    return tmp_path / "bytes.tsv"


def test_plans_come_in_the_order_asked(plans: Path) -> None:
    found = list(listed_plans(plans, ["beta", "alpha"]))
    folder = plans.with_suffix("")
    wanted = [read_plan(folder / f"{task}.safetensors").digest for task in ("beta", "alpha")]
    assert [plan.digest for plan in found] == wanted
    assert len(set(wanted)) == 2


def test_the_list_does_not_depend_on_the_order_of_tasks(plans: Path) -> None:
    folder = plans.with_suffix("")
    again = plans.with_name("again.tsv")
    list_plans([folder / "alpha.safetensors", folder / "beta.safetensors"], again)
    assert again.read_bytes() == plans.read_bytes()


@pytest.mark.parametrize("task", ["alpha", "gamma"])
def test_a_plan_that_is_gone_or_not_listed_is_named(plans: Path, task: str) -> None:
    plans.with_suffix("").joinpath("alpha.safetensors").unlink()
    with pytest.raises(StudyError, match=rf"{task}\.safetensors: .*bytes\.tsv"):
        list(listed_plans(plans, [task]))


def test_another_plan_than_the_one_listed_is_refused(plans: Path, encode: FolderTokenizer) -> None:
    write(encode, plans.with_suffix("") / "alpha.safetensors", "something else:")
    with pytest.raises(StudyError, match=r"is not the plan that bytes\.tsv lists"):
        list(listed_plans(plans, ["beta", "alpha"]))
