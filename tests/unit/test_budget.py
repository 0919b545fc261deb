"""The choice of checkpoints against exhaustive search, and all that is printed about it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from choose_checkpoints import main
from downslope.budget import cheapest, choose
from downslope.budget_fill import filled
from downslope.budget_page import choice_page
from downslope.budget_table import best_choice, offer, precision_table
from downslope.checkpoint_costs import GPU_HOURS_PER_BILLION, Budget, checkpoint_costs
from downslope.errors import StudyError
from downslope.precision import Candidates, ErrorModel, interaction_variance
from downslope.run_sets import sets_of_run, thinned
from downslope.tables import read_table
from tiny_study import ROOT

MODEL = ErrorModel()
SIZES, STEPS = (70_000_000, 400_000_000, 1_000_000_000, 12_000_000_000), (2, 16, 143)
COLUMNS = (
    *("ckpt", "family", "parameters", "step", "tokens", "seed"),
    *("source", "revision", "tokenizer", "known_bad"),
)


def study(sizes=SIZES, steps=STEPS, seeds=(1,), bad=(), source="hub:toy/{}"):
    """Rows of checkpoints.tsv, a full grid; those whose ckpt is in `bad` are known_bad."""
    rows = []
    for size in sizes:
        for seed in seeds:
            for step in steps:
                ckpt = f"toy-{size}-s{seed}-step{step}"
                values = (ckpt, "toy", size, step, step * 2_097_152, seed)
                place = (source.format(ckpt), f"step{step}", "toy")
                reason = "wrong" if ckpt in bad else ""
                rows.append(dict(zip(COLUMNS, (*values, *place, reason), strict=True)))
    return rows


def exhaustive(rows, costs, sizes, least, model):
    """The smallest variance over all subsets that obey the rules, and the cheapest cost of each
    resource; from the covariance of all cells, without any part of the programme."""
    size, tokens = np.log10([[row["parameters"], row["tokens"]] for row in rows]).T
    size, tokens = size - size.mean(), tokens - tokens.mean()
    run = np.unique([f"{row['parameters']}/{row['seed']}" for row in rows], return_inverse=True)[1]
    of_size = np.unique(size, return_inverse=True)[1]
    decay = np.exp(-np.abs(tokens[:, None] - tokens) / model.correlation_length)
    covariance = (run[:, None] == run) * (
        model.run_intercept + model.run_slope * np.outer(tokens, tokens) + model.correlated * decay
    ) + (1 - model.correlated) * np.eye(len(rows))
    design = np.column_stack([np.ones(len(rows)), size, tokens, size * tokens])
    best, lowest = np.inf, np.full(costs.shape[1], np.inf)
    for code in range(1, 2 ** len(rows)):
        chosen = np.flatnonzero([(code >> bit) & 1 for bit in range(len(rows))])
        counts = np.bincount(run[chosen])
        if len(set(of_size[chosen])) < sizes or (counts[counts > 0] < least).any():
            continue
        cost = costs[chosen].sum(axis=0)
        lowest = np.minimum(lowest, cost)
        if (cost <= 1).all():
            x, inverse = design[chosen], np.linalg.inv(covariance[np.ix_(chosen, chosen)])
            best = min(best, np.linalg.inv(x.T @ inverse @ x)[3, 3])
    return best, lowest


INDEPENDENT_RUNS = ErrorModel(correlated=0, run_intercept=0.15, run_slope=0.54)


@pytest.mark.parametrize(
    ("seed", "resources", "sizes", "least", "model"),
    [
        (1, 1, 2, 2, MODEL),
        (2, 1, 3, 2, INDEPENDENT_RUNS),
        (3, 2, 2, 2, ErrorModel(correlated=0.5, correlation_length=1.0, run_slope=2.0)),
        (4, 2, 3, 2, MODEL),
        (5, 1, 2, 3, MODEL),
        (6, 2, 4, 2, INDEPENDENT_RUNS),
    ],
)
def test_no_subset_is_better(seed, resources, sizes, least, model):
    """4 runs x 3 checkpoints, all 4095 subsets, random costs in every case."""
    rng = np.random.default_rng(seed)
    rows = study()
    costs = rng.uniform(0.2, 1, size=(12, resources)) / rng.uniform(3, 6)
    best, lowest = exhaustive(rows, costs, sizes, least, model)
    candidates = Candidates.from_rows(rows)
    assert cheapest(candidates, costs, sizes, least) == pytest.approx(lowest)
    choice = choose(candidates, costs, sizes=sizes, least=least, model=model)
    assert np.isfinite(best)
    assert interaction_variance(candidates, choice.chosen, model) == pytest.approx(best, rel=2e-6)
    assert (costs[choice.chosen].sum(axis=0) <= 1 + 1e-9).all()
    assert 0 <= choice.gap <= 1e-6


@pytest.mark.parametrize("budget", [2.5, 4.0, 7.0])
def test_no_subset_is_better_where_runs_are_alike(budget):
    """Two seeds of two sizes and one of a third: the programme counts the seeds, not their names;
    steps differ from run to run."""
    rows = study(SIZES[:2], (2, 143), seeds=(1, 2)) + study(SIZES[3:], (1, 16, 143))
    costs = np.array([[1.0 if row["parameters"] == SIZES[3] else 0.4] for row in rows]) / budget
    best, _ = exhaustive(rows, costs, 2, 2, MODEL)
    candidates = Candidates.from_rows(rows)
    choice = choose(candidates, costs, sizes=2, least=2, model=MODEL)
    if not np.isfinite(best):
        assert choice is None
    else:
        value = interaction_variance(candidates, choice.chosen, MODEL)
        assert value == pytest.approx(best, rel=2e-6)


def test_no_exchange_improves_the_choice_from_the_published_grid():
    rows = read_table(ROOT / "config/published/checkpoints.tsv", "checkpoints")
    candidates = Candidates.from_rows(rows)
    costs = np.array([[row["parameters"]] for row in rows]) / 197.92e9 / 0.5
    choice = choose(candidates, costs, sizes=4, least=3, model=MODEL)
    value = interaction_variance(candidates, choice.chosen, MODEL)
    inside, outside = np.flatnonzero(choice.chosen), np.flatnonzero(~choice.chosen)
    tried = 0
    for out in inside:
        for further in outside:
            other = choice.chosen.copy()
            other[[out, further]] = False, True
            counts = np.bincount(np.arange(64)[other] // 8)
            if costs[other].sum() <= 1 and (counts[counts > 0] >= 3).all():
                tried += 1
                assert interaction_variance(candidates, other, MODEL) > value * (1 - 1e-6)
    assert tried > 100


def test_the_interaction_needs_two_sizes_and_two_checkpoints():
    candidates = Candidates.from_rows(study())
    for asked in ({"sizes": 1, "least": 2}, {"sizes": 2, "least": 1}):
        with pytest.raises(ValueError, match="two sizes and two checkpoints"):
            choose(candidates, np.ones((12, 1)), **asked, model=MODEL)


def test_needless_sets_are_those_that_another_beats():
    """Equal costs: of the sets of two out of five, the outermost pair tells most of the slope."""
    tokens = np.linspace(-1, 1, 5)
    sets = sets_of_run(tokens, np.full((5, 1), 0.1), 2, INDEPENDENT_RUNS)
    pairs = sets.members[sets.members.sum(axis=1) == 2]
    assert [1, 0, 0, 0, 1] in pairs.tolist()
    assert [0, 1, 1, 0, 0] not in pairs.tolist()
    assert sets.members.all(axis=1).sum() == 1
    # An expensive end makes other pairs worth considering; everything for nothing leaves one set.
    dear = sets_of_run(tokens, np.array([[1], [0.1], [0.1], [0.1], [0.1]]), 2, INDEPENDENT_RUNS)
    assert [0, 1, 0, 0, 1] in dear.members.tolist()
    assert sets_of_run(tokens, np.zeros((5, 1)), 2, MODEL).members.tolist() == [[True] * 5]


def test_thinned_keeps_both_ends_and_spreads():
    tokens = np.log10(np.arange(1, 155.0))
    kept = thinned(tokens, 10)
    assert (kept[0], kept[-1]) == (0, 153)
    assert len(kept) <= 10
    assert np.diff(tokens[kept]).max() < 2.5 * (tokens[-1] - tokens[0]) / 9
    assert thinned(tokens[:10], 10).tolist() == list(range(10))


def test_a_long_run_is_thinned_and_then_filled_up():
    rows = study(SIZES, (1, 2, 4, 8, 16, 32, 64, 128), seeds=(1,))
    candidates = Candidates.from_rows(rows)
    costs = np.array([[row["parameters"]] for row in rows]) / 107.76e9
    full = interaction_variance(candidates, np.ones(32, bool), MODEL)
    for budget, most in ((1.0, 4), (0.4, 4)):
        exact = choose(candidates, costs / budget, sizes=3, least=3, model=MODEL)
        choice = choose(candidates, costs / budget, sizes=3, least=3, model=MODEL, most=most)
        assert (exact.set_aside, choice.set_aside) == (0, 16)
        value = interaction_variance(candidates, choice.chosen, MODEL)
        best = interaction_variance(candidates, exact.chosen, MODEL)
        assert best * (1 - 2e-6) <= value <= 1.05 * best
        assert costs[choice.chosen].sum() <= budget + 1e-9
        if budget == 1.0:
            assert choice.chosen.all()
            assert value == pytest.approx(full)


def test_filling_takes_the_largest_drop_for_its_cost():
    rng = np.random.default_rng(7)
    rows = study(SIZES, (1, 3, 9, 27, 81))
    candidates = Candidates.from_rows(rows)
    start = np.zeros(20, bool)
    start[[0, 4, 5, 9, 10, 14]] = True  # the ends of three runs; the fourth is not in the choice
    costs = np.where(start, 0.1, rng.uniform(0.05, 0.2, 20))[:, None]
    one = filled(candidates, np.where(start[:, None], costs, costs + 0.25), start, MODEL)
    before = interaction_variance(candidates, start, MODEL)
    drops = {}
    for further in np.flatnonzero(~start[:15]):
        with_it = start.copy()
        with_it[further] = True
        drop = before - interaction_variance(candidates, with_it, MODEL)
        drops[further] = drop / (costs[further, 0] + 0.25)
    assert np.flatnonzero(one & ~start).tolist() == [max(drops, key=drops.get)]
    more = filled(candidates, costs, start, MODEL)
    assert not more[15:].any()
    assert costs[more].sum() <= 1 + 1e-9
    left = costs[:15][~more[:15]]
    assert (left > 1 - costs[more].sum()).all()


def costs_of(rows, measured=(), locked=None):
    return checkpoint_costs(rows, GPU_HOURS_PER_BILLION, locked or {}, measured)


def test_paper_hours_over_the_parameters_of_its_checkpoints():
    rows = read_table(ROOT / "config/published/checkpoints.tsv", "checkpoints")
    assert costs_of(rows)["gpu_hours"].sum() == pytest.approx(42)


def test_where_costs_come_from():
    rows = study((1_000_000_000,), (1, 2, 3)) + study((2_000_000_000,), (1,), source="models/{}")
    first, second, third, local = (row["ckpt"] for row in rows)
    measured = [
        {"ckpt": first, "gpu_hours": "0.5", "download_gb": "0", "line": 2},
        {"ckpt": second, "gpu_hours": "", "download_gb": "", "line": 3},
    ]
    costs = costs_of(rows, measured, {second: 3_000_000_000, first: 7})
    usual = "0.212 GPU hours per 10^9 parameters"
    assert costs["gpu_hours"].tolist() == pytest.approx(
        [0.5, *(42 / 197.92 * b for b in (1, 1, 2))]
    )
    assert costs["gpu_source"].tolist() == ["costs.tsv", usual, usual, usual]
    assert costs["download_gb"].to_dict() == {first: 0, second: 3, third: 2, local: 0}
    assert costs["download_source"].tolist() == [
        *("costs.tsv", "lock", "2 bytes per parameter", "local folder")
    ]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"ckpt": "toy-1-s1-step9"}, "the study has no such checkpoint. Did you mean"),
        ({"gpu_hours": "-1"}, "gpu_hours is '-1', expected a number from 0"),
        ({"download_gb": "nan"}, "download_gb is 'nan'"),
        ({"download_gb": "2,5"}, "download_gb is '2,5'"),
    ],
)
def test_a_cost_that_is_none(row, message):
    rows = study()
    given = {"ckpt": rows[0]["ckpt"], "gpu_hours": "1", "download_gb": "", "line": 7} | row
    with pytest.raises(StudyError, match=r"config/costs.tsv, line 7") as error:
        costs_of(rows, [given])
    assert message in str(error.value)


def given_study(rows, **config):
    budget = Budget.from_config({"min_models": 3, "min_checkpoints": 2, **config})
    return offer(rows, costs_of(rows), budget)


def test_a_budget_limits_something():
    with pytest.raises(StudyError, match="Give at least one of gpu_hours and download_gb"):
        Budget.from_config({"min_models": 3})


def test_what_is_known_bad_is_not_chosen_and_not_scaled_by():
    rows = study()
    bad = {row["ckpt"] for row in rows if row["parameters"] == SIZES[3]}
    marked = given_study(study(bad=bad), gpu_hours=1000)
    without = given_study([row for row in rows if row["ckpt"] not in bad], gpu_hours=1000)
    assert best_choice(marked).chosen.sum() == 9
    partly = study(bad=sorted(bad)[:2])
    table = precision_table(given := given_study(partly, gpu_hours=1000), best_choice(given))
    assert table["status"].iloc[-1] == "not possible: too few checkpoints"
    one, other = (precision_table(g, best_choice(g)) for g in (marked, without))
    assert one.equals(other)
    with pytest.raises(StudyError, match="no checkpoint to choose from"):
        offer(study(bad={row["ckpt"] for row in rows}), costs_of(rows), marked.budget)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        # 2 checkpoints of 0.07, 0.4 and 1 billion parameters: 2.94 x 42 / 197.92.
        ({"gpu_hours": 0.5}, "the cheapest cost 0.6239 GPU hours (0.5 are allowed)"),
        ({"download_gb": 5}, "the cheapest cost 5.88 GB of download (5 are allowed)"),
        ({"gpu_hours": 9, "download_gb": 5.5}, "(9 are allowed) and 5.88 GB of download"),
        ({"gpu_hours": 9, "min_models": 5}, "5 model sizes with 2 checkpoints of a run each, and"),
        ({"gpu_hours": 9, "min_checkpoints": 4}, "the study has not so many"),
    ],
)
def test_what_is_not_affordable_says_what_would_be(config, message):
    with pytest.raises(StudyError, match=r"config/config.yaml, budget") as error:
        best_choice(given_study(study(), **config))
    assert message in str(error.value)


def test_seeds_of_one_size_are_no_further_models():
    rows = study(SIZES[:2], STEPS, seeds=(1, 2, 3))
    with pytest.raises(StudyError, match="the study has not so many"):
        best_choice(given_study(rows, gpu_hours=100))


def test_table_by_hand():
    """Money for half the parameters: 3 x 13.47 billion in all, so 20.2; 13.47 a step."""
    given = given_study(study(), gpu_hours=20.2 * GPU_HOURS_PER_BILLION)
    table = precision_table(given, best_choice(given)).set_index("choice")
    assert list(table.index[:4]) == [
        *("choice", "full grid", "smallest models first", "every third checkpoint")
    ]
    assert table["checkpoints"].tolist()[1:4] == [12, 9, 4]
    assert table["runs"].tolist()[1:4] == [4, 3, 4]
    assert table["download_gb"].tolist()[1:4] == pytest.approx([80.82, 8.82, 26.94])
    candidates = given.candidates
    full = interaction_variance(candidates, np.ones(12, bool), MODEL)
    smallest = interaction_variance(candidates, np.arange(12) < 9, MODEL)
    assert table["relative_se"]["full grid"] == 1
    assert table["relative_se"]["smallest models first"] == pytest.approx(np.sqrt(smallest / full))
    assert table["se_points"]["full grid"] == pytest.approx(3.7 * np.sqrt(full))
    # One checkpoint a run shows no training at all.
    assert table["status"]["every third checkpoint"] == (
        "not estimable: size and training do not both vary"
    )
    assert table["status"]["choice"] == "ok"
    assert table["status"]["best from at least 4 sizes"] == "not affordable"


def test_rows_that_stand_for_nothing_say_so():
    given = given_study(study(), gpu_hours=4 * GPU_HOURS_PER_BILLION)
    table = precision_table(given, best_choice(given)).set_index("choice")
    assert table["status"]["every n-th checkpoint"] == "not affordable"
    given = given_study(study(), gpu_hours=2 * GPU_HOURS_PER_BILLION, min_models=2)
    table = precision_table(given, best_choice(given)).set_index("choice")
    assert table["status"]["smallest models first"] == "not testable: 2 runs, at least 3 are needed"
    assert np.isnan(table["detectable_points"]["smallest models first"])
    assert table["se_points"]["smallest models first"] > 0


def test_error_model_is_the_configs():
    config = {"gpu_hours": 9, "error_model": {"residual_sd": 0.37, "run_slope": 0.5}}
    other = given_study(study(), **config)
    assert other.budget.model == ErrorModel(residual_sd=0.37, run_slope=0.5)
    text = choice_page(study(), other, choice := best_choice(other), precision_table(other, choice))
    assert "in slope per tenfold of tokens (0.5)" in text
    assert "a residual of 37 points" in text


@pytest.fixture
def written(tmp_path: Path):
    """The entry script's outputs for a study with one known_bad checkpoint, in shuffled order."""
    rows = study(bad={"toy-1000000000-s1-step16"})
    outputs = {name: str(tmp_path / name) for name in ("checkpoints", "precision", "page")}
    limits = {"gpu_hours": 6.0, "download_gb": 60, "min_models": 3, "min_checkpoints": 2}
    main(rows[::-1], limits, {}, None, outputs, str(tmp_path / "log"))
    return rows, {name: Path(path) for name, path in outputs.items()}


