"""A model, a data module, a method and a callback of somebody else, for a study that knows none of them."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from sparse_lightning import LayerView, PruneRegrow


class Regression(LightningModule):
    """Logs a loss and no accuracy, and takes no seed."""

    def __init__(self, width: int = 8, rate: float = 0.1) -> None:
        super().__init__()
        self.net, self.rate = nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 1)), rate

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        loss = nn.functional.mse_loss(self.net(batch[0]), batch[1])
        self.log("train_mse", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("val_mse", nn.functional.mse_loss(self.net(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), self.rate)


class Noise(LightningDataModule):
    """Takes a seed, though its configuration has none."""

    def __init__(self, seed: int, size: int = 64) -> None:
        super().__init__()
        self.seed, self.size = seed, size

    def train_dataloader(self) -> DataLoader:
        generator = torch.Generator().manual_seed(self.seed)
        inputs = torch.randn(self.size, 4, generator=generator)
        return DataLoader(TensorDataset(inputs, inputs.sum(1, keepdim=True)), batch_size=16, num_workers=0)

    val_dataloader = train_dataloader


class GrowTheLonely(PruneRegrow):
    """Grows where an output unit has few connections."""

    def growth_scores(self, layer: LayerView) -> Tensor:
        return -layer.kept.sum(1, keepdim=True).expand_as(layer.mask)


class WithOptions(PruneRegrow):
    """Takes the arguments of the class above, with a default of its own."""

    def __init__(self, twice: bool = False, **options: Any) -> None:
        super().__init__(**{"growth": "random", **options})
        self.twice = twice


class Counts(Callback):
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.log("epochs_counted", float(trainer.current_epoch + 1))
        pl_module.log("keeps_denormals", float(torch.tensor([1e-40]).mul(0.5).item() > 0))
