"""What tests of figures share: names for any number of outcomes, and what a figure shows."""

from __future__ import annotations

import numpy as np
from matplotlib.colors import to_hex

from downslope.metrics import METRICS

BETTER = {name: metric.better for name, metric in METRICS.items()}


def outcomes_and_tasks(count, title="Task {}", metric="accuracy", chance=0.5):
    """Outcomes `t0/p/accuracy`, ... and their rows of tasks.tsv."""
    tasks = [
        {"task": f"t{n}", "title": title.format(n), "chance": {metric: chance} if chance else {}}
        for n in range(count)
    ]
    return [f"t{n}/p/{metric}" for n in range(count)], tasks


def lines(axes, label):
    """The lines of `axes` with this label."""
    return [line for line in axes.lines if line.get_label() == label]


def ends(axes, label):
    """The segments of a set of lines, as an array (segments, points, 2)."""
    (found,) = [c for c in axes.collections if c.get_label() == label]
    return np.array(found.get_segments())


def points(axes, label):
    """(x, y) of the markers with this label, from all lines that have it."""
    found = [line.get_xydata() for line in lines(axes, label)]
    return np.concatenate(found) if found else np.zeros((0, 2))


def is_filled(line):
    return to_hex(line.get_markerfacecolor()) != "#ffffff"


def words(figure):
    """All that stands on the page, as one text: what stands beside axes too."""
    return " ".join(text.get_text() for text in written(figure))


def written(figure):
    """Every text that is seen, ticks only within their axis."""
    found = [*figure.texts, *(text for legend in figure.legends for text in legend.get_texts())]
    for axes in figure.axes:
        found += [*axes.texts, axes.title, axes._left_title]
        if not axes.axison:
            continue
        found += [axes.xaxis.label, axes.yaxis.label]
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            ticks = [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
            found += [label for tick in ticks for label in (tick.label1, tick.label2)]
    return [text for text in found if text.get_text().strip() and text.get_visible()]


def assert_text_is_apart(figure):
    """No text on another or beyond the page, and none of the page's own on any axes."""
    figure.draw_without_rendering()
    texts = written(figure)
    boxes = np.array([text.get_window_extent().extents for text in texts])
    page = np.array(figure.bbox.extents)
    said = [text.get_text() for text in texts]
    for text, box in zip(said, boxes, strict=True):
        assert (box[:2] >= page[:2] - 1).all(), f"{text!r} begins beyond the page"
        assert (box[2:] <= page[2:] + 1).all(), f"{text!r} ends beyond the page"
    # Boxes may touch by a pixel: letters do not fill theirs.
    low, high = boxes[:, :2] + 1, boxes[:, 2:] - 1
    apart = (low[:, None] >= high[None]).any(axis=2) | (high[:, None] <= low[None]).any(axis=2)
    np.fill_diagonal(apart, True)
    for one, other in np.argwhere(~apart)[:3]:
        raise AssertionError(f"{said[one]!r} lies on {said[other]!r}")
    for axes in figure.axes:
        left, bottom, right, top = axes.bbox.extents
        for text in figure.texts:
            box = text.get_window_extent()
            beside = box.x1 <= left + 1 or box.x0 >= right - 1
            assert beside or box.y1 <= bottom + 1 or box.y0 >= top - 1, text.get_text()
