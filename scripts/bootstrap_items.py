"""Resample the items of one task: every cell of every checkpoint on the same drawn items."""

from typing import TYPE_CHECKING

from downslope.item_bootstrap import REPLICATES, bootstrap_items
from downslope.logs import log_to

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def main(task: str, item_values: str, output: str, log: str) -> None:
    with log_to(log) as logger:
        outcomes = bootstrap_items(item_values, output, task)
        if outcomes:
            logger.info("%s: %d outcomes, %d draws of the items", task, outcomes, REPLICATES)
        else:
            logger.warning("%s: no item-level scores, nothing to resample", task)


if "snakemake" in globals():
    main(
        task=snakemake.wildcards.task,
        item_values=snakemake.input.item_values,
        output=snakemake.output[0],
        log=snakemake.log[0],
    )
