"""A study from a folder: its tables and config, and what the user has to say himself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from downslope.errors import StudyError
from downslope.harness_adopt import Adoption, Wishes, adopt, config_text
from downslope.harness_files import read_folder
from harness_folders import new, old, write


def run(folder: Path, **wishes: Any) -> Adoption:
    files, _ = read_folder(folder, "**/*.json")
    return adopt(files, str(folder), Wishes(title="A title", **wishes))


def pythia(folder: Path, *, sizes: tuple[str, ...] = ("70m", "1.4b"), **results: Any) -> None:
    """Two sizes at steps 0, 1000 and 143000 in the form of 0.3."""
    results = results or {"piqa": {"acc": 0.5, "acc_norm": 0.4}}
    for size in sizes:
        for step in (0, 1000, 143000):
            arguments = f"pretrained=EleutherAI/pythia-{size},revision=step{step}"
            old(folder / f"{size}_{step}.json", arguments, results)


def test_the_usual_case_needs_no_word(tmp_path: Path) -> None:
    pythia(tmp_path)
    found = run(tmp_path)
    rows = {row["ckpt"]: row for row in found.checkpoints}
    assert list(rows) == [
        f"pythia-{size}-step{step}" for size in ("70m", "1.4b") for step in (0, 1000, 143000)
    ]
    last = rows["pythia-1.4b-step143000"]
    assert (last["family"], last["parameters"], last["seed"]) == ("pythia", 1_400_000_000, 1234)
    assert last["tokens"] == 299_892_736_000, "the published number of training tokens"
    assert (last["source"], last["revision"]) == ("hub:EleutherAI/pythia-1.4b", "step143000")
    assert rows["pythia-70m-step0"]["tokens"] == 1
    assert "untrained" in rows["pythia-70m-step0"]["known_bad"]
    assert last["known_bad"] == ""
    assert found.config["families"] == {
        "harness": ["piqa/harness/accuracy"],
        "acc_norm": ["piqa/harness/acc_norm"],
    }
    assert found.config["cells"] == "harness"
    assert yaml.safe_load(config_text(found.config)) == found.config
    assert len(found.config["harness"]["models"]) == 1
    assert len(found.config["harness"]["models"][0]["pattern"]) < 80, "people have to read it"


def test_the_papers_tasks_get_their_names(tmp_path: Path) -> None:
    """isp_* and truthfulqa_mc, as in jmichaelov/emergent-inabilities."""
    both = {"mc1": 0.2, "mc1_stderr": 0.01, "mc2": 0.4, "mc2_stderr": 0.01}
    pythia(tmp_path, isp_memo_trap={"acc": 0.5}, truthfulqa_mc=both)
    found = run(tmp_path)
    assert found.config["harness"]["tasks"] == {
        "isp_memo_trap": "memo-trap",
        "truthfulqa_mc": "truthfulqa",
    }
    memo, truth = found.tables.rows
    assert (memo["title"], memo["cause"], memo["chance"]) == (
        "Memo Trap", "Strong Prior", "accuracy=0.5",
    )  # fmt: skip
    assert (truth["dataset"], truth["protocols"], truth["report"]) == ("harness", "harness", "yes")
    assert found.config["families"]["harness"] == [
        "memo-trap/harness/accuracy",
        "truthfulqa/harness/mc1",
        "truthfulqa/harness/mc2",
    ]


def test_the_halves_of_truthfulqa_in_0_4(tmp_path: Path) -> None:
    halves = {"truthfulqa_mc1": {"acc": 0.2}, "truthfulqa_mc2": {"acc": 0.4}}
    new(tmp_path, "pretrained=EleutherAI/pythia-70m,revision=step1000", halves)
    found = run(tmp_path)
    assert [row["task"] for row in found.tables.rows] == ["truthfulqa"]
    assert found.config["harness"]["metrics"] == {
        "truthfulqa_mc1/acc": "mc1",
        "truthfulqa_mc2/acc": "mc2",
    }


def test_two_ports_of_one_task_stay_two(tmp_path: Path) -> None:
    pythia(tmp_path, isp_neqa={"acc": 0.5}, inverse_scaling_neqa={"acc": 0.5})
    assert [row["task"] for row in run(tmp_path).tables.rows] == [
        "inverse_scaling_neqa",
        "isp_neqa",
    ]


def test_metrics_are_described_as_far_as_something_says_it(tmp_path: Path) -> None:
    """0.4 says which way is better; of 0.3's metrics the names are known, or the user says it."""
    told = {"t": {"score": True, "odd": True}, "u": {"odd": False}}
    new(
        tmp_path / "a",
        "pretrained=EleutherAI/pythia-70m,revision=step1000",
        {"t": {"score": 0.5, "odd": 1.0, "em,strict": 0.2}, "u": {"odd": 2.0}},
        higher_is_better=told,
    )
    results = {"lambada_openai": {"ppl": 9.0}, "crows": {"pct_stereotype": 0.6}}
    old(tmp_path / "b.json", "pretrained=EleutherAI/pythia-160m,revision=step1000", results)
    found = run(tmp_path)
    assert found.config["harness"]["metrics"] == {
        "score": {"better": "higher"},
        "em,strict": {"better": "higher", "as": "em.strict"},
        "ppl": {"better": "lower", "log": True, "as": "log_ppl"},
    }
    assert found.tables.unknown == {"odd": 2, "pct_stereotype": 1}
    assert [row["task"] for row in found.tables.rows] == ["lambada_openai", "t"]
    assert "lambada_openai/harness/log_ppl" in found.config["families"]["harness"]
    said = run(tmp_path, better={"pct_stereotype": "lower"})
    assert "crows" in [row["task"] for row in said.tables.rows]
    assert said.config["harness"]["metrics"]["pct_stereotype"] == {"better": "lower"}


