import math
from fractions import Fraction

import pytest
import torch

from sparse_lightning.masks import generator_for
from sparse_lightning.pruning import signed_magnitude


def pruned(weight: list[float], fraction: float, mask: list[int] | None = None, seed: int = 0) -> list[int]:
    active = torch.tensor(mask or [1] * len(weight)).bool()
    return signed_magnitude(torch.tensor(weight), active, fraction, generator_for(seed)).int().tolist()


def test_the_smallest_positive_and_the_negative_weights_nearest_zero_go():
    assert pruned([0.4, -0.1, 0.1, -0.4, 0.2, -0.2, 0.3, -0.3], 0.5) == [0, 1, 1, 0, 1, 1, 0, 0]


@pytest.mark.parametrize(
    ("positive", "negative", "expected"),
    [(3, 3, (0, 0)), (4, 3, (1, 0)), (7, 10, (2, 3)), (0, 9, (0, 2)), (1, 0, (0, 0))],
)
def test_counts_are_floored_for_each_sign(positive, negative, expected):
    weight = [1.0 + n for n in range(positive)] + [-1.0 - n for n in range(negative)]
    dropped = pruned(weight, 0.3)
    assert (sum(dropped[:positive]), sum(dropped[positive:])) == expected


def test_ties_are_cut_exactly_and_at_random():
    draws = [pruned([0.5] * 10 + [-0.5] * 20, 0.3, seed=seed) for seed in range(1000)]
    assert {(sum(draw[:10]), sum(draw[10:])) for draw in draws} == {(3, 6)}
    times = torch.tensor(draws).sum(0)
    assert (times - 300).abs().max() < 5 * (1000 * 0.3 * 0.7) ** 0.5


def test_an_active_weight_of_exactly_zero_stays():
    assert pruned([0.0, 0.0, -0.0, 1.0, 2.0, -1.0, -2.0], 0.5) == [0, 0, 0, 1, 0, 1, 0]


def test_only_active_weights_are_counted_and_dropped():
    assert pruned([0.1, 0.2, 0.3, -0.1, -0.2, -0.3], 0.5, mask=[0, 1, 1, 0, 1, 1]) == [0, 1, 0, 0, 1, 0]


def test_nothing_goes_at_fraction_zero_or_from_an_empty_mask():
    assert pruned([0.1, -0.1, 0.2], 0.0) == [0, 0, 0]
    assert pruned([0.1, -0.1, 0.2], 0.9, mask=[0, 0, 0]) == [0, 0, 0]


def test_weight_and_mask_are_left_alone():
    weight, mask = torch.randn(5, 5), torch.rand(5, 5) < 0.5
    before = weight.clone(), mask.clone()
    signed_magnitude(weight, mask, 0.5, generator_for(0))
    assert weight.equal(before[0])
    assert mask.equal(before[1])


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.29, 0.3, 0.5, 0.99])
@pytest.mark.parametrize("density", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("shape", [(1, 1), (10, 10), (4, 50)])
def test_it_equals_a_slow_sort(shape, density, fraction):
    weight, mask = torch.randn(shape), torch.rand(shape) < density
    entries = [(w, place) for place, w in enumerate(weight.flatten().tolist()) if mask.flatten()[place]]
    expected = set()
    for sign in (1, -1):
        own = sorted((sign * w, place) for w, place in entries if sign * w > 0)
        expected |= {place for _, place in own[: math.floor(Fraction(str(fraction)) * len(own))]}
    dropped = signed_magnitude(weight, mask, fraction, generator_for(0))
    assert set(dropped.flatten().nonzero().flatten().tolist()) == expected
