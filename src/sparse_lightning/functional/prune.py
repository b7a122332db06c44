"""Pruning rules as pure functions: which active connections of one weight to prune.

Each takes the values of the active connections (nnz), and returns which of them to prune, boolean (nnz). A connection
that is pruned has to be replaced: rules that may choose more than their fraction take the number that can be.
"""

from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise

import torch
from torch import Tensor

from sparse_lightning.functional.masks import choose, exact_fraction, floor_count


def lowest(scores: Tensor, fraction: float | Fraction, generator: torch.Generator) -> Tensor:
    """Select the connections with the lowest scores, a floored fraction of them; ties are broken at random.

    >>> lowest(torch.tensor([3, 1, 2]), 0.4, torch.Generator())
    tensor([False,  True, False])
    """
    return choose(-scores, floor_count(fraction, len(scores)), _all(scores), generator)


def zero_weights(values: Tensor, replaceable: int, generator: torch.Generator) -> Tensor:
    """Select the weights of exactly zero, drawn at random where there are more of them than can be replaced.

    Such a connection got no gradient since it was grown: its input or its output unit is dead.

    >>> int(zero_weights(torch.zeros(2), 1, torch.Generator()).sum())
    1
    """
    zeros = values == 0
    count = min(int(zeros.count_nonzero()), replaceable)
    return choose(torch.zeros_like(values), count, zeros, generator)


def signed_magnitude(
    values: Tensor, fraction: float | Fraction, replaceable: int, generator: torch.Generator
) -> Tensor:
    """Select every weight of exactly zero, the smallest positive weights and the negative ones nearest zero.

    The rule of Mocanu et al. 2018, "Scalable training of artificial neural networks with adaptive sparse connectivity
    inspired by network science". Of p positive and n negative weights, floor(f p) and n - floor((1 - f) n) are pruned,
    as Numenta's experiments count them. Where zeros and these together are more than can be replaced, zeros go first
    and the counts of both signs shrink in proportion.

    >>> values = torch.tensor([0.1, 0.2, 0.3, -0.1, -0.2, -0.3, 0.0])
    >>> signed_magnitude(values, 0.4, 4, torch.Generator()).int()
    tensor([1, 0, 0, 1, 1, 0, 1], dtype=torch.int32)
    """
    zeros = zero_weights(values, replaceable, generator)
    positive, negative = values > 0, values < 0
    n = int(negative.count_nonzero())
    smallest = floor_count(fraction, int(positive.count_nonzero()))
    nearest = n - floor_count(1 - exact_fraction(fraction), n)
    left = replaceable - int(zeros.count_nonzero())
    if smallest + nearest > left:
        smallest = left * smallest // (smallest + nearest)
        nearest = left - smallest
    return zeros | choose(-values, smallest, positive, generator) | choose(values, nearest, negative, generator)


def lowest_and_zeros(
    scores: Tensor, values: Tensor, fraction: float | Fraction, replaceable: int, generator: torch.Generator
) -> Tensor:
    """Select every weight of exactly zero and, of the others, a floored fraction with the lowest scores.

    >>> lowest_and_zeros(torch.arange(3.0), torch.tensor([0.0, 5.0, 6.0]), 0.5, 2, torch.Generator())
    tensor([ True,  True, False])
    """
    zeros = zero_weights(values, replaceable, generator)
    others = values != 0
    left = replaceable - int(zeros.count_nonzero())
    count = min(floor_count(fraction, int(others.count_nonzero())), left)
    return zeros | choose(-scores, count, others, generator)


def at_least(pruned: Tensor, count: int, scores: Tensor, generator: torch.Generator) -> Tensor:
    """Select what is selected already and, until it is `count`, further connections of the lowest scores.

    >>> at_least(torch.tensor([True, False, False]), 2, torch.tensor([0.0, 3.0, 1.0]), torch.Generator())
    tensor([ True, False,  True])
    """
    missing = count - int(pruned.count_nonzero())
    return pruned if missing <= 0 else pruned | choose(-scores, missing, ~pruned, generator)


def relative_importance(values: Tensor, positions: Tensor, shape: torch.Size) -> Tensor:
    """Return ``|w|`` as a share of its output unit's sum, plus ``|w|`` as a share of its input unit's (nnz).

    Args:
        values: The weights of the active connections (nnz).
        positions: Their sorted indices into the flattened weight, int64 (nnz).
        shape: The shape of the weight, (out, in, ...); all but the first dimension count as input units.

    >>> relative_importance(torch.tensor([1.0, 3.0, 4.0]), torch.tensor([0, 1, 2]), torch.Size((2, 2)))
    tensor([0.4500, 1.7500, 1.8000])
    """
    magnitudes, inputs = values.abs(), shape[1:].numel()
    shares = torch.zeros_like(magnitudes)
    for units, count in ((positions // inputs, shape[0]), (positions % inputs, inputs)):
        sums = magnitudes.new_zeros(count).index_add_(0, units, magnitudes)
        shares += magnitudes / sums.index_select(0, units).where(magnitudes > 0, torch.ones_like(magnitudes))
    return shares


def without_chains(masks: Sequence[Tensor]) -> list[Tensor]:
    """Return masks without the links into units that have no outputs, and out of units that have no inputs.

    Args:
        masks: Boolean masks, (out, in), each of a layer and the one after it; the outputs of one are the inputs of the
            next where they are equal in number.

    >>> one, two = torch.tensor([[True], [True]]), torch.tensor([[True, False]])
    >>> without_chains([one, two])
    [tensor([[ True],
            [False]]), tensor([[ True, False]])]
    """
    found, before = [mask.clone() for mask in masks], -1
    while before != (before := sum(int(mask.count_nonzero()) for mask in found)):
        for one, two in pairwise(found):
            if two.shape[1:] == one.shape[:1]:
                one[~two.any(0)] = False
                two[:, ~one.any(1)] = False
    return found


def _all(values: Tensor) -> Tensor:
    return torch.ones_like(values, dtype=torch.bool)