def test_tasks_of_which_nothing_is_described_are_no_study(tmp_path: Path) -> None:
    results = {"crows": {"pct_stereotype": 0.6}}
    old(tmp_path / "b.json", "pretrained=EleutherAI/pythia-160m,revision=step1000", results)
    with pytest.raises(StudyError, match="metrics of crows are better: pct_stereotype"):
        run(tmp_path)


def test_tasks_can_be_chosen(tmp_path: Path) -> None:
    blimp = {f"blimp_{k}": {"acc": 0.5} for k in range(3)}
    pythia(tmp_path, piqa={"acc": 0.5}, **blimp)
    tasks = [row["task"] for row in run(tmp_path, tasks=["blimp_*"], without=["*_1"]).tables.rows]
    assert tasks == ["blimp_0", "blimp_2"]
    with pytest.raises(StudyError, match="no task of the files matches arc"):
        run(tmp_path, tasks=["arc"])


def test_seeds_of_one_size_are_runs_of_their_own(tmp_path: Path) -> None:
    """PolyPythias: pythia-160m and pythia-160m-seed3."""
    for name in ("pythia-160m", "pythia-160m-seed3"):
        arguments = f"pretrained=EleutherAI/{name},revision=step1000"
        old(tmp_path / f"{name}.json", arguments, {"piqa": {"acc": 0.5}})
    rows = run(tmp_path).checkpoints
    assert [(row["ckpt"], row["seed"]) for row in rows] == [
        ("pythia-160m-seed3-step1000", 3),
        ("pythia-160m-seed1234-step1000", 1234),
    ]


def test_tokens_of_a_step_are_not_guessed(tmp_path: Path) -> None:
    old(tmp_path / "a.json", "pretrained=/runs/gpt-125m/checkpoint-10", {"piqa": {"acc": 0.5}})
    with pytest.raises(StudyError, match=r"a step of gpt reads.*--tokens-per-step gpt=N"):
        run(tmp_path)
    for given in ({"gpt": 500}, {"": 500}):
        (row,) = run(tmp_path, tokens_per_step=given).checkpoints
        assert (row["tokens"], row["source"], row["revision"]) == (
            5000, "/runs/gpt-125m/checkpoint-10", "",
        )  # fmt: skip


def test_what_cannot_be_placed_is_left_out_by_name(tmp_path: Path) -> None:
    pythia(tmp_path)
    old(tmp_path / "opt.json", "pretrained=facebook/opt-125m", {"piqa": {"acc": 0.5}})
    write(tmp_path / "config.json", {"model_type": "opt"})
    found = run(tmp_path)
    assert found.unplaced == {"pretrained=facebook/opt-125m": ["opt.json"]}
    assert found.config["harness"]["leave_out"] == ["pretrained=facebook/opt-125m"]
    with_opt = run(tmp_path, steps={"opt": 1}, tokens_per_step={"opt": 180 * 10**9})
    assert not with_opt.unplaced
    assert with_opt.checkpoints[0]["ckpt"] == "opt-125m-step1"
    assert with_opt.checkpoints[0]["tokens"] == 180 * 10**9


def test_patterns_of_the_users_own(tmp_path: Path) -> None:
    """The settings of GPT-NeoX name a staging folder; the path has size and step."""
    for size in ("70m", "1.4b"):
        settings = {"load": "/fsx/staged_model", "iteration": 13000}
        old(tmp_path / size / f"{size}_step13000.json", settings, {"piqa": {"acc": 0.5}})
    with pytest.raises(StudyError, match="no file says in a usual way"):
        run(tmp_path)
    pattern = r"^(?P<parameters>[\d.]+[mb])/.*(?P<family>step)(?P<step>\d+)"
    found = run(tmp_path, path_patterns=[pattern], tokens_per_step={"": 10}, seed=5)
    assert [row["ckpt"] for row in found.checkpoints] == [
        "step-70m-step13000",
        "step-1.4b-step13000",
    ]
    assert found.config["harness"]["models"] == [{"pattern": pattern, "in": "path", "seed": 5}]
    assert len({row["source"] for row in found.checkpoints}) == 2, "sources are unique in a table"


def test_sizes_that_only_the_harness_counted(tmp_path: Path) -> None:
    new(
        tmp_path,
        "pretrained=stanford-crfm/alias-gpt2-small-x21,revision=checkpoint-100",
        {"piqa": {"acc": 0.5}},
        config={"model_num_parameters": 124439808},
    )
    pattern = r"(?P<family>gpt2-small)-x(?P<seed>\d+),revision=checkpoint-(?P<step>\d+)"
    (row,) = run(tmp_path, patterns=[pattern], tokens_per_step={"": 10}).checkpoints
    assert (row["ckpt"], row["parameters"], row["seed"]) == (
        "gpt2-small-124m-step100", 124439808, 21,
    )  # fmt: skip
