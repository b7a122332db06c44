"""A study of a model, data, a method and a callback that this project does not know."""

import json
import os
import subprocess
import sys
from pathlib import Path

import forked
import pandas as pd
import pytest
import torch
from common import ROOT, SHORT, script
from lightning.pytorch import Callback
from omegaconf import OmegaConf
from strangers import WithOptions

from sparse_lightning import SET
from sparse_lightning.study.train.build import arguments, defaults_of

pytestmark = pytest.mark.slow
SETTINGS = ["trainer.max_epochs=2", "report.metric=val_mse", "report.mode=min", "logger=csv"]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """Two methods of two seeds on the strangers, whose configurations are in a folder of their own."""
    folder, conf = tmp_path_factory.mktemp("strangers"), tmp_path_factory.mktemp("conf")
    for group, name, content in (
        ("model", "regression", {"_target_": "strangers.Regression", "width": 16}),
        ("data", "noise", {"_target_": "strangers.Noise"}),
        ("callbacks", "counts", {"counts": {"_target_": "strangers.Counts"}}),
    ):
        (conf / group).mkdir()
        OmegaConf.save(OmegaConf.create(content), conf / group / f"{name}.yaml")
    methods = "sparsity._target_=strangers.GrowTheLonely,sparse_lightning.SET"
    groups = [f"--config-dir={conf}", "-m", methods, "model=regression", "data=noise", "callbacks=counts"]
    command = [
        sys.executable,
        ROOT / "scripts" / "train.py",
        *groups,
        "seed=range(2)",
        *SETTINGS,
        f"output_dir={folder}",
    ]
    paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths}
    return folder, forked.run(command, env=environment)


