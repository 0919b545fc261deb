"""What the accuracy figure draws: panels, lines, gaps, limits, labels; and the bytes it leaves."""

from __future__ import annotations

import re

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb

from downslope.errors import StudyError
from downslope.figure_style import log_ticks, palette, save_figure, short_numbers
from downslope.figures import accuracy_figure

SIZES = (70_000_000, 1_400_000_000, 12_000_000_000)
STEPS = (2000, 16000, 64000, 143000)
PER_STEP = 2097152


def study(outcomes=("memo-trap/p/accuracy",), sizes=SIZES, steps=STEPS, seeds=(1,), family="toy"):
    """Cells and checkpoints of a full study; values are unlike one another."""
    checkpoints = [
        {
            "family": family,
            "parameters": size,
            "seed": seed,
            "step": step,
            "tokens": step * PER_STEP,
        }
        for size in sizes
        for seed in seeds
        for step in steps
    ]
    cells = []
    for rank, row in enumerate(checkpoints):
        row["ckpt"] = f"{family}-{row['parameters']}-{row['seed']}-{row['step']}"
        for number, outcome in enumerate(outcomes):
            task, protocol, metric = outcome.split("/")
            value = 0.5 + number / 10 + 0.2 * np.sin(rank + number)
            cells.append(
                {**row, "task": task, "protocol": protocol, "metric": metric, "value": value}
                | {"se": 0.01}
            )
    return pd.DataFrame(cells), checkpoints


TASKS = [
    {"task": "memo-trap", "title": "Memo Trap", "chance": {"accuracy": 0.5}},
    {"task": "truthfulqa", "title": "TruthfulQA", "chance": {"mc1": 0.226, "mc2": 0.448}},
    {"task": "free", "title": "Free", "chance": {}},
]


def figure_of(cells, checkpoints, outcomes=("memo-trap/p/accuracy",), tasks=TASKS, **more):
    return accuracy_figure(
        cells, tasks, outcomes, expected=len(checkpoints), checkpoints=checkpoints, **more
    )


def lines(axes, label):
    return [line for line in axes.lines if line.get_label() == label]


def texts(figure):
    return [text.get_text() for text in figure.texts]


def twelve():
    outcomes = [f"t{number}/p/accuracy" for number in range(12)]
    tasks = [
        {"task": f"t{n}", "title": f"Task {n}", "chance": {"accuracy": 0.5}} for n in range(12)
    ]
    return outcomes, tasks


def test_a_panel_per_outcome_in_order_four_in_a_row():
    outcomes, tasks = twelve()
    figure = figure_of(*study(outcomes), outcomes, tasks)
    assert [axes.get_title("left") for axes in figure.axes] == [f"Task {n}" for n in range(12)]
    places = [axes.get_position() for axes in figure.axes]
    assert [round(place.y0, 6) for place in places[:4]] == [round(places[0].y0, 6)] * 4
    assert places[4].y1 < places[0].y0
    assert sorted(place.x0 for place in places[:4]) == [place.x0 for place in places[:4]]


@pytest.mark.parametrize(
    ("count", "per_row"), [(1, [1]), (4, [4]), (5, [3, 2]), (6, [3, 3]), (9, [3, 3, 3])]
)
def test_rows_are_even(count, per_row):
    outcomes = twelve()[0][:count]
    figure = figure_of(*study(outcomes), outcomes, twelve()[1])
    tops = [round(axes.get_position().y1, 6) for axes in figure.axes]
    assert [tops.count(top) for top in sorted(set(tops), reverse=True)] == per_row


def test_a_line_per_size_goes_through_the_cells():
    cells, checkpoints = study()
    (axes,) = figure_of(cells, checkpoints).axes
    for size, label in zip(SIZES, ("70M", "1.4B", "12B"), strict=True):
        own = cells[cells["parameters"] == size]
        (line,) = lines(axes, label)
        assert list(line.get_xdata()) == list(own["tokens"])
        assert list(line.get_ydata()) == pytest.approx(list(own["value"]))
        assert line.get_marker() == "o"
    orders = [lines(axes, label)[0].get_zorder() for label in ("70M", "1.4B", "12B")]
    assert orders == sorted(set(orders))  # the largest on top


