"""A linear layer that stores, computes and trains its connections alone."""

from collections.abc import Iterator, Mapping
from itertools import pairwise
from numbers import Integral, Real
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from sparse_lightning.functional.csr import (
    carry,
    check_positions,
    contains,
    csr_from_positions,
    csr_tensor,
    positions_from_csr,
    random_positions,
    replace_positions,
    transpose_csr,
)
from sparse_lightning.nn.csr_linear import Layout, Transposed, csr_linear

_BLOCK_NUMEL = 2**22  # connections whose gradients are computed at once


class SparseLinear(nn.Module):
    """A linear map whose weight is sparse: ``y = x W^T + b``, computed on the connections alone.

    Forward, backward and optimizer step take memory and time in proportion to the number of connections (nnz).
    Exactly one of `density`, `mask` and `positions` sets the topology; :meth:`rewire` changes it in place.

    Args:
        in_features: Size of each input sample.
        out_features: Size of each output sample.
        density: Share of connections that are active, in (0, 1]. ``round(density * in_features * out_features)`` of
            them are drawn uniformly.
        mask: The active connections, boolean, (out, in).
        positions: The active connections as sorted distinct indices into the flattened (out, in) matrix, int64; for
            layers too large for a mask.
        bias: Whether the layer adds a bias.
        transposed_output: Whether a two-dimensional output is stored feature by feature, as the next sparse layer reads
            it. It saves four transpositions a step where only elementwise functions stand between two sparse layers,
            and slows down most others.
        generator: CPU generator that the topology and the initial values are drawn from.
        device: Device of the parameters.
        dtype: Type of the parameters. float32 and float64 are fast on a CPU; others are right and slow, and warn once.

    Shape:
        Input (..., in_features), output (..., out_features).

    Attributes:
        values: The weights of the active connections, row by row (nnz): the parameter to optimize.
        bias: The bias (out), or None.
        crow_indices: Offsets of the rows (out + 1), int32 where they fit.
        col_indices: Input unit of each connection (nnz), ascending in each row.
        shape: (out, in), for those who read a ``state_dict``.

    Values are initialised as :class:`torch.nn.Linear` does, but for each unit's actual fan-in k: uniformly in
    ±1/sqrt(k). PyTorch's own divides by the number of inputs, connected or not, and in a very sparse network the signal
    dies (Evci et al. 2022, "Gradient flow in sparse neural networks and how lottery tickets win"; they draw from a
    normal distribution of variance 2/k, while this rule is nn.Linear's own at density 1).

    The ``state_dict`` holds values, bias, both indices and the shape (out, in). Loading one brings its topology,
    whatever the number of its connections; one that does not fit the layer's size is refused.

    Raises:
        ValueError: A size or the topology is out of range, or not exactly one topology is given.

    >>> layer = SparseLinear(784, 300, density=0.05)
    >>> layer
    SparseLinear(in_features=784, out_features=300, density=0.05, bias=True)
    >>> layer(torch.zeros(32, 784)).shape, layer.values.shape
    (torch.Size([32, 300]), torch.Size([11760]))
    """

    values: nn.Parameter
    crow_indices: Tensor
    col_indices: Tensor
    shape: Tensor
    _crow_transposed: Tensor | None
    _col_transposed: Tensor | None
    _permutation: Tensor | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        density: float | None = None,
        *,
        mask: Tensor | None = None,
        positions: Tensor | None = None,
        bias: bool = True,
        transposed_output: bool = False,
        generator: torch.Generator | None = None,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.transposed_output = transposed_output
        self.in_features, self.out_features = _size("in_features", in_features), _size("out_features", out_features)
        if (density is not None) + (mask is not None) + (positions is not None) != 1:
            raise ValueError("Expected exactly one of density, mask and positions")
        if density is not None:
            positions = random_positions(self._numel, _count(density, self._numel), generator=generator)
        elif mask is not None:
            positions = _positions_of(mask, (self.out_features, self.in_features))
        assert positions is not None
        crow_indices, col_indices = csr_from_positions(positions.to(device), (self.out_features, self.in_features))
        self.register_buffer("crow_indices", crow_indices)
        self.register_buffer("col_indices", col_indices)
        self.register_buffer("shape", torch.tensor([self.out_features, self.in_features]))
        for name in ("_crow_transposed", "_col_transposed", "_permutation"):
            self.register_buffer(name, None, persistent=False)
        self.values = nn.Parameter(torch.empty(len(col_indices), device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(self.out_features, device=device, dtype=dtype)) if bias else None
        self._operands: list[tuple[Tensor, Tensor]] | None = None
        self._outdated = False
        self.register_load_state_dict_pre_hook(_adopt_topology)  # type: ignore[no-untyped-call]
        self.reset_parameters(generator)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw values and bias anew, uniformly in ±1/sqrt(k) for a unit of k connections; a bias without any is 0."""
        fan_in = self.crow_indices.diff()
        bound = fan_in.clamp(min=1).to(self.values.dtype).rsqrt()
        for parameter, scale in ((self.values, bound.repeat_interleave(fan_in)), (self.bias, bound * (fan_in > 0))):
            if parameter is not None:
                drawn = torch.empty(parameter.shape, dtype=parameter.dtype).uniform_(-1, 1, generator=generator)
                parameter.copy_(drawn.to(parameter.device).mul_(scale))

    @classmethod
    def from_linear(cls, linear: nn.Linear, mask: Tensor | None = None) -> Self:
        """A sparse layer that computes what a dense one does with its weight masked; parameters are copied.

        Args:
            linear: The dense layer.
            mask: The active connections, boolean, (out, in); by default those whose weight is not zero.
        """
        weight = linear.weight.detach()
        mask = weight != 0 if mask is None else mask
        layer = cls(
            linear.in_features,
            linear.out_features,
            mask=mask,
            bias=linear.bias is not None,
            generator=torch.Generator(),  # the values that it draws are overwritten
            device=weight.device,
            dtype=weight.dtype,
        )
        with torch.no_grad():
            layer.values.copy_(weight.flatten().index_select(0, layer.positions))
            layer.values.requires_grad_(linear.weight.requires_grad)
            if layer.bias is not None:
                layer.bias.copy_(linear.bias).requires_grad_(linear.bias.requires_grad)
        return layer.train(linear.training)

    @torch.no_grad()
    def to_linear(self) -> nn.Linear:
        """The dense layer with the same weights, zero off the topology; it takes out x in memory."""
        linear = nn.Linear(self.in_features, self.out_features, bias=self.bias is not None, device="meta")
        linear = linear.to(self.values.dtype).to_empty(device=self.values.device)
        linear.weight.zero_().view(-1).index_copy_(0, self.positions, self.values)
        linear.weight.requires_grad_(self.values.requires_grad)
        if self.bias is not None:
            linear.bias.copy_(self.bias).requires_grad_(self.bias.requires_grad)
        return linear.train(self.training)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # nn.Linear calls it so
        """The output of a batch, (..., in) to (..., out). Under autocast it is computed in the type of `values`."""
        if not input.dim() or input.shape[-1] != self.in_features:
            raise ValueError(f"Expected input of shape (..., {self.in_features}), got {tuple(input.shape)}")
        if torch.is_autocast_enabled(input.device.type):
            input = input.to(self.values.dtype)  # noqa: A001
        if input.dtype != self.values.dtype:
            raise ValueError(f"Expected input of {self.values.dtype}, got {input.dtype}")
        if self._outdated and self._operands and torch.is_grad_enabled() and self.training:
            self._operands, self._outdated = [], False
        needed = torch.is_grad_enabled() and input.requires_grad
        batch = input if input.dim() == 2 else input.reshape(-1, self.in_features)
        transposed, by_feature = self._transposed() if needed else None, self.transposed_output and input.dim() == 2
        layout = Layout(self.crow_indices, self.col_indices, (self.out_features, self.in_features))
        output = csr_linear(
            batch, self.values, self.bias, layout, transposed, by_feature=by_feature, operands=self._operands
        )
        return output if input.dim() == 2 else output.view(*input.shape[:-1], self.out_features)

    @property
    def weight(self) -> Tensor:
        """The weight as a CSR tensor (out, in), in the memory of `values` and differentiable in them."""
        return csr_tensor(self.crow_indices, self.col_indices, self.values, (self.out_features, self.in_features))

    @property
    def positions(self) -> Tensor:
        """The active connections as sorted indices into the flattened (out, in) matrix, int64, (nnz)."""
        return positions_from_csr(self.crow_indices, self.col_indices, self.in_features)

    @property
    def mask(self) -> Tensor:
        """The active connections, boolean, (out, in); it takes out x in memory."""
        mask = torch.zeros(self._numel, dtype=torch.bool, device=self.values.device)
        return mask.index_fill_(0, self.positions, True).view(self.out_features, self.in_features)

    @property
    def density(self) -> float:
        """The share of connections that are active."""
        return len(self.values) / self._numel

    def record_gradient(self, record: bool = True) -> None:
        """Keep from now on, in each backward pass, what :meth:`dense_gradient` needs; or stop and drop it."""
        kept = [] if self._outdated or self._operands is None else self._operands
        self._operands, self._outdated = kept if record else None, False

    def drop_gradient(self) -> None:
        """Forget what is recorded until now: at the next forward pass, or when recording is asked for again."""
        self._outdated = True

    def dense_gradient(self) -> Tensor | None:
        """The gradient of the weight with its inactive connections, (out, in), since :meth:`record_gradient`.

        It takes out x in memory. None if no backward pass was recorded.
        """
        return torch.cat(list(self.gradient_blocks())) if self.has_recorded else None

    @property
    def has_recorded(self) -> bool:
        """Whether a backward pass was recorded."""
        return bool(self._operands)

    def gradient_blocks(self) -> Iterator[Tensor]:
        """The rows of :meth:`dense_gradient` in blocks of some million connections; none if nothing was recorded."""
        rows = max(_BLOCK_NUMEL // self.in_features, 1)
        for start in range(0, self.out_features if self._operands else 0, rows):
            parts = [each[start : start + rows] @ columns.t() for each, columns in self._operands or ()]
            yield parts[0] if len(parts) == 1 else torch.stack(parts).sum(0)

    def rewire(self, pruned: Tensor, grown: Tensor, *, grown_values: float | Tensor = 0.0) -> Tensor:
        """Drop connections and grow others, in place; the others keep their values.

        `values` stays the same parameter; its gradient belongs to the old topology and is dropped. Optimizer state
        moves by ``carry(state, source)`` of :mod:`sparse_lightning.functional.csr`.

        Args:
            pruned: Positions to drop, int64, in any order.
            grown: Positions to grow, int64, in any order; as many as are pruned, or not.
            grown_values: What grown connections start at: a number, or a value for each of `grown`.

        Returns:
            The index of each new connection in the old `values`, -1 for a grown one: int64, (nnz).

        Raises:
            ValueError: A pruned position is not active, a grown one is, or one is given twice or not in the matrix.

        >>> layer = SparseLinear(3, 2, positions=torch.tensor([0, 4]))
        >>> layer.rewire(pruned=torch.tensor([0]), grown=torch.tensor([5]))
        tensor([ 1, -1])
        >>> layer.positions
        tensor([4, 5])
        """
        positions, source = replace_positions(self.positions, pruned, grown)
        in_order = grown_values
        if isinstance(grown_values, Tensor) and grown_values.dim():
            in_order = grown_values[grown.argsort()]
        self._place(positions, carry(self.values.detach(), source, in_order))
        return source

    def set_positions(self, positions: Tensor, *, grown_values: float = 0.0) -> Tensor:
        """Move to another topology, in place; connections of both keep their values.

        Args:
            positions: The new active connections: sorted distinct positions, int64.
            grown_values: What connections start at that were inactive.

        Returns:
            As :meth:`rewire`.

        Raises:
            ValueError: The positions are not int64, not sorted and distinct, or not in the matrix.
        """
        check_positions(positions, self._numel)
        old = self.positions
        pruned, grown = old[~contains(positions, old)], positions[~contains(old, positions)]
        return self.rewire(pruned, grown, grown_values=grown_values)

    def extra_repr(self) -> str:
        """The arguments that draw a layer like this one."""
        sizes = f"in_features={self.in_features}, out_features={self.out_features}"
        transposed = ", transposed_output=True" if self.transposed_output else ""
        return f"{sizes}, density={_shortest(self.density, self._numel)}, bias={self.bias is not None}{transposed}"

    @property
    def _numel(self) -> int:
        return self.out_features * self.in_features

    def _transposed(self) -> Transposed:
        """The transposed layout, computed once for a topology, and only if an input ever needs a gradient."""
        crow_indices, col_indices, permutation = self._crow_transposed, self._col_transposed, self._permutation
        if crow_indices is None or col_indices is None or permutation is None:
            crow_indices, col_indices, permutation = transpose_csr(
                self.crow_indices, self.col_indices, self.in_features
            )
            self._crow_transposed, self._col_transposed, self._permutation = crow_indices, col_indices, permutation
        return Transposed(Layout(crow_indices, col_indices, (self.in_features, self.out_features)), permutation)

    @torch.no_grad()
    def _place(self, positions: Tensor, values: Tensor) -> None:
        """Take a topology and its values, without a new parameter: optimizers hold the old one."""
        self.crow_indices, self.col_indices = csr_from_positions(positions, (self.out_features, self.in_features))
        self._crow_transposed = self._col_transposed = self._permutation = None
        self.values.grad = None
        if len(values) == len(self.values):
            self.values.copy_(values)
        else:
            self.values.data = values


def _adopt_topology(layer: SparseLinear, state: dict[str, Any], prefix: str, *rest: Any) -> None:
    """Before a state is loaded, make the layer's tensors as long as its; a topology that does not fit is an error."""
    errors: list[str] = rest[-1]
    names = ("crow_indices", "col_indices", "values")
    if f"{prefix}weight" in state:
        errors.append(
            f"Expected {prefix}values, the connections of a SparseLinear, got a dense {prefix}weight: load it into the "
            "dense model, before its layers become SparseLinear"
        )
    if any(prefix + name not in state for name in names):
        return  # load_state_dict reports what is missing
    crow_indices, col_indices, values = (state[prefix + name] for name in names)
    try:
        csr_tensor(crow_indices, col_indices, values.detach(), (layer.out_features, layer.in_features), check=True)
    except RuntimeError as error:
        shape = f"({layer.out_features}, {layer.in_features})"
        errors.append(f"Expected {prefix}crow_indices and {prefix}col_indices to fit a weight of {shape}: {error}")
        return
    layer.col_indices = layer.col_indices.new_empty(len(col_indices))
    layer._crow_transposed = layer._col_transposed = layer._permutation = None
    if len(values) != len(layer.values):
        layer.values.data, layer.values.grad = layer.values.new_empty(len(values)), None


def _size(name: str, size: int) -> int:
    if not isinstance(size, Integral) or size < 1:
        raise ValueError(f"Expected {name} to be a positive integer, got {size}")
    return int(size)


def _count(density: float, numel: int) -> int:
    if not isinstance(density, Real) or not 0 < density <= 1:
        raise ValueError(f"Expected density in (0, 1], got {density}")
    return min(numel, max(1, round(float(density) * numel)))


def _positions_of(mask: Tensor, shape: tuple[int, int]) -> Tensor:
    if mask.dtype != torch.bool or mask.shape != shape:
        raise ValueError(f"Expected a boolean mask of shape {shape}, got {mask.dtype} of shape {tuple(mask.shape)}")
    return mask.flatten().nonzero().squeeze(1)


def _shortest(density: float, numel: int) -> float:
    """The density of fewest digits that gives as many connections.

    >>> _shortest(24586 / 1568**2, 1568**2)
    0.01
    """
    candidates = (float(f"{density:.{digits}g}") for digits in range(1, 18))
    return next((short for short in candidates if round(short * numel) == round(density * numel)), density)


CSR_PARTS = ("crow_indices", "col_indices", "values", "shape")  # of a weight, in a state_dict
_ELEMENTWISE = (nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.Dropout, nn.Identity)


def store_by_feature(network: nn.Module) -> int:
    """Set `transposed_output` wherever a sparse layer of an nn.Sequential has elementwise functions alone after it.

    They end at another sparse layer or at a Linear. Layers of any other order, those with batch norm after them, and
    those with a function in place, which would copy, stay as they are: they would be slower.

    Returns:
        How many layers store their outputs feature by feature from now on.

    >>> pair = nn.Sequential(SparseLinear(4, 8, 0.5), nn.ReLU(), SparseLinear(8, 4, 0.5))
    >>> store_by_feature(pair), pair[0].transposed_output, pair[2].transposed_output
    (1, True, False)
    """
    count = 0
    for module in network.modules():
        if isinstance(module, nn.Sequential):
            layers = [each for each in module if not isinstance(each, _ELEMENTWISE) or getattr(each, "inplace", False)]
            for layer, following in pairwise(layers):
                if isinstance(layer, SparseLinear) and isinstance(following, (SparseLinear, nn.Linear)):
                    layer.transposed_output, count = True, count + 1
    return count


def sparse_layers(module: nn.Module) -> dict[str, SparseLinear]:
    """The sparse layers of a model, by the name that their weight would have if it were dense.

    >>> list(sparse_layers(nn.Sequential(nn.Linear(2, 2), SparseLinear(2, 2, 0.5))))
    ['1.weight']
    """
    layers = ((path, each) for path, each in module.named_modules() if isinstance(each, SparseLinear))
    return {f"{path}.weight" if path else "weight": layer for path, layer in layers}


def named_weights(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of a model by name, with the values of sparse layers under the name of a dense weight.

    >>> list(named_weights(nn.Sequential(SparseLinear(2, 2, 0.5))))
    ['0.weight', '0.bias']
    """
    names = {id(layer.values): name for name, layer in sparse_layers(module).items()}
    return {names.get(id(parameter), name): parameter for name, parameter in module.named_parameters()}


def weight_shapes(module: nn.Module) -> dict[str, torch.Size]:
    """The shapes of the parameters of :func:`named_weights`, of sparse layers (out, in).

    >>> weight_shapes(nn.Sequential(SparseLinear(3, 2, 0.5, bias=False)))
    {'0.weight': torch.Size([2, 3])}
    """
    sparse = sparse_layers(module)
    weights = {name: weight for name, weight in named_weights(module).items() if not is_lazy(weight)}
    return {name: sparse[name].weight.shape if name in sparse else weight.shape for name, weight in weights.items()}


def dense_state_dict(state: Mapping[str, Any]) -> dict[str, Any]:
    """A state_dict with sparse layers, as the model with ``nn.Linear`` in their place has it.

    Args:
        state: The ``state_dict`` of a model, such as ``checkpoint["state_dict"]``.

    Returns:
        The same entries, with a dense ``weight`` (out, in) for each sparse layer; other entries are not copied.

    Raises:
        ValueError: It is a checkpoint.

    >>> linear = nn.Linear(3, 2)
    >>> linear.load_state_dict(dense_state_dict(SparseLinear(3, 2, 0.5).state_dict()))
    <All keys matched successfully>
    """
    if isinstance(state.get("state_dict"), Mapping):
        raise ValueError('Expected a state_dict, got a checkpoint: give its "state_dict"')
    joined = join_weights(state)
    return {name: value if name in state else value.to_dense() for name, value in joined.items()}


def join_weights(state: Mapping[str, Any]) -> dict[str, Any]:
    """A ``state_dict`` in which each sparse layer has one ``weight``, a CSR tensor (out, in), for its four entries.

    >>> list(join_weights(SparseLinear(3, 2, 0.5).state_dict()))
    ['weight', 'bias']
    """
    joined: dict[str, Any] = {}
    for name, value in state.items():
        prefix, last = name[: name.rfind(".") + 1], name.rpartition(".")[2]
        parts: list[Any] = [state.get(prefix + part) for part in CSR_PARTS]
        if last not in CSR_PARTS or not all(isinstance(part, Tensor) for part in parts):
            joined[name] = value
        elif last == "values":
            crow_indices, col_indices, values, shape = parts
            joined[f"{prefix}weight"] = csr_tensor(crow_indices, col_indices, values.detach(), tuple(shape.tolist()))
    return joined
