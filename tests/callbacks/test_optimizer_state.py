"""What optimizers remember of connections that were pruned or grown."""

from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from torch import Tensor, nn

from sparse_lightning import PruneRegrow
from sparse_lightning.callbacks.optimizer_state import optimizers_of, reset_state, trained_by

SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=1e-4)
Adam = partial(torch.optim.Adam, lr=0.01)
AdamW = partial(torch.optim.AdamW, lr=0.01, amsgrad=True)


def moments(optimizer: torch.optim.Optimizer, weight: Tensor) -> list[Tensor]:
    state = optimizer.state[weight].values()
    return [value for value in state if isinstance(value, Tensor) and value.shape == weight.shape]


def stepped(make: Any) -> tuple[nn.Linear, torch.optim.Optimizer]:
    layer = nn.Linear(3, 2, bias=False)
    optimizer = make(layer.parameters())
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return layer, optimizer


@pytest.mark.parametrize(("make", "count"), [(SGD, 1), (Adam, 2), (AdamW, 3), (torch.optim.Adagrad, 1)])
def test_the_state_of_what_changed_is_zeroed_and_the_rest_kept(make, count):
    layer, optimizer = stepped(make)
    changed = torch.tensor([[True, False, False], [False, True, True]])
    before = [value.clone() for value in moments(optimizer, layer.weight)]
    steps = optimizer.state[layer.weight].get("step")
    reset_state([optimizer], layer.weight, changed)
    assert len(before) == count
    for old, new in zip(before, moments(optimizer, layer.weight), strict=True):
        assert new.equal(old.masked_fill(changed, 0))
        assert old[changed].all()
    assert optimizer.state[layer.weight].get("step") == steps


def test_an_optimizer_that_knows_nothing_of_a_weight_is_left_alone():
    _, optimizer = stepped(Adam)
    reset_state([optimizer], other := nn.Parameter(torch.ones(2, 3)), torch.ones(2, 3).bool())
    assert other not in optimizer.state


def test_optimizers_are_those_of_the_trainer_and_of_the_module_each_once():
    weights = [nn.Parameter(torch.ones(1)) for _ in range(3)]
    known, kept, elsewhere = (SGD([weight]) for weight in weights)
    module = SimpleNamespace(own=kept, same=known, other=3)
    assert optimizers_of([known], module) == [known, kept]
    assert trained_by([known, kept]) == {id(weight) for weight in weights[:2]}
    assert elsewhere not in optimizers_of([known], module)


class Grown(Callback):
    """Looks, before the first batch after each rewiring, at how the connections just grown begin."""

    def __init__(self, callback: PruneRegrow) -> None:
        self.callback, self.looked = callback, 0
        self.before: dict[str, Tensor] = {}

    def on_train_batch_start(self, trainer: Any, pl_module: nn.Module, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0 and self.before:
            for name, mask in self.callback.masks.items():
                new, weight = mask & ~self.before[name], pl_module.get_parameter(name)
                assert new.any()
                for tensor in (weight.detach(), *moments(trainer.optimizers[0], weight)):
                    assert (tensor[new] == 0).all()
                    assert tensor[mask & ~new].any()
                self.looked += 1

    def on_train_epoch_end(self, *_: object) -> None:
        self.before = {name: mask.clone() for name, mask in self.callback.masks.items()}


@pytest.mark.parametrize("optimizer", [SGD, Adam, AdamW])
def test_grown_connections_start_at_zero_with_no_memory_in_the_optimizer(fit, model, net, optimizer):
    callback = PruneRegrow(density=0.5)
    fit(model(net, optimizer), callback, grown := Grown(callback))
    assert grown.looked == 2 * 3


@pytest.mark.parametrize("optimizer", [SGD, AdamW])
@pytest.mark.parametrize("choice", ["reset", "keep"])
def test_the_optimizer_forgets_what_changed_or_keeps_it(fit, model, net, optimizer, choice):
    class Around(Callback):
        """Compares the optimizer's state before and after each rewiring."""

        looked = 0

        def remember(self, trainer: Any, pl_module: nn.Module) -> None:
            self.masks = {name: mask.clone() for name, mask in callback.masks.items()}
            self.moments = {
                name: [value.clone() for value in moments(trainer.optimizers[0], pl_module.get_parameter(name))]
                for name in callback.masks
            }

        def on_train_epoch_end(self, trainer: Any, pl_module: nn.Module) -> None:
            self.remember(trainer, pl_module)

        def on_train_batch_start(self, trainer: Any, pl_module: nn.Module, batch: Any, batch_idx: int) -> None:
            for name, mask in callback.masks.items() if batch_idx == 0 and trainer.current_epoch else ():
                changed = self.masks[name] ^ mask
                assert changed.any()
                after = moments(trainer.optimizers[0], pl_module.get_parameter(name))
                for one, other in zip(self.moments[name], after, strict=True):
                    assert one[~changed].equal(other[~changed])
                    assert one[changed].any()
                    assert other[changed].equal(one[changed]) if choice == "keep" else not other[changed].any()
                    self.looked += 1

    callback = PruneRegrow(density=0.5, optimizer_state=choice)
    fit(model(net, optimizer), callback, around := Around())
    assert around.looked == 2 * 3 * (1 if optimizer is SGD else 3)
