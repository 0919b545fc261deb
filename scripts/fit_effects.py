"""Fit every outcome on size and tokens by every method, and correct within families of tests."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from downslope.effects import fit_effects
from downslope.item_bootstrap import replicates_in
from downslope.logs import log_to
from downslope.tsv import read_tsv, write_tsv

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def main(
    cells: str,
    bootstrap: Sequence[str],
    families: Mapping[str, Sequence[str]],
    checkpoints: Sequence[Mapping[str, Any]],
    output: str,
    log: str,
) -> None:
    replicates = replicates_in({Path(path).stem: path for path in bootstrap})
    with log_to(log) as logger:
        effects = fit_effects(read_tsv(cells), checkpoints, families, replicates)
        write_tsv(effects, output)
        told = effects[effects["status"] != "ok"].groupby(["method", "status"], sort=False)
        for (method, status), rows in told:
            outcomes = rows.drop_duplicates(["task", "protocol", "metric"])
            first = "/".join(outcomes[["task", "protocol", "metric"]].iloc[0])
            more = f" and {len(outcomes) - 1} more" if len(outcomes) > 1 else ""
            logger.warning("%s, %s%s: %s", method, first, more, status)
        logger.info(
            "wrote %d rows for the families %s", len(effects), ", ".join(effects["tests"].unique())
        )


if "snakemake" in globals():
    main(
        cells=snakemake.input.cells,
        bootstrap=snakemake.input.bootstrap,
        families=snakemake.params.families,
        checkpoints=snakemake.params.checkpoints,
        output=snakemake.output[0],
        log=snakemake.log[0],
    )
