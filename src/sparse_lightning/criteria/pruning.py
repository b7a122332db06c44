"""Pruning criteria: which active connections a rewiring prunes."""

from typing import Any, Literal

from torch import Tensor

from sparse_lightning.criteria.base import LayerView, PruningCriterion
from sparse_lightning.criteria.hebbian import HebbianCriterion
from sparse_lightning.functional.checks import expect, is_number
from sparse_lightning.functional.prune import lowest, lowest_and_zeros, signed_magnitude, zero_weights

PruningName = Literal[
    "signed_magnitude",
    "magnitude",
    "magnitude_and_gradient",
    "hebbian",
    "inverse_hebbian",
    "weighted_hebbian",
    "mixed",
]


class MagnitudePruning(PruningCriterion):
    """Prunes the weights nearest zero (RigL, Evci et al. 2020; SNFS, Dettmers & Zettlemoyer 2019).

    Weights of exactly zero come first, within the fraction, as in both papers.
    """

    def prune(self, layer: LayerView) -> Tensor:
        """Choose the smallest absolute weights."""
        return lowest(layer.values.abs(), layer.prune_fraction, layer.generator)


class MagnitudeAndGradientPruning(PruningCriterion):
    """Prunes the connections of the lowest |w| + factor |dL/dw| (MEST, Yuan et al. 2021, section 3.2).

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

    Args:
        count_validation: Count the validation samples too, a leak; see
            :class:`~sparse_lightning.criteria.coactivation.CoactivationTracker`.
        read_at: Modules at which the activity of a layer's output units is read, {layer name: module name}.
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
    ) -> None:
        super().__init__(count_validation=count_validation, read_at=read_at)
        expect(_is_share(hebbian_fraction), "hebbian_fraction in [0, 1]", hebbian_fraction)
        expect(weight_fraction is None or _is_share(weight_fraction), "weight_fraction in [0, 1]", weight_fraction)
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


def _is_share(value: Any) -> bool:
    return is_number(value) and 0 <= value <= 1


PRUNING: dict[str, type[PruningCriterion]] = {
    "signed_magnitude": SignedMagnitudePruning,
    "magnitude": MagnitudePruning,
    "magnitude_and_gradient": MagnitudeAndGradientPruning,
    "hebbian": HebbianPruning,
    "inverse_hebbian": InverseHebbianPruning,
    "weighted_hebbian": WeightedHebbianPruning,
    "mixed": MixedPruning,
}
