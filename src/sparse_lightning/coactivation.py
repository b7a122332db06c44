"""Coactivation: how often both ends of a connection were active at once."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

EXACT = 2**24  # up to here every whole number is a 32-bit float

# They keep a value's shape and yet do not tell an active unit: the first is noise, the others have always one sign.
_NOT_ACTIVITY = (
    nn.modules.dropout._DropoutNd,
    *(nn.Softmax, nn.Softmin, nn.LogSoftmax, nn.Sigmoid, nn.LogSigmoid, nn.Softplus),
)


def coactivation(inputs: Tensor, outputs: Tensor) -> Tensor:
    """How many samples had both the input and the output unit active, for each connection; active means above zero.

    Args:
        inputs: Values of the input units, (..., in), any floating type.
        outputs: Values of the output units, (..., out), with the same leading dimensions.

    Returns:
        Counts, int32, (out, in), exact up to 2^24 samples.

    >>> coactivation(torch.tensor([[1., 0.], [2., 3.]]), torch.tensor([[1.], [1.]]))
    tensor([[2, 1]], dtype=torch.int32)
    """
    return (_active(outputs).T @ _active(inputs)).int()


def _active(values: Tensor) -> Tensor:
    """1.0 where a unit's value is above zero, else 0.0; float32, (samples, units), whatever `values` are."""
    values = values.detach().reshape(-1, values.shape[-1])
    # On CPUs a comparison written into floats is several times faster than one into booleans.
    return torch.gt(values, 0, out=torch.empty(values.shape, device=values.device))


def _add(counts: Tensor, samples: int, inputs: Tensor, outputs: Tensor) -> Tensor:
    """Counts of `samples` samples with more of them added: in place as floats while those are exact, then as integers.

    Floats are added to by the product itself, in one pass.
    """
    if counts.is_floating_point() and samples + len(inputs) <= EXACT:
        return counts.addmm_(outputs.T, inputs)
    return counts.int() + (outputs.T @ inputs).int()


