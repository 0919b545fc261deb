"""Score one checkpoint on all tasks: what the store lacks is computed, then all is published."""

import gc
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

# Until the model is loaded there is next to no garbage, and looking for it takes its time.
gc.disable()
# The cluster's profile takes the same names out before a job of its starts.
_SECRET = r"(^|_)(TOKENS?|SECRETS?|PASSWORDS?|PASSWD|PASS|(API)?KEYS?|CREDENTIALS?)(_|$)"
# Scoring has its files at hand; nothing may be fetched, and no library needs a secret.
for _name in list(os.environ):
    if re.search(_SECRET, _name, re.IGNORECASE):
        os.environ.pop(_name)
os.environ.update(HF_HUB_OFFLINE="1", HF_TOKEN_PATH=os.devnull, TOKENIZERS_PARALLELISM="false")
from downslope.claim import claimed  # noqa: E402
from downslope.files import file_states, matching  # noqa: E402
from downslope.identity import score_identity  # noqa: E402
from downslope.listed import ListedFiles  # noqa: E402
from downslope.logs import log_to  # noqa: E402
from downslope.plan_list import listed_plans  # noqa: E402
from downslope.store import TaskJob, TaskStore, unfinished  # noqa: E402

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

    from downslope.engine import Scorer


def main(
    folder: str,
    manifest: str,
    plans: str,
    tasks: Sequence[str],
    store: str,
    dtype: str,
    modules: str,
    threads: int,
    outputs: Sequence[str],
    log: str,
) -> None:
    # A twin of this job (submitted by a Snakemake that was killed) is waited for before anything
    # is loaded; what it has scored is then found in the store.
    with log_to(log) as logger, claimed(Path(store)) as claim:
        listed = ListedFiles.of(Path(manifest), Path(folder))
        states, at_hand = listed.states(), file_states(matching(Path(folder), "*"))

        computing = False

        def confirm() -> None:
            claim.confirm()
            if computing:  # what is published was computed before, and needs no weights
                listed.require_unchanged(states)

        # A folder that gave its weights up does not count as one with other files in it.
        known = at_hand if listed.all_there() else None
        jobs = []
        for task, plan in zip(tasks, listed_plans(Path(plans), tasks), strict=True):
            identity, parts = score_identity(
                plan=plan.digest, weights=listed.weights, dtype=dtype, modules=modules
            )
            place = TaskStore(Path(store), task, identity, confirm, known)
            jobs.append(TaskJob(plan, place, parts))
        if unfinished(jobs):
            listed.require_as_listed()
            # Seconds, and gigabytes on a GPU: only now is it known that they are needed.
            from downslope.scoring import load_scorer, score_tasks

            def load() -> "Scorer":
                scorer = load_scorer(Path(folder), jobs, dtype=dtype, threads=threads)
                gc.freeze()  # what has been imported is no garbage, now or later
                gc.enable()
                return scorer

            computing = True
            score_tasks(jobs, load)
            computing = False
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
