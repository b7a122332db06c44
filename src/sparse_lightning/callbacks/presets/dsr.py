"""DSR, with its card. All arguments are PruneRegrow's."""

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


class DSR(PruneRegrow):
    """Dynamic sparse reparameterisation: prune by magnitude over all layers, grow at random where connections last.

    What it does: every 100 steps the weights nearest zero go, wherever they are, and as many grow at random, in each
    layer in proportion to how many connections it has kept. When to use it: where it is not known how dense each layer
    should be, and dense gradients are too much.

    Published defaults: uniform densities at the start, random growth at zero.
    Source: Mostafa & Wang 2019, "Parameter Efficient Training of Deep Convolutional Neural Networks by Dynamic Sparse
    Reparameterization", ICML.
    Differences: a fixed share of the connections is pruned, in place of those below a threshold that is adapted until
    their number is about a given one.
    """

    def __init__(
        self,
        density: PerLayer = 0.1,
        *,
        prune_fraction: PerLayer = 0.05,
        growth: GrowthName | GrowthCriterion | None = "random",
        pruning: PruningName | PruningCriterion = "global_magnitude",
        counts: CountName | CountCriterion | None = "survivors",
        initial_density: float | None = None,
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
