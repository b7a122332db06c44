"""Connections pruned and grown: small ones by hand, then what must hold for all."""

import numpy as np
import pytest
import torch
from drawn import bits, scored, some
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse
from scipy.optimize import linprog
from torch import Tensor

from sparse_lightning.functional import grow
from sparse_lightning.functional.grow import exchange_ends, highest
from sparse_lightning.functional.masks import choose, derived_generator, mask_of, positions_of


def exchange(mask: Tensor, pruned: Tensor, *args: object, **kwargs: object) -> tuple[Tensor, Tensor]:
    """The new mask and the mask of the connections grown, of masks of the active connections and of those to prune."""
    positions = positions_of(mask)
    dropped, grown = grow.exchange(positions, pruned.flatten()[positions], *args, **kwargs)
    new, off = mask_of(grown, mask.shape), mask_of(dropped, mask.shape)
    return (mask | new) & ~off, new


def test_an_exchange_prunes_and_grows_what_is_given():
    mask, pruned = bits("1100", "0011"), bits("1000", "0001")
    scores = torch.tensor([[9.0, 9.0, 1.0, 4.0], [3.0, 2.0, 9.0, 9.0]])
    new, grown = exchange(mask, pruned, scores, derived_generator(0))
    assert new.equal(bits("0101", "1010"))
    assert grown.equal(bits("0001", "1000"))
    assert mask.equal(bits("1100", "0011"))


def test_a_connection_just_dropped_does_not_come_back_however_high_it_scores():
    new, _ = exchange(bits("1100"), bits("1000"), torch.tensor([[99.0, 0.0, -1.0, -2.0]]), derived_generator(0))
    assert new.equal(bits("0110"))


def test_scores_of_active_connections_are_not_read():
    scores = torch.tensor([[float("nan"), float("inf"), 0.0, 1.0]])
    assert exchange(bits("1100"), bits("0100"), scores, derived_generator(0))[0].equal(bits("1001"))


@pytest.mark.parametrize(
    ("pruned", "scores", "message"),
    [
        ("1100", [0.0, 0.0, 0.0, 0.0], "Expected a count from 0 to the 1 candidates, got 2"),
        ("1000", [0.0, 0.0, float("nan"), 0.0], "Expected finite scores"),
    ],
)
def test_an_exchange_that_cannot_be_done_is_refused(pruned, scores, message):
    with pytest.raises(ValueError, match=message):
        exchange(bits("1101"), bits(pruned), torch.tensor([scores]), derived_generator(0))


@given(scored=scored(), rows=st.integers(1, 5), share=st.floats(0, 1))
def test_blocks_of_rows_give_what_all_scores_at_once_do(scored, rows, share):
    scores, candidates = scored
    taken = (~candidates).flatten().nonzero().squeeze(1)
    count = int(share * int(candidates.sum()))
    whole, blocks = (highest(each, count, taken, derived_generator(3)) for each in (scores, iter(scores.split(rows))))
    assert blocks.equal(whole)


def test_what_blocks_cannot_give_is_refused():
    with pytest.raises(ValueError, match="Expected a count from 0 to the 1 candidates, got 2"):
        highest(iter(torch.zeros(2, 1)), 2, torch.tensor([0]), derived_generator(0))
    with pytest.raises(ValueError, match="Expected finite scores"):
        highest(iter(torch.tensor([[1.0, float("nan")], [2.0, 3.0]])), 1, torch.tensor([0]), derived_generator(0))


@pytest.mark.parametrize("levels", [1, 2, 1000])
@pytest.mark.parametrize("density", [0.05, 0.2, 0.5, 0.9])
@pytest.mark.parametrize("shape", [(10, 10), (3, 40), (50, 2)])
def test_an_exchange_keeps_the_number_of_connections_and_grows_only_inactive_ones(shape, density, levels):
    size = shape[0] * shape[1]
    mask = some(shape, round(density * size), seed=0)
    count = min(int(mask.sum()), size - int(mask.sum())) // 2
    pruned = mask & choose(torch.rand(shape), count, mask, derived_generator("drop"))
    scores = torch.randint(levels, shape)
    new, grown = exchange(mask, pruned, scores, derived_generator(levels))
    assert int(new.sum()) == int(mask.sum())
    assert int(grown.sum()) == count
    assert not (grown & mask).any()
    assert new.equal(mask & ~pruned | grown)
    best = sorted(scores[~mask].tolist())[int((~mask).sum()) - count :]  # slow and obvious
    assert sorted(scores[grown].tolist()) == best


def test_a_connection_just_dropped_may_win_its_place_back_where_that_is_asked_for():
    mask, pruned, scores = bits("1100"), bits("1000"), torch.tensor([[9.0, 0.0, 1.0, 2.0]])
    new, grown = exchange(mask, pruned, scores, derived_generator(0), regrow=True)
    assert new.equal(mask)
    assert not grown.any()
    new, grown = exchange(mask, pruned, torch.tensor([[1.5, 0.0, 1.0, 2.0]]), derived_generator(0), regrow=True)
    assert new.equal(bits("0101"))
    assert grown.equal(bits("0001"))


