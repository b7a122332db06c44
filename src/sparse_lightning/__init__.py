"""Dynamic sparse training for PyTorch Lightning: everything public is importable from here."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparse_lightning.callbacks.presets import (
        ACDC,
        CHT,
        DSR,
        GMP,
        MEST,
        SET,
        SNFS,
        CHTs,
        CHTss,
        DeepR,
        Dense,
        GraNet,
        HebbianRegrow,
        LotteryTicket,
        RandomRegrow,
        RigL,
        SRigL,
        StaticSparse,
        TopKAST,
    )
    from sparse_lightning.callbacks.prune_regrow import PruneRegrow
    from sparse_lightning.callbacks.redo import ReDo
    from sparse_lightning.criteria.base import (
        CountCriterion,
        GrowthCriterion,
        LayerView,
        PruningCriterion,
    )
    from sparse_lightning.criteria.coactivation import CoactivationTracker
    from sparse_lightning.criteria.combined import FixedDegreeGrowth, FixedRandomGrowth, PhasedGrowth, SoftGrowth
    from sparse_lightning.criteria.counts import (
        ConstantCount,
        GlobalMagnitude,
        MomentumRedistribution,
        SurvivorRedistribution,
    )
    from sparse_lightning.criteria.growth import (
        CannistraciHebbGrowth,
        GradientGrowth,
        HebbianGrowth,
        InverseHebbianGrowth,
        MomentumGrowth,
        RandomGrowth,
        SoftCannistraciHebbGrowth,
    )
    from sparse_lightning.criteria.pruning import (
        ChainRemoval,
        GlobalMagnitudePruning,
        HebbianPruning,
        InverseHebbianPruning,
        MagnitudeAndGradientPruning,
        MagnitudePruning,
        MixedPruning,
        RelativeImportancePruning,
        SignedMagnitudePruning,
        SoftMagnitudePruning,
        WeightedHebbianPruning,
    )
    from sparse_lightning.datamodules.mnist import MNISTDataModule
    from sparse_lightning.export.csr import to_csr
    from sparse_lightning.export.dense_small import to_dense_small
    from sparse_lightning.export.inspection import sparsity_report, topology_of
    from sparse_lightning.export.onnx import to_onnx
    from sparse_lightning.export.packed import load_safetensors, save_safetensors
    from sparse_lightning.export.semi_structured import is_n_m, to_semi_structured
    from sparse_lightning.models.sparse_cnn import SparseCNN
    from sparse_lightning.models.sparse_mlp import SparseMLP
    from sparse_lightning.nn.k_winners import KWinners
    from sparse_lightning.nn.sparse_linear import SparseLinear, dense_state_dict

__version__ = "0.1.0"
_NAMES = {
    "callbacks.presets": (
        "ACDC",
        "CHTss",
        "DeepR",
        "Dense",
        "CHTs",
        "CHT",
        "DSR",
        "GMP",
        "GraNet",
        "MEST",
        "SET",
        "SNFS",
        "SRigL",
        "HebbianRegrow",
        "LotteryTicket",
        "RandomRegrow",
        "RigL",
        "StaticSparse",
        "TopKAST",
    ),
    "callbacks.prune_regrow": ("PruneRegrow",),
    "callbacks.redo": ("ReDo",),
    "criteria.base": ("CountCriterion", "GrowthCriterion", "LayerView", "PruningCriterion"),
    "criteria.coactivation": ("CoactivationTracker",),
    "criteria.growth": (
        "CannistraciHebbGrowth",
        "GradientGrowth",
        "HebbianGrowth",
        "InverseHebbianGrowth",
        "MomentumGrowth",
        "RandomGrowth",
        "SoftCannistraciHebbGrowth",
    ),
    "criteria.pruning": (
        "ChainRemoval",
        "GlobalMagnitudePruning",
        "RelativeImportancePruning",
        "SoftMagnitudePruning",
        "HebbianPruning",
        "InverseHebbianPruning",
        "MagnitudeAndGradientPruning",
        "MagnitudePruning",
        "MixedPruning",
        "SignedMagnitudePruning",
        "WeightedHebbianPruning",
    ),
    "criteria.combined": ("FixedDegreeGrowth", "FixedRandomGrowth", "PhasedGrowth", "SoftGrowth"),
    "criteria.counts": ("ConstantCount", "GlobalMagnitude", "MomentumRedistribution", "SurvivorRedistribution"),
    "datamodules.mnist": ("MNISTDataModule",),
    "export.csr": ("to_csr",),
    "export.dense_small": ("to_dense_small",),
    "export.onnx": ("to_onnx",),
    "export.packed": ("load_safetensors", "save_safetensors"),
    "export.semi_structured": ("is_n_m", "to_semi_structured"),
    "export.inspection": ("sparsity_report", "topology_of"),
    "models.sparse_cnn": ("SparseCNN",),
    "models.sparse_mlp": ("SparseMLP",),
    "nn.k_winners": ("KWinners",),
    "nn.sparse_linear": ("SparseLinear", "dense_state_dict"),
}
_HOMES = {name: home for home, names in _NAMES.items() for name in names}
__all__ = [
    "ACDC",
    "CHT",
    "DSR",
    "GMP",
    "MEST",
    "SET",
    "SNFS",
    "CHTs",
    "CHTss",
    "CannistraciHebbGrowth",
    "ChainRemoval",
    "CoactivationTracker",
    "ConstantCount",
    "CountCriterion",
    "DeepR",
    "Dense",
    "FixedDegreeGrowth",
    "FixedRandomGrowth",
    "GlobalMagnitude",
    "GlobalMagnitudePruning",
    "GraNet",
    "GradientGrowth",
    "GrowthCriterion",
    "HebbianGrowth",
    "HebbianPruning",
    "HebbianRegrow",
    "InverseHebbianGrowth",
    "InverseHebbianPruning",
    "KWinners",
    "LayerView",
    "LotteryTicket",
    "MNISTDataModule",
    "MagnitudeAndGradientPruning",
    "MagnitudePruning",
    "MixedPruning",
    "MomentumGrowth",
    "MomentumRedistribution",
    "PhasedGrowth",
    "PruneRegrow",
    "PruningCriterion",
    "RandomGrowth",
    "RandomRegrow",
    "ReDo",
    "RelativeImportancePruning",
    "RigL",
    "SRigL",
    "SignedMagnitudePruning",
    "SoftCannistraciHebbGrowth",
    "SoftGrowth",
    "SoftMagnitudePruning",
    "SparseCNN",
    "SparseLinear",
    "SparseMLP",
    "StaticSparse",
    "SurvivorRedistribution",
    "TopKAST",
    "WeightedHebbianPruning",
    "dense_state_dict",
    "is_n_m",
    "load_safetensors",
    "save_safetensors",
    "sparsity_report",
    "to_csr",
    "to_dense_small",
    "to_onnx",
    "to_semi_structured",
    "topology_of",
]


def __getattr__(name: str) -> Any:
    """Import PyTorch and Lightning, which take seconds, with the first of these names: `--help` needs none."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if _HOMES[name].startswith(("callbacks", "models")):
        import_module(f"{__name__}.callbacks.presets")  # so that Lightning CLI finds the methods by their names alone
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