def test_chosen_table_can_be_copied_over(written):
    rows, outputs = written
    chosen = read_table(outputs["checkpoints"], "checkpoints")
    assert outputs["checkpoints"].read_text().splitlines()[0].split("\t") == list(rows[0])
    by_ckpt = {row["ckpt"]: row for row in rows}
    names = [row.pop("ckpt") for row in chosen]
    assert names == [name for name in by_ckpt if name in names]
    assert [
        {**row, "ckpt": name} | {"line": 0} for row, name in zip(chosen, names, strict=True)
    ] == [by_ckpt[name] | {"line": 0} for name in names]
    assert 6 <= len(names) < 11


def test_page_shows_the_choice(written):
    rows, outputs = written
    page = outputs["page"].read_text(encoding="utf-8")
    chosen = [row["ckpt"] for row in read_table(outputs["checkpoints"], "checkpoints")]
    grid = [line for line in page.splitlines() if line.startswith("| toy ")]
    assert [line.split(" | ")[0] for line in grid] == [
        *("| toy 70M", "| toy 400M", "| toy 1B", "| toy 12B")
    ]
    marks = "".join(line.replace(" ", "").strip("|").split("|", 1)[1] for line in grid)
    marks = marks.replace("|", "")
    assert [row["ckpt"] for row, mark in zip(rows, marks, strict=True) if mark == "●"] == chosen
    assert marks[7] == "×"
    assert f"**{len(chosen)} of 11 checkpoints, " in page
    assert " of 6 GPU hours and " in page
    assert "at least 3 model sizes and at least 2 checkpoints" in page
    assert "× known bad" in page


