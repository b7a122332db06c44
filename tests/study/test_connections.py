"""Where connections go: measures on masks small enough to follow by hand, then the record of real training."""

from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from sparse_lightning import PruneRegrow, SparseMLP
from sparse_lightning.study.analysis.runs import load_metrics
from sparse_lightning.study.train.connections import Connections, Turnover, gini, jaccard, measures
from sparse_lightning.study.train.record import DEGREES, read_degrees
from sparse_lightning.study.train.recorders import Recorder

IGNORED = ("ignore:.*does not have many workers", "ignore:.*LeafSpec", "ignore:.*logging interval")


def mask(*active: int, size: int = 8) -> Tensor:
    found = torch.zeros(size, dtype=torch.bool)
    found[list(active)] = True
    return found.view(2, size // 2)


def test_gini_is_half_the_mean_difference_between_two_units_over_their_mean() -> None:
    counts = torch.randint(0, 50, (30,), generator=torch.Generator().manual_seed(0))
    pairs = (counts[:, None] - counts[None, :]).abs().double().mean()
    assert gini(counts) == pytest.approx(float(pairs / (2 * counts.double().mean())))


def test_overlap_is_the_share_of_common_connections() -> None:
    assert jaccard(mask(0, 1, 2), mask(1, 2, 3)) == 0.5
    assert jaccard(mask(), mask()) == 1.0


def test_grown_connections_are_followed_until_they_are_pruned() -> None:
    turnover = Turnover(mask(0, 1, 2, 3))
    turnover.move(mask(0, 1, 4, 5))  # 4 and 5 grow
    turnover.move(mask(0, 4, 5, 6))  # both survive one pruning, 6 grows
    assert turnover.survivors(2) == (0, 0)
    turnover.move(mask(0, 4, 6, 7))  # 5 goes after one, 4 survives two
    assert turnover.survivors(2) == (1, 2)
    turnover.move(mask(0, 4, 5, 7))  # 5 comes back: that does not make it a survivor
    turnover.move(mask(0, 4, 5, 6))
    assert turnover.survivors(2) == (0, 1)
    turnover.move(mask(0, 4, 5, 6))  # nothing moved, so nothing was pruned
    assert turnover.overlap == 1.0
    turnover.move(mask(1, 4, 5, 6))
    assert turnover.survivors(5) == (1, 2)
    assert measures({"fc": turnover})["survived_5/fc"] == 0.5


def test_exploration_and_survival_by_hand() -> None:
    turnover, found = Turnover(mask(0, 1)), []
    for step in (mask(0, 1), mask(1, 2), mask(0, 2), mask(1, 2)):
        turnover.move(step)
        values = measures({"fc": turnover})
        found.append((values["explored/all"] * mask().numel(), values.get("survived/all")))
    # 2 grew and stayed when 0 grew; 0 did not.
    assert found == [(2, None), (3, None), (3, 1.0), (3, 0.0)]


def test_a_layer_that_has_not_moved_has_no_overlap_and_no_survivors() -> None:
    assert set(measures({"fc": Turnover(mask(0, 1))})) == {
        f"{what}/{layer}" for what in ("gini_in", "gini_out", "explored") for layer in ("fc", "all")
    }


def test_all_layers_together_are_weighted_by_their_connections() -> None:
    found = measures({"one": Turnover(mask(0, 1, 2)), "other": Turnover(mask(0))})
    assert found["gini_out/all"] == pytest.approx((3 * found["gini_out/one"] + found["gini_out/other"]) / 4)


def fit(folder: Path, epochs: int, checkpoint: Path | None = None) -> Trainer:
    generator = torch.Generator().manual_seed(0)
    data = TensorDataset(torch.randn(64, 9, generator=generator), torch.randint(0, 3, (64,), generator=generator))
    torch.manual_seed(0)
    model = SparseMLP(input_size=9, num_classes=3, hidden_sizes=[8, 8])
    connections = Connections(folder)
    trainer = Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[connections, Recorder(folder, connections=connections)],
    )  # fmt: skip
    loader = DataLoader(data, batch_size=16)
    trainer.fit(model, loader, loader, ckpt_path=checkpoint, weights_only=True if checkpoint else None)
    return trainer


