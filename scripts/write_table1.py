"""Write Table 1 of the primary family as tsv, Markdown and LaTeX."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from downslope.files import atomic_write
from downslope.logs import log_to
from downslope.table1 import as_frame, as_latex, as_markdown, table1, version_notes
from downslope.tsv import read_tsv, write_tsv

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def main(
    effects: str,
    versions: Sequence[str],
    outcomes: Sequence[str],
    titles: Mapping[str, str],
    level: float,
    title: str,
    notes: Sequence[str],
    outputs: Mapping[str, str],
    log: str,
) -> None:
    with log_to(log):
        notes = [*notes, *version_notes([read_tsv(path) for path in versions])]
        table = table1(read_tsv(effects), outcomes, titles, level=level, title=title, notes=notes)
        write_tsv(as_frame(table), outputs["tsv"])
        for kind, text in (("md", as_markdown(table)), ("tex", as_latex(table))):
            with atomic_write(outputs[kind]) as temporary:
                temporary.write_text(text, encoding="utf-8", newline="\n")


if "snakemake" in globals():
    main(
        effects=snakemake.input.effects,
        versions=snakemake.input.versions,
        outcomes=snakemake.params.outcomes,
        titles=snakemake.params.titles,
        level=snakemake.params.level,
        title=snakemake.params.title,
        notes=snakemake.params.get("notes", []),
        outputs={kind: snakemake.output[kind] for kind in ("tsv", "md", "tex")},
        log=snakemake.log[0],
    )
