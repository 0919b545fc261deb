"""A scoring process from its start: how long until its first pack is scored, how much memory.

    python -m downslope.bench.process BEGUN FOLDER PLAN DTYPE THREADS PACKS

does what scripts/score_checkpoint.py does, less the store: its imports, reading a plan, loading
the checkpoint in FOLDER, the self-check, scoring the plan's first PACKS packs. BEGUN is the
monotonic clock when the process was asked for. It prints one line of JSON, which
`score_in_process` reads.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from downslope.errors import StudyError
from downslope.process import peak_memory

REPEATED = 3
SCRIPTS = Path(__file__).resolve().parents[2]

_IMPORTS = """\
import sys, time, torch, transformers
for name in sys.argv[2:]:
    open(name, "rb").read()
print(time.monotonic() - float(sys.argv[1]))
"""


class Process(NamedTuple):
    """Seconds from the start to the first pack scored, of the self-check in them, and of that pack
    when scored again; bytes of the weights, and of the process at its largest."""

    first: float
    check: float
    pack: float
    weights: int
    peak: int


class FixedCost(NamedTuple):
    """Seconds before a scoring process gets to work, those of its self-check among them, and those
    of importing torch and transformers and reading the weights' files."""

    own: float
    check: float
    imports: float

    @property
    def ratio(self) -> float:
        return self.own / self.imports


def fixed_cost(folder: Path, plan: Path, *, dtype: str, threads: int, device: str) -> FixedCost:
    """Medians of both, run in turn after a first time that fills the page cache.

    A process's own seconds are those to its first pack scored, less that pack's.
    """
    own, check, imports = [], [], []
    for _ in range(1 + REPEATED):
        files = [str(path) for path in sorted(folder.glob("*.safetensors"))]
        imports.append(float(_python(["-c", _IMPORTS], files, device)))
        process = score_in_process(
            folder, plan, dtype=dtype, threads=threads, device=device, packs=1
        )
        own.append(process.first - process.pack)
        check.append(process.check)
    return FixedCost(*(median(seconds[1:]) for seconds in (own, check, imports)))


def score_in_process(
    folder: Path, plan: Path, *, dtype: str, threads: int, device: str, packs: int
) -> Process:
    """Score a plan's first packs in a process of its own."""
    more = [str(folder), str(plan), dtype, str(threads), str(packs)]
    return Process(**json.loads(_python(["-m", "downslope.bench.process"], more, device)))


def _python(program: Sequence[str], more: Sequence[str], device: str) -> str:
    """The last line that a Python process prints; its first argument is the time of its start."""
    environment = {**os.environ, "PYTHONPATH": str(SCRIPTS)}
    if device == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, *program, str(begun), *more],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise StudyError(f"a scoring process failed: {last}")
    return done.stdout.strip().splitlines()[-1]


def main(begun: float, folder: Path, plan: Path, dtype: str, threads: int, packs: int) -> None:
    import score_checkpoint  # noqa: F401  for what it imports
    from downslope.plan import read_plan
    from downslope.scoring import load_scorer
    from downslope.self_check import choose_path
    from downslope.store import TaskJob, TaskStore

    made = read_plan(plan)
    job = TaskJob(made, TaskStore(plan.parent / "store", "bench", "none"), "")
    scorer = load_scorer(folder, [job], dtype=dtype, threads=threads)
    gc.freeze()  # as score_checkpoint does, which has turned it off until here
    gc.enable()
    loaded = time.monotonic()
    choose_path(scorer, made.packs)
    check = time.monotonic() - loaded
    scorer.score_pack(made.packs[0])
    first = time.monotonic() - begun
    again = time.monotonic()
    scorer.score_pack(made.packs[0])
    pack = time.monotonic() - again
    for _ in scorer.score_packs(made.packs[1:packs]):
        pass
    weights = sum(parameter.nbytes for parameter in scorer.model.parameters())
    print(json.dumps(Process(first, check, pack, weights, _peak(scorer))._asdict()))


def _peak(scorer: Any) -> int:
    """Most bytes that this process has held: on its GPU, or resident in memory."""
    import torch

    if scorer.device.type == "cuda":
        return torch.cuda.max_memory_allocated(scorer.device)
    return peak_memory()


if __name__ == "__main__":
    begun, folder, plan, dtype, *counts = sys.argv[1:]
    main(float(begun), Path(folder), Path(plan), dtype, *map(int, counts))
