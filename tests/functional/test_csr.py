import math

import pytest
import torch
from torch import Tensor

from sparse_lightning.functional.csr import (
    carry,
    contains,
    csr_from_positions,
    csr_tensor,
    index_dtype,
    positions_from_csr,
    random_positions,
    replace_positions,
    rows_from_csr,
    transpose_csr,
)

HUGE = 500_000 * 500_000


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def some_mask(rows: int, columns: int, density: float, seed: int = 0) -> Tensor:
    return torch.rand(rows, columns, generator=generator(seed)) < density


def positions_of(mask: Tensor) -> Tensor:
    return mask.flatten().nonzero().squeeze(1)


MASKS = {
    "sparse": some_mask(7, 5, 0.3),
    "full": torch.ones(4, 6, dtype=torch.bool),
    "empty": torch.zeros(3, 2, dtype=torch.bool),
    "one connection": torch.eye(1, 9, dtype=torch.bool),
    "rows and columns without any": torch.tensor([[0, 0, 0], [1, 0, 1], [0, 0, 0]]).bool(),
    "one row": some_mask(1, 8, 0.5),
    "one column": some_mask(8, 1, 0.5),
}


@pytest.fixture(params=MASKS.values(), ids=MASKS.keys())
def mask(request: pytest.FixtureRequest) -> Tensor:
    return request.param


def test_indices_are_of_32_bits_where_they_fit():
    assert index_dtype(2**31 - 1) == torch.int32
    assert index_dtype(2**31) == torch.int64


def test_csr_indices_are_those_that_pytorch_makes(mask):
    crow, col = csr_from_positions(positions_of(mask), tuple(mask.shape))
    dense = mask.float()
    expected = csr_tensor(crow, col, torch.ones(len(col)), tuple(mask.shape), check=True)
    assert expected.to_dense().equal(dense)
    assert crow.dtype == col.dtype == torch.int32


def test_positions_come_back_from_csr_indices(mask):
    crow, col = csr_from_positions(positions_of(mask), tuple(mask.shape))
    assert positions_from_csr(crow, col, mask.shape[1]).equal(positions_of(mask))
    assert rows_from_csr(crow).long().equal(mask.nonzero()[:, 0])


def test_the_transposed_layout_is_that_of_the_transposed_mask(mask):
    values = torch.arange(1.0, 1 + mask.count_nonzero())
    crow, col, permutation = transpose_csr(*csr_from_positions(positions_of(mask), tuple(mask.shape)), mask.shape[1])
    dense = torch.zeros(mask.shape).masked_scatter(mask, values)
    shape = (mask.shape[1], mask.shape[0])
    assert csr_tensor(crow, col, values[permutation], shape, check=True).to_dense().equal(dense.t())
    assert crow.dtype == col.dtype == permutation.dtype == torch.int32


def test_positions_beyond_32_bits_keep_their_rows_and_columns():
    positions = torch.tensor([499_999, 500_000, HUGE - 1])
    crow, col = csr_from_positions(positions, (500_000, 500_000))
    assert rows_from_csr(crow).tolist() == [0, 1, 499_999]
    assert col.tolist() == [499_999, 0, 499_999]
    assert positions_from_csr(crow, col, 500_000).equal(positions)


@pytest.mark.parametrize("positions", [[2, 1], [1, 1]])
def test_unsorted_or_repeated_positions_are_refused(positions):
    with pytest.raises(ValueError, match="Expected sorted distinct positions"):
        csr_from_positions(torch.tensor(positions), (2, 2))


@pytest.mark.parametrize(("positions", "message"), [([-1, 2], "got -1 to 2"), ([0, 4], "got 0 to 4")])
def test_positions_off_the_matrix_are_refused(positions, message):
    with pytest.raises(ValueError, match=message):
        csr_from_positions(torch.tensor(positions), (2, 2))


def test_positions_of_another_type_or_shape_are_refused():
    with pytest.raises(ValueError, match=r"got 1-D torch.int32"):
        csr_from_positions(torch.tensor([0, 1], dtype=torch.int32), (2, 2))
    with pytest.raises(ValueError, match=r"got 2-D torch.int64"):
        csr_from_positions(torch.tensor([[0, 1]]), (2, 2))


def test_csr_indices_that_do_not_fit_are_refused_where_checked():
    with pytest.raises(RuntimeError):
        csr_tensor(torch.tensor([0, 2]), torch.tensor([0]), torch.ones(1), (1, 2), check=True)


@pytest.mark.parametrize(("numel", "count"), [(10, 0), (10, 1), (10, 10), (100, 13), (10_000, 90), (HUGE, 5_000)])
def test_drawn_positions_are_sorted_distinct_and_as_many_as_asked(numel, count):
    drawn = random_positions(numel, count, generator=generator())
    assert len(drawn) == count
    assert drawn.dtype == torch.int64
    assert (drawn[1:] > drawn[:-1]).all()
    assert ((drawn >= 0) & (drawn < numel)).all()


