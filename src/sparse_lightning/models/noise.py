"""Noise on images."""

import torch
from torch import Tensor

from sparse_lightning.functional.masks import floor_count

WHITE, BLACK = 0.9, 0.1


def replace_pixels(images: Tensor, fraction: float, generator: torch.Generator) -> Tensor:
    """Replace a fraction of each image's pixels, drawn anew for each image, half of them by 0.9 and half by 0.1.

    This is the noise of Numenta's experiments, which apply it after normalisation.

    Args:
        images: Images, (batch, ...). They are not changed.
        fraction: Fraction of the pixels to replace, in [0, 1]. Of n pixels floor(fraction n) are replaced, and of an
            odd number the extra one by 0.1.
        generator: CPU generator that draws the pixels.

    Returns:
        Images of the same shape.

    >>> noised = replace_pixels(torch.zeros(1, 2, 4), 0.5, torch.Generator())
    >>> noised.flatten().sort().values
    tensor([0.0000, 0.0000, 0.0000, 0.0000, 0.1000, 0.1000, 0.9000, 0.9000])
    """
    noised = images.flatten(1).clone()
    count = floor_count(fraction, noised.shape[1])
    chosen = torch.rand(noised.shape, generator=generator).topk(count).indices.to(noised.device)
    noised.scatter_(1, chosen[:, : count // 2], WHITE)
    noised.scatter_(1, chosen[:, count // 2 :], BLACK)
    return noised.view_as(images)
