"""What a run writes into its folder: configuration, metrics, checkpoints, result.

The folder is the record; everything downstream reads it. `config.yaml` is the resolved configuration, `metrics.csv` has
a row an epoch, `checkpoints/` the last and the best one, each with the one before, `result.json` is written last, and
`error.txt` stands in its place where a run has failed. Every file is replaced at once, so a kill leaves the old or the
new one, never half; an epoch's metrics are written before its checkpoint, so a run that continues lacks none.
"""

import contextlib
import csv
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CONFIG, METRICS, RESULT, ERROR, CHECKPOINTS = "config.yaml", "metrics.csv", "result.json", "error.txt", "checkpoints"
LAST, PREVIOUS = "last.ckpt", ".previous"
DEGREES = "connections.npz"
DATA = "data_sha256"  # in the configuration: what the run was trained on
# Settings that may differ between two goes at one run: where it is, and how it is watched.
INCIDENTAL = ("output_dir", "force", "data_dir", "enable_model_summary", "log_every_n_steps")


@dataclass(frozen=True)
class Job:
    """A run to be made, whichever process makes it.

    Attributes:
        config: Its resolved configuration, as YAML.
        folder: Its folder.
        swept: The settings that differ between the runs of its multirun, by their last names.
        alone: Whether it is no part of a multirun.
    """

    config: str
    folder: Path
    swept: frozenset[str]
    alone: bool


def write(path: Path, content: str | bytes, keep: Path | None = None) -> None:
    """Write a file at once: a reader, or a process killed meanwhile, never sees half of it.

    Args:
        path: The file.
        content: What to write.
        keep: Where to keep the file that it replaces.

    Raises:
        OSError: There is no room, or no permission; the file is as it was.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        part.write_bytes(content.encode() if isinstance(content, str) else content)
        if keep and path.exists():
            os.replace(path, keep)
        os.replace(part, path)
    except OSError as error:
        error.filename = error.filename or str(path)  # a full disk does not say
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)  # a full disk has no room for it
        raise


def read_metrics(folder: Path) -> list[dict[str, str]]:
    """The rows of a run's metrics, one an epoch; none if it has not written any."""
    path = folder / METRICS
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def result_from(accuracy: Mapping[int, float], **facts: Any) -> dict[str, Any]:
    """What `result.json` says, the sign of a finished run: what the validation accuracy of its epochs came to.

    Args:
        accuracy: Validation accuracy, a share, by epoch, in their order; at least one.
        facts: What else to note.
    """
    best = max(accuracy, key=lambda epoch: accuracy[epoch])
    return {
        "epochs": len(accuracy),
        "val_acc_max": accuracy[best],
        "val_acc_max_epoch": best,
        "val_acc_last": list(accuracy.values())[-1],
        **facts,
    }


def sentence(error: BaseException) -> str:
    """What went wrong, in a sentence or two instead of a traceback."""
    while type(error).__name__ == "InstantiationException" and error.__cause__:
        error = error.__cause__  # Hydra wraps what a constructor raises
    if isinstance(error, OSError) and error.errno:
        return f"Expected to be able to use {error.filename or 'the disk'}, got: {error.strerror}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = " ".join(lines[:2])
    return said if said and isinstance(error, ValueError | OSError) else f"{type(error).__name__}: {said}"
