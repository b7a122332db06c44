"""Dynamic sparse training for PyTorch Lightning."""

from sparse_lightning.callback import PruneRegrow
from sparse_lightning.coactivation import Coactivation
from sparse_lightning.growth import Growth, HebbianGrowth, RandomGrowth
from sparse_lightning.mlp import SparseMLP
from sparse_lightning.mnist import MNISTDataModule
from sparse_lightning.pruning import Pruning, signed_magnitude

__version__ = "0.1.0"
__all__ = [
    "Coactivation",
    "Growth",
    "HebbianGrowth",
    "MNISTDataModule",
    "PruneRegrow",
    "Pruning",
    "RandomGrowth",
    "SparseMLP",
    "signed_magnitude",
]
