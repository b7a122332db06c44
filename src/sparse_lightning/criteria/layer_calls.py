"""What the layers of a model receive and what their units become, recorded by forward hooks while it trains."""

import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils.parametrize import ParametrizationList
from torch.utils.hooks import RemovableHandle

from sparse_lightning.criteria.counting import Counting
from sparse_lightning.functional.coactivation import is_countable, weight_shape
from sparse_lightning.nn.sparse_linear import SparseLinear, named_weights

# They keep a value's shape and yet do not tell an active unit: dropout is noise, the others have one sign always.
_NOT_ACTIVITY = (
    nn.modules.dropout._DropoutNd,
    *(nn.Softmax, nn.Softmin, nn.LogSoftmax, nn.Sigmoid, nn.LogSigmoid, nn.Softplus),
)
_ATTENTION_WEIGHTS = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")


@dataclass(slots=True, eq=False)
class LayerCall:
    """One call of a layer.

    Attributes:
        name: Parameter name of the weight.
        layer: The layer.
        inputs: Activity of the input units; indices of an embedding.
        end: The module that gave `output`.
        output: The layer's output after the modules that followed so far; None once it is no longer followed.
        outputs: Activity of the output units; None while it has not been read.
        rows: The rows of the weight that this call concerns; None for all.
    """

    name: str
    layer: nn.Module
    inputs: Tensor
    end: nn.Module
    output: Tensor | None = None
    outputs: Tensor | None = None
    rows: slice | None = None


