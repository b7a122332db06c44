"""The first connections of a model chosen by what they do on its first batch: SNIP, GraSP, SynFlow, and CSTI."""

import copy
from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from sparse_lightning.functional.masks import choose, derived_generator, random_mask
from sparse_lightning.functional.redistribution import among_largest
from sparse_lightning.functional.saliency import correlation, grasp, snip, synflow

SaliencyName = Literal["snip", "grasp", "synflow", "correlation"]
SALIENCIES: tuple[str, ...] = get_args(SaliencyName)
SYNFLOW_ROUNDS = 100


def saliency_masks(
    way: str, trainer: Trainer, module: LightningModule, counts: Mapping[str, int], batch: Any, seed: int
) -> dict[str, Tensor]:
    """Choose the connections with the highest scores of all these weights together, at least one of each.

    ``"correlation"`` (CSTI) chooses for the first layer alone, see
    :func:`~sparse_lightning.functional.saliency.correlation`, and draws those of the others; each has its own number.

    A copy of the model takes the batch in its ``training_step``, or for SynFlow ones of the shape of the batch's first
    tensor in ``forward``, so that the model, its logs and PyTorch's random state stay as they are. On several processes
    scores are averaged.

    Args:
        way: ``"snip"``, ``"grasp"``, ``"synflow"``, which prunes in 100 rounds, or ``"correlation"``.
        trainer: The Trainer.
        module: The model, with all its weights.
        counts: How many connections each weight would have; their sum is how many are chosen.
        batch: The first batch of the training.
        seed: Breaks ties, with the name of the weight.

    Returns:
        The masks, by parameter name.

    Raises:
        ValueError: The model steps its optimizers itself, its ``training_step`` returns no loss, for SynFlow its
            ``forward`` returns no tensor, or for the correlation the first layer does not receive the batch itself.
    """
    if way == "correlation":
        return _correlation_masks(trainer, module, counts, batch, seed)
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


def _correlation_masks(
    trainer: Trainer, module: LightningModule, counts: Mapping[str, int], batch: Any, seed: int
) -> dict[str, Tensor]:
    """Connect the first layer to inputs that vary together, and draw the connections of the others."""
    weights, (first, *others) = _weights(module, counts), counts
    inputs, shape = _first_tensor(batch).flatten(1), weights[first].shape
    if len(shape) != 2 or inputs.shape[1] != shape[1]:
        raise ValueError(
            f"Expected a first layer {first!r} of {inputs.shape[1]} inputs, as the batch has, for "
            f"initial='correlation', got {list(shape)}"
        )
    scores: Any = trainer.strategy.reduce(correlation(inputs, shape[0]), reduce_op="mean")
    masks = {first: choose(scores, counts[first], torch.ones_like(scores).bool(), derived_generator(seed, 0, first))}
    for name in others:
        drawn = random_mask(weights[name].shape, counts[name], derived_generator(seed, 0, name))
        masks[name] = drawn.to(weights[name].device)
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
