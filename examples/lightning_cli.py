"""Lightning CLI with any method of the library, from the shell or from YAML; needs `sparse_lightning[cli]`.

python examples/lightning_cli.py fit --config examples/lightning_cli.yaml
python examples/lightning_cli.py fit --trainer.callbacks+=RigL --trainer.callbacks.density=0.05
"""

from lightning.pytorch.cli import LightningCLI

from sparse_lightning import MNISTDataModule, SparseMLP

if __name__ == "__main__":
    LightningCLI(SparseMLP, MNISTDataModule)
