"""The two-lines test by hand, against other systems' fits, and on curves of known shape."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import integrate, stats
from scipy.interpolate import CubicSpline, make_smoothing_spline

from downslope.two_lines import (
    Points,
    breakpoints,
    has_error,
    line,
    roughness,
    smooth,
    two_lines,
)

NAMES = np.array([f"toy/{run}/0" for run in "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOP"])
both_models = pytest.mark.parametrize("own_levels", [False, True])


def crossed(values, x=None, own_levels=True):
    """Runs that all have the same x; `values` has a row per run."""
    values = np.asarray(values, dtype=float)
    runs, points = values.shape
    x = np.arange(points, dtype=float) if x is None else np.asarray(x, dtype=float)
    return Points(
        np.tile(x, runs), values.ravel(), np.repeat(NAMES[:runs], points), own_levels=own_levels
    )


def single(x, y):
    """Runs of one point each."""
    return Points(np.asarray(x, dtype=float), np.asarray(y, dtype=float), NAMES[: len(x)])


def staggered(seed, runs=5):
    """Runs of unequal length over stretches of x of their own, as on compute."""
    rng = np.random.default_rng(seed)
    x = [0.4 * number + np.arange(3 + number % 4) * 0.25 for number in range(runs)]
    run = np.repeat(NAMES[:runs], [len(of_run) for of_run in x])
    return np.concatenate(x), rng.normal(size=len(run)), run


def ar1(rng, runs, points, rho=0.5):
    errors = rng.normal(size=(runs, points))
    for t in range(1, points):
        errors[:, t] = rho * errors[:, t - 1] + np.sqrt(1 - rho**2) * errors[:, t]
    return errors


# By hand


@both_models
def test_a_v_by_hand(own_levels):
    """Slopes -s and s with s = 0.9, 1, 1.1: their mean, and without each run 1.05, 1, 0.95.

    The jackknife variance is 2/3 (0.05^2 + 0.05^2) = 1/300. For 2 degrees of freedom the
    two-sided p of t is 1 - t / sqrt(2 + t^2), and t^2 = 300.
    """
    tip = np.abs(np.arange(9) - 4)
    found = two_lines(crossed([0.9 * tip, tip, 1.1 * tip], own_levels=own_levels))
    assert found.status == "ok"
    assert found.breakpoint == pytest.approx(4)
    assert (found.points_left, found.points_right) == (5, 5)
    assert (found.left.slope, found.right.slope) == pytest.approx((-1, 1))
    assert (found.left.runs, found.right.runs) == (3, 3)
    assert found.left.se == pytest.approx(np.sqrt(1 / 300))
    assert found.p == pytest.approx(1 - np.sqrt(300 / 302))


def test_interval_by_hand():
    """The 95 % point of t with 2 degrees of freedom is 4.302653."""
    rising = np.arange(4)
    found = line(crossed([0.9 * rising, rising, 1.1 * rising]))
    reach = 4.302653 * np.sqrt(1 / 300)
    assert found.interval == pytest.approx((1 - reach, 1 + reach), abs=1e-6)


def test_slopes_of_one_sign_are_no_turn_however_significant():
    steps = np.r_[np.arange(5), 4 + 3 * np.arange(1, 5)]
    found = two_lines(crossed([0.9 * steps, steps, 1.1 * steps]))
    assert max(found.left.p, found.right.p) < 0.05
    assert found.p == 1


def test_a_level_side_has_no_slope_and_no_turn():
    """Every run at one share, as where a model gives one label: 0 / 0 is not significant."""
    floor = np.r_[np.arange(5, 0, -1), np.zeros(5)] * 0.01 + 137 / 300
    found = two_lines(crossed([floor, floor + 0.01, floor * 1.1 - 0.05]))
    assert found.status == "ok"
    assert (found.right.slope, found.right.p) == (0, 1)
    assert found.p == 1


def test_runs_that_agree_exactly_have_lines_and_no_errors():
    tip = np.abs(np.arange(9) - 4)
    found = two_lines(crossed([tip, tip + 1, tip - 2]))
    assert found.status == "not testable: the runs agree exactly, so errors are unknown"
    assert found.breakpoint == pytest.approx(4)
    assert (found.left.slope, found.right.slope) == pytest.approx((-1, 1))
    assert np.isnan([found.left.se, found.left.p, found.p]).all()


# Against other systems


@pytest.mark.parametrize("own_levels", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_error_is_the_jackknife_of_refits(seed, own_levels):
    x, y, run = staggered(seed)
    found = line(Points(x, y, run, own_levels))

    def refit(rows):
        levels = [run == name for name in np.unique(run[rows])] if own_levels else [x == x]
        return sm.OLS(y[rows], np.column_stack([x, *levels])[rows]).fit().params[0]

    whole = refit(np.full(len(x), True))
    without = np.array([refit(run != name) for name in np.unique(run)])
    assert found.slope == pytest.approx(whole)
    assert found.se == pytest.approx(np.sqrt(4 / 5 * ((without - whole) ** 2).sum()))
    assert found.p == pytest.approx(2 * stats.t.sf(abs(whole) / found.se, 4))


def test_error_with_a_run_per_point_is_hc3():
    """Leaving out single rows is HC3 times (n - 1) / n."""
    rng = np.random.default_rng(8)
    x, y = rng.normal(size=(2, 12))
    hc3 = sm.OLS(y, sm.add_constant(x)).fit(cov_type="HC3").bse[1]
    assert line(single(x, y)).se == pytest.approx(hc3 * np.sqrt(11 / 12))


def test_lines_are_simonsohns_interrupted_regressions():
    """One fit with the breakpoint in the first line, one with it in the second."""
    rng = np.random.default_rng(2)
    points = crossed(0.1 * np.abs(np.arange(12) - 6) + rng.normal(0, 0.02, (6, 12)), None, False)
    found = two_lines(points)
    away = points.x - found.breakpoint
    slopes = []
    for low, column in ((away <= 0, 0), (away < 0, 1)):
        terms = np.column_stack([away * low, away * ~low, ~low, np.ones(len(away))])
        slopes.append(sm.OLS(points.y, terms).fit().params[column])
    assert found.breakpoint in points.x  # else both fits are one
    assert (found.left.slope, found.right.slope) == pytest.approx(slopes)


def test_smooth_is_scipys_smoothing_spline():
    """With a knot at every x both minimise the same score, here over a grid of penalties."""
    rng = np.random.default_rng(5)
    x = np.sort(rng.uniform(0, 4, 10))
    y = np.sin(x) + rng.normal(0, 0.1, 10)
    fitted, se = smooth(single(x, y))
    assert np.abs(fitted - make_smoothing_spline(x, y)(x)).max() < 0.1 * se.min()


def test_smooth_of_noise_about_a_line_is_the_line_with_its_errors():
    rng = np.random.default_rng(1)
    x = np.repeat(np.arange(10.0), 3)
    y = 2 * x + np.tile([-1, 0, 1], 10) + rng.normal(0, 1e-6, 30)
    fitted, se = smooth(Points(x, y, np.repeat(NAMES[:10], 3)))
    straight = sm.OLS(y, sm.add_constant(x)).fit()
    at = straight.get_prediction(sm.add_constant(np.arange(10.0)))
    assert fitted == pytest.approx(at.predicted_mean, abs=1e-4)
    assert se == pytest.approx(at.se_mean, rel=1e-3)


def test_roughness_is_the_integral_of_the_squared_second_derivative():
    knots = np.array([0, 0.5, 2, 2.2, 4])
    weights = np.array([1, -2, 0.5, 3, 1])
    basis = CubicSpline(knots, np.eye(5), bc_type="natural")
    curve = CubicSpline(knots, weights, bc_type="natural")
    total = sum(
        integrate.quad(lambda x: curve(x, 2) ** 2, a, b)[0] for a, b in itertools.pairwise(knots)
    )
    assert weights @ roughness(basis) @ weights == pytest.approx(total)


# What must not matter


@both_models
def test_order_names_scale_and_sign_do_not_matter(own_levels):
    x, noise, run = staggered(4, runs=9)
    points = Points(x, 0.3 * (x - 2) ** 2 + 0.05 * noise, run, own_levels)
    found = two_lines(points)
    assert found.p < 0.05
    order = np.random.default_rng(0).permutation(len(x))
    renamed = np.array([f"z{name}"[::-1] for name in run])
    same = [points.where(order), dataclasses.replace(points, run=renamed)]
    for other in map(two_lines, same):
        assert other.breakpoint == pytest.approx(found.breakpoint)
        assert other.p == pytest.approx(found.p)
    upside_down = two_lines(dataclasses.replace(points, y=5 - 2 * points.y))
    assert upside_down.left.slope == pytest.approx(-2 * found.left.slope)
    assert upside_down.p == pytest.approx(found.p)
    stretched = two_lines(dataclasses.replace(points, x=10 * points.x + 3))
    assert stretched.breakpoint == pytest.approx(10 * found.breakpoint + 3)
    assert stretched.p == pytest.approx(found.p)


def test_levels_of_runs_do_not_matter_where_each_has_its_own():
    rng = np.random.default_rng(6)
    bent = 0.1 * np.abs(np.arange(10) - 5) + rng.normal(0, 0.05, (6, 10))
    levels = rng.normal(0, 3, (6, 1))
    found, moved = two_lines(crossed(bent)), two_lines(crossed(bent + levels))
    assert moved.breakpoint == pytest.approx(found.breakpoint)
    assert moved.p == pytest.approx(found.p)
    one_line = two_lines(crossed(bent + levels, own_levels=False))
    assert one_line.breakpoint != pytest.approx(found.breakpoint)


# Where a breakpoint may lie


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        pytest.param(crossed(np.zeros((8, 8))), [3, 4], id="runs over eight checkpoints"),
        pytest.param(crossed(np.zeros((3, 8))), [3, 4], id="three runs"),
        pytest.param(crossed(np.zeros((2, 8))), [], id="two runs"),
        pytest.param(single(range(8), range(8)), [], id="eight sizes"),
        pytest.param(single(range(9), range(9)), [4], id="nine sizes"),
        pytest.param(
            Points(np.tile(np.arange(8.0), 3), np.zeros(24), NAMES[:24]), [3, 4], id="three seeds"
        ),
        pytest.param(crossed(np.zeros((4, 20))), list(range(3, 17)), id="twenty checkpoints"),
        # Nor outside the middle 80 % of the points.
        pytest.param(crossed(np.zeros((4, 60))), list(range(6, 54)), id="sixty checkpoints"),
    ],
)
def test_possible_breakpoints(points, expected):
    assert list(np.flatnonzero(breakpoints(points))) == expected


@pytest.mark.parametrize(
    ("points", "status"),
    [
        (
            crossed(np.random.default_rng(0).normal(size=(8, 7))),
            "not testable: 7 distinct values cannot be split into 4 and 4",
        ),
        (
            single(range(8), [3, 2, 1, 0, 0, 1, 2, 3]),
            "not testable: no breakpoint leaves 3 runs on each side and, without any one of them, "
            "4 of the 8 distinct values",
        ),
    ],
)
def test_not_testable_says_why_and_gives_no_number(points, status):
    found = two_lines(points)
    assert found.status == status
    assert (found.left, found.right, found.points_left, found.points_right) == (None,) * 4
    assert np.isnan([found.breakpoint, found.p]).all()


def test_a_slope_that_one_run_alone_shows_has_no_error():
    """Two runs at one size and one at another: without that one there is no slope."""
    lone = Points(np.array([1.0, 1, 2]), np.array([1.0, 2, 3]), NAMES[:3])
    assert not has_error(lone)
    with pytest.raises(ValueError, match="a run is left out"):
        line(lone)


def test_runs_of_one_point_tell_nothing_of_a_course():
    full = crossed([[0, 1, 2.5], [0, 2, 2], [1, 1, 3]])
    more = Points(
        np.append(full.x, 2), np.append(full.y, 9), np.append(full.run, "z"), own_levels=True
    )
    assert line(more) == line(full)


@pytest.mark.parametrize("seed", range(4))
def test_breakpoint_by_the_published_steps(seed):
    """The flat region and both of its breakpoints, step by step, for a maximum and a minimum."""
    x, noise, run = staggered(seed, runs=9)
    points = Points(x, np.abs(x - 1.7) + 0.3 * noise, run)
    for upward in (-1, 1):
        turned = dataclasses.replace(points, y=-upward * points.y)
        fitted, se = smooth(turned)
        distinct, inner = np.unique(x), breakpoints(turned)
        best = max(upward * fitted[inner])
        flat = [
            at
            for at, value, error in zip(distinct[inner], fitted[inner], se[inner], strict=True)
            if upward * value + error >= best
        ]
        region = [at for at in x if at in flat]  # a value of x counts once per point
        assert 1 < len(flat) < inner.sum()
        middle = np.median(region)
        sides = line(turned.where(x <= middle)), line(turned.where(x >= middle))
        z1, z2 = (abs(side.slope) / side.se for side in sides)
        found = two_lines(turned)
        assert found.breakpoint == pytest.approx(np.quantile(region, z2 / (z1 + z2)))
        assert found.left == line(turned.where(x <= found.breakpoint))
        assert found.right == line(turned.where(x >= found.breakpoint))


def test_robin_hood_gives_points_to_the_weaker_line():
    """A steep rise to a plateau: the breakpoint moves to where the plateau begins, and back."""
    rng = np.random.default_rng(3)
    plateau = np.r_[np.arange(5) / 4, np.ones(11)] + rng.normal(0, 0.01, (8, 16))
    assert two_lines(crossed(plateau)).breakpoint < 6
    assert two_lines(crossed(plateau[:, ::-1])).breakpoint > 9


# What it finds


def panels(truth, kind, seed, number):
    """Curves plus AR(1) errors (rho 0.5) within runs that have levels of their own.

    8 runs x 8 checkpoints over training, or over compute; or 30 runs of one checkpoint.
    """
    rng = np.random.default_rng(seed)
    sizes, training = np.linspace(0, 2.2, 8), np.linspace(0, 1.9, 8)
    compute = (sizes[:, None] + training).ravel()
    for _ in range(number):
        if kind == "single":
            u = np.sort(rng.uniform(size=30))
            yield single(u, truth(u) + 0.03 * rng.normal(size=30))
            continue
        errors = 0.02 * (ar1(rng, 8, 8) + rng.normal(size=(8, 1)))
        if kind == "training":
            yield crossed(truth(training / training.max()) + errors, training)
        else:
            values = truth(compute / compute.max()) + errors.ravel()
            yield Points(compute, values, np.repeat(NAMES[:8], 8))


def saturating(u):
    return 0.2 * (1 - np.exp(-8 * u))


def bent(u):
    return 0.3 * np.abs(u - 0.45)


every_kind = pytest.mark.parametrize("kind", ["training", "compute", "single"])


@every_kind
@pytest.mark.parametrize("truth", [np.zeros_like, saturating])
def test_neither_chance_nor_saturation_is_a_turn(truth, kind):
    """At most 5 % of panels may turn at the 5 % level: of 60, 8 are a matter of chance."""
    claims = sum(two_lines(points).p < 0.05 for points in panels(truth, kind, 1, 60))
    assert claims <= 8


@every_kind
def test_a_real_turn_is_found(kind):
    found = [two_lines(points) for points in panels(bent, kind, 2, 20)]
    hits = [turn for turn in found if turn.p < 0.05 and turn.left.slope < 0 < turn.right.slope]
    assert len(hits) > 14


def test_a_quadratic_calls_saturation_a_turn():
    """Why the two-lines test: the parabola's two slopes at the ends are significant and opposed."""
    claims = 0
    for points in panels(saturating, "training", 1, 20):
        u = points.x / points.x.max()
        groups = np.unique(points.run, return_inverse=True)[1]
        terms = np.column_stack([points.less_levels(u), points.less_levels(u**2)])
        fit = sm.OLS(points.less_levels(points.y), terms).fit(
            cov_type="cluster", cov_kwds={"groups": groups}, use_t=True
        )
        ends = [fit.t_test([1, 0]), fit.t_test([1, 2])]
        opposed = ends[0].effect[0] * ends[1].effect[0] < 0
        claims += opposed and max(end.pvalue for end in ends) < 0.05
    assert claims > 10
