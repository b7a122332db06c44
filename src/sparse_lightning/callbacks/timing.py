"""When a rewiring is due, on one clock of epochs or of optimizer steps, and how far the training has come."""

import math
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from lightning.pytorch import Trainer
from torch.optim import Optimizer

from sparse_lightning.functional.checks import expect, is_integer, is_number
from sparse_lightning.functional.masks import exact_fraction
from sparse_lightning.functional.schedules import SCHEDULES, Schedule


@dataclass(frozen=True)
class Timing:
    """When to rewire.

    Attributes:
        every_n_epochs: Epochs between two rewirings; None for 1, or with `every_n_steps`.
        every_n_steps: Optimizer steps between two rewirings, in place of epochs.
        start: The first epoch, or step, at which to rewire; both count from 0.
        stop: The last epoch, or step, at which to rewire; a float in (0, 1] is a share of the training; None for its
            end.
        schedule: The factor on the prune fraction as a function of progress from `start` to `stop`.
    """

    every_n_epochs: int | None
    every_n_steps: int | None
    start: int
    stop: int | float | None
    schedule: Schedule = field(repr=False)

    def __post_init__(self) -> None:
        for argument in ("every_n_epochs", "every_n_steps"):
            value = getattr(self, argument)
            expect(value is None or is_integer(value, 1), f"{argument} to be an integer of at least 1", value)
        both = self.every_n_epochs is not None and self.every_n_steps is not None
        expect(not both, "every_n_epochs or every_n_steps, not both", (self.every_n_epochs, self.every_n_steps))
        expect(is_integer(self.start, 0), "start to be an integer of at least 0", self.start)
        share = is_number(self.stop) and not is_integer(self.stop) and 0 < self.stop <= 1  # type: ignore[operator]
        valid = self.stop is None or share or is_integer(self.stop, self.start)
        expect(valid, f"stop to be a share in (0, 1] or an integer of at least start, {self.start}", self.stop)
        expect(callable(self.schedule), "schedule to be a name or a function of progress", self.schedule)

    @property
    def by_steps(self) -> bool:
        """Whether the clock counts optimizer steps, not epochs."""
        return self.every_n_steps is not None

    @property
    def period(self) -> int:
        """Epochs or steps between two rewirings."""
        return self.every_n_steps or self.every_n_epochs or 1

    @property
    def unit(self) -> str:
        """What the clock counts."""
        return "step" if self.by_steps else "epoch"

    def is_due(self, now: int, end: Fraction | None, before: int | None = None) -> bool:
        """Return whether a rewiring is due.

        Args:
            now: The epoch or step that begins.
            end: At which epoch or step the training ends, if that is known.
            before: The epoch or step at which this was asked last; None for the one before `now`. An optimizer that
                steps several times in a batch passes over steps.
        """
        last, due = self.last(end), now // self.period * self.period
        passed = due > (now - 1 if before is None else before)
        return passed and self.start <= due and (last is None or due <= last)

    def last(self, end: Fraction | None) -> Fraction | None:
        """Return the last epoch or step at which to rewire; None if nothing ends it."""
        if is_integer(self.stop):
            return Fraction(int(self.stop))  # type: ignore[arg-type]
        return None if end is None else end * (1 if self.stop is None else exact_fraction(self.stop))

    def progress(self, now: int, end: Fraction | None) -> Fraction:
        """Return where the rewiring stands between `start` and `stop`, in [0, 1]; 0 if nothing ends it."""
        last = self.last(end)
        if last is None or last <= self.start:
            return Fraction(0)
        return min(max((now - self.start) / (last - self.start), Fraction(0)), Fraction(1))

    def stage(self, now: int, end: Fraction | None) -> Fraction:
        """Return where a rewiring stands between `start` and the last one that will be due, 1 there; 0 without an end.

        A density that changes has its final value at the last rewiring, and keeps it to the end of the training.
        """
        last = self.last(end)
        if last is None:
            return Fraction(0)
        latest = last if end is None else min(last, Fraction(math.ceil(end) - 1))
        final = math.floor(latest) // self.period * self.period
        if final <= self.start:
            return Fraction(1)
        return min(max(Fraction(now - self.start, final - self.start), Fraction(0)), Fraction(1))

    def never_due(self, now: int, end: Fraction | None) -> str:
        """Return why no rewiring will be due after `now`, and what to change; an empty string if one will."""
        first = max(now // self.period + 1, math.ceil(Fraction(self.start, self.period))) * self.period
        last = self.last(end)
        if end is None or (first < end and (last is None or first <= last)):
            return ""
        reason, stopped = f"the training ends after {math.ceil(end)}", False
        if last is not None and last < end:
            reason, stopped = f"stop={self.stop} allows the last at {math.floor(last)}", True
        remedies = {
            "train longer": not (stopped and is_integer(self.stop)) or end <= first,
            "set a later stop": stopped,
            "lower start": self.start > 0,
            f"lower every_n_{self.unit}s": self.period > 1,
        }
        *others, final = [remedy for remedy, helps in remedies.items() if helps]
        return (
            f"the first rewiring is due at {self.unit} {first}, and {reason}; "
            f"{', '.join(others)}{' or ' * bool(others)}{final}"
        )

    def needs_end(self) -> bool:
        """Return whether a training without a known end leaves it open when to rewire, or how much."""
        open_stop = not is_integer(self.stop)
        return open_stop and (self.stop is not None or self.schedule is not SCHEDULES["constant"])


class Clock:
    """Counts optimizer steps, and knows at which epoch or step a training ends.

    A step is one step of the optimizer that steps most often: with several optimizers that take turns in a batch it
    counts once. It counts optimizers that no Trainer knows, too.
    """

    def __init__(self) -> None:
        self.steps = 0
        self._counts: list[int] = []
        self._index: dict[int, int] = {}
        self._batch = self._steps_before_epoch = 0

    def begin_batch(self, batch_idx: int) -> None:
        """Take in which batch of the epoch begins."""
        self._batch = batch_idx
        if batch_idx == 0:
            self._steps_before_epoch = self.steps

    def count(self, optimizer: Optimizer) -> None:
        """Take in a step of an optimizer."""
        index = self._index.setdefault(id(optimizer), len(self._index))
        self._counts += [0] * (index + 1 - len(self._counts))
        self._counts[index] += 1
        self.steps = max(self.steps, self._counts[index])

    def go_on(self) -> None:
        """Go on with the counts for optimizers that are made anew, in the order of their first steps."""
        self._index = {}

    def restart(self) -> None:
        """Count from 0."""
        self.__init__()  # type: ignore[misc]

    def now(self, trainer: Trainer, by_steps: bool) -> int:
        """Return the epoch, or the number of steps taken."""
        return self.steps if by_steps else trainer.current_epoch

    def end(self, trainer: Trainer, by_steps: bool) -> Fraction | None:
        """Return at which epoch or step the training ends, whichever of its limits comes first; None if none is known.

        A limit that counts something else is converted at the rate so far.
        """
        ends: list[Fraction] = []
        now = self.now(trainer, by_steps)
        epochs = trainer.max_epochs if trainer.max_epochs is not None and trainer.max_epochs >= 0 else None
        if by_steps:
            ends += self._steps_in_epochs(trainer, epochs) if epochs is not None else []
        elif epochs is not None:
            ends.append(Fraction(epochs))
        if trainer.max_steps >= 0:
            taken = trainer.global_step
            alone = len(trainer.optimizers) <= 1
            if by_steps and alone:
                ends.append(Fraction(trainer.max_steps))
            elif taken and now:
                ends.append(Fraction(trainer.max_steps * now, taken))
            elif by_steps:
                ends.append(Fraction(trainer.max_steps, len(trainer.optimizers)))
            else:
                ends.append(_epochs_in_steps(trainer))
        if (share := _time_share(trainer)) and now:
            ends.append(now / share)
        return min(ends, default=None)

    def has_end(self, trainer: Trainer) -> bool:
        """Return whether a training has a limit in epochs, steps or time."""
        limits = (-1 if trainer.max_epochs is None else trainer.max_epochs, trainer.max_steps)
        return any(limit >= 0 for limit in limits) or _remaining_timer(trainer) is not None

    def state_dict(self) -> dict[str, Any]:
        """Return the counts."""
        return {"steps": self.steps, "counts": list(self._counts), "before_epoch": self._steps_before_epoch}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue counting."""
        self.steps, self._counts, self._index = state["steps"], list(state["counts"]), {}
        self._steps_before_epoch = state.get("before_epoch", 0)

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles carry the counts, not which optimizer is which."""
        return self.__dict__ | {"_counts": list(self._counts), "_index": {}}

    def _steps_in_epochs(self, trainer: Trainer, epochs: int) -> list[Fraction]:
        """How many steps so many epochs have: counted from batches where a step follows from them, else by the rate."""
        batches, done = _batches(trainer), trainer.current_epoch
        if batches is None:  # known once an epoch is over
            return [Fraction(self._steps_before_epoch * epochs, done)] if done and self._steps_before_epoch else []
        taken = done * batches + self._batch
        if not _steps_are_even(trainer) and taken and self.steps:
            return [Fraction(self.steps * epochs * batches, taken)]
        return [Fraction(epochs * math.ceil(batches / trainer.accumulate_grad_batches))]


class LearningRateDrops:
    """Counts how often the learning rate has dropped from one epoch, or step, to the next."""

    def __init__(self) -> None:
        self.drops = 0
        self._rate = 0.0

    def update(self, trainer: Trainer) -> None:
        """Compare the learning rate of the first parameter group that has one with the last one."""
        groups = (group for optimizer in trainer.optimizers for group in optimizer.param_groups)
        rate = next((float(group["lr"]) for group in groups if "lr" in group), None)
        if rate is not None:
            self.drops += rate < self._rate
            self._rate = rate

    def state_dict(self) -> dict[str, Any]:
        """Return the number of drops and the last rate."""
        return {"drops": self.drops, "rate": self._rate}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        self.drops, self._rate = state["drops"], state["rate"]


def _steps_are_even(trainer: Trainer) -> bool:
    """Whether each epoch has as many steps as its batches give: one optimizer, which Lightning steps."""
    kinds = {kind.__name__ for callback in trainer.callbacks for kind in type(callback).__mro__}  # type: ignore[attr-defined]
    automatic = trainer.lightning_module.automatic_optimization and len(trainer.optimizers) == 1
    return automatic and "GradientAccumulationScheduler" not in kinds


def _epochs_in_steps(trainer: Trainer) -> Fraction:
    batches = _batches(trainer)
    if batches is None:
        return Fraction(trainer.max_steps)
    in_epoch = math.ceil(batches / trainer.accumulate_grad_batches) * max(len(trainer.optimizers), 1)
    return Fraction(trainer.max_steps, in_epoch)


def _batches(trainer: Trainer) -> int | None:
    """Batches in an epoch, or None for a loader without a length."""
    batches = trainer.num_training_batches
    return int(batches) if batches != math.inf else None


def _time_share(trainer: Trainer) -> Fraction | None:
    """The share of `max_time` that has passed on the first rank, or None without such a limit."""
    timer = _remaining_timer(trainer)
    if timer is None:
        return None
    elapsed, remaining = timer.time_elapsed(), timer.time_remaining() or 0.0
    share = trainer.strategy.broadcast(elapsed / (elapsed + max(remaining, 0.0)))
    return exact_fraction(share) or None


def _remaining_timer(trainer: Trainer) -> Any:
    """The first timer with a limit, or None; that of either package of Lightning."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    timers = (each for each in callbacks if "Timer" in {kind.__name__ for kind in type(each).__mro__})
    return next((timer for timer in timers if timer.time_remaining() is not None), None)
