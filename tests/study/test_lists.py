"""Which trainings of a study take their batches in lists; that they give the same bits is tested with SparseMLP."""

from functools import partial
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback

from sparse_lightning import MNISTDataModule, PruneRegrow, RigL, SparseMLP
from sparse_lightning.study.train.lists import train_in_lists


class Mine(Callback):
    """A user's callback."""


class MyMLP(SparseMLP):
    """A user's model."""


def taken(trainer: Any, model: Any = SparseMLP, data: Any = MNISTDataModule, **options: Any) -> bool:
    mlp, mnist = model(), data()
    in_lists = train_in_lists(trainer(**options), mlp, mnist)
    assert (mlp.automatic_optimization, getattr(mnist, "batches_per_step", 1)) == (
        (False, 16) if in_lists else (True, 1)
    )
    return in_lists


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_epochs": 30},
        {"callbacks": [PruneRegrow()]},
        {"model": partial(SparseMLP, hebbian_grow=False, optimizer="Adam")},
        {"model": partial(SparseMLP, lr_interval="step")},
        {"limit_val_batches": 3},
    ],
)
def test_a_training_in_which_all_happens_between_epochs_takes_lists(trainer, options):
    assert taken(trainer, **options)


@pytest.mark.parametrize(
    "options",
    [
        {"devices": 2, "strategy": "ddp"},
        {"gradient_clip_val": 1.0},
        {"accumulate_grad_batches": 2},
        {"limit_train_batches": 12},
        {"limit_train_batches": 0.5},
        {"max_steps": 100},
        {"val_check_interval": 0.5},
        {"fast_dev_run": True},
        {"callbacks": [RigL()]},
        {"callbacks": [Mine()]},
        {"model": partial(SparseMLP, lr_interval="step", lr_schedule="cosine")},
        {"model": MyMLP},
        {"data": partial(torch.nn.Identity)},
    ],
)
def test_any_other_training_stays_as_it_is(trainer, options):
    assert not taken(trainer, **options)
