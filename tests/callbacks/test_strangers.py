"""PruneRegrow in projects that do unusual things: what they do to weights, optimizers and layers."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from common import Data, Model
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from sparse_lightning import HebbianRegrow, PruneRegrow

pytestmark = pytest.mark.filterwarnings("ignore:Inactive connections")


class OffMask(Callback):
    """Where weights were off their masks: after a batch, in a validation, or at the end."""

    def __init__(self, sparse: PruneRegrow) -> None:
        self.sparse, self.found = sparse, set[str]()

    def check(self, module: nn.Module, moment: str) -> None:
        if any(module.get_parameter(name)[~mask].any() for name, mask in self.sparse.masks.items()):
            self.found.add(moment)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        self.check(pl_module, "batch")

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        self.check(pl_module, "validation")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.check(pl_module, "end")


class SlowWeights(Model):
    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        for weight in self.parameters():
            weight.data.add_(0.01)


class Reinitialised(Model):
    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.network[3].reset_parameters()


class Noise(Callback):
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for weight in pl_module.parameters():
            weight.data.add_(0.01)


class Average(nn.Module):
    """A moving average with a child of any name and a method `update`."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.ema_model = copy.deepcopy(network).requires_grad_(False)

    def update(self, network: nn.Module) -> None:
        for average, weight in zip(self.ema_model.parameters(), network.parameters(), strict=True):
            average.lerp_(weight.detach(), 0.1)


class Averaged(Model):
    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)
        self.average = Average(network)

    def on_train_batch_end(self, *args: Any) -> None:
        self.average.update(self.network)


@pytest.mark.parametrize(
    "build",
    [lambda net: SlowWeights(net), lambda net: Reinitialised(net)],
    ids=["changed after the step", "made anew before a batch that only accumulates"],
)
def test_weights_changed_beside_the_optimizer_are_back_on_their_masks(
    build: Callable[[nn.Module], Model], net: nn.Sequential, data: Data, trainer: Callable[..., Trainer]
) -> None:
    watch = OffMask(sparse := PruneRegrow(0.2))
    trainer(max_epochs=3, callbacks=[sparse, watch], accumulate_grad_batches=2).fit(build(net), datamodule=data)
    assert not watch.found


def test_every_validation_is_on_the_masks_the_sanity_check_too(
    net: nn.Sequential, data: Data, trainer: Callable[..., Trainer]
) -> None:
    watch = OffMask(sparse := PruneRegrow(0.2))
    trainer(max_epochs=2, callbacks=[sparse, Noise(), watch], num_sanity_val_steps=2).fit(Model(net), datamodule=data)
    assert not watch.found


def test_an_average_with_a_method_update_follows_its_source(
    net: nn.Sequential, data: Data, trainer: Callable[..., Trainer]
) -> None:
    sparse, model = PruneRegrow(0.2), Averaged(net)
    trainer(max_epochs=3, callbacks=[sparse]).fit(model, datamodule=data)
    assert sparse.rewirings == 2
    for name, mask in sparse.masks.items():
        assert not model.get_parameter(name.replace("network.", "average.ema_model."))[~mask].any()


def test_a_resumed_training_resets_the_optimizer_at_its_first_rewiring(
    net: nn.Sequential, data: Data, trainer: Callable[..., Trainer], tmp_path: Path
) -> None:
    def fit(epochs: int, checkpoint: Path | None = None) -> tuple[Trainer, list[Tensor]]:
        model = Model(copy.deepcopy(net))
        run = trainer(max_epochs=epochs, callbacks=[PruneRegrow(0.2, seed=1)])
        run.fit(model, datamodule=data, ckpt_path=checkpoint, weights_only=checkpoint and False)
        return run, list(model.parameters())

    interrupted, _ = fit(2)
    interrupted.save_checkpoint(tmp_path / "last.ckpt")
    straight, resumed = fit(4)[1], fit(4, tmp_path / "last.ckpt")[1]
    assert all(torch.equal(one, other) for one, other in zip(straight, resumed, strict=True))


def test_a_layer_that_is_still_lazy_is_not_counted_yet(data: Data, trainer: Callable[..., Trainer]) -> None:
    net = nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.LazyLinear(3))
    sparse = HebbianRegrow({"network.0": 0.5, "network.2": 0.25})
    trainer(max_epochs=2, callbacks=[sparse], num_sanity_val_steps=0).fit(Model(net), datamodule=data)
    assert {name: int(mask.sum()) for name, mask in sparse.masks.items()} == {
        "network.0.weight": 24,
        "network.2.weight": 6,
    }


def test_the_name_of_a_recurrent_layer_chooses_its_matrices(data: Data, trainer: Callable[..., Trainer]) -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = nn.GRU(6, 8, batch_first=True), nn.Linear(8, 3)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.head(self.cell(inputs[:, None])[0][:, -1])

    sparse = PruneRegrow(0.2, include=["network.cell", "network.head"])
    trainer(max_epochs=2, callbacks=[sparse]).fit(Model(Recurrent()), datamodule=data)
    assert list(sparse.masks) == ["network.cell.weight_ih_l0", "network.cell.weight_hh_l0", "network.head.weight"]
