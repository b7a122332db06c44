import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparse_lightning import PruneRegrow
from sparse_lightning.callbacks.selection import Choice, Selection, matches, patterns
from sparse_lightning.functional.densities import DENSITIES

LAZY = pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")


def select(module: nn.Module, trained: Callable[[nn.Parameter], bool] | None = None, **options: Any) -> Choice:
    chosen = {"density": 0.5, "prune_fraction": 0.3, "include": None, "exclude": (), "distribution": "uniform"}
    chosen |= {name: patterns(name, value) if name.endswith("clude") else value for name, value in options.items()}
    selection = Selection(**chosen | {"distribution": DENSITIES[chosen["distribution"]]})
    return selection.choose(module, trained or (lambda weight: weight.requires_grad))


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
    assert sorted(select(Mixed(), **options).counts) == sorted(names)


@pytest.mark.parametrize("argument", ["include", "exclude"])
def test_a_pattern_that_matches_nothing_is_refused_by_name(argument):
    with pytest.raises(ValueError, match=rf"match 'decoder\.\*' in {argument}, got only conv, up, attention\.out_proj"):
        select(Mixed(), **{argument: ["head", "decoder.*"]})


@pytest.mark.parametrize("argument", ["density", "prune_fraction"])
def test_a_layer_name_that_matches_nothing_is_refused_with_those_there_are(argument):
    message = rf"match 'encoder\.\*' in {argument}, got only conv, up, attention\.out_proj, head"
    with pytest.raises(ValueError, match=message):
        select(Mixed(), **{argument: {"head": 0.5, "encoder.*": 0.5}})


def test_an_unknown_layer_name_gets_the_nearest_one():
    with pytest.raises(ValueError, match=r"in exclude, got only .*: did you mean 'head'"):
        select(Mixed(), exclude="haed")


def test_a_name_without_the_path_before_it_gets_a_star():
    with pytest.raises(ValueError, match=r"got only .*: did you mean '\*out_proj'"):
        select(Mixed(), include="out_proj")


def test_the_density_of_a_pattern_is_spread_over_what_it_matches():
    counts = select(Mixed(), density={"conv": 0.5, "*": 0.1}, distribution="erk").counts
    assert counts["conv.weight"] == 36
    assert sum(counts.values()) == 36 + round(0.1 * (72 + 16 + 24))
    # Of the 11, in proportion to 6 + 4 + 3, 4 + 4 and 6 + 4: 4.6, 2.8 and 3.5.
    assert [counts[name] for name in USUAL[1:]] == [5, 3, 3]


def test_the_first_pattern_that_matches_decides_and_other_layers_stay_dense():
    net = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3))
    choice = select(net, density={"0": 0.5, "[01]": 0.25})
    assert choice.counts == {"0.weight": 24, "1.weight": 16}
    assert set(choice.dense) == {"2.weight"}
    assert select(net, density={"0.weight": 0.5}).counts == {"0.weight": 24}


def test_a_density_that_leaves_a_layer_without_a_connection_is_refused_by_name():
    net = nn.Sequential(nn.Linear(100, 100), nn.Linear(100, 1))
    with pytest.raises(ValueError, match=r"Expected a density that leaves '1\.weight' a connection, got 0\.001"):
        select(net, density=0.001)


def test_only_trained_weights_are_chosen_and_the_density_is_of_those():
    net = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 4))
    net[1].requires_grad_(False)
    choice = select(net, density=0.25)
    assert choice.counts == {"0.weight": 8, "2.weight": 8}
    assert choice.dense == {"1.weight": "not trained"}
    assert not select(net, lambda weight: False).counts


def test_what_stays_dense_has_a_reason():
    network = Mixed()
    network.up.requires_grad_(False)
    network.tied = nn.Linear(4, 6, bias=False)
    network.tied.weight = network.embedding.weight
    dense = select(network, include=["conv", "attention.*", "up"], exclude="attention.*").dense
    assert dense == {
        "embedding.weight": "shared with an embedding",
        "up.weight": "not trained",
        "attention.in_proj_weight": "not the weight of a Linear or a convolution",
        "attention.out_proj.weight": "excluded",
        "head.weight": "not included",
    }


def test_tied_layers_are_one_weight_under_its_first_name():
    net = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
    net[2].weight = net[0].weight
    assert select(net).counts == {"0.weight": 18}


# A documented rule for each kind of weight.


