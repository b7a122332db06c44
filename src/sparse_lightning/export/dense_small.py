"""A trained sparse model as a smaller dense one: units that nothing enters, or that lead nowhere, are left out."""

import copy
from collections import Counter
from collections.abc import Iterator
from typing import TypeVar

import torch
from torch import Tensor, nn

from sparse_lightning.callbacks.layout import replace_layer
from sparse_lightning.nn.sparse_linear import SparseLinear, sparse_layers

M = TypeVar("M", bound=nn.Module)
_BY_UNIT = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Tanh, nn.Sigmoid, nn.Hardswish),
    *(nn.Dropout, nn.AlphaDropout, nn.Identity, nn.BatchNorm1d),
)


@torch.no_grad()
def to_dense_small(model: M) -> M:
    """Return a copy of a model, in evaluation mode, without the hidden units that its function does not need.

    Between two Linear layers that follow each other, in an ``nn.Sequential`` or in an ``nn.TransformerEncoderLayer``,
    a unit without outputs is removed; one without inputs has a constant value, which goes into the next layer's bias.
    What stands between may be batch normalisation, dropout and activations that look at each unit by itself. In
    evaluation mode the outputs are the same up to rounding. Sparse layers come out dense. Layers that are used twice,
    share weights or have hooks stay as they are, and so do those of an ``nn.Sequential`` with a ``forward`` of its own.

    Args:
        model: A trained model that reads hidden values through these layers alone; it is left as it is.

    Raises:
        ValueError: The model has no such two layers.

    >>> one, two = nn.Linear(2, 3), nn.Linear(3, 1)
    >>> _ = one.weight.data[0].zero_(), two.weight.data[:, 1].zero_()
    >>> to_dense_small(nn.Sequential(one, nn.ReLU(), two))
    Sequential(
      (0): Linear(in_features=2, out_features=1, bias=True)
      (1): ReLU()
      (2): Linear(in_features=1, out_features=1, bias=True)
    )
    """
    copied = dense_copy(model)
    found = list(_pairs(copied))
    if not found:
        raise ValueError(
            "Expected two Linear layers in a row, in an nn.Sequential or an nn.TransformerEncoderLayer, with nothing "
            "but batch norm, dropout and activations between them, used once, without tied weights or hooks, got "
            f"none in {type(model).__name__}"
        )
    while any(_shrink(*pair) for pair in found):
        pass
    return copied


def dense_copy(model: M) -> M:
    """Return a copy of a model, in evaluation mode and without gradients, with Linear layers for its sparse ones."""
    copied: M = _dense(copy.deepcopy(model)).eval().requires_grad_(False)  # type: ignore[assignment]
    return copied


def _pairs(module: nn.Module) -> Iterator[tuple[nn.Linear, list[nn.Module], nn.Linear]]:
    """All pairs of Linear layers with what stands between them that may change their shapes."""
    places = Counter(each for _, each in module.named_modules(remove_duplicate=False))
    owners = Counter(weight for each in module.modules() for weight in each.parameters(recurse=False))
    for pair in _neighbours(module):
        first, between, second = pair
        if all(
            places[each] <= 1
            and not (each._forward_hooks or each._forward_pre_hooks)
            and all(owners[weight] <= 1 for weight in each.parameters())
            for each in (first, *between, second)
        ):
            yield pair


def _neighbours(module: nn.Module) -> Iterator[tuple[nn.Linear, list[nn.Module], nn.Linear]]:
    """All pairs of Linear layers that follow each other."""
    for each in module.modules():
        if isinstance(each, nn.Sequential) and type(each).forward is nn.Sequential.forward:
            yield from _in_a_row(list(each))
        elif isinstance(each, nn.TransformerEncoderLayer):
            activation = each.activation if isinstance(each.activation, nn.Module) else _Function(each.activation)
            if type(activation) in (*_BY_UNIT, _Function):
                yield each.linear1, [activation], each.linear2


def _in_a_row(layers: list[nn.Module]) -> Iterator[tuple[nn.Linear, list[nn.Module], nn.Linear]]:
    first: nn.Linear | None = None
    between: list[nn.Module] = []
    for layer in layers:
        if type(layer) is nn.Linear:
            if first is not None:
                yield first, between, layer
            first, between = layer, []
        elif type(layer) in _BY_UNIT and getattr(layer, "running_mean", 0) is not None:
            between.append(layer)
        else:
            first = None


class _Function(nn.Module):
    """An activation that a Transformer holds as a function."""

    def __init__(self, function: object) -> None:
        super().__init__()
        self.function = function

    def forward(self, values: Tensor) -> Tensor:
        """Return its values."""
        result: Tensor = self.function(values)  # type: ignore[operator]
        return result


def _shrink(first: nn.Linear, between: list[nn.Module], second: nn.Linear) -> bool:
    """Remove the units between two layers that have no inputs or no outputs; return whether there were any."""
    silent, useless = ~first.weight.any(1), ~second.weight.any(0)
    keep = ~(silent | useless)
    if not keep.any():
        keep[0] = True  # a layer has one unit at least
    if keep.all():
        return False
    constant = first.bias.clone() if first.bias is not None else first.weight.new_zeros(first.out_features)
    for layer in between:
        constant = layer(constant.unsqueeze(0)).squeeze(0)
    added = second.weight @ constant.where(silent & ~keep, torch.zeros_like(constant))
    second.bias = nn.Parameter(added if second.bias is None else second.bias + added, requires_grad=False)
    first.weight, first.out_features = _frozen(first.weight[keep]), int(keep.sum())
    first.bias = None if first.bias is None else _frozen(first.bias[keep])
    second.weight, second.in_features = _frozen(second.weight[:, keep]), int(keep.sum())
    for layer in between:
        if isinstance(layer, nn.BatchNorm1d):
            layer.num_features = int(keep.sum())
            for name in ("weight", "bias"):
                if getattr(layer, name) is not None:
                    setattr(layer, name, _frozen(getattr(layer, name)[keep]))
            for name in ("running_mean", "running_var"):
                if getattr(layer, name) is not None:
                    setattr(layer, name, getattr(layer, name)[keep])
    return True


def _frozen(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor.clone(), requires_grad=False)


def _dense(module: nn.Module) -> nn.Module:
    """A module with Linear layers in place of its sparse ones."""
    if isinstance(module, SparseLinear):
        return module.to_linear()
    for layer in sparse_layers(module).values():
        replace_layer(module, layer, layer.to_linear())
    return module
