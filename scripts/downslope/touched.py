"""A guard against old numbers under new dates.

After `snakemake --touch`, or in a copy of a study without Snakemake's records, every file looks
up to date whatever it was computed from. Published scores say themselves what they were computed
from; where that is no longer what the study wants, and Snakemake does not know it, nothing may be
shown as if it were current.
"""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from downslope.errors import StudyError
from downslope.store import read_facts

_SAMPLE = 16
"""Files that are looked at. One is enough for an edit of code or config, which concerns all; where
a run that made them anew was cut off, those that it had not come to lie anywhere among them."""

_GOLDEN = 0.6180339887498949
"""Multiples of it, without their integers, are spread evenly however many there are."""


def refuse_touched(scores: Iterable[Path], *, dtype: str, modules: str, records: Path) -> None:
    """Raise StudyError where a published score is stale and Snakemake takes it for current.

    `dtype` and `modules` are the parts of the identity that hold for the whole study; `records`
    is Snakemake's metadata folder. A stale file whose record names other parameters than these is
    none of our business: Snakemake will make it again.
    """
    numbered = enumerate(scores)
    spread = [path for _, path in sorted(numbered, key=lambda pair: pair[0] * _GOLDEN % 1)]
    existing = (path for path in spread if path.is_file())
    for path in itertools.islice(existing, _SAMPLE):
        facts = read_facts(path)
        parts = facts["parts"] if facts else {}
        changed = [k for k, now in (("dtype", dtype), ("modules", modules)) if parts.get(k) != now]
        if changed and _taken_for_current(path, records, dtype, modules):
            raise StudyError(
                f"was computed from other {' and other '.join(changed)} than this study has now, "
                "and its date hides that (was it touched, or copied without .snakemake?)",
                where=str(path),
                remedy="Delete results/scores and run once with `-R score`: the store keeps what "
                "still holds, and everything after it is made anew.",
            )


def lost_scores(ckpts: Sequence[str], tasks: Iterable[str]) -> list[str]:
    """Score files that are missing although cells of their task exist.

    Snakemake does not miss a file while what was made from it looks current, so that old cells
    would outlive a deleted score: where a target names these files, they are published again and
    the cells with them.
    """
    joined = Path("results/cells.tsv").is_file()
    made = [task for task in tasks if joined or Path(f"resources/cells/{task}.tsv").is_file()]
    scores = [f"results/scores/{ckpt}/{task}.parquet" for ckpt in ckpts for task in made]
    return [score for score in scores if not Path(score).is_file()]


def _taken_for_current(path: Path, records: Path, dtype: str, modules: str) -> bool:
    """Whether Snakemake has no record of a file, or one with today's parameters."""
    name = base64.urlsafe_b64encode(str(path).encode()).decode()
    if len(name) > 250:
        return False  # such records lie elsewhere; the cells rule will look at the file itself
    record = records / name
    if not record.is_file():
        return True
    params = json.loads(record.read_text(encoding="utf-8")).get("params") or []
    return repr(dtype) in params and repr(modules) in params
