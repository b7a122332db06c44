"""Dense training, with its card. All arguments are PruneRegrow's."""

from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from sparse_lightning.callbacks.arguments import own_arguments
from sparse_lightning.callbacks.grown_weights import GrownWeightsName
from sparse_lightning.callbacks.initial import InitializationName, InitialName
from sparse_lightning.callbacks.layout import LayoutName
from sparse_lightning.callbacks.prune_regrow import PruneRegrow
from sparse_lightning.callbacks.selection import Patterns, PerLayer
from sparse_lightning.criteria.base import CountCriterion, GrowthCriterion, PruningCriterion
from sparse_lightning.criteria.counts import CountName
from sparse_lightning.criteria.growth import GrowthName
from sparse_lightning.criteria.pruning import PruningName
from sparse_lightning.functional.checks import expect
from sparse_lightning.functional.densities import DistributionName
from sparse_lightning.functional.schedules import DensityScheduleName, Schedule, ScheduleName


class Dense(PruneRegrow):
    """Dense training, with the measures of sparse training.

    What it does: nothing to the weights; their density and zeros are logged as with the other presets. When to use it:
    as what sparse training has to come near to.

    Raises:
        ValueError: The density is not 1.
    """

    def __init__(
        self,
        density: PerLayer = 1.0,
        *,
        prune_fraction: PerLayer = 0.3,
        growth: GrowthName | GrowthCriterion | None = None,
        pruning: PruningName | PruningCriterion = "signed_magnitude",
        counts: CountName | CountCriterion | None = None,
        initial_density: float | None = None,
        density_schedule: DensityScheduleName | Schedule = "cubic",
        distribution: DistributionName = "uniform",
        structure: str | None = None,
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
        grown_weights: GrownWeightsName = "zero",
        layout: LayoutName = "masked",
        initialization: InitializationName = "dense",
        log_topology: bool = True,
        seed: int | None = None,
    ) -> None:
        arguments = own_arguments(locals())
        expect(density == 1, "density=1 for dense training (StaticSparse is sparse and stays)", density)
        super().__init__(**arguments)
