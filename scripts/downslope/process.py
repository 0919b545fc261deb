"""What identifies a process beyond its number, and whether it still runs."""

from __future__ import annotations

import os
import socket
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
