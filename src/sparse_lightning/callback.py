"""PruneRegrow, the callback: when to rewire, the masks, their enforcement and their state."""

from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from functools import cached_property
from types import MappingProxyType
from typing import Any, TypeVar, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from sparse_lightning.growth import GROWTH, Growth, Statistic
from sparse_lightning.masks import generator_for, random_mask
from sparse_lightning.pruning import PRUNING, Pruning
from sparse_lightning.topology import Topology, measures

PerLayer = float | Mapping[str, float]
T = TypeVar("T")


class PruneRegrow(Callback):
    """Trains the Linear layers of any LightningModule sparse, and rewires them between epochs.

    Between two epochs, after the first one's validation and checkpoint and before the second one's first batch, every
    layer drops its weakest connections and grows as many new ones at weight zero, with their optimizer state cleared.
    So what was validated is what was saved, and nothing is rewired that will not be trained. Inactive weights are
    exactly zero after every optimizer step. The model stays plain PyTorch: its checkpoints load without this library.

    With ``pruning="signed_magnitude"`` and ``growth="random"`` this is SET (Mocanu et al. 2018); ``growth="hebbian"``
    prefers the connections whose two units were most often active together.

    A method of your own is a subclass with one small method: :meth:`should_rewire`, :meth:`prune_mask` or
    :meth:`growth_scores`.

    Args:
        density: Share of connections that are active, in (0, 1]; for all Linear layers that are trained, or by layer
            name, ``{"encoder.*": 0.1}``, where the first pattern that matches counts and layers that match none stay
            dense and are left alone.
        prune_fraction: Share of a layer's active connections that a rewiring replaces, in [0, 1); for all layers or
            by layer name, where layers that match none keep their connections. It is lowered where a layer has fewer
            inactive connections than that to grow.
        growth: ``"random"``, ``"hebbian"``, a :class:`~sparse_lightning.growth.Growth`, or None for a topology that
            never moves.
        pruning: ``"signed_magnitude"``, or a :class:`~sparse_lightning.pruning.Pruning`.
        seed: Decides the first masks and every random choice after, with the number of the rewiring and the
            parameter's name; PyTorch's own random state is neither read nor moved.
        pruning_early_stop: Stop rewiring once the learning rate has dropped this many times between epochs; 0 never
            stops. Meant for step schedules: one that lowers the rate each epoch drops it each epoch.

    Raises:
        ValueError: An argument is out of its range; at setup: a layer name matches nothing, another PruneRegrow has
            the same weights, or the weights are sparse already at a higher density than asked for.

    Example::

        Trainer(callbacks=[PruneRegrow(density=0.1, growth="hebbian")]).fit(model)
    """

    def __init__(
        self,
        density: PerLayer = 0.2,
        prune_fraction: PerLayer = 0.3,
        growth: str | Growth | None = "random",
        pruning: str | Pruning = "signed_magnitude",
        seed: int = 0,
        pruning_early_stop: int = 0,
    ) -> None:
        for value in _values(density):
            if isinstance(value, bool) or not (isinstance(value, float | int) and 0 < value <= 1):
                raise ValueError(f"Expected density in (0, 1], got {value!r}")
        if isinstance(density, Mapping) and not density:
            raise ValueError("Expected density by layer name, got no name")
        for value in _values(prune_fraction):
            if not (isinstance(value, float | int) and 0 <= value < 1):
                raise ValueError(f"Expected prune_fraction in [0, 1), got {value!r}")
        if not (isinstance(pruning_early_stop, int) and pruning_early_stop >= 0):
            raise ValueError(f"Expected pruning_early_stop to be 0 or a number of drops, got {pruning_early_stop!r}")
        self.density = density
        self.prune_fraction = prune_fraction
        if growth is not None and (isinstance(growth, type) or not isinstance(growth, str | Growth)):
            raise ValueError(f"Expected growth to be a name, a Growth or None, got {growth!r}")
        self.growth = _named("growth", growth, GROWTH)() if isinstance(growth, str) else growth
        self.pruning = _named("pruning", pruning, PRUNING) if isinstance(pruning, str) else pruning
        self.seed = seed
        self.pruning_early_stop = pruning_early_stop
        self.rewirings = 0
        self._topologies: dict[str, Topology] = {}
        self._statistics: Mapping[str, Statistic] = self.growth.statistics if self.growth else {}
        self._epoch: int | None = None
        self._learning_rate = 0.0
        self._learning_rate_drops = 0
        self._weights: dict[str, nn.Parameter] = {}
        self._handles: list[RemovableHandle] = []

    # What to override: each of these is a method of the literature in a few lines.

    def should_rewire(self, trainer: Trainer, pl_module: LightningModule) -> bool:
        """Whether to rewire now, before the first batch of epoch ``trainer.current_epoch``; never asked before 0."""
        stopped = 0 < self.pruning_early_stop <= self._learning_rate_drops
        return self.growth is not None and not stopped

    def prune_mask(
        self, name: str, weight: Tensor, mask: Tensor, fraction: float, generator: torch.Generator
    ) -> Tensor:
        """The connections of one layer to drop; by default what `pruning` says.

        Args:
            name: The weight's parameter name.
            weight: The weight, (out, in).
            mask: Its active connections, boolean, shaped like `weight`.
            fraction: How much of them to drop at most.
            generator: CPU generator for any randomness, the same on every rank.

        Returns:
            A mask of active connections, at most as many as are inactive.
        """
        return self.pruning(weight, mask, fraction, generator)

    def growth_scores(self, name: str, weight: Tensor, mask: Tensor, generator: torch.Generator) -> Tensor:
        """How much each connection of one layer deserves to grow; by default what `growth` says.

        Args:
            name: The weight's parameter name.
            weight: The weight, (out, in).
            mask: The active connections before the pruning, boolean, shaped like `weight`.
            generator: CPU generator for any randomness, the same on every rank.

        Returns:
            Finite real numbers shaped like `weight`; as many of the inactive connections as were dropped grow, those
            with the highest scores, ties broken at random.
        """
        if self.growth is None:
            raise ValueError("Expected a growth criterion to rewire by, got growth=None; say another growth")
        return self.growth.scores(name, weight, mask, generator)

    # Looking at it.

    @property
    def masks(self) -> Mapping[str, Tensor]:
        """The active connections of each layer, boolean, shaped like the weight, by parameter name; read-only."""
        return MappingProxyType({name: topology.mask for name, topology in self._topologies.items()})

    def sparsify(self, module: nn.Module) -> None:
        """Give every layer its mask and zero what lies off it; layers whose weights agree with their mask stay.

        Weights bring their topology with them: those that are sparse already keep the connections that they have,
        filled up at random where they have fewer than the density asks for. Dense ones are cut at random.

        Raises:
            ValueError: A layer name matches nothing, or weights are sparse already at a higher density than asked for.
        """
        new = False
        for name, (layer, density) in self._targets(module).items():
            weight = layer.weight.detach()
            topology = self._topologies.get(name)
            if topology is None or weight[~topology.mask.to(weight.device)].any():
                topology = Topology.start(self._first_mask(name, weight, density))
                new = True
            self._topologies[name] = topology.to(weight.device)
            weight.mul_(self._topologies[name].mask)
        if new:
            self._restart()

    def start_from(self, masks: Mapping[str, Tensor]) -> None:
        """Take these masks, by parameter name, in place of what was there, and forget what came before."""
        self._topologies = {name: Topology.start(mask.clone()) for name, mask in masks.items()}
        self._restart()

    def rewire(self, optimizers: Iterable[Optimizer] = ()) -> None:
        """Prune and regrow every layer once, now.

        Args:
            optimizers: Those that train the layers; their state for grown connections is set to zero.

        Raises:
            ValueError: :meth:`prune_mask` or :meth:`growth_scores` gave what cannot be used; the layer is named.
            RuntimeError: No model is training.
        """
        if not self._weights:
            raise RuntimeError("Expected a model in training to rewire, got none: rewire is called while fit runs")
        self.rewirings += 1
        for name, weight in self._weights.items():
            topology = self._topologies[name]
            generator = generator_for(self.seed, self.rewirings, name)
            fraction = min(_lookup(self.prune_fraction, name, otherwise=0.0), topology.room)
            try:
                dropped = self.prune_mask(name, weight.detach(), topology.mask, fraction, generator)
                scores = self.growth_scores(name, weight.detach(), topology.mask, generator)
                topology.rewire(dropped, scores, generator)
            except ValueError as error:
                raise ValueError(f"Rewiring {self.rewirings} of {name!r}: {error}") from error
            weight.detach().mul_(topology.mask)
            for optimizer in optimizers:
                for state in optimizer.state.get(weight, {}).values():
                    if isinstance(state, Tensor) and state.shape == weight.shape:
                        state[topology.grown] = 0
        for statistic in self._statistics.values():
            statistic.reset()

    # Lightning's hooks: 'should I? then call'.

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Sparsify the model before anything else sees it; one that builds its layers later is met at fit start."""
        if stage == "fit" and not is_overridden("configure_model", pl_module):
            self._claim(trainer, pl_module)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """See that the weights, a checkpoint's perhaps, are on the masks."""
        self._claim(trainer, pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Attach to the optimizers and to what the criteria watch."""
        self._detach()
        layers = {name: layer for name, (layer, _) in self._targets(pl_module).items()}
        self._weights = {name: cast(nn.Parameter, layer.weight) for name, layer in layers.items()}
        for statistic in self._statistics.values():
            statistic.attach(pl_module, layers)
        for optimizer in trainer.optimizers:
            self._handles.append(optimizer.register_step_post_hook(self._enforcer(optimizer)))

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Rewire where an epoch has ended and another begins."""
        # Not in on_train_epoch_start, which Lightning leaves out when it resumes from the last batch of an epoch.
        if trainer.current_epoch != self._epoch:
            first, self._epoch = self._epoch is None, trainer.current_epoch
            self._count_learning_rate_drops(trainer)
            if not first and self.should_rewire(trainer, pl_module):
                self.rewire(trainer.optimizers)

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """Let what the criteria watch take in the batch."""
        for statistic in self._statistics.values():
            statistic.count()

    def on_validation_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """Let what the criteria watch take in the batch, if they were told to."""
        self.on_train_batch_end()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the topology of the epoch."""
        layers = {_layer(name): topology for name, topology in self._topologies.items()}
        found = {f"topology/{key}": value for key, value in measures(layers).items()}
        pl_module.log_dict(found, sync_dist=trainer.world_size > 1)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Detach; the next fit begins with the rewiring that this one's last epoch is owed."""
        self._epoch = -1
        self._detach()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave no hook behind."""
        self._detach()

    # State: with it a continued run is the same, to the bit, as one never interrupted.

    @cached_property
    def state_key(self) -> str:  # Lightning asks for it at every hook of every step
        """Tells apart the states of several instances on different layers of one model."""
        layers = sorted(self.density) if isinstance(self.density, Mapping) else ["*"]
        return self._generate_state_key(layers=layers)

    def state_dict(self) -> dict[str, Any]:
        """Topologies, statistics and counters; a collective operation when training is distributed."""
        return {
            "topologies": {name: topology.state_dict() for name, topology in self._topologies.items()},
            "statistics": {name: statistic.state_dict() for name, statistic in self._statistics.items()},
            "rewirings": self.rewirings,
            "epoch": self._epoch,
            "learning_rate": self._learning_rate,
            "learning_rate_drops": self._learning_rate_drops,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a checkpoint.

        Raises:
            ValueError: Its weights have other names or shapes than the model's.
        """
        saved = {name: Topology(**state) for name, state in state_dict["topologies"].items()}
        for name in self._topologies.keys() | saved.keys():
            ours, theirs = (list(t[name].mask.shape) if name in t else None for t in (self._topologies, saved))
            if self._topologies and ours != theirs:
                raise ValueError(f"Expected a checkpoint with {name!r} of shape {ours}, got {theirs}")
        self._topologies = saved
        for name, statistic in self._statistics.items():
            if name in state_dict["statistics"]:
                statistic.load_state_dict(state_dict["statistics"][name])
        self.rewirings = state_dict["rewirings"]
        self._epoch = state_dict["epoch"]
        self._learning_rate = state_dict["learning_rate"]
        self._learning_rate_drops = state_dict["learning_rate_drops"]

    # Within.

    def _targets(self, module: nn.Module) -> dict[str, tuple[nn.Linear, float]]:
        """The layers to train sparse with their densities, by parameter name; a tied weight under its first name."""
        linears = {f"{name}.weight": part for name, part in module.named_modules() if isinstance(part, nn.Linear)}
        names = [name for name, weight in module.named_parameters() if name in linears and weight.requires_grad]
        if not names:
            raise ValueError(f"Expected a model with Linear layers to train, got {type(module).__name__} without any")
        for argument, value in (("density", self.density), ("prune_fraction", self.prune_fraction)):
            for pattern in value if isinstance(value, Mapping) else ():
                if not any(_matches(name, pattern) for name in names):
                    layers = ", ".join(map(_layer, names))
                    raise ValueError(f"Expected a Linear layer to match {pattern!r} in {argument}, got only {layers}")
        densities = {name: _lookup(self.density, name, otherwise=None) for name in names}
        return {name: (linears[name], density) for name, density in densities.items() if density is not None}

    def _claim(self, trainer: Trainer, module: LightningModule) -> None:
        """Sparsify the layers, unless another callback has them too."""
        for other in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(other, PruneRegrow) and other is not self:
                shared = self._targets(module).keys() & other._targets(module).keys()
                if shared:
                    raise ValueError(f"Expected one PruneRegrow for each weight, got two for {', '.join(shared)}")
        self.sparsify(module)

    def _first_mask(self, name: str, weight: Tensor, density: float) -> Tensor:
        count, active = round(density * weight.numel()), weight != 0
        if count == 0:
            raise ValueError(f"Expected a density that leaves {name!r} a connection, got {density} of {weight.numel()}")
        found = int(active.sum())
        generator = generator_for(self.seed, 0, name)
        if found <= count:
            return active | random_mask(weight.shape, count - found, generator, among=~active)
        if found < 0.99 * weight.numel():  # a dense initialisation has few zeros, and those by chance
            raise ValueError(
                f"Expected weights of {name!r} that are dense or have at most density {density} ({count} of "
                f"{weight.numel()} active), got {found} nonzero: another topology, which a mask would break"
            )
        return random_mask(weight.shape, count, generator).to(weight.device)

    def _restart(self) -> None:
        self.rewirings, self._epoch = 0, None
        self._learning_rate, self._learning_rate_drops = 0.0, 0
        for statistic in self._statistics.values():
            statistic.reset()

    def _count_learning_rate_drops(self, trainer: Trainer) -> None:
        if trainer.optimizers:
            rate = float(trainer.optimizers[0].param_groups[0]["lr"])
            self._learning_rate_drops += rate < self._learning_rate
            self._learning_rate = rate

    def _enforcer(self, optimizer: Optimizer) -> Callable[..., None]:
        """A hook that zeroes the inactive weights that `optimizer` has just moved."""
        own = {id(weight) for group in optimizer.param_groups for weight in group["params"]}
        # Bytes multiply floats many times faster on CPUs than booleans do, and a view takes no memory.
        pairs = [
            (weight.detach(), self._topologies[name].mask.view(torch.uint8))
            for name, weight in self._weights.items()
            if id(weight) in own
        ]

        def enforce(*_: Any) -> None:
            for weight, active in pairs:
                weight.mul_(active)

        return enforce

    def _detach(self) -> None:
        for statistic in self._statistics.values():
            statistic.detach()
        for handle in self._handles:
            handle.remove()
        self._handles, self._weights = [], {}


def _values(value: PerLayer) -> Iterable[float]:
    return value.values() if isinstance(value, Mapping) else (value,)


def _named(argument: str, name: str, choices: Mapping[str, T]) -> T:
    if name not in choices:
        raise ValueError(f"Expected {argument} to be one of {', '.join(choices)}, got {name!r}")
    return choices[name]


def _layer(name: str) -> str:
    return name.removesuffix(".weight")


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(_layer(name), pattern) or fnmatchcase(name, pattern)


def _lookup(value: PerLayer, name: str, otherwise: T) -> float | T:
    """The value for a layer: the same for all, or that of the first pattern that matches."""
    if not isinstance(value, Mapping):
        return value
    return next((part for pattern, part in value.items() if _matches(name, pattern)), otherwise)
