"""Growth criteria: how much an inactive connection deserves to grow."""

from collections.abc import Collection, Iterator, Mapping
from typing import Literal, cast

import torch
from torch import Tensor

from sparse_lightning.criteria.base import BlockwiseGrowthCriterion, GrowthCriterion, LayerView
from sparse_lightning.criteria.hebbian import HebbianCriterion
from sparse_lightning.criteria.momentum import Momentum
from sparse_lightning.functional.cannistraci_hebb import RULES, RuleName
from sparse_lightning.functional.checks import expect, is_number, named
from sparse_lightning.functional.masks import perturbed

GrowthName = Literal[
    "random",
    "hebbian",
    "inverse_hebbian",
    "gradient",
    "momentum",
    "cannistraci_hebb",
    "soft_cannistraci_hebb",
]


class RandomGrowth(GrowthCriterion):
    """Every inactive connection is as likely to grow (SET, Mocanu et al. 2018)."""

    def scores(self, layer: LayerView) -> Tensor:
        """Return equal scores, so that chance alone decides."""
        return torch.zeros((), device=layer.positions.device).expand(layer.shape)


class HebbianGrowth(HebbianCriterion, GrowthCriterion):
    """Units that fire together wire together: the score is the coactivation since the last rewiring.

    Its arguments are those of :class:`~sparse_lightning.criteria.hebbian.HebbianCriterion`.
    """

    def scores(self, layer: LayerView) -> Tensor:
        """Return in how many samples, over all ranks, both units of a connection were active."""
        return self.coactivation.total(layer.name)


class InverseHebbianGrowth(HebbianGrowth):
    """The control of :class:`HebbianGrowth`: grows the connections least often active at both ends."""

    def scores(self, layer: LayerView) -> Tensor:
        """Return the negative counts."""
        return -super().scores(layer)


class GradientGrowth(BlockwiseGrowthCriterion):
    """The score is the magnitude of the loss's gradient (RigL, Evci et al. 2020).

    It is the gradient of the step just taken, on inactive connections too, after reduction over ranks and after
    clipping, if there is any. RigL takes no optimizer step where it rewires; here every step is taken.
    """

    reads_gradient = True

    def score_blocks(self, layer: LayerView) -> Iterator[Tensor]:
        """Return the absolute gradient, some million connections at a time where these are stored alone.

        Raises:
            ValueError: The weight has no gradient.
        """
        if not layer.has_gradient:
            raise ValueError("Expected a gradient to grow by, got none: rewire after a backward pass")
        return (block.abs() for block in layer.gradient_blocks())


class MomentumGrowth(GrowthCriterion):
    """The score is the magnitude of the gradient's running mean, the momentum (SNFS, Dettmers & Zettlemoyer 2019).

    The optimizer's own momentum is read, so it has to have one: SGD with momentum, Adam, AdamW or similar. With SGD and
    weight decay, the decay of an inactive weight is zero.
    """

    def __init__(self) -> None:
        self.statistics = {"momentum": Momentum()}

    def scores(self, layer: LayerView) -> Tensor:
        """Return the absolute momentum."""
        return self._momentum.of(layer.name).abs()

    def unreadable(self, names: Collection[str]) -> list[str]:
        """Return the weights that have no momentum, because the loss does not reach them."""
        return self._momentum.missing(names)

    @property
    def _momentum(self) -> Momentum:
        return cast(Momentum, self.statistics["momentum"])


class CannistraciHebbGrowth(GrowthCriterion):
    """Grows the links that the topology itself predicts (CHT, Zhang et al. 2024).

    The score is that of :mod:`sparse_lightning.functional.cannistraci_hebb` on the connections that the pruning left.
    Neither activity nor gradient is read. Only matrices (out, in) are bipartite graphs: a convolution is refused.

    Args:
        rule: ``"ch2_l3n"``, ``"ch3_l3n"`` or ``"ch3_l3p"``.

    Raises:
        ValueError: The rule is unknown.
    """

    def __init__(self, rule: RuleName = "ch3_l3p") -> None:
        self._score = named("rule", rule, RULES)
        self.rule: RuleName = rule

    def scores(self, layer: LayerView) -> Tensor:
        """Return the scores."""
        return self._score(layer.kept)

    def unsuitable(self, shapes: Mapping[str, torch.Size]) -> dict[str, str]:
        """Return the weights that are no matrices."""
        return {name: "is no matrix (out, in)" for name, shape in shapes.items() if len(shape) != 2}

    def __repr__(self) -> str:
        """Return the expression that builds it."""
        return f"{type(self).__name__}({'' if self.rule == 'ch3_l3p' else repr(self.rule)})"


class SoftCannistraciHebbGrowth(CannistraciHebbGrowth):
    """Draws links without replacement, in proportion to their Cannistraci-Hebb scores (CHTs, Zhang et al. 2025).

    Connections without any score come last, at random.

    Args:
        rule: ``"ch2_l3n"``, ``"ch3_l3n"`` or ``"ch3_l3p"``.
        power: A power of the scores, above 0; the higher, the nearer to :class:`CannistraciHebbGrowth`.

    Raises:
        ValueError: The rule is unknown, or the power is not above 0.
    """

    def __init__(self, rule: RuleName = "ch2_l3n", *, power: float = 1.0) -> None:
        super().__init__(rule)
        expect(is_number(power) and power > 0, "power above 0", power)
        self.power = power

    def scores(self, layer: LayerView) -> Tensor:
        """Return what orders connections as the draw does."""
        return perturbed(super().scores(layer), self.power, layer.generator)

    def __repr__(self) -> str:
        """Return the expression that builds it."""
        shown = [] if self.rule == "ch2_l3n" else [repr(self.rule)]
        shown += [] if self.power == 1.0 else [f"power={self.power!r}"]
        return f"{type(self).__name__}({', '.join(shown)})"


GROWTH: dict[str, type[GrowthCriterion]] = {
    "random": RandomGrowth,
    "hebbian": HebbianGrowth,
    "inverse_hebbian": InverseHebbianGrowth,
    "gradient": GradientGrowth,
    "momentum": MomentumGrowth,
    "cannistraci_hebb": CannistraciHebbGrowth,
    "soft_cannistraci_hebb": SoftCannistraciHebbGrowth,
}
