import copy
import math
from datetime import timedelta
from fractions import Fraction
from functools import partial
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import Timer
from torch import Tensor, nn

from sparse_lightning import SET, PruneRegrow, RigL, StaticSparse
from sparse_lightning.callbacks.timing import Clock, LearningRateDrops, Timing
from sparse_lightning.functional.schedules import SCHEDULES

SGD = partial(torch.optim.SGD, lr=0.01)


def timing(
    every_n_epochs: int | None = None,
    every_n_steps: int | None = None,
    start: int = 0,
    stop: float | None = None,
    schedule: str = "constant",
) -> Timing:
    return Timing(every_n_epochs, every_n_steps, start, stop, SCHEDULES[schedule])


# Timing alone.


@pytest.mark.parametrize(
    ("options", "due"),
    [
        ({}, [0, 1, 2, 3, 4, 5, 6, 7, 8]),
        ({"every_n_epochs": 2}, [0, 2, 4, 6, 8]),
        ({"start": 3}, [3, 4, 5, 6, 7, 8]),
        ({"stop": 3}, [0, 1, 2, 3]),
        ({"stop": 0.5}, [0, 1, 2, 3, 4]),
        ({"start": 2, "stop": 0.75, "every_n_steps": 2}, [2, 4, 6]),
        ({"start": 3, "stop": 5, "every_n_epochs": 2}, [4]),
    ],
)
def test_what_is_due_in_a_training_of_eight(options, due):
    each = timing(**options)
    assert [now for now in range(9) if each.is_due(now, Fraction(8))] == due


def test_a_share_is_exact():
    # 0.3 of 10 is 3, where binary floats make it less.
    assert [now for now in range(1, 10) if timing(stop=0.3).is_due(now, Fraction(10))] == [1, 2, 3]
    assert timing(stop=0.7).last(Fraction(10)) == 7


def test_progress_runs_from_start_to_stop():
    each = timing(start=2, stop=6)
    assert [each.progress(now, Fraction(9)) for now in range(8)] == [
        *(0, 0, 0),
        *(Fraction(quarter, 4) for quarter in (1, 2, 3, 4)),
        1,
    ]
    assert timing().progress(5, Fraction(6)) == Fraction(5, 6)
    assert timing().progress(5, None) == 0
    assert timing(start=9).progress(5, Fraction(6)) == 0


@pytest.mark.parametrize(
    ("options", "end", "message"),
    [
        ({}, 2, ""),
        ({}, None, ""),
        ({}, 1, "the first rewiring is due at epoch 1, and the training ends after 1; train longer"),
        ({"every_n_epochs": 5}, 5, "the first rewiring is due at epoch 5, and the training ends after 5"),
        (
            {"every_n_steps": 100, "stop": 0.75},
            12,
            "is due at step 100, and stop=0.75 allows the last at 9; train longer, set a later stop or lower "
            "every_n_steps",
        ),
        (
            {"every_n_steps": 10, "stop": 0.75},
            12,
            "is due at step 10, and stop=0.75 allows the last at 9; train longer, set a later stop or lower "
            "every_n_steps",
        ),
        ({"start": 7}, 5, "is due at epoch 7, and the training ends after 5; train longer or lower start"),
        ({"every_n_epochs": 2, "start": 3}, 5, ""),
        (
            {"every_n_epochs": 4, "stop": 3},
            9,
            "due at epoch 4, and stop=3 allows the last at 3; set a later stop or lower",
        ),
        ({"every_n_epochs": 2, "start": 5}, 6, "is due at epoch 6, and the training ends after 6"),
    ],
)
def test_a_training_too_short_for_a_rewiring_is_found(options, end, message):
    found = timing(**options).never_due(0, None if end is None else Fraction(end))
    if message:
        assert message in found
    else:
        assert found == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every_n_epochs": 0}, "Expected every_n_epochs to be an integer of at least 1, got 0"),
        ({"every_n_steps": 1.5}, "Expected every_n_steps to be an integer of at least 1, got 1.5"),
        ({"every_n_steps": True}, "Expected every_n_steps to be an integer of at least 1, got True"),
        ({"every_n_steps": 2, "every_n_epochs": 2}, "Expected every_n_epochs or every_n_steps, not both"),
        ({"start": -1}, "Expected start to be an integer of at least 0, got -1"),
        ({"stop": 1.5}, r"Expected stop to be a share in \(0, 1\] or an integer of at least start, 0, got 1.5"),
        ({"stop": 0.0}, r"Expected stop to be a share in \(0, 1\] or an integer of at least start, 0, got 0.0"),
        ({"start": 5, "stop": 4}, r"Expected stop to be a share in \(0, 1\] or an integer of at least start, 5, got 4"),
        ({"schedule": "sine"}, "Expected schedule to be one of constant, cosine, linear, got 'sine'"),
        ({"schedule": 3}, "Expected schedule to be a name or a function of progress, got 3"),
        ({"optimizer_state": "forget"}, "Expected optimizer_state to be reset or keep, got 'forget'"),
        ({"regrow": "yes"}, "Expected regrow to be true or false, got 'yes'"),
        ({"log_topology": 1}, "Expected log_topology to be true or false, got 1"),
        ({"pruning_early_stop": -1}, "Expected pruning_early_stop of at least 0, got -1"),
        ({"seed": "one"}, "Expected seed to be an integer or None, got 'one'"),
    ],
)
def test_a_moment_that_cannot_be_is_refused_at_construction(options, message):
    with pytest.raises(ValueError, match=message):
        PruneRegrow(**options)


