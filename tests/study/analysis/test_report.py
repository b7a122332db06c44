"""Reports of small studies written by hand: what they say, what they leave alone, and what they survive."""

import hashlib
import json
import math
import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from omegaconf import OmegaConf
from sparse_lightning.study.analysis.design import arrange, label

from sparse_lightning.study import load_runs
from sparse_lightning.study.analysis.report import analyse, format_report, make_report
from sparse_lightning.study.train.record import DEGREES, result_from
from sparse_lightning.study.train.recorders import MetricsCSV

ROOT = Path(__file__).parents[2]
OWN = {"report.html", "summary.csv", "figures", "arms"}


def make_run(study: Path, accuracy: list[float], seed: int, finished: bool = True, **settings: object) -> Path:
    """A run's folder as training leaves it, with settings of the model, named by what differs."""
    folder = study / ",".join(f"{key}={label(value)}" for key, value in (settings | {"seed": seed}).items())
    folder.mkdir(parents=True)
    model = {**OmegaConf.to_container(OmegaConf.load(ROOT / "conf/model/sparse_mlp.yaml")), **settings, "seed": seed}
    trainer = {"max_epochs": len(accuracy)}
    config = OmegaConf.create({"seed": seed, "output_dir": str(study), "model": model, "trainer": trainer})
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(config))
    log = MetricsCSV(folder)
    for epoch, value in enumerate(accuracy):
        row = {"epoch": epoch, "val_acc": value, "train_acc": value + 0.01, "epoch_time": 1.0}
        for number, what in enumerate(("gini_in", "gini_out", "explored", "jaccard", "survived", "survived_2")):
            for layer in ("network.linear1", "all"):
                row[f"topology/{what}/{layer}"] = 0.1 * number + 0.01 * epoch + 0.001 * seed * epoch + value / 100
        log.log_metrics(row, step=epoch)
    degrees = np.random.default_rng(seed).integers(0, 9, (len(accuracy), 16)).astype(np.uint16)
    np.savez(folder / DEGREES, **{"network.linear1/in": degrees})
    if finished:
        (folder / "result.json").write_text(json.dumps(result_from(dict(enumerate(accuracy)))))
    return folder


def course(best: float, seed: int, epochs: int = 8) -> list[float]:
    generator = np.random.default_rng(seed)
    return [float(best - 0.05 * math.exp(-epoch) + 0.0005 * generator.normal()) for epoch in range(epochs)]


@pytest.fixture
def study(tmp_path: Path) -> Path:
    folder = tmp_path / "study"
    for seed in range(8):
        make_run(folder, course(0.97, seed), seed, hebbian_grow=True)
        make_run(folder, course(0.98, seed + 100), seed, hebbian_grow=False)
    return folder


@pytest.fixture
def small(tmp_path: Path) -> Path:
    folder = tmp_path / "small"
    for seed in range(2):
        make_run(folder, course(0.97, seed), seed, hebbian_grow=True)
        make_run(folder, course(0.98, seed + 100), seed, hebbian_grow=False)
    return folder


