"""Cannistraci-Hebb scores of absent connections, from the topology of one layer alone, as matrix products.

The layer is a bipartite graph of its input and output units. A score of two units that are not connected counts the
paths of length 3 between them, input - output - input - output, and prefers communities: units on the way that have few
links to anywhere else. Muscoloni, Michieli, Zhang & Cannistraci 2022, "Adaptive network automata modelling of complex
networks"; in training: Zhang et al. 2024, "Epitopological learning and Cannistraci-Hebb network shape intelligence
brain-inspired theory for ultra-sparse advantage in deep learning" (CHT), and its soft rule of 2025 (CHTs).
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from sparse_lightning.functional.csr import csr_from_positions, csr_tensor
from sparse_lightning.functional.masks import positions_of

RuleName = Literal["ch2_l3n", "ch3_l3n", "ch3_l3p"]


def ch2_l3n(mask: Tensor) -> Tensor:
    """Return the CH2-L3n score of each connection.

    Two units of one side that share i neighbours count (i + 1) / (e + 1), e being the links of the unit on the way that
    lead elsewhere; a connection's score is the sum over the paths through units of either side.

    Args:
        mask: The active connections, boolean, (out, in).

    Returns:
        The scores, float32, (out, in); of use where `mask` is false.

    >>> mask = torch.tensor([[True, True, False], [False, True, True], [False, False, True]])
    >>> ch2_l3n(mask)[~mask]
    tensor([4., 4., 0., 4.])
    """
    return _node_based(mask, shared=True)


def ch3_l3n(mask: Tensor) -> Tensor:
    """Return the CH3-L3n score of each connection: as :func:`ch2_l3n`, but a pair of units counts 1 / (e + 1).

    Args:
        mask: The active connections, boolean, (out, in).

    Returns:
        The scores, float32, (out, in); of use where `mask` is false.
    """
    return _node_based(mask, shared=False)


def ch3_l3p(mask: Tensor) -> Tensor:
    """Return the CH3-L3p score of each connection, the sum over paths u - a - b - v of 1 / sqrt((1 + e_a)(1 + e_b)).

    e counts the links of a unit on the way that lead out of the community: neither to units on such paths nor to u and
    v. Of output unit u and input unit v, those of a are its degree less the links it shares with v, and 1 for u, so
    that a path's weight is a product of one factor for (a, v) and one for (u, b).

    Args:
        mask: The active connections, boolean, (out, in).

    Returns:
        The scores, float32, (out, in); of use where `mask` is false.

    >>> mask = torch.tensor([[True, True, False], [False, True, True], [False, False, True]])
    >>> ch3_l3p(mask)[~mask]
    tensor([1., 1., 0., 1.])
    """
    links = mask.float()
    inputs, outputs = _weights(links.T), _weights(links)  # (in, in): of a, given v; (out, out): of b, given u
    at, columns, scores = _product_at(mask), mask.nonzero()[:, 1], torch.zeros_like(links)
    for unit in range(len(links)):
        ways = links[unit].nonzero().squeeze(1)
        middle = outputs[:, unit, None] * links.index_select(1, ways)  # (out, ways): links a - b, weighed for b
        ended = at(middle, inputs.index_select(0, ways))  # for each link b - v, the paths that end with it
        scores[unit].index_add_(0, columns, ended)
    return scores


def _product_at(mask: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """A function for the elements of a product of two matrices where a mask is true (nnz), row by row."""
    if mask.device.type != "cpu" or not torch.backends.mkl.is_available():  # type: ignore[no-untyped-call]
        return lambda left, right: (left @ right)[mask]
    shape, positions = (mask.shape[0], mask.shape[1]), positions_of(mask)
    place = csr_tensor(*csr_from_positions(positions, shape), torch.zeros(len(positions)), shape)
    return lambda left, right: torch.sparse.sampled_addmm(place, left, right, beta=0.0).values()


def _node_based(mask: Tensor, shared: bool) -> Tensor:
    links = mask.float()
    return _pairs(links, shared) @ links + (_pairs(links.T, shared) @ links.T).T


def _pairs(links: Tensor, shared: bool) -> Tensor:
    """How much each two units of one side count (n, n), from their links to the other side (n, m)."""
    common = links @ links.T
    share = (common != 0).float()
    external = ((links.sum(1) - common) * share).clamp(min=1) - 1
    return ((common + share) if shared else share) / (external + 1)


def _weights(links: Tensor) -> Tensor:
    """1 / sqrt(1 + e) of each unit of one side, on the way to or from each other one of that side (n, n).

    A unit's links are its degree; those to neighbours it has in common with the other unit stay in the community, and
    one more leads to the unit where the path begins or ends.
    """
    outside = links.sum(1, keepdim=True) - links @ links.T
    return outside.clamp(min=1).rsqrt()


RULES: dict[str, Callable[[Tensor], Tensor]] = {"ch2_l3n": ch2_l3n, "ch3_l3n": ch3_l3n, "ch3_l3p": ch3_l3p}
