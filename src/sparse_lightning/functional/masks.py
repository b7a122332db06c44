"""Exact-count arithmetic on boolean masks.

A mask is a boolean tensor of a weight's shape, ``True`` where a connection is active. Nothing here knows of layers,
training or Lightning: tensors in, tensors out. Every choice is exact in number and breaks ties uniformly at random,
since a threshold would lose tied connections and an order by index would favour some units.
"""

import hashlib
import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

_SAME_WIDTH = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def generator_for(*key: int | str) -> torch.Generator:
    """A CPU generator seeded by a stable hash of `key`, the same on every rank, machine and Python.

    >>> draw = lambda *key: torch.rand(1, generator=generator_for(*key)).item()
    >>> draw(0, 3, "fc.weight") == draw(0, 3, "fc.weight"), draw(0, 3, "fc.weight") == draw(1, 3, "fc.weight")
    (True, False)
    """
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def part(fraction: float | Fraction, count: int) -> int:
    """The floor of `fraction` of `count`, with the fraction read as the decimal it is written as.

    >>> part(0.29, 100), int(0.29 * 100)
    (29, 28)
    """
    return math.floor(Fraction(str(fraction)) * count)


def choose(scores: Tensor, count: int, among: Tensor, generator: torch.Generator) -> Tensor:
    """The `count` connections with the highest scores among the candidates, ties broken uniformly at random.

    Args:
        scores: A real number for each connection, finite wherever `among` is true.
        count: How many to choose, from 0 to the number of candidates.
        among: Mask of the candidates, shaped like `scores`.
        generator: CPU generator that breaks the ties.

    Returns:
        A mask of exactly `count` connections, all of them candidates.

    Raises:
        ValueError: A candidate's score is NaN or infinite, or there are fewer than `count` candidates.

    >>> scores, among = torch.tensor([5., 1., 3., 4.]), torch.tensor([False, True, True, True])
    >>> choose(scores, 2, among, generator_for("ties"))
    tensor([False, False,  True,  True])
    """
    candidates = among.flatten().nonzero().squeeze(1)  # to gather by index is faster on CPUs than by mask
    values = scores.flatten().index_select(0, candidates)
    if not 0 <= count <= len(values):
        raise ValueError(f"Expected a count from 0 to the {len(values)} candidates, got {count}")
    if len(values) and not torch.stack(values.aminmax()).isfinite().all():  # of NaN, both are NaN
        raise ValueError("Expected finite scores, got NaN or infinity")
    if count == 0:
        return torch.zeros_like(among)
    threshold = _largest(values, count)
    chosen, ties = candidates[values > threshold], candidates[values == threshold]
    lot = torch.randperm(len(ties), generator=generator)[: count - len(chosen)].to(ties.device)
    return torch.zeros_like(among).flatten().index_fill_(0, torch.cat([chosen, ties[lot]]), True).view(among.shape)


def _largest(values: Tensor, rank: int) -> Tensor:
    """The value that `rank` values, ties among them, are at least as large as."""
    at = len(values) - rank
    if values.device.type != "cpu" or values.dtype == torch.bfloat16:
        return values.kthvalue(at + 1).values
    found = np.partition(values.detach().numpy(), at)[at]  # NumPy's selection is many times faster on CPUs
    return torch.from_numpy(np.asarray(found))


def random_mask(shape: Sequence[int], count: int, generator: torch.Generator, among: Tensor | None = None) -> Tensor:
    """A mask of exactly `count` connections drawn uniformly, from those `among` if it is given.

    Raises:
        ValueError: There are fewer than `count` connections to draw from.

    >>> int(random_mask((20, 30), 7, generator_for("example")).sum())
    7
    """
    among = torch.ones(*shape, dtype=torch.bool) if among is None else among
    return choose(torch.rand(*shape, generator=generator).to(among.device), count, among, generator)


def room(mask: Tensor) -> float:
    """The largest share of the active connections that can be replaced at once: inactive ones over active ones.

    >>> room(torch.tensor([True, True, True, True, False]))
    0.25000000000000006
    """
    active = int(mask.count_nonzero())
    inactive = mask.numel() - active
    # A hair above the quotient, so that the part it makes is not one short.
    return math.nextafter(inactive / active, math.inf) if active and inactive else 0.0


def rewire(
    mask: Tensor, dropped: Tensor, scores: Tensor, generator: torch.Generator, regrow: bool = False
) -> tuple[Tensor, Tensor]:
    """Drop connections and grow as many, the ones with the highest scores; the number of active ones never changes.

    Args:
        mask: The active connections.
        dropped: Those of them to drop.
        scores: How much each connection deserves to grow; read only where one can.
        generator: CPU generator that breaks ties between scores.
        regrow: Whether a connection just dropped competes with the inactive ones. One that wins simply stays.

    Returns:
        The new mask, and the mask of the connections grown, all of them inactive before.

    Raises:
        ValueError: An inactive connection is to be dropped, more are to be dropped than can be grown, or a score
            that matters is NaN or infinite.

    >>> mask, dropped = torch.tensor([True, True, False, False]), torch.tensor([True, False, False, False])
    >>> rewire(mask, dropped, torch.tensor([9., 9., 1., 2.]), generator_for("example"))[0]
    tensor([False,  True, False,  True])
    """
    if (dropped & ~mask).any():
        raise ValueError("Expected only active connections to be dropped, got inactive ones among them")
    kept = mask & ~dropped
    chosen = choose(scores, int(dropped.count_nonzero()), ~kept if regrow else ~mask, generator)
    return kept | chosen, chosen & ~mask


def fingerprint(mask: Tensor) -> int:
    """A number that two masks share only if they are the same, for processes to compare; at least 0, below 2^63.

    >>> fingerprint(torch.tensor([True, False])) == fingerprint(torch.tensor([False, True]))
    False
    """
    digest = hashlib.sha256(mask.contiguous().cpu().numpy().tobytes()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def zero_inactive_(weight: Tensor, mask: Tensor) -> None:
    """Set the inactive connections to zero, in place, whatever they were: NaN and infinity too.

    The bits of the weight, read as integers, are multiplied by 1 or 0, which is as fast as a product of numbers.

    >>> weight = torch.tensor([1.5, float("nan")])
    >>> zero_inactive_(weight, torch.tensor([True, False]))
    >>> weight
    tensor([1.5000, 0.0000])
    """
    weight.detach().view(_SAME_WIDTH[weight.element_size()]).mul_(mask.view(torch.uint8))
