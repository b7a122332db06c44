"""The three decisions of a rewiring, what each is asked with, and the statistics that a decision may gather.

A rewiring decides how many connections each layer shall have (:class:`CountCriterion`), which to prune
(:class:`PruningCriterion`) and which to grow (:class:`GrowthCriterion`). Each is asked with a :class:`LayerView`.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from fractions import Fraction
from functools import cached_property
from types import MappingProxyType
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sparse_lightning.criteria.ranks import mean_over_ranks
from sparse_lightning.functional.masks import combined_fraction, mask_of, max_prune_fraction, positions_of
from sparse_lightning.nn.sparse_linear import SparseLinear


class LayerView:
    """One sparse weight at the moment of a rewiring, as criteria are given it. They read it and change nothing.

    It shows the connections in two ways: as tensors shaped like the weight, and as one element for each active
    connection (nnz), row by row. In the csr layout the first way takes memory for the whole weight.

    Attributes:
        name: The weight's parameter name.
        weight: The weight, (out, in, ...).
        mask: The active connections before the pruning, boolean, shaped like `weight`.
        count: The number of connections that are to be active after the rewiring.
        prune_fraction: Share of the active connections to prune, exact, in [0, 1).
        progress: Share of the training that is over, exact, in [0, 1].
        generator: CPU generator for any randomness, the same on every rank and after a resume.
        pruned: Which active connections the pruning removes, boolean (nnz); none until it has pruned.
        previous: The sparse weight before this one in the order of the model's parameters, or None.
        next: The sparse weight after this one, or None.
    """

    prune_fraction: Fraction
    _fraction: Fraction
    previous: "LayerView | None" = None
    next: "LayerView | None" = None

    def __init__(
        self,
        *,
        name: str,
        weight: Tensor,
        mask: Tensor,
        prune_fraction: Fraction,
        progress: Fraction,
        generator: torch.Generator,
    ) -> None:
        self._weight, self._mask = weight, mask
        self._begin(name, prune_fraction, progress, generator)

    def aim(self, count: int, regrow: bool = False) -> None:
        """Set how many connections are to be active after the rewiring, and how many to prune for that.

        What is too many goes, and of the others the prune fraction is replaced: at most as many as are inactive before
        and after, unless connections just pruned may grow again.
        """
        active, size = len(self.positions), self.shape.numel()
        self.count = count
        if count != active:
            self.prune_fraction = combined_fraction(self._fraction, active, count, size, regrow)
        else:
            self.prune_fraction = self._fraction if regrow else min(self._fraction, max_prune_fraction(active, size))

    def _begin(self, name: str, prune_fraction: Fraction, progress: Fraction, generator: torch.Generator) -> None:
        self.name, self.prune_fraction, self.progress, self.generator = name, prune_fraction, progress, generator
        self.count, self._fraction = len(self.positions), prune_fraction
        self.pruned = torch.zeros_like(self.positions, dtype=torch.bool)

    @property
    def weight(self) -> Tensor:
        """The weight, (out, in, ...)."""
        return self._weight

    @property
    def mask(self) -> Tensor:
        """The active connections before the pruning, boolean, shaped like `weight`."""
        return self._mask

    @property
    def kept(self) -> Tensor:
        """The active connections that the pruning left, shaped like `weight`."""
        return mask_of(self.positions[~self.pruned], self.shape)

    @property
    def shape(self) -> torch.Size:
        """The shape of the weight."""
        return self._weight.shape

    @cached_property
    def positions(self) -> Tensor:
        """The active connections as sorted indices into the flattened weight, int64 (nnz)."""
        return positions_of(self._mask)

    @cached_property
    def values(self) -> Tensor:
        """The weights of the active connections (nnz)."""
        return self.at_connections(self._weight.detach())

    @property
    def replaceable(self) -> int:
        """How many connections can be pruned at most, so that inactive ones suffice to reach `count` again."""
        return self.shape.numel() - self.count

    @property
    def gradient(self) -> Tensor | None:
        """The gradient of the last step, of inactive connections too, shaped like the weight; None without one."""
        gradient = self._weight.grad
        return gradient.to_dense() if gradient is not None and gradient.is_sparse else gradient

    @property
    def has_gradient(self) -> bool:
        """Whether there is a gradient."""
        return self.gradient is not None

    def gradient_blocks(self) -> Iterator[Tensor]:
        """The gradient in blocks of rows, each (rows, ...); none without one. Here it is one block."""
        if (gradient := self.gradient) is not None:
            yield gradient

    def at_connections(self, tensor: Tensor) -> Tensor:
        """Return the elements of a tensor shaped like the weight that belong to active connections (nnz)."""
        return tensor.flatten().index_select(0, self.positions)


class CsrLayerView(LayerView):
    """The view of a weight that stores its connections alone; what is shaped like the weight is made when asked for."""

    def __init__(
        self,
        *,
        name: str,
        layer: SparseLinear,
        prune_fraction: Fraction,
        progress: Fraction,
        generator: torch.Generator,
    ) -> None:
        self._layer = layer
        self._begin(name, prune_fraction, progress, generator)

    @cached_property
    def weight(self) -> Tensor:
        """The weight, (out, in)."""
        return self._layer.weight.detach().to_dense()

    @property
    def mask(self) -> Tensor:
        """The active connections before the pruning, boolean, (out, in)."""
        return mask_of(self.positions, self.shape)

    @property
    def shape(self) -> torch.Size:
        """The shape of the weight."""
        return torch.Size((self._layer.out_features, self._layer.in_features))

    @cached_property
    def positions(self) -> Tensor:
        """The active connections as sorted indices into the flattened weight, int64 (nnz)."""
        return self._layer.positions

    @cached_property
    def values(self) -> Tensor:
        """The weights of the active connections (nnz)."""
        return self._layer.values.detach()

    @cached_property
    def gradient(self) -> Tensor | None:
        """The gradient of the last step, of inactive connections too, (out, in), the mean over all ranks."""
        return torch.cat(list(self.gradient_blocks())) if self.has_gradient else None

    @property
    def has_gradient(self) -> bool:
        """Whether there is a gradient."""
        return self._layer.has_recorded

    def gradient_blocks(self) -> Iterator[Tensor]:
        """The gradient in blocks of some million connections, which are not kept, (rows, in)."""
        return map(mean_over_ranks, self._layer.gradient_blocks())


class Statistic(Protocol):
    """Something gathered while a model trains, which a criterion reads at a rewiring.

    Two criteria of one callback that name equal statistics alike share one.
    """

    def attach(self, module: nn.Module, names: Collection[str], optimizers: Sequence[Optimizer] = ()) -> None:
        """Start to gather.

        Args:
            module: The model.
            names: Names of its parameters that are sparse.
            optimizers: The optimizers that train them.
        """

    def detach(self) -> None:
        """Stop to gather and keep what was gathered."""

    def count(self) -> None:
        """Take in the batch that has just run."""

    def reset(self) -> None:
        """Start again from nothing, after the topology has moved."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint must hold, gathered over all ranks."""
        raise NotImplementedError

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint."""


class Criterion:
    """Base of all criteria.

    Attributes:
        statistics: What the criterion needs to be gathered, by a name that says in a checkpoint what it is.
        reads_gradient: Whether the criterion reads ``layer.gradient``. Then a rewiring waits until the next optimizer
            step has been taken, so that there is a gradient, the same on every rank, whatever has been interrupted.
    """

    reads_gradient: bool = False

    statistics: Mapping[str, Statistic] = MappingProxyType({})

    def unsuitable(self, shapes: Mapping[str, torch.Size]) -> dict[str, str]:
        """Return those of these weights that the criterion can never decide about, and why; fit refuses them."""
        return {}

    def unreadable(self, names: Collection[str]) -> list[str]:
        """Return those of these weights that the criterion knows nothing about now; a rewiring leaves them alone."""
        return []

    def __repr__(self) -> str:
        """Return the expression that builds the criterion, without arguments unless a subclass adds them."""
        return f"{type(self).__name__}()"


class CountCriterion(Criterion, ABC):
    """Decides how many connections each layer shall have now.

    Attributes:
        redistributes: Whether the counts share out what all layers prune. Each layer then prunes its prune fraction,
            whatever its count; else a layer prunes what is too many for its count, and replaces the fraction besides.
    """

    redistributes: ClassVar[bool] = False

    @abstractmethod
    def counts(self, layers: Sequence[LayerView]) -> dict[str, int]:
        """Return the number of active connections of each of these layers after the rewiring, by parameter name."""


class PruningCriterion(Criterion, ABC):
    """Decides which active connections of a layer to prune."""

    @abstractmethod
    def prune(self, layer: LayerView) -> Tensor:
        """Choose the connections to prune.

        Returns:
            Which of the active connections to prune, boolean: one element for each (nnz), or shaped like the weight;
            at most ``layer.replaceable`` of them.
        """

    def refine(self, layers: Sequence[LayerView]) -> dict[str, Tensor]:
        """Return what to prune in the end (nnz), by name of layers where that differs from ``layer.pruned``.

        It is asked once all layers have pruned.
        """
        return {}


class GrowthCriterion(Criterion, ABC):
    """Decides how much each inactive connection of a layer deserves to grow."""

    @abstractmethod
    def scores(self, layer: LayerView) -> Tensor:
        """Score the connections of a layer.

        Returns:
            Finite real numbers shaped like the weight; the inactive connections with the highest ones grow, and of
            equal ones some at random. One number that stands for all, ``expand``-ed to the shape, costs no memory.
        """


class BlockwiseGrowthCriterion(GrowthCriterion):
    """Scores some rows of a layer after the others, so that those of all connections are never held at once."""

    @abstractmethod
    def score_blocks(self, layer: LayerView) -> Iterator[Tensor]:
        """Score the connections of a layer in blocks of successive rows, each (rows, ...)."""

    def scores(self, layer: LayerView) -> Tensor:
        """Return the scores of all blocks together."""
        return torch.cat(list(self.score_blocks(layer)))
