"""What a scoring job says of itself: to whoever audits its scores, and to whoever reads its log."""

from __future__ import annotations

import logging
import os
import platform
import socket
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import torch

from downslope.attention import NAME
from downslope.engine import Scorer
from downslope.packing import computed_tokens
from downslope.process import cores, peak_memory, processor
from downslope.products import onednn_multiplies
from downslope.store import TaskJob, unfinished

LONG = 1e13
"""So many operations keep one core busy for minutes."""


def environment(scorer: Scorer) -> dict[str, Any]:
    """What an auditor asks of a job: machine, device, versions, arithmetic, peak memory."""
    device = scorer.device
    facts: dict[str, Any] = {
        "host": socket.gethostname(),
        "slurm_job": os.environ.get("SLURM_JOB_ID"),
        "device": str(device),
        "processor": processor() or platform.processor() or platform.machine(),
        "products": _products(scorer),
        "dtype": str(scorer.dtype).removeprefix("torch."),
        "attention": _attention(scorer),
        "path": scorer.path,
        "inner_tokens": scorer.inner,
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "transformers", "numpy")},
        "threads": scorer.threads,
        "lanes": scorer.lanes,
    }
    if device.type == "cuda":
        facts["gpu"] = torch.cuda.get_device_name(device)
    return facts | _peak_bytes(scorer)


def _attention(scorer: Scorer) -> str | None:
    # While packs are under way the config names the packed path's, in whichever lane they are.
    if scorer.path == "packed":
        return NAME
    return getattr(scorer.model.config, "_attn_implementation", None)


def _products(scorer: Scorer) -> str:
    # Read whole, a model multiplies as it does by itself.
    other = onednn_multiplies(scorer.dtype, scorer.device) and scorer.path != "whole"
    return "oneDNN" if other else "torch"


def peak(scorer: Scorer) -> str:
    """Peak memory in words: of the process, and of the fullest GPU where there is one."""
    most = _peak_bytes(scorer)
    words = f"{most['peak_bytes'] / 1e9:.1f} GB"
    if "peak_gpu_bytes" in most:
        words += f", on the GPU {most['peak_gpu_bytes'] / 1e9:.1f} GB"
    return words


def _peak_bytes(scorer: Scorer) -> dict[str, int]:
    """Of the process, and of the fullest GPU where there is one."""
    most = {"peak_bytes": peak_memory()}
    if scorer.device.type == "cuda":
        gpus = range(torch.cuda.device_count())
        most["peak_gpu_bytes"] = max(torch.cuda.max_memory_allocated(gpu) for gpu in gpus)
    return most


def say_what_stands_idle(model: Any, jobs: Sequence[TaskJob], threads: int) -> None:
    """How to use more of a machine without a GPU, where that is worth a word."""
    tokens = sum(computed_tokens(job.plan.packs) for job in unfinished(jobs))
    operations = 2 * tokens * sum(parameter.numel() for parameter in model.parameters())
    if operations > LONG and threads < cores():
        logging.getLogger("downslope").info(
            "no GPU: computing on %d of %d cores; `--set-threads score=%d` gives a job all of "
            "them, `--resources gpu=%d` scores that many checkpoints at once",
            *(threads, cores(), cores(), cores()),
        )
