"""Structures of masks, first by hand, then over many shapes and choices."""

import math

import pytest
import torch

from sparse_lightning.functional.masks import derived_generator, mask_of, positions_of
from sparse_lightning.functional.structure import AblatedFanIn, Blocks, Groups, structure_of

CASES = [
    ("2:4", (6, 8), 24),
    ("1:3", (5, 6), 10),
    ("fan_in", (6, 8), 18),
    ("fan_in", (4, 3, 2, 2), 20),
    ("fan_in:0.5", (6, 8), 18),
    ("fan_in:0", (9, 3, 2, 2), 36),
    ("2x4", (6, 8), 24),
]


def exchanged(structure, mask, pruned, scores, regrow=False):
    """The mask after an exchange in which the structure decides what of `pruned` goes."""
    positions, generator = positions_of(mask), derived_generator("exchange")
    flags = pruned.flatten()[positions]
    values = 1.0 + torch.arange(len(positions)) / 100
    flags = structure.prune(positions, flags, values, mask.shape, generator, regrow=regrow)
    dropped, grown = structure.exchange(positions, flags, scores, generator, regrow=regrow)
    after = mask.flatten().clone()
    after[dropped], after[grown] = False, True
    return after.view(mask.shape)


def test_two_of_every_four_by_hand():
    mask = torch.tensor([[1, 1, 0, 0, 0, 1, 0, 1]]).bool()
    pruned = torch.tensor([[1, 0, 0, 0, 0, 0, 0, 0]]).bool()
    scores = torch.tensor([[9.0, 9.0, 1.0, 2.0, 8.0, 9.0, 8.0, 9.0]])
    assert exchanged(Groups(4, 2), mask, pruned, scores).int().tolist() == [[0, 1, 0, 1, 0, 1, 0, 1]]


def test_where_a_group_has_too_few_to_grow_the_smallest_weights_go():
    mask = torch.tensor([[1, 1, 1, 0]]).bool()
    found = exchanged(Groups(4, 3), mask, mask, torch.zeros(1, 4))
    assert found.int().tolist() == [[0, 1, 1, 1]]


def test_a_block_goes_where_most_of_its_connections_are_pruned():
    mask = torch.tensor([[1, 1, 1, 1, 0, 0]] * 2).bool()
    pruned = torch.tensor([[0, 0, 1, 1, 0, 0], [1, 0, 1, 0, 0, 0]]).bool()
    found = exchanged(Blocks(2, 2), mask, pruned, torch.zeros(2, 6))
    assert found.int().tolist() == [[1, 1, 0, 0, 1, 1]] * 2


