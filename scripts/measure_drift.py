"""Compare every checkpoint with the one before and the best so far, on the same items."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from downslope.drift import drift, flipped
from downslope.item_values import read_item_values
from downslope.logs import log_to
from downslope.outcomes import Outcome
from downslope.tsv import read_tsv, write_tsv

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def main(
    cells: str,
    item_values: Sequence[str],
    families: Mapping[str, Sequence[str]],
    level: float,
    better: Mapping[str, str],
    outputs: Mapping[str, str],
    log: str,
) -> None:
    paths = {Path(path).name.removesuffix(".parquet"): path for path in item_values}

    def values_of(outcome: Outcome) -> pd.DataFrame:
        if outcome.task not in paths:
            return pd.DataFrame()
        return read_item_values(paths[outcome.task], outcome.protocol, outcome.metric)

    with log_to(log) as logger:
        table = drift(read_tsv(cells), values_of, families, level, better)
        write_tsv(table, outputs["drift"])
        items = flipped(table, values_of, better)
        write_tsv(items, outputs["flipped"])
        for status, count in table["status"].value_counts().items():
            if status != "ok":
                logger.warning("%d comparisons: %s", count, status)
        logger.info("%d comparisons, %d items flipped in the newest", len(table), len(items))


if "snakemake" in globals():
    main(
        cells=snakemake.input.cells,
        item_values=snakemake.input.item_values,
        families=snakemake.params.families,
        level=snakemake.params.level,
        better=snakemake.params.better,
        outputs={"drift": snakemake.output.drift, "flipped": snakemake.output.flipped},
        log=snakemake.log[0],
    )
