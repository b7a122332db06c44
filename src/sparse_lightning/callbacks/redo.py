"""ReDo: units that have fallen silent begin again."""

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from sparse_lightning.callbacks.arguments import build_repr
from sparse_lightning.callbacks.masks import masks_of
from sparse_lightning.callbacks.optimizer_state import optimizers_of, reset_state
from sparse_lightning.criteria.counting import Counting
from sparse_lightning.criteria.layer_calls import LayerCalls
from sparse_lightning.functional.checks import expect, is_integer, is_number
from sparse_lightning.functional.masks import derived_generator
from sparse_lightning.nn.sparse_linear import SparseLinear


class ReDo(Callback):
    """Recycles dormant units: every so often they get new incoming weights, and outgoing weights of zero.

    A unit is dormant if its mean absolute activity over a batch, divided by the mean of its layer, is at most
    `threshold`. Activity is what the layer that follows receives. A layer is taken to follow the one before it, in the
    order of the model's parameters, where it has as many inputs as that has outputs, or a Linear after a convolution so
    many for each channel. Transposed and grouped convolutions are left alone. It goes beside a PruneRegrow or alone:
    only active connections get weights, and the topology stays. With ``pruning="signed_magnitude"`` the outgoing
    connections, now zero, are pruned at the next rewiring and grow elsewhere.

    Source: Sokar et al. 2023, "The Dormant Neuron Phenomenon in Deep Reinforcement Learning", ICML, algorithm 1.
    Differences: incoming weights are drawn uniformly in ±1/√k for k inputs, and biases are zero.

    Args:
        threshold: The share of its layer's mean activity up to which a unit is dormant, at least 0 (tau).
        every_n_steps: Optimizer steps between two recyclings.
        seed: Decides the new weights, with the step and the parameter's name.

    Attributes:
        recycled: How many units were recycled so far.

    Raises:
        ValueError: An argument is out of its range. At fit start: weights store their connections alone.
    """

    acts_by_step = True  # between two batches of an epoch

    def __init__(self, threshold: float = 0.025, *, every_n_steps: int = 1000, seed: int = 0) -> None:
        expect(is_number(threshold) and threshold >= 0, "threshold of at least 0", threshold)
        expect(is_integer(every_n_steps, 1), "every_n_steps of at least 1", every_n_steps)
        expect(is_integer(seed), "seed to be an integer", seed)
        self.threshold, self.every_n_steps, self.seed = threshold, every_n_steps, seed
        self.recycled = 0
        self._calls: LayerCalls | None = None
        self._step = 0

    def __repr__(self) -> str:
        """Return the expression that builds this callback."""
        return build_repr(self, {})

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse layers that store their connections alone."""
        sparse = [name for name, each in pl_module.named_modules() if isinstance(each, SparseLinear)]
        if sparse:
            listed = ", ".join(sparse)
            raise ValueError(f"Expected layout='masked' beside ReDo, got layers that store connections alone: {listed}")

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Watch the batch, if units are recycled after it."""
        step = trainer.global_step
        if step // self.every_n_steps > self._step // self.every_n_steps:  # a batch may have several steps
            self._step = step
            following = dict.fromkeys(name for _, name in self._pairs(pl_module))
            self._calls = LayerCalls(pl_module, following, _Magnitudes())

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Recycle the units that were dormant in the batch."""
        if self._calls is None:
            return
        received = self._received(self._calls, trainer)
        self._calls.close()
        self._calls = None
        masks, parameters = masks_of(pl_module), dict(pl_module.named_parameters())
        for name, following in self._pairs(pl_module):
            if following in received:
                activity = received[following].view(len(parameters[name]), -1).mean(1)
                dormant = activity <= self.threshold * activity.mean()
                self.recycled += int(dormant.sum())
                if dormant.any():
                    self._recycle(name, following, dormant, parameters, masks, trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Warn where no step was due."""
        if self._step == 0:
            rank_zero_warn(
                f"ReDo has recycled nothing in {trainer.global_step} steps: the first time is due at step "
                f"{self.every_n_steps}. Set every_n_steps"
            )

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave no hook behind."""
        if self._calls is not None:
            self._calls.close()

    def state_dict(self) -> dict[str, Any]:
        """Return the counters."""
        return {"recycled": self.recycled, "step": self._step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        self.recycled, self._step = state_dict["recycled"], state_dict["step"]

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles carry no hooks."""
        return self.__dict__ | {"_calls": None}

    @torch.no_grad()
    def _recycle(
        self,
        name: str,
        following: str,
        dormant: Tensor,
        parameters: Mapping[str, Tensor],
        masks: Mapping[str, Tensor],
        trainer: Trainer,
        module: LightningModule,
    ) -> None:
        weight, after, bias_name = parameters[name], parameters[following], f"{name.removesuffix('weight')}bias"
        repeats = after.shape[1] // len(dormant)
        changed = {name: _along(dormant, weight, 0), following: _along(dormant.repeat_interleave(repeats), after, 1)}
        generator = derived_generator(self.seed, self._step, name)
        drawn = torch.rand(weight.shape, generator=generator).to(weight) * 2 - 1
        fresh = drawn * weight[0].numel() ** -0.5 * masks.get(name, torch.ones_like(weight)).to(weight)
        weight.copy_(torch.where(changed[name], fresh, weight))
        after.masked_fill_(changed[following], 0)
        if bias_name in parameters:
            parameters[bias_name].masked_fill_(dormant, 0)
            changed[bias_name] = dormant
        for each, where in changed.items():
            reset_state(optimizers_of(trainer.optimizers, module), parameters[each], where)  # type: ignore[arg-type]

    @staticmethod
    def _received(calls: LayerCalls, trainer: Trainer) -> dict[str, Tensor]:
        """The mean absolute value of each input unit of each layer, over all ranks."""
        sums: dict[str, list[Tensor]] = {}
        for call in calls.take():
            units = call.inputs.movedim(Counting.units(call.layer), 0).flatten(1)
            sums.setdefault(call.name, []).append(units.mean(1))
        means = {name: torch.stack(each).mean(0) for name, each in sums.items()}
        return {name: trainer.strategy.reduce(each, reduce_op="mean") for name, each in means.items()}

    @staticmethod
    def _pairs(module: nn.Module) -> Iterator[tuple[str, str]]:
        """The names of the weights of each layer and of the one that follows it."""
        layers = [
            (f"{name}.weight", each)
            for name, each in module.named_modules()
            if isinstance(each, (nn.Linear, _ConvNd)) and each.weight.requires_grad
        ]
        for (one, before), (two, after) in pairwise(layers):
            outputs, inputs = len(before.weight), after.weight.shape[1]
            flattened = isinstance(before, _ConvNd) and isinstance(after, nn.Linear) and inputs % outputs == 0
            plain = not any(
                isinstance(each, _ConvNd) and (each.transposed or each.groups > 1) for each in (before, after)
            )
            if plain and (inputs == outputs or flattened):
                yield one, two


class _Magnitudes(Counting):
    """Reads how strongly units are active, not whether they are."""

    def activity(self, values: Tensor, layer: nn.Module) -> Tensor:
        """Return absolute values."""
        return values.detach().abs()


def _along(units: Tensor, weight: Tensor, dimension: int) -> Tensor:
    """A mask of the units of one dimension of a weight, expanded to its shape."""
    shape = [1] * weight.dim()
    shape[dimension] = -1
    return units.view(shape).expand_as(weight)
