"""Trains a network of a million hidden units on MNIST with SET, in memory that goes with its connections.

784-500,000-500,000-10, about 20 connections to each hidden unit. Dense, its second layer alone would take 1 TB. Liu et
al. 2020, "Sparse evolutionary deep learning with over one million artificial neurons on commodity hardware", is the
published precedent::

    python examples/million_neurons.py --steps 20
"""

import argparse
import resource
import time

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.nn import functional as F

from sparse_lightning import SET, MNISTDataModule, SparseLinear


class MillionNeurons(LightningModule):
    """Two hidden layers and an output layer whose connections alone are stored.

    Args:
        units: Units of each hidden layer.
        inputs: Connections of a hidden unit, on average.
    """

    def __init__(self, units: int = 500_000, inputs: int = 20) -> None:
        super().__init__()
        self.network = nn.Sequential(
            SparseLinear(784, units, density=inputs / 784, transposed_output=True),
            nn.ReLU(),
            SparseLinear(units, units, density=inputs / units),
            nn.ReLU(),
            SparseLinear(units, 10, density=0.01),
        )

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """Return the loss of a batch."""
        images, labels = batch
        loss = F.cross_entropy(self.network(images.flatten(1)), labels)
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        """Log the accuracy of a batch."""
        images, labels = batch
        parts = [self.network(part).argmax(1) for part in images.flatten(1).split(128)]  # a hidden layer of all: 4 GB
        accuracy = (torch.cat(parts) == labels).float().mean()
        self.log("val_acc", accuracy, prog_bar=True, batch_size=len(labels))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return SGD with momentum."""
        return torch.optim.SGD(self.parameters(), lr=0.003, momentum=0.9, fused=True)


def main() -> None:
    """Train, rewire halfway, and print the time of a step and the peak of the memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--units", type=int, default=500_000, help="units of each hidden layer (default: 500,000)")
    parser.add_argument("--steps", type=int, default=-1, help="steps to train (default: an epoch)")
    parser.add_argument("--batch-size", type=int, default=128, help="samples of a step (default: 128)")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    model, data = MillionNeurons(arguments.units), MNISTDataModule(batch_size=arguments.batch_size)
    steps = arguments.steps if arguments.steps > 0 else 60_000 // arguments.batch_size
    sparse = SET(every_n_steps=max(1, steps // 2))
    quiet = {"logger": False, "enable_checkpointing": False, "num_sanity_val_steps": 0, "limit_val_batches": 4}
    begun = time.perf_counter()
    trainer = Trainer(max_epochs=1, limit_train_batches=steps, accelerator="cpu", callbacks=[sparse], **quiet)
    trainer.fit(model, data)
    took = time.perf_counter() - begun
    print(sparse.summary())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    found = {name: f"{float(value):.4f}" for name, value in trainer.callback_metrics.items() if "_" in name}
    print(f"{steps} steps in {took:.0f} s, {sparse.rewirings} rewirings, peak memory {peak:.2f} GiB, {found}")


if __name__ == "__main__":
    main()
