from math import prod

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparse_lightning.functional.densities import DENSITIES, erdos_renyi, erk, uniform

# The convolutions and the head of a ResNet-50, (out, in, height, width).
RESNET50: dict[str, tuple[int, ...]] = {"stem": (64, 3, 7, 7)}
for stage, (width, blocks) in enumerate([(64, 3), (128, 4), (256, 6), (512, 3)]):
    inputs = 64 if stage == 0 else 2 * width
    for block in range(blocks):
        RESNET50 |= {
            f"{stage}.{block}.1": (width, inputs if block == 0 else 4 * width, 1, 1),
            f"{stage}.{block}.2": (width, width, 3, 3),
            f"{stage}.{block}.3": (4 * width, width, 1, 1),
        }
    RESNET50[f"{stage}.0.down"] = (4 * width, inputs, 1, 1)
RESNET50["head"] = (1000, 2048)


def test_uniform_is_the_same_share_of_every_layer():
    sizes = {"1": (100, 784), "2": (100, 100), "3": (100, 100), "output": (10, 100)}
    assert uniform(sizes, 0.2) == {"1": 15680, "2": 2000, "3": 2000, "output": 200}


def test_what_rounding_leaves_over_goes_to_the_largest_remainders():
    # 14 connections of 136 in all: 4.94, 6.59 and 2.47 of them.
    assert uniform({"a": (8, 6), "b": (8, 8), "c": (3, 8)}, 0.1) == {"a": 5, "b": 7, "c": 2}


def test_erdos_renyi_by_hand():
    # Raw densities 200/10,000 and 20/100 at sizes 10,000 and 100: 200 and 20 of 220 parts of 1,010.
    assert erdos_renyi({"wide": (100, 100), "narrow": (10, 10)}, 0.1) == {"wide": 918, "narrow": 92}


def test_erk_by_hand():
    # Raw densities (8 + 4 + 3 + 3)/288 and (10 + 8)/80, so 18 and 18 parts of the 184 at half density: 92 and 92; but
    # the head has 80 only, and the kernel gets the other 104.
    assert erk({"conv": (8, 4, 3, 3), "head": (10, 8)}, 0.5) == {"conv": 104, "head": 80}


def test_erdos_renyi_counts_channels_and_erk_the_kernel_too():
    shapes = {"conv": (32, 32, 5, 5), "point": (32, 32, 1, 1)}
    channels, kernel = erdos_renyi(shapes, 0.05), erk(shapes, 0.05)
    assert channels["conv"] / prod(shapes["conv"]) == pytest.approx(channels["point"] / prod(shapes["point"]), rel=0.02)
    ratio = (kernel["conv"] / prod(shapes["conv"])) / (kernel["point"] / prod(shapes["point"]))
    assert ratio == pytest.approx((74 / 25600) / (66 / 1024), rel=0.02)


def test_erk_of_a_resnet50_keeps_small_layers_dense_and_the_total_exact():
    shapes, counts = RESNET50, erk(RESNET50, 0.2)
    assert sum(map(prod, shapes.values())) == 25_502_912
    assert sum(counts.values()) == round(0.2 * 25_502_912)
    density = {name: counts[name] / prod(shape) for name, shape in shapes.items()}
    # The proportions of the rule's definition, between two layers that are not capped.
    raw = {name: sum(shape) / prod(shape) for name, shape in shapes.items()}
    free = [name for name in shapes if density[name] < 1]
    scale = density["3.1.2"] / raw["3.1.2"]
    assert all(density[name] == pytest.approx(scale * raw[name], abs=1 / prod(shapes[name])) for name in free)
    assert all(scale * raw[name] >= 1 for name in shapes if density[name] == 1)
    assert density["0.0.1"] == 1
    assert density["3.1.2"] < 0.1 < density["head"] < 0.2 < density["stem"] < 1


@given(
    st.sampled_from(sorted(DENSITIES)),
    st.lists(st.lists(st.integers(1, 40), min_size=2, max_size=4), min_size=1, max_size=6),
    st.floats(0.001, 1.0),
)
def test_any_spread_is_exact_in_sum_and_in_bounds(name, shapes, density):
    named = {str(number): shape for number, shape in enumerate(shapes)}
    counts = DENSITIES[name](named, density)
    assert sum(counts.values()) == round(density * sum(map(prod, shapes)))
    assert all(0 <= counts[key] <= prod(shape) for key, shape in named.items())
