"""SRigL, with its card. All arguments are PruneRegrow's."""

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


class SRigL(PruneRegrow):
    """Structured RigL: RigL with one fan-in for all units, but for those of little use, which lose all connections.

    What it does: as RigL. Each output unit has as many connections as the others; a unit with fewer salient
    connections than 30% of the fan-in is ablated, but in the last layer, and the others divide its connections.
    When to use it: where few units shall do the work; :func:`~sparse_lightning.to_dense_small` removes the others.

    Published defaults: as RigL; 30% of the fan-in, ``structure="fan_in:0.3"`` (gamma_sal); 95% for transformers.
    Source: Lasby et al. 2024, "Dynamic Sparse Training with Structured Sparsity", ICLR.
    Differences: those of RigL and of :class:`~sparse_lightning.functional.structure.AblatedFanIn`.
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
        structure: str | None = "fan_in:0.3",
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
