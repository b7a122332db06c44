"""The base of all criteria that read coactivation."""

from collections.abc import Collection, Mapping
from typing import cast

from sparse_lightning.criteria.base import Criterion, Statistic
from sparse_lightning.criteria.coactivation import CoactivationTracker


class HebbianCriterion(Criterion):
    """A criterion that reads how often both units of a connection were active since the last rewiring.

    Args:
        count_validation: Count the validation samples too, a leak.
        read_at: Modules at which the activity of a layer's output units is read, {layer name: module name}; found by
            watching the first batch where not given.
        threshold: A unit is active in a sample if its value is above this.
        winners: Share of a layer's units, in (0, 1], that can be active in a sample, those of the highest values
            (k-winners); None for all.
        every_n_batches: Count one of so many batches. None counts every batch of layers that receive one row a sample,
            and every fifth of those that receive positions of an image or tokens of a sequence.

    Raises:
        ValueError: An argument is out of its range; see :class:`~sparse_lightning.criteria.counting.Counting`.
    """

    statistics: Mapping[str, Statistic]

    def __init__(
        self,
        *,
        count_validation: bool = False,
        read_at: dict[str, str] | None = None,
        threshold: float = 0.0,
        winners: float | None = None,
        every_n_batches: int | None = None,
    ) -> None:
        tracker = CoactivationTracker(
            count_validation=count_validation,
            read_at=read_at,
            threshold=threshold,
            winners=winners,
            every_n_batches=every_n_batches,
        )
        self.statistics = {"coactivation": tracker}

    @property
    def coactivation(self) -> CoactivationTracker:
        """The counts since the last rewiring."""
        return cast(CoactivationTracker, self.statistics["coactivation"])

    def unreadable(self, names: Collection[str]) -> list[str]:
        """Return the weights whose coactivation could not be counted since the last rewiring."""
        return self.coactivation.uncounted(names)

    def __repr__(self) -> str:
        """Return the expression that builds it."""
        return f"{type(self).__name__}({', '.join(self._options())})"

    def _options(self) -> list[str]:
        return self.coactivation.counting.options(every_n_batches=None)
