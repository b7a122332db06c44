"""Counts, pruning and growth, asked one after the other: alone, then in trainings."""

import copy
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from watching import Epochs, Watch, active, view

from sparse_lightning import (
    CountCriterion,
    GrowthCriterion,
    HebbianGrowth,
    LayerView,
    PruneRegrow,
    PruningCriterion,
    RigL,
)
from sparse_lightning.callbacks.masks import Masks
from sparse_lightning.callbacks.rewiring import Decisions, Rewirings, checked_factor, rewire_layers
from sparse_lightning.criteria.pruning import MagnitudePruning

NAMES = ("network.0.weight", "network.3.weight", "network.5.weight")


# Alone, by hand.


def same(layers: Sequence[LayerView]) -> dict[str, int]:
    return {layer.name: int(layer.mask.sum()) for layer in layers}


def by_index(layer: LayerView) -> Tensor:
    return -torch.arange(layer.weight.numel()).view(layer.weight.shape).float()


def first_active(layer: LayerView) -> Tensor:
    return layer.mask & (layer.mask.flatten().cumsum(0).view(layer.mask.shape) == 1)


def test_a_layer_prunes_and_grows_by_its_decisions():
    layer = view(torch.tensor([[1.0, 2.0, 0.0, 0.0]]))
    ((_, dropped, grown),) = rewire_layers([layer], Decisions(same, first_active, by_index))
    assert (dropped.tolist(), grown.tolist()) == ([0], [2])
    assert layer.kept.tolist() == [[False, True, False, False]]


def test_every_layer_has_pruned_before_the_first_one_grows():
    order: list[str] = []

    def prune(layer: LayerView) -> Tensor:
        order.append(f"prune {layer.name}")
        return first_active(layer)

    def scores(layer: LayerView) -> Tensor:
        order.append(f"grow {layer.name}")
        return by_index(layer)

    layers = [view(torch.tensor([1.0, 1.0, 0.0]), name=name) for name in "ab"]
    list(rewire_layers(layers, Decisions(same, prune, scores)))
    assert order == ["prune a", "prune b", "grow a", "grow b"]


def test_connections_can_move_from_one_layer_to_another():
    layers = [view(torch.tensor([1.0, 1.0, 0.0, 0.0]), name=name) for name in "ab"]
    moved = rewire_layers(layers, Decisions(lambda layers: {"a": 1, "b": 3}, first_active, by_index))
    assert [(len(dropped), len(grown)) for _, dropped, grown in moved] == [(1, 0), (1, 2)]


@pytest.mark.parametrize(
    ("prune", "scores", "message"),
    [
        (lambda layer: ~layer.mask, by_index, "Expected only active connections to be pruned"),
        (lambda layer: layer.mask, by_index, "Expected a count from 0 to the 1 candidates, got 3"),
        (first_active, lambda layer: torch.full_like(layer.weight, math.nan), "Expected finite scores"),
        (first_active, lambda layer: layer.weight[:1], r"Expected growth scores of shape \(.*\), got shape \(1,"),
        (first_active, lambda layer: None, r"Expected growth scores of shape \(.*\), got NoneType"),
        (
            lambda layer: layer.mask[:1],
            lambda layer: layer.weight,
            r"Expected a mask of what to prune of shape \(\d+,\) or",
        ),
    ],
)
def test_a_decision_that_cannot_be_used_is_refused_with_rewiring_and_layer(prune, scores, message):
    layer = view(torch.tensor([1.0, 1.0, 1.0, 0.0]), name="fc.weight")
    with pytest.raises(ValueError, match=rf"Rewiring 7 of 'fc\.weight': {message}"):
        list(rewire_layers([layer], Decisions(same, prune, scores), 7))


