"""The rule from statistics to words, case by case, and the page that people read."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from downslope.verdict_page import as_markdown
from downslope.verdict_words import (
    CANNOT_TELL,
    FALLS,
    NO_CLEAR_CHANGE,
    NOT_ESTABLISHED,
    RISES,
    change_with_interval,
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
    seeds["q"] = [0.5, 0.01]
    assert own_trends(seeds, 0.05, "higher") == "1 of 2 runs: 70M (seed 2)"


def table(effects: pd.DataFrame, run_trends: pd.DataFrame | None = None, shape: str = "flat"):
    trends = pd.DataFrame(
        [
            {"task": "t", "protocol": "p", "metric": "accuracy", "axis": axis, "shape": shape}
            for axis in ("parameters", "tokens", "flops")
        ]
    )
    return verdicts(
        effects,
        trends,
        runs(0.5, 0.5, 0.01) if run_trends is None else run_trends,
        {"main": ["t/p/accuracy"]},
        {"t": "Memo Trap"},
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
        "Falls with size: −10.0 points (95% −15.0 to −5.0) per tenfold parameters. "
        "Falls with training: −10.0 points (95% −15.0 to −5.0) per tenfold tokens. "
        "With training, larger models fall faster. "
        "On these items, performance falls during training in 1 of 3 runs, "
        "the largest only: 12B."
    ]


def test_a_turn_is_said():
    assert "U-shaped over training compute." in table(ALL_FALL, shape="U")["verdict"][0]


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


def test_a_margin_that_does_not_follow_is_told():
    flat = pd.concat(
        effect_rows(NOTHING, effect=e).assign(metric="margin")
        for e in ("parameters", "tokens", "interaction")
    )
    differs = table(pd.concat([ALL_FALL, flat]))
    assert differs["log_odds"].tolist() == ["differs"]
    assert "the threshold may make it" in differs["verdict"][0]
    agrees = table(pd.concat([ALL_FALL, ALL_FALL.assign(metric="margin")]))
    assert agrees["log_odds"].tolist() == ["agrees"]


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
    assert cells[3:] == ["**worse in larger models**, 2 of 5", "1 of 3 runs, the largest only: 12B"]
    assert "- ols does not keep its level." in lines
    assert "- Checkpoints used: 9 of 10." in lines
