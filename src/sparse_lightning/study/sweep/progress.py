"""A multirun as a whole: its runs are checked before any of them starts, and one bar shows them all."""

import contextlib
import heapq
import shutil
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import shorten
from typing import Any, ClassVar

from hydra import compose
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict
from tqdm import tqdm

from sparse_lightning.study.sweep.launcher import cores
from sparse_lightning.study.sweep.names import constant_keys, jobs_of, key_of, run_name
from sparse_lightning.study.train.record import (
    CONFIG,
    ERROR,
    SWEEP,
    epochs_of,
    in_epochs,
    result_of,
    sentence,
    summary_of,
)
from sparse_lightning.study.train.resume import is_locked, refuse_other
from sparse_lightning.study.train.run import prepare


class StudyProgress(Callback):
    """Hydra's callback for a multirun, called in the process that launches it."""

    watch: ClassVar["Watch | None"] = None  # on the class: Hydra sends the callback itself to every process
    refused: ClassVar[Exception | None] = None  # why a multirun was not started

    def on_multirun_start(self, config: DictConfig, config_name: str | None = None, **kwargs: Any) -> None:
        """Name the runs by what differs between them, compare them with those that are there, and show the progress."""
        try:
            self._start(config, config_name)
        except Exception as error:
            StudyProgress.refused = error
            sys.exit(f"Error: {sentence(error)}")  # Hydra makes a warning of an exception, and continues

    def _start(self, config: DictConfig, config_name: str | None) -> None:
        own = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
        prepare(own, config.hydra.overrides.task)
        folder, jobs = Path(config.hydra.sweep.dir), jobs_of(config)
        there = {path.parent.name for path in folder.glob(f"*/{CONFIG}")}
        constant = constant_keys(config.hydra.overrides.task, jobs, there)
        with open_dict(config):
            # Carried to every run, as if given on the command line.
            config.hydra.overrides.hydra += [
                f"hydra.job.config.override_dirname.exclude_keys=[{','.join(constant)}]",
                "hydra.sweep.dir='{}'".format(str(folder).replace("'", r"\'")),
            ]
            if "direction" in config.hydra.sweeper:  # a search for the best of the report's metric
                config.hydra.sweeper.direction = "maximize" if config.report.mode == "max" else "minimize"
        names = [run_name(job, constant) for job in jobs]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"Expected runs that differ in more than their place, got several of {', '.join(twice)}")
        _try_out(jobs, config_name)
        if not config.force:
            _refuse_others(folder, dict(zip(names, jobs, strict=True)), config_name)
        given = [dict(override.split("=", 1) for override in job) for job in jobs]
        lengths = [str(job.get("trainer.max_epochs", config.trainer.get("max_epochs"))) for job in given]
        known = all(map(str.isdecimal, lengths))
        epochs = dict(zip(names, map(int, lengths), strict=True)) if known else dict.fromkeys(names, 0)
        before = sum(bool(result_of(folder / name)) for name in names) if not config.force else 0
        finished = f", {before} of them finished before" if before else ""
        print(f"{len(names) or 'Several'} runs in {folder}{finished}", f"To watch them: tensorboard --logdir {folder}",
              sep="\n", flush=True)  # fmt: skip
        if StudyProgress.watch is not None:  # the multirun is started again
            StudyProgress.watch.stop()
        slots = {"processes": config.hydra.launcher.get("n_jobs"), "basic": 1}
        at_once = slots.get(config.hydra.runtime.choices["hydra/launcher"], 0)
        StudyProgress.watch = Watch(folder, epochs, at_once, report=config.report.get("make", True))
        StudyProgress.watch.start()


def _try_out(jobs: Sequence[Sequence[str]], config_name: str | None) -> None:
    """Compose each value of each key once, so that no run starts where one cannot.

    Raises:
        Exception: Whatever Hydra raises, or a configuration that cannot be used.
    """
    tried: set[str] = set()
    for job in jobs:
        new = {override for override in job if key_of(override) != "seed"} - tried
        if new:
            prepare(compose(config_name, list(job)), job)
            tried |= new


def _refuse_others(folder: Path, jobs: Mapping[str, Sequence[str]], config_name: str | None) -> None:
    """Check that the runs of these names that are there have the settings that are asked for.

    Raises:
        OtherRunError: One has others.
    """
    for name, overrides in jobs.items():
        if (folder / name / CONFIG).exists():
            asked = compose(config_name, list(overrides))
            prepare(asked, overrides)
            with open_dict(asked):
                for key in ("logger", "output_dir"):  # only a run can resolve them
                    asked.pop(key, None)
            refuse_other(folder / name, OmegaConf.to_container(asked, resolve=True))  # type: ignore[arg-type]


