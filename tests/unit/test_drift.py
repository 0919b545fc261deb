"""What is compared with what, the table's numbers and corrections, the flipped items, the gate."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

import check_drift
import measure_drift
from downslope.drift import COLUMNS, FLIPPED, drift, flipped
from downslope.drift_gate import check, losses
from downslope.errors import StudyError
from downslope.item_values import write_item_values
from downslope.metrics import BETTER
from downslope.outcomes import Outcome
from downslope.tsv import read_tsv, write_tsv

ACCURACY, MARGIN, LOSS = "memo/p/accuracy", "memo/p/margin", "memo/p/class_loss"
RUN_A, RUN_B = ("toy", 10, 0), ("toy", 10, 1)


def cell(ckpt: str, run, step: int, outcome: str, value: float) -> dict[str, object]:
    family, parameters, seed = run
    labels = {"ckpt": ckpt, "family": family, "parameters": parameters, "step": step, "seed": seed}
    facts = {"tokens": step * 100, "flops": 6.0 * parameters * step * 100, "se": np.nan, "n": None}
    return {**labels, **facts, **Outcome.parse(outcome)._asdict(), "value": value}


def cells_of(values, run=RUN_A, name="a") -> list[dict[str, object]]:
    """Cells of one run from outcome -> values in the order of steps 1, 2, ...; None: no cell."""
    return [
        cell(f"{name}{step}", run, step, outcome, value)
        for outcome, row in values.items()
        for step, value in enumerate(row, start=1)
        if value is not None
    ]


def study(items, run=RUN_A, name="a"):
    """Cells and item values of one run, from outcome -> an array (steps, items)."""
    frames = {
        Outcome.parse(outcome): pd.DataFrame(
            np.asarray(rows, dtype=float).T,
            columns=[f"{name}{step}" for step in range(1, len(rows) + 1)],
            index=[f"item{i}" for i in range(len(rows[0]))],
        )
        for outcome, rows in items.items()
    }
    means = {str(outcome): frame.mean().tolist() for outcome, frame in frames.items()}
    return pd.DataFrame(cells_of(means, run, name)), reader(frames)


def reader(frames):
    return lambda outcome: frames.get(outcome, pd.DataFrame())


def no_items(_: Outcome) -> pd.DataFrame:
    return pd.DataFrame()


def references(table: pd.DataFrame, against: str) -> dict[str, str]:
    rows = table[table["against"] == against]
    return dict(zip(rows["ckpt"], rows["reference"], strict=True))


def answers(right: int, of: int) -> list[int]:
    return [1] * right + [0] * (of - right)


# What is compared with what


def test_the_one_before_and_the_best_of_its_own_run():
    """The earlier of two equal values is the best; another seed is another run."""
    mine = cells_of({ACCURACY: [0.5, 0.9, 0.7, 0.9, 0.6]})
    other = cells_of({ACCURACY: [1.0, 0.1]}, RUN_B, "b")
    shuffled = pd.DataFrame([*mine, *other]).sample(frac=1, random_state=1)
    table = drift(shuffled, no_items, {"f": [ACCURACY]})
    assert references(table, "previous") == {
        "a2": "a1",
        "a3": "a2",
        "a4": "a3",
        "a5": "a4",
        "b2": "b1",
    }
    assert references(table, "best") == {
        "a2": "a1",
        "a3": "a2",
        "a4": "a2",
        "a5": "a2",
        "b2": "b1",
    }
    assert table["ckpt"].tolist() == ["a2", "a2", "a3", "a3", "a4", "a4", "a5", "a5", "b2", "b2"]


def test_the_best_is_the_lowest_where_lower_is_better():
    table = drift(pd.DataFrame(cells_of({LOSS: [0.5, 0.3, 0.9]})), no_items, {"f": [LOSS]})
    assert references(table, "best") == {"a2": "a1", "a3": "a2"}


def test_a_missing_cell_is_passed_over_and_has_a_row_of_its_own():
    values = {ACCURACY: [0.5, None, 0.7], "late/p/accuracy": [None, 0.2, np.nan]}
    table = drift(pd.DataFrame(cells_of(values)), no_items, {"f": list(values)})
    assert table.loc[
        table["against"] == "previous", ["ckpt", "task", "reference", "status"]
    ].to_numpy().tolist() == [
        ["a2", "memo", "", "not compared: this checkpoint has no value"],
        ["a2", "late", "", "not compared: no earlier checkpoint of its run has a value"],
        ["a3", "memo", "a1", "no test: no item-level scores"],
        ["a3", "late", "", "not compared: this checkpoint has no value"],
    ]
    assert table["p"].isna().all()


def test_without_items_the_cells_differ_untested():
    table = drift(pd.DataFrame(cells_of({ACCURACY: [0.5, 0.4]})), no_items, {"f": [ACCURACY]})
    row = table.iloc[0]
    assert row[["value", "reference_value"]].tolist() == [0.4, 0.5]
    assert row["difference"] == pytest.approx(-0.1)
    assert row["status"] == "no test: no item-level scores"
    assert pd.isna(row[["se", "low", "high", "lost", "gained", "n", "p", "q", "p_holm"]]).all()


def test_a_checkpoint_without_items_among_others_that_have_them():
    cells, values = study({ACCURACY: [answers(5, 9), answers(3, 9), answers(4, 9)]})
    table = drift(cells, lambda o: values(o).drop(columns="a2"), {"f": [ACCURACY]})
    status = dict(
        zip(zip(table["ckpt"], table["against"], strict=True), table["status"], strict=True)
    )
    assert status["a3", "previous"] == "no test: no item-level scores"
    assert status["a3", "best"] == "ok"


def test_one_checkpoint_of_each_run_leaves_an_empty_table(tmp_path):
    both = cells_of({ACCURACY: [0.5]}) + cells_of({ACCURACY: [0.7]}, RUN_B, "b")
    table = drift(pd.DataFrame(both), no_items, {"f": [ACCURACY]})
    assert (len(table), tuple(table.columns)) == (0, COLUMNS)
    assert tuple(flipped(table, no_items).columns) == FLIPPED
    write_tsv(table, tmp_path / "drift.tsv")
    text = check(read_tsv(tmp_path / "drift.tsv"), 0.02, 0.05, "flipped.tsv")
    assert text == "Nothing to compare: no run has a second checkpoint yet.\n"


def test_a_cell_given_twice_is_refused():
    with pytest.raises(StudyError, match=r"cells, a1, memo/p/accuracy: this cell is given twice"):
        drift(pd.DataFrame(cells_of({ACCURACY: [0.5]}) * 2), no_items, {"f": [ACCURACY]})


# Numbers


def test_numbers_against_scipy():
    """20 items, 8 lost and 1 gained; the interval is that of a one-sample t-test."""
    before, after = [1] * 12 + [0] * 8, [1] * 4 + [0] * 8 + [1] + [0] * 7
    table = drift(*study({ACCURACY: [before, after]}), {"f": [ACCURACY]})
    row = table.iloc[0]
    interval = stats.ttest_1samp(np.subtract(after, before), 0).confidence_interval()
    assert row[["value", "reference_value"]].tolist() == [0.25, 0.6]
    assert row[["lost", "gained", "n", "test"]].tolist() == [8, 1, 20, "exact McNemar"]
    assert row["difference"] == pytest.approx(-0.35)
    assert (row["low"], row["high"]) == pytest.approx((interval.low, interval.high))
    assert row["p"] == pytest.approx(stats.binomtest(8, 9).pvalue)
    assert row[["q", "p_holm"]].tolist() == pytest.approx([row["p"]] * 2)


def test_identical_checkpoints_have_p_one():
    same = np.random.default_rng(1).normal(size=30)
    items = {ACCURACY: [same > 0] * 3, MARGIN: [same] * 3}
    table = drift(*study(items), {"f": [ACCURACY]})
    assert len(table) == 8
    assert set(table["p"]) == set(table["q"]) == {1.0}
    assert set(table["difference"]) == set(table["se"]) == {0.0}
    assert set(table["status"]) == {"ok"}


def test_margins_lie_beneath_the_declared_outcomes_once():
    rng = np.random.default_rng(2)
    names = [f"{task}/p/{metric}" for task in "ab" for metric in ("accuracy", "brier", "margin")]
    cells, values = study({name: rng.random((2, 5)) for name in names})
    families = {"first": ["a/p/accuracy", "a/p/brier"], "second": ["b/p/brier", "b/p/margin"]}
    table = drift(cells, values, families)
    rows = table[table["against"] == "best"]
    assert (rows["task"] + " " + rows["metric"] + ": " + rows["tests"]).tolist() == [
        *("a accuracy: first", "a brier: first", "b brier: second", "b margin: second"),
        "a margin: first margins",
    ]


def many_tasks(seed: int, steps: int):
    """Six tasks of 80 items with margins, a run of `steps` checkpoints."""
    rng = np.random.default_rng(seed)
    items = {}
    for task in range(6):
        margin = rng.normal(size=80) + rng.normal(0.15 * task, 1, size=(steps, 80))
        items |= {f"t{task}/p/accuracy": margin > 0, f"t{task}/p/margin": margin}
    return study(items), [name for name in items if name.endswith("accuracy")]


def test_corrections_over_tasks_and_over_the_choice_of_the_best():
    """Against statsmodels; the best so far of the k-th checkpoint was chosen among k - 1."""
    (cells, values), declared = many_tasks(3, steps=4)
    table = drift(cells, values, {"f": declared[:4], "g": declared[4:]})
    groups = table.groupby(["ckpt", "against", "tests"])
    assert len(groups) == 3 * 2 * 4
    for (ckpt, against, _), rows in groups:
        choices = int(ckpt[1:]) - 1 if against == "best" else 1
        p = np.minimum(rows["p"] * choices, 1)
        assert rows["q"].to_numpy() == pytest.approx(multipletests(p, method="fdr_bh")[1])
        assert rows["p_holm"].to_numpy() == pytest.approx(multipletests(p, method="holm")[1])
        named = rows["test"].str.endswith(f", best of {choices}")
        assert named.all() if against == "best" else not named.any()


def test_a_run_that_stands_still_is_not_told_that_it_lost():
    """200 times nine equally good checkpoints on 100 items: the last against the best of eight.

    Falls that a two-sided test at 5 % may call by chance: 2.5 %. p of the pair alone calls about
    10 %, since the best was chosen for its luck.
    """
    rng = np.random.default_rng(4)
    families = {f"f{task}": [f"t{task}/p/accuracy"] for task in range(200)}
    cells, values = study({names[0]: rng.random((9, 100)) < 0.5 for names in families.values()})
    last = drift(cells, values, families).query("ckpt == 'a9' and against == 'best'")
    fallen = last["difference"] < 0
    assert len(last) == 200
    assert np.mean(fallen & (last["p"] < 0.05)) > 0.06
    assert np.mean(fallen & (last["q"] < 0.05)) <= 0.025


def test_items_that_only_one_checkpoint_has():
    nan = np.nan
    cells, values = study({ACCURACY: [[1, 1, 1, nan], [0, 1, nan, 1]]})
    row = drift(cells, values, {"f": [ACCURACY]}).iloc[0]
    assert row[["value", "reference_value", "difference", "n"]].tolist() == [0.5, 1, -0.5, 2]
    assert row["status"].startswith("on 2 of 4 items")


def test_p_at_the_floor_of_its_test_is_not_taken_for_no_evidence():
    """600 earlier checkpoints times 1 / 10,000 is no q below 5 %, however large the change."""
    rng = np.random.default_rng(5)
    margins = rng.normal(size=(601, 15))
    margins[-1] -= 100
    table = drift(*study({MARGIN: margins}), {"f": [MARGIN]})
    last = table[table["ckpt"] == "a601"].set_index("against")
    assert last["p"].tolist() == [1 / 10_000] * 2
    assert last["status"].tolist() == [
        "ok",
        "below resolution: p is at the floor of 9,999 sign flips, too high for q < 0.05",
    ]


# Items that flipped


def test_flipped_items_of_the_newest_checkpoint_by_hand():
    """Lost before gained, and first what moved most; items that stayed are not listed."""
    right = [[1, 1, 0, 1, 0], [1, 1, 0, 0, 0], [0, 0, 1, 1, 0]]
    margin = [
        [1.0, 2.0, -1.0, 1.0, -5.0],
        [1.0, 2.0, -1.0, -0.5, -5.0],
        [-1.0, -3.0, 0.5, 1.5, -9.0],
    ]
    cells, values = study({ACCURACY: right, MARGIN: margin})
    found = flipped(drift(cells, values, {"f": [ACCURACY]}), values)
    assert set(found["ckpt"]) == {"a3"}
    labels = found[["task", "protocol", "metric"]].drop_duplicates().to_numpy().tolist()
    assert labels == [["memo", "p", "accuracy"]]
    shown = ["against", "reference", "item", "change", "margin", "reference_margin"]
    assert found[shown].to_numpy().tolist() == [
        ["previous", "a2", "item1", "lost", -3.0, 2.0],
        ["previous", "a2", "item0", "lost", -1.0, 1.0],
        ["previous", "a2", "item3", "gained", 1.5, -0.5],
        ["previous", "a2", "item2", "gained", 0.5, -1.0],
        ["best", "a1", "item1", "lost", -3.0, 2.0],
        ["best", "a1", "item0", "lost", -1.0, 1.0],
        ["best", "a1", "item2", "gained", 0.5, -1.0],
    ]


def test_flipped_items_without_margins_keep_the_order_of_the_items():
    cells, values = study({ACCURACY: [[1, 0, 1], [0, 1, 0]]})
    found = flipped(drift(cells, values, {"f": [ACCURACY]}), values)
    assert found["item"].tolist() == ["item0", "item2", "item1"] * 2
    assert found[["margin", "reference_margin"]].isna().all(axis=None)


# The gate


def gate_table(rows) -> pd.DataFrame:
    """A drift table of one run's last two checkpoints from (step, outcome, difference, q, ...)."""
    records = []
    for step, outcome, difference, q, *rest in rows:
        labels = dict(zip(("family", "parameters", "seed"), RUN_A, strict=True))
        labels |= {"ckpt": f"a{step}", "step": step, "against": "previous", "reference": "a1"}
        numbers = {"value": 0.5 + difference, "reference_value": 0.5, "difference": difference}
        numbers |= {"low": difference - 0.01, "high": difference + 0.01, "q": q, "status": "ok"}
        counts = {"lost": 9, "gained": 1, "n": 100, "tests": "f"}
        extra = rest[0] if rest else {}
        records.append({**labels, **Outcome.parse(outcome)._asdict(), **numbers, **counts, **extra})
    return pd.DataFrame(records).reindex(columns=list(COLUMNS))


