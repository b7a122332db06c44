"""Rewirings: counts, pruning and growth, asked one after the other, and which layers still wait for theirs."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from sparse_lightning.callbacks.masks import Masks
from sparse_lightning.criteria.base import CsrLayerView, LayerView
from sparse_lightning.functional.grow import exchange
from sparse_lightning.functional.masks import (
    derived_generator,
    exact_fraction,
)
from sparse_lightning.functional.prune import at_least
from sparse_lightning.functional.structure import Structure


@dataclass(frozen=True)
class Decisions:
    """What a rewiring asks.

    Attributes:
        counts: Returns the number of active connections of each layer afterwards, by parameter name.
        prune: Returns which active connections of a layer to prune.
        scores: Returns how much each connection of a layer deserves to grow, at once or in blocks of rows.
        refine: Returns what to prune in the end, of layers where that differs, once all layers have pruned.
        regrow: Whether a connection just pruned may grow again.
        redistributes: Whether the counts share out what all layers prune, each its whole prune fraction.
        structure: What the active connections of each layer keep.
        need_gradient: Whether those who are asked read the gradient themselves, and not a criterion that checks it.
    """

    counts: Callable[[Sequence[LayerView]], dict[str, int]]
    prune: Callable[[LayerView], Tensor]
    scores: Callable[[LayerView], Tensor | Iterable[Tensor]]
    refine: Callable[[Sequence[LayerView]], Mapping[str, Tensor]] = lambda layers: {}
    regrow: bool = False
    redistributes: bool = False
    structure: Structure | None = None
    need_gradient: bool = False


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
        Each layer with the positions of the connections that become inactive, and of those that become active.

    Raises:
        ValueError: A decision cannot be used; the layer is named.
    """
    for layer in layers if decisions.need_gradient else ():
        with _naming(layer, number):
            if not layer.has_gradient:
                raise ValueError("Expected a gradient to rewire by, got none: rewire after a backward pass")
    counts = decisions.counts(layers)
    if unknown := sorted({*counts} - {layer.name for layer in layers}):
        known = ", ".join(layer.name for layer in layers)
        raise ValueError(f"Expected target counts of the layers that are rewired ({known}), got {', '.join(unknown)}")
    for layer in layers:
        with _naming(layer, number):
            count = counts.get(layer.name, layer.count)
            if decisions.redistributes:
                layer.count = count
            elif count != layer.count:
                layer.aim(count, decisions.regrow)
            pruned = _among_active(layer, decisions.prune(layer))
            surplus = len(layer.positions) - layer.count
            layer.pruned = at_least(pruned, surplus, layer.values.abs(), layer.generator)
    for name, pruned in decisions.refine(layers).items():
        next(layer for layer in layers if layer.name == name).pruned = pruned
    for layer in layers:
        with _naming(layer, number):
            layer.pruned = _structured(layer, decisions)
    for layer in layers:
        with _naming(layer, number):
            scores, generator = _shaped(layer, decisions.scores(layer)), layer.generator
            if decisions.structure:
                whole = scores if isinstance(scores, Tensor) else torch.cat(list(scores))
                connections = layer.positions, layer.pruned, whole, generator
                structure = decisions.structure if layer.next else decisions.structure.at_output()
                dropped, grown = structure.exchange(*connections, regrow=decisions.regrow)
            else:
                dropped, grown = exchange(
                    layer.positions, layer.pruned, scores, generator, count=layer.count, regrow=decisions.regrow
                )
        yield layer, dropped, grown


def _structured(layer: LayerView, decisions: Decisions) -> Tensor:
    """What to prune of a layer so that its structure can be kept."""
    if decisions.structure is None:
        return layer.pruned
    if layer.count != len(layer.positions):
        raise ValueError(
            f"Expected a layer with a structure to keep its {len(layer.positions)} connections, got {layer.count}"
        )
    connections = layer.positions, layer.pruned, layer.values, layer.shape, layer.generator
    return decisions.structure.prune(*connections, regrow=decisions.regrow)


