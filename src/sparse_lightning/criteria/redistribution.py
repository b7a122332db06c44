"""Count criteria that move connections from one layer to another."""

import math
from collections.abc import Collection, Sequence
from typing import cast

from sparse_lightning.criteria.base import CountCriterion, LayerView
from sparse_lightning.criteria.momentum import Momentum
from sparse_lightning.functional.masks import floor_count
from sparse_lightning.functional.redistribution import share_out


class MomentumRedistribution(CountCriterion):
    """All pruned connections grow again, in each layer as many as its momentum's share (SNFS).

    A layer's share is the mean magnitude of the momentum of its active connections, divided by the sum of those of all
    layers. What does not fit into a layer goes to the others. The total number of connections never changes.
    Dettmers & Zettlemoyer 2019, "Sparse Networks from Scratch", section 3.2.
    """

    def __init__(self) -> None:
        self.statistics = {"momentum": Momentum()}

    def counts(self, layers: Sequence[LayerView]) -> dict[str, int]:
        """Return what each layer keeps, and its share of what all of them prune."""
        active = {layer.name: len(layer.positions) for layer in layers}
        pruned = {layer.name: floor_count(layer.prune_fraction, active[layer.name]) for layer in layers}
        means = {layer.name: self._mean(layer) for layer in layers}
        inactive = {layer.name: layer.replaceable for layer in layers}
        grown = share_out(sum(pruned.values()), means, inactive)
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
