"""Where the first connections of a weight come from: drawn, taken from its magnitudes, or from the zeros it has."""

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from sparse_lightning.callbacks.saliency import SALIENCIES, SaliencyName
from sparse_lightning.functional.csr import random_positions
from sparse_lightning.functional.masks import (
    choose,
    derived_generator,
    mask_of,
    positions_of,
    random_mask,
    receptive_field,
)
from sparse_lightning.functional.structure import Structure

InitialName = Literal["auto", "random", "magnitude", "nonzero", "receptive_field", SaliencyName]
InitializationName = Literal["dense", "fan_in"]


def first_mask(
    name: str,
    weight: Tensor,
    count: int,
    seed: int,
    initial: InitialName,
    loaded: bool,
    structure: Structure | None = None,
) -> Tensor:
    """Draw or read the first mask of a weight.

    Args:
        name: The weight's parameter name, which decides its random choices with the seed.
        weight: The weight, (out, in, ...).
        count: How many connections are active.
        seed: The seed.
        initial: ``"random"`` draws them uniformly, ``"magnitude"`` takes the largest absolute weights, ``"nonzero"``
            the weights that are not zero, filled up at random. ``"auto"`` is ``"nonzero"`` where a weight has a
            topology (see :func:`has_topology`), else ``"magnitude"`` for trained weights and ``"random"`` for
            others. ``"receptive_field"`` draws mostly units of like place, see
            :func:`~sparse_lightning.functional.masks.receptive_field`. ``"snip"``, ``"grasp"``, ``"synflow"`` and
            ``"correlation"`` begin dense and choose by the first batch, see
            :func:`~sparse_lightning.callbacks.saliency.saliency_masks`.
        loaded: Whether the weights were trained: they come from a checkpoint, or the model looks trained.
        structure: What the connections that are drawn or taken by magnitude have to keep.

    Raises:
        ValueError: The weight has a topology of more connections than `count`.
    """
    if initial in SALIENCIES:
        return torch.ones_like(weight, dtype=torch.bool)
    generator = derived_generator(seed, 0, name)
    if initial == "receptive_field":
        return receptive_field(weight.shape, count, generator).to(weight.device)
    active = weight != 0
    found = int(active.count_nonzero())
    initial = resolved(initial, weight, loaded)
    if structure and initial in ("random", "magnitude"):
        drawn = initial == "random"
        scores = torch.rand(weight.shape, generator=generator).to(weight.device) if drawn else weight.abs().float()
        return structure.first(scores, count, generator)
    if initial == "random":
        return random_mask(weight.shape, count, generator).to(weight.device)
    if initial == "magnitude":
        return choose(weight.abs().float(), count, torch.ones_like(active), generator)
    if found > count:
        raise ValueError(
            f"Expected weights of {name!r} that are dense or have at most {count} of {weight.numel()} connections "
            f"active, as the density asks for, got {found} nonzero. Set initial='magnitude' or 'random' to cut them"
        )
    more = random_positions(weight.numel(), count - found, exclude=positions_of(active), generator=generator)
    return active | mask_of(more, weight.shape)


def resolved(initial: InitialName, weight: Tensor, loaded: bool) -> InitialName:
    """Return what ``"auto"`` stands for, and any other choice as it is.

    >>> resolved("auto", torch.ones(2, 2), loaded=True)
    'magnitude'
    """
    if initial != "auto":
        return initial
    return "nonzero" if has_topology(weight) else "magnitude" if loaded else "random"


def fan_in_scale(mask: Tensor) -> Tensor:
    """Return the factor for each output unit that makes an initialisation for dense layers one for its actual inputs.

    It is sqrt(n / k) for k active of n connections, shaped to multiply the weight; a unit without any gets 1. PyTorch's
    own divides by n, and in a very sparse network the signal dies (Evci et al. 2022, "Gradient flow in sparse neural
    networks and how lottery tickets win").

    >>> fan_in_scale(torch.tensor([[True, False, False, False], [True, True, True, True]])).tolist()
    [[2.0], [1.0]]
    """
    inputs = mask.flatten(1).sum(1).clamp(min=1)
    scale = (mask[0].numel() / inputs).sqrt().where(mask.flatten(1).any(1), torch.ones(()))
    return scale.view(-1, *[1] * (mask.dim() - 1))


def loses_signal(module: nn.Module, masks: Mapping[str, Tensor]) -> bool:
    """Return whether a fresh model may let the signal die: its weights were initialised for dense layers.

    Each layer shrinks the signal by the square root of its density; without normalisation layers that multiplies. Below
    a thousandth in all, a network like 784-1568-1568-1568-10 at 1% density does not learn.

    >>> model, mask = nn.Sequential(*(nn.Linear(100, 100) for _ in range(4))), torch.eye(100).bool()
    >>> loses_signal(model, {f"{number}.weight": mask for number in range(4)})
    True
    """
    if any("Norm" in type(each).__name__ for each in module.modules()):
        return False
    shares = [float(mask.float().mean()) for mask in masks.values() if mask.dim() == 2]
    return math.prod(shares) ** 0.5 < 1e-3


def looks_trained(module: nn.Module) -> bool:
    """Return whether a normalisation layer of a model shows that it was trained.

    Fresh ones have seen no batch, and have one weight for all units.

    >>> looks_trained(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.LayerNorm(2)))
    False
    """
    return any(
        _is_trained_norm(each)
        for each in module.modules()
        if type(each).__name__.endswith("Norm") or _is_batch_norm(each)
    )


def _is_batch_norm(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.batchnorm._NormBase)


def _is_trained_norm(norm: nn.Module) -> bool:
    tensors = {name: getattr(norm, name, None) for name in ("num_batches_tracked", "weight")}
    known = {name: each for name, each in tensors.items() if isinstance(each, Tensor) and not is_lazy(each)}
    known = {name: each for name, each in known.items() if each.numel() and not each.is_meta}
    return any(
        bool(each != 0 if name == "num_batches_tracked" else (each != each.flatten()[0]).any())
        for name, each in known.items()
    )


def has_topology(weight: Tensor) -> bool:
    """Return whether the zeros of a weight look like a topology that it was trained with.

    More than 1% of its weights are zero, not counting rows that are zero as a whole, as an embedding's padding row;
    and its columns do not all have equally many, as those of ``torch.nn.init.sparse_`` do.

    >>> has_topology(torch.tensor([[0.0, 0.0], [1.0, 2.0]])), has_topology(torch.tensor([[0.0, 1.0], [1.0, 2.0]]))
    (False, True)
    """
    zeros = weight.flatten(1) == 0 if weight.dim() > 1 else (weight == 0).unsqueeze(0)
    zeros = zeros[~zeros.all(1)]
    by_column = zeros.sum(0)
    share = float(zeros.float().mean()) if zeros.numel() else 0.0
    evenly = len(by_column) > 1 and bool((by_column == by_column[0]).all())
    return share > 0.01 and not evenly
