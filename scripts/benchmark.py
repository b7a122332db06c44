"""Measures sparse_lightning, each row beside what it is compared to in the same run.

step      a training step on connections alone against a dense one, a masked one and SparseLab's; one rewiring
layer     one layer's step, masked and on its connections, by width, batch and density: what layout="auto" goes by
denormals a masked step beside dead units, whose momentum decays to numbers that a CPU is slow at, and without them
inference the forward pass of a trained network, dense and after to_csr
trainer   what Lightning adds to a step on connections
train.py  an epoch of scripts/train.py on three layers of 1568 units at 1%, masked and on connections
epoch     an epoch of each arm of the study against a hand-written loop, and Lightning as usually written
coactivation  a step with Hebbian growth against one with random growth, on convolutions and tokens
rewire    one rewiring of a layer of 10^5 to 10^8 connections against one topk of that size
checks    what share of a training the callback's checks of its weights take
startup   from the command to the end of its first training step, against importing the libraries alone
logging   an epoch with all that a run records against one without, in processor time
study     a study's time on one process and on two, and what share of it was training
memory    a run's peak, against importing the libraries alone

Rows take turns, round by round, in one process and on one thread unless a row names more, so that what slows the
machine slows them all; a ratio is always of two measurements of the same round.
"""

import argparse
import json
import os
import platform
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from benchmarks import steps
from benchmarks.coactivations import coactivation_rows
from benchmarks.denormals import denormal_rows
from benchmarks.epochs import epoch_rows, logging_rows
from benchmarks.layers import layer_rows
from benchmarks.measuring import Row, measure, summarise, table
from benchmarks.processes import memory_rows, startup_rows, study_rows
from benchmarks.rewirings import check_rows, rewire_rows

PARTS = (
    "step",
    "layer",
    "denormals",
    "inference",
    "trainer",
    "train.py",
    "epoch",
    "coactivation",
    "rewire",
    "checks",
    "startup",
    "logging",
    "study",
    "memory",
)


def choose_rows(args: argparse.Namespace) -> list[Row]:
    """The rows of the parts that are asked for."""
    quick, rounds = args.quick, 1 if args.quick else args.rounds
    size = ("seed=range(8)",) if args.full_study else ("seed=0,1", "trainer.max_epochs=3")
    sweep = ("model.hebbian_grow=true,false", *size)
    cores = (1,) if quick else (1, 2)
    parts: dict[str, Callable[[], list[Row]]] = {
        "step": lambda: [row for threads in cores for row in steps.step_rows(3 * rounds, threads)],
        "layer": lambda: layer_rows(rounds),
        "denormals": lambda: denormal_rows(rounds),
        "inference": lambda: steps.inference_rows(3 * rounds),
        "trainer": lambda: steps.trainer_rows(3 * rounds),
        "train.py": lambda: [] if quick else steps.train_rows(min(rounds, 2)),
        "epoch": lambda: epoch_rows(1, 2, 1, ["hebbian"]) if quick else epoch_rows(rounds, args.epochs, 1),
        "coactivation": lambda: coactivation_rows(rounds),
        "rewire": lambda: rewire_rows(3, 6) if quick else rewire_rows(rounds, 8),
        "checks": lambda: check_rows(rounds),
        "startup": lambda: startup_rows(rounds),
        "logging": lambda: [] if quick else logging_rows(2 * rounds, args.epochs),
        "study": lambda: [] if quick else study_rows(1 if args.full_study else 2, (1, 2), *sweep),
        "memory": lambda: memory_rows(min(rounds, 3)),
    }
    return [row for part in args.only for row in parts[part]()]


def describe_machine() -> str:
    """What it ran on, in words."""
    cpu = f"{platform.machine()} with {torch.backends.cpu.get_cpu_capability()}"
    return f"{os.cpu_count()} cores ({cpu}), torch {torch.__version__}"


def main() -> None:
    args = _arguments()
    torch.set_num_threads(1)
    records = summarise(measure(choose_rows(args)))
    print(table(records))
    print(f"\nMedian (lowest to highest) over the rounds; ratios within a round. Ran on {describe_machine()}.")
    if args.json:
        args.json.write_text(json.dumps({"machine": describe_machine(), "rows": records}, indent=2) + "\n")
    if args.figure:
        steps.figure(records, args.figure)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--only", type=_parts, default=PARTS, metavar="PART,...", help=f"parts to measure: {', '.join(PARTS)}")
    add("--rounds", type=partial(_count, 1), default=5, help="measurements of each row (default: 5)")
    add("--epochs", type=partial(_count, 2), default=6, help="epochs of a fit, the first not timed (default: 6)")
    add("--quick", action="store_true", help="a few minutes: one round, and no part that takes long")
    add("--full-study", action="store_true", help="for the part study the published one, of 16 runs")
    add("--json", type=Path, metavar="FILE", help="also write every measurement, the medians and the machine here")
    add("--figure", type=Path, metavar="FILE", help="also draw the part step here, as PNG or SVG")
    args = parser.parse_args()
    for name in ("json", "figure"):
        path = getattr(args, name)
        if path and not path.parent.is_dir():
            parser.error(f"Expected --{name} in a folder that exists, got {path}")
    if args.figure and "step" not in args.only:
        parser.error("Expected the part step among --only for --figure")
    return args


def _parts(text: str) -> tuple[str, ...]:
    unknown = [part for part in text.split(",") if part not in PARTS]
    if unknown:
        raise argparse.ArgumentTypeError(f"Expected parts among {', '.join(PARTS)}, got {unknown[0]!r}")
    return tuple(text.split(","))


def _count(least: int, text: str) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"Expected an integer of at least {least}, got {text!r}")
    return int(text)


if __name__ == "__main__":
    main()
