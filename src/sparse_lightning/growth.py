"""Growth criteria: how much an inactive connection deserves to grow.

A criterion only scores; the exact number with the highest scores is chosen in :mod:`sparse_lightning.masks`. What it
needs to have watched during training it names in `statistics`, and the callback attaches, saves and resets those.
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from sparse_lightning.coactivation import Coactivation


class Statistic(Protocol):
    """Something watched while a model trains, which a criterion reads when the topology moves."""

    def attach(self, module: nn.Module, layers: Mapping[str, nn.Linear]) -> None:
        """Start watching `layers`, {parameter name: layer}, all of them parts of `module`."""

    def detach(self) -> None:
        """Stop watching, keeping what was gathered."""

    def count(self) -> None:
        """Take in the batch that has just run."""

    def reset(self) -> None:
        """Forget, after the topology has moved."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold, gathered over all ranks."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint."""


@runtime_checkable
class Growth(Protocol):
    """What :class:`~sparse_lightning.PruneRegrow` asks of a growth criterion."""

    @property
    def statistics(self) -> Mapping[str, Statistic]:
        """What it needs to have watched, by a name that says what it is in a checkpoint."""

    def scores(self, name: str, weight: Tensor, mask: Tensor, generator: torch.Generator) -> Tensor:
        """Score the connections of one layer.

        Args:
            name: The weight's parameter name.
            weight: The weight, (out, in).
            mask: Its active connections before the pruning, boolean, shaped like `weight`.
            generator: CPU generator for any randomness, the same on every rank.

        Returns:
            Finite real numbers shaped like `weight`; the inactive connections with the highest ones grow.
        """


class RandomGrowth:
    """Every inactive connection deserves it alike (SET, Mocanu et al. 2018)."""

    statistics: ClassVar[Mapping[str, Statistic]] = {}

    def scores(self, name: str, weight: Tensor, mask: Tensor, generator: torch.Generator) -> Tensor:
        """Independent uniform numbers."""
        return torch.rand(weight.shape, generator=generator).to(weight.device)


class HebbianGrowth:
    """Units that fire together wire together: the score is the coactivation since the last rewiring.

    Args:
        count_validation: Count the validation samples too, a leak; see
            :class:`~sparse_lightning.coactivation.Coactivation`.
    """

    def __init__(self, count_validation: bool = False) -> None:
        self.coactivation = Coactivation(count_validation)
        self.statistics: Mapping[str, Statistic] = {"coactivation": self.coactivation}

    def scores(self, name: str, weight: Tensor, mask: Tensor, generator: torch.Generator) -> Tensor:
        """Counts of the samples in which both units of a connection were active, on all ranks together."""
        return self.coactivation.total(name)


GROWTH: dict[str, Callable[[], Growth]] = {"random": RandomGrowth, "hebbian": HebbianGrowth}
