"""Store and publish: nothing is scored twice, nothing is lost, failures are remembered."""

from __future__ import annotations

import json
import logging
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from downslope.engine import Scorer
from downslope.errors import StudyError
from downslope.files import file_states
from downslope.identity import SCORING_MODULES, modules_digest, score_identity
from downslope.items import Item
from downslope.models import load_model
from downslope.packing import largest_token
from downslope.plan import Plan, make_plan
from downslope.products import by_onednn
from downslope.protocols import PROTOCOLS
from downslope.scoring import TaskJob, load_scorer, score_tasks
from downslope.store import TaskStore, read_scores, require_identity, unfinished
from downslope.tokenization import FolderTokenizer
from tiny_study import ROOT, make_model, make_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("model")
    make_model(place, seed=1)
    return place


def plan_of(folder: Path, task: str, count: int) -> Plan:
    encode = FolderTokenizer(folder)
    items = [
        Item(
            k, f"{task} {k} is", (" so", " not"), (k % 2,), classes="[' so', ' not']", item=f"i{k}"
        )
        for k in range(count)
    ]
    return make_plan(
        task, items, [PROTOCOLS["mckenzie2023"]], encode,
        tokenizer=encode.digest, max_length=64, pack_tokens=48,
    )[0]  # fmt: skip


def job_of(plan: Plan, store: Path, weights: str = "w") -> TaskJob:
    identity, parts = score_identity(
        plan=plan.digest, weights=weights, dtype="float32", modules="m"
    )
    return TaskJob(plan, TaskStore(store, plan.facts["task"], identity), parts)


class Counting(Scorer):
    """A scorer that counts packs and can be stopped after some of them."""

    scored = 0
    stop_after: int | None = None

    def score_packs(self, packs: Any) -> Any:
        def counted() -> Any:
            for pack in packs:
                if self.stop_after is not None and self.scored >= self.stop_after:
                    raise KeyboardInterrupt
                self.scored += 1
                yield pack

        return super().score_packs(counted())


@pytest.fixture
def scorer(folder: Path) -> Counting:
    return Counting(load_model(folder, dtype="float32", device="cpu"))


def never() -> Scorer:
    raise AssertionError("the model was loaded although nothing is missing")


def test_what_is_stored_is_not_scored_again(folder: Path, scorer: Counting, tmp_path: Path) -> None:
    job = job_of(plan_of(folder, "a", 6), tmp_path)
    score_tasks([job], lambda: scorer)
    assert scorer.scored == len(job.plan.packs) > 1
    score_tasks([job], never)
    other = job_of(plan_of(folder, "b", 3), tmp_path)
    score_tasks([job, other], lambda: scorer)
    assert scorer.scored == len(job.plan.packs) + len(other.plan.packs)


def test_an_interrupted_task_goes_on_and_gives_the_same_scores(
    folder: Path, scorer: Counting, tmp_path: Path
) -> None:
    plan = plan_of(folder, "a", 30)
    whole, broken = job_of(plan, tmp_path / "whole"), job_of(plan, tmp_path / "broken")
    score_tasks([whole], lambda: scorer)
    scorer.scored, scorer.stop_after = 0, 2
    with pytest.raises(KeyboardInterrupt):
        score_tasks([broken], lambda: scorer, save_every=0)
    assert not broken.store.finished.exists()
    scorer.scored, scorer.stop_after = 0, None
    score_tasks([broken], lambda: scorer)
    assert scorer.scored == len(plan.packs) - 2, "only the missing packs"
    one, _ = read_scores(whole.store.finished)
    two, facts = read_scores(broken.store.finished)
    assert one.equals(two)
    assert (facts["job"]["packs_found"], facts["job"]["packs_scored"]) == (2, len(plan.packs) - 2)
    leftovers = [path for path in broken.store.folder.iterdir() if path.suffix != ".parquet"]
    assert leftovers == [], "shards of a finished task are removed"


