"""What is left to do of a run, done: from a configuration and a folder to the folder with a result."""

import json
import logging
import platform
import subprocess
import sys
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import torch
from hydra.utils import instantiate
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from sparse_lightning.datamodules.mnist import MNISTDataModule
from sparse_lightning.study.train.connections import Connections
from sparse_lightning.study.train.lists import train_in_lists
from sparse_lightning.study.train.record import (
    CONFIG,
    DATA,
    ERROR,
    METRICS,
    RESULT,
    Job,
    read_metrics,
    result_from,
    write,
)
from sparse_lightning.study.train.recorders import WholeCheckpoints, recorders
from sparse_lightning.study.train.resume import clear, last_checkpoint, refuse_other, result_of
from sparse_lightning.study.train.tensorboard import Board

RESULTS = ("val_acc_max", "val_acc_max_epoch", "val_acc_last", "epochs")


def is_first() -> bool:
    """Whether this is the first process of a distributed run, or the only one."""
    return rank_zero_only(lambda: True)() is True


def train(job: Job) -> float:
    """The last validation accuracy of the run, once there is nothing left to do of it.

    Raises:
        OtherRunError: The folder holds another run.
        Exception: Whatever training raises.
    """
    _quieten()
    first = is_first()
    cfg, folder = cast(DictConfig, OmegaConf.create(job.config)), job.folder
    if cfg.force and first:
        clear(folder)
    refuse_other(folder, cfg)
    if not (folder / CONFIG).exists():
        write(folder / CONFIG, job.config)  # first of all: a run that fails has one too
    if not (isinstance(cfg.seed, int) and 0 <= cfg.seed < 2**32):
        raise ValueError(f"Expected seed to be a whole number from 0, got {cfg.seed!r}")
    if not job.alone and cfg.trainer.devices != 1:
        raise ValueError(
            f"Expected trainer.devices=1 in a multirun, whose runs have a process each, got {cfg.trainer.devices}: a "
            "run on several devices is started alone"
        )
    data = instantiate(cfg.data)
    if isinstance(data, MNISTDataModule):
        cfg[DATA] = data.digest()
        refuse_other(folder, cfg)
    if not (result := result_of(folder)):
        result = _fit(job, cfg, data)
    elif job.alone and first:
        print("Finished before; force=true trains it anew.")
    if job.alone and first:
        print(_closing(result, folder))
    return float(result["val_acc_last"])


def _fit(job: Job, cfg: DictConfig, data: Any) -> dict[str, Any]:
    """Train what is left, and write the result."""
    folder, alone = job.folder, job.alone
    path, checkpoint, damaged = last_checkpoint(folder)
    for said in damaged if is_first() else ():
        since = f"after epoch {checkpoint['epoch']}" if path else "from the start"
        print(f"{folder.name}: {said}; going on {since}", file=sys.stderr, flush=True)
    (folder / ERROR).unlink(missing_ok=True)
    torch.set_num_threads(cfg.threads)
    seed_everything(cfg.seed, verbose=False)
    model: LightningModule = instantiate(cfg.model)
    loggers = list(instantiate(cfg.logger).values())
    board = next((logger for logger in loggers if isinstance(logger, Board)), None)
    if path:
        rows = {row["epoch"]: row for row in read_metrics(folder)}
        if (
            not all(rows.get(str(epoch), {}).get("val_acc") for epoch in range(checkpoint["epoch"] + 1))
            and not cfg.ckpt_path
        ):
            raise ValueError(
                f"Expected {folder / METRICS} to have a row for each epoch that was trained, got a damaged file; "
                "force=true trains the run anew"
            )
        if board and str(checkpoint["epoch"]) in rows:
            board.go_on(rows[str(checkpoint["epoch"])])
    bar = alone and sys.stderr.isatty()
    callbacks: list[Callback] = [Connections(folder), *recorders(folder, OmegaConf.to_yaml(cfg))]
    if alone:
        callbacks.append(TQDMProgressBar(refresh_rate=20) if bar else EpochLines())
    own = {"logger": loggers, "callbacks": callbacks, "enable_progress_bar": bar, "plugins": [WholeCheckpoints()]}
    trainer: Trainer = instantiate(cfg.trainer, **own)
    train_in_lists(trainer, model, data)
    try:
        trainer.fit(model, datamodule=data, ckpt_path=path or cfg.ckpt_path)
    except SystemExit:
        if not (alone and trainer.interrupted):
            raise
        sys.exit("Stopped. The same command goes on from the last epoch.")
    accuracy = {int(row["epoch"]): float(row["val_acc"]) for row in read_metrics(folder) if row.get("val_acc")}
    if not accuracy:
        raise ValueError("Expected an epoch to train and validate, got none")
    if not trainer.is_global_zero:
        return {"val_acc_last": list(accuracy.values())[-1]}
    result = result_from(accuracy, **_facts())
    if board:
        board.log_result(_shown(cfg), {name: result[name] for name in RESULTS}, job.swept)
    write(folder / RESULT, json.dumps(result, indent=2) + "\n")  # last of all: now it has finished
    return result


class EpochLines(Callback):
    """Says a line an epoch, where there is no terminal for a bar."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say the line; training metrics are not there yet."""
        names = [name for name in ("val_loss", "val_acc", "epoch_time") if name in trainer.callback_metrics]
        said = "  ".join(f"{name} {float(trainer.callback_metrics[name]):.4f}" for name in names)
        if trainer.is_global_zero:
            print(f"epoch {trainer.current_epoch + 1} of {trainer.max_epochs}:  {said}", flush=True)


def _shown(cfg: DictConfig) -> dict[str, Any]:
    """The settings that a table of runs shows: those of the model and the data, the seed, the epochs asked for."""
    knobs = {**cfg.model, **cfg.data, "seed": cfg.seed, "max_epochs": cfg.trainer.max_epochs}
    return {key: value for key, value in knobs.items() if not str(key).startswith("_")}


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
    warnings.filterwarnings("ignore", message=r"torch\.distributed\.nn\.functional\.all_gather is deprecated")
    warnings.filterwarnings("ignore", message=r".*Checkpoint directory .* exists and is not empty")


def _facts() -> dict[str, Any]:
    """Where the result comes from: the commit of the checkout, if it is one, and the versions."""
    packages = ("sparse_lightning", "torch", "lightning")
    versions = {name: version(name) for name in packages} | {"python": platform.python_version()}
    root = Path(__file__).parents[4]
    commit = None
    if (root / ".git").exists():
        asked = subprocess.run(["git", "-C", root, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
        commit = asked.stdout.strip() or None
    return {"commit": commit, "versions": versions}
