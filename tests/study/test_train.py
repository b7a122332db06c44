"""The real commands, end to end, on the packaged MNIST."""

import gzip
import json
import re
import runpy
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pandas as pd
import pytest
import torch
from common import ROOT, SHORT, script
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sparse_lightning import __version__
from sparse_lightning.study.cli import _in_the_case_of_files
from sparse_lightning.study.train.record import sentence
from sparse_lightning.study.train.training import _quiet


def refusal(arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """What the command prints to stderr before it ends with status 1; in this process, to be quick."""
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "scripts" / "train.py"), run_name="__main__")
    printed = capsys.readouterr().err
    if isinstance(ended.value.code, str):  # which Python prints on its way out
        return printed + ended.value.code
    assert ended.value.code == 1
    return printed


def metrics(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "metrics.csv").drop(columns="epoch_time")


def epochs_done(folder: Path) -> int:
    path = folder / "metrics.csv"
    return pd.read_csv(path).get("train_loss", pd.Series(dtype=float)).notna().sum() if path.exists() else 0


def test_a_warning_is_one_line_that_begins_with_its_run() -> None:
    before = warnings.formatwarning
    with _quiet("seed=1: "):
        assert warnings.formatwarning("Mind.", UserWarning, "a.py", 1) == "seed=1: Warning: Mind.\n"
    assert warnings.formatwarning is before


def test_an_error_in_code_of_ones_own_is_shown_with_its_line() -> None:
    with pytest.raises(KeyError) as raised:
        _ = {}["width"]
    line = raised.traceback[-1].lineno + 1
    wanted = f"KeyError: 'width' (test_train.py, line {line}, in {raised.traceback[-1].name})"
    assert sentence(raised.value, located=True) == wanted
    with pytest.raises(TypeError) as raised:
        torch.nn.Linear(3)
    assert "in test_an_error_in_code" in sentence(raised.value, located=True)
    assert sentence(ValueError("Expected more"), located=True) == "Expected more"
    assert sentence(KeyError("width"), located=True) == "KeyError: 'width'"


@pytest.mark.slow
def test_runs_are_named_by_what_differs_between_them(grid: tuple[Path, str]) -> None:
    names = {path.parent.name for path in grid[0].glob("*/config.yaml")}
    assert names == {f"hebbian_grow={grow},seed={seed}" for grow in ("true", "false") for seed in (0, 1)}


@pytest.mark.slow
def test_a_run_leaves_config_metrics_events_checkpoints_and_result(grid: tuple[Path, str]) -> None:
    run = grid[0] / "hebbian_grow=false,seed=1"
    config = OmegaConf.load(run / "config.yaml")
    assert (config.model.hebbian_grow, config.model.seed, config.data.seed) == (False, 1, 1)
    assert list(metrics(run)["epoch"]) == [0, 1, 2]
    assert {path.stem for path in (run / "checkpoints").iterdir()} == {"best", "last", "best.ckpt", "last.ckpt"}
    result = json.loads((run / "result.json").read_text())
    assert result["epochs"] == 3
    assert result["val_acc_last"] == metrics(run)["val_acc"].iloc[-1]
    best = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    assert best["epoch"] == result["val_acc_max_epoch"]
    events = EventAccumulator(str(run)).Reload()
    shown = [event.value for event in events.Scalars("metrics/val_acc")]
    assert shown == pytest.approx(list(metrics(run)["val_acc"]))


@pytest.mark.slow
def test_the_two_arms_of_a_seed_begin_alike_and_differ_after_the_first_rewiring(grid: tuple[Path, str]) -> None:
    hebbian, random = (metrics(grid[0] / f"hebbian_grow={grow},seed=0") for grow in ("true", "false"))
    assert hebbian.iloc[0].equals(random.iloc[0])
    assert hebbian["train_loss"].iloc[1] != random["train_loss"].iloc[1]


