"""The published table digit by digit, an independent calculation, and a row for every effect."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from downslope.effects import COLUMNS, fit_effects
from downslope.errors import StudyError
from downslope.published import import_published
from downslope.tables import read_table, read_yaml
from downslope.tsv import read_tsv, write_tsv

CONFIG = Path(__file__).parents[2] / "config"

# Table 1 of Michaelov & Bergen 2023, as in the authors' statistical_tests.tsv
# (jmichaelov/emergent-inabilities): t(60) and corrected p of parameters, tokens, interaction.
TABLE_1 = """
hindsight-neglect             accuracy  -4.22 <0.001  -4.69 <0.001  -2.88 0.012
into-the-unknown              accuracy  -0.31 0.824    2.04 0.079    0.02 0.986
memo-trap                     accuracy -10.05 <0.001 -11.34 <0.001  -9.71 <0.001
modus-tollens                 accuracy  -0.16 0.927   -2.13 0.071   -1.50 0.208
neqa                          accuracy   0.79 0.559   -0.08 0.963    2.45 0.034
pattern-matching-suppression  accuracy  -3.20 0.005   -9.58 <0.001  -6.37 <0.001
redefine                      accuracy   0.60 0.645   -0.79 0.559   -1.53 0.205
repetitive-algebra            accuracy  -0.49 0.706   -2.11 0.071   -1.00 0.443
resisting-correction          accuracy   5.13 <0.001   5.63 <0.001  -1.89 0.104
sig-figs                      accuracy  -0.59 0.645   -0.74 0.574   -1.46 0.215
truthfulqa                    mc1      -10.90 <0.001 -11.45 <0.001  -2.97 0.010
truthfulqa                    mc2      -24.72 <0.001 -23.89 <0.001 -12.02 <0.001
"""


def test_all_36_published_statistics_from_the_file_on_disk(mirror, tmp_path):
    """Through cells.tsv and effects.tsv, whose six digits have to be enough."""
    checkpoints = read_table(CONFIG / "published" / "checkpoints.tsv", "checkpoints")
    families = read_yaml(CONFIG / "published" / "config.yaml")["families"]
    cells = import_published(mirror / "published" / "pythia_accuracies.tsv", checkpoints)
    write_tsv(cells, tmp_path / "cells.tsv")
    write_tsv(
        fit_effects(read_tsv(tmp_path / "cells.tsv"), checkpoints, families, methods=["ols"]),
        tmp_path / "effects.tsv",
    )
    effects = read_tsv(tmp_path / "effects.tsv")
    assert len(effects) == 36
    assert set(effects["df"]) == {60}
    found = []
    for (task, metric), rows in effects.groupby(["task", "metric"], sort=False):
        printed = [task, metric]
        for row in rows.to_dict("records"):
            p = "<0.001" if row["q"] < 0.001 else f"{row['q']:.3f}"
            printed += [f"{row['statistic']:.2f}", p]
        found.append(printed)
    assert found == [line.split() for line in TABLE_1.strip().splitlines()]


OUTCOMES = ["one/p/accuracy", "two/p/accuracy", "three/p/accuracy"]


def grid(outcomes=OUTCOMES, sizes=(7e7, 1e9, 1.2e10), steps=(1000, 4000, 32000, 143000), seed=0):
    """Cells of noise for every checkpoint and outcome, and the checkpoints' rows."""
    rng = np.random.default_rng(seed)
    checkpoints = [
        {"ckpt": f"toy-{size:g}-{step}", "known_bad": "", "parameters": size, "step": step}
        for size in sizes
        for step in steps
    ]
    cells = [
        {
            **{key: row[key] for key in ("ckpt", "parameters", "step")},
            **dict(zip(("task", "protocol", "metric"), outcome.split("/"), strict=True)),
            "family": "toy",
            "seed": 1,
            "tokens": row["step"] * 2097152,
            "value": rng.uniform(),
            "se": 0.01,
        }
        for row in checkpoints
        for outcome in outcomes
    ]
    return pd.DataFrame(cells), checkpoints


def t_and_p_by_normal_equations(cells):
    """The same model without statsmodels and without scaling the value: t does not depend on it."""
    x, t = np.log10(cells["parameters"]), np.log10(cells["tokens"])
    x, t = (x - x.mean()) / x.std(), (t - t.mean()) / t.std()
    design = np.stack([np.ones(len(cells)), x, t, x * t], axis=1)
    inverse = np.linalg.inv(design.T @ design)
    slopes = inverse @ design.T @ cells["value"].to_numpy()
    residuals = cells["value"].to_numpy() - design @ slopes
    df = len(cells) - 4
    statistic = slopes / np.sqrt(np.diag(inverse) * (residuals @ residuals) / df)
    return statistic[1:], 2 * stats.t.sf(abs(statistic[1:]), df)


