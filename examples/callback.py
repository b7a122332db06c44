"""The callback in a project of your own: a small convolutional network on random images, trained at a tenth density.

Run it with ``python examples/callback.py``. The last lines are the README's.
"""

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset


class YourModel(LightningModule):
    """A LightningModule that knows nothing of sparsity."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 32, kernel_size=3),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.Conv2d(32, 64, kernel_size=3, stride=2),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
        )
        self.head = nn.Linear(256, 10)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of a batch."""
        images, labels = batch
        return nn.functional.cross_entropy(self.head(self.encoder(images)), labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return an optimizer as for a dense network."""
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


torch.manual_seed(0)
images, labels = torch.randn(128, 3, 16, 16), torch.randint(10, (128,))
your_data = DataLoader(TensorDataset(images, labels), batch_size=32)

# ruff: noqa: E402, I001
from lightning.pytorch import Trainer
from sparse_lightning import PruneRegrow

sparse = PruneRegrow(density=0.1, prune_fraction=0.3, growth="hebbian")
trainer = Trainer(max_epochs=10, callbacks=[sparse])
trainer.fit(YourModel(), your_data)

print(sparse.summary())
