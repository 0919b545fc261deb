"""Fetch one checkpoint's locked files from the hub, under the machine's disk budget."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from downslope.fetching import fetch_checkpoint
from downslope.lock import read_lock
from downslope.logs import log_to
from downslope.study import load_study

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def main(ckpt: str, lock: str, config: Mapping[str, Any], run: str, log: str) -> None:
    with log_to(log):
        study = load_study(Path(), config)
        fetch_checkpoint(ckpt, study, read_lock(Path(lock)), run)


if "snakemake" in globals():
    main(
        ckpt=snakemake.wildcards.ckpt,
        lock=snakemake.params.lock,
        config=snakemake.config,
        run=os.environ.get("DOWNSLOPE_RUN", ""),
        log=snakemake.log[0],
    )