@pytest.mark.parametrize(
    ("row", "fails"),
    [
        ((3, ACCURACY, -0.05, 0.01), True),
        ((3, ACCURACY, -0.05, 0.05), False),  # level is not below level
        ((3, ACCURACY, 0.48 - 0.5, 0.01), False),  # 2 points are allowed, not 2 and a rounding
        ((3, ACCURACY, 0.05, 0.01), False),
        ((3, LOSS, 0.05, 0.01), True),  # lower is better
        ((3, LOSS, -0.05, 0.01), False),
        ((2, ACCURACY, -0.05, 0.01), False),  # not the newest checkpoint
        ((3, MARGIN, -0.5, 0.01, {"tests": "f margins"}), False),  # not declared
        ((3, MARGIN, -0.5, 0.01), True),  # declared
    ],
)
def test_what_counts_as_a_loss(row, fails):
    table = gate_table([row, (3, "other/p/accuracy", 0.0, 1.0)])
    assert losses(table, 0.02, 0.05).equals(table.iloc[:1] if fails else table.iloc[:0])
    if fails:
        with pytest.raises(StudyError):
            check(table, 0.02, 0.05, "flipped.tsv")
    else:
        assert "lost more than the 2 points" in check(table, 0.02, 0.05, "flipped.tsv")


