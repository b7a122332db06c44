"""The training of one run, with PyTorch and Lightning: from a configuration and a folder to a result in it."""

import json
import logging
import os
import platform
import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig, OmegaConf

from sparse_lightning.study.train.build import UnknownArgumentError, arguments, build, code_of, defaults_of, target
from sparse_lightning.study.train.connections import Connections
from sparse_lightning.study.train.lists import train_in_lists
from sparse_lightning.study.train.record import (
    CONFIG,
    DATA,
    DENSITY,
    ERROR,
    RESULT,
    Job,
    divergence,
    last_density_change,
    result_from,
    result_of,
    summary_of,
    write,
)
from sparse_lightning.study.train.recorders import Progress, Recorder, WholeCheckpoints
from sparse_lightning.study.train.resume import SETTINGS, clear, is_first, last_checkpoint, refuse_other, settings_of
from sparse_lightning.study.train.tensorboard import Board

_UNSEEN = (  # warnings, as regular expressions
    r".*isinstance\(treespec, LeafSpec\).*is deprecated",
    r"The number of training batches .* is smaller than the logging interval",
    r"torch\.distributed\.nn\.functional\.all_gather is deprecated",
    r".*Checkpoint directory .* exists and is not empty",
)


def train(job: Job) -> None:
    """Do what is left to do of a run.

    Raises:
        OtherRunError: The folder holds another run.
        Exception: Whatever training raises.
    """
    with _quiet("" if job.alone else f"{job.folder.name}: "), _denormals_as_zero():
        _train(job)


def _train(job: Job) -> None:
    cfg, folder, first = _config(job), job.folder, is_first()
    if cfg.force and first:
        clear(folder)
    recorded = (folder / CONFIG).exists()
    settings = {} if recorded else last_checkpoint(folder)[1].get(SETTINGS, {})
    refuse_other(folder, _plain(cfg), settings)
    if first and not recorded:
        write(folder / CONFIG, job.config)  # first of all, for a run that fails
    if not job.alone and cfg.trainer.get("devices", 1) != 1:
        raise ValueError(
            f"Expected trainer.devices=1 in a multirun, whose runs have one process each, got {cfg.trainer.devices}: "
            "start a run on several devices without -m"
        )
    data = build(cfg.data, "data", LightningDataModule, cfg.seed)
    if hasattr(data, "digest"):
        cfg[DATA] = data.digest()
        refuse_other(folder, _plain(cfg), settings)
    result = result_of(folder) if recorded or settings else {}
    code = code_of(_plain(cfg))
    if not result:
        result = _fit(job, cfg, data, code)
    elif job.alone and first:
        print("Finished before; force=true trains it from the start.")
    changed = [name for name, known in result.get("code", {}).items() if code.get(name, known) != known]
    if changed and first:
        words = f"the file of {', '.join(changed)} has changed since this run; force=true trains it again"
        print(f"{folder.name}: {words}", file=sys.stderr, flush=True)
    if job.alone and first:
        print(f"{summary_of(result)}\n{folder}")
        if result.get("diverged"):
            sys.exit(1)


def refuse_unbuildable(jobs: Sequence[Job]) -> None:
    """Build the model and the sparsity of every job, without training anything.

    Raises:
        ValueError: One cannot be built; its key is named.
    """
    configs = {OmegaConf.to_yaml(OmegaConf.masked_copy(_config(job), ["model", "sparsity"])) for job in jobs}
    every = [cast(DictConfig, OmegaConf.create(text)) for text in sorted(configs)]
    for cfg in every:
        try:
            _build_parts(cfg, seed=0)
        except UnknownArgumentError as error:
            others = [arguments(target(each[error.key], error.key))[0] for each in every if error.key in each]
            if any(error.name in taken for taken in others):
                advice = "what only one of the classes takes needs a command of its own, into the same output_dir"
                raise ValueError(f"{error}; {advice}") from error
            raise


def _build_parts(cfg: DictConfig, seed: int) -> tuple[LightningModule, list[Callback]]:
    """The model, and the sparsity if there is one."""
    model: LightningModule = build(cfg.model, "model", LightningModule, seed)
    chosen = bool(cfg.sparsity.get("_target_"))
    return model, [build(cfg.sparsity, "sparsity", Callback, seed)] if chosen else []


def _config(job: Job) -> DictConfig:
    return cast(DictConfig, OmegaConf.create(job.config))


