"""One weight's connections over time: which are active, which were just grown, which ever were active."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from sparse_lightning.masks import rewire


@dataclass
class Topology:
    """The connections of one weight; all tensors are boolean and shaped like it.

    Attributes:
        mask: The active connections. Changed in place, so that a view of it stays true.
        grown: Those that the last rewiring grew.
        explored: Those that were ever active.
        survivors: Of the connections that the rewiring before the last one grew, how many the last pruning left.
        candidates: How many connections the rewiring before the last one grew.
    """

    mask: Tensor
    grown: Tensor
    explored: Tensor
    survivors: int = 0
    candidates: int = 0

    @classmethod
    def start(cls, mask: Tensor) -> "Topology":
        """A topology that has not moved yet."""
        return cls(mask=mask, grown=torch.zeros_like(mask), explored=mask.clone())

    @property
    def room(self) -> float:
        """The largest share of the active connections that can be replaced: inactive ones over active ones."""
        active = int(self.mask.sum())
        inactive = self.mask.numel() - active
        # A hair above the quotient, so that the part it makes is not one short.
        return math.nextafter(inactive / active, math.inf) if active and inactive else 0.0

    def rewire(self, dropped: Tensor, scores: Tensor, generator: torch.Generator) -> None:
        """Replace connections; see :func:`sparse_lightning.masks.rewire` for arguments and errors."""
        mask, grown = rewire(self.mask, dropped, scores, generator)
        self.survivors, self.candidates = int((self.grown & mask).sum()), int(self.grown.sum())
        self.grown.copy_(grown)
        self.mask.copy_(mask)
        self.explored |= mask

    def to(self, device: torch.device) -> "Topology":
        """This topology on a device."""
        masks = (self.mask.to(device), self.grown.to(device), self.explored.to(device))
        return Topology(*masks, self.survivors, self.candidates)

    def state_dict(self) -> dict[str, Any]:
        """Everything, copied."""
        return asdict(self)


def measures(topologies: Mapping[str, Topology]) -> dict[str, float]:
    """What there is to say of some layers, ``{"<what>/<layer>": value}``, and under ``all`` of them together.

    density: share of the connections that are active. grown: how many the last rewiring grew. survived: of those that
    the rewiring before it grew, the share that the last pruning left; absent until there were two. explored: share of
    all possible connections that were ever active, the exploration rate of Liu et al. 2021 (ITOP).

    >>> mask = torch.tensor([[True, False], [False, False]])
    >>> measures({"fc": Topology.start(mask)})["density/fc"]
    0.25
    """
    groups = {layer: [topology] for layer, topology in topologies.items()} | {"all": list(topologies.values())}
    return {f"{what}/{layer}": value for layer, group in groups.items() for what, value in _measure(group).items()}


def _measure(topologies: Iterable[Topology]) -> dict[str, float]:
    total = {
        key: sum(int(getattr(topology, key).sum()) for topology in topologies) for key in ("mask", "grown", "explored")
    }
    size = sum(topology.mask.numel() for topology in topologies)
    candidates = sum(topology.candidates for topology in topologies)
    result = {"density": total["mask"] / size, "grown": float(total["grown"]), "explored": total["explored"] / size}
    if candidates:
        result["survived"] = sum(topology.survivors for topology in topologies) / candidates
    return result
