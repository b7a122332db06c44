"""TopKAST, with its card. All arguments are PruneRegrow's."""

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
from sparse_lightning.functional.densities import DistributionName
from sparse_lightning.functional.masks import choose, derived_generator, floor_count
from sparse_lightning.functional.schedules import DensityScheduleName, Schedule, ScheduleName


class TopKAST(PruneRegrow):
    """Top-KAST: compute with the largest weights, train somewhat more, and let them take each other's place.

    What it does: the forward pass uses the weights of the largest magnitude, `density` of them. The gradient trains
    these and the next largest too, up to `backward_density`: they are kept aside, and when one becomes larger than an
    active one, it takes its place with the weight that it has. All others wait with the weight that they had. When to
    use it: for accuracy at a constant forward density, where memory for all weights can be paid for.

    Published defaults: first connections by magnitude, masks renewed every 100 steps, weight decay of the weights kept
    aside divided by the density.
    Source: Jayakumar et al. 2020, "Top-KAST: Top-K Always Sparse Training", NeurIPS, equations 1 to 4.
    Differences: the weights kept aside take plain gradient steps, without momentum, so that the optimizer has to be
    SGD; what decays is the optimizer's `weight_decay`; the largest are those of each layer.

    Args:
        backward_density: Share of connections that are trained, from `density` to 1; None for twice as many as are
            active. All other arguments are PruneRegrow's; `prune_fraction`, `growth`, `pruning` and `grown_weights` are
            not used.

    Raises:
        ValueError: Also: `backward_density` is less than the density, there is a structure, or the layout is not
            masked. At fit start: a weight has another optimizer than SGD.
    """

    def __init__(
        self,
        density: PerLayer = 0.1,
        *,
        prune_fraction: PerLayer = 0.0,
        growth: GrowthName | GrowthCriterion | None = "random",
        pruning: PruningName | PruningCriterion = "magnitude",
        counts: CountName | CountCriterion | None = None,
        initial_density: float | None = None,
        density_schedule: DensityScheduleName | Schedule = "cubic",
        distribution: DistributionName = "uniform",
        structure: str | None = None,
        include: Patterns | None = None,
        exclude: Patterns = (),
        initial: InitialName | Mapping[str, Tensor] = "magnitude",
        every_n_epochs: int | None = None,
        every_n_steps: int | None = 100,
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
        backward_density: float | None = None,
    ) -> None:
        arguments = by_steps_or_epochs(locals())
        self.backward_density: float | None = arguments.pop("backward_density")
        expect(layout == "masked", "layout='masked' to keep weights aside", layout)
        expect(structure is None, "structure=None to grow the largest weights", structure)
        super().__init__(**arguments)
        least = 0.0 if isinstance(density, Mapping) else float(density)
        valid = backward_density is None or (is_number(backward_density) and least <= backward_density <= 1)
        expect(valid, f"backward_density in [{least}, 1] or None", backward_density)
        self._aside: dict[str, Tensor] = {}  # all weights, those of active connections as they last were
        self._trained: dict[str, Tensor] = {}  # which inactive ones are trained

    @property
    def acts_by_step(self) -> bool:
        """Every step matters."""
        return True

    # The largest of all weights, active or not.

    def prune_mask(self, layer: LayerView) -> Tensor:
        """Return which active connections are not among the largest of all."""
        aside = self._kept_aside(layer.name)
        self._aside[layer.name] = torch.where(layer.mask, layer.weight.detach(), aside)
        largest = self._largest(layer.name, layer.count, layer.generator)
        return layer.mask & ~largest

    def growth_scores(self, layer: LayerView) -> Tensor:
        """Return the magnitudes of all weights."""
        return self._aside[layer.name].abs()

    def _largest(self, name: str, count: int, generator: torch.Generator) -> Tensor:
        weights = self._aside[name]
        return choose(weights.abs(), count, torch.ones_like(weights, dtype=torch.bool), generator)

    # What is kept aside, and trained there.

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the weights of the model aside before inactive ones are zeroed."""
        weights = {name: weight.detach().clone() for name, weight in pl_module.named_parameters() if weight.dim() > 1}
        super().on_fit_start(trainer, pl_module)
        self._refuse_other_optimizers(trainer)
        for name in self.masks:
            if name not in self._aside:
                self._aside[name] = weights[name]
                self._choose_trained(name)

    @torch.no_grad()
    def _after_rewiring(self, names: list[str]) -> None:
        """Give what has become active the weight that it had aside."""
        for name in names:
            weight = self._training.topology.masks.weight(name)
            weight.copy_(torch.where(self.masks[name], self._aside[name], weight))
            self._choose_trained(name)

    @torch.no_grad()
    def _after_step(self, optimizer: Optimizer, names: list[str]) -> None:
        """Take a gradient step of the weights that are trained aside."""
        groups = {id(each): group for group in optimizer.param_groups for each in group["params"]}
        for name in names:
            weight, mask = self._training.topology.masks.weight(name), self.masks[name]
            if weight.grad is not None:
                group, aside = groups[id(weight)], self._kept_aside(name)
                decay = group["weight_decay"] / (float(mask.sum()) / mask.numel())
                aside.sub_((weight.grad + decay * aside) * self._trained[name], alpha=float(group["lr"]))

    def _kept_aside(self, name: str) -> Tensor:
        """What is aside of a weight, on its device; of one that began to be trained later, its active weights."""
        weight = self._training.topology.masks.weight(name).detach()
        if name not in self._aside:
            self._aside[name] = weight.clone()
            self._choose_trained(name)
        for kept in (self._aside, self._trained):
            kept[name] = kept[name].to(weight.device)
        return self._aside[name]

    def _choose_trained(self, name: str) -> None:
        mask, generator = self.masks[name], derived_generator(self._training.current_seed(), self.rewirings, name)
        active = int(mask.count_nonzero())
        trained = 2 * active if self.backward_density is None else floor_count(self.backward_density, mask.numel())
        count = min(max(trained, active), mask.numel())
        self._trained[name] = self._largest(name, count, generator) & ~mask

    def _refuse_other_optimizers(self, trainer: Trainer) -> None:
        holding = [each for each in trainer.optimizers if self._training.topology.held_by(each)]
        others = [type(each).__name__ for each in holding if not isinstance(each, torch.optim.SGD)]
        expect(not others, "SGD for weights that are trained aside", ", ".join(others))

    def _forget(self) -> None:
        self._aside, self._trained = {}, {}

    def _settings(self) -> dict[str, str]:
        return super()._settings() | {"backward_density": repr(self.backward_density)}

    def state_dict(self) -> dict[str, Any]:
        """Return the weights kept aside as well."""
        return super().state_dict() | {"aside": self._aside, "trained": self._trained}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        super().load_state_dict(state_dict)
        for name in ("aside", "trained"):
            setattr(self, f"_{name}", {key: each.clone() for key, each in state_dict.get(name, {}).items()})
