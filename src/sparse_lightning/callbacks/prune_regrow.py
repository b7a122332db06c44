"""PruneRegrow, the callback: when to rewire, the masks, their enforcement and their state."""

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cached_property
from types import MappingProxyType
from typing import Any, TypeVar

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import StochasticWeightAveraging, WeightAveraging
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from sparse_lightning.criteria.base import Statistic
from sparse_lightning.criteria.coactivation import Coactivation
from sparse_lightning.criteria.growth import GROWTH, Growth
from sparse_lightning.criteria.pruning import PRUNING, Pruning
from sparse_lightning.export.inspection import table
from sparse_lightning.functional.densities import DENSITIES
from sparse_lightning.functional.masks import fingerprint, generator_for, random_mask, rewire, room, zero_inactive_
from sparse_lightning.functional.schedules import SCHEDULES

PerLayer = float | Mapping[str, float]
T = TypeVar("T")


class PruneRegrow(Callback):
    """Trains the Linear and convolution layers of any LightningModule sparse, and rewires them as it trains.

    Every so often, between two epochs by default, each layer drops its weakest connections and grows as many new ones
    at weight zero. That is done before the next batch, after the epoch's validation and checkpoint, so what was
    validated is what was saved and nothing is rewired that will not be trained. Inactive weights are exactly zero after
    every optimizer step. The model stays plain PyTorch: its checkpoints load without this library.

    The methods of the literature are combinations of the parts named here; see
    :mod:`sparse_lightning.callbacks.presets`. One of your own is a subclass with one small method:
    :meth:`should_rewire`, :meth:`scheduled`, :meth:`prune_mask` or :meth:`growth_scores`.

    Patterns are globs over parameter names, ``"encoder.*.weight"``, or over the names of their layers, ``"encoder.*"``.
    One takes the weights of Linear and convolution layers that it matches; only one that matches none of those takes
    other parameters, so that attention's ``"*.in_proj_weight"`` or an embedding can be named.

    Args:
        density: Share of connections that are active, in (0, 1]; for all layers together, or by pattern,
            ``{"encoder.*": 0.1}``, where the first that matches counts and layers that match none stay dense.
        prune_fraction: Share of a layer's active connections that a rewiring replaces, in [0, 1); for all layers or
            by pattern, where layers that match none keep their connections. It is lowered where a layer has fewer
            inactive connections than that to grow.
        growth: ``"random"``, ``"hebbian"``, ``"inverse_hebbian"``, ``"gradient"``, ``"momentum"``, a
            :class:`~sparse_lightning.criteria.growth.Growth`, or None for a topology that never moves.
        pruning: ``"signed_magnitude"``, ``"magnitude"``, ``"hebbian"``, ``"inverse_hebbian"``,
            ``"weighted_hebbian"``, ``"mixed"``, or a :class:`~sparse_lightning.criteria.pruning.Pruning`.
        seed: Decides the first masks and every random choice after, with the number of the rewiring and the
            parameter's name; PyTorch's own random state is neither read nor moved.
        pruning_early_stop: Stop rewiring once the learning rate has dropped this many times between epochs; 0 never
            stops. Meant for step schedules: one that lowers the rate each epoch drops it each epoch.
        distribution: How the density spreads over the layers of one pattern: ``"uniform"``, ``"erdos_renyi"`` or
            ``"erk"``; see :mod:`sparse_lightning.functional.densities`.
        include: Patterns of the parameters to train sparse; None for the weight of every Linear and convolution,
            transposed ones too.
        exclude: Patterns of parameters to leave dense.
        every_n_epochs: Epochs between two rewirings.
        every_n_steps: Optimizer steps between two rewirings, instead of epochs.
        first: The first epoch, or step, at which to rewire; both count from 0.
        last: The last epoch, or step, at which to rewire; a float in (0, 1] is a share of the training; None for its
            end.
        schedule: How `prune_fraction` changes from `first` to `last`: ``"constant"``, ``"cosine"`` or ``"linear"``, or
            a function from progress in [0, 1] to a factor in [0, 1].
        optimizer_state: What becomes of the optimizer's state of dropped and grown connections, its momentum above
            all: ``"reset"`` to zero or ``"keep"``.
        regrow: Whether a connection just dropped may grow again at once; it then keeps its weight.

    Raises:
        ValueError: An argument is out of its range; at setup: a pattern matches nothing, another PruneRegrow has the
            same weights, the weights are sparse already at a higher density than asked for, the strategy shards
            weights, or a criterion cannot have what it reads.

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
        distribution: str = "uniform",
        include: str | Sequence[str] | None = None,
        exclude: str | Sequence[str] = (),
        every_n_epochs: int = 1,
        every_n_steps: int | None = None,
        first: int = 0,
        last: int | float | None = None,
        schedule: str | Callable[[float], float] = "constant",
        optimizer_state: str = "reset",
        regrow: bool = False,
    ) -> None:
        for value in _values(density):
            _expect(_is_number(value) and 0 < value <= 1, "density in (0, 1]", value)
        _expect(density != {}, "density by layer name", density)
        for argument, given in (("density", density), ("prune_fraction", prune_fraction)):
            named = not isinstance(given, Mapping) or all(isinstance(pattern, str) for pattern in given)
            _expect(named, f"{argument} to be a number or numbers by layer name", given)
        _expect(isinstance(seed, int) and not isinstance(seed, bool), "seed to be a whole number", seed)
        for value in _values(prune_fraction):
            _expect(_is_number(value) and 0 <= value < 1, "prune_fraction in [0, 1)", value)
        _expect(_is_whole(pruning_early_stop), "pruning_early_stop to be 0 or a number of drops", pruning_early_stop)
        _expect(_is_whole(every_n_epochs, 1), "every_n_epochs to be a whole number from 1", every_n_epochs)
        _expect(
            every_n_steps is None or _is_whole(every_n_steps, 1),
            "every_n_steps to be a whole number from 1",
            every_n_steps,
        )
        _expect(
            every_n_steps is None or every_n_epochs == 1, "every_n_epochs or every_n_steps, not both", every_n_epochs
        )
        _expect(_is_whole(first), "first to be a whole number from 0", first)
        share = isinstance(last, float) and 0 < last <= 1
        _expect(
            last is None or share or _is_whole(last, first), "last to be a share in (0, 1] or a number from first", last
        )
        _expect(optimizer_state in ("reset", "keep"), "optimizer_state to be reset or keep", optimizer_state)
        _expect(isinstance(regrow, bool), "regrow to be true or false", regrow)
        self.density = density
        self.prune_fraction = prune_fraction
        self.growth = _named("growth", growth, GROWTH)() if isinstance(growth, str) else growth
        self.pruning = _named("pruning", pruning, PRUNING)() if isinstance(pruning, str) else pruning
        _expect(isinstance(self.growth, Growth | None), "growth to be a name, a Growth or None", growth)
        _expect(isinstance(self.pruning, Pruning), "pruning to be a name or a Pruning", pruning)
        self.seed = seed
        self.pruning_early_stop = pruning_early_stop
        self.distribution = _named("distribution", distribution, DENSITIES)
        self.include = None if include is None else _patterns("include", include)
        _expect(self.include != (), "include to be patterns or None", include)
        self.exclude = _patterns("exclude", exclude)
        self.every_n_epochs, self.every_n_steps = every_n_epochs, every_n_steps
        self.first, self.last = first, last
        self.schedule = _named("schedule", schedule, SCHEDULES) if isinstance(schedule, str) else schedule
        _expect(callable(self.schedule), "schedule to be a name or a function of progress", schedule)
        self.optimizer_state = optimizer_state
        self.regrow = regrow
        self.rewirings = 0
        self._masks: dict[str, Tensor] = {}
        self._given: set[str] = set()
        self._grown: dict[str, int] = {}
        self._due: dict[str, float] = {}
        self._statistics = self._shared_statistics()
        self._now: int | None = None
        self._end = math.inf
        self._learning_rate = 0.0
        self._learning_rate_drops = 0
        self._weights: dict[str, nn.Parameter] = {}
        self._averages: list[dict[int, nn.Parameter]] = []
        self._handles: list[RemovableHandle] = []

    # What to override: each of these is a method of the literature in a few lines.

    def should_rewire(self, trainer: Trainer, pl_module: LightningModule) -> bool:
        """Whether to rewire now, before the next batch.

        Asked once an epoch, before its first batch, except in the very first one; with `every_n_steps`, once an
        optimizer step.
        """
        moves = self.growth is not None or type(self).growth_scores is not PruneRegrow.growth_scores
        stopped = 0 < self.pruning_early_stop <= self._learning_rate_drops
        now = self._time(trainer)
        in_turn = now % (self.every_n_steps or self.every_n_epochs) == 0
        return moves and not stopped and in_turn and self.first <= now <= self._end

    def scheduled(self, progress: float) -> float:
        """The factor on `prune_fraction` at this point; by default what `schedule` says.

        Args:
            progress: Where the rewiring stands between `first` and `last`, in [0, 1].

        Returns:
            A number in [0, 1].
        """
        return self.schedule(progress)

    def prune_mask(
        self, name: str, weight: Tensor, mask: Tensor, fraction: float, generator: torch.Generator
    ) -> Tensor:
        """The connections of one layer to drop; by default what `pruning` says.

        Args:
            name: The weight's parameter name.
            weight: The weight, (out, in, ...).
            mask: Its active connections, boolean, shaped like `weight`.
            fraction: How much of them to drop at most.
            generator: CPU generator for any randomness, the same on every rank.

        Returns:
            A mask of active connections, at most as many as are inactive.
        """
        return self.pruning.drop(name, weight, mask, fraction, generator)

    def growth_scores(self, name: str, weight: Tensor, mask: Tensor, generator: torch.Generator) -> Tensor:
        """How much each connection of one layer deserves to grow; by default what `growth` says.

        Args:
            name: The weight's parameter name.
            weight: The weight, (out, in, ...).
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
        return MappingProxyType(self._masks)

    def summary(self) -> str:
        """A table of the layers: shape, connections, density, criteria, and where activity is read.

        Where it is read is known once a batch was trained, or where it was told.
        """
        read_at: dict[str, str] = {}
        for statistic in self._statistics.values():
            read_at |= statistic.read_at if isinstance(statistic, Coactivation) else {}
        criteria = (_said(self.pruning, "Pruning"), _said(self.growth, "Growth") if self.growth else "none")
        rows = [("parameter", "shape", "active", "of", "density", "pruning", "growth", "activity read at")]
        counts = {name: (int(mask.count_nonzero()), mask.numel()) for name, mask in self._masks.items()}
        for name, mask in self._masks.items():
            shape = "x".join(map(str, mask.shape))
            rows.append((name, shape, *_shares(*counts[name]), *criteria, read_at.get(name, "")))
        active, size = (sum(column) for column in zip((0, 0), *counts.values(), strict=True))
        rows.append(("all", "", *_shares(active, size), "", "", ""))
        return table(rows)

    def sparsify(self, module: nn.Module) -> None:
        """Give every layer its mask and zero what lies off it; layers whose weights agree with their mask stay.

        Weights bring their topology with them: those that are sparse already keep the connections that they have,
        filled up at random where they have fewer than the density asks for. Dense ones are cut at random.

        Raises:
            ValueError: A pattern matches nothing, or weights are sparse already at a higher density than asked for.
        """
        masks, new, targets = {}, False, self._targets(module)
        for name in self._given:
            wanted = list(targets[name][0].shape) if name in targets else None
            given = list(self._masks[name].shape)
            if wanted != given:
                raise ValueError(f"Expected a mask to start {name!r} from of the weight's shape {wanted}, got {given}")
        for name, (weight, count) in targets.items():
            mask = self._masks.get(name)
            off = mask is None or mask.shape != weight.shape or weight.detach()[~mask.to(weight.device)].any()
            if mask is None or (off and not (name in self._given and _is_dense(weight))):
                mask, new = self._first_mask(name, weight.detach(), count), True
            masks[name] = mask.to(weight.device)
            zero_inactive_(weight, masks[name])
        self._masks, self._given = masks, set()
        if new:
            self._restart()

    def start_from(self, masks: Mapping[str, Tensor]) -> None:
        """Take these masks, by parameter name, in place of what was there, and forget what came before.

        The next model has its weights cut to them if these are dense; weights that are sparse another way keep their
        own topology, which counts for more.

        Raises:
            ValueError: What is given is not a boolean mask; at setup: the model has no such weight to train sparse.
        """
        for name, mask in masks.items():
            whole = isinstance(mask, Tensor) and mask.dtype == torch.bool
            _expect(whole, f"a boolean mask for {name!r}", mask.dtype if isinstance(mask, Tensor) else mask)
        self._masks = {name: mask.clone() for name, mask in masks.items()}
        self._restart()
        self._given = set(self._masks)

    def rewire(self, optimizers: Iterable[Optimizer] = (), factor: float = 1.0) -> None:
        """Prune and regrow every layer once, now.

        Args:
            optimizers: Those that train the layers; see `optimizer_state`.
            factor: What to multiply `prune_fraction` with.

        Raises:
            ValueError: :meth:`prune_mask` or :meth:`growth_scores` gave what cannot be used; the layer is named.
            RuntimeError: No model is training.
        """
        if not self._weights:
            raise RuntimeError("Expected a model in training to rewire, got none: rewire is called while fit runs")
        self._announce(factor)
        self._rewire(self._weights, optimizers)

    # Lightning's hooks: 'should I? then call'.

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Sparsify the model before anything else sees it; one that builds its layers later is met at fit start."""
        if isinstance(trainer.strategy, FSDPStrategy | ModelParallelStrategy | DeepSpeedStrategy):
            raise ValueError(
                "Expected a strategy that keeps every weight whole on every process, such as ddp, got "
                f"{type(trainer.strategy).__name__}, which shards them"
            )
        if stage == "fit" and not is_overridden("configure_model", pl_module):
            self._claim(trainer, pl_module)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """See that the weights, a checkpoint's perhaps, are on the masks, and averages of them too.

        Raises:
            ValueError: Another callback froze weights after setup made them sparse; once thawed they would be dense.
        """
        weights = pl_module.named_parameters()
        frozen = [name for name, weight in weights if name in self._masks and not weight.requires_grad]
        if frozen:
            raise ValueError(
                f"Expected weights to stay trainable once sparse, got {', '.join(frozen)} frozen since: exclude them, "
                "or list the callback that freezes before this one"
            )
        self._claim(trainer, pl_module)
        self._detach()
        self._weights = {name: weight for name, (weight, _) in self._targets(pl_module).items()}
        self._averages = _averages(trainer, pl_module)
        self._project(self._weights)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Attach to the optimizers and to what the criteria watch."""
        self._end = self._last_time(trainer)
        for statistic in self._statistics.values():
            statistic.attach(pl_module, list(self._weights), trainer.optimizers)
        for optimizer in trainer.optimizers:
            self._handles.append(optimizer.register_step_post_hook(self._after_step(trainer, optimizer)))
        self._project(self._weights)
        self._compare(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Rewire where an epoch, or a step, has ended and another begins."""
        # Not in on_train_epoch_start, which Lightning leaves out when it resumes from the last batch of an epoch.
        now = self._time(trainer)
        if now == self._now:
            return
        begins, self._now = self._now is None, now
        self._count_learning_rate_drops(trainer)
        if begins or _only_averages(trainer) or not self.should_rewire(trainer, pl_module):
            return
        self._announce(self._factor(now))
        if not (self.growth and self.growth.reads_gradient):
            self._rewire(self._weights, trainer.optimizers)
            self._compare(trainer)

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """Let what the criteria watch take in the batch."""
        for statistic in self._statistics.values():
            statistic.count()

    def on_validation_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """Let what the criteria watch take in the batch, if they were told to."""
        self.on_train_batch_end()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log each layer's density and how many connections its last rewiring grew; under ``all``, of all together."""
        every = [callback for callback in trainer.callbacks if isinstance(callback, PruneRegrow)]  # type: ignore[attr-defined]
        if every[0] is not self:
            return  # the first one speaks for all
        masks = {name: mask for each in every for name, mask in each._masks.items()}
        grown = {name: count for each in every for name, count in each._grown.items()}
        active = {name: int(mask.count_nonzero()) for name, mask in masks.items()}
        size = {name: mask.numel() for name, mask in masks.items()}
        found = {f"topology/density/{_layer(name)}": active[name] / size[name] for name in masks}
        found |= {f"topology/grown/{_layer(name)}": float(grown.get(name, 0)) for name in masks}
        found["topology/density/all"] = sum(active.values()) / sum(size.values())
        found["topology/grown/all"] = float(sum(grown.values()))
        # With a size, which a training step that takes the loader itself does not tell.
        pl_module.log_dict(found, sync_dist=trainer.world_size > 1, batch_size=1)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Detach; the next fit begins with the rewiring that this one's last epoch is owed."""
        self._now = None if self.every_n_steps else -1
        self._detach()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave no hook behind."""
        self._detach()

    # State: with it a continued run is the same, to the bit, as one never interrupted.

    @cached_property
    def state_key(self) -> str:  # Lightning asks for it at every hook of every step
        """Tells apart the states of several instances on different layers of one model."""
        patterns = self.density if isinstance(self.density, Mapping) else self.include or ["*"]
        return self._generate_state_key(layers=sorted(patterns))

    def state_dict(self) -> dict[str, Any]:
        """Masks, statistics and counters; a collective operation when training is distributed."""
        return {
            "masks": {name: mask.clone() for name, mask in self._masks.items()},
            "statistics": {name: statistic.state_dict() for name, statistic in self._statistics.items()},
            "rewirings": self.rewirings,
            "grown": dict(self._grown),
            "due": dict(self._due),
            "now": self._now,
            "learning_rate": self._learning_rate,
            "learning_rate_drops": self._learning_rate_drops,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a checkpoint.

        Raises:
            ValueError: Its weights have other names or shapes than the model's.
        """
        saved = state_dict["masks"]
        for name in self._masks.keys() | saved.keys():
            ours, theirs = (list(masks[name].shape) if name in masks else None for masks in (self._masks, saved))
            if self._masks and ours != theirs:
                raise ValueError(f"Expected a checkpoint with {name!r} of shape {ours}, got {theirs}")
        self._masks = {name: mask.clone() for name, mask in saved.items()}
        for name, statistic in self._statistics.items():
            if name in state_dict["statistics"]:
                statistic.load_state_dict(state_dict["statistics"][name])
        self.rewirings = state_dict["rewirings"]
        self._grown, self._due = dict(state_dict["grown"]), dict(state_dict["due"])
        self._now = state_dict["now"]
        self._learning_rate = state_dict["learning_rate"]
        self._learning_rate_drops = state_dict["learning_rate_drops"]

    # Which weights, and how many connections of each.

    def _targets(self, module: nn.Module) -> dict[str, tuple[nn.Parameter, int]]:
        """The weights to train sparse with their active connections, by parameter name; a tied one under its first."""
        found = {name: weight for name, weight in module.named_parameters() if weight.requires_grad}
        layers = {name: part for name, part in module.named_modules() if isinstance(part, nn.Linear | _ConvNd)}
        for name, layer in layers.items():
            if isinstance(layer.weight, nn.parameter.UninitializedParameter):
                raise ValueError(f"Expected {name!r} to have its weight, got a lazy layer: run the model once before")
        if self.include is None and not isinstance(self.density, Mapping):
            computed = [name for name, layer in layers.items() if not isinstance(layer.weight, nn.Parameter)]
            if computed:
                raise ValueError(
                    f"Expected the weight of {', '.join(map(repr, computed))} to be a parameter, got one computed from "
                    "others, as by weight_norm; say in include which parameters to train sparse"
                )
        own = {id(layer.weight) for layer in layers.values()}
        usual = [name for name, weight in found.items() if id(weight) in own]

        def matches(argument: str, pattern: str) -> list[str]:
            named = [name for name in usual if _matches(name, pattern)]
            named = named or [name for name in found if _matches(name, pattern)]
            if not named:
                there = ", ".join(map(_layer, usual)) or "none"
                raise ValueError(f"Expected a layer to match {pattern!r} in {argument}, got only {there}")
            return named

        by_pattern = self.density if isinstance(self.density, Mapping) else {}
        included = self.include if self.include is not None else tuple(by_pattern)
        argument = "include" if self.include is not None else "density"
        chosen = {name for pattern in included for name in matches(argument, pattern)} if included else set(usual)
        chosen -= {name for pattern in self.exclude for name in matches("exclude", pattern)}
        if not chosen:
            what = "trainable Linear or convolution layers"
            raise ValueError(f"Expected a model with {what}, got {type(module).__name__} without any that are chosen")
        for pattern in self.prune_fraction if isinstance(self.prune_fraction, Mapping) else ():
            matches("prune_fraction", pattern)
        groups: dict[str | None, list[str]] = {}
        for name in found:
            if name in chosen:
                own_pattern = next((pattern for pattern in by_pattern if name in matches("density", pattern)), None)
                groups.setdefault(own_pattern, []).append(name)
        counts: dict[str, int] = {}
        for group, names in groups.items():
            density = by_pattern[group] if group is not None else self.density
            if isinstance(density, float | int):  # a layer that no pattern of density matches stays dense
                counts |= self.distribution({name: found[name].shape for name in names}, density)
        for name, count in counts.items():
            if count == 0:
                raise ValueError(f"Expected a density that leaves {name!r} a connection, got {self.density}")
        return {name: (found[name], counts[name]) for name in found if name in counts}

    def _claim(self, trainer: Trainer, module: LightningModule) -> None:
        """Sparsify the layers, unless another callback has them too."""
        for other in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(other, PruneRegrow) and other is not self:
                shared = self._targets(module).keys() & other._targets(module).keys()
                if shared:
                    raise ValueError(f"Expected one PruneRegrow for each weight, got two for {', '.join(shared)}")
        self.sparsify(module)

    def _first_mask(self, name: str, weight: Tensor, count: int) -> Tensor:
        active, generator = weight != 0, generator_for(self.seed, 0, name)
        found = int(active.count_nonzero())
        if found <= count:
            return active | random_mask(weight.shape, count - found, generator, among=~active)
        if not _is_dense(weight):
            raise ValueError(
                f"Expected weights of {name!r} that are dense or have at most {count} of {weight.numel()} connections "
                f"active, as the density asks for, got {found} nonzero: another topology, which a mask would break"
            )
        return random_mask(weight.shape, count, generator).to(weight.device)

    # When.

    def _time(self, trainer: Trainer) -> int:
        return trainer.global_step if self.every_n_steps else trainer.current_epoch

    def _last_time(self, trainer: Trainer) -> float:
        """The last epoch or step at which to rewire, infinite if nothing ends it."""
        if isinstance(self.last, int):
            return self.last
        whole = trainer.estimated_stepping_batches if self.every_n_steps else trainer.max_epochs
        end = math.inf if whole is None or whole == -1 else float(whole)
        bounded = self.last is not None or self.schedule is not SCHEDULES["constant"]
        if end == math.inf and (bounded or type(self).scheduled is not PruneRegrow.scheduled):
            raise ValueError(
                "Expected a Trainer with an end, as a schedule or a share for last ask for, got one without; "
                f"say {'max_steps' if self.every_n_steps else 'max_epochs'}, or last as a number"
            )
        return end if self.last is None else self.last * end

    def _factor(self, now: int) -> float:
        span = self._end - self.first
        progress = 0.0 if span in (0, math.inf) else min(max((now - self.first) / span, 0.0), 1.0)
        factor = self.scheduled(progress)
        if not 0 <= factor <= 1:
            raise ValueError(f"Expected the schedule to give a factor in [0, 1], got {factor!r} at progress {progress}")
        return factor

    def _count_learning_rate_drops(self, trainer: Trainer) -> None:
        if trainer.optimizers:
            rate = float(trainer.optimizers[0].param_groups[0]["lr"])
            self._learning_rate_drops += rate < self._learning_rate
            self._learning_rate = rate

    # The rewiring itself, and what follows from it.

    def _announce(self, factor: float) -> None:
        """A rewiring is due in every layer."""
        self.rewirings += 1
        fractions = {name: _lookup(self.prune_fraction, name, otherwise=0.0) for name in self._weights}
        self._due = {name: factor * fraction for name, fraction in fractions.items()}

    def _rewire(self, names: Collection[str], optimizers: Iterable[Optimizer]) -> None:
        """Rewire those of these weights that are due."""
        for name in [name for name in names if name in self._due]:
            self._rewire_one(name, self._due.pop(name), list(optimizers))
        if not self._due:
            for statistic in self._statistics.values():
                statistic.reset()

    @torch.no_grad()
    def _rewire_one(self, name: str, fraction: float, optimizers: Iterable[Optimizer]) -> None:
        weight, mask = self._weights[name], self._masks[name]
        generator = generator_for(self.seed, self.rewirings, name)
        fraction = fraction if self.regrow else min(fraction, room(mask))
        try:
            dropped = self.prune_mask(name, weight, mask, fraction, generator)
            scores = self.growth_scores(name, weight, mask, generator)
            moved, grown = rewire(mask, dropped, scores, generator, self.regrow)
        except ValueError as error:
            raise ValueError(f"Rewiring {self.rewirings} of {name!r}: {error}") from error
        changed = grown | (mask & ~moved)
        mask.copy_(moved)  # in place, so that a view of it stays true
        self._grown[name] = int(grown.count_nonzero())
        zero_inactive_(weight, mask)
        self._project([name])
        for optimizer in optimizers if self.optimizer_state == "reset" else ():
            for state in optimizer.state.get(weight, {}).values():
                if isinstance(state, Tensor) and state.shape == weight.shape:
                    state.masked_fill_(changed, 0)

    @torch.no_grad()
    def _project(self, names: Collection[str]) -> None:
        """Bring averages of these weights, which remember connections long dropped, onto the masks."""
        for average in self._averages:
            for name in names:
                mask, weight = self._masks[name], average[id(self._weights[name])]
                zero_inactive_(weight, mask.to(weight.device))

    def _after_step(self, trainer: Trainer, optimizer: Optimizer) -> Callable[..., None]:
        """A hook that zeroes the inactive weights that `optimizer` has just moved, and rewires where it was due."""
        own = {id(weight) for group in optimizer.param_groups for weight in group["params"]}
        weights = {name: weight for name, weight in self._weights.items() if id(weight) in own}
        pairs = [(weight, self._masks[name]) for name, weight in weights.items()]

        def after(*_: Any) -> None:
            for weight, mask in pairs:
                zero_inactive_(weight, mask)
            if self._due:
                self._rewire([name for name, weight in weights.items() if weight.grad is not None], trainer.optimizers)
                if not self._due:
                    self._compare(trainer)

        return after

    def _compare(self, trainer: Trainer) -> None:
        """See that every process has the same masks.

        Raises:
            RuntimeError: One has others.
        """
        if trainer.world_size == 1 or not self._masks:
            return
        own = torch.tensor([fingerprint(mask) for mask in self._masks.values()], device=trainer.strategy.root_device)
        every = trainer.strategy.all_gather(own)
        differs = (every != every[0]).any(0).tolist()
        if any(differs):
            names = [name for name, other in zip(self._masks, differs, strict=True) if other]
            raise RuntimeError(
                f"Expected the same masks on every process, got different ones of {', '.join(names)}: scores must not "
                "depend on the process, and randomness must come from the generator that is given"
            )

    def _shared_statistics(self) -> dict[str, Statistic]:
        """What the criteria need, each kind once; those of one name become one."""
        shared: dict[str, Statistic] = {}
        for criterion in (self.growth, self.pruning):
            if criterion is not None and criterion.statistics:
                for name, statistic in criterion.statistics.items():
                    if shared.setdefault(name, statistic) != statistic:
                        raise ValueError(f"Expected growth and pruning to ask for the same {name}, got two that differ")
                criterion.statistics = {name: shared[name] for name in criterion.statistics}
        return shared

    def _restart(self) -> None:
        self.rewirings, self._now, self._grown, self._due = 0, None, {}, {}
        self._learning_rate, self._learning_rate_drops = 0.0, 0
        for statistic in self._statistics.values():
            statistic.reset()

    def _detach(self) -> None:
        for statistic in self._statistics.values():
            statistic.detach()
        for handle in self._handles:
            handle.remove()
        self._handles, self._weights, self._averages = [], {}, []


def _is_dense(weight: Tensor) -> bool:
    """Whether this is a dense initialisation, which has few zeros, and those by chance."""
    return int(weight.count_nonzero()) >= 0.99 * weight.numel()


def _averages(trainer: Trainer, module: LightningModule) -> list[dict[int, nn.Parameter]]:
    """The averaged weights that Lightning's callbacks keep, by the id of the weight that they average."""
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    averaging = [each for each in callbacks if isinstance(each, WeightAveraging | StochasticWeightAveraging)]
    models = [each._average_model for each in averaging if each._average_model is not None]
    weights = [id(weight) for weight in module.parameters()]
    return [dict(zip(weights, model.parameters(), strict=True)) for model in models]


def _only_averages(trainer: Trainer) -> bool:
    """Whether this epoch only takes statistics of the averaged network, for its batch norm, and trains nothing."""
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    return any(
        isinstance(each, StochasticWeightAveraging) and trainer.current_epoch > each.swa_end for each in callbacks
    )


def _values(value: PerLayer) -> Iterable[float]:
    return value.values() if isinstance(value, Mapping) else (value,)


def _expect(holds: bool, what: str, got: Any) -> None:
    if not holds:
        raise ValueError(f"Expected {what}, got {got!r}")


def _is_number(value: Any) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool)


