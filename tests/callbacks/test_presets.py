import copy
import inspect
import math
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from watching import Keep, Watch, active

import sparse_lightning
from sparse_lightning import SET, SNFS, Dense, HebbianRegrow, PruneRegrow, RandomRegrow, RigL, StaticSparse
from sparse_lightning.callbacks.presets import PRESETS
from sparse_lightning.criteria.growth import GROWTH
from sparse_lightning.criteria.pruning import PRUNING


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_trains_and_only_the_static_one_stays(fit, model, net, name):
    few = {"prune_fraction": 0.3} if name == "dsr" else {}  # a twentieth of so few connections is none
    callback = PRESETS[name](0.3, seed=1, **few, **({"every_n_steps": 2} if PRESETS[name]().every_n_steps else {}))
    scheduled = PRESETS[name](0.3)._arguments["initial_density"] is not None
    fit(model(net), callback, watch := Watch(callback, scheduled=scheduled or name == "dsr"))
    assert (watch.moved > 0) == (name not in ("static", "gmp", "acdc", "lottery_ticket"))
    assert sum(active(callback.masks)) == round(0.3 * 136)


def test_a_preset_takes_every_argument_and_what_is_given_counts():
    callback = RigL(0.05, prune_fraction=0.5, every_n_steps=7, stop=100, schedule="linear", regrow=False, seed=3)
    assert (callback.density, callback.prune_fraction, callback.every_n_steps, callback.stop) == (0.05, 0.5, 7, 100)
    assert not callback.regrow
    assert (RigL(every_n_epochs=2).every_n_steps, RigL(every_n_epochs=2).every_n_epochs) == (None, 2)
    with pytest.raises(ValueError, match=r"Expected density in \(0, 1\], got 2"):
        SET(2)


def test_every_preset_has_the_whole_signature_of_the_callback():
    def signature(kind: type[PruneRegrow]) -> list[tuple[str, Any]]:
        return [(each.name, each.kind) for each in inspect.signature(kind).parameters.values()]

    shared = signature(PruneRegrow)
    assert all(signature(preset)[: len(shared)] == shared for preset in (*PRESETS.values(), Dense))


def test_dense_training_is_dense_and_says_where_it_is_asked_not_to_be(fit, model, net):
    module, callback = model(net), Dense()
    fit(module, callback)
    assert all(bool(mask.all()) for mask in callback.masks.values())
    assert callback.rewirings == 0
    with pytest.raises(ValueError, match=r"density=1 for dense training \(StaticSparse is sparse and stays\), got 0.1"):
        Dense(0.1)


def test_every_preset_says_what_it_is():
    for preset in PRESETS.values():
        card = " ".join(inspect.getdoc(preset).split())
        for each in ("What it does:", "When to use it:", "Published defaults:", "Source:"):
            assert each in card


def test_presets_are_the_criteria_that_their_papers_name():
    def criteria(callback: PruneRegrow) -> tuple[str | None, ...]:
        growth = type(callback.growth).__name__ if callback.growth else None
        return type(callback.pruning).__name__, growth, callback.distribution

    assert {name: criteria(preset()) for name, preset in PRESETS.items()} == {
        "set": ("SignedMagnitudePruning", "RandomGrowth", "erdos_renyi"),
        "rigl": ("MagnitudePruning", "GradientGrowth", "erk"),
        "srigl": ("MagnitudePruning", "GradientGrowth", "erk"),
        "snfs": ("MagnitudePruning", "MomentumGrowth", "uniform"),
        "dsr": ("GlobalMagnitudePruning", "RandomGrowth", "uniform"),
        "gmp": ("MagnitudePruning", None, "uniform"),
        "granet": ("MagnitudePruning", "GradientGrowth", "erk"),
        "mest": ("MagnitudeAndGradientPruning", "RandomGrowth", "uniform"),
        "acdc": ("MagnitudePruning", None, "uniform"),
        "cht": ("ChainRemoval", "CannistraciHebbGrowth", "uniform"),
        "chts": ("SoftMagnitudePruning", "SoftCannistraciHebbGrowth", "uniform"),
        "chtss": ("SoftMagnitudePruning", "SoftCannistraciHebbGrowth", "uniform"),
        "top_kast": ("MagnitudePruning", "RandomGrowth", "uniform"),
        "deep_r": ("SignedMagnitudePruning", "RandomGrowth", "uniform"),
        "lottery_ticket": ("MagnitudePruning", None, "uniform"),
        "hebbian": ("SignedMagnitudePruning", "HebbianGrowth", "uniform"),
        "random": ("SignedMagnitudePruning", "RandomGrowth", "uniform"),
        "static": ("SignedMagnitudePruning", None, "erk"),
    }
    fractions = [preset().prune_fraction for preset in PRESETS.values()]
    assert fractions == [0.3, 0.3, 0.3, 0.5, 0.05, 0.0, 0.5, 0.3, 0.0, 0.3, 0.3, 0.3, 0.0, 0.0, 0.0, 0.3, 0.3, 0.3]


class Noting(RigL):
    """Notes how much each rewiring is to prune, and after how many steps."""

    def setup(self, trainer, pl_module, stage):
        super().setup(trainer, pl_module, stage)
        self.trainer, self.noted = trainer, []

    def prune_mask(self, layer):
        self.noted.append((self.trainer.global_step, layer.prune_fraction, layer.progress))
        return super().prune_mask(layer)