def test_a_loss_names_everything_that_one_acts_on():
    rows = [(3, ACCURACY, -0.05, 0.01), (3, LOSS, 0.125, 0.0004), (3, "x/p/accuracy", -0.04, 0.2)]
    with pytest.raises(StudyError) as raised:
        check(gate_table(rows), 0.02, 0.05, "results/stats/flipped.tsv")
    assert str(raised.value).splitlines() == [
        "drift: a checkpoint has lost more than the 2 points (0.02 of a metric without points) "
        "that the config allows:",
        "  a3 against the one before:",
        "    memo/p/class_loss: from 0.5 (a1) to 0.625, worse by 0.125 (95 % interval 0.115 to "
        "0.135), q < 0.001; of 100 items 9 lost, 1 gained",
        "    memo/p/accuracy: from 50.0 (a1) to 45.0, worse by 5.0 points (95 % interval 4.0 to "
        "6.0), q = 0.010; of 100 items 9 lost, 1 gained",
        "Warning: fell by more than allowed, but it may be chance (q is not below 0.05):",
        "  a3 against the one before:",
        "    x/p/accuracy: from 50.0 (a1) to 46.0, worse by 4.0 points (95 % interval 3.0 to 5.0), "
        "q = 0.200; of 100 items 9 lost, 1 gained",
        "Items that flipped: results/stats/flipped.tsv; their texts: resources/items/.",
        "If a loss is acceptable, raise drift.allowed_loss in config/config.yaml.",
    ]


