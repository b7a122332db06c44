"""Where connections go: measures on masks small enough to follow by hand, then the record of real training."""

from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from sparse_lightning import SparseMLP
from sparse_lightning.study.analysis.runs import load_metrics
from sparse_lightning.study.train.connections import (
    DEGREES,
    Connections,
    Turnover,
    gini,
    jaccard,
    measures,
    read_degrees,
)
from sparse_lightning.study.train.recorders import MetricsCSV


def mask(*active: int, size: int = 8) -> Tensor:
    found = torch.zeros(size, dtype=torch.bool)
    found[list(active)] = True
    return found.view(2, size // 2)


def test_gini_is_half_the_mean_difference_between_two_units_over_their_mean() -> None:
    counts = torch.randint(0, 50, (30,), generator=torch.Generator().manual_seed(0))
    pairs = (counts[:, None] - counts[None, :]).abs().double().mean()
    assert gini(counts) == pytest.approx(float(pairs / (2 * counts.double().mean())))


def test_overlap_is_what_is_shared_of_what_either_has() -> None:
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
    trainer = Trainer(
        max_epochs=epochs, accelerator="cpu", logger=MetricsCSV(folder), callbacks=[Connections(folder)],
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    loader = DataLoader(data, batch_size=16)
    trainer.fit(model, loader, loader, ckpt_path=checkpoint, weights_only=True if checkpoint else None)
    return trainer


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*LeafSpec", "ignore:.*logging interval")
def test_a_continued_run_has_the_same_record_as_one_never_interrupted(tmp_path: Path) -> None:
    for name in ("straight", "continued"):
        (tmp_path / name).mkdir()
    trainer = fit(tmp_path / "straight", 9)
    fit(tmp_path / "continued", 4).save_checkpoint(tmp_path / "early.ckpt")
    (tmp_path / "continued" / DEGREES).unlink()
    fit(tmp_path / "continued", 9, tmp_path / "early.ckpt")
    assert load_metrics(tmp_path / "straight").equals(load_metrics(tmp_path / "continued"))
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


def test_a_damaged_record_is_said(tmp_path: Path) -> None:
    assert read_degrees(tmp_path) == {}
    (tmp_path / DEGREES).write_bytes(b"PK\x03\x04 and then nothing")
    with pytest.raises(ValueError, match=r"Expected connections\.npz to hold NumPy arrays, got a damaged file"):
        read_degrees(tmp_path)
