"""Reports of small studies written by hand: what they say, what they leave alone, and what they survive."""

import hashlib
import os
import re
import runpy
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from studies import LAYERS, course, make_run, sweep

from sparse_lightning.study import load_runs
from sparse_lightning.study.analysis.figures import draw, render, style
from sparse_lightning.study.analysis.findings import analyse, dead_connections
from sparse_lightning.study.analysis.report import format_report, make_report, summary
from sparse_lightning.study.analysis.tables import dead_table

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
OWN = {"report.html", "summary.csv", "figures", "arms"}
DENSITIES = ({"model.density": 0.1}, {"model.density": 0.2})


def bytes_of(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def words(text: str) -> str:
    return " ".join(text.split())


def test_a_report_writes_its_own_files_alone_and_again_the_same_bytes(study: Path) -> None:
    before = bytes_of(study)
    printed = make_report(study)
    first = bytes_of(study)
    assert {name: first[name] for name in before} == before
    assert {Path(name).parts[0] for name in first.keys() - before.keys()} == OWN
    for run in study.glob("*seed*/result.json"):
        os.utime(run, (0, 0))  # the date comes from the records, not from a clock
    assert make_report(study) == printed
    assert bytes_of(study) == first

    assert re.search(r"SUPPORTED: The best val_acc is lower\. Difference -[01]\.\d+ percentage points", words(printed))
    assert "CONTRADICTED: The best val_acc is lower by about 0.2 percentage points (0.15 to 0.25)." in words(printed)
    assert "Each arm is compared with hebbian_grow=false (chosen by default)" in words(printed)
    assert {path.suffix for path in (study / "figures").iterdir()} == {".png", ".svg"}

    summary = pd.read_csv(study / "summary.csv", keep_default_na=False)
    found = summary.query("table == 'comparison' and metric == 'val_acc_max'").set_index("figure")["value"]
    runs = load_runs(study).pivot(index="seed", columns="hebbian_grow", values="val_acc_max")
    assert float(found["difference"]) == pytest.approx((runs[True] - runs[False]).mean())
    assert float(found["reference_mean"]) == pytest.approx(runs[False].mean())
    published = summary[summary["table"] == "published"].set_index(["arm", "metric", "figure"])["value"]
    assert float(published["hebbian_grow=true", "val_acc_max_epoch", "mean"]) == 18

    page = (study / "report.html").read_text()
    links = re.findall(r'(?:src|href)="(?!data:image/svg|#)([^"]*)"', page)
    assert all((study / link.replace("%3D", "=").replace("%2C", ",")).exists() for link in links)
    assert {"summary.csv", "figures/learning_curves_val_acc.svg"} <= set(links)
    assert "<script" not in page
    tables = re.findall(r"<table>\s*<caption>.*?</table>", page, re.S)
    assert all('<th scope="col">' in table and '<th scope="row">' in table for table in tables)
    assert page.count("<table>") == len(tables) >= 4
    assert page.index("<table>") < page.index('"verdicts">') < page.index("<figure>") < page.index('"comparisons">')
    alts = re.findall(r'alt="([^"]*)"', page)
    assert len(set(alts)) == len(alts) == page.count("<figure>")
    assert all("hebbian_grow=true" in alt for alt in alts if not alt.startswith("Maps"))


def test_no_name_of_a_comparison_is_cut(tmp_path: Path) -> None:
    fractions = [{"model.prune_fraction": fraction} for fraction in (0.0, 0.1, 0.2)]
    with style():
        pictures = list(draw(analyse([sweep(tmp_path, *fractions)])))
        figures = [picture.figure for picture in pictures if picture.name.startswith("differences")]
        assert len(figures) == 5
        for figure in figures:
            width, _ = struct.unpack(">II", render(figure, "png")[16:24])
            figure.set_dpi(width / figure.get_figwidth())
            labels = figure.axes[0].get_yticklabels()
            assert len(labels) == 2
            assert all(label.get_window_extent().x0 >= 0 for label in labels)


def test_the_page_says_where_its_runs_come_from(tmp_path: Path) -> None:
    facts = {"commit": "abc123", "versions": {"torch": "2.14.1"}, "machine": "a <laptop>", "command": "train.py -m a=1"}
    for seed, date in enumerate(("2026-11-26T23:59:00", "2026-11-27T00:10:00")):
        make_run(tmp_path, [0.9], seed, date=date, **facts)
    make_report(tmp_path)
    page = (tmp_path / "report.html").read_text()
    found = ("2026-11-26 to 2026-11-27", "abc123", "torch 2.14.1", "a &lt;laptop&gt;", "<code>train.py -m a=1</code>")
    assert all(f"<dd>{fact}</dd>" in page for fact in found)


def test_a_page_shows_the_date_and_the_command_of_its_runs(tmp_path: Path) -> None:
    command = "python scripts/train.py -m 'seed=range(2)'"
    for seed in range(2):
        make_run(tmp_path, [0.9], seed, date=f"2026-11-2{6 + seed}T10:00:00+00:00", command=command)
    make_report(tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "<dd>2026-11-26 to 2026-11-27</dd>" in page
    assert "<dd><code>python scripts/train.py -m &#39;seed=range(2)&#39;</code></dd>" in page


def test_nothing_that_runs_are_called_becomes_markup(tmp_path: Path) -> None:
    sweep(tmp_path, {"model.kind": "<b>&"}, {"model.kind": "plain"}, seeds=[0])
    make_report(tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "<b>&" not in page
    assert "&lt;b&gt;&amp;" in page


@pytest.mark.parametrize("mode", ["max", "min"])
def test_any_metric_can_be_the_one_that_runs_are_judged_by(tmp_path: Path, mode: str) -> None:
    sweep(tmp_path, *DENSITIES, seeds=range(8))
    findings = analyse([tmp_path], metric="val_loss", mode=mode)
    best = findings.frame.groupby("density")[f"val_loss_{mode}"].mean()
    (compared,) = findings.comparisons
    assert compared.main.loc[f"val_loss_{mode}", "difference"] == pytest.approx(best[0.2] - best[0.1])
    printed = words(format_report(findings))
    assert printed.startswith("val_loss, by arm arm best val_loss last val_loss")
    assert "%" not in printed.partition("Each arm")[0].replace("95%", "")
    assert re.search(r"best val_loss -0\.0\d+ -0\.0\d+ to -0\.0\d+ significant: lower 8", printed)
    assert (findings.table["epochs_to"] < 8).any()


def test_the_metric_of_a_report_is_that_of_the_configuration(tmp_path: Path) -> None:
    base = {"model._target_": "theirs.Model", "report.metric": "f1", "report.mode": "max"}
    for width in (1, 2):
        f1 = [0.1 * width, 0.2 * width]
        make_run(tmp_path, [0.9, 0.9], 0, {"model.width": width}, base=base, more={"f1": f1})
    printed = make_report(tmp_path)
    assert printed.startswith("f1, by arm")
    assert re.search(r"\nwidth=2 +0\.4 +0\.4 ", printed)
    assert make_report(tmp_path, metric="val_loss").startswith("val_loss, by arm")
    with pytest.raises(FileNotFoundError, match=r"^Expected a metric of metrics\.csv \(.*f1\), got 'bl'"):
        make_report(tmp_path, metric="bl")


def test_a_metric_that_is_not_measured_in_every_epoch_is_reported(tmp_path: Path) -> None:
    for seed in range(2):
        every_second = ["", 0.5, "", 0.7 + seed / 10]
        make_run(tmp_path, [0.9] * 4, seed, {"model.density": 0.1}, more={"auc": every_second})
    findings = analyse([tmp_path], metric="auc")
    assert list(findings.table["auc_max"]) == pytest.approx([0.7, 0.8])
    assert list(findings.table["auc_max_epoch"]) == [3, 3]
    assert list(findings.table["epochs_to"]) == [4, 4]


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_a_diverged_run_is_read_and_named_and_not_counted(small: Path, value: str) -> None:
    more = {"val_loss": [0.5, *[value] * 7]}
    make_run(small, course(0.1, 5), 5, {"model.hebbian_grow": False}, more=more)
    findings = analyse([small])
    status = findings.frame.set_index("run")["status"]
    assert status["model.hebbian_grow=false,seed=5"] == "diverged"
    assert len(findings.runs) == 4
    printed = words(format_report(findings))
    named = f"model.hebbian_grow=false,seed=5 (diverged: val_loss is {value} after 2 epochs)"
    assert f"WARNING: 1 of 5 runs diverged and are not counted: {named}." in printed
    assert "damaged" not in printed


def test_a_study_of_which_every_run_diverged_is_a_report_too(tmp_path: Path) -> None:
    make_run(tmp_path, [0.1], 0, more={"val_acc": ["nan"]})
    assert "1 of 1 runs diverged" in make_report(tmp_path)
    assert "No run has finished yet." in (tmp_path / "report.html").read_text()


def test_dead_connections_are_shown_by_arm_and_layer_and_warned_of_by_name(tmp_path: Path) -> None:
    for seed in range(2):
        for density, dead in ((0.1, 0), (0.2, 60)):
            counts = {f"topology/dead/{layer}": [0, dead + seed, dead // 2] for layer in (LAYERS[1], "all")}
            make_run(tmp_path, [1 - density] * 3, seed, {"model.density": density}, more=counts)
    findings = analyse([tmp_path])
    table = dead_connections(findings).set_index(["arm", "layer"]).loc["density=0.2", LAYERS[1]]
    assert (table["count"], table["epoch"]) == (30, 1)
    assert 0.5 < table["most"] < 1
    (warning,) = findings.warnings
    assert warning.startswith("More than half of the active connections of network.output are dead in density=0.2: ")
    assert [row[:3] for row in dead_table(findings).rows][1] == ["density=0.2", "network.output", "30"]
    lines = summary(findings).query("table == 'dead connections' and figure == 'count'")
    assert list(lines["value"]) == [0, 30]
    with style():
        assert "topology_dead" in {picture.name for picture in draw(findings)}


def test_one_arm_and_one_run_of_one_epoch_are_reports_too(tmp_path: Path) -> None:
    make_run(tmp_path, [0.9], 0)
    printed = make_report(tmp_path)
    assert "there is one arm, and nothing to compare it with" in " ".join(printed.split())
    assert "nan" not in printed
    with style():
        (picture,) = (picture for picture in draw(analyse([tmp_path])) if picture.name == "learning_curves_val_acc")
    (line,) = picture.figure.axes[0].get_lines()
    assert line.get_marker() == "o"  # a line of one point shows nothing


def test_runs_that_never_reach_the_threshold_are_counted_as_censored(small: Path) -> None:
    findings = analyse([small], against="hebbian_grow=true", threshold=0.955)
    row = findings.comparisons[0].main.loc["epochs_to"]
    assert (row["censored"], row["reference_censored"], row["reference_mean"]) == (0, 2, 8)
    assert "2 of 4 runs never reach it and count as" in " ".join(findings.notes)


def fail(run: Path) -> None:
    (run / "result.json").unlink()
    (run / "error.txt").write_text("Traceback ...\nRuntimeError: no luck\n")


def halve(run: Path) -> None:
    path = run / "metrics.csv"
    path.write_text(path.read_text()[: len(path.read_text()) // 2])


def write(name: str, content: str | bytes) -> Callable[[Path], object]:
    return lambda run: (run / name).write_bytes(content.encode() if isinstance(content, str) else content)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (fail, "RuntimeError: no luck"),
        (lambda run: (run / "result.json").unlink(), "not finished, 8 epochs so far"),
        (halve, "Expected as many values as columns in each row of metrics.csv, got a damaged file"),
        (lambda run: (run / "metrics.csv").unlink(), "Expected metrics.csv to have the 8 epochs that result.json says"),
        (write("metrics.csv", b"\x00\xff\x17"), "Expected metrics.csv to be a table of numbers"),
        (write("metrics.csv", "epoch,val_acc\n0,high\n"), "Expected metrics.csv to be a table of numbers"),
        (write("metrics.csv", "a,b\n0,1\n"), "to have a row an epoch, in order"),
        (write("result.json", '{"epochs": 8'), "Expected result.json to be JSON"),
        (write("result.json", "[8]"), "Expected result.json to be JSON"),
        (write("config.yaml", "model: {seed: [1"), "config.yaml to be a configuration"),
        (write("config.yaml", "seed: 1\nmodel: &a {x: 1}\nmore: [*a, *a]\n"), "config.yaml to be a"),
        (write("config.yaml", "site: theirs\n"), "got one of another project"),
    ],
)
def test_a_run_that_cannot_be_used_is_listed_with_the_reason_and_the_rest_is_reported(
    small: Path, damage: Callable[[Path], object], reason: str
) -> None:
    damage(small / "model.hebbian_grow=true,seed=1")
    findings = analyse([small])
    assert [len(findings.frame), len(findings.runs)] == [4, 3]
    text = format_report(findings)
    assert "Left out, 1 of 4 runs:\n  model.hebbian_grow=true,seed=1: " in text
    assert reason in text
    assert "seed 1, not finished in hebbian_grow=true" in words(text)


def test_a_damaged_record_of_connections_costs_its_picture_alone(small: Path) -> None:
    for run in small.iterdir():
        (run / "connections.npz").write_bytes(b"PK")
    with style():
        names = {picture.name for picture in draw(analyse([small]))}
    assert "pixels" not in names
    assert {"learning_curves_val_acc", "speed", "topology_jaccard"} <= names


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
    monkeypatch.setattr(sys, "argv", ["report.py", str(tmp_path), "--metric", "val_loss", "--mode", "min"])
    with pytest.raises(SystemExit, match=r"^Error: Expected a folder with runs .*$"):
        runpy.run_path(str(ROOT / "scripts" / "report.py"), run_name="__main__")
    assert bytes_of(tmp_path) == before


def test_a_long_name_of_an_arm_is_cut_and_stale_arms_go(tmp_path: Path) -> None:
    for seed in range(2):
        run = make_run(tmp_path, [0.9], seed, {})
        config = (run / "config.yaml").read_text()
        (run / "config.yaml").write_text(config + f"note: {'界' * 3000}{seed}\n")
    stale = tmp_path / "arms" / "gone" / "events.out.tfevents.report"
    stale.parent.mkdir(parents=True)
    stale.touch()
    make_report(tmp_path)
    assert not stale.exists()
    assert len(list((tmp_path / "arms").glob("*/events*"))) == 2