def test_points_written_as_whole_numbers_are_refused():
    with pytest.raises(StudyError, match=r"allowed_loss is 2, .* Write 0.02 for 2 points"):
        check(gate_table([(3, ACCURACY, -0.05, 0.2)]), 2, 0.05, "flipped.tsv")


def test_a_fall_that_may_be_chance_passes_and_is_never_hidden():
    text = check(gate_table([(3, ACCURACY, -0.05, 0.2)]), 0.02, 0.05, "flipped.tsv")
    assert "Warning: fell by more than allowed, but it may be chance" in text
    assert text.count("memo/p/accuracy: from 50.0 (a1) to 45.0, worse by 5.0 points") == 2
    assert "intervals that include a loss larger than allowed: 1 of 1" in text


@pytest.mark.parametrize(
    "facts",
    [
        {"q": np.nan, "lost": None, "gained": None, "n": None, "low": np.nan, "high": np.nan}
        | {"status": "no test: no item-level scores"},
        {"status": "below resolution: p is at the floor of 9,999 sign flips"},
    ],
)
def test_a_gate_that_cannot_decide_does_not_open(facts):
    table = gate_table([(3, ACCURACY, -0.05, 0.2, facts)])
    assert losses(table, 0.02, 0.05).empty
    with pytest.raises(StudyError, match="no test can say whether by chance") as raised:
        check(table, 0.02, 0.05, "flipped.tsv")
    assert "worse by 5.0 points" in str(raised.value)
    assert facts["status"] in str(raised.value)


