import inspect
import math
from functools import partial

import pytest
import torch

from sparse_lightning import SET, SNFS, HebbianRegrow, PruneRegrow, RandomRegrow, RigL, StaticSparse
from sparse_lightning.callbacks.presets import PRESETS


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_trains_and_only_the_static_one_stays(trainer, model, net, data, name):
    options = {"every_n_steps": 2} if name == "rigl" else {}
    callback = PRESETS[name](0.3, seed=1, **options)
    trained = model(net)
    callback.sparsify(trained)
    before = {name: mask.clone() for name, mask in callback.masks.items()}
    trainer(max_epochs=3, callbacks=[callback]).fit(trained, data)
    moved = any(not mask.equal(before[name]) for name, mask in callback.masks.items())
    assert moved == (name != "static")
    assert sum(int(mask.sum()) for mask in callback.masks.values()) == round(0.3 * 136)


def test_a_preset_takes_every_argument_and_what_is_given_counts():
    callback = RigL(0.05, prune_fraction=0.5, every_n_steps=7, stop=100, schedule="linear", regrow=False, seed=3)
    assert (callback.density, callback.prune_fraction, callback.every_n_steps, callback.last) == (0.05, 0.5, 7, 100)
    assert not callback.regrow
    assert RigL(every_n_epochs=2).every_n_steps is None
    with pytest.raises(ValueError, match=r"Expected density in \(0, 1\], got 2"):
        SET(2)


def test_every_preset_says_what_it_is():
    for preset in PRESETS.values():
        card = " ".join(inspect.getdoc(preset).split())
        for part in ("What it does:", "When to use it:", "Published defaults:", "Source:"):
            assert part in card


def test_presets_are_the_parts_that_their_papers_name():
    def parts_of(callback: PruneRegrow) -> tuple[str | None, ...]:
        growth = type(callback.growth).__name__ if callback.growth else None
        return type(callback.pruning).__name__, growth, callback.distribution.__name__

    parts = {name: parts_of(preset()) for name, preset in PRESETS.items()}
    assert parts == {
        "set": ("SignedMagnitude", "RandomGrowth", "erdos_renyi"),
        "rigl": ("Magnitude", "GradientGrowth", "erk"),
        "snfs": ("Magnitude", "MomentumGrowth", "uniform"),
        "hebbian": ("SignedMagnitude", "HebbianGrowth", "uniform"),
        "random": ("SignedMagnitude", "RandomGrowth", "uniform"),
        "static": ("SignedMagnitude", None, "erk"),
    }


class Watched(RigL):
    """Notes how much each rewiring is to drop, and after how many steps."""

    def setup(self, trainer, pl_module, stage):
        super().setup(trainer, pl_module, stage)
        self.trainer, self.seen = trainer, []

    def prune_mask(self, layer):
        self.seen.append((self.trainer.global_step, fraction))
        return super().prune_mask(layer)


def test_rigl_rewires_every_few_steps_until_three_quarters_less_and_less(trainer, model, net, data):
    data.inputs, data.labels, data.batch_size = torch.randn(160, 6), torch.zeros(160), 2
    callback = Watched(0.5, every_n_steps=10, prune_fraction=0.4)
    slow = partial(torch.optim.SGD, lr=1e-4)
    trainer(max_epochs=1, callbacks=[callback], limit_val_batches=0).fit(model(net, slow), data)
    # Of 80 steps at 10, 20 ... 60, which is three quarters; each in the step after, which shows the gradient.
    expected = {step: 0.2 * (1 + math.cos(math.pi * step / 60)) for step in (10, 20, 30, 40, 50, 60)}
    assert [step for step, _ in callback.seen] == [step for step in expected for _ in range(3)]
    assert [fraction for _, fraction in callback.seen] == pytest.approx([expected[step] for step, _ in callback.seen])


def test_the_arms_of_the_study_differ_in_growth_alone():
    one, other = HebbianRegrow(), RandomRegrow()
    assert (one.density, one.prune_fraction) == (other.density, other.prune_fraction)
    assert type(one.pruning) is type(other.pruning)
    assert type(one.growth) is not type(other.growth)
    assert all(isinstance(preset, PruneRegrow) for preset in (one, other, SNFS(), StaticSparse()))
