"""Draw each run's own slope over training against its size, as pdf, svg and png."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from downslope.figure_slopes import slopes_figure
from downslope.figure_style import save_figure
from downslope.logs import log_to
from downslope.tsv import read_tsv

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def main(
    run_trends: str,
    tasks: Sequence[Mapping[str, Any]],
    outcomes: Sequence[str],
    better: Mapping[str, str],
    level: float,
    title: str,
    outputs: Sequence[str],
    log: str,
) -> None:
    with log_to(log):
        figure = slopes_figure(
            read_tsv(run_trends), tasks, outcomes, better, level=level, title=title
        )
        for output in outputs:
            save_figure(figure, output)


if "snakemake" in globals():
    main(
        run_trends=snakemake.input.run_trends,
        tasks=snakemake.params.tasks,
        outcomes=snakemake.params.outcomes,
        better=snakemake.params.better,
        level=snakemake.params.level,
        title=snakemake.params.title,
        outputs=[snakemake.output[kind] for kind in ("pdf", "svg", "png")],
        log=snakemake.log[0],
    )
