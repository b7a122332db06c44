import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sparse_lightning.functional import masks
from sparse_lightning.functional.masks import choose, derived_generator, fingerprint, part, random_mask, room


def bits(*rows: str) -> Tensor:
    return torch.tensor([[digit == "1" for digit in row] for row in rows])


def everywhere(scores: Tensor) -> Tensor:
    return torch.ones_like(scores, dtype=torch.bool)


def some(shape: tuple[int, ...], count: int, seed: int) -> Tensor:
    """A mask of so many connections, drawn without any of the code under test."""
    mask = torch.zeros(shape, dtype=torch.bool)
    mask.view(-1)[torch.randperm(mask.numel(), generator=torch.Generator().manual_seed(seed))[:count]] = True
    return mask


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
    among = bits("0110", "1001")
    assert not choose(torch.zeros(2, 4), 0, among, derived_generator(0)).any()
    assert choose(torch.zeros(2, 4), 4, among, derived_generator(0)).equal(among)
    assert not choose(torch.zeros(2, 4), 0, torch.zeros_like(among), derived_generator(0)).any()


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
    scores, among = torch.zeros(6, 6), some((6, 6), 30, seed=0)
    arguments = scores.clone(), among.clone()
    first, again, other = (choose(scores, 9, among, derived_generator(key)) for key in ("a", "a", "b"))
    assert first.equal(again)
    assert not first.equal(other)
    assert scores.equal(arguments[0])
    assert among.equal(arguments[1])


def test_a_random_mask_is_uniform():
    # Each of 20 places should be drawn 4/20 of 3000 times; 45 is far out in the tail of chi-square with 19 degrees.
    times = sum(random_mask((4, 5), 4, derived_generator("uniform", n)).double() for n in range(3000))
    assert times.sum() == 4 * 3000
    assert ((times - 600) ** 2 / 600).sum() < 45


@pytest.mark.parametrize("count", [0, 1, 5, 6])
def test_a_random_mask_among_some_takes_only_those(count):
    among = bits("0111", "1110")
    mask = random_mask((2, 4), count, derived_generator(count), among=among)
    assert int(mask.sum()) == count
    assert not (mask & ~among).any()


def test_a_random_mask_of_more_than_there_are_is_refused():
    with pytest.raises(ValueError, match="Expected a count from 0 to the 2 candidates, got 3"):
        random_mask((2, 2), 3, derived_generator(0), among=bits("10", "01"))


def test_rewiring_drops_and_grows_what_it_was_told_to():
    mask, dropped = bits("1100", "0011"), bits("1000", "0001")
    scores = torch.tensor([[9.0, 9.0, 1.0, 4.0], [3.0, 2.0, 9.0, 9.0]])
    new, grown = rewire(mask, dropped, scores, derived_generator(0))
    assert new.equal(bits("0101", "1010"))
    assert grown.equal(bits("0001", "1000"))
    assert mask.equal(bits("1100", "0011"))


def test_a_connection_just_dropped_does_not_come_back_however_high_it_scores():
    new, _ = rewire(bits("1100"), bits("1000"), torch.tensor([[99.0, 0.0, -1.0, -2.0]]), derived_generator(0))
    assert new.equal(bits("0110"))


def test_scores_of_active_connections_are_not_read():
    scores = torch.tensor([[float("nan"), float("inf"), 0.0, 1.0]])
    assert rewire(bits("1100"), bits("0100"), scores, derived_generator(0))[0].equal(bits("1001"))


@pytest.mark.parametrize(
    ("dropped", "scores", "message"),
    [
        ("1010", [0.0, 0.0, 0.0, 0.0], "Expected only active connections to be dropped"),
        ("1100", [0.0, 0.0, 0.0, 0.0], "Expected a count from 0 to the 1 candidates, got 2"),
        ("1000", [0.0, 0.0, float("nan"), 0.0], "Expected finite scores"),
    ],
)
def test_a_rewiring_that_cannot_be_done_is_refused(dropped, scores, message):
    with pytest.raises(ValueError, match=message):
        rewire(bits("1101"), bits(dropped), torch.tensor([scores]), derived_generator(0))


@pytest.mark.parametrize("levels", [1, 2, 1000])
@pytest.mark.parametrize("density", [0.05, 0.2, 0.5, 0.9])
@pytest.mark.parametrize("shape", [(10, 10), (3, 40), (50, 2)])
def test_rewiring_keeps_the_number_of_connections_and_grows_only_inactive_ones(shape, density, levels):
    size = shape[0] * shape[1]
    mask = some(shape, round(density * size), seed=0)
    count = min(int(mask.sum()), size - int(mask.sum())) // 2
    dropped = mask & choose(torch.rand(shape), count, mask, derived_generator("drop"))
    scores = torch.randint(levels, shape)
    new, grown = rewire(mask, dropped, scores, derived_generator(levels))
    assert int(new.sum()) == int(mask.sum())
    assert int(grown.sum()) == count
    assert not (grown & mask).any()
    assert new.equal(mask & ~dropped | grown)
    best = sorted(scores[~mask].tolist())[int((~mask).sum()) - count :]  # slow and obvious
    assert sorted(scores[grown].tolist()) == best


def test_a_part_is_of_the_fraction_as_written_not_as_binary():
    for hundredths in range(100):
        for count in range(0, 1001, 100):
            assert part(hundredths / 100, count) == hundredths * count // 100


@pytest.mark.parametrize(
    ("fraction", "count", "expected"), [(0.3, 3, 0), (0.3, 9, 2), (0.999, 100, 99), (1e-05, 10, 0)]
)
def test_a_part_is_floored(fraction, count, expected):
    assert part(fraction, count) == expected