def test_even_all_of_a_dense_mask_can_be_dropped_where_it_may_grow_again():
    mask = bits("111")
    new, grown = exchange(mask, mask, torch.zeros(1, 3), derived_generator(0), regrow=True)
    assert new.equal(mask)
    assert not grown.any()


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_an_exchange_can_end_with_another_number_of_connections(count):
    mask, pruned, scores = bits("110000"), bits("100000"), torch.tensor([[9.0, 9.0, 4.0, 3.0, 2.0, 1.0]])
    new, grown = exchange(mask, pruned, scores, derived_generator(0), count=count)
    assert new.equal(torch.tensor([[False] + [True] * count + [False] * (5 - count)]))
    assert grown.equal(new & ~mask)


def test_an_exchange_that_keeps_more_than_it_may_is_refused():
    with pytest.raises(ValueError, match="Expected a count from 0 to the 1 candidates, got -1"):
        exchange(bits("1110"), bits("0000"), torch.zeros(1, 4), derived_generator(0), count=2)


@given(scored(), st.booleans(), st.data())
def test_any_exchange_keeps_the_count_and_grows_only_what_was_inactive(case, regrow, data):
    scores, mask = case
    active = mask.nonzero().flatten().tolist()
    most = len(active) if regrow else min(len(active), len(mask) - len(active))
    pruned = torch.zeros_like(mask)
    if most:
        pruned[data.draw(st.lists(st.sampled_from(active), max_size=most, unique=True))] = True
    new, grown = exchange(mask, pruned, scores, derived_generator(1), regrow=regrow)
    assert int(new.sum()) == int(mask.sum())
    assert not (grown & mask).any()
    assert (new & ~mask).equal(grown)
    assert (mask & ~pruned & ~new).sum() == 0
    if not regrow:
        assert not (new & pruned).any()
        assert int(grown.sum()) == int(pruned.sum())


def test_one_number_for_all_scores_draws_uniformly_in_memory_of_the_draw_alone():
    # 3 of 16 free places, 3000 times; 42 is far out in the tail of chi-square with 15 degrees of freedom.
    taken, times = positions_of(some((4, 5), 4, seed=0)), torch.zeros(20, dtype=torch.float64)
    for number in range(3000):
        drawn = highest(torch.zeros(()).expand(4, 5), 3, taken, derived_generator("uniform", number))
        times[drawn] += 1
    assert not times[taken].any()
    expected = 3000 * 3 / 16
    assert ((times[times > 0] - expected) ** 2 / expected).sum() < 42
    assert len(highest(torch.zeros(()).expand(10**8, 10**8), 9, taken, derived_generator(0))) == 9


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_one_number_for_all_scores_must_be_finite(value):
    with pytest.raises(ValueError, match="Expected finite scores"):
        highest(torch.tensor(value).expand(4, 5), 3, torch.tensor([0]), derived_generator(0))


def best_with_degrees(chosen, taken, scores):
    """The highest sum of scores that a choice with these degrees can have: a transportation problem, solved exactly."""
    out, width = chosen.shape
    rows = sparse.kron(sparse.eye(out), np.ones((1, width)))
    columns = sparse.kron(np.ones((1, out)), sparse.eye(width))
    degrees = np.concatenate([chosen.sum(1), chosen.sum(0)])
    bounds = np.stack([np.zeros(out * width), (~taken).flatten().double().numpy()], 1)
    return -linprog(-scores.flatten().numpy(), A_eq=sparse.vstack([rows, columns]), b_eq=degrees, bounds=bounds).fun


@pytest.mark.parametrize("seed", range(3))
def test_exchanged_ends_keep_every_degree_and_come_near_the_best(seed):
    generator = torch.Generator().manual_seed(seed)
    taken = torch.rand(20, 50, generator=generator) < 0.2
    scores = torch.rand(20, 50, generator=generator).double()
    chosen = mask_of(highest(torch.zeros(()).expand(20, 50), 250, positions_of(taken), generator), (20, 50))
    found = exchange_ends(chosen, taken, scores, generator)
    assert found.sum(0).equal(chosen.sum(0))
    assert found.sum(1).equal(chosen.sum(1))
    assert not (found & taken).any()
    first, last, best = (
        float(scores[chosen].sum()),
        float(scores[found].sum()),
        best_with_degrees(chosen, taken, scores),
    )
    assert (last - first) / (best - first) > 0.9


@pytest.mark.slow
def test_exchanges_of_equal_scores_forget_the_choice():
    """Every choice of one connection in each row and each column of three is as likely."""
    found = torch.zeros(6)
    orders = [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]
    for seed in range(1200):
        generator = torch.Generator().manual_seed(seed)
        mask = exchange_ends(
            torch.eye(3).bool(), torch.zeros(3, 3).bool(), torch.zeros(()).expand(3, 3), generator, rounds=20 + seed % 2
        )
        found[orders.index(tuple(mask.float().argmax(1).tolist()))] += 1
    assert (found - 200).abs().max() < 5 * (200 * 5 / 6) ** 0.5


def test_a_single_connection_has_nothing_to_exchange_with():
    chosen = torch.tensor([[False, True], [False, False]])
    assert exchange_ends(chosen, ~chosen, torch.ones(2, 2), torch.Generator()).equal(chosen)
