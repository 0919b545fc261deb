"""What a study costs: operations against exact shapes; rates, bytes and hours by hand."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from downslope.cost import Cost, study_cost
from downslope.cost_inputs import data_at_hand, plans_at_hand
from downslope.cost_left import current_weights
from downslope.cost_page import amount, cost_page
from downslope.cost_rate import SHARE, Job, choose_rate, device_of, fixed_seconds, measured_rate
from downslope.cost_study import scores_of
from downslope.cost_work import SHIPPED, Counts, Span, count_packs, operations, shape, task_works
from downslope.errors import StudyError
from downslope.identity import SCORING_MODULES, model_digest, modules_digest
from downslope.items import parse_items
from downslope.lock import write_lock
from downslope.locked import Lock
from downslope.packing import Pack, pack_requests
from downslope.plan import make_plan, read_plan, write_plan
from downslope.protocols import PROTOCOLS, Request
from downslope.store import TaskStore, read_facts
from downslope.study import REGISTER, Study, load_study
from downslope.tables import read_table
from downslope.tokenization import FolderTokenizer
from downslope.tsv import read_tsv
from estimate_cost import main, place_of
from tiny_study import (
    COLUMNS,
    DATASET_COLUMNS,
    ROOT,
    TASK_COLUMNS,
    add_dataset,
    checkpoint_row,
    prize_lines,
    task_row,
    write_config,
    write_tsv_rows,
)

PYTHIA = {
    70e6: (512, 6),
    160e6: (768, 12),
    410e6: (1024, 24),
    1e9: (2048, 16),
    1.4e9: (2048, 24),
    2.8e9: (2560, 32),
    6.9e9: (4096, 32),
    12e9: (5120, 36),
}
REAL = [(form, name) for form, sets in SHIPPED.items() for name in sets]


@pytest.mark.parametrize("counts", [SHIPPED[form][name] for form, name in REAL])
@pytest.mark.parametrize("parameters", PYTHIA)
def test_operations_are_nearly_those_of_pythia(parameters: float, counts: Counts) -> None:
    width, layers = PYTHIA[parameters]
    exact = (
        24 * width**2 * layers * counts.tokens
        + 4 * width * layers * counts.pairs
        + 2 * width * 50304 * counts.rows
    )
    bound = 0.10 if parameters < 1e9 else 0.03
    assert operations(parameters, counts) == pytest.approx(exact, rel=bound)


def test_shape_solves_its_equation() -> None:
    assert shape(12 * 850**2 * 10 + 2 * 850 * 50304) == pytest.approx((850, 10))
    width, layers = shape(12 * 0.85**2 * 0.01 + 2 * 0.85 * 50304)
    assert (width, layers) == pytest.approx((0.85, 0.01))


def test_counts_of_the_picture_in_packing() -> None:
    # The, cat, sat, dog, ran at depths 0 1 2 1 2; scored after sat, dog and ran.
    requests = [Request((1, 2, 3, 4), 1), Request((1, 2, 3, 5), 1), Request((1, 6, 7, 8), 2)]
    packs, _ = pack_requests(requests, 64)
    assert count_packs(packs, 10) == Counts(10, 5, 1 + 2 + 3 + 2 + 3, 3)


def test_a_stem_counts_once() -> None:
    def pack(stem: list[int], depth: list[int]) -> Pack:
        def ints(*values: int) -> np.ndarray:
            return np.array(values, np.int32)

        count = len(depth)
        return Pack(
            stem=ints(*stem), tokens=ints(*range(count)), depth=ints(*depth),
            end=ints(*[count] * count), target_position=ints(0, 0), target_token=ints(1, 2),
            request_start=ints(0, 1), request_targets=ints(0),
        )  # fmt: skip

    packs = [pack([7, 8], [2, 3]), pack([7, 8], [2]), pack([9], [1])]
    # Stems: 2 tokens with 1 + 2 pairs, then 1 token with 1. Packs: (3 + 4), 3 and 2 pairs.
    assert count_packs(packs, 1) == Counts(1, 2 + 1 + 4, 3 + 1 + 7 + 3 + 2, 3)


@pytest.mark.parametrize(("form", "name"), REAL)
def test_shipped_counts_are_those_of_the_real_sets(
    form: str, name: str, mirror: Path, pythia_tokenizer: FolderTokenizer
) -> None:
    row = next(row for row in read_table(REGISTER, "datasets") if row["dataset"] == name)
    items, _ = parse_items(mirror / row["mirror_path"], form, row["items"])
    names = ["michaelov2023"] if form == "truthfulqa" else ["michaelov2023", "mckenzie2023"]
    plan, _ = make_plan(
        "x", items, [PROTOCOLS[protocol] for protocol in names], pythia_tokenizer,
        tokenizer="t", max_length=2048, pack_tokens=1024,
    )  # fmt: skip
    found = count_packs(plan.packs, row["bytes"])
    # Layouts may change by a little; the tokens of a data set do not.
    assert found == pytest.approx(SHIPPED[form][name], rel=0.03)


def rows_of(*tasks: tuple[str, str, int]) -> list[dict[str, object]]:
    """Tasks (name, form, bytes), each with a data set of its own."""
    return [{"task": t, "dataset": f"data-{t}", "form": f, "bytes": b} for t, f, b in tasks]


def test_a_task_without_a_plan_goes_by_the_bytes_of_its_form() -> None:
    tasks = rows_of(("a", "prize", 100), ("b", "prize", 300), ("c", "prize", 50),
                    ("q", "truthfulqa", 10), ("new", "prize", 1000))  # fmt: skip
    planned = {
        "a": Counts(100, 10, 20, 1),
        "b": Counts(300, 90, 900, 3),
        "c": Counts(50, 4, 8, 1),
        "q": Counts(10, 10, 10, 10),
    }
    works = task_works(tasks, planned)
    # 10/100, 90/300 and 4/50 tokens a byte: 0.08 to 0.3, and 104/450 over all of them.
    assert works["new"].tokens() == pytest.approx((80, 1000 * 104 / 450, 300))
    assert not works["new"].planned
    each = [operations(1e9, planned[name]) / planned[name].bytes for name in "abc"]
    total = sum(operations(1e9, planned[name]) for name in "abc")
    expected = (1000 * min(each), 1000 * total / 450, 1000 * max(each))
    assert works["new"].operations(1e9) == pytest.approx(expected)
    # A plan's own counts are exact.
    exact = operations(1e9, planned["b"])
    assert works["b"].planned
    assert works["b"].operations(1e9) == pytest.approx((exact, exact, exact))


def test_too_few_plans_are_joined_by_what_was_counted_before() -> None:
    works = task_works(
        rows_of(("a", "prize", 100), ("b", "prize", 100)), {"a": Counts(100, 50, 9, 1)}
    )
    assert set(works["b"].counts) == {Counts(100, 50, 9, 1), *SHIPPED["prize"].values()}
    assert task_works(rows_of(("q", "truthfulqa", 5)), {})["q"].counts == (
        SHIPPED["truthfulqa"]["truthfulqa"],
    )


def test_a_plan_replaces_what_was_counted_before_of_the_same_set() -> None:
    tasks = [{"task": "n", "dataset": "neqa", "form": "prize", "bytes": 84046},
             *rows_of(("b", "prize", 1))]  # fmt: skip
    own = Counts(84046, 1, 1, 1)
    assert SHIPPED["prize"]["neqa"] not in task_works(tasks, {"n": own})["b"].counts


def test_rates_by_size_are_medians_over_checkpoints() -> None:
    jobs = [
        Job("a", 1000, "A100", 1e12, 1),
        Job("a", 1000, "A100", 5e12, 2),  # together with the first: 2e12 a second
        Job("b", 1000, "A100", 3e12, 1),
        Job("c", 1000, "A100", 8e12, 1),
        Job("d", 64000, "A100", 9e12, 1),
        Job("e", 1000, "cpu (x, 2 threads)", 1e15, 1e4),
    ]
    rate = measured_rate(jobs)
    assert rate is not None
    assert (rate.device, rate.source, rate.is_gpu) == ("A100", "measured", True)
    assert dict(rate.by_size) == {1000: Span(2e12, 3e12, 8e12), 64000: Span(9e12, 9e12, 9e12)}
    # 7000 is nearer to 1000 and 9000 to 64000, by ratio.
    assert rate.of(7000) == rate.of(1)
    assert rate.of(9000) == rate.by_size[64000]
    assert "2 sizes" in rate.text
    assert measured_rate([Job("a", 1, "A100", 0, 0)]) is None


def test_which_rate_is_taken() -> None:
    gpu, cpu = Job("a", 7, "A100", 1e12, 1), Job("b", 7, "cpu (x, 2 threads)", 1e9, 1)
    stated = {"tflops": 100, "share": 0.25}
    assert choose_rate([gpu, cpu], stated, "float16").source == "measured"
    assert choose_rate([cpu], None, "float16").by_size == {7: Span(1e9, 1e9, 1e9)}
    by_config = choose_rate([cpu], stated, "float16")
    assert by_config.source == "stated"
    assert by_config.of(123) == pytest.approx((25e12, 25e12, 25e12))
    assumed = choose_rate([], None, "bfloat16")
    assert assumed.of(1).best == pytest.approx(989.4e12 * SHARE)
    assert "Assumed, not measured" in assumed.text
    assert choose_rate([], None, "float32").of(1).best == pytest.approx(66.9e12 * SHARE)


def test_device_of_a_job() -> None:
    assert device_of({"device": "cuda:0", "gpu": "NVIDIA A100", "threads": 1}) == "NVIDIA A100"
    assert device_of({"device": "cpu", "processor": "arm", "threads": 4}) == "cpu (arm, 4 threads)"


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0"), (0.0002, "< 0.001"), (0.02134, "0.0213"), (396.4, "396"), (12345, "12,300")],
)
def test_amounts_have_three_digits(value: float, shown: str) -> None:
    assert amount(value) == shown


@pytest.fixture
def study(tmp_path: Path, byte_tokenizer: Path) -> Study:
    """Three checkpoints of the hub, one of them known_bad; tasks alpha, with a plan, and beta."""
    (tmp_path / "config").mkdir()
    write_config(tmp_path, ["alpha", "beta"])
    shutil.copytree(byte_tokenizer, tmp_path / "tokenizer")
    data = [
        add_dataset(tmp_path, f"tiny-{name}", prize_lines(9, name)) for name in ("alpha", "beta")
    ]
    write_tsv_rows(tmp_path / "config/datasets.tsv", DATASET_COLUMNS, data)
    tasks = [task_row("alpha"), task_row("beta")]
    write_tsv_rows(tmp_path / "config/tasks.tsv", TASK_COLUMNS, tasks)
    hub = {"source": "hub:toy/model", "parameters": 10**9}
    rows = [checkpoint_row(8, step, **hub, revision=f"step{step}") for step in (1, 2)]
    rows.append(checkpoint_row(8, 4, **hub, revision="step4", known_bad="damaged"))
    write_tsv_rows(tmp_path / "config/checkpoints.tsv", COLUMNS, rows)
    encode = FolderTokenizer(byte_tokenizer)
    items, _ = parse_items(tmp_path / "data/tiny-alpha.jsonl", "prize", 9)
    protocols = [PROTOCOLS[name] for name in ("michaelov2023", "mckenzie2023")]
    plan, _ = make_plan("alpha", items, protocols, encode, tokenizer=encode.digest,
                        max_length=256, pack_tokens=128)  # fmt: skip
    write_plan(plan, tmp_path / "resources/plans/bytes/alpha.safetensors")
    return load_study(tmp_path)


def with_scores(
    study: Study, ckpt: str, task: str, published: bool = True, seconds: float = 2.0, **parts: str
) -> None:
    """Scores of a task as if computed by this version: 100 tokens on an A100."""
    store = TaskStore(study.folder / "resources/scored" / ckpt, task, f"id-{task}")
    now = {"dtype": "float32", "modules": modules_digest(SCORING_MODULES)}
    if task == "alpha":
        now["plan"] = read_plan(study.folder / "resources/plans/bytes/alpha.safetensors").digest
    text = json.dumps(now | parts)
    store.finish(pa.table({}), text, {"tokens_computed": 100, "seconds": seconds, "gpu": "A100"})
    if published:
        store.publish(study.folder / f"results/scores/{ckpt}/{task}.parquet")


def lock_rows(study: Study) -> list[dict[str, object]]:
    """Two files of 7 bytes for each checkpoint, as a lock has them."""
    return [
        {"ckpt": row.ckpt, "source": row.source, "revision": row.revision, "commit": "a" * 40,
         "file": file, "bytes": 7, "digest": f"sha256:{row.step:064d}"}
        for row in study.checkpoints
        for file in ("config.json", "model.safetensors")
    ]  # fmt: skip


def digest_of(step: int) -> str:
    """What identifies the weights of a checkpoint in `lock_rows`."""
    return model_digest((f, f"sha256:{step:064d}") for f in ("config.json", "model.safetensors"))


def cost_of(study: Study, **other: object) -> Cost:
    return study_cost(study, **({"locked_bytes": {}, "local_bytes": {}} | other))


def test_costs_by_hand(study: Study) -> None:
    # One operation a second, so that seconds are operations; the second has 3 GB in the lock.
    stated = replace(study, config={**study.config, "cost": {"tflops": 1e-12, "share": 1.0}})
    cost = cost_of(stated, locked_bytes={"w8-s2": 3_000_000_000})
    plan = read_plan(study.folder / "resources/plans/bytes/alpha.safetensors")
    alpha = count_packs(plan.packs, study.datasets["tiny-alpha"]["bytes"])
    size = study.datasets["tiny-beta"]["bytes"]
    known = [alpha, *SHIPPED["prize"].values()]
    each = [operations(1e9, counts) / counts.bytes for counts in known]
    pooled = sum(operations(1e9, c) for c in known) / sum(c.bytes for c in known)
    table = cost.table.set_index("ckpt")
    assert list(table.index) == ["w8-s1", "w8-s2"]
    for ckpt, weights in (("w8-s1", 2e9), ("w8-s2", 3e9)):
        fixed = operations(1e9, alpha) + 20 + weights / 1e9
        row = table.loc[ckpt]
        assert row["gpu_hours"] == pytest.approx((fixed + size * pooled) / 3600)
        assert row["gpu_hours_low"] == pytest.approx((fixed + size * min(each)) / 3600)
        assert row["gpu_hours_high"] == pytest.approx((fixed + size * max(each)) / 3600)
        assert row["left_gpu_hours"] == row["gpu_hours"]
        assert row["download_gb"] == row["left_download_gb"] == weights / 1e9
    assert list(table["download_source"]) == ["2 bytes per parameter", "lock"]
    assert set(table["gpu_source"]) == {"stated"}
    assert fixed_seconds(3e9) == 23


def test_what_is_scored_costs_nothing_more(study: Study) -> None:
    for task in ("alpha", "beta"):
        with_scores(study, "w8-s1", task)
    with_scores(study, "w8-s2", "beta", published=False)
    cost = cost_of(study)
    table = cost.table.set_index("ckpt")
    assert list(table["left_tasks"]) == [0, 1]
    done, half = table.loc["w8-s1"], table.loc["w8-s2"]
    assert done["left_gpu_hours"] == done["left_download_gb"] == 0
    assert done["gpu_hours"] > 0
    assert 0 < half["left_gpu_hours"] < half["gpu_hours"]
    assert half["left_download_gb"] == half["download_gb"] == 2
    page = cost_page(cost)
    assert "1 of 2 checkpoints are scored. Still to do: about" in page
    assert "| **still to do** | 1 |" in page
    assert "| 4 | 2 |\n| **still" in page  # GB of both, and of the larger one


def test_scores_of_weights_that_the_lock_no_longer_has_are_to_be_made_anew(study: Study) -> None:
    for task in ("alpha", "beta"):
        with_scores(study, "w8-s1", task, weights="now")
        with_scores(study, "w8-s2", task, weights="before")
    cost = cost_of(study, weights={"w8-s1": "now", "w8-s2": "now"})
    assert list(cost.table["left_tasks"]) == [0, 2]
    assert list(cost_of(study).table["left_tasks"]) == [0, 0], "without a lock nothing is known"


def test_the_rate_is_measured_where_something_is_scored(study: Study) -> None:
    with_scores(study, "w8-s1", "alpha")
    rate = cost_of(study).rate
    plan = read_plan(study.folder / "resources/plans/bytes/alpha.safetensors")
    alpha = count_packs(plan.packs, 1)
    # 100 of the plan's tokens in 2 seconds.
    expected = operations(1e9, alpha) * 100 / alpha.tokens / 2
    assert (rate.source, rate.device) == ("measured", "A100")
    assert rate.of(10**9).best == pytest.approx(expected)


def test_low_hours_are_those_at_the_highest_rate(study: Study) -> None:
    with_scores(study, "w8-s1", "alpha")
    with_scores(study, "w8-s2", "alpha", seconds=1.0)
    cost = cost_of(study)
    work = [each.operations(1e9) for each in cost.works["bytes"].values()]
    rate = cost.rate.of(10**9)
    assert rate.high == pytest.approx(2 * rate.low)
    row = cost.table.iloc[0]
    low, high = (sum(span.low for span in work), sum(span.high for span in work))
    assert row["gpu_hours_low"] == pytest.approx((low / rate.high + 22) / 3600)
    assert row["gpu_hours_high"] == pytest.approx((high / rate.low + 22) / 3600)


@pytest.mark.parametrize("parts", [{"dtype": "float16"}, {"modules": "old"}, {"plan": "other"}])
def test_scores_of_something_else_are_still_to_do(study: Study, parts: dict[str, str]) -> None:
    with_scores(study, "w8-s1", "alpha", **parts)
    cost = cost_of(study)
    assert list(cost.table["left_tasks"]) == [2, 2]
    # Another dtype says nothing of this one's speed; an older engine says something.
    assert cost.rate.source == ("assumed" if "dtype" in parts else "measured")


def test_measured_costs_overrule(study: Study) -> None:
    with_scores(study, "w8-s1", "alpha")
    measured = [{"line": 2, "ckpt": "w8-s1", "gpu_hours": "5", "download_gb": "7"},
                {"line": 3, "ckpt": "w8-s4", "gpu_hours": "5", "download_gb": ""}]  # fmt: skip
    row = cost_of(study, measured=measured).table.set_index("ckpt").loc["w8-s1"]
    assert row["gpu_hours"] == row["gpu_hours_low"] == row["gpu_hours_high"] == 5
    assert 0 < row["left_gpu_hours"] < 5
    assert (row["gpu_source"], row["download_gb"]) == ("costs.tsv", 7)


def test_what_is_fetched_is_not_downloaded_again(study: Study) -> None:
    folder = study.folder / "resources/weights/w8-s1"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"12")
    row = {"file": "model.safetensors", "bytes": 2, "digest": f"sha256:{7:064d}"}
    write_tsv_rows(folder / "fetched.tsv", list(row), [row])
    here = model_digest([(row["file"], row["digest"])])
    for weights in (None, {"w8-s1": here}):
        table = cost_of(study, weights=weights).table
        assert list(table["left_download_gb"]) == [0, 2]
        assert list(table["download_gb"]) == [2, 2]
    moved = cost_of(study, weights={"w8-s1": "another commit's"}).table
    assert list(moved["left_download_gb"]) == [2, 2]
    (folder / "model.safetensors").unlink()
    assert list(cost_of(study).table["left_download_gb"]) == [2, 2], "its weights were given up"


def test_local_folders_cost_neither_download_nor_disk(study: Study) -> None:
    local = [replace(row, source="models/x", revision="") for row in study.checkpoints]
    table = cost_of(replace(study, checkpoints=local), local_bytes={"w8-s1": 5 * 10**9}).table
    assert not table[["download_gb", "left_download_gb"]].any(axis=None)
    # 5 GB are there to be read; of the other nothing is known but its parameters, 2 GB.
    assert table["gpu_hours"][0] - table["gpu_hours"][1] == pytest.approx(3 / 3600)


def test_a_plan_for_another_config_is_not_used(study: Study) -> None:
    told: list[str] = []
    other = replace(study, config={**study.config, "pack_tokens": 256})
    assert not cost_of(other, tell=told.append).works["bytes"]["alpha"].planned
    assert "alpha.safetensors" in told[0]
    (study.folder / "resources/plans/bytes/beta.safetensors").write_text("cut")
    assert not cost_of(study, tell=told.append).works["bytes"]["beta"].planned
    assert "beta.safetensors" in told[1]


def test_data_at_hand(tmp_path: Path) -> None:
    row = {"dataset": "d", "file": "f.json", "mirror_path": "m/f.json", "bytes": 3,
           "sha256": hashlib.sha256(b"123").hexdigest(),
           "sources": "https://example.org/a.zip!/f.json"}  # fmt: skip
    assert not data_at_hand(row, tmp_path, None)
    assert not data_at_hand(row, tmp_path, "https://example.org/mirror")
    mirror = tmp_path / "mirror/m/f.json"
    mirror.parent.mkdir(parents=True)
    for other in ("12", "124"):
        mirror.write_text(other)
        assert not data_at_hand(row, tmp_path, str(tmp_path / "mirror"))
    mirror.write_text("123")
    assert data_at_hand(row, tmp_path, str(tmp_path / "mirror"))
    assert not data_at_hand(row, tmp_path, None)
    fetched = tmp_path / "resources/datasets/d/f.json"
    fetched.parent.mkdir(parents=True)
    fetched.write_text("123")
    assert data_at_hand(row, tmp_path, None)
    own = row | {"dataset": "e", "sources": "data/a.zip!/f.json"}
    assert not data_at_hand(own, tmp_path, None)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/a.zip").touch()
    assert data_at_hand(own, tmp_path, None)
    plain = row | {"dataset": "e", "sources": "data/f.json"}
    for content, there in (("12", False), ("124", False), ("123", True)):
        (tmp_path / "data/f.json").write_text(content)
        assert data_at_hand(plain, tmp_path, None) == there


def test_plans_at_hand(study: Study) -> None:
    lock = Lock(study, study.folder / "config/checkpoints.lock.tsv", tell=print)
    both = [f"resources/plans/bytes/{task}.safetensors" for task in ("alpha", "beta")]
    assert plans_at_hand(study, lock, None) == both
    (study.folder / "data/tiny-alpha.jsonl").unlink()
    assert plans_at_hand(study, lock, None) == both[1:]
    # A tokenizer of the hub is at hand when it is fetched and the lock still says what it is.
    hub = {"bytes": {"source": "hub:toy/model", "revision": "main", "max_length": 256}}
    other = replace(study, config={**study.config, "tokenizers": hub})
    manifest = study.folder / "resources/tokenizers/bytes/fetched.tsv"
    manifest.parent.mkdir(parents=True)
    manifest.touch()
    assert plans_at_hand(other, Lock(other, lock.path, tell=print), None) == []
    rows = lock_rows(study)
    rows.append({"ckpt": "tokenizer:bytes", "source": "hub:toy/model", "revision": "main",
                 "file": "tokenizer.json", "digest": f"sha256:{9:064d}"})  # fmt: skip
    every = pd.DataFrame(rows).assign(commit="a" * 40, bytes=7)
    write_lock(every, lock.path)
    assert plans_at_hand(other, Lock(other, lock.path, tell=print), None) == both[1:]
    manifest.unlink()
    assert plans_at_hand(other, Lock(other, lock.path, tell=print), None) == []


def test_a_study_of_bad_checkpoints_only_is_told_so(study: Study) -> None:
    bad = [replace(row, known_bad="damaged") for row in study.checkpoints]
    other = replace(study, checkpoints=bad)
    with pytest.raises(StudyError, match=r"checkpoints.tsv: every checkpoint is known_bad"):
        plans_at_hand(other, Lock(other, Path("none"), tell=print), None)


def test_weights_of_a_folder_are_those_it_was_looked_through_with(study: Study) -> None:
    local = [replace(row, source="models/x", revision="") for row in study.checkpoints]
    study = replace(study, checkpoints=local)
    lock, told = Lock(study, Path("none"), tell=print), []
    folder, lists = study.folder / "models/x", study.folder / "resources/fingerprints"
    for place in (folder, lists):
        place.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"12")
    with contextlib.chdir(study.folder):
        assert current_weights(study, lock, told.append) == {}
        row = {"file": "model.safetensors", "bytes": 2, "digest": f"sha256:{7:064d}"}
        write_tsv_rows(lists / "w8-s1.tsv", list(row), [row])
        digest = model_digest([(row["file"], row["digest"])])
        assert current_weights(study, lock, told.append) == {"w8-s1": digest}
        os.utime(folder / "model.safetensors", (4e9, 4e9))
        found = current_weights(study, lock, told.append)
    assert found == {"w8-s1": ""}
    assert "models/x was touched since it was looked through" in told[0]
    with_scores(study, "w8-s1", "beta", weights=digest)
    assert list(cost_of(study, weights={"w8-s1": digest}).table["left_tasks"]) == [1, 2]
    assert list(cost_of(study, weights=found).table["left_tasks"]) == [2, 2]


def test_a_lock_says_nothing_of_another_source(study: Study) -> None:
    path = study.folder / "config/checkpoints.lock.tsv"
    write_lock(pd.DataFrame(lock_rows(study)), path)
    moved = [replace(row, revision="other") if row.step == 1 else row for row in study.checkpoints]
    assert Lock(study, path, tell=print).sizes() == {"w8-s1": 14, "w8-s2": 14, "w8-s4": 14}
    after = replace(study, checkpoints=moved)
    assert Lock(after, path, tell=print).sizes() == {"w8-s2": 14, "w8-s4": 14}
    digests = {row.ckpt: digest_of(row.step) for row in study.usable}
    assert current_weights(study, Lock(study, path, tell=print), print) == digests
    assert current_weights(after, Lock(after, path, tell=print), print) == {}
    assert current_weights(study, Lock(study, Path("none"), tell=print), print) == {}


def test_gpu_hours_are_those_of_all_gpus_of_a_job(study: Study) -> None:
    """12 billion parameters in float32 are 48 GB; with what computing takes, three of 24 GB."""
    rows = [replace(row, parameters=12 * 10**9) for row in study.checkpoints]
    alone, torn = (
        replace(study, checkpoints=rows, config={**study.config, "machine": {"gpu_gb": size}})
        for size in (80.0, 24.0)
    )
    one, many = cost_of(alone), cost_of(torn)
    gpus = many.table["gpus"][0]
    assert list(one.table["gpus"]) == [1, 1]
    assert gpus >= 3
    for column in ("gpu_hours", "gpu_hours_low", "gpu_hours_high", "left_gpu_hours"):
        assert many.table[column][0] == pytest.approx(gpus * one.table[column][0])
    assert "Each checkpoint takes one GPU of 80 GB" in cost_page(one)
    assert "2 checkpoints take more than one GPU of 24 GB" in cost_page(many)
    given = [{"line": 2, "ckpt": "w8-s1", "gpu_hours": "5", "download_gb": ""}]
    assert cost_of(torn, measured=given).table["gpu_hours"][0] == 5


def test_the_page_is_about_the_study_and_the_disk_that_are_meant(study: Study) -> None:
    budget = replace(study, config={**study.config, "machine": {"disk_budget_gb": 3.0}})
    page = cost_page(cost_of(budget), "runs/mine")
    assert "4 GB to download, at most 3 GB of it on disk.**" in page
    assert "Disk: what `disk_budget_gb` allows" in page
    assert "`snakemake --cores 1 --directory runs/mine resolve`" in page
    assert "`snakemake --cores all --directory runs/mine --keep-going plans`" in page
    assert "4 GB to download and to keep.**" in cost_page(cost_of(study))
    assert "Disk: room for all weights at once" in cost_page(cost_of(study))
    assert "what rules of this study make" not in page
    made = [replace(row, source="resources/made", revision="") for row in study.checkpoints]
    assert "what rules of this study make" in cost_page(cost_of(replace(study, checkpoints=made)))


def test_a_rate_of_another_size_says_so(study: Study) -> None:
    with_scores(study, "w8-s1", "alpha")
    rows = [replace(row, parameters=10**9 * row.step) for row in study.checkpoints]
    table = cost_of(replace(study, checkpoints=rows)).table
    assert list(table["gpu_source"]) == ["measured", "measured at 1B"]


def test_a_set_that_was_counted_before_goes_by_its_own_counts() -> None:
    known = SHIPPED["prize"]["neqa"]
    row = {"task": "n", "dataset": "neqa", "form": "prize", "bytes": known.bytes}
    works = task_works([row, *rows_of(("b", "prize", known.bytes))], {})
    assert not works["n"].planned
    assert works["n"].tokens().best == known.tokens
    assert works["n"].tokens()[::2] == works["b"].tokens()[::2], "other tokenizers, as far apart"
    assert works["b"].tokens().best > 1.5 * known.tokens
    other = task_works([row | {"bytes": known.bytes + 1}], {})["n"]
    assert other.counted is None


def test_a_plan_of_other_items_is_not_used_nor_is_what_was_scored_by_it(study: Study) -> None:
    with_scores(study, "w8-s1", "alpha")
    told: list[str] = []
    data = {**study.datasets, "tiny-alpha": study.datasets["tiny-alpha"] | {"items": 10}}
    cost = cost_of(replace(study, datasets=data), tell=told.append)
    assert not cost.works["bytes"]["alpha"].planned
    assert list(cost.table["left_tasks"]) == [2, 2]
    assert "for other items" in told[0]


def test_a_study_that_scores_nothing_is_told_so(study: Study) -> None:
    other = replace(study, config={**study.config, "cells": "import"})
    with pytest.raises(StudyError, match="scores nothing"):
        plans_at_hand(other, Lock(other, Path("none"), tell=print), None)


def test_page_says_what_is_not_known(study: Study) -> None:
    cost = cost_of(study)
    page = cost_page(cost)
    both = cost.table["gpu_hours"].sum() / 2  # of two checkpoints of 10^9 parameters
    assert f"`gpu_hours_per_billion: {float(f'{both:.3g}'):g}`" in page
    assert "Counted from plans (tokenizer bytes): alpha;" in page
    assert "**Estimated by bytes, for want of a plan** (tokenizer bytes): beta;" in page
    assert "**Assumed, not measured:** one NVIDIA H100 SXM" in page
    assert "2 from 2 bytes per parameter" in page
    assert "resolve" in page
    assert "w8-s2 with 2 GB" in page
    assert "Not counted: 1 checkpoints that are known_bad." in page
    assert "| tiny 1B | 2 |" in page
    assert "still to do" not in page


def test_script_prints_and_writes(
    study: Study, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(study.folder)
    monkeypatch.delenv("DOWNSLOPE_MIRROR", raising=False)
    write_lock(pd.DataFrame(lock_rows(study)), Path("config/checkpoints.lock.tsv"))
    with_scores(study, "w8-s1", "alpha", weights=digest_of(1))
    with_scores(study, "w8-s2", "alpha", weights="another commit's")
    main(dict(study.config), "config/checkpoints.lock.tsv", "config/costs.tsv",
         "results/cost.tsv", "results/cost.md", "logs/cost.log")  # fmt: skip
    page = Path("results/cost.md").read_text(encoding="utf-8")
    assert capsys.readouterr().out.strip() == page.strip()
    assert f"`snakemake --cores all --directory {study.folder} --keep-going plans`" in page
    table = read_tsv(Path("results/cost.tsv"))
    left = dict(zip(table["ckpt"], table["left_tasks"], strict=True))
    assert left == {"w8-s1": "1", "w8-s2": "2"}


@pytest.mark.parametrize(
    ("folder", "named"),
    [(ROOT, ""), (ROOT / "runs/demo", "runs/demo"), (ROOT / "a b", "'a b'"), (Path("/x"), "/x")],
)
def test_a_study_is_named_as_in_the_repository(folder: Path, named: str) -> None:
    assert place_of(folder) == named


def test_a_published_score_may_go_while_it_is_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that starts deletes what it will publish."""
    study = Mock(folder=tmp_path, by_task={"x": None})
    path = tmp_path / "results/scores/a/x.parquet"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"half")
    with pytest.raises(StudyError, match="no score table"):
        scores_of(study, Mock(ckpt="a"))

    def gone(path: Path) -> dict[str, object] | None:
        path.unlink()
        return read_facts(path)

    monkeypatch.setattr("downslope.cost_study.read_facts", gone)
    assert scores_of(study, Mock(ckpt="a")) == {}
