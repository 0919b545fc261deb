"""Cells: means and errors by hand, broken class lists, and scores that do not fit the items.

Log-likelihoods are logarithms of small whole numbers, so that probabilities are fractions.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest

from downslope import cells as cells_module
from downslope.cells import COLUMNS, sort_cells, values_of
from downslope.errors import StudyError
from downslope.layout import layouts_of

CHECKPOINT: dict[str, Any] = {
    "ckpt": "pythia-12b-143000",
    "family": "pythia",
    "parameters": 12_000_000_000,
    "step": 143000,
    "tokens": 299_892_736_000,
    "seed": 0,
    "source": "hub:EleutherAI/pythia-12b",
    "known_bad": "",
}
MICHAELOV, MCKENZIE = "michaelov2023", "mckenzie2023"
DDOF = {MICHAELOV: 1, MCKENZIE: 0}


def items_of(*rows: tuple[str, Sequence[int]], mc1: Sequence[Sequence[int]] = ()) -> pd.DataFrame:
    """An item table from class lists as published, and the indices of the right classes."""
    choices = [ast.literal_eval(classes) for classes, _ in rows]
    return pd.DataFrame(
        {
            "item": [f"item{n}" for n in range(len(rows))],
            "choices": choices,
            "right": [list(right) for _, right in rows],
            "mc1": list(mc1) or [[] for _ in rows],
            "classes": [classes for classes, _ in rows],
        }
    )


def scores_of(likelihoods: dict[str, list[list[float]]], *, characters: int = 2) -> pd.DataFrame:
    """A score table from likelihoods: per protocol, per item, per choice."""
    rows = [
        (f"item{n}", protocol, choice, math.log(likelihood), characters)
        for n in range(max(map(len, likelihoods.values())))
        for protocol, items in likelihoods.items()
        for choice, likelihood in enumerate(items[n])
    ]
    names = ["item", "protocol", "choice", "loglikelihood", "characters"]
    frame = pd.DataFrame(rows, columns=names)
    return frame.astype({"loglikelihood": np.float32})


def cells_of(
    scores: pd.DataFrame, items: Any, checkpoint: dict[str, Any], task: str, ddof: dict[str, int]
) -> pd.DataFrame:
    """Cells straight from scores."""
    values = values_of(scores, items, checkpoint["ckpt"], task, ddof)
    return cells_module.cells_of(values, checkpoint, task, ddof)


YES_NO = "[' Y', ' N']"
FOUR = items_of((YES_NO, [0]), (YES_NO, [0]), (YES_NO, [1]), (YES_NO, [1]))
# Right in items 0, 2 and 3; p(right) = 3/4, 1/4, 3/4, 3/4
FOUR_LIKELIHOODS = [[3.0, 1.0], [1.0, 3.0], [1.0, 3.0], [1.0, 3.0]]
FOUR_SCORES = scores_of({MICHAELOV: FOUR_LIKELIHOODS, MCKENZIE: FOUR_LIKELIHOODS})


def cell(cells: pd.DataFrame, protocol: str, metric: str) -> tuple[float, float, int]:
    found = cells[(cells["protocol"] == protocol) & (cells["metric"] == metric)]
    assert len(found) == 1
    row = found.iloc[0]
    return float(row["value"]), float(row["se"]), int(row["n"])


def test_value_standard_error_and_n_by_protocol() -> None:
    cells = cells_of(FOUR_SCORES, FOUR, CHECKPOINT, "neqa", DDOF)
    # 1 0 1 1: mean 3/4, squared deviations 3 x 1/16 + 9/16 = 3/4
    # ddof 1: sd^2 = 3/4 / 3 = 1/4, se = 1/2 / 2; ddof 0: sd^2 = 3/16, se = sqrt(3)/4 / 2
    assert cell(cells, MICHAELOV, "accuracy") == pytest.approx((3 / 4, 1 / 4, 4))
    assert cell(cells, MCKENZIE, "accuracy") == pytest.approx((3 / 4, math.sqrt(3) / 8, 4))
    # p(right) 3/4 1/4 3/4 3/4: mean 5/8, a spread of half that of 1 0 1 1
    assert cell(cells, MICHAELOV, "mc2") == pytest.approx((5 / 8, 1 / 8, 4))
    # log 3, -log 3, log 3, log 3: mean log(3)/2, the spread of 1 0 1 1 times 2 log 3
    log3 = math.log(3)
    assert cell(cells, MICHAELOV, "margin") == pytest.approx((log3 / 2, log3 / 2, 4))
    # losses log(4/3) three times and log 4: mean log 4 - 3/4 log 3
    assert cell(cells, MCKENZIE, "class_loss")[0] == pytest.approx(math.log(4) - 0.75 * log3)
    assert cell(cells, MICHAELOV, "mass") == pytest.approx((math.log(4), 0, 4), abs=1e-6)


def test_columns_keys_and_order() -> None:
    cells = cells_of(FOUR_SCORES, FOUR, CHECKPOINT, "neqa", {MCKENZIE: 0, MICHAELOV: 1})
    assert tuple(cells.columns) == COLUMNS
    metrics = ["accuracy", "acc_norm", "mc2", "margin", "class_loss", "brier", "mass"]
    assert cells["metric"].tolist() == metrics * 2  # no mc1: no item has an MC1 question
    assert cells["protocol"].tolist() == [MCKENZIE] * 7 + [MICHAELOV] * 7
    first = cells.iloc[0]
    assert first[["ckpt", "family", "parameters", "step", "tokens", "seed"]].tolist() == [
        *("pythia-12b-143000", "pythia", 12_000_000_000, 143000, 299_892_736_000, 0)
    ]
    # 6 x 12e9 x 299,892,736,000 = 2.16e22, beyond a 64-bit integer
    assert first["flops"] == pytest.approx(21_592_276_992e12, rel=1e-12)
    assert cells["n"].dtype == np.int64
    assert cells["tokens"].dtype == np.int64


def test_the_order_of_score_rows_does_not_matter() -> None:
    shuffled = FOUR_SCORES.sample(frac=1, random_state=3)
    again = cells_of(shuffled, FOUR, CHECKPOINT, "neqa", DDOF)
    pd.testing.assert_frame_equal(again, cells_of(FOUR_SCORES, FOUR, CHECKPOINT, "neqa", DDOF))


def test_a_layout_made_once_gives_the_same_cells() -> None:
    layouts = layouts_of(FOUR, "neqa", DDOF)
    again = cells_of(FOUR_SCORES, layouts, CHECKPOINT, "neqa", DDOF)
    pd.testing.assert_frame_equal(again, cells_of(FOUR_SCORES, FOUR, CHECKPOINT, "neqa", DDOF))


def test_a_single_item_has_a_value_and_no_sample_error() -> None:
    scores = scores_of({MICHAELOV: [[3, 1]], MCKENZIE: [[3, 1]]})
    cells = cells_of(scores, items_of((YES_NO, [0])), CHECKPOINT, "neqa", DDOF)
    value, se, n = cell(cells, MICHAELOV, "accuracy")
    assert (value, n) == (1, 1)
    assert math.isnan(se)
    assert cell(cells, MCKENZIE, "accuracy") == (1, 0, 1)


def test_items_of_different_lengths_and_mc1() -> None:
    answers = "['a', 'b', 'c']"
    items = items_of((answers, [0, 1]), (YES_NO, [1]), mc1=[[1, 2], [1, 0]])
    scores = scores_of({MICHAELOV: [[1, 2, 5], [1, 3]]})
    cells = cells_of(scores, items, CHECKPOINT, "truthfulqa", {MICHAELOV: 1})
    # item 0: MC1 is b (2) against c (5), wrong; p(right) = 3/8. Item 1: right; p(right) = 3/4
    assert cell(cells, MICHAELOV, "mc1")[0] == 1 / 2
    assert cell(cells, MICHAELOV, "mc2")[0] == pytest.approx((3 / 8 + 3 / 4) / 2)
    assert cell(cells, MICHAELOV, "brier")[0] == pytest.approx((38 / 64 + 2 / 16) / 2)


# --- class lists that a protocol reads differently -------------------------------------------

# Cut at apostrophes: ` a` alone, so that the second class, the right one, is out of reach.
UNREACHABLE = """[' a', " b"]"""
# Cut at apostrophes: ` a`, ` a` and ` c`.
EQUAL_PIECES = """[' a', " b' a'", ' c']"""


def test_a_right_choice_out_of_reach_counts_as_wrong_and_has_no_loss() -> None:
    items = items_of((YES_NO, [0]), (UNREACHABLE, [1]))
    scores = scores_of({MICHAELOV: [[3, 1], [1]], MCKENZIE: [[3, 1], [1, 3]]})
    cells = cells_of(scores, items, CHECKPOINT, "memo-trap", DDOF)
    assert cell(cells, MICHAELOV, "accuracy")[::2] == (1 / 2, 2)
    assert cell(cells, MICHAELOV, "acc_norm")[::2] == (1 / 2, 2)
    assert cell(cells, MICHAELOV, "mc2")[::2] == pytest.approx((3 / 8, 2))
    for metric, value in {"margin": math.log(3), "class_loss": math.log(4 / 3)}.items():
        assert cell(cells, MICHAELOV, metric)[::2] == pytest.approx((value, 1))
        assert cell(cells, MCKENZIE, metric)[::2] == pytest.approx((value, 2))


def test_an_item_of_which_nothing_can_be_read_counts_as_wrong() -> None:
    items = items_of((YES_NO, [0]), ('["a", "b"]', [0]), (YES_NO, [0]))  # no apostrophe to cut at
    scores = scores_of({MICHAELOV: [[3, 1], [], [3, 1]]})
    cells = cells_of(scores, items, CHECKPOINT, "t", {MICHAELOV: 1})
    assert cell(cells, MICHAELOV, "accuracy")[::2] == pytest.approx((2 / 3, 3))
    assert cell(cells, MICHAELOV, "mass")[::2] == pytest.approx((math.log(4), 2))


@pytest.mark.parametrize("right", [0, 1])
def test_equal_texts_count_once_and_are_right_together(right: int) -> None:
    items = items_of((EQUAL_PIECES, [right]), mc1=[[right, 2]])
    scores = scores_of({MICHAELOV: [[3, 3, 1]]})
    cells = cells_of(scores, items, CHECKPOINT, "t", {MICHAELOV: 1})
    found = {row.metric: row.value for row in cells.itertuples()}
    assert found["accuracy"] == found["acc_norm"] == found["mc1"] == 1
    # 3 against 1, not 6 against 1: p = 3/4
    assert found["mc2"] == pytest.approx(3 / 4)
    assert found["margin"] == pytest.approx(math.log(3))
    assert found["class_loss"] == pytest.approx(math.log(4 / 3))
    assert found["brier"] == pytest.approx(2 / 16)
    assert found["mass"] == pytest.approx(math.log(4))


def test_different_texts_of_equal_likelihood_stay_two_choices() -> None:
    scores = scores_of({MICHAELOV: [[3, 3, 1]]})
    items = items_of(("['a', 'b', 'c']", [0]))
    cells = cells_of(scores, items, CHECKPOINT, "t", {MICHAELOV: 1})
    assert cell(cells, MICHAELOV, "mc2")[0] == pytest.approx(3 / 7)


# --- scores that do not fit --------------------------------------------------------------------


def refusal(scores: pd.DataFrame, items: pd.DataFrame = FOUR) -> str:
    with pytest.raises(StudyError) as caught:
        cells_of(scores, items, CHECKPOINT, "neqa", DDOF)
    assert caught.value.remedy
    return str(caught.value)


def changed(index: int, **values: Any) -> pd.DataFrame:
    scores = FOUR_SCORES.copy()
    for column, value in values.items():
        scores.loc[index, column] = value
    return scores


# Rows of the table are: item0 michaelov 0, 1; item0 mckenzie 0, 1; item1 michaelov 0, 1; ...
MISFITS = {
    "a choice is missing": (
        FOUR_SCORES.drop(index=5),
        ["item item1", "choice 1 is scored 0 times", MICHAELOV],
    ),
    "a whole item is missing": (
        FOUR_SCORES[FOUR_SCORES["item"] != "item3"],
        ["item item3", "choice 0 is scored 0 times"],
    ),
    "a choice comes twice": (
        pd.concat([FOUR_SCORES, FOUR_SCORES.iloc[[3]]]),
        ["item item0", "choice 1 is scored 2 times", MCKENZIE],
    ),
    "a choice too many": (
        pd.concat([FOUR_SCORES, FOUR_SCORES.iloc[[3]].assign(choice=2)]),
        ["item item0", "choice 2", "the item has 2 choices"],
    ),
    "an item of another task": (changed(0, item="item9"), ["item item9", "item table"]),
    "a protocol is missing": (
        FOUR_SCORES[FOUR_SCORES["protocol"] == MICHAELOV],
        ["protocols michaelov2023, expected mckenzie2023, michaelov2023"],
    ),
    "no number": (changed(5, loglikelihood=np.nan), ["item item1", "choice 1 is nan"]),
    "an infinite number": (changed(6, loglikelihood=-np.inf), ["item item1", "is -inf"]),
}


@pytest.mark.parametrize(("scores", "said"), MISFITS.values(), ids=MISFITS.keys())
def test_scores_that_do_not_fit_the_items_are_refused(
    scores: pd.DataFrame, said: list[str]
) -> None:
    message = refusal(scores)
    for part in ["task neqa", "checkpoint pythia-12b-143000", *said]:
        assert part in message


def test_one_text_with_two_log_likelihoods_is_refused() -> None:
    scores = scores_of({MICHAELOV: [[3, 2, 1]], MCKENZIE: [[3, 2, 1]]})
    message = refusal(scores, items_of((EQUAL_PIECES, [0])))
    assert "item item0: choices 0 and 1 have one text and two log-likelihoods" in message


def test_an_item_table_with_an_id_twice_is_refused() -> None:
    message = refusal(FOUR_SCORES, FOUR.assign(item=["item0", "item1", "item1", "item3"]))
    assert "item item1: appears twice in the item table" in message


# --- one order for all cells --------------------------------------------------------------------


def test_cells_have_one_order() -> None:
    tasks = {"neqa": [MICHAELOV, MCKENZIE], "memo-trap": [MCKENZIE, MICHAELOV]}
    frames = []
    for task, protocols in tasks.items():
        for size, step, seed in ((200, 10, 0), (200, 2, 0), (100, 2, 1), (100, 10, 0)):
            row = {"ckpt": f"m{size}-{step}-{seed}", "parameters": size, "step": step, "seed": seed}
            ddof = {protocol: DDOF[protocol] for protocol in protocols}
            frames.append(cells_of(FOUR_SCORES, FOUR, {**CHECKPOINT, **row}, task, ddof))
    cells = pd.concat(frames)
    ordered = sort_cells(cells, tasks)
    assert ordered["ckpt"].drop_duplicates().tolist() == [
        *("m100-10-0", "m100-2-1", "m200-2-0", "m200-10-0")
    ]
    one = ordered[ordered["ckpt"] == "m100-2-1"]
    assert list(zip(one["task"], one["protocol"], strict=True))[::7] == [
        (task, protocol) for task, protocols in tasks.items() for protocol in protocols
    ]
    assert one["metric"].tolist()[:3] == ["accuracy", "acc_norm", "mc2"]
    shuffled = sort_cells(cells.sample(frac=1, random_state=1), tasks)
    pd.testing.assert_frame_equal(ordered, shuffled)


def test_cells_that_no_table_names_are_refused() -> None:
    cells = cells_of(FOUR_SCORES, FOUR, CHECKPOINT, "neqa", DDOF)
    with pytest.raises(StudyError, match="neqa/mckenzie2023/accuracy is not one of this study's"):
        sort_cells(cells, {"neqa": [MICHAELOV]})


def test_two_cells_of_one_outcome_are_refused() -> None:
    cells = cells_of(FOUR_SCORES, FOUR, CHECKPOINT, "neqa", DDOF)
    with pytest.raises(StudyError, match="two cells for neqa/michaelov2023/accuracy"):
        sort_cells(pd.concat([cells, cells]), {"neqa": list(DDOF)})
