"""What the README shows, run."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from torch import Tensor, nn

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
CALLBACK, SUBCLASSES, _ = re.findall(r"```python\n(.*?)```", README, re.S)


class TinyModel(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.norm, self.head = nn.Linear(6, 30), nn.LayerNorm(30), nn.Linear(30, 4)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return self.head(torch.relu(self.norm(self.hidden(batch[0])))).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


@pytest.fixture
def names(
    trainer: Callable[..., Trainer], data: LightningDataModule, monkeypatch: pytest.MonkeyPatch
) -> dict[str, object]:
    """What the README's reader has: a Trainer that is quiet here, a model and data."""
    monkeypatch.setattr("lightning.pytorch.Trainer", trainer)
    return {"YourModel": TinyModel, "your_data": data.train_dataloader()}


def test_the_callback_works_on_a_model_that_is_not_ours(
    names: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    exec(CALLBACK, names)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[1] == ["hidden.weight", "30x6", "18", "180", "0.1000", "SignedMagnitude", "Hebbian", "norm"]
    assert lines[2] == ["head.weight", "4x30", "12", "120", "0.1000", "SignedMagnitude", "Hebbian", "head"]
    assert names["sparse"].rewirings == 9


def test_subclasses_are_methods_of_their_own(names: dict[str, object], trainer: Callable[..., Trainer]) -> None:
    exec(CALLBACK + SUBCLASSES, names)
    assert max(len(part.strip().splitlines()) for part in SUBCLASSES.split("\n\n\n")) <= 10
    for subclass, rewirings in (("GrowTheLonely", 5), ("HalfThenHold", 5), ("EveryThirdEpoch", 1)):
        sparse = names[subclass](density=0.1)
        trainer(max_epochs=6, callbacks=[sparse]).fit(TinyModel(), names["your_data"])
        assert sparse.rewirings == rewirings
    mask = torch.tensor([[True, True], [True, False]])
    full, lonely = names["GrowTheLonely"]().growth_scores("", torch.zeros(2, 2), mask, torch.Generator())
    assert (lonely > full).all()
    assert [names["HalfThenHold"]().scheduled(progress) for progress in (0.0, 0.4, 0.6)] == [1.0, 1.0, 0.5]
