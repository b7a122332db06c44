"""Top-KAST: which weights are active, which are trained aside, and what they are when they come back."""

import copy

import pytest
import torch
from common import Model
from lightning.pytorch import Callback
from torch import nn
from watching import Keep, active, equal_states

from sparse_lightning import TopKAST

PLAIN = torch.optim.SGD


class ByHand(Callback):
    """Trains a copy by the equations of the paper: plain SGD on the largest and the next largest weights."""

    def __init__(self, network: nn.Sequential, places: list[int], sparse: TopKAST, decay: float) -> None:
        self.network = copy.deepcopy(network)
        self.weights = {f"network.{place}.weight": self.network[place].weight.detach().clone() for place in places}
        self.sparse, self.decay, self.steps, self.compared = sparse, decay, 0, 0
        self.choose()

    def choose(self) -> None:
        self.forward = {name: largest(weight, 0.25) for name, weight in self.weights.items()}
        self.backward = {name: largest(weight, 0.5) for name, weight in self.weights.items()}

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if self.steps and self.steps % 2 == 0:
            self.choose()
        parameters = dict(pl_module.named_parameters())
        for name, weight in self.weights.items():
            assert self.sparse.masks[name].equal(self.forward[name])
            torch.testing.assert_close(parameters[name], weight * self.forward[name])
            self.compared += 1

    def on_train_batch_end(self, trainer, pl_module, *_):
        for name, weight in self.weights.items():
            gradient = pl_module.get_parameter(name).grad
            decay = torch.where(self.forward[name], self.decay, self.decay / 0.25)
            weight -= 0.1 * (gradient + decay * weight) * self.backward[name]
        self.steps += 1


def largest(weight: torch.Tensor, share: float) -> torch.Tensor:
    kept = torch.zeros_like(weight, dtype=torch.bool).flatten()
    kept[weight.abs().flatten().topk(round(share * weight.numel())).indices] = True
    return kept.view_as(weight)


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))


@pytest.mark.parametrize("decay", [0.0, 0.01])
def test_training_is_that_of_the_equations(fit, decay):
    torch.manual_seed(2)
    module = Model(network(), lambda weights: PLAIN(weights, lr=0.1, weight_decay=decay)).double()
    sparse = TopKAST(density=0.25, every_n_steps=2, seed=0)
    by_hand = ByHand(module.network, [0, 2, 4], sparse, decay)
    fit(module, sparse, by_hand, epochs=4, precision="64-true")
    assert by_hand.compared == 36
    assert sparse.rewirings == 5


def test_connections_come_and_go_and_their_number_stays(fit, net):
    module, sparse = Model(net, lambda weights: PLAIN(weights, lr=0.5)), TopKAST(0.25, every_n_steps=1, seed=0)
    before = None
    moved = 0

    class Look(Callback):
        def on_train_batch_start(self, *_):
            nonlocal before, moved
            now = torch.cat([mask.flatten() for mask in sparse.masks.values()])
            assert int(now.sum()) == 34
            moved += 0 if before is None else int((now & ~before).sum())
            before = now.clone()

    fit(module, sparse, Look(), epochs=4)
    assert active(sparse.masks) == [12, 16, 6]
    assert moved > 0
    for name, mask in sparse.masks.items():
        assert not module.get_parameter(name).detach()[~mask].any()


@pytest.mark.parametrize("step", [1, 5, 6])
def test_a_resumed_training_gives_the_same_bits(fit, net, tmp_path, step):
    def build() -> Model:
        return Model(copy.deepcopy(net), lambda weights: PLAIN(weights, lr=0.5, momentum=0.9))

    straight, resumed = build(), build()
    options = {"density": 0.25, "every_n_steps": 2, "seed": 0}
    fit(straight, TopKAST(**options), Keep(tmp_path), epochs=4)
    fit(resumed, TopKAST(**options), epochs=4, ckpt_path=tmp_path / f"{step}.ckpt")
    equal_states(dict(straight.state_dict()), dict(resumed.state_dict()))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"backward_density": 0.05}, r"Expected backward_density in \[0.1, 1\] or None, got 0.05"),
        ({"backward_density": "all"}, r"Expected backward_density in \[0.1, 1\] or None, got 'all'"),
        ({"layout": "csr"}, "Expected layout='masked' to keep weights aside, got 'csr'"),
        ({"structure": "2:4", "density": 0.5}, "Expected structure=None to grow the largest weights, got '2:4'"),
    ],
)
def test_what_it_cannot_do_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        TopKAST(**wrong)


def test_another_optimizer_is_refused_by_name(fit, net):
    with pytest.raises(ValueError, match="Expected SGD for weights that are trained aside, got 'Adam'"):
        fit(Model(net, torch.optim.Adam), TopKAST(0.25))
