"""Say for every checkpoint and task whether it is scored, missing or excluded, and why."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from downslope.coverage import coverage
from downslope.harness_metrics import MetricNames
from downslope.logs import log_to
from downslope.tsv import read_tsv, write_tsv

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def main(
    cells: str,
    checkpoints: Sequence[Mapping[str, Any]],
    tasks: Sequence[Mapping[str, Any]],
    failures: Sequence[tuple[str, str, str]],
    absent: str,
    metrics: Mapping[str, Any],
    outputs: Mapping[str, str],
    log: str,
) -> None:
    with log_to(log) as logger:
        frame = read_tsv(cells)
        scored = set(zip(frame["ckpt"], frame["task"], strict=True))
        reasons = {(ckpt, task): reason for ckpt, task, reason in failures}
        table = coverage(pd.DataFrame(checkpoints), pd.DataFrame(tasks), scored, reasons, absent)
        write_tsv(table, outputs["coverage"])
        write_tsv(MetricNames(metrics, "harness.metrics").catalogue(), outputs["metrics"])
        for state, count in table["state"].value_counts().items():
            logger.info("%d cells of checkpoint and task are %s", count, state)


if "snakemake" in globals():
    main(
        cells=snakemake.input.cells,
        checkpoints=snakemake.params.checkpoints,
        tasks=snakemake.params.tasks,
        failures=snakemake.params.failures,
        absent=snakemake.params.absent,
        metrics=snakemake.params.metrics,
        outputs={"coverage": snakemake.output.coverage, "metrics": snakemake.output.metrics},
        log=snakemake.log[0],
    )
