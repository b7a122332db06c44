"""One run: from a configuration to a folder with a result, or with the reason why there is none."""

import sys
import traceback
from collections.abc import Iterable
from contextlib import nullcontext
from numbers import Integral
from pathlib import Path
from typing import Any, cast

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from sparse_lightning.study.train.record import (
    ERROR,
    Job,
    command_of,
    command_of_sweep,
    in_epochs,
    result_of,
    sentence,
    write,
)
from sparse_lightning.study.train.resume import OtherRunError, RunLockedError, is_first, locked

GROUPS = ("model", "data", "sparsity", "callbacks", "trainer", "logger", "report")
KEYS = (*GROUPS, "experiment_name", "seed", "threads", "output_dir", "force", "ckpt_path")
_REPLACED = {"density": "density", "prune_fraction": "prune_fraction", "hebbian_grow": "growth"}  # by sparsity's


def job_of(cfg: DictConfig) -> Job:
    """The job of a Hydra run.

    Raises:
        ValueError: The configuration cannot be used.
    """
    hydra = HydraConfig.get()
    alone = hydra.mode == RunMode.RUN
    launcher = hydra.runtime.choices.get("hydra/launcher")
    if alone and launcher != "processes":
        raise ValueError(f"Expected -m with hydra/launcher={launcher}: a single run is trained by this process")
    prepare(cfg, hydra.overrides.task)
    if not alone and cfg.sparsity.get("_target_") == "sparse_lightning.Dense" and "density" in cfg.sparsity:
        cfg.sparsity.density = 1.0  # beside methods that are swept over densities
    given = {override.lstrip("+~").partition("=")[0] for override in hydra.overrides.task}
    keys = given - set(hydra.job.config.override_dirname.exclude_keys)
    swept = frozenset(key.rpartition(".")[2] for key in keys)
    folder = Path(hydra.runtime.output_dir)
    command = command_of(hydra.job.config_name, hydra.overrides.task) if alone else command_of_sweep(folder.parent)
    chosen = {str(group): str(name) for group, name in hydra.runtime.choices.items() if group in GROUPS}
    choices = {group: name for group, name in chosen.items() if f"{group}._target_" not in given}
    return Job(OmegaConf.to_yaml(cfg, resolve=True), folder, swept, alone, command, choices)


def prepare(cfg: DictConfig, overrides: Iterable[str] = ()) -> None:
    """Check what can be checked of a configuration before PyTorch is imported, and let a sparsity replace the model's.

    Args:
        cfg: The configuration; changed in place.
        overrides: What was given on the command line.

    Raises:
        ValueError: The configuration cannot be used.
    """
    for key in cfg:
        _expect(key in KEYS, f"a key of the configuration ({', '.join(KEYS)})", str(key))
    for name, group in (("callbacks", "callbacks"), ("logger", "logger"), ("plugins", "callbacks")):
        _expect(name not in cfg.trainer, f"{name} in the group {group}, not in trainer", f"trainer.{name}")
    epochs = cfg.trainer.get("max_epochs")
    valid = epochs is None or _is_integer(epochs, 1) or (epochs == -1 and "max_steps" in cfg.trainer)
    _expect(valid, "trainer.max_epochs to be an integer from 1", epochs)
    _expect(_is_integer(cfg.seed, 0) and cfg.seed < 2**32, "seed to be an integer from 0", cfg.seed)
    _expect(_is_integer(cfg.threads, 1), "threads to be an integer from 1", cfg.threads)
    _expect(cfg.report.mode in ("max", "min"), "report.mode to be max or min", cfg.report.mode)
    make = cfg.report.get("make", True)
    _expect(isinstance(make, bool), "report.make to be true or false", make)
    _expect(isinstance(cfg.report.metric, str), "report.metric to be the name of a metric", cfg.report.metric)
    if cfg.sparsity.get("_target_"):
        for key in (override.lstrip("+").partition("=")[0] for override in overrides):
            group, _, name = key.partition(".")
            if group == "model" and name in _REPLACED:
                raise ValueError(f"Expected sparsity.{_REPLACED[name]} instead of {key}, which a sparsity replaces")
        if "hebbian_grow" in cfg.model:  # the model's own sparsity, which is dense from now on
            with open_dict(cfg):
                cfg.model.update(density=1.0, hebbian_grow=None)


def attempt(job: Job) -> None:
    """Do what is left to do of a run, and record a failure.

    A finished run is not trained again, and an interrupted one continues. A run that fails leaves its traceback in its
    folder. Alone, it also ends the process with a sentence on what is wrong.
    """
    if job.alone and is_first():
        _announce(job)
    from sparse_lightning.study.train.training import train  # slow

    failed = ""
    try:
        job.folder.mkdir(parents=True, exist_ok=True)
        with locked(job.folder) if is_first() else nullcontext():  # the others work for the first one
            train(job)
    except (RunLockedError, OtherRunError) as error:
        failed = sentence(error)
        if not job.alone and isinstance(error, OtherRunError):
            print(f"{job.folder.name}: {failed}", file=sys.stderr)
    except Exception as error:
        noted = note_failure(job.folder, sentence(error), traceback.format_exc())
        failed = sentence(error, located=True)
        failed += f"\nThe traceback is in {job.folder / ERROR}" if noted else ""
    if job.alone and failed:
        sys.exit(f"Error: {failed}")


def note_failure(folder: Path, reason: str, details: str = "") -> bool:
    """Record a failure in the run's folder, or where that cannot be written, on the screen."""
    try:
        write(folder / ERROR, f"{details}\n{reason}\n".lstrip())
    except OSError:
        print(f"{folder.name}: {reason}", file=sys.stderr, flush=True)
        return False
    return True


def objective(folder: Path, metric: str, mode: str) -> float:
    """The last value of a run's metric, for a search; the worst there is if the run has no result."""
    worst = float("-inf") if mode == "max" else float("inf")
    value = result_of(folder).get(f"{metric}_last", worst)
    return float(value) if value == value else worst


def _announce(job: Job) -> None:
    cfg = cast(DictConfig, OmegaConf.create(job.config))
    names = [str(cfg[group].get("_target_")).rpartition(".")[2] for group in ("model", "data")]
    sparsity = cfg.sparsity.get("_target_")
    names[0] += f" with {sparsity.rpartition('.')[2]}" if sparsity else ""
    length = in_epochs(cfg.trainer.get("max_epochs"))
    print(f"{names[0]} on {names[1]}, seed {cfg.seed}, {length}, in {job.folder}", flush=True)


def _is_integer(value: Any, least: int) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least


def _expect(holds: bool, what: str, got: Any) -> None:
    if not holds:
        raise ValueError(f"Expected {what}, got {got!r}")
