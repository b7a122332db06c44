"""The statistics that the criteria of one callback gather, each once."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from sparse_lightning.criteria.base import Criterion, Statistic


class Statistics:
    """All statistics of some criteria; equal ones of one name are shared.

    Args:
        criteria: The criteria, whose `statistics` are replaced by the shared ones.

    Raises:
        ValueError: Two criteria need different statistics of one name.
    """

    def __init__(self, criteria: Sequence[Criterion]) -> None:
        self._shared: dict[str, Statistic] = {}
        for criterion in criteria:
            if criterion.statistics:
                for name, statistic in criterion.statistics.items():
                    if self._shared.setdefault(name, statistic) != statistic:
                        raise ValueError(f"Expected criteria that need the same {name}, got two that differ")
                criterion.statistics = {name: self._shared[name] for name in criterion.statistics}

    def __getitem__(self, name: str) -> Statistic:
        """Return one by its name."""
        return self._shared[name]

    def get(self, name: str) -> Statistic | None:
        """Return one by its name, or None."""
        return self._shared.get(name)

    def attach(self, module: nn.Module, names: Collection[str], optimizers: Sequence[Optimizer]) -> None:
        """Start to gather; see :class:`~sparse_lightning.criteria.base.Statistic`."""
        for statistic in self._shared.values():
            statistic.attach(module, names, optimizers)

    def detach(self) -> None:
        """Stop to gather."""
        for statistic in self._shared.values():
            statistic.detach()

    def count(self) -> None:
        """Take in the batch that has just run."""
        for statistic in self._shared.values():
            statistic.count()

    def reset(self) -> None:
        """Start again from nothing."""
        for statistic in self._shared.values():
            statistic.reset()

    def state_dict(self) -> dict[str, Any]:
        """Return their states by name; a collective operation when training is distributed."""
        return {name: statistic.state_dict() for name, statistic in self._shared.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint."""
        for name, statistic in self._shared.items():
            if name in state:
                statistic.load_state_dict(state[name])
