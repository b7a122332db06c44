"""Rows that take turns, what was found in them, and the table of it."""

import contextlib
import gc
import gzip
import logging
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer
from tqdm import tqdm

from sparse_lightning.datamodules.mnist import PACKAGED


@dataclass(frozen=True, eq=False)
class Row:
    """Something to measure.

    Attributes:
        part: The part of the benchmark that it belongs to.
        name: What is measured.
        measure: Measures once, given the number of the round and a folder with MNIST, for its logs; returns
            quantities by unit, of which the first is the one that is compared.
        rounds: How many rounds it takes part in, from the first one on.
        against: Rows that it is compared to, which take part in as many rounds or more.
    """

    part: str
    name: str
    measure: Callable[[int, Path], dict[str, float]]
    rounds: int
    against: tuple["Row", ...] = ()


def measure(rows: Sequence[Row]) -> dict[Row, list[dict[str, float]]]:
    """What was found in each row, round by round; each round begins with another row."""
    rounds = max(row.rounds for row in rows)
    orders = [[*rows[number % len(rows) :], *rows[: number % len(rows)]] for number in range(rounds)]
    turns = [(number, row) for number, order in enumerate(orders) for row in order if number < row.rounds]
    found: dict[Row, list[dict[str, float]]] = {row: [] for row in rows}
    with tempfile.TemporaryDirectory() as folder, tqdm(turns, unit="row", file=sys.stderr) as bar:
        raw = Path(folder, "MNIST", "raw")
        raw.mkdir(parents=True)
        for packed in PACKAGED.glob("*.gz"):
            raw.joinpath(packed.stem).write_bytes(gzip.decompress(packed.read_bytes()))
        for number, row in bar:
            bar.set_description(f"round {number + 1} of {rounds}, {row.part}: {row.name}")
            gc.collect()  # a Trainer and its model refer to each other, and would outlive their turn
            with _silence():
                found[row].append(row.measure(number, Path(folder)))
    return found


def summarise(found: Mapping[Row, Sequence[Mapping[str, float]]]) -> list[dict[str, Any]]:
    """A record for each row and each row that it is compared to: medians and spread, and all measurements."""
    records = []
    for row, own in found.items():
        unit = next(iter(own[0]))
        for other in row.against or (None,):
            # The other one may take part in more rounds.
            theirs = found[other] if other else []
            ratios = [mine[unit] / his[unit] for mine, his in zip(own, theirs, strict=False)]
            records.append(
                {
                    "part": row.part,
                    "name": row.name,
                    "unit": unit,
                    "rounds": len(own),
                    "against": other.name if other else None,
                    "ratio": spread(ratios) if other else None,
                    **{name: spread([each[name] for each in own]) for name in own[0]},
                    "measurements": [dict(each) for each in own],
                }
            )
    return records


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, lowest and highest."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def table(records: Sequence[Mapping[str, Any]]) -> str:
    """The records in Markdown, a table for each part."""
    lines: list[str] = []
    for part in dict.fromkeys(record["part"] for record in records):
        own = [record for record in records if record["part"] == part]
        extra = {"val_acc": "val_acc", "share of the cores' time in training": "share in training"}
        shown = [name for name in extra if name in own[0]]
        heads = [part, own[0]["unit"], *(extra[name] for name in shown), "ratio", "to", "rounds"]
        lines += ["", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
        for record in own:
            unit = "" if record["unit"] == own[0]["unit"] else f" {record['unit']}"
            cells = [record["name"], _spread(record[record["unit"]]) + unit]
            cells += [f"{record[name]['median']:.4f}" for name in shown]
            cells += [_spread(record["ratio"]), record["against"]] if record["against"] else ["", ""]
            lines.append(f"| {' | '.join([*cells, str(record['rounds'])])} |")
    return "\n".join(lines[1:])


def _spread(values: Mapping[str, float]) -> str:
    one, low, high = (
        f"{values[key]:.3g}" if values[key] < 100 else f"{values[key]:.0f}" for key in ("median", "min", "max")
    )
    return one if low == high else f"{one} ({low} to {high})"


def milliseconds(work: Callable[[], Any]) -> float:
    """The time that a call takes."""
    begun = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - begun)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Lets a Trainer draw its progress bar and tables, at their full cost, where nobody sees them."""
    log = logging.getLogger("lightning.pytorch")
    before = log.level
    log.setLevel(logging.ERROR)
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    log.setLevel(before)


def quiet_trainer(epochs: int, *callbacks: Callback) -> Trainer:
    """A Trainer that does nothing but train."""
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    return Trainer(max_epochs=epochs, accelerator="cpu", callbacks=list(callbacks), **quiet)