class Three(nn.Module):
    """Three layers whose weights are all one."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(4, 1, bias=False) for _ in range(3))
        for weight in self.parameters():
            nn.init.ones_(weight)


def three() -> Masks:
    masks = Masks()
    masks.replace({f"{name}.weight": torch.tensor([[True, True, False, False]]) for name in "abc"})
    masks.bind(Three())
    return masks


def test_layers_know_their_neighbours_whatever_is_rewired():
    known: dict[str, tuple[str | None, ...]] = {}

    def prune(layer: LayerView) -> Tensor:
        known[layer.name] = tuple(each and each.name for each in (layer.previous, layer.next))
        return first_active(layer)

    rewirings, masks = Rewirings(), three()
    rewirings.announce(dict.fromkeys(masks, Fraction(1, 2)), Fraction(0))
    list(rewirings.run(["a.weight", "b.weight"], masks, Decisions(same, prune, by_index), 0))
    assert known == {"a.weight": (None, "b.weight"), "b.weight": ("a.weight", "c.weight")}
    assert set(rewirings.due) == {"c.weight"}


def test_a_rewiring_that_is_announced_waits_for_each_layer_and_the_next_one_replaces_it():
    rewirings, masks, decisions = Rewirings(), three(), Decisions(same, first_active, by_index)
    assert rewirings.announce({"a.weight": Fraction(1, 2), "b.weight": Fraction(1, 2)}, Fraction(1, 4)) == []
    ((name, dropped, grown),) = rewirings.run(["b.weight", "c.weight"], masks, decisions, 0)
    assert (name, dropped.tolist(), grown.tolist()) == ("b.weight", [0], [2])
    assert rewirings.grown == {"b.weight": 1}
    assert rewirings.announce({"c.weight": Fraction(1, 3)}, Fraction(1, 2)) == ["a.weight"]
    again = Rewirings()
    again.load_state_dict(rewirings.state_dict())
    assert again.state_dict() == rewirings.state_dict()
    assert (again.number, again.due, again.grown) == (2, {"c.weight": Fraction(1, 3)}, {"b.weight": 1})


@pytest.mark.parametrize(("regrow", "expected"), [(False, Fraction(1, 3)), (True, Fraction(9, 10))])
def test_the_fraction_is_lowered_to_what_is_inactive_unless_the_pruned_may_grow(regrow, expected):
    seen: list[Fraction] = []

    def prune(layer: LayerView) -> Tensor:
        seen.append(layer.prune_fraction)
        return torch.zeros_like(layer.mask)

    masks = three()
    masks.replace({"a.weight": torch.tensor([[True, True, True, False]])})
    rewirings = Rewirings()
    rewirings.announce({"a.weight": Fraction(9, 10)}, Fraction(0))
    list(rewirings.run(list(masks), masks, Decisions(same, prune, by_index, regrow=regrow), 0))
    assert seen == [expected]


def test_every_layer_draws_its_own_numbers_at_every_rewiring():
    rewirings, masks, drawn = Rewirings(), three(), []

    def scores(layer: LayerView) -> Tensor:
        drawn.append(layer.generator.initial_seed())
        return by_index(layer)

    for seed in (0, 1):
        for _ in range(3):
            rewirings.announce(dict.fromkeys(masks, Fraction(1, 2)), Fraction(0))
            list(rewirings.run(list(masks), masks, Decisions(same, first_active, scores), seed))
    assert len(set(drawn)) == len(drawn) == 18


@pytest.mark.parametrize("factor", [-0.1, 1.1, math.nan])
def test_a_factor_out_of_range_is_refused(factor):
    with pytest.raises(ValueError, match=rf"factor in \[0, 1\], got {factor} at progress 1/2"):
        checked_factor(factor, Fraction(1, 2))
    assert checked_factor(0.3, Fraction(0)) == Fraction(3, 10)


# In trainings.


@pytest.mark.parametrize("growth", ["random", "hebbian"])
@pytest.mark.parametrize(("density", "counts"), [(0.5, [24, 32, 12]), (0.1, [5, 7, 2]), (0.9, [43, 57, 22])])
def test_every_layer_keeps_its_exact_count_through_every_rewiring(fit, model, net, growth, density, counts):
    callback = PruneRegrow(density=density, growth=growth)
    fit(model(net), callback, epochs := Epochs(callback), epochs=5)
    assert [active(masks) for masks in epochs.masks] == [counts] * 5
    assert tuple(callback.masks) == NAMES
    assert callback.rewirings == 4
    for before, after in zip(epochs.masks, epochs.masks[1:], strict=False):
        for name in NAMES:
            grown, pruned = after[name] & ~before[name], before[name] & ~after[name]
            assert int(grown.sum()) == int(pruned.sum()) <= int(before[name].sum())
            assert grown.any() or density == 0.1


def test_prune_fraction_by_name_moves_only_the_layers_it_names(fit, model, net):
    callback = PruneRegrow(density=0.5, prune_fraction={"*.3": 0.5, "*.5": 0.0}, pruning="magnitude")
    fit(model(net), callback, epochs := Epochs(callback), epochs=2)
    moved = [int((before & ~after).sum()) for before, after in zip(*(m.values() for m in epochs.masks), strict=True)]
    assert moved == [0, 16, 0]


def test_prune_fraction_is_lowered_to_the_connections_there_are_to_grow(fit, model, net):
    callback = PruneRegrow(density=0.9, prune_fraction=0.99)
    fit(model(net), callback, epochs := Epochs(callback), epochs=4)
    assert [active(masks) for masks in epochs.masks] == [[43, 57, 22]] * 4
    for before, after in zip(epochs.masks, epochs.masks[1:], strict=False):
        grown = [int((after[name] & ~before[name]).sum()) for name in NAMES]
        assert all(0 < count <= inactive for count, inactive in zip(grown, (5, 7, 2), strict=True))


def test_every_inactive_connection_is_grown_when_more_are_pruned(fit, model, data):
    # Fourteen active weights, all of one sign so that one floor is taken, and six inactive: 6/14 has no end in binary.
    layer = nn.Linear(20, 1, bias=False)
    layer.weight.data = torch.arange(20.0).sub(5).clamp(min=0).view(1, 20)
    data.inputs = torch.zeros(20, 20)
    callback = PruneRegrow(density=0.7, prune_fraction=0.9)
    fit(model(layer), callback, epochs := Epochs(callback), epochs=2)
    before, after = (masks["network.weight"].flatten() for masks in epochs.masks)
    assert before.tolist() == [False] * 6 + [True] * 14
    assert after.tolist() == [True] * 6 + [False] * 6 + [True] * 8


def test_growth_none_never_moves(fit, model, net):
    callback = PruneRegrow(density=0.5, growth=None)
    fit(model(net), callback, epochs := Epochs(callback))
    assert callback.rewirings == 0
    torch.testing.assert_close(epochs.masks, [epochs.masks[0]] * 3)


def test_tied_weights_are_one_layer(fit, model):
    network = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
    network[2].weight = network[0].weight
    fit(model(network), callback := PruneRegrow(density=0.5), watch := Watch(callback))
    assert active(callback.masks) == [18]
    assert int((network[2].weight != 0).sum()) <= 18
    assert watch.moved > 0


@pytest.mark.parametrize("growth", ["random", "hebbian"])
def test_the_same_seed_moves_the_same_way_and_the_global_random_state_is_left_alone(fit, model, net, growth):
    state, found = net.state_dict(), []
    state = {name: tensor.clone() for name, tensor in state.items()}
    for seed, noise in ((0, 1), (0, 2), (1, 1)):
        net.load_state_dict(state)
        torch.manual_seed(noise)
        before = torch.get_rng_state()
        callback = PruneRegrow(growth=growth, seed=seed)
        fit(model(net), callback, epochs := Epochs(callback))
        assert torch.get_rng_state().equal(before)
        found.append(epochs.masks)
    torch.testing.assert_close(found[0], found[1])
    assert not found[0][-1][NAMES[0]].equal(found[2][-1][NAMES[0]])


# A method of one's own, by overriding.


def test_should_rewire_is_a_method_of_its_own(fit, model, net):
    class EverySecondEpoch(PruneRegrow):
        def should_rewire(self, trainer, pl_module):
            return trainer.current_epoch % 2 == 0

    fit(model(net), callback := EverySecondEpoch(), epochs=6)
    assert callback.rewirings == 2


def test_prune_mask_is_a_method_of_its_own(fit, model, net):
    class Magnitude(PruneRegrow):
        def prune_mask(self, layer):
            largest = layer.weight[layer.mask].abs().sort().values[int(layer.prune_fraction * layer.count) - 1]
            return layer.mask & (layer.weight.abs() <= largest)

    callback = Magnitude(density=0.5)
    fit(model(net), callback, epochs := Epochs(callback), epochs=2)
    moved = [int((before & ~after).sum()) for before, after in zip(*(m.values() for m in epochs.masks), strict=True)]
    assert moved == [7, 9, 3]  # 30% of 24, 32 and 12, whatever the signs


def test_growth_scores_is_a_method_of_its_own_and_needs_no_criterion(fit, model, net):
    class OwnGradient(PruneRegrow):
        def on_before_zero_grad(self, trainer, pl_module, optimizer):
            self.gradients = {name: p.grad.abs() for name, p in pl_module.named_parameters() if p.grad is not None}

        def growth_scores(self, layer):
            return self.gradients[layer.name]

    callback = OwnGradient(density=0.5, growth=None)
    fit(model(net), callback, epochs := Epochs(callback), epochs=2)
    assert active(callback.masks) == [24, 32, 12]
    before, after = epochs.masks
    assert all((after[name] & ~before[name]).any() for name in NAMES)


def test_target_counts_is_a_method_of_its_own(fit, model, net):
    class Sparser(PruneRegrow):
        def target_counts(self, layers):
            return {layer.name: int(layer.mask.sum()) - 1 for layer in layers}

    callback = Sparser(density=0.5)
    fit(model(net), callback, epochs := Epochs(callback), epochs=3)
    assert [active(masks) for masks in epochs.masks] == [[24, 32, 12], [23, 31, 11], [22, 30, 10]]


class Calls:
    """A statistic that notes how it is driven."""

    def __init__(self) -> None:
        self.log: list[str] = []

    def attach(self, module, names, optimizers=()):
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


class Diagonal(GrowthCriterion):
    def __init__(self) -> None:
        self.statistics = {"calls": Calls()}

    def scores(self, layer: LayerView) -> Tensor:
        return torch.eye(*layer.weight.shape)


class Constant(CountCriterion):
    def counts(self, layers: Sequence[LayerView]) -> dict[str, int]:
        return {}


class Nothing(PruningCriterion):
    def prune(self, layer: LayerView) -> Tensor:
        return torch.zeros_like(layer.mask)


def test_a_growth_of_ones_own_scores_and_gathers(fit, model, net):
    callback = PruneRegrow(density=0.2, growth=Diagonal())
    fit(model(net), callback, epochs=2)
    log = [call for call in callback.growth.statistics["calls"].log if call != "detach"]
    log = log[log.index("attach 3") :]
    assert log == ["attach 3", *["count"] * 3, "reset", *["count"] * 3]
    assert callback.growth.statistics["calls"].log[-1] == "detach"
    assert callback.masks[NAMES[1]].diagonal().sum() >= 4


def test_criteria_of_ones_own_for_all_three_decisions(fit, model, net):
    callback = PruneRegrow(density=0.5, growth=Diagonal(), pruning=Nothing(), counts=Constant())
    fit(model(net), callback, epochs := Epochs(callback))
    assert callback.rewirings == 2
    torch.testing.assert_close(epochs.masks, [epochs.masks[0]] * 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"growth": "Hebbian"}, "growth to be one of random, .*, got 'Hebbian': did you mean 'hebbian'"),
        ({"pruning": "weight"}, "pruning to be one of signed_magnitude, magnitude, .*, got 'weight'"),
        ({"growth": MagnitudePruning()}, r"growth to be a name or a GrowthCriterion, got MagnitudePruning\(\)"),
        ({"pruning": HebbianGrowth()}, r"pruning to be a name or a PruningCriterion, got HebbianGrowth\(\)"),
        ({"counts": 3}, "counts to be a name or a CountCriterion, got 3"),
    ],
)
def test_what_is_no_criterion_is_refused(arguments, message):
    with pytest.raises(ValueError, match=f"Expected {message}"):
        PruneRegrow(**arguments)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_scores_that_are_not_numbers_are_refused_with_the_name_of_the_layer(fit, model, net, value):
    class Broken(PruneRegrow):
        def growth_scores(self, layer):
            return torch.full_like(layer.weight, value if layer.name == NAMES[1] else 0.0)

    with pytest.raises(ValueError, match=r"Rewiring 1 of 'network\.3\.weight': Expected finite scores, got NaN or inf"):
        fit(model(net), Broken(), epochs=2)


def test_rewiring_by_hand(model, net):
    callback = PruneRegrow(0.5, pruning="magnitude")
    with pytest.raises(RuntimeError, match="Expected a model that fit or sparsify has set up, got none to rewire"):
        callback.rewire()
    callback.sparsify(module := model(net))
    before = {name: mask.clone() for name, mask in callback.masks.items()}
    callback.rewire(factor=0.5)
    moved = [int((before[name] & ~mask).sum()) for name, mask in callback.masks.items()]
    assert moved == [3, 4, 1]
    assert callback.rewirings == 1
    assert not any(module.get_parameter(name)[~mask].any() for name, mask in callback.masks.items())


# Which layers take part.


def test_growth_and_pruning_share_one_count_of_coactivation(fit, model, net):
    callback = PruneRegrow(density=0.5, growth="hebbian", pruning="hebbian")
    assert callback.growth.coactivation is callback.pruning.coactivation
    fit(model(net), callback, epochs=2)
    assert set(callback.growth.coactivation.samples.values()) == {20}
    with pytest.raises(ValueError, match="Expected criteria that need the same coactivation, got two that differ"):
        PruneRegrow(growth=HebbianGrowth(count_validation=True), pruning="hebbian")


def test_one_criterion_given_to_two_callbacks_is_two(fit, model, net):
    growth = HebbianGrowth()
    callbacks = [PruneRegrow(0.5, growth=growth, include=f"network.{number}") for number in (0, 3)]
    assert callbacks[0].growth is not growth
    fit(model(net), *callbacks)
    assert [set(each.growth.coactivation.samples) for each in callbacks] == [{NAMES[0]}, {NAMES[1]}]
    assert [each.rewirings for each in callbacks] == [2, 2]
    assert not growth.coactivation.samples


def test_gradient_growth_reads_the_gradient_of_the_step_just_taken(fit, model, net):
    class Look(PruneRegrow):
        def growth_scores(self, layer):
            scores = super().growth_scores(layer)
            assert scores.equal(layer.weight.grad.abs())
            assert scores[~layer.mask].any()
            self.batches.append((self.trainer.current_epoch, self.trainer.global_step))
            return scores

        def setup(self, trainer, pl_module, stage):
            super().setup(trainer, pl_module, stage)
            self.trainer, self.batches = trainer, []

    fit(model(net), callback := Look(density=0.5, growth="gradient"))
    assert callback.rewirings == 2
    assert callback.batches == [(1, 3)] * 3 + [(2, 6)] * 3  # steps of an epoch are three; the fourth is in progress


def by_hand(model: type[LightningModule], taken: Any, spoil: Any = None) -> type[LightningModule]:
    """A Model that trains by hand, takes only some steps, and may spoil the gradients of some."""

    class ByHand(model):
        automatic_optimization = False

        def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
            self.tried = getattr(self, "tried", -1) + 1
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(super().training_step(batch, batch_idx))
            if spoil and self.tried in spoil:
                self.network[3].weight.grad[0, 0] = math.inf
                fused = optimizer.optimizer
                fused.found_inf = torch.ones(())  # as a scaler tells a fused optimizer, which then changes nothing
                before = self.network[0].bias.detach().clone()
                optimizer.step()
                del fused.found_inf
                assert self.network[0].bias.equal(before)
            elif self.tried in taken:
                optimizer.step()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.01, fused=True)

    return ByHand


class When(PruneRegrow):
    """Notes after which batches layers grow."""

    def growth_scores(self, layer):
        self.when.append((self.model.tried, layer.name))
        return super().growth_scores(layer)


def test_growth_by_gradient_waits_for_the_next_step_that_is_taken(fit, model, net):
    callback = When(density=0.5, growth="gradient")
    callback.when, callback.model = [], by_hand(model, [0, 1, 5, 6])(net)
    fit(callback.model, callback)
    # The second epoch begins with batch 3, whose step is left out as the next one's; the third with batch 6.
    assert [when for when, _ in callback.when] == [5] * 3 + [6] * 3
    assert callback.rewirings == 2


def test_growth_by_gradient_waits_where_a_gradient_is_not_finite(fit, model, net):
    callback = When(density=0.5, growth="gradient")
    callback.when, callback.model = [], by_hand(model, range(9), spoil=[3, 6])(net)
    fit(callback.model, callback)
    second = [when for when, name in callback.when if name == NAMES[1]]
    assert second == [4, 7]
    assert callback.rewirings == 2


class Unused(LightningModule):
    """A model with a layer that the loss does not reach, and one that is never called."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.side, self.never = network, nn.Linear(6, 6), nn.Linear(6, 6)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        self.side(batch[0])
        return self.network(batch[0]).logsumexp(-1).mean()

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None: ...

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


