"""Pruning rules as pure functions: which active connections of one weight to prune.

Each takes the weight (out, in, ...), its boolean mask of the same shape and the fraction to prune, and returns the mask
of the connections to prune, all of them active. A connection that is pruned has to be replaced, so these rules never
prune more connections than are inactive.
"""

from fractions import Fraction

import torch
from torch import Tensor

from sparse_lightning.functional.masks import choose, exact_fraction, floor_count


def lowest(scores: Tensor, mask: Tensor, fraction: float | Fraction, generator: torch.Generator) -> Tensor:
    """Select the active connections with the lowest scores, a floored fraction of them; ties are broken at random.

    >>> lowest(torch.tensor([3, 1, 2, 0]), torch.tensor([True, True, True, False]), 0.4, torch.Generator())
    tensor([False,  True, False, False])
    """
    return choose(-scores, floor_count(fraction, int(mask.count_nonzero())), mask, generator)


def zero_weights(weight: Tensor, mask: Tensor, generator: torch.Generator) -> Tensor:
    """Select the active weights of exactly zero, drawn at random where there are more of them than can be replaced.

    Such a connection got no gradient since it was grown: its input or its output unit is dead.

    >>> int(zero_weights(torch.zeros(3), torch.tensor([True, True, False]), torch.Generator()).sum())
    1
    """
    zeros = mask & (weight == 0)
    count = min(int(zeros.count_nonzero()), _inactive(mask))
    return choose(torch.zeros_like(weight), count, zeros, generator)


def signed_magnitude(weight: Tensor, mask: Tensor, fraction: float | Fraction, generator: torch.Generator) -> Tensor:
    """Select every weight of exactly zero, the smallest positive weights and the negative ones nearest zero.

    The rule of Mocanu et al. 2018, "Scalable training of artificial neural networks with adaptive sparse connectivity
    inspired by network science". Of p positive and n negative weights, floor(f p) and n - floor((1 - f) n) are pruned,
    as Numenta's experiments count them. Where zeros and these together are more than can be replaced, zeros go first
    and the counts of both signs shrink in proportion.

    >>> weight = torch.tensor([0.1, 0.2, 0.3, -0.1, -0.2, -0.3, 0.0] + 4 * [0.0])
    >>> signed_magnitude(weight, torch.arange(11) < 7, 0.4, torch.Generator())[:7].int()
    tensor([1, 0, 0, 1, 1, 0, 1], dtype=torch.int32)
    """
    zeros = zero_weights(weight, mask, generator)
    positive, negative = mask & (weight > 0), mask & (weight < 0)
    n = int(negative.count_nonzero())
    smallest = floor_count(fraction, int(positive.count_nonzero()))
    nearest = n - floor_count(1 - exact_fraction(fraction), n)
    replaceable = _inactive(mask) - int(zeros.count_nonzero())
    if smallest + nearest > replaceable:
        smallest = replaceable * smallest // (smallest + nearest)
        nearest = replaceable - smallest
    return zeros | choose(-weight, smallest, positive, generator) | choose(weight, nearest, negative, generator)


def lowest_and_zeros(
    scores: Tensor, weight: Tensor, mask: Tensor, fraction: float | Fraction, generator: torch.Generator
) -> Tensor:
    """Select every weight of exactly zero and, of the other active ones, a floored fraction with the lowest scores.

    >>> weight, mask = torch.tensor([0.0, 5.0, 6.0, 0.0, 0.0]), torch.tensor([True, True, True, False, False])
    >>> lowest_and_zeros(torch.arange(5.0), weight, mask, 0.5, torch.Generator())
    tensor([ True,  True, False, False, False])
    """
    zeros = zero_weights(weight, mask, generator)
    others = mask & (weight != 0)
    replaceable = _inactive(mask) - int(zeros.count_nonzero())
    count = min(floor_count(fraction, int(others.count_nonzero())), replaceable)
    return zeros | choose(-scores, count, others, generator)


def _inactive(mask: Tensor) -> int:
    return mask.numel() - int(mask.count_nonzero())
