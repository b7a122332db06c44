import math

import pytest

from sparse_lightning import PruneRegrow
from sparse_lightning.functional.schedules import SCHEDULES


@pytest.mark.parametrize("name", ["cosine", "linear"])
def test_a_schedule_falls_from_one_to_zero(name):
    values = [SCHEDULES[name](step / 10) for step in range(11)]
    assert values == sorted(values, reverse=True)
    assert (values[0], values[5], values[10]) == pytest.approx((1.0, 0.5, 0.0))


class Moments(PruneRegrow):
    """Notes when it rewires, in epochs and steps, and how much of its fraction is left."""

    def setup(self, trainer, pl_module, stage):
        super().setup(trainer, pl_module, stage)
        self.trainer, self.seen, self.factors = trainer, [], []

    def scheduled(self, progress):
        self.seen.append((self.trainer.current_epoch, self.trainer.global_step))
        self.factors.append(super().scheduled(progress))
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
def test_it_rewires_when_it_was_told_to(trainer, model, net, data, options, epochs, steps):
    callback = Moments(density=0.5, **options)
    trainer(max_epochs=6, callbacks=[callback]).fit(model(net), data)  # of three steps each
    assert [epoch for epoch, _ in callback.seen] == epochs
    assert [step for _, step in callback.seen] == steps
    assert callback.rewirings == len(steps)


def test_accumulated_batches_are_one_step(trainer, model, net, data):
    callback = Moments(density=0.5, every_n_steps=1)
    trainer(max_epochs=2, callbacks=[callback], accumulate_grad_batches=2).fit(model(net), data)
    assert [step for _, step in callback.seen] == [1, 2, 3]


HALF_A_COSINE = [(1 + math.cos(math.pi * quarter / 4)) / 2 for quarter in range(5)]


@pytest.mark.parametrize(("schedule", "factors"), [("linear", [1, 0.75, 0.5, 0.25, 0]), ("cosine", HALF_A_COSINE)])
def test_progress_runs_from_first_to_last(trainer, model, net, data, schedule, factors):
    callback = Moments(density=0.5, schedule=schedule, start=1, stop=5)
    trainer(max_epochs=8, callbacks=[callback]).fit(model(net), data)
    assert callback.factors == pytest.approx(factors)


def test_the_fraction_that_is_dropped_follows_the_schedule(trainer, model, net, data):
    class Dropped(Moments):
        counts: list[int]

        def prune_mask(self, layer):
            dropped = super().prune_mask(layer)
            if name == "network.3.weight":
                self.counts = [*getattr(self, "counts", []), int(dropped.sum())]
            return dropped

    callback = Dropped(density=0.5, prune_fraction=0.5, pruning="magnitude", schedule=lambda progress: 1 - progress)
    trainer(max_epochs=4, callbacks=[callback]).fit(model(net), data)
    assert callback.counts == [12, 8, 4]  # of 32 active


@pytest.mark.parametrize("options", [{"schedule": "cosine"}, {"stop": 0.5}, {"schedule": "linear", "every_n_steps": 2}])
def test_a_share_of_a_training_without_end_is_refused_before_it(trainer, model, net, data, options):
    with pytest.raises(ValueError, match="Expected a Trainer with an end"):
        trainer(max_epochs=-1, callbacks=[PruneRegrow(**options)]).fit(model(net), data)


def test_a_factor_out_of_range_is_refused(trainer, model, net, data):
    callback = PruneRegrow(schedule=lambda progress: 1.5)
    with pytest.raises(ValueError, match=r"Expected the schedule to give a factor in \[0, 1\], got 1.5"):
        trainer(max_epochs=2, callbacks=[callback]).fit(model(net), data)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every_n_epochs": 0}, "Expected every_n_epochs to be a whole number from 1, got 0"),
        ({"every_n_steps": 1.5}, "Expected every_n_steps to be a whole number from 1, got 1.5"),
        ({"every_n_steps": 2, "every_n_epochs": 2}, "Expected every_n_epochs or every_n_steps, not both"),
        ({"start": -1}, "Expected first to be a whole number from 0, got -1"),
        ({"stop": 1.5}, r"Expected last to be a share in \(0, 1\] or a number from first, got 1.5"),
        ({"start": 5, "stop": 4}, r"Expected last to be a share in \(0, 1\] or a number from first, got 4"),
        ({"schedule": "sine"}, "Expected schedule to be one of constant, cosine, linear, got 'sine'"),
        ({"optimizer_state": "forget"}, "Expected optimizer_state to be reset or keep, got 'forget'"),
        ({"regrow": "yes"}, "Expected regrow to be true or false, got 'yes'"),
        ({"distribution": "ERK"}, "Expected distribution to be one of uniform, erdos_renyi, erk, got 'ERK'"),
        ({"include": 3}, "Expected include to be patterns, got 3"),
    ],
)
def test_a_moment_that_cannot_be_is_refused_at_once(options, message):
    with pytest.raises(ValueError, match=message):
        PruneRegrow(**options)
