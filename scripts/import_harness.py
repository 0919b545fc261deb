"""Turn the output of lm-evaluation-harness into the cells and item values of a study."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from downslope.harness_cells import cells_frame, gather, read_results
from downslope.harness_items import import_task
from downslope.harness_metrics import MetricNames
from downslope.item_values import write_item_values
from downslope.logs import log_to
from downslope.tsv import write_tsv

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def main(
    harness: Mapping[str, Any],
    checkpoints: Sequence[Mapping[str, Any]],
    tasks: Sequence[str],
    cells: str,
    item_values: Sequence[str],
    log: str,
) -> None:
    with log_to(log) as logger:
        names = MetricNames(harness.get("metrics", {}), "config/config.yaml, harness.metrics")
        found = gather(read_results(harness), harness, checkpoints, tasks, names)
        rows = []
        for task, path in zip(tasks, item_values, strict=True):
            own, values = import_task(task, found[task], names)
            rows += own
            write_item_values(path, values)
            logger.info("%s: %d cells, %d metrics with items", task, len(own), len(values))
        write_tsv(cells_frame(rows, checkpoints, tasks, names), cells)


if "snakemake" in globals():
    main(
        harness=snakemake.params.harness,
        checkpoints=snakemake.params.checkpoints,
        tasks=snakemake.params.tasks,
        cells=snakemake.output.cells,
        item_values=snakemake.output.item_values,
        log=snakemake.log[0],
    )
