"""List a tokenizer's plans with their digests: the one file that scoring jobs depend on."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from downslope.logs import log_to
from downslope.plan_list import list_plans

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def main(plans: Sequence[str], output: str, log: str) -> None:
    with log_to(log):
        list_plans([Path(plan) for plan in plans], Path(output))


if "snakemake" in globals():
    main(
        plans=snakemake.input,
        output=snakemake.output[0],
        log=snakemake.log[0],
    )
