"""What is left to do of a run, by what its folder holds: all of it, the rest, or nothing."""

import contextlib
import json
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from omegaconf import DictConfig, OmegaConf

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
)

LOCK = ".lock"
PATIENCE = 3.0  # seconds: more than a process that was killed needs to let go


class BusyError(OSError):
    """Another process is training this run."""


class OtherRunError(ValueError):
    """The folder holds a run of other settings or data, which is not to be touched."""


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Have a run for oneself meanwhile; the operating system lets go of it when the process ends, however it does.

    Raises:
        BusyError: Another process has it, here or on another machine that shares the folder.
    """
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=PATIENCE)
    except Timeout:
        raise BusyError(f"Expected to be alone with {folder}, got another process that is training it") from None
    try:
        yield
    finally:
        lock.release()


def is_claimed(folder: Path) -> bool:
    """Whether some process has a run for itself."""
    if not (folder / LOCK).exists():
        return False
    try:
        with FileLock(folder / LOCK, timeout=0):
            return False
    except Timeout:
        return True


def refuse_other(folder: Path, config: DictConfig) -> None:
    """See that a folder holds no run, or one of these settings and data.

    Raises:
        OtherRunError: It holds another; the differences are named.
    """
    path = folder / CONFIG
    if not path.exists() or not any((folder / name).exists() for name in (METRICS, RESULT, CHECKPOINTS)):
        return  # nothing was trained there
    here = _settings(OmegaConf.to_container(config, resolve=True))
    try:
        there = _settings(OmegaConf.to_container(OmegaConf.load(path), resolve=True))
    except Exception as error:  # OmegaConf, YAML and the file system each raise their own
        raise OtherRunError(f"Expected {path} to be a configuration, got a damaged file. {_INSTEAD}") from error
    for one, other in ((here, there), (there, here)):
        if DATA not in one:  # they have not been looked at
            other.pop(DATA, None)
    names = [name for name in {**there, **here} if there.get(name, _NONE) != here.get(name, _NONE)]
    if names:
        said = ", ".join(f"{name}={there.get(name, _NONE)}, not {here.get(name, _NONE)}" for name in names)
        raise OtherRunError(f"Expected the same run in {folder}, got one with {said}. {_INSTEAD}")


def result_of(folder: Path) -> dict[str, Any]:
    """The result of a finished run; empty if there is none that can be read."""
    try:
        found = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and "val_acc_last" in found else {}


def last_checkpoint(folder: Path) -> tuple[Path | None, dict[str, Any], list[str]]:
    """The newest checkpoint of a run that can be read, what it holds, and what is wrong with newer ones.

    Returns:
        Its path, None where there is none, its content, and a sentence for each that is damaged.
    """
    import torch  # slow, and nothing else here needs it

    said: list[str] = []
    for path in (folder / CHECKPOINTS / LAST, folder / CHECKPOINTS / (LAST + PREVIOUS)):
        if path.exists():
            try:
                with zipfile.ZipFile(path) as packed:  # PyTorch does not look at the checksums that it wrote
                    if damaged := packed.testzip():
                        raise ValueError(f"the checksum of {damaged} is another")
                return path, torch.load(path, weights_only=True, map_location="cpu"), said
            except Exception as error:  # zipfile, pickle and PyTorch each raise their own
                reason = str(error).strip().partition("\n")[0][:100]
                said.append(f"Expected {path} to be a checkpoint, got a damaged file ({reason})")
    return None, {}, said


def clear(folder: Path) -> None:
    """Remove what a run has left in its folder, and nothing else; its configuration last, which tells whose it is."""
    (folder / RESULT).unlink(missing_ok=True)
    if (folder / CHECKPOINTS).exists():
        shutil.rmtree(folder / CHECKPOINTS)
    for path in (*folder.glob("events.out.tfevents.*"), *(folder / name for name in (METRICS, ERROR, DEGREES, CONFIG))):
        path.unlink(missing_ok=True)


_NONE = "none"
_INSTEAD = "Say another output_dir, or force=true to train it anew"


def _settings(config: Any) -> dict[str, Any]:
    """What decides a run, by dotted name."""
    flat: dict[str, Any] = {}
    for key, value in config.items() if isinstance(config, Mapping) else ():
        flat |= {f"{key}.{name}": each for name, each in value.items()} if isinstance(value, Mapping) else {key: value}
    return {
        name: value
        for name, value in flat.items()
        if not name.startswith("logger.") and name.rpartition(".")[2] not in INCIDENTAL
    }