@pytest.mark.slow
def test_every_run_is_announced_as_it_ends_and_the_table_follows(grid: tuple[Path, str]) -> None:
    folder, printed = grid
    assert all(f"[{number}/4] hebbian_grow=" in printed for number in range(1, 5))
    assert "max_epochs is 3, published 30" in " ".join(printed.split())
    assert printed.rstrip().endswith(str(folder))
    assert script("report.py", folder).stdout.strip() in printed


@pytest.mark.slow
def test_the_same_seed_gives_the_same_metrics_alone_as_in_a_grid(grid: tuple[Path, str], tmp_path: Path) -> None:
    script("train.py", "trainer.max_epochs=3", *SHORT, f"output_dir={tmp_path}")
    assert metrics(tmp_path).equals(metrics(grid[0] / "hebbian_grow=true,seed=0"))


@pytest.mark.slow
def test_a_killed_run_continues_from_its_last_checkpoint_to_the_same_bits(tmp_path: Path) -> None:
    settings = [
        "trainer.max_epochs=5",
        "trainer.limit_train_batches=60",
        "model.dropout=0.1",
        "model.lr_milestones=[3]",
    ]
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    script("train.py", *settings, f"output_dir={straight}")
    command = [sys.executable, ROOT / "scripts" / "train.py", *settings, f"output_dir={killed}"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while epochs_done(killed) < 3:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert not (killed / "result.json").exists()
    continued = script("train.py", *settings, f"output_dir={killed}")
    assert re.search(r"^Continuing after epoch [2-5]\.$", continued.stdout, re.MULTILINE)

    assert metrics(killed).equals(metrics(straight))
    one, other = (torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True) for folder in (straight, killed))
    for part in ("state_dict", "optimizer_states", "lr_schedulers"):
        torch.testing.assert_close(one[part], other[part], rtol=0, atol=0)
    key = next(key for key in one["callbacks"] if key.startswith("PruneRegrow"))
    states = [run["callbacks"][key] for run in (one, other)]
    assert states[0].pop("settings") == states[1].pop("settings")
    torch.testing.assert_close(*states, rtol=0, atol=0)


@pytest.mark.slow
def test_the_study_is_the_published_grid() -> None:
    for choice in (["--config-name", "study"], ["experiment=headline"]):
        printed = script("train.py", *choice, "--cfg", "hydra").stdout
        for line in ("mode: MULTIRUN", "model.hebbian_grow: true,false", "seed: range(8)"):
            assert line in printed


@pytest.mark.slow
def test_help_describes_every_key() -> None:
    printed = script("train.py", "--help").stdout.splitlines()
    config = OmegaConf.load(ROOT / "conf" / "config.yaml")
    keys = [str(key) for key in config if key not in ("defaults", "hydra", "report")]
    keys += [f"report.{key}" for key in config.report]
    for group in ("model", "data", "trainer"):
        for path in (ROOT / "conf" / group).glob("*.yaml"):
            keys += [f"{group}.{key}" for key in OmegaConf.load(path) if not str(key).startswith("_")]
    for key in set(keys):
        (line,) = (number for number, text in enumerate(printed) if text.startswith(f"  {key}="))
        assert printed[line + 1].startswith("      ")
    assert "  sparsity.schedule=constant | cosine | linear" in printed  # of files that differ each value, once
    assert "  sparsity.rewind_to=0  (only lottery_ticket)" in printed
    hidden = printed.index("  model.hidden_sizes=[100, 100, 100] | [120, 84]")
    assert printed[hidden + 1] == "      units of each hidden layer"
    assert any(line.startswith("sparsity=chtss/set ") for line in printed)


