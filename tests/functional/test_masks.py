import os
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
import torch
from drawn import bits, scored, some
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sparse_lightning.functional import masks
from sparse_lightning.functional.masks import (
    choose,
    derived_generator,
    exact_fraction,
    fingerprint,
    floor_count,
    mask_of,
    max_prune_fraction,
    positions_of,
    zero_inactive_,
)


def everywhere(scores: Tensor) -> Tensor:
    return torch.ones_like(scores, dtype=torch.bool)


def test_the_highest_scores_are_chosen():
    scores = torch.tensor([[1.0, -2.0, 3.0], [4.0, 0.0, -5.0]])
    assert choose(scores, 3, everywhere(scores), derived_generator(0)).equal(bits("101", "100"))


def test_only_candidates_are_chosen_and_only_their_scores_matter():
    scores = torch.tensor([[9.0, 1.0, float("nan")], [float("inf"), 2.0, 3.0]])
    assert choose(scores, 2, bits("010", "011"), derived_generator(0)).equal(bits("000", "011"))


def test_ties_are_broken_at_random_not_by_index():
    # One score wins, two lose, eight tie for three places: each of the eight should get 3/8 of 2000 draws, 750.
    scores = torch.tensor([5, 0, 2, 2, 2, 2, 2, 2, 2, 2, 1]).float()
    draws = torch.stack([choose(scores, 4, everywhere(scores), derived_generator("lot", n)) for n in range(2000)])
    times = draws.sum(0)
    assert times[[0, 1, 10]].tolist() == [2000, 0, 0]
    assert (times[2:10] - 750).abs().max() < 5 * (2000 * 3 / 8 * 5 / 8) ** 0.5


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_candidate_without_a_finite_score_is_refused(value):
    scores = torch.tensor([1.0, value, 3.0])
    with pytest.raises(ValueError, match="Expected finite scores, got NaN or infinity"):
        choose(scores, 1, everywhere(scores), derived_generator(0))


@pytest.mark.parametrize("count", [-1, 3])
def test_a_count_that_the_candidates_cannot_fill_is_refused(count):
    with pytest.raises(ValueError, match=f"Expected a count from 0 to the 2 candidates, got {count}"):
        choose(torch.rand(2, 2), count, bits("10", "01"), derived_generator(0))


def test_none_and_all_can_be_chosen():
    candidates = bits("0110", "1001")
    assert not choose(torch.zeros(2, 4), 0, candidates, derived_generator(0)).any()
    assert choose(torch.zeros(2, 4), 4, candidates, derived_generator(0)).equal(candidates)
    assert not choose(torch.zeros(2, 4), 0, torch.zeros_like(candidates), derived_generator(0)).any()


def test_integer_scores_are_compared_to_the_last_digit():
    top = 2**31 - 1  # as floats these three would tie
    scores = torch.tensor([top - 1, top, top - 2], dtype=torch.int32)
    for draw in range(20):
        assert choose(scores, 1, everywhere(scores), derived_generator(draw)).tolist() == [False, True, False]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int32])
