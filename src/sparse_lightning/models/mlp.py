"""The layers of a multilayer perceptron."""

from collections import OrderedDict
from collections.abc import Callable, Sequence

from torch import nn


def build_mlp(
    input_size: int,
    num_classes: int,
    hidden_sizes: Sequence[int],
    *,
    activation: Callable[[int], nn.Module] = lambda features: nn.ReLU(),
    batch_norm: bool = True,
    dropout: float = 0.0,
) -> nn.Sequential:
    """Build Linear, BatchNorm1d, activation and Dropout for each hidden layer, and a Linear output layer.

    Layers are named by their kind and number, ``linear1``, ``norm1``, ``relu1``, ``dropout1``, and ``output``.

    Args:
        input_size: Features of a sample.
        num_classes: Number of classes.
        hidden_sizes: Units of each hidden layer.
        activation: Builds the activation of a layer from its number of units.
        batch_norm: Whether to normalise each hidden layer before its activation.
        dropout: Fraction of hidden units dropped in training; 0 adds no layer.

    >>> [name for name, _ in build_mlp(4, 2, [3]).named_children()]
    ['linear1', 'norm1', 'relu1', 'output']
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for number, size in enumerate(hidden_sizes, start=1):
        layers[f"linear{number}"] = nn.Linear(input_size, size)
        if batch_norm:
            layers[f"norm{number}"] = nn.BatchNorm1d(size)
        layer = activation(size)
        layers[f"{type(layer).__name__.lower()}{number}"] = layer
        if dropout:
            layers[f"dropout{number}"] = nn.Dropout(dropout)
        input_size = size
    layers["output"] = nn.Linear(input_size, num_classes)
    return nn.Sequential(layers)
