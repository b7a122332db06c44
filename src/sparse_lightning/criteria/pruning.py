"""Pruning criteria: which active connections a rewiring prunes."""

import copy
from collections.abc import Collection, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from sparse_lightning.criteria.base import LayerView, PruningCriterion, Statistic
from sparse_lightning.criteria.counts import MinimumCriterion, kept_globally
from sparse_lightning.criteria.hebbian import HebbianCriterion
from sparse_lightning.functional.checks import expect, is_number, is_share, named
from sparse_lightning.functional.masks import choose, mask_of, perturbed
from sparse_lightning.functional.prune import (
    lowest,
    lowest_and_zeros,
    relative_importance,
    signed_magnitude,
    without_chains,
    zero_weights,
)

PruningName = Literal[
    "signed_magnitude",
    "magnitude",
    "global_magnitude",
    "magnitude_and_gradient",
    "hebbian",
    "inverse_hebbian",
    "weighted_hebbian",
    "mixed",
    "relative_importance",
    "soft_magnitude",
    "chain_removal",
]


class MagnitudePruning(PruningCriterion):
    """Prunes the weights nearest zero (RigL, Evci et al. 2020; SNFS, Dettmers & Zettlemoyer 2019).

    Weights of exactly zero come first, within the fraction, as in both papers.
    """

    def prune(self, layer: LayerView) -> Tensor:
        """Choose the smallest absolute weights."""
        return lowest(layer.values.abs(), layer.prune_fraction, layer.generator)


class GlobalMagnitudePruning(MinimumCriterion, MagnitudePruning):
    """Prunes the weights nearest zero of all layers together (DSR, Mostafa & Wang 2019).

    Each layer's fraction adds to how many are pruned in all; which layers they belong to, their magnitudes decide. A
    layer prunes no more than it can grow. With ``counts="survivors"`` the others grow what it loses.

    Args:
        minimum: Share of its connections that a layer keeps at least, in [0, 1].

    Raises:
        ValueError: The minimum is out of its range.
    """

    def refine(self, layers: Sequence[LayerView]) -> dict[str, Tensor]:
        """Return which connections of each layer are among the smallest of all."""
        kept, refined = kept_globally(layers, self.minimum), {}
        for layer in layers:
            active = len(layer.positions)
            count = min(max(active - kept[layer.name], active - layer.count), layer.replaceable)
            refined[layer.name] = choose(-layer.values.abs(), count, torch.ones_like(layer.pruned), layer.generator)
        return refined


class MagnitudeAndGradientPruning(PruningCriterion):
    """Prunes the connections of the lowest ``|w|`` + factor ``|dL/dw|`` (MEST, Yuan et al. 2021, section 3.2).

    The gradient is that of the step just taken, after reduction over ranks and clipping.

    Args:
        factor: How much the gradient counts beside the weight, at least 0.

    Raises:
        ValueError: The factor is negative or no number.
    """

    reads_gradient = True

    def __init__(self, factor: float = 0.01) -> None:
        expect(is_number(factor) and factor >= 0, "factor of at least 0", factor)
        self.factor = factor

    def prune(self, layer: LayerView) -> Tensor:
        """Choose the least important connections.

        Raises:
            ValueError: The weight has no gradient.
        """
        gradient = layer.gradient
        if gradient is None:
            raise ValueError("Expected a gradient to prune by, got none: rewire after a backward pass")
        importance = layer.values.abs() + self.factor * layer.at_connections(gradient).abs()
        return lowest(importance, layer.prune_fraction, layer.generator)

    def __repr__(self) -> str:
        """Return the expression that builds it."""
        return f"{type(self).__name__}({'' if self.factor == 0.01 else f'factor={self.factor!r}'})"


class RelativeImportancePruning(PruningCriterion):
    """Prunes what matters least to both of its units: ``|w|`` over its row's sum plus ``|w|`` over its column's (CHTs).

    Zhang et al. 2025; a unit's last strong connection is worth more than one of many (as in Zhang et al. 2024, "Plug-
    and-Play: An Efficient Post-training Pruning Method for Large Language Models"). Zeros come first, within the
    fraction.
    """

    def prune(self, layer: LayerView) -> Tensor:
        """Choose the least relatively important connections."""
        return lowest(
            relative_importance(layer.values, layer.positions, layer.shape), layer.prune_fraction, layer.generator
        )


