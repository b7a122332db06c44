"""A study of a model, data and a method of your own, none of which this library knows.

Their configurations are in `examples/conf`. One command runs the study, four seeds of each method, and ends with a
report by val_loss::

    PYTHONPATH=examples python scripts/train.py --config-dir examples/conf -m experiment=spirals
"""

import math

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from sparse_lightning import LayerView, PruneRegrow


class SpiralNet(LightningModule):
    """Tells two spirals apart."""

    def __init__(self, width: int = 64, learning_rate: float = 0.01) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.output = nn.Linear(width, 1)
        self.learning_rate = learning_rate

    def loss(self, batch: list[Tensor]) -> Tensor:
        """Return the loss of a batch."""
        points, labels = batch
        return nn.functional.binary_cross_entropy_with_logits(self.output(self.layers(points)).squeeze(1), labels)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """Return the loss of a batch."""
        return self.loss(batch)

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        """Log the loss, which the report compares."""
        self.log("val_loss", self.loss(batch))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return an optimizer as for a dense network."""
        return torch.optim.Adam(self.parameters(), self.learning_rate)


class Spirals(LightningDataModule):
    """Noisy points on two spirals. A study gives its seed to whatever takes one."""

    def __init__(self, size: int = 1024, noise: float = 0.05, seed: int = 0) -> None:
        super().__init__()
        self.size, self.noise, self.seed = size, noise, seed

    def _loader(self, seed: int) -> DataLoader[tuple[Tensor, ...]]:
        generator = torch.Generator().manual_seed(seed)
        labels = torch.randint(2, (self.size,), generator=generator).float()
        radius = torch.rand(self.size, generator=generator)
        angle = 3 * math.pi * radius + math.pi * labels
        points = torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1)
        points += self.noise * torch.randn(points.shape, generator=generator)
        return DataLoader(TensorDataset(points, labels), batch_size=64, num_workers=0)

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Return the training batches."""
        return self._loader(2 * self.seed)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Return the validation batches, of other points."""
        return self._loader(2 * self.seed + 1)


class GrowTheLonely(PruneRegrow):
    """Grows connections of the output units that have the fewest."""

    def growth_scores(self, layer: LayerView) -> Tensor:
        """Return, for each connection, minus the number of connections that its output unit has kept."""
        return -layer.kept.sum(dim=1, keepdim=True).expand_as(layer.mask)
