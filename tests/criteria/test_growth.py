from functools import partial

import pytest
import torch
from torch import nn
from watching import view

from sparse_lightning.criteria.growth import (
    GROWTH,
    CannistraciHebbGrowth,
    GradientGrowth,
    HebbianGrowth,
    InverseHebbianGrowth,
    MomentumGrowth,
    RandomGrowth,
    SoftCannistraciHebbGrowth,
)
from sparse_lightning.functional.grow import exchange, highest
from sparse_lightning.functional.masks import derived_generator, positions_of


def watched(growth: HebbianGrowth, layer: nn.Linear, inputs: list[list[float]]) -> None:
    """Show a layer to the statistics of a growth and run it on inputs."""
    for statistic in growth.statistics.values():
        statistic.attach(layer, ["weight"])
    layer(torch.tensor(inputs))
    for statistic in growth.statistics.values():
        statistic.count()


def test_random_growth_follows_the_generator_alone():
    layers = view(torch.zeros(9, 9), name="a"), view(torch.ones(9, 9) * 0, name="b"), view(torch.zeros(9, 9), seed=1)
    grown = [highest(RandomGrowth().scores(layer), 9, layer.positions, layer.generator) for layer in layers]
    assert grown[0].equal(grown[1])
    assert not grown[0].equal(grown[2])


def test_random_growth_reaches_every_inactive_connection_alike():
    mask = torch.tensor([[True, True, False, False], [False, False, False, False]])
    times = torch.zeros(8)
    for number in range(600):
        layer = view(torch.zeros(2, 4), mask, seed=number)
        times[highest(RandomGrowth().scores(layer), 2, layer.positions, layer.generator)] += 1
    assert times[mask.flatten()].tolist() == [0, 0]
    assert (times[~mask.flatten()] - 200).abs().max() < 5 * (600 / 3 * 2 / 3) ** 0.5


def test_hebbian_scores_are_coactivation_counts():
    layer = nn.Linear(2, 2, bias=False)
    layer.weight.data = torch.tensor([[1.0, 0.0], [0.0, -1.0]])
    growth = HebbianGrowth()
    watched(growth, layer, [[1.0, 2.0], [3.0, -1.0], [-1.0, -2.0]])  # outputs: (+, -), (+, +), (-, +)
    scores = growth.scores(view(layer.weight))
    assert scores.tolist() == [[2, 1], [1, 0]]


def test_hebbian_growth_connects_the_units_that_fire_together():
    layer = nn.Linear(3, 2, bias=False)
    layer.weight.data = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    growth, mask = HebbianGrowth(), layer.weight != 0
    watched(growth, layer, [[1.0, 0.0, 1.0], [1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])  # input 2 fires with output 0
    scores = growth.scores(view(layer.weight, mask))
    dropped, grown = exchange(positions_of(mask), torch.tensor([False, True]), scores, derived_generator(0))
    assert (dropped.tolist(), grown.tolist()) == ([4], [2])


def test_hebbian_growth_refuses_to_guess_for_a_layer_that_never_ran():
    layer, growth = nn.Linear(2, 2), HebbianGrowth()
    growth.coactivation.attach(layer, ["weight"])
    with pytest.raises(RuntimeError, match="Expected the layer of 'weight' to have been called in training"):
        growth.scores(view(layer.weight))


def test_each_growth_has_statistics_of_its_own():
    first, second = HebbianGrowth(), HebbianGrowth(count_validation=True)
    assert first.statistics["coactivation"] is first.coactivation
    assert first.coactivation is not second.coactivation
    assert [each.coactivation.counting.count_validation for each in (first, second)] == [False, True]
    assert not RandomGrowth().statistics


def test_growths_are_known_by_name():
    assert isinstance(GROWTH["random"](), RandomGrowth)
    assert isinstance(GROWTH["hebbian"](), HebbianGrowth)


def test_inverse_hebbian_scores_are_the_negative_counts():
    layer = nn.Linear(2, 2, bias=False)
    layer.weight.data = torch.tensor([[1.0, 0.0], [0.0, -1.0]])
    growth = InverseHebbianGrowth()
    watched(growth, layer, [[1.0, 2.0], [3.0, -1.0], [-1.0, -2.0]])
    scores = growth.scores(view(layer.weight))
    assert scores.tolist() == [[-2, -1], [-1, 0]]


def test_gradient_growth_takes_the_connection_that_rigl_would():
    # The loss (w x - y)^2 / 2 has gradient (w x - y) x: at w = (2, 0, 0, 0), x = (1, 2, 3, -1), y = 4 that is
    # -2 x, of magnitudes 2, 4, 6, 2, where the first is active.
    layer = nn.Linear(4, 1, bias=False)
    layer.weight.data = torch.tensor([[2.0, 0.0, 0.0, 0.0]])
    ((layer(torch.tensor([1.0, 2.0, 3.0, -1.0])) - 4) ** 2 / 2).sum().backward()
    growth, mask = GradientGrowth(), layer.weight != 0
    scores = growth.scores(view(layer.weight, mask))
    assert scores.tolist() == [[2.0, 4.0, 6.0, 2.0]]
    dropped, grown = exchange(positions_of(mask), torch.tensor([True]), scores, derived_generator(0))
    assert (dropped.tolist(), grown.tolist()) == ([0], [2])


def test_gradient_growth_without_a_gradient_is_refused():
    layer = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="Expected a gradient to grow by, got none"):
        GradientGrowth().scores(view(layer.weight))


