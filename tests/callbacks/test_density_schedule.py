"""A density that changes: how many connections each layer has after each rewiring, and what else follows from that."""

from fractions import Fraction
from itertools import pairwise

import pytest
import torch
from common import Data
from test_layout import Net
from test_layout import fit as train
from watching import Epochs, Watch, active, view

from sparse_lightning import ACDC, GMP, MEST, SNFS, GraNet, LayerView, PruneRegrow, SparseLinear
from sparse_lightning.callbacks.rewiring import Decisions, rewire_layers
from sparse_lightning.functional.masks import combined_fraction
from sparse_lightning.functional.schedules import DENSITY_SCHEDULES

SIZES = (48, 64, 24)  # of the layers of `net`


def counts(density: float) -> list[int]:
    """What a uniform density gives the layers of `net`, where nothing is left over to share out."""
    return [round(density * size) for size in SIZES]


def test_a_density_falls_to_its_end_by_the_last_rewiring_and_stays(fit, model, net):
    callback = PruneRegrow(0.25, initial_density=1.0, density_schedule="linear", seed=1)
    fit(model(net), callback, epochs := Epochs(callback), Watch(callback, scheduled=True), epochs=6)
    # The first epoch trains dense; the rewirings before epochs 1 to 5 take equal steps.
    expected = [round((1 - 0.15 * step) * 136) for step in range(6)]
    assert [sum(active(masks)) for masks in epochs.masks] == expected
    assert active(callback.masks) == counts(0.25)


def test_a_density_may_rise(fit, model, net):
    callback = PruneRegrow(0.75, initial_density=0.25, density_schedule="linear", seed=1)
    fit(model(net), callback, epochs := Epochs(callback), Watch(callback, scheduled=True), epochs=3)
    assert [active(masks) for masks in epochs.masks] == [counts(0.25), counts(0.5), counts(0.75)]


def test_each_pattern_has_its_own_end(fit, model, net):
    callback = PruneRegrow({"network.0": 0.5, "network.3": 0.25}, initial_density=1.0, seed=1)
    fit(model(net), callback, epochs=4)
    assert active(callback.masks) == [24, 16]


def test_what_is_given_decides_the_way(fit, model, net):
    callback = PruneRegrow(0.5, initial_density=1.0, density_schedule=lambda t: Fraction(int(t >= 1)), seed=1)
    fit(model(net), callback, epochs := Epochs(callback), epochs=4)
    assert [sum(active(masks)) for masks in epochs.masks] == [136, 136, 136, 68]


def test_stop_ends_it_early(fit, model, net):
    callback = PruneRegrow(0.25, initial_density=0.75, density_schedule="linear", stop=2, seed=1)
    fit(model(net), callback, epochs := Epochs(callback), epochs=5)
    assert [active(masks) for masks in epochs.masks] == [counts(0.75), counts(0.5), *[counts(0.25)] * 3]


@pytest.mark.parametrize("density_schedule", DENSITY_SCHEDULES)
def test_every_schedule_begins_at_0_and_ends_at_1_and_stays_between(density_schedule):
    way = [DENSITY_SCHEDULES[density_schedule](Fraction(n, 40)) for n in range(41)]
    assert way[0] == 0
    assert way[-1] == 1
    assert all(0 <= each <= 1 for each in way)
    assert density_schedule == "alternating" or way == sorted(way)


@pytest.mark.parametrize("pruning", ["magnitude", "signed_magnitude", "mixed", "hebbian"])
@pytest.mark.parametrize("options", [{"initial_density": 1.0}, {"density_schedule": "alternating"}])
def test_counts_are_exact_with_any_pruning(fit, model, net, pruning, options):
    callback = PruneRegrow(0.25, pruning=pruning, seed=1, **{"initial_density": 0.75} | options)
    fit(model(net), callback, Watch(callback, scheduled=True), epochs=8)
    assert active(callback.masks) == counts(0.25)


def test_what_is_too_many_goes_first_and_the_fraction_of_the_rest_is_replaced():
    assert combined_fraction(Fraction(1, 2), 8, 4, 16, regrow=False) == Fraction(6, 8)
    assert combined_fraction(Fraction(1, 2), 4, 8, 16, regrow=False) == Fraction(2, 4)
    assert combined_fraction(Fraction(1, 2), 4, 16, 16, regrow=False) == 0  # none is left to grow instead
    layer = view(torch.tensor([[1.0, 2.0, 3.0, 4.0, 0.0, 0.0]]), fraction=0.5)
    found = {"weight": 2}
    decide = Decisions(lambda layers: found, lambda view: view.values < 3.5, lambda view: torch.zeros(view.shape))
    [(seen, dropped, grown)] = rewire_layers([layer], decide)
    assert seen.prune_fraction == Fraction(3, 4)
    assert dropped.tolist() == [0, 1, 2]
    assert len(grown) == 1


