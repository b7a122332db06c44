"""Commands in forks of one process that has imported all they need, once: the same, without seconds of imports each.

Tests of what becomes of processes (signals, kills, fresh environments) start commands by themselves.
"""

import atexit
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any


def run(
    command: list[object], cwd: object = None, env: Mapping[str, str] | None = None, processes: int = 1
) -> subprocess.CompletedProcess[str]:
    """Run ``[sys.executable, script, *arguments]``, as subprocess.run with its output captured as text.

    Several processes are those of one distributed training, which Lightning would otherwise start by itself.
    """
    if sys.platform != "linux":  # where forking is not safe
        return subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, cwd=cwd, env=env)
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder) / "out", Path(folder) / "err"
        server, words = _server(), [*map(str, command)]
        given = dict(env or os.environ)
        environments = [given | ranks for ranks in _ranks(processes)] if processes > 1 else [given]
        request = {"argv": words[1:], "cwd": str(cwd or Path.cwd()), "out": str(out), "err": str(err)}
        print(json.dumps(request | {"environments": environments}), file=server.stdin, flush=True)
        status = int(server.stdout.readline())
        return subprocess.CompletedProcess(words, status, out.read_text("utf-8"), err.read_text("utf-8"))


@cache
def _server() -> subprocess.Popen[str]:
    server = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    atexit.register(server.communicate)  # closes what it reads, which ends it
    return server


def _ranks(processes: int) -> list[dict[str, str]]:
    """What tells each of these processes its rank, and where the first one is."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    return [meeting | {"LOCAL_RANK": str(rank)} for rank in range(processes)]


def _serve() -> dict[str, Any]:
    """Fork at each request, once for each of its environments; returns it in the forks."""
    for line in sys.stdin:
        request, forks = json.loads(line), list[int]()
        for environment in request.pop("environments"):
            forks.append(os.fork())
            if forks[-1] == 0:
                return request | {"env": environment}
        ends = [os.waitstatus_to_exitcode(os.waitpid(fork, 0)[1]) for fork in forks]
        print(next(filter(None, ends), 0), flush=True)
    sys.exit()


def _become(request: dict[str, Any]) -> None:
    """Take the arguments, environment, folder and files of the request."""
    for number, name in enumerate([os.devnull, request["out"], request["err"]]):
        os.dup2(os.open(str(name), os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), number)
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(str(request["cwd"]))
    sys.argv[:] = request["argv"]
    sys.path[:0] = [str(Path(sys.argv[0]).parent), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]


if __name__ == "__main__":
    import multiprocessing
    import runpy

    import hydra  # noqa: F401
    import torch

    import sparse_lightning.study.analysis.report
    import sparse_lightning.study.cli
    import sparse_lightning.study.train.training  # noqa: F401
    from sparse_lightning.study.sweep import launcher

    torch.set_num_threads(1)
    launcher._CONTEXT = multiprocessing.get_context("fork")  # else each multirun would import everything once more
    _become(_serve())
    runpy.run_path(sys.argv[0], run_name="__main__")