@pytest.mark.parametrize("numel", [12, 100])  # one is shuffled, one is drawn until there are enough
def test_positions_are_drawn_uniformly(numel):
    draws, count, source = 6_000, 3, generator()
    times = torch.zeros(numel)
    for _ in range(draws):
        times[random_positions(numel, count, generator=source)] += 1
    expected = draws * count / numel
    assert (times - expected).abs().max() < 5 * math.sqrt(expected)


def test_a_generator_draws_the_same_positions_again():
    assert random_positions(HUGE, 50, generator=generator(3)).equal(random_positions(HUGE, 50, generator=generator(3)))
    one, other = (random_positions(HUGE, 50, generator=generator(seed)) for seed in (3, 4))
    assert not one.equal(other)


@pytest.mark.parametrize("exclude", [[], [0], [9], [0, 1, 2, 9], [1, 3, 5, 7]])
def test_all_free_positions_can_be_drawn_and_no_other(exclude):
    free = [position for position in range(10) if position not in exclude]
    taken = torch.tensor(exclude, dtype=torch.int64)
    assert random_positions(10, len(free), exclude=taken).tolist() == free


def test_excluded_positions_are_not_drawn_from_a_huge_matrix():
    taken = random_positions(HUGE, 20_000, generator=generator(1))
    drawn = random_positions(HUGE, 20_000, exclude=taken, generator=generator(1))  # the same ranks, moved
    assert not torch.isin(drawn, taken).any()
    assert len(drawn.unique()) == 20_000


@pytest.mark.parametrize(("count", "exclude"), [(11, None), (-1, None), (9, torch.tensor([2, 5]))])
def test_more_positions_than_are_free_are_refused(count, exclude):
    with pytest.raises(ValueError, match=r"Expected count in \[0, (10|8)\]"):
        random_positions(10, count, exclude=exclude)


def test_membership_agrees_with_isin():
    positions = random_positions(200, 40, generator=generator())
    queries = torch.arange(-3, 203)
    assert contains(positions, queries).equal(torch.isin(queries, positions))
    assert not contains(positions[:0], queries).any()
    assert contains(positions, queries[:0]).shape == (0,)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("pruned_count", "grown_count"), [(0, 0), (6, 6), (20, 3), (2, 30), (20, 80)])
def test_replaced_positions_and_values_agree_with_dense_masks(seed, pruned_count, grown_count):
    active = random_positions(100, 20, generator=generator(seed))
    pruned = active[torch.randperm(20, generator=generator(seed))[:pruned_count]]
    grown = random_positions(100, grown_count, exclude=active, generator=generator(seed))
    grown = grown[torch.randperm(grown_count, generator=generator(seed))]
    values = torch.randn(20, generator=generator(seed))
    dense = torch.zeros(100).index_copy(0, active, values)
    dense[pruned], dense[grown] = 0.0, 7.0

    positions, source = replace_positions(active, pruned, grown)

    kept = set(active.tolist()) - set(pruned.tolist())
    assert positions.tolist() == sorted(kept | set(grown.tolist()))
    assert torch.zeros(100).index_copy(0, positions, carry(values, source, 7.0)).equal(dense)
    assert (source < 0).equal(torch.isin(positions, grown))


def test_a_position_pruned_and_grown_again_is_new():
    positions, source = replace_positions(torch.tensor([1, 4]), torch.tensor([4]), torch.tensor([4]))
    assert positions.tolist() == [1, 4]
    assert source.tolist() == [0, -1]


@pytest.mark.parametrize(
    ("pruned", "grown", "message"),
    [
        ([2], [], "pruned positions to be active"),
        ([1, 1], [], "distinct pruned positions"),
        ([], [4], "inactive grown positions"),
        ([], [5, 5], "distinct inactive grown positions"),
    ],
)
def test_a_replacement_that_is_none_is_refused(pruned, grown, message):
    def tensor(positions: list[int]) -> Tensor:
        return torch.tensor(positions, dtype=torch.int64)

    with pytest.raises(ValueError, match=message):
        replace_positions(tensor([1, 4]), tensor(pruned), tensor(grown))


def test_new_connections_get_the_values_given_for_them():
    source = torch.tensor([-1, 1, -1])
    assert carry(torch.tensor([1.0, 2.0]), source, torch.tensor([8.0, 9.0])).tolist() == [8.0, 2.0, 9.0]
    assert carry(torch.empty(0), torch.tensor([-1, -1]), 3.0).tolist() == [3.0, 3.0]
