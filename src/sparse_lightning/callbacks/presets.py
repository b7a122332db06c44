"""The published methods by name: PruneRegrow with other defaults. All arguments are PruneRegrow's."""

from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor

from sparse_lightning.callbacks.initial import InitializationName, InitialName
from sparse_lightning.callbacks.layout import LayoutName
from sparse_lightning.callbacks.prune_regrow import PruneRegrow
from sparse_lightning.callbacks.selection import Patterns, PerLayer
from sparse_lightning.criteria.base import CountCriterion, GrowthCriterion, PruningCriterion
from sparse_lightning.criteria.growth import GrowthName
from sparse_lightning.criteria.pruning import PruningName
from sparse_lightning.functional.densities import DistributionName
from sparse_lightning.functional.schedules import Schedule, ScheduleName


class SET(PruneRegrow):
    """Sparse Evolutionary Training: prune by magnitude, grow at random, every epoch.

    What it does: after each epoch weights of exactly zero, the smallest positive weights and the negative ones nearest
    zero are pruned, the same fraction of each sign, and as many random connections grow. When to use it: as the
    baseline that costs nothing, on any layer and with any optimizer; it explores more connections than any other.

    Published defaults: prune_fraction 0.3 (ζ), Erdős-Rényi densities, no schedule.
    Source: Mocanu et al. 2018, "Scalable training of artificial neural networks with adaptive sparse connectivity
    inspired by network science", Nature Communications 9.
    Differences: grown weights start at zero, not at random values; the total density is given, not ε; nothing is
    rewired after the last epoch.
    """

    def __init__(
        self,
        density: PerLayer = 0.1,
        *,
        prune_fraction: PerLayer = 0.3,
        growth: GrowthName | GrowthCriterion | None = "random",
        pruning: PruningName | PruningCriterion = "signed_magnitude",
        counts: CountCriterion | None = None,
        distribution: DistributionName = "erdos_renyi",
        include: Patterns | None = None,
        exclude: Patterns = (),
        initial: InitialName | Mapping[str, Tensor] = "auto",
        every_n_epochs: int | None = None,
        every_n_steps: int | None = None,
        start: int = 0,
        stop: int | float | None = None,
        schedule: ScheduleName | Schedule = "constant",
        pruning_early_stop: int = 0,
        optimizer_state: Literal["reset", "keep"] = "reset",
        regrow: bool = False,
        layout: LayoutName = "masked",
        initialization: InitializationName = "dense",
        log_topology: bool = True,
        seed: int | None = None,
    ) -> None:
        arguments = _own(locals())
        super().__init__(**arguments)


class RigL(PruneRegrow):
    """Rigging the Lottery: prune by magnitude, grow where the gradient is largest, every 100 steps, less and less.

    What it does: connections of the smallest magnitude are pruned, those whose absent weight has the largest gradient
    grow, and the fraction falls by half a cosine until three quarters of the training, after which the topology stays.
    When to use it: for the best accuracy at low density. It needs dense gradients, which training has anyway.

    Published defaults: prune_fraction 0.3 (alpha), every 100 steps (ΔT), stop 0.75 (T_end), cosine, ERK densities.
    Source: Evci et al. 2020, "Rigging the Lottery: Making All Tickets Winners", ICML.
    Differences: the optimizer's step is taken at a rewiring too, and its gradient decides what grows.
    """

    def __init__(
        self,
        density: PerLayer = 0.1,
        *,
        prune_fraction: PerLayer = 0.3,
        growth: GrowthName | GrowthCriterion | None = "gradient",
        pruning: PruningName | PruningCriterion = "magnitude",
        counts: CountCriterion | None = None,
        distribution: DistributionName = "erk",
        include: Patterns | None = None,
        exclude: Patterns = (),
        initial: InitialName | Mapping[str, Tensor] = "auto",
        every_n_epochs: int | None = None,
        every_n_steps: int | None = 100,
        start: int = 0,
        stop: int | float | None = 0.75,
        schedule: ScheduleName | Schedule = "cosine",
        pruning_early_stop: int = 0,
        optimizer_state: Literal["reset", "keep"] = "reset",
        regrow: bool = True,
        layout: LayoutName = "masked",
        initialization: InitializationName = "dense",
        log_topology: bool = True,
        seed: int | None = None,
    ) -> None:
        arguments = _own(locals())
        if every_n_epochs is not None:
            arguments["every_n_steps"] = None
        super().__init__(**arguments)


class SNFS(PruneRegrow):
    """Sparse Networks from Scratch, sparse momentum: prune by magnitude, grow where the momentum is largest.

    What it does: after each epoch connections of the smallest magnitude are pruned, and those grow whose absent weight
    has the largest running mean of its gradient; the fraction falls by half a cosine to zero. When to use it: where
    single gradients are too noisy for RigL. The optimizer must have momentum.

    Published defaults: prune_fraction 0.5, every epoch, cosine, uniform densities.
    Source: Dettmers & Zettlemoyer 2019, "Sparse Networks from Scratch: Faster Training without Losing Performance".
    Differences: connections are redistributed over layers only with ``counts=MomentumRedistribution()``.
    """

    def __init__(
        self,
        density: PerLayer = 0.1,
        *,
        prune_fraction: PerLayer = 0.5,
        growth: GrowthName | GrowthCriterion | None = "momentum",
        pruning: PruningName | PruningCriterion = "magnitude",
        counts: CountCriterion | None = None,
        distribution: DistributionName = "uniform",
        include: Patterns | None = None,
        exclude: Patterns = (),
        initial: InitialName | Mapping[str, Tensor] = "auto",
        every_n_epochs: int | None = None,
        every_n_steps: int | None = None,
        start: int = 0,
        stop: int | float | None = None,
        schedule: ScheduleName | Schedule = "cosine",
        pruning_early_stop: int = 0,
        optimizer_state: Literal["reset", "keep"] = "reset",
        regrow: bool = False,
        layout: LayoutName = "masked",
        initialization: InitializationName = "dense",
        log_topology: bool = True,
        seed: int | None = None,
    ) -> None:
        arguments = _own(locals())
        super().__init__(**arguments)


