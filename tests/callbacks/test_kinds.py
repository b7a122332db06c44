"""PruneRegrow in other people's trainings: clocks, averages, first connections, resumes and odd layers."""

from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, IterableDataset

from sparse_lightning import PruneRegrow, RigL

pytestmark = pytest.mark.filterwarnings("ignore:You .*_step")


class Progress(Callback):
    """Notes how far the training had come at each rewiring."""

    def __init__(self, sparse: PruneRegrow) -> None:
        self.sparse, self.shares = sparse, dict[int, float]()

    def on_train_batch_end(self, *_: Any) -> None:
        if self.sparse.rewirings:
            self.shares.setdefault(self.sparse.rewirings, float(self.sparse._training.rewirings._progress))


# When.


class Adversaries(LightningModule):
    """One network steps three times a batch, the other once."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.one, self.other = nn.Linear(6, 8), nn.Linear(8, 3)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        for optimizer in (*[self.optimizers()[0]] * 3, self.optimizers()[1]):
            optimizer.zero_grad()
            self.manual_backward(self.other(self.one(batch[0]).relu()).square().mean())
            optimizer.step()

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return [torch.optim.SGD(each.parameters(), lr=0.01) for each in (self.one, self.other)]


def test_a_schedule_ends_with_a_training_of_several_steps_a_batch(fit):
    watch = Progress(sparse := RigL(0.3, every_n_steps=4))  # 90 steps in 30 batches, until step 67
    fit(Adversaries(), sparse, watch, epochs=10)
    assert sparse.rewirings == 16
    assert watch.shares[16] > 0.6


class Endless(IterableDataset):
    def __iter__(self) -> Any:
        yield from ((torch.full((6,), float(number)), 0) for number in range(12))


def test_a_schedule_ends_where_the_length_of_an_epoch_is_known_after_the_first_one_only(fit, model, net):
    watch = Progress(sparse := RigL(0.3, every_n_steps=3))  # 40 steps, until step 30
    fit(model(net), sparse, watch, epochs=10, loader=DataLoader(Endless(), 3))
    assert sparse.rewirings == 10
    assert watch.shares[10] > 0.6


def test_a_second_fit_of_one_trainer_goes_on_with_its_steps(fit, model, net, data):
    watch = Progress(sparse := RigL(0.3, every_n_steps=4, stop=1.0))
    trainer = fit(module := model(net), sparse, watch, epochs=4)
    trainer.fit_loop.max_epochs = 8
    trainer.fit(module, data)
    assert sparse.rewirings == 5  # at 4 and 8 of 12, then at 12, 16 and 20 of 24
    assert watch.shares[5] > 0.8


# Averages.


def test_an_average_is_of_the_nearest_of_two_modules_of_one_shape(fit, model):
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other = nn.Linear(6, 8), nn.Linear(6, 8)
            self.average = AveragedModel(self.other).requires_grad_(False)

        def forward(self, inputs: Tensor) -> Tensor:
            self.average.update_parameters(self.other)
            return self.one(inputs) + self.other(inputs)

    fit(module := model(Two()), sparse := PruneRegrow(0.3))
    assert set(sparse.masks) == {"network.one.weight", "network.other.weight"}
    fit(module, sparse, epochs=1)
    assert not module.network.average.module.weight[~sparse.masks["network.other.weight"]].any()


def test_averages_and_timers_of_the_other_name_of_lightning_are_known():
    package = pytest.importorskip("pytorch_lightning")
    from sparse_lightning.callbacks.averages import _is_a

    assert _is_a(package.callbacks.StochasticWeightAveraging(0.1), "StochasticWeightAveraging")
