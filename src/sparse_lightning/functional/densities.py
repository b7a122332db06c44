"""How a total density spreads over layers: uniform, Erdős-Rényi, ERK.

Each takes the shapes of some weights and the share of all their connections that is to be active, and says how many
each of them gets. The sum is exact to one connection, and no layer gets more than it has.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Literal

Shapes = Mapping[str, Sequence[int]]
Distribution = Callable[[Shapes, float], dict[str, int]]
DistributionName = Literal["uniform", "erdos_renyi", "erk"]


def uniform(shapes: Shapes, density: float) -> dict[str, int]:
    """Every layer at the same density.

    Args:
        shapes: Shape of each weight, by name.
        density: Share of all connections that are active, in (0, 1].

    Returns:
        Number of active connections of each weight, by name.

    >>> uniform({"one": (10, 20), "two": (5, 10)}, 0.2)
    {'one': 40, 'two': 10}
    """
    return _spread(dict.fromkeys(shapes, 1.0), shapes, density)


def erdos_renyi(shapes: Shapes, density: float) -> dict[str, int]:
    """Density proportional to (n_in + n_out) / (n_in n_out), so that narrow layers are denser (Mocanu et al. 2018).

    A convolution counts its channels and not its kernel. Layers that would be more than dense are dense, and the
    others share what is left in the same proportion.

    Args:
        shapes: Shape of each weight, (out, in, ...), by name.
        density: Share of all connections that are active, in (0, 1].

    Returns:
        Number of active connections of each weight, by name.

    >>> erdos_renyi({"wide": (100, 100), "narrow": (10, 10)}, 0.1)
    {'wide': 918, 'narrow': 92}
    """
    return _spread({name: _ratio(shape[:2]) for name, shape in shapes.items()}, shapes, density)


def erk(shapes: Shapes, density: float) -> dict[str, int]:
    """Erdős-Rényi-Kernel: density proportional to the sum over the product of all dimensions (Evci et al. 2020).

    (n_in + n_out + width + height) / (n_in n_out width height) for a two-dimensional convolution; for a Linear layer
    that is :func:`erdos_renyi`. Layers that would be more than dense are dense, and the others share what is left in
    the same proportion.

    Args:
        shapes: Shape of each weight, by name.
        density: Share of all connections that are active, in (0, 1].

    Returns:
        Number of active connections of each weight, by name.

    >>> erk({"conv": (16, 16, 3, 3), "head": (10, 16)}, 0.2)
    {'conv': 333, 'head': 160}
    """
    return _spread({name: _ratio(shape) for name, shape in shapes.items()}, shapes, density)


DENSITIES: dict[str, Distribution] = {
    "uniform": uniform,
    "erdos_renyi": erdos_renyi,
    "erk": erk,
}


def _ratio(shape: Sequence[int]) -> float:
    return sum(shape) / prod(shape)


def _spread(raw: Mapping[str, float], shapes: Shapes, density: float) -> dict[str, int]:
    """Counts at densities proportional to `raw`, each at most the layer's size, their sum exact."""
    sizes = {name: prod(shape) for name, shape in shapes.items()}
    total = round(density * sum(sizes.values()))
    dense: set[str] = set()
    while True:
        rest = [name for name in sizes if name not in dense]
        left = total - sum(sizes[name] for name in dense)
        scale = left / sum(raw[name] * sizes[name] for name in rest) if rest else 0.0
        full = {name for name in rest if scale * raw[name] >= 1}
        if not full:
            break
        dense |= full
    quotas = {name: float(sizes[name]) if name in dense else scale * raw[name] * sizes[name] for name in sizes}
    counts = {name: math.floor(quota) for name, quota in quotas.items()}
    # What the floors lost goes to the largest remainders, of equal ones to the first layer's.
    behind = sorted(rest, key=lambda name: round(counts[name] - quotas[name], 6))
    for name in behind[: total - sum(counts.values())]:
        counts[name] += 1
    return counts