# The clock alone.


def test_the_clock_counts_the_optimizer_that_steps_most_often():
    clock, (often, rarely) = Clock(), (SGD([torch.zeros(1)]), SGD([torch.zeros(1)]))
    counted = []
    for optimizer in (often, rarely, often, often, rarely, often):
        clock.count(optimizer)
        counted.append(clock.steps)
    assert counted == [1, 1, 2, 3, 3, 4]


def test_a_clock_goes_on_from_its_state_with_other_optimizers():
    first, (one, two) = Clock(), (SGD([torch.zeros(1)]), SGD([torch.zeros(1)]))
    for optimizer in (one, two, two):
        first.count(optimizer)
    clock = Clock()
    clock.load_state_dict(first.state_dict())
    for optimizer in (SGD([torch.zeros(1)]), SGD([torch.zeros(1)])):
        clock.count(optimizer)
    assert clock.steps == 3
    assert clock.state_dict() == {"steps": 3, "counts": [2, 3], "before_epoch": 0}


def test_drops_of_the_learning_rate_are_counted_from_one_look_to_the_next(trainer):
    run, drops = trainer(), LearningRateDrops()
    run.strategy.optimizers = [SGD([torch.zeros(1)])]
    for rate in (0.1, 0.1, 0.01, 0.05, 0.01, 0.001):
        run.optimizers[0].param_groups[0]["lr"] = rate
        drops.update(run)
    assert drops.drops == 3


# In trainings.


class Moments(PruneRegrow):
    """Notes when it rewires, in epochs and steps, and the factor on its fraction."""

    def setup(self, trainer, pl_module, stage):
        super().setup(trainer, pl_module, stage)
        self.trainer, self.moments, self.factors = trainer, [], []

    def fraction_factor(self, progress):
        self.moments.append((self.trainer.current_epoch, self.trainer.global_step))
        self.factors.append(super().fraction_factor(progress))
        return self.factors[-1]


@pytest.mark.parametrize(
    ("options", "epochs", "steps"),
    [
        ({}, [1, 2, 3, 4, 5], [3, 6, 9, 12, 15]),
        ({"every_n_epochs": 2}, [2, 4], [6, 12]),
        ({"start": 2}, [2, 3, 4, 5], [6, 9, 12, 15]),
        ({"stop": 3}, [1, 2, 3], [3, 6, 9]),
        ({"stop": 0.5}, [1, 2, 3], [3, 6, 9]),
        ({"start": 2, "stop": 4, "every_n_epochs": 2}, [2, 4], [6, 12]),
        ({"every_n_steps": 4}, [1, 2, 4, 5], [4, 8, 12, 16]),
        ({"every_n_steps": 5, "start": 6, "stop": 0.9}, [3, 5], [10, 15]),
        ({"every_n_steps": 1, "stop": 3}, [0, 0, 1], [1, 2, 3]),
    ],
)
def test_it_rewires_when_it_is_due(fit, model, net, options, epochs, steps):
    callback = Moments(density=0.5, **options)
    fit(model(net), callback, epochs=6)  # of three steps each
    assert [epoch for epoch, _ in callback.moments] == epochs
    assert [step for _, step in callback.moments] == steps
    assert callback.rewirings == len(steps)


def test_accumulated_batches_are_one_step(fit, model, net):
    callback = Moments(density=0.5, every_n_steps=1)
    fit(model(net), callback, epochs=2, accumulate_grad_batches=2)
    assert [step for _, step in callback.moments] == [1, 2, 3]


HALF_A_COSINE = [(1 + math.cos(math.pi * quarter / 4)) / 2 for quarter in range(5)]


