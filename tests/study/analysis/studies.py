"""Folders of runs written by hand, as training leaves them."""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from sparse_lightning.study.analysis.experiments import HEADLINE, load
from sparse_lightning.study.analysis.runs import label

PUBLISHED = load(HEADLINE).settings  # of the headline experiment, but for its two arms
LAYERS = ("network.linear1", "network.output")
Rows = Sequence[Mapping[str, object]]


def make_run(
    study: Path,
    accuracy: Sequence[float],
    seed: int,
    settings: Mapping[str, Any] | None = None,
    *,
    base: Mapping[str, Any] = PUBLISHED,
    finished: bool = True,
    more: Mapping[str, Sequence[object]] | None = None,
    **result: Any,
) -> Path:
    """A run's folder, named by what differs.

    Args:
        study: The folder of all runs.
        accuracy: val_acc of each epoch.
        seed: The seed.
        settings: What differs, by dotted name; None for hebbian_grow=true.
        base: All other settings.
        finished: Whether there is a result.
        more: Other columns of `metrics.csv`.
        result: What else `result.json` says.
    """
    settings = {"model.hebbian_grow": True} if settings is None else settings
    folder = study / ",".join(f"{key}={label(value)}" for key, value in {**settings, "seed": seed}.items())
    folder.mkdir(parents=True)
    config = OmegaConf.create({"seed": seed, "output_dir": str(study), "model": {"seed": seed}})
    for name, value in {**base, "trainer.max_epochs": len(accuracy), **settings}.items():
        OmegaConf.update(config, name, list(value) if isinstance(value, tuple) else value, force_add=True)
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(config))
    rows = [epoch_row(epoch, value, seed) for epoch, value in enumerate(accuracy)]
    for name, values in (more or {}).items():
        for row, cell in zip(rows, values, strict=True):
            row[name] = cell
    write_rows(folder, rows)
    degrees = np.random.default_rng(seed).integers(1, 9, (len(accuracy), 16)).astype(np.uint16)
    np.savez(folder / "connections.npz", **{f"{layer}/in": degrees for layer in LAYERS})
    if finished:
        (folder / "result.json").write_text(json.dumps({"epochs": len(accuracy), **result}))
    return folder


def epoch_row(epoch: int, value: float, seed: int) -> dict[str, object]:
    row: dict[str, object] = {"epoch": epoch, "val_acc": value, "train_acc": value - 0.01, "epoch_time": 2.0}
    row |= {"val_loss": 1 - value, "train_loss": 0.9 - value}
    for number, what in enumerate(("gini_in", "gini_out", "explored", "jaccard", "survived", "survived_2")):
        for layer in (LAYERS[0], "all"):
            row[f"topology/{what}/{layer}"] = 0.1 * number + 0.01 * epoch + 0.001 * seed * epoch + value / 100
    return row


def write_rows(folder: Path, rows: Rows) -> None:
    with (folder / "metrics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]) if rows else ["epoch"])
        writer.writeheader()
        writer.writerows(rows)


def course(best: float, seed: int, epochs: int = 8) -> list[float]:
    """val_acc of each epoch, with noise of its own for each seed."""
    generator = np.random.default_rng(seed)
    return [float(best - 0.05 * math.exp(-epoch) + 0.0005 * generator.normal()) for epoch in range(epochs)]


def sweep(study: Path, *levels: Mapping[str, Any], seeds: Sequence[int] = range(2), epochs: int = 8) -> Path:
    """A study with an arm for each mapping of settings; the arms differ by a hundredth."""
    for number, settings in enumerate(levels):
        for seed in seeds:
            make_run(study, course(0.95 + number / 100, 100 * number + seed, epochs), seed, settings)
    return study
