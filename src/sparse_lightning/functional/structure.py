"""Structures of a mask that hardware can use: N of every M inputs, one fan-in for all units or for those left, blocks.

A weight (out, in, ...) is taken as a matrix (out, fan-in). Connections are given by their positions, the sorted indices
into the flattened weight. Any criterion prunes and grows with any structure: what it prunes decides how many each group
of connections loses, and its scores decide which ones the group gains.
"""

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from sparse_lightning.functional.checks import expect, is_number
from sparse_lightning.functional.csr import contains
from sparse_lightning.functional.grow import exchange
from sparse_lightning.functional.masks import choose, mask_of


class Structure(ABC):
    """How the active connections of a weight lie, whatever their number."""

    def at_output(self) -> "Structure":
        """Return what the last layer keeps, whose units are the model's outputs."""
        return self

    @abstractmethod
    def count(self, shape: Sequence[int], count: int) -> int:
        """Return the number of connections nearest to `count` with which a weight can have the structure.

        Raises:
            ValueError: The weight's shape does not allow the structure, or its density is another.
        """

    @abstractmethod
    def fits(self, positions: Tensor, shape: Sequence[int]) -> bool:
        """Return whether the connections at these positions have the structure."""

    @abstractmethod
    def first(self, scores: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """Return a mask of `count` connections that has the structure, of the highest scores; ties are random."""

    @abstractmethod
    def prune(
        self, positions: Tensor, pruned: Tensor, values: Tensor, shape: Sequence[int], generator: torch.Generator,
        *, regrow: bool,
    ) -> Tensor:  # fmt: skip
        """Return which active connections to prune (nnz), as near to those that a criterion chose as can grow again.

        Args:
            positions: The active connections, sorted, int64 (nnz).
            pruned: Which of them a criterion prunes, boolean (nnz).
            values: Their weights (nnz), of which the smallest go first where not all can.
            shape: The weight's shape.
            generator: CPU generator that breaks ties.
            regrow: Whether a connection just pruned may grow again.
        """

    @abstractmethod
    def exchange(
        self, positions: Tensor, pruned: Tensor, scores: Tensor, generator: torch.Generator, *, regrow: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Return what becomes inactive and what becomes active, as :func:`~sparse_lightning.functional.grow.exchange`.

        Raises:
            ValueError: A score that matters is NaN or infinite.
        """


class Groups(Structure):
    """Each group of consecutive inputs of a unit has as many connections as the others, and keeps that number.

    Args:
        size: Inputs in a group; None for all of a unit: one fan-in for all units.
        active: How many of them are active, as in 2:4 (Mishra et al. 2021); None follows the density.

    >>> mask = Groups(4, 2).first(torch.tensor([[5., 1., 4., 3., 0., 7., 8., 9.]]), 4, torch.Generator())
    >>> mask.int()
    tensor([[1, 0, 1, 0, 0, 0, 1, 1]], dtype=torch.int32)
    """

    def __init__(self, size: int | None = None, active: int | None = None) -> None:
        self.size, self.active = size, active

    def _size(self, shape: Sequence[int]) -> int:
        return self.size or math.prod(shape[1:])

    def count(self, shape: Sequence[int], count: int) -> int:
        """Return the nearest number of connections."""
        size = self._size(shape)
        if math.prod(shape[1:]) % size:
            raise ValueError(f"Expected inputs in multiples of {size}, got {math.prod(shape[1:])}")
        groups = math.prod(shape) // size
        active = min(max(round(count / groups), 1), size) if self.active is None else self.active
        if self.active is not None and abs(active * groups - count) > 1:
            share = count / math.prod(shape)
            raise ValueError(
                f"Expected a density of {self.active / size:g}, {self.active} of every {size}, got {share:g}"
            )
        return active * groups

    def fits(self, positions: Tensor, shape: Sequence[int]) -> bool:
        """Return whether every group has as many connections."""
        size = self._size(shape)
        counts = torch.bincount(positions // size, minlength=math.prod(shape) // size)
        wanted = counts[0] if self.active is None else self.active
        return math.prod(shape[1:]) % size == 0 and bool((counts == wanted).all())

    def first(self, scores: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """Return the highest scores of each group."""
        size = self._size(scores.shape)
        groups = torch.arange(scores.numel(), device=scores.device) // size
        return (_ranks(groups, scores.flatten(), generator) < count * size // scores.numel()).view(scores.shape)

    def prune(
        self, positions: Tensor, pruned: Tensor, values: Tensor, shape: Sequence[int], generator: torch.Generator,
        *, regrow: bool,
    ) -> Tensor:  # fmt: skip
        """Return at most as many of each group as can grow in it, the smallest weights first."""
        size = self._size(shape)
        groups = positions // size
        inactive = size - len(positions) * size // math.prod(shape)
        found = pruned.nonzero().squeeze(1)
        ranks = _ranks(groups[found], -values[found].abs(), generator)
        return torch.zeros_like(pruned).index_fill_(0, found if regrow else found[ranks < inactive], True)

    def exchange(
        self, positions: Tensor, pruned: Tensor, scores: Tensor, generator: torch.Generator, *, regrow: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Return the exchange in which every group gains as many as it loses."""
        size = self._size(scores.shape)
        kept, dropped = positions[~pruned], positions[pruned]
        candidates = (~mask_of(kept if regrow else positions, (scores.numel(),))).nonzero().squeeze(1)
        values = _finite(scores.flatten()[candidates])
        groups = candidates // size
        lost = torch.bincount(dropped // size, minlength=scores.numel() // size)
        grown = candidates[_ranks(groups, values, generator) < lost[groups]]
        return dropped[~contains(grown, dropped)], grown[~contains(positions, grown)]


class AblatedFanIn(Groups):
    """One fan-in for all units but those that few salient connections reach, which lose all of theirs: SRigL.

    A rewiring that prunes K connections calls those that stay, and the K inactive ones of the highest scores, salient.
    A unit with fewer of them than a share of the first fan-in, before any ablation, is ablated, and the others divide
    its connections. Where these do not divide evenly fan-ins differ by one, so that the number of connections stays
    exact. An ablated unit stays so, and the last layer, whose units are the outputs, ablates none.

    Source: Lasby et al. 2024, "Dynamic Sparse Training with Structured Sparsity", ICLR, section 3.1, whose number of
    connections is rounded to a whole fan-in, and whose ablated units may come back. A unit that has no other left to
    grow takes back one that was just pruned.

    Args:
        min_salient: The share of the fan-in, in [0, 1], that has to be salient. A unit without any is always ablated.
        ablates: Whether any unit is ablated.

    Raises:
        ValueError: The share is out of its range.

    >>> positions, pruned = torch.tensor([0, 1, 4, 5]), torch.tensor([True, True, False, False])
    >>> scores = torch.tensor([[0., 0., 0., 0.], [0., 0., 2., 1.]])
    >>> AblatedFanIn(0.5).exchange(positions, pruned, scores, torch.Generator())
    (tensor([0, 1]), tensor([6, 7]))
    """

    def __init__(self, min_salient: float, *, ablates: bool = True) -> None:
        super().__init__()
        expect(is_number(min_salient) and 0 <= min_salient <= 1, "min_salient in [0, 1]", min_salient)
        self.min_salient, self.ablates = min_salient, ablates

    def at_output(self) -> "AblatedFanIn":
        """Return the same without ablation: no output is given up."""
        return AblatedFanIn(self.min_salient, ablates=False)

    def count(self, shape: Sequence[int], count: int) -> int:
        """Return the number itself, or one connection for each unit."""
        return max(count, shape[0])

    def first(self, scores: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """Return the highest scores of each unit."""
        size, own = self._size(scores.shape), torch.arange(scores.numel(), device=scores.device)
        each, rest = divmod(count, len(scores))
        ranks = _ranks(own // size, scores.flatten(), generator)
        next_best = choose(scores, rest, (ranks == each).view(scores.shape), generator)
        return (ranks < each).view(scores.shape) | next_best

    def fits(self, positions: Tensor, shape: Sequence[int]) -> bool:
        """Return whether the units that have connections have as many, or one more."""
        counts = torch.bincount(positions // self._size(shape))
        return len(counts) > 0 and bool(counts.max() - counts[counts > 0].min() <= 1)

    def prune(
        self, positions: Tensor, pruned: Tensor, values: Tensor, shape: Sequence[int], generator: torch.Generator,
        *, regrow: bool,
    ) -> Tensor:  # fmt: skip
        """Return what the criterion chose: what a unit cannot replace grows again."""
        return pruned

    def exchange(
        self, positions: Tensor, pruned: Tensor, scores: Tensor, generator: torch.Generator, *, regrow: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Return the exchange after which the units that are left have the same fan-in."""
        size, units = self._size(scores.shape), len(scores)
        kept, dropped = positions[~pruned], positions[pruned]
        active = torch.bincount(positions // size, minlength=units) > 0
        candidates = (~mask_of(kept, (scores.numel(),))).nonzero().squeeze(1)
        candidates = candidates[active[candidates // size]]
        ranks = _ranks(torch.zeros_like(candidates), _finite(scores.flatten()[candidates]), generator)
        if not regrow:  # behind all others, for units that have no other left
            ranks = (ranks + len(candidates) * contains(dropped, candidates)).argsort().argsort()
        salient = torch.cat([kept, candidates[ranks < len(dropped)]])
        left = self._left(active, torch.bincount(salient // size, minlength=units), len(positions), size, generator)
        kept = kept[left[kept // size]]
        fan_in = torch.bincount(kept // size, minlength=units)
        missing = self._divided(left, fan_in, len(positions), generator) - fan_in
        own = candidates // size
        grown = candidates[_ranks(own, -ranks, generator) < missing[own]]
        after = torch.cat([kept, grown]).sort().values
        return positions[~contains(after, positions)], after[~contains(positions, after)]

    def _left(self, active: Tensor, salient: Tensor, count: int, size: int, generator: torch.Generator) -> Tensor:
        """Which units are not ablated: at least as many as all connections fit into."""
        if not self.ablates:
            return active
        least = max(int(self.min_salient * (count // len(active))), 1)
        left = active & (salient >= least)
        most_salient = _ranks(torch.zeros_like(salient), torch.where(active, salient, -1), generator)
        return left | (most_salient < math.ceil(count / size))

    def _divided(self, left: Tensor, fan_in: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """The fan-in of each unit: `count` divided among those left; one more first where there are more already."""
        each, rest = divmod(count, int(left.sum()))
        first = _ranks(torch.zeros_like(fan_in), torch.where(left, fan_in, -1), generator) < rest
        return torch.where(left, each + first.long(), 0)


class Blocks(Structure):
    """Connections come and go in blocks, which are wholly active or wholly inactive.

    A criterion's pruned connections are votes for their blocks, and a block's score is the sum of its scores.

    Args:
        rows: Output units in a block.
        columns: Inputs in a block.

    >>> Blocks(1, 2).first(torch.tensor([[1., 5., 3., 2.]]), 2, torch.Generator())
    tensor([[ True,  True, False, False]])
    """

    def __init__(self, rows: int, columns: int) -> None:
        self.rows, self.columns = rows, columns

    def count(self, shape: Sequence[int], count: int) -> int:
        """Return the nearest number of connections."""
        if shape[0] % self.rows or math.prod(shape[1:]) % self.columns:
            raise ValueError(
                f"Expected units in multiples of {self.rows} with inputs in multiples of {self.columns}, got "
                f"{shape[0]} with {math.prod(shape[1:])}"
            )
        return max(round(count / self._area), 1) * self._area

    def fits(self, positions: Tensor, shape: Sequence[int]) -> bool:
        """Return whether every block is whole."""
        divisible = shape[0] % self.rows == 0 and math.prod(shape[1:]) % self.columns == 0
        counts = torch.bincount(self._blocks(positions, shape)) if divisible else positions.new_ones(1)
        return divisible and bool(((counts == 0) | (counts == self._area)).all())

    def first(self, scores: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """Return the blocks of the highest scores."""
        sums = self._sums(scores)
        chosen = choose(sums, count // self._area, torch.ones_like(sums, dtype=torch.bool), generator)
        return mask_of(self._positions(chosen.flatten().nonzero().squeeze(1), scores.shape), scores.shape)

    def prune(
        self, positions: Tensor, pruned: Tensor, values: Tensor, shape: Sequence[int], generator: torch.Generator,
        *, regrow: bool,
    ) -> Tensor:  # fmt: skip
        """Return as many connections in the blocks with the most votes, those of small weights first."""
        own = self._blocks(positions, shape)
        blocks = torch.unique(own)
        votes = torch.bincount(own[pruned], minlength=int(blocks[-1]) + 1)[blocks]
        magnitudes = torch.bincount(own, values.abs().double())[blocks]
        inactive = math.prod(shape) // self._area - len(blocks)
        number = round(int(pruned.sum()) / self._area)
        ranks = _ranks(torch.zeros_like(blocks), votes - magnitudes / (1 + magnitudes.max()), generator)
        chosen = blocks[ranks < (number if regrow else min(number, inactive))]
        return contains(chosen, own)

    def exchange(
        self, positions: Tensor, pruned: Tensor, scores: Tensor, generator: torch.Generator, *, regrow: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Return the exchange of whole blocks."""
        own = self._blocks(positions, scores.shape)
        blocks = torch.unique(own)
        gone = contains(torch.unique(own[pruned]), blocks)
        dropped, grown = exchange(blocks, gone, self._sums(scores), generator, regrow=regrow)
        return self._positions(dropped, scores.shape), self._positions(grown, scores.shape)

    @property
    def _area(self) -> int:
        return self.rows * self.columns

    def _blocks(self, positions: Tensor, shape: Sequence[int]) -> Tensor:
        """The block of each position."""
        width = math.prod(shape[1:])
        rows, columns = positions // width // self.rows, positions % width // self.columns
        return rows * (width // self.columns) + columns

    def _positions(self, blocks: Tensor, shape: Sequence[int]) -> Tensor:
        """The positions of all connections of blocks, sorted."""
        width = math.prod(shape[1:])
        rows, columns = blocks // (width // self.columns), blocks % (width // self.columns)
        within = torch.arange(self.rows, device=blocks.device)[:, None] * width
        within = (within + torch.arange(self.columns, device=blocks.device)).flatten()
        corners = rows * self.rows * width + columns * self.columns
        return (corners[:, None] + within).flatten().sort().values

    def _sums(self, scores: Tensor) -> Tensor:
        """The sum of each block, (blocks)."""
        matrix = scores.flatten(1)
        tiles = matrix.reshape(len(matrix) // self.rows, self.rows, -1, self.columns)
        return tiles.sum((1, 3)).flatten()


def structure_of(text: str) -> Structure:
    """Return the structure that a text names: ``"2:4"``, ``"fan_in"``, ``"fan_in:0.3"`` or, for blocks, ``"4x4"``.

    Raises:
        ValueError: It names none.

    >>> structure_of("2:4").active, structure_of("fan_in").size, structure_of("4x8").columns
    (2, None, 8)
    """
    numbers = re.fullmatch(r"([1-9]\d*)([:x])([1-9]\d*)", text) if isinstance(text, str) else None
    if text == "fan_in":
        return Groups()
    if isinstance(text, str) and re.fullmatch(r"fan_in:(0?\.\d+|0|1|1\.0)", text):
        return AblatedFanIn(float(text.partition(":")[2]))
    if numbers and numbers[2] == ":" and int(numbers[1]) <= int(numbers[3]):
        return Groups(int(numbers[3]), int(numbers[1]))
    if numbers and numbers[2] == "x":
        return Blocks(int(numbers[1]), int(numbers[3]))
    known = "N:M such as '2:4', 'fan_in', 'fan_in:0.3', or blocks such as '4x4'"
    raise ValueError(f"Expected structure to be {known}, got {text!r}")


def _finite(scores: Tensor) -> Tensor:
    if not scores.isfinite().all():
        raise ValueError("Expected finite scores, got NaN or infinity")
    return scores


def _ranks(groups: Tensor, scores: Tensor, generator: torch.Generator) -> Tensor:
    """The rank of each element among those of its group, from 0 for the highest score; ties are random."""
    order = torch.randperm(len(scores), generator=generator).to(scores.device)
    order = order[scores[order].argsort(descending=True, stable=True)]
    order = order[groups[order].argsort(stable=True)]
    sizes = torch.bincount(groups) if len(groups) else groups
    starts = sizes.cumsum(0) - sizes
    ranks = torch.empty_like(order)
    ranks[order] = torch.arange(len(order), device=order.device) - starts[groups[order]]
    return ranks
