"""Snakemake, and the jobs that it starts, as forks of a process that has imported everything.

Most of what a tiny study takes goes into imports. A server imports the libraries (nothing that is
tested) once; each run of Snakemake and each script is a fork of it, in the folder, with the
arguments, the environment and the streams that a process of its own would have.

    test --> server == fork ==> snakemake --> launcher --> server == fork ==> job's script

What forks share that processes would not is the seed of hashes and of random numbers: a test that
compares two runs byte by byte takes one of them from `tiny_study.snakemake`.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

from tiny_study import ROOT, snakemake_by

LIBRARIES = (
    *("torch", "transformers", "transformers.modeling_utils", "transformers.models.auto"),
    *("safetensors.torch", "tokenizers", "pandas", "pyarrow.parquet", "scipy.optimize"),
    *("scipy.stats", "statsmodels.api", "statsmodels.formula.api", "matplotlib.pyplot"),
    *("matplotlib.backends.backend_pdf", "matplotlib.backends.backend_svg", "jsonschema", "yaml"),
    *("snakemake.cli", "snakemake.workflow", "snakemake.executors.local", "pulp"),
)
LAUNCHER = """\
#!{python} -SE
import os, sys
if not sys.argv[1:] or not sys.argv[1].endswith(".py"):
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
import json, signal, socket
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
request = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
socket.send_fds(server, [len(request).to_bytes(8, "big")], [0, 1, 2])
server.sendall(request)
answers = server.makefile()
job = int(answers.readline())
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, lambda number, _: os.kill(job, number))
status = int(answers.readline() or 1)
if status < 0:
    signal.signal(-status, signal.SIG_DFL)
    os.kill(os.getpid(), -status)
sys.exit(status)
"""


class Server:
    """The process that forks, and the program that asks it to, as if it were Python."""

    def __init__(self, **env: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="forked-"))
        address = str(self.folder / "socket")
        self.launcher = self.folder / "python"
        self.launcher.write_text(LAUNCHER.format(python=sys.executable, address=address))
        self.launcher.chmod(0o755)
        threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, __file__, address, str(self.launcher)],
            env={**os.environ, **threads, **env},  # libraries read theirs when they are imported
            stdin=subprocess.PIPE,  # its end is the server's
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout
        assert self.process.stdout.readline() == "ready\n"
        atexit.register(self.close)

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


_servers: dict[tuple[tuple[str, str], ...], Server] = {}


def snakemake(
    study: Path, *arguments: str, check: bool = True, root: Path = ROOT, **env: str
) -> str:
    """`tiny_study.snakemake` by forks; each set of variables has a server of its own."""
    key = tuple(sorted(env.items()))
    if key not in _servers:
        _servers[key] = Server(**env)
    program = [str(_servers[key].launcher), "snakemake.py"]
    return snakemake_by(program, study, arguments, check, root, env)


# The server's side.


def serve(address: str, launcher: str) -> None:
    """Answer requests until the process that started this one has ended."""
    import importlib
    import select

    for name in LIBRARIES:
        importlib.import_module(name)
    sys.executable = launcher
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(address)
    listening.listen(16)
    print("ready", flush=True)
    running = 0
    while True:
        ready, _, _ = select.select([listening, sys.stdin], [], [])
        if sys.stdin in ready:
            return
        client, _ = listening.accept()
        running += 1
        if os.fork() == 0:
            listening.close()
            answer(client)
        client.close()
        while running and os.waitpid(-1, os.WNOHANG)[0]:
            running -= 1


def answer(client: socket.socket) -> None:
    """Fork once more into the job, and say its process id and how it ended."""
    size, streams, _, _ = socket.recv_fds(client, 8, 3)
    request = client.makefile("rb").read(int.from_bytes(size, "big"))
    job = os.fork()
    if job == 0:
        client.close()
        os._exit(become(streams, *json.loads(request)))
    client.sendall(f"{job}\n".encode())
    _, status = os.waitpid(job, 0)
    client.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
    os._exit(0)


def become(streams: list[int], argv: list[str], folder: str, environment: dict[str, str]) -> int:
    """Run a script, or Snakemake, as a process of its own would; returns its exit status."""
    import runpy

    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        number = ("stdin", "stdout", "stderr").index(name)
        setattr(sys, name, open(number, mode, buffering=1, closefd=False))  # noqa: SIM115
        setattr(sys, f"__{name}__", getattr(sys, name))
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = argv
    status: object = 0
    try:
        if argv[0] == "snakemake.py":
            from snakemake.cli import main

            sys.path[0] = folder
            main()
        else:
            sys.path[0] = str(Path(argv[0]).parent)
            runpy.run_path(argv[0], run_name="__main__")
    except SystemExit as end:
        status = end.code
    except BaseException:
        traceback.print_exc()
        status = 1
    if status is not None and not isinstance(status, int):
        print(status, file=sys.stderr)
        status = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return int(status or 0)


if __name__ == "__main__":
    serve(*sys.argv[1:])