class Watch(threading.Thread):
    """Shows one bar for all runs of a multirun, and a line as each one ends.

    Args:
        folder: The folder of the multirun.
        epochs: The number of epochs of each run by its name, 0 where unknown; empty for all runs of the folder.
        at_once: How many runs are trained at once; -1 for one per core, 0 if unknown.
        report: Whether a report is wanted in the end.

    Attributes:
        created: Whether the folder did not exist before.
    """

    def __init__(self, folder: Path, epochs: Mapping[str, int], at_once: int = 0, report: bool = True) -> None:
        super().__init__(daemon=True)
        self.created = not folder.exists()
        self.folder, self.epochs, self.at_once, self.report = folder, epochs, at_once, report
        self._over = threading.Event()

    def runs(self) -> list[Path]:
        """The folders of the runs."""
        named = [self.folder / name for name in self.epochs]
        return named or sorted(path.parent for path in self.folder.glob(f"*/{CONFIG}"))

    def unfinished(self) -> list[Path]:
        """The folders of those that have neither a result nor an error, or that another process trains."""
        return [path for path in self.runs() if not ending(path) or is_locked(path)]

    def missing(self) -> list[Path]:
        """The folders of those without a result."""
        return [path for path in self.runs() if not result_of(path)]

    def remove_unused(self) -> None:
        """Remove what Hydra has created for a multirun that did not begin: empty folders, and its own note."""
        with contextlib.suppress(OSError):  # of a folder that is not empty
            if self.created:
                for path in self.runs():
                    path.rmdir()
                (self.folder / SWEEP).unlink()
                self.folder.rmdir()

    def stop(self) -> None:
        """Show what has ended last, and no more."""
        self._over.set()
        self.join()

    def run(self) -> None:
        """Look at the folders twice a second."""
        started, over, begun = time.monotonic(), False, {path: epochs_of(path) for path in self.runs()}
        ended = {path for path in begun if ending(path)}
        total, width = sum(self.epochs.values()), min(shutil.get_terminal_size().columns, 80)
        shape = "{desc} {percentage:3.0f}%|{bar}|{postfix}" if total else "{desc} {elapsed}{postfix}"
        hidden = not sys.stderr.isatty()
        with tqdm(total=total or None, disable=hidden, leave=False, ncols=width, bar_format=shape) as bar:
            while not over:
                over = self._over.wait(0.5)  # and look once more after the end
                done = {path: epochs_of(path) for path in self.runs()}
                ended = {path for path in ended if ending(path)}  # a run that had failed may be tried again
                new = sum(max(count - begun.get(path, 0), 0) for path, count in done.items())
                left = self._left(done, ended, time.monotonic() - started, new)
                for path in [path for path in done if path not in ended and ending(path)]:
                    ended.add(path)
                    number = f"{len(ended):{len(str(len(done)))}}/{len(done)}"
                    bar.write(f"[{number}] {path.name}  {ending(path)}{left}")
                    sys.stdout.flush()
                words = f"{len(ended)} of {len(done)} runs" if new or len(ended) == len(done) else "starting processes"
                bar.set_description_str(words, refresh=False)
                bar.set_postfix_str(left.strip(), refresh=False)
                bar.n = min(sum(done.values()), total or sum(done.values()))
                bar.refresh()

    def _left(self, done: Mapping[Path, int], ended: set[Path], seconds: float, new: int) -> str:
        """The time left, in words; empty where it is unknown."""
        if not new or not any(self.epochs.values()):
            return ""
        running = [path for path in done if path not in ended and (path / CONFIG).exists()]
        slots = cores() if self.at_once == -1 else self.at_once or max(len(running), 1)
        open_ = [max(self.epochs[path.name] - count, 0) for path, count in done.items() if path not in ended]
        left = time_left(open_, slots, seconds * min(slots, len(done)) / new)
        return "" if not left else f"  about {left / 60:.0f} min left" if left >= 90 else f"  about {left:.0f} s left"


def time_left(epochs: Sequence[int], slots: int, seconds: float) -> float:
    """How long runs of so many epochs still take, several at once.

    Args:
        epochs: The epochs left of each run, in the order of their start.
        slots: How many runs are trained at once.
        seconds: How long an epoch takes.

    >>> time_left([10, 10, 10], slots=2, seconds=1.0)
    20.0
    """
    ends = [0] * min(slots, len(epochs))
    for count in epochs:
        heapq.heapreplace(ends, ends[0] + count)
    return max(ends, default=0) * seconds


def ending(folder: Path) -> str:
    """How a run ended, in a few words; empty if it has not."""
    if result := result_of(folder):
        return summary_of(result)
    return f"failed after {in_epochs(epochs_of(folder))}: {shorten(reason(folder), 120)}" if failed(folder) else ""


def failed(folder: Path) -> bool:
    """Whether a run ended with an error."""
    return not result_of(folder) and (folder / ERROR).exists()


def reason(folder: Path) -> str:
    """Why a run has no result."""
    path = folder / ERROR
    if path.exists():
        return (path.read_text(encoding="utf-8", errors="replace").strip().splitlines() or [f"{ERROR} is empty"])[-1]
    return f"stopped after {in_epochs(epochs_of(folder))}"