class SoftMagnitudePruning(PruningCriterion):
    """Draws what to keep, in proportion to ``|w|`` to a power that grows from 1 to 3 over the training (CHTs).

    Args:
        relative: Draw in proportion to relative importance, as :class:`RelativeImportancePruning`, in place of ``|w|``.

    Raises:
        ValueError: It is neither true nor false.
    """

    def __init__(self, relative: bool = False) -> None:
        expect(isinstance(relative, bool), "relative to be true or false", relative)
        self.relative = relative

    def prune(self, layer: LayerView) -> Tensor:
        """Choose the connections that the draw leaves over."""
        importance = layer.values.abs()
        if self.relative:
            importance = relative_importance(layer.values, layer.positions, layer.shape)
        drawn = perturbed(importance, 1 + 2 * float(layer.progress), layer.generator)
        return lowest(drawn, layer.prune_fraction, layer.generator)

    def __repr__(self) -> str:
        """Return the expression that builds it."""
        return f"{type(self).__name__}({'relative=True' if self.relative else ''})"


class ChainRemoval(PruningCriterion):
    """Prunes, after another criterion, what leads nowhere: the other links of units without inputs or outputs (CHT).

    That is repeated until no such unit is left. As many connections grow as were pruned in all. A weight is taken to
    follow the one before it, in the order of the model's parameters, where it has as many inputs as that has outputs:
    choose layers in a row by `include` where a model has others.

    Chains let more grow than a pruning by magnitude takes, so that where units die, connections of weight zero can pile
    up. After ``"signed_magnitude"``, which prunes all zeros, they do not.

    Args:
        pruning: The other criterion, by name or as an instance.

    Raises:
        ValueError: At fit start: there is one sparse weight alone.
    """

    def __init__(self, pruning: "PruningName | PruningCriterion" = "magnitude") -> None:
        self.pruning = named("pruning", pruning, PRUNING)() if isinstance(pruning, str) else copy.deepcopy(pruning)
        expect(isinstance(self.pruning, PruningCriterion), "pruning to be a name or a PruningCriterion", pruning)
        self.reads_gradient = self.pruning.reads_gradient

    @property
    def statistics(self) -> Mapping[str, Statistic]:
        """What the other criterion needs."""
        return self.pruning.statistics

    @statistics.setter
    def statistics(self, shared: Mapping[str, Statistic]) -> None:
        self.pruning.statistics = shared

    def prune(self, layer: LayerView) -> Tensor:
        """Choose what the other criterion does."""
        return self.pruning.prune(layer)

    def refine(self, layers: Sequence[LayerView]) -> dict[str, Tensor]:
        """Return what is pruned with the chains, as far as it can be replaced; the weights nearest zero first."""
        refined = {layer.name: layer.pruned for layer in layers} | self.pruning.refine(layers)
        masks = [mask_of(layer.positions[~refined[layer.name]], layer.shape) for layer in layers]
        for layer, mask in zip(layers, without_chains(masks), strict=True):
            pruned = refined[layer.name]
            chains = ~layer.at_connections(mask) & ~pruned
            count = min(int(chains.count_nonzero()), max(layer.replaceable - int(pruned.count_nonzero()), 0))
            refined[layer.name] = pruned | choose(-layer.values.abs(), count, chains, layer.generator)
        return refined

    def unsuitable(self, shapes: Mapping[str, torch.Size]) -> dict[str, str]:
        """Return a weight that is alone, and those that are no matrices."""
        found = {name: "is no matrix (out, in)" for name, shape in shapes.items() if len(shape) != 2}
        alone = dict.fromkeys(shapes, "has no sparse layer beside it") if len(shapes) == 1 else {}
        return self.pruning.unsuitable(shapes) | alone | found

    def unreadable(self, names: Collection[str]) -> list[str]:
        """Return the weights that the other criterion knows nothing about."""
        return self.pruning.unreadable(names)

    def __repr__(self) -> str:
        """Return the expression that builds it."""
        default = type(self.pruning) is MagnitudePruning
        return f"{type(self).__name__}({'' if default else repr(self.pruning)})"


class SignedMagnitudePruning(PruningCriterion):
    """Prunes weights of exactly zero and, of each sign, a fraction nearest zero (SET, Mocanu et al. 2018).

    See :func:`~sparse_lightning.functional.prune.signed_magnitude` for the exact counts.
    """

    def prune(self, layer: LayerView) -> Tensor:
        """Choose zeros, the smallest positive weights and the negative ones nearest zero."""
        return signed_magnitude(layer.values, layer.prune_fraction, layer.replaceable, layer.generator)


class HebbianPruning(HebbianCriterion, PruningCriterion):
    """Prunes the connections whose two units were least often active together since the last rewiring.

    Weights of exactly zero are always pruned, as in Numenta's experiments; the fraction is of the others.

    Its arguments are those of :class:`~sparse_lightning.criteria.hebbian.HebbianCriterion`.
    """

    def prune(self, layer: LayerView) -> Tensor:
        """Choose zeros and the lowest coactivation."""
        return self._prune_lowest(layer, self._counts(layer))

    def _counts(self, layer: LayerView) -> Tensor:
        return layer.at_connections(self.coactivation.total(layer.name))

    @staticmethod
    def _prune_lowest(layer: LayerView, scores: Tensor) -> Tensor:
        return lowest_and_zeros(scores, layer.values, layer.prune_fraction, layer.replaceable, layer.generator)


