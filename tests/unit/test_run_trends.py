"""Slopes by hand and by other systems, the level of their errors, and the largest models alone."""

from __future__ import annotations

import functools

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

import bootstrap_items
import fit_run_trends
from downslope.errors import StudyError
from downslope.item_bootstrap import draw_items, resampled_means
from downslope.item_values import write_item_values
from downslope.run_trends import (
    COLUMNS,
    QUESTION,
    directions,
    largest_only,
    run_trends,
    training_slope,
)
from downslope.tsv import read_tsv, write_tsv

TOKENS = np.array([2, 4, 8, 17, 34, 67, 134, 300]) * 10**9
X = np.log10(TOKENS) - np.log10(TOKENS).mean()
SIZES = {
    70_000_000: "70M",
    160_000_000: "160M",
    410_000_000: "410M",
    1_000_000_000: "1B",
    1_400_000_000: "1.4B",
    2_800_000_000: "2.8B",
    6_900_000_000: "6.9B",
    12_000_000_000: "12B",
}


def items_of_run(rng, items, drift, *, level=0.0, noise=0.5):
    """0/1 values (items, checkpoints): an item is right while its latent margin is above zero."""
    start = rng.normal(level, 1, size=(items, 1))
    slopes = rng.normal(drift, 0.5, size=(items, 1))
    return (start + slopes * X + rng.normal(0, noise, size=(items, len(X))) > 0).astype(float)


@functools.cache
def drawn(items, replicates):
    return draw_items(items, "task", replicates)


def study(runs, outcome="task/p/accuracy", family="toy", seed=0, replicates=2000):
    """Cells and replicates of one outcome from item values by model size, (items, checkpoints)."""
    task, protocol, metric = outcome.split("/")
    cells, resampled = [], {}
    for size, values in runs.items():
        counts = drawn(len(values), replicates)
        means = resampled_means(values, counts)
        for k in range(values.shape[1]):
            ckpt = f"{family}-{size}-{seed}-{k}"
            labels = {"ckpt": ckpt, "family": family, "parameters": size, "seed": seed}
            outcome_of = {"task": task, "protocol": protocol, "metric": metric}
            value = {"tokens": int(TOKENS[k]), "value": values[:, k].mean(), "n": len(values)}
            cells.append({**labels, **outcome_of, **value})
            resampled[ckpt] = means[:, k]
    return pd.DataFrame(cells), pd.DataFrame(resampled)


def fit(cells, resampled, families=None):
    return run_trends(cells, families or {"all": ["task/p/accuracy"]}, lambda outcome: resampled)


def one_run(seed=0, items=200, drift=0.2, **options):
    values = items_of_run(np.random.default_rng(seed), items, drift, **options)
    return values, *study({70_000_000: values})


def test_slope_by_hand_is_per_tenfold_of_tokens():
    """log10 tokens 9, 10, 11 against 0.1, 0.4, 0.5: slope (0.5 - 0.1) / 2."""
    assert training_slope(np.array([1e9, 1e10, 1e11]), np.array([0.1, 0.4, 0.5])) == pytest.approx(
        0.2
    )
    rows = np.random.default_rng(0).normal(size=(5, 8))
    fits = [np.polyfit(np.log10(TOKENS), row, 1)[0] for row in rows]
    assert training_slope(TOKENS, rows) == pytest.approx(fits)


def test_error_interval_and_p_agree_with_a_t_test_of_the_items_own_slopes():
    """Without missing values the slope of the means is the mean of the items' slopes."""
    for seed in range(4):
        values, cells, resampled = one_run(seed=seed)
        row = fit(cells, resampled).iloc[0]
        slopes = np.array([np.polyfit(np.log10(TOKENS), item, 1)[0] for item in values])
        theirs = stats.ttest_1samp(slopes, 0)
        low, high = theirs.confidence_interval(0.95)
        assert (row["status"], row["n"], row["items"]) == ("ok", 8, 200)
        assert row["slope"] == pytest.approx(slopes.mean())
        # 2,000 replicates know a standard deviation to 1.6 %.
        assert row["se"] == pytest.approx(slopes.std(ddof=1) / np.sqrt(200), rel=0.06)
        assert (row["low"], row["high"]) == pytest.approx((low, high), abs=0.06 * row["se"] * 2)
        t = row["slope"] / row["se"]
        assert row["p"] == pytest.approx(2 * stats.t.sf(abs(t), 199), rel=1e-9)
        assert t == pytest.approx(theirs.statistic, rel=0.06)


