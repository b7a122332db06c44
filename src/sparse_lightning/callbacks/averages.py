"""Averages of weights: they remember connections long pruned, and are brought onto the masks of their source."""

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn

from sparse_lightning.functional.masks import zero_inactive_


@torch.no_grad()
def project_averages(trainer: Trainer, module: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Bring averages of these weights onto their masks.

    These are the averages that Lightning's callbacks keep, and those within the model: modules such as PyTorch's
    AveragedModel, which hold a copy of another module and have a method `update` or `update_parameters`. A copy without
    such a method, a teacher or a target network, is left alone.
    """
    pairs = [*_of_callbacks(trainer, module), *_within(module)]
    for source, average in pairs:
        for name, mask in masks.items():
            weight = average.get(name.removeprefix(source)) if name.startswith(source) else None
            if weight is not None and weight.shape == mask.shape:
                zero_inactive_(weight, mask.to(weight.device))


def parameters_of_averages(module: nn.Module) -> set[int]:
    """Return the ids of the parameters of averages within a model: modules named so that hold a copy of another."""
    kinds = [each for each in module.modules() if re.search("Ema(?![a-z])|EMA|Averag", type(each).__name__)]
    averages = {id(weight) for each in kinds for weight in each.parameters()}
    found = {id(weight) for _, average in _within(module) for weight in average.values()}
    return averages & found


def averages_of(module: nn.Module, names: Collection[str]) -> dict[str, str]:
    """Return the weights within a model that are averages of these, by their own name that of their source."""
    places = {id(weight): name for name, weight in module.named_parameters()}
    return {
        places[id(weight)]: f"{source}{name}"
        for source, average in _within(module)
        for name, weight in average.items()
        if f"{source}{name}" in names
    }


def only_averages(trainer: Trainer) -> bool:
    """Return whether this epoch trains nothing and only updates the batch norm of the averaged network."""
    return any(
        _is_a(callback, "StochasticWeightAveraging") and trainer.current_epoch > callback.swa_end
        for callback in _callbacks(trainer)
    )


def keeps_averages(trainer: Trainer) -> bool:
    """Return whether a callback of Lightning's averages the weights."""
    return any(_is_a(callback, "WeightAveraging", "StochasticWeightAveraging") for callback in _callbacks(trainer))


def _of_callbacks(trainer: Trainer, module: nn.Module) -> Iterator[tuple[str, dict[str, nn.Parameter]]]:
    for callback in _callbacks(trainer):
        average = getattr(callback, "_average_model", None)
        if _is_a(callback, "WeightAveraging", "StochasticWeightAveraging") and average is not None:
            names = (name for name, _ in module.named_parameters())
            yield "", dict(zip(names, average.parameters(), strict=True))


def _within(module: nn.Module) -> Iterator[tuple[str, dict[str, nn.Parameter]]]:
    """Averages within a model, each with the prefix of the submodule that it averages."""
    modules = dict(module.named_modules())
    copies = [
        (path, copy)
        for path, each in modules.items()
        if path and (hasattr(each, "update_parameters") or hasattr(each, "update"))
        for copy in each.children()
    ]
    for path, copy in copies:
        average = dict(copy.named_parameters())
        shapes = {name: weight.shape for name, weight in average.items()}
        found = {
            source: _distance(weights, average)
            for source, candidate in modules.items()
            if shapes and _is_outside(source, path)
            for weights in [dict(candidate.named_parameters())]
            if {name: weight.shape for name, weight in weights.items()} == shapes
        }
        if found:  # of several modules of these shapes, an average is nearest to its source
            yield f"{min(found, key=found.__getitem__)}.", average


def _is_outside(source: str, path: str) -> bool:
    return (
        bool(source) and source != path and not (f"{source}.".startswith(f"{path}.") or path.startswith(f"{source}."))
    )


def _distance(weights: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> float:
    return sum(float((weight.detach() - others[name].detach()).abs().sum()) for name, weight in weights.items())


def _callbacks(trainer: Trainer) -> list[Any]:
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    return callbacks


def _is_a(callback: object, *names: str) -> bool:
    """Whether an object is of one of these classes, of lightning or of pytorch_lightning."""
    return not {kind.__name__ for kind in type(callback).__mro__}.isdisjoint(names)
