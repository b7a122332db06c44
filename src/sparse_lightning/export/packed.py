"""Sparse weights in safetensors files: values and a packed topology, in about the bytes that they need."""

import json
import math
from collections import OrderedDict
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sparse_lightning.callbacks.masks import METADATA
from sparse_lightning.functional.masks import mask_of, positions_of
from sparse_lightning.nn.sparse_linear import dense_state_dict

Coding = Literal["gaps", "bits"]
_KEY, _ESCAPE = "sparse_lightning", 255


def save_safetensors(
    model: nn.Module | Mapping[str, Any], path: str | PathLike[str], *, masks: Mapping[str, Tensor] | None = None
) -> None:
    """Write the weights of a model to a safetensors file, the sparse ones as values and a packed topology.

    A weight with a mask is packed, and another with zeros where that is smaller: its connections' values, and their
    positions as gaps of a byte or as a bit for each weight, whichever takes less. Other tensors are written as they
    are.

    Args:
        model: A model, its ``state_dict`` or a checkpoint with one; sparse layers are written under the names of dense
            ones.
        path: The file.
        masks: Masks by parameter name, such as ``PruneRegrow.masks``: connections that are zero stay connections.
            None: those that a ``state_dict`` carries from a training, else what is not zero.

    Raises:
        ValueError: There are no weights in it, or a mask belongs to none of them.
        ImportError: safetensors is not installed; ``pip install 'sparse_lightning[export]'`` does that.
    """
    from safetensors.torch import save_file

    state = model.state_dict() if isinstance(model, nn.Module) else model.get("state_dict", model)
    if not any(isinstance(value, Tensor) for value in state.values()):
        raise ValueError("Expected a model, a state_dict or a checkpoint with weights, got none")
    dense = dense_state_dict(state)
    given = masks or {}
    unknown = [name for name, mask in given.items() if name not in dense or dense[name].shape != mask.shape]
    if unknown:
        raise ValueError(f"Expected masks of weights that the model has, in their shapes, got {unknown[0]!r}")
    known = masks if masks is not None else getattr(state, "_metadata", {}).get("", {}).get(METADATA, {})
    tensors: dict[str, Tensor] = {}
    packed: dict[str, dict[str, Any]] = {}
    for name, tensor in dense.items():
        if not isinstance(tensor, Tensor):
            continue
        weight = tensor.detach().cpu().contiguous()
        mask = known[name].cpu() | (weight != 0) if name in known else weight != 0
        coding, topology = pack(mask)
        values = weight.flatten()[positions_of(mask)]
        if name in known or (weight.dim() > 1 and values.nbytes + topology.nbytes < weight.nbytes):
            tensors[f"{name}.values"], tensors[f"{name}.topology"] = values, topology
            packed[name] = {"shape": list(weight.shape), "coding": coding}
        else:
            tensors[name] = weight.clone()
    save_file(tensors, path, metadata={_KEY: json.dumps(packed)})


def load_safetensors(path: str | PathLike[str]) -> dict[str, Tensor]:
    """Read a file of :func:`save_safetensors`, or any other safetensors file.

    Args:
        path: The file.

    Returns:
        The weights, dense, by name: for ``load_state_dict``. As in the ``state_dict`` of a training, masks are in its
        metadata: of those that were packed, and of others with zeros by what is not zero.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged, or no safetensors file.
        ImportError: safetensors is not installed.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no mapping
            packed = json.loads((file.metadata() or {}).get(_KEY, "{}"))
    except SafetensorError as error:
        raise ValueError(f"Expected {path} to be a safetensors file, got one that cannot be read: {error}") from error
    plain = tensors.items() if packed else ()
    masks = {name: weight != 0 for name, weight in plain if weight.dim() > 1 and (weight == 0).any()}
    for name, about in packed.items():
        values, topology = (tensors.pop(f"{name}.{part}", None) for part in ("values", "topology"))
        if values is None or topology is None:
            raise ValueError(f"Expected values and topology of {name!r} in {path}, got a file without one of them")
        mask = unpack(topology, about["coding"], about["shape"])
        if int(mask.count_nonzero()) != len(values):
            raise ValueError(f"Expected as many values of {name!r} in {path} as connections, got {len(values)}")
        weight = values.new_zeros(mask.shape)
        weight[mask] = values
        tensors[name], masks[name] = weight, mask
    state = OrderedDict(tensors)
    state._metadata = {"": {METADATA: masks}}  # type: ignore[attr-defined]  # where PyTorch's state_dict has it
    return state


def is_safetensors(path: str | PathLike[str]) -> bool:
    """Return whether a file begins as safetensors files do: with the length of a JSON object, and that object.

    Raises:
        FileNotFoundError: There is no such file.
    """
    with open(path, "rb") as file:
        begin = file.read(9)
    return begin[8:] == b"{" and int.from_bytes(begin[:8], "little") < Path(path).stat().st_size


def pack(mask: Tensor) -> tuple[Coding, Tensor]:
    """Return a mask in the shorter of two codes, as bytes.

    In gaps, each connection is the number of inactive ones before it since the last; 255 stands for 255 of them with
    more to come. In bits, each weight is one.

    >>> pack(torch.tensor([[False, False, True], [True, False, False]]))
    ('bits', tensor([12], dtype=torch.uint8))
    >>> pack(mask_of(torch.tensor([3, 500]), (1, 5000)))
    ('gaps', tensor([  3, 255, 241], dtype=torch.uint8))
    """
    positions, size = positions_of(mask), mask.numel()
    gaps = positions.diff(prepend=positions.new_tensor([-1])) - 1
    escapes = gaps // _ESCAPE
    length = len(gaps) + int(escapes.sum())
    if length > math.ceil(size / 8):
        bits = torch.zeros(math.ceil(size / 8) * 8, dtype=torch.uint8)
        bits[positions] = 1
        weights = torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8)
        return "bits", (bits.view(-1, 8) * weights).sum(1, dtype=torch.uint8)
    code = torch.full((length,), _ESCAPE, dtype=torch.uint8)
    code[(escapes + 1).cumsum(0) - 1] = (gaps % _ESCAPE).to(torch.uint8)
    return "gaps", code


def unpack(code: Tensor, coding: Coding, shape: list[int]) -> Tensor:
    """Return the mask that :func:`pack` has coded.

    Raises:
        ValueError: The code does not fit the shape.
    """
    size = math.prod(shape)
    if coding == "bits":
        bits = code.unsqueeze(1).bitwise_right_shift(torch.arange(8, dtype=torch.uint8)).bitwise_and(1)
        positions = bits.flatten()[:size].nonzero().squeeze(1)
        fits = len(code) == math.ceil(size / 8)
    else:
        ends = code != _ESCAPE
        positions = (code.long() + ends.long()).cumsum(0)[ends] - 1
        fits = not len(positions) or int(positions[-1]) < size
    if not fits:
        raise ValueError(f"Expected a topology of the shape {shape}, got one of another size")
    return mask_of(positions, shape)
