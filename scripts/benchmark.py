"""Measures sparse_lightning, each row beside what it is compared to in the same run.

epoch     an epoch of each arm against the same training in a hand-written loop, and in Lightning as usually written
tracking  what it costs to track coactivation: the Hebbian arm against the random one
rewire    one rewiring of a layer of 10^5 to 10^8 connections against one topk of that size
startup   from the command to the end of its first training step, against importing the libraries alone
logging   an epoch with all that a run records against one without, in processor time
study     a study's time on one process and on two, and what share of it was training
memory    a run's peak, against importing the libraries alone; the callback's bytes a connection

Rows take turns, round by round, in one process and on one thread, so that what slows the machine slows them all; a
ratio is always of two measurements of the same round.
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
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
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

from sparse_lightning import MNISTDataModule, PruneRegrow, SparseMLP
from sparse_lightning.datamodules.mnist import MNIST_MEAN, MNIST_STD, PACKAGED
from sparse_lightning.study.train.connections import Connections
from sparse_lightning.study.train.lists import train_in_lists
from sparse_lightning.study.train.record import read_metrics
from sparse_lightning.study.train.recorders import Recorder, WholeCheckpoints
from sparse_lightning.study.train.tensorboard import Board

ARMS: dict[str, dict[str, Any]] = {
    "hebbian": {"hebbian_grow": True},
    "random": {"hebbian_grow": False},
    "static": {"hebbian_grow": None},
    "dense": {"hebbian_grow": None, "density": 1},
}
SIZES = (784, 100, 100, 100, 10)
DENSITY, PRUNE_FRACTION, BATCH_SIZE = 0.2, 0.3, 128
TRAIN = Path(__file__).with_name("train.py")
ONE_STEP = ("trainer.max_epochs=1", "trainer.limit_train_batches=1", "trainer.limit_val_batches=1")
LAUNCH = """
import resource, subprocess, sys, time
begun = time.perf_counter()
status = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
print(time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(status)
"""
IMPORTS = "import torch, torchvision, lightning.pytorch, hydra, omegaconf"


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
        density = 1 if arm == "dense" else DENSITY
        for weight, mask in zip(self.weights, self.masks, strict=True):
            mask.view(-1)[torch.randperm(mask.numel())[: round(density * mask.numel())]] = 1
            weight.detach().mul_(mask)

    @torch.no_grad()
    def rewire(self, optimizer: torch.optim.Optimizer) -> None:
        if self.arm in ("static", "dense"):
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


def plain_loop(arm: str, epochs: int, seed: int, folder: Path) -> dict[str, float]:
    """PyTorch alone, as fast as it can be and still be read."""
    torch.manual_seed(seed)
    (images, labels), (val_images, val_labels) = (_in_memory(MNIST(folder, train)) for train in (True, False))
    network = _HandMade(arm)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4, fused=True)
    clock = _Clock()
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
                if arm != "dense":
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
        clock.on_train_epoch_end()
    return clock.found(val_correct.item() / len(val_labels))


def sparse_lightning(arm: str, epochs: int, seed: int, folder: Path, records: bool = True) -> dict[str, float]:
    """This library with all that `scripts/train.py` puts around a run: its record, both loggers and the bar."""
    torch.manual_seed(seed)
    home = Path(tempfile.mkdtemp(dir=folder))  # a run's record is in a folder of its own
    measured = [Connections(home)] if records else []
    callbacks = [*measured, Recorder(home, connections=measured[0] if records else None), TQDMProgressBar(20)]
    loggers = [Board(home)] if records else False
    options = {"callbacks": callbacks, "plugins": [WholeCheckpoints()]}
    options |= {"num_sanity_val_steps": 0, "enable_model_summary": False}  # as in conf/trainer/default.yaml
    model, data = SparseMLP(**ARMS[arm], seed=seed), MNISTDataModule(seed=seed)
    return _lightning_fit(model, epochs, home, loggers, data, prepare=train_in_lists, **options)


def usual_lightning(arm: str, epochs: int, seed: int, folder: Path) -> dict[str, float]:
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
        if self.network.arm != "dense":
            for weight, mask in zip(self.network.weights, self.network.masks, strict=True):
                weight.data.mul_(mask)

    def on_train_epoch_end(self) -> None:
        self.network.rewire(self.trainer.optimizers[0])


class _Clock(Callback):
    """Notes when each epoch ends: validation is over, its checkpoint and rewiring come before the next one's end."""

    def __init__(self) -> None:
        self.wall: list[float] = []
        self.processor: list[float] = []

    def on_train_epoch_end(self, *_: Any) -> None:
        self.wall.append(time.perf_counter())
        self.processor.append(time.process_time())

    def found(self, val_acc: float) -> dict[str, float]:
        """Means from the first epoch's end to the last one's, so that the first epoch is left out and nothing else."""
        epochs = len(self.wall) - 1
        seconds, processor = (times[-1] - times[0] for times in (self.wall, self.processor))
        return {"seconds per epoch": seconds / epochs, "processor seconds": processor / epochs, "val_acc": val_acc}


def _lightning_fit(
    model: LightningModule,
    epochs: int,
    folder: Path,
    logger: Any,
    *data: Any,
    callbacks: Any = (),
    prepare: Callable[[Trainer, LightningModule, Any], object] = lambda trainer, model, data: None,
    **options: Any,
) -> dict[str, float]:
    clock = _Clock()
    options |= {"accelerator": "cpu", "logger": logger, "default_root_dir": folder}
    trainer = Trainer(max_epochs=epochs, callbacks=[clock, *callbacks], **options)
    prepare(trainer, model, data)
    trainer.fit(model, *data)
    return clock.found(trainer.callback_metrics["val_acc"].item())


def _in_memory(dataset: MNIST) -> tuple[Tensor, Tensor]:
    return dataset.data.flatten(1).float().div_(255).sub_(MNIST_MEAN).div_(MNIST_STD), dataset.targets


# The parts.


def epoch_rows(rounds: int, epochs: int, usual_rounds: int, usual_arms: Sequence[str] = tuple(ARMS)) -> list[Row]:
    """The plain loop and this library on each arm, and usual Lightning, which is slow, in as little as is asked for."""
    rows, ours = [], {}

    def row(contender: Callable[..., dict[str, float]], arm: str, epochs: int, rounds: int, *against: Row) -> Row:
        name = f"{contender.__name__.replace('_', ' ' if contender is not sparse_lightning else '_')}, {arm}"
        return Row("epoch", name, lambda seed, folder: contender(arm, epochs, seed, folder), rounds, against)

    for arm in reversed(ARMS):  # random before hebbian, which is compared to it
        plain = row(plain_loop, arm, epochs, rounds)
        tracking = (ours["random"],) if arm == "hebbian" else ()
        ours[arm] = row(sparse_lightning, arm, epochs, rounds, plain, *tracking)
        rows += [plain, ours[arm]]
        if usual_rounds and arm in usual_arms:
            rows.append(row(usual_lightning, arm, 2, min(rounds, usual_rounds), ours[arm]))
    return rows


def rewire_rows(rounds: int, largest: int) -> list[Row]:
    """One Linear layer of each size, from 10^5 connections up: one topk, and one rewiring of each arm."""
    rows = []
    for power in range(5, largest + 1):
        size = 10**power

        def topk(seed: int, folder: Path, size: int = size) -> dict[str, float]:
            scores, replaced = torch.rand(size), round(DENSITY * PRUNE_FRACTION * size)
            return {"milliseconds": _milliseconds(lambda: scores.topk(replaced))}

        def rewiring(seed: int, folder: Path, size: int = size, growth: str = "random") -> dict[str, float]:
            return {"milliseconds": _rewiring(size, growth, seed)}

        base = Row("rewire", f"topk, 10^{power}", topk, rounds)
        arms = {growth: partial(rewiring, growth=growth) for growth in ("random", "hebbian")}
        rows += [base, *(Row("rewire", f"{arm}, 10^{power}", work, rounds, (base,)) for arm, work in arms.items())]
    return rows


class _OneLayer(LightningModule):
    """A Linear layer that is trained for two epochs of a step, so that it is rewired in between."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.layer = nn.Linear(1000, size // 1000, bias=False)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self.layer(batch).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


class _Timed(PruneRegrow):
    """Notes how long a rewiring takes, the choice, the mask, the weights and the optimizer's state together."""

    milliseconds = 0.0

    def on_train_batch_start(self, *args: Any) -> None:
        before = self.rewirings
        milliseconds = _milliseconds(lambda: super(_Timed, self).on_train_batch_start(*args))
        if self.rewirings > before:
            self.milliseconds = milliseconds


def _rewiring(size: int, growth: str, seed: int) -> float:
    callback = _Timed(DENSITY, prune_fraction=PRUNE_FRACTION, growth=growth, seed=seed)
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = Trainer(max_epochs=2, accelerator="cpu", callbacks=[callback], **quiet)
    trainer.fit(_OneLayer(size), DataLoader(torch.randn(8, 1000), batch_size=8))
    return callback.milliseconds


def _milliseconds(work: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - begun)


def startup_rows(rounds: int) -> list[Row]:
    """The command for a run of one step, start to end, and the imports that it cannot do without."""

    def imports(seed: int, folder: Path) -> dict[str, float]:
        return {"seconds": _process([sys.executable, "-c", IMPORTS])[0]}

    def command(seed: int, folder: Path) -> dict[str, float]:
        return {"seconds": _train(folder, *ONE_STEP)[0]}

    base = Row("startup", "imports", imports, rounds)
    return [base, Row("startup", "train.py, one step", command, rounds, (base,))]


def logging_rows(rounds: int, epochs: int) -> list[Row]:
    """The same fits with and without loggers and the record of connections, by the processor's time."""

    def fit(seed: int, folder: Path, records: bool) -> dict[str, float]:
        found = sparse_lightning("hebbian", epochs, seed, folder, records)
        return {"processor seconds": found["processor seconds"]}

    base = Row("logging", "off", partial(fit, records=False), rounds)
    return [base, Row("logging", "on", partial(fit, records=True), rounds, (base,))]


def study_rows(rounds: int, processes: Sequence[int], *sweep: str) -> list[Row]:
    """A study through the command line, on so many processes."""

    def study(seed: int, folder: Path, processes: int) -> dict[str, float]:
        home = Path(tempfile.mkdtemp(dir=folder)) / "study"
        seconds = _process(
            [sys.executable, TRAIN, "-m", *sweep, f"hydra.launcher.n_jobs={processes}", f"output_dir={home}"]
        )[0]
        runs = [read_metrics(path.parent) for path in home.glob("*/metrics.csv")]
        training = sum(float(row["epoch_time"]) for rows in runs for row in rows)
        return {"seconds": seconds, "share of the cores' time in training": training / (seconds * processes)}

    rows: list[Row] = []
    for number in processes:
        rows.append(Row("study", f"{number} at once", partial(study, processes=number), rounds, tuple(rows[:1])))
    return rows


def memory_rows(rounds: int) -> list[Row]:
    """The most that a run has resident, and what the callback itself holds."""

    def imports(seed: int, folder: Path) -> dict[str, float]:
        return {"MiB": _process([sys.executable, "-c", IMPORTS])[1]}

    def command(seed: int, folder: Path) -> dict[str, float]:
        return {"MiB": _train(folder, "trainer.max_epochs=2")[1]}

    def held(seed: int, folder: Path, growth: str) -> dict[str, float]:
        model = SparseMLP(hebbian_grow=growth == "hebbian")
        callback = model.prune_regrow
        for statistic in callback._statistics.values():
            statistic.attach(model, callback.masks.keys())
        tensors = [*callback.masks.values(), *(c for s in callback._statistics.values() for c in s._counts.values())]
        connections = sum(mask.numel() for mask in callback.masks.values())
        return {"bytes a connection": sum(tensor.nbytes for tensor in tensors) / connections}

    base = Row("memory", "imports", imports, rounds)
    rows = [base, Row("memory", "train.py, two epochs", command, rounds, (base,))]
    return rows + [
        Row("memory", f"callback, {growth}", partial(held, growth=growth), 1) for growth in ("random", "hebbian")
    ]


def _train(folder: Path, *overrides: str) -> tuple[float, float]:
    home = Path(tempfile.mkdtemp(dir=folder)) / "run"
    return _process([sys.executable, TRAIN, *overrides, f"output_dir={home}"])


def _process(command: Sequence[str | Path]) -> tuple[float, float]:
    """The seconds that a process takes, and the most memory that it had, in MiB."""
    # Through a small process: what one forks off counts its parent's memory as its own.
    done = subprocess.run([sys.executable, "-c", LAUNCH, *command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"Expected {' '.join(map(str, command))} to succeed, got:\n{done.stderr}")
    seconds, most = map(float, done.stdout.split())
    return seconds, most / (2**20 if sys.platform == "darwin" else 2**10)


# The measurement.


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


def figure(records: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Seconds per epoch by arm, and the time of a rewiring by size, as a picture."""
    import matplotlib.pyplot as plt

    plt.switch_backend("agg")
    colours = {"plain loop": "#999999", "sparse_lightning": "#0072b2", "usual lightning": "#d55e00"}
    colours |= {"topk": "#999999", "random": "#0072b2", "hebbian": "#d55e00"}
    picture, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    groups: dict[str, dict[str, dict[str, float]]] = {"epoch": {}, "rewire": {}}
    for record in records:
        if record["part"] in groups:
            who, _, which = record["name"].partition(", ")
            groups[record["part"]].setdefault(who, {})[which] = record[record["unit"]]
    for number, (who, arms) in enumerate(groups["epoch"].items()):
        middle = [values["median"] for values in arms.values()]
        places = [list(ARMS).index(arm) + 0.25 * (number - 1) for arm in arms]
        below = [[v["median"] - v["min"] for v in arms.values()], [v["max"] - v["median"] for v in arms.values()]]
        left.bar(places, middle, 0.23, yerr=below, color=colours[who], label=who)
    for who, sizes in groups["rewire"].items():
        at = [float(size.replace("10^", "1e")) for size in sizes]
        right.plot(at, [values["median"] for values in sizes.values()], "o-", color=colours[who], label=who)
        right.fill_between(
            at, *([v[end] for v in sizes.values()] for end in ("min", "max")), color=colours[who], alpha=0.2
        )
    left.set(ylabel="seconds", xticks=range(len(ARMS)), xticklabels=list(ARMS), title="one epoch")
    left.margins(y=0.15)  # the legend stands there
    right.set(xscale="log", yscale="log", xlabel="connections", ylabel="milliseconds", title="one rewiring")
    for axes, part in ((left, "epoch"), (right, "rewire")):
        axes.spines[["top", "right"]].set_visible(False)
        if groups[part]:
            axes.legend(frameon=False, loc="upper left", ncols=3 if part == "epoch" else 1, columnspacing=1)
    picture.savefig(path, dpi=150)


def describe_machine() -> str:
    """What it ran on, in words."""
    cpu = f"{platform.machine()} with {torch.backends.cpu.get_cpu_capability()}"
    return f"1 of {os.cpu_count()} cores ({cpu}), {torch.get_num_threads()} torch thread, torch {torch.__version__}"


PARTS = ("epoch", "rewire", "startup", "logging", "study", "memory")


def choose_rows(args: argparse.Namespace) -> list[Row]:
    """The rows of the parts that are asked for."""
    quick, rounds = args.quick, args.rounds
    arms = ("model.hebbian_grow=true,false",)
    size = ("seed=range(8)",) if args.full_study else ("seed=0,1", "trainer.max_epochs=3")
    parts: dict[str, Callable[[], list[Row]]] = {
        "epoch": lambda: (
            epoch_rows(1, 2, 1, ["hebbian"]) if quick else epoch_rows(rounds, args.epochs, args.usual_rounds)
        ),
        "rewire": lambda: rewire_rows(3, 6) if quick else rewire_rows(rounds, 8),
        "startup": lambda: startup_rows(1 if quick else rounds),
        "logging": lambda: [] if quick else logging_rows(2 * rounds, args.epochs),
        "study": lambda: [] if quick else study_rows(1 if args.full_study else 2, (1, 2), *arms, *size),
        "memory": lambda: memory_rows(1 if quick else 3),
    }
    return [row for part in args.only for row in parts[part]()]


def main() -> None:
    args = _arguments()
    torch.set_num_threads(1)
    records = summarise(measure(choose_rows(args)))
    print(table(records))
    print(f"\nMedian (lowest to highest) over the rounds; ratios within a round. Ran on {describe_machine()}.")
    if args.json:
        args.json.write_text(json.dumps({"machine": describe_machine(), "rows": records}, indent=2) + "\n")
    if args.figure:
        figure(records, args.figure)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Lets a Trainer draw its progress bar and tables, at their full cost, where nobody sees them."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--only", type=_parts, default=PARTS, metavar="PART,...", help=f"parts to measure: {', '.join(PARTS)}")
    add("--rounds", type=partial(_count, 1), default=5, help="measurements of each row (default: 5)")
    add("--epochs", type=partial(_count, 2), default=6, help="epochs of a fit, the first not timed (default: 6)")
    usual = "rounds of usual Lightning, if less, of 2 epochs each since it is slow; 0 leaves it out (default: 2)"
    add("--usual-rounds", type=partial(_count, 0), default=2, help=usual)
    quick = "a minute or two: 1 round of 2 epochs, usual Lightning on the hebbian arm only, no logging, no study"
    add("--quick", action="store_true", help=quick)
    add("--full-study", action="store_true", help="for the part study the published one, of 16 runs")
    add("--json", type=Path, metavar="FILE", help="also write every measurement, the medians and the machine here")
    add("--figure", type=Path, metavar="FILE", help="also draw epochs and rewirings here, as PNG or SVG")
    args = parser.parse_args()
    for name in ("json", "figure"):
        path = getattr(args, name)
        if path and not path.parent.is_dir():
            parser.error(f"Expected --{name} in a folder that exists, got {path}")
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
