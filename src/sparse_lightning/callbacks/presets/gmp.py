"""GMP, with its card. All arguments are PruneRegrow's."""

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


class GMP(PruneRegrow):
    """Gradual magnitude pruning: from dense to sparse, the weights nearest zero go for good.

    What it does: training begins dense; every 100 steps each layer prunes the weights of the smallest magnitude down to
    the density of the moment, which falls by a cubic until three quarters of the training. Nothing grows. When to use
    it: as the dense-to-sparse baseline, hard to beat in accuracy; it saves nothing while it is dense.

    Published defaults: cubic schedule (equation 1), every 100 steps, from dense.
    Source: Zhu & Gupta 2017, "To prune, or not to prune: exploring the efficacy of pruning for model compression".
    Differences: the density falls until 75% of the training, in place of a step that is tuned.
    """

    def __init__(
        self,
        density: PerLayer = 0.1,
        *,
        prune_fraction: PerLayer = 0.0,
        growth: GrowthName | GrowthCriterion | None = None,
        pruning: PruningName | PruningCriterion = "magnitude",
        counts: CountName | CountCriterion | None = None,
        initial_density: float | None = 1.0,
        density_schedule: DensityScheduleName | Schedule = "cubic",
        distribution: DistributionName = "uniform",
        structure: str | None = None,
        include: Patterns | None = None,
        exclude: Patterns = (),
        initial: InitialName | Mapping[str, Tensor] = "auto",
        every_n_epochs: int | None = None,
        every_n_steps: int | None = 100,
        start: int = 0,
        stop: int | float | None = 0.75,
        schedule: ScheduleName | Schedule = "constant",
        pruning_early_stop: int = 0,
        optimizer_state: Literal["reset", "keep"] = "reset",
        regrow: bool = False,
        grown_weights: GrownWeightsName = "zero",
        layout: LayoutName = "masked",
        initialization: InitializationName = "dense",
        log_topology: bool = True,
        seed: int | None = None,
    ) -> None:
        super().__init__(**by_steps_or_epochs(locals()))
