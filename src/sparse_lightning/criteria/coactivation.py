"""Coactivation: how often both ends of a connection were active at once."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.grad import conv1d_weight, conv2d_weight, conv3d_weight
from torch.nn.modules.conv import _ConvNd
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from sparse_lightning.criteria.base import Statistic

EXACT = 2**24  # up to here every whole number is a 32-bit float
_WEIGHT_GRADIENT = {1: conv1d_weight, 2: conv2d_weight, 3: conv3d_weight}

# They keep a value's shape and yet do not tell an active unit: the first is noise, the others have always one sign.
_NOT_ACTIVITY = (
    nn.modules.dropout._DropoutNd,
    *(nn.Softmax, nn.Softmin, nn.LogSoftmax, nn.Sigmoid, nn.LogSigmoid, nn.Softplus),
)


def coactivation(inputs: Tensor, outputs: Tensor, layer: nn.Module | None = None) -> Tensor:
    """How many samples had both the input and the output unit active, for each connection; active means above zero.

    That is the gradient of the layer's linear map by its weight, taken at activities of 1 and 0. So the units of a
    convolution are its channels, and a connection is counted at each position at which the kernel is applied.

    Args:
        inputs: Values of the input units, of any floating type: (..., in), or what the convolution takes.
        outputs: Values of the output units: (..., out) with the same leading dimensions, or what the convolution gives.
        layer: A convolution, transposed or not, of one to three dimensions; None for a matrix.

    Returns:
        Counts, int32, shaped like the weight, exact.

    >>> coactivation(torch.tensor([[1., 0.], [2., 3.]]), torch.tensor([[1.], [1.]]))
    tensor([[2, 1]], dtype=torch.int32)
    >>> coactivation(torch.tensor([[[1., 0., 2.]]]), torch.tensor([[[3., 4.]]]), nn.Conv1d(1, 1, kernel_size=2))
    tensor([[[1, 1]]], dtype=torch.int32)
    """
    return _product(layer, _active(inputs), _active(outputs)).int()


def _active(values: Tensor) -> Tensor:
    """Where a unit's value is above zero: 1.0 or 0.0 in 32 bits, or booleans for images, which are large."""
    values = values.detach()
    if values.dim() > 3:
        return values > 0
    # On CPUs a comparison written into floats is several times faster than one into booleans.
    return torch.gt(values, 0, out=torch.empty_like(values, dtype=torch.float32))


