"""Growth as pure functions: which inactive connections of one weight to grow, by their scores.

Connections are given by their positions, the sorted indices into the flattened weight; see
:mod:`sparse_lightning.functional.csr`.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from sparse_lightning.functional.csr import contains, random_positions
from sparse_lightning.functional.masks import choose, kth_largest


def highest(scores: Tensor | Iterable[Tensor], count: int, taken: Tensor, generator: torch.Generator) -> Tensor:
    """Choose the `count` connections with the highest scores among those that are not taken.

    Ties are broken uniformly at random. Where one number stands for all scores, ``torch.zeros(()).expand(shape)``, the
    connections are drawn by their indices, in time and memory in proportion to the number of connections.

    Args:
        scores: A real number for each connection, finite where it is not taken, shaped like the weight; or blocks of
            successive rows of them, of which the best of each alone are kept.
        count: How many to choose.
        taken: Positions that cannot be chosen, sorted, int64.
        generator: CPU generator that breaks ties.

    Returns:
        The positions chosen, sorted, int64 (count).

    Raises:
        ValueError: A score that matters is NaN or infinite, or there are too few connections to choose from.

    >>> highest(torch.tensor([[9., 1.], [3., 2.]]), 2, torch.tensor([0]), torch.Generator())
    tensor([2, 3])
    >>> len(highest(torch.zeros(()).expand(10**6, 10**6), 5, torch.tensor([0]), torch.Generator()))
    5
    """
    if not isinstance(scores, Tensor):
        return _highest_of_blocks(scores, count, taken, generator)
    if scores.numel() > 1 and not any(scores.stride()):
        if not scores[(0,) * scores.dim()].isfinite():
            raise ValueError("Expected finite scores, got NaN or infinity")
        return random_positions(scores.numel(), count, exclude=taken, generator=generator)
    candidates = torch.ones(scores.numel(), dtype=torch.bool, device=scores.device).index_fill_(0, taken, False)
    return choose(scores.flatten(), count, candidates, generator).nonzero().squeeze(1)


def _highest_of_blocks(blocks: Iterable[Tensor], count: int, taken: Tensor, generator: torch.Generator) -> Tensor:
    """Choose as :func:`highest` does, ties included, with the candidates that may still be chosen in memory."""
    if count == 0:
        return taken[:0]
    best, where, start = torch.empty(0), torch.empty(0, dtype=torch.int64), 0
    for block in blocks:
        first, last = torch.searchsorted(taken, torch.tensor([start, start + block.numel()], device=taken.device))
        free = torch.ones(block.numel(), dtype=torch.bool, device=block.device)
        free[taken[first:last] - start] = False
        places = free.nonzero().squeeze(1)
        values = block.flatten()[places]
        if not values.isfinite().all():
            raise ValueError("Expected finite scores, got NaN or infinity")
        best = torch.cat([best.to(block), values])
        where = torch.cat([where.to(places), places + start])
        if count < len(best):
            possible = best >= kth_largest(best, count)
            best, where = best[possible], where[possible]
        start += block.numel()
    chosen = choose(best, count, torch.ones_like(best, dtype=torch.bool), generator)
    return where[chosen]


def exchange(
    positions: Tensor,
    pruned: Tensor,
    scores: Tensor | Iterable[Tensor],
    generator: torch.Generator,
    *,
    count: int | None = None,
    regrow: bool = False,
) -> tuple[Tensor, Tensor]:
    """Prune connections and grow those with the highest scores, so that exactly `count` are active.

    Args:
        positions: The active connections, sorted, int64 (nnz).
        pruned: Which of them to prune, boolean (nnz).
        scores: How much each connection deserves to grow, shaped like the weight, or blocks of its rows; read only
            where it can grow.
        generator: CPU generator that breaks ties between scores.
        count: Active connections afterwards; None keeps their number.
        regrow: Whether a connection just pruned competes with the inactive ones. One that wins stays.

    Returns:
        The positions that become inactive and those that become active, both sorted.

    Raises:
        ValueError: There are too few connections to grow, more are kept than `count`, or a score that matters is NaN or
            infinite.

    >>> positions, pruned = torch.tensor([0, 1]), torch.tensor([True, False])
    >>> exchange(positions, pruned, torch.tensor([9., 9., 1., 2.]), torch.Generator())
    (tensor([0]), tensor([3]))
    """
    kept, dropped = positions[~pruned], positions[pruned]
    number = (len(positions) if count is None else count) - len(kept)
    grown = highest(scores, number, kept if regrow else positions, generator)
    if not regrow:
        return dropped, grown
    return dropped[~contains(grown, dropped)], grown[~contains(positions, grown)]


def exchange_ends(
    chosen: Tensor, taken: Tensor, scores: Tensor, generator: torch.Generator, *, rounds: int = 200
) -> Tensor:
    """Exchange the ends of connections, two by two, so that each unit keeps its number of them.

    In a round the connections are paired at random; (i, j) and (k, l) become (i, l) and (k, j) where these are free and
    have together the higher scores. Where one number stands for all scores, ``torch.zeros(()).expand(shape)``, each
    exchange that is possible is made: a random walk over the choices with these numbers (Milo et al. 2003, "On the
    uniform generation of random graphs with prescribed degree sequences").

    Args:
        chosen: Connections chosen, boolean, (out, in).
        taken: Connections that cannot be chosen, boolean, (out, in).
        scores: A finite number for each connection, (out, in).
        generator: CPU generator that pairs them.
        rounds: How often they are paired.

    Returns:
        A choice with as many connections in each row and in each column, boolean, (out, in).

    >>> chosen = torch.tensor([[True, False], [False, True]])
    >>> exchange_ends(chosen, torch.zeros(2, 2, dtype=torch.bool), torch.tensor([[0.0, 1.0], [1.0, 0.0]]),
    ...               torch.Generator())
    tensor([[False,  True],
            [ True, False]])
    """
    width, free = chosen.shape[1], ~(taken | chosen).flatten()
    rows, columns = chosen.nonzero().unbind(1)
    always, values = scores.numel() > 1 and not any(scores.stride()), scores.flatten().double()
    pairs = len(rows) // 2
    numbers = torch.arange(pairs, device=chosen.device).repeat(2)
    for _ in range(rounds if pairs else 0):
        order = torch.randperm(len(rows), generator=generator).to(chosen.device)
        rows, columns = rows[order], columns[order]
        one, two = slice(0, pairs), slice(pairs, 2 * pairs)
        old = torch.cat([rows[one] * width + columns[one], rows[two] * width + columns[two]])
        new = torch.cat([rows[one] * width + columns[two], rows[two] * width + columns[one]])
        # Of several pairs that would take one free connection, the first does.
        owners = torch.full_like(values, pairs, dtype=torch.int64).scatter_reduce(0, new, numbers, "amin")
        possible = (free[new] & (owners[new] == numbers)).view(2, -1).all(0)
        better = (values[new] - values[old]).view(2, -1).sum(0) > 0
        swap = possible & (always | better)
        free[old[swap.repeat(2)]], free[new[swap.repeat(2)]] = True, False
        columns = torch.cat(
            [columns[two].where(swap, columns[one]), columns[one].where(swap, columns[two]), columns[2 * pairs :]]
        )
    return torch.zeros_like(chosen).index_put_((rows, columns), torch.ones((), dtype=torch.bool, device=chosen.device))
