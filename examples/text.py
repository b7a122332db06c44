"""A small GPT or an LSTM that predicts the next character of this library's own pages, sparse by coactivation.

    python examples/text.py gpt
    python examples/text.py lstm

The recurrent weights of an LSTM and the input projection of attention are sparse only if a pattern names them.
"""

import sys
from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from sparse_lightning import PruneRegrow

PAGES = sorted((Path(__file__).parents[1] / "docs").glob("*.md"))
LENGTH = 64


class GPT(nn.Module):
    """Two causal Transformer layers."""

    patterns = ("*in_proj_weight", "*linear1", "*linear2", "*out_proj")

    def __init__(self, letters: int, width: int = 64) -> None:
        super().__init__()
        self.embedding = nn.Embedding(letters, width)
        self.places = nn.Parameter(0.02 * torch.randn(LENGTH, width))
        layer = nn.TransformerEncoderLayer(width, 4, 4 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, letters)

    def forward(self, text: Tensor) -> Tensor:
        """Return logits (batch, length, letters) of text (batch, length)."""
        length = text.shape[1]
        causal = nn.Transformer.generate_square_subsequent_mask(length)
        return self.head(self.encoder(self.embedding(text) + self.places[:length], mask=causal, is_causal=True))


class LSTM(nn.Module):
    """One recurrent layer."""

    patterns = ("*lstm.weight_*",)

    def __init__(self, letters: int, width: int = 128) -> None:
        super().__init__()
        self.embedding = nn.Embedding(letters, width)
        self.lstm = nn.LSTM(width, width, batch_first=True)
        self.head = nn.Linear(width, letters)

    def forward(self, text: Tensor) -> Tensor:
        """Return logits (batch, length, letters) of text (batch, length)."""
        return self.head(self.lstm(self.embedding(text))[0])


class NextCharacter(LightningModule):
    """Predicts each character from those before it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """Return the loss of a batch."""
        (text,) = batch
        loss = nn.functional.cross_entropy(self.network(text[:, :-1]).flatten(0, 1), text[:, 1:].flatten())
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return AdamW."""
        return torch.optim.AdamW(self.parameters(), lr=2e-3)


def main(kind: str = "gpt", **options: object) -> float:
    """Train, and return the loss of the last batch, in nats a character."""
    seed_everything(0)
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    letters = sorted(set(text))
    codes = torch.tensor([letters.index(letter) for letter in text])
    data = TensorDataset(codes[: len(codes) // LENGTH * LENGTH].view(-1, LENGTH))
    network = {"gpt": GPT, "lstm": LSTM}[kind](len(letters))
    growth = "random" if kind == "lstm" else "hebbian"  # the coactivation of recurrent weights is not counted
    sparse = PruneRegrow(0.2, include=network.patterns, growth=growth)
    given = {"max_epochs": 5, "logger": False, "enable_checkpointing": False, "enable_model_summary": False} | options
    trainer = Trainer(callbacks=[sparse], **given)
    trainer.fit(NextCharacter(network), DataLoader(data, batch_size=32, shuffle=True))
    print(sparse.summary())
    loss = float(trainer.callback_metrics["train_loss"])
    print(f"{kind}: {loss:.2f} nats a character, after {trainer.global_step} steps")
    return loss


if __name__ == "__main__":
    main(*sys.argv[1:2])
