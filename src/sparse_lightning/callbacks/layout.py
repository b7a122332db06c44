"""How sparse weights are stored: dense with zeros (masked), or as a SparseLinear's connections alone (csr)."""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from sparse_lightning.callbacks.selection import layer_name
from sparse_lightning.nn.sparse_linear import CSR_PARTS, SparseLinear, join_weights, store_by_feature

LayoutName = Literal["masked", "csr", "auto"]

# The highest density at which a training step of a Linear took less time on its connections than masked, for layers of
# 256^2, 512^2, 1024^2 and 2048^2 weights, by batch size: docs/benchmarks.md, `scripts/benchmark.py --only layer`.
# Smaller layers never pay.
PAYS = {32: (0.0, 0.15, 0.2, 0.2), 128: (0.02, 0.15, 0.2, 0.2), 512: (0.05, 0.1, 0.1, 0.05)}
_SIZES = (2**17, 2**19, 2**21)  # between those that were measured


def store_as_csr(
    module: nn.Module, masks: Mapping[str, Tensor], layout: LayoutName, batch_size: int | None = None
) -> None:
    """Replace Linear layers by :class:`~sparse_lightning.SparseLinear` with the same weights at their connections.

    Args:
        module: The model.
        masks: The masks of its sparse weights, by parameter name.
        layout: ``"csr"`` replaces every layer of these weights; ``"auto"`` those where that saves time.
        batch_size: How many samples a batch has, if that is known; it decides what saves time.

    Raises:
        ValueError: With ``"csr"``, a layer cannot be replaced; each is named with the reason.
    """
    reasons = {name: reason for name in masks if (reason := obstacle(module, name))}
    if layout == "csr" and reasons:
        listed = ", ".join(f"{layer_name(name)} ({reason})" for name, reason in reasons.items())
        raise ValueError(
            f"Expected layers that can be stored as csr, got {listed}: exclude them, or use layout='auto' or 'masked'"
        )
    if layout == "auto":
        reasons |= {
            name: f"{tuple(mask.shape)} at density {float(mask.float().mean()):.2g}, where dense is faster"
            for name, mask in masks.items()
            if name not in reasons and not pays(mask.numel(), int(mask.count_nonzero()), batch_size)
        }
        chosen = [layer_name(name) for name in masks if name not in reasons]
        dense = [f"{layer_name(name)} ({reason})" for name, reason in reasons.items()]
        known = f"batches of {batch_size}" if batch_size else "batches of unknown size"
        rank_zero_info(f"layout='auto', by {known}: csr for {_listed(chosen)}; masked for {_listed(dense)}.")
    for name, mask in masks.items():
        if name not in reasons:
            replace_linear(module, layer_name(name), mask)
    store_by_feature(module)


def pays(size: int, active: int, batch_size: int | None = None) -> bool:
    """Return whether a Linear of so many weights, so many of them active, trains faster on its connections.

    Args:
        size: How many weights it has.
        active: How many of them are active.
        batch_size: How many samples a batch has; None asks that it be faster at all that were measured, 32 to 512.

    >>> pays(1568 * 1568, 24586), pays(100 * 100, 2000)
    (True, False)
    >>> pays(1000 * 1000, 150_000, batch_size=128), pays(1000 * 1000, 150_000, batch_size=1000)
    (True, False)
    """
    if size < 2**15:
        return False
    row = bisect_left(_SIZES, size)
    measured = (
        PAYS.values() if batch_size is None else [PAYS[32 if batch_size <= 64 else 128 if batch_size <= 256 else 512]]
    )
    return active <= size * min(densities[row] for densities in measured)


def obstacle(module: nn.Module, name: str) -> str | None:
    """Why a layer cannot be replaced; None if it can."""
    path, _, attribute = name.rpartition(".")
    layer = module.get_submodule(path)
    if type(layer) is not nn.Linear or attribute != "weight" or not path:
        return f"a {type(layer).__name__}"
    owners = [each for each in module.modules() if any(weight is layer.weight for weight in each._parameters.values())]
    if len(owners) > 1:
        return "its weight is shared"
    if layer._forward_hooks or layer._forward_pre_hooks:
        return "it has hooks"
    return None


def replace_linear(module: nn.Module, path: str, mask: Tensor) -> None:
    """Put a SparseLinear at every place where a Linear is."""
    linear = module.get_submodule(path)
    assert isinstance(linear, nn.Linear)
    replace_layer(module, linear, SparseLinear.from_linear(linear, mask))


def replace_layer(module: nn.Module, old: nn.Module, layer: nn.Module) -> None:
    """Put a layer at every place within a model where another is."""
    for place, each in list(module.named_modules(remove_duplicate=False))[1:]:
        if each is old:
            path, _, child = place.rpartition(".")
            parent = module.get_submodule(path)
            setattr(parent, child, layer)
            if isinstance(parent, nn.TransformerEncoderLayer):
                parent.activation_relu_or_gelu = 0  # evaluates by its layers, not by a kernel for dense weights


def adapt_state(module: nn.Module, state: dict[str, Any], *_: Any) -> None:
    """Before a state is loaded: weights that it has as connections become dense where the model's layers are dense.

    Raises:
        ValueError: It has dense weights where the model's layers store their connections.
    """
    sparse = {path for path, each in module.named_modules(remove_duplicate=False) if isinstance(each, SparseLinear)}
    if masked := [path for path in sorted(sparse) if f"{path}.weight" in state]:
        raise ValueError(
            f"Expected a checkpoint of layout='csr' for {', '.join(masked)}, got one of layout='masked': give it to "
            "a Trainer whose PruneRegrow has that layout, or load its weights into the model and leave out ckpt_path"
        )
    for name, weight in join_weights(state).items():
        if name not in state and name.rpartition(".")[0] not in sparse:
            for part in CSR_PARTS:
                del state[name.removesuffix("weight") + part]
            state[name] = weight.to_dense()


def _listed(words: Sequence[str]) -> str:
    return ", ".join(words) or "none"
