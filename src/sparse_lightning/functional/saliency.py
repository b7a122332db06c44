"""Scores that choose the connections of a network before it is trained, as pure functions of autograd.

The connections with the highest scores stay.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def snip(loss: Tensor, weights: Sequence[Tensor]) -> list[Tensor]:
    """Return how much the loss depends on each connection: ``|w dL/dw|`` (Lee et al. 2019, equation 6).

    "SNIP: Single-shot Network Pruning based on Connection Sensitivity", ICLR.

    Args:
        loss: The loss of a batch, a scalar.
        weights: The weights, each (out, in, ...), that it was computed from.

    Returns:
        A score for each connection, shaped like the weights; 0 where the loss does not depend on a weight.

    >>> weight = torch.tensor([2.0, -1.0, 0.5], requires_grad=True)
    >>> snip((weight * torch.tensor([1.0, 3.0, 0.0])).sum(), [weight])
    [tensor([2., 3., 0.])]
    """
    return [(weight * each).abs().detach() for weight, each in zip(weights, _gradients(loss, weights), strict=True)]


def grasp(loss: Tensor, weights: Sequence[Tensor]) -> list[Tensor]:
    """Return how much the flow of gradients would fall without each connection: ``w (H dL/dw)`` (Wang et al. 2020).

    "Picking Winning Tickets Before Training by Preserving Gradient Flow", ICLR, equation 8, with the opposite sign.
    H is the Hessian of the loss.

    Args:
        loss: The loss of a batch, a scalar, differentiable twice.
        weights: The weights, each (out, in, ...), that it was computed from.

    Returns:
        A score for each connection, shaped like the weights; it may be negative.

    >>> weight = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> grasp((weight**2).sum(), [weight])  # H = 2, gradient 2 w
    [tensor([ 4., 16.])]
    """
    gradients = _gradients(loss, weights, create_graph=True)
    flow = torch.stack([each.square().sum() for each in gradients]).sum() / 2
    products = _gradients(flow, weights) if flow.requires_grad else [torch.zeros_like(each) for each in weights]
    return [(weight * each).detach() for weight, each in zip(weights, products, strict=True)]


def synflow(output: Tensor, weights: Sequence[Tensor]) -> list[Tensor]:
    """Return the share of each connection in what flows through the network: ``w dR/dw`` (Tanaka et al. 2020).

    "Pruning neural networks without any data by iteratively conserving synaptic flow", NeurIPS, equation 4. The sum of
    the scores is the same for each layer, so that none is pruned away while another has much.

    Args:
        output: What the network makes of ones, with the absolute values of all its parameters.
        weights: The weights, each (out, in, ...), that it was computed from.

    Returns:
        A score for each connection, at least 0, shaped like the weights.

    >>> weight = torch.tensor([[1.0, 0.0], [2.0, 3.0]], requires_grad=True)
    >>> synflow(torch.ones(1, 2) @ weight.T, [weight])
    [tensor([[1., 0.],
            [2., 3.]])]
    """
    return [(weight * each).detach() for weight, each in zip(weights, _gradients(output.sum(), weights), strict=True)]


def correlation(inputs: Tensor, outputs: int) -> Tensor:
    """Return how strongly input units vary together: the absolute value of Pearson's r (CSTI, Zhang et al. 2024).

    "Epitopological learning and Cannistraci-Hebb network shape intelligence brain-inspired theory for ultra-sparse
    advantage in deep learning", ICLR: output units stand for the input units, one after the other and again from the
    first where there are more of them, and are connected to those that theirs correlates with.

    Args:
        inputs: Samples of the input units, (batch, in).
        outputs: Number of output units.

    Returns:
        The score of each connection, (outputs, in), in [0, 1]; 0 for a unit that never varies.

    >>> correlation(torch.tensor([[1.0, -2.0, 5.0], [2.0, -4.0, 5.0]]), 2)
    tensor([[1., 1., 0.],
            [1., 1., 0.]])
    """
    centred = inputs.double() - inputs.double().mean(0)
    lengths = centred.norm(dim=0)
    scores = (centred.T @ centred / (lengths.unsqueeze(1) * lengths)).abs().nan_to_num(0.0).clamp(max=1.0)
    rows = torch.arange(outputs, device=inputs.device) % inputs.shape[1]
    found: Tensor = scores.index_select(0, rows).float()
    return found


def _gradients(output: Tensor, weights: Sequence[Tensor], create_graph: bool = False) -> list[Tensor]:
    found = torch.autograd.grad(output, list(weights), create_graph=create_graph, allow_unused=True)
    return [torch.zeros_like(one) if two is None else two for one, two in zip(weights, found, strict=True)]
