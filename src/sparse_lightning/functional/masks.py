"""Exact-count arithmetic on boolean masks: tensors in, tensors out.

A mask is a boolean tensor of a weight's shape, ``True`` where a connection is active. Every choice is exact in number
and breaks ties uniformly at random: a threshold would lose tied connections, an order by index would favour some units.
"""

import hashlib
import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from sparse_lightning.functional.csr import random_positions

_INTEGER_OF_WIDTH = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def derived_generator(*key: int | str) -> torch.Generator:
    """Return a CPU generator seeded by a stable hash of `key`, the same on every rank, machine and Python version.

    >>> draw = lambda *key: torch.rand(1, generator=derived_generator(*key)).item()
    >>> draw(0, 3, "fc.weight") == draw(0, 3, "fc.weight"), draw(0, 3, "fc.weight") == draw(1, 3, "fc.weight")
    (True, False)
    """
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def exact_fraction(value: float | Fraction) -> Fraction:
    """Return a number as the decimal it is written as, rounded to twelve places.

    >>> exact_fraction(0.3) * exact_fraction(0.75)
    Fraction(9, 40)
    """
    return value if isinstance(value, Fraction) else Fraction(str(round(float(value), 12)))


def floor_count(fraction: float | Fraction, count: int) -> int:
    """Return the floor of `fraction` times `count`, computed exactly.

    >>> floor_count(0.29, 100), int(0.29 * 100)
    (29, 28)
    """
    return math.floor(exact_fraction(fraction) * count)


def choose(scores: Tensor, count: int, candidates: Tensor, generator: torch.Generator) -> Tensor:
    """Choose the `count` candidates with the highest scores; ties are broken uniformly at random.

    Args:
        scores: A real number for each connection, finite where `candidates` is true.
        count: How many to choose, from 0 to the number of candidates.
        candidates: Boolean mask of the candidates, shaped like `scores`.
        generator: CPU generator that breaks ties.

    Returns:
        A mask of exactly `count` connections, all of them candidates.

    Raises:
        ValueError: A candidate's score is NaN or infinite, or there are fewer than `count` candidates.

    >>> scores, candidates = torch.tensor([5., 1., 3., 4.]), torch.tensor([False, True, True, True])
    >>> choose(scores, 2, candidates, derived_generator("ties"))
    tensor([False, False,  True,  True])
    """
    indices = candidates.flatten().nonzero().squeeze(1)  # on CPUs, gathering by index is faster than by mask
    values = scores.flatten().index_select(0, indices)
    if not 0 <= count <= len(values):
        raise ValueError(f"Expected a count from 0 to the {len(values)} candidates, got {count}")
    if len(values) and not torch.stack(values.aminmax()).isfinite().all():  # aminmax propagates NaN
        raise ValueError("Expected finite scores, got NaN or infinity")
    if count == 0:
        return torch.zeros_like(candidates)
    threshold = kth_largest(values, count)
    chosen, ties = indices[values > threshold], indices[values == threshold]
    drawn = torch.randperm(len(ties), generator=generator)[: count - len(chosen)].to(ties.device)
    chosen = torch.cat([chosen, ties[drawn]])
    return torch.zeros_like(candidates).flatten().index_fill_(0, chosen, True).view(candidates.shape)


def random_mask(shape: torch.Size, count: int, generator: torch.Generator) -> Tensor:
    """Draw a first mask uniformly.

    >>> int(random_mask(torch.Size((3, 4)), 5, torch.Generator()).sum())
    5
    """
    return mask_of(random_positions(shape.numel(), count, generator=generator), shape)


