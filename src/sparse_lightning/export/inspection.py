"""A trained model or checkpoint from outside: its topology, and how sparse it is."""

import warnings
from collections.abc import Mapping
from contextlib import suppress
from os import PathLike
from pickle import UnpicklingError
from typing import Any
from zipfile import BadZipFile

import torch
from torch import Tensor, nn

from sparse_lightning.callbacks.layout import obstacle
from sparse_lightning.callbacks.masks import METADATA, masks_of
from sparse_lightning.callbacks.summary import shape_of, shares, table
from sparse_lightning.export.cost import flop_table, latency_table, size_table
from sparse_lightning.export.dense_small import dense_copy
from sparse_lightning.export.packed import is_safetensors, load_safetensors
from sparse_lightning.functional.checks import expect
from sparse_lightning.nn.sparse_linear import join_weights, named_weights, sparse_layers

Checkpoint = str | PathLike[str] | Mapping[str, Any]


def topology_of(checkpoint: nn.Module | Checkpoint) -> dict[str, Tensor]:
    """Return the masks of a checkpoint or a model.

    They are what :meth:`PruneRegrow.start_from <sparse_lightning.PruneRegrow.start_from>` takes. Where
    :class:`~sparse_lightning.PruneRegrow` has trained, its masks are in the checkpoint, also in one that was saved with
    ``save_weights_only``, and those of a module are known as long as the callback exists. In other weights the active
    connections of each matrix or kernel are those that are not zero; a weight without zeros is left out.

    Args:
        checkpoint: A file that Lightning, ``torch.save``, safetensors or
            :func:`~sparse_lightning.save_safetensors` has written, or what is in one, a ``state_dict``, or a module.

    Returns:
        Boolean masks shaped like the weights, by parameter name.

    Raises:
        ValueError: There are no weights in it, or it cannot be read.
        FileNotFoundError: There is no such file.

    >>> topology_of({"fc.weight": torch.tensor([[0.5, 0.0]]), "fc.bias": torch.zeros(1)})
    {'fc.weight': tensor([[ True, False]])}
    """
    if isinstance(checkpoint, nn.Module) and (masks := masks_of(checkpoint)):
        return {name: mask.clone() for name, mask in masks.items()}
    content = checkpoint.state_dict() if isinstance(checkpoint, nn.Module) else _content(checkpoint)
    stored = {name: weight for name, weight in _tensors(content).items() if weight.layout == torch.sparse_csr}
    masks = {name: torch.ones_like(weight).to_dense() != 0 for name, weight in stored.items()} | _masks(content)
    weights = {} if masks else _weights(content)
    return masks or {name: weight != 0 for name, weight in weights.items() if weight.dim() > 1 and (weight == 0).any()}


def sparsity_report(
    model: nn.Module | Checkpoint,
    masks: Mapping[str, Tensor] | None = None,
    *,
    example: Tensor | None = None,
    latency: bool = False,
) -> str:
    """Return a table of a model's weights: shape, active connections, how many of them are zero, density; its costs.

    Args:
        model: A module, or a checkpoint as in :func:`topology_of`.
        masks: The masks of sparse weights, by parameter name, such as ``PruneRegrow.masks``. None takes those of a
            checkpoint, or of the callbacks that have trained the module and still exist. In weights without a mask,
            those that are not zero count as active.
        example: An input of the model, (batch, ...). With it the report has bytes and floating-point operations too;
            see :mod:`sparse_lightning.export.cost` for how they are counted.
        latency: Whether to measure inference, dense and in CSR, at batches of 1 and 128 samples like `example`.

    Returns:
        A line for each parameter of two or more dimensions, and one for all of them; with `example`, tables of costs.

    Raises:
        ValueError: An example is given without a module, or latency without an example; the module has no forward;
            masks are no mapping.

    >>> print(sparsity_report({"fc.weight": torch.tensor([[0.5, 0.0], [0.0, 0.0]])}))
    parameter  shape  active  of  density  dead
    fc.weight  2x2    1       4   0.2500   0
    all               1       4   0.2500   0
    """
    if (example is not None and not isinstance(model, nn.Module)) or (latency and example is None):
        raise ValueError("Expected a module and an example of its input for its costs, got one without the other")
    expect(masks is None or isinstance(masks, Mapping), "masks by parameter name", masks)
    if isinstance(model, nn.Module) and example is not None and _lacks_forward(model):
        raise ValueError(
            f"Expected a module with a forward for its costs, got {type(model).__name__} without; the part of it that "
            "has one will do"
        )
    if isinstance(model, nn.Module):
        layers = {name: layer.weight.detach() for name, layer in sparse_layers(model).items()}
        found: Mapping[str, Tensor] = named_weights(model) | layers
        known = masks_of(model) if masks is None else masks
    else:
        content = _content(model)
        found, known = _weights(content), masks if masks is not None else _masks(content)
    rows = [("parameter", "shape", "active", "of", "density", "dead")]
    totals = [0, 0, 0]
    for name, weight in found.items():
        if weight.dim() > 1:
            stored = weight.values() if weight.layout == torch.sparse_csr else weight
            nonzero = int(torch.count_nonzero(stored.detach()))
            active = nonzero if stored is weight else stored.numel()
            if name in known and known[name].shape == weight.shape:
                active = int(known[name].count_nonzero())
            totals = [total + n for total, n in zip(totals, (active, weight.numel(), active - nonzero), strict=True)]
            rows.append((name, shape_of(weight.shape), *shares(active, weight.numel()), f"{active - nonzero:,}"))
    rows.append(("all", "", *shares(*totals[:2]), f"{totals[2]:,}"))
    costs = [] if example is None or not isinstance(model, nn.Module) else _costs(model, known, example, latency)
    return "\n\n".join([table(rows), *costs])