def test_a_newest_checkpoint_without_results_does_not_pass():
    labels = dict(zip(("family", "parameters", "seed"), RUN_A, strict=True))
    rows = [{**labels, "ckpt": f"a{step}", "step": step} for step in (1, 2, 3)]
    alone = {**labels, "seed": 99, "ckpt": "b1", "step": 1}
    table = gate_table([(3, ACCURACY, -0.01, 0.5)])
    given = {"allowed_loss": 0.02, "level": 0.05, "flipped": "flipped.tsv"}
    assert "1 of 1 outcomes tested" in check(table, **given, checkpoints=[*rows, alone])
    newer = {**labels, "ckpt": "a4", "step": 4}
    with pytest.raises(StudyError) as raised:
        check(table, **given, checkpoints=[newer, *rows, alone])
    lines = str(raised.value).splitlines()
    assert lines[0] == "drift: the newest checkpoint of a run was compared with none:"
    assert lines[1] == "  a4"
    assert "results/coverage.tsv says what is missing" in lines[2]
    assert "allowed_loss" not in str(raised.value)
    lost = gate_table([(3, ACCURACY, -0.05, 0.01)])
    with pytest.raises(StudyError, match=r"(?s)lost more.*compared with none:\n  a4.*acceptable"):
        check(lost, **given, checkpoints=[newer, *rows])
    with pytest.raises(StudyError, match="compared with none"):
        check(table.iloc[:0], **given, checkpoints=rows)


def test_untested_and_missing_comparisons_are_warned_about():
    untested = {"status": "no test: no item-level scores", "low": np.nan, "high": np.nan}
    missing = {"status": "not compared: this checkpoint has no value", "reference": ""}
    table = gate_table(
        [
            (3, ACCURACY, -0.01, np.nan, untested),
            (3, "x/p/accuracy", np.nan, np.nan, missing),
        ]
    )
    text = check(table, 0.02, 0.05, "flipped.tsv")
    assert "Warning: 1 of 2 comparisons fell by no more than allowed but are untested" in text
    assert "x/p/accuracy: not compared: this checkpoint has no value" in text
    assert "a3 against the one before: 0 of 2 outcomes tested" in text


