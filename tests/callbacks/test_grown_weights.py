"""What grown connections start with, in both layouts and in resumed runs."""

import copy

import pytest
import torch
from torch import nn
from watching import equal_states

from sparse_lightning import PruneRegrow, SparseLinear
from sparse_lightning.functional.masks import mask_of


class Swap(PruneRegrow):
    """Prunes the first active connection of each unit, and grows the first inactive one."""

    def prune_mask(self, layer):
        first = layer.mask.int().cumsum(1) == 1
        return layer.mask & first

    def growth_scores(self, layer):
        return -torch.arange(float(layer.mask[0].numel())).view(layer.mask[0].shape).expand(layer.mask.shape)


@pytest.fixture
def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def halves(way: str, **options) -> tuple[nn.Linear, PruneRegrow]:
    """A layer of two units and four inputs, of which each unit has the last two, with a callback."""
    layer = nn.Linear(4, 2)
    layer.weight.data = torch.arange(1.0, 9.0).view(2, 4)
    mask = torch.tensor([[False, False, True, True]]).expand(2, 4).clone()
    callback = Swap(0.5, grown_weights=way, initial={"0.weight": mask}, **options)
    callback.sparsify(nn.Sequential(layer))
    return layer, callback


def test_zero_is_the_default_and_exact():
    layer, callback = halves("zero")
    callback.rewire()
    assert layer.weight.tolist() == [[0, 0, 0, 4], [0, 0, 0, 8]]
    assert callback.masks["0.weight"].tolist() == [[True, False, False, True]] * 2
    assert PruneRegrow().grown_weights == "zero"


def test_the_last_weight_returns():
    layer, callback = halves("last")
    callback.rewire()
    assert layer.weight.tolist() == [[0, 0, 0, 4], [0, 0, 0, 8]]  # never active before
    callback.rewire()  # the first inactive connections are the second, never active either
    assert layer.weight.tolist() == [[0, 0, 0, 4], [0, 0, 0, 8]]
    with torch.no_grad():
        layer.weight[:, 1] = torch.tensor([-1.0, -2.0])
    callback.rewire()  # the second go, the first return with their zeros
    assert layer.weight.tolist() == [[0, 0, 0, 4], [0, 0, 0, 8]]
    callback.rewire()
    assert layer.weight.tolist() == [[0, -1, 0, 4], [0, -2, 0, 8]]


@pytest.mark.parametrize(("initialization", "inputs"), [("dense", 4), ("fan_in", 2)])
def test_random_weights_are_those_of_a_unit_with_so_many_inputs(initialization, inputs):
    found = []
    for seed in range(40):
        layer, callback = halves("random", initialization=initialization, seed=seed)
        callback.rewire()
        assert layer.weight[:, 3].tolist() == [4, 8]
        found += layer.weight[:, 0].tolist()
    largest = inputs**-0.5
    assert 0.9 * largest < max(found) <= largest
    assert -largest <= min(found) < -0.9 * largest
    assert len(set(found)) == 80


@pytest.mark.parametrize("way", ["random", "last"])
def test_connections_alone_start_with_the_weights_of_masked_training(fit, model, net, way):
    def trained(layout, grown_weights):
        module = model(copy.deepcopy(net))
        fit(module, PruneRegrow(0.5, prune_fraction=0.6, grown_weights=grown_weights, layout=layout, seed=0), epochs=5)
        layers = [each for each in module.modules() if isinstance(each, nn.Linear | SparseLinear)]
        return torch.cat([each.weight.to_dense().detach().flatten() for each in layers])

    masked = trained("masked", way)
    assert masked.allclose(trained("csr", way), atol=1e-6)
    assert not masked.allclose(trained("masked", "zero"), atol=1e-6)


@pytest.mark.parametrize("layout", ["masked", "csr"])
@pytest.mark.parametrize("way", ["random", "last"])
def test_a_resumed_training_gives_the_same_bits(fit, model, net, tmp_path, way, layout):
    def trained(epochs, **options):
        module = model(copy.deepcopy(net))
        callback = PruneRegrow(0.5, prune_fraction=0.6, grown_weights=way, layout=layout, seed=0)
        return module, callback, fit(module, callback, epochs=epochs, **options)

    straight, callback, _ = trained(6)
    trained(3)[2].save_checkpoint(tmp_path / "3.ckpt")
    resumed, other, _ = trained(6, ckpt_path=tmp_path / "3.ckpt")
    equal_states(resumed.state_dict(), straight.state_dict())
    equal_states(other.state_dict(), callback.state_dict())
    assert bool(callback.state_dict()["grown_weights"]) == (way == "last")


def test_a_weight_in_another_memory_format_takes_them_at_the_same_connections():
    convolution = nn.Conv2d(4, 4, 3).to(memory_format=torch.channels_last)
    mask = mask_of(torch.arange(0, 144, 2), (4, 4, 3, 3))
    callback = PruneRegrow(0.5, grown_weights="random", initial={"0.weight": mask}, seed=0)
    callback.sparsify(nn.Sequential(convolution))
    before = convolution.weight.detach().clone()
    callback.rewire()
    kept, now = mask & callback.masks["0.weight"], convolution.weight.detach()
    assert now[kept].equal(before[kept])
    assert bool(now[callback.masks["0.weight"]].all())
    assert not now[~callback.masks["0.weight"]].any()


def test_another_way_is_refused():
    with pytest.raises(ValueError, match="grown_weights to be zero, random or last, got 'ones'"):
        PruneRegrow(grown_weights="ones")
