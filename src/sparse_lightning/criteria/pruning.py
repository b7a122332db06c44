"""Pruning criteria: which active connections a rewiring drops.

A criterion is asked for one weight at a time and says which of its connections go; it never changes them. What it
needs to have watched during training it names in `statistics`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from fractions import Fraction
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from sparse_lightning.criteria.base import Statistic
from sparse_lightning.criteria.coactivation import Hebbian
from sparse_lightning.functional.masks import choose, part


class Pruning(ABC):
    """What :class:`~sparse_lightning.PruneRegrow` asks of a pruning criterion; subclass it for one of your own.

    Attributes:
        statistics: What the criterion needs to have watched, by a name that says what it is in a checkpoint.
    """

    statistics: Mapping[str, Statistic] = MappingProxyType({})

    @abstractmethod
    def drop(self, name: str, weight: Tensor, mask: Tensor, fraction: float, generator: torch.Generator) -> Tensor:
        """Choose the connections of one weight to drop.

        Args:
            name: The weight's parameter name.
            weight: The weight, (out, in, ...).
            mask: Its active connections, boolean, shaped like `weight`.
            fraction: How much of the active connections to drop at most, in [0, 1).
            generator: CPU generator for ties, the same on every rank.

        Returns:
            The mask of connections to drop, all of them active.
        """


def lowest(scores: Tensor, mask: Tensor, fraction: float, generator: torch.Generator) -> Tensor:
    """The connections with the lowest scores, a fraction of the active ones, floored; ties broken at random.

    Args:
        scores: A real number for each connection, finite where `mask` is true.
        mask: The active connections.
        fraction: How much of them, in [0, 1).
        generator: CPU generator, for ties.

    >>> lowest(torch.tensor([3, 1, 2, 0]), torch.tensor([True, True, True, False]), 0.4, torch.Generator())
    tensor([False,  True, False, False])
    """
    return choose(-scores, part(fraction, int(mask.count_nonzero())), mask, generator)


def signed_magnitude(weight: Tensor, mask: Tensor, fraction: float, generator: torch.Generator) -> Tensor:
    """Every weight of exactly zero, the smallest positive weights and the negative ones nearest zero.

    The rule of Mocanu et al. 2018, "Scalable training of artificial neural networks with adaptive sparse connectivity
    inspired by network science". An active weight of exactly zero got no gradient since it was grown: its input or its
    output unit is dead. Of p positive and n negative weights floor(f p) and n - floor((1 - f) n) are pruned. Together
    never more than the inactive connections, which are all that can be grown: zeros go first, and the counts of both
    signs shrink in proportion.

    Args:
        weight: The weight, (out, in, ...).
        mask: Its active connections, boolean, shaped like `weight`.
        fraction: Share f of each sign to prune, in [0, 1).
        generator: CPU generator for ties.

    >>> weight = torch.tensor([0.1, 0.2, 0.3, -0.1, -0.2, -0.3, 0.0] + 4 * [0.0])
    >>> signed_magnitude(weight, torch.arange(11) < 7, 0.4, torch.Generator())[:7].int()
    tensor([1, 0, 0, 1, 1, 0, 1], dtype=torch.int32)
    """
    zeros = zero_weights(weight, mask, generator)
    positive, negative = mask & (weight > 0), mask & (weight < 0)
    n = int(negative.count_nonzero())
    smallest, nearest = part(fraction, int(positive.count_nonzero())), n - part(1 - Fraction(str(fraction)), n)
    growable = int(mask.logical_not().count_nonzero()) - int(zeros.count_nonzero())
    if smallest + nearest > growable:
        smallest = growable * smallest // (smallest + nearest)
        nearest = growable - smallest
    return zeros | choose(-weight, smallest, positive, generator) | choose(weight, nearest, negative, generator)


def zero_weights(weight: Tensor, mask: Tensor, generator: torch.Generator) -> Tensor:
    """The active weights of exactly zero, drawn at random where there are more than can be grown.

    >>> zero_weights(torch.zeros(3), torch.tensor([True, True, False]), torch.Generator()).sum()
    tensor(1)
    """
    zeros = mask & (weight == 0)
    growable = int(mask.logical_not().count_nonzero())
    return choose(torch.zeros_like(weight), min(int(zeros.count_nonzero()), growable), zeros, generator)


def lowest_and_zeros(
    scores: Tensor, weight: Tensor, mask: Tensor, fraction: float, generator: torch.Generator
) -> Tensor:
    """Every weight of exactly zero, and of the others the lowest scores, a floored fraction; no more than can be grown.

    Args:
        scores: A real number for each connection, finite where `mask` is true.
        weight: The weight, (out, in, ...).
        mask: Its active connections, boolean, shaped like `weight`.
        fraction: Share of the weights that are not zero, in [0, 1].
        generator: CPU generator for ties.
    """
    zeros = zero_weights(weight, mask, generator)
    others = mask & (weight != 0)
    growable = int(mask.logical_not().count_nonzero()) - int(zeros.count_nonzero())
    count = min(part(fraction, int(others.count_nonzero())), growable)
    return zeros | choose(-scores, count, others, generator)


class Magnitude(Pruning):
    """Prunes the weights nearest zero (RigL, Evci et al. 2020; SNFS, Dettmers & Zettlemoyer 2019).

    Weights of exactly zero come first, within the fraction, as both papers have it.
    """

    def drop(self, name: str, weight: Tensor, mask: Tensor, fraction: float, generator: torch.Generator) -> Tensor:
        """The smallest absolute weights."""
        return lowest(weight.abs(), mask, fraction, generator)


class SignedMagnitude(Pruning):
    """Prunes weights of exactly zero and, of each sign, a fraction nearest zero (SET, Mocanu et al. 2018)."""

    def drop(self, name: str, weight: Tensor, mask: Tensor, fraction: float, generator: torch.Generator) -> Tensor:
        """See :func:`signed_magnitude`."""
        return signed_magnitude(weight, mask, fraction, generator)


class HebbianPruning(Hebbian, Pruning):
    """Prunes the connections whose two units were least often active together since the last rewiring.

    Weights of exactly zero are always pruned, as in Numenta's experiments; the fraction is of the others.

    Args: see :class:`~sparse_lightning.criteria.coactivation.Hebbian`.
    """

    def drop(self, name: str, weight: Tensor, mask: Tensor, fraction: float, generator: torch.Generator) -> Tensor:
        """The lowest coactivation."""
        return lowest_and_zeros(self.coactivation.total(name), weight, mask, fraction, generator)


class InverseHebbianPruning(HebbianPruning):
    """The control of :class:`HebbianPruning`: drops the connections that were most often active at both ends."""

    def drop(self, name: str, weight: Tensor, mask: Tensor, fraction: float, generator: torch.Generator) -> Tensor:
        """The highest coactivation."""
        return lowest_and_zeros(-self.coactivation.total(name), weight, mask, fraction, generator)


class WeightedHebbianPruning(HebbianPruning):
    """Drops the connections that carried least: those of the lowest magnitude times coactivation."""

    def drop(self, name: str, weight: Tensor, mask: Tensor, fraction: float, generator: torch.Generator) -> Tensor:
        """The lowest product."""
        return lowest_and_zeros(weight.abs() * self.coactivation.total(name), weight, mask, fraction, generator)


class MixedPruning(HebbianPruning):
    """Prunes a connection only if both its magnitude and its coactivation are low, each by its own fraction.

    Weights of exactly zero are always pruned.

    The magnitude's fraction is the callback's `prune_fraction`, by sign as in :class:`SignedMagnitude`. These two are
    what Numenta's experiments called `weight_prune_perc` and `hebbian_prune_perc`. Fewer connections go than by either
    alone.

    Args:
        hebbian_fraction: Share of the active connections, those of the lowest coactivation, that may go, in [0, 1].
        options: Those of :class:`HebbianPruning`.

    Raises:
        ValueError: The fraction is out of its range.
    """

    def __init__(self, hebbian_fraction: float = 0.3, **options: Any) -> None:
        super().__init__(**options)
        if not (isinstance(hebbian_fraction, float | int) and 0 <= hebbian_fraction <= 1):
            raise ValueError(f"Expected hebbian_fraction in [0, 1], got {hebbian_fraction!r}")
        self.hebbian_fraction = hebbian_fraction

    def drop(self, name: str, weight: Tensor, mask: Tensor, fraction: float, generator: torch.Generator) -> Tensor:
        """What both drop."""
        by_magnitude = signed_magnitude(weight, mask, fraction, generator)
        by_coactivation = lowest_and_zeros(
            self.coactivation.total(name), weight, mask, self.hebbian_fraction, generator
        )
        return (by_magnitude & by_coactivation) | (by_magnitude & (weight == 0))


PRUNING: dict[str, Callable[[], Pruning]] = {
    "signed_magnitude": SignedMagnitude,
    "magnitude": Magnitude,
    "hebbian": HebbianPruning,
    "inverse_hebbian": InverseHebbianPruning,
    "weighted_hebbian": WeightedHebbianPruning,
    "mixed": MixedPruning,
}
