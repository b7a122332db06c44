"""Connections move to the layers of the largest momentum, and none is lost."""

from fractions import Fraction

import pytest
import torch
from common import Model
from torch import nn

from sparse_lightning import SNFS, LayerView, MomentumRedistribution
from sparse_lightning.functional.masks import derived_generator
from sparse_lightning.functional.redistribution import share_out


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
