"""Growth criteria made of others: drawn by their scores, with the degrees of another, one after another.

They take a rule apart, to see which part of it does what: ``experiment=hebbian_why`` is made of them.
"""

import copy
from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from sparse_lightning.criteria.base import GrowthCriterion, LayerView, Statistic
from sparse_lightning.criteria.growth import GROWTH, GrowthName
from sparse_lightning.functional.checks import expect, is_integer, is_number, is_share, named
from sparse_lightning.functional.grow import exchange_ends, highest
from sparse_lightning.functional.masks import derived_generator, mask_of, perturbed

Growth = GrowthName | GrowthCriterion


class CombinedGrowth(GrowthCriterion):
    """Base of criteria that ask other ones.

    Args:
        parts: The other criteria, by argument name: each by name or as an instance.
    """

    def __init__(self, **parts: Growth) -> None:
        self.parts = {name: _growth(name, part) for name, part in parts.items()}
        self.reads_gradient = any(part.reads_gradient for part in self.parts.values())

    @property
    def statistics(self) -> Mapping[str, Statistic]:
        """What the other criteria need."""
        return {name: each for part in self.parts.values() for name, each in part.statistics.items()}

    @statistics.setter
    def statistics(self, shared: Mapping[str, Statistic]) -> None:
        for part in self.parts.values():
            if part.statistics:
                part.statistics = {name: shared[name] for name in part.statistics}

    def unsuitable(self, shapes: Mapping[str, torch.Size]) -> dict[str, str]:
        """Return the weights that one of the others cannot decide about."""
        return {name: why for part in self.parts.values() for name, why in part.unsuitable(shapes).items()}

    def unreadable(self, names: Collection[str]) -> list[str]:
        """Return the weights that one of the others knows nothing about."""
        return list(dict.fromkeys(name for part in self.parts.values() for name in part.unreadable(names)))

    def __repr__(self) -> str:
        """Return the expression that builds it."""
        return f"{type(self).__name__}({', '.join([*map(repr, self.parts.values()), *self._options()])})"

    def _options(self) -> list[str]:
        return []


class SoftGrowth(CombinedGrowth):
    """Draws connections without replacement, in proportion to a power of another criterion's scores.

    Connections of score zero come last, at random.

    Args:
        growth: The other criterion, whose scores are at least 0, by name or as an instance.
        power: The power, above 0, as in Cannistraci-Hebb training: near 0 growth is nearly random, a high one is
            near to growing the highest scores.

    Raises:
        ValueError: The criterion is unknown or the power not above 0; at a rewiring, a score is negative.
    """

    def __init__(self, growth: Growth = "hebbian", *, power: float = 1.0) -> None:
        super().__init__(growth=growth)
        expect(is_number(power) and power > 0, "power above 0", power)
        self.power = power

    def scores(self, layer: LayerView) -> Tensor:
        """Return what orders connections as the draw does."""
        scores = self.parts["growth"].scores(layer)
        expect(bool((scores >= 0).all()), f"scores of at least 0 from {self.parts['growth']!r}", float(scores.min()))
        return perturbed(scores, self.power, layer.generator)

    def _options(self) -> list[str]:
        return [] if self.power == 1.0 else [f"power={self.power!r}"]


class FixedDegreeGrowth(CombinedGrowth):
    """Grows by one rule, with as many new connections at each input and output unit as another rule would grow.

    The other rule chooses; then connections exchange their ends, two by two, which leaves each unit its number, as long
    as that raises the scores of the first rule, or where all its scores are equal, often enough to forget the choice.
    So the two halves of a rule, which units it favours and which pairs, are looked at apart.

    Args:
        growth: The rule that decides which units are connected, by name or as an instance.
        degrees_of: The rule that decides how many connections each unit gets.

    Raises:
        ValueError: A rule is unknown; at fit start: a weight is no matrix (out, in).
    """

    def __init__(self, growth: Growth = "hebbian", *, degrees_of: Growth = "random") -> None:
        super().__init__(growth=growth, degrees_of=degrees_of)

    def scores(self, layer: LayerView) -> Tensor:
        """Return 1 for each connection that is to grow, 0 for others."""
        scores = self.parts["growth"].scores(layer)
        number = layer.count - int(layer.kept.count_nonzero())
        first = highest(self.parts["degrees_of"].scores(layer), number, layer.positions, layer.generator)
        return exchange_ends(mask_of(first, layer.shape), layer.mask, scores, layer.generator).float()

    def unsuitable(self, shapes: Mapping[str, torch.Size]) -> dict[str, str]:
        """Return the weights that are no matrices, and those that one of the rules cannot decide about."""
        found = {name: "is no matrix (out, in)" for name, shape in shapes.items() if len(shape) != 2}
        return super().unsuitable(shapes) | found

    def __repr__(self) -> str:
        """Return the expression that builds it."""
        return f"{type(self).__name__}({self.parts['growth']!r}, degrees_of={self.parts['degrees_of']!r})"


class PhasedGrowth(CombinedGrowth):
    """Grows by one rule until a share of the training is over, and by another from then on.

    Args:
        first: The rule at the beginning, by name or as an instance.
        then: The rule afterwards.
        until: The share, in [0, 1], up to which the first one grows.

    Raises:
        ValueError: A rule is unknown or the share out of its range.
    """

    def __init__(self, first: Growth, then: Growth, *, until: float) -> None:
        super().__init__(first=first, then=then)
        expect(is_share(until), "until in [0, 1]", until)
        self.until = until

    def scores(self, layer: LayerView) -> Tensor:
        """Return the scores of the rule whose turn it is."""
        return self.parts["first" if layer.progress <= self.until else "then"].scores(layer)

    def _options(self) -> list[str]:
        return [f"until={self.until!r}"]


class FixedRandomGrowth(GrowthCriterion):
    """Grows by random scores that never change: a control for rules whose scores hardly change.

    The same connections come back again and again, as with such a rule, and which ones means nothing.

    Args:
        seed: Decides the scores, with the parameter's name.

    Raises:
        ValueError: The seed is no integer.
    """

    def __init__(self, seed: int = 0) -> None:
        expect(is_integer(seed), "seed to be an integer", seed)
        self.seed = seed

    def scores(self, layer: LayerView) -> Tensor:
        """Return the scores, uniform in [0, 1)."""
        generator = derived_generator(self.seed, layer.name, "fixed scores")
        return torch.rand(layer.shape, generator=generator).to(layer.positions.device)

    def __repr__(self) -> str:
        """Return the expression that builds it."""
        return f"{type(self).__name__}({self.seed or ''})"


def _growth(argument: str, growth: Growth) -> GrowthCriterion:
    found = named(argument, growth, GROWTH)() if isinstance(growth, str) else copy.deepcopy(growth)
    expect(isinstance(found, GrowthCriterion), f"{argument} to be a name or a GrowthCriterion", growth)
    return found
