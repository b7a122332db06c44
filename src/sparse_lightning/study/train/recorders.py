"""What writes a run's record while it trains: Lightning's logger, callbacks and checkpoints."""

import io
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from sparse_lightning.study.train.record import CHECKPOINTS, CONFIG, METRICS, PREVIOUS, RESULT, read_metrics, write


class MetricsCSV(Logger):
    """Logs to `metrics.csv`, one row an epoch, whole after every write; a continued run continues the file.

    Metrics logged more often than once an epoch show their last value.

    Args:
        folder: The run's folder.

    Raises:
        ValueError: The file of the run to continue is damaged.
    """

    def __init__(self, folder: str | Path) -> None:
        super().__init__()
        self.folder = Path(folder)
        try:
            self._rows = {int(row["epoch"]): row for row in read_metrics(self.folder)}
        except (KeyError, TypeError, ValueError) as error:
            path = self.folder / METRICS
            raise ValueError(
                f"Expected {path} to have a row an epoch, got a damaged file; force=true trains the run anew"
            ) from error

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
            (self.folder / RESULT).unlink(missing_ok=True)
        if self._random_state is not None:  # now, past all that draws random numbers to set up
            torch.set_rng_state(self._random_state)
            self._random_state = None
        self._started = time.perf_counter()  # also where a run continues in the middle of an epoch

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the time, and begin again."""
        now = time.perf_counter()
        pl_module.log("epoch_time", now - self._started, sync_dist=trainer.world_size > 1, batch_size=1)
        self._started = now

    def state_dict(self) -> dict[str, Any]:
        """PyTorch's random state now."""
        return {"random_state": torch.get_rng_state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the random state until training begins."""
        self._random_state = state_dict["random_state"]


class WholeCheckpoints(TorchCheckpointIO):
    """Writes each checkpoint at once, and keeps the one before as ``<name>.previous``, in case the newer is damaged."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint.

        Raises:
            OSError: There is no room, or no permission; the one before is as it was.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        # To memory first: of an error in writing, PyTorch says nothing but that there was one.
        content = io.BytesIO()
        torch.save(checkpoint, content)
        write(path, content.getvalue(), keep=path.with_name(path.name + PREVIOUS))


class Checkpoint(ModelCheckpoint):
    """Lightning's own for the ends of epochs, whose metrics are in `metrics.csv` before a checkpoint is written."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the state over, wherever the run's folder was then: Lightning forgets the best one when it has moved."""
        there, here = str(state_dict["dirpath"]), str(self.dirpath)

        def moved(value: Any) -> Any:
            if isinstance(value, Mapping):
                return {moved(key): moved(each) for key, each in value.items()}
            return here + value.removeprefix(there) if isinstance(value, str) and value.startswith(there) else value

        super().load_state_dict(moved(state_dict))

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """Nothing is saved after a batch, so nothing is looked at."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log what Lightning would log only after this, and save."""
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        for logger in trainer.loggers:
            if isinstance(logger, MetricsCSV):
                logger.log_metrics(metrics | {"epoch": trainer.current_epoch})
        super().on_train_epoch_end(trainer, pl_module)


def recorders(folder: Path, config: str) -> list[Callback]:
    """The callbacks that write a run's record: configuration, times, random state, last and best checkpoint."""
    where = folder / CHECKPOINTS
    return [
        Record(folder, config),
        Checkpoint(where, filename="best", monitor="val_acc", mode="max", enable_version_counter=False),
        # One that monitors nothing: with a monitor, Lightning updates the last only when it has a new best.
        Checkpoint(where, filename="last", enable_version_counter=False),
    ]
