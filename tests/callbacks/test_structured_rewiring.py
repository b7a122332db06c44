"""Structures in training: every criterion respects them, in both layouts, and resumed runs too."""

import pytest
import torch
from torch import nn

from sparse_lightning import PruneRegrow, RigL, SRigL
from sparse_lightning.export.semi_structured import is_n_m
from sparse_lightning.functional.masks import positions_of
from sparse_lightning.functional.structure import structure_of

WAYS = [
    {"growth": "random"},
    {"growth": "hebbian", "pruning": "weighted_hebbian"},
    {"growth": "gradient", "pruning": "magnitude", "regrow": True},
    {"growth": "momentum"},
    {"growth": "soft_cannistraci_hebb", "pruning": "soft_magnitude"},
]


@pytest.fixture
def even() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))


@pytest.mark.parametrize("layout", ["masked", "csr"])
@pytest.mark.parametrize("structure", ["1:2", "fan_in", "fan_in:0.6", "2x2"])
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way["growth"])
def test_every_criterion_keeps_the_structure_and_the_number(fit, model, even, way, structure, layout):
    seen = []

    class Watch(PruneRegrow):
        def should_rewire(self, trainer, pl_module):
            seen.append({name: mask.clone() for name, mask in self.masks.items()})
            return super().should_rewire(trainer, pl_module)

    callback = Watch(0.5, structure=structure, seed=0, layout=layout, **way)
    fit(model(even), callback, epochs=6)
    assert callback.rewirings == 5
    assert any(not seen[0][name].equal(mask) for name, mask in callback.masks.items())
    for masks in (*seen, callback.masks):
        for mask in masks.values():
            assert int(mask.sum()) == mask.numel() // 2
            assert structure_of(structure).fits(positions_of(mask), mask.shape)


@pytest.mark.parametrize("growth", ["random", "gradient"])
def test_connections_alone_have_the_masks_of_masked_training(fit, model, even, growth):
    state, found = {name: each.clone() for name, each in even.state_dict().items()}, []
    for layout in ("masked", "csr"):
        network = nn.Sequential(
            *[
                type(each)(each.in_features, each.out_features) if isinstance(each, nn.Linear) else nn.ReLU()
                for each in even
            ]
        )
        network.load_state_dict(state)
        callback = PruneRegrow(0.5, structure="fan_in", growth=growth, seed=0, layout=layout)
        fit(model(network), callback, epochs=4)
        found.append(callback.masks)
    assert all(mask.equal(found[1][name]) for name, mask in found[0].items())


def test_convolutions_have_one_fan_in_of_all_their_inputs(fit, model):
    network = nn.Sequential(nn.Unflatten(1, (1, 6)), nn.Conv1d(1, 4, 3), nn.ReLU(), nn.Conv1d(4, 6, 2), nn.Flatten())
    callback = RigL(0.5, structure="fan_in", every_n_steps=2, distribution="uniform", seed=0)
    fit(model(network), callback, epochs=4)
    for mask in callback.masks.values():
        assert len(set(mask.flatten(1).sum(1).tolist())) == 1


@pytest.mark.parametrize("layout", ["masked", "csr"])
def test_units_are_ablated_in_training_and_the_number_stays(fit, model, layout):
    network = nn.Sequential(nn.Linear(6, 40), nn.ReLU(), nn.Linear(40, 4))
    callback = SRigL(0.2, structure="fan_in:0.9", every_n_steps=2, distribution="uniform", seed=0, layout=layout)
    fit(model(network), callback, epochs=6)
    first, last = callback.masks.values()
    assert last.any(1).all()
    counts = first.sum(1)
    assert int(counts.sum()) == 48
    assert 0 < int((counts > 0).sum()) < 40
    assert counts[counts > 0].max() - counts[counts > 0].min() <= 1


def test_trained_weights_are_cut_to_the_largest_that_the_structure_allows(model, even):
    weight = even[2].weight.detach().clone()
    callback = PruneRegrow(0.5, structure="2:4", initial="magnitude", include="network.2")
    callback.sparsify(model(even))
    (mask,) = callback.masks.values()
    groups = weight.abs().view(-1, 4)
    assert mask.view(-1, 4).equal(groups >= groups.sort(1, descending=True).values[:, 1:2])
    assert is_n_m(even[2].weight, 2, 4)


def test_the_number_is_rounded_to_one_that_fits(model, even):
    callback = PruneRegrow(0.3, structure="fan_in")
    callback.sparsify(model(even))
    assert [int(mask.sum()) for mask in callback.masks.values()] == [16, 16, 8]


def test_what_cannot_have_the_structure_is_refused_by_name(model, even, net):
    for structure, density, message in (
        ("2:4", 0.5, "Expected inputs in multiples of 4, got 6, of 'network.0.weight': exclude it, or choose another"),
        ("1:2", 0.2, "Expected a density of 0.5, 1 of every 2, got 0.208333, of 'network.0.weight'"),
        (
            "3x2",
            0.5,
            "Expected units in multiples of 3 with inputs in multiples of 2, got 8 with 6, of 'network.0.weight'",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            PruneRegrow(density, structure=structure).sparsify(model(even))
    masks = {"network.0.weight": torch.arange(48).view(8, 6) < 24}
    with pytest.raises(ValueError, match=r"Expected connections of 'network.0.weight' with the structure that is"):
        PruneRegrow(0.5, structure="fan_in", initial=masks).sparsify(model(even))


def test_a_number_that_changes_is_refused_with_a_structure():
    with pytest.raises(ValueError, match="Expected initial_density=None with a structure"):
        PruneRegrow(0.2, structure="fan_in", initial_density=1.0)
    with pytest.raises(ValueError, match="Expected counts=None with a structure"):
        PruneRegrow(0.2, structure="fan_in", counts="momentum")

    class Fewer(PruneRegrow):
        def target_counts(self, layers):
            return {layer.name: layer.count - 1 for layer in layers}

    network = nn.Sequential(nn.Linear(4, 4))
    callback = Fewer(0.5, structure="fan_in")
    callback.sparsify(network)
    with pytest.raises(
        ValueError, match=r"'0.weight': Expected a layer with a structure to keep its 8 connections, got 7"
    ):
        callback.rewire()


def test_a_resumed_training_gives_the_same_bits_and_another_structure_is_refused(fit, model, even, tmp_path):
    def parts(structure="fan_in"):
        network = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4))
        network.load_state_dict(
            {f"{to}.{kind}": even[at].state_dict()[kind] for to, at in ((0, 0), (2, 4)) for kind in ("weight", "bias")}
        )
        return model(network), PruneRegrow(0.5, structure=structure, growth="hebbian", seed=3)

    straight = parts()
    fit(*straight, epochs=4)
    half = parts()
    fit(*half, epochs=2).save_checkpoint(tmp_path / "half.ckpt")
    again = parts()
    fit(*again, epochs=4, ckpt_path=tmp_path / "half.ckpt")
    assert all(mask.equal(straight[1].masks[name]) for name, mask in again[1].masks.items())
    assert all(one.equal(other) for one, other in zip(again[0].parameters(), straight[0].parameters(), strict=True))
    with pytest.raises(ValueError, match="structure"):
        fit(*parts("1:2"), epochs=4, ckpt_path=tmp_path / "half.ckpt")
