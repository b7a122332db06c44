"""From folders of runs to a table, a row a run."""

import csv
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
from omegaconf import OmegaConf

from sparse_lightning.study.train.record import CONFIG, ERROR, METRICS, RESULT, read_metrics

PUBLISHED: dict[str, Any] = json.loads(Path(__file__).with_name("published.json").read_text(encoding="utf-8"))
COURSES = ("train_acc", "val_acc")
_COURSE = ("max", "max_epoch", "min", "min_epoch", "median", "last")
OUTCOMES = (
    *("run", "folder", "status", "error", "epochs", "run_time", "mean_epoch_time"),
    *(f"{metric}_{what}" for metric in COURSES for what in _COURSE),
)


def load_runs(*folders: str | Path) -> pd.DataFrame:
    """Read all runs below some folders, a row each, in the order of their names.

    Columns: `run`, the folder's name, and `folder`; `status`, one of finished, failed, unfinished and unreadable, and
    `error`, what went wrong with those that failed or cannot be read; every hyperparameter under its own name, or under
    ``group.name`` where two groups have different values for one name; for train_acc and val_acc (shares, 0 to 1)
    ``_max``, ``_max_epoch``, ``_min``, ``_min_epoch``, ``_median`` and ``_last``, epochs counted from 0; `epochs`, how
    many there are; `run_time` and `mean_epoch_time` in seconds.

    Raises:
        FileNotFoundError: There is no such folder, or no run below it, or none that this project made.
    """
    configs: dict[Path, Path] = {}
    for folder in map(Path, folders):
        found = sorted(folder.rglob(CONFIG), key=_natural)
        if not found:
            missing = "is no such folder" if not folder.is_dir() else "is none"
            raise FileNotFoundError(f"Expected a folder with runs ({CONFIG} in each), got {folder}: there {missing}")
        configs |= {path.resolve(): path for path in found}
    settings, outcomes = [], []
    for path in configs.values():
        try:
            settings.append(_settings(path))
            outcomes.append(_outcome(path.parent))
        except ValueError as error:
            settings.append({})
            outcomes.append(_found(path.parent, "unreadable", str(error)))
    if not any(settings):
        said = f"{len(settings)} {CONFIG}, of which none can be used: {outcomes[0]['error']}"
        raise FileNotFoundError(f"Expected a folder with runs of this project, got {folders[0]} with {said}")
    return pd.DataFrame(outcomes).join(_short_names(pd.DataFrame(settings)))


def load_metrics(folder: str | Path) -> pd.DataFrame:
    """The metrics of one run, a row an epoch; empty before its first epoch has ended.

    Raises:
        ValueError: The file is damaged.
    """
    try:
        rows = read_metrics(Path(folder))
        table: pd.DataFrame = pd.DataFrame(rows).apply(pd.to_numeric)
    except (ValueError, csv.Error) as error:
        raise ValueError(f"Expected {METRICS} to be a table of numbers, got a damaged file") from error
    if not rows:
        return table
    if None in table or table.shape[1] != len(rows[0]) or any(value is None for row in rows for value in row.values()):
        raise ValueError(f"Expected as many values as columns in each row of {METRICS}, got a damaged file")
    if "epoch" not in table or table["epoch"].tolist() != sorted(set(table["epoch"])):
        raise ValueError(f"Expected {METRICS} to have a row an epoch, in order, got others")
    return table


def original_columns(frame: pd.DataFrame) -> pd.DataFrame:
    """The runs under the 42 column names of the published experiment, so that its analysis code runs unchanged.

    Times are in minutes, as there. What this library has no knob for has the value that the experiment had.
    """
    density, fraction = frame["density"], frame["prune_fraction"]
    ours = {
        "Experiment Name": frame["run"],
        "experiment_file_name": frame["folder"],
        "trial_time": frame["run_time"] / 60,
        "mean_epoch_time": frame["mean_epoch_time"] / 60,
        "data_dir": frame["data_dir"],
        "dataset_name": frame["dataset"],
        "device": frame["accelerator"],
        "hebbian_prune_perc": np.nan,
        "lr_scheduler": "MultiStepLR",
        "model": "DSNNMixedHeb",
        "network": "MLPHeb",
        "on_perc": density,
        "optim_alg": frame["optimizer"],
        "weight_prune_perc": fraction,
        "debug_sparse": True,
        "debug_weights": True,
        "test_noise": False,
        "use_kwinners": False,
    }
    columns = {name: ours[name] if name in ours else frame[name] for name in PUBLISHED["columns"]}
    return pd.DataFrame(columns, index=frame.index)