def benjamini_hochberg(p):
    """q_i = the least p_j m / rank_j over all p_j >= p_i, at most 1."""
    ranks = [sum(other <= value for other in p) for value in p]
    raised = [value * len(p) / rank for value, rank in zip(p, ranks, strict=True)]
    return [min(1, *(r for r, v in zip(raised, p, strict=True) if v >= value)) for value in p]


@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_normal_equations_and_hand_written_correction(seed):
    cells, checkpoints = grid(seed=seed)
    effects = fit_effects(cells, checkpoints, {"all": OUTCOMES}, methods=["ols"])
    by_task = [
        t_and_p_by_normal_equations(cells[cells["task"] == t]) for t in ("one", "two", "three")
    ]
    p = np.concatenate([p for _, p in by_task])
    assert effects["statistic"].to_numpy() == pytest.approx(
        np.concatenate([t for t, _ in by_task]), abs=1e-9
    )
    assert effects["p"].to_numpy() == pytest.approx(p, abs=1e-9)
    assert effects["q"].to_numpy() == pytest.approx(benjamini_hochberg(p), abs=1e-9)


def test_a_row_per_outcome_method_and_effect_in_declared_order():
    cells, checkpoints = grid()
    families = {"late": [OUTCOMES[2]], "early": [OUTCOMES[1], OUTCOMES[0]]}
    effects = fit_effects(cells, checkpoints, families)
    assert list(effects.columns) == list(COLUMNS)
    assert list(effects["task"]) == ["three"] * 18 + ["two"] * 18 + ["one"] * 18
    methods = ["ols", "cluster", "jackknife", "two-stage", "wild", "item"]
    assert list(effects["method"]) == [m for m in methods for _ in range(3)] * 3
    assert list(effects["effect"]) == ["parameters", "tokens", "interaction"] * 18
    assert list(effects["tests"]) == ["late"] * 18 + ["early"] * 36
    assert set(effects["n"]) == set(effects["expected"]) == {12}
    assert set(effects["runs"]) == {3}


def test_order_of_cells_does_not_matter():
    cells, checkpoints = grid()
    shuffled = cells.sample(frac=1, random_state=5)
    pd.testing.assert_frame_equal(
        fit_effects(cells, checkpoints, {"all": OUTCOMES}),
        fit_effects(shuffled, checkpoints, {"all": OUTCOMES}),
    )


def test_families_are_corrected_apart():
    cells, checkpoints = grid()
    together = fit_effects(cells, checkpoints, {"all": OUTCOMES})
    apart = fit_effects(cells, checkpoints, {"a": OUTCOMES[:1], "b": OUTCOMES[1:]})
    alone = fit_effects(cells, checkpoints, {"a": OUTCOMES[:1]})
    assert apart["p"].equals(together["p"])
    assert apart["q"][: len(alone)].equals(alone["q"])
    assert not apart["q"].equals(together["q"])


def test_each_method_is_corrected_by_itself():
    cells, checkpoints = grid()
    together = fit_effects(cells, checkpoints, {"all": OUTCOMES})
    for method in ("ols", "jackknife", "wild"):
        alone = fit_effects(cells, checkpoints, {"all": OUTCOMES}, methods=[method])
        rows = together[together["method"] == method].reset_index(drop=True)
        pd.testing.assert_frame_equal(rows, alone)


def test_what_cannot_be_estimated_keeps_its_row_and_leaves_the_correction():
    cells, checkpoints = grid()
    cells.loc[cells["task"] == "two", "value"] = 0.5
    cells = cells[cells["task"] != "three"]
    effects = fit_effects(cells, checkpoints, {"all": OUTCOMES}).set_index("task")
    assert set(effects.loc["two", "status"]) == {"not estimable: every cell has the value 0.5"}
    assert set(effects.loc["three", "status"]) == {"not estimable: no cells"}
    assert set(effects.loc["three", "n"]) == set(effects.loc["three", "runs"]) == {0}
    numbers = ["estimate", "se", "statistic", "df", "p", "q", "q_by", "p_holm", "low", "high"]
    numbers += ["per_tenfold", "per_tenfold_low", "per_tenfold_high"]
    assert effects.loc[["two", "three"], numbers].isna().all(axis=None)
    # Three tests remain, as if only this outcome had been declared.
    alone = fit_effects(cells, checkpoints, {"all": OUTCOMES[:1]})
    np.testing.assert_array_equal(effects.loc["one", "q"], alone["q"])


