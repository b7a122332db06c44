"""What a PruneRegrow refuses: strategies that shard weights, shared weights, changed settings, ranks that differ."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from sparse_lightning.criteria.base import Criterion

_SHARDING = ("FSDPStrategy", "ModelParallelStrategy", "DeepSpeedStrategy")


def refuse_sharding(trainer: Trainer) -> None:
    """Refuse a strategy that keeps no weight whole on every process.

    Raises:
        ValueError: The strategy is one of those.
    """
    kinds = {kind.__name__ for kind in type(trainer.strategy).__mro__}
    if kinds.intersection(_SHARDING):
        raise ValueError(
            "Expected a strategy that keeps every weight whole on every process, such as ddp, got "
            f"{type(trainer.strategy).__name__}, which shards them"
        )


def refuse_averages(kept: bool) -> None:
    """Refuse averages of weights whose connections alone are stored: an average would need the connections of all.

    Raises:
        ValueError: There are some.
    """
    if kept:
        raise ValueError("Expected layout='masked' beside a callback that averages weights, got another layout")


def refuse_resizing(processes: int, layout: str, resizes: bool) -> None:
    """Refuse stored connections whose number changes on several processes: DDP reduces gradients of a fixed size.

    Raises:
        ValueError: It would change there.
    """
    if processes > 1 and layout != "masked" and resizes:
        raise ValueError(
            f"Expected layout='masked' for numbers of connections that change on {processes} processes, got "
            f"layout={layout!r}"
        )


def refuse_shared_weights(chosen: Sequence[Collection[str]]) -> None:
    """Refuse weights that more than one PruneRegrow has chosen.

    Args:
        chosen: The names of the weights that each of them has chosen.

    Raises:
        ValueError: There are some.
    """
    counts = Counter(name for names in chosen for name in names)
    shared = [name for name, count in counts.items() if count > 1]
    if shared:
        raise ValueError(f"Expected one PruneRegrow for each weight, got two for {', '.join(shared)}")


def refuse_unsuitable(criteria: Iterable[Criterion], shapes: Mapping[str, torch.Size]) -> None:
    """Refuse weights that a criterion can never decide about.

    Raises:
        ValueError: There are some; each is named with the reason.
    """
    for each in criteria:
        if found := each.unsuitable(shapes):
            listed = ", ".join(f"{name!r} {reason}" for name, reason in found.items())
            raise ValueError(f"Expected weights that {each!r} can decide about, got others: {listed}; exclude them")


def refuse_changed_settings(now: Mapping[str, Any], saved: Mapping[str, Any]) -> None:
    """Refuse to continue a run with other settings than it was begun with.

    Raises:
        ValueError: Some differ; each is named with both values.
    """
    differing = [name for name in now if name in saved and now[name] != saved[name]]
    if differing:
        listed = ", ".join(f"{name}={now[name]} (there {saved[name]})" for name in differing)
        raise ValueError(
            f"Expected the settings of the checkpoint, got {listed}. To start a new training from its weights, "
            "load them into the model and call fit without ckpt_path"
        )


def same_method(now: Mapping[str, Any], states: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the state of the same method under the name of another class, of callbacks' states in a checkpoint.

    Args:
        now: The settings of this method.
        states: The states that belong to no callback of the Trainer.

    Raises:
        ValueError: One of them is of a PruneRegrow with other settings.
    """
    found = [state for state in states.values() if isinstance(state, dict) and "masks" in state]
    found = [state for state in found if isinstance(state.get("settings"), Mapping)]
    for state in found:
        refuse_changed_settings(now, state["settings"])
    return found[0] if found else None


def refuse_other_layers(now: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> None:
    """Refuse masks of other layers than the model's.

    Raises:
        ValueError: Names or shapes differ.
    """
    for name in [*now, *saved] if now else ():
        shapes = [list(masks[name].shape) if name in masks else None for masks in (now, saved)]
        if shapes[0] != shapes[1]:
            raise ValueError(f"Expected a checkpoint with {name!r} of shape {shapes[0]}, got {shapes[1]}")


def refuse_different_ranks(trainer: Trainer, fingerprints: Mapping[str, int]) -> None:
    """Compare masks between processes; a collective operation when training is distributed.

    Args:
        trainer: The Trainer.
        fingerprints: A hash of each mask of this process.

    Raises:
        RuntimeError: A process has others.
    """
    if not fingerprints:
        return
    own = torch.tensor(list(fingerprints.values()), device=trainer.strategy.root_device)
    every = trainer.strategy.all_gather(own)
    differs = (every != every[0]).any(0).tolist()
    if any(differs):
        names = [name for name, other in zip(fingerprints, differs, strict=True) if other]
        raise RuntimeError(
            f"Expected the same masks on every process, got different ones of {', '.join(names)}: scores must not "
            "depend on the process, and randomness must come from the generator that is given"
        )