@pytest.mark.parametrize(
    ("growth", "kept", "reason"),
    [
        ("momentum", ["side", "never"], "nothing is known about them"),
        ("gradient", ["side", "never"], "no gradient has reached them"),
        ("hebbian", ["never"], "nothing is known about them"),
        ("random", [], ""),
    ],
)
def test_layers_that_a_criterion_knows_nothing_about_keep_their_connections_with_one_warning(
    fit, net, growth, kept, reason
):
    callback, module = PruneRegrow(0.5, growth=growth), Unused(net)
    epochs, watch = Epochs(callback), Watch(callback)
    if kept:
        message = rf"{', '.join(kept)} kept their connections at a rewiring, since {reason}.*exclude=\['{kept[0]}'"
        with pytest.warns(UserWarning, match=message) as warned:
            fit(module, callback, epochs, watch, epochs=4)
        assert len([each for each in warned if "kept their connections" in str(each.message)]) == 1
    else:
        fit(module, callback, epochs, watch, epochs=4)
    still = {name for name in callback.masks if epochs.masks[0][name].equal(epochs.masks[-1][name])}
    assert still == {f"{name}.weight" for name in kept}
    assert watch.moved > 0


def test_several_batches_accumulated_are_the_gradient_that_grows(fit, model, net):
    callback = RigL(0.5, every_n_steps=1, stop=None)
    fit(model(net), callback, watch := Watch(callback), epochs=3, accumulate_grad_batches=2, gradient_clip_val=0.01)
    assert callback.rewirings == 5
    assert watch.moved > 0


