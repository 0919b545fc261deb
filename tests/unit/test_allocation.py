"""Freed memory is kept, seen by the kernel's own count of pages that it had to find."""

from __future__ import annotations

import platform
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tiny_study import ROOT

_SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")
HUGE = _SETTING.is_file() and "[always]" in _SETTING.read_text()
PAGES_IN_A_GB = (1 << 30) // resource.getpagesize()

PROGRAM = f"""
import resource, sys
import torch
sys.path.insert(0, {str(ROOT / "scripts")!r})
from downslope.allocation import keep_freed_memory, ordinary_allocation

def pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for megabytes in 20 * (20, 50):  # above and below the size up to which glibc may adjust
        torch.empty(megabytes << 20, dtype=torch.uint8).fill_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

torch.set_num_threads(1)
pages()
found = [pages()]
assert keep_freed_memory()
pages()
found.append(pages())
with ordinary_allocation():
    found.append(pages())
pages()
found.append(pages())
print(*found)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
@pytest.mark.skipif(HUGE, reason="this kernel gives every process huge pages, which are few")
def test_what_is_freed_is_used_again() -> None:
    printed = subprocess.check_output([sys.executable, "-c", PROGRAM], text=True)
    before, kept, ordinary, again = map(int, printed.split())
    assert before > 0.5 * PAGES_IN_A_GB
    assert kept < 0.01 * PAGES_IN_A_GB
    # Some of what was kept lies between other things, and stays.
    assert ordinary > 0.05 * PAGES_IN_A_GB
    assert again < 0.01 * PAGES_IN_A_GB


HEAPS = f"""
import sys
from concurrent.futures import ThreadPoolExecutor
sys.path.insert(0, {str(ROOT / "scripts")!r})
from downslope.allocation import keep_freed_memory

def heaps():  # of threads beside the first: each begins at a multiple of 64 MB
    places = [line.split()[0] for line in open("/proc/self/maps") if " rw-p " in line]
    return sum(int(place.split("-")[0], 16) % (64 << 20) == 0 for place in places)

assert keep_freed_memory()
before = heaps()
with ThreadPoolExecutor(1) as lane:
    lane.submit(lambda: bytes(1 << 20)).result()
    print(heaps() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_lanes_share_one_heap() -> None:
    assert subprocess.check_output([sys.executable, "-c", HEAPS], text=True).strip() == "0"
