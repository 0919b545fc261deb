"""What a process says of itself."""

from __future__ import annotations

import os
import subprocess
import sys

from tiny_study import ROOT

PROGRAM = """
from downslope.process import peak_memory
before = peak_memory()
held = bytes([1]) * 300_000_000
del held
print(before, peak_memory())
"""


def test_peak_memory_is_that_of_the_process_not_of_the_one_that_started_it() -> None:
    held = bytes([1]) * 200_000_000
    printed = subprocess.check_output(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "PYTHONPATH": str(ROOT / "scripts")},
        text=True,
    )
    before, after = map(int, printed.split())
    assert before < 100_000_000 < len(held)
    assert 300_000_000 < after < 450_000_000
