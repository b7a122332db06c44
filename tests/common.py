"""What tests of every folder use: a model and data that are not ours, a logger that keeps, and the scripts."""

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import forked
import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.loggers import Logger
from torch import Tensor, nn

from sparse_lightning.datamodules.mnist import Batches, Order

ROOT = Path(__file__).parent.parent
SHORT = ["trainer.limit_train_batches=12", "trainer.limit_val_batches=6"]

SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
CONSTANT = partial(torch.optim.lr_scheduler.MultiStepLR, milestones=[])


def script(name: str, *arguments: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run one of the scripts as a user would."""
    done = forked.run([sys.executable, ROOT / "scripts" / name, *arguments])
    assert not check or done.returncode == 0, done.stderr
    return done


class Model(LightningModule):
    """A network that is not ours, trained to do anything at all."""

    def __init__(
        self,
        network: nn.Module,
        optimizer: Callable[..., Any] = SGD,
        schedule: Callable[..., Any] = CONSTANT,
    ) -> None:
        super().__init__()
        self.network, self.optimizer, self.schedule = network, optimizer, schedule

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self.network(batch[0]).float().logsumexp(-1).mean()

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.network(batch[0])

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer(self.parameters())
        return [optimizer], [self.schedule(optimizer)]


class Data(LightningDataModule):
    """The same samples to train on, in an order of their own each epoch, and to validate with."""

    def __init__(self, inputs: Tensor, labels: Tensor, batch_size: int = 8) -> None:
        super().__init__()
        self.inputs, self.labels, self.batch_size = inputs, labels, batch_size

    def train_dataloader(self) -> Batches:
        return Batches(self.inputs, self.labels, Order(len(self.labels), self.batch_size, seed=0))

    def val_dataloader(self) -> Batches:
        return Batches(self.inputs, self.labels, Order(len(self.labels), self.batch_size))

    test_dataloader = val_dataloader


class Record(Logger):
    """Keeps what is logged, {epoch: {name: value}}."""

    name, version = "record", 0

    def __init__(self) -> None:
        super().__init__()
        self.epochs: dict[int, dict[str, float]] = {}

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None: ...

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.epochs.setdefault(int(metrics["epoch"]), {}).update(metrics)