def bytes_of(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_report_writes_its_own_files_alone_and_again_the_same_bytes(study: Path) -> None:
    before = bytes_of(study)
    said = make_report(study)
    first = bytes_of(study)
    assert {name: first[name] for name in before} == before
    assert {Path(name).parts[0] for name in first.keys() - before.keys()} == OWN
    assert make_report(study) == said
    assert bytes_of(study) == first

    assert "SUPPORTED: less accurate, by best validation accuracy: difference -1.0" in said
    assert "CONTRADICTED: by about 0.2 points (0.15 to 0.25), at its best" in said
    assert "Compared with hebbian_grow=false (inferred)" in said
    page = (study / "report.html").read_text()
    assert not re.search(r'(?:src|href)="(?!data:image/svg|hebbian_grow)', page)
    assert "<script" not in page
    assert page.index("Verdicts") < page.index("<figure>") < page.index("<table>")
    assert page.count("<figure>") == 5
    assert 'href="hebbian_grow%3Dtrue%2Cseed%3D3/metrics.csv"' in page
    assert {path.suffix for path in (study / "figures").iterdir()} == {".png", ".svg"}

    summary = pd.read_csv(study / "summary.csv", keep_default_na=False)
    found = summary.query("table == 'accuracy and speed' and metric == 'val_acc_max'").set_index("figure")["value"]
    runs = load_runs(study).pivot(index="seed", columns="hebbian_grow", values="val_acc_max")
    assert float(found["difference"]) == pytest.approx((runs[True] - runs[False]).mean())
    assert float(found["reference_mean"]) == pytest.approx(runs[False].mean())
    beside = summary[summary["table"].str.startswith("beside")].set_index(["table", "arm", "metric", "figure"])["value"]
    title = "beside the published table"
    assert float(beside[f"{title}, found", "hebbian", "val_acc_max", "mean"]) == pytest.approx(runs[True].mean())
    assert float(beside[f"{title}, published", "hebbian", "val_acc_max_epoch", "mean"]) == 18


def test_several_factors_make_arms_compared_all_else_equal(tmp_path: Path) -> None:
    for seed in range(2):
        for density in (0.1, 0.2):
            for grow in (True, False, None):
                make_run(tmp_path, course(0.9 + density / 10, seed), seed, density=density, hebbian_grow=grow)
    design, runs, notes = arrange(load_runs(tmp_path))
    assert set(design.factors) == {"density", "hebbian_grow"}
    assert (design.against, design.inferred, len(runs), notes) == ({"hebbian_grow": "false"}, True, 12, [])
    assert design.pairs["density=0.1,hebbian_grow=true"] == "density=0.1,hebbian_grow=false"
    assert len(design.pairs) == 4
    by_density, _, _ = arrange(load_runs(tmp_path), "model.density=0.2")
    assert by_density.pairs["density=0.1,hebbian_grow=null"] == "density=0.2,hebbian_grow=null"
    one, _, _ = arrange(load_runs(tmp_path), "density=0.2,hebbian_grow=false")
    assert set(one.pairs.values()) == {"density=0.2,hebbian_grow=false"}
    with pytest.raises(ValueError, match=r"Expected density to be one of 0\.1, 0\.2, got '0\.3'"):
        arrange(load_runs(tmp_path), "density=0.3")
    with pytest.raises(ValueError, match=r"Expected a factor of the study \(.*\), got 'dropout'"):
        arrange(load_runs(tmp_path), "dropout=0")


def test_a_study_of_another_setting_compares_with_its_lowest_level(tmp_path: Path) -> None:
    for fraction in (0.3, 0.1):
        for seed in range(3):
            make_run(tmp_path, course(0.9, seed), seed, prune_fraction=fraction)
    said = make_report(tmp_path)
    assert "1. prune_fraction 0.3 beside prune_fraction 0.1" in said
    assert "too few runs to say: no test of 3 pairs can reach 5%, it takes 6" in said or "no spread" in said


def test_one_arm_and_one_run_are_reports_too(tmp_path: Path) -> None:
    make_run(tmp_path, [0.9], 0)
    said = make_report(tmp_path)
    assert "one arm, and nothing to compare it with" in said
    assert (tmp_path / "report.html").exists()


def test_a_missing_pair_and_a_repeated_run_are_said(small: Path, tmp_path: Path) -> None:
    make_run(small, course(0.97, 7), 7, hebbian_grow=True)
    make_run(tmp_path / "again", course(0.5, 0), 0, hebbian_grow=True)
    report = analyse([small, tmp_path / "again"])
    assert list(report.main["hebbian_grow=true"]["pairs"].unique()) == [2]
    said = format_report(report)
    assert "seed 7, not finished in hebbian_grow=false" in said
    assert "it repeats seed 0 of hebbian_grow=true" in said


def test_runs_that_never_reach_the_accuracy_are_counted_as_censored(small: Path) -> None:
    report = analyse([small], accuracy=0.9755)
    row = report.main["hebbian_grow=true"].loc["epochs_to"]
    assert (row["censored"], row["reference_censored"], row["mean"]) == (2, 0, 8)
    with pytest.raises(ValueError, match=r"Expected accuracy in \(0, 1\], got 97"):
        analyse([small], accuracy=97)


def fail(run: Path) -> None:
    (run / "result.json").unlink()
    (run / "error.txt").write_text("Traceback ...\nRuntimeError: no luck\n")


def halve(run: Path) -> None:
    path = run / "metrics.csv"
    path.write_text(path.read_text()[: len(path.read_text()) // 2])


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (fail, "RuntimeError: no luck"),
        (lambda run: (run / "result.json").unlink(), "not finished, 8 epochs so far"),
        (halve, "Expected as many values as columns in each row of metrics.csv, got a damaged file"),
        (lambda run: (run / "metrics.csv").unlink(), "Expected metrics.csv to have the 8 epochs that result.json says"),
        (
            lambda run: (run / "metrics.csv").write_bytes(b"\x00\xff\x17"),
            "Expected metrics.csv to be a table of numbers",
        ),
        (lambda run: (run / "metrics.csv").write_text("epoch,val_acc\n0,high\n"), "to be a table of numbers"),
        (lambda run: (run / "metrics.csv").write_text("a,b\n0,1\n"), "to have a row an epoch, in order"),
        (lambda run: (run / "result.json").write_text('{"epochs": 8'), "Expected result.json to be JSON"),
        (
            lambda run: (run / "config.yaml").write_text("model: {seed: [1"),
            "Expected config.yaml to be a configuration",
        ),
        (lambda run: (run / "config.yaml").write_text("site: theirs\n"), "got one of another project"),
    ],
)
def test_a_run_that_cannot_be_used_is_listed_with_the_reason_and_the_rest_is_reported(
    small: Path, damage: Callable[[Path], object], said: str
) -> None:
    damage(small / "hebbian_grow=true,seed=1")
    report = analyse([small])
    assert [len(report.frame), len(report.runs)] == [4, 3]
    text = format_report(report)
    assert "Left out, 1 of 4 runs:\n  hebbian_grow=true,seed=1: " in text
    assert said in text
    assert "seed 1, not finished in hebbian_grow=true" in text


def test_a_damaged_record_of_connections_costs_its_picture_alone(small: Path) -> None:
    for run in small.iterdir():
        (run / DEGREES).write_bytes(b"PK")
    make_report(small)
    assert not (small / "figures" / "pixels.png").exists()
    assert (small / "figures" / "topology.png").exists()


def test_a_study_of_which_no_run_has_finished_says_so(tmp_path: Path) -> None:
    (make_run(tmp_path, [0.5], 0, finished=False) / "metrics.csv").unlink()
    assert "No run has finished yet." in make_report(tmp_path)
    assert "not finished, 0 epochs so far" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize("content", ["empty", "foreign"])
def test_a_folder_without_runs_is_refused_and_nothing_is_written(
    tmp_path: Path, content: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if content == "foreign":
        (tmp_path / "config.yaml").write_text("site: theirs\n")
    before = bytes_of(tmp_path)
    monkeypatch.setattr(sys, "argv", ["report.py", str(tmp_path)])
    with pytest.raises(SystemExit, match=r"^Error: Expected a folder with runs .*$"):
        runpy.run_path(str(ROOT / "scripts" / "report.py"), run_name="__main__")
    assert bytes_of(tmp_path) == before


def test_a_run_on_a_model_of_its_own_settings_is_reported(tmp_path: Path) -> None:
    for seed in range(2):
        run = make_run(tmp_path, course(0.9, seed), seed)
        config = OmegaConf.to_container(OmegaConf.load(run / "config.yaml"))
        config["model"] = {"_target_": "their.Model", "width": seed, "layers": {"a": 0.1}}
        (run / "config.yaml").write_text(json.dumps(config))
    design, _, _ = arrange(load_runs(tmp_path))
    assert design.factors == ("width",)
    assert "width 1 beside width 0" in format_report(analyse([tmp_path]))


def test_the_published_conclusions_are_told_apart_where_they_are_judged_more_than_once(tmp_path: Path) -> None:
    for seed in range(2):
        for density in (0.1, 0.2):
            for grow in (True, False):
                make_run(tmp_path, course(0.9, seed + 9 * grow), seed, density=density, hebbian_grow=grow)
    said = format_report(analyse([tmp_path]))
    for density in (0.1, 0.2):
        assert f"density {density}: Hebbian growth is about 0.2 points less accurate" in said
    assert "too few runs to say: it takes 6 pairs" in " ".join(said.split())


def test_how_noisy_the_two_measures_of_speed_are_is_measured_and_not_asserted(study: Path) -> None:
    report = analyse([study])
    spread = report.main["hebbian_grow=true"]["difference_sd"]
    runs = report.table.pivot(index="pair", columns="arm", values="val_acc_max_epoch")
    paired = runs["hebbian_grow=true"] - runs["hebbian_grow=false"]
    assert spread["val_acc_max_epoch"] == pytest.approx(paired.std())
    said = f"varies by {paired.std():.1f} epochs, the other by {spread['epochs_to']:.1f} (standard deviation)."
    assert said in report.conclusions[1].remark
