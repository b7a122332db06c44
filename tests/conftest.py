from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch
from common import SHORT, Data, Model, Record, script
from filelock import FileLock
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

torch.set_num_threads(1)
# The same examples each time, however slow the machine.
hypothesis.settings.register_profile("steady", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("steady")

LONGEST = ["test_survival", "test_distributed", "test_train", "test_launchers", "test_published", "test_benchmark"]


def pytest_configure(config: pytest.Config) -> None:
    # Lightning 2.6 builds torch's LeafSpec in every loop, which torch 2.14 warns of.
    config.addinivalue_line("filterwarnings", r"ignore:`isinstance\(treespec, LeafSpec\)` is deprecated:FutureWarning")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # A file is one process's: the files that take longest come first, so that no core is idle at the end.
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


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
def fit(trainer: Callable[..., Trainer], data: Data) -> Callable[..., Trainer]:
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


@pytest.fixture(scope="session")
def grid(tmp_path_factory: pytest.TempPathFactory, testrun_uid: str) -> tuple[Path, str]:
    """The folder of a multirun, two arms of two seeds, and what the command printed; one for all workers."""
    folder = tmp_path_factory.getbasetemp().parent / f"grid-{testrun_uid}"
    arguments = ["-m", "model.hebbian_grow=true,false", "seed=range(2)", "trainer.max_epochs=3", *SHORT]
    printed = folder.with_suffix(".txt")
    with FileLock(folder.with_suffix(".lock")):
        if not printed.exists():
            printed.write_text(script("train.py", *arguments, f"output_dir={folder}").stdout, encoding="utf-8")
    return folder, printed.read_text(encoding="utf-8")
