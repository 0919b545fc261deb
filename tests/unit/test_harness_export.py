"""Scores written in the harness's format: nothing is lost on the way there and back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from downslope.cells import cells_of, values_of
from downslope.harness_cells import cells_frame, gather, read_results
from downslope.harness_export import DATE, export_harness
from downslope.harness_items import import_task
from downslope.harness_metrics import MetricNames
from downslope.protocols import PROTOCOLS
from scored import PROTOCOLS_OF, checkpoints, export_all

RULE = (
    r"family=(?P<family>[^,]+),parameters=(?P<parameters>\d+),seed=(?P<seed>\d+),"
    r"step=(?P<step>\d+)"
)
NAMES = [f"{task}_{protocol}" for task, listed in PROTOCOLS_OF.items() for protocol in listed]


def test_cells_and_item_values_come_back(tmp_path: Path) -> None:
    made = export_all(tmp_path)
    config = {"folder": str(tmp_path / "out"), "models": [{"pattern": RULE}]}
    names = MetricNames({}, "")
    found = gather(read_results(config), config, checkpoints(), NAMES, names)
    rows, items = [], {}
    for name in NAMES:
        own, items[name] = import_task(name, found[name], names)
        rows += own
    back = cells_frame(rows, checkpoints(), NAMES, names).set_index(["ckpt", "task", "metric"])
    cells = []
    for row in checkpoints():
        for task, (table, scores) in made[row["ckpt"]].items():
            values = values_of(scores, table, row["ckpt"], task, PROTOCOLS_OF[task])
            ddof = {name: PROTOCOLS[name].ddof for name in PROTOCOLS_OF[task]}
            cells.append(cells_of(values, row, task, ddof))
            for (protocol, metric), own_values in values.items():
                frame = items[f"{task}_{protocol}"]["harness", metric]
                np.testing.assert_array_equal(frame[row["ckpt"]], own_values)
    ours = pd.concat(cells)
    ours["task"] += "_" + ours["protocol"]
    assert len(ours) == len(back)
    for row in ours.to_dict("records"):
        other = back.loc[row["ckpt"], row["task"], row["metric"]]
        for column in ("value", "se", "flops"):
            assert other[column] == pytest.approx(row[column], rel=1e-12, nan_ok=True)
        for column in ("n", "family", "parameters", "step", "tokens", "seed"):
            assert other[column] == row[column]


def test_the_files_hang_on_nothing_but_scores(tmp_path: Path) -> None:
    """No clock, no order of rows: the same bytes."""
    made = export_all(tmp_path)
    row = checkpoints()[0]
    shuffled = {
        task: (items, scores.sample(frac=1, random_state=1), PROTOCOLS_OF[task])
        for task, (items, scores) in made[row["ckpt"]].items()
    }
    export_harness(tmp_path / "again", row, shuffled, "float32")
    first = sorted((tmp_path / "out" / row["ckpt"]).iterdir())
    assert [path.name for path in first] == sorted(
        [f"results_{DATE}.json", *(f"samples_{name}_{DATE}.jsonl" for name in NAMES)]
    )
    for path in first:
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()


def test_a_sample_says_what_was_asked_and_answered(tmp_path: Path) -> None:
    """By hand, for the item whose class list michaelov2023 cuts at an apostrophe."""
    made = export_all(tmp_path)
    items, scores = made["a-8k-s1"]["labels"]
    samples = (tmp_path / "out/a-8k-s1" / f"samples_labels_michaelov2023_{DATE}.jsonl").read_text()
    sample = json.loads(samples.splitlines()[3])
    own = scores[(scores["item"] == items["item"][3]) & (scores["protocol"] == "michaelov2023")]
    assert sample["doc"]["classes"] == '[" here.", " it isn\'t."]'
    assert sample["arguments"] == {"gen_args_0": {"arg_0": "Question 3\nAnswer:", "arg_1": ' t."]'}}
    assert sample["resps"] == [[[str(float(own["loglikelihood"].iloc[0])), "False"]]]
    assert sample["target"] == "1", "the published right class, which the protocol cannot reach"
    assert sample["acc"] == 0
    assert "margin" not in sample["metrics"]
    assert "margin" not in sample
    results = json.loads((tmp_path / "out/a-8k-s1" / f"results_{DATE}.json").read_text())
    assert results["results"]["labels_michaelov2023"]["sample_len"] == 5
    assert results["higher_is_better"]["labels_michaelov2023"]["brier_score"] is False
    assert results["config"]["model_args"] == "pretrained=models/a/1,dtype=float32"
