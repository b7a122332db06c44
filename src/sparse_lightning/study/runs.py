"""From folders of runs to a table, a row a run."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
from omegaconf import OmegaConf

from sparse_lightning.study.record import CONFIG, ERROR, RESULT, read_metrics

PUBLISHED: dict[str, Any] = json.loads(Path(__file__).with_name("published.json").read_text(encoding="utf-8"))


def load_runs(folder: str | Path) -> pd.DataFrame:
    """Read all runs below a folder, a row each, in the order of their names.

    Columns: `run`, the folder's name, and `folder`; `status`, one of finished, failed (with its `error`) and
    unfinished; every hyperparameter under its own name, or under ``group.name`` where two groups have different values
    for one name; for train_acc and val_acc (shares, 0 to 1) ``_max``, ``_max_epoch``, ``_min``, ``_min_epoch``,
    ``_median`` and ``_last``, epochs counted from 0; `epochs`, how many there are; `run_time` and `mean_epoch_time` in
    seconds.

    Raises:
        FileNotFoundError: There is no such folder, or no run below it.
    """
    folder = Path(folder)
    configs = sorted(folder.rglob(CONFIG), key=_natural)
    if not configs:
        missing = "is no such folder" if not folder.is_dir() else "is none"
        raise FileNotFoundError(f"Expected a folder with runs ({CONFIG} in each), got {folder}: there {missing}")
    settings = pd.DataFrame([_settings(path) for path in configs])
    outcomes = pd.DataFrame([_outcome(path.parent) for path in configs])
    return pd.concat([outcomes, _short_names(settings)], axis=1)


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
    rows = pd.DataFrame(read_metrics(folder)).apply(pd.to_numeric)
    error = folder / ERROR
    status = "finished" if (folder / RESULT).exists() else "failed" if error.exists() else "unfinished"
    found: dict[str, Any] = {"run": folder.name, "folder": str(folder), "status": status}
    found["error"] = error.read_text(encoding="utf-8").strip().splitlines()[-1] if status == "failed" else None
    for metric in ("train_acc", "val_acc"):
        found |= _course(metric, rows.set_index("epoch")[metric].dropna() if metric in rows else pd.Series(dtype=float))
    times = rows["epoch_time"] if "epoch_time" in rows else pd.Series(dtype=float)
    return found | {"epochs": len(rows), "run_time": times.sum(), "mean_epoch_time": times.mean()}


def _course(metric: str, values: "pd.Series[float]") -> dict[str, Any]:
    if values.empty:
        return dict.fromkeys(f"{metric}_{what}" for what in ("max", "max_epoch", "min", "min_epoch", "median", "last"))
    return {
        f"{metric}_max": values.max(),
        f"{metric}_max_epoch": values.idxmax(),
        f"{metric}_min": values.min(),
        f"{metric}_min_epoch": values.idxmin(),
        f"{metric}_median": values.median(),
        f"{metric}_last": values.iloc[-1],
    }


def _settings(path: Path) -> dict[str, Any]:
    return dict(_flat(cast(dict[str, Any], OmegaConf.to_container(OmegaConf.load(path)))))


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
