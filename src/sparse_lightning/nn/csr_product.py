"""The product of a CSR matrix with dense columns, differentiable in both, by kernels that PyTorch ships.

Columns are (features, batch) and contiguous, so that each connection reads one row of them in order. On a CPU in
float32 :func:`torch.nn.functional.embedding_bag` with `per_sample_weights` is this product, in half the time of MKL's
CSR product from some 16 columns on; below that, and in float64, MKL's is the faster. The gradient of the values, a
dense product sampled at the connections, is :func:`torch.sparse.sampled_addmm`.
"""

import warnings
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from sparse_lightning.functional.csr import csr_tensor, rows_from_csr

_BLOCK = 256  # columns that are computed at once: more leave the cache, and take up to twice as long
_FEW_COLUMNS = 16
_PLAIN_ELEMENTS = 2**18  # elements of an intermediate tensor of the plain path


class Layout(NamedTuple):
    """Where the connections of a matrix are: row offsets, columns, (rows, columns)."""

    crow_indices: Tensor
    col_indices: Tensor
    shape: tuple[int, int]


class Transposed(NamedTuple):
    """The layout of the transposed matrix, and the permutation that takes values to its order."""

    layout: Layout
    permutation: Tensor


def csr_product(values: Tensor, inputs: Tensor, layout: Layout, backward: Transposed | None = None) -> Tensor:
    """The product of a sparse matrix with a batch of vectors.

    Args:
        values: Value of each connection (nnz).
        inputs: The vectors, (batch, in). Stored feature by feature, they are read as they are, else transposed first;
            their gradient is stored as they are.
        layout: Where the connections are; its shape is (out, in).
        backward: The transposed layout; needed if `inputs` requires a gradient.

    Returns:
        The products as columns, (out, batch), contiguous.

    >>> layout = Layout(torch.tensor([0, 1, 2]), torch.tensor([1, 0]), (2, 2))
    >>> csr_product(torch.tensor([3., 4.]), torch.tensor([[1., 2.]]), layout)
    tensor([[6.],
            [4.]])
    """
    product: Tensor = _CsrProduct.apply(values, inputs, layout, backward)
    return product


class _CsrProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, inputs: Tensor, layout: Layout, backward: Transposed | None) -> Tensor:
        columns = inputs.t().contiguous()
        ctx.save_for_backward(values, columns)
        ctx.layout, ctx.transposed, ctx.by_sample = layout, backward, inputs.is_contiguous()
        return _multiply(values, columns, layout)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        values, columns = ctx.saved_tensors
        gradient = gradient.contiguous()
        of_values = of_inputs = None
        if ctx.needs_input_grad[0]:
            of_values = _sample(gradient, columns, values, ctx.layout)
        if ctx.needs_input_grad[1]:
            layout, permutation = ctx.transposed
            of_inputs = _multiply(values.index_select(0, permutation), gradient, layout).t()
            # Elementwise functions of tensors stored in two ways take ten times as long as of two stored alike.
            of_inputs = of_inputs.contiguous() if ctx.by_sample else of_inputs
        return of_values, of_inputs, None, None


def _multiply(values: Tensor, columns: Tensor, layout: Layout) -> Tensor:
    """The product, (rows, batch)."""
    width = columns.shape[1]
    if not len(values) or not width:
        return columns.new_zeros(layout.shape[0], width)
    kernel = _kernel(values, width)
    if width <= 2 * _BLOCK:
        return kernel(values, columns, layout)
    product = columns.new_empty(layout.shape[0], width)
    for block in _blocks(width):
        product[:, block] = kernel(values, columns[:, block], layout)
    return product


