"""Pruning criteria: which active connections a rewiring drops.

A criterion is asked for one weight at a time and says which of its connections go; it never changes them. What it
needs to have watched during training it names in `statistics`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from sparse_lightning.coactivation import Hebbian
from sparse_lightning.masks import choose, part
from sparse_lightning.statistic import Statistic


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
    """The smallest positive and the negative weights nearest zero, the same fraction of each.

    The rule of Mocanu et al. 2018, "Scalable training of artificial neural networks with adaptive sparse connectivity
    inspired by network science". Counts are floored for each sign. A weight of exactly zero has no sign and stays.

    Args:
        weight: The weight, (out, in, ...).
        mask: Its active connections, boolean, shaped like `weight`.
        fraction: How much of each sign to drop, in [0, 1).
        generator: CPU generator, for ties.

    >>> weight = torch.tensor([0.1, 0.2, 0.3, -0.1, -0.2, -0.3])
    >>> signed_magnitude(weight, torch.ones(6, dtype=torch.bool), 0.4, torch.Generator())
    tensor([ True, False, False,  True, False, False])
    """
    positive, negative = mask & (weight > 0), mask & (weight < 0)
    return lowest(weight, positive, fraction, generator) | lowest(-weight, negative, fraction, generator)


class Magnitude(Pruning):
    """Drops the weights nearest zero (RigL, Evci et al. 2020; SNFS, Dettmers & Zettlemoyer 2019)."""

    def drop(self, name: str, weight: Tensor, mask: Tensor, fraction: float, generator: torch.Generator) -> Tensor:
        """The smallest absolute weights."""
        return lowest(weight.abs(), mask, fraction, generator)


class SignedMagnitude(Pruning):
    """Drops the weights nearest zero, the same fraction of each sign (SET, Mocanu et al. 2018)."""

    def drop(self, name: str, weight: Tensor, mask: Tensor, fraction: float, generator: torch.Generator) -> Tensor:
        """See :func:`signed_magnitude`."""
        return signed_magnitude(weight, mask, fraction, generator)


class HebbianPruning(Hebbian, Pruning):
    """Drops the connections whose two units were least often active together since the last rewiring.

    Args: see :class:`~sparse_lightning.coactivation.Hebbian`.
    """

    def drop(self, name: str, weight: Tensor, mask: Tensor, fraction: float, generator: torch.Generator) -> Tensor:
        """The lowest coactivation."""
        return lowest(self.coactivation.total(name), mask, fraction, generator)


class InverseHebbianPruning(HebbianPruning):
    """The control of :class:`HebbianPruning`: drops the connections that were most often active at both ends."""

    def drop(self, name: str, weight: Tensor, mask: Tensor, fraction: float, generator: torch.Generator) -> Tensor:
        """The highest coactivation."""
        return lowest(-self.coactivation.total(name), mask, fraction, generator)


class WeightedHebbianPruning(HebbianPruning):
    """Drops the connections that carried least: those of the lowest magnitude times coactivation."""

    def drop(self, name: str, weight: Tensor, mask: Tensor, fraction: float, generator: torch.Generator) -> Tensor:
        """The lowest product."""
        return lowest(weight.abs() * self.coactivation.total(name), mask, fraction, generator)


class MixedPruning(HebbianPruning):
    """Drops a connection only if both its magnitude and its coactivation speak for that, each by its own fraction.

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
        light = signed_magnitude(weight, mask, fraction, generator)
        return light & lowest(self.coactivation.total(name), mask, self.hebbian_fraction, generator)


PRUNING: dict[str, Callable[[], Pruning]] = {
    "signed_magnitude": SignedMagnitude,
    "magnitude": Magnitude,
    "hebbian": HebbianPruning,
    "inverse_hebbian": InverseHebbianPruning,
    "weighted_hebbian": WeightedHebbianPruning,
    "mixed": MixedPruning,
}
