"""What is left to do of a run, as its folder shows: everything, the rest, or nothing."""

import contextlib
import os
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from sparse_lightning.study.train.record import (
    CHECKPOINTS,
    CONFIG,
    DATA,
    DEGREES,
    ERROR,
    INCIDENTAL,
    LAST,
    METRICS,
    PREVIOUS,
    RESULT,
    read_config,
)

LOCK = ".lock"
PATIENCE = 3.0  # seconds: more than a killed process needs to release its lock
SETTINGS = "settings"  # in a checkpoint: the settings of its run
_KEYS = {"epoch", "global_step", "state_dict", "optimizer_states", "lr_schedulers", "loops", "callbacks", SETTINGS}
_INSTEAD = "Choose another output_dir, or force=true to train it from the start"


class RunLockedError(OSError):
    """Another process is training this run."""


class OtherRunError(ValueError):
    """The folder holds a run of other settings or data, which must stay as it is."""


def is_first() -> bool:
    """Whether this is the first process of a distributed run, or the only one."""
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a run; the operating system releases the lock when the process ends, however it ends.

    Raises:
        RunLockedError: Another process holds it, here or on another machine that shares the folder.
    """
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=PATIENCE)
    except Timeout:
        raise RunLockedError(f"Expected to be alone with {folder}, got another process that is training it") from None
    try:
        yield
    finally:
        lock.release()


def is_locked(folder: Path) -> bool:
    """Whether some process has locked a run."""
    if not (folder / LOCK).exists():
        return False
    try:
        with FileLock(folder / LOCK, timeout=0):
            return False
    except Timeout:
        return True


def settings_of(config: Any) -> dict[str, Any]:
    """The settings that decide a run, by dotted name.

    >>> settings_of({"seed": 1, "force": True, "model": {"density": 0.1}, "logger": {"csv": {}}})
    {'seed': 1, 'model.density': 0.1}
    """
    flat: dict[str, Any] = {}
    for key, value in config.items() if isinstance(config, Mapping) else ():
        nested = isinstance(value, Mapping) and value
        flat |= {f"{key}.{name}": each for name, each in value.items()} if nested else {key: value}
    return {
        name: value
        for name, value in flat.items()
        if name.partition(".")[0] not in ("logger", "report", "experiment_name")
        and name.rpartition(".")[2] not in INCIDENTAL
    }


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """The settings in which two runs differ, in words; empty if they do not.

    The data counts only where both runs name it. Arguments of classes that differ are left out.

    >>> differences({"seed": 0, "model.density": 0.1}, {"seed": 0, "model.density": 0.2})
    'model.density=0.1, not 0.2'
    >>> differences({"sparsity._target_": "A", "sparsity.power": 2}, {"sparsity._target_": "B"})
    'sparsity._target_=A, not B'
    >>> differences({"sparsity": None, "model.rate": 1}, {"sparsity._target_": "B"})
    'model.rate=1 (not given here), no sparsity._target_ (B here)'
    """
    names = [name for name in {**there, **here} if there.get(name, "none") != here.get(name, "none")]
    compared = [name for name in names if name != DATA or (DATA in there and DATA in here)]
    groups = tuple(name.removesuffix("_target_") for name in compared if name.endswith("._target_"))
    own = [name for name in compared if f"{name}." not in groups]  # a group without anything in it
    shown = [name for name in own if name.endswith("._target_") or not name.startswith(groups)]
    return ", ".join(
        f"{name}={there[name]} (not given here)" if name not in here
        else f"no {name} ({here[name]} here)" if name not in there
        else f"{name}={there[name]}, not {here[name]}"
        for name in shown
    )  # fmt: skip


def refuse_other(folder: Path, config: Mapping[str, Any], there: Mapping[str, Any] | None = None) -> None:
    """Check that a folder holds no run, or one of these settings and data.

    Args:
        folder: The run's folder.
        config: The resolved configuration of the run to train.
        there: The settings of the run in the folder, where its `config.yaml` is missing.

    Raises:
        OtherRunError: It holds another; the differences are named.
    """
    path = folder / CONFIG
    if path.exists():
        if not any((folder / name).exists() for name in (METRICS, RESULT, CHECKPOINTS)):
            return  # nothing was trained there
        try:
            there = settings_of(read_config(path))
        except ValueError as error:
            raise OtherRunError(f"{error}. {_INSTEAD}") from error
    if there and (found := differences(there, settings_of(config))):
        raise OtherRunError(f"Expected the same run in {folder}, got one with {found}. {_INSTEAD}")


def last_checkpoint(
    folder: Path, settings: Mapping[str, Any] | None = None
) -> tuple[Path | None, dict[str, Any], list[str]]:
    """The newest checkpoint of a run that can be used.

    Args:
        folder: The run's folder.
        settings: The settings that it must have been trained with; None accepts any.

    Returns:
        Its path, None where there is none, its content, and a sentence for each newer one that cannot be used.
    """
    import torch  # slow, and nothing else here needs it

    refused: list[str] = []
    for path in (folder / CHECKPOINTS / LAST, folder / CHECKPOINTS / (LAST + PREVIOUS)):
        if path.exists():
            try:
                if path.is_dir():
                    raise ValueError("it is a directory")
                with zipfile.ZipFile(path) as packed:  # PyTorch does not compare the checksums that it wrote
                    if damaged := packed.testzip():
                        raise ValueError(f"the checksum of {damaged} differs")
                content = torch.load(path, weights_only=True, map_location="cpu")
                if missing := _KEYS - set(content):
                    raise ValueError(f"{', '.join(sorted(missing))} missing")
                if settings is not None and (found := differences(content[SETTINGS], settings)):
                    refused.append(f"Expected {path} to be of this run, got one with {found}")
                    continue
                return path, content, refused
            except Exception as error:  # zipfile, pickle and PyTorch each raise their own
                reason = str(error).strip().partition("\n")[0][:100]
                refused.append(f"Expected {path} to be a checkpoint, got a damaged file ({reason})")
    return None, {}, refused


def clear(folder: Path) -> None:
    """Remove the record of a run and nothing else; its configuration last, which names its settings."""
    (folder / RESULT).unlink(missing_ok=True)
    if (folder / CHECKPOINTS).exists():
        shutil.rmtree(folder / CHECKPOINTS)
    for path in (*folder.glob("events.out.tfevents.*"), *(folder / name for name in (METRICS, ERROR, DEGREES, CONFIG))):
        path.unlink(missing_ok=True)