def _outcome(folder: Path) -> dict[str, Any]:
    error = folder / ERROR
    if (folder / RESULT).exists():
        rows = _finished(folder)
        return _found(folder, "finished", None, rows)
    if error.exists():
        said = error.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return _found(folder, "failed", said[-1] if said else f"{ERROR} is empty", load_metrics(folder))
    return _found(folder, "unfinished", None, load_metrics(folder))


def _finished(folder: Path) -> pd.DataFrame:
    """The metrics of a finished run; they agree with its result."""
    try:
        epochs = json.loads((folder / RESULT).read_text(encoding="utf-8"))["epochs"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"Expected {RESULT} to be JSON with the number of epochs, got a damaged file") from error
    rows = load_metrics(folder)
    if len(rows) != epochs:
        raise ValueError(f"Expected {METRICS} to have the {epochs} epochs that {RESULT} says, got {len(rows)}")
    if "val_acc" not in rows or rows["val_acc"].isna().any():
        raise ValueError(f"Expected {METRICS} to have val_acc in each epoch, got none in some")
    return rows


def _found(folder: Path, status: str, error: str | None, rows: pd.DataFrame | None = None) -> dict[str, Any]:
    rows = pd.DataFrame() if rows is None else rows
    found: dict[str, Any] = {"run": folder.name, "folder": str(folder), "status": status, "error": error}
    for metric in COURSES:
        found |= _course(metric, rows.set_index("epoch")[metric].dropna() if metric in rows else pd.Series(dtype=float))
    times = rows["epoch_time"] if "epoch_time" in rows else pd.Series(dtype=float)
    return found | {"epochs": len(rows), "run_time": times.sum(), "mean_epoch_time": times.mean()}


def _course(metric: str, values: "pd.Series[float]") -> dict[str, Any]:
    if values.empty:
        return dict.fromkeys(f"{metric}_{what}" for what in _COURSE)
    return {
        f"{metric}_max": values.max(),
        f"{metric}_max_epoch": values.idxmax(),
        f"{metric}_min": values.min(),
        f"{metric}_min_epoch": values.idxmin(),
        f"{metric}_median": values.median(),
        f"{metric}_last": values.iloc[-1],
    }


def _settings(path: Path) -> dict[str, Any]:
    try:
        config = OmegaConf.to_container(OmegaConf.load(path))
    except Exception as error:  # OmegaConf, YAML and the file system each raise their own
        raise ValueError(f"Expected {CONFIG} to be a configuration, got a damaged file") from error
    if not (isinstance(config, dict) and "seed" in config and isinstance(config.get("model"), dict)):
        raise ValueError(f"Expected a {CONFIG} with a model and a seed, got one of another project")
    return dict(_flat(cast(dict[str, Any], config)))


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Settings by dotted name; lists become tuples, which pandas can group by."""
    for key, value in config.items():
        if key == "logger" or str(key).startswith("_"):
            continue
        if isinstance(value, Mapping) and not prefix:
            yield from _flat(value, f"{key}.")
        else:
            yield f"{prefix}{key}", tuple(value) if isinstance(value, list) else value


def _short_names(settings: pd.DataFrame) -> pd.DataFrame:
    """Each setting under its last name, if those that share it are the same in every run."""
    groups: dict[str, list[str]] = {}
    for column in settings:
        groups.setdefault(str(column).rpartition(".")[2], []).append(str(column))
    short: dict[str, pd.Series[Any]] = {}
    for name, columns in groups.items():
        same = all(settings[column].equals(settings[columns[0]]) for column in columns)
        short |= {name: settings[columns[0]]} if same else {column: settings[column] for column in columns}
    return pd.DataFrame(short)


def _natural(path: Path) -> tuple[tuple[int, int | str], ...]:
    """Sorts seed=10 after seed=9."""
    return tuple((0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", str(path)))
