"""A run in a process of its own: whatever becomes of that process, the sweep goes on."""

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import TypeVar

Task = TypeVar("Task")

# A fork server has imported PyTorch and Lightning once, and each run forks off it in an instant, sharing that memory.
# Elsewhere than on Linux forking is not safe once system libraries were loaded, and a process begins anew.
_CONTEXT = (
    multiprocessing.get_context("forkserver") if sys.platform == "linux" else multiprocessing.get_context("spawn")
)


def in_own_process(work: Callable[[Task], float], task: Task, preload: str, launched: bool) -> float:
    """What `work` makes of `task`, in a process that does not outlive this one.

    Args:
        work: A function of a module, which leaves no exception.
        task: What it is given; it is pickled.
        preload: The module that takes long to import.
        launched: Whether this process belongs to a launcher, and ends when that one is gone.

    Raises:
        ChildProcessError: The process was killed, or crashed.
    """
    _CONTEXT.set_forkserver_preload([preload])
    method = _CONTEXT.get_start_method()
    if multiprocessing.get_start_method(allow_none=True) not in (None, *multiprocessing.get_all_start_methods()):
        multiprocessing.set_start_method(method, force=True)  # joblib's workers have one that children do not know
    receiver, sender = _CONTEXT.Pipe(duplex=False)
    process = _CONTEXT.Process(target=_serve, args=(work, task, sender))
    starter = os.getppid()
    process.start()
    sender.close()
    try:
        while not receiver.poll(1.0):
            if launched and os.getppid() != starter:
                process.kill()
                os._exit(1)  # joblib would go on with the next
        return float(receiver.recv())
    except EOFError:
        process.join()
        raise ChildProcessError(
            f"Expected the process of the run to end by itself, got one that {_end(process.exitcode)}"
        ) from None
    finally:
        process.kill()
        process.join()


def _serve(work: Callable[[Task], float], task: Task, sender: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that waits ends this one
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sender.send(work(task))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


def _end(code: int | None) -> str:
    """How a process ended, in words.

    >>> _end(-9), _end(-11), _end(3)
    ('was killed (SIGKILL; out of memory, perhaps)', 'was killed (SIGSEGV)', 'left with status 3')
    """
    if code is None or code >= 0:
        return f"left with status {code}"
    name = str(-code)
    with contextlib.suppress(ValueError):
        name = signal.Signals(-code).name
    return f"was killed ({name}; out of memory, perhaps)" if name == "SIGKILL" else f"was killed ({name})"