def test_missing_cells_leave_the_effect_ok_and_are_counted():
    cells, checkpoints = grid()
    for bad in (2, 7):
        checkpoints[bad]["known_bad"] = "wrong weights"
    usable = {row["ckpt"] for row in checkpoints if not row["known_bad"]}
    effects = fit_effects(
        cells[cells["ckpt"].isin(usable)], checkpoints, {"all": OUTCOMES}, methods=["ols"]
    )
    assert set(effects["status"]) == {"ok"}
    assert (set(effects["n"]), set(effects["expected"]), set(effects["df"])) == ({10}, {12}, {6})


def test_cells_of_a_run_that_a_method_leaves_out_are_not_counted():
    """Four sizes; of one only the last two steps of four are left, near each other."""
    cells, checkpoints = grid(sizes=(7e7, 1e9, 2.8e9, 1.2e10), steps=(1000, 4000, 128000, 143000))
    early = {row["ckpt"] for row in checkpoints if row["parameters"] == 2.8e9 and row["step"] < 1e5}
    some = cells[~cells["ckpt"].isin(early)]
    effects = fit_effects(some, checkpoints, {"all": OUTCOMES}, methods=["ols", "two-stage"])
    counts = effects.groupby("method")[["n", "runs", "df"]].agg(set).to_dict("index")
    assert counts["ols"] == {"n": {14}, "runs": {4}, "df": {10}}
    assert counts["two-stage"] == {"n": {12}, "runs": {3}, "df": {1}}


def test_too_few_cells():
    cells, checkpoints = grid()
    few = cells[cells["ckpt"].isin([row["ckpt"] for row in checkpoints[:3]])]
    effects = fit_effects(few, checkpoints, {"all": OUTCOMES})
    assert set(effects["status"]) == {"not estimable: 3 cells, at least 5 are needed"}


def refusal(cells, checkpoints, families=None):
    with pytest.raises(StudyError) as caught:
        fit_effects(cells, checkpoints, families or {"all": OUTCOMES})
    return str(caught.value)


def test_a_cell_given_twice_is_refused_by_name():
    cells, checkpoints = grid()
    message = refusal(pd.concat([cells, cells.iloc[[4]]]), checkpoints)
    assert cells.loc[4, "ckpt"] in message
    assert "two/p/accuracy" in message


def test_cells_that_no_fit_should_see_are_refused():
    cells, checkpoints = grid()
    assert "not in checkpoints.tsv" in refusal(cells, checkpoints[1:])
    assert "finite" in refusal(cells.assign(value=np.nan), checkpoints)
    checkpoints[3]["known_bad"] = "wrong weights"
    message = refusal(cells, checkpoints)
    assert checkpoints[3]["ckpt"] in message
    assert "wrong weights" in message


def test_an_outcome_belongs_to_one_family():
    cells, checkpoints = grid()
    message = refusal(cells, checkpoints, {"a": OUTCOMES, "b": OUTCOMES[:1]})
    assert "one/p/accuracy" in message
    assert "'a'" in message
    assert "'b'" in message


def test_cells_of_other_tasks_and_protocols_are_not_looked_at():
    cells, checkpoints = grid()
    one = cells[cells["task"] == "one"].assign(value=np.nan)
    others = [one.assign(task="four"), one.assign(protocol="q")]
    plain = fit_effects(cells, checkpoints, {"all": OUTCOMES})
    with_others = fit_effects(pd.concat([cells, *others]), checkpoints, {"all": OUTCOMES})
    pd.testing.assert_frame_equal(plain, with_others)


def with_metrics(cells, metrics, tasks=("one", "two", "three")):
    """The cells, and the same again as other metrics of some tasks."""
    some = cells[cells["task"].isin(tasks)]
    copies = [some.assign(metric=m, value=some["value"] * 3 - i) for i, m in enumerate(metrics)]
    return pd.concat([cells, *copies], ignore_index=True)