def test_each_run_has_a_record_by_its_own_metric(study: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, done = study
    can_flush = torch.set_flush_denormal(True)
    torch.set_flush_denormal(False)
    names = {
        f"sparsity={method},seed={seed}"
        for method in ("strangers.GrowTheLonely", "sparse_lightning.SET")
        for seed in (0, 1)
    }
    assert {path.parent.name for path in folder.glob("*/result.json")} == names, done.stdout + done.stderr
    for name in names:
        result, rows = (
            json.loads((folder / name / "result.json").read_text()),
            pd.read_csv(folder / name / "metrics.csv"),
        )
        assert result["val_mse_min"] == rows["val_mse"].min()
        assert result["defaults"]["model.rate"] == 0.1
        assert "model.width" not in result["defaults"]  # which is given
        assert result["val_mse_last"] == rows["val_mse"].iloc[-1]
        assert rows["epochs_counted"].tolist() == [1, 2]
        assert rows["keeps_denormals"].tolist() == [float(not can_flush)] * 2
        assert {"train_mse", "topology/density/all", "topology/dead/net.0"} <= set(rows)
        best = torch.load(folder / name / "checkpoints" / "best.ckpt", weights_only=True)
        assert best["epoch"] == result["val_mse_min_epoch"]


def test_a_seed_reaches_what_takes_one(study: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    rows = [pd.read_csv(study[0] / f"sparsity=sparse_lightning.SET,seed={seed}" / "metrics.csv") for seed in (0, 1)]
    assert rows[0]["val_mse"].iloc[0] != rows[1]["val_mse"].iloc[0]


def test_a_sparsity_takes_the_place_of_the_models_own(tmp_path: Path) -> None:
    settings = ["trainer.max_epochs=3", *SHORT, "logger=csv"]
    script("train.py", "model.hebbian_grow=false", *settings, f"output_dir={tmp_path / 'model'}")
    script("train.py", "sparsity=random", *settings, f"output_dir={tmp_path / 'sparsity'}")
    one, other = (pd.read_csv(tmp_path / name / "metrics.csv") for name in ("model", "sparsity"))
    assert one["topology/density/all"].equals(other["topology/density/all"])
    assert (other["topology/grown/all"].iloc[1:] > 0).all()
    config = OmegaConf.load(tmp_path / "sparsity" / "config.yaml")
    assert (config.model.density, config.model.hebbian_grow, config.sparsity.density) == (1.0, None, 0.2)


@pytest.mark.parametrize("path", sorted((ROOT / "conf" / "sparsity").glob("*.yaml")), ids=lambda path: path.stem)
def test_each_sparsity_can_be_built(path: Path) -> None:
    config = OmegaConf.load(path)
    if config.get("_target_"):
        from hydra.utils import instantiate

        config.seed = 3
        built = instantiate(config)
        assert built.seed == 3
        defaults = instantiate({"_target_": config._target_, "exclude": [], "seed": 3})
        if not config._target_.endswith(".PruneRegrow"):
            assert repr(built) == repr(defaults)
        assert set(config) - {"_target_", "_convert_"} == set(arguments(type(built))[0])


def test_arguments_follow_options_to_the_class_above() -> None:
    class Above:
        def __init__(self, *, one: int, two: int = 2) -> None: ...

    class Below(Above):
        def __init__(self, zero: int = 0, **options: int) -> None: ...

    class Closed(Above):
        def __init__(self, zero: int = 0) -> None: ...

    assert arguments(Below) == (["zero", "one", "two"], False)
    assert arguments(Closed) == (["zero"], False)
    assert arguments(dict) == ([], True)


def test_defaults_are_those_of_the_constructor_itself() -> None:
    left = defaults_of({"sparsity": {"_target_": "strangers.WithOptions", "density": 0.2}})
    assert left == {"sparsity.twice": False}  # what the options stand for is not known
    assert defaults_of({"data": {"_target_": "strangers.Noise"}}) == {"data.size": 64}
    config = {"sparsity": {"_target_": "strangers.WithOptions", "density": 0.3}}
    known = defaults_of(config, {"sparsity": WithOptions(density=0.3)})  # but of what was built
    assert (known["sparsity.twice"], known["sparsity.growth"]) == (False, "random")
    assert not {"sparsity.density", "sparsity.seed"} & set(known)
    left = defaults_of({"sparsity": {"_target_": "sparse_lightning.SET"}}, {"sparsity": SET(0.3)})
    assert left["sparsity.density"] == 0.1  # that of the constructor itself
    other = Callback()
    other.base_arguments = {}
    assert defaults_of({"sparsity": {"_target_": "lightning.pytorch.Callback"}}, {"sparsity": other}) == {}
    assert defaults_of({"model": {"_target_": "strangers.Regression", "_args_": [8]}}) == {}
    assert defaults_of({"model": {"_target_": "no.such.Class"}, "data": {"_target_": "builtins.dict"}}) == {}


def test_the_example_of_an_own_study_runs_by_its_command(tmp_path: Path) -> None:
    command = [sys.executable, "scripts/train.py", "--config-dir", "examples/conf", "-m", "experiment=spirals"]
    command += ["trainer.max_epochs=2", "seed=range(2)", "logger=csv", f"output_dir={tmp_path}"]
    paths = os.pathsep.join(["examples", os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths}
    done = forked.run(command, ROOT, environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "sparsity=GrowTheLonely minus sparsity=SET" in done.stdout
    assert "best val_loss" in done.stdout
    assert "ublished" not in done.stdout.replace("as published", "")
    assert len(list(tmp_path.glob("*/result.json"))) == 4
    assert "with all other settings equal" in " ".join(done.stdout.split())


def test_a_finished_run_whose_class_has_changed_since_is_named(tmp_path: Path) -> None:
    source = tmp_path / "mine_own.py"
    source.write_text("from sparse_lightning import SET\n\n\nclass Mine(SET):\n    pass\n")
    command = [sys.executable, ROOT / "scripts" / "train.py", "-m", "sparsity._target_=mine_own.Mine", "seed=0", *SHORT]
    command += ["trainer.max_epochs=1", "report.make=false", f"output_dir={tmp_path / 'runs'}"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    forked.run(command, env=environment)
    assert "has changed" not in forked.run(command, env=environment).stderr
    source.write_text(source.read_text() + "    # another rule\n")
    assert (
        "the file of mine_own.Mine has changed since this run; force=true"
        in forked.run(command, env=environment).stderr
    )


@pytest.mark.parametrize(
    ("setting", "answer"),
    [
        ("+sparsity.power=1,2", "got 'power'"),
        (
            "+sparsity.twice=true,false",
            "got 'twice'; what only one of the classes takes needs a command of its own, into the same output_dir",
        ),
    ],
)
def test_an_argument_that_a_swept_class_lacks_is_answered_with_what_to_do(
    setting: str, answer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
    classes = "sparsity._target_=strangers.WithOptions,sparse_lightning.SET"
    done = script("train.py", "-m", classes, setting, f"output_dir={tmp_path / 'study'}", check=False)
    assert done.returncode == 1
    assert done.stderr.strip().endswith(answer)


def test_an_argument_of_swept_methods_may_have_one_value(tmp_path: Path) -> None:
    settings = ["sparsity=set,static", "sparsity.prune_fraction=1.5", f"output_dir={tmp_path / 'study'}"]
    done = script("train.py", "-m", *settings, check=False)
    assert done.returncode == 1
    assert done.stderr.strip() == "Error: sparsity: Expected prune_fraction in [0, 1), got 1.5"
    assert not (tmp_path / "study").exists()  # nothing is left of what never began
    (tmp_path / "study").mkdir()
    script("train.py", "-m", *settings, check=False)
    assert (tmp_path / "study").exists()  # what was there stays


def test_the_best_checkpoint_of_a_density_that_falls_is_one_of_the_last_density(tmp_path: Path) -> None:
    settings = ["sparsity=gmp", "sparsity.every_n_steps=1", "trainer.max_epochs=6", "sparsity.stop=0.6", *SHORT]
    settings += ["+trainer.check_val_every_n_epoch=2"]  # the density also changes where nothing is validated
    script("train.py", *settings, f"output_dir={tmp_path}")
    rows = pd.read_csv(tmp_path / "metrics.csv")
    density, result = rows["topology/density/all"], json.loads((tmp_path / "result.json").read_text())
    at_last = rows[density == density.iloc[-1]]
    assert 1 <= len(at_last) < 6
    assert result["val_acc_max"] == at_last["val_acc"].max()
    assert torch.load(tmp_path / "checkpoints" / "best.ckpt", weights_only=True)["epoch"] == at_last["val_acc"].idxmax()


def test_dense_training_stays_dense_beside_methods_of_any_density(tmp_path: Path) -> None:
    settings = ["sparsity=none,static", "sparsity.density=0.1", "trainer.max_epochs=1", "report.make=false", *SHORT]
    script("train.py", "-m", *settings, f"output_dir={tmp_path}")
    rows = {path.parent.name: pd.read_csv(path) for path in tmp_path.glob("*/metrics.csv")}
    found = {name: float(row["topology/density/all"].iloc[-1]) for name, row in rows.items()}
    assert found == {"sparsity=none": 1.0, "sparsity=static": pytest.approx(0.1, abs=1e-3)}
    results = {path.parent.name: json.loads(path.read_text()) for path in tmp_path.glob("*/result.json")}
    assert {f"sparsity={result['choices']['sparsity']}" for result in results.values()} == set(results)