class HebbianRegrow(PruneRegrow):
    """The Hebbian arm of "Evaluate hebbian growth": prune by magnitude, grow between units that fire together.

    What it does: after each epoch weights of exactly zero and the weights nearest zero are pruned, the same fraction of
    each sign, and those connections grow whose two units were most often active in the same sample. When to use it: to
    study Hebbian growth; on MNIST it is a little less accurate than random growth.

    Published defaults: density 0.2, prune_fraction 0.3, uniform densities.
    Source: Numenta's experiment; the README lists the differences.
    """

    def __init__(
        self,
        density: PerLayer = 0.2,
        *,
        prune_fraction: PerLayer = 0.3,
        growth: GrowthName | GrowthCriterion | None = "hebbian",
        pruning: PruningName | PruningCriterion = "signed_magnitude",
        counts: CountCriterion | None = None,
        distribution: DistributionName = "uniform",
        include: Patterns | None = None,
        exclude: Patterns = (),
        initial: InitialName | Mapping[str, Tensor] = "auto",
        every_n_epochs: int | None = None,
        every_n_steps: int | None = None,
        start: int = 0,
        stop: int | float | None = None,
        schedule: ScheduleName | Schedule = "constant",
        pruning_early_stop: int = 0,
        optimizer_state: Literal["reset", "keep"] = "reset",
        regrow: bool = False,
        layout: LayoutName = "masked",
        initialization: InitializationName = "dense",
        log_topology: bool = True,
        seed: int | None = None,
    ) -> None:
        arguments = _own(locals())
        super().__init__(**arguments)


class RandomRegrow(PruneRegrow):
    """The random arm of "Evaluate hebbian growth": SET at uniform densities.

    What it does: as :class:`HebbianRegrow`, but connections grow at random. When to use it: to compare with.

    Published defaults: density 0.2, prune_fraction 0.3, uniform densities.
    Source: Numenta's experiment; the README lists the differences.
    """

    def __init__(
        self,
        density: PerLayer = 0.2,
        *,
        prune_fraction: PerLayer = 0.3,
        growth: GrowthName | GrowthCriterion | None = "random",
        pruning: PruningName | PruningCriterion = "signed_magnitude",
        counts: CountCriterion | None = None,
        distribution: DistributionName = "uniform",
        include: Patterns | None = None,
        exclude: Patterns = (),
        initial: InitialName | Mapping[str, Tensor] = "auto",
        every_n_epochs: int | None = None,
        every_n_steps: int | None = None,
        start: int = 0,
        stop: int | float | None = None,
        schedule: ScheduleName | Schedule = "constant",
        pruning_early_stop: int = 0,
        optimizer_state: Literal["reset", "keep"] = "reset",
        regrow: bool = False,
        layout: LayoutName = "masked",
        initialization: InitializationName = "dense",
        log_topology: bool = True,
        seed: int | None = None,
    ) -> None:
        arguments = _own(locals())
        super().__init__(**arguments)


class StaticSparse(PruneRegrow):
    """A random topology that never moves.

    What it does: the connections drawn at the start stay. When to use it: as the lower bound that any rewiring has to
    beat.

    Published defaults: ERK densities, as the static baselines of Evci et al. 2020.
    Source: the same; Mocanu et al. 2018 call it SET's fixed counterpart.
    """

    def __init__(
        self,
        density: PerLayer = 0.1,
        *,
        prune_fraction: PerLayer = 0.3,
        growth: GrowthName | GrowthCriterion | None = None,
        pruning: PruningName | PruningCriterion = "signed_magnitude",
        counts: CountCriterion | None = None,
        distribution: DistributionName = "erk",
        include: Patterns | None = None,
        exclude: Patterns = (),
        initial: InitialName | Mapping[str, Tensor] = "auto",
        every_n_epochs: int | None = None,
        every_n_steps: int | None = None,
        start: int = 0,
        stop: int | float | None = None,
        schedule: ScheduleName | Schedule = "constant",
        pruning_early_stop: int = 0,
        optimizer_state: Literal["reset", "keep"] = "reset",
        regrow: bool = False,
        layout: LayoutName = "masked",
        initialization: InitializationName = "dense",
        log_topology: bool = True,
        seed: int | None = None,
    ) -> None:
        arguments = _own(locals())
        super().__init__(**arguments)


def _own(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a constructor, without what Python adds."""
    return {name: value for name, value in arguments.items() if name not in ("self", "__class__")}


PRESETS: dict[str, type[PruneRegrow]] = {
    "set": SET,
    "rigl": RigL,
    "snfs": SNFS,
    "hebbian": HebbianRegrow,
    "random": RandomRegrow,
    "static": StaticSparse,
}
