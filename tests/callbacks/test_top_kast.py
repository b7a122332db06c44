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


class Scheduled(Model):
    """Plain SGD whose rate falls at each step, by hand or by Lightning."""

    def __init__(self, network: nn.Sequential, manual: bool) -> None:
        super().__init__(network)
        self.automatic_optimization = not manual

    def configure_optimizers(self):
        optimizer = PLAIN(self.parameters(), lr=0.1)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        if self.automatic_optimization:
            return loss
        self.optimizers().zero_grad()
        self.manual_backward(loss)
        self.optimizers().step()
        self.optimizers().zero_grad()
        self.lr_schedulers().step()
        return None


@pytest.mark.parametrize("manual", [False, True])
def test_what_is_aside_takes_the_step_at_the_rate_of_the_step(fit, manual):
    torch.manual_seed(2)
    module, sparse = Scheduled(network(), manual), TopKAST(density=0.25, every_n_steps=100, stop=None, seed=0)
    rates, gradients = [], []

    class Look(Callback):
        def on_train_start(self, trainer, pl_module):
            self.start = sparse._aside["network.2.weight"].clone()

            def note(optimizer, *_):
                rates.append(optimizer.param_groups[0]["lr"])
                gradients.append(pl_module.network[2].weight.grad.clone())

            trainer.optimizers[0].register_step_post_hook(note)

    look = Look()
    with pytest.warns(UserWarning, match="will not rewire"):
        fit(module, sparse, look, epochs=1)
    assert rates == [0.1, 0.05, 0.025]
    expected = look.start.clone()
    for rate, gradient in zip(rates, gradients, strict=True):
        expected -= rate * gradient * sparse._trained["network.2.weight"]
    torch.testing.assert_close(sparse._aside["network.2.weight"], expected)


def test_a_thawed_layer_is_taken_in_and_a_frozen_one_left_alone(fit, net):
    module, sparse = Model(net, lambda weights: PLAIN(weights, lr=0.1)), TopKAST(0.25, every_n_steps=2, seed=0)
    module.network[0].weight.requires_grad_(False)

    class Thaw(Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            pl_module.network[0].weight.requires_grad_(trainer.current_epoch == 1)
            self.frozen = pl_module.network[0].weight.detach().clone()

    fit(module, sparse, thaw := Thaw(), epochs=4)
    assert sum(active(sparse.masks)) == 34
    assert module.network[0].weight.equal(thaw.frozen)


def test_an_optimizer_of_other_parameters_may_be_any(fit, net):
    class Two(Model):
        def configure_optimizers(self):
            biases = [each for each in self.parameters() if each.dim() == 1]
            weights = [each for each in self.parameters() if each.dim() > 1]
            return [PLAIN(weights, lr=0.1), torch.optim.Adam(biases)]

        def __init__(self, network: nn.Module) -> None:
            super().__init__(network)
            self.automatic_optimization = False

        def training_step(self, batch, batch_idx):
            for optimizer in self.optimizers():
                optimizer.zero_grad()
            self.manual_backward(super().training_step(batch, batch_idx))
            for optimizer in self.optimizers():
                optimizer.step()

    fit(Two(net), TopKAST(0.25, every_n_steps=2), epochs=2)
