"""Count by simulation how often each method rejects on this study's own runs and checkpoints."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from downslope.calibration import as_markdown, default_method, read_calibration
from downslope.files import atomic_write
from downslope.logs import log_to
from downslope.rejection_rates import calibrate
from downslope.simulation import grid_of
from downslope.tsv import write_tsv

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def main(checkpoints: Sequence[Mapping[str, Any]], outputs: Mapping[str, str], log: str) -> None:
    with log_to(log) as logger:
        table = calibrate(grid_of(checkpoints))
        write_tsv(table, outputs["tsv"])
        # From the written table, so that both round alike.
        page = as_markdown(read_calibration(outputs["tsv"]))
        with atomic_write(outputs["md"]) as temporary:
            Path(temporary).write_text(page, encoding="utf-8")
        logger.info("of the robust methods, the table favours %s", default_method(table))


if "snakemake" in globals():
    main(
        checkpoints=snakemake.params.checkpoints,
        outputs={"tsv": snakemake.output.tsv, "md": snakemake.output.md},
        log=snakemake.log[0],
    )