@pytest.mark.parametrize(("schedule", "factors"), [("linear", [1, 0.75, 0.5, 0.25, 0]), ("cosine", HALF_A_COSINE)])
def test_the_schedule_runs_from_start_to_stop(fit, model, net, schedule, factors):
    callback = Moments(density=0.5, schedule=schedule, start=1, stop=5)
    fit(model(net), callback, epochs=8)
    assert callback.factors == pytest.approx(factors)


def test_the_fraction_that_is_pruned_follows_the_schedule_exactly(fit, model, data):
    class Counts(PruneRegrow):
        def prune_mask(self, layer):
            pruned = super().prune_mask(layer)
            self.pruned.append(int(pruned.sum()))
            return pruned

    callback = Counts(density=0.5, pruning="magnitude", schedule="linear")
    callback.pruned = []
    data.inputs = torch.randn(20, 8)
    fit(model(nn.Linear(8, 80)), callback, epochs=6)
    assert callback.pruned == [80, 64, 48, 32, 16]  # of 320 active; in floats the last would be 15


@pytest.mark.parametrize("options", [{"schedule": "cosine"}, {"stop": 0.5}, {"schedule": "linear", "every_n_steps": 2}])
def test_a_share_of_a_training_without_an_end_is_refused_before_it(fit, model, net, options):
    with pytest.raises(ValueError, match="Expected a Trainer with an end"):
        fit(model(net), PruneRegrow(**options), epochs=-1)


@pytest.mark.parametrize("factor", [1.5, -0.1, math.nan])
def test_a_factor_out_of_range_is_refused(fit, model, net, factor):
    callback = PruneRegrow(schedule=lambda progress: factor)
    with pytest.raises(ValueError, match=rf"Expected the schedule to give a factor in \[0, 1\], got {factor}"):
        fit(model(net), callback, epochs=2)


# Limits of a training, on the clock of the rewiring.


@pytest.mark.parametrize(
    ("options", "limits", "factors"),
    [
        # Twelve steps are four epochs.
        ({}, {"max_epochs": -1, "max_steps": 12}, [3 / 4, 2 / 4, 1 / 4]),
        ({}, {"max_epochs": 100, "max_steps": 12}, [3 / 4, 2 / 4, 1 / 4]),
        ({}, {"max_epochs": 4, "max_steps": 1000}, [3 / 4, 2 / 4, 1 / 4]),
        ({"every_n_steps": 4}, {"max_epochs": -1, "max_steps": 12}, [2 / 3, 1 / 3]),
        ({"every_n_steps": 4}, {"max_epochs": 4}, [2 / 3, 1 / 3]),
        ({"every_n_steps": 2}, {"max_epochs": 4, "accumulate_grad_batches": 2}, [3 / 4, 2 / 4, 1 / 4]),
    ],
)
def test_whichever_limit_comes_first_is_the_end_of_the_schedule(fit, model, net, options, limits, factors):
    callback = Moments(density=0.5, schedule="linear", **options)
    fit(model(net), callback, **limits)
    assert callback.factors == pytest.approx(factors)


def test_a_limit_in_time_is_the_end_of_the_schedule(fit, model, net):
    class Tenths(Timer):
        """Of ten epochs' time; no clock on the wall is read."""

        def time_elapsed(self, stage: Any = None) -> float:
            return float(self.epoch)

        def on_train_epoch_start(self, trainer: Any, *args: Any, **kwargs: Any) -> None:
            self.epoch = trainer.current_epoch

    timer = Tenths(timedelta(seconds=10))
    timer.epoch = 0
    callback = Moments(density=0.5, schedule="linear")
    fit(model(net), timer, callback, epochs=-1)
    assert callback.factors == pytest.approx([1 - epoch / 10 for epoch in range(1, 11)])


# Several optimizers, and steps that are skipped.


def turns(model: type[LightningModule], taken: Any, optimizers: int = 2) -> type[LightningModule]:
    """A Model whose optimizers step by hand, each where `taken(number of the optimizer, number of the batch)`."""

    class Turns(model):
        automatic_optimization = False

        def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
            self.tried = getattr(self, "tried", -1) + 1
            several = self.optimizers()
            for number, optimizer in enumerate(several if isinstance(several, list) else [several]):
                optimizer.zero_grad()
                self.manual_backward(super().training_step(batch, batch_idx))
                if taken(number, self.tried):
                    optimizer.step()

        def configure_optimizers(self) -> Any:
            if optimizers == 1:
                return SGD(self.parameters())
            return [SGD(self.network[:3].parameters()), SGD(self.network[3:].parameters())]

    return Turns