class LayerCalls:
    """Records the calls of some layers with the activity of their input and output units.

    The activity of an output unit is read after the normalisation and the activation function that follow the layer.
    A module follows when it takes exactly the tensor that the module before it returned, keeps its shape, has no matrix
    of its own and is neither dropout nor, like softmax, of one sign for any input. All candidates have a hook during
    the first batch of a layer; from then on only the modules that follow one. An activation called as a function has no
    hook; after ReLU, GELU, SiLU or tanh a value is above zero exactly when it was before.

    Modules are kept by identity, since the hash of a module may change. A copy records nothing.

    Args:
        module: The model.
        names: Names of the parameters whose layers are recorded.
        counting: Which calls are recorded, and what is active in them.
        wait: How many batches come before the next one that is counted of layers of which not every batch is.

    Attributes:
        wait: How many batches are left out before the next one, of layers of which not every batch is recorded.
        uncountable: Those of `names` that belong to no layer that can be recorded.

    Raises:
        ValueError: `read_at` names a layer or a module that does not exist.
    """

    def __init__(
        self,
        module: nn.Module,
        names: Collection[str],
        counting: Counting,
        wait: int = 0,
    ) -> None:
        layers = countable_layers(module, names)
        self.uncountable = [name for name, found in layers.items() if not found]
        self.wait, self._counting, self._compiled = wait, counting, _is_compiled(module)
        self._interval = 1  # the longest of the layers recorded since `advance`
        self._modules = {id(each): each for each in module.modules()}  # kept, so that their ids stay their own
        self._places = {id(each): name for name, each in module.named_modules()}
        self._names = _names_by_layer(layers)
        self._overrides = _resolved_overrides(module, names, counting.read_at)
        self._ends: dict[int, dict[int, str]] = {}  # where each layer was read, with the names of these modules
        self._followers: set[int] = set()
        self._handles: list[RemovableHandle] = []
        self._follower_handles: dict[int, RemovableHandle] = {}
        self._checked: dict[int, tuple[torch.Size, torch.Size]] = {}
        self._calls: list[LayerCall] = []
        self._open: dict[int, LayerCall] = {}
        self._awaiting: dict[int, list[tuple[LayerCall, torch.Size]]] = {}
        self._known: dict[str, tuple[Tensor, int, int, Tensor]] = {}
        for place in dict.fromkeys(map(id, self._overrides.values())):
            self._handles.append(self._register(place, self._override_hook))
        for layer in self._names:
            is_attention = isinstance(self._modules[layer], nn.MultiheadAttention)
            hook = self._attention_hook if is_attention else self._layer_hook
            self._handles.append(self._register(layer, hook))
        self._watch()

    def __reduce__(self) -> tuple[type["LayerCalls"], tuple[nn.Module, tuple[()], Counting]]:
        return LayerCalls, (nn.Module(), (), Counting())

    @property
    def read_at(self) -> dict[str, str]:
        """Names of the modules that each weight's activity was read at so far, by parameter name."""
        found = {name: self._places[id(place)] for name, place in self._overrides.items()}
        places: dict[str, dict[str, None]] = {}
        for layer, ends in self._ends.items():
            for name in self._names[layer].values():
                places.setdefault(name, {}).update(dict.fromkeys(ends.values()))
        return {name: ", ".join(each) for name, each in places.items()} | found

    def is_current(self, module: nn.Module, names: Collection[str]) -> bool:
        """Whether the recorded layers are still those of the model, none having been replaced."""
        return _names_by_layer(countable_layers(module, names)) == self._names

    def close(self) -> None:
        """Remove the hooks."""
        for handle in [*self._handles, *self._follower_handles.values()]:
            handle.remove()

    def take(self) -> list[LayerCall]:
        """The calls that were recorded and read since the last time."""
        for call in self._calls:
            if call.outputs is None and call.output is not None:  # went another way than the calls before
                call.outputs = self._counting.activity(call.output, call.layer)
            if call.output is not None:
                self._ends.setdefault(id(call.layer), {})[id(call.end)] = self._places[id(call.end)]
        calls = [call for call in self._calls if call.outputs is not None]
        if calls and self._watching:
            self._stop_watching()
        self._calls = []
        self._open.clear()
        self._awaiting.clear()
        self._known.clear()
        return calls

    def advance(self) -> int:
        """Return how many batches are to be left out now, after one was trained on."""
        # By what was recorded: after a rewiring within a batch, that batch may have been left out.
        self.wait = self._interval - 1 if self._interval > 1 else max(self.wait - 1, 0)
        self._interval = 1
        return self.wait

    def _layer_hook(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        inputs = args[0] if args else next(iter(kwargs.values()), None)
        if isinstance(inputs, Tensor) and isinstance(output, Tensor) and self._is_recorded(layer, inputs):
            shapes = inputs.shape, output.shape
            if self._checked.get(id(layer)) == shapes or is_countable(inputs, output, layer):
                self._checked[id(layer)] = shapes
                self._record(layer, inputs, output)

    @torch.no_grad()
    def _attention_hook(
        self, layer: nn.MultiheadAttention, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        """Record the input projections, whose outputs are computed anew because attention does not return them."""
        arguments = dict(zip(("query", "key", "value"), args, strict=False)) | kwargs
        query, key, value = (arguments[each] for each in ("query", "key", "value"))
        if self._is_recorded(layer, query):
            for attribute, rows, inputs, projected in _input_projections(layer, query, key, value):
                name = self._names[id(layer)].get(attribute)
                if name is not None and is_countable(inputs, projected):
                    active = self._input_activity(layer, inputs)
                    outputs = self._counting.activity(projected, layer)
                    self._calls.append(LayerCall(name, layer, active, layer, projected, outputs, rows))

    def _follower_hook(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if self._open:
            taken: Any = args[0] if args else next(iter(kwargs.values()), None)
            call = self._open.get(id(taken))
            if call is not None and isinstance(output, Tensor) and output.shape == taken.shape:
                del self._open[id(taken)]
                self._followers.add(id(module))
                self._follow(call, module, output)

    def _override_hook(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        for call, shape in self._awaiting.pop(id(module), ()):
            if output.shape != shape:
                raise ValueError(
                    f"Expected {self._places[id(module)]!r} to return the units of {call.name!r}, {list(shape)}, got "
                    f"{list(output.shape)}: read_at names another module's"
                )
            call.outputs = self._counting.activity(output, call.layer)

    def _is_recorded(self, layer: nn.Module, inputs: Tensor) -> bool:
        """Whether this call of a layer, and not of a copy of it, is recorded."""
        if not (layer.training or self._counting.count_validation) or id(layer) not in self._names:
            return False
        interval = self._counting.interval(inputs) if layer.training else 1
        if interval > 1 and self.wait:
            return False
        if torch._C._current_graph_task_id() != -1:  # activation checkpointing repeats the forward pass in the backward
            return False
        # Nor is one of a transformed function, such as vmap and grad of torch.func, whose tensors do not outlive it.
        transformed = torch._C._functorch.maybe_current_level() is not None
        if transformed or torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
            return False
        self._interval = max(self._interval, interval)
        return True

    def _record(self, layer: nn.Module, inputs: Tensor, output: Tensor) -> None:
        """Begin a call of a layer."""
        name = next(iter(self._names[id(layer)].values()))
        call = LayerCall(name, layer, self._input_activity(layer, inputs), layer)
        self._calls.append(call)
        place = self._overrides.get(name)
        if place is None:
            if not self._watching and id(layer) not in self._ends:  # its first call comes after the first batch
                self._watch()
            self._follow(call, layer, output)
        elif place is layer:
            call.outputs = self._counting.activity(output, layer)
        else:
            self._awaiting.setdefault(id(place), []).append((call, output.shape))

    def _input_activity(self, layer: nn.Module, inputs: Tensor) -> Tensor:
        """Activity of a layer's input, computed once if it is the last layer's input or output, unchanged."""
        if isinstance(layer, nn.Embedding):
            return inputs.clone()
        for kind in ("output", "input"):
            known = self._known.get(kind)
            if (
                known is not None
                and known[0] is inputs
                and known[1:3] == (inputs._version, self._counting.units(layer))
            ):
                return known[3]
        active = self._counting.activity(inputs, layer)
        self._remember("input", layer, inputs, active)
        return active

    def _remember(self, kind: str, layer: nn.Module, tensor: Tensor, active: Tensor) -> None:
        if not tensor.is_inference():  # which has no version to tell whether it was changed in place
            self._known[kind] = tensor, tensor._version, self._counting.units(layer), active

    def _follow(self, call: LayerCall, module: nn.Module, output: Tensor) -> None:
        """A module returned the output of a call: read the activity here, or at a module that follows, or both."""
        ends = self._ends.get(id(call.layer), {})
        call.end, call.output, call.outputs = module, output, None
        if self._watching or id(module) in ends:
            # Activity is taken at once, since later operations may change the tensor in place.
            call.outputs = self._counting.activity(output, call.layer)
            self._remember("output", call.layer, output, call.outputs)
        if not self._watching and len(ends) == 1 and id(module) in ends:
            call.output = None
        else:
            self._open[id(output)] = call  # which holds the tensor, so that its id stays its own

    def _watch(self) -> None:
        """Hook every module that may follow a layer."""
        self._watching = True
        for key, module in self._modules.items():
            if key not in self._follower_handles and _may_follow(module):
                self._follower_handles[key] = self._register(key, self._follower_hook)

    def _stop_watching(self) -> None:
        """Keep only the hooks of modules that followed a layer."""
        self._watching = False
        for key in () if self._compiled else self._follower_handles.keys() - self._followers:
            self._follower_handles.pop(key).remove()

    def _register(self, key: int, hook: Callable[..., None]) -> RemovableHandle:
        # A compiled model runs its hooks outside of its graphs, and keeps them: it does not notice later changes.
        called: Any = torch.compiler.disable(hook) if self._compiled else hook  # type: ignore[no-untyped-call]
        return self._modules[key].register_forward_hook(called, with_kwargs=True)


def countable_layers(module: nn.Module, names: Collection[str]) -> dict[str, list[tuple[nn.Module, str]]]:
    """The layers that have each of these parameters as their weight, with the attribute; several if it is tied.

    Counted are the weights of Linear, convolutions, Embedding and Hugging Face's Conv1D, also through
    :mod:`torch.nn.utils.parametrize` if the parameter has the weight's shape, and the input projections of
    MultiheadAttention. Its output projection is not, because its input is never seen outside; nor are scripted modules
    and recurrent layers.

    Args:
        module: The model.
        names: Parameter names.
    """
    owners: dict[int, list[tuple[nn.Module, str]]] = {}
    hidden = {id(each.out_proj) for each in module.modules() if _is_attention(each)}
    for path, owner in module.named_modules():
        layer = owner
        if isinstance(owner, ParametrizationList):
            layer = module.get_submodule(path[: path.rindex("parametrizations.")].rstrip("."))
        for attribute, parameter in owner.named_parameters(recurse=False):
            attribute = path.rpartition(".")[2] if layer is not owner else attribute
            if id(layer) not in hidden and _is_countable_weight(layer, attribute, parameter):
                owners.setdefault(id(parameter), []).append((layer, attribute))
    parameters = dict(module.named_parameters(remove_duplicate=False)) | named_weights(module)
    return {name: owners.get(id(parameters.get(name)), []) for name in names}


def _names_by_layer(layers: Mapping[str, Iterable[tuple[nn.Module, str]]]) -> dict[int, dict[str, str]]:
    """Parameter names by the layer's id and attribute."""
    names: dict[int, dict[str, str]] = {}
    for name, found in layers.items():
        for layer, attribute in found:
            names.setdefault(id(layer), {}).setdefault(attribute, name)
    return names


def _is_countable_weight(layer: nn.Module, attribute: str, parameter: nn.Parameter) -> bool:
    if isinstance(layer, torch.jit.ScriptModule) or isinstance(parameter, UninitializedParameter):
        return False
    if isinstance(layer, nn.MultiheadAttention):
        return attribute in _ATTENTION_WEIGHTS and _is_attention(layer)
    if isinstance(layer, SparseLinear):
        return attribute == "values"
    if is_transposed_linear(layer):
        return attribute == "weight"
    return tuple(parameter.shape) == weight_shape(layer)


def is_transposed_linear(layer: nn.Module) -> bool:
    """Whether this is Hugging Face's Conv1D: a Linear whose weight is (in, out)."""
    transformers = sys.modules.get("transformers.pytorch_utils")
    return transformers is not None and isinstance(layer, transformers.Conv1D)


def _is_attention(module: nn.Module) -> bool:
    """Whether a module computes what MultiheadAttention does."""
    return isinstance(module, nn.MultiheadAttention) and type(module).forward is nn.MultiheadAttention.forward


def _input_projections(
    layer: nn.MultiheadAttention, query: Tensor, key: Tensor, value: Tensor
) -> Iterator[tuple[str, slice | None, Tensor, Tensor]]:
    """Attribute and rows of the weight, inputs and outputs of each input projection."""
    size, bias, packed = layer.embed_dim, layer.in_proj_bias, layer.in_proj_weight
    if packed is not None and query is key and key is value:
        yield "in_proj_weight", None, query, F.linear(query, packed, bias)
        return
    for number, (letter, inputs) in enumerate(zip("qkv", (query, key, value), strict=True)):
        rows = slice(number * size, (number + 1) * size)
        own_bias = bias[rows] if bias is not None else None
        if packed is not None:
            yield "in_proj_weight", rows, inputs, F.linear(inputs, packed[rows], own_bias)
        else:
            attribute = f"{letter}_proj_weight"
            yield attribute, None, inputs, F.linear(inputs, getattr(layer, attribute), own_bias)


def _resolved_overrides(module: nn.Module, names: Collection[str], read_at: Mapping[str, str]) -> dict[str, nn.Module]:
    """The modules of `read_at` by parameter name."""
    modules, resolved = dict(module.named_modules(remove_duplicate=False)), {}
    for layer, place in read_at.items():
        name = layer if layer in names else f"{layer}.weight"
        if name not in names:
            raise ValueError(f"Expected read_at to name layers that are sparse, got {layer!r}")
        if place not in modules:
            raise ValueError(f"Expected read_at to name a module of the model for {layer!r}, got {place!r}")
        if name.endswith(_ATTENTION_WEIGHTS):
            raise ValueError(f"Expected read_at to name layers with an output of their own, got {layer!r}")
        resolved[name] = modules[place]
    return resolved


def _is_compiled(module: nn.Module) -> bool:
    """Whether torch.compile has a hand in this module or in one inside it."""
    lightning = getattr(module, "_compiler_ctx", None)
    return lightning is not None or any(
        each._compiled_call_impl or hasattr(each, "_orig_mod") for each in module.modules()
    )


def _may_follow(module: nn.Module) -> bool:
    """Whether a module could be the normalisation or activation after a layer: a leaf with no matrix of its own."""
    if (
        isinstance(module, (torch.jit.ScriptModule, SparseLinear, *_NOT_ACTIVITY))
        or next(module.children(), None) is not None
    ):
        return False
    return isinstance(module, nn.LayerNorm) or all(map(_is_no_matrix, module.parameters()))


def _is_no_matrix(parameter: nn.Parameter) -> bool:
    return not isinstance(parameter, UninitializedParameter) and parameter.dim() <= 1