def test_a_name_that_is_nearly_a_hook_is_warned_of_where_the_method_is_used(recwarn):
    class Mine(PruneRegrow):
        def growth_score(self, layer):
            return layer.weight

    class Fine(PruneRegrow):
        def growth_scores(self, layer):
            return self.weigh(layer)

        def weigh(self, layer):
            return layer.weight

    class Helped(Fine):
        def _growth_scores(self, layer):
            return layer.weight

    Fine()
    Helped()
    assert not [each for each in recwarn if "called by nothing" in str(each.message)]
    with pytest.warns(UserWarning, match="Mine.growth_score is called by nothing: did you mean growth_scores?"):
        Mine()


def test_a_subclass_that_reads_the_gradient_is_asked_once_there_is_one(fit, model, net):
    class ByGradient(PruneRegrow):
        reads_gradient = True

        def growth_scores(self, layer):
            return layer.gradient.abs()

    masks = []
    for callback in (ByGradient(0.3, growth=None, seed=1), PruneRegrow(0.3, growth="gradient", seed=1)):
        fit(model(copy.deepcopy(net)), callback, epochs=3)
        assert callback.rewirings == 2
        masks.append(dict(callback.masks))
    assert all(mask.equal(masks[1][name]) for name, mask in masks[0].items())


def test_a_subclass_that_reads_the_gradient_is_refused_one_that_is_not_there(net):
    class GrowsByGradient(PruneRegrow):
        reads_gradient = True

        def growth_scores(self, layer):
            return layer.gradient.abs()

    class PrunesByGradient(PruneRegrow):
        reads_gradient = True

        def prune_mask(self, layer):
            return layer.gradient < 0

    for kind in (GrowsByGradient, PrunesByGradient):
        callback = kind(0.3)
        callback.sparsify(copy.deepcopy(net))
        with pytest.raises(
            ValueError, match="Expected a gradient to rewire by, got none: rewire after a backward pass"
        ):
            callback.rewire()


def test_a_mask_of_what_to_prune_that_is_not_boolean_is_refused(fit, model, net):
    class Floats(PruneRegrow):
        def prune_mask(self, layer):
            return layer.values.abs()

    with pytest.raises(ValueError, match=r"Rewiring 1 of .*boolean mask of what to prune, got one of torch\.float32"):
        fit(model(net), Floats(0.3), epochs=2)


def test_a_criterion_given_as_its_class_is_answered_with_an_instance():
    with pytest.raises(ValueError, match=r"to be a name or a GrowthCriterion, got .*did you mean HebbianGrowth\(\)"):
        PruneRegrow(growth=HebbianGrowth)


def test_counts_of_layers_that_are_not_there_are_refused():
    class Wrong(PruneRegrow):
        def target_counts(self, layers):
            return {"nope": 10}

    callback = Wrong(0.5)
    callback.sparsify(nn.Sequential(nn.Linear(4, 4)))
    with pytest.raises(ValueError, match=r"layers that are rewired \(0\.weight\), got nope"):
        callback.rewire()
