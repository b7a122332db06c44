"""The weights of an early moment of a training, and the return to them."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sparse_lightning.functional.checks import expect, is_integer


class Rewinding:
    """Remembers the parameters of a model at one moment, with the statistics of its normalisation layers.

    Args:
        to: The epoch or step.

    Raises:
        ValueError: It is no integer of at least 0.
    """

    def __init__(self, to: int) -> None:
        expect(is_integer(to, 0), "rewind_to to be an integer of at least 0", to)
        self.to = to
        self._values: dict[str, Tensor] = {}

    def remember(self, module: nn.Module, now: int) -> None:
        """Keep the parameters if this is the moment, or the first one after it, and none are kept yet."""
        if now >= self.to and not self._values:
            self._values = {name: tensor.detach().clone() for name, tensor in _rewound(module).items()}

    @torch.no_grad()
    def rewind(self, module: nn.Module, optimizers: Iterable[Optimizer]) -> None:
        """Return to them, and let the optimizers forget what they know."""
        for name, tensor in _rewound(module).items():
            if name in self._values:
                tensor.copy_(self._values[name].to(tensor.device))
        for optimizer in optimizers:
            optimizer.state.clear()

    def forget(self) -> None:
        """Forget them."""
        self._values = {}

    def state_dict(self) -> dict[str, Tensor]:
        """Return what is remembered."""
        return dict(self._values)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from a checkpoint."""
        self._values = dict(state)


def _rewound(module: nn.Module) -> dict[str, Tensor]:
    norms = [name for name, each in module.named_modules() if isinstance(each, nn.modules.batchnorm._NormBase)]
    statistics = {name: tensor for name, tensor in module.named_buffers() if name.rpartition(".")[0] in norms}
    return dict(module.named_parameters()) | statistics
