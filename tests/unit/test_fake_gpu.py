"""The engine on GPUs that are not there (tests/fake_gpu.py)."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tiny_study import ROOT


def on_a_fake_gpu(*fault: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "tests/fake_gpu.py"), *fault],
        capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip


def test_everything_meets_on_the_gpu_and_nothing_asks_it_for_a_number() -> None:
    done = on_a_fake_gpu()
    assert done.returncode == 0, done.stderr[-3000:]
    passed = done.stdout.splitlines()
    assert len(passed) == 4 * 3 + 2
    assert passed[-1] == "two GPUs, packed, 100"


@pytest.mark.parametrize(
    ("fault", "refusal"),
    [("left", "FakeTensorDeviceMismatchError"), ("asked", "DataDependentOutputException")],
)
def test_what_would_fail_or_wait_on_a_gpu_is_refused(fault: str, refusal: str) -> None:
    done = on_a_fake_gpu(fault)
    assert done.returncode == 1
    assert refusal in done.stderr, done.stderr[-3000:]
