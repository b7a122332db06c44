"""A multirun as one thing: its runs named by what differs, one bar for all of them, its table at the end."""

import json
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict
from tqdm import tqdm

from sparse_lightning.study.record import CONFIG, ERROR, METRICS, RESULT


def run_name(overrides: Sequence[str], constant: Sequence[str]) -> str:
    """A run's name: its overrides without their groups, leaving out those that are constant.

    >>> run_name(["trainer.max_epochs=2", "model.hebbian_grow=True", "seed=3"], constant=["trainer.max_epochs"])
    'hebbian_grow=true,seed=3'
    """
    parts = [override.lstrip("+~").partition("=") for override in overrides]
    telling = [(key, value) for key, _, value in parts if key not in constant] or [(key, v) for key, _, v in parts]
    keys = [key for key, _ in telling]
    last = [key.rpartition(".")[2] for key in keys]
    names = [short if last.count(short) == 1 else key for key, short in zip(keys, last, strict=True)]
    values = [value.lower() if value in ("True", "False") else value.replace("/", "_") for _, value in telling]
    return ",".join(f"{name}={value}" for name, value in zip(names, values, strict=True)) or "run"


OmegaConf.register_new_resolver("run_name", run_name, replace=True)


class StudyProgress(Callback):
    """Hydra's callback for a multirun, called in the process that launches it."""

    watch: ClassVar["Watch | None"] = None  # on the class: Hydra sends the callback itself to every process

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Name the runs by what differs between them, and begin to show how far they are."""
        folder = Path(config.hydra.sweep.dir)
        if any(folder.glob(f"*/{CONFIG}")):
            # Hydra makes a warning of any other exception here.
            sys.exit(f"Error: Expected an empty folder for new runs, got {folder}, which has some; say output_dir=...")
        jobs = [dict(override.split("=", 1) for override in job) for job in _jobs(config)]
        constant = [key for key in jobs[0] if len({job[key] for job in jobs}) == 1] if jobs else []
        with open_dict(config):
            # Carried to every run as if it had been said on the command line.
            config.hydra.overrides.hydra.append(
                f"hydra.job.config.override_dirname.exclude_keys=[{','.join(constant)}]"
            )
        default = config.trainer.max_epochs
        epochs = sum(int(job.get("trainer.max_epochs", default)) for job in jobs)
        print(f"{len(jobs)} runs in {folder}", f"To watch them: tensorboard --logdir {folder}", sep="\n", flush=True)
        StudyProgress.watch = Watch(folder, len(jobs), epochs)
        StudyProgress.watch.start()


class Watch(threading.Thread):
    """Shows one bar for all runs of a folder, and a line as each one ends.

    Args:
        folder: The folder of the multirun.
        runs: How many runs there will be.
        epochs: How many epochs they will have in all.
    """

    def __init__(self, folder: Path, runs: int, epochs: int) -> None:
        super().__init__(daemon=True)
        self.folder, self.runs, self.epochs = folder, runs, epochs
        self._over = threading.Event()

    def stop(self) -> None:
        """Show what has ended last, and no more."""
        self._over.set()
        self.join()

    def run(self) -> None:
        """Look at the folder twice a second."""
        started, ended, over = time.monotonic(), set[Path](), False
        with tqdm(total=self.epochs, unit="epoch", disable=not sys.stderr.isatty(), leave=False, smoothing=0) as bar:
            while not over:
                over = self._over.wait(0.5)  # and look once more after the end
                epochs = {path.parent: _epochs(path.parent) for path in self.folder.glob(f"*/{CONFIG}")}
                done = sum(epochs.values())
                for folder in epochs.keys() - ended:
                    if line := _ending(folder):
                        ended.add(folder)
                        left = (time.monotonic() - started) / max(done, 1) * (self.epochs - done)
                        number = f"[{len(ended):{len(str(self.runs))}}/{self.runs}]"
                        bar.write(f"{number} {folder.name}  {line}{_left(left)}")
                        sys.stdout.flush()
                bar.update(done - bar.n)


def _jobs(config: DictConfig) -> list[list[str]]:
    """The overrides of each run, as Hydra's basic sweeper will make them; none for another sweeper."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    if not str(config.hydra.sweeper.get("_target_")).endswith(BasicSweeper.__name__):
        return []
    said = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
    overrides = OverridesParser.create().parse_overrides([*said, *config.hydra.overrides.task])
    return BasicSweeper.split_arguments(overrides, max_batch_size=None)[0]


def _epochs(folder: Path) -> int:
    path = folder / METRICS
    return max(path.read_text(encoding="utf-8").count("\n") - 1, 0) if path.exists() else 0


def _ending(folder: Path) -> str | None:
    """How a run ended, in a few words; None if it has not."""
    if (folder / RESULT).exists():
        result = json.loads((folder / RESULT).read_text(encoding="utf-8"))
        return (
            f"best {result['val_acc_max']:.4f} (epoch {result['val_acc_max_epoch']})  last {result['val_acc_last']:.4f}"
        )
    if (folder / ERROR).exists():
        return f"failed: see {folder / ERROR}"
    return None


def _left(seconds: float) -> str:
    if not seconds:
        return ""
    return f"  about {seconds / 60:.0f} min left" if seconds >= 90 else f"  about {seconds:.0f} s left"
