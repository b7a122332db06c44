"""Lightning's own loggers beside ours, offline."""

import sqlite3
from pathlib import Path

import pytest
from common import SHORT, script

pytestmark = pytest.mark.slow
SETTINGS = ["trainer.max_epochs=2", *SHORT]


def test_weights_and_biases_keeps_a_run_offline(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    script("train.py", "logger=wandb", "logger.wandb.offline=true", *SETTINGS, f"output_dir={tmp_path}")
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))
    assert (tmp_path / "result.json").exists()


def test_mlflow_keeps_the_metrics_of_each_epoch_in_a_local_database(tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    database = f"logger.mlflow.tracking_uri=sqlite:///{tmp_path / 'mlflow.db'}"
    script("train.py", "logger=mlflow", database, *SETTINGS, f"output_dir={tmp_path / 'run'}")
    with sqlite3.connect(tmp_path / "mlflow.db") as connection:
        rows = connection.execute("select value from metrics where key = 'val_acc'").fetchall()
    assert len(rows) == 2
