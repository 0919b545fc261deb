"""Score one checkpoint on all tasks: what the store lacks is computed, then all is published."""

import csv
import gc
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

# Until the model is loaded there is next to no garbage, and looking for it takes its time.
gc.disable()
# Scoring has its files at hand; nothing may be fetched and no token is needed.
os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
for _name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
    os.environ.pop(_name, None)
from downslope.identity import model_digest, score_identity  # noqa: E402
from downslope.logs import log_to  # noqa: E402
from downslope.plan import read_plan  # noqa: E402
from downslope.store import TaskStore  # noqa: E402

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


def main(
    folder: str,
    manifest: str,
    plans: Sequence[str],
    tasks: Sequence[str],
    store: str,
    dtype: str,
    modules: str,
    threads: int,
    outputs: Sequence[str],
    log: str,
) -> None:
    with log_to(log) as logger:
        from downslope.engine import Scorer
        from downslope.scoring import TaskJob, load_scorer, score_tasks

        with open(manifest, encoding="utf-8", newline="") as table:
            files = csv.DictReader(table, delimiter="\t")
            weights = model_digest((row["file"], row["digest"]) for row in files)
        jobs: list[TaskJob] = []

        def load() -> Scorer:
            scorer = load_scorer(Path(folder), jobs, dtype=dtype, threads=threads)
            gc.enable()
            return scorer

        for task, path in zip(tasks, plans, strict=True):
            plan = read_plan(Path(path))
            identity, parts = score_identity(
                plan=plan.digest, weights=weights, dtype=dtype, modules=modules
            )
            jobs.append(TaskJob(plan, TaskStore(Path(store), task, identity), parts))
        score_tasks(jobs, load)
        for job, output in zip(jobs, outputs, strict=True):
            job.store.publish(Path(output))
        logger.info("published %d tasks", len(outputs))


if "snakemake" in globals():
    main(
        folder=snakemake.params.folder,
        manifest=snakemake.input.manifest,
        plans=snakemake.input.plans,
        tasks=snakemake.params.tasks,
        store=snakemake.params.store,
        dtype=snakemake.params.dtype,
        modules=snakemake.params.modules,
        threads=snakemake.threads,
        outputs=list(snakemake.output),
        log=snakemake.log[0],
    )
