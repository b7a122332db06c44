"""How a number of connections is shared out over layers: in proportion, or by what is largest in all of them."""

import math
from collections.abc import Mapping
from fractions import Fraction

import torch
from torch import Tensor

from sparse_lightning.functional.masks import floor_count


def share_out(total: int, weights: Mapping[str, float], limits: Mapping[str, int]) -> dict[str, int]:
    """Share connections out over layers in proportion to weights, exactly, and never more than a layer can take.

    What a full layer cannot take goes to the others in the same proportion. The last few, fewer than there are layers,
    go to the largest shares.

    Args:
        total: How many connections, at most the sum of the limits.
        weights: The weight of each layer, at least 0; where all are zero, the layers share equally.
        limits: How many each layer can take.

    Returns:
        How many each layer gets; their sum is `total`.

    >>> share_out(10, {"a": 3.0, "b": 1.0}, {"a": 6, "b": 20})
    {'a': 6, 'b': 4}
    """
    given = dict.fromkeys(weights, 0)
    while rest := total - sum(given.values()):
        free = {name: Fraction(weight) for name, weight in weights.items() if given[name] < limits[name]}
        whole = sum(free.values())
        shares = {name: rest * weight / whole if whole else Fraction(rest, len(free)) for name, weight in free.items()}
        added = {name: min(math.floor(share), limits[name] - given[name]) for name, share in shares.items()}
        if not any(added.values()):
            added = dict.fromkeys(sorted(shares, key=lambda name: -shares[name])[:rest], 1)
        given |= {name: given[name] + count for name, count in added.items()}
    return given


def among_largest(scores: Mapping[str, Tensor], least: Mapping[str, int], total: int) -> dict[str, int]:
    """Count how many of the highest scores of all layers together belong to each layer.

    Of equal scores at the limit, the layers share in proportion to how many they have.

    Args:
        scores: The score of each connection of each layer (nnz), by name.
        least: How many each layer gets at least.
        total: How many all get together.

    Returns:
        How many each layer gets; their sum is `total`.

    Raises:
        ValueError: The layers get more than `total` at least.

    >>> among_largest({"a": torch.tensor([9.0, 8.0, 7.0]), "b": torch.tensor([6.0, 1.0])}, {"a": 1, "b": 1}, 3)
    {'a': 2, 'b': 1}
    """
    over = total - sum(least.values())
    if over < 0:
        raise ValueError(f"Expected layers to keep at most {total} connections at least, got {sum(least.values())}")
    rest = {name: each.sort().values[: len(each) - least[name]] for name, each in scores.items()}
    if over == 0:
        return dict(least)
    limit = torch.cat(list(rest.values())).sort(descending=True).values[over - 1]
    higher = {name: int((each > limit).sum()) for name, each in rest.items()}
    equal = {name: int((each == limit).sum()) for name, each in rest.items()}
    shared = share_out(over - sum(higher.values()), equal, equal)
    return {name: least[name] + higher[name] + shared[name] for name in scores}


def surviving(scores: Mapping[str, Tensor], pruned: int, minimum: float | Fraction = 0) -> dict[str, int]:
    """Count how many connections each layer keeps when the lowest scores of all layers together are pruned.

    Args:
        scores: The score of each connection of each layer (nnz), by name.
        pruned: How many connections to prune.
        minimum: Share of its connections that a layer keeps at least, in [0, 1]; one connection in any case.

    Returns:
        How many each layer keeps. Their sum is what is left, or more where the minimum asks for it.

    >>> surviving({"a": torch.tensor([9.0, 8.0, 7.0]), "b": torch.tensor([6.0, 1.0, 2.0])}, 2)
    {'a': 3, 'b': 1}
    """
    least = {name: min(max(floor_count(minimum, len(each)), 1), len(each)) for name, each in scores.items()}
    left = sum(len(each) for each in scores.values()) - pruned
    return among_largest(scores, least, max(left, sum(least.values())))
