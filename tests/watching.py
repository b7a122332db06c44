"""Callbacks and views that tests look through: masks of each epoch, weights after each step and at each check."""

import copy
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from sparse_lightning import LayerView, PruneRegrow
from sparse_lightning.functional.masks import derived_generator


def view(
    weight: Tensor, mask: Tensor | None = None, fraction: float | str = 0.0, seed: int = 0, name: str = "weight"
) -> LayerView:
    """One weight as criteria are given it; what is not zero is active if no mask is given."""
    mask = weight != 0 if mask is None else mask
    return LayerView(
        name=name,
        weight=weight,
        mask=mask,
        prune_fraction=Fraction(str(fraction)),
        progress=Fraction(0),
        generator=derived_generator(seed),
    )


def active(masks: Mapping[str, Tensor]) -> list[int]:
    """The number of active connections of each layer."""
    return [int(mask.sum()) for mask in masks.values()]


def off_masks(module: nn.Module, masks: Mapping[str, Tensor], prefix: str = "", replacement: str = "") -> int:
    """How many inactive weights are not zero; NaN is not. The names' prefix may be replaced."""
    parameters = dict(module.named_parameters(remove_duplicate=False))
    return sum(
        int(parameters[name.replace(prefix, replacement, 1)].detach()[~mask].count_nonzero())
        for name, mask in masks.items()
    )


class Epochs(Callback):
    """Keeps a copy of the masks at the end of each epoch."""

    def __init__(self, callback: PruneRegrow) -> None:
        self.callback = callback
        self.masks: list[dict[str, Tensor]] = []

    def on_train_epoch_end(self, *_: object) -> None:
        self.masks.append({name: mask.clone() for name, mask in self.callback.masks.items()})


class Watch(Callback):
    """After every batch, in every validation and at the end, asserts that no inactive weight is anything but zero.

    Attributes:
        batches: How many batches were looked at.
        validations: How many validation batches were looked at.
        moved: How many connections grew.
        counts: The active connections of each layer, which never change unless the density follows a schedule.
    """

    def __init__(self, callback: PruneRegrow, *, scheduled: bool = False) -> None:
        self.scheduled = scheduled
        self.callback, self.batches, self.validations, self.moved = callback, 0, 0, 0
        self.before: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.batches += 1
        self._look(pl_module)

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.validations += 1
        assert off_masks(pl_module, self.callback.masks) == 0

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._look(pl_module)

    def _look(self, module: LightningModule) -> None:
        masks = self.callback.masks
        assert masks
        assert off_masks(module, masks) == 0
        for name, mask in masks.items():
            assert int(mask.sum()) == self.counts.setdefault(name, int(mask.sum())) or self.scheduled
            assert module.get_parameter(name).detach()[mask].any()
            self.moved += int((mask & ~self.before.get(name, mask)).sum())
            self.before[name] = mask.clone()


class Keep(Callback):
    """Saves a checkpoint after every step; last of the callbacks, as Lightning's own are."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        trainer.save_checkpoint(self.folder / f"{trainer.global_step}.ckpt")


def clones(module: nn.Module) -> dict[str, Tensor]:
    """A copy of a module's state."""
    return copy.deepcopy(module.state_dict())


def equal_states(one: Any, other: Any) -> None:
    """Assert that two states, nested as they may be, are the same to the bit."""
    assert type(one) is type(other)
    if isinstance(one, Mapping):
        assert list(one) == list(other)
        for key in one:
            equal_states(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for first, second in zip(one, other, strict=True):
            equal_states(first, second)
    elif isinstance(one, Tensor):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
    else:
        assert one == other
