"""What the callback itself takes: one rewiring of a layer, and its checks of the weights."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from benchmarks.measuring import Row, milliseconds, quiet_trainer
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models import resnet18

from sparse_lightning import MNISTDataModule, PruneRegrow, SparseMLP

DENSITY, PRUNE_FRACTION = 0.2, 0.3


def rewire_rows(rounds: int, largest: int) -> list[Row]:
    """One Linear layer of each size, from 10^5 connections up: one topk, and one rewiring of each arm."""
    rows = []
    for power in range(5, largest + 1):
        size = 10**power

        def topk(seed: int, folder: Path, size: int = size) -> dict[str, float]:
            scores, replaced = torch.rand(size), round(DENSITY * PRUNE_FRACTION * size)
            return {"milliseconds": milliseconds(lambda: scores.topk(replaced))}

        def rewiring(seed: int, folder: Path, size: int = size, growth: str = "random") -> dict[str, float]:
            return {"milliseconds": _rewiring(size, growth, seed)}

        base = Row("rewire", f"topk, 10^{power}", topk, rounds)
        arms = {growth: partial(rewiring, growth=growth) for growth in ("random", "hebbian")}
        rows += [base, *(Row("rewire", f"{arm}, 10^{power}", work, rounds, (base,)) for arm, work in arms.items())]
    return rows


class _OneLayer(LightningModule):
    """A Linear layer that is trained for two epochs of a step, so that it is rewired in between."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.layer = nn.Linear(1000, size // 1000, bias=False)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self.layer(batch).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


class _Timed(PruneRegrow):
    """Notes how long a rewiring takes, the choice, the mask, the weights and the optimizer's state together."""

    milliseconds = 0.0

    def on_train_batch_start(self, *args: Any) -> None:
        before = self.rewirings
        took = milliseconds(lambda: super(_Timed, self).on_train_batch_start(*args))
        if self.rewirings > before:
            self.milliseconds = took


def _rewiring(size: int, growth: str, seed: int) -> float:
    callback = _Timed(DENSITY, prune_fraction=PRUNE_FRACTION, growth=growth, seed=seed)
    trainer = quiet_trainer(2, callback)
    trainer.fit(_OneLayer(size), DataLoader(torch.randn(8, 1000), batch_size=8))
    return callback.milliseconds


def check_rows(rounds: int) -> list[Row]:
    """What the callback takes of an epoch to check that weights are on their masks, beside its optimizer hook."""
    mlp = partial(_checking, lambda: SparseMLP(hebbian_grow=False), MNISTDataModule)
    return [
        Row("checks", "SparseMLP on MNIST", mlp, rounds),
        Row("checks", "ResNet-18 on 512 images of 64x64", partial(_checking, _ResNet, _images), rounds),
    ]


class _ResNet(LightningModule):
    """torchvision's ResNet-18, trained and validated."""

    def __init__(self) -> None:
        super().__init__()
        self.network = resnet18(num_classes=10)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return F.cross_entropy(self.network(batch[0]), batch[1])

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.network(batch[0])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9)

    def configure_callbacks(self) -> list[Callback]:
        return [PruneRegrow(density=DENSITY)]


def _images() -> tuple[DataLoader[Any], DataLoader[Any]]:
    images = TensorDataset(torch.randn(512, 3, 64, 64), torch.randint(10, (512,)))
    return DataLoader(images, batch_size=32), DataLoader(images, batch_size=64)


def _checking(
    build: Callable[[], LightningModule], data: Callable[[], Any], seed: int, folder: Path
) -> dict[str, float]:
    torch.manual_seed(seed)
    checked = _Checked()
    trainer, loaders = quiet_trainer(3, checked), data()
    loaders = loaders if isinstance(loaders, tuple) else (loaders,)
    trainer.fit(build(), *loaders)
    return {"% of an epoch": 100 * sum(checked.spent) / checked.took}


class _Checked(Callback):
    """Notes the milliseconds of each check from the second epoch on, and those of these epochs."""

    def __init__(self) -> None:
        self.spent: list[float] = []

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch == 1:
            training = next(each for each in trainer.callbacks if isinstance(each, PruneRegrow))._training
            for name in ("check", "_keep_on_masks"):
                setattr(training, name, self._timed(getattr(training, name)))
            self.begun = time.perf_counter()

    def _timed(self, work: Callable[[], None]) -> Callable[[], None]:
        return lambda: self.spent.append(milliseconds(work))

    def on_train_end(self, *_: Any) -> None:
        self.took = 1000 * (time.perf_counter() - self.begun)
