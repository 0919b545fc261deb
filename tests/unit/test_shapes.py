"""Every shape planted and found, the published cells by other means, and every reason not to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy import stats
from statsmodels.stats.multitest import multipletests

from downslope.errors import StudyError
from downslope.published import import_published
from downslope.shapes import AXES, COLUMNS, shapes
from downslope.tables import read_table, read_yaml
from downslope.tsv import read_tsv, write_tsv

CONFIG = Path(__file__).parents[2] / "config"
SIZES = [70e6, 160e6, 410e6, 1e9, 1.4e9, 2.8e9, 6.9e9, 12e9]
TOKENS = np.round(np.geomspace(4e9, 3e11, 8)).astype(int)
NUMBERS = ["slope", "slope_low", "slope_high", "p", "q", "breakpoint", "left_slope", "left_p"]
NUMBERS += ["right_slope", "right_p", "turn_p", "turn_q", "points_left", "points_right"]


def cells(values, task="task", metric="accuracy", sizes=SIZES, tokens=TOKENS, family="toy"):
    """The cells of one outcome; `values` has a row per run and a column per checkpoint."""
    rows = [
        {
            "ckpt": f"{family}-{run}-{k}",
            "family": family,
            "parameters": int(size),
            "step": k,
            "tokens": int(tokens[k]),
            "flops": float(f"{6 * size * tokens[k]:.6g}"),
            "seed": list(sizes)[:run].count(size),
            "task": task,
            "protocol": "p",
            "metric": metric,
            "value": value,
        }
        for run, (size, of_run) in enumerate(zip(sizes, values, strict=True))
        for k, value in enumerate(of_run)
    ]
    return pd.DataFrame(rows)


def noisy(course, seed=0, sd=0.01):
    """Eight runs of a level each that follow `course` with independent errors."""
    rng = np.random.default_rng(seed)
    return np.asarray(course) + rng.normal(0, 0.05, (8, 1)) + rng.normal(0, sd, (8, len(course)))


def fit(*frames, level=0.05, families=None):
    together = pd.concat(frames, ignore_index=True)
    keys = together[["task", "protocol", "metric"]].drop_duplicates().to_numpy()
    return shapes(together, families or {"all": ["/".join(key) for key in keys]}, level)


def on(axis, trends):
    return trends[trends["axis"] == axis].reset_index(drop=True)


U = np.linspace(0, 1, 8)
COURSES = {
    "inverse": 0.5 - 0.2 * U,
    "positive": 0.5 + 0.2 * U,
    "U": 0.5 + 0.4 * np.abs(U - 0.5),
    "inverted U": 0.5 - 0.4 * np.abs(U - 0.5),
    "flat": np.full(8, 0.5),
}
MIRRORED = {"inverse": "positive", "positive": "inverse", "U": "inverted U", "inverted U": "U"}


@pytest.fixture(scope="module")
def planted():
    """Every course over training, as a share that should be high and as a loss."""
    values = {shape: noisy(course) for shape, course in COURSES.items()}
    values["saturation"] = noisy(0.5 + 0.2 * (1 - np.exp(-6 * U)))
    frames = [
        cells(of_shape, shape, metric)
        for metric in ("accuracy", "class_loss")
        for shape, of_shape in values.items()
    ]
    families = {m: [f"{shape}/p/{m}" for shape in values] for m in ("accuracy", "class_loss")}
    return on("tokens", fit(*frames, families=families)).set_index(["metric", "task"])


@pytest.mark.parametrize("shape", COURSES)
def test_planted_shapes_over_training(planted, shape):
    row = planted.loc["accuracy", shape]
    assert (row["shape"], row["status"]) == (shape, "ok")
    assert (row["n"], row["runs"], row["tests"]) == (64, 8, "accuracy")


@pytest.mark.parametrize("shape", COURSES)
def test_a_shape_is_of_performance_and_a_slope_of_the_metric(planted, shape):
    high, low = planted.loc["accuracy", shape], planted.loc["class_loss", shape]
    assert low["shape"] == MIRRORED.get(shape, "flat")
    assert list(low[NUMBERS]) == list(high[NUMBERS])


def test_saturation_is_no_turn(planted):
    assert planted.loc["accuracy", "saturation"]["shape"] == "positive"


def test_slope_per_tenfold_by_hand():
    """Three runs over two decades gain 0.09, 0.1, 0.11 per tenfold: 0.1 -+ t(2) sqrt(1/300) / 10.

    The error is that of the mean of three, since each run has a level of its own; the 95 % point
    of t with 2 degrees of freedom is 4.302653. On parameters each run counts with its mean.
    """
    steps = np.array([0, 1, 2])
    values = [0.2 + 0.09 * steps, 0.5 + 0.1 * steps, 0.3 + 0.11 * steps]
    toy = cells(values, sizes=[1e6, 1e7, 1e9], tokens=[10**9, 10**10, 10**11])
    row = on("tokens", fit(toy)).iloc[0]
    reach = 4.302653 * np.sqrt(1 / 300) / 10
    assert row["slope"] == pytest.approx(0.1)
    assert row["slope_low"] == pytest.approx(0.1 - reach)
    assert row["slope_high"] == pytest.approx(0.1 + reach)
    # x - mean = -4/3, -1/3, 5/3 with squares of sum 42/9; the runs' means are .29, .6, .41.
    slope = (-4 / 3 * 0.29 - 1 / 3 * 0.6 + 5 / 3 * 0.41) / (42 / 9)
    assert on("parameters", fit(toy)).iloc[0]["slope"] == pytest.approx(slope)


def refitted_slope(data, axis):
    """By statsmodels; over training with an intercept per model, else with one."""
    of_model = data["parameters"] if axis == "tokens" else np.zeros(len(data))
    levels = [of_model == model for model in np.unique(of_model)]
    terms = np.column_stack([np.log10(data[axis]), *levels])
    return sm.OLS(data["value"].to_numpy(), terms.astype(float)).fit().params[0]


def test_the_published_study_by_refitting_without_each_run(mirror):
    """All 36 lines from statsmodels, with errors from leaving each model out."""
    checkpoints = read_table(CONFIG / "published" / "checkpoints.tsv", "checkpoints")
    families = read_yaml(CONFIG / "published" / "config.yaml")["families"]
    published = import_published(mirror / "published" / "pythia_accuracies.tsv", checkpoints)
    trends = shapes(published, families, 0.05)
    assert len(trends) == 36
    for axis, rows in trends.groupby("axis"):
        expected = []
        for task, metric in rows[["task", "metric"]].itertuples(index=False):
            data = published[(published["task"] == task) & (published["metric"] == metric)]
            whole = refitted_slope(data, axis)
            models = [data["parameters"] == size for size in data["parameters"].unique()]
            without = np.array([refitted_slope(data[~model], axis) for model in models])
            se = np.sqrt(7 / 8 * ((without - whole) ** 2).sum())
            reach = stats.t.ppf(0.975, 7) * se
            p = 2 * stats.t.sf(abs(whole) / se, 7)
            expected.append([whole, whole - reach, whole + reach, p])
        found = rows[["slope", "slope_low", "slope_high", "p"]].to_numpy()
        assert found == pytest.approx(np.array(expected), rel=1e-5, abs=1e-9)
        q = multipletests(rows["p"], method="fdr_bh")[1]
        assert rows["q"].to_numpy() == pytest.approx(q)
    assert set(on("parameters", trends)["shape"]) == {"not testable"}  # 8 sizes
    assert not set(trends["shape"]) & {"U", "inverted U"}
    falling = trends[(trends["axis"] == "tokens") & (trends["shape"] == "inverse")]
    assert {"memo-trap", "pattern-matching-suppression", "truthfulqa"} == set(falling["task"])


def test_q_corrects_over_the_outcomes_of_a_family_and_axis():
    tasks = [
        cells(noisy(COURSES["U"] * a, seed, 0.03), f"task{seed}")
        for seed, a in enumerate([1, 1, 0, 0.5, 0.3])
    ]
    names = [f"task{seed}/p/accuracy" for seed in range(5)]
    trends = fit(*tasks, families={"one": names[:3], "two": names[3:]})
    assert list(trends["task"].unique()) == [f"task{seed}" for seed in range(5)]
    assert list(trends["axis"][:3]) == list(AXES)
    for (tests, axis), rows in trends.groupby(["tests", "axis"]):
        assert len(rows) == {"one": 3, "two": 2}[tests]
        for p, q in (("p", "q"), ("turn_p", "turn_q")):
            if axis == "parameters" and p == "turn_p":
                assert rows[[p, q]].isna().all(axis=None)
            else:
                assert list(rows[q]) == pytest.approx(
                    list(multipletests(rows[p], method="fdr_bh")[1])
                )


def test_level_decides():
    weak = cells(noisy(COURSES["U"] * 0.2, seed=3, sd=0.05))
    row = on("tokens", fit(weak)).iloc[0]
    assert 0.0001 < row["turn_q"] < 0.9
    assert on("tokens", fit(weak, level=row["turn_q"] * 1.01)).iloc[0]["shape"] == "U"
    assert on("tokens", fit(weak, level=row["turn_q"] * 0.99)).iloc[0]["shape"] != "U"


def test_eight_sizes_are_not_testable_but_have_a_line():
    falling = 0.8 - 0.05 * np.log10(SIZES)[:, None] + np.zeros(8)
    values = falling + np.random.default_rng(2).normal(0, 0.01, (8, 8))
    row = on("parameters", fit(cells(values))).iloc[0]
    assert row["shape"] == "not testable"
    assert row["status"] == (
        "not testable: no breakpoint leaves 3 runs on each side and, without any one of them, "
        "4 of the 8 distinct values; over the whole axis performance falls"
    )
    assert row["slope"] == pytest.approx(-0.05, abs=0.005)
    assert row["slope_low"] < row["slope"] < row["slope_high"] < 0
    assert row["q"] < 0.001
    assert row[NUMBERS[5:]].isna().all()


def test_seeds_make_eight_sizes_testable():
    rng = np.random.default_rng(4)
    sizes = np.repeat(SIZES, 3)
    turning = 0.1 * np.abs(np.log10(sizes) - 9.1)[:, None] + rng.normal(0, 0.02, (24, 1))
    values = turning + np.zeros(2)
    row = on("parameters", fit(cells(values, sizes=sizes, tokens=TOKENS[:2]))).iloc[0]
    assert (row["shape"], row["runs"]) == ("U", 24)
    assert 0.999e9 < row["breakpoint"] < 1.401e9


def test_families_of_single_checkpoints_share_the_compute_axis():
    """Thirty models of three families, each at its last checkpoint: the cells are the runs."""
    rng = np.random.default_rng(6)
    frames = []
    for family, per_parameter in (("a", 20), ("b", 60), ("c", 200)):
        sizes = np.geomspace(1e7, 1e11, 10) * rng.uniform(0.8, 1.2, 10)
        values = 0.1 * np.abs(np.log10(6 * sizes**2 * per_parameter) - 19.5)
        for size, value in zip(sizes, values + rng.normal(0, 0.03, 10), strict=True):
            tokens = [int(size * per_parameter)]
            frames.append(
                cells([[value]], sizes=[size], tokens=tokens, family=f"{family}{size:.0f}")
            )
    trends = fit(*frames)
    row = on("flops", trends).iloc[0]
    assert (row["shape"], row["runs"], row["n"], row["status"]) == ("U", 30, 30, "ok")
    assert 10**18.5 < row["breakpoint"] < 10**20.5
    assert row["points_left"] + row["points_right"] in (30, 31)
    row = on("tokens", trends).iloc[0]
    assert row["shape"] == "not testable"
    assert row["status"] == "not estimable: 0 runs with several checkpoints, at least 3 are needed"


def test_compute_that_agrees_in_six_digits_is_one_x():
    """Twice the size at half the tokens: one amount of compute, whatever its last digits."""
    values = noisy(COURSES["flat"])
    toy = cells(values, sizes=1e7 * 2.0 ** np.arange(8), tokens=10**9 * 2 ** np.arange(8))
    toy["flops"] *= 1 + np.random.default_rng(0).uniform(-2e-6, 2e-6, len(toy))
    row = on("flops", fit(toy)).iloc[0]
    assert row["points_left"] + row["points_right"] in (15, 16)


def test_missing_cells_are_missing_and_a_lone_checkpoint_is_left_out():
    full = cells(noisy(COURSES["inverse"]))
    run, k = np.divmod(np.arange(64), 8)
    holes = full.copy()
    holes.loc[(run == 7) & (k < 7), "value"] = np.nan  # the largest model keeps its last checkpoint
    holes.loc[(run == 2) & (k == 3), "value"] = np.nan
    trends = fit(holes)
    pd.testing.assert_frame_equal(trends, fit(holes[holes["value"].notna()]))
    row = on("tokens", trends).iloc[0]
    assert (row["shape"], row["runs"], row["n"]) == ("inverse", 7, 55)
    assert row["status"] == "left out: 1 run with one checkpoint"
    # Elsewhere that checkpoint counts; here it would bring a trend of its own.
    assert list(on("flops", trends)["n"]) == [56]


def test_order_of_cells_does_not_matter(tmp_path):
    toy = pd.concat([cells(noisy(COURSES["U"])), cells(noisy(COURSES["flat"], 5), "other")])
    trends = fit(toy)
    shuffled = toy.sample(frac=1, random_state=0)
    again = shapes(shuffled, {"all": ["task/p/accuracy", "other/p/accuracy"]}, 0.05)
    for number, frame in enumerate((trends, again)):
        write_tsv(frame, tmp_path / f"{number}.tsv")
    assert (tmp_path / "0.tsv").read_bytes() == (tmp_path / "1.tsv").read_bytes()
    read = read_tsv(tmp_path / "0.tsv")
    assert tuple(read.columns) == COLUMNS
    pd.testing.assert_frame_equal(read, trends, check_dtype=False, rtol=1e-5)


@pytest.mark.parametrize(
    ("broken", "axis", "status"),
    [
        (cells([], sizes=[]), "tokens", "no cells"),
        (cells(np.full((8, 8), 137 / 300)), "flops", "every cell has the value 0.456667"),
        (cells(np.zeros((8, 8))), "parameters", "every cell has the value 0"),
        (cells(noisy(U)[:1], sizes=SIZES[:1]), "tokens", "1 run, at least 3 are needed"),
        (cells(noisy(U)[:2], sizes=SIZES[:2]), "flops", "2 runs, at least 3 are needed"),
        (
            cells(noisy(U), sizes=[1e9] * 8),
            "parameters",
            "all checkpoints have one model size",
        ),
        (
            cells(noisy(U), sizes=[1e9] * 7 + [2e9]),
            "parameters",
            "without one of the runs all checkpoints have one model size",
        ),
        (
            cells(noisy(U)[:, :1]),
            "tokens",
            "0 runs with several checkpoints, at least 3 are needed",
        ),
        (
            cells(COURSES["positive"] + np.zeros((8, 1))),
            "tokens",
            "the runs agree exactly, so errors are unknown",
        ),
    ],
)
def test_not_estimable_says_why_and_gives_no_number(broken, axis, status):
    columns = cells(noisy(U)).columns
    trends = shapes(broken.reindex(columns=columns), {"all": ["task/p/accuracy"]}, 0.05)
    row = on(axis, trends).iloc[0]
    assert (row["shape"], row["status"]) == ("not testable", f"not estimable: {status}")
    assert row[NUMBERS].isna().all()


def test_an_outcome_that_cannot_be_estimated_does_not_count_in_the_correction():
    tested = cells(noisy(COURSES["U"]))
    both = fit(tested, cells(np.zeros((8, 8)), "constant"))
    assert on("tokens", both)["q"][0] == on("tokens", fit(tested))["q"][0]


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (lambda c: pd.concat([c, c.iloc[[5]]]), "this cell is given twice"),
        (lambda c: c.assign(value=np.where(c["step"] == 3, np.inf, 0.5)), "the value is infinite"),
        (
            lambda c: c.assign(tokens=c["tokens"] * (c["step"] > 0)),
            "tokens is not positive and has no logarithm",
        ),
        (lambda c: c.assign(flops=np.nan), "flops is not positive and has no logarithm"),
    ],
)
def test_refuses_cells_that_no_fit_should_see(spoil, what):
    with pytest.raises(StudyError, match=f"cells, toy-.*task/p/accuracy: {what}"):
        fit(spoil(cells(noisy(U))))


def test_refuses_a_metric_that_may_be_better_either_way():
    with pytest.raises(StudyError, match="the metric 'ppl' of task/p/ppl is unknown"):
        fit(cells(noisy(U), metric="ppl"))
