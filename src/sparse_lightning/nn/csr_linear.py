"""The product of a CSR matrix with dense columns, differentiable in both, by kernels that PyTorch ships.

Columns are (features, batch) and contiguous, so that each connection reads one row of them in order. On a CPU in
float32 :func:`torch.nn.functional.embedding_bag` with `per_sample_weights` is this product, in half the time of MKL's
CSR product from some 16 columns on; below that, and in float64, MKL's is the faster. The gradient of the values, a
dense product sampled at the connections, is :func:`torch.sparse.sampled_addmm`.
"""

import warnings
from collections.abc import Callable, Iterator
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


def csr_linear(
    inputs: Tensor,
    values: Tensor,
    bias: Tensor | None,
    layout: Layout,
    transposed: Transposed | None = None,
    *,
    by_feature: bool = False,
    operands: list[tuple[Tensor, Tensor]] | None = None,
) -> Tensor:
    """``inputs @ W^T + bias`` with a sparse W.

    Args:
        inputs: (batch, in). Stored feature by feature, they are read as they are, else transposed first; their gradient
            is stored as they are.
        values: Value of each connection (nnz).
        bias: (out), or None.
        layout: Where the connections are; its shape is (out, in).
        transposed: The transposed layout; needed if `inputs` requires a gradient.
        by_feature: Whether the output is stored feature by feature; else it is contiguous.
        operands: A list to which the backward pass appends the output's gradient (out, batch) and the inputs (in,
            batch): their product is the gradient of a dense W.

    Returns:
        (batch, out).

    >>> layout = Layout(torch.tensor([0, 1, 2]), torch.tensor([1, 0]), (2, 2))
    >>> csr_linear(torch.tensor([[1., 2.]]), torch.tensor([3., 4.]), torch.tensor([10., 0.]), layout)
    tensor([[16.,  4.]])
    """
    output: Tensor = _CsrLinear.apply(inputs, values, bias, layout, transposed, by_feature, operands)
    return output.t() if by_feature else output


class _CsrLinear(torch.autograd.Function):
    """The product and the bias as one node of the graph: at low densities every node counts."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        values: Tensor,
        bias: Tensor | None,
        layout: Layout,
        transposed: Transposed | None,
        by_feature: bool,
        operands: list[tuple[Tensor, Tensor]] | None,
    ) -> Tensor:
        columns = inputs.t().contiguous()
        ctx.save_for_backward(values, columns)
        ctx.layout, ctx.transposed, ctx.operands = layout, transposed, operands
        ctx.by_feature, ctx.by_sample = by_feature, inputs.is_contiguous()
        output = _multiply(values, columns, layout)
        if bias is not None:
            output.add_(bias[:, None])
        # Never a view: functions in place, such as nn.ReLU(inplace=True), could not follow.
        return output if by_feature else output.t().clone(memory_format=torch.contiguous_format)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        values, columns = ctx.saved_tensors
        gradient = (gradient if ctx.by_feature else gradient.t()).contiguous()
        of_inputs = of_values = of_bias = None
        if ctx.needs_input_grad[0]:
            layout, permutation = ctx.transposed
            of_inputs = _multiply(values.index_select(0, permutation), gradient, layout).t()
            # Elementwise functions of tensors stored in two ways take ten times as long as of two stored alike.
            of_inputs = of_inputs.contiguous() if ctx.by_sample else of_inputs
        if ctx.operands is not None:
            ctx.operands.append((gradient, columns))
        if ctx.needs_input_grad[1]:
            of_values = _sample(gradient, columns, values, ctx.layout)
        if ctx.needs_input_grad[2]:
            of_bias = gradient.sum(1)
        return of_inputs, of_values, of_bias, None, None, None, None


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


_tried: dict[tuple[str, torch.dtype], bool] = {}  # not functools.cache, which torch.compile warns of


def has_kernels(device_type: str, dtype: torch.dtype) -> bool:
    """Whether PyTorch has these kernels for a type of device and a dtype, found by trying them once.

    Where it has none, the product gathers and adds, which is right and slow, and one warning says so.
    """
    if (device_type, dtype) not in _tried:
        _tried[device_type, dtype] = _try_kernels(torch.device(device_type), dtype)
        if not _tried[device_type, dtype]:
            name = str(dtype).removeprefix("torch.")
            message = f"PyTorch has no sparse kernels for {name} on {device_type}: sparse layers are right, but slow"
            warnings.warn(message, UserWarning, stacklevel=2)
    return _tried[device_type, dtype]


def _try_kernels(device: torch.device, dtype: torch.dtype) -> bool:
    crow_indices, col_indices = (torch.tensor(indices, device=device).int() for indices in ([0, 1, 2], [1, 0]))
    values, columns = torch.tensor([3, 4], dtype=dtype, device=device), torch.eye(2, dtype=dtype, device=device)
    try:
        product = _multiply_by_embedding(values, columns, Layout(crow_indices, col_indices, (2, 2)))
        pattern = csr_tensor(crow_indices, col_indices, torch.zeros_like(values), (2, 2))
        sampled: Tensor = torch.sparse.sampled_addmm(pattern, product, columns)
        return sampled.values().equal(values)
    except (RuntimeError, NotImplementedError):
        return False
