"""Pruning criteria: which active connections a rewiring drops.

A criterion is called with one layer's weight and mask and says which connections go; it never changes either.
"""

from typing import Protocol

import torch
from torch import Tensor

from sparse_lightning.masks import choose, part


class Pruning(Protocol):
    """What :class:`~sparse_lightning.PruneRegrow` asks of a pruning criterion."""

    def __call__(self, weight: Tensor, mask: Tensor, fraction: float, generator: torch.Generator) -> Tensor:
        """Choose the connections to drop.

        Args:
            weight: The layer's weight, (out, in).
            mask: Its active connections, boolean, shaped like `weight`.
            fraction: How much of the active connections to drop at most, in [0, 1).
            generator: CPU generator, for ties.

        Returns:
            The mask of connections to drop, all of them active.
        """


def signed_magnitude(weight: Tensor, mask: Tensor, fraction: float, generator: torch.Generator) -> Tensor:
    """Drop the smallest positive and the negative weights nearest zero, the same fraction of each (SET).

    The rule of Mocanu et al. 2018, "Scalable training of artificial neural networks with adaptive sparse connectivity
    inspired by network science". Counts are floored for each sign. A weight of exactly zero has no sign and stays.

    Args:
        weight: The layer's weight, (out, in).
        mask: Its active connections, boolean, shaped like `weight`.
        fraction: How much of each sign to drop, in [0, 1).
        generator: CPU generator, for ties.

    >>> weight = torch.tensor([0.1, 0.2, 0.3, -0.1, -0.2, -0.3])
    >>> signed_magnitude(weight, torch.ones(6, dtype=torch.bool), 0.4, torch.Generator())
    tensor([ True, False, False,  True, False, False])
    """
    positive, negative = mask & (weight > 0), mask & (weight < 0)
    return choose(-weight, part(fraction, int(positive.sum())), positive, generator) | choose(
        weight, part(fraction, int(negative.sum())), negative, generator
    )


PRUNING: dict[str, Pruning] = {"signed_magnitude": signed_magnitude}
