"""A loader of tensors that are in memory, and the order in which it takes them."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from sparse_lightning.functional.masks import derived_generator

Batch = tuple[Tensor, Tensor]


class Order:
    """A sampler of batches for one rank: index tensors, one a batch, shuffled by (seed, epoch) or in sequence.

    Lightning sets the epoch, as it does for any sampler.

    Args:
        count: Number of samples on all ranks together.
        batch_size: Samples in a batch.
        seed: Decides the order, together with the epoch; None takes the samples in sequence.
        rank: This rank, which takes every `ranks`-th sample of the order.
        ranks: Number of ranks.

    >>> [batch.tolist() for batch in Order(5, batch_size=2)]
    [[0, 1], [2, 3], [4]]
    """

    def __init__(self, count: int, batch_size: int, *, seed: int | None = None, rank: int = 0, ranks: int = 1) -> None:
        self.count, self.batch_size, self.seed, self.rank, self.ranks = count, batch_size, seed, rank, ranks
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Take the order of this epoch from the next iteration on."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Return the number of batches in an epoch, the same on every rank."""
        share = self.count // self.ranks if self.seed is not None else math.ceil(self.count / self.ranks)
        return math.ceil(share / self.batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        """Yield the batches of the epoch; a rank that runs out of samples to evaluate ends with an empty batch."""
        if self.seed is None:
            own = torch.arange(self.rank, self.count, self.ranks)
        else:
            order = torch.randperm(self.count, generator=derived_generator(self.seed, "order", self.epoch))
            own = order[self.rank :: self.ranks][: self.count // self.ranks]
        batches = torch.split(own, self.batch_size)
        return iter(batches + (own[:0],) * (len(self) - len(batches)))


class Batches:
    """A loader of images and labels in memory, without the cost that a DataLoader has for each sample.

    Its state can be saved in the middle of an epoch, and continues there.

    Args:
        images: All images, (count, ...).
        labels: All labels, (count,).
        order: Decides which samples make each batch.
        prepare: Applied to the images of each batch; None leaves them as they are.
        batches_per_step: With 1 it yields batches, (images, labels); with more, lists of up to so many batches.

    >>> loader = Batches(torch.zeros(5, 3), torch.arange(5), Order(5, batch_size=2))
    >>> [labels.tolist() for images, labels in loader]
    [[0, 1], [2, 3], [4]]
    """

    batch_sampler = None  # Lightning looks for it beside `sampler`

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        order: Order,
        *,
        prepare: Callable[[Tensor], Tensor] | None = None,
        batches_per_step: int = 1,
    ) -> None:
        self.images, self.labels, self.sampler, self.prepare = images, labels, order, prepare
        self.batches_per_step = batches_per_step
        self._done = 0
        self._skip = 0

    def __len__(self) -> int:
        """Return how many batches, or lists of batches, an epoch has."""
        return math.ceil(len(self.sampler) / self.batches_per_step)

    def __iter__(self) -> Iterator[Batch | list[Batch]]:
        """Yield the batches of an epoch, from where a loaded state stopped."""
        skip, self._skip = self._skip, 0
        order = list(self.sampler)
        for number in range(skip, len(self)):
            self._done = number + 1
            if self.batches_per_step == 1:
                yield self._batch(order[number])
            else:
                start = number * self.batches_per_step
                yield [self._batch(indices) for indices in order[start : start + self.batches_per_step]]

    def state_dict(self) -> dict[str, Any]:
        """Return how many batches of the epoch were yielded."""
        return {"done": self._done}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Start the next iteration after the batches that were yielded."""
        self._skip = state["done"] % len(self)

    def _batch(self, indices: Tensor) -> Batch:
        images = self.images.index_select(0, indices)
        return self.prepare(images) if self.prepare else images, self.labels.index_select(0, indices)
