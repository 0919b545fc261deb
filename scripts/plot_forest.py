"""Draw the forest plot of effects by method as pdf, svg and png."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from downslope.figure_forest import forest_figure
from downslope.figure_style import save_figure
from downslope.logs import log_to
from downslope.tsv import read_tsv

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def main(
    effects: str,
    tasks: Sequence[Mapping[str, Any]],
    outcomes: Sequence[str],
    better: Mapping[str, str],
    robust: str,
    level: float,
    title: str,
    outputs: Sequence[str],
    log: str,
) -> None:
    with log_to(log):
        figure = forest_figure(
            read_tsv(effects), tasks, outcomes, better, robust=robust, level=level, title=title
        )
        for output in outputs:
            save_figure(figure, output)


if "snakemake" in globals():
    main(
        effects=snakemake.input.effects,
        tasks=snakemake.params.tasks,
        outcomes=snakemake.params.outcomes,
        better=snakemake.params.better,
        robust=snakemake.params.robust,
        level=snakemake.params.level,
        title=snakemake.params.title,
        outputs=[snakemake.output[kind] for kind in ("pdf", "svg", "png")],
        log=snakemake.log[0],
    )