def test_tokens_are_on_a_log_axis_the_same_in_all_panels_and_labelled_below():
    outcomes, tasks = twelve()
    figure = figure_of(*study(outcomes), outcomes, tasks)
    assert {axes.get_xscale() for axes in figure.axes} == {"log"}
    ((low, high),) = {axes.get_xlim() for axes in figure.axes}
    assert low < STEPS[0] * PER_STEP
    assert high > STEPS[-1] * PER_STEP
    figure.draw_without_rendering()
    names = [[tick.get_text() for tick in axes.get_xticklabels()] for axes in figure.axes]
    assert names[8:] == [["10B", "30B", "100B", "300B"]] * 4
    assert set().union(*names[:8]) == {""}
    assert "Training tokens" in texts(figure)


def test_y_axes_are_free_and_hold_values_and_bands():
    cells, checkpoints = study(("memo-trap/p/accuracy", "free/p/accuracy"))
    cells.loc[cells["task"] == "free", "value"] += 40
    figure = figure_of(cells, checkpoints, ("memo-trap/p/accuracy", "free/p/accuracy"))
    for axes, task in zip(figure.axes, ("memo-trap", "free"), strict=True):
        own = cells.loc[cells["task"] == task, "value"]
        low, high = axes.get_ylim()
        assert low < own.min() - 0.0196
        assert high > own.max() + 0.0196
        assert high - low < 2


def test_legend_names_the_sizes_in_order():
    (legend,) = figure_of(*study()).legends
    assert [text.get_text() for text in legend.get_texts()] == ["70M", "1.4B", "12B"]
    assert "Parameters" in texts(figure_of(*study()))


def test_chance_is_a_dashed_line_of_the_outcomes_own_metric():
    outcomes = ("memo-trap/p/accuracy", "truthfulqa/p/mc1", "truthfulqa/p/mc2", "free/p/accuracy")
    figure = figure_of(*study(outcomes), outcomes)
    levels = []
    for axes in figure.axes:
        chance = lines(axes, "_chance")
        levels.append([line.get_ydata()[0] for line in chance])
        assert all(line.is_dashed() for line in chance)
    assert levels == [[0.5], [0.226], [0.448], []]
    assert [axes.get_title("left") for axes in figure.axes][1:3] == [
        *("TruthfulQA (MC1)", "TruthfulQA (MC2)")
    ]


def test_chance_near_the_values_is_inside_and_far_chance_is_an_arrow():
    cells, checkpoints = study()
    near = figure_of(cells.assign(value=cells["value"] * 0.2 + 0.52), checkpoints).axes[0]
    assert near.get_ylim()[0] < 0.5
    assert not near.texts
    far = figure_of(cells.assign(value=cells["value"] * 0.1 + 0.8), checkpoints).axes[0]
    assert far.get_ylim()[0] > 0.8
    assert [text.get_text() for text in far.texts] == ["chance 0.5 ↓"]


def test_bands_are_196_standard_errors_and_only_where_these_are_known():
    cells, checkpoints = study()
    (axes,) = figure_of(cells, checkpoints).axes
    assert len(axes.collections) == len(SIZES)
    outline = axes.collections[0].get_paths()[0].vertices
    own = cells[cells["parameters"] == SIZES[0]]
    for tokens, value in zip(own["tokens"], own["value"], strict=True):
        at = outline[outline[:, 0] == tokens, 1]
        assert at.max() == pytest.approx(value + 0.0196)
        assert at.min() == pytest.approx(value - 0.0196)
    bare = figure_of(cells.assign(se=np.nan), checkpoints)
    assert not bare.axes[0].collections
    assert not any("Bands" in text for text in texts(bare))


def test_a_missing_checkpoint_is_a_gap_and_named_in_the_caption():
    cells, checkpoints = study()
    cells = cells[~((cells["parameters"] == SIZES[1]) & (cells["step"] == 16000))]
    figure = figure_of(cells, checkpoints)
    (line,) = lines(figure.axes[0], "1.4B")
    assert list(np.isnan(line.get_ydata())) == [False, True, False, False]
    assert "11 of 12 checkpoints; missing: toy 1.4B at step 16000." in " ".join(texts(figure))
    for row in checkpoints[-2:]:
        row["known_bad"] = "its weights are those of another step"
    figure = figure_of(cells[~cells["ckpt"].isin([checkpoints[-1]["ckpt"]])], checkpoints)
    said = " ".join(texts(figure))
    assert f"; excluded: toy 12B at step {STEPS[-1]}; missing: toy 1.4B at step 16000." in said


def test_a_cell_between_gaps_has_a_bar_for_its_band():
    cells, checkpoints = study(sizes=SIZES[:1])
    (axes,) = figure_of(cells[cells["step"] == 16000], checkpoints).axes
    ((bar,),) = [paths.get_segments() for paths in axes.collections[1:]]
    value = cells.set_index("step").loc[16000, "value"]
    assert bar[:, 0] == pytest.approx([16000 * PER_STEP] * 2)
    assert bar[:, 1] == pytest.approx([value - 0.0196, value + 0.0196])
    full = figure_of(cells, checkpoints).axes[0]
    assert len(full.collections) == 1