@pytest.mark.parametrize(
    ("items", "level", "drift"),
    [(100, 0.0, 0.3), (200, 1.8, 0.3), (150, 2.5, 0.0)],
    ids=["half right", "94 % right", "10 of 150 items change"],
)
def test_intervals_cover_the_slope_over_all_items(items, level, drift):
    """A fixed run on other items: 300 draws of items from one population, 95 % +- 3.8 %."""
    rng = np.random.default_rng(5)
    population = items_of_run(rng, 300 * items, drift, level=level)
    true = training_slope(TOKENS, population.mean(axis=0))
    parts = [
        study({70_000_000: values}, seed=number, replicates=1000)
        for number, values in enumerate(np.split(population, 300))
    ]
    cells, resampled = zip(*parts, strict=True)
    trends = fit(pd.concat(cells), pd.concat(resampled, axis=1))
    found = trends[trends["status"] == "ok"]
    covered = ((found["low"] <= true) & (true <= found["high"])).mean()
    t = (found["slope"] - true).abs() / found["se"]
    assert len(found) > 280
    assert 0.912 < covered < 0.988
    assert (t > stats.t.ppf(0.9975, items - 1)).mean() < 0.02  # p below 0.005


def suite(drifts, outcomes=1, items=200, seed=0, metric="accuracy"):
    """Cells, replicates by task and families of a suite of eight sizes; `drifts` by task, size."""
    rng = np.random.default_rng(seed)
    cells, resampled = [], {}
    for number in range(outcomes):
        task = f"task{number}"
        runs = {s: items_of_run(rng, items, drifts.get((number, s), 0)) for s in SIZES}
        found, resampled[task] = study(runs, f"{task}/p/{metric}")
        cells.append(found)
    families = {"all": [f"task{number}/p/{metric}" for number in range(outcomes)]}
    return run_trends(pd.concat(cells), families, lambda outcome: resampled[outcome.task])


def test_an_effect_in_the_two_largest_models_only():
    trends = suite({(0, 6_900_000_000): -0.6, (0, 12_000_000_000): -0.8})
    assert list(trends["parameters"]) == list(SIZES)
    assert list(directions(trends, "higher", 0.05)) == ["no clear trend"] * 6 + ["falls"] * 2
    assert largest_only(trends, "higher", 0.05)
    # Of a metric that should fall, the same slopes are a gain.
    assert list(directions(trends, "lower", 0.05)) == ["no clear trend"] * 6 + ["rises"] * 2
    assert not largest_only(trends, "lower", 0.05)


def test_one_finding_among_runs_and_outcomes_survives_correction():
    """96 tests: alone, a finding needs p <= 0.05 / 96, finer than 2,000 replicates can count."""
    trends = suite({(3, 12_000_000_000): -0.9}, outcomes=12, seed=1)
    assert len(trends) == 96
    found = trends[trends["p_holm"] <= 0.05]
    assert list(found["task"]) == ["task3"]
    assert list(found["parameters"]) == [12_000_000_000]
    assert largest_only(trends[trends["task"] == "task3"], "higher", 0.05)


@pytest.mark.parametrize(
    ("found", "largest"),
    [
        ({"70M": "steady", "1B": "steady", "12B": "steady"}, False),
        ({"70M": "falls", "1B": "steady", "12B": "steady"}, False),
        ({"70M": "steady", "1B": "steady", "12B": "falls"}, True),
        ({"70M": "rises", "1B": "falls", "12B": "falls"}, True),
        ({"70M": "falls", "1B": "steady", "12B": "falls"}, False),
        ({"70M": "steady", "1B": "falls", "12B": "steady"}, False),
        ({"70M": "falls", "1B": "falls", "12B": "falls"}, False),
        ({"70M": "steady", "1B": "falls", "12B": "unknown"}, True),  # of those tested
        ({"70M": "constant", "1B": "falls", "12B": "falls"}, True),
        ({"70M": "unknown", "1B": "falls", "12B": "falls"}, False),  # of smaller ones is no word
    ],
)
def test_largest_only_for_every_pattern(found, largest):
    q = {"falls": 0.001, "rises": 0.001, "steady": 0.3, "unknown": np.nan, "constant": np.nan}
    constant = "not estimable: every cell has the value 0.5"
    sizes = {name: size for size, name in SIZES.items()}
    trends = pd.DataFrame(
        {
            "family": "toy",
            "parameters": [sizes[name] for name in found],
            "slope": [0.1 if word == "rises" else -0.1 for word in found.values()],
            "q": [q[word] for word in found.values()],
            "status": [constant if word == "constant" else "ok" for word in found.values()],
        }
    ).assign(p=lambda frame: frame["q"])
    assert largest_only(trends, "higher", 0.05) is largest
    assert largest_only(trends.assign(slope=-trends["slope"]), "lower", 0.05) is largest


