"""Dynamic sparse training for PyTorch Lightning."""

from sparse_lightning.callback import PruneRegrow
from sparse_lightning.coactivation import Coactivation
from sparse_lightning.growth import (
    GradientGrowth,
    Growth,
    HebbianGrowth,
    InverseHebbianGrowth,
    MomentumGrowth,
    RandomGrowth,
)
from sparse_lightning.inspection import sparsity_report, topology_of
from sparse_lightning.mlp import SparseMLP
from sparse_lightning.mnist import MNISTDataModule
from sparse_lightning.presets import SET, SNFS, HebbianRegrow, RandomRegrow, RigL, StaticSparse
from sparse_lightning.pruning import (
    HebbianPruning,
    InverseHebbianPruning,
    Magnitude,
    MixedPruning,
    Pruning,
    SignedMagnitude,
    WeightedHebbianPruning,
)

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