def test_rigl_rewires_every_few_steps_until_three_quarters_less_and_less(fit, model, net, data):
    data.inputs, data.labels, data.batch_size = torch.randn(160, 6), torch.zeros(160), 2
    callback = Noting(0.5, every_n_steps=10, prune_fraction=0.4)
    fit(model(net, partial(torch.optim.SGD, lr=1e-4)), callback, epochs=1)
    # Of 80 steps at 10, 20 ... 60, which is three quarters; each in the step after, which shows the gradient.
    steps = (10, 20, 30, 40, 50, 60)
    expected = {step: 0.2 * (1 + math.cos(math.pi * step / 60)) for step in steps}
    assert [step for step, *_ in callback.noted] == [step for step in expected for _ in range(3)]
    fractions = [float(fraction) for _, fraction, _ in callback.noted]
    assert fractions == pytest.approx([expected[step] for step, *_ in callback.noted])
    assert [progress for *_, progress in callback.noted][::3] == [Fraction(step, 80) for step in steps]


def test_the_arms_of_the_study_differ_in_growth_alone():
    one, other = HebbianRegrow(), RandomRegrow()
    assert (one.density, one.prune_fraction) == (other.density, other.prune_fraction)
    assert type(one.pruning) is type(other.pruning)
    assert type(one.growth) is not type(other.growth)
    assert all(isinstance(preset, PruneRegrow) for preset in (one, other, SNFS(), StaticSparse()))


# A repr that builds the object.

ARGUMENTS: list[dict[str, Any]] = [
    {},
    {"density": 0.05, "prune_fraction": {"*.0": 0.1}, "exclude": ["head", "*.1"]},
    {"density": {"enc.*": 0.1, "*": 0.5}, "include": "*", "every_n_steps": 7, "stop": 0.5, "seed": 3},
    {"start": 2, "stop": 9, "schedule": "cosine", "pruning_early_stop": 1, "optimizer_state": "keep"},
    {"regrow": True, "log_topology": False, "initial": "magnitude", "distribution": "erk"},
]


def rebuilt(callback: PruneRegrow) -> PruneRegrow:
    names = {kind.__name__: kind for kind in [*PRUNING.values(), *GROWTH.values()]}
    return eval(repr(callback), vars(sparse_lightning) | {"np": np} | names | named())


def named() -> dict[str, Any]:
    return {name: getattr(sparse_lightning, name) for name in sparse_lightning.__all__}


@pytest.mark.parametrize("arguments", ARGUMENTS)
@pytest.mark.parametrize("kind", [PruneRegrow, *PRESETS.values()])
def test_the_repr_of_a_callback_builds_it_again(kind, arguments):
    callback = kind(**arguments)
    again = rebuilt(callback)
    assert type(again) is kind
    for name in inspect.signature(kind).parameters:
        one, other = getattr(callback, name), getattr(again, name)
        assert one == other or repr(one) == repr(other)
    assert again.state_key == callback.state_key


@pytest.mark.parametrize("pruning", PRUNING)
@pytest.mark.parametrize("growth", [*GROWTH, None])
def test_the_repr_shows_the_criteria(pruning, growth):
    callback = PruneRegrow(growth=growth, pruning=pruning)
    again = rebuilt(callback)
    assert (repr(again.growth), repr(again.pruning)) == (repr(callback.growth), repr(callback.pruning))
    by_instance = PruneRegrow(growth=callback.growth, pruning=callback.pruning)
    assert repr(rebuilt(by_instance).pruning) == repr(callback.pruning)


def test_the_repr_of_a_default_is_short():
    assert repr(PruneRegrow()) == "PruneRegrow()"
    assert repr(SNFS(0.1, prune_fraction=0.3)) == "SNFS(prune_fraction=0.3)"
    assert repr(RigL(np.float64(0.5), seed=np.int64(1))).startswith("RigL(density=")


@pytest.mark.parametrize("name", ["lottery_ticket", "top_kast", "deep_r"])
def test_a_second_model_gets_nothing_of_the_first_one(fit, model, net, name):
    options = {"density": 0.25, "seed": 1, **({"every_n_steps": 2} if name == "top_kast" else {})}
    used, fresh = PRESETS[name](**options), PRESETS[name](**options)
    other = copy.deepcopy(net)
    for layer in other:
        if hasattr(layer, "reset_parameters"):
            layer.reset_parameters()
    second = [model(copy.deepcopy(other), partial(torch.optim.SGD, lr=0.1)) for _ in range(2)]
    fit(model(net, partial(torch.optim.SGD, lr=0.1)), used)
    fit(second[0], used)
    fit(second[1], fresh)
    for name_, tensor in second[0].state_dict().items():
        assert tensor.equal(second[1].state_dict()[name_])


@pytest.mark.parametrize(
    ("name", "first", "then"),
    [
        ("deep_r", {"l1": 0.05}, {"l1": 0.5}),
        ("top_kast", {"every_n_steps": 2}, {"every_n_steps": 2, "backward_density": 0.9}),
        ("lottery_ticket", {"start": 3}, {"start": 3, "rewind_to": 2}),
    ],
)
def test_a_resumed_run_with_other_settings_of_its_method_is_refused(fit, model, net, tmp_path, name, first, then):
    sgd = partial(torch.optim.SGD, lr=0.1)
    trainer = fit(model(copy.deepcopy(net), sgd), PRESETS[name](0.25, **first), Keep(tmp_path), epochs=5)
    assert trainer.global_step == 15
    with pytest.raises(ValueError, match=next(iter(set(then.items()) - set(first.items())))[0]):
        fit(model(net, sgd), PRESETS[name](0.25, **then), epochs=5, ckpt_path=tmp_path / "3.ckpt")