class TooFew(PruneRegrow):
    """Prunes nothing, whatever is asked for."""

    def prune_mask(self, layer: LayerView) -> torch.Tensor:
        return torch.zeros_like(layer.values, dtype=torch.bool)


def test_where_a_method_prunes_too_few_the_weights_nearest_zero_go_too(fit, model, net):
    callback = TooFew(0.25, initial_density=0.75, growth=None, seed=1)
    fit(model(net), callback, Watch(callback, scheduled=True), epochs=3)
    assert active(callback.masks) == counts(0.25)


# The methods that stand on it.


def test_gmp_ends_at_its_density_and_never_grows(fit, model, net):
    callback = GMP(0.25, every_n_steps=2, seed=1)
    fit(model(net), callback, epochs := Epochs(callback), Watch(callback, scheduled=True), epochs=6)
    totals = [sum(active(masks)) for masks in epochs.masks]
    assert totals[0] < 136
    assert totals == sorted(totals, reverse=True)
    assert not any((after[name] & ~before[name]).any() for before, after in pairwise(epochs.masks) for name in after)
    assert active(callback.masks) == counts(0.25)


def test_granet_keeps_the_largest_weights_of_all_layers():
    callback, net = GraNet(0.25, every_n_steps=2, prune_fraction=0.0, seed=1), Net()
    train(net, callback, Watch(callback, scheduled=True))
    assert sum(active(callback.masks)) == round(0.25 * (480 + 1200 + 120))
    by_shape = PruneRegrow(0.25, distribution="erk")
    by_shape.sparsify(Net())
    assert active(callback.masks) != active(by_shape.masks)


def test_acdc_has_sparse_and_dense_phases_and_ends_sparse():
    callback = ACDC(0.25, seed=1)
    train(Net(), callback, epochs := Epochs(callback), Watch(callback, scheduled=True), epochs=21)
    totals = [sum(active(masks)) for masks in epochs.masks]
    assert totals[:5] == [1800, 1800, 450, 1800, 450]
    assert set(totals) == {450, 1800}
    assert totals[-4:] == [450] * 4


def test_mest_prunes_by_weight_and_gradient(fit, model, net):
    callback = MEST(0.5, initial_density=0.75, seed=1)
    fit(model(net), callback, Watch(callback, scheduled=True), epochs=5)
    assert sum(active(callback.masks)) == 68
    assert callback.rewirings == 4


def test_redistribution_shares_out_a_density_that_falls(fit, model, net):
    callback = SNFS(0.25, counts="momentum", initial_density=0.75, density_schedule="linear", seed=1)
    fit(model(net), callback, epochs := Epochs(callback), Watch(callback, scheduled=True), epochs=3)
    assert [sum(active(masks)) for masks in epochs.masks] == [102, 68, 34]


# What is refused.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"initial_density": 0}, r"Expected initial_density in \(0, 1\], got 0"),
        ({"initial_density": 80}, r"did you mean 0.8\?"),
        ({"density_schedule": "cubik"}, "cubic"),
        ({"density_schedule": 3, "initial_density": 1.0}, "density_schedule to be a name or a function of progress"),
    ],
)
def test_arguments_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        PruneRegrow(0.2, **options)


def test_a_schedule_out_of_its_range_is_refused_at_once(fit, model, net):
    with pytest.raises(ValueError, match=r"Expected density_schedule to give a number in \[0, 1\], got 2"):
        fit(model(net), PruneRegrow(0.2, initial_density=1.0, density_schedule=lambda t: 2))


def test_a_training_without_an_end_is_refused(fit, model, net, data: Data):
    with pytest.raises(ValueError, match="Expected a Trainer with an end"):
        fit(model(net), PruneRegrow(0.2, initial_density=1.0), epochs=-1)


def test_a_sparse_linear_of_the_model_keeps_its_number(fit, model):
    own = SparseLinear(6, 8, density=0.5)
    net = torch.nn.Sequential(own, torch.nn.ReLU(), torch.nn.Linear(8, 3))
    callback = PruneRegrow(0.25, initial_density=1.0, seed=1)
    fit(model(net), callback, epochs=4)
    assert active(callback.masks) == [24, 6]