def _lacks_forward(model: nn.Module) -> bool:
    """Whether a module has no forward but what PyTorch and Lightning have in its place."""
    return getattr(model.forward, "__qualname__", "") in ("_forward_unimplemented", "LightningModule.forward")


def _costs(model: nn.Module, known: Mapping[str, Tensor], example: Tensor, latency: bool) -> list[str]:
    """The tables of what a model costs."""
    dense = dense_copy(model)
    weights = {name: weight.detach() for name, weight in dense.named_parameters()}
    found = {name: known.get(name, weight != 0) for name, weight in weights.items() if weight.dim() > 1}
    masks = {name: mask for name, mask in found.items() if not mask.all()}
    obstacles = {name: reason for name in masks if (reason := obstacle(dense, name))}
    costs = [size_table(weights, masks, obstacles), flop_table(dense, masks, example)]
    return [*costs, latency_table(dense, example)] if latency else costs


def _masks(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """The masks in a checkpoint or in the metadata of its weights; empty if there are none."""
    callbacks = content.get("callbacks")
    states = callbacks.values() if isinstance(callbacks, Mapping) else ()
    found = [
        state["masks"] for state in states if isinstance(state, Mapping) and isinstance(state.get("masks"), Mapping)
    ]
    metadata = getattr(content.get("state_dict", content), "_metadata", {}).get("", {}).get(METADATA)
    if not found and isinstance(metadata, Mapping):
        found = [metadata]
    every = ((name, mask) for masks in found for name, mask in masks.items())
    return {name: mask for name, mask in every if isinstance(mask, Tensor) and mask.dtype == torch.bool}


def _content(checkpoint: Checkpoint) -> Mapping[str, Any]:
    if isinstance(checkpoint, Mapping):
        return checkpoint
    if not isinstance(checkpoint, str | PathLike):
        raise ValueError(f"Expected a file or a mapping of weights by name, got {type(checkpoint).__name__}")
    with suppress(IsADirectoryError):  # which is refused below
        if is_safetensors(checkpoint):
            return load_safetensors(checkpoint)
    try:
        with warnings.catch_warnings(action="ignore"):  # of old pickles
            content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except UnpicklingError:
        raise ValueError(
            f"Expected {checkpoint} to hold tensors by name, got other objects or a damaged file"
        ) from None
    except (RuntimeError, EOFError, ValueError, KeyError, BadZipFile, IsADirectoryError) as error:
        raise ValueError(f"Expected {checkpoint} to be a checkpoint, got a file that cannot be read") from error
    if not isinstance(content, Mapping):
        raise ValueError(f"Expected a checkpoint to hold weights by name, got {type(content).__name__}")
    return content


def _weights(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of :func:`_tensors`; none are an error."""
    weights = _tensors(content)
    if not weights:
        raise ValueError("Expected a checkpoint to hold weights by name, got none")
    return weights


def _tensors(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors with values of a state_dict, or of the one in a checkpoint; those of sparse layers are CSR."""
    state = content.get("state_dict", content)
    items = {str(name): value for name, value in state.items()} if isinstance(state, Mapping) else {}
    tensors = {name: value for name, value in items.items() if isinstance(value, Tensor) and _has_values(value)}
    joined = join_weights(tensors)
    return {name: _comparable(value) if name in tensors else value for name, value in joined.items()}


def _has_values(tensor: Tensor) -> bool:
    """Whether a tensor is there, of one shape, and of numbers of at least a byte each."""
    return not (tensor.is_meta or tensor.is_nested or "float4" in str(tensor.dtype))


def _comparable(weight: Tensor) -> Tensor:
    """A weight in a layout and a type that can be compared with zero: sparse layouts and 8-bit floats can not."""
    plain = weight.dequantize() if weight.is_quantized else weight
    dense = plain.to_dense() if plain.layout != torch.strided else plain
    return dense.float() if dense.is_floating_point() and dense.element_size() == 1 else dense