def _fit(job: Job, cfg: DictConfig, data: Any, code: Mapping[str, str]) -> dict[str, Any]:
    """Train what is left, and write the result, with a hash of the code of one's own classes."""
    folder, plain, metric, mode = job.folder, _plain(cfg), cfg.report.metric, cfg.report.mode
    settings = settings_of(plain)
    path, checkpoint, refused = last_checkpoint(folder, settings)
    trained = checkpoint["epoch"] + 1 if path else 0
    for text in refused if is_first() else ():
        since = f"after epoch {trained}" if path else "from the start"
        print(f"{folder.name}: {text}; continuing {since}", file=sys.stderr, flush=True)
    if path and not refused and job.alone and is_first():
        print(f"Continuing after epoch {trained}.", flush=True)
    (folder / ERROR).unlink(missing_ok=True)
    torch.set_num_threads(cfg.threads)
    seed_everything(cfg.seed, verbose=False)
    model, sparsity = _build_parts(cfg, cfg.seed)
    connections = Connections(folder)
    recorder = Recorder(folder, OmegaConf.to_yaml(cfg), settings, metric=metric, mode=mode, connections=connections)
    rows = recorder.table.rows
    if path and not (set(range(trained)) <= rows.keys() or cfg.ckpt_path):
        raise ValueError(
            f"Expected {folder / 'metrics.csv'} to have one row per epoch that was trained, got a damaged file; "
            "force=true trains the run from the start"
        )
    loggers = [
        build(config, f"logger.{name}", Logger, purge_step=trained if path else None)
        for name, config in (cfg.logger or {}).items()
    ]
    board = next((logger for logger in loggers if isinstance(logger, Board)), None)
    if board and path and trained - 1 in rows:  # no metric of this epoch is missing, wherever the run was stopped
        board.log_metrics({name: float(value) for name, value in rows[trained - 1].items() if value})
    callbacks: list[Callback] = [*sparsity, connections, recorder]
    own_callbacks = (cfg.callbacks or {}).items()
    callbacks += [build(config, f"callbacks.{name}", Callback, cfg.seed) for name, config in own_callbacks]
    if job.alone:
        callbacks.append(Progress(metric, bar=sys.stderr.isatty()))
    own: dict[str, Any] = {
        "logger": loggers,
        "callbacks": callbacks,
        "enable_progress_bar": False,
        "plugins": [WholeCheckpoints()],
    }
    trainer: Trainer = build(cfg.trainer, "trainer", Trainer, **own)
    train_in_lists(trainer, model, data)
    try:
        trainer.fit(model, datamodule=data, ckpt_path=path or cfg.ckpt_path, weights_only=True)
    except SystemExit:
        if not (job.alone and trainer.interrupted):
            raise
        sys.exit("Stopped. The same command continues after the last epoch.")
    if not trainer.is_global_zero:
        return {}
    rows = recorder.table.rows
    values = {epoch: float(row[metric]) for epoch, row in rows.items() if row.get(metric)}
    if not values:
        raise ValueError(f"Expected report.metric to be logged in some epoch, got none of {metric!r}")
    diverged = divergence(rows.values(), metric) or None
    first = list(rows)[last_density_change([row.get(DENSITY) for row in rows.values()])]
    reached = {epoch: value for epoch, value in values.items() if epoch >= first} or values
    groups = {group: plain[group] for group in ("model", "data", "sparsity")}
    defaults = defaults_of(groups, {"sparsity": sparsity[0]} if sparsity else {})
    facts = {"diverged": diverged, "code": code, **_facts(job), "defaults": defaults, "epochs": len(rows)}
    result = result_from(reached, metric, mode, **facts)
    if board:
        names = (f"{metric}_{mode}", f"{metric}_{mode}_epoch", f"{metric}_last", "epochs")
        board.log_result(_shown(cfg) | dict(job.choices), {name: result[name] for name in names}, job.swept)
    write(folder / RESULT, json.dumps(result, indent=2) + "\n")  # last of all: now the run is finished
    return result


def _plain(cfg: DictConfig) -> Mapping[str, Any]:
    return cast(Mapping[str, Any], OmegaConf.to_container(cfg, resolve=True))


def _shown(cfg: DictConfig) -> dict[str, Any]:
    """The settings in TensorBoard's table of runs: model, data, sparsity, seed and epochs."""
    sparsity = {f"sparsity.{key}": value for key, value in cfg.sparsity.items() if cfg.sparsity.get("_target_")}
    own = {"seed": cfg.seed, "max_epochs": cfg.trainer.get("max_epochs")}
    return {
        key: value for key, value in {**cfg.model, **cfg.data, **sparsity, **own}.items() if not key.startswith("_")
    }


@contextmanager
def _quiet(run: str) -> Iterator[None]:
    """Leave out Lightning's remarks at every start, and a warning about its own code; warnings are one line each.

    Args:
        run: What a warning begins with.
    """
    for name in ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    shown = warnings.formatwarning
    with warnings.catch_warnings():
        for message in _UNSEEN:
            warnings.filterwarnings("ignore", message=message)
        warnings.formatwarning = lambda message, *_, **__: f"{run}Warning: {message}\n"
        try:
            yield
        finally:
            warnings.formatwarning = shown


@contextmanager
def _denormals_as_zero() -> Iterator[None]:
    """Let numbers below 1.2e-38 be zero, at which a CPU is slow: the momentum beside dead units ends there."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def _facts(job: Job) -> dict[str, Any]:
    """Where the result comes from: date, command, files of groups, commit of the checkout, versions and machine."""
    packages = ("sparse_lightning", "torch", "lightning")
    versions = {name: version(name) for name in packages} | {"python": platform.python_version()}
    root = Path(__file__).parents[4]
    commit = None
    if (root / ".git").exists():
        asked = subprocess.run(["git", "-C", root, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
        commit = asked.stdout.strip() or None
    date = datetime.now(UTC).isoformat(timespec="seconds")
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    return {
        "date": date,
        "command": job.command,
        "choices": dict(job.choices),
        "commit": commit,
        "versions": versions,
        "machine": machine,
    }
