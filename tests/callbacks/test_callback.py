import copy
import pickle
from functools import partial

import pytest
import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn

from sparse_lightning import Growth, HebbianGrowth, PruneRegrow
from sparse_lightning.functional.masks import derived_generator, random_mask

NAMES = ("network.0.weight", "network.3.weight", "network.5.weight")
SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=1e-4)
Adam = partial(torch.optim.Adam, lr=0.01)
AdamW = partial(torch.optim.AdamW, lr=0.01)


def active(masks: dict[str, Tensor]) -> list[int]:
    return [int(mask.sum()) for mask in masks.values()]


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: module.get_parameter(name).detach() for name in NAMES}


class Epochs(Callback):
    """Keeps a copy of the masks at the end of each epoch."""

    def __init__(self, callback: PruneRegrow) -> None:
        self.callback = callback
        self.masks: list[dict[str, Tensor]] = []

    def on_train_epoch_end(self, *_: object) -> None:
        self.masks.append({name: mask.clone() for name, mask in self.callback.masks.items()})


class Steps(Callback):
    """After every step of every optimizer, sees that no weight is off its mask."""

    def __init__(self, callback: PruneRegrow) -> None:
        self.callback = callback
        self.seen = 0

    def on_train_start(self, trainer: object, pl_module: nn.Module) -> None:
        def check(*_: object) -> None:
            self.seen += 1
            for name, mask in self.callback.masks.items():
                weight = pl_module.get_parameter(name)
                assert (weight[~mask] == 0.0).all()
                assert (weight[mask] != 0.0).any()
                # There was something to enforce: inactive connections have gradients too.
                assert weight.grad is None or weight.grad[~mask].any()

        for optimizer in trainer.optimizers:
            optimizer.register_step_post_hook(check)


class Grown(Callback):
    """Sees, before the first batch after each rewiring, how the connections just grown begin."""

    def __init__(self, callback: PruneRegrow) -> None:
        self.callback = callback
        self.before: dict[str, Tensor] = {}
        self.seen = 0

    def on_train_batch_start(self, trainer: object, pl_module: nn.Module, batch: object, batch_idx: int) -> None:
        if batch_idx == 0 and self.before:
            for name, mask in self.callback.masks.items():
                new, weight = mask & ~self.before[name], pl_module.get_parameter(name)
                state = trainer.optimizers[0].state[weight]
                moments = [value for value in state.values() if isinstance(value, Tensor) and value.shape == mask.shape]
                assert new.any()
                assert moments
                for tensor in (weight, *moments):
                    assert (tensor[new] == 0).all()
                    assert tensor[mask & ~new].any()
                self.seen += 1

    def on_train_epoch_end(self, *_: object) -> None:
        self.before = {name: mask.clone() for name, mask in self.callback.masks.items()}


def by_hand(model: type[LightningModule], network: nn.Sequential) -> LightningModule:
    """A Model without automatic optimization, whose two optimizers step at different times."""

    class Manual(model):
        automatic_optimization = False

        def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
            first, second = self.optimizers()
            self.manual_backward(super().training_step(batch, batch_idx))
            first.step()
            if batch_idx % 2:
                second.step()
            first.zero_grad()
            second.zero_grad()

        def configure_optimizers(self) -> list[torch.optim.Optimizer]:
            return [SGD(self.network[:3].parameters()), AdamW(self.network[3:].parameters())]

    return Manual(network)


# Masks and their enforcement.


@pytest.mark.parametrize("growth", ["random", "hebbian"])
@pytest.mark.parametrize(("density", "counts"), [(0.5, [24, 32, 12]), (0.1, [5, 7, 2]), (0.9, [43, 57, 22])])
def test_every_layer_keeps_its_exact_count_through_every_rewiring(trainer, model, net, data, growth, density, counts):
    callback = PruneRegrow(density=density, growth=growth)
    epochs = Epochs(callback)
    trainer(max_epochs=5, callbacks=[callback, epochs]).fit(model(net), data)
    assert [active(masks) for masks in epochs.masks] == [counts] * 5
    assert tuple(callback.masks) == NAMES


@pytest.mark.parametrize("growth", ["random", "hebbian"])
def test_it_rewires_between_epochs_and_really_does(trainer, model, net, data, growth):
    callback = PruneRegrow(density=0.5, growth=growth)
    epochs = Epochs(callback)
    trainer(max_epochs=4, callbacks=[callback, epochs]).fit(model(net), data)
    assert callback.rewirings == 3
    for before, after in zip(epochs.masks, epochs.masks[1:], strict=False):
        for name in NAMES:
            grown, pruned = after[name] & ~before[name], before[name] & ~after[name]
            assert 0 < int(grown.sum()) == int(pruned.sum()) < int(before[name].sum())


@pytest.mark.parametrize("options", [{}, {"accumulate_grad_batches": 2}, {"precision": "bf16-mixed"}])
@pytest.mark.parametrize("optimizer", [SGD, Adam, AdamW])
def test_weights_off_the_mask_are_zero_after_every_step(trainer, model, net, data, optimizer, options):
    callback = PruneRegrow(density=0.3)
    steps = Steps(callback)
    trainer(max_epochs=3, callbacks=[callback, steps], **options).fit(model(net, optimizer), data)
    assert steps.seen == (6 if "accumulate_grad_batches" in options else 9)


