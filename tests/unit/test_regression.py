"""The methods against hand calculation, statsmodels and each other; every reason not to fit."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats

from downslope.panel import EFFECTS, Panel, design, per_tenfold, zscore
from downslope.regression import METHODS, cluster, item, jackknife, ols, two_stage, wild

SIZES, TOKENS = (1e6, 1e7, 1e8), (1e9, 1e10, 1e11)


def panel(values, sizes=SIZES, tokens=TOKENS):
    """A full grid, sizes outer, tokens inner."""
    grid = np.array(list(itertools.product(sizes, tokens)))
    return Panel(
        value=np.asarray(values, dtype=float),
        parameters=grid[:, 0],
        tokens=grid[:, 1],
        run=np.array([f"toy/{size:g}/0" for size in grid[:, 0]]),
        se=np.full(len(grid), np.nan),
    )


# On the grid x, t in {-1, 0, 1}, the pattern (1, -2, 1) along the sizes is orthogonal to 1, x, t
# and x * t: it is all residual, with 3 * (1 + 4 + 1) = 18 as its sum of squares.
GRID = list(itertools.product((-1, 0, 1), repeat=2))
RESIDUAL = [3 * x * x - 2 for x, _ in GRID]


@pytest.mark.parametrize(
    ("column", "squares"), [(0, 6), (1, 6), (2, 4)], ids=["parameters", "tokens", "interaction"]
)
def test_t_by_hand(column, squares):
    """y = s + r / 10: t = s / sqrt((18 / 100) / (9 - 4) / squares), all other effects are zero."""
    signal = [(x, t, x * t)[column] for x, t in GRID]
    estimates = ols(panel([s + r / 10 for s, r in zip(signal, RESIDUAL, strict=True)]))
    expected = [0.0, 0.0, 0.0]
    expected[column] = 1 / np.sqrt(0.18 / 5 / squares)
    assert [e.statistic for e in estimates] == pytest.approx(expected, abs=1e-9)
    assert [e.df for e in estimates] == [5, 5, 5]
    assert [e.status for e in estimates] == ["ok"] * 3


def test_estimate_by_hand_is_standardised():
    """y = 3x + r: slope 3 sd(x) / sd(y); squares of y are 9 * 6 + 18 = 72, of x 6."""
    size, tokens, interaction = ols(panel([3 * x + 3 * x * x - 2 for x, _ in GRID]))
    assert size.estimate == pytest.approx(3 * np.sqrt(6 / 72))
    assert size.estimate / size.se == pytest.approx(size.statistic)
    assert tokens.estimate == pytest.approx(0)
    assert interaction.estimate == pytest.approx(0)


def test_p_is_two_sided_student():
    """For 5 degrees of freedom the two-sided 5 % point is 2.570582."""
    slope = 2.570582 * np.sqrt(0.18 / 5 / 6)
    values = [slope * x + (3 * x * x - 2) / 10 for x, _ in GRID]
    assert ols(panel(values))[0].p == pytest.approx(0.05, abs=1e-7)
    assert ols(panel([-v for v in values]))[0].p == pytest.approx(0.05, abs=1e-7)


def test_scales_of_value_size_and_tokens_do_not_matter():
    values = np.random.default_rng(1).normal(size=9)
    plain = ols(panel(values))
    scaled = ols(panel(7 - 3 * values, [s**2 * 5 for s in SIZES], [t / 1000 for t in TOKENS]))
    for before, after in zip(plain, scaled, strict=True):
        assert after.statistic == pytest.approx(-before.statistic)
        assert after.p == pytest.approx(before.p)


def test_interaction_is_the_product_of_scaled_columns():
    matrix = design(panel(np.zeros(9)))
    assert matrix[:, 1].std(ddof=1) == pytest.approx(1)
    assert matrix[:, 3] == pytest.approx(matrix[:, 1] * matrix[:, 2])
    # z is x over sqrt(6 / 8), so the product is 4/3 of x t, whose deviation is sqrt(4 / 8).
    assert matrix[:, 3].std(ddof=1) == pytest.approx(4 / 3 * np.sqrt(1 / 2))


def test_zscore_divides_by_the_sample_deviation():
    assert zscore(np.array([1.0, 2.0, 3.0])) == pytest.approx([-1, 0, 1])


@pytest.mark.parametrize(
    ("broken", "status"),
    [
        (panel([0.5] * 9), "not estimable: every cell has the value 0.5"),
        # The same share from another program, one unit off in the last binary digit.
        (
            panel([137 / 300] * 8 + [np.nextafter(137 / 300, 0)]),
            "not estimable: every cell has the value 0.456667",
        ),
        (panel([0.0] * 9), "not estimable: every cell has the value 0"),
        (
            panel(np.arange(9.0), sizes=(1e6,) * 3),
            "not estimable: all checkpoints have one model size",
        ),
        (
            panel(np.arange(9.0), tokens=(1e9,) * 3),
            "not estimable: all checkpoints have one training step",
        ),
        (
            panel([1, 2, 4], sizes=(1e6,)),
            "not estimable: 3 cells, at least 5 are needed",
        ),
        (panel([1], sizes=(1e6,), tokens=(1e9,)), "not estimable: 1 cell, at least 5 are needed"),
        (Panel(*[np.array([])] * 5), "not estimable: no cells"),
        (
            panel([x + t for x, t in GRID]),
            "not estimable: the fit leaves no residual, so errors are unknown",
        ),
    ],
)
def test_not_estimable_says_why_and_gives_no_number(broken, status):
    for name, method in METHODS.items():
        if name != "item" or "residual" not in status:  # items err without residuals, too
            nothing(method(broken), status)


def nothing(estimates, status):
    """Every effect has the status and not one number."""
    assert [e.status for e in estimates] == [status] * len(EFFECTS)
    for e in estimates:
        assert np.isnan([e.estimate, e.se, e.statistic, e.df, e.p, e.low, e.high]).all()


def test_size_and_tokens_that_move_together_are_not_told_apart():
    along = np.array(SIZES + SIZES)
    lockstep = Panel(np.arange(6.0) ** 2, along, along * 20, np.array(["r"] * 6), along * np.nan)
    status = "not estimable: model size and training tokens do not vary independently"
    for method in METHODS.values():
        nothing(method(lockstep), status)


def test_five_cells_are_enough():
    five = Panel(
        np.array([0.1, 0.4, 0.35, 0.8, 0.2]),
        np.array([1e6, 1e6, 1e7, 1e7, 1e8]),
        np.array([1e9, 1e10, 1e9, 1e10, 1e10]),
        np.array(["a", "a", "b", "b", "c"]),
        np.full(5, np.nan),
    )
    assert [(e.status, e.df) for e in ols(five)] == [("ok", 1)] * 3


CLUSTERED = {name: METHODS[name] for name in ("cluster", "jackknife", "two-stage", "wild")}
PYTHIA = (7e7, 1.6e8, 4.1e8, 1e9, 1.4e9, 2.8e9, 6.9e9, 1.2e10)


def noise(sizes=PYTHIA, tokens=(4e9, 8e9, 3e10, 3e11), seed=2, **more):
    """A panel of noise with a shift per run and a strong interaction."""
    empty = panel(np.zeros(len(sizes) * len(tokens)), sizes, tokens)
    rng = np.random.default_rng(seed)
    shift = np.repeat(rng.normal(size=len(sizes)), len(tokens))
    value = shift + rng.normal(size=len(empty)) - 2 * design(empty)[:, 3]
    return replace(empty, value=0.5 + value / 50, **more)


def without(full, dropped):
    """The panel without the rows `dropped`."""
    kept = ~np.isin(np.arange(len(full)), dropped)
    return Panel(
        full.value[kept], full.parameters[kept], full.tokens[kept], full.run[kept], full.se[kept]
    )


def test_in_a_balanced_panel_all_methods_give_the_same_estimates():
    full = noise()
    full = replace(
        full, replicates=full.value + np.random.default_rng(0).normal(size=(50, 32)) / 99
    )
    expected = [e.estimate for e in ols(full)]
    for method in METHODS.values():
        assert [e.estimate for e in method(full)] == pytest.approx(expected, rel=1e-9)


def test_degrees_of_freedom_and_intervals():
    """Student intervals reach as many errors as the 5 % point of G - 1 or G - 2; G is 8."""
    reach = {"ols": 2.048407, "cluster": 2.364624, "jackknife": 2.364624, "two-stage": 2.446912}
    df = {"ols": 28, "cluster": 7, "jackknife": 7, "two-stage": 6}
    for name, factor in reach.items():
        for e in METHODS[name](noise()):
            assert e.df == df[name]
            assert (e.high - e.estimate) / e.se == pytest.approx(factor, abs=1e-5)
            assert (e.estimate - e.low) / e.se == pytest.approx(factor, abs=1e-5)
            assert e.p == pytest.approx(2 * stats.t.sf(abs(e.estimate / e.se), df[name]))


def test_cluster_is_statsmodels_clustered_by_run():
    full = without(noise(), [3, 9, 10])
    groups = np.unique(full.run, return_inverse=True)[1]
    fit = sm.OLS(zscore(full.value), design(full)).fit(
        cov_type="cluster", cov_kwds={"groups": groups}, use_t=True
    )
    assert [e.p for e in cluster(full)] == pytest.approx(fit.pvalues[1:])
    assert [(e.low, e.high) for e in cluster(full)] == [
        pytest.approx(tuple(ends)) for ends in fit.conf_int()[1:]
    ]


def test_jackknife_keeps_the_whole_panel_s_scale_when_it_leaves_a_run_out():
    full = without(noise(), [0, 30])
    value, matrix, runs = zscore(full.value), design(full), np.unique(full.run)
    whole = sm.OLS(value, matrix).fit().params
    changes = [
        sm.OLS(value[k], matrix[k]).fit().params - whole for k in (full.run != r for r in runs)
    ]
    expected = np.sqrt(7 / 8 * np.square(changes).sum(axis=0))[1:]
    assert [e.se for e in jackknife(full)] == pytest.approx(expected)


def test_two_stage_leaves_out_runs_without_a_slope_and_names_them():
    full = without(noise(), [1, 2, 3, 29, 30, 31])  # the smallest and the largest run keep one cell
    status = "left out: toy/1.2e+10/0, toy/7e+07/0 (tokens that hardly vary)"
    estimates = two_stage(full)
    assert [(e.status, e.df) for e in estimates] == [(status, 4)] * 3
    assert np.isfinite([e.p for e in estimates]).all()
    # On the scale of the whole panel, the first stage and the second by hand.
    _, size, tokens, _ = design(full).T
    inner = [run for run in np.unique(full.run) if (full.run == run).sum() > 1]
    slopes = [
        np.polyfit(tokens[full.run == r], zscore(full.value)[full.run == r], 1)[0] for r in inner
    ]
    sizes = np.array([size[full.run == r][0] for r in inner])
    second = sm.OLS(slopes, sm.add_constant(sizes - sizes.mean())).fit()
    assert [e.estimate for e in estimates[1:]] == pytest.approx(second.params)
    assert [e.p for e in estimates[1:]] == pytest.approx(second.pvalues)


def test_two_stage_leaves_out_a_run_whose_tokens_hardly_vary():
    """Two neighbouring checkpoints, as of Pythia 2.8B: what the others say of slopes is the same as
    without them, and with them nothing would be left of it."""
    tokens = [2e9 * 2.0**k for k in range(8)]
    whole = noise(sizes=(7e7, 4e8, 1e9, 2.8e9, 1.2e10), tokens=tokens, seed=2)
    ends = without(whole, [24, 25, 26, 27, 28, 29])  # of 2.8e9 the last two are left, of eight
    estimates = two_stage(ends)
    assert {e.left_out for e in estimates} == {("toy/2.8e+09/0",)}
    assert [e.df for e in estimates] == [2, 2, 2]
    others = two_stage(without(whole, range(24, 32)))
    for e, other in zip(estimates[1:], others[1:], strict=True):
        assert (e.statistic, e.p) == pytest.approx((other.statistic, other.p))
    # Early, middle and late, three checkpoints have a slope as good as others'.
    spread = without(whole, [25, 26, 28, 29, 30])
    assert [e.status for e in two_stage(spread)] == ["ok"] * 3


def test_wild_reports_cluster_s_t_and_says_when_p_is_at_its_floor():
    full = noise(seed=3)
    size, tokens, interaction = wild(full)
    assert interaction.p == 2 / 256
    assert interaction.status == "below resolution: 8 runs allow no p under 0.0078"
    assert tokens.p == 4 / 256
    assert (size.status, tokens.status) == ("ok", "ok")
    for e, clustered in zip(wild(full), cluster(full), strict=True):
        assert (e.estimate, e.se, e.statistic) == pytest.approx(
            (clustered.estimate, clustered.se, clustered.statistic)
        )
        assert np.isnan(e.df)
        assert e.low < e.estimate < e.high


def test_wild_with_more_than_twelve_runs_draws_and_says_so():
    full = noise(tuple(np.logspace(7, 10, 20)))
    falling = wild(replace(full, value=full.value - np.log10(full.tokens)))[1]
    assert falling.p == 1 / 10_000
    assert falling.status == "below resolution: 9,999 draws allow no p under 0.0001"


@pytest.mark.parametrize("method", CLUSTERED.values(), ids=CLUSTERED)
def test_runs_too_few_to_know_how_runs_differ(method):
    two = noise(sizes=(1e6, 1e8))
    nothing(method(two), "not estimable: 2 runs, at least 3 are needed")
    assert {e.status for e in ols(two)} == {"ok"}
    seeds = replace(
        noise(sizes=(1e6, 1e7, 1e8)),
        parameters=np.full(12, 1e6),
        run=np.repeat(["a", "b", "c"], 4),
    )
    nothing(method(seeds), "not estimable: all checkpoints have one model size")
    missing = without(noise(sizes=(1e6, 1e8, 1e9)), [0, 1, 2, 3])
    nothing(method(missing), "not estimable: 2 runs, at least 3 are needed")


def test_a_size_with_one_run_of_two_sizes_cannot_be_left_out():
    full = noise(sizes=(1e6, 1e6, 1e8))
    full = replace(full, run=np.repeat(["toy/a/0", "toy/a/1", "toy/b/0"], 4))
    status = "not estimable: without the run toy/b/0 size and tokens do not vary independently"
    nothing(jackknife(full), status)
    assert {e.status for e in two_stage(full)} == {"ok"}


def test_runs_of_one_checkpoint_have_errors_but_no_slopes():
    full = noise(sizes=(1e6, 1e7, 1e8))
    single = replace(full, run=np.array([f"toy/{i}" for i in range(12)]))
    nothing(
        two_stage(single),
        "not estimable: 0 runs whose tokens vary, at least 3 are needed",
    )
    for method in (cluster, jackknife, wild):
        estimates = method(replace(single, value=full.value + full.tokens / 1e13))
        assert np.isfinite([e.p for e in estimates]).all()


def test_slopes_in_runs_of_one_size_say_nothing_about_size():
    full = noise(sizes=(1e6, 1e6, 1e6, 1e8))
    full = replace(full, run=np.array([*np.repeat(["a", "b", "c"], 4), *"defg"]))
    nothing(
        two_stage(full),
        "not estimable: all runs whose tokens vary have one model size",
    )


@pytest.mark.parametrize("method", CLUSTERED.values(), ids=CLUSTERED)
def test_runs_that_agree_exactly_give_no_infinite_t(method):
    """Noise within runs that changes no run's line: residuals are left, but runs do not differ."""
    exact = panel([x + t + x * t + (3 * t * t - 2) for x, t in GRID])
    assert {e.status for e in ols(exact)} == {"ok"}
    agree = "not estimable: the runs agree with the fit exactly, so its error is unknown"
    nothing(method(exact), agree)


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_an_offset_far_larger_than_the_spread_gives_no_false_precision(method):
    """At 1e6 the values' last digits are rounding: what is exact above stays exact here."""
    shifted = panel([1e6 + (x + t + 3 * t * t) / 1e3 for x, t in GRID])
    for e in method(shifted):
        assert np.isnan(e.statistic) or abs(e.statistic) < 1e6


