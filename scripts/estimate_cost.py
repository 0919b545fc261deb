"""Print what the study costs: GPU hours, download and disk, from what lies in its folder now."""

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from downslope.cost import study_cost
from downslope.cost_left import current_weights
from downslope.cost_page import cost_page
from downslope.files import atomic_write
from downslope.identity import PACKAGE
from downslope.locked import Lock, local_files
from downslope.logs import log_to
from downslope.study import load_study
from downslope.tables import read_table
from downslope.tsv import write_tsv

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def main(config: Mapping[str, Any], lock: str, costs: str, table: str, page: str, log: str) -> None:
    """The study is read here, not passed by the rule, which runs whenever it is asked for."""
    with log_to(log) as logger:
        # Relative, as the config's own paths are: a job runs in the study's folder.
        study = load_study(Path(), config)
        folders = {row.ckpt: map(Path, local_files(row)) for row in study.usable if not row.is_hub}
        locked = Lock(study, Path(lock), tell=logger.warning)
        cost = study_cost(
            study,
            locked_bytes=locked.sizes(),
            weights=current_weights(study, locked, logger.info),
            local_bytes={
                ckpt: sum(path.stat().st_size for path in paths if path.is_file())
                for ckpt, paths in folders.items()
            },
            measured=read_table(Path(costs), "costs") if Path(costs).is_file() else [],
            mirror=os.environ.get("DOWNSLOPE_MIRROR") or None,
            tell=logger.info,
        )
        text = cost_page(cost, place_of(Path.cwd()))
        write_tsv(cost.table, table)
        with atomic_write(page) as temporary:
            temporary.write_text(text, encoding="utf-8")
        print(text, flush=True)


def place_of(folder: Path) -> str:
    """A study's folder as a command that is typed in the repository names it; empty for that."""
    root = PACKAGE.parents[1]
    if folder == root:
        return ""
    return shlex.quote(str(folder.relative_to(root) if folder.is_relative_to(root) else folder))


if "snakemake" in globals():
    main(
        config=snakemake.config,
        lock=snakemake.params.lock,
        costs=snakemake.params.costs,
        table=snakemake.params.table,
        page=snakemake.params.page,
        log=snakemake.log[0],
    )
