"""The weights that grown connections start with: zero, random, or what they were when they were last pruned."""

from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from sparse_lightning.callbacks.masks import Masks
from sparse_lightning.functional.checks import expect
from sparse_lightning.functional.csr import contains, look_up
from sparse_lightning.functional.masks import derived_generator

GrownWeightsName = Literal["zero", "random", "last"]


class GrownWeights:
    """Chooses the weights of grown connections.

    Args:
        way: ``"zero"``; ``"random"``: uniform in ±1/√k, as PyTorch initialises a unit of k inputs; ``"last"``: as when
            the connection was last pruned, and zero at its first growth.
        actual_fan_in: Whether k is the number of a unit's active inputs, not of all.

    Raises:
        ValueError: There is no such way.
    """

    def __init__(self, way: GrownWeightsName = "zero", *, actual_fan_in: bool = False) -> None:
        expect(way in get_args(GrownWeightsName), "grown_weights to be zero, random or last", way)
        self.way, self.actual_fan_in = way, actual_fan_in
        self._last: dict[str, tuple[Tensor, Tensor]] = {}  # positions, sorted, and weights

    def values(self, name: str, masks: Masks, dropped: Tensor, grown: Tensor, key: tuple[int, int]) -> Tensor | float:
        """Return the weight of each grown connection, and remember those of the dropped ones if that is needed.

        Args:
            name: The weight.
            masks: The masks, before the connections move.
            dropped: Positions that become inactive.
            grown: Positions that become active.
            key: The seed and the number of the rewiring, which decide random weights with the name.
        """
        if self.way == "random":
            return self._random(name, masks, dropped, grown, derived_generator(*key, name, "grown weights"))
        if self.way == "last":
            found = self._recall(name, grown)
            self._remember(name, dropped, masks.values_at(name, dropped).clone())
            return found
        return 0.0

    def reset(self) -> None:
        """Forget all weights."""
        self._last = {}

    def _random(self, name: str, masks: Masks, dropped: Tensor, grown: Tensor, generator: torch.Generator) -> Tensor:
        shape = (masks.layers[name].weight if name in masks.layers else masks.stored[name]).shape
        width = shape[1:].numel()
        inputs = torch.full((shape[0],), float(width), device=grown.device)
        if self.actual_fan_in:
            before, lost, gained = (
                torch.bincount(positions // width, minlength=shape[0])
                for positions in (masks.positions(name), dropped, grown)
            )
            inputs = (before - lost + gained).clamp(min=1).float()
        uniform = torch.rand(len(grown), generator=generator).to(grown.device) * 2 - 1
        return uniform * inputs.rsqrt()[grown // width]

    def _recall(self, name: str, grown: Tensor) -> Tensor | float:
        positions, values = self._last.get(name, (grown[:0], grown[:0]))
        if not len(positions):
            return 0.0
        return look_up(positions.to(grown.device), values.to(grown.device), grown)

    def _remember(self, name: str, dropped: Tensor, values: Tensor) -> None:
        known, before = (each.to(values.device) for each in self._last.get(name, (dropped[:0], values[:0])))
        older = ~contains(dropped.sort().values, known)
        positions, order = torch.cat([known[older], dropped]).sort()
        self._last[name] = positions, torch.cat([before[older], values])[order]

    def state_dict(self) -> dict[str, Any]:
        """Return the weights that are remembered, by parameter name: their positions and values."""
        return {name: list(each) for name, each in self._last.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint."""
        self._last = {name: (positions, values) for name, (positions, values) in state.items()}
