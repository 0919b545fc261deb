"""Claims among real processes: one writes, the others wait, a dead or stopped one is replaced."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from downslope.claim import CLAIM, Claim, ClaimLost, Pace, claimed, holder
from downslope.files import file_time
from downslope.process import _start, runs, this_process
from tiny_study import ROOT

QUICK = Pace(beat=0.1, limit=2.0, look=0.05, tell=0.5)

PROGRAM = """
import logging, os, sys, time
from pathlib import Path
from downslope.claim import Pace, claimed

folder, seconds = Path(sys.argv[1]), float(sys.argv[2])
logging.basicConfig(level=logging.INFO, format="%(message)s")
pace = Pace(beat=0.1, limit=20.0, look=0.05, tell=0.5)
with claimed(folder, pace=pace) as claim, claimed(folder / "inner", pace=pace):
    begun = time.monotonic()
    try:
        print("in", time.monotonic_ns(), flush=True)
        while time.monotonic() - begun < seconds:
            time.sleep(0.02)
            claim.confirm()
            new = folder / f"new-{os.getpid()}"
            new.write_text(str(os.getpid()))
            new.replace(folder / "written")
    finally:
        print("out", time.monotonic_ns(), flush=True)
"""


@contextlib.contextmanager
def process(folder: Path, seconds: float) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the claim for some seconds and writes all the time."""
    running = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(folder), str(seconds)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "scripts")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield running
    finally:
        running.kill()
        running.communicate()


def started(running: subprocess.Popen[str]) -> None:
    """Wait until the process has the claim."""
    assert running.stdout is not None
    assert running.stdout.readline().startswith("in ")


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