def test_largest_only_compares_sizes_within_a_family():
    trends = pd.DataFrame(
        {
            "family": ["one", "one", "other", "other"],
            "parameters": [1, 10, 100, 1000],
            "slope": -0.1,
            "p": [0.5, 0.001, 0.5, 0.5],
            "q": [0.5, 0.001, 0.5, 0.5],
            "status": "ok",
        }
    )
    assert largest_only(trends, "higher", 0.05)
    # Two seeds of the largest size that disagree: not all of that size fall.
    assert not largest_only(trends.assign(parameters=[10, 10, 100, 1000]), "higher", 0.05)


def test_correction_is_over_runs_and_outcomes_of_a_family():
    values = np.random.default_rng(2)
    runs = {size: items_of_run(values, 100, 0.1) for size in list(SIZES)[:4]}
    cells, resampled = zip(*(study(runs, f"{t}/p/accuracy") for t in "abc"), strict=True)
    families = {"two": ["a/p/accuracy", "b/p/accuracy"], "one": ["c/p/accuracy"]}
    by_task = dict(zip("abc", resampled, strict=True))
    trends = run_trends(pd.concat(cells), families, lambda outcome: by_task[outcome.task])
    assert list(trends.columns) == list(COLUMNS)
    for tests, count in (("two", 8), ("one", 4)):
        group = trends[trends["tests"] == tests]
        assert len(group) == count
        for column, method in (("q", "fdr_bh"), ("p_holm", "holm")):
            expected = multipletests(group["p"], method=method)[1]
            assert group[column].to_numpy() == pytest.approx(expected)


def test_a_slope_without_item_level_scores_has_no_error_and_says_so():
    _, cells, _ = one_run()
    row = fit(cells.assign(n=pd.array([None] * 8, dtype="Int64")), pd.DataFrame()).iloc[0]
    assert row["status"] == "no interval: no item-level scores"
    assert row["slope"] == pytest.approx(np.polyfit(np.log10(TOKENS), cells["value"], 1)[0])
    assert row[["se", "low", "high", "p", "q", "p_holm"]].isna().all()
    assert row["n"] == 8
    assert row["items"] is pd.NA


def broken(change):
    _, cells, resampled = one_run()
    return change(cells, resampled)


@pytest.mark.parametrize(
    ("change", "status"),
    [
        (lambda c, r: (c.assign(value=0.5), r), "not estimable: every cell has the value 0.5"),
        (lambda c, r: (c[:2], r), "not estimable: 2 checkpoints, at least 3 are needed"),
        (lambda c, r: (c[:1], r), "not estimable: 1 checkpoint, at least 3 are needed"),
        (lambda c, r: (c.assign(value=np.nan), r), "not estimable: no cells"),
        (lambda c, r: (c.assign(metric="margin"), r), "not estimable: no cells"),
        (
            lambda c, r: (c.assign(tokens=1), r),
            "not estimable: all checkpoints have one number of training tokens",
        ),
    ],
    ids=["constant", "two", "one", "undefined", "another metric", "one step"],
)
def test_not_estimable_says_why_and_gives_no_number(change, status):
    row = fit(*broken(change)).iloc[0]
    assert row["status"] == status
    assert row[["slope", "se", "low", "high", "p", "q", "p_holm"]].isna().all()


@pytest.mark.parametrize(
    ("change", "status"),
    [
        (lambda c, r: (c, r.iloc[:, 2:]), "no item-level scores of 2 of 8 checkpoints"),
        (
            lambda c, r: (c.assign(n=pd.array([None] * 8, dtype="Int64")), r),
            "the cells do not say how many items they rest on",
        ),
        (
            lambda c, r: (c, r.reindex([-3, -2, -1, *range(1997)])),
            "the metric is defined for so few items that 3 of 2000 draws hold none",
        ),
        (
            lambda c, r: (c, r * 0 + c["value"].to_numpy()),
            "every draw of items gives the same slope",
        ),
    ],
    ids=["some lack items", "no n", "few items", "no spread"],
)
def test_no_interval_says_why_and_keeps_the_slope(change, status):
    row = fit(*broken(change)).iloc[0]
    assert row["status"] == f"no interval: {status}"
    assert np.isfinite(row["slope"])
    assert row[["se", "low", "high", "p", "q", "p_holm"]].isna().all()


