"""How coactivation is counted: what is active, where that is read, and in which batches."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from sparse_lightning.functional.checks import expect, is_integer, is_number
from sparse_lightning.functional.coactivation import activity

SAMPLED_EVERY = 5  # batches: positions and tokens are many, and counting each would cost more than it tells


@dataclass(frozen=True)
class Counting:
    """What is active, and which samples are counted.

    Attributes:
        count_validation: Count the validation samples too. Then the images that judge the network steer its growth;
            this option only reproduces experiments that did so.
        read_at: Modules to read the activity of a layer's output units from, {layer name: module name}: from the
            module's next call after the layer's. Found automatically for other layers.
        threshold: A unit is active in a sample if its value is above this. A value other than 0 needs activation
            functions that are modules, or `read_at`: one called as a function is not met, and the value before it read.
        winners: Share of a layer's units, in (0, 1], that can be active in a sample, those of the highest values
            (k-winners); None for all.
        every_n_batches: Count one of so many batches, the first after a rewiring among them. None counts every batch of
            layers that receive one row a sample, and every fifth of those that receive many, positions of an image or
            tokens of a sequence.

    Raises:
        ValueError: An option is out of its range.
    """

    count_validation: bool = False
    read_at: Mapping[str, str] = field(default_factory=dict)
    threshold: float = 0.0
    winners: float | None = None
    every_n_batches: int | None = 1

    def __post_init__(self) -> None:
        expect(is_number(self.threshold), "threshold to be a finite number", self.threshold)
        valid = self.winners is None or (is_number(self.winners) and 0 < self.winners <= 1)
        expect(valid, "winners in (0, 1] or None", self.winners)
        every = self.every_n_batches
        expect(every is None or is_integer(every, 1), "every_n_batches of at least 1 or None", every)

    def interval(self, inputs: Tensor) -> int:
        """Return of how many batches one is counted of a layer that receives these inputs."""
        many = inputs.dim() > (2 if inputs.is_floating_point() else 1)  # an embedding receives indices
        return self.every_n_batches or (SAMPLED_EVERY if many else 1)

    def activity(self, values: Tensor, layer: nn.Module) -> Tensor:
        """Return where values of a layer's input or output units are active."""
        return activity(values, self.threshold, self.winners, self.units(layer))

    @staticmethod
    def units(layer: nn.Module) -> int:
        """Return the dimension of the units in what a layer receives and returns."""
        return -1 - len(layer.kernel_size) if isinstance(layer, _ConvNd) else -1

    def options(self, **defaults: Any) -> list[str]:
        """Return the options that differ from their defaults, or from these, as arguments."""
        usual = asdict(Counting()) | defaults
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return [f"{name}={value!r}" for name, value in values.items() if value != usual[name]]