def test_per_tenfold_is_the_slope_on_the_plain_scale():
    full = noise()
    size, tokens = np.log10(full.parameters), np.log10(full.tokens)
    size, tokens = size - size.mean(), tokens - tokens.mean()
    plain = sm.OLS(full.value, np.column_stack([np.ones(32), size, tokens, size * tokens])).fit()
    scaled = [e.estimate for e in ols(full)] * per_tenfold(full)
    assert scaled == pytest.approx(plain.params[1:])


def resampled(values, seed=8, replicates=400):
    """Cells of 60 shared items for the rows of `values`, and the cells of resampled items."""
    rng = np.random.default_rng(seed)
    right = (rng.uniform(size=60) < values[:, None]).astype(float)
    drawn = rng.integers(60, size=(replicates, 60))
    return right, drawn, right[:, drawn].mean(axis=2).T


def test_item_refits_every_replicate_on_the_scale_of_the_cells():
    right, drawn, replicates = resampled(np.random.default_rng(1).uniform(0.2, 0.8, size=32))
    cells = right.mean(axis=1)
    full = replace(noise(), value=cells, replicates=replicates)
    matrix = design(full)
    slopes = np.array(
        [
            sm.OLS((right[:, d].mean(axis=1) - cells.mean()) / cells.std(ddof=1), matrix)
            .fit()
            .params
            for d in drawn
        ]
    )[:, 1:]
    for k, e in enumerate(item(full)):
        assert e.status == "ok"
        assert e.estimate == pytest.approx(ols(full)[k].estimate)
        assert e.se == pytest.approx(slopes[:, k].std(ddof=1))
        assert (e.low, e.high) == pytest.approx(tuple(np.percentile(slopes[:, k], [2.5, 97.5])))
        below, above = (slopes[:, k] <= 0).sum() + 1, (slopes[:, k] >= 0).sum() + 1
        assert e.p == pytest.approx(min(1, 2 * min(below, above) / 401))
        assert np.isnan([e.statistic, e.df]).all()