@pytest.mark.parametrize(
    ("taken", "rewirings"),
    [
        (lambda number, batch: True, 3),  # 30 batches, each 8th up to 3/4 of them, 22: at 8, 16
        (lambda number, batch: number == 0 or batch % 5 == 0, 3),
        (lambda number, batch: number == 1 or batch % 5 == 0, 3),
    ],
)
def test_steps_and_shares_are_on_one_clock_with_several_optimizers(fit, model, net, taken, rewirings):
    callback = RigL(0.5, every_n_steps=6)
    fit(turns(model, taken)(net), callback, epochs=10)
    assert callback.rewirings == rewirings


def test_with_several_optimizers_a_limit_in_steps_is_converted(fit, model, net):
    # Lightning counts the steps of both, 24 of them 12 batches.
    callback = Moments(density=0.5, schedule="linear", every_n_steps=3)
    fit(turns(model, lambda number, batch: True)(net), callback, epochs=-1, max_steps=24)
    assert callback.factors == pytest.approx([3 / 4, 2 / 4, 1 / 4])


def test_skipped_steps_do_not_count(fit, model, net):
    callback = Moments(density=0.5, every_n_steps=2)
    fit(turns(model, lambda number, batch: batch % 2 == 0, optimizers=1)(net), callback, epochs=4)  # 6 of 12
    assert [step for _, step in callback.moments] == [2, 4, 6]


@pytest.mark.filterwarnings("ignore:`LightningModule.configure_optimizers` returned `None`")
def test_an_optimizer_that_no_trainer_knows_drives_the_clock_too(fit, model, net):
    class Own(model):
        def __init__(self, network: nn.Module) -> None:
            super().__init__(network)
            self.automatic_optimization, self.own = False, SGD(network.parameters())

        def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
            self.own.zero_grad()
            super().training_step(batch, batch_idx).backward()
            self.own.step()

        def configure_optimizers(self) -> None:
            return None

    callback = PruneRegrow(0.5, every_n_steps=4)
    fit(Own(net), callback, epochs=4)
    assert callback.rewirings == 2


# A training that goes on.


def test_a_second_fit_goes_on_with_the_rewiring_that_the_first_did_not_get(fit, model, net):
    callback, trained = Moments(density=0.5), model(net)
    for _ in range(2):
        fit(trained, callback, epochs=2)
    assert callback.rewirings == 3


def test_a_trainer_that_fits_again_to_a_later_end_goes_on(fit, model, net, data):
    callback, trained = Moments(density=0.5, schedule="linear"), model(net)
    run = fit(trained, callback, epochs=2)
    assert callback.factors == [Fraction(1, 2)]
    run.fit_loop.max_epochs = 4
    run.fit(trained, data)
    assert callback.rewirings == 3
    assert callback.factors == [Fraction(1, 2), Fraction(1, 4)]


@pytest.mark.parametrize(("stop", "rewirings"), [(0, 4), (1, 0), (2, 2), (3, 4)])
def test_early_stop_counts_the_drops_of_the_learning_rate(fit, model, net, stop, rewirings):
    steps = partial(torch.optim.lr_scheduler.MultiStepLR, milestones=[1, 3])
    callback = PruneRegrow(pruning_early_stop=stop)
    fit(model(net, schedule=steps), callback, epochs=5)
    assert callback.rewirings == rewirings


# Trainings without any rewiring.


@pytest.mark.parametrize(
    ("callback", "message"),
    [
        (lambda: RigL(0.5), "RigL will not rewire in this training: the first rewiring is due at step 100"),
        (lambda: SET(0.5, start=9), "SET will not rewire in this training: the first rewiring is due at epoch 9"),
        (lambda: PruneRegrow(every_n_epochs=3), "PruneRegrow will not rewire in this training: .* at epoch 3"),
    ],
)
def test_a_method_that_will_not_rewire_warns_at_its_start(fit, model, net, callback, message):
    with pytest.warns(UserWarning, match=message):
        fit(model(net), each := callback(), epochs=3)
    assert each.rewirings == 0


def test_a_single_epoch_is_not_rewired_and_warned_of(fit, model, net):
    callback = PruneRegrow()
    with pytest.warns(UserWarning, match="will not rewire in this training: .* due at epoch 1, and .* ends after 1"):
        fit(model(net), callback, epochs=1)
    assert callback.rewirings == 0
    assert len(callback.masks) == 3


def test_a_static_topology_is_not_warned_of(fit, model, net):
    fit(model(copy.deepcopy(net)), StaticSparse(0.5), epochs=1)
    fit(model(net), PruneRegrow(growth=None), epochs=1)


def test_a_method_that_decides_by_itself_is_not_warned_of(fit, model, net):
    class Never(PruneRegrow):
        def should_rewire(self, trainer, pl_module):
            return False

    fit(model(net), callback := Never(), epochs=1)
    assert callback.rewirings == 0
