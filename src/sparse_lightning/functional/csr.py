"""Sparse topologies as indices: positions, the CSR layout and its transpose, in memory that goes with the connections.

The *position* of a connection is its index in the flattened (out, in) matrix, ``row * in_features + column``, as
int64. A topology is the sorted tensor of its positions. Nothing here builds a tensor of out x in elements, so a matrix
may have up to 2^63 - 1 of them.
"""

import warnings

import torch
from torch import Tensor

with warnings.catch_warnings():  # PyTorch warns at the first CSR tensor of a process that they are in beta
    warnings.simplefilter("ignore", UserWarning)
    torch.sparse_csr_tensor([0, 0], [], [], (1, 1), check_invariants=False)

_DENSE_SHARE = 8  # a draw of more than an eighth of all positions shuffles them all: at most 64 bytes per connection


def index_dtype(largest: int) -> torch.dtype:
    """The integer type of indices up to `largest`: int32 where they fit, else int64.

    >>> index_dtype(2**31 - 1), index_dtype(2**31)
    (torch.int32, torch.int64)
    """
    return torch.int32 if largest <= torch.iinfo(torch.int32).max else torch.int64


def check_positions(positions: Tensor, numel: int) -> None:
    """Raise ValueError unless these are sorted distinct int64 positions in a matrix of so many elements.

    >>> check_positions(torch.tensor([0, 3]), 3)
    Traceback (most recent call last):
    ...
    ValueError: Expected positions in [0, 3), got 0 to 3
    """
    if positions.dim() != 1 or positions.dtype != torch.int64:
        raise ValueError(f"Expected positions of shape (nnz,) and int64, got {positions.dim()}-D {positions.dtype}")
    if not len(positions):
        return
    if not (positions[1:] > positions[:-1]).all():
        raise ValueError("Expected sorted distinct positions")
    first, last = int(positions[0]), int(positions[-1])
    if first < 0 or last >= numel:
        raise ValueError(f"Expected positions in [0, {numel}), got {first} to {last}")


def contains(positions: Tensor, queries: Tensor) -> Tensor:
    """Which of the `queries` are among the sorted `positions`.

    :func:`torch.isin` answers the same for unsorted tensors, and takes ten times as long.

    >>> contains(torch.tensor([1, 4, 6]), torch.tensor([4, 5, 9]))
    tensor([ True, False, False])
    """
    if not len(positions):
        return torch.zeros_like(queries, dtype=torch.bool)
    return positions[_nearest(positions, queries)] == queries


def _nearest(positions: Tensor, queries: Tensor) -> Tensor:
    """Where each query is among the sorted positions, or would be."""
    return torch.searchsorted(positions, queries.contiguous()).clamp_(max=len(positions) - 1)


def look_up(positions: Tensor, values: Tensor, queries: Tensor) -> Tensor:
    """Return the value of each query's position, 0 where it has none.

    >>> look_up(torch.tensor([1, 4]), torch.tensor([0.5, 0.7]), torch.tensor([4, 5]))
    tensor([0.7000, 0.0000])
    """
    if not len(positions):
        return values.new_zeros(len(queries))
    nearest = _nearest(positions, queries)
    return torch.where(positions[nearest] == queries, values[nearest], 0)


def random_positions(
    numel: int, count: int, *, exclude: Tensor | None = None, generator: torch.Generator | None = None
) -> Tensor:
    """Distinct positions, drawn uniformly from a matrix that may be far too large to hold.

    Args:
        numel: Number of elements of the matrix, below 2^63.
        count: How many positions to draw.
        exclude: Sorted distinct positions that must not be drawn, such as the active ones.
        generator: CPU generator to draw from.

    Returns:
        `count` positions, sorted, int64, on the device of `exclude`.

    Raises:
        ValueError: There are fewer than `count` positions to draw from.

    >>> random_positions(4, 2, exclude=torch.tensor([1, 3]))
    tensor([0, 2])
    >>> random_positions(500_000 * 500_000, 1_000).unique().numel()
    1000
    """
    free = numel - (0 if exclude is None else len(exclude))
    if not 0 <= count <= free:
        raise ValueError(f"Expected count in [0, {free}], the number of free positions, got {count}")
    drawn = _distinct(free, count, generator)
    return drawn if exclude is None else _nth_free(drawn.to(exclude.device), exclude)


