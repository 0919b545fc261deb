"""Which versions of torch and transformers a task's scores were made with.

They are no part of a score's identity: an update scores nothing again. Last digits may differ
between them, so that a reader wants to know where they were mixed.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from downslope.aggregate import Wanted
from downslope.store import read_facts

PACKAGES = ("torch", "transformers")


def versions_of(paths: Iterable[str | Path], wanted: Wanted) -> pd.DataFrame:
    """ckpt and a column for each of PACKAGES, from score files of the wanted identities.

    Empty where a file does not say it. Raises StudyError for a file that is no score table.
    """
    rows = []
    for path in map(Path, paths):
        facts, ckpt = read_facts(path), path.parent.name
        if facts and ckpt in wanted and facts["identity"] == wanted[ckpt][0]:
            job = facts.get("job", {})
            rows.append((ckpt, *(job.get(name, "") for name in PACKAGES)))
    return pd.DataFrame(sorted(rows), columns=["ckpt", *PACKAGES])