class Tied(nn.Module):
    """Tokens embedded, passed through a Linear and decoded by the embedding's weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.body, self.decoder = nn.Embedding(10, 8), nn.Linear(8, 8), nn.Linear(8, 10, bias=False)
        self.decoder.weight = self.embedding.weight


@pytest.mark.parametrize("include", [None, "*", ["body", "*"]])
def test_a_weight_shared_with_an_embedding_is_not_taken_by_the_way(include):
    options = {} if include is None else {"include": include}
    assert set(select(Tied(), **options).counts) == {"body.weight"}


def test_a_weight_shared_with_an_embedding_is_taken_by_name():
    assert set(select(Tied(), include=["embedding", "body"]).counts) == {"embedding.weight", "body.weight"}


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_weights_are_taken_by_a_pattern_without_their_biases(kind):
    module = nn.ModuleDict({"rnn": kind(5, 4, num_layers=2), "head": nn.Linear(4, 3)})
    assert set(select(module).counts) == {"head.weight"}
    names = {f"rnn.weight_{side}_l{layer}" for side in ("ih", "hh") for layer in (0, 1)}
    assert set(select(module, include="rnn.*").counts) == names
    assert set(select(module, include=["rnn.weight_hh_*", "head"]).counts) == {
        *("rnn.weight_hh_l0", "rnn.weight_hh_l1", "head.weight")
    }
    assert set(select(module, include="rnn.bias_ih_l0").counts) == {"rnn.bias_ih_l0"}


class Experts(nn.Module):
    """A mixture whose experts' weights are stacked in three dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Parameter(torch.randn(3, 4, 8)), nn.Parameter(torch.randn(3, 8, 4))
        self.bias, self.gate = nn.Parameter(torch.zeros(3, 8)), nn.Linear(4, 3)


def test_the_weights_of_stacked_experts_are_taken_by_name():
    module = nn.ModuleDict({"experts": Experts()})
    assert set(select(module).counts) == {"experts.gate.weight"}
    assert select(module, include=["experts.up", "experts.down"], density=0.25).counts == {
        "experts.up": 24,
        "experts.down": 24,
    }


def test_embeddings_of_both_kinds_are_taken_by_name_alone():
    module = nn.ModuleDict({"bag": nn.EmbeddingBag(6, 4), "one": nn.Embedding(6, 4), "fc": nn.Linear(4, 2)})
    assert set(select(module).counts) == {"fc.weight"}
    assert set(select(module, include=["bag", "one"]).counts) == {"bag.weight", "one.weight"}


def test_every_convolution_is_taken():
    kinds = [nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d]
    module = nn.ModuleList(kind(2, 4, 3) for kind in kinds)
    assert list(select(module).counts) == [f"{number}.weight" for number in range(6)]


def test_hugging_faces_transposed_linear_is_taken():
    utils = pytest.importorskip("transformers.pytorch_utils")
    module = nn.ModuleDict({"mlp": utils.Conv1D(8, 4), "norm": nn.LayerNorm(8)})
    assert select(module).counts == {"mlp.weight": 16}


# Weights that are not there, or are computed.


@LAZY
def test_lazy_layers_are_awaited():
    net = nn.Sequential(nn.LazyLinear(8), nn.LazyConv1d(4, 3), nn.Linear(8, 3))
    choice = select(net)
    assert set(choice.pending) == {"0.weight", "1.weight"}
    assert choice.counts == {"2.weight": 12}
    assert select(net, exclude="0").pending == ("1.weight",)


def computed() -> list[nn.Module]:
    parametrizations = nn.utils.parametrizations
    return [
        parametrizations.weight_norm(nn.Linear(8, 8)),
        parametrizations.spectral_norm(nn.Linear(8, 8)),
        parametrizations.orthogonal(nn.Linear(8, 8)),
        parametrizations.weight_norm(nn.Conv1d(8, 8, 1)),
    ]


@pytest.mark.parametrize("number", range(4))
def test_a_layer_that_computes_its_weight_is_refused_by_name_unless_excluded(number):
    net = nn.Sequential(nn.Linear(8, 8), computed()[number])
    with pytest.raises(ValueError, match="Expected the weight of '1' to be a parameter, got one computed from others"):
        select(net)
    assert set(select(net, exclude="1").counts) == {"0.weight"}
    assert set(select(net, include="0").counts) == {"0.weight"}


