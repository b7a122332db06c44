"""Commands in forks of one process that has imported all they need, once: the same, without seconds of imports each.

Tests of what becomes of processes (signals, kills, fresh environments) start commands by themselves.
"""

import atexit
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path


def run(
    command: list[object], cwd: object = None, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run ``[sys.executable, script, *arguments]``, as subprocess.run with its output captured as text."""
    if sys.platform != "linux":  # where forking is not safe
        return subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, cwd=cwd, env=env)
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder) / "out", Path(folder) / "err"
        server, words = _server(), [*map(str, command)]
        request = {"argv": words[1:], "cwd": str(cwd or Path.cwd()), "env": dict(env or os.environ)}
        print(json.dumps(request | {"out": str(out), "err": str(err)}), file=server.stdin, flush=True)
        status = int(server.stdout.readline())
        return subprocess.CompletedProcess(words, status, out.read_text("utf-8"), err.read_text("utf-8"))


@cache
def _server() -> subprocess.Popen[str]:
    server = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    atexit.register(server.communicate)  # closes what it reads, which ends it
    return server


def _serve() -> dict[str, object]:
    """Fork at each request; returns it in the fork."""
    for line in sys.stdin:
        request: dict[str, object] = json.loads(line)
        process = os.fork()
        if process == 0:
            return request
        _, status = os.waitpid(process, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
    sys.exit()


def _become(request: dict[str, object]) -> None:
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
