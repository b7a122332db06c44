"""PruneRegrow, the callback: its arguments, the methods to override, and what to look at and to do by hand."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from functools import cached_property
from types import MappingProxyType
from typing import Any, ClassVar, Literal, cast

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.optim import Optimizer

from sparse_lightning.callbacks.arguments import build_repr, check_options, choice, criterion, in_words, own_arguments
from sparse_lightning.callbacks.grown_weights import GrownWeights, GrownWeightsName
from sparse_lightning.callbacks.hooks import SparseTrainingHooks
from sparse_lightning.callbacks.initial import InitializationName, InitialName
from sparse_lightning.callbacks.layout import LayoutName
from sparse_lightning.callbacks.rewiring import Decisions
from sparse_lightning.callbacks.selection import Patterns, PerLayer, Selection, patterns
from sparse_lightning.callbacks.sparse_training import SparseTraining
from sparse_lightning.callbacks.summary import summary
from sparse_lightning.callbacks.timing import Timing
from sparse_lightning.callbacks.topology import Topology
from sparse_lightning.criteria.base import BlockwiseGrowthCriterion as Blockwise
from sparse_lightning.criteria.base import (
    CountCriterion,
    Criterion,
    CsrLayerView,
    GrowthCriterion,
    LayerView,
    PruningCriterion,
)
from sparse_lightning.criteria.counts import COUNTS, CountName
from sparse_lightning.criteria.growth import GROWTH, GrowthName, RandomGrowth
from sparse_lightning.criteria.pruning import PRUNING, PruningName
from sparse_lightning.functional.checks import expect, named
from sparse_lightning.functional.densities import DENSITIES, DistributionName
from sparse_lightning.functional.masks import exact_fraction
from sparse_lightning.functional.schedules import (
    DENSITY_SCHEDULES,
    SCHEDULES,
    DensityScheduleName,
    Schedule,
    ScheduleName,
)
from sparse_lightning.functional.structure import structure_of

# The methods that a method of one's own overrides.
HOOKS = ("growth_scores", "prune_mask", "target_counts", "fraction_factor", "should_rewire")
# What a resumed run has to share with the one before, beside its criteria.
_SETTINGS = (
    *("density", "initial_density", "density_schedule", "distribution", "structure", "include", "exclude"),
    *("grown_weights", "layout", "seed"),
)


class PruneRegrow(SparseTrainingHooks):
    """Trains layers of any LightningModule sparse, and prunes and regrows their connections as it trains.

    Every so often, between two epochs by default, each layer prunes its weakest connections and grows as many new ones
    at weight zero: after the epoch's validation and checkpoint and before the next batch, so that the network that was
    validated is the one that is saved. Inactive weights are exactly zero after every optimizer step. The model stays
    plain PyTorch: its checkpoints load without this library.

    The published methods are presets of this class: :mod:`sparse_lightning.callbacks.presets`. A method of your own is
    a subclass that overrides one small method: :meth:`should_rewire`, :meth:`fraction_factor`, :meth:`target_counts`,
    :meth:`prune_mask` or :meth:`growth_scores`. With ``reads_gradient = True`` on the class, a rewiring waits for the
    next optimizer step, so that ``layer.gradient`` is there.

    Args:
        density: Share of connections that are active, in (0, 1], of all chosen layers together; or shares by pattern,
            ``{"encoder.*": 0.1}``: the first pattern that matches counts, layers that match none stay dense.
        prune_fraction: Share of a layer's active connections that a rewiring replaces, in [0, 1), or shares by
            pattern. It is lowered where fewer connections than that are inactive.
        growth: The growth criterion by name, as a :class:`~sparse_lightning.GrowthCriterion`, or None for a topology
            that never moves.
        pruning: The pruning criterion by name or as a :class:`~sparse_lightning.PruningCriterion`.
        counts: How many connections each layer has, by name or as a :class:`~sparse_lightning.CountCriterion`; None
            keeps their numbers, or follows the density's schedule.
        initial_density: Share of connections that are active at the start, in (0, 1], of each pattern of `density`;
            from there the number of connections changes at each rewiring and is `density` at the last. None: constant.
        density_schedule: How it changes: ``"cubic"``, ``"linear"``, ``"sigmoid"``, ``"steps"``, ``"alternating"``,
            ``"geometric"``, or a function from progress in [0, 1] to how far it has come, in [0, 1]; see
            :mod:`sparse_lightning.functional.schedules`.
        distribution: How the density spreads over layers; see :mod:`sparse_lightning.functional.densities`.
        structure: What the connections of each layer keep: ``"2:4"`` two of every four inputs, ``"fan_in"`` as many for
            each output unit, ``"fan_in:0.3"`` so too, but for units that are ablated, ``"4x4"`` blocks; see
            :mod:`sparse_lightning.functional.structure`. None: nothing.
        include: Globs over parameter or layer names of what to train sparse; None for the default. See
            :class:`~sparse_lightning.callbacks.selection.Selection` for both.
        exclude: Globs of what to leave dense.
        initial: Where the first connections come from: ``"random"``, ``"magnitude"``, ``"nonzero"``, ``"auto"``, which
            chooses between these by the weights, ``"receptive_field"``, by the first batch ``"snip"``, ``"grasp"``,
            ``"synflow"`` or ``"correlation"``, or masks by parameter name. See
            :func:`~sparse_lightning.callbacks.initial.first_mask`.
        every_n_epochs: Epochs between two rewirings; 1 if neither this nor `every_n_steps` is given.
        every_n_steps: Optimizer steps between two rewirings.
        start: The first epoch, or step, at which to rewire; both count from 0.
        stop: The last epoch, or step, at which to rewire; a float in (0, 1] is a share of the training; None for its
            end.
        schedule: How `prune_fraction` changes from `start` to `stop`: a name, or a function from progress in [0, 1] to
            a factor in [0, 1].
        pruning_early_stop: Stop to rewire once the learning rate has dropped this many times; 0 never stops.
        optimizer_state: ``"reset"`` zeroes the optimizer's state, momentum above all, of connections that were pruned
            or grown; ``"keep"`` leaves it.
        regrow: Whether a connection just pruned may grow again at once; it then keeps its weight.
        grown_weights: What grown connections start with: ``"zero"``, ``"random"``, or the ``"last"`` weight that they
            had; see :class:`~sparse_lightning.callbacks.grown_weights.GrownWeights`.
        layout: How weights are stored: ``"masked"`` keeps them dense, with zeros; ``"csr"`` replaces Linear layers by
            :class:`~sparse_lightning.SparseLinear`, which computes on the connections alone; ``"auto"`` does so where
            it saves time. See :mod:`sparse_lightning.callbacks.layout`.
        initialization: ``"dense"`` keeps the weights as the model has initialised them; ``"fan_in"`` scales those of
            fresh layers to each unit's actual number of inputs, without which the signal dies at very low density.
        log_topology: Log each layer's density and grown connections once an epoch.
        seed: Decides the first masks and every random choice after, with the number of the rewiring and the parameter's
            name; None takes that of ``seed_everything``, or 0. PyTorch's random state is neither read nor moved.

    Raises:
        ValueError: An argument is out of its range. At fit start: a pattern matches nothing, another PruneRegrow has
            the same weights, weights are sparse already with more connections than asked for, or the strategy shards
            weights. On resume: a setting differs from the checkpoint's.

    Example::

        Trainer(callbacks=[PruneRegrow(density=0.1, growth="hebbian")]).fit(model)
    """

    reads_gradient: ClassVar[bool] = False
    every_n_steps: int | None
    pruning_early_stop: int
    log_topology: bool

    def __init__(
        self,
        density: PerLayer = 0.2,
        *,
        prune_fraction: PerLayer = 0.3,
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
        self._arguments = own_arguments(locals())
        self._warn_of_misspelt_methods()
        check_options(pruning_early_stop, optimizer_state, regrow, log_topology, seed)
        vars(self).update(self._arguments)
        self.growth = None if growth is None else criterion("growth", growth, GROWTH, GrowthCriterion)
        self.pruning = criterion("pruning", pruning, PRUNING, PruningCriterion)
        self.counts = criterion("counts", counts or "constant", COUNTS, CountCriterion)
        included = None if include is None else patterns("include", include)
        way = choice("density_schedule", density_schedule, DENSITY_SCHEDULES)
        spread = named("distribution", distribution, DENSITIES)
        excluded = patterns("exclude", exclude)
        kept = None if structure is None else structure_of(structure)
        constant = kept is None or isinstance(self.counts, COUNTS["constant"])
        expect(constant, "counts=None with a structure, whose numbers stay", self.counts)
        selection = Selection(density, prune_fraction, included, excluded, spread, initial_density, way, kept)
        scheduled = choice("schedule", schedule, SCHEDULES)
        criteria: list[Criterion] = [each for each in (self.growth, self.pruning, self.counts) if each is not None]
        asked, reads = (self.target_counts, self.prune_mask, self._scores_or_blocks), self.reads_gradient
        self._training = SparseTraining(
            topology=Topology(selection, initial, initialization, layout),
            timing=Timing(every_n_epochs, every_n_steps, start, stop, scheduled),
            decisions=Decisions(*asked, self.pruning.refine, regrow, self.counts.redistributes, kept, reads),
            factor=self.fraction_factor,
            grown_weights=GrownWeights(grown_weights, actual_fan_in=initialization == "fan_in"),
            criteria=criteria,
            reset_optimizers=optimizer_state == "reset",
            reads_gradient=reads or any(each.reads_gradient for each in criteria),
            seed=seed,
            forget=self._forget,
            after_step=self._after_step,
            after_rewiring=self._after_rewiring,
        )

    # The methods to override.

    def should_rewire(self, trainer: Trainer, pl_module: LightningModule) -> bool:
        """Return whether to rewire now; asked before each epoch but the first, or after each optimizer step."""
        stopped = 0 < self.pruning_early_stop <= self._training.drops.drops
        return self._moves and not stopped and self._training.is_due(trainer)

    def fraction_factor(self, progress: Fraction) -> float | Fraction:
        """Return the factor on `prune_fraction`, in [0, 1], at a progress in [0, 1] from `start` to `stop`."""
        return self._training.timing.schedule(progress)

    def target_counts(self, layers: Sequence[LayerView]) -> dict[str, int]:
        """Return the number of active connections of each layer after the rewiring, by parameter name."""
        return self.counts.counts(layers)

    def prune_mask(self, layer: LayerView) -> Tensor:
        """Return which active connections to prune, boolean: one element for each (nnz), or shaped like the weight."""
        return self.pruning.prune(layer)

    def growth_scores(self, layer: LayerView) -> Tensor:
        """Return finite numbers shaped like the weight: the inactive connections with the highest ones grow."""
        if self.growth is None and self._training.topology.selection.initial_density is not None:
            return RandomGrowth().scores(layer)  # where a dense phase returns, all connections grow
        if self.growth is None:
            raise ValueError("Expected a growth criterion to rewire by, got growth=None")
        return self.growth.scores(layer)

    def _warn_of_misspelt_methods(self) -> None:
        """Warn of a method that is called nearly as one of these, and so never."""
        inherited = [hook for hook in HOOKS if not self._overrides(hook)]
        for name in (name for name in dir(self) if not hasattr(PruneRegrow, name)):
            near = difflib.get_close_matches(name, inherited, n=1, cutoff=0.85)
            if near and callable(getattr(type(self), name, None)):
                rank_zero_warn(f"{type(self).__name__}.{name} is called by nothing: did you mean {near[0]}?")

    # To look at.

    @property
    def base_arguments(self) -> Mapping[str, Any]:
        """The arguments of PruneRegrow itself with their values, by name, whatever a subclass takes; read-only."""
        return MappingProxyType(self._arguments)

    @property
    def masks(self) -> Mapping[str, Tensor]:
        """The active connections of each layer, boolean, shaped like the weight, by parameter name; read-only."""
        self._training.receive()
        return self._training.topology.masks.read_only

    @property
    def rewirings(self) -> int:
        """The number of rewirings so far."""
        self._training.receive()
        return self._training.rewirings.number

    def dead_connections(self, module: nn.Module) -> dict[str, int]:
        """Return how many active connections of each weight of a model are exactly zero, by parameter name."""
        return self._training.topology.masks.dead(module)

    def summary(self) -> str:
        """Return a table of the layers, what stays dense and why, and the density of the whole model.

        Raises:
            RuntimeError: No model is set up.
        """
        if not self.masks:
            raise RuntimeError("Expected a model that fit or sparsify has set up, got none to summarise")
        own = type(self).__name__  # of a method that decides by itself
        growth = own if self._has_own_scores else repr(self.growth) if self.growth else "none"
        criteria = own if self._overrides("prune_mask") else repr(self.pruning), growth
        return summary(self._training.topology, self._training.statistics.get("coactivation"), criteria)

    def __repr__(self) -> str:
        """Return the expression that builds this callback."""
        return build_repr(self, self._arguments)

    # To do by hand.

    def sparsify(self, module: nn.Module, optimizers: Iterable[Optimizer] = (), *, loaded: bool = False) -> None:
        """Give every chosen weight of a model its mask and zero what is inactive, as fit does at its start.

        Raises:
            ValueError: The first connections are chosen by the first batch, which only fit has.
        """
        by_batch = self._training.topology.by_first_batch and not self.masks
        expect(
            not by_batch,
            "fit or start_from(masks) to choose the first connections",
            f"initial={self._arguments['initial']!r}",
        )
        self._training.sparsify(module, optimizers, loaded)
        self._training.topology.announce()

    def start_from(self, masks: Mapping[str, Tensor]) -> None:
        """Take these masks, by parameter name, in place of what there was; the next model's weights are cut to them."""
        self._training.topology.start_from(masks)
        self._training.restart()

    def rewire(self, optimizers: Iterable[Optimizer] = (), *, factor: float = 1.0) -> None:
        """Prune and regrow every layer once, now; `factor` multiplies `prune_fraction`.

        Raises:
            RuntimeError: No model is set up.
        """
        if self._training.topology.masks.module is None:
            raise RuntimeError("Expected a model that fit or sparsify has set up, got none to rewire")
        self._training.announce(exact_fraction(factor), Fraction(0))
        self._training.rewire(list(self.masks), optimizers)

    # What methods with a state of their own override.

    def _forget(self) -> None:
        """Forget it: another model follows, or other masks."""

    def _after_step(self, optimizer: Optimizer, names: list[str]) -> None:
        """Act after a step of an optimizer that holds these masked weights."""

    def _after_rewiring(self, names: list[str]) -> None:
        """Act when these weights have been rewired."""

    # What others ask.

    @property
    def acts_by_step(self) -> bool:
        """Whether something is due between two batches of an epoch, so that they cannot be taken together."""
        return self.every_n_steps is not None or self._training.topology.by_first_batch

    @cached_property  # Lightning asks for it at every hook of every step
    def state_key(self) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Tells apart the states of several callbacks on different layers of one model."""
        density, include = self._arguments["density"], self._arguments["include"]
        chosen = density if isinstance(density, Mapping) else patterns("include", include or "*")
        return self._generate_state_key(layers=sorted(chosen), exclude=sorted(patterns("", self._arguments["exclude"])))

    @property
    def _moves(self) -> bool:
        scheduled = self._training.topology.selection.initial_density is not None
        return scheduled or self.growth is not None or self._has_own_scores

    @property
    def _has_own_scores(self) -> bool:
        return self._overrides("growth_scores")

    def _overrides(self, method: str) -> bool:
        return getattr(type(self), method) is not getattr(PruneRegrow, method)

    def _scores_or_blocks(self, layer: LayerView) -> Tensor | Iterable[Tensor]:
        asks_blocks = isinstance(self.growth, Blockwise) and type(self.growth).scores is Blockwise.scores
        # Dense weights have a dense gradient: blocks save nothing there.
        if asks_blocks and isinstance(layer, CsrLayerView) and not self._has_own_scores:
            return cast(Blockwise, self.growth).score_blocks(layer)
        return self.growth_scores(layer)

    @property
    def _asks_the_clock(self) -> bool:
        return not self._overrides("should_rewire")

    def _settings(self) -> dict[str, str]:
        """What a resumed run has to share with the one before, in words."""
        return {name: repr(self._arguments[name]) for name in _SETTINGS} | {
            "density_schedule": in_words(self._arguments["density_schedule"]),
            "growth": repr(self.growth),
            "pruning": repr(self.pruning),
            "counts": repr(self.counts),
        }
