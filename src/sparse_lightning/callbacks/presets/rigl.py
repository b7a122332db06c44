"""RigL, with its card. All arguments are PruneRegrow's."""

from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from sparse_lightning.callbacks.arguments import by_steps_or_epochs
from sparse_lightning.callbacks.grown_weights import GrownWeightsName
from sparse_lightning.callbacks.initial import InitializationName, InitialName
from sparse_lightning.callbacks.layout import LayoutName
from sparse_lightning.callbacks.prune_regrow import PruneRegrow
from sparse_lightning.callbacks.selection import Patterns, PerLayer
from sparse_lightning.criteria.base import CountCriterion, GrowthCriterion, PruningCriterion
from sparse_lightning.criteria.counts import CountName
from sparse_lightning.criteria.growth import GrowthName
from sparse_lightning.criteria.pruning import PruningName
from sparse_lightning.functional.densities import DistributionName
from sparse_lightning.functional.schedules import DensityScheduleName, Schedule, ScheduleName


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
        counts: CountName | CountCriterion | None = None,
        initial_density: float | None = None,
        density_schedule: DensityScheduleName | Schedule = "cubic",
        distribution: DistributionName = "erk",
        structure: str | None = None,
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
        grown_weights: GrownWeightsName = "zero",
        layout: LayoutName = "masked",
        initialization: InitializationName = "dense",
        log_topology: bool = True,
        seed: int | None = None,
    ) -> None:
        super().__init__(**by_steps_or_epochs(locals()))
