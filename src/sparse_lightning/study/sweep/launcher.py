"""Runs in processes of their own: whatever becomes of one of them, the sweep continues."""

import contextlib
import multiprocessing
import multiprocessing.connection
import multiprocessing.resource_tracker
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from sparse_lightning.study.train.record import CONFIG, Job, result_of, sentence
from sparse_lightning.study.train.resume import is_locked
from sparse_lightning.study.train.run import attempt, job_of, note_failure, objective

# A fork server imports PyTorch and Lightning once, and each run forks off it in an instant, sharing that memory.
# Elsewhere than on Linux forking is not safe once system libraries were loaded, and each process starts anew.
_CONTEXT = (
    multiprocessing.get_context("forkserver") if sys.platform == "linux" else multiprocessing.get_context("spawn")
)


def run(cfg: DictConfig) -> float:
    """Train one run of Hydra's and return its last metric, the objective of a search.

    A single run is trained by this process. A run of a multirun has a process of its own: a failure, or a crash, is
    recorded in its folder, and the others continue.
    """
    try:
        job = job_of(cfg)
    except ValueError as error:
        sys.exit(f"Error: {sentence(error)}")  # Hydra would print more of an exception
    if job.alone:
        attempt(job)
    else:
        process = start(job)
        try:
            finish(process, job)
        finally:
            process.kill()
    return objective(job.folder, cfg.report.metric, cfg.report.mode)


def start(job: Job, work: Callable[[Job], None] = attempt) -> BaseProcess:
    """Start a run in a process that does not outlive this one."""
    return _start(work, job)


def _start(work: Callable[[Any], None], argument: Any) -> BaseProcess:
    _CONTEXT.set_forkserver_preload(["sparse_lightning.study.train.training"])
    process: BaseProcess = _CONTEXT.Process(target=_serve, args=(work, argument))
    if sys.platform != "win32":
        multiprocessing.resource_tracker.ensure_running()  # which lets interrupts through when it starts
    with _interrupts_blocked():  # which the fork server and its processes inherit
        process.start()
    return process


def finish(process: BaseProcess, job: Job) -> None:
    """Wait for the end of a run, and record a crash, unless another process trains the run by now."""
    process.join()
    if process.exitcode and not result_of(job.folder) and not is_locked(job.folder):
        note_failure(
            job.folder, f"Expected the process of the run to end by itself, got one that {_end(process.exitcode)}"
        )


class ProcessLauncher(Launcher):
    """Hydra's launcher for this machine: each run in a process of its own, several at once.

    Args:
        n_jobs: The number of runs at once; -1 for one per core.
    """

    def __init__(self, n_jobs: int = -1) -> None:
        if not (isinstance(n_jobs, int) and (n_jobs == -1 or n_jobs >= 1)):
            raise ValueError(f"Expected hydra.launcher.n_jobs to be -1 or an integer from 1, got {n_jobs!r}")
        self.n_jobs = cores() if n_jobs == -1 else n_jobs

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what Hydra gives."""
        self.hydra_context, self.config = hydra_context, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Train the runs of these overrides, and return their objectives."""
        setup_globals()
        running = dict[BaseProcess, tuple[Job, JobReturn]]()
        returns = [self._prepare(number, overrides) for number, overrides in enumerate(job_overrides, initial_job_idx)]
        prepared = [(_job_from(returned), returned) for returned in returns]
        _refuse_unbuildable([job for job, _ in prepared if job is not None and not (job.folder / CONFIG).exists()])
        try:
            for job, returned in prepared:
                if job is not None:
                    if len(running) >= self.n_jobs:
                        self._wait(running)
                    running[start(job)] = job, returned
            while running:
                self._wait(running)
        finally:
            for process in running:
                process.kill()
        return returns

    def _prepare(self, number: int, overrides: Sequence[str]) -> JobReturn:
        config = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
        with open_dict(config):
            config.hydra.job.id, config.hydra.job.num = str(number), number
        return run_job(job_of, config, "hydra.sweep.dir", "hydra.sweep.subdir", self.hydra_context)

    def _wait(self, running: dict[BaseProcess, tuple[Job, JobReturn]]) -> None:
        """Wait for some runs to end."""
        ended = multiprocessing.connection.wait([process.sentinel for process in running])
        for process in [process for process in running if process.sentinel in ended]:
            job, returned = running.pop(process)
            finish(process, job)
            assert returned.cfg
            report = returned.cfg.report
            returned.return_value = objective(job.folder, report.metric, report.mode)


def _job_from(returned: JobReturn) -> Job | None:
    """The job that was prepared, or None if its configuration cannot be used, which is noted in its folder."""
    try:
        job: Job = returned.return_value
    except ValueError as error:
        assert returned.hydra_cfg
        note_failure(Path(returned.hydra_cfg.hydra.runtime.output_dir), sentence(error))
        returned.status, returned.return_value = JobStatus.COMPLETED, float("nan")
        return None
    return job


def _refuse_unbuildable(jobs: Sequence[Job]) -> None:
    """End the sweep before its first run, if the model or the sparsity of a job cannot be built."""
    if jobs:
        receiver, sender = _CONTEXT.Pipe(duplex=False)
        process = _start(partial(_send_refusal, sender), jobs)
        sender.close()
        with contextlib.suppress(EOFError):  # it crashed: let the runs themselves show why
            if refusal := receiver.recv():
                sys.exit(f"Error: {refusal}")
        process.join()


def _send_refusal(sender: Connection, jobs: Sequence[Job]) -> None:
    from sparse_lightning.study.train.training import refuse_unbuildable

    refusal = ""
    with contextlib.suppress(Exception):  # any other is for the runs, which note it with its traceback
        try:
            refuse_unbuildable(jobs)
        except ValueError as error:
            refusal = sentence(error)
    sender.send(refusal)


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _serve(work: Callable[[Any], None], argument: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that waits ends this one
    threading.Thread(target=_end_with_parent, daemon=True).start()
    work(argument)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:  # a pipe that is closed by its death, even before this process began
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


@contextlib.contextmanager
def _interrupts_blocked() -> Iterator[None]:
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end(code: int) -> str:
    """How a process ended, in words.

    >>> _end(-9), _end(-11), _end(3)
    ('was killed (SIGKILL; perhaps out of memory)', 'was killed (SIGSEGV)', 'exited with status 3')
    """
    if code >= 0:
        return f"exited with status {code}"
    name = next((each.name for each in signal.Signals if each == -code), f"signal {-code}")
    return f"was killed ({name}; perhaps out of memory)" if name == "SIGKILL" else f"was killed ({name})"
