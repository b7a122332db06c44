"""The momentum of each weight, as the optimizer keeps it; of inactive connections too."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, Adamax, NAdam, Optimizer, RAdam
from torch.utils.hooks import RemovableHandle

from sparse_lightning.criteria.ranks import mean_over_ranks
from sparse_lightning.functional.csr import contains
from sparse_lightning.nn.sparse_linear import SparseLinear, sparse_layers

_KNOWN = (SGD, Adam, Adamax, NAdam, RAdam)  # whose running mean is known, AdamW among them


class Momentum:
    """The running mean of each weight's gradient, read from the optimizer's state.

    For a layer that stores its connections alone the optimizer knows nothing of the others. The mean of its whole
    gradient is kept here then, as the optimizer would, and takes in x out in memory and a dense product each step. It
    is scaled as the gradient of the connections is, by the clipping of norms and by mixed precision. A step whose
    gradient is not finite, and the one after, are left out.
    """

    def __init__(self) -> None:
        self._module: nn.Module | None = None
        self._optimizers: Sequence[Optimizer] = ()
        self._layers: dict[str, SparseLinear] = {}
        self._means: dict[str, Tensor] = {}  # of the layers that store their connections alone, (out, in)
        self._positions: dict[str, Tensor] = {}  # of their connections when the mean was last taken
        self._handles: list[RemovableHandle] = []

    def attach(self, module: nn.Module, names: Collection[str], optimizers: Sequence[Optimizer] = ()) -> None:
        """Remember which optimizers train the model, and keep means where they do not.

        Raises:
            ValueError: An optimizer that trains one of the weights keeps no momentum, or one that is not known how.
        """
        self.detach()
        self._module, self._optimizers = module, optimizers
        self._layers = {name: layer for name, layer in sparse_layers(module).items() if name in names}
        for name in names:
            weight = self._weight(name)
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    if any(weight is other for other in group["params"]):
                        _expect_momentum(name, optimizer, group, stored_alone=name in self._layers)
        for optimizer in optimizers if self._layers else ():
            self._handles.append(optimizer.register_step_post_hook(self._after_step))
        for layer in self._layers.values():
            layer.record_gradient()

    def detach(self) -> None:
        """Release the model and the optimizers; means stay."""
        for handle in self._handles:
            handle.remove()
        for layer in self._layers.values():
            layer.record_gradient(False)
        self._module, self._optimizers, self._handles, self._layers = None, (), [], {}

    def of(self, name: str) -> Tensor:
        """Return the momentum of one weight, (out, in, ...): SGD's buffer, or Adam's first moment.

        Raises:
            ValueError: There is none yet.
        """
        momentum = self._find(name)
        if momentum is None:
            raise ValueError("Expected momentum to grow by, got none: rewire after an optimizer step")
        if name not in self._layers:
            return momentum
        self._forget_moved(name)
        whole = self._means[name].to(momentum.device, copy=True)
        whole.view(-1)[self._layers[name].positions] = (
            momentum  # with weight decay, which inactive connections have none of
        )
        return whole

    def missing(self, names: Collection[str]) -> list[str]:
        """Return those of these weights that have no momentum."""
        return [name for name in names if self._find(name) is None or (name in self._layers) > (name in self._means)]

    def count(self) -> None:
        """Record the gradients of the next step."""
        for layer in self._layers.values():
            layer.record_gradient()

    def reset(self) -> None:
        """Forget the means of connections that have moved; those of the others run on."""
        for name in self._layers:
            self._forget_moved(name)

    def state_dict(self) -> dict[str, Any]:
        """Return the means that no optimizer keeps, with the connections that they belong to."""
        return {"means": dict(self._means), "positions": dict(self._positions)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint."""
        self._means = {name: mean.clone() for name, mean in state.get("means", {}).items()}
        self._positions = dict(state.get("positions", {}))

    def __eq__(self, other: object) -> bool:
        """Two of them read the same."""
        return isinstance(other, Momentum)

    __hash__ = None  # type: ignore[assignment]

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles carry no model."""
        return Momentum().__dict__ | {"_means": self._means, "_positions": self._positions}

    def _weight(self, name: str) -> Tensor:
        assert self._module is not None
        return self._layers[name].values if name in self._layers else self._module.get_parameter(name)

    def _find(self, name: str) -> Tensor | None:
        weight = self._weight(name)
        for optimizer in self._optimizers:
            state = optimizer.state.get(weight, {})
            for key in ("momentum_buffer", "exp_avg"):
                momentum = state.get(key)
                if isinstance(momentum, Tensor):
                    return momentum
        return None

    @torch.no_grad()
    def _after_step(self, optimizer: Optimizer, *_: Any) -> None:
        groups = {id(weight): group for group in optimizer.param_groups for weight in group["params"]}
        for name, layer in self._layers.items():
            if id(layer.values) in groups and layer.values.grad is not None and layer.has_recorded:
                gradient = layer.dense_gradient()
                assert gradient is not None
                self._take(name, _as_stepped(name, layer, mean_over_ranks(gradient)), groups[id(layer.values)])
                layer.drop_gradient()

    def _take(self, name: str, gradient: Tensor | None, group: Mapping[str, Any]) -> None:
        """Take a gradient into the mean of one layer, as its optimizer does."""
        if "betas" in group:
            decay, share, first = group["betas"][0], 1 - group["betas"][0], 1 - group["betas"][0]
        else:
            decay, share, first = group["momentum"], 1 - group["dampening"], 1.0
        if gradient is None:
            return
        signed = -gradient if group.get("maximize") else gradient
        if name in self._means:
            self._means[name] = self._means[name].to(signed.device)
            self._forget_moved(name)
            self._means[name].mul_(decay).add_(signed, alpha=share)
        else:
            self._means[name], self._positions[name] = signed * first, self._layers[name].positions

    def _forget_moved(self, name: str) -> None:
        positions = self._layers[name].positions
        known = self._positions.get(name, positions).to(positions.device)
        if name in self._means and not positions.equal(known):
            self._means[name] = self._means[name].to(positions.device)
            moved = torch.cat([known[~contains(positions, known)], positions[~contains(known, positions)]])
            self._means[name].view(-1)[moved] = 0
            self._positions[name] = positions


def _expect_momentum(name: str, optimizer: Optimizer, group: Mapping[str, Any], *, stored_alone: bool) -> None:
    if not (group.get("momentum") or "betas" in group):
        raise ValueError(
            f"Expected an optimizer with momentum for {name!r} to grow by, such as SGD(momentum=0.9) or Adam, got "
            f"{type(optimizer).__name__} without"
        )
    if stored_alone and not isinstance(optimizer, _KNOWN):
        raise ValueError(
            f"Expected SGD or an Adam of torch.optim for the momentum of {name!r} with layout='csr', got "
            f"{type(optimizer).__name__}: use layout='masked'"
        )


def _as_stepped(name: str, layer: SparseLinear, gradient: Tensor) -> Tensor | None:
    """A recorded gradient, scaled as the one that the optimizer has stepped by; None if it is not finite.

    Raises:
        ValueError: They differ by more than a factor.
    """
    stepped, recorded = layer.values.grad, gradient.flatten().index_select(0, layer.positions)
    assert stepped is not None
    length = recorded.square().sum()
    if not length.isfinite() or not stepped.isfinite().all():
        return None
    factor = (stepped * recorded).sum() / length if length > 0 else torch.ones_like(length)
    if (stepped - factor * recorded).norm() > 1e-2 * stepped.norm() + 1e-12:
        raise ValueError(
            f"Expected {name!r} to be stepped by the gradient of its last backward passes for the momentum of inactive "
            "connections, got another: gradients clipped by value or not set to None; use layout='masked'"
        )
    return gradient * factor
