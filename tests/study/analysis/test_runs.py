"""Reading folders of runs: a row for each, with its settings and what it reached."""

import re
from pathlib import Path

import pandas as pd
import pytest
from omegaconf import OmegaConf
from studies import make_run

from sparse_lightning.study import format_table, load_metrics, load_runs, summarize


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    make_run(tmp_path, [0.90, 0.96, 0.95], 0)
    make_run(tmp_path, [0.92, 0.94, 0.94], 1)
    make_run(tmp_path, [0.91, 0.95, 0.97], 0, {"model.hebbian_grow": False})
    make_run(tmp_path, [0.93], 10, {"model.hebbian_grow": False}, finished=False)
    failed = make_run(tmp_path, [], 0, {"model.hebbian_grow": None}, finished=False)
    (failed / "error.txt").write_text("Traceback ...\nValueError: no luck\n")
    return tmp_path


def test_a_row_has_the_settings_and_the_course_of_both_accuracies(runs: Path) -> None:
    row = load_runs(runs).set_index("run").loc["model.hebbian_grow=true,seed=0"]
    assert (row["hebbian_grow"], row["density"], row["batch_size"], row["seed"]) == (True, 0.2, 128, 0)
    assert row["hidden_sizes"] == (100, 100, 100)
    assert row["model._target_"] == "sparse_lightning.SparseMLP"
    expected = {"max": 0.96, "max_epoch": 1, "min": 0.90, "min_epoch": 0, "median": 0.95, "last": 0.95}
    assert {what: row[f"val_acc_{what}"] for what in expected} == expected
    assert row["train_acc_max"] == pytest.approx(0.95)
    assert (row["epochs"], row["run_time"], row["mean_epoch_time"], row["status"]) == (3, 6.0, 2.0, "finished")
    assert (row["metric"], row["mode"]) == ("val_acc", "max")


def test_runs_that_failed_or_are_not_finished_are_there_with_their_status(runs: Path) -> None:
    status = load_runs(runs).set_index("run")["status"]
    assert status["model.hebbian_grow=false,seed=10"] == "unfinished"
    assert status["model.hebbian_grow=null,seed=0"] == "failed"


def test_the_table_is_by_arm_over_finished_runs(runs: Path) -> None:
    table = summarize(load_runs(runs))
    assert list(table.index) == ["hebbian_grow=false", "hebbian_grow=true"]
    hebbian = table.loc["hebbian_grow=true"]
    assert hebbian["val_acc_max_epoch", "mean"] == 1.0
    assert hebbian["val_acc_max", "mean"] == pytest.approx(0.95)
    assert hebbian["val_acc_max", "std"] == pytest.approx(0.0002**0.5)
    assert hebbian["val_acc_last", "min"] == 0.94
    assert hebbian["count", "sum"] == 2


def test_the_table_as_text_lists_what_was_left_out(runs: Path) -> None:
    printed = format_table(load_runs(runs))
    row = "hebbian_grow=true 95.00 ± 1.41 94.50 ± 0.71 1.0 94.00 96.00 94.00 95.00 2"
    assert row.split() in [line.split() for line in printed.splitlines()]
    assert "Left out, 2 of 5 runs" in printed
    assert "model.hebbian_grow=false,seed=10: not finished, 1 epochs so far" in printed
    assert "model.hebbian_grow=null,seed=0: ValueError: no luck" in printed


def test_the_documented_code_loads_the_runs_into_pandas(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (Path(__file__).parents[3] / "docs" / "study.md").read_text(encoding="utf-8")
    (code,) = (block for block in re.findall(r"```python\n(.*?)```", text, re.S) if "load_runs" in block)
    exec(code.replace("outputs/FOLDER", str(runs)), {})
    assert "DSNNMixedHeb    4" in capsys.readouterr().out


def test_runs_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for seed in (10, 9, 1):
        make_run(tmp_path, [0.9], seed, {})
    assert list(load_runs(tmp_path)["seed"]) == [1, 9, 10]


def test_a_name_that_two_groups_have_keeps_its_group(tmp_path: Path) -> None:
    make_run(tmp_path, [0.9], 0, {"data.seed": 0})
    make_run(tmp_path, [0.9], 1, {"data.seed": 7})
    frame = load_runs(tmp_path)
    assert list(frame["data.seed"]) == [0, 7]
    assert list(frame["model.seed"]) == [0, 1]


def test_a_setting_that_is_called_like_a_result_keeps_its_group(tmp_path: Path) -> None:
    make_run(tmp_path, [0.9, 0.8], 0, {"model.epochs": 7, "model.status": "new"})
    row = load_runs(tmp_path).iloc[0]
    assert (row["epochs"], row["model.epochs"], row["status"], row["model.status"]) == (2, 7, "finished", "new")


@pytest.mark.parametrize("name", ["empty", "missing"])
def test_a_folder_without_runs_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=f"Expected a folder with runs .* got {tmp_path / name}: there is"):
        load_runs(tmp_path / name)


def test_a_run_before_its_first_epoch_has_no_course(tmp_path: Path) -> None:
    make_run(tmp_path, [], 0, finished=False)
    frame = load_runs(tmp_path)
    assert pd.isna(frame["val_acc_max"]).all()
    assert format_table(frame).startswith("\nLeft out, 1 of 1 runs")


def test_metrics_are_read_with_what_is_missing_or_no_number(tmp_path: Path) -> None:
    run = make_run(tmp_path, [0.9, 0.8], 0, more={"val_loss": ["nan", "inf"], "auc": ["", 0.5]})
    table = load_metrics(run)
    assert table["epoch"].tolist() == [0, 1]
    assert table["val_loss"].isna().tolist() == [True, False]
    assert table["auc"].isna().tolist() == [True, False]


def test_a_configuration_of_a_few_bytes_cannot_keep_the_reader_busy(tmp_path: Path) -> None:
    make_run(tmp_path, [0.9], 0)
    bomb = make_run(tmp_path, [0.9], 1)
    lines = ["a0: &a0 [x, x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12))]
    (bomb / "config.yaml").write_text("\n".join(["seed: 1", "model: {seed: 1}", *lines]))
    assert list(load_runs(tmp_path)["status"]) == ["finished", "unreadable"]


def test_settings_of_older_runs_are_read_without_those_that_came_later(tmp_path: Path) -> None:
    run = make_run(tmp_path, [0.9], 0)
    config = OmegaConf.load(run / "config.yaml")
    config.model.pop("activation")
    OmegaConf.save(config, run / "config.yaml")
    make_run(tmp_path, [0.9], 1)
    assert load_runs(tmp_path)["activation"].isna().tolist() == [True, False]
