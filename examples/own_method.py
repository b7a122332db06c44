"""Three methods of your own, each a subclass of PruneRegrow with one small method.

Compare one of them with SET over eight seeds::

    PYTHONPATH=examples python scripts/train.py -m sparsity._target_=own_method.GrowTheLonely,sparse_lightning.SET \
        +sparsity.density=0.2 +sparsity.distribution=erdos_renyi 'seed=range(8)'
"""

from fractions import Fraction

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from sparse_lightning import LayerView, PruneRegrow


class GrowTheLonely(PruneRegrow):
    """Grows connections of the output units that have the fewest."""

    def growth_scores(self, layer: LayerView) -> Tensor:
        """Return, for each connection, minus the number of connections that its output unit has kept."""
        fewest_first = -layer.kept.flatten(1).sum(dim=1)
        return fewest_first.view(-1, *[1] * (layer.mask.dim() - 1)).expand_as(layer.mask)


class HalfThenHold(PruneRegrow):
    """Rewires half as much from the middle of the training on."""

    def fraction_factor(self, progress: Fraction) -> float:
        """Return 1 in the first half and 0.5 in the second."""
        return 1.0 if progress < 0.5 else 0.5


class EveryThirdEpoch(PruneRegrow):
    """Rewires before every third epoch."""

    def should_rewire(self, trainer: Trainer, pl_module: LightningModule) -> bool:
        """Return whether the epoch that begins is a multiple of three."""
        return trainer.current_epoch % 3 == 0
