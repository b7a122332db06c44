"""N:M sparsity: whether weights have it, and 2:4 layers for GPUs that compute with it."""

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


def is_n_m(weight: Tensor, n: int, m: int) -> bool:
    """Return whether at most n of every m weights in a row are nonzero.

    Args:
        weight: A matrix (out, in), or a mask.
        n: How many may be, at least 0.
        m: Of how many, at least 1.

    >>> is_n_m(torch.tensor([[1.0, 0.0, 2.0, 0.0]]), 2, 4), is_n_m(torch.tensor([[1.0, 3.0, 2.0, 0.0]]), 2, 4)
    (True, False)
    """
    matrix = weight.flatten(1) != 0
    return matrix.shape[1] % m == 0 and bool((matrix.view(len(matrix), -1, m).sum(2) <= n).all())


def to_semi_structured(model: M) -> M:
    """Return a copy of a model whose 2:4 Linear layers compute with the sparse tensor cores of an NVIDIA GPU.

    Args:
        model: A trained model on such a GPU; it is left as it is.

    Raises:
        ValueError: No Linear layer is 2:4.
        RuntimeError: The model is not on a GPU of compute capability 8.0 or higher.
    """
    copied = copy.deepcopy(model).eval()
    chosen = [each for each in copied.modules() if type(each) is nn.Linear and is_n_m(each.weight, 2, 4)]
    if not chosen:
        raise ValueError("Expected a Linear layer with at most 2 of every 4 weights nonzero, got none")
    for linear in chosen:
        device = linear.weight.device
        if device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 0):
            raise RuntimeError(f"Expected a GPU of compute capability 8.0 or higher, got weights on {device}")
        sparse = torch.sparse.to_sparse_semi_structured(linear.weight.detach())
        linear.weight = nn.Parameter(sparse, requires_grad=False)
    return copied
