"""Coactivation counted the slow and obvious way."""

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def outer_products(inputs: Tensor, outputs: Tensor) -> Tensor:
    """For each sample, which pairs of units were both above zero."""
    counts = torch.zeros(outputs.shape[-1], inputs.shape[-1], dtype=torch.int32)
    for ins, outs in zip(inputs.flatten(0, -2), outputs.flatten(0, -2), strict=True):
        counts += ((outs > 0)[:, None] & (ins > 0)).int()
    return counts


def padded(layer: nn.Module, inputs: Tensor) -> Tensor:
    """The input with the layer's padding around it, written out."""
    if layer.padding == "same":
        before = [(d * (k - 1)) // 2 for k, d in zip(layer.kernel_size, layer.dilation, strict=True)]
        after = [d * (k - 1) - b for k, d, b in zip(layer.kernel_size, layer.dilation, before, strict=True)]
    else:
        before = after = list(layer.padding)
    around = [amount for pair in zip(reversed(before), reversed(after), strict=True) for amount in pair]
    return F.pad(inputs, around, mode="constant" if layer.padding_mode == "zeros" else layer.padding_mode)


def position_by_position(layer: nn.Module, inputs: Tensor, outputs: Tensor) -> Tensor:
    """At each place of the output, where each tap of the kernel looks."""
    inputs, outputs = padded(layer, inputs.unsqueeze(0) if inputs.dim() == layer.weight.dim() - 1 else inputs), outputs
    outputs = outputs.unsqueeze(0) if outputs.dim() < inputs.dim() else outputs
    counts = torch.zeros(layer.weight.shape, dtype=torch.int32)
    width_out, width_in = layer.out_channels // layer.groups, layer.in_channels // layer.groups
    for sample, channel, *place in (outputs > 0).nonzero().tolist():
        for tap in itertools.product(*map(range, layer.kernel_size)):
            look = [p * s + t * d for p, s, t, d in zip(place, layer.stride, tap, layer.dilation, strict=True)]
            for number in range(width_in):
                value = inputs[(sample, channel // width_out * width_in + number, *look)]
                counts[(channel, number, *tap)] += int(value > 0)
    return counts


def position_by_position_backwards(layer: nn.Module, inputs: Tensor, outputs: Tensor) -> Tensor:
    """The same for a transposed convolution: at each place of the input, where each tap of the kernel writes."""
    counts = torch.zeros(layer.weight.shape, dtype=torch.int32)
    width_out, width_in = layer.out_channels // layer.groups, layer.in_channels // layer.groups
    for sample, channel, *place in (inputs > 0).nonzero().tolist():
        for tap in itertools.product(*map(range, layer.kernel_size)):
            offsets = zip(place, layer.stride, tap, layer.dilation, layer.padding, strict=True)
            write = [p * s + t * d - pad for p, s, t, d, pad in offsets]
            if all(0 <= w < size for w, size in zip(write, outputs.shape[2:], strict=True)):
                for number in range(width_out):
                    value = outputs[(sample, channel // width_in * width_out + number, *write)]
                    counts[(channel, number, *tap)] += int(value > 0)
    return counts


def index_by_index(layer: nn.Embedding, indices: Tensor, outputs: Tensor) -> Tensor:
    """For each index, which output units were above zero."""
    counts = torch.zeros(layer.weight.shape, dtype=torch.int32)
    for index, values in zip(indices.flatten().tolist(), outputs.reshape(-1, layer.embedding_dim), strict=True):
        counts[index] += (values > 0).int()
    return counts
