"""A real SLURM cluster on this machine: its daemons in a private folder, on loopback.

One node with fake GPUs, two partitions; with `accounting` also slurmdbd over MariaDB. What is
wanted of Debian: slurmctld, slurmd, slurm-client and munge, and for accounting slurmdbd,
mariadb-server-core and mariadb-client-core. It runs as root without systemd or cgroups.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cluster_conf import DATABASE, MARIADB, NO_DATABASE, SLURM, SLURMDBD

PROGRAMS = ["munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "sinfo"]
ACCOUNTING = ["slurmdbd", "sacctmgr", "sacct", "mariadbd", "mariadb", "mariadb-install-db"]
PACKAGES = "slurmctld slurmd slurm-client munge slurmdbd mariadb-server-core mariadb-client-core"
SEARCHED = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/bin"])

UNFINISHED = ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED")


class NoCluster(Exception):
    """Why no cluster can be started on this machine."""


@dataclass(frozen=True)
class Job:
    """What SLURM knows of a job. Times are local, without a zone, as SLURM prints them."""

    id: int
    name: str
    comment: str
    state: str
    gpus: int
    """GPUs that were asked for."""
    memory_mb: int
    limit: str
    """The time limit, `[days-]hours:minutes:seconds`."""
    partition: str
    account: str
    workdir: str
    submitted: datetime | None
    started: datetime | None
    ended: datetime | None

    @property
    def rule(self) -> str:
        """The rule, as the executor writes it into the comment."""
        return self.comment.removeprefix("rule_").split("_wildcards_")[0]

    @property
    def wildcards(self) -> str:
        return self.comment.partition("_wildcards_")[2]


def why_not(*, accounting: bool = False) -> str | None:
    """Why a cluster cannot run here, or None where it can."""
    wanted = PROGRAMS + (ACCOUNTING if accounting else [])
    absent = [name for name in wanted if shutil.which(name, path=SEARCHED) is None]
    if absent:
        return f"no SLURM to start: {', '.join(absent)} not found. apt-get install {PACKAGES}"
    if os.geteuid():
        return "a private SLURM cluster is started by root only"
    return None


class Cluster:
    """A cluster for the time of a `with` block. Raises NoCluster where there can be none."""

    def __init__(self, folder: Path, *, gpus: int = 2, accounting: bool = False) -> None:
        self.folder, self.gpus, self.accounting = folder.resolve(), gpus, accounting
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def env(self) -> dict[str, str]:
        """What a process needs in its environment to use this cluster, and this Python first."""
        places = [self.folder / "bin", Path(sys.executable).parent]
        path = os.pathsep.join([*map(str, places), SEARCHED])
        return {"SLURM_CONF": str(self.folder / "slurm.conf"), "PATH": path}

    def __enter__(self) -> Cluster:
        if reason := why_not(accounting=self.accounting):
            raise NoCluster(reason)
        try:
            self._configure()
            self.start("munged")
            if self.accounting:
                self._start_database()
            self.start("slurmctld", "-c")
            self.start("slurmd")
            self.wait_until_idle()
            if self.accounting:
                for what in ("account name=toy cluster=toy", "user name=root account=toy"):
                    self.run("sacctmgr", "-i", "add", *what.split())
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def run(self, program: str, *arguments: str, check: bool = True) -> str:
        """What a command of SLURM prints."""
        done = subprocess.run(
            [program, *arguments],
            env=os.environ | self.env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=60,
            check=False,
        )
        if check and done.returncode:
            raise AssertionError(f"{program} {' '.join(arguments)} failed:\n{done.stdout}")
        return done.stdout

    def squeue(self, *arguments: str) -> str:
        return self.run("squeue", *arguments)

    def sacct(self, *arguments: str) -> str:
        return self.run("sacct", *arguments)

    def scontrol(self, *arguments: str) -> str:
        return self.run("scontrol", *arguments)

    def scancel(self, *arguments: str) -> str:
        return self.run("scancel", *arguments)

    def jobs(self, rule: str | None = None, *, workdir: Path | None = None) -> list[Job]:
        """Every job of this cluster, finished ones too, in the order of submission."""
        printed = self.run("scontrol", "show", "job", "--oneliner")
        jobs = [_job(line) for line in printed.splitlines() if line.startswith("JobId=")]
        return sorted(
            (
                job
                for job in jobs
                if rule in (None, job.rule)
                and (workdir is None or Path(job.workdir) == workdir.resolve())
            ),
            key=lambda job: job.id,
        )

    def start(self, daemon: str, *arguments: str) -> None:
        """Start a daemon that does not run: munged, mariadbd, slurmdbd, slurmctld or slurmd."""
        commands = {
            "munged": [
                *("--foreground", "--force", "--num-threads=2"),
                f"--key-file={self.folder}/munge.key",
                *(f"--{kind}-file={self.folder}/run/munge.{kind}" for kind in ("pid", "seed")),
                f"--log-file={self.folder}/log/munged.log",
                f"--socket={self.folder}/run/munge.sock",
            ],
            "mariadbd": [f"--defaults-file={self.folder}/mariadb.cnf", "--user=root"],
            "slurmdbd": ["-D"],
            "slurmctld": ["-D", "-f", f"{self.folder}/slurm.conf"],
            # Without -c, which would kill the jobs that live on without a slurmd.
            "slurmd": ["-D", "-f", f"{self.folder}/slurm.conf"],
        }
        with open(self.folder / f"log/{daemon}.out", "ab") as output:
            self._daemons[daemon] = subprocess.Popen(
                # A session of tests that is killed takes its daemons with it.
                ["setpriv", "--pdeathsig", "TERM", _program(daemon), *commands[daemon], *arguments],
                env=os.environ | self.env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        if daemon == "munged":
            self._wait(lambda: (self.folder / "run/munge.sock").exists(), "munged")

    def kill(self, daemon: str) -> None:
        """kill -9 of a daemon. After `slurmd`, the jobs it started live on without it."""
        process = self._daemons.pop(daemon)
        process.kill()
        process.wait()

    def kill_slurmd(self) -> None:
        self.kill("slurmd")

    def start_slurmd(self) -> None:
        """Start slurmd again and wait until the node takes jobs."""
        self.start("slurmd")
        self._wait(lambda: self._node_state() in ("idle", "mixed", "allocated"), "the node")

    def wait_until_idle(self) -> None:
        self._wait(lambda: self._node_state() == "idle", "the node")

    def _node_state(self) -> str:
        return self.run("sinfo", "-h", "-o", "%T", "-p", "cpu", check=False).strip()

    def _wait(self, ready: Callable[[], bool], what: str, *, seconds: float = 60) -> None:
        """Wait until `ready`; stops at once when a daemon has ended."""
        end = time.monotonic() + seconds
        while not ready():
            ended = [name for name, process in self._daemons.items() if process.poll() is not None]
            if ended or time.monotonic() > end:
                raise AssertionError(
                    f"{what}: not ready after {seconds:.0f} s, or ended: {ended}\n{self._logs()}"
                )
            time.sleep(0.1)

    def _logs(self) -> str:
        logs = sorted((self.folder / "log").iterdir())
        return "\n".join(f"--- {path.name}\n{path.read_text()[-1500:]}" for path in logs)

    def _configure(self) -> None:
        folder = self.folder
        for name in ("run", "log", "state", "spool", "bin", "database"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        names = ("slurmctld", "slurmd", "slurmdbd", "mariadbd")
        self._ports = dict(zip(names, _free_ports(len(names)), strict=True))
        host = socket.gethostname().split(".")[0]
        facts = {"folder": folder, "host": host, "gpus": self.gpus, **self._ports}
        storage = DATABASE if self.accounting else NO_DATABASE
        (folder / "slurm.conf").write_text((SLURM + storage).format(**facts))
        (folder / "mariadb.cnf").write_text(MARIADB.format(**facts))
        # Any device file does: SLURM counts them and never opens them.
        devices = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random")[: self.gpus]
        gres = [f"NodeName={host} Name=gpu Type=fake File={device}" for device in devices]
        (folder / "gres.conf").write_text("\n".join(["AutoDetect=off", *gres, ""]))
        _write_private(folder / "slurmdbd.conf", SLURMDBD.format(**facts).encode())
        _write_private(folder / "munge.key", os.urandom(128))
        # The executor takes SLURM_CONF from the environment of the srun inside a job; a cluster
        # with its config in /etc/slurm does without this.
        wrapper = folder / "bin/srun"
        wrapper.write_text(
            "#!/bin/sh\n"
            f"export SLURM_CONF={folder}/slurm.conf\n"
            f'exec {_program("srun")} "$@"\n'
        )  # fmt: skip
        wrapper.chmod(0o755)

    def _start_database(self) -> None:
        subprocess.run(
            [
                *(_program("mariadb-install-db"), f"--defaults-file={self.folder}/mariadb.cnf"),
                *("--user=root", "--skip-test-db", "--auth-root-authentication-method=normal"),
            ],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=120,
        )
        self.start("mariadbd")
        client = ["mariadb", "--no-defaults", f"--socket={self.folder}/run/mariadb.sock", "-uroot"]
        hello = [*client, "-e", "select 'hello'"]
        self._wait(lambda: self.run(*hello, check=False).endswith("hello\n"), "mariadbd")
        for host in ("127.0.0.1", "localhost"):
            grant = f"create user slurm@{host!r} identified by 'toy'; "
            self.run(*client, "-e", f"{grant} grant all on *.* to slurm@{host!r}")
        self.start("slurmdbd")
        # The first answer comes when the tables are made; the cluster has to be there before
        # slurmctld registers.
        add = ["sacctmgr", "-i", "add", "cluster", "name=toy"]
        self._wait(
            lambda: (
                "Adding" in self.run(*add, check=False)
                or "toy" in self.run("sacctmgr", "-n", "list", "cluster", check=False)
            ),
            "slurmdbd",
        )

    def _stop(self) -> None:
        if "slurmctld" in self._daemons and "slurmd" in self._daemons:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.run("scancel", "--signal=KILL", "--user=root", check=False)
        for name in ("slurmctld", "slurmd", "slurmdbd", "mariadbd", "munged"):
            if process := self._daemons.pop(name, None):
                process.terminate()
                try:
                    process.wait(timeout=3)
                except subprocess.TimeoutExpired:
                    # slurmctld may wait for jobs that no longer answer; its state is not needed.
                    process.kill()
                    process.wait()
            if name == "slurmd":
                self._end_orphans()

    def _end_orphans(self) -> None:
        """End what jobs have left: every process with this cluster's SLURM_CONF."""
        mark = f"SLURM_CONF={self.folder}/slurm.conf".encode()
        daemons = {process.pid for process in self._daemons.values()}
        for place in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                known = mark in (place / "environ").read_bytes().split(b"\0")
                if known and int(place.name) not in daemons:
                    os.kill(int(place.name), signal.SIGKILL)


