"""The files in a run's folder, and what reads and writes them without PyTorch.

The folder is the record; everything downstream reads it. `config.yaml` is the resolved configuration, `metrics.csv`
has one row per epoch, `checkpoints/` the last and the best one, each with the one before, `result.json` is written
last, and `error.txt` takes its place when a run has failed. Every file is replaced atomically, so a kill leaves the old
or the new one; the metrics of an epoch are written before its checkpoint, so a continued run lacks none.
"""

import contextlib
import csv
import json
import math
import os
import shlex
import sys
import sysconfig
import traceback
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import yaml
from omegaconf import OmegaConf

CONFIG, METRICS, RESULT, ERROR, CHECKPOINTS = "config.yaml", "metrics.csv", "result.json", "error.txt", "checkpoints"
LAST, BEST, PREVIOUS = "last.ckpt", "best.ckpt", ".previous"
DEGREES = "connections.npz"
INSTALLED = "sparse-lightning train"  # how sys.argv names the installed command
SWEEP = "multirun.yaml"  # Hydra's, in the folder of a multirun
DENSITY = "topology/density/all"  # the metric that is the density of all sparse layers together
DATA = "data_sha256"  # in the configuration: the data that the run was trained on
# Settings that may differ when a run is continued: where it is, and how it is watched.
INCIDENTAL = ("output_dir", "force", "data_dir", "enable_model_summary", "log_every_n_steps")


def tag(metric: str) -> str:
    """The tag of a metric in TensorBoard, which groups by the first part: its own name below ``metrics``.

    >>> tag("val_acc"), tag("topology/explored/all"), tag("topology/explored/network.linear1")
    ('metrics/val_acc', 'topology/explored', 'topology.network.linear1/explored')
    """
    if not metric.startswith("topology/"):
        return metric if "/" in metric else f"metrics/{metric}"
    _, what, layer = metric.split("/", 2)
    return f"topology/{what}" if layer == "all" else f"topology.{layer}/{what}"


@dataclass(frozen=True)
class Job:
    """A run to train, in whichever process.

    Attributes:
        config: Its resolved configuration, as YAML.
        folder: Its folder.
        swept: The settings that differ between the runs of its multirun, by their last names.
        alone: Whether it is started without a multirun.
        command: The command that started it, or its multirun.
        choices: The file of each group that its configuration was composed of, ``{"sparsity": "set"}``.
    """

    config: str
    folder: Path
    swept: frozenset[str] = frozenset()
    alone: bool = False
    command: str = ""
    choices: Mapping[str, str] = field(default_factory=dict)


def command_of(config_name: str | None, overrides: Iterable[str], *options: str) -> str:
    """A command as it can be given to a shell again.

    >>> command_of("config", ["seed=range(2)", "trainer.max_epochs=3"], "-m")
    "python scripts/train.py -m 'seed=range(2)' trainer.max_epochs=3"
    """
    named = [] if config_name in (None, "config") else ["--config-name", str(config_name)]
    return f"{program()} {shlex.join([*named, *options, *overrides])}".rstrip()


def program() -> str:
    """How training was started: by the installed command, or by a checkout's script."""
    return sys.argv[0] if sys.argv[0] == INSTALLED else "python scripts/train.py"


def command_of_sweep(folder: Path) -> str:
    """The command of a multirun, by what Hydra noted of it in its folder; empty if it did not."""
    try:
        hydra = read_config(folder / SWEEP)["hydra"]
        return command_of(hydra["job"]["config_name"], map(str, hydra["overrides"]["task"]), "-m")
    except (ValueError, KeyError, TypeError):
        return ""


