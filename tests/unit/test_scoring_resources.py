"""What a scoring job asks for: the documented table, GPUs as `placement` counts them, plans."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from test_cost import study, with_scores  # noqa: F401 (a fixture)

import downslope.scoring_resources as module
from downslope.cost_work import SHIPPED, count_packs, operations
from downslope.errors import StudyError
from downslope.models import empty_model
from downslope.placement import placed
from downslope.plan import read_plan
from downslope.scoring_resources import ScoringResources, gpus_needed
from downslope.study import Study, load_study
from tiny_study import ROOT

PLAN = "resources/plans/bytes/alpha.safetensors"
CONTEXT = 1_000_000_000
"""Bytes of a GPU that its driver takes."""


def resources(
    of: Study, bytes_on_disk: Callable[[str], int] = lambda ckpt: 0, **config: object
) -> ScoringResources:
    """Of a study under another config."""
    return ScoringResources(replace(of, config={**of.config, **config}), bytes_on_disk)


@pytest.fixture(scope="module")
def paper(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """The shipped study, in a folder where nothing has run."""
    place = tmp_path_factory.mktemp("paper")
    (place / "config").symlink_to(ROOT / "config")
    return load_study(place)


def test_the_table_in_the_documentation(paper: Study) -> None:
    largest = {row.parameters: row.ckpt for row in paper.usable}
    by_gpu = [resources(paper, machine={"gpu_gb": gb}) for gb in (80, 40, 24)]
    computed = [
        [
            *(asked.gpus(ckpt) for asked in by_gpu),
            by_gpu[0].memory_mb(ckpt),
            by_gpu[0].minutes(ckpt),
        ]
        for _, ckpt in sorted(largest.items())
    ]
    lines = re.findall(r"^ +[0-9.]+ [MB]((?: +\d+){5})$", module.__doc__ or "", re.MULTILINE)
    assert [list(map(int, line.split())) for line in lines] == computed


@pytest.mark.parametrize(
    ("dtype", "gpu_gb", "expected"),
    [("float16", 24, 2), ("float16", 40, 1), ("float32", 24, 3), ("float32", 40, 2)],
)
def test_as_many_gpus_as_the_weights_are_placed_on(
    dtype: str, gpu_gb: int, expected: int, paper: Study, tmp_path: Path
) -> None:
    """Pythia 12B in its true shape: no fewer than are asked for would do."""
    config = {
        "model_type": "gpt_neox",
        "architectures": ["GPTNeoXForCausalLM"],
        "vocab_size": 50688,
        "hidden_size": 5120,
        "num_hidden_layers": 36,
        "num_attention_heads": 40,
        "intermediate_size": 20480,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = empty_model(tmp_path, dtype=dtype)
    (ckpt, *_) = (row.ckpt for row in paper.usable if row.parameters == 12_000_000_000)
    asked = resources(paper, dtype=dtype, machine={"gpu_gb": gpu_gb}).gpus(ckpt)
    assert asked == expected
    free = gpu_gb * 10**9 - CONTEXT
    placed(model, [free] * asked, where="12b")
    if asked > 1:
        with pytest.raises(StudyError, match=f"it needs {asked} such GPUs"):
            placed(model, [free] * (asked - 1), where="12b")


def test_gpus_by_hand() -> None:
    assert gpus_needed(10, room=10, torn=1) == 1
    assert gpus_needed(11, room=10, torn=1) == 2
    assert gpus_needed(19, room=10, torn=1) == 3, "of two, each could stay empty by one"
    assert gpus_needed(11, room=-5, torn=1) == 11, "a GPU that holds nothing is never enough"


def test_files_that_hold_more_than_the_table_says(paper: Study) -> None:
    (ckpt, *_) = (row.ckpt for row in paper.usable if row.parameters == 12_000_000_000)
    half, full = (resources(paper, lambda _, n=n: n) for n in (24 * 10**9, 48 * 10**9))
    assert half.memory_mb(ckpt) < full.memory_mb(ckpt), "the files are mapped as they are"
    assert half.gpus(ckpt) == full.gpus(ckpt) == 1, "on the GPU they have the study's dtype"
    small = {"gpu_gb": 40}
    more = resources(paper, lambda _: 100 * 10**9, machine=small)
    assert more.gpus(ckpt) == 2, "25 billion numbers at least, whatever the table says"


def test_minutes_by_hand(study: Study) -> None:  # noqa: F811
    plan = count_packs(read_plan(study.folder / PLAN).packs, study.datasets["tiny-alpha"]["bytes"])
    size = study.datasets["tiny-beta"]["bytes"]
    known = [plan, *SHIPPED["prize"].values()]
    beta = size * max(operations(1e9, counts) / counts.bytes for counts in known)
    work = operations(1e9, plan) + beta
    # So slow a GPU that its work takes 1000 minutes, three times slower than stated; 10 minutes
    # to start, and 4.2 GB at 0.1 GB a second.
    cost = {"tflops": work / 20_000 / 1e12, "share": 1.0}
    asked = resources(study, cost=cost)
    assert asked.minutes("w8-s1") == 1015
    assert resources(study, lambda _: 4 * 10**9, cost=cost).minutes("w8-s1") == 1015
    assert resources(study, lambda _: 36 * 10**9, cost=cost).minutes("w8-s1") == 1020
    assert asked.memory_mb("w8-s1") == 4000 + 5500


def test_a_measured_rate_counts_for_its_size(study: Study) -> None:  # noqa: F811
    before = resources(study).minutes("w8-s2")
    with_scores(study, "w8-s1", "alpha", seconds=1e5)
    assert resources(study).minutes("w8-s2") > 100 * before
    table = study.folder / "config/checkpoints.tsv"
    table.write_text(table.read_text().replace("\t1000000000\t2\t", "\t2000000000\t2\t"))
    other = load_study(study.folder)
    assert resources(other).minutes("w8-s1") > 100 * before
    assert resources(other).minutes("w8-s2") < 2 * before, "that of a smaller one is not its rate"


@pytest.mark.parametrize("content", [None, b"", b"no plan"])
def test_plans_that_are_missing_or_broken_stop_nothing(
    content: bytes | None,
    study: Study,  # noqa: F811
) -> None:
    (study.folder / PLAN).unlink()
    if content is not None:
        (study.folder / PLAN).write_bytes(content)
    asked = resources(study)
    assert (asked.gpus("w8-s1"), asked.minutes("w8-s1")) == (1, 15)
