"""The base of all criteria that read coactivation."""

from collections.abc import Collection, Mapping
from typing import cast

from sparse_lightning.criteria.base import Criterion, Statistic
from sparse_lightning.criteria.coactivation import CoactivationTracker


class HebbianCriterion(Criterion):
    """A criterion that reads how often both units of a connection were active since the last rewiring.

    Args:
        count_validation: Count the validation samples too, a leak; see
            :class:`~sparse_lightning.criteria.coactivation.CoactivationTracker`.
        read_at: Modules at which the activity of a layer's output units is read, {layer name: module name}; found by
            watching the first batch where not given.
    """

    statistics: Mapping[str, Statistic]

    def __init__(self, *, count_validation: bool = False, read_at: Mapping[str, str] | None = None) -> None:
        self.count_validation = count_validation
        self.read_at = dict(read_at or {})
        self.statistics = {"coactivation": CoactivationTracker(count_validation=count_validation, read_at=read_at)}

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
        options = {"count_validation": self.count_validation, "read_at": self.read_at}
        return [f"{name}={value!r}" for name, value in options.items() if value]
