"""A trained sparse model that computes on its connections: CSR inference."""

import copy
from typing import TypeVar

from lightning.pytorch.utilities import rank_zero_warn
from torch import nn

from sparse_lightning.callbacks.layout import obstacle, replace_layer, replace_linear
from sparse_lightning.callbacks.selection import layer_name
from sparse_lightning.functional.checks import expect, is_number
from sparse_lightning.nn.sparse_linear import SparseLinear, sparse_layers

M = TypeVar("M", bound=nn.Module)


def to_csr(model: M, *, max_density: float = 0.2) -> M:
    """Return a copy of a model, in evaluation mode, whose sparse Linear layers compute on their connections alone.

    Each ``nn.Linear`` with at most `max_density` of its weights nonzero becomes a
    :class:`~sparse_lightning.SparseLinear` with the same outputs up to rounding. Others are dense, those too that were
    trained with ``layout="csr"``; a single :class:`~sparse_lightning.SparseLinear` is copied. On a CPU; ``python
    scripts/benchmark.py --only inference`` measures the densities at which it pays.

    Args:
        model: A trained model; it is left as it is.
        max_density: The highest share of nonzero weights, in (0, 1], of a layer that is converted.

    Raises:
        ValueError: The share is out of its range, or no layer can be converted; each is named with the reason.

    >>> linear = nn.Linear(100, 10)
    >>> _ = linear.weight.data[:, 10:].zero_()
    >>> to_csr(nn.Sequential(linear, nn.ReLU(), nn.Linear(10, 2)))[0]
    SparseLinear(in_features=100, out_features=10, density=0.1, bias=True)
    """
    expect(is_number(max_density) and 0 < max_density <= 1, "max_density in (0, 1]", max_density)
    copied = copy.deepcopy(model).eval().requires_grad_(False)
    if isinstance(copied, SparseLinear):
        return copied  # there is no place in a model to put another layer
    for layer in sparse_layers(copied).values():
        if layer.density > max_density:
            replace_layer(copied, layer, layer.to_linear())
    reasons = {}
    for name, linear in list(copied.named_modules()):
        if isinstance(linear, nn.Linear):
            density = float((linear.weight != 0).float().mean())
            reason = obstacle(copied, f"{name}.weight") if density <= max_density else f"density {density:.2g}"
            if reason is None:
                replace_linear(copied, layer_name(f"{name}.weight"), linear.weight != 0)
            else:
                reasons[name] = reason
    listed = ", ".join(f"{name} ({reason})" for name, reason in reasons.items())
    if not sparse_layers(copied):
        raise ValueError(f"Expected a Linear layer of a density of at most {max_density}, got {listed or 'none'}")
    sparse = {name: reason for name, reason in reasons.items() if not reason.startswith("density")}
    if sparse:
        rank_zero_warn(f"These sparse layers stay dense: {', '.join(f'{n} ({r})' for n, r in sparse.items())}.")
    return copied.eval().requires_grad_(False)