@pytest.mark.filterwarnings(*IGNORED, "ignore:.*exactly zero")
def test_a_continued_run_has_the_same_record_as_one_never_interrupted(tmp_path: Path) -> None:
    for name in ("straight", "continued"):
        (tmp_path / name).mkdir()
    trainer = fit(tmp_path / "straight", 9)
    fit(tmp_path / "continued", 4).save_checkpoint(tmp_path / "early.ckpt")
    (tmp_path / "continued" / DEGREES).unlink()
    fit(tmp_path / "continued", 9, tmp_path / "early.ckpt")
    straight, continued = (
        load_metrics(tmp_path / name).drop(columns="epoch_time") for name in ("straight", "continued")
    )
    assert straight.equals(continued)
    assert (tmp_path / "straight" / DEGREES).read_bytes() == (tmp_path / "continued" / DEGREES).read_bytes()

    degrees = read_degrees(tmp_path / "straight")
    assert degrees["network.linear1/in"].shape == (9, 9)
    assert degrees["network.linear1/in"].dtype == np.uint16
    masks = trainer.lightning_module.prune_regrow.masks
    assert list(degrees["network.output/out"][-1]) == masks["network.output.weight"].sum(1).tolist()
    rows = load_metrics(tmp_path / "straight")
    assert rows["topology/survived_5/all"].notna().sum() == 3
    assert rows["topology/gini_in/network.linear1"].iloc[-1] == pytest.approx(
        gini(masks["network.linear1.weight"].sum(0)), abs=1e-6
    )


def test_a_damaged_record_is_refused(tmp_path: Path) -> None:
    assert read_degrees(tmp_path) == {}
    (tmp_path / DEGREES).write_bytes(b"PK\x03\x04 and then nothing")
    with pytest.raises(ValueError, match=r"Expected connections\.npz to hold NumPy arrays, got a damaged file"):
        read_degrees(tmp_path)


class Net(LightningModule):
    """A convolution and a Linear layer, sparse by a callback alone, whose hidden units are dead on demand."""

    def __init__(self, dead: bool = False) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 4, 3), nn.Linear(4, 3)
        self.dead = dead

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        hidden = self.conv(batch[0].view(-1, 1, 3, 3)).flatten(1)
        return nn.functional.cross_entropy(self.head(hidden * (not self.dead)), batch[1])

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("val_acc", 0.5)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def fit_net(folder: Path, dead: bool, epochs: int) -> Trainer:
    generator = torch.Generator().manual_seed(0)
    data = TensorDataset(torch.randn(64, 9, generator=generator), torch.randint(0, 3, (64,), generator=generator))
    connections = Connections(folder)
    sparse = PruneRegrow(0.5, prune_fraction=0.9 if dead else 0.3)
    trainer = Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[sparse, connections, Recorder(folder, connections=connections)],
    )  # fmt: skip
    loader = DataLoader(data, batch_size=16)
    trainer.fit(Net(dead), loader, loader)
    return trainer


@pytest.mark.filterwarnings(*IGNORED)
def test_the_masks_of_any_model_are_measured_and_kernels_too(tmp_path: Path) -> None:
    trainer = fit_net(tmp_path, dead=False, epochs=2)
    rows, degrees = load_metrics(tmp_path), read_degrees(tmp_path)
    masks = trainer.callbacks[0].masks
    assert degrees["conv/out"][-1].tolist() == masks["conv.weight"].sum((1, 2, 3)).tolist()
    assert degrees["conv/in"][-1].tolist() == [int(masks["conv.weight"].sum())]
    assert rows["topology/dead/all"].tolist() == [0, 0]


@pytest.mark.filterwarnings(*IGNORED)
def test_active_connections_of_exactly_zero_are_counted_and_warned_of(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"exactly zero") as caught:
        fit_net(tmp_path, dead=True, epochs=3)
    rows = load_metrics(tmp_path)
    assert rows["topology/dead/head"].tolist() == [0, 5, 5]
    warned = [str(each.message) for each in caught if "exactly zero" in str(each.message)]
    assert len(warned) == 2  # one for each layer
    assert "active connections of head are exactly zero" in warned[1]
