"""First connections chosen by the first batch, and drawn as a receptive field."""

import copy

import pytest
import torch
from common import Model
from lightning.pytorch import Callback
from torch import nn
from watching import Keep, Watch, active, clones, equal_states

from sparse_lightning import PruneRegrow
from sparse_lightning.functional.masks import derived_generator, receptive_field
from sparse_lightning.functional.saliency import grasp, snip, synflow

WAYS = ("snip", "grasp", "synflow")


class Forward(Model):
    """A model with a forward pass of its own, which SynFlow needs."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.network(inputs)


# By hand.


def network() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    first = torch.tensor([[1.0, -2.0], [0.0, 3.0]], requires_grad=True)
    second = torch.tensor([[2.0, -1.0]], requires_grad=True)
    return first, second, torch.tensor([[1.0, 2.0]])


def test_snip_is_weight_times_gradient():
    first, second, inputs = network()
    scores = snip((inputs @ first.T @ second.T).sum(), [first, second])  # hidden units: -3 and 6
    assert scores[0].tolist() == [[2.0, 8.0], [0.0, 6.0]]  # |w| |x| |v|
    assert scores[1].tolist() == [[6.0, 6.0]]


def test_grasp_is_weight_times_hessian_times_gradient():
    weight = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64, requires_grad=True)

    def loss(w: torch.Tensor) -> torch.Tensor:
        return (w[0] * w[1]) ** 2 + w[2] ** 3 + w[0]

    (scores,) = grasp(loss(weight), [weight])
    hessian = torch.autograd.functional.hessian(loss, weight.detach())
    (gradient,) = torch.autograd.grad(loss(weight), weight)
    torch.testing.assert_close(scores, weight.detach() * (hessian @ gradient))


def test_grasp_of_a_loss_without_curvature_is_zero():
    weight = torch.ones(3, requires_grad=True)
    assert grasp(weight.sum(), [weight])[0].tolist() == [0.0, 0.0, 0.0]


def test_synflow_conserves_the_flow_through_each_layer():
    first, second, _ = network()
    scores = synflow(torch.ones(1, 2) @ first.abs().T @ second.abs().T, [first, second])
    assert scores[0].abs().sum() == scores[1].abs().sum() == 9  # (1 + 2) 2 + 3


def test_a_weight_that_the_loss_does_not_reach_has_no_score():
    first, second, inputs = network()
    assert snip((inputs @ first.T).sum(), [first, second])[1].tolist() == [[0.0, 0.0]]


def test_a_receptive_field_is_local_with_even_degrees():
    mask = receptive_field(torch.Size((30, 60)), 100, derived_generator(1), randomness=0.2)
    degrees = mask.sum(1)
    assert (int(mask.sum()), int(degrees.min()), int(degrees.max())) == (100, 3, 4)
    apart = (torch.arange(60) - 2 * torch.arange(30).unsqueeze(1)).abs()
    near = torch.minimum(apart, 60 - apart) <= 3
    assert float(near[mask].float().mean()) > 0.9
    uniform = receptive_field(torch.Size((30, 60)), 100, derived_generator(1), randomness=1.0)
    assert float(near[uniform].float().mean()) < 0.3


# In a training.


@pytest.mark.parametrize("way", WAYS)
def test_the_first_batch_chooses_exactly_as_many_as_the_density_asks_for(fit, net, way):
    module, callback = Forward(net), PruneRegrow(density=0.25, initial=way, seed=0)
    before = clones(module)
    fit(module, callback, watch := Watch(callback), epochs=2)
    assert sum(active(callback.masks)) == round(0.25 * 136)
    assert min(active(callback.masks)) >= 1
    assert watch.batches == 6
    assert callback.rewirings == 1
    assert before.keys() == module.state_dict().keys()


def test_snip_takes_what_scores_highest_on_the_batch_that_is_trained_on_first(fit, net, data):
    torch.manual_seed(3)
    module, callback = Forward(net), PruneRegrow(density=0.25, initial="snip", growth=None, seed=0)
    twin = copy.deepcopy(module)
    (inputs, labels) = next(iter(data.train_dataloader()))
    weights = [twin.network[place].weight for place in (0, 3, 5)]
    scores = torch.cat([each.flatten() for each in snip(twin.training_step([inputs, labels], 0), weights)])
    fit(module, callback, epochs=1)
    chosen = torch.cat([mask.flatten() for mask in callback.masks.values()])
    assert scores[chosen].min() >= scores[~chosen].max()


@pytest.mark.parametrize("way", WAYS)
def test_choosing_moves_nothing_else(fit, net, way):
    """The training is that of the same masks given from outside: no batch, random number or statistic is used up."""
    trained = []
    chosen = PruneRegrow(density=0.25, initial=way, growth=None)
    given = None
    net.insert(3, nn.Dropout(0.5))
    for callback in (chosen, given):
        module = Forward(copy.deepcopy(net))
        torch.manual_seed(5)
        fit(module, callback or PruneRegrow(density=0.25, initial=dict(chosen.masks), growth=None), epochs=1)
        trained.append(module.state_dict())
    equal_states(*map(dict, trained))


@pytest.mark.parametrize("step", [1, 3])
@pytest.mark.parametrize("way", WAYS)
def test_a_resumed_training_keeps_what_was_chosen(fit, net, tmp_path, way, step):
    straight, resumed = Forward(copy.deepcopy(net)), Forward(copy.deepcopy(net))
    callbacks = [PruneRegrow(density=0.25, initial=way, seed=0) for _ in range(2)]
    fit(straight, callbacks[0], Keep(tmp_path), epochs=3)
    fit(resumed, callbacks[1], epochs=3, ckpt_path=tmp_path / f"{step}.ckpt")
    equal_states(dict(straight.state_dict()), dict(resumed.state_dict()))


def test_a_checkpoint_from_before_the_first_batch_is_chosen_for_when_it_is_resumed(fit, net, tmp_path):
    class Save(Callback):
        def on_train_start(self, trainer, pl_module):
            trainer.save_checkpoint(tmp_path / "start.ckpt")

    straight, resumed = Forward(copy.deepcopy(net)), Forward(copy.deepcopy(net))
    callbacks = [PruneRegrow(density=0.25, initial="snip", seed=0) for _ in range(2)]
    fit(straight, callbacks[0], Save(), epochs=2)
    fit(resumed, callbacks[1], epochs=2, ckpt_path=tmp_path / "start.ckpt")
    assert sum(active(callbacks[1].masks)) == 34
    equal_states(dict(straight.state_dict()), dict(resumed.state_dict()))


@pytest.mark.parametrize("way", WAYS)
def test_a_convolution_is_chosen_too(fit, data, way):
    network = nn.Sequential(
        nn.Unflatten(1, (1, 6)), nn.Conv1d(1, 8, 3), nn.BatchNorm1d(8), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3)
    )
    callback = PruneRegrow(density=0.25, initial=way, seed=0)
    fit(Forward(network), callback, epochs=2)
    assert sum(active(callback.masks)) == 30


def test_correlation_connects_inputs_that_vary_together(fit, data):
    torch.manual_seed(4)
    data.inputs = torch.randn(20, 2)[:, [0, 0, 0, 1, 1, 1]] + 0.01 * torch.randn(20, 6)
    network = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3))
    callback = PruneRegrow(density=0.25, initial="correlation", growth=None, seed=0)
    fit(Forward(network), callback, epochs=1)
    first, second = callback.masks.values()
    assert (int(first.sum()), int(second.sum())) == (18, 9)
    units = torch.arange(12).unsqueeze(1) % 6 // 3
    assert bool((units == torch.arange(6) // 3)[first].all())


def test_correlation_needs_the_layer_that_receives_the_batch(fit, data):
    network = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3))
    with pytest.raises(
        ValueError, match=r"first layer 'network.2.weight' of 6 inputs, as the batch has.*got \[3, 12\]"
    ):
        fit(Forward(network), PruneRegrow(density=0.25, initial="correlation", include="network.2"))


def test_very_few_connections_empty_no_layer(fit, data):
    network = nn.Sequential(nn.Linear(6, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 3))
    callback = PruneRegrow(density=0.01, initial="synflow", growth=None)
    fit(Forward(network), callback, epochs=1)
    assert min(active(callback.masks)) >= 3


def test_what_cannot_be_chosen_by_a_batch_is_refused(fit, net):
    with pytest.raises(ValueError, match="Expected layout='masked' for initial='snip'"):
        PruneRegrow(initial="snip", layout="csr")
    with pytest.raises(ValueError, match="Expected structure=None for initial='grasp'"):
        PruneRegrow(initial="grasp", structure="fan_in")
    with pytest.raises(ValueError, match="Expected fit or start_from"):
        PruneRegrow(initial="synflow").sparsify(Forward(net))


class Manual(Model):
    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)
        self.automatic_optimization = False


class Silent(Model):
    def training_step(self, batch, batch_idx):
        super().training_step(batch, batch_idx)


@pytest.mark.parametrize(
    ("kind", "way", "message"),
    [
        (Manual, "snip", "Expected automatic optimization for initial='snip'"),
        (Silent, "grasp", "Expected training_step to return a loss for initial='grasp', got NoneType"),
        (Model, "synflow", "Expected forward in Model for initial='synflow'"),
    ],
)
def test_a_model_that_does_not_give_what_is_needed_is_refused(fit, net, kind, way, message):
    with pytest.raises(ValueError, match=message):
        fit(kind(net), PruneRegrow(initial=way))


def test_the_study_gives_its_first_batch_alone_not_a_list_of_them(tmp_path):
    from lightning.pytorch import Trainer

    from sparse_lightning import MNISTDataModule, SparseMLP
    from sparse_lightning.study.train.lists import train_in_lists

    options = {"logger": False, "enable_checkpointing": False, "accelerator": "cpu"}
    for initial, in_lists in (("random", True), ("snip", False)):
        trainer = Trainer(max_epochs=1, callbacks=[PruneRegrow(initial=initial)], **options)
        assert train_in_lists(trainer, SparseMLP(hebbian_grow=None), MNISTDataModule()) is in_lists
