"""Methods of the literature by name, each a few of the parts of :class:`~sparse_lightning.PruneRegrow` put together."""

from collections.abc import Mapping
from typing import Any, ClassVar

from sparse_lightning.callbacks.prune_regrow import PerLayer, PruneRegrow


class Preset(PruneRegrow):
    """A PruneRegrow with defaults of its own.

    Args:
        density: As PruneRegrow's.
        options: All others of PruneRegrow's arguments; what is given counts, in place of the default.

    Attributes:
        defaults: The arguments that differ from PruneRegrow's.
    """

    defaults: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, density: PerLayer | None = None, **options: Any) -> None:
        if density is not None:
            options["density"] = density
        chosen = {**self.defaults, **options}
        if "every_n_epochs" in options and "every_n_steps" not in options:
            chosen.pop("every_n_steps", None)
        super().__init__(**chosen)


class SET(Preset):
    """Sparse Evolutionary Training: prune by magnitude, grow at random, every epoch.

    What it does: after each epoch the smallest positive and the negative weights nearest zero go, the same fraction of
    each, and as many random connections grow. When to use it: as the baseline that costs nothing, on any layer and any
    optimizer; it explores more connections than any other method here.

    Published defaults: prune_fraction 0.3 (ζ), Erdős-Rényi densities, no schedule.
    Source: Mocanu et al. 2018, "Scalable training of artificial neural networks with adaptive sparse connectivity
    inspired by network science", Nature Communications 9.
    How it differs: grown weights start at zero, not at random values; the total density is given, not ε; nothing is
    rewired after the last epoch.
    """

    defaults: ClassVar = {
        "density": 0.1,
        "prune_fraction": 0.3,
        "pruning": "signed_magnitude",
        "growth": "random",
        "distribution": "erdos_renyi",
    }


class RigL(Preset):
    """Rigging the Lottery: prune by magnitude, grow where the gradient is largest, every 100 steps, less and less.

    What it does: connections of the smallest magnitude go, those whose absent weight has the largest gradient grow, and
    the fraction falls by half a cosine until three quarters of the training, after which the topology stays. When to
    use it: for the best accuracy at high sparsity. Dense gradients, which it needs, are there in training anyway.

    Published defaults: prune_fraction 0.3 (alpha), every 100 steps (ΔT), last 0.75 (T_end), cosine, ERK densities.
    Source: Evci et al. 2020, "Rigging the Lottery: Making All Tickets Winners", ICML.
    How it differs: the optimizer's step is taken at a rewiring too, and its gradient decides what grows.
    """

    defaults: ClassVar = {
        "density": 0.1,
        "prune_fraction": 0.3,
        "pruning": "magnitude",
        "growth": "gradient",
        "distribution": "erk",
        "every_n_steps": 100,
        "last": 0.75,
        "schedule": "cosine",
        "regrow": True,
    }


class SNFS(Preset):
    """Sparse Networks from Scratch, sparse momentum: prune by magnitude, grow where the momentum is largest.

    What it does: after each epoch connections of the smallest magnitude go, and those grow whose absent weight has the
    largest running mean of its gradient; the fraction falls by half a cosine to zero. When to use it: where single
    gradients are too noisy for RigL. The optimizer must have momentum.

    Published defaults: prune_fraction 0.5, every epoch, cosine, uniform densities.
    Source: Dettmers & Zettlemoyer 2019, "Sparse Networks from Scratch: Faster Training without Losing Performance".
    How it differs: connections are not redistributed over layers, whose numbers never change here.
    """

    defaults: ClassVar = {
        "density": 0.1,
        "prune_fraction": 0.5,
        "pruning": "magnitude",
        "growth": "momentum",
        "schedule": "cosine",
    }


class HebbianRegrow(Preset):
    """The Hebbian arm of "Evaluate hebbian growth": prune by magnitude, grow between units that fire together.

    What it does: after each epoch the weights nearest zero go, the same fraction of each sign, and those connections
    grow whose two units were most often active in the same sample. When to use it: to study Hebbian growth; on MNIST it
    is a little less accurate than random growth.

    Published defaults: density 0.2, prune_fraction 0.3, uniform densities.
    Source: Numenta's experiment; what is different is in the README.
    """

    defaults: ClassVar = {"density": 0.2, "prune_fraction": 0.3, "pruning": "signed_magnitude", "growth": "hebbian"}


class RandomRegrow(Preset):
    """The random arm of "Evaluate hebbian growth": SET at uniform densities.

    What it does: as :class:`HebbianRegrow`, but connections grow at random. When to use it: to compare with.

    Published defaults: density 0.2, prune_fraction 0.3, uniform densities.
    Source: Numenta's experiment; what is different is in the README.
    """

    defaults: ClassVar = {"density": 0.2, "prune_fraction": 0.3, "pruning": "signed_magnitude", "growth": "random"}


class StaticSparse(Preset):
    """A random topology that never moves.

    What it does: the connections drawn at the start stay. When to use it: as the lower bound that any rewiring has to
    beat.

    Published defaults: ERK densities, as the static baselines of Evci et al. 2020.
    Source: the same; Mocanu et al. 2018 call it SET's fixed counterpart.
    """

    defaults: ClassVar = {"density": 0.1, "growth": None, "distribution": "erk"}


PRESETS: dict[str, type[PruneRegrow]] = {
    "set": SET,
    "rigl": RigL,
    "snfs": SNFS,
    "hebbian": HebbianRegrow,
    "random": RandomRegrow,
    "static": StaticSparse,
}
