"""The real commands, and a small study that several files of tests look at."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SHORT = ["trainer.limit_train_batches=12", "trainer.limit_val_batches=6"]


def script(name: str, *arguments: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "scripts" / name, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="session")
def grid(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a multirun, two arms of two seeds, and what the command printed."""
    folder = tmp_path_factory.mktemp("grid")
    arguments = ["-m", "model.hebbian_grow=true,false", "seed=range(2)", "trainer.max_epochs=3", *SHORT]
    return folder, script("train.py", *arguments, f"output_dir={folder}").stdout
