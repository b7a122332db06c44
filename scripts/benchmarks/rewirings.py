"""One rewiring of a layer, against one topk of its size."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from benchmarks.measuring import Row, milliseconds, quiet_trainer
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader

from sparse_lightning import PruneRegrow

DENSITY, PRUNE_FRACTION = 0.2, 0.3


def rewire_rows(rounds: int, largest: int) -> list[Row]:
    """One Linear layer of each size, from 10^5 connections up: one topk, and one rewiring of each arm."""
    rows = []
    for power in range(5, largest + 1):
        size = 10**power

        def topk(seed: int, folder: Path, size: int = size) -> dict[str, float]:
            scores, replaced = torch.rand(size), round(DENSITY * PRUNE_FRACTION * size)
            return {"milliseconds": milliseconds(lambda: scores.topk(replaced))}

        def rewiring(seed: int, folder: Path, size: int = size, growth: str = "random") -> dict[str, float]:
            return {"milliseconds": _rewiring(size, growth, seed)}

        base = Row("rewire", f"topk, 10^{power}", topk, rounds)
        arms = {growth: partial(rewiring, growth=growth) for growth in ("random", "hebbian")}
        rows += [base, *(Row("rewire", f"{arm}, 10^{power}", work, rounds, (base,)) for arm, work in arms.items())]
    return rows


class _OneLayer(LightningModule):
    """A Linear layer that is trained for two epochs of a step, so that it is rewired in between."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.layer = nn.Linear(1000, size // 1000, bias=False)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self.layer(batch).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


class _Timed(PruneRegrow):
    """Notes how long a rewiring takes, the choice, the mask, the weights and the optimizer's state together."""

    milliseconds = 0.0

    def on_train_batch_start(self, *args: Any) -> None:
        before = self.rewirings
        took = milliseconds(lambda: super(_Timed, self).on_train_batch_start(*args))
        if self.rewirings > before:
            self.milliseconds = took


def _rewiring(size: int, growth: str, seed: int) -> float:
    callback = _Timed(DENSITY, prune_fraction=PRUNE_FRACTION, growth=growth, seed=seed)
    trainer = quiet_trainer(2, callback)
    trainer.fit(_OneLayer(size), DataLoader(torch.randn(8, 1000), batch_size=8))
    return callback.milliseconds