def test_at_the_end_of_a_task_the_next_one_is_under_way(
    folder: Path, scorer: Counting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two lanes do not wait for a task to be stored before they take the next one's packs."""
    scorer.lanes = 2
    jobs = [job_of(plan_of(folder, task, 12), tmp_path) for task in ("a", "b")]
    finish, taken = TaskStore.finish, []

    def finished(self: TaskStore, *given: Any) -> Any:
        taken.append(scorer.scored)
        return finish(self, *given)

    monkeypatch.setattr(TaskStore, "finish", finished)
    score_tasks(jobs, lambda: scorer)
    one, other = (len(job.plan.packs) for job in jobs)
    assert taken == [one + 2, one + other]
    for job in jobs:
        scores, facts = read_scores(job.store.finished)
        expected = np.concatenate([Scorer(scorer.model).score_pack(p)[0] for p in job.plan.packs])
        found = job.plan.scores(expected, np.ones(len(expected), bool))["loglikelihood"]
        np.testing.assert_allclose(scores["loglikelihood"], found, atol=1e-5)
        assert (facts["job"]["lanes"], facts["job"]["threads"]) == (2, scorer.threads)
        # However far the other lane is, which switches what the config names.
        assert facts["job"]["attention"] == "downslope"
        assert facts["job"]["products"] == ("oneDNN" if by_onednn() else "torch")


def test_a_job_that_was_killed_at_its_last_step_goes_on(
    folder: Path, scorer: Counting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every pack is stored, and the finished file is not."""
    job = job_of(plan_of(folder, "a", 6), tmp_path)

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(TaskStore, "finish", killed)
        with pytest.raises(KeyboardInterrupt):
            score_tasks([job], lambda: scorer, save_every=0)
    before = scorer.scored
    score_tasks([job], lambda: scorer)
    assert job.store.finished.is_file()
    assert scorer.scored == before


def test_another_identity_shares_nothing(folder: Path, scorer: Counting, tmp_path: Path) -> None:
    plan = plan_of(folder, "a", 6)
    score_tasks([job_of(plan, tmp_path, weights="one")], lambda: scorer)
    score_tasks([job_of(plan, tmp_path, weights="two")], lambda: scorer)
    assert scorer.scored == 2 * len(plan.packs)


def test_a_non_finite_score_names_the_item_and_is_remembered(folder: Path, tmp_path: Path) -> None:
    model = load_model(folder, dtype="float32", device="cpu")
    with torch.no_grad():
        model.get_output_embeddings().weight[
            FolderTokenizer(folder)([" "], special_tokens=False)[0][0]
        ] = np.nan
    job = job_of(plan_of(folder, "a", 6), tmp_path)
    with pytest.raises(StudyError) as caught:
        score_tasks([job], lambda: Scorer(model))
    assert "log-likelihood of item i" in str(caught.value)
    assert "is nan" in str(caught.value)
    with pytest.raises(StudyError, match="failed before") as again:
        score_tasks([job], never)
    assert f"delete {job.store.folder}/*.failed" in str(again.value)
    assert not job.store.finished.exists()


def test_a_checkpoint_with_another_tokenizer_is_refused_before_loading(
    folder: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "model"
    shutil.copytree(folder, copy)
    make_tokenizer(copy)
    content = json.loads((copy / "tokenizer.json").read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (copy / "tokenizer.json").write_text(json.dumps(content))
    (copy / "model.safetensors").unlink()
    jobs = [job_of(plan_of(folder, task, 3), tmp_path / "store") for task in ("a", "b")]
    with pytest.raises(StudyError, match=r"task a, b: .* is not the one that the plan was made"):
        load_scorer(copy, jobs, dtype="float32", threads=1)
    assert all("is not the one" in job.store.marker.read_text() for job in jobs)


def test_with_other_files_in_its_folder_a_checkpoint_is_tried_again(
    folder: Path, tmp_path: Path
) -> None:
    """A tokenizer that was put in, weights that were fetched once more: no identity tells."""
    copy = tmp_path / "model"
    shutil.copytree(folder, copy)
    (copy / "tokenizer.json").rename(tmp_path / "tokenizer.json")
    plans = [plan_of(folder, task, 3) for task in ("a", "b")]

    def jobs() -> list[TaskJob]:
        made = [job_of(plan, tmp_path / "store") for plan in plans]
        for job in made:
            job.store.files = file_states(copy.glob("*"))
        return made

    def load() -> Scorer:
        return load_scorer(copy, jobs(), dtype="float32", threads=1)

    with pytest.raises(StudyError, match="holds no tokenizer"):
        score_tasks(jobs(), load)
    with pytest.raises(StudyError, match="failed before"):
        score_tasks(jobs(), never)
    (tmp_path / "tokenizer.json").rename(copy / "tokenizer.json")
    with pytest.raises(StudyError, match="failed before"):  # nobody knows what lies there now
        unfinished([job_of(plan, tmp_path / "store") for plan in plans])
    score_tasks(jobs(), load)
    for job in jobs():
        assert job.store.finished.is_file()
        assert not job.store.marker.exists(), "it says nothing any more"


def test_half_precision_on_a_cpu_is_announced(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    job = job_of(plan_of(folder, "a", 3), tmp_path)
    load_scorer(folder, [job], dtype="float32", threads=1)
    assert "on a CPU" not in caplog.text
    scorer = load_scorer(folder, [job], dtype="bfloat16", threads=1)
    assert "bfloat16 on a CPU: products are rounded to it" in caplog.text
    score_tasks([job], lambda: scorer)
    facts = read_scores(job.store.finished)[1]["job"]
    assert (facts["dtype"], facts["path"], facts["inner_tokens"]) == ("bfloat16", "packed", None)
    assert facts["peak_bytes"] > 10**7


@pytest.mark.parametrize(
    ("threads", "lanes", "long", "said"), [(1, 1, 0, True), (1, 1, 1e13, False), (8, 2, 0, False)]
)
def test_cores_that_stand_idle_for_minutes_are_announced(
    threads: int, lanes: int, long: float, said: bool,
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("downslope.job_report.cores", lambda: 8)
    monkeypatch.setattr("downslope.job_report.LONG", long)
    before = torch.get_num_threads()
    with caplog.at_level(logging.INFO, logger="downslope"):
        scorer = load_scorer(
            folder, [job_of(plan_of(folder, "a", 3), tmp_path)], dtype="float32", threads=threads
        )
    torch.set_num_threads(before)
    assert (scorer.lanes, scorer.threads) == (lanes, threads)
    words = "no GPU: computing on 1 of 8 cores; `--set-threads score=8` gives a job all of them"
    assert (words in caplog.text) == said


def test_a_model_with_too_few_positions_is_refused(folder: Path, tmp_path: Path) -> None:
    model = load_model(folder, dtype="float32", device="cpu")
    model.config.max_position_embeddings = 5
    job = job_of(plan_of(folder, "a", 3), tmp_path)
    with pytest.raises(StudyError, match=r"longer than the model's 5 positions, up to 9"):
        score_tasks([job], lambda: Scorer(model))


def test_tokens_that_a_model_does_not_know_are_refused(folder: Path, tmp_path: Path) -> None:
    """Also one that is predicted and never read, of which no embedding would complain."""
    plan = plan_of(folder, "a", 3)
    last = max(plan.packs, key=largest_token)
    last.target_token[-1] = 60_000
    assert all(60_000 not in pack.tokens for pack in plan.packs)
    job = job_of(plan, tmp_path)
    model = load_model(folder, dtype="float32", device="cpu")
    known = model.config.vocab_size
    with pytest.raises(StudyError, match=rf"task a: .* the model's 0 to {known - 1}, up to 60000"):
        score_tasks([job], lambda: Scorer(model))
    assert "up to 60000" in job.store.marker.read_text()


def test_a_model_that_is_not_causal_is_tried_once(folder: Path, tmp_path: Path) -> None:
    job = job_of(plan_of(folder, "a", 3), tmp_path)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = transformers.BertConfig(vocab_size=60_000, initializer_range=0.3, **shape)
    model = transformers.BertLMHeadModel(config).eval()
    with pytest.raises(StudyError, match="BertLMHeadModel: is no causal language model"):
        score_tasks([job], lambda: Scorer(model))
    with pytest.raises(StudyError, match=r"failed before.* BertLMHeadModel: is no causal"):
        score_tasks([job], never)


def test_incomplete_weights_are_refused(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    copy = tmp_path / "model"
    shutil.copytree(folder, copy)
    weights = load_file(copy / "model.safetensors")
    del weights["gpt_neox.layers.1.mlp.dense_h_to_4h.weight"]
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(StudyError, match=r"lacks 1 weights.*dense_h_to_4h"):
        load_model(copy, dtype="float32", device="cpu")


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="cannot be loaded as a causal language model"):
        load_model(tmp_path, dtype="float32", device="cpu")


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("model.safetensors", "cannot be loaded as a causal language model"),
        ("tokenizer.json", "holds no tokenizer"),
    ],
)
def test_what_cannot_be_loaded_has_failed_for_all_its_tasks(
    folder: Path, tmp_path: Path, file: str, words: str
) -> None:
    """Half a copy of the weights, or no tokenizer: coverage and status say so of every task."""
    copy = tmp_path / "model"
    shutil.copytree(folder, copy)
    jobs = [job_of(plan_of(folder, task, 3), tmp_path / "store") for task in ("a", "b")]
    whole = (copy / file).read_bytes()
    (copy / file).write_bytes(whole[: len(whole) // 2])
    if file == "tokenizer.json":
        (copy / file).unlink()
    with pytest.raises(StudyError, match=f"{copy}: {words}"):
        load_scorer(copy, jobs, dtype="float32", threads=1)
    for job in jobs:
        assert words in job.store.marker.read_text()
        with pytest.raises(StudyError, match="failed before"):
            unfinished([job])


def test_pickled_weights_cannot_run_code(folder: Path, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "pwned",)

    copy = tmp_path / "model"
    shutil.copytree(folder, copy)
    (copy / "model.safetensors").unlink()
    torch.save({"x": Evil()}, copy / "pytorch_model.bin")
    with pytest.raises(StudyError):
        load_model(copy, dtype="float32", device="cpu")
    assert not (tmp_path / "pwned").exists()


def test_code_in_a_model_folder_is_not_run(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "model"
    shutil.copytree(folder, copy)
    config = json.loads((copy / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoModelForCausalLM": "own.Model"}}
    (copy / "config.json").write_text(json.dumps(config))
    (copy / "own.py").write_text(f"open({str(tmp_path / 'pwned')!r}, 'w')\n")
    with pytest.raises(StudyError):
        load_model(copy, dtype="float32", device="cpu")
    assert not (tmp_path / "pwned").exists()


def test_stale_scores_are_refused_with_what_changed(
    folder: Path, scorer: Counting, tmp_path: Path
) -> None:
    plan = plan_of(folder, "a", 3)
    job = job_of(plan, tmp_path)
    score_tasks([job], lambda: scorer)
    job.store.publish(tmp_path / "a.parquet")
    _, facts = read_scores(tmp_path / "a.parquet")
    require_identity(facts, job.store.identity, job.parts, tmp_path / "a.parquet")
    wanted, parts = score_identity(plan=plan.digest, weights="new", dtype="float32", modules="m")
    with pytest.raises(StudyError, match=r"a\.parquet: was computed from other weights than"):
        require_identity(facts, wanted, parts, tmp_path / "a.parquet")


def test_the_identity_covers_every_part() -> None:
    parts = {"plan": "p", "weights": "w", "dtype": "d", "modules": "m"}
    whole = score_identity(**parts)[0]
    assert len({whole} | {score_identity(**parts | {key: "x"})[0] for key in parts}) == 5
    assert modules_digest(SCORING_MODULES) != modules_digest(SCORING_MODULES[1:])


def test_a_killed_process_loses_only_what_was_not_saved(folder: Path, tmp_path: Path) -> None:
    """kill -9 in the middle of a task, then a second process: the same bytes, fewer packs."""
    program = tmp_path / "score.py"
    program.write_text(
        f"""
import sys, time
sys.path[:0] = [{str(ROOT / "scripts")!r}, {str(ROOT / "tests")!r}, {str(ROOT / "tests/unit")!r}]
from pathlib import Path
from test_scoring import Counting, job_of, plan_of
from downslope.models import load_model
from downslope.scoring import score_tasks

class Slow(Counting):
    def score_packs(self, packs):
        for number, scores in enumerate(super().score_packs(packs)):
            if number == 3:
                time.sleep(float(sys.argv[2]))  # until it is killed
            yield scores

folder = Path({str(folder)!r})
job = job_of(plan_of(folder, "a", 30), Path(sys.argv[1]))
score_tasks([job], lambda: Slow(load_model(folder, dtype="float32", device="cpu")), save_every=0)
"""
    )
    store = tmp_path / "store"
    process = subprocess.Popen([sys.executable, str(program), str(store), "600"])
    try:
        deadline = time.monotonic() + 120
        while len(list(store.glob("*.packs/*.parquet"))) < 2:
            assert time.monotonic() < deadline, "no pack was saved"
            assert process.poll() is None, "the process ended before it could be killed"
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not list(store.glob("*.parquet"))
    subprocess.run([sys.executable, str(program), str(store), "0"], check=True)
    subprocess.run([sys.executable, str(program), str(tmp_path / "whole"), "0"], check=True)
    (one,), (two,) = store.glob("*.parquet"), (tmp_path / "whole").glob("*.parquet")
    scores, facts = read_scores(one)
    assert scores.equals(read_scores(two)[0])
    assert facts["job"]["packs_found"] >= 2
    assert facts["job"]["packs_scored"] == facts["job"]["packs"] - facts["job"]["packs_found"]


def test_a_log_shows_whole_lines_with_rate_and_time_left(caplog: pytest.LogCaptureFixture) -> None:
    from downslope.logs import Progress

    with caplog.at_level(logging.INFO, logger="downslope"):
        progress = Progress("scored", 500, noun="tokens", period=0.0)
        progress.more = lambda: "; alpha (1 of 2 tasks)"
        time.sleep(0.01)
        progress.advance(250)
        quiet = Progress("scored", 500, noun="tokens", period=60.0)
        quiet.advance(250)
    assert len(caplog.messages) == 1, "within a period nothing is written"
    assert caplog.messages[0].startswith("scored 250 of 500 tokens (50%), ")
    assert caplog.messages[0].endswith(" s left; alpha (1 of 2 tasks)")
    assert "\r" not in caplog.text
