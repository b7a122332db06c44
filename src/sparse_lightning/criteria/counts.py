"""Count criteria: how many connections each layer has after a rewiring."""

import math
from collections.abc import Collection, Sequence
from typing import Literal, cast

from sparse_lightning.criteria.base import CountCriterion, Criterion, LayerView
from sparse_lightning.criteria.momentum import Momentum
from sparse_lightning.functional.checks import expect, is_share
from sparse_lightning.functional.masks import floor_count
from sparse_lightning.functional.redistribution import among_largest, share_out, surviving

CountName = Literal["constant", "momentum", "global_magnitude", "survivors"]


class ConstantCount(CountCriterion):
    """Every layer keeps its number of connections, or follows the density's schedule where there is one."""

    def counts(self, layers: Sequence[LayerView]) -> dict[str, int]:
        """Return what the layers have, or the schedule gives them."""
        return {layer.name: layer.count for layer in layers}


class MinimumCriterion(Criterion):
    """A criterion of all layers together that leaves each layer a share of its connections.

    Args:
        minimum: Share of its connections that a layer keeps at least, in [0, 1].

    Raises:
        ValueError: The minimum is out of its range.
    """

    def __init__(self, minimum: float = 0.0) -> None:
        expect(is_share(minimum), "minimum in [0, 1]", minimum)
        self.minimum = minimum

    def __repr__(self) -> str:
        """Return the expression that builds it."""
        return f"{type(self).__name__}({'' if self.minimum == 0 else f'minimum={self.minimum!r}'})"


class GlobalMagnitude(MinimumCriterion, CountCriterion):
    """Where a schedule lowers the density, the weights nearest zero go from all layers together (GraNet).

    Each layer keeps as many connections as it has among the largest of all. Liu et al. 2021, "Sparse Training via
    Boosting Pruning Plasticity with Neuroregeneration". Where the density does not fall, layers keep their numbers, or
    follow the schedule.

    Args:
        minimum: Share of its connections that a layer keeps at least, in [0, 1].

    Raises:
        ValueError: The minimum is out of its range.
    """

    def counts(self, layers: Sequence[LayerView]) -> dict[str, int]:
        """Return how many of the largest active weights belong to each layer."""
        total = sum(layer.count for layer in layers)
        if total >= sum(len(layer.positions) for layer in layers):
            return {layer.name: layer.count for layer in layers}
        least = {layer.name: max(floor_count(self.minimum, len(layer.positions)), 1) for layer in layers}
        return among_largest({layer.name: layer.values.abs() for layer in layers}, least, total)


class MomentumRedistribution(CountCriterion):
    """All pruned connections grow again, in each layer as many as its momentum's share (SNFS).

    A layer's share is the mean magnitude of the momentum of its active connections, divided by the sum of those of all
    layers. What does not fit into a layer goes to the others. The total number of connections never changes.
    Dettmers & Zettlemoyer 2019, "Sparse Networks from Scratch", section 3.2.
    """

    redistributes = True

    def __init__(self) -> None:
        self.statistics = {"momentum": Momentum()}

    def counts(self, layers: Sequence[LayerView]) -> dict[str, int]:
        """Return what each layer keeps, and its share of what all of them prune."""
        active = {layer.name: len(layer.positions) for layer in layers}
        pruned = {layer.name: floor_count(layer.prune_fraction, active[layer.name]) for layer in layers}
        pool = sum(layer.count - active[layer.name] + pruned[layer.name] for layer in layers)
        means = {layer.name: self._mean(layer) for layer in layers}
        inactive = {layer.name: layer.shape.numel() - active[layer.name] for layer in layers}
        grown = share_out(pool, means, inactive)
        return {name: count - pruned[name] + grown[name] for name, count in active.items()}

    def unreadable(self, names: Collection[str]) -> list[str]:
        """Return the weights that have no momentum, because the loss does not reach them."""
        return self._momentum.missing(names)

    def _mean(self, layer: LayerView) -> float:
        """The mean magnitude of the momentum of a layer's active connections; 0 if it is not a number."""
        mean = float(layer.at_connections(self._momentum.of(layer.name)).abs().mean())
        return mean if math.isfinite(mean) else 0.0

    @property
    def _momentum(self) -> Momentum:
        return cast(Momentum, self.statistics["momentum"])


class SurvivorRedistribution(MinimumCriterion, CountCriterion):
    """All pruned connections grow again, in each layer in proportion to how many it has kept (DSR).

    What each layer keeps is what :class:`~sparse_lightning.GlobalMagnitudePruning` leaves it. What does not fit into a
    layer goes to the others. The total number of connections never changes. Mostafa & Wang 2019, "Parameter Efficient
    Training of Deep Convolutional Neural Networks by Dynamic Sparse Reparameterization", section 3.

    Args:
        minimum: Share of its connections that a layer keeps at least at a rewiring, in [0, 1].

    Raises:
        ValueError: The minimum is out of its range.
    """

    redistributes = True

    def counts(self, layers: Sequence[LayerView]) -> dict[str, int]:
        """Return what each layer keeps, and its share of what all of them prune."""
        active = {layer.name: len(layer.positions) for layer in layers}
        kept = kept_globally(layers, self.minimum)
        pool = sum(layer.count for layer in layers) - sum(kept.values())
        inactive = {layer.name: layer.shape.numel() - active[layer.name] for layer in layers}
        grown = share_out(max(min(pool, sum(inactive.values())), 0), kept, inactive)
        return {name: count + grown[name] for name, count in kept.items()}


def kept_globally(layers: Sequence[LayerView], minimum: float) -> dict[str, int]:
    """Return how many connections each layer keeps when the weights nearest zero of all layers are pruned."""
    pruned = sum(floor_count(layer.prune_fraction, len(layer.positions)) for layer in layers)
    return surviving({layer.name: layer.values.abs() for layer in layers}, pruned, minimum)


COUNTS: dict[str, type[CountCriterion]] = {
    "constant": ConstantCount,
    "momentum": MomentumRedistribution,
    "global_magnitude": GlobalMagnitude,
    "survivors": SurvivorRedistribution,
}
