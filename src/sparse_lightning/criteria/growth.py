"""Growth criteria: how much an inactive connection deserves to grow.

A criterion only scores; the exact number with the highest scores is chosen in
:mod:`sparse_lightning.functional.masks`. What it needs to have watched during training it names in `statistics`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sparse_lightning.criteria.base import Statistic
from sparse_lightning.criteria.coactivation import Hebbian


class Growth(ABC):
    """What :class:`~sparse_lightning.PruneRegrow` asks of a growth criterion; subclass it for one of your own.

    Attributes:
        statistics: What the criterion needs to have watched, by a name that says what it is in a checkpoint.
        reads_gradient: Whether `scores` reads ``weight.grad``. Then a rewiring waits until the next optimizer step has
            been taken, so that there is a gradient, the same on every rank, whatever has been interrupted.
    """

    statistics: Mapping[str, Statistic] = MappingProxyType({})
    reads_gradient: ClassVar[bool] = False

    @abstractmethod
    def scores(self, name: str, weight: Tensor, mask: Tensor, generator: torch.Generator) -> Tensor:
        """Score the connections of one weight.

        Args:
            name: The weight's parameter name.
            weight: The weight, (out, in, ...).
            mask: Its active connections before the pruning, boolean, shaped like `weight`.
            generator: CPU generator for any randomness, the same on every rank.

        Returns:
            Finite real numbers shaped like `weight`; the inactive connections with the highest ones grow.
        """


class RandomGrowth(Growth):
    """Every inactive connection deserves it alike (SET, Mocanu et al. 2018)."""

    def scores(self, name: str, weight: Tensor, mask: Tensor, generator: torch.Generator) -> Tensor:
        """Independent uniform numbers."""
        return torch.rand(weight.shape, generator=generator).to(weight.device)


class HebbianGrowth(Hebbian, Growth):
    """Units that fire together wire together: the score is the coactivation since the last rewiring.

    Args: see :class:`~sparse_lightning.criteria.coactivation.Hebbian`.
    """

    def scores(self, name: str, weight: Tensor, mask: Tensor, generator: torch.Generator) -> Tensor:
        """Counts of the samples in which both units of a connection were active, on all ranks together."""
        return self.coactivation.total(name)


class InverseHebbianGrowth(HebbianGrowth):
    """The control of :class:`HebbianGrowth`: grows the connections that were least often active at both ends."""

    def scores(self, name: str, weight: Tensor, mask: Tensor, generator: torch.Generator) -> Tensor:
        """The negative counts."""
        return -super().scores(name, weight, mask, generator)


class GradientGrowth(Growth):
    """The score is the magnitude of the loss's gradient (RigL, Evci et al. 2020).

    It is the gradient of the step just taken, on inactive connections too, after reduction over ranks and after
    clipping, if there is any. RigL takes no optimizer step where it rewires; here every step is taken.
    """

    reads_gradient = True

    def scores(self, name: str, weight: Tensor, mask: Tensor, generator: torch.Generator) -> Tensor:
        """Absolute values of the gradient.

        Raises:
            ValueError: The weight has no gradient.
        """
        if weight.grad is None:
            raise ValueError("Expected a gradient to grow by, got none: rewire after a backward pass")
        return weight.grad.abs()


class Momentum:
    """The running mean of each weight's gradient, as the optimizer keeps it; nothing is stored twice."""

    def __init__(self) -> None:
        self._weights: dict[str, nn.Parameter] = {}
        self._optimizers: Sequence[Optimizer] = ()

    def attach(self, module: nn.Module, names: Collection[str], optimizers: Sequence[Optimizer] = ()) -> None:
        """See which optimizer has the momentum of which weight.

        Raises:
            ValueError: A weight's optimizer keeps none.
        """
        self._weights, self._optimizers = {name: module.get_parameter(name) for name in names}, optimizers
        groups = [(optimizer, group) for optimizer in optimizers for group in optimizer.param_groups]
        for name, weight in self._weights.items():
            if not any(weight is other for _, group in groups for other in group["params"]):
                raise ValueError(
                    f"Expected an optimizer with momentum for {name!r} to grow by, got none that trains it"
                )
            for optimizer, group in groups:
                if any(weight is other for other in group["params"]) and not (
                    group.get("momentum") or "betas" in group
                ):
                    raise ValueError(
                        f"Expected an optimizer with momentum for {name!r} to grow by, such as SGD(momentum=0.9) or "
                        f"Adam, got {type(optimizer).__name__} without"
                    )

    def detach(self) -> None:
        """Let go."""
        self._weights, self._optimizers = {}, ()

    def of(self, name: str) -> Tensor:
        """The momentum of one weight: SGD's buffer, or Adam's first moment.

        Raises:
            ValueError: No step was taken yet.
        """
        for optimizer in self._optimizers:
            state = optimizer.state.get(self._weights[name], {})
            for key in ("momentum_buffer", "exp_avg"):
                momentum = state.get(key)
                if isinstance(momentum, Tensor):
                    return momentum
        raise ValueError("Expected momentum to grow by, got none: rewire after an optimizer step")

    def count(self) -> None:
        """Nothing: the optimizer does."""

    def reset(self) -> None:
        """Nothing: it runs on."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing: it is in the optimizer's."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing."""


class MomentumGrowth(Growth):
    """The score is the magnitude of the gradient's running mean, the momentum (SNFS, Dettmers & Zettlemoyer 2019).

    The optimizer's own momentum is read, so it has to have one: SGD with momentum, Adam, AdamW or their kin. With SGD
    and weight decay, what decays an inactive weight is zero.
    """

    def __init__(self) -> None:
        self.statistics = {"momentum": Momentum()}

    def scores(self, name: str, weight: Tensor, mask: Tensor, generator: torch.Generator) -> Tensor:
        """Absolute values of the momentum."""
        return cast(Momentum, self.statistics["momentum"]).of(name).abs()


GROWTH: dict[str, Callable[[], Growth]] = {
    "random": RandomGrowth,
    "hebbian": HebbianGrowth,
    "inverse_hebbian": InverseHebbianGrowth,
    "gradient": GradientGrowth,
    "momentum": MomentumGrowth,
}