def test_other_metrics_form_families_of_their_own_after_the_declared():
    cells, checkpoints = grid()
    cells = with_metrics(cells, ["brier", "homemade", "margin"], tasks=["one", "three"])
    families = {"b": OUTCOMES[2:], "a": [*OUTCOMES[:2], "one/p/margin"]}
    effects = fit_effects(cells, checkpoints, families, methods=["ols"])
    found = effects[["tests", "task", "metric"]].drop_duplicates().itertuples(index=False)
    assert [tuple(row) for row in found] == [
        ("b", "three", "accuracy"),
        ("a", "one", "accuracy"),
        ("a", "two", "accuracy"),
        ("a", "one", "margin"),
        ("b/margin", "three", "margin"),
        ("b/brier", "three", "brier"),
        ("b/homemade", "three", "homemade"),
        ("a/brier", "one", "brier"),
        ("a/homemade", "one", "homemade"),
    ]


def test_other_metrics_do_not_touch_the_declared_corrections():
    cells, checkpoints = grid()
    plain = fit_effects(cells, checkpoints, {"all": OUTCOMES})
    more = fit_effects(with_metrics(cells, ["margin"]), checkpoints, {"all": OUTCOMES})
    assert len(more) == 2 * len(plain)
    pd.testing.assert_frame_equal(more[: len(plain)], plain)


def test_a_pair_in_two_families_goes_with_the_first():
    cells, checkpoints = grid()
    cells = with_metrics(cells, ["mc1", "mc2"], tasks=["one"])
    families = {"a": ["one/p/mc1"], "b": ["one/p/mc2", *OUTCOMES[1:]]}
    effects = fit_effects(cells, checkpoints, families, methods=["ols"])
    assert list(effects["tests"].unique()) == ["a", "b", "a/accuracy"]


def test_a_metric_that_is_undefined_for_a_checkpoint_is_a_missing_cell():
    cells, checkpoints = grid()
    cells = with_metrics(cells, ["acc_norm"], tasks=["one", "two"])
    gone = (cells["metric"] == "acc_norm") & (
        (cells["task"] == "two") | (cells["ckpt"] == checkpoints[0]["ckpt"])
    )
    cells.loc[gone, "value"] = np.nan
    effects = fit_effects(cells, checkpoints, {"all": OUTCOMES}, methods=["ols"])
    further = effects[effects["tests"] == "all/acc_norm"].set_index("task")
    assert set(further.loc["one", "n"]) == {11}
    assert set(further.loc["two", "status"]) == {"not estimable: no cells"}
    infinite = cells.assign(value=cells["value"].where(~gone, np.inf))
    assert "finite" in refusal(infinite, checkpoints)


def test_per_tenfold_is_in_the_metric_s_own_units():
    cells, checkpoints = grid()
    effects = fit_effects(cells, checkpoints, {"all": OUTCOMES}, methods=["cluster"])
    one = cells[cells["task"] == "one"]
    x, t = np.log10(one["parameters"].astype(float)), np.log10(one["tokens"].astype(float))
    x, t = x - x.mean(), t - t.mean()
    plain = np.linalg.lstsq(np.stack([x**0, x, t, x * t], axis=1), one["value"], rcond=None)[0]
    assert list(effects["per_tenfold"][:3]) == pytest.approx(plain[1:])
    for end in ("low", "high"):
        ratio = effects[f"per_tenfold_{end}"] / effects["per_tenfold"]
        assert list(ratio) == pytest.approx(list(effects[end] / effects["estimate"]))


@pytest.mark.parametrize("kind", ["mapping", "callable"])
def test_item_takes_the_replicates_of_its_checkpoints(kind):
    cells, checkpoints = grid()
    one = cells[cells["task"] == "one"]
    drawn = one["value"].to_numpy() + np.random.default_rng(9).normal(size=(200, 12)) / 10
    # In another order and with a checkpoint more than the cells have.
    frame = pd.DataFrame(drawn, columns=one["ckpt"]).iloc[:, ::-1].assign(other=7.0)
    by_outcome = {("one", "p", "accuracy"): frame}
    source = by_outcome if kind == "mapping" else lambda o: by_outcome.get(o, pd.DataFrame())
    effects = fit_effects(cells, checkpoints, {"all": OUTCOMES}, source, methods=["item"])
    assert list(effects["status"]) == ["ok"] * 3 + ["not estimable: no item-level scores"] * 6
    x, t = np.log10(one["parameters"].astype(float)), np.log10(one["tokens"].astype(float))
    x, t = (x - x.mean()) / x.std(), (t - t.mean()) / t.std()
    design = np.stack([x**0, x, t, x * t], axis=1)
    slopes = np.linalg.lstsq(design, drawn.T / one["value"].std(), rcond=None)[0][1:]
    assert list(effects["se"][:3]) == pytest.approx(list(slopes.std(axis=1, ddof=1)))
