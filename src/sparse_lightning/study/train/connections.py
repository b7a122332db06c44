"""How a run's connections are spread over its units, and how fast they turn over: measured each epoch.

:class:`~sparse_lightning.PruneRegrow` itself logs density and number grown, which say how many connections move; these
measures say where to and for how long.
"""

import io
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from sparse_lightning.callbacks.prune_regrow import PruneRegrow
from sparse_lightning.study.train.record import DEGREES, write
from sparse_lightning.study.train.tensorboard import Board

SHOWN = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500)  # epochs whose masks TensorBoard shows; and the last
PRUNINGS = (1, 2, 5)  # survival of grown connections is measured after so many


def gini(counts: Tensor) -> float:
    """The Gini coefficient of counts, 0 where all are equal, (n - 1) / n where one of n has everything.

    >>> gini(torch.tensor([5, 5, 5, 5])), gini(torch.tensor([0, 0, 0, 8])), gini(torch.zeros(3))
    (0.0, 0.75, 0.0)
    """
    ranked = counts.double().sort().values
    total, size = float(ranked.sum()), len(ranked)
    if not total:
        return 0.0
    ranks = torch.arange(1, size + 1, dtype=torch.float64, device=ranked.device)
    return float(2 * (ranks * ranked).sum() / (size * total) - (size + 1) / size)


def jaccard(one: Tensor, other: Tensor) -> float:
    """The share that two masks have in common of the connections that either has, in [0, 1].

    >>> jaccard(torch.tensor([True, True, False]), torch.tensor([True, False, True]))
    0.3333333333333333
    """
    either = int((one | other).sum())
    return int((one & other).sum()) / either if either else 1.0


def masks_of(trainer: Trainer) -> dict[str, Tensor]:
    """The masks of a Trainer's PruneRegrow callbacks, by layer name."""
    callbacks = [callback for callback in trainer.callbacks if isinstance(callback, PruneRegrow)]  # type: ignore[attr-defined]
    return {_layer(name): mask for each in callbacks for name, mask in each.masks.items()}


def _layer(parameter: str) -> str:
    return parameter.removesuffix(".weight")


def degrees(mask: Tensor, side: str) -> Tensor:
    """How many connections each input unit (`side` ``"in"``) or output unit (``"out"``) of a mask holds.

    The first axis of a mask is its output units, the second its input units; a kernel's positions are summed.

    >>> degrees(torch.tensor([[True, True], [False, True]]), "in").tolist()
    [1, 2]
    """
    matrix = mask.reshape(*mask.shape[:2], -1) if mask.ndim > 1 else mask.reshape(-1, 1, 1)
    return matrix.sum((0, 2) if side == "in" else (1, 2), dtype=torch.int32)


