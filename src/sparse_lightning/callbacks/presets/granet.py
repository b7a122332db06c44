"""GraNet, with its card. All arguments are PruneRegrow's."""

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


class GraNet(PruneRegrow):
    """Gradual pruning with neuroregeneration: from half dense to sparse, and rewired on the way as RigL does.

    What it does: every 100 steps the density falls by a cubic, the weights nearest zero going from all layers together;
    of those that are left each layer prunes a fraction and grows as many where the gradient is largest. When to use
    it: for the best accuracy at low density where training may begin at half the connections.

    Published defaults: initial_density 0.5, cubic, prune_fraction 0.5 falling by half a cosine, ERK densities.
    Source: Liu et al. 2021, "Sparse Training via Boosting Pruning Plasticity with Neuroregeneration", NeurIPS.
    Differences: every 100 steps and until 75% of the training, as RigL; the optimizer's step is taken at a rewiring.
    """

    def __init__(
        self,
        density: PerLayer = 0.1,
        *,
        prune_fraction: PerLayer = 0.5,
        growth: GrowthName | GrowthCriterion | None = "gradient",
        pruning: PruningName | PruningCriterion = "magnitude",
        counts: CountName | CountCriterion | None = "global_magnitude",
        initial_density: float | None = 0.5,
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
