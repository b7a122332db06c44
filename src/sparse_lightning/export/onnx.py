"""A trained sparse model as ONNX, for other runtimes."""

import copy
import warnings
from os import PathLike

import torch
from torch import Tensor, nn

from sparse_lightning.export.dense_small import dense_copy


def to_onnx(model: nn.Module, path: str | PathLike[str], example: Tensor) -> None:
    """Write a model in evaluation mode to an ONNX file; its first dimension, the batch, may have any size.

    ONNX has no sparse products: weights are written dense, with their zeros. :func:`~sparse_lightning.to_dense_small`
    before makes them smaller.

    Args:
        model: A trained model; it is left as it is.
        path: The file.
        example: An input, (batch, ...).

    Raises:
        ImportError: onnx or onnxscript is not installed; ``pip install 'sparse_lightning[export]'`` does that.
    """
    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError("Expected onnxscript: pip install 'sparse_lightning[export]'") from error
    batch = torch.export.Dim("batch")
    with warnings.catch_warnings(action="ignore"):  # of the exporter, about itself
        program = torch.onnx.export(
            dense_copy(model), (copy.copy(example),), dynamo=True, dynamic_shapes=({0: batch},), verbose=False
        )
    assert program is not None
    program.save(path)
