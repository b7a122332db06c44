"""Models to export: trained a little, sparse, with everything that stands between layers."""

import torch
from torch import Tensor, nn

from sparse_lightning import PruneRegrow, SparseMLP

GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.randn(64, 1, 28, 28, generator=GENERATOR)
TOKENS = torch.randn(8, 5, 16, generator=GENERATOR)


def mlp(density: float = 0.05, batch_norm: bool = True) -> SparseMLP:
    """The study's network, whose normalisation has seen images, in evaluation mode."""
    torch.manual_seed(0)
    model = SparseMLP(hidden_sizes=[50, 40], density=density, batch_norm=batch_norm, dropout=0.1)
    PruneRegrow(density, initialization="fan_in", seed=1).sparsify(model)
    model.train()(IMAGES)
    return model.eval()


class Encoder(nn.Module):
    """A small transformer."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 2, 64, dropout=0.1, batch_first=True, activation="gelu")
        self.encoder, self.head = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(16, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the class scores of each sequence."""
        return self.head(self.encoder(tokens).mean(1))


def transformer(density: float = 0.05) -> Encoder:
    """A transformer whose feed-forward layers are sparse, in evaluation mode."""
    torch.manual_seed(0)
    model = Encoder()
    PruneRegrow(density, include="*linear*", seed=1).sparsify(model)
    return model.eval()
