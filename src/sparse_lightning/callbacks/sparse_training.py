"""One training of a model that is sparse: its topology, clock, statistics and rewirings, brought together."""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import nn
from torch.optim import Optimizer

from sparse_lightning.callbacks import compatibility
from sparse_lightning.callbacks.averages import keeps_averages, only_averages, project_averages
from sparse_lightning.callbacks.grown_weights import GrownWeights
from sparse_lightning.callbacks.handoff import Handoff
from sparse_lightning.callbacks.masks import StepHook
from sparse_lightning.callbacks.optimizer_state import carry_state, optimizers_of, reset_state
from sparse_lightning.callbacks.rewiring import Decisions, Rewirings, checked_factor
from sparse_lightning.callbacks.selection import layer_name
from sparse_lightning.callbacks.statistics import Statistics
from sparse_lightning.callbacks.timing import Clock, LearningRateDrops, Timing
from sparse_lightning.callbacks.topology import Topology
from sparse_lightning.criteria.base import Criterion
from sparse_lightning.functional.checks import is_integer


@dataclass(eq=False, kw_only=True)
class SparseTraining:
    """What is due at each moment of a training, done.

    Attributes:
        topology: The sparse weights and their masks.
        timing: When to rewire.
        decisions: What a rewiring asks.
        factor: The factor on the prune fraction as a function of progress in [0, 1].
        criteria: The criteria behind the decisions.
        grown_weights: The weights that grown connections start with.
        reset_optimizers: Whether optimizers forget connections that were pruned or grown.
        reads_gradient: Whether a rewiring waits for the gradient of the next optimizer step.
        seed: The seed, or None for that of ``seed_everything``, or 0.
        forget: Called when what came before is forgotten: another model, or other masks.
        after_step: Called after each step of an optimizer with the names of the masked weights that it holds.
        after_rewiring: Called with the names of the weights that have just been rewired.
    """

    topology: Topology
    timing: Timing
    decisions: Decisions
    factor: Callable[[Fraction], float | Fraction]
    criteria: list[Criterion]
    grown_weights: GrownWeights
    reset_optimizers: bool
    reads_gradient: bool
    seed: int | None
    forget: Callable[[], None]
    after_step: Callable[[Optimizer, list[str]], None]
    after_rewiring: Callable[[list[str]], None]

    def __post_init__(self) -> None:
        self.statistics = Statistics(self.criteria)
        self.clock, self.drops, self.rewirings = Clock(), LearningRateDrops(), Rewirings()
        self._hook, self._handoff = StepHook(), Handoff()
        self._trainer: Trainer | None = None
        self._now: int | None = None
        self._before: int | None = None
        self._ended = False
        self._resumed = False
        self._enforce_next = self._enforce_always = False
        self._batches = 0
        self._warned: set[str] = set()
        self._optimizers: dict[int, Optimizer] = {}

    # The start and the end of a training.

    def sparsify(self, module: nn.Module, optimizers: Iterable[Optimizer] = (), loaded: bool = False) -> None:
        """Give every chosen weight its mask; counters start anew where masks from before were replaced."""
        if self.topology.begin(module, optimizers_of(optimizers, module), self.current_seed(), loaded):
            self.restart()

    def store(self, trainer: Trainer, module: nn.Module) -> None:
        """Store weights as the layout says, before optimizers are made."""
        if self.topology.layout != "masked":
            compatibility.refuse_averages(keeps_averages(trainer))
            resizes = self.decisions.redistributes or self.topology.selection.initial_density is not None
            compatibility.refuse_resizing(trainer.world_size, self.topology.layout, resizes)
            self.sparsify(module)
            self.topology.store(module, _batch_size(trainer, module))

    def begin(self, trainer: Trainer, module: nn.Module) -> None:
        """Make the model sparse, once every layer is built and every checkpoint loaded."""
        self.sparsify(module, trainer.optimizers, loaded=trainer.ckpt_path is not None and not self._resumed)
        self.topology.announce()
        shapes = {name: shape for name, (_, shape) in self.topology.masks.sizes.items()}
        compatibility.refuse_unsuitable(self.criteria, shapes)
        self._trainer = trainer
        project_averages(trainer, module, self.topology.masks.stored)

    def attach(self, trainer: Trainer, module: nn.Module) -> None:
        """Attach to optimizers and statistics, and bring onto the masks whatever was made anew since `begin`."""
        goes_on = trainer.global_step > 0 or trainer.current_epoch > 0
        if not self._resumed and not goes_on:
            self.clock.restart()
            self._now = None if self.timing.by_steps else self._now
        self.clock.go_on()
        self._resumed, self._trainer, self._batches = False, trainer, 0
        self._enforce_always = not _steps_as_lightning_does(module)
        self.topology.extend(module, self._known_optimizers(module), self.current_seed())
        self.topology.announce()
        self.topology.masks.enforce()
        self._attach_statistics(module)
        self._hook.attach(self._names_held_by, self._after_step)
        self.topology.masks.attach(self.topology.repair)
        self._refuse_different_ranks(trainer)

    def end(self) -> None:
        """Check the weights, and detach. The next fit begins with the rewiring that the last epoch did not get."""
        self.check()
        self._now = self._now if self.timing.by_steps else -1
        if self._trainer is not None and self._trainer.world_size > 1:
            self._handoff.send(self._trainer, self.state_dict())
        self.detach()
        self._ended = True

    def detach(self) -> None:
        """Leave no hook behind."""
        self.statistics.detach()
        self._hook.detach()
        self.topology.masks.detach()
        self._trainer, self._optimizers = None, {}

    def receive(self) -> None:
        """Take over the state of a training that other processes have done for this one."""
        if state := self._handoff.receive():
            self.load_state_dict(state)
            self._resumed = False

    def restart(self) -> None:
        """Forget what came before."""
        self.rewirings, self.drops, self._now = Rewirings(), LearningRateDrops(), None
        self.statistics.reset()
        self.grown_weights.reset()
        self.forget()

    # Within a training.

    def before_batch(self, batch: Any, batch_idx: int, should_rewire: Callable[[], bool]) -> None:
        """Choose first connections by the batch; rewire where an epoch, or a step, has ended and another begins."""
        trainer, module = self._trainer, self.topology.masks.module
        if trainer is None or module is None:
            return
        if batch_idx == 0:
            self._extend(module)
        if self.topology.awaiting:
            self.topology.choose_by_batch(trainer, trainer.lightning_module, batch, self.current_seed())
        self._keep_on_masks()
        self.clock.begin_batch(batch_idx)
        self._rewire_if_due(trainer, should_rewire)
        for name in self.rewirings.due if self.reads_gradient else ():
            if name in self.topology.masks.layers:
                self.topology.masks.layers[name].record_gradient()

    def _rewire_if_due(self, trainer: Trainer, should_rewire: Callable[[], bool]) -> None:
        now = self.now(trainer)
        if now == self._now:
            return
        begins, self._before, self._now = self._now is None, self._known_before(), now
        self.drops.update(trainer)
        if not begins and not only_averages(trainer) and should_rewire():
            end = self.clock.end(trainer, self.timing.by_steps)
            progress = self.timing.progress(now, end)
            over = min(now / end, Fraction(1)) if end else Fraction(0)
            self.announce(checked_factor(self.factor(progress), progress), over, self.timing.stage(now, end))
            if not self.reads_gradient:
                self.rewire(self.topology.trained())

    def after_batch(self) -> None:
        """Let the statistics take in the batch, and bring back what was changed after the optimizer's step."""
        self.statistics.count()
        if self._trainer is not None:
            unmet = any(not self._hook.has_met(optimizer) for optimizer in self._trainer.optimizers)
            self._enforce_next |= unmet  # a wrapper that PyTorch's hook does not reach may have stepped
            self._batches += 1
            self._keep_on_masks()

    def check(self) -> None:
        """Before a validation, a checkpoint and the end: bring onto the masks what anything has moved off them."""
        if self._trainer is not None:
            self._enforce_always |= bool(self.topology.repair())
            self._enforce_next = True

    def check_end(self, module: nn.Module) -> None:
        """After the end of a training: bring onto the masks what other callbacks have changed since."""
        if self._ended and self.topology.masks.module is module:
            self.topology.repair()
        self._ended = False

    def _keep_on_masks(self) -> None:
        """Bring onto the masks what was changed outside of the steps of optimizers, before it is trained on."""
        masks = self.topology.masks
        if self._enforce_next or self._enforce_always:
            masks.enforce()  # an optimizer may have left its evaluation mode
            self._enforce_next = False
        elif self._batches & (self._batches - 1) == 0:  # after 1, 2, 4, 8 ... batches, whatever PyTorch has counted
            self._enforce_always |= bool(self.topology.repair())
        else:
            masks.enforce_changed()

    def announce(self, factor: Fraction, progress: Fraction, stage: Fraction | None = None) -> None:
        """Make a rewiring due in every layer that is trained and that the criteria can decide about.

        Args:
            factor: The factor on the prune fraction.
            progress: Share of the training that is over.
            stage: Where the density is on its way, in [0, 1]; None leaves the numbers of connections alone.
        """
        names = self.topology.trained()
        unreadable = {name for criterion in self.criteria for name in criterion.unreadable(names)}
        self._warn_of_skipped(unreadable, "nothing is known about them")
        fractions = {name: factor * self.topology.selection.fraction(name) for name in names if name not in unreadable}
        counts = {} if stage is None else self.topology.scheduled_counts(list(fractions), stage)
        missed = self.rewirings.announce(fractions, progress, counts)
        self._warn_of_skipped(set(missed), "no gradient has reached them")

    def rewire(self, names: Iterable[str], optimizers: Iterable[Optimizer] = ()) -> None:
        """Rewire those of these weights that are due."""
        masks, changed_names = self.topology.masks, []
        # Those of the Trainer too, which after a resume have a state before they have stepped.
        trained = [*optimizers, *(self._trainer.optimizers if self._trainer is not None else ())]
        known = optimizers_of([*trained, *self._optimizers.values()], masks.module) if masks.module else trained
        key = self.current_seed(), self.rewirings.number
        for name, dropped, grown in self.rewirings.run(list(names), masks, self.decisions, key[0]):
            before = masks.weight(name).numel()
            values = self.grown_weights.values(name, masks, dropped, grown, key)
            moved = masks.move(name, dropped, grown, values)
            changed_names.append(name)
            if name in masks.layers:
                carry_state(known, masks.weight(name), moved, before)
            elif self.reset_optimizers:
                reset_state(known, masks.weight(name), moved)
        if self._trainer is not None and masks.module is not None and changed_names:
            changed = {name: masks.stored[name] for name in changed_names if name in masks.stored}
            project_averages(self._trainer, masks.module, changed)
        self.after_rewiring(changed_names)
        if not self.rewirings.due:
            self.statistics.reset()
            if self._trainer is not None:
                self._refuse_different_ranks(self._trainer)

    def _refuse_different_ranks(self, trainer: Trainer) -> None:
        if trainer.world_size > 1:
            compatibility.refuse_different_ranks(trainer, self.topology.masks.fingerprints)

    def now(self, trainer: Trainer) -> int:
        """Return the epoch, or the number of steps taken."""
        return self.clock.now(trainer, self.timing.by_steps)

    def is_due(self, trainer: Trainer) -> bool:
        """Return whether the clock says that a rewiring is due."""
        return self.timing.is_due(self.now(trainer), self.clock.end(trainer, self.timing.by_steps), self._before)

    def refuse_endless(self, trainer: Trainer) -> None:
        """Refuse a schedule or a share of a training that has no end.

        Raises:
            ValueError: It has none.
        """
        scheduled = self.topology.selection.initial_density is not None
        if (self.timing.needs_end() or scheduled) and not self.clock.has_end(trainer):
            raise ValueError(
                "Expected a Trainer with an end, as a schedule or a share for stop asks for, got one without: set "
                "max_epochs, max_steps or max_time, or stop to a number"
            )

    def warn_if_never_due(self, trainer: Trainer, method: str) -> None:
        """Warn where a training ends before the first rewiring."""
        now, end = self.now(trainer), self.clock.end(trainer, self.timing.by_steps)
        if self._now not in (None, now) and self.timing.is_due(now, end, self._known_before()):
            return  # a resumed run begins with a rewiring
        if message := self.timing.never_due(now, end):
            rank_zero_warn(f"{method} will not rewire in this training: {message}")

    @property
    def trainer(self) -> "Trainer | None":
        """The Trainer that is training, if one is."""
        return self._trainer

    def current_seed(self) -> int:
        """Return the seed that was given, else that of ``seed_everything``, else 0."""
        return int(os.environ.get("PL_GLOBAL_SEED", 0) if self.seed is None else self.seed)

    def _known_before(self) -> int | None:
        return None if self._now == -1 else self._now

    # Hooks on optimizers.

    def _names_held_by(self, optimizer: Optimizer) -> list[str]:
        module = self.topology.masks.module
        if module is not None and self.topology.waits_for(module, optimizer):
            self._optimizers[id(optimizer)] = optimizer
            self._extend(module)
        names = self.topology.held_by(optimizer)
        if names:
            self._optimizers[id(optimizer)] = optimizer
        return names

    def _after_step(self, optimizer: Optimizer, names: list[str]) -> None:
        self.topology.masks.enforce(names)
        self.after_step(optimizer, names)
        self.clock.count(optimizer)
        if self.rewirings.due and self.reads_gradient:
            ready = [name for name in names if _has_finite_gradient(self.topology.masks.weight(name))]
            self.rewire([name for name in ready if name in self.rewirings.due])
            for name in set(names).intersection(self.topology.masks.layers):
                self.topology.masks.layers[name].record_gradient(False)

    def _extend(self, module: nn.Module) -> None:
        """Take in weights that have begun to be trained."""
        if self.topology.extend(module, self._known_optimizers(module), self.current_seed()):
            self._hook.forget()
            self._attach_statistics(module)
            self.topology.announce()

    def _attach_statistics(self, module: nn.Module) -> None:
        self.statistics.attach(module, list(self.topology.masks), self._known_optimizers(module))

    def _known_optimizers(self, module: nn.Module) -> list[Optimizer]:
        assert self._trainer is not None
        return optimizers_of([*self._trainer.optimizers, *self._optimizers.values()], module)

    def _warn_of_skipped(self, names: set[str], reason: str) -> None:
        found = [name for name in self.topology.masks if name in names and name not in self._warned]
        if found:
            self._warned.update(found)
            layers = [layer_name(name) for name in found]
            rank_zero_warn(
                f"{', '.join(layers)} kept their connections at a rewiring, since {reason}. To leave them dense, set "
                f"exclude={layers!r}."
            )

    # State.

    def state_dict(self) -> dict[str, Any]:
        """Return masks, statistics and counters; a collective operation when training is distributed."""
        return {
            "masks": self.topology.state_dict(),
            "statistics": self.statistics.state_dict(),
            "rewirings": self.rewirings.state_dict(),
            "grown_weights": self.grown_weights.state_dict(),
            "clock": self.clock.state_dict(),
            "learning_rate": self.drops.state_dict(),
            "now": self._now,
            "seed": self.current_seed(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint."""
        compatibility.refuse_other_layers(self.topology.masks.stored, state["masks"])
        self.topology.load_state_dict(state["masks"])
        self.statistics.load_state_dict(state["statistics"])
        self.rewirings.load_state_dict(state["rewirings"])
        self.grown_weights.load_state_dict(state["grown_weights"])
        self.clock.load_state_dict(state["clock"])
        self.drops.load_state_dict(state["learning_rate"])
        self._now, self._resumed = state["now"], True
        self.seed = state["seed"] if self.seed is None else self.seed

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles carry no Trainer."""
        return self.__dict__ | {"_trainer": None, "_optimizers": {}}


def _has_finite_gradient(weight: nn.Parameter) -> bool:
    gradient = weight.grad
    if gradient is not None and gradient.is_sparse:
        gradient = gradient.coalesce().values()
    return gradient is not None and bool(gradient.isfinite().all())


def _batch_size(trainer: Trainer, module: nn.Module) -> int | None:
    """The `batch_size` of the data module or the model, where Lightning's tuner looks for it; None without one."""
    owners = trainer.datamodule, module  # type: ignore[attr-defined]
    found = (
        getattr(place, "batch_size", None) for owner in owners for place in (owner, getattr(owner, "hparams", None))
    )
    return next((size for size in found if is_integer(size, 1)), None)


def _steps_as_lightning_does(module: nn.Module) -> bool:
    """Whether a LightningModule leaves an optimizer's step to Lightning, under either of Lightning's names."""
    step = getattr(type(module), "optimizer_step", None)
    return getattr(step, "__qualname__", "") == "LightningModule.optimizer_step"