def test_page_lists_steps_where_a_grid_would_be_too_wide():
    rows = study(steps=tuple(range(1, 41)), seeds=(1, 2))
    given = given_study(rows, gpu_hours=5)
    choice = best_choice(given)
    page = choice_page(rows, given, choice, precision_table(given, choice))
    line = next(line for line in page.splitlines() if line.startswith("| toy 70M seed 1 | "))
    taken = given.rows[choice.chosen & (given.rows["parameters"] == SIZES[0])]
    steps = taken.loc[taken["seed"] == 1, "step"].tolist()
    assert line == f"| toy 70M seed 1 | {len(steps)} of 40 | {', '.join(map(str, steps))} |"
    assert f"({choice.set_aside} of 320 candidates set aside)" in page
    assert choice.set_aside >= 240
    unused = given.rows.groupby(["parameters", "seed"])["ckpt"].apply(
        lambda names: not set(names) & set(given.rows.loc[choice.chosen, "ckpt"])
    )
    short = dict(zip(SIZES, ("70M", "400M", "1B", "12B"), strict=True))
    named = [f"toy {short[size]} seed {seed}" for size, seed in unused.index[unused]]
    assert named
    assert f"Nothing is learnt of {', '.join(named)}." in page


def test_page_says_where_more_runs_find_smaller_effects():
    """A quarter of a grid of six sizes: the variance is smallest with four, the test best with
    five, since t has a degree of freedom more; six cost too much."""
    rows = study((*SIZES[:2], 160_000_000, *SIZES[2:], 2_800_000_000), (2, 8, 32, 143))
    given = given_study(rows, gpu_hours=65.72 / 4 * GPU_HOURS_PER_BILLION)
    choice = best_choice(given)
    table = precision_table(given, choice)
    by_name = table.set_index("choice")
    five = by_name.loc["best from at least 5 sizes"]
    assert by_name["sizes"]["choice"] == 4
    assert five["relative_se"] > by_name["relative_se"]["choice"]
    assert five["detectable_points"] < by_name["detectable_points"]["choice"]
    assert by_name["status"]["best from at least 6 sizes"] == "not affordable"
    page = choice_page(rows, given, choice, table)
    assert "With `min_models: 5` the variance is larger and yet a test finds smaller" in page


def test_choice_beats_naive_spending_on_the_published_grid():
    rows = read_table(ROOT / "config/published/checkpoints.tsv", "checkpoints")
    given = offer(rows, costs_of(rows), Budget.from_config({"gpu_hours": 21, "min_models": 7}))
    table = precision_table(given, best_choice(given)).set_index("choice")
    naive = table.loc[["smallest models first", "every other checkpoint"], "relative_se"]
    assert 1 < table["relative_se"]["choice"] < 1.02
    assert (naive > 1.2).all()
