"""Less of Lightning's time between the steps of a small network."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer

from sparse_lightning.datamodules.mnist import MNISTDataModule
from sparse_lightning.models.sparse_mlp import SparseMLP

BATCHES_PER_STEP = 16


def train_in_lists(trainer: Trainer, model: LightningModule, data: Any) -> bool:
    """Let a SparseMLP take the batches of MNIST in lists of 16, where nothing is due between two of them.

    Lightning's own way from one batch to the next takes a third of the time of an epoch of the experiment. The weights
    and metrics are to the bit the same. A training in which something may happen within an epoch stays as it is: on
    several processes, with clipped or accumulated gradients, with a limit of batches or steps, with a rewiring by steps
    or a schedule that asks how many steps there are, or with a callback that is neither Lightning's nor this library's.

    Args:
        trainer: The Trainer, before it fits.
        model: The model, which is changed to manual optimization.
        data: The data module, which is changed to yield lists.

    Returns:
        Whether the training takes lists.
    """
    in_lists = (
        type(model) is SparseMLP
        and type(data) is MNISTDataModule
        and not model.schedule_needs_steps
        and trainer.world_size == 1
        and trainer.gradient_clip_val is None
        and trainer.accumulate_grad_batches == 1
        and trainer.limit_train_batches == 1.0
        and trainer.max_steps == -1
        and trainer.val_check_interval in (None, 1.0)
        and not trainer.fast_dev_run  # type: ignore[attr-defined]
        and all(_by_epoch(callback) for callback in trainer.callbacks)  # type: ignore[attr-defined]
    )
    if in_lists:
        model.automatic_optimization, data.batches_per_step = False, BATCHES_PER_STEP
    return in_lists


def _by_epoch(callback: Any) -> bool:
    """Return whether a callback is known to do nothing between two batches that depends on their number."""
    known = type(callback).__module__.startswith(("lightning.pytorch.", "sparse_lightning."))
    return not getattr(callback, "acts_by_step", not known)
