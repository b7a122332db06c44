"""What a criterion may have watched while a model trains."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

from torch import nn
from torch.optim import Optimizer


class Statistic(Protocol):
    """Something watched while a model trains, which a criterion reads when the topology moves.

    Two criteria of one callback that name the same statistic share it.
    """

    def attach(self, module: nn.Module, names: Collection[str], optimizers: Sequence[Optimizer] = ()) -> None:
        """Start watching.

        Args:
            module: The model.
            names: Names of those of its parameters that are sparse.
            optimizers: Those that train it.
        """

    def detach(self) -> None:
        """Stop watching, keeping what was gathered."""

    def count(self) -> None:
        """Take in the batch that has just run."""

    def reset(self) -> None:
        """Forget, after the topology has moved."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold, gathered over all ranks."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint."""
