"""Choose the checkpoints that tell most about the interaction of size and training for a budget."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from downslope.budget_page import choice_page
from downslope.budget_table import best_choice, offer, precision_table
from downslope.checkpoint_costs import Budget, checkpoint_costs
from downslope.files import atomic_write
from downslope.logs import log_to
from downslope.tables import read_table
from downslope.tsv import write_tsv

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

_COLUMNS = (
    *("ckpt", "family", "parameters", "step", "tokens", "seed"),
    *("source", "revision", "tokenizer", "known_bad"),
)


def main(
    checkpoints: Sequence[Mapping[str, Any]],
    budget: Mapping[str, Any],
    locked_bytes: Mapping[str, int],
    costs: str | None,
    outputs: Mapping[str, str],
    log: str,
) -> None:
    with log_to(log) as logger:
        limits = Budget.from_config(budget)
        measured = read_table(Path(costs), "costs") if costs else []
        prices = checkpoint_costs(checkpoints, limits.gpu_hours_per_billion, locked_bytes, measured)
        given = offer(checkpoints, prices, limits)
        choice = best_choice(given)
        table = precision_table(given, choice)
        write_tsv(given.rows.loc[choice.chosen, list(_COLUMNS)], outputs["checkpoints"])
        write_tsv(table, outputs["precision"])
        with atomic_write(outputs["page"]) as temporary:
            page = choice_page(checkpoints, given, choice, table)
            temporary.write_text(page, encoding="utf-8")
        logger.info("chose %d of %d checkpoints", choice.chosen.sum(), len(given.rows))


if "snakemake" in globals():
    main(
        checkpoints=snakemake.params.checkpoints,
        budget=snakemake.params.budget,
        locked_bytes=snakemake.params.locked_bytes,
        costs=snakemake.input.get("costs"),
        outputs={
            "checkpoints": snakemake.output.checkpoints,
            "precision": snakemake.output.precision,
            "page": snakemake.output.page,
        },
        log=snakemake.log[0],
    )
