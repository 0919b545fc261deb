"""Write one checkpoint's scores as lm-evaluation-harness output: results and samples."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from downslope.harness_export import export_harness
from downslope.logs import log_to
from downslope.store import read_scores

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def main(
    checkpoint: Mapping[str, Any],
    protocols: Mapping[str, Sequence[str]],
    items: Sequence[str],
    scores: Sequence[str],
    dtype: str,
    output: str,
    log: str,
) -> None:
    with log_to(log) as logger:
        tasks = {
            task: (pq.read_table(table).to_pandas(), read_scores(Path(own))[0].to_pandas(), names)
            for (task, names), table, own in zip(protocols.items(), items, scores, strict=True)
        }
        export_harness(Path(output), checkpoint, tasks, dtype)
        logger.info("wrote %d tasks of %s to %s", len(tasks), checkpoint["ckpt"], output)


if "snakemake" in globals():
    main(
        checkpoint=snakemake.params.checkpoint,
        protocols=snakemake.params.protocols,
        items=snakemake.input.item_tables,
        scores=snakemake.input.scores,
        dtype=snakemake.params.dtype,
        output=snakemake.output[0],
        log=snakemake.log[0],
    )
