"""Coactivation: how many samples had both ends of a connection active.

Active means above zero, or what :func:`activity` is given. The counts are the gradient of a layer's linear map by its
weight, taken at activities of 1 and 0, and are computed as that gradient, by matrix products and convolutions.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.grad import conv1d_weight, conv2d_weight, conv3d_weight
from torch.nn.modules.conv import _ConvNd

MAX_EXACT_FLOAT = 2**24  # float32 holds every integer up to here
_WEIGHT_GRADIENT = {1: conv1d_weight, 2: conv2d_weight, 3: conv3d_weight}


def coactivation(inputs: Tensor, outputs: Tensor, layer: nn.Module | None = None) -> Tensor:
    """Count, for each connection, the samples that had both its input unit and its output unit active (above zero).

    The units of a convolution are its channels; a connection is counted at each position at which the kernel is
    applied. The input units of an embedding are its indices, one active in each sample.

    Args:
        inputs: Values of the input units, of any floating type: (..., in), or what the convolution takes; the integer
            indices (...) that an embedding takes.
        outputs: Values of the output units: (..., out) with the same leading dimensions, or what the layer returns.
        layer: A convolution, transposed or not, of one to three dimensions, or an Embedding; None for a matrix.

    Returns:
        Exact counts, int32, shaped like the weight.

    >>> coactivation(torch.tensor([[1., 0.], [2., 3.]]), torch.tensor([[1.], [1.]]))
    tensor([[2, 1]], dtype=torch.int32)
    >>> coactivation(torch.tensor([[[1., 0., 2.]]]), torch.tensor([[[3., 4.]]]), nn.Conv1d(1, 1, kernel_size=2))
    tensor([[[1, 1]]], dtype=torch.int32)
    >>> coactivation(torch.tensor([2, 0, 2]), torch.tensor([[1., 0.], [1., 1.], [3., -1.]]), nn.Embedding(3, 2))
    tensor([[1, 1],
            [0, 0],
            [2, 0]], dtype=torch.int32)
    """
    inputs = inputs if isinstance(layer, nn.Embedding) else activity(inputs)
    return _weight_gradient(inputs, activity(outputs), layer).int()


def activity(values: Tensor, threshold: float = 0.0, winners: float | None = None, units: int = -1) -> Tensor:
    """Where values are above a threshold: 1 or 0, in float32, or in int8 from four dimensions on, to save memory.

    Args:
        values: Values of units, of any shape.
        threshold: What an active value is above.
        winners: Share of the units, in (0, 1], that can be active in a sample: those of the highest values, at least
            one (k-winners). None for all.
        units: The dimension of the units; read with `winners` alone.

    >>> activity(torch.tensor([-1., 0., 2.]))
    tensor([0., 0., 1.])
    >>> activity(torch.tensor([[-1., 3., 2.], [-1., -2., 2.]]), winners=1 / 3)
    tensor([[0., 1., 0.],
            [0., 0., 1.]])
    """
    # On CPUs comparing into booleans, and converting these to floats, takes several times as long.
    values, dtype = values.detach(), torch.int8 if values.dim() > 3 else torch.float32
    active = torch.gt(values, threshold, out=torch.empty_like(values, dtype=dtype))
    if winners is not None:
        highest = values.topk(max(round(winners * values.shape[units]), 1), units).indices
        active *= torch.zeros_like(active).scatter_(units, highest, 1)
    return active


def sample_count(inputs: Tensor, outputs: Tensor, layer: nn.Module | None = None) -> int:
    """The samples of one call, the most that a connection can count: rows, or positions of a convolution.

    >>> sample_count(torch.zeros(4, 7, 3), torch.zeros(4, 7, 2))
    28
    """
    if isinstance(layer, nn.Embedding):
        return inputs.numel()
    if isinstance(layer, _ConvNd):
        return inputs.numel() // layer.in_channels if layer.transposed else outputs.numel() // layer.out_channels
    return inputs.numel() // inputs.shape[-1]


def weight_shape(layer: nn.Module) -> tuple[int, ...] | None:
    """Shape of the weight whose coactivation :func:`coactivation` counts for this kind of layer; None for other kinds.

    >>> weight_shape(nn.Conv2d(4, 6, 3, groups=2)), weight_shape(nn.BatchNorm1d(4))
    ((6, 2, 3, 3), None)
    """
    if isinstance(layer, nn.Linear):
        return layer.out_features, layer.in_features
    if isinstance(layer, nn.Embedding):
        return layer.num_embeddings, layer.embedding_dim
    if isinstance(layer, _ConvNd):
        outer, inner = layer.out_channels, layer.in_channels
        outer, inner = (inner, outer) if layer.transposed else (outer, inner)
        return outer, inner // layer.groups, *layer.kernel_size
    return None


def is_countable(inputs: Tensor, outputs: Tensor, layer: nn.Module | None = None) -> bool:
    """Whether these can be the inputs and outputs of the layer's own linear map, so that their units can be paired.

    A subclass of a layer may do more than its linear map: pad the image before the convolution, for instance.

    Args:
        inputs: What the layer received.
        outputs: What it returned.
        layer: A Linear, a convolution or an Embedding; None for a matrix of any size.

    >>> is_countable(torch.zeros(1, 3, 8, 8), torch.zeros(1, 4, 8, 8), nn.Conv2d(3, 4, 3))
    False
    """
    if not outputs.is_floating_point() or outputs.layout != torch.strided or outputs.device != inputs.device:
        return False
    if isinstance(layer, nn.Embedding):
        return not inputs.is_floating_point() and outputs.shape == (*inputs.shape, layer.embedding_dim)
    if not inputs.is_floating_point() or inputs.layout != torch.strided:
        return False
    if isinstance(layer, _ConvNd):
        return _is_convolution(inputs, outputs, layer)
    sizes = (layer.in_features, layer.out_features) if isinstance(layer, nn.Linear) else None
    return inputs.shape[:-1] == outputs.shape[:-1] and sizes in (None, (inputs.shape[-1], outputs.shape[-1]))


def exact_counts(counts: Tensor, samples: int) -> Tensor:
    """Counts in a type that is exact for this number of samples: the same tensor, or a wider copy.

    They are float32 up to 2^24 samples, since a matrix product then adds to them in one pass; int32 below 2^31 samples
    and int64 from there on.

    >>> exact_counts(torch.zeros(1), 2**24).dtype, exact_counts(torch.zeros(1), 2**24 + 1).dtype
    (torch.float32, torch.int32)
    """
    if counts.is_floating_point() and samples > MAX_EXACT_FLOAT:
        counts = counts.int()
    return counts.long() if samples >= 2**31 else counts


def add_coactivation_(counts: Tensor, inputs: Tensor, outputs: Tensor, layer: nn.Module | None = None) -> None:
    """Add the coactivation of more samples to counts, in place.

    Args:
        counts: Counts so far, shaped like the weight, in a type of :func:`exact_counts`.
        inputs: Activity of the input units, as :func:`activity` returns it; indices for an embedding.
        outputs: Activity of the output units.
        layer: As in :func:`coactivation`.

    >>> counts = torch.ones(1, 2)
    >>> add_coactivation_(counts, torch.tensor([[1., 0.], [1., 1.]]), torch.ones(2, 1))
    >>> counts
    tensor([[3., 2.]])
    """
    if isinstance(layer, nn.Embedding):
        counts.index_add_(0, inputs.flatten(), outputs.reshape(-1, outputs.shape[-1]).to(counts.dtype))
    elif counts.is_floating_point() and not isinstance(layer, _ConvNd):
        if inputs.dim() != 2:
            inputs, outputs = inputs.reshape(-1, inputs.shape[-1]), outputs.reshape(-1, outputs.shape[-1])
        counts.addmm_(outputs.T.to(counts.dtype), inputs.to(counts.dtype))
    else:
        counts.add_(_weight_gradient(inputs, outputs, layer).to(counts.dtype))


def _weight_gradient(inputs: Tensor, outputs: Tensor, layer: nn.Module | None) -> Tensor:
    """The gradient of the layer's linear map by its weight at these activities, in floats wide enough to be exact."""
    dtype = torch.float64 if sample_count(inputs, outputs, layer) > MAX_EXACT_FLOAT else torch.float32
    if isinstance(layer, nn.Embedding):
        rows = outputs.reshape(-1, outputs.shape[-1]).to(dtype)
        return rows.new_zeros(layer.num_embeddings, layer.embedding_dim).index_add_(0, inputs.flatten(), rows)
    inputs, outputs = inputs.to(dtype), outputs.to(dtype)
    if not isinstance(layer, _ConvNd):
        return outputs.reshape(-1, outputs.shape[-1]).T @ inputs.reshape(-1, inputs.shape[-1])
    dimensions = len(layer.kernel_size)
    if inputs.dim() == dimensions + 1:  # one image without a batch dimension
        inputs, outputs = inputs.unsqueeze(0), outputs.unsqueeze(0)
    padding: Any = layer.padding
    if layer.padding_mode != "zeros" or isinstance(padding, str):
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        inputs, padding = F.pad(inputs, layer._reversed_padding_repeated_twice, mode), 0
    if layer.transposed:
        inputs, outputs = outputs, inputs  # a transposed convolution maps the outputs of a convolution to its inputs
    # Not layer.weight.shape: reading a parametrized weight computes it.
    shape = (outputs.shape[1], inputs.shape[1] // layer.groups, *layer.kernel_size)
    options = (layer.stride, padding, layer.dilation, layer.groups)
    return cast(Tensor, _WEIGHT_GRADIENT[dimensions](inputs, shape, outputs, *options))  # type: ignore[no-untyped-call]


def _is_convolution(inputs: Tensor, outputs: Tensor, layer: _ConvNd) -> bool:
    """Whether the shapes are those of the convolution with the layer's own padding."""
    dimensions = len(layer.kernel_size)
    channels = (inputs.shape[-dimensions - 1], outputs.shape[-dimensions - 1])
    batches = inputs.shape[: -dimensions - 1], outputs.shape[: -dimensions - 1]
    if channels != (layer.in_channels, layer.out_channels) or batches[0] != batches[1]:
        return False
    large, small = (outputs, inputs) if layer.transposed else (inputs, outputs)
    pads = layer._reversed_padding_repeated_twice  # last dimension first
    for axis in range(dimensions):
        padding = pads[2 * (dimensions - 1 - axis)] + pads[2 * (dimensions - 1 - axis) + 1]
        reach = layer.dilation[axis] * (layer.kernel_size[axis] - 1) + 1
        positions = (large.shape[axis - dimensions] + padding - reach) // layer.stride[axis] + 1
        if positions != small.shape[axis - dimensions]:
            return False
    return True
