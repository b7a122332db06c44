"""Pruning criteria: which active connections a rewiring prunes."""

from typing import Literal

from torch import Tensor

from sparse_lightning.criteria.base import LayerView, PruningCriterion
from sparse_lightning.criteria.hebbian import HebbianCriterion
from sparse_lightning.functional.checks import expect, is_number
from sparse_lightning.functional.prune import lowest, lowest_and_zeros, signed_magnitude

PruningName = Literal["signed_magnitude", "magnitude", "hebbian", "inverse_hebbian", "weighted_hebbian", "mixed"]


class MagnitudePruning(PruningCriterion):
    """Prunes the weights nearest zero (RigL, Evci et al. 2020; SNFS, Dettmers & Zettlemoyer 2019).

    Weights of exactly zero come first, within the fraction, as in both papers.
    """

    def prune(self, layer: LayerView) -> Tensor:
        """Choose the smallest absolute weights."""
        return lowest(layer.weight.abs(), layer.mask, layer.prune_fraction, layer.generator)


class SignedMagnitudePruning(PruningCriterion):
    """Prunes weights of exactly zero and, of each sign, a fraction nearest zero (SET, Mocanu et al. 2018).

    See :func:`~sparse_lightning.functional.prune.signed_magnitude` for the exact counts.
    """

    def prune(self, layer: LayerView) -> Tensor:
        """Choose zeros, the smallest positive weights and the negative ones nearest zero."""
        return signed_magnitude(layer.weight, layer.mask, layer.prune_fraction, layer.generator)


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
        return self._prune_lowest(layer, self.coactivation.total(layer.name))

    @staticmethod
    def _prune_lowest(layer: LayerView, scores: Tensor) -> Tensor:
        return lowest_and_zeros(scores, layer.weight, layer.mask, layer.prune_fraction, layer.generator)


class InverseHebbianPruning(HebbianPruning):
    """The control of :class:`HebbianPruning`: prunes zeros and the connections most often active at both ends."""

    def prune(self, layer: LayerView) -> Tensor:
        """Choose zeros and the highest coactivation."""
        return self._prune_lowest(layer, -self.coactivation.total(layer.name))


class WeightedHebbianPruning(HebbianPruning):
    """Prunes zeros and the connections of the lowest magnitude times coactivation."""

    def prune(self, layer: LayerView) -> Tensor:
        """Choose zeros and the lowest products."""
        return self._prune_lowest(layer, layer.weight.abs() * self.coactivation.total(layer.name))


class MixedPruning(HebbianPruning):
    """Prunes a connection only if both its magnitude and its coactivation are low, each by its own fraction.

    The magnitude's fraction is the callback's `prune_fraction`, by sign as in :class:`SignedMagnitudePruning`.
    Numenta's experiments call the two `weight_prune_perc` and `hebbian_prune_perc`. Weights of exactly zero are always
    pruned.

    Args:
        hebbian_fraction: Share of the active connections, those of the lowest coactivation, that may be pruned, in
            [0, 1].
        count_validation: Count the validation samples too, a leak.
        read_at: Modules at which the activity of a layer's output units is read, {layer name: module name}.

    Raises:
        ValueError: The fraction is out of its range.
    """

    def __init__(
        self,
        hebbian_fraction: float = 0.3,
        *,
        count_validation: bool = False,
        read_at: dict[str, str] | None = None,
    ) -> None:
        super().__init__(count_validation=count_validation, read_at=read_at)
        valid = is_number(hebbian_fraction) and 0 <= hebbian_fraction <= 1
        expect(valid, "hebbian_fraction in [0, 1]", hebbian_fraction)
        self.hebbian_fraction = hebbian_fraction

    def prune(self, layer: LayerView) -> Tensor:
        """Choose zeros and what both criteria prune."""
        coactivation = self.coactivation.total(layer.name)
        by_magnitude = signed_magnitude(layer.weight, layer.mask, layer.prune_fraction, layer.generator)
        by_coactivation = lowest_and_zeros(
            coactivation, layer.weight, layer.mask, self.hebbian_fraction, layer.generator
        )
        return by_magnitude & (by_coactivation | (layer.weight == 0))

    def __repr__(self) -> str:
        """Return the expression that builds it."""
        return f"{type(self).__name__}({', '.join([repr(self.hebbian_fraction), *self._options()])})"


PRUNING: dict[str, type[PruningCriterion]] = {
    "signed_magnitude": SignedMagnitudePruning,
    "magnitude": MagnitudePruning,
    "hebbian": HebbianPruning,
    "inverse_hebbian": InverseHebbianPruning,
    "weighted_hebbian": WeightedHebbianPruning,
    "mixed": MixedPruning,
}
