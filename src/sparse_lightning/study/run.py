"""One run: from a configuration to a folder."""

import logging
import math
import platform
import subprocess
import sys
import traceback
import warnings
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.profilers import PassThroughProfiler
from omegaconf import DictConfig, OmegaConf

from sparse_lightning.study.connections import Connections
from sparse_lightning.study.record import (
    CHECKPOINTS,
    CONFIG,
    ERROR,
    METRICS,
    RESULT,
    read_metrics,
    recorders,
    sentence,
    write,
    write_result,
)
from sparse_lightning.study.tensorboard import Board

RESULTS = ("val_acc_max", "val_acc_max_epoch", "val_acc_last", "epochs")


def run(cfg: DictConfig) -> float:
    """Train one run into Hydra's output folder and return its last validation accuracy, the objective of a search.

    A run that fails leaves its traceback in its folder. Alone it ends the process with a sentence on what went wrong;
    in a multirun it returns NaN, so that the others go on.
    """
    hydra = HydraConfig.get()
    folder, alone = Path(hydra.runtime.output_dir), hydra.mode == RunMode.RUN
    _quieten()
    try:
        return _train(cfg, folder, alone)
    except Exception as error:
        said = sentence(error)
        if not isinstance(error, FileExistsError) and not (folder / RESULT).exists():  # they are another run's
            write(folder / ERROR, f"{traceback.format_exc()}\n{said}\n")
            said += f"\nThe traceback is in {folder / ERROR}"
        if alone:
            sys.exit(f"Error: {said}")
        return math.nan


def _train(cfg: DictConfig, folder: Path, alone: bool) -> float:
    if cfg.ckpt_path is None and (folder / METRICS).exists():
        raise FileExistsError(
            f"Expected an empty folder for a new run, got {folder}, which has one. To continue it say "
            f"ckpt_path={folder / 'checkpoints' / 'last.ckpt'}"
        )
    config = OmegaConf.to_yaml(cfg, resolve=True)
    if not (folder / METRICS).exists():
        write(folder / CONFIG, config)  # first of all: a run that fails has one too
    if not (isinstance(cfg.seed, int) and 0 <= cfg.seed < 2**32):
        raise ValueError(f"Expected seed to be a whole number from 0, got {cfg.seed!r}")
    torch.set_num_threads(cfg.threads)
    seed_everything(cfg.seed, verbose=False)
    model: LightningModule = instantiate(cfg.model)
    data = instantiate(cfg.data)
    loggers = list(instantiate(cfg.logger).values())
    callbacks: list[Callback] = [Connections(folder), *recorders(folder, config)]
    bar = alone and sys.stderr.isatty()
    if alone:
        callbacks.append(TQDMProgressBar(refresh_rate=20) if bar else EpochLines())
    own = {"logger": loggers, "callbacks": callbacks, "enable_progress_bar": bar}
    if "profiler" not in cfg.trainer:
        own["profiler"] = NoProfiler()
    trainer: Trainer = instantiate(cfg.trainer, **own)
    try:
        trainer.fit(model, datamodule=data, ckpt_path=cfg.ckpt_path)
    except SystemExit:
        if not (alone and trainer.interrupted):
            raise
        last = folder / CHECKPOINTS / "last.ckpt"
        sys.exit(f"Stopped. To continue, say output_dir={folder} ckpt_path={last}" if last.exists() else "Stopped.")
    accuracy = {int(row["epoch"]): float(row["val_acc"]) for row in read_metrics(folder) if row.get("val_acc")}
    if not accuracy:
        raise ValueError("Expected an epoch to train and validate, got none")
    result = write_result(folder, accuracy, **_facts())
    for logger in loggers:
        if isinstance(logger, Board):
            logger.log_result(_shown(cfg), {name: result[name] for name in RESULTS}, _swept())
    if alone:
        print(_closing(result, folder))
    return float(result["val_acc_last"])


class NoProfiler(PassThroughProfiler):
    """Measures nothing, at less cost than Lightning's own way not to: it is asked some fifty times a step."""

    _nothing = nullcontext()

    def profile(self, action_name: str) -> nullcontext[None]:  # type: ignore[override]
        """Nothing to enter and nothing to leave."""
        return self._nothing


class EpochLines(Callback):
    """Says a line an epoch, where there is no terminal for a bar."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say the line; training metrics are not there yet."""
        names = [name for name in ("val_loss", "val_acc", "epoch_time") if name in trainer.callback_metrics]
        said = "  ".join(f"{name} {float(trainer.callback_metrics[name]):.4f}" for name in names)
        print(f"epoch {trainer.current_epoch + 1} of {trainer.max_epochs}:  {said}", flush=True)


def _shown(cfg: DictConfig) -> dict[str, Any]:
    """The settings that a table of runs shows: those of the model and the data, the seed, the epochs asked for."""
    knobs = {**cfg.model, **cfg.data, "seed": cfg.seed, "max_epochs": cfg.trainer.max_epochs}
    return {key: value for key, value in knobs.items() if not str(key).startswith("_")}


def _swept() -> set[str]:
    """The settings that differ between the runs of this multirun, by their last names."""
    hydra = HydraConfig.get()
    said = {override.lstrip("+~").partition("=")[0] for override in hydra.overrides.task}
    return {key.rpartition(".")[2] for key in said - set(hydra.job.config.override_dirname.exclude_keys)}


def _closing(result: dict[str, Any], folder: Path) -> str:
    return (
        f"val_acc {result['val_acc_max']:.4f} at its best (epoch {result['val_acc_max_epoch']}, counted from 0), "
        f"{result['val_acc_last']:.4f} at the last of {result['epochs']} epochs\n{folder}"
    )


def _quieten() -> None:
    """Leave out what Lightning says at every start, hardware and tips, and a warning about Lightning's own code."""
    for name in ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\).*is deprecated")
    warnings.filterwarnings("ignore", message=r"The number of training batches .* is smaller than the logging interval")
    warnings.filterwarnings("ignore", message=r".*Checkpoint directory .* exists and is not empty")


def _facts() -> dict[str, Any]:
    """Where the result comes from: the commit of the checkout, if it is one, and the versions."""
    packages = ("sparse_lightning", "torch", "lightning")
    versions = {name: version(name) for name in packages} | {"python": platform.python_version()}
    root = Path(__file__).parents[3]
    commit = None
    if (root / ".git").exists():
        asked = subprocess.run(["git", "-C", root, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
        commit = asked.stdout.strip() or None
    return {"commit": commit, "versions": versions}