def test_items_that_the_cells_were_not_computed_from_are_noticed():
    _, cells, resampled = one_run()
    cells.loc[5, "value"] += 0.02  # half a standard error
    status = fit(cells, resampled)["status"].iloc[0]
    assert status.startswith("no interval: the item-level scores of toy-70000000-0-5 give 0.")
    assert status.endswith(f"its cell is {cells.loc[5, 'value']:.6g}")


def test_what_cannot_be_tested_leaves_the_correction():
    runs = {size: items_of_run(np.random.default_rng(size), 100, 0.1) for size in list(SIZES)[:3]}
    cells, resampled = study(runs)
    fewer = fit(cells[cells["parameters"] > 7e7], resampled)
    cells.loc[cells["parameters"] == 70_000_000, "value"] = 0.5
    trends = fit(cells, resampled)
    assert len(trends) == 3
    assert list(trends["q"][1:]) == list(fewer["q"])


def test_a_missing_cell_is_counted_and_the_rest_is_fitted():
    _, cells, resampled = one_run()
    cells.loc[3, "value"] = np.nan
    rest = cells.drop(index=3)
    row = fit(cells, resampled).iloc[0]
    assert (row["status"], row["n"]) == ("ok", 7)
    slope = np.polyfit(np.log10(rest["tokens"].astype(float)), rest["value"], 1)[0]
    assert row["slope"] == pytest.approx(slope)


def test_seeds_and_families_are_runs_of_their_own_and_order_does_not_matter():
    rng = np.random.default_rng(0)
    parts = [
        study({70_000_000: items_of_run(rng, 50, 0.3)}, family=family, seed=seed)
        for family, seed in (("b", 1), ("a", 2), ("a", 1))
    ]
    cells = pd.concat([part[0] for part in parts])
    resampled = pd.concat([part[1] for part in parts], axis=1)
    trends = fit(cells, resampled)
    assert list(zip(trends["family"], trends["seed"], strict=True)) == [
        *(("a", 1), ("a", 2), ("b", 1))
    ]
    shuffled = cells.sample(frac=1, random_state=1)
    pd.testing.assert_frame_equal(fit(shuffled, resampled), trends)


def test_cells_that_no_fit_should_see_are_refused():
    _, cells, resampled = one_run()
    with pytest.raises(StudyError, match=r"toy-70000000-0-4, task/p/accuracy: .* given twice"):
        fit(pd.concat([cells, cells.iloc[[4]]]), resampled)
    cells.loc[4, "value"] = np.inf
    with pytest.raises(StudyError, match="infinite"):
        fit(cells, resampled)


def test_from_item_values_on_disk_to_the_table(tmp_path):
    rng = np.random.default_rng(3)
    columns, cells = {}, []
    for size in list(SIZES)[:3]:
        values = items_of_run(rng, 60, 0.4)
        cells.append(study({size: values})[0])
        columns.update(zip(cells[-1]["ckpt"], values.T, strict=True))
    index = [f"i{number}" for number in range(60)]
    values = {("p", "accuracy"): pd.DataFrame(columns, index=index)}
    write_item_values(tmp_path / "values.parquet", values)
    write_tsv(pd.concat(cells), tmp_path / "cells.tsv")
    replicates, table, log = tmp_path / "task.parquet", tmp_path / "trends.tsv", tmp_path / "log"
    bootstrap_items.main("task", tmp_path / "values.parquet", replicates, log)
    families = {"all": ["task/p/accuracy", "task/p/margin"]}
    fit_run_trends.main(tmp_path / "cells.tsv", [replicates], families, table, log)
    assert QUESTION in log.read_text()
    trends = read_tsv(table)
    assert len(trends) == 6
    drawn = trends[trends["metric"] == "accuracy"]
    assert list(drawn["parameters"]) == list(SIZES)[:3]
    assert (drawn["low"] < drawn["slope"]).all()
    assert (drawn["slope"] < drawn["high"]).all()
    assert trends.loc[trends["metric"] == "margin", "slope"].isna().all()
