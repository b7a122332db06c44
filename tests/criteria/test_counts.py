"""Connections move to the layers of the largest momentum, and none is lost."""

from fractions import Fraction

import pytest
import torch
from common import Model
from torch import nn

from sparse_lightning import DSR, SNFS, GlobalMagnitudePruning, LayerView, MomentumRedistribution, PruneRegrow
from sparse_lightning.criteria.counts import SurvivorRedistribution
from sparse_lightning.functional.masks import derived_generator
from sparse_lightning.functional.redistribution import share_out, surviving


@pytest.mark.parametrize(
    ("total", "weights", "limits", "expected"),
    [
        (4, [1.0, 1.0], [9, 9], [2, 2]),
        (4, [3.0, 1.0], [9, 9], [3, 1]),
        (4, [3.0, 1.0], [1, 9], [1, 3]),  # what does not fit goes to the other
        (3, [0.0, 0.0, 0.0], [9, 9, 9], [1, 1, 1]),
        (2, [2.0, 1.0, 1.0], [9, 9, 9], [2, 0, 0]),  # the last one goes to the largest share
        (5, [1.0, 0.0], [2, 3], [2, 3]),
        (0, [1.0, 1.0], [0, 0], [0, 0]),
    ],
)
def test_connections_are_shared_out_exactly(
    total: int, weights: list[float], limits: list[int], expected: list[int]
) -> None:
    names = [str(number) for number in range(len(weights))]
    shared = share_out(total, dict(zip(names, weights, strict=True)), dict(zip(names, limits, strict=True)))
    assert list(shared.values()) == expected


def test_each_layer_gets_the_share_of_its_mean_momentum() -> None:
    momentum = {"a": torch.tensor([[4.0, 2.0, 9.0, 9.0]]), "b": torch.tensor([[-1.0, 1.0, 9.0, 9.0]])}
    mask = torch.tensor([[True, True, False, False]])
    criterion = MomentumRedistribution()
    criterion._momentum.of = momentum.__getitem__  # type: ignore[method-assign]
    layers = [
        LayerView(
            name=name,
            weight=torch.ones(1, 4),
            mask=mask,
            prune_fraction=Fraction(1),
            progress=Fraction(0),
            generator=derived_generator(0),
        )
        for name in momentum
    ]
    # Four are pruned; means of 3 and 1 share them 3 to 1, but a layer can take two new ones.
    assert criterion.counts(layers) == {"a": 2, "b": 2}
    for layer in layers:
        layer.prune_fraction = Fraction(1, 2)
    assert criterion.counts(layers) == {"a": 3, "b": 1}  # of the two that are pruned, by shares of 1.5 and 0.5


def test_snfs_moves_connections_between_layers_and_loses_none(fit, net: nn.Module) -> None:
    sparse = SNFS(density=0.25, counts=MomentumRedistribution(), seed=1)
    fit(Model(net), sparse, epochs=4)
    counts = [int(mask.sum()) for mask in sparse.masks.values()]
    assert sparse.rewirings == 3
    assert sum(counts) == 12 + 16 + 6
    assert counts != [12, 16, 6]


# The smallest of all layers, and growth where connections last.


def layer(name: str, values: list[float], inactive: int, fraction: str = "0.5") -> LayerView:
    weight = torch.tensor([values + [0.0] * inactive])
    return LayerView(
        name=name,
        weight=weight,
        mask=torch.tensor([[True] * len(values) + [False] * inactive]),
        prune_fraction=Fraction(fraction),
        progress=Fraction(0),
        generator=derived_generator(0),
    )


def test_the_smallest_of_all_layers_are_pruned() -> None:
    layers = [layer("a", [0.1, -0.2, 0.3, 0.9], 8), layer("b", [5.0, -6.0, 0.25, 7.0], 8)]
    refined = GlobalMagnitudePruning().refine(layers)
    assert refined["a"].tolist() == [True, True, True, False]
    assert refined["b"].tolist() == [False, False, True, False]


def test_a_layer_keeps_its_minimum_and_prunes_no_more_than_it_can_grow() -> None:
    layers = [layer("a", [0.1, -0.2, 0.3, 0.9], 8), layer("b", [5.0, -6.0, 0.25, 7.0], 8)]
    refined = GlobalMagnitudePruning(minimum=0.5).refine(layers)
    assert {name: int(each.sum()) for name, each in refined.items()} == {"a": 2, "b": 2}
    full = [layer("a", [0.1, -0.2, 0.3, 0.9], 1), layer("b", [5.0, -6.0, 0.25, 7.0], 8)]
    assert GlobalMagnitudePruning().refine(full)["a"].tolist() == [True, False, False, False]
    assert surviving({"a": torch.tensor([1.0]), "b": torch.tensor([2.0])}, 2) == {"a": 1, "b": 1}


def test_connections_grow_where_they_last() -> None:
    layers = [layer("a", [0.1, -0.2, 0.3, 0.9], 8), layer("b", [5.0, -6.0, 0.25, 7.0], 8)]
    counts = SurvivorRedistribution().counts(layers)  # 1 and 3 are kept, 4 are shared 1 to 3
    assert counts == {"a": 2, "b": 6}
    layers[1].count, layers[0].count = 6, 2
    refined = GlobalMagnitudePruning().refine(layers)  # sees the numbers that each layer shall have
    assert {name: int(each.sum()) for name, each in refined.items()} == {"a": 3, "b": 1}


def test_dsr_moves_connections_between_layers_and_loses_none(fit, net: nn.Module) -> None:
    counts = []

    class Counting(DSR):
        def target_counts(self, layers):
            found = super().target_counts(layers)
            counts.append([found[name] for name in self.masks])
            return found

    sparse = Counting(density=0.25, prune_fraction=0.3, every_n_steps=2, stop=None, seed=1)
    fit(Model(net), sparse, epochs=4)
    assert len(counts) >= 4
    assert len({tuple(each) for each in counts}) > 1
    assert {sum(each) for each in counts} == {34}
    assert sum(int(mask.sum()) for mask in sparse.masks.values()) == 34


def test_global_pruning_keeps_the_number_of_each_layer(fit, net: nn.Module) -> None:
    sparse = PruneRegrow(density=0.25, pruning="global_magnitude", seed=1)
    fit(Model(net), sparse, epochs=4)
    assert [int(mask.sum()) for mask in sparse.masks.values()] == [12, 16, 6]
    assert sparse.rewirings == 3


@pytest.mark.parametrize("kind", [GlobalMagnitudePruning, SurvivorRedistribution])
def test_a_minimum_out_of_range_is_refused(kind: type) -> None:
    with pytest.raises(ValueError, match=r"Expected minimum in \[0, 1\], got 2"):
        kind(2)
    assert repr(kind(0.5)) == f"{kind.__name__}(minimum=0.5)"
    assert repr(kind()) == f"{kind.__name__}()"