def write(path: Path, content: str | bytes, keep: Path | None = None) -> None:
    """Write a file atomically: a reader, or a process killed meanwhile, never leaves half of it.

    Args:
        path: The file.
        content: What to write.
        keep: Where to keep the file that it replaces.

    Raises:
        OSError: The disk is full or not writable; the file is unchanged.
    """
    temporary = path.with_name(f"{path.name}.part")
    try:
        temporary.unlink(missing_ok=True)
        with temporary.open("xb") as file:  # a new file: a link in its place is not followed
            file.write(content.encode() if isinstance(content, str) else content)
        if keep and path.exists():
            os.replace(path, keep)
        os.replace(temporary, path)
    except OSError as error:
        error.filename = error.filename or str(path)  # a full disk does not name the file
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def read_config(path: Path) -> dict[str, Any]:
    """A run's configuration. Aliases, with which a few bytes can stand for gigabytes, are refused.

    Raises:
        ValueError: The file is damaged.
    """
    try:
        text = path.read_text(encoding="utf-8")
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
            raise ValueError("YAML aliases")
        config = cast(dict[str, Any], OmegaConf.to_container(OmegaConf.create(text)))
        return {str(key): value for key, value in config.items()}
    except Exception as error:  # YAML, the file system and damaged content each raise their own
        raise ValueError(f"Expected {path} to be a configuration, got a damaged file") from error


def read_metrics(folder: Path) -> list[dict[str, str]]:
    """The rows of a run's metrics, one per epoch; none if it has not written any."""
    path = folder / METRICS
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def epochs_of(folder: Path) -> int:
    """The number of epochs that a run has trained."""
    try:
        return max((folder / METRICS).read_bytes().count(b"\n") - 1, 0)
    except OSError:
        return 0


class MetricsCSV:
    """Writes `metrics.csv`, one row per epoch, complete after every write; a continued run continues the file.

    Args:
        folder: The run's folder.

    Raises:
        ValueError: The file of the run to continue is damaged.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        try:
            self.rows = {int(row["epoch"]): row for row in read_metrics(self.folder)}
        except (KeyError, TypeError, ValueError, csv.Error) as error:
            raise ValueError(
                f"Expected {self.folder / METRICS} to have one row per epoch, got a damaged file; force=true trains "
                "the run from the start"
            ) from error

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add metrics to the row of their `epoch`; rows of later epochs are removed."""
        epoch = int(metrics["epoch"])
        self.rows = {number: row for number, row in self.rows.items() if number <= epoch}
        words = {name: f"{value:.7g}" for name, value in metrics.items()}  # the precision of a 32-bit float
        self.rows[epoch] = self.rows.get(epoch, {}) | words | {"epoch": str(epoch)}
        found = dict.fromkeys(key for row in self.rows.values() for key in row)
        columns = sorted(found, key=lambda name: (name != "epoch", "/" in name))
        lines = [columns] + [[row.get(column, "") for column in columns] for row in self.rows.values()]
        write(self.folder / METRICS, "".join(",".join(line) + "\n" for line in lines))


def read_degrees(folder: Path) -> dict[str, np.ndarray[Any, np.dtype[np.unsignedinteger[Any]]]]:
    """The connections of every unit over a run's epochs, ``{"<layer>/in": (epochs, units)}``; empty without a record.

    Raises:
        ValueError: The file is damaged.
    """
    path = folder / DEGREES
    if not path.exists():
        return {}
    try:
        with path.open("rb") as file, np.load(file) as saved:
            return {name: saved[name] for name in saved.files}
    except Exception as error:  # zipfile, zlib and NumPy each raise their own
        raise ValueError(f"Expected {path.name} to hold NumPy arrays, got a damaged file") from error


def last_density_change(densities: Sequence[float | str | None]) -> int:
    """The first epoch of those since the density last changed: only they tell how good the sparse network is.

    >>> last_density_change([1.0, 0.5, 0.1, 0.1]), last_density_change([0.1, 0.1]), last_density_change([None, None])
    (2, 0, 0)
    """
    last = densities[-1] if densities else None
    changes = (epoch for epoch in range(len(densities), 0, -1) if densities[epoch - 1] != last)
    return next(changes, 0)


def result_from(
    values: Mapping[int, float], metric: str = "val_acc", mode: str = "max", **facts: Any
) -> dict[str, Any]:
    """The content of `result.json`, which marks a finished run: the best and the last value of its metric.

    Args:
        values: The metric by epoch, in order; at least one. Where the density changes, from the last change on.
        metric: Its name.
        mode: Whether ``"max"`` or ``"min"`` is best.
        facts: What else to note.
    """
    numbers = {epoch: value for epoch, value in values.items() if not math.isnan(value)} or dict(values)
    best = (max if mode == "max" else min)(numbers, key=lambda epoch: numbers[epoch])
    return {
        "epochs": len(values),
        f"{metric}_{mode}": numbers[best],
        f"{metric}_{mode}_epoch": best,
        f"{metric}_last": list(values.values())[-1],
        **facts,
    }