def _sample(gradient: Tensor, columns: Tensor, values: Tensor, layout: Layout) -> Tensor:
    """The product of (rows, batch) with (columns, batch) transposed, at the connections only: (nnz)."""
    width = columns.shape[1]
    if not len(values) or not width:
        return torch.zeros_like(values)
    if not has_kernels(values.device.type, values.dtype):
        return _sample_plainly(gradient, columns, layout)
    sampled = csr_tensor(layout.crow_indices, layout.col_indices, torch.zeros_like(values), layout.shape)
    for block in _blocks(width) if width > 2 * _BLOCK else [slice(None)]:
        sampled = torch.sparse.sampled_addmm(sampled, gradient[:, block], columns[:, block].t())
    return sampled.values()


def _blocks(width: int) -> Iterator[slice]:
    return (slice(start, start + _BLOCK) for start in range(0, width, _BLOCK))


def _kernel(values: Tensor, width: int) -> Callable[[Tensor, Tensor, Layout], Tensor]:
    """What computes the product of so many columns fastest."""
    if not has_kernels(values.device.type, values.dtype):
        return _multiply_plainly
    few_or_double = width < _FEW_COLUMNS or values.dtype == torch.float64
    return _multiply_by_mkl if few_or_double and torch.backends.mkl.is_available() else _multiply_by_embedding  # type: ignore[no-untyped-call]


def _multiply_by_embedding(values: Tensor, columns: Tensor, layout: Layout) -> Tensor:
    crow_indices, col_indices, _ = layout
    return F.embedding_bag(
        col_indices, columns, crow_indices, mode="sum", per_sample_weights=values, include_last_offset=True
    )


def _multiply_by_mkl(values: Tensor, columns: Tensor, layout: Layout) -> Tensor:
    with torch.autocast(values.device.type, enabled=False):  # which would cast to a type that MKL lacks
        return csr_tensor(layout.crow_indices, layout.col_indices, values, layout.shape) @ columns


def _multiply_plainly(values: Tensor, columns: Tensor, layout: Layout) -> Tensor:
    accumulated = torch.promote_types(values.dtype, torch.float32)  # a sum in 16 bits would lose its small terms
    product = columns.new_zeros(layout.shape[0], columns.shape[1], dtype=accumulated)
    for some, rows, cols in _chunks(layout, columns.shape[1]):
        product.index_add_(0, rows, (values[some, None] * columns.index_select(0, cols)).to(accumulated))
    return product.to(values.dtype)


def _sample_plainly(gradient: Tensor, columns: Tensor, layout: Layout) -> Tensor:
    sampled = [
        (gradient.index_select(0, rows) * columns.index_select(0, cols)).sum(1)
        for _, rows, cols in _chunks(layout, columns.shape[1])
    ]
    return torch.cat(sampled)


def _chunks(layout: Layout, width: int) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Connections, their rows and their columns, as many at a time as keep intermediate tensors small."""
    rows, size = rows_from_csr(layout.crow_indices), max(1, _PLAIN_ELEMENTS // width)
    for start in range(0, len(rows), size):
        some = slice(start, start + size)
        yield some, rows[some], layout.col_indices[some]


@cache
def has_kernels(device_type: str, dtype: torch.dtype) -> bool:
    """Whether PyTorch has these kernels for a type of device and a dtype, found by trying them.

    Where it has none, the product gathers and adds, which is right and slow, and one warning says so.
    """
    tensor = torch.tensor
    try:
        device = torch.device(device_type)
        layout = Layout(tensor([0, 1, 2], device=device).int(), tensor([1, 0], device=device).int(), (2, 2))
        values, columns = tensor([3, 4], dtype=dtype, device=device), torch.eye(2, dtype=dtype, device=device)
        product = _multiply_by_embedding(values, columns, layout)
        pattern = csr_tensor(layout.crow_indices, layout.col_indices, torch.zeros_like(values), (2, 2))
        sampled = torch.sparse.sampled_addmm(pattern, product, columns).values()
        found = bool((sampled == values).all())
    except (RuntimeError, NotImplementedError):
        found = False
    if not found:
        name = str(dtype).removeprefix("torch.")
        message = f"PyTorch has no sparse kernels for {name} on {device_type}: sparse layers compute right, but slowly"
        warnings.warn(message, UserWarning, stacklevel=2)
    return found