# The two entry scripts, through the files


def run_both(folder: Path, families, allowed_loss: float) -> str:
    paths = {name: str(folder / f"{name}.tsv") for name in ("drift", "flipped")}
    measure_drift.main(
        cells=str(folder / "cells.tsv"),
        item_values=sorted(map(str, folder.glob("*.parquet"))),
        families=families,
        level=0.05,
        better=BETTER,
        outputs=paths,
        log=str(folder / "measure.log"),
    )
    check_drift.main(
        **paths,
        allowed_loss=allowed_loss,
        level=0.05,
        better=BETTER,
        checkpoints=read_tsv(folder / "cells.tsv").drop_duplicates("ckpt").to_dict("records"),
        output=str(folder / "drift_ok.txt"),
        log=str(folder / "check.log"),
    )
    return (folder / "drift_ok.txt").read_text()


def write_study(folder: Path) -> dict[str, list[str]]:
    """A run that loses 30 of 100 items of one task and nothing of another."""
    rng = np.random.default_rng(6)
    margin = rng.normal(0.8, 1, size=100)
    items = {
        ACCURACY: [margin > 0, margin > 0.6],
        MARGIN: [margin, margin - 0.6],
        "still/p/accuracy": [margin < 1] * 2,
        "still/p/margin": [1 - margin] * 2,
    }
    cells, values = study(items)
    write_tsv(cells, folder / "cells.tsv")
    for task in ("memo", "still"):
        of_task = {("p", m): values(Outcome(task, "p", m)) for m in ("accuracy", "margin")}
        write_item_values(folder / f"{task}.parquet", of_task)
    return {"f": [ACCURACY, "still/p/accuracy"]}


def test_a_loss_ends_the_check_with_status_1_and_without_output(tmp_path):
    families = write_study(tmp_path)
    with pytest.raises(SystemExit) as ended:
        run_both(tmp_path, families, 0.02)
    assert ended.value.code == 1
    assert not (tmp_path / "drift_ok.txt").exists()
    assert "memo/p/accuracy: from " in (tmp_path / "check.log").read_text()
    items = read_tsv(tmp_path / "flipped.tsv")
    lost = read_tsv(tmp_path / "drift.tsv")["lost"].iloc[0]
    assert set(items["change"]) == {"lost"}
    assert len(items) == 2 * lost > 30
    assert (items["margin"] < 0).all()
    assert (items["reference_margin"] > 0).all()


def test_what_is_allowed_passes_and_the_files_are_the_same_twice(tmp_path):
    families = write_study(tmp_path)
    text = run_both(tmp_path, families, 0.5)
    first = text, (tmp_path / "drift.tsv").read_bytes(), (tmp_path / "flipped.tsv").read_bytes()
    assert text.startswith("No outcome is known to have lost more than the 50 points")
    assert "a2 against the best before it: 2 of 2 outcomes tested\n  largest fall: memo" in text
    text = run_both(tmp_path, families, 0.5)
    assert first == (
        text,
        *(Path(tmp_path / f"{n}.tsv").read_bytes() for n in ("drift", "flipped")),
    )


def test_cells_without_any_item_values_have_rows_and_no_test(tmp_path):
    families = write_study(tmp_path)
    for path in tmp_path.glob("*.parquet"):
        write_item_values(path, {})
    with pytest.raises(SystemExit):
        run_both(tmp_path, families, 0.02)
    table = read_tsv(tmp_path / "drift.tsv")
    assert set(table["status"]) == {"no test: no item-level scores"}
    assert "import results with their samples" in (tmp_path / "check.log").read_text()


def test_an_infinite_cell_is_refused_by_name():
    labels = {"family": "f", "parameters": 1, "seed": 0, "task": "t", "protocol": "p"}
    cells = pd.DataFrame(
        [
            {**labels, "metric": "accuracy", "ckpt": f"c{step}", "step": step, "value": value}
            for step, value in ((1, 0.5), (2, np.inf))
        ]
    )
    with pytest.raises(StudyError, match="c2, t/p/accuracy: the value is infinite"):
        drift(cells, lambda _: pd.DataFrame(), {"all": ["t/p/accuracy"]})
