"""An epoch of the study's arms: by hand, with this library, and in Lightning as usually written."""

import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torchmetrics
from benchmarks.measuring import Row
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import MNIST

from sparse_lightning import MNISTDataModule, SparseMLP
from sparse_lightning.datamodules.mnist import MNIST_MEAN, MNIST_STD
from sparse_lightning.study.train.connections import Connections
from sparse_lightning.study.train.lists import train_in_lists
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


def logging_rows(rounds: int, epochs: int) -> list[Row]:
    """The same fits with and without loggers and the record of connections, by the processor's time."""

    def fit(seed: int, folder: Path, records: bool) -> dict[str, float]:
        found = sparse_lightning("hebbian", epochs, seed, folder, records)
        return {"processor seconds": found["processor seconds"]}

    base = Row("logging", "off", partial(fit, records=False), rounds)
    return [base, Row("logging", "on", partial(fit, records=True), rounds, (base,))]


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
