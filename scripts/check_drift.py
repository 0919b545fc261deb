"""Fail where the newest checkpoint of a run has lost more than the config allows."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from downslope.drift_gate import check
from downslope.files import atomic_write
from downslope.logs import log_to
from downslope.tsv import read_tsv

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def main(
    drift: str,
    flipped: str,
    allowed_loss: float,
    level: float,
    better: Mapping[str, str],
    checkpoints: Sequence[Mapping[str, Any]],
    output: str,
    log: str,
) -> None:
    with log_to(log) as logger:
        text = check(read_tsv(drift), allowed_loss, level, flipped, better, checkpoints)
        with atomic_write(output) as temporary:
            Path(temporary).write_text(text, encoding="utf-8")
        logger.info("%s", text)


if "snakemake" in globals():
    main(
        drift=snakemake.input.drift,
        flipped=snakemake.input.flipped,
        allowed_loss=snakemake.params.allowed_loss,
        level=snakemake.params.level,
        better=snakemake.params.better,
        checkpoints=snakemake.params.checkpoints,
        output=snakemake.output[0],
        log=snakemake.log[0],
    )
