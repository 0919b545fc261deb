"""Draw the heat map of checkpoints x tasks as pdf, svg and png."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from downslope.figure_heatmap import heatmap_figure
from downslope.figure_style import save_figure
from downslope.logs import log_to
from downslope.tsv import read_tsv

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def main(
    cells: str,
    tasks: Sequence[Mapping[str, Any]],
    outcomes: Sequence[str],
    better: Mapping[str, str],
    expected: int,
    checkpoints: Sequence[Mapping[str, Any]] | None,
    title: str,
    outputs: Sequence[str],
    log: str,
) -> None:
    with log_to(log):
        figure = heatmap_figure(
            read_tsv(cells),
            tasks,
            outcomes,
            better,
            expected=expected,
            title=title,
            checkpoints=checkpoints,
        )
        for output in outputs:
            save_figure(figure, output)


if "snakemake" in globals():
    main(
        cells=snakemake.input.cells,
        tasks=snakemake.params.tasks,
        outcomes=snakemake.params.outcomes,
        better=snakemake.params.better,
        expected=snakemake.params.expected,
        checkpoints=snakemake.params.get("checkpoints"),
        title=snakemake.params.title,
        outputs=[snakemake.output[kind] for kind in ("pdf", "svg", "png")],
        log=snakemake.log[0],
    )
