"""The masks of a model and their enforcement: inactive weights are zero, whatever an optimizer does."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook
from torch.utils.hooks import RemovableHandle

from sparse_lightning.functional.masks import fingerprint, mask_of, positions_of, zero_inactive_
from sparse_lightning.nn.sparse_linear import SparseLinear, named_weights, sparse_layers

METADATA = "sparse_lightning.masks"  # the key of the masks in the metadata of a state_dict
_BOUND: WeakValueDictionary[int, "Masks"] = WeakValueDictionary()  # those that a model was ever given, while they live


class Masks(Mapping[str, Tensor]):
    """Boolean masks by parameter name, and the model whose weights they belong to.

    The mask of a :class:`~sparse_lightning.SparseLinear` is its topology, made when it is asked for; nothing has to be
    enforced there.

    Weights are looked up by name at every use, in the module that owns them, so that a parameter or a storage that is
    replaced is met all the same. `all_weights` walks the whole model and finds owners that were replaced too.
    """

    def __init__(self) -> None:
        self._masks: dict[str, Tensor] = {}
        self._layers: dict[str, SparseLinear] = {}
        self._names: list[str] = []
        self._module: nn.Module | None = None
        self._owners: dict[str, tuple[nn.Module, str]] = {}
        self._enforced: dict[str, tuple[int, int] | None] = {}
        self._handle: RemovableHandle | None = None

    def __getitem__(self, name: str) -> Tensor:
        """Return the mask of a weight."""
        return self._layers[name].mask if name in self._layers else self._masks[name]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names."""
        return iter(self._names)

    def __len__(self) -> int:
        """Return the number of masks."""
        return len(self._names)

    @property
    def read_only(self) -> Mapping[str, Tensor]:
        """The masks, for others to read."""
        return MappingProxyType(self)

    @property
    def stored(self) -> Mapping[str, Tensor]:
        """The masks of dense weights."""
        return MappingProxyType(self._masks)

    @property
    def layers(self) -> Mapping[str, SparseLinear]:
        """The layers that store their connections alone, by the name of their weight."""
        return MappingProxyType(self._layers)

    @property
    def sizes(self) -> dict[str, tuple[int, torch.Size]]:
        """The number of active connections and the shape of each weight."""
        counts = {name: (int(mask.count_nonzero()), mask.shape) for name, mask in self._masks.items()}
        counts |= {name: (len(layer.values), layer.weight.shape) for name, layer in self._layers.items()}
        return {name: counts[name] for name in self}

    @property
    def fingerprints(self) -> dict[str, int]:
        """A hash of each topology, by which processes compare theirs."""
        topologies = self._masks | {name: layer.positions for name, layer in self._layers.items()}
        return {name: fingerprint(topologies[name]) for name in self}

    @property
    def module(self) -> nn.Module | None:
        """The model, None before its setup."""
        return self._module

    def replace(
        self, masks: Mapping[str, Tensor], layers: Mapping[str, SparseLinear] | None = None, order: Sequence[str] = ()
    ) -> None:
        """Take these masks and layers in place of what there was, in the order of these names."""
        self._layers = dict(layers or {})
        self._masks = {name: mask for name, mask in masks.items() if name not in self._layers}
        known = [*self._masks, *self._layers]
        self._names = [name for name in order if name in known] or known
        self._owners = {}

    def bind(self, module: nn.Module | None) -> None:
        """Look weights up in this model from now on."""
        self._module, self._owners = module, {}
        _BOUND[id(self)] = self

    def weight(self, name: str) -> nn.Parameter:
        """Return the parameter of a weight of the model, and bring its mask to its device.

        Raises:
            AttributeError: The model has no such parameter any more.
        """
        if name in self._layers:
            return self._layers[name].values
        if name not in self._owners:
            assert self._module is not None
            path, _, attribute = name.rpartition(".")
            self._owners[name] = self._module.get_submodule(path), attribute
        owner, attribute = self._owners[name]
        weight: nn.Parameter = getattr(owner, attribute)
        if self._masks[name].device != weight.device:
            self._masks[name] = self._masks[name].to(weight.device)
        return weight

    def weights(self) -> dict[str, nn.Parameter]:
        """Return all dense weights with a mask by name, from a walk through the whole model."""
        self._owners = {}
        return {name: self.weight(name) for name in self._masks}

    def enforce(self, names: Iterator[str] | Sequence[str] | None = None) -> None:
        """Zero the inactive weights."""
        for name in self._masks if names is None else [name for name in names if name in self._masks]:
            weight = self.weight(name)
            zero_inactive_(weight, self._masks[name])
            self._enforced[name] = _version(weight)

    def enforce_changed(self) -> None:
        """Zero the inactive weights where PyTorch has counted a change since they were zeroed last.

        That costs next to nothing where none was changed. Changes through ``.data`` are not counted.
        """
        # Twice in each batch, so without the care of `weight`: one that it has not met yet counts as changed.
        owners, enforced = self._owners, self._enforced
        changed = [
            name
            for name in self._masks
            if name not in owners or _version(owners[name][0]._parameters.get(owners[name][1])) != enforced.get(name, 0)
        ]
        if changed:
            self.enforce(changed)

    def positions(self, name: str) -> Tensor:
        """Return the positions of the active connections of a weight, sorted."""
        return self._layers[name].positions if name in self._layers else positions_of(self._masks[name])

    def values_at(self, name: str, positions: Tensor) -> Tensor:
        """Return the weights of active connections at these positions."""
        weight = self.weight(name).detach()
        if name in self._layers:
            return weight[torch.searchsorted(self._layers[name].positions, positions)]
        return weight[torch.unravel_index(positions, weight.shape)]

    @torch.no_grad()
    def move(self, name: str, dropped: Tensor, grown: Tensor, grown_values: Tensor | float = 0.0) -> Tensor:
        """Give a weight other connections, by their positions; those that become inactive lose their weights.

        Args:
            name: The weight.
            dropped: Positions that become inactive.
            grown: Positions that become active.
            grown_values: What these start at: a number, or a value for each.

        Returns:
            The mask of the connections that have changed; of a SparseLinear, the index of each connection in its old
            values, -1 for one that has grown.
        """
        if name in self._layers:
            return self._layers[name].rewire(dropped, grown, grown_values=grown_values)
        mask = self._masks[name]
        changed = mask_of(torch.cat([dropped, grown]), mask.shape)
        mask.logical_xor_(changed)  # in place, so that views of it stay true
        self.enforce([name])
        if isinstance(grown_values, Tensor):
            weight = self.weight(name)
            weight[torch.unravel_index(grown, mask.shape)] = grown_values.to(weight.dtype)
        return changed

    def repair(self) -> list[str]:
        """Zero the inactive weights, and return the names of those weights that had any that were not zero."""
        found = [name for name, weight in self.weights().items() if is_off(weight, self._masks[name])]
        self.enforce(found)
        return found

    def dead(self, module: nn.Module) -> dict[str, int]:
        """Return how many active connections of each weight of a model are exactly zero."""
        weights, layers = named_weights(module), sparse_layers(module)
        zeros = {name: weights[name].detach() == 0 for name in self}
        return {name: int((each if name in layers else each & self[name]).sum()) for name, each in zeros.items()}

    def attach(self, repair: Callable[[], object]) -> None:
        """Have every ``state_dict`` of the model carry the masks in its metadata, which plain PyTorch ignores.

        Args:
            repair: Called before that: it zeroes inactive weights that are not zero.
        """
        self.detach()
        if self._module is not None:
            module: Any = self._module
            self._handle = module.register_state_dict_post_hook(partial(self._write_metadata, repair))

    def detach(self) -> None:
        """Leave the model as plain as it was."""
        if self._handle is not None:
            self._handle.remove()
        self._handle = None

    def _write_metadata(
        self,
        repair: Callable[[], object],
        module: nn.Module,
        state_dict: dict[str, Any],
        prefix: str,
        metadata: dict[str, Any],
    ) -> None:
        if module is self._module:
            repair()  # the tensors of a state_dict share the memory of the weights
            metadata[METADATA] = metadata.get(METADATA, {}) | self._masks  # beside those of another callback

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles carry the masks, not the model."""
        return Masks().__dict__ | {"_masks": self._masks, "_names": list(self._masks)}


class StepHook:
    """Calls a function after each step of each optimizer in this process that holds one of some weights.

    PyTorch's hook on all optimizers is used, so those that are made later, that no Trainer knows, or that other
    optimizers contain are met too.
    """

    def __init__(self) -> None:
        self._handle: RemovableHandle | None = None
        self._held: dict[int, tuple[tuple[int, ...], list[str]]] = {}

    def attach(self, names_of: Callable[[Optimizer], list[str]], call: Callable[[Optimizer, list[str]], None]) -> None:
        """Start to call.

        Args:
            names_of: Gives the names of the masked weights that an optimizer holds; asked anew when its groups change.
            call: Called with the optimizer that has stepped and those names.
        """
        self.detach()

        def after_step(optimizer: Optimizer, *_: Any) -> None:
            groups = tuple(len(group["params"]) for group in optimizer.param_groups)
            known, names = self._held.get(id(optimizer), (None, []))
            if known != groups:
                names = names_of(optimizer)
                self._held[id(optimizer)] = groups, names
            if names:
                call(optimizer, names)

        self._handle = register_optimizer_step_post_hook(after_step)

    @property
    def attached(self) -> bool:
        """Whether it is calling."""
        return self._handle is not None

    def has_met(self, optimizer: Optimizer) -> bool:
        """Return whether an optimizer has stepped since `attach` or `forget`."""
        return id(optimizer) in self._held

    def forget(self) -> None:
        """Ask anew which weights each optimizer holds."""
        self._held = {}

    def detach(self) -> None:
        """Stop to call."""
        if self._handle is not None:
            self._handle.remove()
        self._handle, self._held = None, {}

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles carry no hook."""
        return StepHook().__dict__


def masks_of(module: nn.Module) -> dict[str, Tensor]:
    """Return the masks that callbacks which still exist have given a model, those that its weights are on, by name."""
    given = (pair for masks in list(_BOUND.values()) if masks.module is module for pair in masks.items())
    weights = dict(module.named_parameters())
    return {name: mask for name, mask in given if name not in weights or agrees(weights[name], mask)}


def agrees(weight: Tensor, mask: Tensor) -> bool:
    """Return whether a weight has the shape of a mask and is on it."""
    return weight.shape == mask.shape and not is_off(weight, mask.to(weight.device))


def is_off(weight: Tensor, mask: Tensor) -> bool:
    """Return whether an inactive weight is anything but zero; NaN and infinity are."""
    # Compared as bytes: several times faster on CPUs than as booleans, or by selecting.
    return bool((weight.detach().bool().view(torch.uint8) > mask.view(torch.uint8)).any())


def _version(weight: Tensor | None) -> tuple[int, int] | None:
    """The memory of a weight, and how often it has been changed in place; None where PyTorch does not count."""
    try:
        return None if weight is None else (weight.data_ptr(), weight._version)
    except RuntimeError:  # of an inference tensor
        return None
