"""Folders of runs, read: a table with a row per run, the metrics of a run by epoch, and where runs come from."""

import contextlib
import csv
import functools
import json
import math
import operator
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sparse_lightning.functional.checks import nearest, with_hint
from sparse_lightning.study.train.record import (
    CONFIG,
    DENSITY,
    ERROR,
    METRICS,
    RESULT,
    divergence,
    last_density_change,
    read_config,
    read_metrics,
)

FACTS = ("run", "folder", "status", "error", "metric", "mode", "epochs", "run_time", "mean_epoch_time")
CHOICE = "choice."  # before the name of a group: the file of it that a run was composed of
COURSE = ("max", "max_epoch", "min", "min_epoch", "median", "last")
CLASS = "._target_"  # after the name of what is built, the setting that names its class
_NO_METRIC = f"Expected a metric of {METRICS}"
_NOT_SETTINGS = ("logger", "report", "launcher")  # groups that say how a run is watched, not what it is


def load_runs(*folders: str | Path, metric: str | None = None, mode: str | None = None) -> pd.DataFrame:
    """Read all runs below some folders, a row each, in the order of their names.

    Columns: `run`, the folder's name, and `folder`; `status`, one of finished, diverged (finished, but a loss or the
    metric is not a number), failed, unfinished and unreadable, and `error`, the reason; `metric` and `mode`, what it
    is judged by and whether its highest (max) or lowest (min) value is the best; every setting under its last name,
    or under its dotted name where groups differ in it or it is an argument of an object within a group;
    ``choice.<group>``, the file that was chosen of a group, where the run was composed of files; for
    train_acc, val_acc and the metric ``_max``, ``_max_epoch``, ``_min``, ``_min_epoch``, ``_median`` and ``_last``,
    epochs counted from 0, of which, where the density changes, only those since its last change count but for the
    median; `epochs`, how many there are; `run_time` and `mean_epoch_time` in seconds.

    Args:
        folders: Folders of runs.
        metric: The metric that runs are judged by; None for ``report.metric`` of each configuration, or val_acc.
        mode: ``"max"`` or ``"min"``; None for ``report.mode``, or ``"min"`` for a loss and ``"max"`` for all else.

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
    facts, composed, defaults = zip(*(_read(path, metric, mode) for path in configs.values()), strict=True)
    settings = _with_defaults(composed, defaults)
    if not any(settings):
        error = str(facts[0]["error"])
        if metric and error.startswith(_NO_METRIC):
            raise FileNotFoundError(error)
        reason = f"{len(settings)} {CONFIG}, of which none can be used: {error}"
        raise FileNotFoundError(f"Expected a folder with runs of this project, got {folders[0]} with {reason}")
    table = pd.DataFrame(facts)
    return table.join(_short_names(pd.DataFrame(settings), taken=set(facts[0])))


def load_metrics(folder: str | Path) -> pd.DataFrame:
    """The metrics of one run, a row per epoch; NaN where there is no value or none that is a number.

    Raises:
        ValueError: The file is damaged.
    """
    try:
        rows = read_metrics(Path(folder))
        if any(None in row or None in row.values() for row in rows):
            raise ValueError(f"Expected as many values as columns in each row of {METRICS}, got a damaged file")
        table = pd.DataFrame({name: [float(row[name] or "nan") for row in rows] for row in rows[:1] for name in row})
    except (ValueError, csv.Error) as error:
        reason = str(error) if METRICS in str(error) else f"Expected {METRICS} to be a table of numbers"
        raise ValueError(reason) from error
    if rows and ("epoch" not in table or table["epoch"].tolist() != sorted(set(table["epoch"]))):
        raise ValueError(f"Expected {METRICS} to have a row an epoch, in order, got others")
    return table.assign(epoch=table["epoch"].astype(int)) if rows else table


def label(value: Any) -> str:
    """A level as it is written in a configuration.

    >>> [label(value) for value in (True, None, float("nan"), 0.10, 3.0, (100, 100), "SGD")]
    ['true', 'null', 'null', '0.1', '3', '[100, 100]', 'SGD']
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "null"
    if isinstance(value, bool | np.bool_):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.12g}"
    return f"[{', '.join(map(label, value))}]" if isinstance(value, tuple | list) else str(value)


