"""The heat map: colours at the numbers of the cells, columns by run and tokens, hatched gaps."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from downslope.errors import StudyError
from downslope.figure_heatmap import heatmap_figure
from downslope.figure_style import save_figure
from drawn import BETTER, assert_text_is_apart, outcomes_and_tasks, words

PER_STEP = 2097152


def study(outcomes, sizes=(70_000_000, 1_400_000_000), steps=(2000, 16000, 143000), seeds=(1,)):
    """Cells of a full study; values are unlike one another."""
    rows = []
    for size in sizes:
        for seed in seeds:
            for step in steps:
                for text in outcomes:
                    task, protocol, metric = text.split("/")
                    rows.append(
                        {"ckpt": f"toy-{size}-{seed}-{step}", "family": "toy", "parameters": size}
                        | {"step": step, "tokens": step * PER_STEP, "seed": seed, "task": task}
                        | {"protocol": protocol, "metric": metric}
                        | {"value": 0.5 + 0.4 * np.sin(len(rows)), "se": 0.01}
                    )
    return pd.DataFrame(rows)


def figure_of(cells, outcomes, tasks, **more):
    return heatmap_figure(cells, tasks, outcomes, BETTER, **{"expected": 6, **more})


def blocks(figure):
    """The coloured arrays of each block, runs side by side; NaN where there is no cell."""
    found = []
    for axes in figure.axes:
        meshes = [mesh.get_array() for mesh in axes.collections if mesh.get_label() == "_cells"]
        if meshes:
            found.append(np.hstack([np.ma.filled(mesh.astype(float), np.nan) for mesh in meshes]))
    return found


def hatches(axes):
    return [patch for patch in axes.patches if patch.get_hatch()]


def test_the_first_block_is_the_value_against_chance_in_points():
    outcomes, tasks = outcomes_and_tasks(3, chance=0.25)
    cells = study(outcomes)
    level = blocks(figure_of(cells, outcomes, tasks))[0]
    expected = [100 * (cells[cells["task"] == f"t{n}"]["value"] - 0.25) for n in range(3)]
    assert level == pytest.approx(np.array(expected))


def test_its_colours_are_symmetric_about_chance_and_ordered_by_lightness():
    outcomes, tasks = outcomes_and_tasks(2)
    (mesh, *_) = figure_of(study(outcomes), outcomes, tasks).axes[0].collections
    low, high = mesh.get_clim()
    assert low == -high
    shades = mesh.get_cmap()(np.linspace(0, 1, 50))[:, :3] ** 2.2 @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(shades) > 0).all()
    middle = mesh.get_cmap()(0.5)[:3]
    assert np.ptp(middle) < 0.06  # grey: neither above nor below


def test_the_second_block_is_the_fall_below_the_best_of_the_run_so_far():
    outcomes, tasks = outcomes_and_tasks(1)
    cells = study(outcomes)
    cells["value"] = [0.5, 0.7, 0.6, 0.9, 0.4, 0.95]
    assert blocks(figure_of(cells, outcomes, tasks))[1] == pytest.approx(
        np.array([[0, 0, -10, 0, -50, 0]])
    )


def test_worse_is_less_also_where_lower_is_better():
    outcomes, tasks = outcomes_and_tasks(1, metric="brier", chance=0.5)
    cells = study(outcomes)
    cells["value"] = [0.5, 0.3, 0.6, 0.9, 0.4, 0.4]
    level, loss = blocks(figure_of(cells, outcomes, tasks))
    assert level == pytest.approx(np.array([[0, 20, -10, -40, 10, 10]]))
    assert loss == pytest.approx(np.array([[0, 0, -30, 0, 0, 0]]))


def test_columns_follow_size_and_tokens_however_the_cells_are_ordered():
    outcomes, tasks = outcomes_and_tasks(2)
    cells = study(outcomes)
    mixed = cells.sample(frac=1, random_state=1)
    one, other = (blocks(figure_of(c, outcomes, tasks)) for c in (cells, mixed))
    assert all((a == b).all() for a, b in zip(one, other, strict=True))
    said = words(figure_of(cells, outcomes, tasks))
    assert said.index("70M") < said.index("1.4B")
    assert "4.2B" in said
    assert "300B" in said


def test_a_missing_cell_is_hatched_and_no_best_is_lost_through_it():
    outcomes, tasks = outcomes_and_tasks(1)
    cells = study(outcomes)
    cells["value"] = [0.9, 0.7, 0.6, 0.9, 0.4, 0.95]
    checkpoints = cells.to_dict("records")
    figure = figure_of(cells.drop(index=1), outcomes, tasks, checkpoints=checkpoints)
    level, loss = blocks(figure)
    assert np.isnan(level[0]).tolist() == [False, True, False, False, False, False]
    assert loss[0] == pytest.approx([0, np.nan, -30, 0, -50, 0], nan_ok=True)
    assert len(hatches(figure.axes[0])) == 1
    said = words(figure)
    assert "5 of 6 checkpoints; missing: toy 70M at step 16000." in said
    assert "Hatched" in said
    whole = figure_of(cells, outcomes, tasks)
    assert not hatches(whole.axes[0])
    assert "Hatched" not in words(whole)


def test_an_undefined_value_is_hatched_too():
    outcomes, tasks = outcomes_and_tasks(2)
    cells = study(outcomes)
    cells.loc[0, "value"] = np.nan
    assert np.isnan(blocks(figure_of(cells, outcomes, tasks))[0]).sum() == 1


def test_outcomes_without_chance_are_in_the_second_block_only():
    outcomes, tasks = outcomes_and_tasks(2)
    tasks[1]["chance"] = {}
    figure = figure_of(study(outcomes), outcomes, tasks)
    assert [block.shape for block in blocks(figure)] == [(1, 6), (2, 6)]
    assert "Chance is not known for Task 1." in words(figure)


def test_each_unit_has_a_scale_of_its_own():
    outcomes, tasks = outcomes_and_tasks(2)
    outcomes[1] = "t1/p/margin"
    figure = figure_of(study(outcomes), outcomes, tasks)
    assert [block.shape for block in blocks(figure)] == [(1, 6)] * 3
    said = words(figure)
    assert "points" in said
    assert "nats" in said


def test_runs_of_one_checkpoint_have_no_history():
    outcomes, tasks = outcomes_and_tasks(2)
    cells = study(outcomes, steps=(2000,))
    assert len(blocks(figure_of(cells, outcomes, tasks))) == 1
    tasks = [{**row, "chance": {}} for row in tasks]
    assert "no run has two checkpoints" in words(figure_of(cells, outcomes, tasks))


def test_no_cells_are_said_in_words():
    outcomes, tasks = outcomes_and_tasks(2)
    cells = study(outcomes)
    assert "No cells" in words(figure_of(cells.iloc[:0], outcomes, tasks))
    assert "No cells" in words(figure_of(cells, [], tasks))
    assert "No cells" in words(figure_of(cells.assign(value=np.nan), outcomes, tasks))


def test_a_constant_study_is_drawn():
    outcomes, tasks = outcomes_and_tasks(1)
    level, loss = blocks(figure_of(study(outcomes).assign(value=0.5), outcomes, tasks))
    assert (level == 0).all()
    assert (loss == 0).all()


def test_a_cell_given_twice_is_refused():
    outcomes, tasks = outcomes_and_tasks(2)
    cells = study(outcomes)
    with pytest.raises(StudyError, match="t1/p/accuracy"):
        figure_of(pd.concat([cells, cells.iloc[[1]]]), outcomes, tasks)


@pytest.mark.parametrize(
    ("count", "sizes", "seeds", "steps"),
    [(1, 1, 1, 1), (12, 8, 1, 8), (30, 10, 2, 3), (2, 20, 1, 1), (12, 8, 1, 154)],
)
def test_text_is_apart_and_the_page_has_a_size_that_prints(count, sizes, seeds, steps):
    outcomes, tasks = outcomes_and_tasks(count, "Pattern Match Suppression {}")
    cells = study(
        outcomes,
        sizes=[int(14e6 * 1.7**rank) for rank in range(sizes)],
        seeds=range(1, seeds + 1),
        steps=[1000 * (n + 1) for n in range(steps)],
    )
    figure = figure_of(cells, outcomes, tasks, expected=1, title="A title that goes on " * 8)
    assert_text_is_apart(figure)
    assert blocks(figure)[0].shape == (count, sizes * seeds * steps)
    assert max(figure.get_size_inches()) < 20


@pytest.mark.parametrize("kind", ["pdf", "svg"])
def test_a_thousand_columns_are_one_picture_of_stable_bytes(kind, tmp_path):
    outcomes, tasks = outcomes_and_tasks(6)
    cells = study(outcomes, sizes=range(1, 9), steps=range(1, 155))
    for name in ("one", "two"):
        save_figure(figure_of(cells, outcomes, tasks), tmp_path / f"{name}.{kind}")
    content = (tmp_path / f"one.{kind}").read_bytes()
    assert content == (tmp_path / f"two.{kind}").read_bytes()
    assert len(content) < 1_000_000


def test_colours_go_by_square_roots_with_round_ticks_on_both_sides_of_chance():
    outcomes, tasks = outcomes_and_tasks(1)
    cells = study(outcomes)
    cells["value"] = [1.0, 0.625, 0.5, 0.375, 0.5, 0.5]
    figure = figure_of(cells, outcomes, tasks)
    norm = figure.axes[0].collections[0].norm
    assert list(norm([-12.5, 0, 12.5, 50])) == pytest.approx([0.25, 0.5, 0.75, 1])
    ticks = [list(axes.yaxis.get_major_locator()()) for axes in figure.axes]
    assert [-50, -20, -5, 0, 5, 20, 50] in ticks
    assert [-50, -20, -5, 0] in ticks