@pytest.mark.slow
def test_a_method_is_found_in_any_case_of_its_name() -> None:
    assert "_target_: sparse_lightning.RigL" in script("train.py", "sparsity=RigL", "--cfg", "job").stdout
    for given, meant in (("SET,chtss/CHTs_L3n", "set,chtss/chts_l3n"), ("SET,mine", "set,mine"), ("a=b", "a=b")):
        assert _in_the_case_of_files(f"sparsity={given}", ROOT / "conf") == f"sparsity={meant}"
    assert _in_the_case_of_files("seed=A", ROOT / "conf") == "seed=A"


@pytest.mark.slow
def test_the_version_is_that_of_the_package_beside_anything_else() -> None:
    for more in ([], ["seed=3"]):
        assert script("train.py", "--version", *more).stdout == f"sparse_lightning {__version__}\n"


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of another architecture."""
    folder = tmp_path_factory.mktemp("other")
    settings = ["trainer.max_epochs=1", "model.hidden_sizes=[20]", *SHORT, f"output_dir={folder}"]
    script("train.py", *settings)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["model.hebian_grow=true"], "got 'model.hebian_grow'. Did you mean 'model.hebbian_grow'?"),
        (["model.lr=1"], "got 'model.lr'. Did you mean 'model.learning_rate'?"),
        (["trainer.logger=false"], "got 'trainer.logger'. Did you mean 'logger'?"),
        (["model.density", "0.1"], "Expected overrides as key=value, got 'model.density'; write model.density=0.1"),
        (
            ["experiment=foo"],
            "Expected experiment to be one of chtss_table7, density, headline, hebbian_and_magnitude_pruning, ",
        ),
        (["+experiment=foo"], "experiment"),
        (["+model.dropout=0.1"], "Expected model.dropout=VALUE without the +, since the configuration has that key"),
        (["+foo.bar=0.1"], "Expected a key of the configuration (model, data, sparsity, callbacks, trainer, logger,"),
        (
            ["sparsity=sett"],
            "srigl, static, synflow, top_kast, weighted, got 'sett': did you mean 'set'?",
        ),
        (
            ["sparsity=set,rigl"],
            "Expected one value for each key, got several in 'sparsity=set,rigl'; -m",
        ),
        (["sparsity=dense"], "got 'dense': did you mean 'none'?"),
        (["sparsity=set", "sparsity.densty=0.1"], "got 'sparsity.densty'. Did you mean 'sparsity.density'?"),
        (["sparsity.density=0.1"], "Expected sparsity=NAME to choose what has 'sparsity.density', as in sparsity=set"),
        (["sparsity=set", "model.density=0.1"], "Expected sparsity.density instead of model.density"),
        (["sparsity=set", "model.hebbian_grow=true"], "Expected sparsity.growth instead of model.hebbian_grow"),
        (
            ["sparsity._target_=nowhere.Method"],
            "got 'nowhere.Method' (No module named 'nowhere'): put the folder of nowhere on PYTHONPATH",
        ),
        (["sparsity._target_=sparse_lightning.Rigl"], "no attribute 'Rigl'): did you mean 'sparse_lightning.RigL'?"),
        (
            ["sparsity._target_=sparse_lightening.SET"],
            "(No module named 'sparse_lightening'): did you mean 'sparse_light",
        ),
        (["sparsity._target_=SET"], "(No module named 'SET'): write module.Class, as in sparse_lightning.SET"),
        (
            ["sparsity._target_=sparse_lightning.HebbianGrowth"],
            "give it to a method, as in 'sparsity.growth={_target_:sparse_lightning.HebbianGrowth}'",
        ),
        (
            ["sparsity=set", "sparsity.growth=sparse_lightning.HebbianGrowth"],
            "a class is given as 'sparsity.growth={_target_:sparse_lightning.HebbianGrowth}'",
        ),
        (["model.optimizer=adam"], "got 'adam': did you mean 'Adam'?"),
        (["--model.density=0.1"], "got '--model.density=0.1'; write model.density=0.1"),
        (["--seed", "3"], "Expected overrides as key=value, got '--seed'; write seed=3"),
        (
            ["--config-name", "stduy"],
            "Expected --config-name to be one of config, study, got 'stduy': did you mean 'st",
        ),
        (["--config-name", "experiment/headline"], "got a part of one; write experiment=headline"),
        (["model._target_=os.getcwd"], "Expected model._target_ to name a class, got 'os.getcwd'"),
        (["+model.hiden_sizes=[3]"], "got 'hiden_sizes': did you mean 'hidden_sizes'?"),
        (
            ["data.num_train=3"],
            "Expected a key of data (dataset, data_dir, batch_size, val_size, seed), got 'data.num_train'",
        ),
        (["+model.depth=3"], "to have arguments of sparse_lightning.SparseMLP (input_size, num_classes, hidden_sizes"),
        (["trainer.max_epochs=1.5"], "Expected trainer.max_epochs to be an integer from 1, got 1.5"),
        (["trainer.max_epochs=0"], "Expected trainer.max_epochs to be an integer from 1, got 0"),
        (["+trainer.callbacks=null"], "Expected callbacks in the group callbacks, not in trainer"),
        (["report.mode=best"], "Expected report.mode to be max or min, got 'best'"),
        (["hydra/launcher=basic"], "Expected -m with hydra/launcher=basic"),
        (["seed=range(8)"], "Expected one value for each key, got several in 'seed=range(8)'; -m runs them all"),
        (["model.density=1.3"], "Expected density in (0, 1], got 1.3"),
        (["model.prune_fraction=much"], "Expected prune_fraction in [0, 1), got 'much'"),
        (
            ["model.hidden_sizes=[100,-1]"],
            "Expected hidden_sizes to be a list of integers of at least 1, got [100, -1]",
        ),
        (["model.density={network.linear9: 0.1}"], "Expected a layer to match 'network.linear9' in density"),
        (
            ["ckpt_path={other}/checkpoints/last.ckpt"],
            "Expected a checkpoint with network.linear1.weight of shape [100, 784], got [20, 784]",
        ),
        (["output_dir={other}"], "Expected the same run in {other}, got one with model.hidden_sizes=[20], not [100"),
        (["output_dir={other}/config.yaml/run"], "Expected to be able to use"),
        (["report.metric=f1", *SHORT], "Expected report.metric to be logged each epoch (train_acc, train_loss, "),
        (["report.metric=val_ac", *SHORT], "got 'val_ac': did you mean 'val_acc'?"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(
    arguments: list[str],
    message: str,
    other: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = [f"output_dir={tmp_path}", *(argument.replace("{other}", str(other)) for argument in arguments)]
    refused = refusal(arguments, monkeypatch, capsys)
    assert message.replace("{other}", str(other)) in refused
    assert len(refused.strip().splitlines()) <= 2


def test_damaged_data_are_refused_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    packaged = ROOT / "src" / "sparse_lightning" / "datamodules" / "mnist_data"
    for path in packaged.glob("*.gz"):
        (raw / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
    with (raw / "t10k-images-idx3-ubyte").open("r+b") as file:
        file.seek(5000)
        byte = file.read(1)[0]
        file.seek(5000)
        file.write(bytes([byte ^ 1]))
    refused = refusal([f"data.data_dir={tmp_path}", f"output_dir={tmp_path / 'run'}"], monkeypatch, capsys)
    assert "the file is damaged" in refused


@pytest.mark.slow
def test_a_refused_continuation_leaves_the_finished_run_as_it_was(
    other: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path.name: path.read_bytes() for path in other.iterdir() if path.is_file()}
    for arguments in (["ckpt_path=nowhere.ckpt"], [f"ckpt_path={other}/checkpoints/last.ckpt", "model.density=0.5"]):
        refused = refusal([f"output_dir={other}", "model.hidden_sizes=[20]", *arguments], monkeypatch, capsys)
        assert refused.startswith("Error: ")
    assert {name: (other / name).read_bytes() for name in before} == before
    assert not (other / "error.txt").exists()