class InverseHebbianPruning(HebbianPruning):
    """The control of :class:`HebbianPruning`: prunes zeros and the connections most often active at both ends."""

    def prune(self, layer: LayerView) -> Tensor:
        """Choose zeros and the highest coactivation."""
        return self._prune_lowest(layer, -self._counts(layer))


class WeightedHebbianPruning(HebbianPruning):
    """Prunes by magnitude times coactivation: of each sign, the fraction whose products are nearest zero.

    The products take the place of the weights in :class:`SignedMagnitudePruning`, as in Numenta's experiments: a
    product of exactly zero, of a dead weight or of two units that were never active together, is always pruned, unless
    the fraction is 0.
    """

    def prune(self, layer: LayerView) -> Tensor:
        """Choose zeros and the products nearest zero."""
        if not layer.prune_fraction:
            return zero_weights(layer.values, layer.replaceable, layer.generator)
        products = layer.values * self._counts(layer)
        return signed_magnitude(products, layer.prune_fraction, layer.replaceable, layer.generator)


class MixedPruning(HebbianPruning):
    """Prunes a connection only if both its magnitude and its coactivation are low, each by its own fraction.

    The magnitude's fraction is by sign, as in :class:`SignedMagnitudePruning`. Weights of exactly zero are pruned.
    Numenta's experiments call the two fractions `hebbian_prune_perc` and `weight_prune_perc`. As there, where
    `weight_fraction` is given, a fraction of 0 switches its criterion off, and the other decides alone.

    Args:
        hebbian_fraction: Share of the active connections, those of the lowest coactivation, that may be pruned, in
            [0, 1].
        weight_fraction: Share of the active connections of each sign, those nearest zero, that may be pruned, in
            [0, 1]; None for the callback's `prune_fraction`, which a schedule may lower.
        count_validation: Count the validation samples too, a leak.
        read_at: Modules at which the activity of a layer's output units is read, {layer name: module name}.
        threshold: What the value of an active unit is above.
        winners: Share of a layer's units that can be active in a sample, in (0, 1]; None for all.
        every_n_batches: Count one of so many batches; None as in
            :class:`~sparse_lightning.criteria.hebbian.HebbianCriterion`.

    Raises:
        ValueError: A fraction is out of its range.
    """

    def __init__(
        self,
        hebbian_fraction: float = 0.3,
        *,
        weight_fraction: float | None = None,
        count_validation: bool = False,
        read_at: dict[str, str] | None = None,
        threshold: float = 0.0,
        winners: float | None = None,
        every_n_batches: int | None = None,
    ) -> None:
        super().__init__(
            count_validation=count_validation,
            read_at=read_at,
            threshold=threshold,
            winners=winners,
            every_n_batches=every_n_batches,
        )
        expect(is_share(hebbian_fraction), "hebbian_fraction in [0, 1]", hebbian_fraction)
        expect(weight_fraction is None or is_share(weight_fraction), "weight_fraction in [0, 1]", weight_fraction)
        self.hebbian_fraction, self.weight_fraction = hebbian_fraction, weight_fraction

    def prune(self, layer: LayerView) -> Tensor:
        """Choose zeros and what both criteria prune."""
        fraction = layer.prune_fraction if self.weight_fraction is None else self.weight_fraction
        by_magnitude = signed_magnitude(layer.values, fraction, layer.replaceable, layer.generator)
        by_coactivation = lowest_and_zeros(
            self._counts(layer), layer.values, self.hebbian_fraction, layer.replaceable, layer.generator
        )
        if self.weight_fraction == 0:
            return by_coactivation
        if self.weight_fraction is not None and self.hebbian_fraction == 0:
            return by_magnitude
        return by_magnitude & (by_coactivation | (layer.values == 0))

    def __repr__(self) -> str:
        """Return the expression that builds it."""
        own = [repr(self.hebbian_fraction)]
        own += [] if self.weight_fraction is None else [f"weight_fraction={self.weight_fraction!r}"]
        return f"{type(self).__name__}({', '.join([*own, *self._options()])})"


PRUNING: dict[str, type[PruningCriterion]] = {
    "signed_magnitude": SignedMagnitudePruning,
    "magnitude": MagnitudePruning,
    "global_magnitude": GlobalMagnitudePruning,
    "magnitude_and_gradient": MagnitudeAndGradientPruning,
    "hebbian": HebbianPruning,
    "inverse_hebbian": InverseHebbianPruning,
    "weighted_hebbian": WeightedHebbianPruning,
    "mixed": MixedPruning,
    "relative_importance": RelativeImportancePruning,
    "soft_magnitude": SoftMagnitudePruning,
    "chain_removal": ChainRemoval,
}
