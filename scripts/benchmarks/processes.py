"""Whole commands, from their start to their end, and the memory that they have."""

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from benchmarks.measuring import Row

from sparse_lightning.study.train.record import read_metrics

TRAIN = Path(__file__).parents[1] / "train.py"
ONE_STEP = ("trainer.max_epochs=1", "trainer.limit_train_batches=1", "trainer.limit_val_batches=1")
LAUNCH = """
import resource, subprocess, sys, time
begun = time.perf_counter()
status = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
print(time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(status)
"""
IMPORTS = "import torch, torchvision, lightning.pytorch, hydra, omegaconf"


def startup_rows(rounds: int) -> list[Row]:
    """The command for a run of one step, start to end, and the imports that it cannot do without."""

    def imports(seed: int, folder: Path) -> dict[str, float]:
        return {"seconds": _process([sys.executable, "-c", IMPORTS])[0]}

    def command(seed: int, folder: Path) -> dict[str, float]:
        return {"seconds": train(_new(folder), *ONE_STEP)[0]}

    base = Row("startup", "imports", imports, rounds)
    return [base, Row("startup", "train.py, one step", command, rounds, (base,))]


def study_rows(rounds: int, processes: Sequence[int], *sweep: str) -> list[Row]:
    """A study through the command line, on so many processes."""

    def study(seed: int, folder: Path, processes: int) -> dict[str, float]:
        home = _new(folder)
        seconds = _process(
            [sys.executable, TRAIN, "-m", *sweep, f"hydra.launcher.n_jobs={processes}", f"output_dir={home}"]
        )[0]
        runs = [read_metrics(path.parent) for path in home.glob("*/metrics.csv")]
        training = sum(float(row["epoch_time"]) for rows in runs for row in rows)
        return {"seconds": seconds, "share of the cores' time in training": training / (seconds * processes)}

    rows: list[Row] = []
    for number in processes:
        rows.append(Row("study", f"{number} at once", partial(study, processes=number), rounds, tuple(rows[:1])))
    return rows


def memory_rows(rounds: int) -> list[Row]:
    """The most that a run has resident."""

    def imports(seed: int, folder: Path) -> dict[str, float]:
        return {"MiB": _process([sys.executable, "-c", IMPORTS])[1]}

    def command(seed: int, folder: Path) -> dict[str, float]:
        return {"MiB": train(_new(folder), "trainer.max_epochs=2")[1]}

    base = Row("memory", "imports", imports, rounds)
    return [base, Row("memory", "train.py, two epochs", command, rounds, (base,))]


def train(home: Path, *overrides: str) -> tuple[float, float]:
    """Run scripts/train.py, and return its seconds and the most memory that it had, in MiB."""
    return _process([sys.executable, TRAIN, *overrides, f"output_dir={home}"])


def _new(folder: Path) -> Path:
    return Path(tempfile.mkdtemp(dir=folder)) / "run"


def _process(command: Sequence[str | Path]) -> tuple[float, float]:
    """The seconds that a process takes, and the most memory that it had, in MiB."""
    # Through a small process: what one forks off counts its parent's memory as its own.
    done = subprocess.run([sys.executable, "-c", LAUNCH, *command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"Expected {' '.join(map(str, command))} to succeed, got:\n{done.stderr}")
    seconds, most = map(float, done.stdout.split())
    return seconds, most / (2**20 if sys.platform == "darwin" else 2**10)