def _distinct(numel: int, count: int, generator: torch.Generator | None) -> Tensor:
    if numel <= _DENSE_SHARE * count:
        return _sorted(torch.randperm(numel, generator=generator)[:count], numel)
    drawn = torch.empty(0, dtype=torch.int64)
    while missing := count - len(drawn):
        drawn = torch.unique(torch.cat([drawn, torch.randint(numel, (missing,), generator=generator)]))
    return drawn


def _sorted(distinct: Tensor, numel: int) -> Tensor:
    """Distinct positions below `numel` in order; many of them, so that marking each is faster than sorting."""
    return torch.zeros(numel, dtype=torch.bool).index_fill_(0, distinct, True).nonzero().squeeze(1)


def _nth_free(ranks: Tensor, taken: Tensor) -> Tensor:
    """The positions of the free elements of these ranks, where the sorted `taken` ones are not free."""
    numel = int(max(taken[-1:].sum(), ranks[-1:].sum() + len(taken))) + 1
    if numel <= _DENSE_SHARE * len(taken):  # then a list of all that are free takes less time than a search
        free = torch.ones(numel, dtype=torch.bool, device=taken.device).index_fill_(0, taken, False)
        return free.nonzero().squeeze(1)[ranks]
    free_before = taken - torch.arange(len(taken), device=taken.device)
    return ranks + torch.searchsorted(free_before, ranks, right=True)


