"""What a run writes into its folder: configuration, metrics, checkpoints, result.

The folder is the record; everything downstream reads it. `config.yaml` is the resolved configuration, `metrics.csv` has
a row an epoch, `checkpoints/` the last and the best one, `result.json` is written last, and `error.txt` stands in its
place where a run has failed.
"""

import csv
import json
import os
import time
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

CONFIG, METRICS, RESULT, ERROR, CHECKPOINTS = "config.yaml", "metrics.csv", "result.json", "error.txt", "checkpoints"


def write(path: Path, content: str | bytes) -> None:
    """Write a file at once: a reader, or a process killed meanwhile, never sees half of it."""
    part = path.with_name(f"{path.name}.part")
    part.write_bytes(content.encode() if isinstance(content, str) else content)
    os.replace(part, path)


def read_metrics(folder: Path) -> list[dict[str, str]]:
    """The rows of a run's metrics, one an epoch; none if it has not written any."""
    path = folder / METRICS
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


class MetricsCSV(Logger):
    """Logs to `metrics.csv`, one row an epoch, whole after every write; a continued run continues the file.

    Metrics logged more often than once an epoch show their last value.

    Args:
        folder: The run's folder.
    """

    def __init__(self, folder: str | Path) -> None:
        super().__init__()
        self.folder = Path(folder)
        self._rows = {int(row["epoch"]): row for row in read_metrics(self.folder)}

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.name

    @property
    def version(self) -> str:
        """None of its own."""
        return ""

    @property
    def log_dir(self) -> str:
        """The run's folder."""
        return str(self.folder)

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing: they are in `config.yaml`."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Take metrics into their epoch's row; rows of later epochs, of a run continued from before them, go."""
        epoch = int(metrics["epoch"])
        self._rows = {number: row for number, row in self._rows.items() if number <= epoch}
        said = {name: f"{value:.7g}" for name, value in metrics.items()}  # what a 32-bit float holds
        self._rows[epoch] = self._rows.get(epoch, {}) | said | {"epoch": str(epoch)}
        found = dict.fromkeys(key for row in self._rows.values() for key in row)
        columns = sorted(found, key=lambda name: (name != "epoch", "/" in name))
        lines = [columns] + [[row.get(column, "") for column in columns] for row in self._rows.values()]
        self.folder.mkdir(parents=True, exist_ok=True)
        write(self.folder / METRICS, "".join(",".join(line) + "\n" for line in lines))


class Record(Callback):
    """Writes the configuration when training begins, logs `epoch_time`, and keeps PyTorch's random state.

    An earlier outcome is let go of only when training begins, so that a continuation that is refused leaves a finished
    run's record as it was. `epoch_time` is the seconds of an epoch with its validation. The random state goes into the
    checkpoint, so that dropout continues as if never interrupted.

    Args:
        folder: The run's folder.
        config: The resolved configuration, as YAML.
    """

    def __init__(self, folder: Path, config: str) -> None:
        self.folder, self.config = folder, config
        self._random_state: torch.Tensor | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write, let go, take up the random state, and begin to count the time."""
        if trainer.is_global_zero:
            write(self.folder / CONFIG, self.config)
            for name in (ERROR, RESULT):
                (self.folder / name).unlink(missing_ok=True)
        if self._random_state is not None:  # now, past all that draws random numbers to set up
            torch.set_rng_state(self._random_state)
            self._random_state = None
        self._started = time.perf_counter()  # also where a run continues in the middle of an epoch

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the time, and begin again."""
        now = time.perf_counter()
        pl_module.log("epoch_time", now - self._started)
        self._started = now

    def state_dict(self) -> dict[str, Any]:
        """PyTorch's random state now."""
        return {"random_state": torch.get_rng_state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the random state until training begins."""
        self._random_state = state_dict["random_state"]


class Checkpoint(ModelCheckpoint):
    """Lightning's own for the ends of epochs, without what it does at each step."""

    @cached_property
    def state_key(self) -> str:
        """Tells it apart from others; worked out once, since it is asked for at every hook of every step."""
        return super().state_key

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """Nothing is saved after a batch, so nothing is looked at."""


def recorders(folder: Path, config: str) -> list[Callback]:
    """The callbacks that write a run's record: configuration, times, random state, last and best checkpoint."""
    where = folder / CHECKPOINTS
    return [
        Record(folder, config),
        Checkpoint(where, filename="best", monitor="val_acc", mode="max", enable_version_counter=False),
        # One that monitors nothing: with a monitor, Lightning updates the last only when it has a new best.
        Checkpoint(where, filename="last", enable_version_counter=False),
    ]


def write_result(folder: Path, accuracy: Mapping[int, float], **facts: Any) -> dict[str, Any]:
    """Write `result.json`, the sign of a finished run: what the validation accuracy of its epochs came to. Returns it.

    Args:
        folder: The run's folder.
        accuracy: Validation accuracy, a share, by epoch, in their order; at least one.
        facts: What else to note.
    """
    best = max(accuracy, key=lambda epoch: accuracy[epoch])
    result = {
        "epochs": len(accuracy),
        "val_acc_max": accuracy[best],
        "val_acc_max_epoch": best,
        "val_acc_last": list(accuracy.values())[-1],
    }
    write(folder / RESULT, json.dumps(result | facts, indent=2) + "\n")
    return result


def sentence(error: BaseException) -> str:
    """What went wrong, in a sentence or two instead of a traceback."""
    while type(error).__name__ == "InstantiationException" and error.__cause__:
        error = error.__cause__  # Hydra wraps what a constructor raises
    if isinstance(error, OSError) and error.errno:
        return f"Expected to be able to use {error.filename}, got: {error.strerror}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = " ".join(lines[:2])
    return said if said and isinstance(error, ValueError | OSError) else f"{type(error).__name__}: {said}"