def result_of(folder: Path) -> dict[str, Any]:
    """The result of a finished run; empty if there is none, or none that can be used."""
    try:
        found = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    known = isinstance(found, dict) and isinstance(found.get("epochs"), int)
    return found if known and all(_best_keys(found)) else {}


def summary_of(result: Mapping[str, Any]) -> str:
    """A result in words.

    >>> summary_of({"epochs": 3, "val_acc_max": 0.97, "val_acc_max_epoch": 1, "val_acc_last": 0.96})
    'best val_acc 97.00% after 2 of 3 epochs, last 96.00%'
    """
    metric, mode = _best_keys(result)
    best, last = (in_unit(metric, result[f"{metric}_{what}"]) for what in (mode, "last"))
    epoch = result[f"{metric}_{mode}_epoch"] + 1
    diverged = f"; diverged: {result['diverged']}" if result.get("diverged") else ""
    return f"best {metric} {best} after {epoch} of {in_epochs(result['epochs'])}, last {last}{diverged}"


def in_epochs(number: Any) -> str:
    """A number of epochs.

    >>> in_epochs(1), in_epochs(30)
    ('1 epoch', '30 epochs')
    """
    return f"{number} epoch{'s' * (number != 1)}"


def is_share(metric: str) -> bool:
    """Whether a metric is a share, which is shown in percent: whatever has ``acc`` in its name."""
    return "acc" in metric


def in_unit(metric: str, value: float) -> str:
    """A value of a metric as it is shown while training.

    >>> in_unit("val_acc", 0.98129), in_unit("val_loss", 0.98129)
    ('98.13%', '0.9813')
    """
    return f"{value:.2%}" if is_share(metric) else f"{value:.4f}"


def _best_keys(result: Mapping[str, Any]) -> tuple[str, str]:
    """The metric and the mode of a result; empty if it is not one."""
    for key in result:
        metric, _, mode = key.rpartition("_")
        numbers = (result.get(name) for name in (key, f"{key}_epoch", f"{metric}_last"))
        if mode in ("max", "min") and all(isinstance(each, int | float) for each in numbers):
            return metric, mode
    return "", ""


def divergence(rows: Iterable[Mapping[str, str]], metric: str) -> str:
    """Where a loss or the metric stops being a number, in words; empty if it never does.

    >>> divergence([{"epoch": "0", "val_loss": "0.3"}, {"epoch": "1", "val_loss": "nan"}], "val_acc")
    'val_loss is nan after 2 epochs'
    """
    for row in rows:
        for name, cell in row.items():
            if (name == metric or "loss" in name) and cell and not math.isfinite(float(cell)):
                return f"{name} is {cell} after {in_epochs(int(row['epoch']) + 1)}"
    return ""


def sentence(error: BaseException, located: bool = False) -> str:
    """An error in one or two sentences, without a traceback.

    Args:
        error: The error.
        located: Whether to add the line of the user's code that raised it, where no sentence was written for it.
    """
    while type(error).__name__ == "InstantiationException" and error.__cause__:
        error = error.__cause__  # Hydra wraps the errors of constructors
    if isinstance(error, OSError) and error.errno:
        return f"Expected to be able to use {error.filename or 'the disk'}, got: {error.strerror}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    words = " ".join(lines[:2])
    if words and isinstance(error, ValueError | OSError):
        return words
    return f"{type(error).__name__}: {words}".rstrip(": ") + (_place_of(error) if located else "")


def _place_of(error: BaseException) -> str:
    """Where in code of one's own an error was raised: the last line that is of no installed package."""
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if is_own(Path(frame.filename))]
    return f" ({Path(own[-1].filename).name}, line {own[-1].lineno}, in {own[-1].name})" if own else ""


def is_own(path: Path) -> bool:
    """Whether a file is code of the user: neither of Python nor of an installed package, this one among them."""
    installed = {Path(__file__).parents[2], Path(sysconfig.get_path("stdlib"))}.intersection(path.parents)
    return path.is_file() and not installed and not {"site-packages", "dist-packages"}.intersection(path.parts)
