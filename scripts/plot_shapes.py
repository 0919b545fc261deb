"""Draw the shapes over one axis, with the cells that they were found in, as pdf, svg and png."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from downslope.figure_shapes import shapes_figure
from downslope.figure_style import save_figure
from downslope.logs import log_to
from downslope.tsv import read_tsv

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def main(
    trends: str,
    cells: str,
    tasks: Sequence[Mapping[str, Any]],
    outcomes: Sequence[str],
    better: Mapping[str, str],
    axis: str,
    title: str,
    outputs: Sequence[str],
    log: str,
) -> None:
    with log_to(log):
        figure = shapes_figure(
            read_tsv(trends), read_tsv(cells), tasks, outcomes, better, axis=axis, title=title
        )
        for output in outputs:
            save_figure(figure, output)


if "snakemake" in globals():
    main(
        trends=snakemake.input.trends,
        cells=snakemake.input.cells,
        tasks=snakemake.params.tasks,
        outcomes=snakemake.params.outcomes,
        better=snakemake.params.better,
        axis=snakemake.params.axis,
        title=snakemake.params.title,
        outputs=[snakemake.output[kind] for kind in ("pdf", "svg", "png")],
        log=snakemake.log[0],
    )