def test_without_the_table_a_run_lacks_what_most_of_its_family_has():
    cells, checkpoints = study()
    gap = cells[~((cells["parameters"] == SIZES[1]) & (cells["step"] == 16000))]
    extra = study(sizes=SIZES[:1], steps=(32000,))[0]  # a step that one run alone has
    figure = accuracy_figure(
        pd.concat([gap, extra]), TASKS, ["memo-trap/p/accuracy"], expected=len(checkpoints) + 1
    )
    known = {label: lines(figure.axes[0], label)[0] for label in ("70M", "1.4B", "12B")}
    assert [len(line.get_xdata()) for line in known.values()] == [5, 4, 4]
    assert np.isnan(known["1.4B"].get_ydata()).sum() == 1
    assert not np.isnan(known["12B"].get_ydata()).any()


def test_an_outcome_with_fewer_cells_is_counted_and_an_empty_one_says_so():
    outcomes = ("memo-trap/p/accuracy", "free/p/accuracy", "truthfulqa/p/mc1")
    cells, checkpoints = study(outcomes)
    cells = cells[(cells["task"] != "free") | (cells["step"] > 2000)]
    cells = cells[cells["task"] != "truthfulqa"]
    figure = figure_of(cells, checkpoints, outcomes)
    caption = " ".join(texts(figure))
    assert "12 of 12 checkpoints. Fewer in Free 9, TruthfulQA (MC1) 0." in caption
    assert [text.get_text() for text in figure.axes[2].texts] == ["no cells"]


def test_several_seeds_are_a_mean_with_the_runs_behind_it():
    cells, checkpoints = study(seeds=(1, 2, 3))
    (axes,) = figure_of(cells, checkpoints).axes
    own = cells[cells["parameters"] == SIZES[2]]
    (mean,) = lines(axes, "12B")
    assert list(mean.get_ydata()) == pytest.approx(list(own.groupby("tokens")["value"].mean()))
    runs = lines(axes, "_run")
    assert len(runs) == 9
    assert {tuple(run.get_ydata()) for run in runs} == {
        tuple(rows["value"]) for _, rows in cells.groupby(["parameters", "seed"])
    }
    assert max(run.get_linewidth() for run in runs) < mean.get_linewidth()
    assert max(run.get_zorder() for run in runs) < mean.get_zorder()
    # The seeds share their items: the mean of three has no smaller item error than one run.
    assert axes.collections[0].get_paths()[0].vertices[:, 1].max() == pytest.approx(
        cells[cells["parameters"] == SIZES[0]].groupby("tokens")["value"].mean().max() + 0.0196
    )


def test_a_mean_needs_all_its_seeds():
    cells, checkpoints = study(seeds=(1, 2))
    cells = cells[
        ~((cells["parameters"] == SIZES[0]) & (cells["step"] == 2000) & (cells.seed == 2))
    ]
    figure = figure_of(cells, checkpoints)
    (mean,) = lines(figure.axes[0], "70M")
    assert list(np.isnan(mean.get_ydata())) == [True, False, False, False]
    assert "missing: toy 70M seed 2 at step 2000." in " ".join(texts(figure))


def test_families_have_markers_of_their_own():
    (one, rows), (two, more) = study(), study(family="other", sizes=SIZES[:1])
    figure = figure_of(pd.concat([one, two]), rows + more)
    markers = [line.get_marker() for line in lines(figure.axes[0], "70M")]
    assert len(set(markers)) == 2
    assert [text.get_text() for text in figure.legends[1].get_texts()] == ["other", "toy"]


def test_other_metrics_name_their_own_axes():
    outcomes = ("memo-trap/p/accuracy", "memo-trap/p/margin")
    figure = figure_of(*study(outcomes), outcomes)
    assert [axes.get_ylabel() for axes in figure.axes] == ["Accuracy", "Margin (log-odds)"]


def test_a_cell_given_twice_is_refused():
    cells, checkpoints = study()
    with pytest.raises(StudyError, match="memo-trap/p/accuracy"):
        figure_of(pd.concat([cells, cells.iloc[[3]]]), checkpoints)


