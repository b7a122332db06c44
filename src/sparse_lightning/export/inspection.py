"""Looking at weights from outside: the topology in a checkpoint, and how sparse a model is."""

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn

Checkpoint = str | PathLike[str] | Mapping[str, Any]


def topology_of(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The masks of a checkpoint, which :meth:`PruneRegrow.start_from <sparse_lightning.PruneRegrow.start_from>` takes.

    Where :class:`~sparse_lightning.PruneRegrow` has trained, its masks are in the checkpoint. In other weights the
    active connections of each matrix or kernel are those that are not zero; a weight without zeros is left out.

    Args:
        checkpoint: A file that Lightning or ``torch.save`` has written, or what is in one, or a ``state_dict``.

    Returns:
        Boolean masks shaped like the weights, by parameter name.

    Raises:
        ValueError: There are no weights in it.

    >>> topology_of({"fc.weight": torch.tensor([[0.5, 0.0]]), "fc.bias": torch.zeros(1)})
    {'fc.weight': tensor([[ True, False]])}
    """
    content = _content(checkpoint)
    states = [
        state for state in content.get("callbacks", {}).values() if isinstance(state, Mapping) and "masks" in state
    ]
    if states:
        return {name: mask for state in states for name, mask in state["masks"].items()}
    weights = {name: value for name, value in _weights(content).items() if value.dim() > 1}
    return {name: weight != 0 for name, weight in weights.items() if (weight == 0).any()}


def sparsity_report(model: nn.Module | Checkpoint) -> str:
    """A table of a model's weights: shape, how many are not zero, density.

    Args:
        model: A module, or a checkpoint as in :func:`topology_of`.

    Returns:
        A line for each parameter of two or more dimensions, and one for all of them.

    >>> print(sparsity_report({"fc.weight": torch.tensor([[0.5, 0.0], [0.0, 0.0]])}))
    parameter  shape  nonzero  of  density
    fc.weight  2x2    1        4   0.2500
    all               1        4   0.2500
    """
    found = dict(model.named_parameters()) if isinstance(model, nn.Module) else _weights(_content(model))
    weights = {name: weight for name, weight in found.items() if weight.dim() > 1}
    rows = [(name, "x".join(map(str, w.shape)), int(w.count_nonzero()), w.numel()) for name, w in weights.items()]
    rows.append(("all", "", sum(row[2] for row in rows), sum(row[3] for row in rows)))
    said = [(name, shape, f"{some:,}", f"{all_:,}", f"{some / max(all_, 1):.4f}") for name, shape, some, all_ in rows]
    return table([("parameter", "shape", "nonzero", "of", "density"), *said])


def table(rows: Sequence[tuple[str, ...]]) -> str:
    """Rows of words in columns, the first row their heads; a column without words is left out.

    >>> print(table([("one", "none", "two"), ("1", "", "22")]))
    one  two
    1    22
    """
    columns = [column for column in zip(*rows, strict=True) if any(column[1:])]
    widths = [max(map(len, column)) for column in columns]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in zip(*columns, strict=True))


def _content(checkpoint: Checkpoint) -> Mapping[str, Any]:
    if isinstance(checkpoint, Mapping):
        return checkpoint
    content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    if not isinstance(content, Mapping):
        raise ValueError(f"Expected a checkpoint to hold weights by name, got {type(content).__name__}")
    return content


def _weights(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a state_dict, or of the one in a checkpoint."""
    weights = {name: value for name, value in content.get("state_dict", content).items() if isinstance(value, Tensor)}
    if not weights:
        raise ValueError("Expected a checkpoint to hold weights by name, got none")
    return weights
