"""A ResNet-18 or a small Vision Transformer on MNIST, sparse by any method.

    python examples/images.py resnet RigL
    python examples/images.py vit SET

It prints the table of the sparse layers and the accuracy on the test images. As a study of both, 30 runs::

    PYTHONPATH=examples python scripts/train.py --config-dir examples/conf -m experiment=images model=resnet,vit
"""

import sys

import torch
import torchvision
from lightning.pytorch import LightningModule, Trainer, seed_everything
from torch import Tensor, nn

import sparse_lightning
from sparse_lightning import MNISTDataModule


class VisionTransformer(nn.Module):
    """Patches of 7 x 7 pixels, through two Transformer layers."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, kernel_size=7, stride=7)
        self.places = nn.Parameter(0.02 * torch.randn(16, width))
        layer = nn.TransformerEncoderLayer(width, 4, 4 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (batch, 10) of images (batch, 1, 28, 28)."""
        tokens = self.patches(images).flatten(2).transpose(1, 2) + self.places
        return self.head(self.encoder(tokens).mean(1))


def resnet() -> nn.Module:
    """Return a ResNet-18 whose first convolution suits small images of one channel."""
    network = torchvision.models.resnet18(num_classes=10)
    network.conv1 = nn.Conv2d(1, 64, kernel_size=3, stride=2, padding=1, bias=False)
    return network


NETWORKS = {"resnet": resnet, "vit": VisionTransformer}


class Classifier(LightningModule):
    """A network that returns logits, by its name."""

    def __init__(self, network: str, learning_rate: float = 1e-3) -> None:
        super().__init__()
        self.network, self.learning_rate = NETWORKS[network](), learning_rate

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of a batch."""
        images, labels = batch
        return nn.functional.cross_entropy(self.network(images), labels)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log the accuracy."""
        images, labels = batch
        accuracy = (self.network(images).argmax(1) == labels).float().mean()
        self.log("val_acc", accuracy, batch_size=len(labels), prog_bar=True)

    def configure_optimizers(self) -> dict[str, object]:
        """Return AdamW, with a learning rate that falls to zero step by step."""
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.learning_rate)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def main(network: str = "vit", method: str = "SET", density: float = 0.1, **options: object) -> float:
    """Train, and return the accuracy."""
    seed_everything(0)
    schedule = {"every_n_steps": 50} if method == "RigL" else {}
    sparse = getattr(sparse_lightning, method)(density, **schedule)
    given = {"max_epochs": 3, "logger": False, "enable_checkpointing": False, "enable_model_summary": False} | options
    trainer = Trainer(callbacks=[sparse], **given)
    trainer.fit(Classifier(network), MNISTDataModule())
    accuracy = float(trainer.callback_metrics["val_acc"])
    print(sparse.summary())
    print(f"{network}, {method} at density {density}: val_acc {100 * accuracy:.2f}%")
    return accuracy


if __name__ == "__main__":
    main(*sys.argv[1:3])
