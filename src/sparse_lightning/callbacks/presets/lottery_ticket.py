"""LotteryTicket, with its card. All arguments are PruneRegrow's."""

from collections.abc import Mapping
from typing import Any, Literal

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from sparse_lightning.callbacks.arguments import own_arguments
from sparse_lightning.callbacks.grown_weights import GrownWeightsName
from sparse_lightning.callbacks.hooks import all_of
from sparse_lightning.callbacks.initial import InitializationName, InitialName
from sparse_lightning.callbacks.layout import LayoutName
from sparse_lightning.callbacks.optimizer_state import optimizers_of
from sparse_lightning.callbacks.prune_regrow import PruneRegrow
from sparse_lightning.callbacks.rewinding import Rewinding
from sparse_lightning.callbacks.selection import Patterns, PerLayer
from sparse_lightning.criteria.base import CountCriterion, GrowthCriterion, PruningCriterion
from sparse_lightning.criteria.counts import CountName
from sparse_lightning.criteria.growth import GrowthName
from sparse_lightning.criteria.pruning import PruningName
from sparse_lightning.functional.checks import expect
from sparse_lightning.functional.densities import DistributionName
from sparse_lightning.functional.schedules import DensityScheduleName, Schedule, ScheduleName


class LotteryTicket(PruneRegrow):
    """Iterative magnitude pruning with rewinding: train, prune, and begin again with the weights of the start.

    What it does: the training begins dense; at each rewiring the smallest weights of every layer go, the same share of
    them each time, and all other parameters return to what they were at `rewind_to`, with new optimizer state. When to
    use it: to find the subnetworks that could have been trained alone. It takes as many trainings as there are rounds:
    20 epochs with ``every_n_epochs=5`` are four of them.

    Published defaults: dense start, a constant share of the connections each round, by magnitude within each layer.
    Source: Frankle & Carbin 2019, "The Lottery Ticket Hypothesis: Finding Sparse, Trainable Neural Networks", ICLR;
    to a later moment: Frankle et al. 2020, "Linear Mode Connectivity and the Lottery Ticket Hypothesis", ICML.
    Differences: rounds are parts of one training, so a learning rate's schedule does not begin again by itself; the
    share of each round follows from the density and the number of rounds; biases and the statistics of batch norm are
    rewound too.

    Args:
        rewind_to: The epoch, or step with `every_n_steps`, whose weights are returned to; it comes before the first
            rewiring. All other arguments are PruneRegrow's.

    Raises:
        ValueError: Also: `rewind_to` is no integer of at least 0 or not before `start`, or the layout is not masked.
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
        density_schedule: DensityScheduleName | Schedule = "geometric",
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
        rewind_to: int = 0,
    ) -> None:
        arguments = own_arguments(locals())
        self._rewinding = Rewinding(arguments.pop("rewind_to"))
        before = rewind_to == 0 or rewind_to < start
        expect(before, f"rewind_to before the first rewiring, start={start}", rewind_to)
        expect(layout == "masked", "layout='masked' to rewind", layout)
        super().__init__(**arguments)

    @property
    def rewind_to(self) -> int:
        """The epoch or step whose weights are returned to."""
        return self._rewinding.to

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Remember the weights when it is time, after what is due."""
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        self._rewinding.remember(pl_module, self._training.now(trainer))

    def _after_rewiring(self, names: list[str]) -> None:
        """Begin again with the weights of the start, once every layer is pruned."""
        trainer = self._training.trainer
        if trainer is not None and not self._training.rewirings.due:
            module = trainer.lightning_module
            self._rewinding.rewind(module, optimizers_of(trainer.optimizers, module))
            for each in all_of(trainer):  # the weights of another PruneRegrow are rewound too
                each.enforce()

    def _forget(self) -> None:
        self._rewinding.forget()

    def _settings(self) -> dict[str, str]:
        return super()._settings() | {"rewind_to": repr(self.rewind_to)}

    def state_dict(self) -> dict[str, Any]:
        """Return the weights to return to as well."""
        return super().state_dict() | {"rewinding": self._rewinding.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        super().load_state_dict(state_dict)
        self._rewinding.load_state_dict(state_dict.get("rewinding", {}))