def _job(line: str) -> Job:
    facts = dict(re.findall(r"([A-Z][\w:/]*)=(.*?)(?= [A-Z][\w:/]*=|$)", line))
    gpus = re.search(r"gres[:/]gpu(?::\w+)?[:=](\d+)", facts.get("TresPerJob", ""))
    memory = re.match(r"([\d.]+)([MG])", facts.get("MinMemoryNode", "0M"))
    assert memory is not None, line
    return Job(
        id=int(facts["JobId"]),
        name=facts["JobName"],
        comment=facts.get("Comment", "").strip(),
        state=facts["JobState"],
        gpus=int(gpus[1]) if gpus else 0,
        memory_mb=round(float(memory[1]) * (1024 if memory[2] == "G" else 1)),
        limit=facts["TimeLimit"],
        partition=facts["Partition"],
        account=facts.get("Account", ""),
        workdir=facts["WorkDir"],
        submitted=_time(facts["SubmitTime"]),
        started=_time(facts["StartTime"]),
        ended=_time(facts["EndTime"]) if facts["JobState"] not in UNFINISHED else None,
    )


def _time(text: str) -> datetime | None:
    return None if text == "Unknown" else datetime.fromisoformat(text)


def _program(name: str) -> str:
    place = shutil.which(name, path=SEARCHED)
    assert place is not None, f"{name}: not found"
    return place


def _free_ports(count: int) -> list[int]:
    """Distinct ports on which nothing listens, below those that the kernel hands out."""
    ports: list[int] = []
    with contextlib.ExitStack() as held:
        while len(ports) < count:
            port = random.SystemRandom().randrange(20000, 32000)
            taken = held.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                taken.bind(("127.0.0.1", port))
                ports.append(port)
    return ports


def _write_private(path: Path, content: bytes) -> None:
    """Write a file that its owner alone may read, as munged and slurmdbd demand."""
    path.touch(mode=0o600)
    path.write_bytes(content)
