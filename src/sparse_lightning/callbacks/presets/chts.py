"""CHTs, with its card. All arguments are PruneRegrow's."""

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
from sparse_lightning.functional.densities import DistributionName
from sparse_lightning.functional.schedules import DensityScheduleName, Schedule, ScheduleName


class CHTs(PruneRegrow):
    """Cannistraci-Hebb training, soft rule: both what to prune and what to grow are drawn by their scores.

    What it does: after each epoch connections are kept in a draw in proportion to ``|w|`` to a power that grows from 1
    to 3 over the training, and new ones are drawn in proportion to their Cannistraci-Hebb scores. When to use it: as
    CHT; the draw keeps it from growing the same communities again and again.

    Published defaults: prune_fraction 0.3, CH2-L3n, every epoch; ``growth=SoftCannistraciHebbGrowth("ch3_l3p")`` is its
    path-based variant.
    Source: Zhang et al. 2025, "Brain network science modelling of sparse neural networks enables Transformers and LLMs
    to perform as fully connected".
    Differences: the first connections are drawn uniformly, not from a bipartite receptive field; chains are kept.
    """

    def __init__(
        self,
        density: PerLayer = 0.1,
        *,
        prune_fraction: PerLayer = 0.3,
        growth: GrowthName | GrowthCriterion | None = "soft_cannistraci_hebb",
        pruning: PruningName | PruningCriterion = "soft_magnitude",
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
        super().__init__(**own_arguments(locals()))