def test_a_unit_that_few_salient_connections_reach_is_ablated_by_hand():
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1]]).bool()
    pruned = torch.tensor([[1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]).bool()
    scores = torch.tensor([[0.0, 0, 1, 1], [0, 0, 9, 8], [7, 6, 0, 0]])
    # Salient: one and two of unit 1, two and one of unit 2, and none of unit 0, whose two connections go to the others.
    assert exchanged(AblatedFanIn(0.5), mask, pruned, scores).int().tolist() == [[0] * 4, [1, 0, 1, 1], [1, 0, 1, 1]]
    everywhere = scores + torch.tensor([[10.0], [0], [0]])  # now all that grow are salient at unit 0
    kept = exchanged(AblatedFanIn(0.5), mask, pruned, everywhere)
    assert kept.sum(1).tolist() == [2, 2, 2]


def slow_ablation(mask, pruned, scores, share, regrow):
    """The fan-in of each unit and which inactive connections may have grown, one unit at a time."""
    kept, units = mask & ~pruned, [unit for unit in range(len(mask)) if mask[unit].any()]
    inactive = [(u, i) for u in units for i in range(mask.shape[1]) if not (kept if regrow else mask)[u, i]]
    top = sorted(inactive, key=lambda at: -float(scores[at]))[: int(pruned.sum())]
    salient = {u: int(kept[u].sum()) + sum(at[0] == u for at in top) for u in units}
    left = [u for u in units if salient[u] >= max(int(share * (int(mask.sum()) // len(mask))), 1)]
    if len(left) * mask.shape[1] < mask.sum():  # not all connections fit: the most salient stay
        left = sorted(sorted(units, key=lambda u: -salient[u])[: math.ceil(int(mask.sum()) / mask.shape[1])])
    return left, kept


@pytest.mark.parametrize("regrow", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.4, 0.7])
def test_ablation_is_that_of_a_loop_over_units(share, regrow):
    generator, ablations = derived_generator(share, regrow), 0
    mask = Groups().first(torch.rand(8, 30, generator=generator), 48, generator)
    for _ in range(12):
        steepness = 4 * torch.rand(8, 1, generator=generator)  # so that some units are left behind
        scores = torch.rand(8, 30, generator=generator) ** steepness
        pruned = mask & (torch.rand(8, 30, generator=generator) < 0.2 * steepness)
        left, kept = slow_ablation(mask, pruned, scores, share, regrow)
        after = exchanged(AblatedFanIn(share), mask, pruned, scores, regrow)
        fan_in = after.sum(1)
        assert fan_in.nonzero().flatten().tolist() == left
        assert fan_in[left].max() - fan_in[left].min() <= 1
        assert int(fan_in.sum()) == 48
        for unit in left:
            assert (after[unit] >= kept[unit]).all()
            grown = after[unit] & ~kept[unit]
            free = ~(kept if regrow else mask)[unit]
            threshold = scores[unit][grown].min() if grown.any() else 2.0
            assert not (scores[unit][free & ~grown] > threshold).any()
        ablations += len(mask.any(1).nonzero()) - len(left)
        mask = after
    assert ablations > 0 or share == 0


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_nothing_changes_where_nothing_is_pruned(share):
    mask = torch.arange(6).view(1, 6) < torch.tensor([[2], [1], [2], [2], [1]])
    assert exchanged(AblatedFanIn(share), mask, mask & False, torch.rand(5, 6)).equal(mask)


def test_no_output_is_ablated():
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 0, 0]]).bool()
    pruned, scores = mask & torch.tensor([[True], [False]]), torch.tensor([[0.0] * 4, [0, 0, 2, 1]])
    assert exchanged(AblatedFanIn(1.0), mask, pruned, scores).sum(1).tolist() == [0, 4]
    assert exchanged(AblatedFanIn(1.0).at_output(), mask, pruned, scores).sum(1).tolist() == [2, 2]
    assert isinstance(Groups(4, 2).at_output(), Groups)
    with pytest.raises(ValueError, match=r"Expected min_salient in \[0, 1\], got 1\.7"):
        AblatedFanIn(1.7)


def test_as_many_units_are_left_as_all_connections_fit_into():
    mask = torch.ones(3, 4).bool().index_fill(1, torch.tensor([3]), False)  # 9 connections need three units of four
    after = exchanged(AblatedFanIn(1.0), mask, mask, torch.zeros(3, 4))
    assert after.sum(1).tolist() == [3, 3, 3]


@pytest.mark.parametrize("regrow", [False, True])
@pytest.mark.parametrize(("text", "shape", "count"), CASES)
def test_counts_and_structure_stay_whatever_is_pruned_and_scored(text, shape, count, regrow):
    structure, generator = structure_of(text), derived_generator(text)
    assert structure.count(shape, count) == count
    mask = structure.first(torch.rand(shape, generator=generator), count, generator)
    assert structure.fits(positions_of(mask), shape)
    moved = 0
    for _ in range(20):
        pruned = mask & (torch.rand(shape, generator=generator) < 0.4)
        after = exchanged(structure, mask, pruned, torch.rand(shape, generator=generator), regrow)
        assert int(after.sum()) == count
        assert structure.fits(positions_of(after), shape)
        moved += int((after & ~mask).sum())
        mask = after
    assert moved > 20


@pytest.mark.parametrize(("text", "shape", "count"), CASES)
def test_the_first_mask_has_the_highest_scores_that_the_structure_allows(text, shape, count):
    structure, generator = structure_of(text), derived_generator(text)
    scores = torch.rand(shape, generator=generator)
    best = float(scores[structure.first(scores, count, generator)].sum())
    for _ in range(50):
        other = structure.first(torch.rand(shape, generator=generator), count, generator)
        assert float(scores[other].sum()) <= best


def test_ties_are_random():
    masks = [Groups(4, 1).first(torch.zeros(1, 4), 1, derived_generator(n)) for n in range(400)]
    assert torch.stack(masks).sum((0, 1)).min() > 70


@pytest.mark.parametrize(
    ("text", "shape", "count", "found"),
    [("fan_in", (4, 10), 13, 12), ("2x2", (4, 4), 7, 8), ("fan_in", (4, 10), 1, 4), ("fan_in:0", (4, 10), 13, 13)],
)
def test_a_number_of_connections_is_rounded_to_one_that_fits(text, shape, count, found):
    assert structure_of(text).count(shape, count) == found


@pytest.mark.parametrize(
    ("text", "shape", "message"),
    [
        ("2:4", (4, 6), "Expected inputs in multiples of 4, got 6"),
        ("2:4", (4, 8), "Expected a density of 0.5, 2 of every 4, got 0.3125"),
        ("2x4", (3, 8), "Expected units in multiples of 2 with inputs in multiples of 4, got 3 with 8"),
    ],
)
def test_a_shape_that_cannot_have_the_structure_is_refused(text, shape, message):
    with pytest.raises(ValueError, match=message):
        structure_of(text).count(shape, 10)


@pytest.mark.parametrize("text", ["2:4:8", "5:4", "fan-in", "fan_in:1.5", "fan_in:", "4x", "0:4", 124])
def test_a_text_that_names_no_structure_is_refused(text):
    with pytest.raises(
        ValueError, match=r"Expected structure to be N:M such as '2:4', 'fan_in', 'fan_in:0\.3', or blocks"
    ):
        structure_of(text)


def test_another_structure_does_not_fit():
    uneven = positions_of(torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0]]).bool())
    assert not Groups(4, 2).fits(uneven, (2, 4))
    assert not Groups().fits(uneven, (2, 4))
    assert not Blocks(1, 2).fits(uneven, (2, 4))
    assert not Blocks(3, 2).fits(uneven, (2, 4))
    assert Groups().fits(positions_of(mask_of(torch.tensor([0, 1, 5, 6]), (2, 4))), (2, 4))


def test_scores_that_are_not_numbers_are_refused():
    mask = torch.tensor([[True, False, False, False]])
    with pytest.raises(ValueError, match="Expected finite scores, got NaN or infinity"):
        exchanged(Groups(4, 1), mask, mask, torch.full((1, 4), float("nan")))