def _samples(layer: nn.Module | None, inputs: Tensor, outputs: Tensor) -> int:
    """How many samples a call has at most for one connection: rows, or positions."""
    if isinstance(layer, _ConvNd):
        return (inputs.numel() // layer.in_channels) if layer.transposed else (outputs.numel() // layer.out_channels)
    return inputs.numel() // inputs.shape[-1]


def _product(layer: nn.Module | None, inputs: Tensor, outputs: Tensor) -> Tensor:
    """The weight's gradient at these activities, in floats wide enough to be exact."""
    wide = torch.float64 if _samples(layer, inputs, outputs) > EXACT else torch.float32
    inputs, outputs = inputs.to(wide), outputs.to(wide)
    if not isinstance(layer, _ConvNd):
        return outputs.reshape(-1, outputs.shape[-1]).T @ inputs.reshape(-1, inputs.shape[-1])
    if inputs.dim() < layer.weight.dim():  # a single image
        inputs, outputs = inputs.unsqueeze(0), outputs.unsqueeze(0)
    padding: Any = layer.padding
    if layer.padding_mode != "zeros" or isinstance(padding, str):
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        inputs, padding = F.pad(inputs, layer._reversed_padding_repeated_twice, mode), 0
    if layer.transposed:
        inputs, outputs = outputs, inputs  # a transposed convolution is another one backwards
    gradient = _WEIGHT_GRADIENT[layer.weight.dim() - 2]
    shape, options = layer.weight.shape, (layer.stride, padding, layer.dilation, layer.groups)
    return cast(Tensor, gradient(inputs, shape, outputs, *options))  # type: ignore[no-untyped-call]


def _add(counts: Tensor, seen: int, layer: nn.Module | None, inputs: Tensor, outputs: Tensor) -> Tensor:
    """Counts with more added, `seen` samples with these: in place as floats while those are exact, then as integers."""
    if counts.is_floating_point() and seen <= EXACT:
        if isinstance(layer, _ConvNd):
            return counts.add_(_product(layer, inputs, outputs))
        # Floats are added to by the product itself, in one pass.
        inputs, outputs = inputs.float(), outputs.float()
        return counts.addmm_(outputs.reshape(-1, outputs.shape[-1]).T, inputs.reshape(-1, inputs.shape[-1]))
    counts = counts.to(
        torch.int64 if seen >= 2**31 else counts.dtype if not counts.is_floating_point() else torch.int32
    )
    return counts.add_(_product(layer, inputs, outputs).to(counts.dtype))


class Coactivation:
    """Counts the coactivation of every connection of some layers, Linear or convolutions, while their model trains.

    An input unit's value is what the layer receives; an output unit's value is read after the normalisation and the
    activation that follow the layer. Which modules those are is found by watching the first training batch: a module
    follows when it takes exactly the tensor that the one before it gave, keeps its shape, has no matrix of its own and
    is neither dropout nor, like softmax, of one sign whatever it is given. An activation called as a function cannot be
    watched; after ReLU, GELU, SiLU or tanh a value is above zero exactly when it was before, so nothing is lost there.

    The callback drives it: `attach` before training, `count` after each batch, `detach` at the end.

    Counts take 4 bytes a connection, 8 from 2^31 samples on.

    Args:
        count_validation: Count the validation samples too. That lets the images that judge the network steer its
            growth; it is here only to reproduce experiments that did so.
        read_at: Modules to read the activity of a layer's output units from instead, {layer name: module name}: from
            the module's next call after the layer's.

    Attributes:
        samples: For each weight, how many samples of this rank were counted; of a convolution, positions.
        read_at: For each weight, the name of the module whose output tells which of its output units are active.
    """

    def __init__(self, count_validation: bool = False, read_at: Mapping[str, str] | None = None) -> None:
        self.count_validation = count_validation
        self.told = dict(read_at or {})
        self.samples: dict[str, int] = {}
        self.read_at: dict[str, str] = {}
        self._counts: dict[str, Tensor] = {}
        self._names: dict[nn.Module, str] = {}
        self._places: dict[nn.Module, str] = {}
        self._ends: dict[nn.Module, nn.Module] = {}
        self._told: dict[str, nn.Module] = {}
        self._followers: set[nn.Module] = set()
        self._settled = False
        self._calls: list[tuple[nn.Module, Tensor, Tensor, Tensor, Tensor]] = []
        self._open: dict[int, tuple[Tensor, nn.Module, Tensor]] = {}
        self._waiting: dict[nn.Module, tuple[nn.Module, Tensor, torch.Size]] = {}
        self._pairs: list[tuple[nn.Module, Tensor, Tensor]] = []
        self._last: tuple[Tensor, int, Tensor] | None = None
        self._handles: dict[nn.Module, RemovableHandle] = {}

    @property
    def counts(self) -> dict[str, Tensor]:
        """For each weight, how many samples of this rank had both units active: whole numbers, shaped like it."""
        return {name: counts.int() if counts.is_floating_point() else counts for name, counts in self._counts.items()}

    def attach(self, module: nn.Module, names: Collection[str], optimizers: Sequence[Optimizer] = ()) -> None:
        """Start counting on the weights of these parameter names.

        Raises:
            ValueError: One of them is not the weight of a Linear or a convolution that is called, or `read_at` names
                what is not there.
        """
        self.detach()
        self._places = {part: name for name, part in module.named_modules()}
        for name in names:
            weight = module.get_parameter(name)
            self._names |= dict.fromkeys(_layers_of(module, name, weight), name)
            counts = self._counts.get(name, torch.zeros_like(weight, dtype=torch.float32))
            self._counts[name] = counts.detach().to(weight.device)
            self.samples.setdefault(name, 0)
        modules = {name: part for part, name in self._places.items()}
        for layer, place in self.told.items():
            name = layer if layer in names else f"{layer}.weight"
            if name not in names:
                raise ValueError(f"Expected read_at to name layers that are sparse, got {layer!r}")
            if place not in modules:
                raise ValueError(f"Expected read_at to name a module of the model for {layer!r}, got {place!r}")
            self._told[name], self.read_at[name] = modules[place], place
        see = torch.compiler.disable(self._see) if _is_compiled(module) else self._see  # type: ignore[no-untyped-call]
        told = set(self._told.values())
        for part in module.modules():
            if part in self._names or part in told or _may_follow(part):
                self._handles[part] = part.register_forward_hook(see)

    def detach(self) -> None:
        """Stop counting; the counts stay."""
        for handle in self._handles.values():
            handle.remove()
        self._handles, self._names, self._places, self._ends, self._told = {}, {}, {}, {}, {}
        self._followers, self._settled = set(), False
        self._calls, self._pairs, self._open, self._waiting, self._last = [], [], {}, {}, None

    def count(self) -> None:
        """Take the forward passes since the last call into the counts."""
        if self._calls:
            self._settle()
        for layer, inputs, outputs in self._pairs:
            name = self._names[layer]
            self.samples[name] += _samples(layer, inputs, outputs)
            self._counts[name] = _add(self._counts[name], self.samples[name], layer, inputs, outputs)
        self._pairs.clear()
        self._open.clear()
        self._waiting.clear()
        self._last = None

    def reset(self) -> None:
        """Start again from zero."""
        for name, counts in self._counts.items():
            self._counts[name] = torch.zeros_like(counts, dtype=torch.float32)
            self.samples[name] = 0

    def total(self, name: str) -> Tensor:
        """The counts of one weight over all ranks; a collective operation when training is distributed.

        Raises:
            RuntimeError: Its layer has not run since the last reset, so there is nothing to go by.
        """
        counts = self._counts[name]
        if not _summed(counts.new_tensor(self.samples[name], dtype=torch.int64)):
            raise RuntimeError(
                f"Expected the layer of {name!r} to have been called in training, but no call was seen: coactivation "
                "is counted where a layer is called as a module. To leave it out, exclude it"
            )
        return _summed(counts)

    def state_dict(self) -> dict[str, Any]:
        """Counts and samples by parameter name; a collective operation when training is distributed."""
        totals = {name: _summed(counts) for name, counts in self._counts.items()}
        samples = {name: int(_summed(totals[name].new_tensor(count))) for name, count in self.samples.items()}
        return {"counts": totals, "samples": samples}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from saved counts; they stand for all ranks, so the first takes them and the others start at 0."""
        first = not _distributed() or torch.distributed.get_rank() == 0
        self._counts = {
            name: counts.clone() if first else torch.zeros_like(counts) for name, counts in state["counts"].items()
        }
        self.samples = {name: count if first else 0 for name, count in state["samples"].items()}

    def __eq__(self, other: object) -> bool:
        """Whether another counts the same way."""
        mine = (self.count_validation, self.told)
        return isinstance(other, Coactivation) and mine == (other.count_validation, other.told)

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles carry the counts, not the hooks on one model's modules."""
        carried = {"_counts": self._counts, "samples": self.samples, "read_at": self.read_at}
        return Coactivation(self.count_validation, self.told).__dict__ | carried

    def _see(self, part: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """The one hook on every module that is a layer or may follow one."""
        if not (args and isinstance(args[0], Tensor) and isinstance(output, Tensor)):
            return
        if part in self._waiting:
            self._take_told(part, output)
        counts = part.training or self.count_validation
        if part in self._names and counts:  # a copy of the model has copies of the hooks, and is not counted
            self._enter(part, args[0], output)
        elif not self._settled:
            if counts and args[0].shape == output.shape:
                # Activity is taken at once, since later operations may change the tensors in place.
                self._calls.append((part, args[0], _active(args[0]), output, _active(output)))
        elif self._open and part in self._followers and (found := self._open.pop(id(args[0]), None)):
            self._read(part, found[1], found[2], output)

    def _enter(self, layer: nn.Module, inputs: Tensor, output: Tensor) -> None:
        """A layer was called."""
        last = self._last
        known = last is not None and last[0] is inputs and last[1] == inputs._version  # and not changed in place
        active = last[2] if last is not None and known else _active(inputs)
        told = self._told.get(self._names[layer])
        if told is layer:
            self._pairs.append((layer, active, _active(output)))
        elif told is not None:
            self._waiting[told] = (layer, active, output.shape)
        elif self._settled:
            self._read(layer, layer, active, output)
        else:
            self._calls.append((layer, inputs, active, output, _active(output)))

    def _take_told(self, part: nn.Module, output: Tensor) -> None:
        layer, inputs, shape = self._waiting.pop(part)
        if output.shape != shape:
            name, place = self._names[layer], self._places[part]
            raise ValueError(
                f"Expected {place!r} to give the units of {name!r}, {list(shape)}, got {list(output.shape)}: "
                "read_at names another module's"
            )
        self._pairs.append((layer, inputs, _active(output)))

    def _read(self, part: nn.Module, layer: nn.Module, inputs: Tensor, output: Tensor) -> None:
        """Take the pair of activities if they are to be read here, or wait for the module that follows."""
        if self._ends.get(layer, layer) is part:
            active = _active(output)
            self._last = output, output._version, active  # what the next layer takes, as a rule
            self._pairs.append((layer, inputs, active))
        else:
            self._open[id(output)] = (output, layer, inputs)  # holds the tensor, so that its id stays its own

    def _settle(self) -> None:
        """Follow each layer's output through the watched calls; once all layers were seen, hook only what is read."""
        for number, (part, _, inputs, value, outputs) in enumerate(self._calls):
            if part not in self._names:
                continue
            end = part
            for follower, taken, _, given, active in self._calls[number + 1 :]:
                if taken is value and follower not in self._names:
                    self._followers.add(follower)
                    end, value, outputs = follower, given, active
            # A layer called several times, to be read at different places, is read at its own output.
            self._ends[part] = end if self._ends.get(part, end) is end else part
            self._pairs.append((part, inputs, outputs))
        self._calls = []
        self.read_at |= {self._names[layer]: self._places[end] for layer, end in self._ends.items()}
        if all(layer in self._ends or name in self._told for layer, name in self._names.items()):
            self._settled = True
            needed = self._names.keys() | self._followers | set(self._told.values())
            for part in self._handles.keys() - needed:
                self._handles.pop(part).remove()


class Hebbian:
    """What makes a criterion Hebbian: a :class:`Coactivation` to go by.

    Args:
        count_validation: Count the validation samples too, a leak; see :class:`Coactivation`.
        read_at: Where a layer's activity is to be read, {layer name: module name}; found by watching where not given.
    """

    statistics: Mapping[str, Statistic]

    def __init__(self, count_validation: bool = False, read_at: Mapping[str, str] | None = None) -> None:
        self.statistics = {"coactivation": Coactivation(count_validation, read_at)}

    @property
    def coactivation(self) -> Coactivation:
        """The counts since the last rewiring."""
        return cast(Coactivation, self.statistics["coactivation"])


def _layers_of(module: nn.Module, name: str, weight: Tensor) -> list[nn.Module]:
    """The layers that have this weight, several if it is tied."""
    parents = [part.out_proj for part in module.modules() if isinstance(part, nn.MultiheadAttention)]
    parts = (part for part in module.modules() if isinstance(part, nn.Linear | _ConvNd))
    layers: list[nn.Module] = [
        part for part in parts if part.weight is weight and not any(part is parent for parent in parents)
    ]
    if not layers:
        raise ValueError(
            f"Expected {name!r} to be the weight of a Linear or a convolution that is called as a module, got one "
            "whose coactivation cannot be counted; exclude it, or choose criteria that are not Hebbian"
        )
    return layers


def _is_compiled(module: nn.Module) -> bool:
    """Whether torch.compile has a hand in this module or in parts of it, so that hooks must stay out of its graphs."""
    lightning = getattr(module, "_compiler_ctx", None)
    parts = module.modules()
    return lightning is not None or any(part._compiled_call_impl or hasattr(part, "_orig_mod") for part in parts)


def _may_follow(part: nn.Module) -> bool:
    """Whether a module could be the normalisation or activation after a layer: a leaf with no matrix of its own."""
    is_leaf = next(part.children(), None) is None
    has_matrix = any(parameter.dim() > 1 for parameter in part.parameters()) and not isinstance(part, nn.LayerNorm)
    return is_leaf and not has_matrix and not isinstance(part, _NOT_ACTIVITY)


def _summed(counts: Tensor) -> Tensor:
    """Whole numbers summed over all ranks."""
    counts = counts.int() if counts.is_floating_point() else counts
    if _distributed():
        counts = counts.to(torch.int64, copy=True)  # one type on all ranks, whatever each has seen
        torch.distributed.all_reduce(counts)
    return counts


def _distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