@pytest.mark.parametrize("optimizer", [partial(torch.optim.SGD, lr=0.1, momentum=0.9), torch.optim.Adam])
def test_momentum_scores_are_the_running_mean_of_the_gradient(optimizer):
    layer = nn.Linear(2, 1, bias=False)
    trained = optimizer(layer.parameters())
    growth = MomentumGrowth()
    growth.statistics["momentum"].attach(layer, ["weight"], [trained])
    mean = torch.zeros(1, 2)
    keep, take = (0.9, 1.0) if isinstance(trained, torch.optim.SGD) else (0.9, 0.1)
    for gradient in ([[1.0, -2.0]], [[-3.0, 4.0]], [[0.5, 8.0]]):
        layer.weight.grad = torch.tensor(gradient)
        trained.step()
        mean = keep * mean + take * torch.tensor(gradient)
    scores = growth.scores(view(layer.weight))
    torch.testing.assert_close(scores, mean.abs())


@pytest.mark.parametrize("optimizer", [partial(torch.optim.SGD, lr=0.1), torch.optim.Adagrad])
def test_an_optimizer_without_momentum_is_refused_before_training(optimizer):
    layer = nn.Linear(2, 1)
    with pytest.raises(ValueError, match="Expected an optimizer with momentum for 'weight' to grow by"):
        MomentumGrowth().statistics["momentum"].attach(layer, ["weight"], [optimizer(layer.parameters())])


def test_weights_without_momentum_are_unreadable_and_left_to_the_callback():
    layer, other = nn.Linear(2, 1), nn.Linear(2, 1)
    module, growth = nn.ModuleDict({"trained": layer, "other": other}), MomentumGrowth()
    optimizer = torch.optim.Adam(module.parameters())
    names = ["trained.weight", "other.weight"]
    growth.statistics["momentum"].attach(module, names, [optimizer])
    assert growth.unreadable(names) == names
    layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    assert growth.unreadable(names) == ["other.weight"]


def test_momentum_before_any_step_is_refused():
    layer = nn.Linear(2, 1)
    growth = MomentumGrowth()
    growth.statistics["momentum"].attach(layer, ["weight"], [torch.optim.Adam(layer.parameters())])
    with pytest.raises(ValueError, match="Expected momentum to grow by, got none"):
        growth.scores(view(layer.weight))


@pytest.mark.parametrize("name", GROWTH)
def test_a_criterion_builds_itself_again(name):
    growth = GROWTH[name]()
    again = eval(repr(growth), {type(growth).__name__: type(growth)})
    assert repr(again) == repr(growth) == f"{type(growth).__name__}()"
    assert again.statistics == growth.statistics


def test_the_options_of_a_hebbian_criterion_are_shown():
    growth = HebbianGrowth(count_validation=True, read_at={"fc": "act"})
    assert repr(growth) == "HebbianGrowth(count_validation=True, read_at={'fc': 'act'})"


def test_only_gradient_growth_waits_for_a_gradient():
    assert [name for name, kind in GROWTH.items() if kind.reads_gradient] == ["gradient"]


def test_cannistraci_hebb_reads_what_the_pruning_left():
    weight = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    layer = view(weight)
    growth = CannistraciHebbGrowth()
    assert exchange(layer.positions, layer.pruned, growth.scores(layer), layer.generator, count=5)[1].tolist() == [1]
    layer.pruned = layer.values * 0 == 1
    layer.pruned[2] = True  # the link of output 1 and input 1, without which there is no path
    assert not growth.scores(layer)[~layer.kept].any()


def test_the_soft_rule_grows_the_likely_more_often_and_others_too():
    weight = torch.zeros(4, 4)
    weight[0, 0] = weight[1, 0] = weight[1, 1] = weight[2, 1] = weight[2, 2] = weight[0, 3] = 1.0
    grown = set()
    for seed in range(40):
        layer = view(weight, seed=seed)
        scores = SoftCannistraciHebbGrowth("ch3_l3p").scores(layer)
        grown.add(int(highest(scores, 1, layer.positions, layer.generator)))
    certain = {int(highest(CannistraciHebbGrowth().scores(layer), 1, layer.positions, layer.generator))}
    assert len(grown) > 1
    assert certain <= grown
    absent = CannistraciHebbGrowth().scores(layer).flatten()
    assert all(absent[position] > 0 for position in grown)  # there are connections with a score


def test_cannistraci_hebb_wants_matrices():
    shapes = {"conv.weight": torch.Size((4, 4, 3, 3)), "fc.weight": torch.Size((4, 4))}
    assert CannistraciHebbGrowth().unsuitable(shapes) == {"conv.weight": "is no matrix (out, in)"}
    with pytest.raises(ValueError, match="ch3_l3p"):
        CannistraciHebbGrowth("ch3_l3")
    with pytest.raises(ValueError, match="Expected power above 0, got 0"):
        SoftCannistraciHebbGrowth(power=0)
    assert repr(SoftCannistraciHebbGrowth(power=2.0)) == "SoftCannistraciHebbGrowth(power=2.0)"