def _is_whole(value: Any, least: int = 0) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _named(argument: str, name: str, choices: Mapping[str, T]) -> T:
    if name not in choices:
        raise ValueError(f"Expected {argument} to be one of {', '.join(choices)}, got {name!r}")
    return choices[name]


def _patterns(argument: str, patterns: str | Sequence[str]) -> tuple[str, ...]:
    several = [patterns] if isinstance(patterns, str) else patterns
    holds = isinstance(several, Sequence) and all(isinstance(pattern, str) for pattern in several)
    _expect(holds, f"{argument} to be patterns", patterns)
    return tuple(several)


def _shares(active: int, size: int) -> tuple[str, str, str]:
    return f"{active:,}", f"{size:,}", f"{active / max(size, 1):.4f}"


def _said(part: object, kind: str) -> str:
    return type(part).__name__.removesuffix(kind)


def _layer(name: str) -> str:
    return name.removesuffix(".weight")


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(_layer(name), pattern) or fnmatchcase(name, pattern)


def _lookup(value: PerLayer, name: str, otherwise: T) -> float | T:
    """The value for a layer: the same for all, or that of the first pattern that matches."""
    if not isinstance(value, Mapping):
        return value
    return next((part for pattern, part in value.items() if _matches(name, pattern)), otherwise)