def test_what_a_weight_is_computed_from_can_be_named():
    net = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(6, 8)), nn.Linear(8, 3))
    assert select(net, include="*.original1").counts == {"0.parametrizations.weight.original1": 24}


class StandardisedConv(nn.Conv2d):
    """A convolution whose weight is standardised at every call."""

    def forward(self, images: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(images, weight, self.bias, self.stride, self.padding)


class PaddedConv(nn.Conv2d):
    """A convolution by another name."""


def test_convolutions_with_a_forward_pass_of_their_own_are_found():
    net = nn.Sequential(nn.Conv2d(1, 4, 3), StandardisedConv(4, 4, 3), PaddedConv(4, 4, 3))
    assert select(net).custom == ("1",)
    assert select(net, exclude="1").custom == ()


def test_standardised_convolutions_are_warned_of_by_name():
    net = nn.Sequential(nn.Conv2d(1, 4, 3), StandardisedConv(4, 4, 3))
    with pytest.warns(UserWarning, match="The forward pass of 1 is their own.*that weight is not sparse: exclude"):
        PruneRegrow().sparsify(net)
    PruneRegrow(exclude="1").sparsify(nn.Sequential(nn.Conv2d(1, 4, 3), StandardisedConv(4, 4, 3)))


# Fractions of layers, and the arguments.


def test_the_prune_fraction_of_a_layer_is_that_of_the_first_pattern():
    selection = Selection(0.5, {"enc.*": 0.1, "*.fc": 0.4}, None, (), DENSITIES["uniform"])
    names = ("enc.fc.weight", "dec.fc.weight", "dec.conv.weight")
    assert [selection.fraction(name) for name in names] == [Fraction(1, 10), Fraction(2, 5), 0]
    assert Selection(0.5, 0.3, None, (), DENSITIES["uniform"]).fraction("any.weight") == Fraction(3, 10)


def test_a_glob_is_of_a_parameter_or_its_layer():
    assert matches("a.weight", "a")
    assert matches("a.weight", "a.weight")
    assert matches("a.weight", "*.weight")
    assert matches("a.weight_hh_l0", "a")
    assert not matches("ab.weight", "a")
    assert not matches("b.a", "a")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"density": 0}, r"Expected density in \(0, 1\], got 0"),
        ({"density": 1.3}, r"Expected density in \(0, 1\], got 1.3"),
        ({"density": 80}, r"Expected density in \(0, 1\], got 80: did you mean 0\.8\?"),
        ({"prune_fraction": 100}, r"Expected prune_fraction in \[0, 1\), got 100$"),
        ({"prune_fraction": 30}, r"Expected prune_fraction in \[0, 1\), got 30: did you mean 0\.3\?"),
        ({"density": math.nan}, r"Expected density in \(0, 1\], got nan"),
        ({"density": True}, r"Expected density in \(0, 1\], got True"),
        ({"density": {"a": 0.5, "b": -0.1}}, r"Expected density in \(0, 1\], got -0.1"),
        ({"density": {}}, "Expected density by layer name, got {}"),
        ({"density": "half"}, r"Expected density in \(0, 1\], got 'half'"),
        ({"density": {0: 0.5}}, "Expected density to be a number or numbers by layer name, got {0: 0.5}"),
        ({"prune_fraction": 1}, r"Expected prune_fraction in \[0, 1\), got 1"),
        ({"prune_fraction": -0.3}, r"Expected prune_fraction in \[0, 1\), got -0.3"),
        ({"prune_fraction": {"a": 1.3}}, r"Expected prune_fraction in \[0, 1\), got 1.3"),
        ({"prune_fraction": {0: 0.5}}, "Expected prune_fraction to be a number or numbers by layer name, got {0"),
        ({"include": []}, r"Expected include to be patterns or None, got \(\)"),
        ({"include": 3}, "Expected include to be patterns, got 3"),
        ({"exclude": [3]}, r"Expected exclude to be patterns, got \[3\]"),
        ({"distribution": "ERK"}, "Expected distribution to be one of uniform, erdos_renyi, erk, got 'ERK': did you"),
    ],
)
def test_arguments_out_of_range_are_refused_at_construction(arguments, message):
    with pytest.raises(ValueError, match=message):
        PruneRegrow(**arguments)


def test_numbers_of_numpy_are_numbers():
    assert PruneRegrow(np.float32(0.5), prune_fraction=np.float64(0.25), start=np.int64(2), seed=np.int32(1)).start == 2
