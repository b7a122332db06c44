"""Times an epoch of sparse_lightning against the same training in a hand-written loop and in Lightning as usual.

Every contender trains the experiment's network on the experiment's data, validates it on the test images in each epoch
and rewires it after. They take turns in one process and on one thread, so that what slows the machine slows them all,
and a ratio is always of two fits of the same round.
"""

import argparse
import contextlib
import gc
import gzip
import json
import logging
import os
import platform
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torchmetrics
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import MNIST
from tqdm import tqdm

from sparse_lightning import MNISTDataModule, SparseMLP
from sparse_lightning.mnist import MNIST_MEAN, MNIST_STD, PACKAGED
from sparse_lightning.study.connections import Connections
from sparse_lightning.study.record import MetricsCSV, recorders
from sparse_lightning.study.run import NoProfiler
from sparse_lightning.study.tensorboard import Board

ARMS = {"hebbian": True, "random": False, "static": None}
SIZES = (784, 100, 100, 100, 10)
DENSITY, PRUNE_FRACTION, BATCH_SIZE = 0.2, 0.3, 128


@dataclass(frozen=True)
class Fit:
    """What one fit took and learned: the time, in seconds, at each epoch's end, and the last validation accuracy."""

    ends: list[float]
    val_acc: float

    @property
    def seconds(self) -> float:
        """Mean seconds from one epoch's end to the next one's, so that the first epoch is left out and nothing else."""
        return (self.ends[-1] - self.ends[0]) / (len(self.ends) - 1)


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        contender: Who trains.
        arm: One of `ARMS`.
        fit: Trains once, given the arm, the number of epochs, a seed, and a folder that has MNIST and room for logs.
        rounds: How many rounds it takes part in, from the first one on.
        epochs: How many epochs each of its fits has, at least 2.
        against: The row that it is compared to, which takes part in as many rounds or more.
    """

    contender: str
    arm: str
    fit: Callable[[str, int, int, Path], Fit]
    rounds: int
    epochs: int
    against: "Row | None" = None


# The contenders.


class _HandMade(nn.Sequential):
    """The network, in stages of Linear, BatchNorm1d and ReLU and at last one Linear, with what the experiment needs."""

    def __init__(self, arm: str) -> None:
        hidden = [nn.Sequential(nn.Linear(*pair), nn.BatchNorm1d(pair[1]), nn.ReLU()) for pair in pairwise(SIZES[:-1])]
        super().__init__(*hidden, nn.Sequential(nn.Linear(*SIZES[-2:])))
        self.arm = arm
        self.weights = [stage[0].weight for stage in self]
        self.masks = [torch.zeros_like(weight) for weight in self.weights]  # floats multiply faster than booleans
        self.counts = [torch.zeros_like(weight) for weight in self.weights]
        for weight, mask in zip(self.weights, self.masks, strict=True):
            mask.view(-1)[torch.randperm(mask.numel())[: round(DENSITY * mask.numel())]] = 1
            weight.detach().mul_(mask)

    @torch.no_grad()
    def rewire(self, optimizer: torch.optim.Optimizer) -> None:
        if self.arm == "static":
            return
        for weight, mask, count in zip(self.weights, self.masks, self.counts, strict=True):
            scores = count if self.arm == "hebbian" else torch.rand_like(weight)
            candidates, dropped = scores.masked_fill(mask.bool(), -1).view(-1), 0
            for signed in (weight, -weight):
                number = int(PRUNE_FRACTION * (signed > 0).sum())
                weakest = torch.where(signed > 0, signed, torch.inf).view(-1).topk(number, largest=False).indices
                mask.view(-1)[weakest] = 0
                dropped += number
            grown = candidates.topk(dropped).indices
            mask.view(-1)[grown] = 1
            weight.mul_(mask)
            optimizer.state[weight]["momentum_buffer"].view(-1)[grown] = 0
            count.zero_()


def plain_loop(arm: str, epochs: int, seed: int, folder: Path) -> Fit:
    """PyTorch alone, as fast as it can be and still be read."""
    torch.manual_seed(seed)
    (images, labels), (val_images, val_labels) = (_in_memory(MNIST(folder, train)) for train in (True, False))
    network = _HandMade(arm)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4, fused=True)
    ends = []
    for epoch in range(epochs):
        if epoch > 0:
            network.rewire(optimizer)
        network.train()
        loss_sum, correct = torch.zeros(()), torch.zeros((), dtype=torch.int64)
        for batch in torch.randperm(len(labels)).split(BATCH_SIZE):
            values, targets = [images.index_select(0, batch)], labels.index_select(0, batch)
            for stage in network:
                values.append(stage(values[-1]))
            loss = F.cross_entropy(values[-1], targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                torch._foreach_mul_(network.weights, network.masks)
                if arm == "hebbian":
                    # Several times faster than a comparison made into floats.
                    active = [value.sign().clamp_(min=0) for value in values]
                    for count, (inputs, outputs) in zip(network.counts, pairwise(active), strict=True):
                        count.addmm_(outputs.T, inputs)
                loss_sum += loss * len(targets)
                correct += (values[-1].argmax(1) == targets).sum()
        network.eval()
        val_loss_sum, val_correct = torch.zeros(()), torch.zeros((), dtype=torch.int64)
        with torch.inference_mode():
            for inputs, targets in zip(val_images.split(1000), val_labels.split(1000), strict=True):
                logits = network(inputs)
                val_loss_sum += F.cross_entropy(logits, targets, reduction="sum")
                val_correct += (logits.argmax(1) == targets).sum()
        ends.append(time.perf_counter())
    return Fit(ends, val_correct.item() / len(val_labels))


def sparse_lightning(arm: str, epochs: int, seed: int, folder: Path) -> Fit:
    """This library with all that `scripts/train.py` puts around a run: its record, both loggers and the bar."""
    torch.manual_seed(seed)
    home = Path(tempfile.mkdtemp(dir=folder))  # a run's record is in a folder of its own
    callbacks = [Connections(home), *recorders(home, config=""), TQDMProgressBar(refresh_rate=20)]
    options = {"callbacks": callbacks, "profiler": NoProfiler(), "num_sanity_val_steps": 0}
    model = SparseMLP(hebbian_grow=ARMS[arm], seed=seed)
    return _lightning_fit(model, epochs, home, [MetricsCSV(home), Board(home)], MNISTDataModule(seed=seed), **options)


def usual_lightning(arm: str, epochs: int, seed: int, folder: Path) -> Fit:
    """Lightning as its tutorials have it, all defaults."""
    torch.manual_seed(seed)
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize(MNIST_MEAN, MNIST_STD)])
    train, val = (MNIST(folder, train, transform=transform) for train in (True, False))
    loaders = DataLoader(train, BATCH_SIZE, shuffle=True), DataLoader(val, BATCH_SIZE)
    return _lightning_fit(_UsualModule(arm), epochs, folder, True, *loaders)


class _UsualModule(LightningModule):
    def __init__(self, arm: str) -> None:
        super().__init__()
        self.network = _HandMade(arm)
        self.train_acc = torchmetrics.Accuracy(task="multiclass", num_classes=SIZES[-1])
        self.val_acc = torchmetrics.Accuracy(task="multiclass", num_classes=SIZES[-1])
        if arm == "hebbian":
            for stage, count in zip(self.network, self.network.counts, strict=True):
                stage.register_forward_hook(partial(self.count, count))

    @staticmethod
    def count(count: Tensor, stage: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
        if stage.training:
            count += (output > 0).float().T @ (args[0] > 0).float()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, targets = batch
        logits = self.network(images.flatten(1))
        loss = F.cross_entropy(logits, targets)
        self.train_acc(logits, targets)
        self.log("train_loss", loss, on_step=True, on_epoch=True, prog_bar=True)
        self.log("train_acc", self.train_acc, on_step=True, on_epoch=True, prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, targets = batch
        logits = self.network(images.flatten(1))
        self.val_acc(logits, targets)
        self.log("val_loss", F.cross_entropy(logits, targets), prog_bar=True)
        self.log("val_acc", self.val_acc, prog_bar=True)

    def on_train_batch_end(self, *_: Any) -> None:
        for weight, mask in zip(self.network.weights, self.network.masks, strict=True):
            weight.data.mul_(mask)

    def on_train_epoch_end(self) -> None:
        self.network.rewire(self.trainer.optimizers[0])


class _Clock(Callback):
    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_epoch_end(self, *_: Any) -> None:
        # Validation is over; the checkpoint and the rewiring of this epoch come before the next one's end.
        self.ends.append(time.perf_counter())


def _lightning_fit(
    model: LightningModule, epochs: int, folder: Path, logger: Any, *data: Any, callbacks: Any = (), **options: Any
) -> Fit:
    clock = _Clock()
    options |= {"accelerator": "cpu", "logger": logger, "default_root_dir": folder}
    trainer = Trainer(max_epochs=epochs, callbacks=[clock, *callbacks], **options)
    trainer.fit(model, *data)
    return Fit(clock.ends, trainer.callback_metrics["val_acc"].item())


def _in_memory(dataset: MNIST) -> tuple[Tensor, Tensor]:
    return dataset.data.flatten(1).float().div_(255).sub_(MNIST_MEAN).div_(MNIST_STD), dataset.targets


# The measurement.


def choose_rows(rounds: int, epochs: int, usual_rounds: int, usual_arms: Sequence[str] = tuple(ARMS)) -> list[Row]:
    """The plain loop and this library on each arm, and usual Lightning, which is slow, in as little as is asked for."""
    rows = []
    for arm in ARMS:
        plain = Row("plain loop", arm, plain_loop, rounds, epochs)
        ours = Row("sparse_lightning", arm, sparse_lightning, rounds, epochs, against=plain)
        rows += [plain, ours]
        if usual_rounds and arm in usual_arms:
            rows.append(Row("usual Lightning", arm, usual_lightning, min(rounds, usual_rounds), 2, against=ours))
    return rows


def measure(rows: Sequence[Row]) -> dict[Row, list[Fit]]:
    """The fits of each row, round by round; each round begins with another row."""
    rounds = max(row.rounds for row in rows)
    orders = [[*rows[number % len(rows) :], *rows[: number % len(rows)]] for number in range(rounds)]
    turns = [(number, row) for number, order in enumerate(orders) for row in order if number < row.rounds]
    fits: dict[Row, list[Fit]] = {row: [] for row in rows}
    with tempfile.TemporaryDirectory() as folder, tqdm(turns, unit="fit", file=sys.stderr) as bar:
        raw = Path(folder, "MNIST", "raw")
        raw.mkdir(parents=True)
        for packed in PACKAGED.glob("*.gz"):
            raw.joinpath(packed.stem).write_bytes(gzip.decompress(packed.read_bytes()))
        for number, row in bar:
            bar.set_description(f"round {number + 1} of {rounds}, {row.contender}, {row.arm}")
            gc.collect()  # a Trainer and its model refer to each other, and would outlive their turn
            with _silence():
                fits[row].append(row.fit(row.arm, row.epochs, number, Path(folder)))
    return fits


def summarise(fits: Mapping[Row, Sequence[Fit]]) -> list[dict[str, Any]]:
    """A record for each row: medians and spread of its seconds per epoch and of their ratios, and all measurements."""
    records = []
    for row, own in fits.items():
        others = fits[row.against] if row.against else []
        # The other one may take part in more rounds.
        ratios = [fit.seconds / other.seconds for fit, other in zip(own, others, strict=False)]
        records.append(
            {
                "contender": row.contender,
                "arm": row.arm,
                "seconds": _spread([fit.seconds for fit in own]),
                "against": f"{row.against.contender}, {row.against.arm}" if row.against else None,
                "ratio": _spread(ratios) if row.against else None,
                "val_acc": _spread([fit.val_acc for fit in own]),
                "epochs": row.epochs,
                "fits": [asdict(fit) | {"seconds": fit.seconds} for fit in own],
            }
        )
    return records


def table(records: Sequence[Mapping[str, Any]]) -> str:
    """The records in Markdown."""
    spread = "{median:.2f} ({min:.2f} to {max:.2f})".format_map
    lines = ["| trained by | arm | seconds per epoch | ratio | to | val_acc (epochs) | rounds |", "|---" * 7 + "|"]
    for record in records:
        ratio, against = (spread(record["ratio"]), record["against"]) if record["against"] else ("", "")
        cells = [record["contender"], record["arm"], spread(record["seconds"]), ratio, against]
        cells += [f"{record['val_acc']['median']:.4f} ({record['epochs']})", str(len(record["fits"]))]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def describe_machine() -> str:
    """What it ran on, in words."""
    cpu = f"{platform.machine()} with {torch.backends.cpu.get_cpu_capability()}"
    return f"1 of {os.cpu_count()} cores ({cpu}), {torch.get_num_threads()} torch thread, torch {torch.__version__}"


def main() -> None:
    args = _arguments()
    torch.set_num_threads(1)
    quick = choose_rows(rounds=1, epochs=2, usual_rounds=1, usual_arms=["hebbian"])
    records = summarise(measure(quick if args.quick else choose_rows(args.rounds, args.epochs, args.usual_rounds)))
    print(table(records))
    print(f"\nMedian (lowest to highest) over the rounds; ratios within a round. Ran on {describe_machine()}.")
    if args.json:
        args.json.write_text(json.dumps({"machine": describe_machine(), "rows": records}, indent=2) + "\n")


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Lets a Trainer draw its progress bar and tables, at their full cost, where nobody sees them."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--rounds", type=partial(_count, 1), default=5, help="fits of each contender on each arm (default: 5)")
    add("--epochs", type=partial(_count, 2), default=3, help="epochs of a fit, the first not timed (default: 3)")
    usual = "the same for usual Lightning, if less, of 2 epochs each since it is slow; 0 leaves it out (default: 2)"
    add("--usual-rounds", type=partial(_count, 0), default=2, help=usual)
    quick = "about a minute: 1 round of 2 epochs, usual Lightning on the hebbian arm only, whatever the above"
    add("--quick", action="store_true", help=quick)
    add("--json", type=Path, metavar="FILE", help="also write every measurement, the medians and the machine here")
    args = parser.parse_args()
    if args.json and not args.json.parent.is_dir():
        parser.error(f"Expected --json in a folder that exists, got {args.json}")
    return args


def _count(least: int, text: str) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"Expected a whole number of at least {least}, got {text!r}")
    return int(text)


if __name__ == "__main__":
    main()
