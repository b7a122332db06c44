import math
from fractions import Fraction
from itertools import pairwise

import pytest
import torch
from watching import view

from sparse_lightning import LayerView, PruningCriterion
from sparse_lightning.criteria.pruning import (
    PRUNING,
    ChainRemoval,
    MagnitudeAndGradientPruning,
    MixedPruning,
    RelativeImportancePruning,
    SignedMagnitudePruning,
    SoftMagnitudePruning,
)
from sparse_lightning.functional.masks import derived_generator, mask_of
from sparse_lightning.functional.prune import (
    lowest,
    lowest_and_zeros,
    relative_importance,
    signed_magnitude,
    zero_weights,
)


def pruned(weight: list[float], fraction: float, seed: int = 0, inactive: int | None = None) -> list[int]:
    """What is pruned of some weights, beside `inactive` connections that could grow."""
    more = len(weight) if inactive is None else inactive
    return signed_magnitude(torch.tensor(weight), fraction, more, derived_generator(seed)).int().tolist()


def test_the_smallest_positive_and_the_negative_weights_nearest_zero_go():
    assert pruned([0.4, -0.1, 0.1, -0.4, 0.2, -0.2, 0.3, -0.3], 0.5) == [0, 1, 1, 0, 1, 1, 0, 0]


# floor(f p) and n - floor((1 - f) n), worked out by hand: what `int((1 - f) n)` leaves out of the negative weights.
@pytest.mark.parametrize(
    ("fraction", "positive", "negative", "expected"),
    [
        *(
            (0.2, p, n, e)
            for p, n, e in [(4, 4, (0, 1)), (5, 5, (1, 1)), (9, 9, (1, 2)), (14, 11, (2, 3)), (0, 1, (0, 1))]
        ),
        *(
            (0.3, p, n, e)
            for p, n, e in [(3, 3, (0, 1)), (4, 3, (1, 1)), (7, 10, (2, 3)), (0, 9, (0, 3)), (1, 0, (0, 0))]
        ),
        *(
            (0.5, p, n, e)
            for p, n, e in [(1, 1, (0, 1)), (2, 2, (1, 1)), (5, 7, (2, 4)), (3, 0, (1, 0)), (0, 3, (0, 2))]
        ),
    ],
)
def test_positive_counts_are_floored_and_negative_ones_are_what_the_kept_floor_leaves(
    fraction, positive, negative, expected
):
    weight = [1.0 + n for n in range(positive)] + [-1.0 - n for n in range(negative)]
    for zeros in (0, 3):
        found = pruned(weight + [0.0] * zeros, fraction)
        assert (sum(found[:positive]), sum(found[positive : positive + negative])) == expected
        assert sum(found[positive + negative :]) == zeros


@pytest.mark.parametrize("inactive", range(12))
def test_never_more_are_pruned_than_can_be_grown_and_zeros_go_first(inactive):
    weight = [0.0] * 4 + [1.0, 2.0, 3.0, 4.0, -1.0, -2.0, -3.0, -4.0]
    found = pruned(weight, 0.5, inactive=inactive)
    assert sum(found) == min(inactive, 8)
    assert sum(found[:4]) == min(inactive, 4)
    by_sign = sum(found[4:8]), sum(found[8:])
    assert abs(by_sign[0] - by_sign[1]) <= 1


def test_ties_are_cut_exactly_and_at_random():
    draws = [pruned([0.5] * 10 + [-0.5] * 20, 0.3, seed=seed) for seed in range(1000)]
    assert {(sum(draw[:10]), sum(draw[10:])) for draw in draws} == {(3, 6)}
    times = torch.tensor(draws).sum(0)
    assert (times - 300).abs().max() < 5 * (1000 * 0.3 * 0.7) ** 0.5


def test_an_active_weight_of_exactly_zero_goes():
    assert pruned([0.0, 0.0, -0.0, 1.0, 2.0, -1.0, -2.0], 0.5) == [1, 1, 1, 1, 0, 1, 0]
    assert pruned([0.0, 1.0, -1.0], 0.0) == [1, 0, 0]


def test_zeros_that_cannot_all_go_are_drawn_at_random():
    draws = {tuple(pruned([0.0] * 4, 0.3, seed=seed, inactive=2)) for seed in range(100)}
    assert {sum(draw) for draw in draws} == {2}
    assert len(draws) == 6


def test_only_active_weights_are_counted_and_pruned():
    layer = view(torch.tensor([0.1, 0.2, 0.3, -0.1, -0.2, -0.3]), torch.tensor([0, 1, 1, 0, 1, 1]).bool(), 0.5)
    assert prune(SignedMagnitudePruning(), layer) == [0, 1, 0, 0, 1, 0]


