"""What optimizers remember of connections that were pruned or grown."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sparse_lightning.functional.csr import carry


@torch.no_grad()
def reset_state(optimizers: Iterable[Optimizer], weight: nn.Parameter, changed: Tensor) -> None:
    """Zero the optimizers' state, momentum above all, of the connections that changed.

    Args:
        optimizers: Those whose state is searched for the weight.
        weight: The weight, (out, in, ...).
        changed: Boolean mask, shaped like the weight, of the connections pruned and grown.
    """
    for optimizer in optimizers:
        for value in optimizer.state.get(weight, {}).values():
            if isinstance(value, Tensor) and value.shape == weight.shape:
                value.masked_fill_(changed, 0)


@torch.no_grad()
def carry_state(optimizers: Iterable[Optimizer], values: nn.Parameter, source: Tensor, before: int) -> None:
    """Let the optimizers' state follow the connections of a SparseLinear; those grown have none.

    Args:
        optimizers: Those whose state is searched for the values.
        values: The layer's parameter (nnz).
        source: The index of each connection in the old values, -1 for one that has grown (nnz).
        before: How many connections there were.
    """
    for optimizer in optimizers:
        state = optimizer.state.get(values, {})
        for key, value in state.items():
            if isinstance(value, Tensor) and value.shape == (before,):
                state[key] = carry(value, source)


def optimizers_of(known: Iterable[Optimizer], module: nn.Module) -> list[Optimizer]:
    """Return the optimizers that a Trainer knows and those that a module keeps as attributes, each once."""
    found = [*known, *(value for value in vars(module).values() if isinstance(value, Optimizer))]
    return list({id(optimizer): optimizer for optimizer in found}.values())


def trained_by(optimizers: Iterable[Optimizer]) -> set[int]:
    """Return the ids of all parameters that optimizers hold."""
    return {id(parameter) for opt in optimizers for group in opt.param_groups for parameter in group["params"]}
