"""Freed memory is kept, seen by the kernel's own count of pages that it had to find."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from tiny_study import ROOT

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
def test_what_is_freed_is_used_again() -> None:
    printed = subprocess.check_output([sys.executable, "-c", PROGRAM], text=True)
    before, kept, ordinary, again = map(int, printed.split())
    assert before > 100_000
    assert kept < 1_000
    assert ordinary > 10_000  # some of what was kept lies between other things, and stays
    assert again < 1_000
