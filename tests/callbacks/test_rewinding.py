"""Lottery tickets: the weights of the start return at each rewiring, and optimizers begin anew."""

import copy
from itertools import pairwise
from typing import Any

import pytest
import torch
from common import SGD, Model
from lightning.pytorch import Callback
from watching import Keep, active, clones, equal_states

from sparse_lightning import LotteryTicket, PruneRegrow


class Steps(Callback):
    """Keeps the model's state before each batch, as the callbacks before it leave it, and the optimizer's."""

    def __init__(self) -> None:
        self.states: list[dict[str, Any]] = []
        self.optimizers: list[int] = []
        self.counts: list[int] = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.states.append(clones(pl_module))
        self.optimizers.append(len(trainer.optimizers[0].state))
        self.counts.append(sum(active(trainer.callbacks[0].masks)))


@pytest.mark.parametrize(("to", "start"), [(0, 0), (1, 2)])
def test_kept_weights_return_to_what_they_were(fit, net, to, start):
    module, steps = Model(net), Steps()
    callback = LotteryTicket(density=0.25, rewind_to=to, start=start, seed=0)
    fit(module, callback, steps, epochs=5)
    remembered = steps.states[3 * to]
    assert callback.rewirings == (4 if to == 0 else 3)
    for epoch in range(max(start, 1), 5):
        state = steps.states[3 * epoch]
        assert steps.optimizers[3 * epoch] == 0
        assert steps.optimizers[3 * epoch + 1] > 0
        for name, tensor in state.items():
            weight = name in callback.masks
            kept = tensor != 0 if weight else torch.ones_like(tensor, dtype=torch.bool)
            assert tensor[kept].equal(remembered[name][kept])
    assert sum(active(callback.masks)) == 34


def test_each_round_prunes_the_same_share(fit, net):
    fit(Model(net), LotteryTicket(density=0.0625, seed=0), steps := Steps(), epochs=5)
    counts = steps.counts[::3]
    assert counts[0] == 136
    assert all(abs(after / before - 0.5) < 0.03 for before, after in pairwise(counts))


@pytest.mark.parametrize("step", [2, 3, 8])
@pytest.mark.parametrize("to", [0, 1])
def test_a_resumed_training_rewinds_to_the_same_weights(fit, net, tmp_path, to, step):
    options = {"density": 0.25, "rewind_to": to, "start": 2, "seed": 0}
    straight, resumed = Model(copy.deepcopy(net), SGD), Model(copy.deepcopy(net), SGD)
    fit(straight, LotteryTicket(**options), Keep(tmp_path), epochs=5)
    fit(resumed, LotteryTicket(**options), epochs=5, ckpt_path=tmp_path / f"{step}.ckpt")
    equal_states(dict(straight.state_dict()), dict(resumed.state_dict()))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"rewind_to": -1}, "Expected rewind_to to be an integer of at least 0, got -1"),
        ({"rewind_to": 3, "start": 3}, "Expected rewind_to before the first rewiring, start=3, got 3"),
        ({"layout": "csr"}, "Expected layout='masked' to rewind, got 'csr'"),
    ],
)
def test_what_cannot_be_rewound_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        LotteryTicket(**wrong)


def test_the_repr_has_the_moment():
    assert repr(LotteryTicket(rewind_to=2, start=3)) == "LotteryTicket(start=3, rewind_to=2)"
    assert isinstance(copy.deepcopy(LotteryTicket()), LotteryTicket)


def test_weights_are_rewound_when_the_rewiring_is_done_that_waited_for_a_gradient(fit, net):
    module, steps = Model(net), Steps()
    callback = LotteryTicket(density=0.25, pruning="magnitude_and_gradient", seed=0)
    fit(module, callback, steps, epochs=3)
    for epoch in (1, 2):
        state = steps.states[3 * epoch + 1]  # the rewiring is in the step before
        for name in callback.masks:
            kept = state[name] != 0
            assert state[name][kept].equal(steps.states[0][name][kept])


def test_the_weights_of_another_callback_stay_on_their_masks(fit, net):
    module = Model(net)
    other = PruneRegrow(density=0.5, include="network.0", seed=0)
    ticket = LotteryTicket(density=0.25, include=["network.3", "network.5"], seed=0)

    class Look(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            weight = pl_module.network[0].weight.detach()
            assert not weight[~other.masks["network.0.weight"]].any()

    fit(module, other, ticket, Look(), epochs=4)
    assert other.rewirings == ticket.rewirings == 3
