"""What `bench_rounding.py` compares, and its arithmetic; a tiny model moves."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import bench_rounding
from downslope.bench import rounding
from downslope.bench.rounding import Moved, Way, moved, ways
from downslope.bench.sets import BenchSet
from downslope.items import Item
from tiny_study import make_model

QUIZ = BenchSet("quiz", [Item(k, f"{k} of 9:", ("yes", "no"), (0,), mc1=(0, 1)) for k in range(9)])


def test_ways_begin_with_the_reference_and_end_with_the_gpu() -> None:
    names = [way.name for way in ways(2048, gpu=True)]
    assert names == [
        "float32 on a CPU, packs of 2,048",
        "float32 on a CPU, packs of 1,024",
        "float32 on a CPU, one request at a time",
        "float16 on a CPU, packs of 2,048",
        "bfloat16 on a CPU, packs of 2,048",
        "float32 on a GPU, packs of 2,048",
        "float16 on a GPU, packs of 2,048",
        "bfloat16 on a GPU, packs of 2,048",
    ]
    assert [way.name for way in ways(2048, gpu=False)] == names[:5]


def test_what_moved_by_hand() -> None:
    reference = {(0, 0): -1.0, (0, 1): -2.0, (1, 0): -3.0, (1, 1): -3.5}
    found = {(0, 0): -1.5, (0, 1): -2.0, (1, 0): -3.75, (1, 1): -3.5}
    two = BenchSet("quiz", QUIZ.items[:2])
    way = Way("float16", "cpu", 64)
    expected = Moved("float16 on a CPU, packs of 64", "quiz", 2, 0.75, 0.25, 1)
    assert rounding._compared(way, two, found, reference) == expected


def test_coarse_dtypes_move_more_than_layouts(tmp_path: Path) -> None:
    make_model(tmp_path / "model", seed=2)
    found = {row.way: row for row in moved(tmp_path / "model", [QUIZ])}
    assert list(found) == [way.name for way in ways(2048, gpu=False)[1:]]
    assert {(row.set, row.items) for row in found.values()} == {("quiz", 9)}
    layouts, half, brain = (
        [row for name, row in found.items() if name.startswith(f"{dtype} ")]
        for dtype in ("float32", "float16", "bfloat16")
    )
    for row in layouts:
        assert row.median <= row.largest < 1e-4
        assert row.differ == 0
    assert 1e-4 < half[0].median < brain[0].median <= brain[0].largest < 1.0


def test_the_script_prints_a_line_for_each_way(
    mirror: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make_model(tmp_path / "model", seed=2)
    monkeypatch.setenv("DOWNSLOPE_MIRROR", str(mirror))
    given = [str(tmp_path / "model"), "--sets", "memo-trap", "--items", "5"]
    monkeypatch.setattr(sys, "argv", ["bench_rounding.py", *given])
    bench_rounding.main()
    heading, *lines = capsys.readouterr().out.splitlines()
    assert heading.split() == ["set", "items", "largest", "median", "decided", "otherwise"]
    assert [line.partition("  ")[0] for line in lines] == [
        w.name for w in ways(2048, gpu=False)[1:]
    ]
    assert all(line.split("  ")[-1] == "0" for line in lines[:2])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["model", "--items", "0"], "--items: at least 1"),
        (["no/such/model"], "there is no folder no/such/model"),
    ],
)
def test_mistakes_are_said_before_anything_is_read(
    given: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["bench_rounding.py", *given])
    with pytest.raises(SystemExit):
        bench_rounding.main()
    assert said in capsys.readouterr().err
