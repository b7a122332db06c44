"""Connections of exactly zero, on inputs and units that are dead, are pruned and do not pile up."""

from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from watching import off_masks

from sparse_lightning import ChainRemoval, PruneRegrow
from sparse_lightning.criteria.growth import GROWTH
from sparse_lightning.criteria.pruning import PRUNING
from sparse_lightning.functional import prune

PAIRS = [(pruning, growth) for pruning in PRUNING for growth in GROWTH]
HIDDEN = 32


class Task(LightningModule):
    """Which of the first three of twenty inputs is largest."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.network(batch[0]), batch[0][:, :3].argmax(1))

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None: ...

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


class Dead(Callback):
    """At each epoch's end, how many active connections are zero, and how many of those were not grown last.

    Attributes:
        piled: The most connections of a layer that were zero beyond those that its last rewiring has grown.
        share: The largest share of a layer that was zero, by epoch.
    """

    def __init__(self, callback: PruneRegrow) -> None:
        self.callback, self.piled, self.share = callback, 0, []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        dead = self.callback.dead_connections(pl_module)
        grown = self.callback._training.rewirings.grown
        active = {name: int(mask.sum()) for name, mask in self.callback.masks.items()}
        self.piled = max(self.piled, *(dead[name] - grown.get(name, 0) for name in dead))
        self.share.append(max(dead[name] / active[name] for name in dead))


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(20, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 3))


def dead_inputs(data: Any, module: nn.Sequential) -> None:
    data.inputs[:, 10:] = 0


def dead_units(data: Any, module: nn.Sequential) -> None:
    with torch.no_grad():
        module[0].bias[: HIDDEN // 2] = -100.0


class Dies(Callback):
    """Half of the first layer's units die in the fifth epoch."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch == 5:
            dead_units(None, pl_module.network)


@pytest.fixture
def inputs(data: Any) -> Any:
    data.inputs, data.labels, data.batch_size = torch.randn(64, 20), torch.zeros(64), 32
    return data


def train(fit: Any, data: Any, callback: PruneRegrow, spoil: Any = None, epochs: int = 31) -> tuple[Task, Dead]:
    torch.manual_seed(1)
    module, dead = Task(network()), Dead(callback)
    callbacks = [callback, dead, *([Dies()] if spoil is Dies else [])]
    if spoil not in (None, Dies):
        spoil(data, module.network)
    fit(module, *callbacks, epochs=epochs, loader=data)
    assert off_masks(module, callback.masks) == 0
    return module, dead


@pytest.mark.slow
@pytest.mark.parametrize(("pruning", "growth"), PAIRS)
def test_zeros_are_bounded_by_what_was_grown_last(fit, inputs, pruning, growth):
    dead_inputs(inputs, None)  # and half of the units die in training
    # Chains make it grow more than it prunes by magnitude; with a rule that prunes all zeros, none pile up.
    chosen = ChainRemoval("signed_magnitude") if pruning == "chain_removal" else pruning
    callback = PruneRegrow(0.2, pruning=chosen, growth=growth)
    _, dead = train(fit, inputs, callback, Dies)
    assert callback.rewirings == 30
    assert dead.piled <= 0


@pytest.mark.parametrize("spoil", [dead_inputs, dead_units, Dies])
def test_zeros_of_random_growth_are_bounded_by_what_was_grown_last(fit, inputs, spoil):
    _, dead = train(fit, inputs, PruneRegrow(0.2), spoil)
    assert dead.piled <= 0
    assert max(dead.share) > 0.1  # there was something to prune


def test_without_the_rule_zeros_pile_up(fit, inputs, monkeypatch):
    monkeypatch.setattr(prune, "zero_weights", lambda values, *_: torch.zeros_like(values, dtype=torch.bool))
    _, dead = train(fit, inputs, PruneRegrow(0.2), dead_inputs)
    assert dead.piled > 0
    assert dead.share[-1] > 0.7


def accuracy(module: Task) -> float:
    inputs = torch.randn(2000, 20, generator=torch.Generator().manual_seed(9))
    inputs[:, 10:] = 0
    return float((module.network(inputs).argmax(1) == inputs[:, :3].argmax(1)).float().mean())


@pytest.mark.slow
@pytest.mark.parametrize("growth", ["random", "gradient", "hebbian"])
def test_accuracy_does_not_fall_below_that_of_a_static_topology(fit, inputs, growth):
    inputs.inputs, inputs.labels = torch.randn(512, 20), torch.zeros(512)
    found = {}
    for kind in (None, growth):
        scores = []
        for seed in range(3):
            module, _ = train(fit, inputs, PruneRegrow(0.1, growth=kind, seed=seed), dead_inputs, epochs=20)
            scores.append(accuracy(module))
        found[kind] = sum(scores) / len(scores)
    assert found[growth] > found[None]
