"""Cells and item values of one task: every metric of every checkpoint with scores."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from downslope.aggregate import (
    of_wanted,
    published_scores,
    stored_scores,
    task_cells,
    wanted_identities,
)
from downslope.item_values import write_item_values
from downslope.logs import log_to
from downslope.tsv import write_tsv
from downslope.versions import versions_of

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def main(
    task: str,
    checkpoints: Sequence[Mapping[str, Any]],
    locked: Mapping[str, str],
    scores: Sequence[str] | None,
    stored: Sequence[str] | None,
    items: str,
    plans: Sequence[str],
    protocols: Sequence[str],
    dtype: str,
    scoring: str,
    output_cells: str,
    output_items: str,
    output_versions: str,
    log: str,
) -> None:
    with log_to(log) as logger:
        wanted = wanted_identities(checkpoints, locked, plans, dtype=dtype, modules=scoring)
        if scores is not None:
            found = published_scores(scores, wanted)
        else:
            found = stored_scores(stored or [], wanted)
        cells, values = task_cells(task, Path(items), found, checkpoints, protocols)
        write_tsv(cells, output_cells)
        write_item_values(output_items, values)
        paths = of_wanted(stored or [], wanted) if scores is None else scores
        write_tsv(versions_of(paths, wanted), output_versions)
        logger.info("%s: %d of %d checkpoints", task, len(found), len(checkpoints))


if "snakemake" in globals():
    main(
        task=snakemake.wildcards.task,
        checkpoints=snakemake.params.checkpoints,
        locked=snakemake.params.locked,
        scores=snakemake.input.get("scores"),
        stored=snakemake.params.stored,
        items=snakemake.input.item_table,
        plans=snakemake.input.plans,
        protocols=snakemake.params.protocols,
        dtype=snakemake.params.dtype,
        scoring=snakemake.params.scoring,
        output_cells=snakemake.output.cells,
        output_items=snakemake.output.item_values,
        output_versions=snakemake.output.versions,
        log=snakemake.log[0],
    )
