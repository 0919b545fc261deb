"""Record what lies in a local checkpoint folder: files, sizes, digests."""

from pathlib import Path
from typing import TYPE_CHECKING

from downslope.logs import log_to
from downslope.tables import read_table
from downslope.tsv import write_tsv
from downslope.weights import fingerprint, require_distinct

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def main(ckpt: str, folder: str, output: str, log: str) -> None:
    with log_to(log) as logger:
        files = fingerprint(Path(folder))
        # First, so that of two that are looked through at the same time one sees the other.
        write_tsv(files, output)
        # Read here, not passed: another row is no reason to look through this folder again.
        rows = read_table(Path("config/checkpoints.tsv"), "checkpoints")
        require_distinct(ckpt, files, rows, Path(output).parent)
        logger.info("%d files in %s", len(files), folder)


if "snakemake" in globals():
    main(
        ckpt=snakemake.wildcards.ckpt,
        folder=snakemake.params.folder,
        output=snakemake.output[0],
        log=snakemake.log[0],
    )
