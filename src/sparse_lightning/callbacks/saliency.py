"""The first connections of a model chosen by what they do on its first batch: SNIP, GraSP and SynFlow."""

import copy
from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from sparse_lightning.functional.masks import choose, derived_generator
from sparse_lightning.functional.redistribution import among_largest
from sparse_lightning.functional.saliency import grasp, snip, synflow

SaliencyName = Literal["snip", "grasp", "synflow"]
SALIENCIES: tuple[str, ...] = get_args(SaliencyName)
SYNFLOW_ROUNDS = 100


def saliency_masks(
    way: str, trainer: Trainer, module: LightningModule, counts: Mapping[str, int], batch: Any, seed: int
) -> dict[str, Tensor]:
    """Choose the connections with the highest scores of all these weights together, at least one of each.

    A copy of the model takes the batch in its ``training_step``, or for SynFlow ones of the shape of the batch's first
    tensor in ``forward``, so that the model, its logs and PyTorch's random state stay as they are. On several processes
    scores are averaged.

    Args:
        way: ``"snip"``, ``"grasp"`` or ``"synflow"``, which prunes in 100 rounds.
        trainer: The Trainer.
        module: The model, with all its weights.
        counts: How many connections each weight would have; their sum is how many are chosen.
        batch: The first batch of the training.
        seed: Breaks ties, with the name of the weight.

    Returns:
        The masks, by parameter name.

    Raises:
        ValueError: The model steps its optimizers itself, its ``training_step`` returns no loss, or for SynFlow its
            ``forward`` returns no tensor.
    """
    if not module.automatic_optimization:
        raise ValueError(f"Expected automatic optimization for initial={way!r}, got manual optimization")
    with torch.random.fork_rng(), torch.enable_grad(), torch.inference_mode(False):
        twin = copy.deepcopy(module)
        twin.trainer = trainer
        for name in ("log", "log_dict"):
            setattr(twin, name, lambda *args, **kwargs: None)
        if way == "synflow":
            return _synflow_masks(twin, counts, batch, seed)
        weights = _weights(twin, counts)
        loss = _loss(twin.training_step(batch, 0), way)
        scores = (snip if way == "snip" else grasp)(loss, list(weights.values()))
    averaged = [trainer.strategy.reduce(each, reduce_op="mean") for each in scores]
    found: dict[str, Tensor] = dict(zip(weights, averaged, strict=True))
    return _highest(found, sum(counts.values()), seed)


def _synflow_masks(twin: LightningModule, counts: Mapping[str, int], batch: Any, seed: int) -> dict[str, Tensor]:
    """Prune round by round, a constant share in each, so that no layer is emptied (Tanaka et al. 2020, algorithm 1)."""
    if type(twin).forward is LightningModule.forward:
        raise ValueError(
            f"Expected forward in {type(twin).__name__} for initial='synflow', which gives it ones, got none"
        )
    twin.double().eval()
    for tensor in (*twin.parameters(), *twin.buffers()):
        if tensor.is_floating_point():
            tensor.data.abs_()
    ones = torch.ones_like(_first_tensor(batch)[:1], dtype=torch.float64)
    weights = _weights(twin, counts)
    size, total = sum(each.numel() for each in weights.values()), sum(counts.values())
    masks: dict[str, Tensor] = {}
    for round_ in range(1, SYNFLOW_ROUNDS + 1):
        output = _first_tensor(twin(ones))
        scores = dict(zip(weights, synflow(output, list(weights.values())), strict=True))
        left = round(size * (total / size) ** (round_ / SYNFLOW_ROUNDS))
        masks = _highest(scores, left, seed)
        for name, mask in masks.items():
            weights[name].data.mul_(mask)
    return masks


def _highest(scores: Mapping[str, Tensor], total: int, seed: int) -> dict[str, Tensor]:
    flat = {name: each.flatten() for name, each in scores.items()}
    counts = among_largest(flat, dict.fromkeys(scores, 1), total)
    return {
        name: choose(each, counts[name], torch.ones_like(each, dtype=torch.bool), derived_generator(seed, 0, name))
        for name, each in scores.items()
    }


def _weights(module: LightningModule, names: Mapping[str, int]) -> dict[str, Tensor]:
    parameters = dict(module.named_parameters())
    return {name: parameters[name] for name in names}


def _loss(output: Any, way: str) -> Tensor:
    loss = output.get("loss") if isinstance(output, Mapping) else output
    if not isinstance(loss, Tensor):
        raise ValueError(f"Expected training_step to return a loss for initial={way!r}, got {type(output).__name__}")
    return loss


def _first_tensor(value: Any) -> Tensor:
    while not isinstance(value, Tensor):
        parts = list(value.values()) if isinstance(value, Mapping) else value
        if not isinstance(parts, (list, tuple)) or not parts:
            raise ValueError(f"Expected tensors in the batch and in what forward returns, got {type(value).__name__}")
        value = parts[0]
    return value