@pytest.mark.parametrize("shape", [(12, 8), (6, 3), (1, 1)])
def test_no_text_lies_on_another_or_outside_the_page(shape):
    panels, models = shape
    outcomes = [f"t{number}/p/accuracy" for number in range(panels)]
    title = "Pattern Match Suppression of Some Length and More of It Still"
    tasks = [{"task": f"t{n}", "title": title, "chance": {"accuracy": 0.5}} for n in range(panels)]
    sizes = [int(70e6 * 2**rank) for rank in range(models)]
    figure = figure_of(
        *study(outcomes, sizes), outcomes, tasks, title="A title that goes on and on " * 6
    )
    figure.draw_without_rendering()
    written = [*figure.texts, *(text for legend in figure.legends for text in legend.get_texts())]
    for axes in figure.axes:
        written += [axes.title, axes._left_title, axes.yaxis.label]
        for axis in (axes.xaxis, axes.yaxis):
            low, high = axis.get_view_interval()
            written += [t.label1 for t in axis.get_major_ticks() if low <= t.get_loc() <= high]
    for text in written:
        assert not any(
            text.get_window_extent().overlaps(axes.bbox) for axes in figure.axes if text.get_text()
        ), text
    boxes = [(t.get_text(), t.get_window_extent()) for t in written if t.get_text()]
    page = figure.bbox
    for text, box in boxes:
        assert page.x0 <= box.x0, text
        assert box.x1 <= page.x1, text
        assert page.y0 <= box.y0, text
        assert box.y1 <= page.y1, text
    # Boxes may touch by a pixel: letters do not fill theirs.
    for number, (text, box) in enumerate(boxes):
        for other, its in boxes[number + 1 :]:
            assert not box.padded(-1).overlaps(its.padded(-1)), (text, other)


@pytest.mark.parametrize("kind", ["pdf", "svg", "png"])
def test_files_have_stable_bytes_and_no_date(kind, tmp_path):
    for name in ("one", "two"):
        save_figure(figure_of(*study()), tmp_path / f"{name}.{kind}")
    one = (tmp_path / f"one.{kind}").read_bytes()
    assert one == (tmp_path / f"two.{kind}").read_bytes()
    assert one[:4] == {"pdf": b"%PDF", "svg": b"<?xm", "png": b"\x89PNG"}[kind]
    assert not re.search(rb"CreationDate|<dc:date>|tIME", one)
    assert len(list(tmp_path.iterdir())) == 2


def test_fonts_are_embedded_as_truetype(tmp_path):
    save_figure(figure_of(*study()), tmp_path / "figure.pdf")
    content = (tmp_path / "figure.pdf").read_bytes()
    assert b"/FontFile2" in content
    assert b"/Type3" not in content


def test_settings_of_the_user_change_nothing_and_are_left_alone(tmp_path):
    save_figure(figure_of(*study()), tmp_path / "plain.png")
    with mpl.rc_context({"font.size": 30, "axes.facecolor": "red", "savefig.dpi": 20}):
        save_figure(figure_of(*study()), tmp_path / "styled.png")
        assert mpl.rcParams["font.size"] == 30
    assert (tmp_path / "plain.png").read_bytes() == (tmp_path / "styled.png").read_bytes()


@pytest.mark.parametrize("count", [1, 3, 8])
def test_colours_are_ordered_by_lightness_and_dark_enough_for_white(count):
    weights = np.array([0.2126, 0.7152, 0.0722])
    lightness = [float(weights @ (np.array(to_rgb(c)) ** 2.2)) for c in palette(count)]
    assert lightness == sorted(lightness, reverse=True)
    assert max(lightness) < 0.7
    assert len(set(palette(count))) == count


@pytest.mark.parametrize(
    ("numbers", "labels"),
    [
        ([70e6, 160e6, 410e6, 1e9, 1.4e9, 12e9], ["70M", "160M", "410M", "1B", "1.4B", "12B"]),
        ([25_344, 101_632, 999_999], ["25k", "102k", "1M"]),
        ([25_344, 25_412], ["25.3k", "25.4k"]),
        ([1_011_781_632, 512, 2e12, 1], ["1B", "512", "2T", "1"]),
    ],
)
def test_numbers_as_people_say_them(numbers, labels):
    assert short_numbers(numbers) == labels


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (4e9, 3.2e11, [1e10, 3e10, 1e11, 3e11]),
        (2e4, 6e6, [3e4, 1e5, 3e5, 1e6, 3e6]),
        (1e3, 1e9, [1e3, 1e5, 1e7, 1e9]),
        (4.0, 5.0, [4, 5]),
        (2e4, 5e4, [2e4, 3e4, 4e4, 5e4]),
    ],
)
def test_ticks_are_round_and_few(low, high, ticks):
    assert log_ticks(low, high) == pytest.approx(ticks)
