"""The momentum of each weight, as the optimizer keeps it."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from sparse_lightning.nn.sparse_linear import sparse_layers


class Momentum:
    """The running mean of each weight's gradient, read from the optimizer's state; nothing is stored twice."""

    def __init__(self) -> None:
        self._module: nn.Module | None = None
        self._optimizers: Sequence[Optimizer] = ()

    def attach(self, module: nn.Module, names: Collection[str], optimizers: Sequence[Optimizer] = ()) -> None:
        """Remember which optimizers train the model.

        Raises:
            ValueError: An optimizer that trains one of the weights keeps no momentum, or a weight stores its
                connections alone.
        """
        self._module, self._optimizers = module, optimizers
        sparse = [name for name in names if name in sparse_layers(module)]
        if sparse:
            raise ValueError(
                f"Expected layout='masked' for {', '.join(sparse)}, got 'csr', which keeps no momentum of inactive "
                "connections"
            )
        for name in names:
            weight = module.get_parameter(name)
            groups = [(opt, group) for opt in optimizers for group in opt.param_groups if _contains(group, weight)]
            for optimizer, group in groups:
                if not (group.get("momentum") or "betas" in group):
                    raise ValueError(
                        f"Expected an optimizer with momentum for {name!r} to grow by, such as SGD(momentum=0.9) or "
                        f"Adam, got {type(optimizer).__name__} without"
                    )

    def detach(self) -> None:
        """Release the model and the optimizers."""
        self._module, self._optimizers = None, ()

    def of(self, name: str) -> Tensor:
        """Return the momentum of one weight: SGD's buffer, or Adam's first moment.

        Raises:
            ValueError: There is none yet.
        """
        momentum = self._find(name)
        if momentum is None:
            raise ValueError("Expected momentum to grow by, got none: rewire after an optimizer step")
        return momentum

    def missing(self, names: Collection[str]) -> list[str]:
        """Return those of these weights that have no momentum."""
        return [name for name in names if self._find(name) is None]

    def _find(self, name: str) -> Tensor | None:
        assert self._module is not None
        weight = self._module.get_parameter(name)
        for optimizer in self._optimizers:
            state = optimizer.state.get(weight, {})
            for key in ("momentum_buffer", "exp_avg"):
                momentum = state.get(key)
                if isinstance(momentum, Tensor):
                    return momentum
        return None

    def count(self) -> None:
        """Do nothing: the optimizer keeps the mean."""

    def reset(self) -> None:
        """Do nothing: the mean runs on."""

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: it is in the optimizer's state."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Do nothing."""

    def __eq__(self, other: object) -> bool:
        """Two of them read the same."""
        return isinstance(other, Momentum)

    __hash__ = None  # type: ignore[assignment]

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles carry no model."""
        return Momentum().__dict__


def _contains(group: Mapping[str, Any], weight: Tensor) -> bool:
    return any(weight is other for other in group["params"])
