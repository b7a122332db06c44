"""Optimizers and learning-rate schedules by name."""

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
from lightning.pytorch import Trainer
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, MultiStepLR

OptimizerName = Literal["SGD", "Adam", "AdamW"]
ScheduleName = Literal["multistep", "cosine", "linear", "constant"]
Interval = Literal["epoch", "step"]


def build_optimizer(
    name: OptimizerName,
    parameters: Iterable[nn.Parameter],
    *,
    learning_rate: float,
    weight_decay: float = 0.0,
    momentum: float = 0.0,
    nesterov: bool = False,
    betas: Sequence[float] = (0.9, 0.999),
) -> Optimizer:
    """Build an optimizer with fused kernels.

    Args:
        name: ``"SGD"``, which uses `momentum` and `nesterov`, or ``"Adam"`` or ``"AdamW"``, which use `betas`.
        parameters: What to optimize.
        learning_rate: Learning rate.
        weight_decay: Weight decay; decoupled from the gradient in AdamW.
        momentum: Momentum.
        nesterov: Whether momentum is Nesterov's.
        betas: Decay rates of the running means of the gradient and of its square.
    """
    options: dict[str, Any] = {"lr": learning_rate, "weight_decay": weight_decay, "fused": True}
    if name == "SGD":
        return torch.optim.SGD(parameters, momentum=momentum, nesterov=nesterov, **options)
    kind = torch.optim.Adam if name == "Adam" else torch.optim.AdamW
    return kind(parameters, betas=(betas[0], betas[1]), **options)


def build_schedule(
    name: ScheduleName,
    optimizer: Optimizer,
    *,
    milestones: Sequence[int] = (),
    gamma: float = 0.1,
    final: float = 0.0,
    length: int = 0,
) -> LRScheduler | None:
    """Build a schedule of the learning rate; None for ``"constant"``.

    Args:
        name: ``"multistep"``, which uses `milestones` and `gamma`, ``"cosine"`` or ``"linear"``, which use `final` and
            `length`, or ``"constant"``.
        optimizer: Whose learning rate it is.
        milestones: Epochs, or steps, at whose start the learning rate is multiplied by `gamma`.
        gamma: That factor.
        final: Learning rate at the end.
        length: Epochs, or steps, until the end.
    """
    if name == "multistep":
        return MultiStepLR(optimizer, list(milestones), gamma)
    if name == "cosine":
        return CosineAnnealingLR(optimizer, length, final)
    if name == "linear":
        return LinearLR(optimizer, 1.0, final / optimizer.param_groups[0]["lr"], length)
    return None


def training_length(trainer: Trainer, interval: Interval) -> int:
    """Return how many epochs, or optimizer steps, a training has.

    Raises:
        ValueError: It has no end.
    """
    length = trainer.estimated_stepping_batches if interval == "step" else trainer.max_epochs
    if length is None or not 0 < length < float("inf"):
        limit = "max_epochs or max_steps" if interval == "step" else "max_epochs"
        raise ValueError(f"Expected a Trainer with {limit}, for a learning rate that falls until the end, got none")
    return int(length)
