"""DeepR, with its card. All arguments are PruneRegrow's."""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from sparse_lightning.callbacks.arguments import by_steps_or_epochs
from sparse_lightning.callbacks.grown_weights import GrownWeightsName
from sparse_lightning.callbacks.initial import InitializationName, InitialName
from sparse_lightning.callbacks.layout import LayoutName
from sparse_lightning.callbacks.prune_regrow import PruneRegrow
from sparse_lightning.callbacks.selection import Patterns, PerLayer
from sparse_lightning.criteria.base import CountCriterion, GrowthCriterion, LayerView, PruningCriterion
from sparse_lightning.criteria.counts import CountName
from sparse_lightning.criteria.growth import GrowthName
from sparse_lightning.criteria.pruning import PruningName
from sparse_lightning.functional.checks import expect, is_number
from sparse_lightning.functional.csr import look_up
from sparse_lightning.functional.densities import DistributionName
from sparse_lightning.functional.masks import choose, derived_generator
from sparse_lightning.functional.schedules import DensityScheduleName, Schedule, ScheduleName


class DeepR(PruneRegrow):
    """Deep Rewiring: a connection whose weight changes its sign goes, and another grows at random, at every step.

    What it does: each connection has a sign that it keeps. The L1 norm pulls weights to zero, noise moves them about,
    and one that crosses zero is pruned at once; as many grow at random, with random signs. When to use it: for a
    topology that is sampled along with the weights, without a share to replace. It rewires at each step.

    Published defaults: random growth, with a random sign, at weight zero.
    Source: Bellec et al. 2018, "Deep Rewiring: Training very sparse deep networks", ICLR, algorithm 1.
    Differences: the L1 norm's pull and the noise are added to the gradient, so that they go through momentum and
    through the clipping of gradients where there are these; connections without any gradient count as crossing.

    Args:
        l1: Strength of the L1 norm of active weights, at least 0 (alpha).
        temperature: Of the random walk, at least 0 (T): a step at learning rate η moves a weight by √(2ηT) at random.
            All other arguments are PruneRegrow's; `prune_fraction` and `pruning` are not used.

    Raises:
        ValueError: Also: `l1` or `temperature` is negative.
    """

    def __init__(
        self,
        density: PerLayer = 0.1,
        *,
        prune_fraction: PerLayer = 0.0,
        growth: GrowthName | GrowthCriterion | None = "random",
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
        every_n_steps: int | None = 1,
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
        l1: float = 1e-4,
        temperature: float = 0.0,
    ) -> None:
        arguments = by_steps_or_epochs(locals())
        self.l1, self.temperature = float(arguments.pop("l1")), float(arguments.pop("temperature"))
        for name, value in (("l1", l1), ("temperature", temperature)):
            expect(is_number(value) and value >= 0, f"{name} of at least 0", value)
        super().__init__(**arguments)
        self._signs: dict[str, tuple[Tensor, Tensor]] = {}  # positions, sorted, and their signs

    @property
    def acts_by_step(self) -> bool:
        """Every step matters."""
        return True

    def prune_mask(self, layer: LayerView) -> Tensor:
        """Return which active weights have crossed zero, as far as they can be replaced."""
        values, positions = layer.values, layer.positions
        signs = values.sign()  # at first each has the sign of its weight
        if layer.name in self._signs:
            known, theirs = (each.to(values.device) for each in self._signs[layer.name])
            signs = look_up(known, theirs, positions)
        random = torch.randint(2, signs.shape, generator=layer.generator).to(values) * 2 - 1
        signs = signs.where(signs != 0, random)  # of those just grown
        crossed = values * signs <= 0
        count = min(int(crossed.count_nonzero()), layer.replaceable)
        pruned = choose(-values.abs(), count, crossed, layer.generator)
        self._signs[layer.name] = positions[~pruned], signs[~pruned]
        return pruned

    @torch.no_grad()
    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Add the pull to zero and the noise to the gradients of active weights."""
        rates = {id(each): group["lr"] for group in optimizer.param_groups for each in group["params"]}
        masks = self._training.topology.masks
        for name in masks:
            weight = masks.weight(name)
            if weight.grad is None or id(weight) not in rates:
                continue
            added = self.l1 * weight.sign()
            if self.temperature and float(rates[id(weight)]):
                key = self._training.current_seed(), trainer.global_step, name, "random walk"
                noise = torch.randn(weight.shape, generator=derived_generator(*key)).to(weight)
                added += (2 * self.temperature / float(rates[id(weight)])) ** 0.5 * noise
            weight.grad += added if name in masks.layers else added * masks[name]

    def _forget(self) -> None:
        self._signs = {}

    def _settings(self) -> dict[str, str]:
        return super()._settings() | {"l1": repr(self.l1), "temperature": repr(self.temperature)}

    def state_dict(self) -> dict[str, Any]:
        """Return the signs as well."""
        return super().state_dict() | {"signs": {name: list(each) for name, each in self._signs.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        super().load_state_dict(state_dict)
        self._signs = {name: (positions, signs) for name, (positions, signs) in state_dict.get("signs", {}).items()}