def test_weights_off_the_mask_are_zero_whichever_of_two_optimizers_steps(trainer, model, net, data):
    callback = PruneRegrow(density=0.3)
    steps = Steps(callback)
    trainer(max_epochs=3, callbacks=[callback, steps]).fit(by_hand(model, net), data)
    assert steps.seen == 3 * 3 + 3 * 1


class Validated(Callback):
    """Keeps the weights that each validation ran with."""

    def __init__(self) -> None:
        self.weights: list[dict[str, Tensor]] = []

    def on_validation_start(self, trainer: object, pl_module: nn.Module) -> None:
        self.weights.append({name: weight.clone() for name, weight in weights(pl_module).items()})


@pytest.mark.parametrize("late", [False, True])
def test_a_checkpoint_has_the_weights_and_masks_that_were_validated(trainer, model, net, data, tmp_path, late):
    callback, validated = PruneRegrow(density=0.5), Validated()
    epochs = Epochs(callback)
    keep = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1, save_on_train_epoch_end=late)
    callbacks = [callback, epochs, validated, keep]
    run = trainer(max_epochs=3, callbacks=callbacks, enable_checkpointing=True, num_sanity_val_steps=0)
    run.fit(model(net), data)
    for epoch, (masks, weight) in enumerate(zip(epochs.masks, validated.weights, strict=True)):
        saved = torch.load(tmp_path / f"epoch={epoch}.ckpt", weights_only=True)
        state = saved["callbacks"][callback.state_key]["masks"]
        torch.testing.assert_close(state, masks)
        torch.testing.assert_close({name: saved["state_dict"][name] for name in NAMES}, weight, rtol=0, atol=0)


@pytest.mark.parametrize("optimizer", [SGD, Adam, AdamW])
def test_grown_connections_start_at_zero_with_no_memory_in_the_optimizer(trainer, model, net, data, optimizer):
    callback = PruneRegrow(density=0.5)
    grown = Grown(callback)
    trainer(max_epochs=3, callbacks=[callback, grown]).fit(model(net, optimizer), data)
    assert grown.seen == 2 * len(NAMES)


@pytest.mark.parametrize("optimizer", [SGD, Adam, AdamW])
@pytest.mark.parametrize("choice", ["reset", "keep"])
def test_the_optimizer_forgets_what_moved_or_keeps_it(trainer, model, net, data, optimizer, choice):
    class Look(PruneRegrow):
        """Compares the optimizer's state around each rewiring."""

        def rewire_and_look(self, name: str, optimizer: torch.optim.Optimizer, move) -> None:
            def moments() -> list[Tensor]:
                state = optimizer.state[self._weights[name]].values()
                return [value.clone() for value in state if isinstance(value, Tensor) and value.shape == mask.shape]

            mask = self.masks[name]
            old, before = mask.clone(), moments()
            move()
            changed = old ^ mask
            for one, other in zip(before, moments(), strict=True):
                assert one[~changed].equal(other[~changed])
                assert one[changed].any()
                assert other[changed].equal(one[changed]) if choice == "keep" else not other[changed].any()
            self.looked = getattr(self, "looked", 0) + len(before)

        def _rewire_one(self, name, fraction, optimizers):
            self.rewire_and_look(name, optimizers[0], lambda: super(Look, self)._rewire_one(name, fraction, optimizers))

    callback = Look(density=0.5, optimizer_state=choice)
    trainer(max_epochs=3, callbacks=[callback]).fit(model(net, optimizer), data)
    assert callback.looked == 2 * len(NAMES) * (1 if optimizer is SGD else 2)


def test_growth_and_pruning_share_one_count_of_coactivation(trainer, model, net, data):
    callback = PruneRegrow(density=0.5, growth="hebbian", pruning="hebbian")
    assert callback.growth.coactivation is callback.pruning.coactivation
    trainer(max_epochs=2, callbacks=[callback]).fit(model(net), data)
    assert set(callback.growth.coactivation.samples.values()) == {20}
    with pytest.raises(ValueError, match="Expected growth and pruning to ask for the same coactivation, got two"):
        PruneRegrow(growth=HebbianGrowth(count_validation=True), pruning="hebbian")


def test_gradient_growth_sees_the_gradient_of_the_step_just_taken(trainer, model, net, data):
    class Look(PruneRegrow):
        def growth_scores(self, layer):
            scores = super().growth_scores(layer)
            assert scores.equal(weight.grad.abs())
            assert scores[~mask].any()
            self.batches = [*getattr(self, "batches", []), (self.trainer.current_epoch, self.trainer.global_step)]
            return scores

        def setup(self, trainer, pl_module, stage):
            super().setup(trainer, pl_module, stage)
            self.trainer = trainer

    callback = Look(density=0.5, growth="gradient")
    trainer(max_epochs=3, callbacks=[callback]).fit(model(net), data)
    assert callback.rewirings == 2
    assert callback.batches == [(1, 3)] * 3 + [(2, 6)] * 3  # steps of an epoch are three; the fourth is in progress


