"""The two-lines test for U-shapes (Simonsohn 2018, doi 10.1177/2515245918805755), over runs.

A quadratic calls curves U-shaped that only level off. The two-lines test asks for what the word
means: a line that falls significantly, then a line that rises significantly, or the reverse. All
errors come from leaving runs out, one at a time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import linalg, stats
from scipy.interpolate import CubicSpline

from downslope.panel import ROUNDING, FloatArray, TextArray
from downslope.robust import cr3, membership

LEAST_RUNS = 3  # with two, one degree of freedom is left
LEAST_POINTS = 4
_MIDDLE = (0.1, 0.9)  # breakpoints lie between these quantiles of x, as in Simonsohn's code
_KNOTS = 10  # his smoother's basis, mgcv's s(x, bs = "cr", k = min(10, distinct x))
_PENALTIES = np.geomspace(1e-8, 1e8, 97)

BoolArray = np.ndarray[tuple[int, ...], np.dtype[np.bool_]]


@dataclass(frozen=True)
class Points:
    """Values over an axis: x, y and the run of each point, arrays of one length.

    own_levels: each run has a level of its own, so that a run is compared with itself only (runs
    over training). Without, one line goes through all points, and runs are compared with runs.
    """

    x: FloatArray
    y: FloatArray
    run: TextArray
    own_levels: bool = False

    def where(self, rows: BoolArray) -> Points:
        """Some of the points."""
        return Points(self.x[rows], self.y[rows], self.run[rows], self.own_levels)

    def less_levels(self, values: FloatArray) -> FloatArray:
        """`values`, (n,) or (n, k), less their mean, or less their means over each run."""
        member = membership(self.run) if self.own_levels else np.ones((1, len(self.run)))
        unit = member / np.sqrt(member.sum(axis=1, keepdims=True))
        return np.asarray(values - unit.T @ (unit @ values))


@dataclass(frozen=True)
class Line:
    """A slope per unit of x, its error by leaving runs out, and the number of runs behind them.

    se is NaN where the runs agree on the slope to the last digit: its error is then unknown.
    """

    slope: float
    se: float
    runs: int

    @property
    def statistic(self) -> float:
        """|slope| / se; 0 for a slope of exactly zero, which no error makes significant."""
        return 0.0 if self.slope == 0 else abs(self.slope) / self.se

    @property
    def p(self) -> float:
        """Two-sided, by Student's t with runs - 1 degrees of freedom."""
        return float(2 * stats.t.sf(self.statistic, self.runs - 1))

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the slope."""
        reach = float(stats.t.ppf(0.975, self.runs - 1)) * self.se
        return self.slope - reach, self.slope + reach


@dataclass(frozen=True)
class TwoLines:
    """The lines on both sides of `breakpoint`, and the number of distinct x that each rests on.

    Where `status` is not `ok` it says why there are no lines, or no errors.
    """

    status: str = "ok"
    breakpoint: float = np.nan
    left: Line | None = None
    right: Line | None = None
    points_left: int | None = None
    points_right: int | None = None

    @property
    def p(self) -> float:
        """The larger p of the two slopes; 1 where their signs are not opposite, NaN untested."""
        if self.left is None or self.right is None or self.status != "ok":
            return np.nan
        turns = self.left.slope * self.right.slope < 0
        return max(self.left.p, self.right.p) if turns else 1.0


def two_lines(points: Points) -> TwoLines:
    """Test whether the mean slope of y changes its sign along x.

    As in Simonsohn's code: the most extreme value of a smooth fit in the middle 80 % of the
    points, its flat region (the x whose fitted value is within one standard error of it), lines
    left and right of the region's median, which give |z1| and |z2|, then the test itself at the
    |z2| / (|z1| + |z2|) quantile of the region ("Robin Hood": the weaker line gets more points).
    A maximum is sought where a quadratic begins by rising, else a minimum. The two lines share no
    level; a point at the breakpoint belongs to both, in a regression each.

    Other than there, errors come from leaving runs out (see `line`), and a breakpoint must leave
    `LEAST_RUNS` runs and `LEAST_POINTS` distinct x on each side, these also when any one run is
    left out; eight distinct x are the least. Without such a breakpoint, and where the runs agree
    exactly, the status is `not testable: why`.
    """
    distinct = np.unique(points.x)
    if len(distinct) < 2 * LEAST_POINTS:
        return TwoLines(
            f"not testable: {len(distinct)} distinct values cannot be split into "
            f"{LEAST_POINTS} and {LEAST_POINTS}"
        )
    possible = breakpoints(points)
    if not possible.any():
        return TwoLines(
            f"not testable: no breakpoint leaves {LEAST_RUNS} runs on each side and, without any "
            f"one of them, {LEAST_POINTS} of the {len(distinct)} distinct values"
        )
    fitted, se = smooth(points)
    upward = 1.0 if _begins_by_rising(points) else -1.0
    most = (upward * fitted[possible]).max()
    flat = distinct[possible & (upward * fitted + se >= most)]
    region = points.x[np.isin(points.x, flat)]
    first = _lines_at(points, float(np.median(region)))
    if first.left is None or first.right is None or first.status != "ok":
        return first
    z1, z2 = first.left.statistic, first.right.statistic
    share = z2 / (z1 + z2) if z1 + z2 > 0 else 0.5
    return _lines_at(points, float(np.quantile(region, share)))


def line(points: Points) -> Line:
    """The least-squares line and its error by leaving runs out: CR3, see `robust.cr3`.

    With levels of their own, runs of a single x say nothing on the slope and do not count.
    Raises ValueError where the slope is lost with a run: see `has_error`.
    """
    if not has_error(points):
        raise ValueError("no line can be found when a run is left out")
    informing = _informing(_incidence(points), points.own_levels)
    used = points.where(np.isin(points.run, np.unique(points.run)[informing]))
    x = used.less_levels(used.x)
    design = x[:, None] if used.own_levels else np.column_stack([x, np.ones(len(x))])
    fit = cr3(design, used.less_levels(used.y)[:, None], used.run)
    slope, se = float(fit.estimate[0, 0]), float(fit.se[0, 0])
    rounding = ROUNDING * np.abs(used.y).max() / np.ptp(used.x)
    return Line(
        slope=slope if abs(slope) > rounding else 0.0,
        se=se if se > rounding else np.nan,
        runs=int(informing.sum()),
    )


def has_error(points: Points) -> bool:
    """Whether `LEAST_RUNS` runs inform a line, and without any one of them there still is one."""
    return _informed(_incidence(points), points.own_levels)


def breakpoints(points: Points) -> BoolArray:
    """Which of the distinct x, in ascending order, may be the breakpoint: see `two_lines`."""
    seen, own_levels = _incidence(points), points.own_levels
    low, high = np.quantile(points.x, _MIDDLE)
    return np.array(
        [
            low < x < high
            and _informed(seen[:, : place + 1], own_levels, distinct=LEAST_POINTS)
            and _informed(seen[:, place:], own_levels, distinct=LEAST_POINTS)
            for place, x in enumerate(np.unique(points.x))
        ]
    )


def smooth(points: Points) -> tuple[FloatArray, FloatArray]:
    """A smooth curve through the points: fitted values and standard errors at each distinct x.

    A natural cubic spline on quantiles of x, penalised by the integral of its squared second
    derivative, the weight of the penalty chosen by generalised cross-validation, errors Bayesian
    (Wahba 1983): what R's mgcv fits for Simonsohn's code (Wood 2017, section 5.3.1). Points count
    as independent, since this places a breakpoint and tests nothing. With levels of their own, the
    curve is that of a run of mean level.
    """
    distinct = np.unique(points.x)
    knots = np.quantile(distinct, np.linspace(0, 1, min(_KNOTS, len(distinct))))
    spline = CubicSpline(knots, np.eye(len(knots)), bc_type="natural")
    # One coefficient is the value at one knot; the first is left out, since levels are.
    basis, y = points.less_levels(spline(points.x))[:, 1:], points.less_levels(points.y)
    squares, bending = basis.T @ basis, roughness(spline)[1:, 1:]
    bending *= np.trace(squares) / np.trace(bending)
    # Turned so that both matrices are diagonal (theta and 1 - theta): all weights at once.
    theta, turn = linalg.eigh(bending, squares + bending)
    inverse = 1 / (1 - theta + _PENALTIES[:, None] * theta)
    coefficients = inverse * (turn.T @ (basis.T @ y))
    levels = len(np.unique(points.run)) if points.own_levels else 1
    left = len(y) - levels - (inverse * (1 - theta)).sum(axis=1)  # residual degrees of freedom
    squared = ((y - coefficients @ (basis @ turn).T) ** 2).sum(axis=1)
    best = int(np.argmin(np.where(left >= 1, squared / np.maximum(left, 1) ** 2, np.inf)))
    away = ((spline(distinct) - spline(points.x).mean(axis=0))[:, 1:]) @ turn
    spread = (away**2 * inverse[best]).sum(axis=1) + 1 / len(y)
    return (
        points.y.mean() + away @ coefficients[best],
        np.sqrt(squared[best] / left[best] * spread),
    )


def roughness(spline: CubicSpline) -> FloatArray:
    """The integral of products of second derivatives of a basis (k, k) given at its k knots.

    Second derivatives of cubic splines are lines between knots, whose products integrate to h/3
    for a knot with itself on either side and h/6 with its neighbour, h being their distance.
    """
    h = np.diff(spline.x)
    mass = np.diag(np.r_[h, 0] + np.r_[0, h]) / 3 + (np.diag(h, 1) + np.diag(h, -1)) / 6
    second = spline(spline.x, 2)
    return np.asarray(second.T @ mass @ second)


def _begins_by_rising(points: Points) -> bool:
    """Whether the least-squares parabola rises at the smallest x."""
    x = points.x - points.x.min()
    terms = np.column_stack([points.less_levels(x), points.less_levels(x**2)])
    return bool((np.linalg.pinv(terms) @ points.less_levels(points.y))[0] > 0)


def _lines_at(points: Points, x: float) -> TwoLines:
    left, right = points.where(points.x <= x), points.where(points.x >= x)
    lines = line(left), line(right)
    agree = any(np.isnan(found.p) for found in lines)
    return TwoLines(
        "not testable: the runs agree exactly, so errors are unknown" if agree else "ok",
        x,
        *lines,
        points_left=len(np.unique(left.x)),
        points_right=len(np.unique(right.x)),
    )


def _incidence(points: Points) -> BoolArray:
    """(runs, distinct x): whether the run has a point there."""
    runs, row = np.unique(points.run, return_inverse=True)
    distinct, column = np.unique(points.x, return_inverse=True)
    seen = np.zeros((len(runs), len(distinct)), dtype=bool)
    seen[row, column] = True
    return seen


def _informing(seen: BoolArray, own_levels: bool) -> BoolArray:
    """Which of the runs tell something about the slope."""
    return seen.sum(axis=1) >= (2 if own_levels else 1)


def _informed(seen: BoolArray, own_levels: bool, *, distinct: int = 2) -> bool:
    """Whether `LEAST_RUNS` runs do, and have `distinct` x also without any one of them."""
    counted = seen[_informing(seen, own_levels)]
    alone = counted & (counted.sum(axis=0) == 1)  # the x that only one run has
    spared = counted.any(axis=0).sum() - alone.sum(axis=1).max(initial=0)
    return len(counted) >= LEAST_RUNS and bool(spared >= distinct)
