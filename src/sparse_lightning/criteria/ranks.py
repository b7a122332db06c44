"""What the processes of a distributed training share."""

import torch
from torch import Tensor


def is_distributed() -> bool:
    """Return whether there are several processes."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def mean_over_ranks(tensor: Tensor) -> Tensor:
    """Return the mean of a tensor over all processes, in its own memory; a collective operation."""
    if is_distributed():
        torch.distributed.all_reduce(tensor)
        tensor /= torch.distributed.get_world_size()
    return tensor
