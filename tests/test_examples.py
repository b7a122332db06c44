"""The examples, run on a few batches; those with tests of their own are beside what they show."""

import re
import runpy
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from common import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
SHORT = {"limit_train_batches": 3, "limit_val_batches": 1, "enable_progress_bar": False, "max_epochs": 2}


def form(line: str) -> str:
    """A line without its numbers, which differ between machines, and without what aligns them."""
    return re.sub(r"[-+]?\d[\d.,e+-]*", "#", " ".join(line.split()))


KEPT = {form(line) for line in (ROOT / "docs" / "examples.md").read_text("utf-8").splitlines()}


def main(name: str) -> Callable[..., Any]:
    return runpy.run_path(str(ROOT / "examples" / f"{name}.py"))["main"]


@pytest.mark.parametrize("method", ["SET", "GMP", "RigL"])
def test_images_train_any_network_by_any_method(method, capsys):
    assert 0 <= main("images")("vit", method, **SHORT) <= 1
    printed = capsys.readouterr().out
    assert f"vit, {method} at density 0.1: val_acc" in printed
    assert method != "SET" or {form(line) for line in printed.splitlines()} <= KEPT


def test_the_resnet_takes_small_images_of_one_channel():
    network = runpy.run_path(str(ROOT / "examples" / "images.py"))["NETWORKS"]["resnet"]()
    assert network(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


@pytest.mark.parametrize(("kind", "weight"), [("gpt", "self_attn.in_proj_weight"), ("lstm", "lstm.weight_hh_l0")])
def test_text_trains_the_weights_that_only_a_pattern_chooses(kind, weight, capsys):
    assert 0 < main("text")(kind, **SHORT) < 6
    printed = capsys.readouterr().out
    assert weight in printed.partition("Dense:")[0]
    assert kind != "lstm" or {form(line) for line in printed.splitlines()} <= KEPT


def test_a_dense_checkpoint_becomes_sparse_at_once_or_gradually(capsys):
    accuracies = main("fine_tune")(epochs=1, limit_train_batches=150, enable_progress_bar=False)
    assert accuracies.keys() == {"dense", "one cut", "gradual"}
    assert min(accuracies.values()) > 0.5
    assert {form(line) for line in capsys.readouterr().out.splitlines() if "val_acc" in line} <= KEPT


def test_the_notebook_runs_and_keeps_what_it_printed(monkeypatch, tmp_path):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    notebook = nbformat.read(ROOT / "examples" / "hebbian_growth.ipynb", 4)
    kept = [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]
    assert all(kept)
    assert sum("best val_acc" in line for line in kept[0][0].text.splitlines()) == 16
    monkeypatch.setenv("STUDY_OVERRIDES", "seed=0,1 trainer.max_epochs=2 trainer.limit_train_batches=12")
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": tmp_path}}).execute()
    printed = [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]
    assert "Hebbian minus random" in printed[2][0].text
    assert "image/png" in printed[3][0].data


def test_lightning_cli_takes_a_method_from_yaml(monkeypatch, tmp_path, capsys):
    pytest.importorskip("jsonargparse")
    short = [f"--trainer.{name}={str(value).lower()}" for name, value in SHORT.items()]
    config = str(ROOT / "examples" / "lightning_cli.yaml")
    monkeypatch.setattr(sys, "argv", ["lightning_cli.py", "fit", "--config", config, *short])
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(ROOT / "examples" / "lightning_cli.py"), run_name="__main__")
    assert list(tmp_path.rglob("*.ckpt"))
