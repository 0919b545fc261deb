"""Replicates against brute force and sampling theory; one draw for all that a task has."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from downslope import item_bootstrap
from downslope.item_bootstrap import (
    bootstrap_items,
    draw_items,
    read_replicates,
    replicates_in,
    resample,
    resampled_means,
)
from downslope.item_values import write_item_values
from downslope.outcomes import Outcome


def item_values(items=40, ckpts=("a", "b", "c"), seed=0):
    rng = np.random.default_rng(seed)
    index = pd.Index([f"item-{number}" for number in range(items)], name="item")
    return pd.DataFrame(rng.normal(size=(items, len(ckpts))), index=index, columns=list(ckpts))


def replicates_of(frames, task="task", replicates=50, items=None):
    """The replicates of frames by (protocol, metric), without files."""
    if items is None:
        items = next(iter(frames.values())).index
    return dict(resample(frames, lambda *key: frames[key], items, task, replicates))


def by_brute_force(values, counts):
    """Write every drawn item down as often as it is drawn, and average."""
    drawn = [np.repeat(values, times, axis=0) for times in counts]
    return np.array([[c[~np.isnan(c)].mean() for c in sample.T] for sample in drawn])


def test_a_draw_has_as_many_items_as_the_task_and_the_task_is_its_seed():
    counts = draw_items(300, "memo-trap", 400)
    assert counts.shape == (400, 300)
    assert (counts.sum(axis=1) == 300).all()
    assert (draw_items(300, "memo-trap", 400) == counts).all()
    assert (draw_items(300, "neqa", 400) != counts).any()
    # A binomial count with n = 300, p = 1/300: (1 - 1/300)^300 = 0.3673 of the items are absent,
    # known here to 0.3673 +- 4 sqrt(0.2324 / 120,000).
    assert (counts == 0).mean() == pytest.approx(0.3673, abs=0.0056)
    assert counts.astype(float).var() == pytest.approx(1 - 1 / 300, rel=0.03)


def test_means_by_brute_force_also_where_a_metric_is_undefined():
    values = item_values().to_numpy(copy=True)
    counts = draw_items(40, "task", 30)
    assert resampled_means(values, counts) == pytest.approx(by_brute_force(values, counts))
    values[::7] = np.nan  # undefined for an item, whatever the checkpoint
    assert resampled_means(values, counts) == pytest.approx(by_brute_force(values, counts))
    values[3:20, 1] = np.nan  # undefined for one checkpoint
    assert resampled_means(values, counts) == pytest.approx(by_brute_force(values, counts))


def test_a_draw_without_any_item_that_has_a_value_is_nan():
    values = np.full((5, 2), np.nan)
    values[0] = 1.0, 2.0
    counts = draw_items(5, "task", 200)
    means = resampled_means(values, counts)
    assert (np.isnan(means).all(axis=1) == (counts[:, 0] == 0)).all()
    assert 0 < np.isnan(means[:, 0]).sum() < 200
    assert (means[counts[:, 0] > 0] == [1.0, 2.0]).all()


def test_blocks_do_not_show(monkeypatch):
    values = item_values()
    values.iloc[2, 1] = np.nan
    whole = replicates_of({("p", "m"): values})["p", "m"]
    monkeypatch.setattr(item_bootstrap, "_REPLICATES_AT_ONCE", 7)
    monkeypatch.setattr(item_bootstrap, "_CHECKPOINTS_AT_ONCE", 2)
    blocks = replicates_of({("p", "m"): values})["p", "m"]
    pd.testing.assert_frame_equal(blocks, whole, rtol=0, atol=1e-14)


def test_spread_of_the_replicates_is_the_standard_error_of_a_mean():
    values = item_values(items=150, ckpts=("a", "b"))
    values["b"] += values["a"]
    found = replicates_of({("p", "m"): values}, replicates=4000)["p", "m"]
    # 4,000 draws know a standard deviation to 1.1 %.
    assert found.std().to_numpy() == pytest.approx(values.std() / np.sqrt(150), rel=0.05)
    assert found.mean().to_numpy() == pytest.approx(values.mean().to_numpy(), abs=0.01)
    # The draw is shared, so the difference of two checkpoints has the paired error.
    paired = (values["b"] - values["a"]).std() / np.sqrt(150)
    assert (found["b"] - found["a"]).std() == pytest.approx(paired, rel=0.05)


def test_protocols_metrics_and_checkpoints_share_the_draw():
    values = item_values()
    frames = {("p", "m"): values, ("q", "m"): values, ("p", "other"): values.assign(c=values["a"])}
    found = replicates_of(frames)
    assert found["p", "m"].equals(found["q", "m"])
    assert found["p", "other"]["c"].equals(found["p", "m"]["a"])
    assert not found["p", "m"].equals(replicates_of(frames, task="another")["p", "m"])


def test_a_new_checkpoint_or_metric_changes_no_replicate():
    values = item_values()
    before = replicates_of({("p", "m"): values})["p", "m"]
    wider = {("p", "new"): -values.assign(d=1.0), ("p", "m"): values.assign(d=values["b"])}
    after = replicates_of(wider)["p", "m"]
    assert after[["a", "b", "c"]].to_numpy() == pytest.approx(before.to_numpy(), abs=1e-14)


def test_an_outcome_that_lacks_items_is_drawn_from_the_items_of_the_task(tmp_path):
    values = item_values(items=6)
    few = values.iloc[[4, 1]] * 2
    frames = {("p", "few"): few, ("p", "all"): values}
    write_item_values(tmp_path / "values.parquet", frames)
    bootstrap_items(tmp_path / "values.parquet", tmp_path / "task.parquet", "task", 40)
    # First the items of the first outcome, then those that it lacks.
    order = [4, 1, 0, 2, 3, 5]
    counts = draw_items(6, "task", 40)
    rows = np.array([np.repeat(order, times) for times in counts])
    expected = values["a"].to_numpy()[rows].mean(axis=1)
    found = read_replicates(tmp_path / "task.parquet", "p", "all")
    assert found["a"].to_numpy() == pytest.approx(expected, abs=1e-6)
    drawn = counts[:, :2].sum(axis=1)
    found = read_replicates(tmp_path / "task.parquet", "p", "few")
    assert (found["a"].isna() == (drawn == 0)).all()
    expected = (counts[:, :2] @ few["a"].to_numpy())[drawn > 0] / drawn[drawn > 0]
    assert found["a"].dropna().to_numpy() == pytest.approx(expected, abs=1e-6)


def test_file_of_replicates(tmp_path):
    frames = {("p", "m"): item_values(), ("p", "n"): item_values(seed=1)}
    write_item_values(tmp_path / "values.parquet", frames)
    path = tmp_path / "bootstrap" / "task.parquet"
    assert bootstrap_items(tmp_path / "values.parquet", path, "task") == 2
    file = pq.ParquetFile(path)
    assert file.num_row_groups == 2
    assert file.schema_arrow.names == ["protocol", "metric", "replicate", "a", "b", "c"]
    found = read_replicates(path, "p", "n")
    assert (found.index.name, list(found.index)) == ("replicate", list(range(2000)))
    assert set(found.dtypes) == {np.dtype("float64")}
    expected = replicates_of({("p", "n"): frames["p", "n"]}, replicates=2000)["p", "n"]
    assert found.to_numpy() == pytest.approx(expected.to_numpy(), abs=1e-6)  # kept as float32
    assert read_replicates(path, "p", "accuracy").shape == (0, 0)
    again = tmp_path / "again.parquet"
    bootstrap_items(tmp_path / "values.parquet", again, "task")
    assert again.read_bytes() == path.read_bytes()


def test_without_item_level_scores_there_are_no_replicates(tmp_path):
    write_item_values(tmp_path / "values.parquet", {})
    path = tmp_path / "task.parquet"
    assert bootstrap_items(tmp_path / "values.parquet", path, "task") == 0
    assert read_replicates(path, "p", "m").shape == (0, 0)
    replicates = replicates_in({"task": path})
    assert replicates(Outcome("task", "p", "m")).empty
    assert replicates(Outcome("never-imported", "p", "m")).empty