def test_nothing_goes_at_fraction_zero_or_from_no_connections():
    assert pruned([0.1, -0.1, 0.2], 0.0) == [0, 0, 0]
    assert pruned([], 0.9) == []


def test_weights_are_left_alone():
    values = torch.randn(25)
    before = values.clone()
    signed_magnitude(values, 0.5, 25, derived_generator(0))
    assert values.equal(before)


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.29, 0.3, 0.5, 0.99])
@pytest.mark.parametrize("density", [0.0, 0.2, 0.4])
@pytest.mark.parametrize("shape", [(1, 1), (10, 10), (4, 50)])
def test_it_equals_a_slow_sort(shape, density, fraction):
    values = torch.randn(shape)[torch.rand(shape) < density]
    entries = [(w, place) for place, w in enumerate(values.tolist())]
    expected = set()
    share = Fraction(str(fraction))
    for sign in (1, -1):
        own = sorted((sign * w, place) for w, place in entries if sign * w > 0)
        count = math.floor(share * len(own)) if sign > 0 else len(own) - math.floor((1 - share) * len(own))
        expected |= {place for _, place in own[:count]}
    found = signed_magnitude(values, fraction, len(values), derived_generator(0))
    assert set(found.nonzero().flatten().tolist()) == expected


# The other rules.


@pytest.mark.parametrize("count", [0, 1, 5])
def test_the_lowest_are_floored_and_tied_at_random(count):
    draws = [lowest(torch.zeros(17), count / 17 + 0.01, derived_generator(seed)) for seed in range(200)]
    assert {int(draw.sum()) for draw in draws} == {count}
    assert count == 0 or len({tuple(draw.tolist()) for draw in draws}) > 5


@pytest.mark.parametrize("zeros", range(5))
@pytest.mark.parametrize("inactive", range(5))
def test_zeros_are_selected_up_to_what_can_be_replaced(zeros, inactive):
    values = torch.cat([torch.ones(3), torch.zeros(zeros)])
    found = zero_weights(values, inactive, derived_generator(0))
    assert int(found.sum()) == min(zeros, inactive)
    assert not found[values != 0].any()


@pytest.mark.parametrize(
    ("fraction", "inactive", "expected"),
    [
        (0.5, 9, [1, 1, 1, 1, 0, 0]),  # both zeros, and half of the four others, those of the lowest scores
        (0.5, 3, [1, 1, 1, 0, 0, 0]),
        (0.5, 2, [1, 1, 0, 0, 0, 0]),
        (0.0, 9, [1, 1, 0, 0, 0, 0]),
        (0.99, 9, [1, 1, 1, 1, 1, 0]),
    ],
)
def test_zeros_and_a_fraction_of_the_others_by_score(fraction, inactive, expected):
    values, scores = torch.tensor([0.0, -0.0, 9.0, -8.0, 7.0, -6.0]), torch.tensor([99.0, 98.0, 1.0, 2.0, 3.0, 4.0])
    found = lowest_and_zeros(scores, values, fraction, inactive, derived_generator(0))
    assert found.int().tolist() == expected


# The criteria.

# Four active connections, and four inactive ones in a third and fourth row.
WEIGHT = torch.tensor([[4.0, -3.0], [2.0, -1.0], [0.0, 0.0], [0.0, 0.0]])
COUNTS = torch.tensor([[1, 2], [3, 9], [5, 5], [0, 0]])


class Counted:
    """Coactivation already counted."""

    def total(self, name: str) -> torch.Tensor:
        return COUNTS


def prune(pruning: PruningCriterion, layer: LayerView) -> list[list[int]]:
    if "coactivation" in pruning.statistics:
        pruning.statistics = {"coactivation": Counted()}
    if pruning.reads_gradient:
        layer.weight.grad = torch.zeros_like(layer.weight)
    found = torch.zeros_like(layer.weight, dtype=torch.int)
    found[layer.mask] = pruning.prune(layer).int()
    return found.tolist()


def prunes(pruning: PruningCriterion, fraction: float) -> list[list[int]]:
    """What a criterion prunes of four active connections."""
    return prune(pruning, view(WEIGHT, fraction=fraction))[:2]


@pytest.mark.parametrize("name", ["signed_magnitude", "hebbian", "inverse_hebbian", "weighted_hebbian", "mixed"])
def test_criteria_of_set_and_numenta_prune_all_weights_of_exactly_zero(name):
    mask = torch.tensor([[True, True], [True, True], [True, False], [False, False]])
    assert prune(PRUNING[name](), view(WEIGHT, mask, 0.0)) == [[0, 0], [0, 0], [1, 0], [0, 0]]