def test_biases_and_norms_stay_dense(trainer, model, net, data):
    trained = model(net)
    dense = {name: parameter != 0 for name, parameter in trained.named_parameters() if name not in NAMES}
    trainer(max_epochs=2, callbacks=[PruneRegrow(density=0.1)]).fit(trained, data)
    assert all(trained.get_parameter(name)[nonzero].all() for name, nonzero in dense.items())


def test_the_state_loads_in_a_model_that_knows_nothing_of_this(trainer, model, net, data):
    callback, trained = PruneRegrow(density=0.25), model(copy.deepcopy(net))
    names = list(trained.state_dict())
    trainer(max_epochs=2, callbacks=[callback]).fit(trained, data)
    assert list(trained.state_dict()) == names
    net.load_state_dict(trained.network.state_dict(), strict=True)
    inputs = torch.randn(5, 6)
    assert net.eval()(inputs).equal(trained.network.eval()(inputs))
    assert not any(model(net).get_parameter(name)[~mask].any() for name, mask in callback.masks.items())


# Which weights.


class Mixed(nn.Module):
    """One of each kind of parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(6, 4)
        self.conv, self.up = nn.Conv1d(4, 6, 3), nn.ConvTranspose1d(6, 4, 3)
        self.norm = nn.LayerNorm(4)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.head = nn.Linear(4, 6, bias=False)


USUAL = ["conv.weight", "up.weight", "attention.out_proj.weight", "head.weight"]


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({}, USUAL),
        ({"include": "*"}, USUAL),
        ({"include": ["conv", "head.weight"]}, ["conv.weight", "head.weight"]),
        ({"include": "attention.*"}, ["attention.out_proj.weight"]),
        ({"include": "*.in_proj_weight"}, ["attention.in_proj_weight"]),
        ({"include": ["*", "*.in_proj_weight"]}, [*USUAL[:2], "attention.in_proj_weight", *USUAL[2:]]),
        ({"include": "embedding"}, ["embedding.weight"]),
        ({"include": "norm.bias"}, ["norm.bias"]),
        ({"exclude": "attention.*"}, ["conv.weight", "up.weight", "head.weight"]),
        ({"exclude": ["conv", "up.weight"]}, USUAL[2:]),
        ({"density": {"head": 0.5, "*conv*": 0.25}}, ["conv.weight", "head.weight"]),
        ({"density": {"head": 0.5, "*.in_proj_weight": 0.25}}, ["attention.in_proj_weight", "head.weight"]),
        ({"density": {"*": 0.5}, "exclude": "head"}, USUAL[:3]),
        ({"density": {"head": 0.5}, "include": "*"}, ["head.weight"]),
    ],
)
def test_patterns_choose_the_weights(options, names):
    network = Mixed()
    dense = {name: weight.detach().clone() for name, weight in network.named_parameters()}
    callback = PruneRegrow(**{"density": 0.5} | options)
    callback.sparsify(network)
    assert sorted(callback.masks) == sorted(names)
    for name, weight in network.named_parameters():
        assert weight.equal(dense[name] * callback.masks.get(name, 1))


@pytest.mark.parametrize("argument", ["include", "exclude"])
def test_a_pattern_that_matches_nothing_is_refused_by_name(argument):
    callback = PruneRegrow(**{argument: ["head", "decoder.*"]})
    with pytest.raises(ValueError, match=rf"match 'decoder\.\*' in {argument}, got only conv, up, attention\.out_proj"):
        callback.sparsify(Mixed())


def test_the_density_of_a_pattern_is_spread_over_what_it_matches():
    callback = PruneRegrow(density={"conv": 0.5, "*": 0.1}, distribution="erk")
    callback.sparsify(Mixed())
    counts = {name: int(mask.sum()) for name, mask in callback.masks.items()}
    assert counts["conv.weight"] == 36
    assert sum(counts.values()) == 36 + round(0.1 * (72 + 16 + 24))
    # Of the 11, in proportion to 6 + 4 + 3, 4 + 4 and 6 + 4: 4.6, 2.8 and 3.5.
    assert [counts[name] for name in USUAL[1:]] == [5, 3, 3]


# Which layers, and how much of each.


def test_density_by_name_takes_the_first_pattern_and_leaves_other_layers_alone(trainer, model, net, data):
    callback = PruneRegrow(density={"network.0": 0.5, "network.[03]": 0.25})
    epochs = Epochs(callback)
    trained = model(net)
    trainer(max_epochs=3, callbacks=[callback, epochs]).fit(trained, data)
    assert [active(masks) for masks in epochs.masks] == [[24, 16]] * 3
    assert tuple(callback.masks) == NAMES[:2]
    assert (trained.network[5].weight != 0).all()


def test_a_parameter_name_will_do_for_a_layer_name(model, net):
    callback = PruneRegrow(density={"network.0.weight": 0.5})
    callback.sparsify(model(net))
    assert active(callback.masks) == [24]


def test_prune_fraction_by_name_moves_only_the_layers_it_names(trainer, model, net, data):
    callback = PruneRegrow(density=0.5, prune_fraction={"*.3": 0.5, "*.5": 0.0})
    epochs = Epochs(callback)
    trainer(max_epochs=2, callbacks=[callback, epochs]).fit(model(net), data)
    moved = [int((before & ~after).sum()) for before, after in zip(*(m.values() for m in epochs.masks), strict=True)]
    assert moved[0] == moved[2] == 0
    assert 15 <= moved[1] <= 16


def test_density_one_is_dense_and_never_moves(trainer, model, net, data):
    callback = PruneRegrow(density=1)
    trained = model(net)
    trainer(max_epochs=3, callbacks=[callback]).fit(trained, data)
    assert active(callback.masks) == [48, 64, 24]
    assert all((weight != 0).all() for weight in weights(trained).values())


def test_prune_fraction_is_lowered_to_the_connections_there_are_to_grow(trainer, model, net, data):
    callback = PruneRegrow(density=0.9, prune_fraction=0.99)
    epochs = Epochs(callback)
    trainer(max_epochs=4, callbacks=[callback, epochs]).fit(model(net), data)
    assert [active(masks) for masks in epochs.masks] == [[43, 57, 22]] * 4
    for before, after in zip(epochs.masks, epochs.masks[1:], strict=False):
        grown = [int((after[name] & ~before[name]).sum()) for name in NAMES]
        assert all(0 < count <= room for count, room in zip(grown, (5, 7, 2), strict=True))


def test_every_free_place_is_grown_when_more_are_pruned(trainer, model, data):
    # Fourteen active weights, all of one sign so that one floor is taken, and six places: 6/14 has no end in binary.
    layer = nn.Linear(20, 1, bias=False)
    layer.weight.data = torch.arange(20.0).sub(5).clamp(min=0).view(1, 20)
    data.inputs = torch.zeros(20, 20)
    callback = PruneRegrow(density=0.7, prune_fraction=0.9)
    epochs = Epochs(callback)
    trainer(max_epochs=2, callbacks=[callback, epochs]).fit(model(layer), data)
    before, after = (masks["network.weight"].flatten() for masks in epochs.masks)
    assert before.tolist() == [False] * 6 + [True] * 14
    assert after.tolist() == [True] * 6 + [False] * 6 + [True] * 8


def test_growth_none_never_moves(trainer, model, net, data):
    callback = PruneRegrow(density=0.5, growth=None)
    epochs = Epochs(callback)
    trainer(max_epochs=3, callbacks=[callback, epochs]).fit(model(net), data)
    assert callback.rewirings == 0
    torch.testing.assert_close(epochs.masks, [epochs.masks[0]] * 3)


def test_tied_weights_are_one_layer(trainer, model, data):
    network = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
    network[2].weight = network[0].weight
    callback = PruneRegrow(density=0.5)
    steps = Steps(callback)
    trainer(max_epochs=2, callbacks=[callback, steps]).fit(model(network), data)
    assert active(callback.masks) == [18]
    assert int((network[2].weight != 0).sum()) <= 18
    assert steps.seen == 6


def test_layers_built_in_configure_model_are_found(trainer, model, data):
    class Late(model):
        def configure_model(self) -> None:
            if self.network is None:
                self.network = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))

    callback = PruneRegrow(density=0.5)
    steps = Steps(callback)
    trainer(max_epochs=3, callbacks=[callback, steps]).fit(Late(None), data)
    assert active(callback.masks) == [24, 12]
    assert callback.rewirings == 2
    assert steps.seen == 9


# What is refused.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"density": 0}, r"Expected density in \(0, 1\], got 0"),
        ({"density": 1.3}, r"Expected density in \(0, 1\], got 1.3"),
        ({"density": float("nan")}, r"Expected density in \(0, 1\], got nan"),
        ({"density": {"a": 0.5, "b": -0.1}}, r"Expected density in \(0, 1\], got -0.1"),
        ({"density": "half"}, r"Expected density in \(0, 1\], got 'half'"),
        ({"prune_fraction": 1}, r"Expected prune_fraction in \[0, 1\), got 1"),
        ({"prune_fraction": -0.3}, r"Expected prune_fraction in \[0, 1\), got -0.3"),
        ({"prune_fraction": {"a": 1.3}}, r"Expected prune_fraction in \[0, 1\), got 1.3"),
        (
            {"growth": "Hebbian"},
            "Expected growth to be one of random, hebbian, .*, got 'Hebbian'",
        ),
        ({"pruning": "weight"}, "Expected pruning to be one of signed_magnitude, magnitude, .*, got 'weight'"),
        ({"pruning_early_stop": -1}, "Expected pruning_early_stop to be 0 or a number of drops, got -1"),
        ({"seed": "one"}, "Expected seed to be a whole number, got 'one'"),
        ({"schedule": 3}, "Expected schedule to be a name or a function of progress, got 3"),
        ({"include": []}, r"Expected include to be patterns or None, got \[\]"),
        ({"density": {0: 0.5}}, "Expected density to be a number or numbers by layer name, got {0: 0.5}"),
        ({"prune_fraction": {0: 0.5}}, "Expected prune_fraction to be a number or numbers by layer name, got {0"),
    ],
)
def test_arguments_out_of_range_are_refused_at_once(arguments, message):
    with pytest.raises(ValueError, match=message):
        PruneRegrow(**arguments)


@pytest.mark.parametrize("argument", ["density", "prune_fraction"])
def test_a_layer_name_that_matches_nothing_is_refused_with_those_there_are(trainer, model, net, data, argument):
    callback = PruneRegrow(**{argument: {"network.0": 0.5, "encoder.*": 0.5}})
    message = rf"match 'encoder\.\*' in {argument}, got only network\.0, network\.3, network\.5"
    with pytest.raises(ValueError, match=message):
        trainer(max_epochs=1, callbacks=[callback]).fit(model(net), data)


def test_a_model_without_linear_layers_is_refused(trainer, model, data):
    network = nn.Sequential(nn.BatchNorm1d(6), nn.ReLU())
    with pytest.raises(ValueError, match="Expected a model with trainable Linear or convolution layers, got Model"):
        trainer(max_epochs=1, callbacks=[PruneRegrow()]).fit(model(network), data)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (
            nn.utils.parametrizations.weight_norm(nn.Linear(6, 8)),
            "weight of 'network.0' to be a parameter, got one comp",
        ),
        (nn.LazyLinear(8), "Expected 'network.0' to have its weight, got a lazy layer"),
    ],
)
@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
def test_a_layer_without_a_weight_of_its_own_is_refused_by_name(model, layer, message):
    with pytest.raises(ValueError, match=message):
        PruneRegrow().sparsify(model(nn.Sequential(layer, nn.Linear(8, 3))))


def test_what_a_weight_is_computed_from_can_be_named(model):
    normed = nn.utils.parametrizations.weight_norm(nn.Linear(6, 8))
    callback = PruneRegrow(density=0.5, include="*.original1")
    callback.sparsify(model(nn.Sequential(normed, nn.Linear(8, 3))))
    assert int(normed.weight.count_nonzero()) == 24


def test_two_on_the_same_weight_are_refused_before_anything_is_done(trainer, model, net, data):
    first, second = PruneRegrow({"network.[03]": 0.5}), PruneRegrow({"network.[35]": 0.25})
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(ValueError, match=r"Expected one PruneRegrow for each weight, got two for network\.3\.weight"):
        trainer(max_epochs=1, callbacks=[first, second]).fit(model(net), data)
    torch.testing.assert_close(net.state_dict(), before)


def test_two_for_all_layers_are_refused(trainer, model, net, data):
    with pytest.raises((ValueError, RuntimeError), match="PruneRegrow"):
        trainer(max_epochs=1, callbacks=[PruneRegrow(0.5), PruneRegrow(0.25)]).fit(model(net), data)


def test_two_on_different_layers_work_and_are_saved_apart(trainer, model, net, data, tmp_path):
    def pair() -> tuple[PruneRegrow, PruneRegrow]:
        return PruneRegrow({"network.[03]": 0.5}), PruneRegrow({"network.5": 0.25}, growth="hebbian")

    first, second = pair()
    steps = Steps(first), Steps(second)
    run = trainer(max_epochs=3, callbacks=[first, second, *steps])
    trained = model(net)
    run.fit(trained, data)
    assert active(first.masks) == [24, 32]
    assert active(second.masks) == [6]
    assert (first.rewirings, second.rewirings) == (2, 2)
    run.save_checkpoint(tmp_path / "two.ckpt")
    again = pair()
    trainer(max_epochs=3, callbacks=list(again)).fit(trained, data, ckpt_path=tmp_path / "two.ckpt")
    for old, new in zip((first, second), again, strict=True):
        torch.testing.assert_close(dict(new.masks), dict(old.masks))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_scores_that_are_not_numbers_are_refused_with_the_name_of_the_layer(trainer, model, net, data, value):
    class Broken(PruneRegrow):
        def growth_scores(self, name: str, weight: Tensor, *_: object) -> Tensor:
            return torch.full_like(weight, value if name == NAMES[1] else 0.0)

    with pytest.raises(ValueError, match=r"Rewiring 1 of 'network\.3\.weight': Expected finite scores, got NaN or inf"):
        trainer(max_epochs=2, callbacks=[Broken()]).fit(model(net), data)


def test_pruning_more_than_can_grow_is_refused_with_the_name_of_the_layer(trainer, model, net, data):
    class Greedy(PruneRegrow):
        def prune_mask(self, name: str, weight: Tensor, mask: Tensor, *_: object) -> Tensor:
            return mask

    with pytest.raises(ValueError, match=r"Rewiring 1 of 'network\.0\.weight': Expected a count from 0 to the 5"):
        trainer(max_epochs=2, callbacks=[Greedy(density=0.9)]).fit(model(net), data)


def test_rewiring_a_model_that_is_not_known_is_refused():
    callback = PruneRegrow()
    with pytest.raises((ValueError, RuntimeError), match="Expected"):
        callback.rewire()
    assert callback.rewirings == 0


# Weights bring their topology with them.


def sparse(network: nn.Sequential, density: float) -> dict[str, Tensor]:
    """A state of the network whose weights are sparse, by masks that no PruneRegrow drew."""
    state = copy.deepcopy(network.state_dict())
    for name in ("0.weight", "3.weight", "5.weight"):
        count = round(density * state[name].numel())
        state[name] *= random_mask(state[name].shape, count, derived_generator("elsewhere", name))
    return state


def test_loaded_sparse_weights_keep_their_connections(trainer, model, net, data):
    state = sparse(net, density=0.5)
    net.load_state_dict(state)
    callback = PruneRegrow(density=0.5)
    epochs = Epochs(callback)
    trainer(max_epochs=2, callbacks=[callback, epochs]).fit(model(net), data)
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


def test_loaded_weights_that_are_denser_than_asked_for_are_refused_and_left_alone(trainer, model, net, data):
    state = sparse(net, density=0.5)
    net.load_state_dict(state)
    message = r"'network\.0\.weight' that are dense or have at most 12 of 48 connections active, .*, got 24 nonzero"
    with pytest.raises(ValueError, match=message):
        trainer(max_epochs=1, callbacks=[PruneRegrow(density=0.25)]).fit(model(net), data)
    torch.testing.assert_close(net.state_dict(), state)


def test_weights_loaded_after_a_first_fit_bring_their_topology_too(trainer, model, net, data):
    state = sparse(net, density=0.5)
    callback = PruneRegrow(density=0.5)
    trained = model(net)
    trainer(max_epochs=2, callbacks=[callback]).fit(trained, data)
    net.load_state_dict(state)
    epochs = Epochs(callback)
    trainer(max_epochs=1, callbacks=[callback, epochs]).fit(trained, data)
    for name, mask in epochs.masks[0].items():
        assert mask.equal(state[name.removeprefix("network.")] != 0)


def test_a_second_fit_goes_on_from_the_first_with_the_rewiring_it_is_owed(trainer, model, net, data):
    callback = PruneRegrow(density=0.5, growth="hebbian")
    trained, epochs, steps = model(net), Epochs(callback), Steps(callback)
    for _ in range(2):
        trainer(max_epochs=2, callbacks=[callback, epochs, steps]).fit(trained, data)
    assert callback.rewirings == 3
    assert [active(masks) for masks in epochs.masks] == [[24, 32, 12]] * 4
    for before, after in zip(epochs.masks, epochs.masks[1:], strict=False):
        assert all((after[name] & ~before[name]).any() for name in NAMES)


# Randomness.


def test_the_same_seed_draws_the_same_masks_whatever_the_weights(model, net):
    masks = []
    for seed in (0, 0, 1):
        callback = PruneRegrow(seed=seed)
        callback.sparsify(model(copy.deepcopy(net)))
        masks.append(dict(callback.masks))
        nn.init.normal_(net[0].weight)
    torch.testing.assert_close(masks[0], masks[1])
    assert not any(masks[0][name].equal(masks[2][name]) for name in NAMES)


@pytest.mark.parametrize("growth", ["random", "hebbian"])
def test_the_same_seed_moves_the_same_way(trainer, model, net, data, growth):
    seen = []
    for seed in (0, 0, 1):
        callback = PruneRegrow(growth=growth, seed=seed)
        epochs = Epochs(callback)
        trainer(max_epochs=3, callbacks=[callback, epochs]).fit(model(copy.deepcopy(net)), data)
        seen.append(epochs.masks)
    torch.testing.assert_close(seen[0], seen[1])
    assert not seen[0][-1][NAMES[0]].equal(seen[2][-1][NAMES[0]])


@pytest.mark.parametrize("growth", ["random", "hebbian"])
def test_the_global_random_state_is_neither_read_nor_moved(trainer, model, net, data, growth):
    def fit(noise: int) -> tuple[list[dict[str, Tensor]], Tensor]:
        torch.manual_seed(noise)
        before = torch.get_rng_state()
        callback = PruneRegrow(growth=growth)
        epochs = Epochs(callback)
        trainer(max_epochs=3, callbacks=[callback, epochs]).fit(model(copy.deepcopy(net)), data)
        assert torch.get_rng_state().equal(before)
        return epochs.masks

    torch.testing.assert_close(fit(noise=1), fit(noise=2))


def test_every_layer_draws_its_own_lot_at_every_rewiring(trainer, model, net, data):
    class Lots(PruneRegrow):
        drawn: tuple[int, ...] = ()

        def growth_scores(self, layer):
            self.drawn = (*self.drawn, generator.initial_seed())
            return super().growth_scores(layer)

    callback = Lots()
    trainer(max_epochs=4, callbacks=[callback]).fit(model(net), data)
    assert len(set(callback.drawn)) == len(callback.drawn) == 3 * len(NAMES)


def test_layers_are_drawn_apart_whatever_other_layers_there_are(model, net):
    alone, together = PruneRegrow(density={"network.3": 0.5}), PruneRegrow(density=0.5)
    for callback in (alone, together):
        callback.sparsify(model(copy.deepcopy(net)))
    assert alone.masks[NAMES[1]].equal(together.masks[NAMES[1]])


# When.


@pytest.mark.parametrize(("stop", "rewirings"), [(0, 4), (1, 0), (2, 2), (3, 4)])
def test_early_stop_counts_the_drops_of_the_learning_rate(trainer, model, net, data, stop, rewirings):
    steps = partial(torch.optim.lr_scheduler.MultiStepLR, milestones=[1, 3])
    callback = PruneRegrow(pruning_early_stop=stop)
    trainer(max_epochs=5, callbacks=[callback]).fit(model(net, schedule=steps), data)
    assert callback.rewirings == rewirings


def test_a_single_epoch_is_not_rewired(trainer, model, net, data):
    callback = PruneRegrow()
    trainer(max_epochs=1, callbacks=[callback]).fit(model(net), data)
    assert callback.rewirings == 0
    assert set(callback.masks) == set(NAMES)


def test_validation_alone_leaves_the_weights_as_they_are(trainer, model, net, data):
    before = copy.deepcopy(net.state_dict())
    trainer(callbacks=[PruneRegrow(density=0.1, growth="hebbian")]).validate(model(net), data, verbose=False)
    torch.testing.assert_close(net.state_dict(), before)


# A method of one's own.


def test_should_rewire_is_a_method_of_its_own(trainer, model, net, data):
    class EverySecondEpoch(PruneRegrow):
        def should_rewire(self, trainer, pl_module):
            return trainer.current_epoch % 2 == 0

    callback = EverySecondEpoch()
    trainer(max_epochs=6, callbacks=[callback]).fit(model(net), data)
    assert callback.rewirings == 2


def test_prune_mask_is_a_method_of_its_own(trainer, model, net, data):
    class Magnitude(PruneRegrow):
        def prune_mask(self, layer):
            largest = weight[mask].abs().sort().values[int(fraction * mask.sum()) - 1]
            return mask & (weight.abs() <= largest)

    callback = Magnitude(density=0.5)
    epochs = Epochs(callback)
    trainer(max_epochs=2, callbacks=[callback, epochs]).fit(model(net), data)
    moved = [int((before & ~after).sum()) for before, after in zip(*(m.values() for m in epochs.masks), strict=True)]
    assert moved == [7, 9, 3]  # 30% of 24, 32 and 12, whatever the signs


def test_growth_scores_is_a_method_of_its_own(trainer, model, net, data):
    class GradientGrowth(PruneRegrow):
        def on_before_zero_grad(self, trainer, pl_module, optimizer):
            self.gradients = {name: p.grad.abs() for name, p in pl_module.named_parameters() if p.grad is not None}

        def growth_scores(self, layer):
            return self.gradients[name]

    callback = GradientGrowth(density=0.5)
    epochs = Epochs(callback)
    trainer(max_epochs=2, callbacks=[callback, epochs]).fit(model(net), data)
    assert active(callback.masks) == [24, 32, 12]
    before, after = epochs.masks
    assert all((after[name] & ~before[name]).any() for name in NAMES)


def test_a_growth_of_ones_own_scores_and_watches(trainer, model, net, data):
    class Calls:
        def __init__(self) -> None:
            self.log: list[str] = []

        def attach(self, module, names, optimizers):
            self.log.append(f"attach {len(names)}")

        def detach(self):
            self.log.append("detach")

        def count(self):
            self.log.append("count")

        def reset(self):
            self.log.append("reset")

        def state_dict(self):
            return {}

        def load_state_dict(self, state): ...

    class Diagonal(Growth):
        def __init__(self) -> None:
            self.statistics = {"calls": Calls()}

        def scores(self, name, weight, mask, generator):
            return torch.eye(*weight.shape)

    callback = PruneRegrow(density=0.2, growth=Diagonal())
    trainer(max_epochs=2, callbacks=[callback], limit_val_batches=0).fit(model(net), data)
    log = [call for call in callback.growth.statistics["calls"].log if call != "detach"]
    log = log[log.index("attach 3") :]
    assert log == ["attach 3", *["count"] * 3, "reset", *["count"] * 3]
    assert callback.growth.statistics["calls"].log[-1] == "detach"
    assert callback.masks[NAMES[1]].diagonal().sum() >= 4


# What is logged.


def test_logged_measures_by_hand(trainer, model, data, record):
    class InTurn(PruneRegrow):
        """Drops the first active connection and grows the first that is free."""

        def prune_mask(self, layer):
            return mask & (mask.cumsum(1) == 1)

        def growth_scores(self, layer):
            return -torch.arange(4.0).view(1, 4)

    layer = nn.Linear(4, 1, bias=False)
    layer.weight.data = torch.tensor([[1.0, 1.0, 0.0, 0.0]])
    data.inputs = data.inputs[:, :4]
    # Active: 01, then 12, then 02, then 12.
    trainer(max_epochs=4, callbacks=[InTurn(density=0.5)], logger=record).fit(model(layer), data)
    names = ("density", "grown")
    found = [[record.epochs[e].get(f"topology/{what}/all") for what in names] for e in range(4)]
    assert found == [[0.5, 0], [0.5, 1], [0.5, 1], [0.5, 1]]
    layers = [[record.epochs[e].get(f"topology/{what}/network") for what in names] for e in range(4)]
    assert layers == found


def test_measures_of_every_layer_are_logged_each_epoch(trainer, model, net, data, record):
    callback = PruneRegrow(density=0.25)
    epochs = Epochs(callback)
    trainer(max_epochs=4, callbacks=[callback, epochs], logger=record).fit(model(net), data)
    for epoch, (before, masks) in enumerate(zip([epochs.masks[0], *epochs.masks], epochs.masks, strict=False)):
        logged = record.epochs[epoch]
        for name in NAMES:
            layer = name.removesuffix(".weight")
            assert logged[f"topology/density/{layer}"] == 0.25
            assert logged[f"topology/grown/{layer}"] == int((masks[name] & ~before[name]).sum())
        assert logged["topology/density/all"] == 0.25
        assert logged["topology/grown/all"] == sum(int((masks[n] & ~before[n]).sum()) for n in NAMES)


# Carrying it elsewhere.


def pickled(callback: PruneRegrow) -> PruneRegrow:
    return pickle.loads(pickle.dumps(callback))


@pytest.mark.parametrize("growth", ["random", "hebbian"])
@pytest.mark.parametrize("carry", [copy.deepcopy, pickled])
def test_a_copy_works_before_and_after_a_fit(trainer, model, net, data, carry, growth):
    callback = carry(PruneRegrow(density=0.5, growth=growth))
    trained = model(net)
    trainer(max_epochs=2, callbacks=[callback]).fit(trained, data)
    other, copied = carry(callback), copy.deepcopy(trained)
    trainer(max_epochs=2, callbacks=[callback]).fit(trained, data)
    assert other.rewirings == 1
    trainer(max_epochs=2, callbacks=[other]).fit(copied, data)
    assert other.rewirings == callback.rewirings == 3
    torch.testing.assert_close(dict(other.masks), dict(callback.masks))
    torch.testing.assert_close(weights(copied), weights(trained), rtol=0, atol=0)


def test_masks_cannot_be_replaced_from_outside(model, net):
    callback = PruneRegrow()
    callback.sparsify(model(net))
    with pytest.raises(TypeError):
        callback.masks[NAMES[0]] = torch.ones(8, 6, dtype=torch.bool)


def test_a_state_of_other_layers_is_refused(model, net):
    callback, other = PruneRegrow(), PruneRegrow()
    callback.sparsify(model(net))
    other.sparsify(model(nn.Sequential(nn.Linear(6, 9))))
    with pytest.raises(ValueError, match=r"Expected a checkpoint with 'network\.\d\.weight' of shape"):
        callback.load_state_dict(other.state_dict())


@pytest.mark.parametrize("optimizer", [SGD, AdamW])
@pytest.mark.parametrize("growth", ["random", "hebbian"])
def test_a_model_that_is_not_ours_continues_from_a_checkpoint_to_the_bit(
    trainer, model, net, data, tmp_path, growth, optimizer
):
    def fit(
        epochs: int, checkpoint: str | None = None
    ) -> tuple[dict[str, Tensor], dict[str, object], dict[str, object]]:
        callback, trained = PruneRegrow(density=0.5, growth=growth), model(copy.deepcopy(net), optimizer)
        run = trainer(max_epochs=epochs, callbacks=[callback])
        run.fit(trained, data, ckpt_path=checkpoint)
        run.save_checkpoint(tmp_path / f"{epochs}.ckpt")
        return trained.state_dict(), callback.state_dict(), run.optimizers[0].state_dict()

    straight = fit(4)
    fit(2)
    torch.testing.assert_close(fit(4, str(tmp_path / "2.ckpt")), straight, rtol=0, atol=0)


def test_a_frozen_layer_is_left_alone(model, trainer, data, net):
    net[0].weight.requires_grad_(False)
    before = net[0].weight.clone()
    callback = PruneRegrow(density=0.5)
    trainer(max_epochs=2, callbacks=[callback]).fit(model(net), data)
    assert list(callback.masks) == ["network.3.weight", "network.5.weight"]
    assert net[0].weight.equal(before)


def test_a_layer_frozen_after_it_was_made_sparse_is_refused(model, trainer, data, net):
    class Freeze(Callback):
        def setup(self, trainer: object, pl_module: nn.Module, stage: str) -> None:
            pl_module.network[0].requires_grad_(False)

    with pytest.raises(ValueError, match=r"stay trainable once sparse, got network\.0\.weight frozen since"):
        trainer(max_epochs=1, callbacks=[PruneRegrow(), Freeze()]).fit(model(net), data)