@pytest.mark.parametrize("levels", [1, 3, 1000])
@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (4, 30)])
def test_the_count_is_exact_and_nothing_left_out_scores_more(shape, levels, dtype):
    scores = torch.randint(levels, shape).to(dtype)
    candidates = some(shape, scores.numel() * 2 // 3 + 1, seed=levels)
    for count in range(int(candidates.sum()) + 1):
        chosen = choose(scores, count, candidates, derived_generator(count))
        assert int(chosen.sum()) == count
        assert not (chosen & ~candidates).any()
        if 0 < count < int(candidates.sum()):
            assert scores[chosen].min() >= scores[candidates & ~chosen].max()


def test_a_choice_repeats_with_its_generator_and_leaves_its_arguments_alone():
    scores, candidates = torch.zeros(6, 6), some((6, 6), 30, seed=0)
    arguments = scores.clone(), candidates.clone()
    first, again, other = (choose(scores, 9, candidates, derived_generator(key)) for key in ("a", "a", "b"))
    assert first.equal(again)
    assert not first.equal(other)
    assert scores.equal(arguments[0])
    assert candidates.equal(arguments[1])


def test_a_mask_and_its_positions_are_two_forms_of_one_topology():
    mask = some((3, 4, 2), 7, seed=0)
    assert mask_of(positions_of(mask), mask.shape).equal(mask)
    assert positions_of(mask.mT.contiguous().mT).equal(positions_of(mask))


def test_a_fraction_counts_as_it_is_written_not_as_binary():
    for hundredths in range(100):
        for count in range(0, 1001, 100):
            assert floor_count(hundredths / 100, count) == hundredths * count // 100


@pytest.mark.parametrize(
    ("fraction", "count", "expected"), [(0.3, 3, 0), (0.3, 9, 2), (0.999, 100, 99), (1e-05, 10, 0)]
)
def test_a_fraction_of_a_count_is_floored(fraction, count, expected):
    assert floor_count(fraction, count) == expected


@pytest.mark.slow
def test_a_generator_is_the_same_in_every_process():
    # Run as a file, since importing the package would take several times as long.
    functions = f"runpy.run_path({masks.__file__!r})"
    script = f"import runpy; print({functions}['derived_generator'](0, 3, 'fc.weight').initial_seed())"
    environment = os.environ | {"PYTHONHASHSEED": "12345"}
    run = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    # Written out, since the masks of a seed must not change from one release to the next either.
    assert int(run.stdout) == derived_generator(0, 3, "fc.weight").initial_seed() == 1440680228886825760


def test_every_key_has_a_generator_of_its_own():
    keys = [(0, 3, "a"), (1, 3, "a"), (0, 4, "a"), (0, 3, "b"), (0, "3", "a"), (0, 3), ("0, 3, 'a'",), (3, 0, "a")]
    assert len({derived_generator(*key).initial_seed() for key in keys}) == len(keys)


def test_making_and_using_a_generator_leaves_the_global_one_alone():
    before = torch.get_rng_state()
    torch.rand(5, generator=derived_generator(0))
    assert torch.get_rng_state().equal(before)


@pytest.mark.parametrize(
    ("active", "size", "share"), [(1, 4, 3), (2, 4, 1), (4, 5, Fraction(1, 4)), (2, 2, 0), (0, 3, 0)]
)
def test_the_largest_prune_fraction_is_inactive_over_active_connections(active, size, share):
    assert max_prune_fraction(active, size) == share


def test_the_largest_prune_fraction_is_exactly_all_that_is_inactive():
    for active in range(1, 60):
        for inactive in range(active):
            assert floor_count(max_prune_fraction(active, active + inactive), active) == inactive


def test_a_fingerprint_tells_masks_apart_and_knows_them_again():
    mask = some((30, 20), 100, seed=0)
    others = [mask.clone() for _ in range(50)]
    for place, other in enumerate(others):
        other.view(-1)[place] ^= True
    assert len({fingerprint(each) for each in [mask, *others]}) == 51
    assert fingerprint(mask.T.contiguous().T) == fingerprint(mask)
    assert 0 <= fingerprint(mask) < 2**63


@pytest.mark.parametrize(
    ("product", "of", "expected"),
    [
        ((0.3, 1 - Fraction(5, 6)), 320, 16),
        ((0.3, 0.75), 80, 18),
        ((0.1, 0.7), 100, 7),
        ((1 - exact_fraction(0.3), 1), 10, 7),
        ((Fraction(1, 3), 1), 3, 1),
    ],
)
def test_a_product_of_fractions_loses_no_connection(product, of, expected):
    first, second = map(exact_fraction, product)
    assert floor_count(first * second, of) == expected


def test_an_exact_fraction_is_the_decimal_that_was_written():
    assert exact_fraction(0.29) == Fraction(29, 100)
    assert exact_fraction(0.1 + 0.2) == Fraction(3, 10)
    assert exact_fraction(Fraction(2, 7)) == Fraction(2, 7)
    assert exact_fraction(np.float32(0.5)) == Fraction(1, 2)


DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64, torch.float8_e4m3fn]


@pytest.mark.parametrize("dtype", DTYPES)
def test_inactive_weights_become_zero_and_active_ones_keep_their_bits(dtype):
    mask = bits("1010", "0110")
    weight = torch.tensor([[0.5, 2.0, -0.0, 4.0], [1.0, -1.5, 3.0, 0.25]]).to(dtype)
    before = weight.clone()
    zero_inactive_(weight, mask)
    assert not weight.to(torch.complex64)[~mask].any()
    assert (
        weight.view(torch.uint8).view(*mask.shape, -1)[mask].equal(before.view(torch.uint8).view(*mask.shape, -1)[mask])
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e-45])
def test_an_inactive_weight_becomes_zero_whatever_it_was(value):
    weight = torch.full((2, 2), value)
    zero_inactive_(weight, bits("10", "00"))
    assert weight.flatten()[1:].tolist() == [0.0, 0.0, 0.0]
    assert weight.flatten()[:1].equal(torch.tensor([value])) or value != value
    assert torch.signbit(weight.flatten()[1:]).sum() == 0


def test_weights_in_another_memory_format_are_zeroed_in_place():
    weight = torch.randn(3, 2, 2, 2).to(memory_format=torch.channels_last)
    mask, before = some((3, 2, 2, 2), 9, seed=1), weight.clone()
    zero_inactive_(weight, mask)
    assert weight.equal(before * mask)
    assert weight.is_contiguous(memory_format=torch.channels_last)


# For every mask and every score there can be.


@given(scored(), st.data())
def test_any_choice_is_exact_and_leaves_out_nothing_better(case, data):
    scores, candidates = case
    count = data.draw(st.integers(0, int(candidates.sum())))
    chosen = choose(scores, count, candidates, derived_generator(data.draw(st.integers(0, 9))))
    assert int(chosen.sum()) == count
    assert not (chosen & ~candidates).any()
    left = candidates & ~chosen
    if chosen.any() and left.any():
        assert scores[chosen].min() >= scores[left].max()


@given(scored(), st.integers(1, 5))
def test_more_than_the_candidates_are_always_refused(case, more):
    scores, candidates = case
    with pytest.raises(ValueError, match="Expected a count from 0"):
        choose(scores, int(candidates.sum()) + more, candidates, derived_generator(0))


@given(scored(), st.sampled_from([float("nan"), float("inf"), -float("inf")]), st.data())
def test_a_score_that_is_no_number_is_refused_exactly_where_it_matters(case, value, data):
    scores, candidates = case
    place = data.draw(st.integers(0, len(scores) - 1))
    scores[place] = value
    if candidates[place]:
        with pytest.raises(ValueError, match="Expected finite scores"):
            choose(scores, 0, candidates, derived_generator(0))
    else:
        assert not choose(scores, 0, candidates, derived_generator(0)).any()
