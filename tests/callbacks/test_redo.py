"""Dormant units get new inputs and outputs of zero, and nothing else changes."""

import copy

import pytest
import torch
from common import Model
from torch import nn
from watching import Watch, clones, equal_states

from sparse_lightning import PruneRegrow, ReDo


def dormant_net() -> nn.Sequential:
    """Units 1 and 2 of the first hidden layer are silent whatever comes in."""
    network = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3))
    with torch.no_grad():
        network[0].bias[1:3] = -100.0
        network[2].bias.fill_(1.0)
    return network


def still(network: nn.Module) -> Model:
    return Model(network, lambda weights: torch.optim.SGD(weights, lr=0.0, momentum=0.9))


def test_dormant_units_are_recycled_and_the_others_stay(fit):
    module, redo = still(dormant_net()), ReDo(0.0, every_n_steps=2)
    before = clones(module)
    fit(module, redo, epochs=1)
    after = module.state_dict()
    units = torch.tensor([False, True, True, False, False, False, False, False])
    assert redo.recycled == 2
    assert not after["network.2.weight"][:, units].any()
    assert not after["network.0.bias"][units].any()
    assert (after["network.0.weight"][units] != before["network.0.weight"][units]).all()
    assert (after["network.0.weight"][units].abs() <= 6**-0.5).all()
    for name, dimension in (("network.0.weight", 0), ("network.2.weight", 1)):
        kept = (~units).nonzero().squeeze(1)
        assert after[name].index_select(dimension, kept).equal(before[name].index_select(dimension, kept))
    for name in ("network.2.bias", "network.4.weight", "network.4.bias"):
        assert after[name].equal(before[name])


def test_recycling_silent_units_leaves_the_function_as_it_is(fit):
    network, inputs = dormant_net(), torch.randn(9, 6)
    outputs = network(inputs)
    fit(still(network), ReDo(0.0, every_n_steps=2), epochs=1)
    torch.testing.assert_close(network(inputs), outputs)


class ByFunction(nn.Module):
    """A network whose activation is a function, which no hook meets."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.second(torch.relu(self.first(inputs)))


def test_activity_is_what_the_next_layer_receives_whatever_stands_between(fit):
    network = ByFunction()
    with torch.no_grad():
        network.first.bias[1:3] = -100.0
    fit(still(network), redo := ReDo(every_n_steps=2), epochs=1)
    assert redo.recycled == 2
    assert not network.second.weight[:, 1:3].any()
    assert network.second.weight[:, 3:].all()


class Heads(nn.Module):
    """Two heads on one body, of 4 units and of 1: no layers in a row."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.actor, self.critic = nn.Linear(6, 64), nn.Linear(64, 4), nn.Linear(64, 1)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(self.body(inputs))
        return torch.cat([self.actor(hidden), self.critic(hidden)], 1)


def test_layers_that_do_not_follow_each_other_are_no_pair():
    names = list(ReDo._pairs(Heads()))
    assert names == [("body.weight", "actor.weight")]
    assert list(ReDo._pairs(nn.Sequential(nn.ConvTranspose1d(2, 4, 1), nn.Conv1d(4, 4, 1)))) == []
    assert list(ReDo._pairs(nn.Sequential(nn.Conv1d(4, 4, 1), nn.Flatten(), nn.Linear(20, 2)))) == [
        ("0.weight", "2.weight")
    ]


class TwoSteps(Model):
    """Two optimizer steps for each batch."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        for _ in range(2):
            self.optimizers().zero_grad()
            self.manual_backward(super().training_step(batch, batch_idx))
            self.optimizers().step()


def test_steps_are_counted_where_a_batch_has_several(fit):
    stepped = []

    class Noting(ReDo):
        def on_train_batch_end(self, trainer, *args):
            stepped.extend([trainer.global_step] if self._calls is not None else [])
            super().on_train_batch_end(trainer, *args)

    fit(TwoSteps(dormant_net()), Noting(every_n_steps=5), epochs=3)  # 18 steps
    assert stepped == [8, 12, 18]


def test_a_low_share_of_the_mean_activity_is_dormant(fit):
    for threshold, recycled in ((0.001, 0), (0.1, 1)):
        network = dormant_net()
        with torch.no_grad():
            network[0].weight.zero_()
            network[0].bias.copy_(torch.tensor([1.0] * 7 + [0.01]))
        fit(still(network), redo := ReDo(threshold, every_n_steps=2), epochs=1)
        assert redo.recycled == recycled


def test_beside_prune_regrow_inactive_connections_stay_zero(fit):
    module = Model(dormant_net())
    sparse, redo = PruneRegrow(density=0.5, seed=0), ReDo(0.05, every_n_steps=2)
    fit(module, sparse, watch := Watch(sparse), redo, epochs=3)
    assert redo.recycled > 0
    assert watch.moved > 0
    for name, mask in sparse.masks.items():
        assert not module.get_parameter(name).detach()[~mask].any()


def test_a_convolution_passes_its_channels_on_to_a_linear(fit):
    network = nn.Sequential(nn.Unflatten(1, (1, 6)), nn.Conv1d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))
    with torch.no_grad():
        network[1].bias[2] = -100.0
    fit(still(network), redo := ReDo(0.0, every_n_steps=1), epochs=1)
    assert redo.recycled >= 1
    assert not network[4].weight[:, 8:12].any()
    assert network[4].weight[:, :8].all()


def test_momentum_of_recycled_connections_is_forgotten(fit):
    module, redo = Model(dormant_net(), lambda weights: torch.optim.SGD(weights, lr=0.01, momentum=0.9)), ReDo(0.0)
    redo.every_n_steps = 2
    trainer = fit(module, redo, epochs=1)  # recycled after the third and last step
    state = trainer.optimizers[0].state
    assert not state[module.network[2].weight]["momentum_buffer"][:, 1:3].any()
    assert state[module.network[2].weight]["momentum_buffer"].any()


def test_a_resumed_training_gives_the_same_bits(fit, tmp_path):
    network = dormant_net()
    straight, resumed = Model(copy.deepcopy(network)), Model(copy.deepcopy(network))
    fit(straight, first := ReDo(0.1, every_n_steps=2), epochs=3)
    fit(Model(copy.deepcopy(network)), ReDo(0.1, every_n_steps=2), epochs=1).save_checkpoint(tmp_path / "one.ckpt")
    fit(resumed, again := ReDo(0.1, every_n_steps=2), epochs=3, ckpt_path=tmp_path / "one.ckpt")
    assert first.recycled == again.recycled > 0
    equal_states(dict(straight.state_dict()), dict(resumed.state_dict()))


def test_what_it_cannot_do_is_refused(fit, net):
    for wrong in ({"threshold": -1.0}, {"every_n_steps": 0}, {"seed": "one"}):
        with pytest.raises(ValueError, match=f"Expected {next(iter(wrong))}"):
            ReDo(**wrong)
    with pytest.warns(UserWarning, match="ReDo has recycled nothing in 9 steps: the first time is due at step 1000"):
        fit(Model(net), ReDo())
    with pytest.raises(ValueError, match="Expected layout='masked' beside ReDo"):
        fit(Model(net), PruneRegrow(density=0.5, layout="csr"), ReDo())


def test_the_repr_builds_it():
    assert repr(ReDo(0.1, every_n_steps=50)) == "ReDo(threshold=0.1, every_n_steps=50)"
