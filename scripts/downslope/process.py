"""What identifies a process beyond its number, whether it still runs, and what it has used."""

from __future__ import annotations

import os
import resource
import socket
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


def this_process() -> dict[str, Any]:
    """Host, number, start and SLURM job of this process, for a file that others read.

    Process numbers mean something only under one kernel (`boot`) and in one container
    (`pid_namespace`), and are given again later; `pid_start` tells them apart. None where the
    system does not say.
    """
    pid = os.getpid()
    return {
        "host": socket.gethostname(),
        "pid": pid,
        "pid_start": _start(pid),
        "boot": _text(Path("/proc/sys/kernel/random/boot_id")),
        "pid_namespace": _namespace(),
        "slurm_job": os.environ.get("SLURM_JOB_ID"),
        "begun": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def runs(pid: int, start: str | None) -> bool:
    """Whether the process of this machine with that number and start has not ended."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # somebody else's, of which nothing more can be known
    found = _start(pid)
    return found is None or found == start


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor(field: str = "model name") -> str:
    """What Linux says of the first processor: its `model name`, its `vendor_id`; "" elsewhere."""
    lines = (_text(Path("/proc/cpuinfo")) or "").splitlines()
    found = (line.partition(":")[2].strip() for line in lines if line.startswith(field))
    return next(found, "")


def peak_memory() -> int:
    """Most bytes that this process has held in memory, by the kernel's count of its own pages."""
    for line in (_text(Path("/proc/self/status")) or "").splitlines():
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    # Elsewhere the best there is; on Linux a program inherits this from the one that started it.
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most


def _start(pid: int) -> str | None:
    """When a process started, in ticks since boot; `ended` where it only waits to be reaped."""
    stat = _text(Path(f"/proc/{pid}/stat"))
    if stat is None:
        return None
    # The name in parentheses may hold anything, blanks and parentheses included.
    state, *fields = stat.rpartition(")")[2].split()
    return "ended" if state in "ZX" else fields[18]


def _namespace() -> str | None:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return None


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return None
