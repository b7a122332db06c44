"""Where the first connections of a weight come from, and the topology that loaded weights bring."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from watching import Epochs, Watch, active, clones, off_masks

from sparse_lightning import PruneRegrow
from sparse_lightning.callbacks.initial import first_mask, has_topology

NAMES = ("network.0.weight", "network.3.weight", "network.5.weight")
LAZY = pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")


# One mask, by hand.

DENSE = torch.tensor([[0.1, -4.0, 3.0, 0.2], [-2.0, 0.3, -0.4, 1.0]])
SPARSE = torch.tensor([[0.0, -4.0, 3.0, 0.0], [0.0, 0.3, 0.0, 0.0]])


def first(weight: Tensor, count: int, initial: str = "auto", loaded: bool = False, seed: int = 0) -> Tensor:
    return first_mask("fc.weight", weight, count, seed, initial, loaded)


def test_magnitude_takes_the_largest_weights():
    expected = torch.tensor([[0, 1, 1, 0], [1, 0, 0, 1]]).bool()
    assert first(DENSE, 4, "magnitude").equal(expected)
    assert first(DENSE, 4, loaded=True).equal(expected)


def test_random_does_not_read_the_weights():
    mask = first(DENSE, 4, "random")
    assert int(mask.sum()) == 4
    assert mask.equal(first(torch.ones(2, 4), 4))
    assert mask.equal(first(SPARSE, 4, "random"))
    assert not mask.equal(first(DENSE, 4, "random", seed=1))


@pytest.mark.parametrize("loaded", [True, False])
def test_nonzero_weights_keep_their_connections_and_are_filled_up(loaded):
    active = SPARSE != 0
    assert first(SPARSE, 3, loaded=loaded).equal(active)
    filled = first(SPARSE, 5, loaded=loaded)
    assert int(filled.sum()) == 5
    assert filled[active].all()


def test_more_connections_than_asked_for_are_refused():
    message = r"'fc\.weight' that are dense or have at most 2 of 8 connections active, .*, got 3 nonzero"
    with pytest.raises(ValueError, match=message):
        first(SPARSE, 2)
    assert int(first(SPARSE, 2, "magnitude").sum()) == 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_masks_are_the_same_in_every_type_of_number(dtype):
    assert first(SPARSE.to(dtype), 3).equal(SPARSE != 0)
    assert first(DENSE.to(dtype), 4, loaded=True).equal(first(DENSE, 4, loaded=True))


# What is a topology.


def padded(count: int) -> Tensor:
    weight = nn.Embedding(50, 16, padding_idx=0).weight.detach().clone()
    return weight if count == 1 else weight.index_fill_(0, torch.arange(count), 0.0)


def one_zero(size: int) -> Tensor:
    weight = torch.ones(size, size)
    weight[0, 1] = 0
    return weight


@pytest.mark.parametrize(
    ("weight", "expected"),
    [
        (DENSE, False),
        (SPARSE, True),
        (torch.zeros(4, 4), False),
        (padded(1), False),
        (padded(3), False),
        (nn.init.sparse_(torch.empty(20, 10), 0.5), False),
        (nn.init.sparse_(torch.empty(20, 10), 0.9), False),
        (one_zero(20), False),  # one zero of 400 may be chance
        (one_zero(5), True),
        (nn.init.dirac_(torch.empty(8, 8, 3, 3)), True),
        (nn.init.zeros_(torch.empty(8, 4)), False),
        (torch.ones(8), False),
        (torch.tensor([1.0, 0.0, 2.0, 0.0]), True),
    ],
)
def test_zeros_that_are_chance_padding_or_an_initialisation_are_no_topology(weight, expected):
    assert has_topology(weight) == expected


# Masks of a model.


def sparse(network: nn.Sequential, density: float) -> dict[str, Tensor]:
    """A state of the network whose weights are sparse, by masks that no PruneRegrow drew."""
    state = copy.deepcopy(network.state_dict())
    for name in ("0.weight", "3.weight", "5.weight"):
        count = round(density * state[name].numel())
        state[name] *= torch.randperm(state[name].numel()).view(state[name].shape) < count
    return state


def test_only_what_is_chosen_is_cut(model, net):
    before = clones(module := model(net))
    callback = PruneRegrow(0.5, exclude="network.3")
    callback.sparsify(module)
    for name, weight in module.state_dict().items():
        torch.testing.assert_close(weight, before[name] * callback.masks.get(name, 1), rtol=0, atol=0)
    assert active(callback.masks) == [24, 12]


def test_loaded_sparse_weights_keep_their_connections(fit, model, net):
    state = sparse(net, density=0.5)
    net.load_state_dict(state)
    callback = PruneRegrow(density=0.5)
    fit(model(net), callback, epochs := Epochs(callback), epochs=2)
    for name, mask in epochs.masks[0].items():
        assert mask.equal(state[name.removeprefix("network.")] != 0)


def test_loaded_weights_that_are_sparser_than_asked_for_are_filled_up(model, net):
    state = sparse(net, density=0.25)
    net.load_state_dict(state)
    callback = PruneRegrow(density=0.5)
    callback.sparsify(model(net))
    assert active(callback.masks) == [24, 32, 12]
    for name, mask in callback.masks.items():
        assert mask[state[name.removeprefix("network.")] != 0].all()
    torch.testing.assert_close(net.state_dict(), state)


def test_loaded_weights_that_are_denser_than_asked_for_are_refused_and_left_alone(fit, model, net):
    net.load_state_dict(state := sparse(net, density=0.5))
    message = r"'network\.0\.weight' that are dense or have at most 12 of 48 connections active, .*, got 24 nonzero"
    with pytest.raises(ValueError, match=message):
        fit(model(net), PruneRegrow(density=0.25), epochs=2)
    torch.testing.assert_close(net.state_dict(), state)


@pytest.mark.parametrize("initial", ["magnitude", "random"])
def test_denser_weights_are_cut_where_that_is_asked_for(model, net, initial):
    net.load_state_dict(state := sparse(net, density=0.5))
    callback = PruneRegrow(density=0.25, initial=initial)
    callback.sparsify(model(net))
    assert active(callback.masks) == [12, 16, 6]
    kept = callback.masks[NAMES[1]] & (state["3.weight"] != 0)
    assert (int(kept.sum()) == 16) == (initial == "magnitude")


def test_weights_loaded_after_a_first_fit_bring_their_topology_too(fit, model, net):
    state = sparse(net, density=0.5)
    callback, trained = PruneRegrow(density=0.5), model(net)
    fit(trained, callback, epochs=2)
    assert callback.rewirings == 1
    net.load_state_dict(state)
    fit(trained, callback, epochs := Epochs(callback), epochs=2)
    for name, mask in epochs.masks[0].items():
        assert mask.equal(state[name.removeprefix("network.")] != 0)
    assert callback.rewirings == 1  # counted anew


def test_an_unknown_way_to_begin_is_refused():
    with pytest.raises(ValueError, match=r"Expected initial to be one of .*, got 'magnitud': did you mean 'magnitude'"):
        PruneRegrow(initial="magnitud")


# Masks that are given.


def given(net: nn.Sequential) -> dict[str, Tensor]:
    return {name: torch.rand(net[int(name.split(".")[1])].weight.shape) < 0.4 for name in NAMES}


@pytest.mark.parametrize("by", ["argument", "method"])
def test_masks_that_are_given_cut_dense_weights(fit, model, net, by):
    chosen = given(net)
    callback = PruneRegrow(0.4, initial=chosen) if by == "argument" else PruneRegrow(0.4)
    if by == "method":
        callback.start_from(chosen)
    epochs, watch = Epochs(callback), Watch(callback)
    fit(model(net), callback, epochs, watch)
    torch.testing.assert_close(epochs.masks[0], chosen)
    assert watch.counts == {name: int(mask.sum()) for name, mask in chosen.items()}
    assert watch.moved > 0


def test_masks_given_for_some_layers_leave_others_to_be_drawn(model, net):
    chosen = {NAMES[1]: given(net)[NAMES[1]]}
    callback = PruneRegrow(0.5, initial=chosen)
    callback.sparsify(model(net))
    assert callback.masks[NAMES[1]].equal(chosen[NAMES[1]])
    assert [int(callback.masks[name].sum()) for name in (NAMES[0], NAMES[2])] == [24, 12]


@pytest.mark.parametrize("value", [torch.ones(8, 6), [[True]], None])
def test_a_mask_that_is_not_boolean_is_refused(value):
    with pytest.raises(ValueError, match=r"Expected a boolean mask for 'network\.0\.weight', got"):
        PruneRegrow(initial={NAMES[0]: value})


@pytest.mark.parametrize(("name", "shape"), [(NAMES[0], (6, 8)), ("network.9.weight", (8, 6))])
def test_a_mask_that_does_not_fit_is_refused_by_name(model, net, name, shape):
    known = (
        "a mask to start '{}' from of the weight's shape"
        if name != "network.9.weight"
        else "weights of the model.*'{}'"
    )
    with pytest.raises(ValueError, match=f"Expected .*{known.format(name)}"):
        PruneRegrow(initial={name: torch.ones(shape).bool()}).sparsify(model(net))


def test_masks_that_were_given_belong_to_the_callback(model, net):
    chosen = given(net)
    callback = PruneRegrow(0.4, initial=chosen)
    chosen[NAMES[0]].fill_(True)
    callback.sparsify(model(net))
    assert not callback.masks[NAMES[0]].all()
    with pytest.raises(TypeError):
        callback.masks[NAMES[0]] = chosen[NAMES[0]]


# Trained weights.


def trained_checkpoint(fit: Any, module: LightningModule, path: Any) -> dict[str, Tensor]:
    run = fit(module, epochs=1)
    run.save_checkpoint(path)
    return clones(module)


def test_dense_weights_of_a_checkpoint_are_cut_by_magnitude(fit, model, net, tmp_path):
    state = trained_checkpoint(fit, model(net), tmp_path / "dense.ckpt")
    callback = PruneRegrow(density=0.25)
    epochs = Epochs(callback)
    fit(model(copy.deepcopy(net)), callback, epochs, epochs=3, ckpt_path=tmp_path / "dense.ckpt")
    for name, mask in epochs.masks[0].items():
        weight = state[name].abs()
        assert weight[mask].min() >= weight[~mask].max()


def test_a_checkpoint_of_weights_alone_keeps_its_topology(fit, model, net, tmp_path):
    callback = PruneRegrow(density=0.25)
    keep = ModelCheckpoint(tmp_path, "weights", save_weights_only=True)
    fit(module := model(net), callback, keep, epochs=2, enable_checkpointing=True)
    saved = torch.load(tmp_path / "weights.ckpt", weights_only=True)
    assert "callbacks" not in saved
    other = model(copy.deepcopy(net))
    other.load_state_dict(saved["state_dict"])
    again = PruneRegrow(density=0.25)
    again.sparsify(other)
    assert active(again.masks) == [12, 16, 6]
    for name, mask in callback.masks.items():
        assert again.masks[name][mask & (module.get_parameter(name) != 0)].all()
    assert off_masks(other, again.masks) == 0


# Layers that come late.


def test_a_padding_row_of_an_embedding_is_no_topology(fit, model, data):
    data.inputs = torch.randint(1, 50, (20, 4))
    network = nn.Sequential(nn.Embedding(50, 16, padding_idx=0), nn.Flatten(), nn.Linear(64, 5))
    callback = PruneRegrow(0.2, include=["network.0", "network.2"])
    fit(model(network), callback, watch := Watch(callback))
    assert active(callback.masks) == [160, 64]
    assert watch.moved > 0


@pytest.mark.parametrize("hook", ["setup", "configure_model"])
def test_layers_built_by_a_hook_of_the_module_count_like_others(fit, model, hook):
    class Late(model):
        def build(self, **_: Any) -> None:
            if self.network is None:
                self.network = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))

    setattr(Late, hook, Late.build)
    callback = PruneRegrow(density=0.5)
    fit(Late(None), callback, watch := Watch(callback))
    assert active(callback.masks) == [24, 12]
    assert callback.rewirings == 2
    assert watch.moved > 0


@LAZY
@pytest.mark.parametrize("growth", ["random", "hebbian", "gradient"])
def test_lazy_layers_become_sparse_with_their_first_batch(fit, model, growth):
    network = nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.LazyLinear(3))
    callback = PruneRegrow(density=0.5, growth=growth)
    module = model(network)
    fit(module, callback, watch := Watch(callback), epochs=4)
    assert {name: int(mask.sum()) for name, mask in callback.masks.items()} == {
        "network.0.weight": 24,
        "network.2.weight": 32,
        "network.4.weight": 12,
    }
    assert watch.moved > 0
    assert list(callback.masks) == ["network.0.weight", "network.2.weight", "network.4.weight"]


def test_the_density_is_of_the_whole_model_though_a_layer_joins_late(fit, model, net):
    first_epochs = lambda parameters: torch.optim.SGD(list(parameters)[:-2], lr=0.1)  # noqa: E731

    class Grows(model):
        def on_train_epoch_start(self) -> None:
            if self.current_epoch == 2:
                self.trainer.optimizers[0].add_param_group({"params": list(self.network[5].parameters())})

    callback = PruneRegrow(0.25)
    fit(Grows(net, first_epochs), callback, epochs=4)
    assert sum(active(callback.masks)) == round(0.25 * 136)


@pytest.mark.parametrize("frozen", [True, False])
def test_weights_that_no_optimizer_trains_are_left_alone(fit, model, net, frozen):
    class Target(model):
        def __init__(self, network: nn.Module) -> None:
            super().__init__(network)
            self.target = copy.deepcopy(network).requires_grad_(not frozen)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.network.parameters(), lr=0.1)

        def on_train_epoch_end(self) -> None:
            self.target.load_state_dict(self.network.state_dict())

    module, callback = Target(net), PruneRegrow(0.3)
    fit(module, callback, epochs=4)
    assert list(callback.masks) == list(NAMES)
    assert off_masks(module, callback.masks, "network", "target") == 0


# Seeds.


def test_the_same_seed_draws_the_same_masks_whatever_the_weights(model, net):
    masks = []
    for seed in (0, 0, 1):
        callback = PruneRegrow(seed=seed)
        callback.sparsify(model(copy.deepcopy(net)))
        masks.append(dict(callback.masks))
        nn.init.normal_(net[0].weight)
    torch.testing.assert_close(masks[0], masks[1])
    assert not any(masks[0][name].equal(masks[2][name]) for name in NAMES)


def test_without_a_seed_that_of_seed_everything_counts(model, net, monkeypatch):
    def drawn(**options: Any) -> Tensor:
        callback = PruneRegrow(**options)
        callback.sparsify(model(copy.deepcopy(net)))
        return callback.masks[NAMES[0]]

    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    assert drawn().equal(drawn(seed=0))
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    seed_everything(7)
    assert drawn().equal(drawn(seed=7))
    assert not drawn().equal(drawn(seed=0))
    assert drawn(seed=0).equal(drawn(seed=np.int64(0)))


def test_layers_are_drawn_apart_whatever_other_layers_there_are(model, net):
    alone, together = PruneRegrow(density={"network.3": 0.5}), PruneRegrow(density=0.5)
    for callback in (alone, together):
        callback.sparsify(model(copy.deepcopy(net)))
    assert alone.masks[NAMES[1]].equal(together.masks[NAMES[1]])


def test_density_one_is_dense_and_never_moves(fit, model, net):
    callback = PruneRegrow(density=1)
    trained = model(net)
    fit(trained, callback)
    assert active(callback.masks) == [48, 64, 24]
    assert all((trained.get_parameter(name) != 0).all() for name in NAMES)


def test_a_model_without_layers_is_refused(fit, model):
    network = nn.Sequential(nn.BatchNorm1d(6), nn.ReLU())
    with pytest.raises(ValueError, match="Expected a model with trainable Linear or convolution layers, got Model"):
        fit(model(network), PruneRegrow(), epochs=2)


def test_validation_alone_leaves_the_weights_as_they_are(trainer, model, net, data):
    before = clones(net)
    trainer(callbacks=[PruneRegrow(density=0.1, growth="hebbian")]).validate(model(net), data, verbose=False)
    torch.testing.assert_close(net.state_dict(), before)
