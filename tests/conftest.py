import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from torch import Tensor, nn

from sparse_lightning.datamodules.mnist import Batches, Order

torch.set_num_threads(1)
# The same examples each time, however slow the machine.
hypothesis.settings.register_profile("steady", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("steady")

ROOT = Path(__file__).parent.parent
LONGEST = ["test_survival", "test_train", "test_distributed", "test_launchers"]
SHORT = ["trainer.limit_train_batches=12", "trainer.limit_val_batches=6"]

SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
CONSTANT = partial(torch.optim.lr_scheduler.MultiStepLR, milestones=[])


def pytest_configure(config: pytest.Config) -> None:
    # Lightning 2.6 builds torch's LeafSpec in every loop, which torch 2.14 warns of.
    config.addinivalue_line("filterwarnings", r"ignore:`isinstance\(treespec, LeafSpec\)` is deprecated:FutureWarning")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # A file is one process's: the files that take longest come first, so that no core is idle at the end.
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


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


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def trainer() -> Callable[..., Trainer]:
    """Builds a Trainer that does nothing but train."""
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    return partial(Trainer, accelerator="cpu", devices=1, logger=False, log_every_n_steps=1, **quiet)


@pytest.fixture(scope="session")
def recorder() -> type[Record]:
    return Record


@pytest.fixture
def fit(trainer: Callable[..., Trainer], data: "Data") -> Callable[..., Trainer]:
    """Trains a module with callbacks on `data`, three batches an epoch, and returns the Trainer."""

    def run(module: LightningModule, *callbacks: Callback, epochs: int = 3, **options: Any) -> Trainer:
        chosen = {"loader": data, "ckpt_path": None, "limit_val_batches": 0, "max_epochs": epochs} | options
        loader, ckpt_path = chosen.pop("loader"), chosen.pop("ckpt_path")
        made = trainer(callbacks=list(callbacks), **chosen)
        made.fit(module, loader, ckpt_path=ckpt_path)
        return made

    return run


@pytest.fixture
def record() -> Record:
    return Record()


@pytest.fixture
def net() -> nn.Sequential:
    """Three Linear layers of 48, 64 and 24 connections: ``network.0``, ``network.3`` and ``network.5`` of a Model."""
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 3))


@pytest.fixture(scope="session")
def model() -> type[Model]:
    return Model


@pytest.fixture
def data() -> Data:
    """Twenty samples of six values and three classes, in batches of 8, 8 and 4."""
    generator = torch.Generator().manual_seed(1)
    return Data(torch.randn(20, 6, generator=generator), torch.randint(3, (20,), generator=generator))


def script(name: str, *arguments: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run one of the scripts as a user would."""
    command = [sys.executable, ROOT / "scripts" / name, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="session")
def grid(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a multirun, two arms of two seeds, and what the command printed."""
    folder = tmp_path_factory.mktemp("grid")
    arguments = ["-m", "model.hebbian_grow=true,false", "seed=range(2)", "trainer.max_epochs=3", *SHORT]
    return folder, script("train.py", *arguments, f"output_dir={folder}").stdout
