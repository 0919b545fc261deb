"""Scoring one checkpoint: what the store lacks is computed, then everything is published."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from downslope.allocation import keep_freed_memory
from downslope.engine import Scorer, Scores
from downslope.errors import StudyError, UnusableFolder
from downslope.job_report import environment, peak, say_what_stands_idle
from downslope.lanes import lanes_for
from downslope.logs import Progress
from downslope.models import load_model, longest_sequence, vocabulary
from downslope.packing import computed_tokens, largest_token
from downslope.self_check import choose_path
from downslope.store import TaskJob, unfinished
from downslope.tokenization import tokenizer_digest

SAVE_EVERY = 5.0
"""Seconds of work that a killed job may lose, beside the pack that it was at."""


def score_tasks(
    jobs: Sequence[TaskJob],
    load: Callable[[], Scorer],
    *,
    save_every: float = SAVE_EVERY,
) -> None:
    """Complete the store for all jobs; `load` is called once, and only if something is missing.

    Raises StudyError for a non-finite log-likelihood (naming the item) and for a model that
    cannot read what the plan asks; both leave a marker in the store. Whatever ends it early,
    SIGTERM too, finished packs are saved.
    """
    log = logging.getLogger("downslope")
    missing = unfinished(jobs)
    log.info("%d of %d tasks are in the store already", len(jobs) - len(missing), len(jobs))
    if not missing:
        return
    scorer = load()
    _require_limits(missing, scorer)
    with _marked(missing):
        self_check = choose_path(scorer, [pack for job in jobs for pack in job.plan.packs])
    log.info("%s path, self-check %.1e", scorer.path, self_check)
    tasks = [_Task(job, *job.store.load_packs(job.plan)) for job in missing]
    packs = [task.job.plan.packs[k] for task in tasks for k in task.waiting]
    progress = Progress("scored", sum(len(pack.tokens) for pack in packs), noun="tokens")
    # One stream of all tasks' packs: at the end of a task the device does not wait for the next.
    with closing(scorer.score_packs(packs)) as stream:
        for number, task in enumerate(tasks, start=1):
            place = f"{task.job.store.task} ({number} of {len(tasks)} tasks)"
            progress.more = partial(_standing, place, scorer)
            _score_task(task, stream, scorer, self_check, save_every, progress)


def load_scorer(folder: Path, jobs: Sequence[TaskJob], *, dtype: str, threads: int) -> Scorer:
    """The model in `folder` on a GPU if there is one, after a look at its tokenizer.

    Raises StudyError, and leaves markers, where the folder cannot be loaded, and where its own
    tokenizer is not the one that the plans were made with: every log-likelihood would be that of
    other text.
    """
    torch.set_num_threads(threads)
    with _marked(jobs):
        own = tokenizer_digest(folder)
    others = [job for job in unfinished(jobs) if own != job.plan.facts["tokenizer"]]
    _fail(
        others,
        f"the tokenizer in {folder} is not the one that the plan was made with",
        "Give the checkpoint another tokenizer in checkpoints.tsv, or mend the folder.",
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and dtype != "float32":
        logging.getLogger("downslope").warning(
            "%s on a CPU: products are rounded to it, which moves log-likelihoods (docs/engine.md "
            "says how far), and most CPUs compute it more slowly than float32, the usual choice "
            "there (dtype in config.yaml)",
            dtype,
        )
    with _marked(jobs):
        model = load_model(folder, dtype=dtype, device=device)
    if device == "cpu":
        keep_freed_memory()
        say_what_stands_idle(model, jobs, threads)
    return Scorer(model, lanes=lanes_for(threads, device), threads=threads)


@contextmanager
def _marked(jobs: Sequence[TaskJob]) -> Iterator[None]:
    """What no repetition can mend leaves markers for all tasks that wait for it."""
    try:
        yield
    except UnusableFolder as error:
        for job in unfinished(jobs):
            job.store.fail(f"{error.where}: {error.what}")
        raise


def _require_limits(jobs: Sequence[TaskJob], scorer: Scorer) -> None:
    """That the model has a position for every token that is read, and knows it."""
    limit = longest_sequence(scorer.model)
    longest = {
        job.store.task: max(int(pack.depth.max()) + 1 for pack in job.plan.packs) for job in jobs
    }
    _fail(
        [job for job in jobs if limit is not None and longest[job.store.task] > limit],
        f"has requests that are longer than the model's {limit} positions, up to "
        f"{max(longest.values())}",
        "Set max_length of this tokenizer in config.yaml to the smallest model's positions.",
    )
    known = vocabulary(scorer.model)
    largest = {job.store.task: max(map(largest_token, job.plan.packs)) for job in jobs}
    _fail(
        [job for job in jobs if known is not None and largest[job.store.task] >= known],
        f"has tokens of other numbers than the model's 0 to {(known or 0) - 1}, up to "
        f"{max(largest.values())}",
        "Its tokenizer is another model's, or was added to. Give the checkpoint its own "
        "(checkpoints.tsv).",
    )


def _fail(jobs: Sequence[TaskJob], what: str, remedy: str) -> None:
    """Leave markers and raise StudyError for what is wrong with these jobs, if there are any."""
    for job in jobs:
        job.store.fail(what)
    if jobs:
        where = ", ".join(job.store.task for job in jobs)
        raise StudyError(what, where=f"task {where}", remedy=remedy)


@dataclass
class _Task:
    """A task that is being scored: its arrays over all requests, and the packs that were found."""

    job: TaskJob
    loglikelihood: NDArray[np.float32]
    greedy: NDArray[np.bool_]
    found: set[int]
    unsaved: list[int] = field(default_factory=list)

    @property
    def waiting(self) -> list[int]:
        return [k for k in range(len(self.job.plan.packs)) if k not in self.found]

    def save(self) -> None:
        """Store the packs that were finished since the last time."""
        if self.unsaved:
            self.job.store.save_packs(self.job.plan, self.unsaved, self.loglikelihood, self.greedy)
        self.unsaved = []


def _score_task(
    task: _Task,
    stream: Iterator[Scores],
    scorer: Scorer,
    self_check: float,
    save_every: float,
    progress: Progress,
) -> None:
    log = logging.getLogger("downslope")
    plan, store = task.job.plan, task.job.store
    begun, clock = _now(), time.monotonic()
    waiting, packs = task.waiting, len(plan.packs)
    log.info("%s: %d of %d packs found, scoring %d", store.task, len(task.found), packs,
             len(waiting))  # fmt: skip
    try:
        _score_packs(task, waiting, stream, save_every, progress)
        tokens = computed_tokens([plan.packs[k] for k in waiting])
        seconds = time.monotonic() - clock
        job_facts = {
            **environment(scorer),
            "begun": begun,
            "ended": _now(),
            "seconds": round(seconds, 3),
            "packs": packs,
            "packs_found": len(task.found),
            "packs_scored": len(waiting),
            "tokens_computed": tokens,
            "self_check": None if np.isnan(self_check) else self_check,
        }
        store.finish(plan.scores(task.loglikelihood, task.greedy), task.job.parts, job_facts)
    except BaseException:
        _save_at_the_end(task)
        raise
    log.info(
        "%s: %d packs in %.1f s, %.0f tokens/s, peak memory %s", store.task, len(waiting), seconds,
        tokens / max(seconds, 1e-9), peak(scorer),
    )  # fmt: skip


def _score_packs(
    task: _Task,
    waiting: Sequence[int],
    stream: Iterator[Scores],
    save_every: float,
    progress: Progress,
) -> None:
    plan, saved = task.job.plan, time.monotonic()
    offsets = plan.request_offsets
    for k in waiting:
        span = slice(offsets[k], offsets[k + 1])
        task.loglikelihood[span], task.greedy[span] = next(stream)
        finite = np.isfinite(task.loglikelihood[span])
        if not finite.all():
            request = int(offsets[k]) + int(np.flatnonzero(~finite)[0])
            _fail(
                [task.job],
                f"log-likelihood of {plan.row_of_request(request)} is "
                f"{task.loglikelihood[request]}",
                "The weights are damaged or overflow in this dtype; try another dtype, or mark "
                "the checkpoint known_bad.",
            )
        task.unsaved.append(k)
        if time.monotonic() - saved >= save_every:
            task.save()
            saved = time.monotonic()
        progress.advance(len(plan.packs[k].tokens))


def _save_at_the_end(task: _Task) -> None:
    """Save what is finished when something else has gone wrong, which is what must be reported."""
    log = logging.getLogger("downslope")
    if task.job.store.finished.is_file():
        return
    count = len(task.unsaved)
    try:
        task.save()
    except (StudyError, OSError) as error:
        log.warning("%s: %d packs are not saved: %s", task.job.store.task, count, error)
    else:
        log.info("%s: stopped early; all finished packs are saved", task.job.store.task)


def _standing(place: str, scorer: Scorer) -> str:
    return f"; {place}, peak memory {peak(scorer)}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
