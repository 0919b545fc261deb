"""Paired tests against scipy, by hand, and what they must not depend on."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from downslope.paired import (
    EXACT_BELOW,
    MEASURES,
    compare,
    mcnemar,
    mean_difference,
    sign_flips,
)


def column(values) -> np.ndarray:
    return np.asarray(values, dtype=float)[:, None]


def exact_by_scipy(values) -> float:
    """All sign vectors of one column of differences."""
    test = stats.permutation_test(
        (np.asarray(values, dtype=float),),
        np.mean,
        permutation_type="samples",
        n_resamples=np.inf,
        vectorized=True,
        batch=4096,
    )
    return float(test.pvalue)


def test_mean_error_and_interval_by_hand():
    """Differences 1, 1, 0, 0: variance 1/3, se sqrt(1/12); t of 3 degrees of freedom 3.182446."""
    found = mean_difference(column([1, np.nan, 1, 0, 0]))
    assert found.n.tolist() == [4]
    assert found.mean == pytest.approx([0.5])
    assert found.se == pytest.approx([np.sqrt(1 / 12)])
    assert found.low == pytest.approx([0.5 - 3.182446 * np.sqrt(1 / 12)])
    assert found.high == pytest.approx([0.5 + 3.182446 * np.sqrt(1 / 12)])


def test_one_item_has_no_error_and_none_has_no_mean():
    found = mean_difference(np.array([[0.3, np.nan], [np.nan, np.nan]]))
    assert found.n.tolist() == [1, 0]
    assert found.mean[0] == 0.3
    assert np.isnan([found.mean[1], *found.se, *found.low, *found.high]).all()


@pytest.mark.parametrize(("lost", "gained"), [(0, 0), (1, 0), (3, 9), (9, 3), (12, 12), (24, 0)])
def test_mcnemar_is_binomial_where_flips_are_few(lost, gained):
    expected = stats.binomtest(lost, lost + gained).pvalue if lost + gained else 1.0
    assert mcnemar(lost, gained) == (pytest.approx(expected), "exact McNemar")


def test_mcnemar_is_chi_squared_where_flips_are_many():
    """(|40 - 9| - 1)^2 / 49 = 900 / 49, with one degree of freedom."""
    expected = stats.chi2.sf(900 / 49, 1)
    assert mcnemar(40, 9) == (pytest.approx(expected), "chi-squared McNemar")
    assert mcnemar(9, 40) == mcnemar(40, 9)
    assert mcnemar(EXACT_BELOW, 0)[1] == "chi-squared McNemar"


def test_as_many_gains_as_losses_are_no_evidence_in_either_form():
    """The continuity correction must not turn a difference of zero into one of a half."""
    assert mcnemar(500, 500)[0] == 1.0
    assert mcnemar(5, 5)[0] == 1.0


@pytest.mark.parametrize(
    "values",
    [
        [0.3, -0.1, 0.4, 0.9, -0.2, 0.7, 0.35, 1.2],
        [0.3, 0.0, 0.4, 0.0, -0.2, 0.7, 0.0, 1.2, 0.0],  # zeros change nothing
        [0.1, 0.2, -0.3, 0.3, 0.1, 0.1],  # sums that are equal but for rounding
        [-5.0, 0.0],
        [1.0, -1.0, 2.0, -2.0],
    ],
)
def test_few_differences_try_every_sign_vector(values):
    p, exact = sign_flips(column(values), seed=1)
    assert exact.tolist() == [True]
    assert p[0] == pytest.approx(exact_by_scipy(values), abs=1e-12)


@pytest.mark.parametrize("shift", [0.0, 0.4, 0.9])
def test_many_differences_come_near_the_exact_p(shift):
    """16 differences have 65,536 sign vectors; 9,999 of them err by at most four deviations."""
    values = np.random.default_rng(3).normal(size=16) + shift
    p, exact = sign_flips(column(values), seed=1)
    truth = exact_by_scipy(values)
    assert not exact[0]
    assert abs(p[0] - truth) < 4 * np.sqrt(truth * (1 - truth) / 9999) + 1e-4


def test_flips_of_right_and_wrong_answers_are_mcnemars_test():
    """Two ways to one number: signs of 0 and +-1 flipped, and the binomial."""
    for lost, gained in [(0, 6), (3, 7), (6, 7)]:
        values = [-1.0] * lost + [1.0] * gained + [0.0] * 5
        assert sign_flips(column(values), seed=1)[0][0] == pytest.approx(mcnemar(lost, gained)[0])


def test_p_does_not_depend_on_the_other_comparisons():
    differences = np.random.default_rng(4).normal(0.1, 1, size=(60, 5))
    together = sign_flips(differences, seed=1)[0]
    assert [sign_flips(differences[:, [c]], seed=1)[0][0] for c in range(5)] == together.tolist()


def test_the_seed_decides_and_undefined_items_do_not_count():
    differences = np.random.default_rng(5).normal(0.2, 1, size=(50, 3))
    first = sign_flips(differences, seed=1)[0]
    assert first.tobytes() == sign_flips(differences, seed=1)[0].tobytes()
    assert first.tobytes() != sign_flips(differences, seed=2)[0].tobytes()
    holes, zeros = differences.copy(), differences.copy()
    holes[::7], zeros[::7] = np.nan, 0.0
    assert sign_flips(holes, seed=1)[0].tolist() == sign_flips(zeros, seed=1)[0].tolist()


def test_a_certain_difference_has_the_smallest_p_and_never_zero():
    p, _ = sign_flips(np.full((200, 1), 0.5), seed=1)
    assert p.tolist() == [1 / 10_000]


def test_sign_flips_keep_their_level():
    """400 comparisons without an effect, skewed sizes: 5 % of them at 5 %, plus or minus 3 sd."""
    rng = np.random.default_rng(6)
    values = rng.exponential(size=(40, 400)) * rng.choice([-1, 1], size=(40, 400))
    rejected = np.mean(sign_flips(values, seed=1)[0] <= 0.05)
    assert abs(rejected - 0.05) < 3 * np.sqrt(0.05 * 0.95 / 400)


def compared(value, reference, *, right_or_wrong, sign=1) -> pd.Series:
    frame = compare(
        column(value), column(reference), right_or_wrong=right_or_wrong, sign=sign, seed=1
    )
    assert tuple(frame.columns) == MEASURES
    return frame.iloc[0]


def test_lost_and_gained_by_hand_and_turned_round_where_lower_is_better():
    value, reference = [1, 0, 0, 1, 0, 1], [1, 1, 1, 0, 1, 1]
    row = compared(value, reference, right_or_wrong=True)
    assert (row["value"], row["reference_value"]) == (0.5, pytest.approx(5 / 6))
    assert row["difference"] == pytest.approx(-1 / 3)
    assert (row["lost"], row["gained"], row["n"], row["status"]) == (3, 1, 6, "ok")
    assert row["p"] == pytest.approx(stats.binomtest(1, 4).pvalue)
    turned = compared(value, reference, right_or_wrong=True, sign=-1)
    assert (turned["lost"], turned["gained"]) == (1, 3)


def test_other_values_have_no_flips():
    row = compared([0.5, 1.0, 0.2], [0.1, 0.9, 0.3], right_or_wrong=False)
    assert row["test"] == "exact sign flips"
    assert pd.isna(row[["lost", "gained"]]).all()


@pytest.mark.parametrize("right_or_wrong", [True, False])
def test_the_same_answers_twice_are_no_evidence(right_or_wrong):
    row = compared([1, 0, 1, 1], [1, 0, 1, 1], right_or_wrong=right_or_wrong)
    assert row[["p", "difference", "se", "low", "high"]].tolist() == [1, 0, 0, 0, 0]


@pytest.mark.parametrize("right_or_wrong", [True, False])
def test_only_shared_items_count_and_the_row_says_so(right_or_wrong):
    nan = np.nan
    row = compared([1, 0, nan, 0, nan], [1, 1, 1, nan, nan], right_or_wrong=right_or_wrong)
    assert (row["value"], row["reference_value"], row["n"]) == (0.5, 1.0, 2)
    assert row["status"] == "on 2 of 4 items: the others have a value in one checkpoint only"
    nothing = compared([1, nan], [nan, 1], right_or_wrong=right_or_wrong)
    assert nothing["status"] == "no test: no item has a value in both checkpoints"
    assert pd.isna(nothing[["value", "difference", "se", "lost", "p"]]).all()


def test_one_item_has_no_interval_and_says_so():
    row = compared([0], [1], right_or_wrong=True)
    assert (row["p"], row["difference"]) == (1.0, -1.0)
    assert (row["status"], np.isnan(row["se"])) == ("no interval: the task has one item", True)