def test_item_s_p_ends_at_its_floor_without_a_remark():
    full = noise()
    replicates = full.value + np.random.default_rng(3).normal(size=(99, 32)) / 1e4
    interaction = item(replace(full, replicates=replicates))[2]
    assert (interaction.p, interaction.status) == (2 / 100, "ok")


def test_item_without_item_level_scores():
    none = "not estimable: no item-level scores"
    full = noise()
    nothing(item(full), none)
    nothing(item(replace(full, replicates=np.full((9, 32), np.nan))), none)
    some = np.tile(full.value, (9, 1))
    some[:, :3] = np.nan
    status = "not estimable: 3 of 32 cells have no item-level scores, or none in some resample"
    nothing(item(replace(full, replicates=some)), status)
    same = "not estimable: the cells are the same for every resample of the items"
    nothing(item(replace(full, replicates=np.tile(full.value, (9, 1)))), same)


def test_five_runs_are_below_resolution_whatever_the_data():
    """The least p is 2 / 2^5 = .0625: even a p in the middle says nothing of what survives."""
    sizes, tokens = (1e6, 3e6, 1e7, 3e7, 1e8), (1e9, 1e10, 1e11)
    noise = panel(np.random.default_rng(3).normal(size=15), sizes, tokens)
    found = METHODS["wild"](noise)
    assert min(e.p for e in found) > 0.1
    assert {e.status for e in found} == {"below resolution: 5 runs allow no p under 0.062"}


@pytest.mark.parametrize("method", ["cluster", "jackknife", "wild"])
def test_a_run_that_alone_carries_the_effect_of_size_gives_no_error(method):
    """Four seeds of one size and one run of another: the fit follows that run exactly."""
    tokens = (1e9, 1e10, 1e11)
    cells = [(1e6, t, f"toy/1e6/{seed}") for seed in range(4) for t in tokens]
    cells += [(1e7, t, "toy/1e7/0") for t in tokens]
    size, token, run = zip(*cells, strict=True)
    value = np.random.default_rng(5).normal(size=len(cells))
    one = Panel(value, np.array(size), np.array(token), np.array(run), value * np.nan)
    status = "not estimable: without the run toy/1e7/0 size and tokens do not vary independently"
    assert [e.status for e in METHODS[method](one)] == [status] * 3
