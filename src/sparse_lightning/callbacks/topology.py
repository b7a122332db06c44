"""The sparse weights of a model: found, given their first masks, and kept on them."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from fractions import Fraction
from types import MappingProxyType
from typing import Any, get_args

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor, nn
from torch.optim import Optimizer

from sparse_lightning.callbacks.averages import parameters_of_averages
from sparse_lightning.callbacks.initial import (
    InitializationName,
    InitialName,
    fan_in_scale,
    first_mask,
    has_topology,
    looks_trained,
    loses_signal,
    resolved,
)
from sparse_lightning.callbacks.layout import LayoutName, store_as_csr
from sparse_lightning.callbacks.masks import Masks, agrees
from sparse_lightning.callbacks.optimizer_state import trained_by
from sparse_lightning.callbacks.saliency import SALIENCIES, saliency_masks
from sparse_lightning.callbacks.selection import Choice, Selection, layer_name
from sparse_lightning.functional.checks import expect, named
from sparse_lightning.functional.masks import positions_of
from sparse_lightning.nn.sparse_linear import named_weights, sparse_layers, weight_shapes

_DRAWN = ("random", "receptive_field")


class Topology:
    """The masks of a model's weights, from the choice of the weights to their enforcement.

    Args:
        selection: Which weights are trained sparse.
        initial: Where their first connections come from; see :func:`~sparse_lightning.callbacks.initial.first_mask`;
            or masks by parameter name.
        initialization: Whether fresh weights are scaled to each unit's actual fan-in.
        layout: How weights are stored; see :mod:`sparse_lightning.callbacks.layout`.
    """

    def __init__(
        self,
        selection: Selection,
        initial: InitialName | Mapping[str, Tensor],
        initialization: InitializationName = "dense",
        layout: LayoutName = "masked",
    ) -> None:
        self.selection = selection
        self.initialization: InitializationName = initialization
        self.layout: LayoutName = layout
        named("initialization", initialization, dict.fromkeys(get_args(InitializationName)))
        named("layout", layout, dict.fromkeys(get_args(LayoutName)))
        self._stored: set[str] = set()
        self.masks = Masks()
        self.dense: Mapping[str, str] = {}
        self.awaiting: dict[str, int] = {}  # weights that the first batch will choose for, with their share
        self._given: set[str] = set()
        self._pending: tuple[str, ...] = ()
        self._trained = False
        self._announcement = ""  # how the first connections were chosen, until it is logged
        self._warned: set[str] = set()
        self._initial: InitialName = initial if isinstance(initial, str) else "auto"
        named("initial", self._initial, dict.fromkeys(get_args(InitialName)))
        if self.by_first_batch:
            expect(layout == "masked", f"layout='masked' for initial={initial!r}, which begins dense", layout)
        if (self.by_first_batch or initial == "receptive_field") and selection.structure is not None:
            raise ValueError(f"Expected structure=None for initial={initial!r}, which keeps none, got one")
        if not isinstance(initial, str):
            self.start_from(initial)

    @property
    def by_first_batch(self) -> bool:
        """Whether the first connections are chosen by what they do on the first batch."""
        return self._initial in SALIENCIES

    def start_from(self, masks: Mapping[str, Tensor]) -> None:
        """Take masks, by parameter name, in place of what there was; dense weights are cut to them.

        Raises:
            ValueError: One of them is no boolean mask.
        """
        for name, mask in masks.items():
            valid = isinstance(mask, Tensor) and mask.dtype == torch.bool
            expect(valid, f"a boolean mask for {name!r}", mask.dtype if isinstance(mask, Tensor) else mask)
        self.masks.replace({name: mask.clone() for name, mask in masks.items()})
        self._given = set(masks)

    def choose(
        self, module: nn.Module, optimizers: Iterable[Optimizer], known: Mapping[str, int] = MappingProxyType({})
    ) -> Choice:
        """Choose the weights to train sparse: those selected that require gradients and are in an optimizer.

        Without any optimizer, all that require gradients count as trained. An average of other weights does not, even
        if it is in an optimizer by mistake.
        """
        held, averages = trained_by(optimizers), parameters_of_averages(module)

        def trained(weight: nn.Parameter) -> bool:
            return weight.requires_grad and (not held or id(weight) in held) and id(weight) not in averages

        return self.selection.choose(module, trained, known)

    def begin(self, module: nn.Module, optimizers: Iterable[Optimizer], seed: int, loaded: bool) -> bool:
        """Give every chosen weight its mask and zero what is inactive.

        Weights that agree with the masks from before keep them. Weights that have changed since bring their own
        topology, or are cut anew.

        Args:
            module: The model.
            optimizers: Those that train it.
            seed: Decides random masks, with the weight's name.
            loaded: Whether the weights come from a checkpoint.

        Returns:
            Whether masks from before were replaced.
        """
        parameters, shapes, layers = named_weights(module), weight_shapes(module), sparse_layers(module)
        if loaded:  # connections that were chosen when the weights were stored have given way to the checkpoint's
            self._announcement = ""
        for name in self._given:
            expect(name in shapes, f"masks to start from of weights of the model, such as {next(iter(shapes))!r}", name)
            ours, own = list(self.masks[name].shape), list(shapes[name])
            expect(ours == own, f"a mask to start {name!r} from of the weight's shape {own}", ours)
            if name in layers:
                layers[name].set_positions(positions_of(self.masks[name]).to(layers[name].values.device))
        replaced = [
            name
            for name in self.masks.stored
            if name not in layers and not self._agrees(name, parameters.get(name), shapes.get(name))
        ]
        self.masks.replace({name: mask for name, mask in self.masks.stored.items() if name not in replaced})
        self._given = set()
        self._trained = loaded or looks_trained(module)
        self.extend(module, optimizers, seed)
        self.masks.enforce()
        return bool(replaced)

    def extend(self, module: nn.Module, optimizers: Iterable[Optimizer], seed: int) -> list[str]:
        """Give masks to weights that are trained and have none yet: new, thawed, or no longer lazy.

        Returns:
            Their names.
        """
        parameters, shapes, layers = named_weights(module), weight_shapes(module), sparse_layers(module)
        known = {name: mask for name, mask in self.masks.stored.items() if shapes.get(name) == mask.shape}
        choice = self.choose(module, optimizers, {name: int(mask.count_nonzero()) for name, mask in known.items()})
        self._refuse_untrained(layers, choice)
        if not (choice.counts or choice.pending or self.masks or "not trained" in choice.dense.values()):
            raise ValueError(
                "Expected a model with trainable Linear or convolution layers, got "
                f"{type(module).__name__} without any that are chosen"
            )
        self._warn_of_custom(choice.custom)
        self.dense, self._pending = choice.dense, choice.pending
        new = {
            name: first_mask(
                name, parameters[name].detach(), count, seed, self._initial, self._trained, self.selection.structure
            )
            for name, count in choice.counts.items()
            if name not in known and name not in layers
        }
        ways = {name: resolved(self._initial, parameters[name].detach(), self._trained) for name in new}
        chosen_layers = {name: layer for name, layer in layers.items() if name in choice.counts}
        self.masks.replace(known | new, chosen_layers, order=list(parameters))
        self.masks.bind(module)
        self._refuse_unstructured(shapes)
        self.masks.enforce(list(new))
        self._initialise(module, {name: mask for name, mask in new.items() if ways[name] in _DRAWN})
        if self.by_first_batch:
            self.awaiting |= {name: choice.counts[name] for name in new}
        if new:
            trained = "trained " if self._trained else ""
            counted = [
                f"{way} for {count} {trained}weight{'s' if count > 1 else ''}"
                for way, count in Counter(ways.values()).items()
            ]
            hint = "" if self._trained or self._initial != "auto" else " For loaded weights, initial='magnitude'."
            words = ", ".join(counted)
            self._announcement = f"The first connections are chosen by initial={self._initial!r}: {words}.{hint}"
        return list(new)

    def announce(self) -> None:
        """Say how the first connections of new weights were chosen."""
        if self._announcement:
            rank_zero_info(self._announcement)
        self._announcement = ""

    def choose_by_batch(self, trainer: Trainer, module: LightningModule, batch: Any, seed: int) -> None:
        """Choose the first connections of the weights that await their first batch."""
        masks = saliency_masks(self._initial, trainer, module, self.awaiting, batch, seed)
        self.awaiting = {}
        self.masks.replace({**self.masks.stored, **masks}, self.masks.layers, order=list(self.masks))
        self.masks.bind(module)
        self._initialise(module, masks)
        self.masks.enforce()

    def store(self, module: nn.Module, batch_size: int | None = None) -> None:
        """Store the weights as `layout` says, before optimizers are made."""
        store_as_csr(module, self.masks.stored, self.layout, batch_size)
        self._stored = set(sparse_layers(module))
        layers = {name: layer for name, layer in sparse_layers(module).items() if name in self.masks}
        self.masks.replace(self.masks.stored, layers, order=list(self.masks))

    def scheduled_counts(self, names: Collection[str], progress: Fraction) -> dict[str, int]:
        """Return how many connections a schedule of the density gives these weights; none without a schedule.

        A SparseLinear of the model's own keeps its number.
        """
        module = self.masks.module
        own = [name for name in names if name not in self.masks.layers or name in self._stored]
        return {} if module is None else self.selection.scheduled_counts(module, own, progress)

    def waits_for(self, module: nn.Module, optimizer: Optimizer) -> bool:
        """Return whether an optimizer holds weights that may have to be given masks, or lazy ones are awaited."""
        held = trained_by([optimizer])
        known = {id(self.masks.weight(name)) for name in self.masks}
        return bool(self._pending) or any(
            weight.requires_grad and id(weight) in held and id(weight) not in known and weight.dim() > 1
            for weight in module.parameters()
        )

    def held_by(self, optimizer: Optimizer) -> list[str]:
        """Return the names of the masked weights that an optimizer holds."""
        held = trained_by([optimizer])
        return [name for name in self.masks if id(self.masks.weight(name)) in held]

    def trained(self) -> list[str]:
        """Return the names of the masked weights that are not frozen now."""
        return [name for name in self.masks if self.masks.weight(name).requires_grad]

    def repair(self) -> list[str]:
        """Zero inactive weights that something other than an optimizer step has changed, and warn once of each."""
        found = [name for name in self.masks.repair() if name not in self._warned]
        if found:
            self._warned.update(found)
            rank_zero_warn(
                f"Inactive connections of {', '.join(map(layer_name, found))} were not zero and have been zeroed. "
                "Something other than an optimizer step changed these weights: noise, a new initialisation, an average "
                "or a copy of other weights, or an optimizer's own evaluation mode."
            )
        return found

    @torch.no_grad()
    def _initialise(self, module: nn.Module, fresh: Mapping[str, Tensor]) -> None:
        """Scale fresh weights to each unit's actual inputs, or warn where that is needed and not asked for."""
        if self.initialization == "fan_in":
            for name, mask in fresh.items():
                self.masks.weight(name).mul_(fan_in_scale(mask))
        elif loses_signal(module, fresh):
            rank_zero_warn(
                "The weights were initialised for dense layers, and at this density the signal may die on its way "
                "through the network. initialization='fan_in' scales them to the connections that there are."
            )

    def _refuse_untrained(self, layers: Collection[str], choice: Choice) -> None:
        untrained = [layer_name(name) for name in layers if name in self._stored and name not in choice.counts]
        if untrained:
            raise ValueError(
                f"Expected an optimizer for {', '.join(untrained)}, got none: exclude them, since "
                f"layout={self.layout!r} replaces layers before there are optimizers"
            )

    def _refuse_unstructured(self, shapes: Mapping[str, torch.Size]) -> None:
        structure = self.selection.structure
        if structure is None:
            return
        for name in self.masks:
            if not structure.fits(self.masks.positions(name), shapes[name]):
                raise ValueError(f"Expected connections of {name!r} with the structure that is asked for, got others")

    def _agrees(self, name: str, weight: Tensor | None, shape: torch.Size | None) -> bool:
        mask = self.masks[name]
        if weight is None or shape != mask.shape:
            return False
        return agrees(weight, mask) or (name in self._given and not has_topology(weight))

    def _warn_of_custom(self, layers: Collection[str]) -> None:
        found = [name for name in layers if name not in self._warned]
        if found:
            self._warned.update(found)
            rank_zero_warn(
                f"The forward pass of {', '.join(found)} is their own. If they compute another weight from their "
                "parameter, as standardised convolutions do, that weight is not sparse: exclude them."
            )

    def state_dict(self) -> dict[str, Any]:
        """Return the masks of dense weights, but of those that await their first batch; others are in the model."""
        return {name: mask.clone() for name, mask in self.masks.stored.items() if name not in self.awaiting}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take the masks of a checkpoint."""
        self.masks.replace({name: mask.clone() for name, mask in state.items()}, self.masks.layers)
        self._given, self._announcement = set(), ""
