"""The rule from statistics to words, case by case, and the page that people read."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from downslope.verdict_page import as_markdown, design_notes
from downslope.verdict_words import (
    CANNOT_TELL,
    FALLS,
    NO_CLEAR_CHANGE,
    NOT_ESTABLISHED,
    RISES,
    Reading,
    change_with_interval,
    sentences,
)
from downslope.verdicts import own_trends, read_effect, verdicts

METHODS = ("ols", "cluster", "jackknife", "two-stage", "wild", "item")
NOTHING = dict.fromkeys(METHODS, 0.5)


def effect_rows(
    q: dict[str, float], *, estimate: float = -1.0, effect: str = "parameters", **status: str
) -> pd.DataFrame:
    """Rows of one effect; a NaN q is a method that could not estimate it."""
    return pd.DataFrame(
        [
            {
                "task": "t",
                "protocol": "p",
                "metric": "accuracy",
                "method": method,
                "effect": effect,
                "estimate": estimate,
                "p": value,
                "q": value,
                "n": 9,
                "runs": 8,
                "expected": 10,
                "tests": "main",
                "status": status.get(method.replace("-", "_"), "ok"),
                "per_tenfold": estimate / 10,
                "per_tenfold_low": estimate / 10 - 0.05,
                "per_tenfold_high": estimate / 10 + 0.05,
            }
            for method, value in q.items()
        ]
    )


def word(q: dict[str, float], better: str = "higher", **other: object) -> str:
    return read_effect(effect_rows(q, **other), "jackknife", 0.05, better).word


@pytest.mark.parametrize(
    ("estimate", "better", "expected"),
    [(-1, "higher", FALLS), (1, "higher", RISES), (1, "lower", FALLS), (-1, "lower", RISES)],
)
def test_what_the_judge_finds_is_stated_about_performance(estimate, better, expected):
    assert word(NOTHING | {"jackknife": 0.049}, better, estimate=estimate) == expected


def test_what_only_others_find_is_not_established():
    found = read_effect(
        effect_rows(NOTHING | {"ols": 1e-9, "cluster": 0.01}), "jackknife", 0.05, "higher"
    )
    assert (found.word, found.methods, found.asked) == (NOT_ESTABLISHED, ("ols", "cluster"), 5)


def test_what_nobody_finds_is_no_clear_change_and_keeps_its_interval():
    found = read_effect(effect_rows(NOTHING), "jackknife", 0.05, "higher")
    assert (found.word, found.methods) == (NO_CLEAR_CHANGE, ())
    assert (found.change, found.low, found.high) == pytest.approx((-0.1, -0.15, -0.05))


def test_the_bootstrap_of_items_is_no_judge():
    assert word(NOTHING | {"item": 1e-9}) == NO_CLEAR_CHANGE


def test_a_method_that_cannot_estimate_cannot_tell():
    nan = NOTHING | {"jackknife": np.nan}
    reason = "not estimable: 2 runs, at least 3 are needed"
    found = read_effect(effect_rows(nan, jackknife=reason), "jackknife", 0.05, "higher")
    assert (found.word, found.reason, found.asked) == (CANNOT_TELL, reason, 4)


def test_below_resolution_is_never_did_not_survive():
    floor = {"wild": "below resolution: 8 runs allow no p under 0.0078"}
    rows = effect_rows(NOTHING | {"wild": 0.2, "ols": 0.01}, **floor)
    assert read_effect(rows, "wild", 0.05, "higher").word == CANNOT_TELL
    assert read_effect(rows, "jackknife", 0.05, "higher").asked == 4
    enough = effect_rows(NOTHING | {"wild": 0.04}, **floor)
    assert read_effect(enough, "wild", 0.05, "higher").word == FALLS


def runs(*q: float, slope: float = -0.1) -> pd.DataFrame:
    sizes = [7e7, 1.4e9, 1.2e10]
    return pd.DataFrame(
        {
            "task": "t",
            "protocol": "p",
            "metric": "accuracy",
            "family": "toy",
            "parameters": sizes[: len(q)],
            "seed": 1,
            "slope": slope,
            "q": list(q),
            "p": list(q),
            "status": "ok",
        }
    )


def test_runs_that_fall_are_named_from_small_to_large():
    assert own_trends(runs(0.5, 0.01, 0.02), 0.05, "higher") == (
        "2 of 3 runs, the largest only: 1.4B, 12B"
    )
    assert own_trends(runs(0.01, 0.5, 0.02), 0.05, "higher") == "2 of 3 runs: 70M, 12B"
    assert own_trends(runs(0.01, 0.5, 0.5, slope=0.1), 0.05, "higher") == "none of 3 runs"
    assert own_trends(runs(0.01, 0.5, 0.5, slope=0.1), 0.05, "lower") == "1 of 3 runs: 70M"
    assert own_trends(runs(np.nan, np.nan, np.nan), 0.05, "higher") == ""
    seeds = pd.concat([runs(0.01), runs(0.01).assign(seed=2)], ignore_index=True)
    assert own_trends(seeds, 0.05, "higher") == "all 2 runs"
    assert own_trends(seeds[:1], 0.05, "higher") == "the only run"
    assert own_trends(seeds[:1].assign(q=0.5), 0.05, "higher") == "none of 1 run"
    seeds["q"] = [0.5, 0.01]
    assert own_trends(seeds, 0.05, "higher") == "1 of 2 runs: 70M (seed 2)"


def table(
    effects: pd.DataFrame,
    run_trends: pd.DataFrame | None = None,
    shape: str = "flat",
    line: dict[str, float] | None = None,
):
    numbers = line or dict.fromkeys(("slope", "slope_low", "slope_high", "q"), np.nan)
    labels = {"task": "t", "protocol": "p", "metric": "accuracy", "shape": shape}
    trends = pd.DataFrame(
        [{**labels, "axis": axis, **numbers} for axis in ("parameters", "tokens", "flops")]
    )
    return verdicts(
        effects,
        trends,
        runs(0.5, 0.5, 0.01) if run_trends is None else run_trends,
        {"main": ["t/p/accuracy"]},
        {"t": "Memo Trap"},
        {"t": "Strong Prior"},
        {"accuracy": "higher", "margin": "higher"},
        robust="jackknife",
        level=0.05,
    )


FOUND = NOTHING | {"jackknife": 0.01, "ols": 0.001}
ALL_FALL = pd.concat(
    [effect_rows(FOUND, effect=effect) for effect in ("parameters", "tokens", "interaction")]
)


def test_the_sentences_of_a_task_that_gets_worse_in_every_way():
    assert table(ALL_FALL)["verdict"].tolist() == [
        "Falls with size: −10.0 points (95% −15.0 to −5.0) per tenfold increase in parameters. "
        "Falls with training: −10.0 points (95% −15.0 to −5.0) per tenfold increase in tokens. "
        "With training, larger models fall faster: the slope changes by −10.0 points (95% −15.0 "
        "to −5.0) per tenfold increase of both. On these items performance falls clearly during "
        "training in 1 of 3 runs, the largest only: 12B."
    ]


def test_a_turn_is_said():
    said = table(ALL_FALL, shape="U")["verdict"][0]
    assert "Over training compute it falls, then rises (U, two-lines test)." in said


def test_a_run_whose_cells_are_all_equal_counts_as_one_that_does_not_fall():
    some = runs(np.nan, 0.01, 0.02)
    some.loc[0, "status"] = "not estimable: every cell has the value 0.5"
    assert own_trends(some, 0.05, "higher") == "2 of 3 runs, the largest only: 1.4B, 12B"
    some.loc[0, "status"] = "not estimable: 1 checkpoint, at least 3 are needed"
    assert own_trends(some, 0.05, "higher") == "all 2 runs"


def test_methods_that_disagree_in_direction_are_named():
    up = effect_rows({"ols": 0.001}, estimate=0.5)
    rows = pd.concat([up, effect_rows(NOTHING).query("method != 'ols'")])
    found = read_effect(rows, "jackknife", 0.05, "higher")
    assert (found.word, found.methods) == (NOT_ESTABLISHED, ("ols",))


def test_where_an_effect_cannot_be_told_the_whole_line_is_quoted():
    nan = NOTHING | {"jackknife": np.nan}
    reason = "not estimable: all checkpoints have one model size"
    blind = pd.concat(
        effect_rows(nan, effect=effect, jackknife=reason)
        for effect in ("parameters", "tokens", "interaction")
    )
    said = table(blind, line={"slope": -0.1, "slope_low": -0.2, "slope_high": -0.05, "q": 0.004})
    assert (
        "With training: cannot tell (not estimable: all checkpoints have one" in said["verdict"][0]
    )
    assert "Over tokens alone: −10.0 points (95% −20.0 to −5.0)" in said["verdict"][0]


def test_a_rise_that_is_slower_in_larger_models_is_not_called_a_fall():
    mixed = pd.concat(
        [
            effect_rows(NOTHING, effect="parameters"),
            effect_rows(FOUND, effect="tokens", estimate=1.0),
            effect_rows(FOUND, effect="interaction"),
        ]
    )
    said = table(mixed)["verdict"][0]
    assert "No clear change with size" in said
    assert "Rises with training" in said
    assert "larger models gain less or lose more" in said


def test_log_odds_that_do_not_follow_are_told():
    def margins(q: dict[str, float], estimate: float) -> pd.DataFrame:
        return pd.concat(
            effect_rows(q, effect=e, estimate=estimate).assign(metric="margin")
            for e in ("parameters", "tokens", "interaction")
        )

    for rows, expected in (
        (margins(FOUND, -1.0), "agrees"),
        (margins(NOTHING, -1.0), "not established"),
        (margins(FOUND, 1.0), "differs"),
    ):
        found = table(pd.concat([ALL_FALL, rows]))
        assert found["log_odds"].tolist() == [expected]
        assert ("log-odds of the right answer" in found["verdict"][0]) == (expected != "agrees")


def test_the_log_odds_beside_mc1_are_of_the_answers_that_they_are_of():
    row = {"metric": "mc1", "own_trends": "", "log_odds": "not established"}
    row |= dict.fromkeys(("shape_parameters", "shape_tokens", "shape_flops"), "")
    falls = Reading(FALLS, ("ols",), 1, 0.01, -0.1, -0.2, -0.01)
    readings = dict.fromkeys(("parameters", "tokens", "interaction"), falls)
    said = sentences(readings, row, "higher", pd.DataFrame())
    assert "In the log-odds of all right answers, MC2's, this is not established." in said


def test_changes_are_printed_in_points_or_nats():
    nan = float("nan")
    assert change_with_interval(-0.1234, -0.2, 0.01, "mc2") == "−12.3 points (95% −20.0 to +1.0)"
    assert change_with_interval(0.25, nan, nan, "margin") == "+0.25 nats"


def test_the_page_answers_first_and_explains_last():
    page = as_markdown(
        table(ALL_FALL),
        title="a study",
        robust="jackknife",
        level=0.05,
        level_notes={"ols": "ols does not keep its level."},
    )
    lines = page.splitlines()
    assert lines[0] == "# What gets worse: a study"
    assert lines[2].strip() == "**Gets worse with size**: Memo Trap."
    row = next(line for line in lines if line.startswith("| Memo Trap"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[1] == "**falls** −10.0 points (95% −15.0 to −5.0), 2 of 5"
    assert cells[3:] == [
        "**worse** −10.0 points (95% −15.0 to −5.0), 2 of 5",
        "1 of 3 runs, the largest only: 12B",
    ]
    assert "- ols does not keep its level." in lines
    assert "- Checkpoints used: 9 of 10." in lines


def test_with_a_strict_level_a_coarse_bootstrap_could_not_have_found_anything():
    """Seven runs: no wild p lies under 2 / 2^7 = .0156."""
    rows = effect_rows(NOTHING).assign(runs=7)
    assert read_effect(rows, "jackknife", 0.05, "higher").asked == 5
    assert read_effect(rows, "jackknife", 0.01, "higher").asked == 4


def test_a_metric_that_is_better_when_lower_is_announced():
    rows = pd.concat(
        effect_rows(FOUND, effect=effect, estimate=1.0).assign(metric="brier")
        for effect in ("parameters", "tokens", "interaction")
    )
    found = verdicts(
        rows,
        pd.DataFrame(columns=["task", "protocol", "metric", "axis", "shape", "q"]),
        runs(0.5).assign(metric="other"),
        {"main": ["t/p/brier"]},
        {"t": "Memo Trap"},
        {"t": "Strong Prior"},
        {"brier": "lower", "margin": "higher"},
        robust="jackknife",
        level=0.05,
    )
    assert found["size"].tolist() == [FALLS]
    assert found["verdict"][0].startswith("Lower is better; falls and rises are those of perf")


def test_the_page_names_what_cannot_be_told_and_claims_nothing():
    nan = NOTHING | {"jackknife": np.nan}
    blind = pd.concat(
        effect_rows(nan, effect=effect, jackknife="not estimable: 2 runs")
        for effect in ("parameters", "tokens", "interaction")
    )
    page = as_markdown(table(blind), title="x", robust="jackknife", level=0.05, level_notes={})
    assert "Gets worse with size: none established." in page
    assert "Cannot tell with size: Memo Trap." in page


def test_the_page_says_of_each_cause_what_gets_worse():
    one = table(ALL_FALL)
    others = [
        {"title": "Redefine", "size": NOT_ESTABLISHED, "training": RISES},
        {"title": "NeQA|2", "cause": "Distractor Task", "size": NO_CLEAR_CHANGE},
        {"title": "Sig Figs", "cause": "Distractor Task", "training": CANNOT_TELL},
    ]
    rows = pd.concat([one, *(one.assign(**other) for other in others)], ignore_index=True)
    given = {"title": "x", "robust": "jackknife", "level": 0.05, "level_notes": {}}
    lines = as_markdown(rows, **given).splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("| Cause"))
    assert lines[first + 2 : first + 5] == [
        "| Strong Prior | Memo Trap | Memo Trap | Redefine |",
        "| Distractor Task | Sig Figs | NeQA\\|2 | – |",
        "",
    ]
    assert any(line.startswith("- A cause is what is thought") for line in lines)
    assert "ause" not in as_markdown(one, **given), "one cause divides nothing"
    apart = rows.assign(tests=rows["cause"])
    assert "ause" not in as_markdown(apart, **given), "nor does one in each family of tests"


def test_the_page_names_runs_that_the_judge_leaves_out():
    status = "left out: toy/3/0 (tokens that hardly vary)"
    rows = pd.concat(
        effect_rows(FOUND, effect=effect, jackknife=status, ols="left out: all of them")
        for effect in ("parameters", "tokens", "interaction")
    )
    rows.loc[rows["method"] == "jackknife", "n"] = 6
    one = table(rows)
    assert one["n"].tolist() == [9], "cells that there are, whatever the judge leaves out"
    assert one["left_out"].tolist() == ["toy/3/0 (tokens that hardly vary)"]
    given = {"title": "x", "robust": "jackknife", "level": 0.05, "level_notes": {}}
    said = "- jackknife leaves out toy/3/0 (tokens that hardly vary): what is said of size"
    assert said in as_markdown(one, **given)
    two = pd.concat([one, one.assign(title="NeQA", left_out="")], ignore_index=True)
    assert "hardly vary), for Memo Trap: what" in as_markdown(two, **given)
    assert "leaves out" not in as_markdown(table(ALL_FALL), **given)


def test_the_page_says_why_no_single_run_is_tested():
    given = {"title": "x", "robust": "jackknife", "level": 0.05, "level_notes": {}}
    for status, reason in (
        ("no interval: no item-level scores", "no item-level scores"),
        ("not estimable: 1 checkpoint, at least 3 are needed", "1 checkpoint, at least 3 are"),
    ):
        none = table(ALL_FALL, runs(np.nan, np.nan).assign(status=status))
        assert none["untested"].tolist() == [status.split(": ")[1]]
        page = as_markdown(none, **given)
        assert f"- Single runs are not tested: {reason}" in page
        assert "Falls while training" not in page
    assert table(ALL_FALL)["untested"].tolist() == [""]


def checkpoints(*runs_: tuple[str, float, int, int]) -> list[dict[str, object]]:
    """Rows of (family, parameters, seed) with so many checkpoints."""
    keys = ("family", "parameters", "seed")
    return [dict(zip(keys, run, strict=False)) for run in runs_ for _ in range(run[3])]


def test_the_design_is_told_where_it_limits_what_can_be_said():
    assert design_notes(checkpoints(("a", 1e6, 1, 8), ("a", 1e7, 1, 8)), 16) == []
    (seeds,) = design_notes(checkpoints(("a", 1e6, 1, 8), ("a", 1e6, 2, 8), ("a", 1e7, 1, 8)), 24)
    assert seeds.startswith("3 runs of 2 sizes")
    (short,) = design_notes(checkpoints(("a", 1e6, 1, 2), ("a", 1e7, 1, 8)), 9)
    assert "number of checkpoints (2 to 8)" in short
    (several,) = design_notes(checkpoints(("a", 1e6, 1, 8), ("b", 1e7, 1, 8)), 16)
    assert several.startswith("Several families are compared as one")
    (gaps,) = design_notes(checkpoints(("a", 1e6, 1, 8), ("a", 1e7, 1, 8)), 13)
    assert gaps.startswith("Some outcomes have cells of 13 of the 16 checkpoints")