def test_a_generator_is_the_same_in_every_process():
    # Run as a file, since importing the package would take several times as long.
    script = f"import runpy; print(runpy.run_path({masks.__file__!r})['derived_generator'](0, 3, 'fc.weight').initial_seed())"
    environment = os.environ | {"PYTHONHASHSEED": "12345"}
    run = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    # Written out, since the masks of a seed must not change from one release to the next either.
    assert int(run.stdout) == derived_generator(0, 3, "fc.weight").initial_seed() == 1440680228886825760


def test_every_key_has_a_generator_of_its_own():
    keys = [(0, 3, "a"), (1, 3, "a"), (0, 4, "a"), (0, 3, "b"), (0, "3", "a"), (0, 3), ("0, 3, 'a'",), (3, 0, "a")]
    assert len({derived_generator(*key).initial_seed() for key in keys}) == len(keys)


def test_making_and_using_a_generator_leaves_the_global_one_alone():
    before = torch.get_rng_state()
    random_mask((5, 5), 5, derived_generator(0))
    assert torch.get_rng_state().equal(before)


@pytest.mark.parametrize(("mask", "share"), [("1000", 3.0), ("1100", 1.0), ("11110", 0.25), ("11", 0.0), ("000", 0.0)])
def test_room_is_inactive_over_active_connections(mask, share):
    assert room(bits(mask)) == pytest.approx(share)


def test_a_part_as_large_as_the_room_is_all_that_is_inactive():
    for active in range(1, 60):
        for inactive in range(active):
            mask = torch.arange(active + inactive) < active
            assert part(room(mask), active) == inactive


def test_a_connection_just_dropped_may_win_its_place_back_where_that_is_asked_for():
    mask, dropped, scores = bits("1100"), bits("1000"), torch.tensor([[9.0, 0.0, 1.0, 2.0]])
    new, grown = rewire(mask, dropped, scores, derived_generator(0), regrow=True)
    assert new.equal(mask)
    assert not grown.any()
    new, grown = rewire(mask, dropped, torch.tensor([[1.5, 0.0, 1.0, 2.0]]), derived_generator(0), regrow=True)
    assert new.equal(bits("0101"))
    assert grown.equal(bits("0001"))


def test_even_all_of_a_dense_mask_can_be_dropped_where_it_may_grow_again():
    mask = bits("111")
    new, grown = rewire(mask, mask, torch.zeros(1, 3), derived_generator(0), regrow=True)
    assert new.equal(mask)
    assert not grown.any()


def test_a_fingerprint_tells_masks_apart_and_knows_them_again():
    mask = some((30, 20), 100, seed=0)
    others = [mask.clone() for _ in range(50)]
    for place, other in enumerate(others):
        other.view(-1)[place] ^= True
    assert len({fingerprint(each) for each in [mask, *others]}) == 51
    assert fingerprint(mask.T.contiguous().T) == fingerprint(mask)
    assert 0 <= fingerprint(mask) < 2**63


# For every mask and every score there can be.

SCORES = st.one_of(st.integers(-2, 2).map(float), st.floats(-1e30, 1e30), st.sampled_from([0.0, -0.0, 1e-40]))


@st.composite
def scored(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Scores, tied more often than not, and a mask, empty and full ones among them."""
    size = draw(st.integers(1, 24))
    values = draw(st.one_of(st.lists(SCORES, min_size=size, max_size=size), st.just([1.0] * size)))
    mask = draw(
        st.one_of(
            st.lists(st.booleans(), min_size=size, max_size=size), st.just([True] * size), st.just([False] * size)
        )
    )
    return torch.tensor(values, dtype=torch.float64), torch.tensor(mask)


@given(scored(), st.data())
def test_any_choice_is_exact_and_leaves_out_nothing_better(case, data):
    scores, among = case
    count = data.draw(st.integers(0, int(among.sum())))
    chosen = choose(scores, count, among, derived_generator(data.draw(st.integers(0, 9))))
    assert int(chosen.sum()) == count
    assert not (chosen & ~among).any()
    left = among & ~chosen
    if chosen.any() and left.any():
        assert scores[chosen].min() >= scores[left].max()


@given(scored(), st.integers(1, 5))
def test_more_than_the_candidates_are_always_refused(case, more):
    scores, among = case
    with pytest.raises(ValueError, match="Expected a count from 0"):
        choose(scores, int(among.sum()) + more, among, derived_generator(0))


@given(scored(), st.sampled_from([float("nan"), float("inf"), -float("inf")]), st.data())
def test_a_score_that_is_no_number_is_refused_exactly_where_it_matters(case, value, data):
    scores, among = case
    place = data.draw(st.integers(0, len(scores) - 1))
    scores[place] = value
    if among[place]:
        with pytest.raises(ValueError, match="Expected finite scores"):
            choose(scores, 0, among, derived_generator(0))
    else:
        assert not choose(scores, 0, among, derived_generator(0)).any()


@given(scored(), st.booleans(), st.data())
def test_any_rewiring_keeps_the_count_and_grows_only_what_was_inactive(case, regrow, data):
    scores, mask = case
    active = mask.nonzero().flatten().tolist()
    most = len(active) if regrow else min(len(active), len(mask) - len(active))
    dropped = torch.zeros_like(mask)
    if most:
        dropped[data.draw(st.lists(st.sampled_from(active), max_size=most, unique=True))] = True
    new, grown = rewire(mask, dropped, scores, derived_generator(1), regrow)
    assert int(new.sum()) == int(mask.sum())
    assert not (grown & mask).any()
    assert (new & ~mask).equal(grown)
    assert (mask & ~dropped & ~new).sum() == 0
    if not regrow:
        assert not (new & dropped).any()
        assert int(grown.sum()) == int(dropped.sum())
