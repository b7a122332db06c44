"""Reading a study's folder: runs written by hand, the published table and its old analysis code."""

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from omegaconf import OmegaConf

from sparse_lightning.study import format_table, load_runs, original_columns, summarize
from sparse_lightning.study.sweep.names import run_name
from sparse_lightning.study.train.record import MetricsCSV, read_metrics, result_from, sentence

PUBLISHED = json.loads((Path(__file__).parents[2] / "src/sparse_lightning/study/analysis/published.json").read_text())


def make_run(folder: Path, accuracy: list[float], hebbian_grow: bool | None, seed: int, finished: bool = True) -> None:
    folder.mkdir(parents=True)
    config = OmegaConf.load(Path(__file__).parents[2] / "conf/model/sparse_mlp.yaml")
    data = OmegaConf.load(Path(__file__).parents[2] / "conf/data/mnist.yaml")
    trainer = OmegaConf.load(Path(__file__).parents[2] / "conf/trainer/default.yaml")
    whole = OmegaConf.create({"seed": seed, "threads": 1, "model": config, "data": data, "trainer": trainer})
    whole.model.hebbian_grow = hebbian_grow
    whole.trainer.max_epochs = len(accuracy)
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(whole, resolve=True))
    log = MetricsCSV(folder)
    for epoch, value in enumerate(accuracy):
        log.log_metrics({"val_acc": value, "epoch": epoch}, step=epoch)
        log.log_metrics({"train_acc": value - 0.01, "epoch_time": 2.0, "epoch": epoch}, step=epoch)
    if finished:
        (folder / "result.json").write_text(json.dumps(result_from(dict(enumerate(accuracy)))))


@pytest.fixture
def study(tmp_path: Path) -> Path:
    make_run(tmp_path / "hebbian_grow=true,seed=0", [0.90, 0.96, 0.95], True, 0)
    make_run(tmp_path / "hebbian_grow=true,seed=1", [0.92, 0.94, 0.94], True, 1)
    make_run(tmp_path / "hebbian_grow=false,seed=0", [0.91, 0.95, 0.97], False, 0)
    make_run(tmp_path / "hebbian_grow=false,seed=10", [0.93], False, 10, finished=False)
    make_run(tmp_path / "hebbian_grow=null,seed=0", [], None, 0, finished=False)
    (tmp_path / "hebbian_grow=null,seed=0" / "error.txt").write_text("Traceback ...\nValueError: no luck\n")
    return tmp_path


def test_a_row_a_run_with_hyperparameters_and_the_course_of_both_accuracies(study: Path) -> None:
    frame = load_runs(study).set_index("run")
    row = frame.loc["hebbian_grow=true,seed=0"]
    assert (row["hebbian_grow"], row["density"], row["batch_size"], row["seed"]) == (True, 0.2, 128, 0)
    assert row["hidden_sizes"] == (100, 100, 100)
    expected = {"max": 0.96, "max_epoch": 1, "min": 0.90, "min_epoch": 0, "median": 0.95, "last": 0.95}
    assert {what: row[f"val_acc_{what}"] for what in expected} == expected
    assert row["train_acc_max"] == pytest.approx(0.95)
    assert (row["epochs"], row["run_time"], row["mean_epoch_time"], row["status"]) == (3, 6.0, 2.0, "finished")


def test_runs_that_failed_or_stopped_short_are_there_with_their_status(study: Path) -> None:
    status = load_runs(study).set_index("run")["status"]
    assert status["hebbian_grow=false,seed=10"] == "unfinished"
    assert status["hebbian_grow=null,seed=0"] == "failed"


def test_the_table_is_by_arm_over_finished_runs(study: Path) -> None:
    table = summarize(load_runs(study))
    assert list(table.index) == ["hebbian", "random"]
    hebbian = table.loc["hebbian"]
    assert hebbian["val_acc_max_epoch", "mean"] == 1.0
    assert hebbian["val_acc_max", "mean"] == pytest.approx(0.95)
    assert hebbian["val_acc_max", "std"] == pytest.approx(math.sqrt(0.0002))
    assert hebbian["val_acc_last", "min"] == 0.94
    assert hebbian["count", "sum"] == 2


def test_the_table_as_text_says_what_was_left_out_and_what_differs_from_the_published_runs(study: Path) -> None:
    said = format_table(load_runs(study))
    assert "hebbian           1.0  0.9400  0.9600  0.9500  0.0141" in said
    assert "  published      18.0  0.9780  0.9800  0.9790  0.0010  0.9740  0.9800  0.9760  0.0020      8" in said
    assert "Left out, 2 of 5 runs" in said
    assert "hebbian_grow=false,seed=10: not finished, 1 epochs so far" in said
    assert "hebbian_grow=null,seed=0: ValueError: no luck" in said
    assert "max_epochs=3, not 30" in said


def test_the_published_analysis_runs_unchanged_on_the_original_columns(study: Path) -> None:
    df = original_columns(load_runs(study))
    assert list(df.columns) == PUBLISHED["columns"]
    df = df[df["epochs"] >= 3]
    assert df.groupby("model")["model"].count().to_dict() == {"DSNNMixedHeb": 3}
    table = df.groupby(["hebbian_grow"]).agg(
        {
            "val_acc_max_epoch": ["mean"],
            "val_acc_max": ["min", "max", "mean", "std"],
            "val_acc_last": ["min", "max", "mean", "std"],
            "model": ["count"],
        }
    )
    assert table.round(3).loc[True, ("val_acc_max", "max")] == 0.96
    assert (df["hebbian_prune_perc"].replace(np.nan, 0.0) == 0.0).all()
    assert (df["weight_prune_perc"].replace(np.nan, 0.0) == 0.3).all()


def test_the_readme_loads_the_runs_into_pandas(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    (code,) = (part for part in re.findall(r"```python\n(.*?)```", readme, re.S) if "load_runs" in part)
    exec(code.replace("outputs/FOLDER", str(study)), {})
    assert "DSNNMixedHeb    5" in capsys.readouterr().out


def test_runs_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for seed in (10, 9, 1):
        make_run(tmp_path / f"seed={seed}", [0.9], True, seed)
    assert list(load_runs(tmp_path)["seed"]) == [1, 9, 10]


def test_a_swept_name_that_two_groups_have_keeps_its_group(tmp_path: Path) -> None:
    make_run(tmp_path / "a", [0.9], True, 0)
    make_run(tmp_path / "b", [0.9], True, 1)
    config = OmegaConf.load(tmp_path / "b" / "config.yaml")
    config.data.seed = 7
    OmegaConf.save(config, tmp_path / "b" / "config.yaml")
    frame = load_runs(tmp_path)
    assert list(frame["data.seed"]) == [0, 7]
    assert list(frame["model.seed"]) == [0, 1]


@pytest.mark.parametrize("name", ["empty", "missing"])
def test_a_folder_without_runs_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=f"Expected a folder with runs .* got {tmp_path / name}: there is"):
        load_runs(tmp_path / name)


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


def test_an_empty_frame_of_metrics_has_no_course(tmp_path: Path) -> None:
    make_run(tmp_path / "new", [], True, 0, finished=False)
    frame = load_runs(tmp_path)
    assert pd.isna(frame["val_acc_max"]).all()
    assert format_table(frame).startswith("\nLeft out, 1 of 1 runs")
