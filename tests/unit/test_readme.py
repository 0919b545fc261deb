"""Figures in the README are those that the code and the published data give."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from downslope.calibration import as_markdown, read_calibration
from downslope.effects import fit_effects
from downslope.published import import_published
from downslope.tables import read_table, read_yaml

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_calibration_table_is_the_shipped_one():
    assert as_markdown(read_calibration()).strip() in README


@pytest.mark.parametrize("method", ["ols", "cluster", "jackknife", "two-stage", "wild"])
def test_the_number_of_published_effects_that_survive(mirror, method):
    published = ROOT / "config/published"
    checkpoints = read_table(published / "checkpoints.tsv", "checkpoints")
    cells = import_published(mirror / "published/pythia_accuracies.tsv", checkpoints)
    families = read_yaml(published / "config.yaml")["families"]
    effects = fit_effects(cells, checkpoints, families, methods=[method])
    printed = re.search(rf"^\| `{method}` \|.*\| (\d+) \|$", README, re.MULTILINE)
    assert printed is not None
    assert (effects["q"] < 0.05).sum() == int(printed[1])
