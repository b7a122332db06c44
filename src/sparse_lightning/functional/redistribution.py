"""How a number of connections is shared out over layers."""

import math
from collections.abc import Mapping
from fractions import Fraction


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