def test_a_large_gradient_saves_a_small_weight():
    weight = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    weight.grad = torch.tensor([[0.0, 3.0, -40.0, 0.0]])
    layer = view(weight, fraction=0.5)
    assert MagnitudeAndGradientPruning(1.0).prune(layer).tolist() == [True, False, False, True]
    assert MagnitudeAndGradientPruning(0.0).prune(layer).tolist() == [True, True, False, False]
    weight.grad = None
    with pytest.raises(ValueError, match="Expected a gradient to prune by, got none"):
        MagnitudeAndGradientPruning().prune(layer)
    with pytest.raises(ValueError, match="Expected factor of at least 0, got -1"):
        MagnitudeAndGradientPruning(-1)


def test_relative_importance_keeps_the_last_strong_link_of_a_unit():
    weight = torch.tensor([[3.0, 4.0, 5.0], [1.0, 0.0, 0.0]])
    # Shares of rows and columns: 3/12 + 3/4, 4/12 + 1, 5/12 + 1; and 1 + 1/4, though 1.0 is the smallest weight.
    assert prune(RelativeImportancePruning(), view(weight, fraction=0.25)) == [[1, 0, 0], [0, 0, 0]]
    assert prune(PRUNING["magnitude"](), view(weight, fraction=0.25)) == [[0, 0, 0], [1, 0, 0]]
    assert relative_importance(torch.zeros(2), torch.tensor([0, 1]), torch.Size((1, 2))).tolist() == [0, 0]


@pytest.mark.parametrize("relative", [False, True])
def test_soft_magnitude_keeps_in_proportion_and_more_so_with_progress(relative):
    weight, kept = torch.tensor([[1.0, 2.0, 3.0, 4.0, 0.0]]), torch.zeros(2, 5)
    for row, progress in enumerate((Fraction(0), Fraction(1))):
        for seed in range(300):
            layer = view(weight, torch.ones(1, 5, dtype=torch.bool), fraction="4/5", seed=seed)
            layer.progress = progress
            kept[row] += ~SoftMagnitudePruning(relative=relative).prune(layer)
    assert (kept[:, 4] == 0).all()  # a weight of zero goes first
    if not relative:  # one is kept: 4 with 4 / 10, at the end with 64 / 100
        torch.testing.assert_close(kept[:, 3] / 300, torch.tensor([0.4, 0.64]), atol=0.09, rtol=0)
    assert kept[1, 3] > kept[0, 3]
    with pytest.raises(ValueError, match="Expected relative to be true or false, got 1"):
        SoftMagnitudePruning(relative=1)


def chain(weights: list[list[list[float]]], fraction: str) -> list[list[list[int]]]:
    """What ChainRemoval prunes of layers in a row."""
    layers = [view(torch.tensor(weight), name=str(number), fraction=fraction) for number, weight in enumerate(weights)]
    for one, two in pairwise(layers):
        one.next, two.previous = two, one
    criterion = ChainRemoval()
    for layer in layers:
        layer.pruned = criterion.prune(layer)
    refined = criterion.refine(layers)
    return [mask_of(layer.positions[refined[layer.name]], layer.shape).int().tolist() for layer in layers]


def test_links_that_lead_nowhere_go_in_every_layer():
    one = [[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]
    two = [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]  # unit 1 has no output, unit 2 no input
    three = [[0.0, 1.0]]  # has its only input from unit 1 of layer two, whose input is unit 2 of layer one
    pruned = chain([one, two, three], "0")
    assert pruned[0][1] == [0, 1]
    assert pruned[1][1] == [0, 0, 1]
    assert pruned[2] == [[0, 1]]
    assert pruned[1][0] == [1, 0, 0]  # it led into a unit whose only output is gone
    assert pruned[0][0] == [1, 0]


def test_a_network_without_dead_ends_is_left_alone():
    assert chain([[[1.0, 2.0], [3.0, 0.0]], [[1.0, 1.0]]], "0") == [[[0, 0], [0, 0]], [[0, 0]]]


def test_no_more_is_pruned_with_chains_than_can_be_replaced():
    # Three of four connections are active and lead nowhere: one can be replaced, the smallest.
    pruned = chain([[[3.0, 2.0], [1.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]], "0")
    assert pruned[0] == [[0, 0], [1, 0]]


def test_chain_removal_names_what_it_cannot_do():
    criterion = ChainRemoval("hebbian")
    assert list(criterion.statistics) == ["coactivation"]
    assert repr(criterion) == "ChainRemoval(HebbianPruning())"
    assert criterion.unsuitable({"a": torch.Size((2, 3))}) == {"a": "has no sparse layer beside it"}
    shapes = {"a": torch.Size((2, 3)), "b": torch.Size((2, 3, 1, 1))}
    assert criterion.unsuitable(shapes) == {"b": "is no matrix (out, in)"}
    with pytest.raises(ValueError, match="pruning"):
        ChainRemoval(3)


def test_magnitude_prunes_zeros_first_within_its_fraction():
    mask = torch.tensor([[True, True], [True, True], [True, True], [False, False]])
    assert prune(PRUNING["magnitude"](), view(WEIGHT, mask, "1/3")) == [[0, 0], [0, 0], [1, 1], [0, 0]]
    assert prune(PRUNING["magnitude"](), view(WEIGHT, mask, "1/2")) == [[0, 0], [0, 1], [1, 1], [0, 0]]


@pytest.mark.parametrize("name", PRUNING)
@pytest.mark.parametrize("inactive", [1, 2, 5])
def test_no_criterion_prunes_more_than_can_be_replaced(name, inactive):
    mask = torch.arange(8).view(4, 2) < 8 - inactive
    fraction = min(Fraction(9, 10), Fraction(inactive, 8 - inactive))  # as a rewiring lowers it
    pruned = prune(PRUNING[name](), view(WEIGHT * mask, mask, str(fraction)))
    assert (name != "mixed") <= sum(map(sum, pruned)) <= inactive  # mixed may prune nothing
    assert not (torch.tensor(pruned).bool() & ~mask).any()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("magnitude", [[0, 0], [1, 1]]),
        ("signed_magnitude", [[0, 0], [1, 1]]),
        ("hebbian", [[1, 1], [0, 0]]),
        ("inverse_hebbian", [[0, 0], [1, 1]]),
        ("weighted_hebbian", [[1, 0], [1, 0]]),  # 4 and 6 of 4, 6, 6, 9; the tie is for the generator
    ],
)
def test_each_criterion_prunes_its_half(name, expected):
    found = prunes(PRUNING[name](), 0.5)
    assert found == expected or (name == "weighted_hebbian" and found == [[1, 1], [0, 0]])


