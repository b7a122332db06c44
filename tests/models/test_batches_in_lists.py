"""SparseMLP without automatic optimization, which takes a step for each batch of a list: the same run, but faster."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from common import Data
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from sparse_lightning import PruneRegrow, SparseMLP
from sparse_lightning.datamodules.in_memory import Batches, Order

small = partial(SparseMLP, 6, 3, hidden_sizes=(8, 5), density=0.5, lr_milestones=[2])
exactly = partial(torch.testing.assert_close, rtol=0, atol=0)


class Lists(Data):
    """Ten batches of two samples, in lists of up to so many batches."""

    batches_per_step = 1

    def train_dataloader(self) -> Batches:
        order = Order(len(self.labels), 2, seed=0)
        return Batches(self.inputs, self.labels, order, batches_per_step=self.batches_per_step)


@pytest.fixture
def lists(data) -> Lists:
    return Lists(data.inputs, data.labels)


ARMS: dict[str, dict[str, Any]] = {
    "hebbian": {"hebbian_grow": True},
    "random": {"hebbian_grow": False},
    "no dropout": {"dropout": 0.0},
    "by step": {"lr_interval": "step", "lr_milestones": [7, 23]},
    "leaky": {"count_validation": True},
    "kwinners": {"activation": "kwinners", "percent_on": 0.5, "optimizer": "Adam", "learning_rate": 0.01},
    "gradient": {"sparsity": {"growth": "gradient", "pruning": "magnitude"}},
    "momentum": {"sparsity": {"growth": "momentum", "schedule": "cosine"}},
}


def fit(
    trainer: Any, lists: Lists, arm: str, batches: int | None, logger: Any, folder: Path, start: Path | None = None
) -> tuple[Trainer, dict[str, Any]]:
    """Four epochs, or what is left of them after a checkpoint; automatic for None, else in lists of so many batches."""
    options = dict(ARMS[arm])
    sparsity = options.pop("sparsity", None)
    torch.manual_seed(0)
    mlp = small(**{"dropout": 0.25, **options})
    mlp.automatic_optimization = batches is None
    lists.batches_per_step = batches or 1
    own = PruneRegrow(0.5, seed=0, **sparsity) if sparsity else mlp.prune_regrow
    keep = ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
    run = trainer(max_epochs=4, logger=logger, enable_checkpointing=True, callbacks=[keep, own] if sparsity else keep)
    run.fit(mlp, lists, ckpt_path=start)
    return run, {
        "weights": mlp.state_dict(),
        "masks": dict(own.masks),
        "rewirings": own.rewirings,
        "optimizer": run.optimizers[0].state_dict(),
        "schedule": run.lr_scheduler_configs[0].scheduler.state_dict(),
        "steps": run.global_step,
        "metrics": [logger.epochs[epoch] for epoch in (2, 3)],
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arm", "batches"), [*((arm, 3) for arm in ARMS), *(("hebbian", batches) for batches in (1, 10, 16))]
)
def test_steps_for_the_batches_of_a_list_are_to_the_bit_those_of_automatic_optimization(
    trainer, lists, recorder, tmp_path, arm, batches
):
    _, automatic = fit(trainer, lists, arm, None, recorder(), tmp_path / "automatic")
    run, ours = fit(trainer, lists, arm, batches, recorder(), tmp_path / "lists")
    exactly(ours, automatic)
    assert ours["rewirings"] == 3
    assert run.num_training_batches == -(-10 // batches)


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
@pytest.mark.parametrize(("before", "after"), [(3, 3), (10, 3)])
def test_a_run_continued_at_an_epochs_end_is_to_the_bit_the_one_never_interrupted(
    trainer, lists, recorder, tmp_path, before, after
):

    _, straight = fit(trainer, lists, "no dropout", before, recorder(), tmp_path / "straight")
    _, ours = fit(
        trainer, lists, "no dropout", after, recorder(), tmp_path / "b", tmp_path / "straight" / "epoch=1.ckpt"
    )
    exactly(ours, straight)


def test_batches_in_lists_need_manual_optimization_and_a_schedule_by_epoch(trainer, lists):
    lists.batches_per_step = 2
    with pytest.raises(ValueError, match="Expected automatic_optimization=False for batches in lists, got True"):
        trainer(max_epochs=2).fit(small(), lists)
    mlp = small(lr_interval="step", lr_schedule="linear")
    mlp.automatic_optimization = False
    with pytest.raises(
        ValueError, match="Expected lr_interval='epoch' for batches in lists with this lr_schedule, got 'step'"
    ):
        trainer(max_epochs=2).fit(mlp, lists)