def csr_from_positions(positions: Tensor, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The CSR indices of a topology.

    Args:
        positions: Sorted distinct positions, int64.
        shape: (out, in) of the matrix.

    Returns:
        The offsets of the rows (out + 1) and the columns (nnz), int32 where they fit.

    Raises:
        ValueError: The positions are not int64, not sorted and distinct, or not in the matrix.

    >>> csr_from_positions(torch.tensor([1, 2, 6]), (3, 3))
    (tensor([0, 2, 2, 3], dtype=torch.int32), tensor([1, 2, 0], dtype=torch.int32))
    """
    rows, columns = shape
    check_positions(positions, rows * columns)
    dtype = index_dtype(max(len(positions), rows, columns))
    starts = torch.arange(rows + 1, device=positions.device) * columns
    return torch.searchsorted(positions, starts).to(dtype), positions.remainder(columns).to(dtype)


def rows_from_csr(crow_indices: Tensor) -> Tensor:
    """The row of each connection, from the offsets of the rows.

    >>> rows_from_csr(torch.tensor([0, 2, 2, 3]))
    tensor([0, 0, 2])
    """
    rows = torch.arange(len(crow_indices) - 1, dtype=crow_indices.dtype, device=crow_indices.device)
    return rows.repeat_interleave(crow_indices.diff())


def positions_from_csr(crow_indices: Tensor, col_indices: Tensor, in_features: int) -> Tensor:
    """The positions of a topology, int64: the inverse of :func:`csr_from_positions`.

    >>> positions_from_csr(torch.tensor([0, 2, 2, 3]), torch.tensor([1, 2, 0]), 3)
    tensor([1, 2, 6])
    """
    return rows_from_csr(crow_indices).long().mul_(in_features).add_(col_indices)


def transpose_csr(crow_indices: Tensor, col_indices: Tensor, in_features: int) -> tuple[Tensor, Tensor, Tensor]:
    """The layout of the transposed matrix, and where its values come from.

    Args:
        crow_indices: Offsets of the rows (out + 1).
        col_indices: Column of each connection (nnz).
        in_features: Number of columns.

    Returns:
        The offsets of the transposed matrix's rows (in + 1), its columns (nnz), and the permutation (nnz) that takes
        values to its order, ``values[permutation]``; all of the indices' type.

    >>> crow, col, permutation = transpose_csr(torch.tensor([0, 2, 2, 3]), torch.tensor([1, 2, 0]), 3)
    >>> crow, col, permutation
    (tensor([0, 1, 2, 3]), tensor([2, 0, 0]), tensor([2, 0, 1]))
    """
    dtype = col_indices.dtype
    crow = torch.zeros(in_features + 1, dtype=dtype, device=col_indices.device)
    torch.cumsum(torch.bincount(col_indices, minlength=in_features), 0, out=crow[1:])
    permutation = col_indices.argsort(stable=True).to(dtype)
    return crow, rows_from_csr(crow_indices).index_select(0, permutation), permutation


def replace_positions(positions: Tensor, pruned: Tensor, grown: Tensor) -> tuple[Tensor, Tensor]:
    """Drop some connections of a topology and add others.

    Args:
        positions: The topology: sorted distinct positions (nnz).
        pruned: Positions to drop, in any order.
        grown: Positions to add, in any order. One that is pruned may be grown again, and counts as new.

    Returns:
        The new topology, and for each of its connections its index in `positions`, -1 where it was grown: what
        :func:`carry` needs to move values and optimizer state.

    Raises:
        ValueError: A pruned position is not active, a grown one is, or one is given twice.

    >>> replace_positions(torch.tensor([1, 2, 6]), pruned=torch.tensor([2]), grown=torch.tensor([7, 0]))
    (tensor([0, 1, 6, 7]), tensor([-1,  0,  2, -1]))
    """
    kept = torch.ones_like(positions, dtype=torch.bool)
    if len(pruned):
        found = _nearest(positions, pruned) if len(positions) else pruned
        if not len(positions) or not positions[found].equal(pruned):
            raise ValueError("Expected pruned positions to be active, got inactive ones among them")
        kept[found] = False
    survivors = kept.nonzero().squeeze(1)
    if len(survivors) != len(positions) - len(pruned):
        raise ValueError("Expected distinct pruned positions, got one twice")
    in_order = bool((grown[1:] > grown[:-1]).all())  # as they are nearly always
    grown, old = grown if in_order else grown.sort().values, positions[survivors]
    place = torch.searchsorted(old, grown) + torch.arange(len(grown), device=grown.device)
    stays = positions.new_ones(len(old) + len(grown), dtype=torch.bool).index_fill_(0, place, False)
    new = positions.new_empty(len(stays)).index_copy_(0, place, grown).masked_scatter_(stays, old)
    if len(new) and not (new[1:] > new[:-1]).all():
        raise ValueError("Expected distinct inactive grown positions, got an active one or one twice")
    return new, torch.full_like(new, -1).masked_scatter_(stays, survivors)


def carry(values: Tensor, source: Tensor, grown: float | Tensor = 0.0) -> Tensor:
    """What belongs to the connections of a topology, moved to the next one.

    Args:
        values: One element for each connection of the old topology (nnz).
        source: For each connection of the new topology its index in the old one, -1 if it is new.
        grown: What the new ones get: a number, or one element for each, in the order of their positions.

    Returns:
        One element for each connection of the new topology.

    >>> carry(torch.tensor([0.5, 0.6, 0.7]), torch.tensor([-1, 0, 2, -1]))
    tensor([0.0000, 0.5000, 0.7000, 0.0000])
    """
    new = source < 0
    filling = torch.as_tensor(grown, dtype=values.dtype, device=values.device).expand(int(new.count_nonzero()))
    if not len(values):
        return filling.clone()
    return values.index_select(0, source.clamp(min=0)).masked_scatter_(new, filling)


def csr_tensor(
    crow_indices: Tensor, col_indices: Tensor, values: Tensor, shape: tuple[int, int], *, check: bool = False
) -> Tensor:
    """A CSR tensor that shares the memory of its indices and values.

    Args:
        crow_indices: Offsets of the rows (out + 1).
        col_indices: Column of each connection (nnz), ascending in each row.
        values: Value of each connection (nnz). The tensor is differentiable in them.
        shape: (out, in).
        check: Whether the indices are checked, which reads all of them.

    Raises:
        RuntimeError: The indices are not those of a CSR matrix of this shape; only if `check`.

    >>> csr_tensor(torch.tensor([0, 1, 2]), torch.tensor([1, 0]), torch.tensor([3., 4.]), (2, 2)).to_dense()
    tensor([[0., 3.],
            [4., 0.]])
    """
    return torch.sparse_csr_tensor(crow_indices, col_indices, values, shape, check_invariants=check)