class Coactivation:
    """Counts the coactivation of every connection of some Linear layers while their model trains.

    An input unit's value is what the layer receives; an output unit's value is read after the normalisation and the
    activation that follow the layer. Which modules those are is found by watching the first training batch: a module
    follows when it takes exactly the tensor that the one before it gave, keeps its shape, has no matrix of its own and
    is neither dropout nor, like softmax, of one sign whatever it is given. An activation called as a function cannot be
    watched; after ReLU, GELU, SiLU or tanh a value is above zero exactly when it was before, so nothing is lost there.

    The callback drives it: `attach` before training, `count` after each batch, `detach` at the end.

    Args:
        count_validation: Count the validation samples too. That lets the images that judge the network steer its
            growth; it is here only to reproduce experiments that did so.

    Attributes:
        samples: For each weight, how many samples of this rank were counted.
        read_at: For each weight, the module whose output tells which of its output units are active.
    """

    def __init__(self, count_validation: bool = False) -> None:
        self.count_validation = count_validation
        self._counts: dict[str, Tensor] = {}
        self.samples: dict[str, int] = {}
        self.read_at: dict[str, nn.Module] = {}
        self._names: dict[nn.Module, str] = {}
        self._followers: dict[nn.Module, None] = {}
        self._calls: list[tuple[nn.Module, Tensor, Tensor, Tensor, Tensor]] = []
        self._open: dict[int, tuple[Tensor, str, Tensor]] = {}
        self._pairs: list[tuple[str, Tensor, Tensor]] = []
        self._last: tuple[Tensor, int, Tensor] | None = None
        self._handles: list[RemovableHandle] = []

    @property
    def counts(self) -> dict[str, Tensor]:
        """For each weight, how many samples of this rank had both units active: int32, (out, in), by parameter name."""
        return {name: counts.int() for name, counts in self._counts.items()}

    def attach(self, module: nn.Module, layers: Mapping[str, nn.Linear]) -> None:
        """Start counting on `layers`, {parameter name: layer}, all of them parts of `module`."""
        self.detach()
        self._names = {layer: name for name, layer in layers.items()}
        for name, layer in layers.items():
            counts = self._counts.get(name, torch.zeros_like(layer.weight, dtype=torch.float32))
            self._counts[name] = counts.detach().to(layer.weight.device)
            self.samples.setdefault(name, 0)
        for part in module.modules():
            if part in self._names or _may_follow(part):
                self._handles.append(part.register_forward_hook(self._watch))

    def detach(self) -> None:
        """Stop counting; the counts stay."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._calls, self._pairs, self._open, self._last = [], [], [], {}, None
        self._names, self._followers, self.read_at = {}, {}, {}

    def count(self) -> None:
        """Take the forward passes since the last call into the counts."""
        if self._calls:
            self._settle()
        for name, inputs, outputs in self._pairs:
            self._counts[name] = _add(self._counts[name], self.samples[name], inputs, outputs)
            self.samples[name] += len(inputs)
        self._pairs.clear()
        self._open.clear()
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
        if not self.samples[name]:
            raise RuntimeError(
                f"Expected the layer of {name!r} to have been called in training, but no call was seen: coactivation "
                "is counted where a Linear is called as a module. To leave it out, name the other layers in density"
            )
        return _summed(self._counts[name].int())

    def state_dict(self) -> dict[str, Any]:
        """Counts and samples by parameter name; a collective operation when training is distributed."""
        counts = {name: _summed(counts) for name, counts in self.counts.items()}
        return {"counts": counts, "samples": dict(self.samples)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from saved counts; they stand for all ranks, so the first takes them and the others start at 0."""
        first = not _distributed() or torch.distributed.get_rank() == 0
        self._counts = {
            name: counts.clone() if first else torch.zeros_like(counts) for name, counts in state["counts"].items()
        }
        self.samples = dict(state["samples"])

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles carry the counts, not the hooks on one model's modules."""
        return Coactivation(self.count_validation).__dict__ | {"_counts": self._counts, "samples": self.samples}

    def _counts_in(self, part: nn.Module) -> bool:
        return part.training or self.count_validation

    def _watch(self, part: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if not (self._counts_in(part) and args and isinstance(args[0], Tensor) and isinstance(output, Tensor)):
            return
        if part in self._names or args[0].shape == output.shape:
            # Activity is taken at once, since later operations may change the tensors in place.
            self._calls.append((part, args[0], _active(args[0]), output, _active(output)))

    def _settle(self) -> None:
        """Follow each layer's output through the watched calls; once all layers were seen, hook only what is read."""
        for number, (part, _, inputs, value, outputs) in enumerate(self._calls):
            if part not in self._names:
                continue
            name, end = self._names[part], part
            for follower, taken, _, given, active in self._calls[number + 1 :]:
                if taken is value and follower not in self._names:
                    self._followers[follower] = None
                    end, value, outputs = follower, given, active
            # A layer called several times, to be read at different places, is read at its own output.
            self.read_at[name] = end if self.read_at.get(name, end) is end else part
            self._pairs.append((name, inputs, outputs))
        self._calls = []
        if len(self.read_at) == len(self._names):
            for handle in self._handles:
                handle.remove()
            self._handles = [layer.register_forward_hook(self._enter) for layer in self._names]
            self._handles += [follower.register_forward_hook(self._follow) for follower in self._followers]

    def _enter(self, layer: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        name = self._names.get(layer)  # a copy of the model has copies of the hooks, and is not counted
        if name is not None and args and self._counts_in(layer):
            last = self._last
            known = last is not None and last[0] is args[0] and last[1] == args[0]._version  # and not changed in place
            self._read(layer, name, last[2] if last is not None and known else _active(args[0]), output)

    def _follow(self, follower: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        if args and self._open and (found := self._open.pop(id(args[0]), None)):
            self._read(follower, *found[1:], output)

    def _read(self, part: nn.Module, name: str, inputs: Tensor, output: Tensor) -> None:
        if self.read_at[name] is part:
            active = _active(output)
            self._last = output, output._version, active  # what the next layer takes, as a rule
            self._pairs.append((name, inputs, active))
        else:
            self._open[id(output)] = (output, name, inputs)  # holds the tensor, so that its id stays its own


def _may_follow(part: nn.Module) -> bool:
    """Whether a module could be the normalisation or activation after a layer: a leaf with no matrix of its own."""
    is_leaf = next(part.children(), None) is None
    has_matrix = any(parameter.dim() > 1 for parameter in part.parameters()) and not isinstance(part, nn.LayerNorm)
    return is_leaf and not has_matrix and not isinstance(part, _NOT_ACTIVITY)


def _summed(counts: Tensor) -> Tensor:
    """The sum over all ranks; on one alone, the counts themselves."""
    if _distributed():
        counts = counts.clone()
        torch.distributed.all_reduce(counts)
    return counts


def _distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
