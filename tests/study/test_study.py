"""A run's metrics and names, and errors in sentences."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparse_lightning.study.sweep.names import run_name
from sparse_lightning.study.train.record import MetricsCSV, read_metrics, sentence


def test_metrics_are_one_row_an_epoch_and_a_continued_run_replaces_what_came_later(tmp_path: Path) -> None:
    log = MetricsCSV(tmp_path)
    for epoch in range(3):
        log.log_metrics({"val_acc": 0.1 * epoch, "epoch": epoch}, step=0)
        log.log_metrics({"train_acc": 0.2 * epoch, "topology/density/all": 0.2, "epoch": epoch}, step=0)
    continued = MetricsCSV(tmp_path)
    continued.log_metrics({"val_acc": 0.5, "epoch": 1}, step=0)
    rows = read_metrics(tmp_path)
    assert [row["epoch"] for row in rows] == ["0", "1"]
    assert rows[1] == {"epoch": "1", "val_acc": "0.5", "train_acc": "0.2", "topology/density/all": "0.2"}
    assert list(tmp_path.iterdir()) == [tmp_path / "metrics.csv"]


def test_metrics_are_written_as_precisely_as_they_were_measured(tmp_path: Path) -> None:
    MetricsCSV(tmp_path).log_metrics({"val_acc": float(np.float32(0.9631)), "epoch": 0}, step=0)
    assert read_metrics(tmp_path)[0]["val_acc"] == "0.9631"


@pytest.mark.parametrize(
    ("overrides", "constant", "name"),
    [
        (["model.hebbian_grow=True", "seed=3"], [], "hebbian_grow=true,seed=3"),
        (["trainer.max_epochs=2", "seed=3"], ["trainer.max_epochs"], "seed=3"),
        (["model.seed=1", "data.seed=2"], [], "model.seed=1,data.seed=2"),
        (["seed=3"], ["seed"], "seed=3"),
        (["+data.data_dir=/some/where", "seed=0"], [], "data_dir=_some_where,seed=0"),
        ([], [], "run"),
    ],
)
def test_runs_are_named_by_what_differs(overrides: list[str], constant: list[str], name: str) -> None:
    assert run_name(overrides, constant) == name


def raised(error: Exception, cause: Exception | None = None) -> Any:
    error.__cause__ = cause
    return error


def test_errors_are_one_sentence(tmp_path: Path) -> None:
    assert sentence(ValueError("Expected this, got that")) == "Expected this, got that"
    assert sentence(RuntimeError("one\n\ntwo\nthree")) == "RuntimeError: one two"
    with pytest.raises(OSError, match="No such file") as caught:
        (tmp_path / "nothing").read_text()
    assert (
        sentence(caught.value) == f"Expected to be able to use {tmp_path / 'nothing'}, got: No such file or directory"
    )
