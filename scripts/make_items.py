"""Parse a published data set into the canonical item table of a task."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from downslope.items import parse_items, protocol_notes, write_items
from downslope.logs import log_to
from downslope.pinned import require_pinned
from downslope.protocols import PROTOCOLS

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def main(
    data: str,
    sha256: str,
    form: str,
    expected: int,
    protocols: Sequence[str],
    output: str,
    log: str,
) -> None:
    with log_to(log) as logger:
        require_pinned(Path(data), sha256)
        items, notes = parse_items(Path(data), form, expected)
        for name in protocols:
            notes += protocol_notes(items, PROTOCOLS[name])
        for note in notes:
            logger.info("%s", note)
        write_items(items, Path(output))
        logger.info("%d items from %s", len(items), data)


if "snakemake" in globals():
    main(
        data=snakemake.input[0],
        form=snakemake.params.form,
        sha256=snakemake.params.sha256,
        expected=snakemake.params.expected,
        protocols=snakemake.params.protocols,
        output=snakemake.output[0],
        log=snakemake.log[0],
    )
