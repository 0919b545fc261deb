"""Each run's own trend over training, corrected over runs x outcomes within each family."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from downslope.families import all_families
from downslope.item_bootstrap import replicates_in
from downslope.logs import log_to
from downslope.run_trends import QUESTION, run_trends
from downslope.tsv import read_tsv, write_tsv

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def main(
    cells: str,
    bootstrap: Sequence[str],
    families: Mapping[str, Sequence[str]],
    output: str,
    log: str,
) -> None:
    with log_to(log) as logger:
        replicates = replicates_in({Path(path).stem: path for path in bootstrap})
        table = read_tsv(cells)
        trends = run_trends(table, all_families(families, table), replicates)
        write_tsv(trends, output)
        for status, rows in trends.groupby("status", sort=False):
            logger.info("%d of %d trends: %s", len(rows), len(trends), status)
        logger.info("errors are those of %s", QUESTION)


if "snakemake" in globals():
    main(
        cells=snakemake.input.cells,
        bootstrap=snakemake.input.bootstrap,
        families=snakemake.params.families,
        output=snakemake.output[0],
        log=snakemake.log[0],
    )