class Turnover:
    """One layer's connections from one epoch to the next.

    Args:
        mask: The active connections of the first epoch, boolean, (out, in).

    Attributes:
        mask: The active connections of the last epoch.
        age: For each connection, how many prunings it has survived since it last grew; -1 where it is inactive, or
            has been there from the beginning.
        explored: The connections that were ever active.
        grown: How many connections each rewiring grew, the latest last.
        overlap: Jaccard overlap of the last two masks, 1 where nothing moved; None while there was only one.
    """

    def __init__(self, mask: Tensor) -> None:
        self.mask = mask.clone()
        self.age = torch.full(mask.shape, -1, dtype=torch.int16, device=mask.device)
        self.explored = mask.clone()
        self.grown: list[int] = []
        self.overlap: float | None = None

    def move(self, mask: Tensor) -> None:
        """Follow the next epoch's connections; those grown are active now and were not before."""
        self.overlap = jaccard(self.mask, mask)
        new = mask & ~self.mask
        if self.overlap < 1:
            self.age += (self.age >= 0).to(self.age.dtype)
            self.age[~mask] = -1
            self.age[new] = 0
            self.explored |= mask
            self.grown = [*self.grown, int(new.sum())][-max(PRUNINGS) - 1 :]
            self.mask = mask.clone()

    def survivors(self, prunings: int) -> tuple[int, int]:
        """Of the connections grown exactly so many prunings ago: how many survived, and how many there were."""
        if len(self.grown) <= prunings:
            return 0, 0
        return int((self.age == prunings).sum()), self.grown[-1 - prunings]

    def state_dict(self) -> dict[str, Any]:
        """All attributes, copied."""
        tensors = {"mask": self.mask.clone(), "age": self.age.clone(), "explored": self.explored.clone()}
        return {**tensors, "grown": self.grown, "overlap": self.overlap}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint."""
        self.__dict__.update(state)


def measures(turnovers: Mapping[str, Turnover]) -> dict[str, float]:
    """The measures of some layers, ``{"<what>/<layer>": value}``, and of them together under ``all``.

    gini_in, gini_out: Gini coefficient of the number of connections of each input unit and of each output unit, in
    [0, 1); for all layers, the mean weighted by their connections. explored: share of all possible connections that
    were ever active, the exploration rate of Liu et al. 2021 (ITOP). jaccard: overlap of the masks of this epoch and
    the one before; for all layers, weighted likewise; absent in the first epoch. survived, survived_2, survived_5: of
    the connections grown 1, 2, 5 prunings ago, the share never pruned since; absent before that many prunings.
    """
    by_layer: dict[str, dict[str, float]] = {"gini_in": {}, "gini_out": {}, "jaccard": {}}
    for layer, turnover in turnovers.items():
        by_layer["gini_in"][layer] = gini(degrees(turnover.mask, "in"))
        by_layer["gini_out"][layer] = gini(degrees(turnover.mask, "out"))
        if turnover.overlap is not None:
            by_layer["jaccard"][layer] = turnover.overlap
    found: dict[str, float] = {}
    for what, values in by_layer.items():
        if values:
            weights = [max(int(turnovers[layer].mask.sum()), 1) for layer in values]
            values["all"] = float(np.average(list(values.values()), weights=weights))
        found |= {f"{what}/{layer}": value for layer, value in values.items()}
    explored = {layer: int(turnover.explored.sum()) for layer, turnover in turnovers.items()}
    sizes = {layer: turnover.mask.numel() for layer, turnover in turnovers.items()}
    found |= {f"explored/{layer}": explored[layer] / sizes[layer] for layer in turnovers}
    found["explored/all"] = sum(explored.values()) / sum(sizes.values())
    for prunings in PRUNINGS:
        counts = {layer: turnover.survivors(prunings) for layer, turnover in turnovers.items()}
        counts["all"] = (sum(pair[0] for pair in counts.values()), sum(pair[1] for pair in counts.values()))
        what = "survived" if prunings == 1 else f"survived_{prunings}"
        found |= {f"{what}/{layer}": left / grown for layer, (left, grown) in counts.items() if grown}
    return found


class Connections(Callback):
    """Logs :func:`measures` each epoch under ``topology/``, and keeps the connections of every unit in a file.

    It reads the masks of every PruneRegrow among the Trainer's callbacks, whatever the model. ``topology/dead`` is the
    number of active connections whose weight is exactly zero at the end of the epoch, before its rewiring: they got no
    gradient, because a unit of theirs is dead. A layer of which they are more than half is warned of once.

    `connections.npz` has ``<layer>/in`` and ``<layer>/out``, unsigned integers of shape (epochs, units): how many
    connections each input unit and each output unit held in each epoch.

    Args:
        folder: The run's folder.

    Attributes:
        latest: The metrics of the last epoch.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.latest: dict[str, float] = {}
        self._turnovers: dict[str, Turnover] = {}
        self._degrees: dict[str, Tensor] = {}
        self._warned: set[str] = set()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure the epoch, log and write."""
        masks = masks_of(trainer)
        if not masks:
            return
        for layer, mask in masks.items():
            if layer in self._turnovers:
                self._turnovers[layer].move(mask)
            else:
                self._turnovers[layer] = Turnover(mask)
            for side in ("in", "out"):
                row, name = degrees(mask, side).cpu().unsqueeze(0), f"{layer}/{side}"
                self._degrees[name] = torch.cat([self._degrees[name], row]) if name in self._degrees else row
        epoch, found = trainer.current_epoch, measures(self._turnovers) | self._dead(masks, trainer, pl_module)
        self.latest = {f"topology/{key}": value for key, value in found.items()}
        for logger in trainer.loggers:  # in one call: `self.log` takes longer than the measuring, and has 32 bits
            logger.log_metrics(self.latest | {"epoch": epoch}, step=trainer.global_step)
            if isinstance(logger, Board) and (epoch in SHOWN or epoch + 1 == trainer.max_epochs):
                logger.log_masks(masks, epoch)
        if trainer.is_global_zero:
            counts = {name: rows.numpy() for name, rows in self._degrees.items()}
            fitting = {
                name: rows.astype(np.uint16 if rows.max() < 2**16 else np.uint32) for name, rows in counts.items()
            }
            buffer = io.BytesIO()
            np.savez(buffer, **fitting)  # type: ignore[arg-type]
            write(self.folder / DEGREES, buffer.getvalue())

    def _dead(self, masks: Mapping[str, Tensor], trainer: Trainer, module: LightningModule) -> dict[str, float]:
        callbacks = [each for each in trainer.callbacks if isinstance(each, PruneRegrow)]  # type: ignore[attr-defined]
        counts = {_layer(name): count for each in callbacks for name, count in each.dead_connections(module).items()}
        found: dict[str, float] = {}
        for layer, dead in counts.items():
            active = int(masks[layer].sum())
            found[f"dead/{layer}"] = dead
            if 2 * dead > active and layer not in self._warned:
                self._warned.add(layer)
                warnings.warn(
                    f"{dead} of the {active} active connections of {layer} are exactly zero: its units, or those "
                    "before or after, are dead",
                    stacklevel=2,
                )
        return found | {"dead/all": sum(found.values())}

    def state_dict(self) -> dict[str, Any]:
        """The state that later epochs are compared with, and the degrees of the epochs so far."""
        turnovers = {layer: turnover.state_dict() for layer, turnover in self._turnovers.items()}
        return {"turnovers": turnovers, "degrees": dict(self._degrees)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        self._degrees = dict(state_dict["degrees"])
        self._turnovers = {}
        for layer, state in state_dict["turnovers"].items():
            self._turnovers[layer] = Turnover(state["mask"])
            self._turnovers[layer].load_state_dict(state)
