"""The callbacks that write a run's record while it trains, and show its progress."""

import io
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from tqdm import tqdm

from sparse_lightning.functional.checks import expect, nearest
from sparse_lightning.study.train.connections import Connections
from sparse_lightning.study.train.record import (
    BEST,
    CHECKPOINTS,
    CONFIG,
    DENSITY,
    LAST,
    PREVIOUS,
    RESULT,
    MetricsCSV,
    in_unit,
    write,
)
from sparse_lightning.study.train.resume import SETTINGS


class WholeCheckpoints(TorchCheckpointIO):
    """Writes each checkpoint atomically, and keeps the one before as ``<name>.previous``, in case the newer breaks."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint.

        Raises:
            OSError: The disk is full or not writable; the one before is unchanged.
        """
        path = Path(path)
        previous = path.with_name(path.name + PREVIOUS)
        path.parent.mkdir(parents=True, exist_ok=True)
        for directory in (path, previous):
            if directory.is_dir():  # reported as damaged when the run was continued
                shutil.rmtree(directory)
        content = io.BytesIO()  # to memory first: PyTorch does not name the reason of an error in writing
        torch.save(checkpoint, content)
        write(path, content.getvalue(), keep=previous)


class Recorder(Checkpoint):
    """Writes the configuration, the metrics of each epoch, and the last and the best checkpoint.

    The best is that of the epochs since the density last changed: a denser network is not the one that is trained for.
    As a Checkpoint it is called last at an epoch's end, when all metrics of the epoch are known. An earlier result is
    removed only when training begins, so that a continuation that is refused leaves a finished run as it was. Logs
    `epoch_time`, the seconds of an epoch with its validation. PyTorch's random state is in its state, so that dropout
    continues as if never interrupted, and the settings of the run are in the checkpoint, which says whose it is.

    Args:
        folder: The run's folder.
        config: The resolved configuration, as YAML.
        settings: The settings that decide the run, by dotted name.
        metric: The metric by which a checkpoint is best.
        mode: Whether ``"max"`` or ``"min"`` is best.
        connections: Whose metrics are recorded too.

    Raises:
        ValueError: `metrics.csv` is damaged, or, after an epoch, the metric is not logged.
    """

    def __init__(
        self,
        folder: Path,
        config: str = "",
        settings: Mapping[str, Any] | None = None,
        *,
        metric: str = "val_acc",
        mode: str = "max",
        connections: Connections | None = None,
    ) -> None:
        self.folder, self.config, self.settings = folder, config, dict(settings or {})
        self.metric, self.mode, self.connections = metric, mode, connections
        self.table = MetricsCSV(folder)
        self._best: float | None = None
        self._density: float | None = None
        self._random_state: torch.Tensor | None = None
        self._before: dict[str, Any] = {}
        self._validated = self._logged = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the configuration, remove an earlier result, restore the random state, and start the clock."""
        if trainer.is_global_zero:
            self.folder.mkdir(parents=True, exist_ok=True)
            write(self.folder / CONFIG, self.config)
            (self.folder / RESULT).unlink(missing_ok=True)
        if self._random_state is not None:  # now, after the setup, which draws random numbers
            torch.set_rng_state(self._random_state)
            self._random_state = None
        self._started = time.perf_counter()  # also where a run continues in the middle of an epoch

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember the metrics of earlier epochs, which Lightning keeps."""
        self._before = dict(trainer.callback_metrics)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember that the metrics of a validation are known."""
        self._validated |= not trainer.sanity_checking

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the metrics, then the checkpoints."""
        now, epoch = time.perf_counter(), trainer.current_epoch
        new = {k: v for k, v in trainer.callback_metrics.items() if v is not self._before.get(k)}
        metrics = {name: float(value) for name, value in new.items()} | {"epoch_time": now - self._started}
        self._started = now
        for logger in trainer.loggers:
            logger.log_metrics({"epoch_time": metrics["epoch_time"], "epoch": epoch}, step=trainer.global_step)
        if trainer.is_global_zero:
            self.table.log_metrics(metrics | (self.connections.latest if self.connections else {}) | {"epoch": epoch})
        value, density = metrics.get(self.metric), metrics.get(DENSITY)
        if density != self._density:
            self._best, self._density = None, density
        self._logged |= value is not None
        if not self._logged and self._validated:
            known = ", ".join(sorted(name for name in metrics if "/" not in name and name != "epoch_time"))
            logged = f"report.metric to be logged each epoch ({known} are)"
            expect(self.metric in metrics, logged, self.metric, nearest(self.metric, metrics))
        sign = 1 if self.mode == "max" else -1
        if value is not None and trainer.strategy.broadcast(self._best is None or sign * value > sign * self._best):
            self._best = value if value == value else None  # any number is better than NaN
            trainer.save_checkpoint(self.folder / CHECKPOINTS / BEST)
        trainer.save_checkpoint(self.folder / CHECKPOINTS / LAST)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Say whose checkpoint it is."""
        checkpoint[SETTINGS] = self.settings

    def state_dict(self) -> dict[str, Any]:
        """PyTorch's random state, and the best value so far with its density."""
        return {"random_state": torch.get_rng_state(), "best": self._best, "density": self._density,
                "by": [self.metric, self.mode]}  # fmt: skip

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the random state until training begins."""
        self._random_state = state_dict["random_state"]
        self._best = state_dict["best"] if state_dict["by"] == [self.metric, self.mode] else None
        self._density, self._logged = state_dict.get("density"), True


class Progress(Checkpoint):
    """Shows the progress of a single run: a bar on a terminal, or else one line per epoch.

    Args:
        metric: The metric that the bar shows.
        bar: Whether to show the bar.
    """

    def __init__(self, metric: str, bar: bool) -> None:
        self.metric, self._shows_bar = metric, bar
        self._bar: tqdm | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the bar."""
        if self._shows_bar and trainer.is_global_zero:
            width = min(shutil.get_terminal_size().columns, 80)
            shape = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"
            batches, epochs = trainer.num_training_batches, trainer.max_epochs or -1
            total = batches * epochs if epochs > 0 and batches != float("inf") else None
            done = trainer.current_epoch * int(batches) if total else 0
            self._bar = tqdm(total=total, initial=done, ncols=width, bar_format=shape, file=sys.stderr, leave=False)
            self._describe(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count the epochs."""
        self._describe(trainer)

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """Count the batches."""
        if self._bar is not None:
            self._bar.update()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the metrics of the epoch."""
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        if self._bar is not None:
            if self.metric in metrics:
                self._bar.set_postfix_str(f"{self.metric} {in_unit(self.metric, metrics[self.metric])}", refresh=False)
        elif trainer.is_global_zero:
            names = dict.fromkeys(("train_loss", "train_acc", "val_loss", "val_acc", self.metric))
            values = "  ".join(f"{name} {in_unit(name, metrics[name])}" for name in names if name in metrics)
            print(f"epoch {trainer.current_epoch + 1} of {trainer.max_epochs}:  {values}", flush=True)

    def on_train_end(self, *args: Any) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.close()

    def on_exception(self, *args: Any) -> None:
        """Remove the bar."""
        self.on_train_end()

    def _describe(self, trainer: Trainer) -> None:
        if self._bar is not None:
            self._bar.set_description_str(f"epoch {trainer.current_epoch + 1} of {trainer.max_epochs}", refresh=False)
