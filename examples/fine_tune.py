"""From a dense checkpoint to a sparse network: prune by magnitude while it is trained a little more.

    python examples/fine_tune.py

It trains a dense network, loads its checkpoint, and compares one cut with a gradual one to the same density.
"""

import tempfile
from pathlib import Path

from lightning.pytorch import Trainer, seed_everything

from sparse_lightning import GMP, MNISTDataModule, PruneRegrow, SparseMLP, StaticSparse


def main(density: float = 0.05, epochs: int = 3, **options: object) -> dict[str, float]:
    """Train, fine-tune, and return the accuracy of each network."""
    seed_everything(0)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False} | options
    data, accuracies = MNISTDataModule(), {}
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder, "dense.ckpt")
        trainer = Trainer(max_epochs=epochs, **quiet)
        trainer.fit(SparseMLP(density=1.0, hebbian_grow=None), data)
        trainer.save_checkpoint(checkpoint)
        accuracies["dense"] = float(trainer.callback_metrics["val_acc"])
        methods: dict[str, PruneRegrow] = {
            "one cut": StaticSparse(density, initial="magnitude"),
            "gradual": GMP(density, start=0, stop=0.75),
        }
        for name, sparse in methods.items():
            model = SparseMLP.load_from_checkpoint(checkpoint, learning_rate=0.02)
            trainer = Trainer(max_epochs=epochs, callbacks=[sparse], **quiet)
            trainer.fit(model, data)
            accuracies[name] = float(trainer.callback_metrics["val_acc"])
    for name, accuracy in accuracies.items():
        print(f"{name}: val_acc {100 * accuracy:.2f}%" + ("" if name == "dense" else f" at density {density}"))
    return accuracies


if __name__ == "__main__":
    main()