def test_of_several_processes_one_writes_at_a_time(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        running = [stack.enter_context(process(tmp_path, 0.15)) for _ in range(4)]
        printed = [one.communicate(timeout=60) for one in running]
    assert [one.returncode for one in running] == [0] * 4
    spans = sorted(tuple(int(line.split()[1]) for line in out.splitlines()) for out, _ in printed)
    assert all(one[1] <= two[0] for one, two in pairwise(spans))
    waited = [errors for _, errors in printed if "waiting for process" in errors]
    assert waited
    assert all("the other process is gone; going on" in errors for errors in waited)
    assert not any("taking over" in errors for _, errors in printed)
    assert leftovers(tmp_path) == []


def test_a_killed_process_is_replaced_at_once_where_its_death_is_known(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with process(tmp_path, 60) as killed:
        started(killed)
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        begun = time.monotonic()
        with claimed(tmp_path) as claim:  # at the real pace, which allows two minutes of silence
            assert time.monotonic() - begun < 30
            claim.confirm()
    assert f"taking over from process {killed.pid} on " in caplog.text
    assert "it has ended" in caplog.text
    assert leftovers(tmp_path) == []


def test_a_process_that_was_stopped_finds_its_claim_lost_and_writes_no_more(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with process(tmp_path, 60) as stopped:
        started(stopped)
        stopped.send_signal(signal.SIGSTOP)
        with claimed(tmp_path, pace=QUICK) as claim:
            assert "taking over from process" in caplog.text
            assert re.search(r"silent for \d+ s", caplog.text)
            (tmp_path / "written").write_text("mine")
            stopped.send_signal(signal.SIGCONT)
            _, errors = stopped.communicate(timeout=30)
            assert stopped.returncode == 1
            assert f"another process has taken over (process {os.getpid()} on " in errors
            assert "stops before it writes anything more" in errors
            assert (tmp_path / "written").read_text() == "mine"
            claim.confirm()
    assert leftovers(tmp_path) == [], "the loser's end leaves the winner's claim alone"


def test_a_short_stop_costs_nothing(tmp_path: Path) -> None:
    with process(tmp_path, 5) as stopped:
        started(stopped)
        with process(tmp_path, 0.1) as waiting:
            stopped.send_signal(signal.SIGSTOP)
            time.sleep(0.6)
            stopped.send_signal(signal.SIGCONT)
            assert "waiting for process" in waiting.communicate(timeout=30)[1]
            assert (stopped.wait(), waiting.wait()) == (0, 0)


def test_sigterm_ends_in_order(tmp_path: Path) -> None:
    with process(tmp_path, 60) as ended:
        started(ended)
        ended.send_signal(signal.SIGTERM)
        out, errors = ended.communicate(timeout=30)
    assert ended.returncode == 128 + signal.SIGTERM
    assert out.startswith("out "), "what stands in `finally` was done"
    assert errors.count("ended by SIGTERM") == 1
    assert leftovers(tmp_path) == []


def test_a_waiting_process_can_be_ended_too(tmp_path: Path) -> None:
    with process(tmp_path, 60) as first, process(tmp_path, 60) as waiting:
        for running in (first, waiting):
            assert running.poll() is None
        deadline = time.monotonic() + 30
        while not list(tmp_path.glob(f"{CLAIM}.*.new")) or not (tmp_path / "written").exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        one = int((tmp_path / "written").read_text())
        (other,) = (running for running in (first, waiting) if running.pid != one)
        other.send_signal(signal.SIGTERM)
        assert other.wait(30) == 128 + signal.SIGTERM
        assert leftovers(tmp_path) == [CLAIM]


def test_another_machines_process_is_judged_by_its_heartbeat_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its process number does not exist here, which says nothing."""
    caplog.set_level("INFO")
    elsewhere = this_process() | {"host": "node7", "boot": "another", "pid": 2**22 + 1}
    place = tmp_path / CLAIM
    place.mkdir()
    begun = time.monotonic()
    (place / "theirs.json").write_text(json.dumps(elsewhere | {"slurm_job": "55"}))
    found = holder(tmp_path)
    assert found is not None
    assert not found.is_dead()
    with claimed(tmp_path, pace=QUICK):
        assert time.monotonic() - begun > 1.5
    assert "waiting for process 4194305 on node7 (SLURM job 55)" in caplog.text
    assert "taking over" in caplog.text


def test_dates_are_compared_with_the_file_systems_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with claimed(tmp_path):
        monkeypatch.setattr(time, "time", lambda: 0.0)
        found = holder(tmp_path)
        assert found is not None
        assert abs(found.silent) < 15
        assert file_time(tmp_path) > 1e9
        assert leftovers(tmp_path) == [CLAIM], "asking leaves nothing"


def test_a_claim_is_retired_once_and_the_next_one_is_safe(tmp_path: Path) -> None:
    """Two processes have found the same holder dead; the second comes after the first is in."""
    dead, first, second, third = (Claim(tmp_path, QUICK) for _ in range(4))
    dead.take()
    assert first._retire(dead.token)
    assert not list(tmp_path.glob(f"{CLAIM}.*/{dead.token}.json")), "not even by a cached name"
    first.take()
    assert not second._retire(dead.token)
    first.confirm()
    with pytest.raises(ClaimLost):
        dead.confirm()
    first.confirm()
    first.release()
    third.take()
    dead.release()
    third.confirm()
    third.release()
    assert leftovers(tmp_path) == []


def test_the_heart_beats_while_the_holder_is_busy(tmp_path: Path) -> None:
    with claimed(tmp_path, pace=Pace(beat=0.1, limit=60.0)):
        (heart,) = (tmp_path / CLAIM).glob("*.json")
        for _ in range(3):
            before, deadline = heart.stat().st_mtime_ns, time.monotonic() + 60
            while heart.stat().st_mtime_ns == before:
                assert time.monotonic() < deadline
                time.sleep(0.01)


def test_what_holds_no_facts_is_replaced_after_the_limit(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / CLAIM).mkdir()
    (tmp_path / CLAIM / "something").touch()
    with claimed(tmp_path, pace=QUICK) as claim:
        claim.confirm()
    assert "a process that left no facts" in caplog.text


def test_nobody_holds_a_folder_without_a_claim(tmp_path: Path) -> None:
    assert holder(tmp_path) is None
    assert holder(tmp_path / "absent") is None


def test_a_process_is_known_by_its_start_too() -> None:
    me = this_process()
    assert runs(me["pid"], me["pid_start"])
    assert not runs(me["pid"], "1"), "the number was given again"
    with subprocess.Popen(["sleep", "60"]) as child:
        start = _start(child.pid)
        assert runs(child.pid, start)
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert not runs(child.pid, start), "ended, and not yet waited for"


def test_a_claim_is_released_when_the_block_fails(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="oops"), claimed(tmp_path / "new"):
        raise ValueError("oops")
    assert leftovers(tmp_path / "new") == []


def test_what_killed_processes_left_is_removed_in_time(tmp_path: Path) -> None:
    for name, age in (("old.over", 10**6), ("young.over", 0), ("waiting.new", 0)):
        place = tmp_path / f"{CLAIM}.{name}"
        place.mkdir()
        (place / "over").touch()
        os.utime(place / "over", (time.time() - age,) * 2)
    with claimed(tmp_path):
        pass
    assert leftovers(tmp_path) == [f"{CLAIM}.waiting.new", f"{CLAIM}.young.over"]


def test_a_folder_that_another_process_renames_does_not_fail_the_release(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"{CLAIM}.other.new").mkdir()
    scandir = os.scandir

    def meanwhile(path: str | Path = ".") -> Iterator[os.DirEntry[str]]:
        if str(path).endswith(".other.new"):
            raise FileNotFoundError(2, "No such file or directory", str(path))
        return scandir(path)

    with claimed(tmp_path):
        monkeypatch.setattr(os, "scandir", meanwhile)
    monkeypatch.undo()
    assert holder(tmp_path) is None
