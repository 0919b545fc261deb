"""Draw what each checkpoint lost and gained, and what the newest has lost, as pdf, svg and png."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from downslope.figure_drift import drift_figure
from downslope.figure_style import save_figure
from downslope.logs import log_to
from downslope.tsv import read_tsv

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def main(
    drift: str,
    tasks: Sequence[Mapping[str, Any]],
    outcomes: Sequence[str],
    better: Mapping[str, str],
    level: float,
    title: str,
    outputs: Sequence[str],
    log: str,
) -> None:
    with log_to(log):
        figure = drift_figure(read_tsv(drift), tasks, outcomes, better, level=level, title=title)
        for output in outputs:
            save_figure(figure, output)


if "snakemake" in globals():
    main(
        drift=snakemake.input.drift,
        tasks=snakemake.params.tasks,
        outcomes=snakemake.params.outcomes,
        better=snakemake.params.better,
        level=snakemake.params.level,
        title=snakemake.params.title,
        outputs=[snakemake.output[kind] for kind in ("pdf", "svg", "png")],
        log=snakemake.log[0],
    )