def _shaped(layer: LayerView, scores: Any) -> Tensor | Iterable[Tensor]:
    """Growth scores, if they are a tensor shaped like the weight, or blocks of its rows."""
    blocks = isinstance(scores, Iterator | list | tuple)
    if not blocks and not (isinstance(scores, Tensor) and scores.shape == layer.shape):
        raise ValueError(f"Expected growth scores of shape {tuple(layer.shape)}, got {_described(scores)}")
    found: Tensor | Iterable[Tensor] = scores
    return found


def _described(value: Any) -> str:
    return f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def _among_active(layer: LayerView, pruned: Tensor) -> Tensor:
    """Which active connections to prune (nnz), from a mask of those or one shaped like the weight."""
    if not isinstance(pruned, Tensor) or pruned.shape not in (layer.positions.shape, layer.shape):
        own, whole = tuple(layer.positions.shape), tuple(layer.shape)
        raise ValueError(f"Expected a mask of what to prune of shape {own} or {whole}, got {_described(pruned)}")
    if pruned.dtype != torch.bool:
        raise ValueError(f"Expected a boolean mask of what to prune, got one of {pruned.dtype}")
    if pruned.shape == layer.positions.shape:
        return pruned
    found = layer.at_connections(pruned)
    if found.count_nonzero() != pruned.count_nonzero():
        raise ValueError("Expected only active connections to be pruned, got inactive ones among them")
    return found


class Rewirings:
    """The rewirings of a training.

    Attributes:
        number: How many there were.
        grown: How many connections of each weight its last rewiring has grown.
        due: The prune fraction of each weight that waits for its rewiring.
        counts: The number of connections that a schedule of the density gives each weight at its next rewiring.
    """

    def __init__(self) -> None:
        self.number = 0
        self.grown: dict[str, int] = {}
        self.due: dict[str, Fraction] = {}
        self.counts: dict[str, int] = {}
        self._progress = Fraction(0)

    def announce(
        self, fractions: Mapping[str, Fraction], progress: Fraction, counts: Mapping[str, int] = MappingProxyType({})
    ) -> list[str]:
        """Make a rewiring due.

        Args:
            fractions: The prune fraction of each weight that takes part.
            progress: Share of the training that is over, in [0, 1].
            counts: What a schedule of the density says; weights without an entry keep their number.

        Returns:
            The weights that still waited for the rewiring before, which is left out.
        """
        missed = list(self.due)
        self.number += 1
        self.due, self.counts, self._progress = dict(fractions), dict(counts), progress
        return missed

    def run(
        self, names: Collection[str], masks: Masks, decisions: Decisions, seed: int
    ) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Decide about those of these weights that are due.

        Yields:
            The name of each, and the positions of the connections that become inactive, and active.
        """
        views = [self._view(name, masks, decisions.regrow, seed) for name in masks]
        for before, after in pairwise(views):
            before.next, after.previous = after, before
        layers = [view for view in views if view.name in self.due and view.name in names]
        for layer, dropped, grown in rewire_layers(layers, decisions, self.number):
            self.grown[layer.name] = len(grown)
            del self.due[layer.name]
            yield layer.name, dropped, grown

    def _view(self, name: str, masks: Masks, regrow: bool, seed: int) -> LayerView:
        fraction = self.due.get(name, Fraction(0))
        common: Any = {"name": name, "prune_fraction": fraction, "progress": self._progress}
        common["generator"] = derived_generator(seed, self.number, name)
        if name in masks.layers:
            layer: LayerView = CsrLayerView(layer=masks.layers[name], **common)
        else:
            layer = LayerView(weight=masks.weight(name), mask=masks[name], **common)
        layer.aim(self.counts.get(name, layer.count), regrow)
        return layer

    def state_dict(self) -> dict[str, Any]:
        """Return the state; fractions as pairs of integers."""
        due = {name: list(fraction.as_integer_ratio()) for name, fraction in self.due.items()}
        progress = list(self._progress.as_integer_ratio())
        counts = {"grown": dict(self.grown), "counts": dict(self.counts)}
        return {"number": self.number, "due": due, "progress": progress, **counts}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint."""
        self.number, self.grown, self.counts = state["number"], dict(state["grown"]), dict(state["counts"])
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
