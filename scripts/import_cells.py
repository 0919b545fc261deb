"""Turn the published accuracies into the cells of a study; they come without items."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from downslope.item_values import write_item_values
from downslope.logs import log_to
from downslope.published import import_published
from downslope.tsv import write_tsv

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def main(
    published: str,
    checkpoints: Sequence[Mapping[str, Any]],
    output_cells: str,
    output_items: Sequence[str],
    log: str,
) -> None:
    with log_to(log):
        write_tsv(import_published(published, checkpoints), output_cells)
        for path in output_items:
            write_item_values(path, {})


if "snakemake" in globals():
    main(
        published=snakemake.input.published,
        checkpoints=snakemake.params.checkpoints,
        output_cells=snakemake.output.cells,
        output_items=snakemake.output.item_values,
        log=snakemake.log[0],
    )