def test_magnitude_takes_no_notice_of_signs():
    weight, mask = torch.tensor([0.1, 0.2, 0.3, -9.0]), torch.ones(4, dtype=torch.bool)
    assert prune(PRUNING["magnitude"](), view(weight, mask, 0.5)) == [1, 1, 0, 0]


@pytest.mark.parametrize(
    ("magnitude", "hebbian", "expected"),
    [
        (0.5, 1.0, [[0, 0], [1, 1]]),  # magnitude alone decides
        (0.5, 0.75, [[0, 0], [1, 0]]),  # of 2 and -1, the one of coactivation 9 is spared
        (0.5, 0.5, [[0, 0], [0, 0]]),
        (0.99, 0.5, [[0, 1], [0, 0]]),  # of the positive ones the smaller goes, of the negative ones both may
        (0.5, 0.0, [[0, 0], [0, 0]]),
    ],
)
def test_mixed_prunes_only_what_both_prune(magnitude, hebbian, expected):
    assert prunes(MixedPruning(hebbian), magnitude) == expected


@pytest.mark.parametrize(
    ("weights", "hebbian", "alone"),
    [(0.5, 0.0, "signed_magnitude"), (0.0, 0.5, "hebbian"), (0.0, 1.0, "hebbian")],
)
def test_a_fraction_of_0_leaves_the_decision_to_the_other_where_both_are_given(weights, hebbian, alone):
    found = prunes(MixedPruning(hebbian, weight_fraction=weights), 0.3)
    assert found == prunes(PRUNING[alone](), weights or hebbian)


def test_mixed_takes_its_own_fraction_of_weights_in_place_of_the_callbacks():
    assert prunes(MixedPruning(0.75, weight_fraction=0.5), 0.1) == prunes(MixedPruning(0.75), 0.5)


@pytest.mark.parametrize("fraction", [1.5, -0.1, "half", True, float("nan")])
def test_mixed_refuses_a_fraction_out_of_range(fraction):
    with pytest.raises(ValueError, match=rf"Expected hebbian_fraction in \[0, 1\], got {fraction!r}"):
        MixedPruning(fraction)


def test_the_class_is_the_function():
    weight, mask = torch.randn(9, 9), torch.rand(9, 9) < 0.5
    function = signed_magnitude(weight[mask], 0.3, int((~mask).sum()), derived_generator(0))
    assert SignedMagnitudePruning().prune(view(weight, mask, 0.3)).equal(function)


def test_a_criterion_builds_itself_again():
    built = [kind() for kind in PRUNING.values()]
    built += [MixedPruning(0.25, count_validation=True, read_at={"a": "b"}), PRUNING["hebbian"](read_at={"a": "b"})]
    for pruning in built:
        again = eval(repr(pruning), {type(pruning).__name__: type(pruning)})
        assert repr(again) == repr(pruning)
        assert again.statistics == pruning.statistics
    assert repr(built[-2]) == "MixedPruning(0.25, count_validation=True, read_at={'a': 'b'})"
