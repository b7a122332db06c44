"""Growth criteria: how much an inactive connection deserves to grow."""

from collections.abc import Collection
from typing import Literal, cast

import torch
from torch import Tensor

from sparse_lightning.criteria.base import GrowthCriterion, LayerView
from sparse_lightning.criteria.hebbian import HebbianCriterion
from sparse_lightning.criteria.momentum import Momentum

GrowthName = Literal["random", "hebbian", "inverse_hebbian", "gradient", "momentum"]


class RandomGrowth(GrowthCriterion):
    """Every inactive connection is as likely to grow (SET, Mocanu et al. 2018)."""

    def scores(self, layer: LayerView) -> Tensor:
        """Return equal scores, so that chance alone decides."""
        return torch.zeros((), device=layer.positions.device).expand(layer.shape)


class HebbianGrowth(HebbianCriterion, GrowthCriterion):
    """Units that fire together wire together: the score is the coactivation since the last rewiring.

    Args:
        count_validation: Count the validation samples too, a leak; see
            :class:`~sparse_lightning.criteria.coactivation.CoactivationTracker`.
        read_at: Modules at which the activity of a layer's output units is read, {layer name: module name}.
    """

    def scores(self, layer: LayerView) -> Tensor:
        """Return in how many samples, over all ranks, both units of a connection were active."""
        return self.coactivation.total(layer.name)


class InverseHebbianGrowth(HebbianGrowth):
    """The control of :class:`HebbianGrowth`: grows the connections least often active at both ends."""

    def scores(self, layer: LayerView) -> Tensor:
        """Return the negative counts."""
        return -super().scores(layer)


class GradientGrowth(GrowthCriterion):
    """The score is the magnitude of the loss's gradient (RigL, Evci et al. 2020).

    It is the gradient of the step just taken, on inactive connections too, after reduction over ranks and after
    clipping, if there is any. RigL takes no optimizer step where it rewires; here every step is taken.
    """

    reads_gradient = True

    def scores(self, layer: LayerView) -> Tensor:
        """Return the absolute gradient.

        Raises:
            ValueError: The weight has no gradient.
        """
        gradient = layer.gradient
        if gradient is None:
            raise ValueError("Expected a gradient to grow by, got none: rewire after a backward pass")
        return gradient.abs()


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


GROWTH: dict[str, type[GrowthCriterion]] = {
    "random": RandomGrowth,
    "hebbian": HebbianGrowth,
    "inverse_hebbian": InverseHebbianGrowth,
    "gradient": GradientGrowth,
    "momentum": MomentumGrowth,
}
