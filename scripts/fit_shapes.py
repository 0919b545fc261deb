"""The shape of every outcome over parameters, tokens and training compute."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from downslope.families import all_families
from downslope.logs import log_to
from downslope.shapes import shapes
from downslope.tsv import read_tsv, write_tsv

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def main(
    cells: str,
    families: Mapping[str, Sequence[str]],
    level: float,
    better: Mapping[str, str],
    output: str,
    log: str,
) -> None:
    with log_to(log) as logger:
        table = read_tsv(cells)
        trends = shapes(table, all_families(families, table), level, better)
        write_tsv(trends, output)
        for (axis, shape), rows in trends.groupby(["axis", "shape"], sort=False):
            logger.info("%s: %d of %d %s", axis, len(rows), (trends["axis"] == axis).sum(), shape)
        for (axis, status), rows in trends[trends["status"] != "ok"].groupby(["axis", "status"]):
            logger.warning("%s, %d outcomes: %s", axis, len(rows), status)


if "snakemake" in globals():
    main(
        cells=snakemake.input.cells,
        families=snakemake.params.families,
        level=snakemake.params.level,
        better=snakemake.params.better,
        output=snakemake.output[0],
        log=snakemake.log[0],
    )
