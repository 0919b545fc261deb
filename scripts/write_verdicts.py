"""Write the verdict table and its page from effects, shapes and the runs' own trends."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from downslope.calibration import level_notes, read_calibration
from downslope.files import atomic_write
from downslope.logs import log_to
from downslope.tsv import read_tsv, write_tsv
from downslope.verdict_page import as_markdown, design_notes
from downslope.verdicts import verdicts

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def main(
    effects: str,
    trends: str,
    run_trends: str,
    families: Mapping[str, Sequence[str]],
    titles: Mapping[str, str],
    causes: Mapping[str, str],
    better: Mapping[str, str],
    robust: str,
    level: float,
    title: str,
    checkpoints: Sequence[Mapping[str, Any]],
    outputs: Mapping[str, str],
    log: str,
) -> None:
    with log_to(log):
        table = verdicts(
            read_tsv(effects),
            read_tsv(trends),
            read_tsv(run_trends),
            families,
            titles,
            causes,
            better,
            robust=robust,
            level=level,
        )
        page = as_markdown(
            table,
            title=title,
            robust=robust,
            level=level,
            level_notes=level_notes(read_calibration()),
            notes=design_notes(checkpoints, int(table["n"].min())),
        )
        write_tsv(table, outputs["tsv"])
        with atomic_write(outputs["md"]) as temporary:
            Path(temporary).write_text(page, encoding="utf-8")


if "snakemake" in globals():
    main(
        effects=snakemake.input.effects,
        trends=snakemake.input.trends,
        run_trends=snakemake.input.run_trends,
        families=snakemake.params.families,
        titles=snakemake.params.titles,
        causes=snakemake.params.causes,
        better=snakemake.params.better,
        robust=snakemake.params.robust,
        level=snakemake.params.level,
        title=snakemake.params.title,
        checkpoints=snakemake.params.checkpoints,
        outputs={"tsv": snakemake.output.tsv, "md": snakemake.output.md},
        log=snakemake.log[0],
    )