def receptive_field(shape: torch.Size, count: int, generator: torch.Generator, randomness: float = 0.25) -> Tensor:
    """Draw a first mask whose connections are mostly between units of like place (BRF, Zhang et al. 2025).

    Both layers lie on a ring. Of the connections of an output unit one at distance d, in input units, is drawn in
    proportion to (1 + d)^(-(1 - r) / r). Each output unit has as many as the others, or one more.

    Args:
        shape: The shape of the weight, (out, in, ...); all but the first dimension count as input units.
        count: How many connections.
        generator: CPU generator of the draw.
        randomness: r, in (0, 1]: 1 draws uniformly, near 0 the nearest ones are certain.

    Returns:
        A boolean mask.

    >>> receptive_field(torch.Size((4, 4)), 4, torch.Generator(), randomness=0.01).int()
    tensor([[1, 0, 0, 0],
            [0, 1, 0, 0],
            [0, 0, 1, 0],
            [0, 0, 0, 1]], dtype=torch.int32)
    """
    outputs, inputs = shape[0], shape[1:].numel()
    apart = (torch.arange(inputs) - torch.arange(outputs).unsqueeze(1) * inputs / outputs).abs()
    nearness = -(1 - randomness) / randomness * torch.minimum(apart, inputs - apart).double().log1p()
    uniform = torch.rand(outputs, inputs, generator=generator, dtype=torch.float64)
    ranks = (nearness - (-uniform.log()).log()).argsort(1, descending=True).argsort(1)
    degrees = torch.full((outputs,), count // outputs)
    degrees[torch.randperm(outputs, generator=generator)[: count % outputs]] += 1
    return (ranks < degrees.unsqueeze(1)).view(shape)


def perturbed(scores: Tensor, power: float, generator: torch.Generator) -> Tensor:
    """Return what orders connections as a draw without replacement in proportion to ``scores ** power`` does.

    Gumbel noise is added to the logarithm of what is drawn by (Kool et al. 2019, "Stochastic Beams and Where to Find
    Them", section 2). A score of zero comes after all others, at random.

    Args:
        scores: Numbers of at least 0.
        power: The power, above 0.
        generator: CPU generator.

    >>> draws = [perturbed(torch.tensor([1.0, 3.0, 0.0]), 1.0, derived_generator(n)).argmax() for n in range(1000)]
    >>> torch.stack(draws).bincount(minlength=3).tolist()
    [253, 747, 0]
    """
    uniform = torch.rand(scores.shape, generator=generator, dtype=torch.float64).clamp(min=1e-300)
    logarithms = power * scores.double().log().clamp(min=-600)
    return logarithms - (-uniform.log()).log().to(scores.device)


def kth_largest(values: Tensor, k: int) -> Tensor:
    """Return the k-th largest of some values, k from 1.

    >>> kth_largest(torch.tensor([3.0, 1.0, 2.0]), 2)
    tensor(2.)
    """
    position = len(values) - k
    if values.device.type != "cpu" or values.dtype == torch.bfloat16:
        return values.kthvalue(position + 1).values
    found = np.partition(values.detach().numpy(), position)[position]  # many times faster than kthvalue on CPUs
    return torch.from_numpy(np.asarray(found))


def mask_of(positions: Tensor, shape: Sequence[int]) -> Tensor:
    """Return the mask of the connections at these positions, the indices into the flattened weight.

    >>> mask_of(torch.tensor([0, 3]), (2, 2))
    tensor([[ True, False],
            [False,  True]])
    """
    mask = torch.zeros(math.prod(shape), dtype=torch.bool, device=positions.device)
    return mask.index_fill_(0, positions, True).view(*shape)


def positions_of(mask: Tensor) -> Tensor:
    """Return the positions of the connections of a mask, sorted, int64: the inverse of :func:`mask_of`.

    >>> positions_of(torch.tensor([[True, False], [False, True]]))
    tensor([0, 3])
    """
    return mask.flatten().nonzero().squeeze(1)


def max_prune_fraction(active: int, size: int) -> Fraction:
    """Return the largest share of the active connections that can be replaced at once: inactive over active ones.

    >>> max_prune_fraction(4, 5)
    Fraction(1, 4)
    """
    return Fraction(size - active, active) if active else Fraction(0)


def combined_fraction(fraction: Fraction, active: int, count: int, size: int, regrow: bool) -> Fraction:
    """Return the share of the active connections to prune where their number changes, and some are replaced besides.

    What is too many goes, and of those that are left, or of those that were there if there will be more, the fraction
    is replaced: at most as many as are inactive before and after, unless connections may grow again at once.

    Args:
        fraction: Share of the connections to replace.
        active: Active connections now.
        count: Active connections afterwards.
        size: All connections of the layer.
        regrow: Whether a connection just pruned may grow again.

    >>> combined_fraction(Fraction(1, 2), 8, 4, 16, False)  # 4 too many, and 2 of the other 4
    Fraction(3, 4)
    """
    replaced = floor_count(fraction, min(active, count))
    if not regrow:
        replaced = min(replaced, size - max(active, count))
    return Fraction(max(active - count, 0) + replaced, active)


def zero_inactive_(weight: Tensor, mask: Tensor) -> None:
    """Set the inactive connections of a weight to zero in place, whatever their values: NaN and infinity too.

    The bit patterns, read as integers, are multiplied by 1 or 0. That is as fast as a product of floats.

    >>> weight = torch.tensor([1.5, float("nan")])
    >>> zero_inactive_(weight, torch.tensor([True, False]))
    >>> weight
    tensor([1.5000, 0.0000])
    """
    weight.detach().view(_INTEGER_OF_WIDTH[weight.element_size()]).mul_(mask.view(torch.uint8))


def fingerprint(mask: Tensor) -> int:
    """Return a hash of a mask, in [0, 2^63), by which processes compare theirs.

    >>> fingerprint(torch.tensor([True, False])) == fingerprint(torch.tensor([False, True]))
    False
    """
    digest = hashlib.sha256(mask.contiguous().cpu().numpy().tobytes()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