def origin(frame: pd.DataFrame) -> dict[str, str]:
    """Where runs come from, in words: date, command, commit, versions and machine, as far as their records say."""
    found: dict[str, list[str]] = {name: [] for name in ("date", "command", "commit", "versions", "machine")}
    for folder in map(Path, frame.loc[frame["status"].isin(["finished", "diverged"]), "folder"]):
        result = json.loads((folder / RESULT).read_text(encoding="utf-8"))
        versions = result.get("versions") or {}
        result["versions"] = ", ".join(f"{name} {version}" for name, version in versions.items())
        for name, values in found.items():
            values.append(str(result.get(name) or ""))
    known = {name: sorted(set(filter(None, values))) for name, values in found.items()}
    days = sorted({date[:10] for date in known["date"]})
    known["date"] = [" to ".join(dict.fromkeys((days[0], days[-1])))] if days else []
    return {name: "; ".join(values) for name, values in known.items() if values}


def _with_defaults(configs: Sequence[dict[str, Any]], defaults: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The settings of each run, with the default of every argument that it leaves out and that may set runs apart.

    These are the arguments that another run gives, and those of a class in whose place other runs have another. A run
    that notes no defaults, as those of older versions do not, has those of other runs with the same class.
    """
    given = [dict(flat(config)) for config in configs]
    named = {name for settings in given for name in settings}
    kinds = {(key, str(kind)) for settings in given for key, kind in settings.items() if key.endswith(CLASS)}
    several = {key for key, count in Counter(key for key, _ in kinds).items() if count > 1}
    noted = {
        (name, settings[_class_around(name)]): value
        for settings, left in zip(given, defaults, strict=True)
        for name, value in left.items()
        if _class_around(name) in settings and (name in named or _class_around(name) in several)
    }
    for config, settings, left in zip(configs, given, defaults, strict=True):
        for (name, kind), value in noted.items():
            if name not in settings and settings.get(_class_around(name)) == kind:
                *groups, last = name.split(".")
                functools.reduce(operator.getitem, groups, config)[last] = left.get(name, value)
    return [dict(flat(config)) for config in configs]


def _class_around(name: str) -> str:
    """The setting that names the class which an argument belongs to."""
    return name.rpartition(".")[0] + CLASS


def _read(path: Path, metric: str | None, mode: str | None) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """What one run reached, its configuration, and the arguments that it leaves to their defaults."""
    folder = path.parent
    composed: dict[str, Any] = {}
    defaults: dict[str, Any] = {}
    facts: dict[str, Any] = {"run": folder.name, "folder": str(folder), "status": "unreadable", "error": None}
    rows = pd.DataFrame()
    wanted = metric or "val_acc"
    report: dict[str, Any] = {}
    try:
        config = _config(path)
        report = config.get("report") or {}
        wanted = metric or str(report.get("metric") or wanted)
        composed = {key: value for key, value in config.items() if key not in _NOT_SETTINGS}
        rows = load_metrics(folder)
        facts |= _status(folder, rows, wanted)
        chosen, defaults = _choices_and_defaults(folder)
        composed[CHOICE.rstrip(".")] = chosen
    except ValueError as error:
        facts |= {"status": "unreadable", "error": str(error)}
        composed, defaults = {}, {}
    own = report.get("mode") if wanted == report.get("metric") else None
    facts |= {"metric": wanted, "mode": mode or own or ("min" if "loss" in wanted else "max")}
    for name in dict.fromkeys(("train_acc", "val_acc", wanted)):
        values = rows.set_index("epoch")[name].dropna() if name in rows else pd.Series(dtype=float)
        facts |= {f"{name}_{what}": value for what, value in _course(values, rows).items()}
    times = rows["epoch_time"] if "epoch_time" in rows else pd.Series(dtype=float)
    return facts | {"epochs": len(rows), "run_time": times.sum(), "mean_epoch_time": times.mean()}, composed, defaults


def _choices_and_defaults(folder: Path) -> tuple[dict[str, str], dict[str, Any]]:
    """What the result of a finished run notes: the file of each group, and arguments left to their defaults."""
    result = {}
    with contextlib.suppress(FileNotFoundError):  # it has not finished
        result = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    choices, defaults = result.get("choices") or {}, result.get("defaults") or {}
    if not (isinstance(choices, dict) and isinstance(defaults, dict)):
        raise ValueError(f"Expected {RESULT} to have choices and defaults by name, got a damaged file")
    chosen = {str(group): str(name) for group, name in choices.items()}
    return chosen, {str(name): _tuples(value) for name, value in defaults.items()}


def _course(values: "pd.Series[float]", table: pd.DataFrame) -> dict[str, Any]:
    if values.empty:
        return dict.fromkeys(COURSE)
    own = at_last_density(values, table)
    found = (own.max(), own.idxmax(), own.min(), own.idxmin(), values.median(), values.iloc[-1])
    return dict(zip(COURSE, found, strict=True))


def last_change_epoch(table: pd.DataFrame) -> int:
    """The epoch of a run at which its density changed for the last time; 0 if it is constant or not recorded."""
    if DENSITY not in table or table.empty:
        return 0
    return int(table["epoch"].iloc[last_density_change(table[DENSITY].fillna(0.0).tolist())])


def at_last_density(values: "pd.Series[float]", table: pd.DataFrame) -> "pd.Series[float]":
    """The values of a run by epoch, from the last change of the density in its table on; all where none is since."""
    own = values[values.index >= last_change_epoch(table)]
    return values if own.empty else own


def _status(folder: Path, rows: pd.DataFrame, metric: str) -> dict[str, Any]:
    if not (folder / RESULT).exists():
        if not (folder / ERROR).exists():
            return {"status": "unfinished", "error": f"not finished, {len(rows)} epochs so far"}
        lines = (folder / ERROR).read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return {"status": "failed", "error": lines[-1] if lines else f"{ERROR} is empty"}
    try:
        epochs = json.loads((folder / RESULT).read_text(encoding="utf-8"))["epochs"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"Expected {RESULT} to be JSON with the number of epochs, got a damaged file") from error
    if len(rows) != epochs:
        raise ValueError(f"Expected {METRICS} to have the {epochs} epochs that {RESULT} says, got {len(rows)}")
    diverged = divergence(read_metrics(folder), metric)
    if not diverged and (metric not in rows or rows[metric].isna().all()):
        names = ", ".join(name for name in map(str, rows) if "/" not in name)
        raise ValueError(with_hint(f"{_NO_METRIC} ({names}), got {metric!r}", nearest(metric, map(str, rows))))
    return {"status": "diverged" if diverged else "finished", "error": f"diverged: {diverged}" if diverged else None}


def _config(path: Path) -> dict[str, Any]:
    config = read_config(path)
    if not ("seed" in config and isinstance(config.get("model"), dict)):
        raise ValueError(f"Expected a {CONFIG} with a model and a seed, got one of another project")
    return config


def flat(config: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Settings by dotted name; what builds an object is entered, other mappings and lists are values.

    An object within a group is a setting as a whole too, besides those of its arguments.
    """
    for key, value in config.items():
        if isinstance(value, Mapping) and (not prefix or "_target_" in value):
            yield from flat(value, f"{prefix}{key}.")
            if prefix:
                yield f"{prefix}{key}", expression(value)
        elif isinstance(value, Mapping):
            yield f"{prefix}{key}", f"{{{', '.join(f'{name}: {label(level)}' for name, level in value.items())}}}"
        elif key == "_target_" or not str(key).startswith("_"):
            yield f"{prefix}{key}", _tuples(value)


def expression(value: Any) -> str:
    """A setting as an object of its class would be built, its arguments in the order of the alphabet.

    >>> expression({"_target_": "sparse_lightning.SoftGrowth", "growth": "hebbian", "power": 4.0})
    'SoftGrowth(growth=hebbian, power=4)'
    """
    if not (isinstance(value, Mapping) and "_target_" in value):
        return label(_tuples(value))
    arguments = (f"{name}={expression(each)}" for name, each in sorted(value.items()) if name[0] != "_")
    return f"{str(value['_target_']).rpartition('.')[2]}({', '.join(arguments)})"


def _tuples(value: Any) -> Any:
    """Lists as tuples, which pandas can group by."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else str(value) if isinstance(value, dict) else value


def _short_names(settings: pd.DataFrame, taken: set[str]) -> pd.DataFrame:
    """Each setting under its last name, if those that share it are the same in every run and the name is free.

    Arguments of an object within a group, and choices of files, keep their dotted names.
    """
    groups: dict[str, list[str]] = {}
    for column in map(str, settings):
        dotted = column.count(".") > 1 or column.startswith(CHOICE)
        groups.setdefault(column if dotted else column.rpartition(".")[2], []).append(column)
    short: dict[str, pd.Series[Any]] = {}
    for name, columns in groups.items():
        same = all(settings[column].equals(settings[columns[0]]) for column in columns)
        if same and name != "_target_" and name not in taken:
            short[name] = settings[columns[0]]
        else:
            short |= {f"settings.{column}" if column in taken else column: settings[column] for column in columns}
    return pd.DataFrame(short)


def _natural(path: Path) -> tuple[tuple[int, int | str], ...]:
    """Sorts seed=10 after seed=9."""
    return tuple((0, int(text)) if text.isdigit() else (1, text) for text in re.split(r"(\d+)", str(path)))
