"""Deep Rewiring: signs, the pull to zero, and the random walk."""

import copy

import pytest
import torch
from common import Model
from lightning.pytorch import Callback
from torch import nn
from watching import Keep, Watch, active, equal_states, view

from sparse_lightning import DeepR


def test_a_weight_that_has_crossed_zero_is_pruned():
    sparse, mask = DeepR(0.5), torch.tensor([[True, True, True, True, False, False, False, False]])
    before = torch.tensor([[1.0, -2.0, 3.0, -4.0, 0.0, 0.0, 0.0, 0.0]])
    assert not sparse.prune_mask(view(before, mask)).any()  # they have the signs that they begin with
    after = torch.tensor([[-0.1, -2.0, 3.0, 0.2, 0.0, 0.0, 0.0, 0.0]])
    assert sparse.prune_mask(view(after, mask)).tolist() == [True, False, False, True]


def test_a_connection_without_a_gradient_is_pruned_and_no_more_than_can_grow():
    sparse = DeepR(0.5)
    weight, mask = torch.tensor([[0.0, 0.0, 1.0, 0.0]]), torch.tensor([[True, True, True, False]])
    pruned = sparse.prune_mask(view(weight, mask))
    assert int(pruned.sum()) == 1
    assert not pruned[2]


def test_grown_connections_have_random_signs():
    pruned = 0
    for seed in range(200):
        sparse = DeepR(0.5)
        first, second = torch.tensor([[True, False, False]]), torch.tensor([[True, True, False]])
        sparse.prune_mask(view(torch.tensor([[1.0, 0.0, 0.0]]), first))
        pruned += int(sparse.prune_mask(view(torch.tensor([[1.0, 0.5, 0.0]]), second, seed=seed))[1])
    assert 70 <= pruned <= 130


class Moves(Callback):
    """What each step adds to the weights, where nothing else does."""

    def __init__(self) -> None:
        self.before: list[torch.Tensor] = []
        self.after: list[torch.Tensor] = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.before.append(pl_module.network[0].weight.detach().clone())

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.after.append(pl_module.network[0].weight.detach().clone())


class Idle(Model):
    """A loss whose gradient is zero."""

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) * 0


def test_the_pull_goes_to_zero_by_the_norm_and_the_noise_has_the_temperature(fit):
    for l1, temperature in ((0.5, 0.0), (0.0, 0.02)):
        module = Idle(nn.Sequential(nn.Linear(6, 400)), lambda weights: torch.optim.SGD(weights, lr=0.01))
        moves, sparse = Moves(), DeepR(0.5, l1=l1, temperature=temperature, seed=0)
        fit(module, sparse, moves, epochs=1)
        before, after = moves.before[0], moves.after[0]
        on = before != 0
        if l1:
            torch.testing.assert_close((after - before)[on], -0.01 * l1 * before.sign()[on])
        else:
            assert abs(float((after - before)[on].std()) / (2 * 0.01 * temperature) ** 0.5 - 1) < 0.1
        assert not after[~on].any()


def test_it_rewires_at_every_step_and_keeps_the_number(fit, net):
    sparse = DeepR(0.25, l1=0.05, seed=0)
    fit(Model(net), sparse, watch := Watch(sparse), epochs=3)
    assert sparse.rewirings == 8
    assert watch.moved > 8
    assert active(sparse.masks) == [12, 16, 6]


@pytest.mark.parametrize("layout", ["masked", "csr"])
@pytest.mark.parametrize("step", [1, 5])
def test_a_resumed_training_gives_the_same_bits(fit, net, tmp_path, step, layout):
    options = {"density": 0.25, "l1": 0.05, "temperature": 1e-5, "seed": 0, "layout": layout}
    straight, resumed = Model(copy.deepcopy(net)), Model(copy.deepcopy(net))
    fit(straight, DeepR(**options), Keep(tmp_path), epochs=3)
    fit(resumed, DeepR(**options), epochs=3, ckpt_path=tmp_path / f"{step}.ckpt")
    equal_states(dict(straight.state_dict()), dict(resumed.state_dict()))


@pytest.mark.parametrize("name", ["l1", "temperature"])
def test_a_negative_strength_is_refused(name):
    with pytest.raises(ValueError, match=f"Expected {name} of at least 0, got -1"):
        DeepR(**{name: -1})
