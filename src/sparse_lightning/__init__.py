"""Dynamic sparse training for PyTorch Lightning."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparse_lightning.callbacks.presets import SET, SNFS, HebbianRegrow, RandomRegrow, RigL, StaticSparse
    from sparse_lightning.callbacks.prune_regrow import PruneRegrow
    from sparse_lightning.criteria.coactivation import Coactivation
    from sparse_lightning.criteria.growth import (
        GradientGrowth,
        Growth,
        HebbianGrowth,
        InverseHebbianGrowth,
        MomentumGrowth,
        RandomGrowth,
    )
    from sparse_lightning.criteria.pruning import (
        HebbianPruning,
        InverseHebbianPruning,
        Magnitude,
        MixedPruning,
        Pruning,
        SignedMagnitude,
        WeightedHebbianPruning,
    )
    from sparse_lightning.datamodules.mnist import MNISTDataModule
    from sparse_lightning.export.inspection import sparsity_report, topology_of
    from sparse_lightning.models.sparse_mlp import SparseMLP

__version__ = "0.1.0"
__all__ = [
    "SET",
    "SNFS",
    "Coactivation",
    "GradientGrowth",
    "Growth",
    "HebbianGrowth",
    "HebbianPruning",
    "HebbianRegrow",
    "InverseHebbianGrowth",
    "InverseHebbianPruning",
    "MNISTDataModule",
    "Magnitude",
    "MixedPruning",
    "MomentumGrowth",
    "PruneRegrow",
    "Pruning",
    "RandomGrowth",
    "RandomRegrow",
    "RigL",
    "SignedMagnitude",
    "SparseMLP",
    "StaticSparse",
    "WeightedHebbianPruning",
    "sparsity_report",
    "topology_of",
]

_HOMES = (
    "callbacks.prune_regrow",
    "callbacks.presets",
    "criteria.coactivation",
    "criteria.growth",
    "criteria.pruning",
    "datamodules.mnist",
    "export.inspection",
    "models.sparse_mlp",
)


def __getattr__(name: str) -> Any:
    """PyTorch and Lightning, which take seconds, are imported with the first of these names: `--help` needs none."""
    if name in __all__:
        for home in _HOMES:
            found = getattr(import_module(f"{__name__}.{home}"), name, None)
            if found is not None:
                return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
