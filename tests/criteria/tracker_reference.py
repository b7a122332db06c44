"""Coactivation counted by hooks of a test's own."""

import torch
from functional.coactivation_reference import outer_products
from torch import Tensor, nn

from sparse_lightning.criteria.coactivation import CoactivationTracker


class Reference:
    """Counts, by hooks of its own, each layer's inputs against the outputs of a given module."""

    def __init__(self, pairs: dict[str, tuple[nn.Linear, nn.Module]], validation: bool = False) -> None:
        self.counts = {name: torch.zeros(layer.weight.shape, dtype=torch.int32) for name, (layer, _) in pairs.items()}
        self.validation = validation
        for name, (layer, end) in pairs.items():
            self.watch(name, layer, end)

    def watch(self, name: str, layer: nn.Linear, end: nn.Module) -> None:
        inputs: list[Tensor] = []

        def enter(module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
            (value,) = *args, *kwargs.values()
            inputs.append(value.detach().clone())

        def leave(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            if inputs and (module.training or self.validation):
                self.counts[name] += outer_products(inputs.pop(), output.detach())

        layer.register_forward_pre_hook(enter, with_kwargs=True)
        end.register_forward_hook(leave)

    def clear(self) -> None:
        for counts in self.counts.values():
            counts.zero_()


def attached(module: nn.Module, **options: bool) -> CoactivationTracker:
    """A tracker attached to every Linear of a module."""
    tracker = CoactivationTracker(**options)
    layers = {f"{name}.weight": each for name, each in module.named_modules() if isinstance(each, nn.Linear)}
    tracker.attach(module, layers)
    return tracker
