"""Rewirings: counts, pruning and growth, asked one after the other, and which layers still wait for theirs."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from sparse_lightning.callbacks.masks import Masks
from sparse_lightning.criteria.base import LayerView
from sparse_lightning.functional.masks import derived_generator, exact_fraction, exchange, max_prune_fraction


@dataclass(frozen=True)
class Decisions:
    """What a rewiring asks.

    Attributes:
        counts: Returns the number of active connections of each layer afterwards, by parameter name.
        prune: Returns the mask of the connections of a layer to prune.
        scores: Returns how much each connection of a layer deserves to grow.
        regrow: Whether a connection just pruned may grow again.
    """

    counts: Callable[[Sequence[LayerView]], dict[str, int]]
    prune: Callable[[LayerView], Tensor]
    scores: Callable[[LayerView], Tensor]
    regrow: bool = False


@torch.no_grad()
def rewire_layers(
    layers: Sequence[LayerView], decisions: Decisions, number: int = 1
) -> Iterator[tuple[LayerView, Tensor, Tensor]]:
    """Decide about some layers: first the counts, then what every layer prunes, then what every layer grows.

    Args:
        layers: The layers, in the order of the model's parameters.
        decisions: What is asked.
        number: The number of the rewiring, for errors.

    Yields:
        Each layer with its new mask and the mask of the connections grown.

    Raises:
        ValueError: A decision cannot be used; the layer is named.
    """
    counts, pruned = decisions.counts(layers), {}
    for layer in layers:
        with _naming(layer, number):
            layer.count = counts.get(layer.name, layer.count)
            pruned[layer.name] = decisions.prune(layer)
            layer.kept = layer.mask & ~pruned[layer.name]
    for layer in layers:
        with _naming(layer, number):
            scores = decisions.scores(layer)
            new, grown = exchange(
                layer.mask, pruned[layer.name], scores, layer.generator, count=layer.count, regrow=decisions.regrow
            )
        yield layer, new, grown


class Rewirings:
    """The rewirings of a training.

    Attributes:
        number: How many there were.
        grown: How many connections of each weight its last rewiring has grown.
        due: The prune fraction of each weight that waits for its rewiring.
    """

    def __init__(self) -> None:
        self.number = 0
        self.grown: dict[str, int] = {}
        self.due: dict[str, Fraction] = {}
        self._progress = Fraction(0)

    def announce(self, fractions: Mapping[str, Fraction], progress: Fraction) -> list[str]:
        """Make a rewiring due.

        Args:
            fractions: The prune fraction of each weight that takes part.
            progress: Share of the training that is over, in [0, 1].

        Returns:
            The weights that still waited for the rewiring before, which is left out.
        """
        missed = list(self.due)
        self.number += 1
        self.due, self._progress = dict(fractions), progress
        return missed

    def run(
        self, names: Collection[str], masks: Masks, decisions: Decisions, seed: int
    ) -> Iterator[tuple[str, Tensor]]:
        """Rewire those of these weights that are due; their masks change in place.

        Yields:
            The name of each, and the mask of the connections that were pruned or grown.
        """
        views = [self._view(name, masks, decisions.regrow, seed) for name in masks]
        for before, after in pairwise(views):
            before.next, after.previous = after, before
        layers = [view for view in views if view.name in self.due and view.name in names]
        for layer, new, grown in rewire_layers(layers, decisions, self.number):
            changed = grown | (layer.mask & ~new)
            masks[layer.name].copy_(new)  # in place, so that views of it stay true
            self.grown[layer.name] = int(grown.count_nonzero())
            del self.due[layer.name]
            yield layer.name, changed

    def _view(self, name: str, masks: Masks, regrow: bool, seed: int) -> LayerView:
        mask, fraction = masks[name], self.due.get(name, Fraction(0))
        return LayerView(
            name=name,
            weight=masks.weight(name),
            mask=mask,
            count=int(mask.count_nonzero()),
            prune_fraction=fraction if regrow else min(fraction, max_prune_fraction(mask)),
            progress=self._progress,
            generator=derived_generator(seed, self.number, name),
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the state; fractions as pairs of integers."""
        due = {name: list(fraction.as_integer_ratio()) for name, fraction in self.due.items()}
        progress = list(self._progress.as_integer_ratio())
        return {"number": self.number, "grown": dict(self.grown), "due": due, "progress": progress}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint."""
        self.number, self.grown = state["number"], dict(state["grown"])
        self.due = {name: Fraction(*pair) for name, pair in state["due"].items()}
        self._progress = Fraction(*state["progress"])


def checked_factor(factor: float | Fraction, progress: Fraction) -> Fraction:
    """Return a schedule's factor, exact.

    Raises:
        ValueError: It is not in [0, 1].
    """
    if not 0 <= factor <= 1:
        raise ValueError(f"Expected the schedule to give a factor in [0, 1], got {factor!r} at progress {progress}")
    return exact_fraction(factor)


@contextmanager
def _naming(layer: LayerView, number: int) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise ValueError(f"Rewiring {number} of {layer.name!r}: {error}") from error
