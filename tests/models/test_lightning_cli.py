"""Lightning CLI, as its users have it: every callback by its name or class path, from the shell and from YAML."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import LightningModule

from sparse_lightning import MNISTDataModule, PruneRegrow, SparseMLP
from sparse_lightning.callbacks.presets import PRESETS

pytest.importorskip("jsonargparse")
pytestmark = pytest.mark.filterwarnings("ignore")  # those of Lightning's CLI about itself and jsonargparse
FIT = {"max_epochs": 1, "limit_train_batches": 2, "limit_val_batches": 1, "logger": "false", "accelerator": "cpu"} | {
    "enable_checkpointing": "false",
    "enable_progress_bar": "false",
    "enable_model_summary": "false",
}


def run(*arguments: str, model: type[LightningModule] = SparseMLP) -> Any:
    """What a user's `main.py` does with these arguments; the model is not trained."""
    from lightning.pytorch.cli import LightningCLI

    given = [f"--trainer.{name}={value}" for name, value in FIT.items()]
    options: dict[str, Any] = {"save_config_callback": None, "seed_everything_default": False, "run": False}
    return LightningCLI(model, MNISTDataModule, args=[*given, *arguments], **options)


def sparsity(cli: Any) -> PruneRegrow:
    (found,) = (callback for callback in cli.trainer.callbacks if isinstance(callback, PruneRegrow))
    return found


@pytest.mark.parametrize("name", [kind.__name__ for kind in PRESETS.values()] + ["PruneRegrow"])
def test_every_method_is_given_by_its_name(name: str) -> None:
    sparse = sparsity(run(f"--trainer.callbacks+={name}", "--trainer.callbacks.density=0.05"))
    assert type(sparse).__name__ == name
    assert sparse.density == 0.05


def test_arguments_by_pattern_and_by_class_path_come_from_yaml(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("""
model:
  hidden_sizes: [32, 16]
trainer:
  callbacks:
    - class_path: sparse_lightning.SNFS
      init_args:
        density: {network.linear1: 0.1, network.linear2: 0.2}
        pruning:
          class_path: sparse_lightning.MixedPruning
          init_args: {hebbian_fraction: 0.5}
        growth: hebbian
""")
    cli = run("--config", str(tmp_path / "config.yaml"))
    shown = repr(sparsity(cli))
    assert shown.startswith("SNFS(density={'network.linear1': 0.1, 'network.linear2': 0.2}, growth=")
    assert "pruning=MixedPruning(0.5)" in shown
    cli.trainer.fit(cli.model, cli.datamodule)
    assert list(sparsity(cli).masks) == ["network.linear1.weight", "network.linear2.weight"]


def test_a_method_is_given_by_its_class_path_without_an_import_of_it() -> None:
    code = """
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.demos.boring_classes import BoringDataModule, BoringModel
given = ["--trainer.callbacks+=sparse_lightning.PruneRegrow", "--trainer.callbacks.density=0.5"]
print(LightningCLI(BoringModel, BoringDataModule, args=given, run=False).trainer.callbacks)
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert "PruneRegrow(density=0.5" in done.stdout


def test_the_yaml_of_the_page_builds_its_method(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs/callback.md").read_text("utf-8")
    (shown,) = re.findall(r"^```yaml\n(.*?)^```", page, re.S | re.M)
    (tmp_path / "config.yaml").write_text(shown)
    built = sparsity(run("--config", str(tmp_path / "config.yaml")))
    assert repr(built) == "PruneRegrow(density={'encoder.*': 0.1, 'head': 0.5}, growth='gradient', exclude=[])"


def test_the_model_and_its_data_take_their_arguments() -> None:
    cli = run("--model.hebbian_grow=false", "--model.density=0.1", "--data.batch_size=64", "--model.lr_schedule=cosine")
    assert (cli.model.hparams["hebbian_grow"], cli.model.hparams["density"]) == (False, 0.1)
    assert cli.datamodule.batch_size == 64


def test_an_argument_that_does_not_exist_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run("--trainer.callbacks+=RigL", "--trainer.callbacks.densty=0.05")
    assert "densty" in capsys.readouterr().err
