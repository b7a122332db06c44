"""SparseMLP, the network of the experiment as a LightningModule."""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from sparse_lightning.callbacks.presets import PRESETS
from sparse_lightning.callbacks.prune_regrow import PruneRegrow
from sparse_lightning.criteria.growth import HebbianGrowth, RandomGrowth

OPTIMIZERS = ("SGD", "Adam", "AdamW")
TOGETHER = 64  # batches that are measured at once: one by one, that takes as long as a layer


class SparseMLP(LightningModule):
    """A multilayer perceptron whose weight matrices are sparse from its construction on.

    Each hidden layer is Linear, BatchNorm1d, ReLU, Dropout; the output layer is Linear. The layers are named
    ``network.linear1``, ``network.linear2`` ... ``network.output``. A :class:`~sparse_lightning.PruneRegrow` of its
    own, handed to the Trainer by `configure_callbacks`, keeps it sparse and rewires it. Logs ``train_loss``,
    ``train_acc``, ``val_loss``, ``val_acc`` once an epoch, and ``test_loss``, ``test_acc``.

    Args:
        input_size: Values in an image once flattened.
        num_classes: Number of classes.
        hidden_sizes: Units of each hidden layer.
        batch_norm: Normalise each hidden layer before its ReLU.
        dropout: Share of hidden units dropped in training, in [0, 1).
        density: Share of connections that are active, in (0, 1]; or by layer name. 1 is the dense network.
        prune_fraction: Share of the active connections replaced between epochs, in [0, 1); or by layer name.
        hebbian_grow: True grows by Hebbian coactivation, False at random, None never moves the topology.
        method: A preset by name instead, in whose place `hebbian_grow` is not looked at: ``"set"``, ``"rigl"``,
            ``"snfs"``, ``"hebbian"``, ``"random"`` or ``"static"``; see :mod:`sparse_lightning.callbacks.presets`.
        optimizer: ``"SGD"``, ``"Adam"`` or ``"AdamW"``.
        learning_rate: Initial learning rate, above 0.
        momentum: Momentum of SGD, in [0, 1); the others do not use it.
        weight_decay: Weight decay, at least 0.
        lr_milestones: Epochs at whose start the learning rate is multiplied by `lr_gamma`; empty for never.
        lr_gamma: That factor, above 0.
        pruning_early_stop: Stop rewiring after this many drops of the learning rate; 0 never stops.
        count_validation: Count the validation images into the coactivation too, a leak that the published experiment
            had; for reproducing it.
        seed: Seed of the masks and of the rewiring. The weights come from PyTorch's random state, as in any module.

    Raises:
        ValueError: An argument is out of its range, or a checkpoint is of another architecture.

    Example::

        Trainer(max_epochs=30).fit(SparseMLP(hebbian_grow=True), MNISTDataModule())
    """

    def __init__(
        self,
        input_size: int = 784,
        num_classes: int = 10,
        hidden_sizes: Sequence[int] = (100, 100, 100),
        batch_norm: bool = True,
        dropout: float = 0.0,
        density: float | Mapping[str, float] = 0.2,
        prune_fraction: float | Mapping[str, float] = 0.3,
        hebbian_grow: bool | None = True,
        method: str | None = None,
        optimizer: str = "SGD",
        learning_rate: float = 0.1,
        momentum: float = 0.9,
        weight_decay: float = 1e-4,
        lr_milestones: Sequence[int] = (30, 60, 90),
        lr_gamma: float = 0.1,
        pruning_early_stop: int = 0,
        count_validation: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        _expect("input_size above 0", input_size, lambda size: size > 0)
        _expect("num_classes above 0", num_classes, lambda count: count > 0)
        _expect("hidden_sizes to be a list of sizes above 0", hidden_sizes, _sizes)
        _expect("batch_norm to be true or false", batch_norm, lambda choice: isinstance(choice, bool))
        _expect("count_validation to be true or false", count_validation, lambda choice: isinstance(choice, bool))
        _expect("seed to be a whole number", seed, lambda number: isinstance(number, int))
        _expect("dropout in [0, 1)", dropout, lambda share: 0 <= share < 1)
        _expect(
            "hebbian_grow to be true, false or null", hebbian_grow, lambda grow: grow is None or isinstance(grow, bool)
        )
        _expect(
            f"method to be null or one of {', '.join(PRESETS)}", method, lambda name: name is None or name in PRESETS
        )
        _expect(f"optimizer to be one of {', '.join(OPTIMIZERS)}", optimizer, lambda name: name in OPTIMIZERS)
        _expect("learning_rate above 0", learning_rate, lambda rate: rate > 0)
        _expect("momentum in [0, 1)", momentum, lambda share: 0 <= share < 1)
        _expect("weight_decay of at least 0", weight_decay, lambda decay: decay >= 0)
        _expect("lr_milestones in rising order", lr_milestones, lambda epochs: list(epochs) == sorted(set(epochs)))
        _expect("lr_gamma above 0", lr_gamma, lambda factor: factor > 0)
        hidden_sizes, lr_milestones = list(hidden_sizes), list(lr_milestones)
        self.save_hyperparameters()
        # Plain values, where a configuration file gave OmegaConf's, which a checkpoint is not to hold.
        density, prune_fraction = _plain(density), _plain(prune_fraction)
        self.hparams.update(
            hidden_sizes=hidden_sizes, lr_milestones=lr_milestones, density=density, prune_fraction=prune_fraction
        )
        self.network = _mlp(input_size, num_classes, hidden_sizes, batch_norm, dropout)
        common: dict[str, Any] = {"seed": seed, "pruning_early_stop": pruning_early_stop}
        if method is None:
            growth = HebbianGrowth(count_validation=count_validation) if hebbian_grow else RandomGrowth()
            common["growth"] = None if hebbian_grow is None else growth
        kind = PRESETS[method] if method else PruneRegrow
        self.prune_regrow = kind(density=density, prune_fraction=prune_fraction, **common)
        self._dense = density == 1
        if not self._dense:
            self.prune_regrow.sparsify(self)
        self._metrics: dict[str, _Sums] = {}

    def forward(self, images: Tensor) -> Tensor:
        """Logits, (batch, num_classes), of images, (batch, ...), that flatten to `input_size` values each."""
        logits: Tensor = self.network(images.flatten(1))
        return logits

    def configure_callbacks(self) -> list[Callback]:
        """This model's own PruneRegrow; none for a dense network.

        Raises:
            ValueError: The Trainer was given another one.
        """
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, PruneRegrow) and callback is not self.prune_regrow and not self._dense:
                raise ValueError(
                    "Expected one PruneRegrow for each weight, got one in the Trainer's callbacks beside the one that "
                    "SparseMLP brings; to use yours, build the model with density=1"
                )
        return [] if self._dense else [self.prune_regrow]

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimizer and its MultiStepLR."""
        settings = self.hparams
        options = {"lr": settings["learning_rate"], "weight_decay": settings["weight_decay"], "fused": True}
        if settings["optimizer"] == "SGD":
            options["momentum"] = settings["momentum"]
        optimizer = getattr(torch.optim, settings["optimizer"])(self.parameters(), **options)
        schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, settings["lr_milestones"], settings["lr_gamma"])
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def setup(self, stage: str) -> None:
        """Begin the metrics at zero."""
        self._metrics = {}

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Cross-entropy of a batch."""
        if batch_idx == 0:
            # What is left of an epoch whose end Lightning leaves out when it continues from the last batch of it.
            self._metrics.pop("train", None)
        return self._measure("train", *batch)

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Optimizer) -> None:
        """Let go of the gradients, without what an optimizer does around that for profilers and compilers."""
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Take a batch into the validation metrics."""
        self._measure("val", *batch)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Take a batch into the test metrics."""
        self._measure("test", *batch)

    def on_train_epoch_end(self) -> None:
        """Log the training metrics of the epoch."""
        self._log_epoch("train")

    def on_validation_epoch_end(self) -> None:
        """Log the validation metrics of the epoch."""
        self._log_epoch("val")

    def on_test_epoch_end(self) -> None:
        """Log the test metrics."""
        self._log_epoch("test")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the metrics of an unfinished epoch."""
        checkpoint["metrics"] = {stage: self._reduced(stage) for stage in self._metrics}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the masks, which the weights alone cannot tell, and the metrics of an unfinished epoch."""
        ours, theirs = self.state_dict(), checkpoint["state_dict"]
        for name in [*ours, *theirs]:
            shapes = [list(state[name].shape) if name in state else "none" for state in (ours, theirs)]
            if shapes[0] != shapes[1]:
                raise ValueError(f"Expected a checkpoint with {name} of shape {shapes[0]}, got {shapes[1]}")
        state = checkpoint.get("callbacks", {}).get(self.prune_regrow.state_key)
        if state:
            for name, mask in state["masks"].items():
                active = int(self.prune_regrow.masks.get(name, torch.ones_like(mask)).sum())
                if active != int(mask.sum()):
                    raise ValueError(
                        f"Expected a checkpoint with {active} active connections of {name}, got {int(mask.sum())}"
                    )
            self.prune_regrow.start_from(state["masks"])
        first = self._trainer is None or self.trainer.is_global_zero
        metrics = checkpoint.get("metrics", {})
        self._metrics = {stage: _Sums(*map(float, sums)) if first else _Sums() for stage, sums in metrics.items()}

    def _measure(self, stage: str, images: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy of a batch, which goes into the stage's metrics."""
        logits = self(images)
        loss = F.cross_entropy(logits, labels)
        self._metrics.setdefault(stage, _Sums()).add(loss, logits, labels)
        return loss

    def _reduced(self, stage: str) -> list[float]:
        """The sums of a stage over all ranks."""
        sums = self._metrics[stage].so_far()
        if self._trainer is None or self.trainer.world_size == 1:
            return sums
        total = self.trainer.strategy.reduce(
            torch.tensor(sums, dtype=torch.float64, device=self.device), reduce_op="sum"
        )
        assert isinstance(total, Tensor)
        return cast(list[float], total.tolist())

    def _log_epoch(self, stage: str) -> None:
        loss, correct, count = self._reduced(stage)
        del self._metrics[stage]
        metrics = {f"{stage}_loss": loss / count, f"{stage}_acc": correct / count}
        self.log_dict(metrics, prog_bar=True, sync_dist=self.trainer.world_size > 1)


class _Sums:
    """What batches sum up to, one after another: their loss, correct answers and images."""

    def __init__(self, loss: float = 0.0, correct: float = 0.0, images: float = 0.0) -> None:
        self._loss, self._correct, self._images = loss, correct, images
        self._batches: list[tuple[Tensor, Tensor, Tensor]] = []

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Take a batch, of mean loss `loss`; an empty one, of a rank that has run out of images, counts for nothing."""
        if len(labels):
            # Cloned: what is done to the loss after, in place, is not the metric's.
            self._batches.append((loss.detach().clone(), logits.detach(), labels))
        if len(self._batches) == TOGETHER:
            self._settle()

    def so_far(self) -> list[float]:
        """Loss, correct answers and images."""
        self._settle()
        return [self._loss, self._correct, self._images]

    def _settle(self) -> None:
        if not self._batches:
            return
        losses, logits, labels = zip(*self._batches, strict=True)
        self._batches = []
        for loss, answers in zip(torch.stack(losses).tolist(), labels, strict=True):
            self._loss += loss * len(answers)
            self._images += len(answers)
        self._correct += (torch.cat(logits).argmax(1) == torch.cat(labels)).sum().item()


def _mlp(
    input_size: int, num_classes: int, hidden_sizes: Sequence[int], batch_norm: bool, dropout: float
) -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for number, size in enumerate(hidden_sizes, start=1):
        layers[f"linear{number}"] = nn.Linear(input_size, size)
        if batch_norm:
            layers[f"norm{number}"] = nn.BatchNorm1d(size)
        layers[f"relu{number}"] = nn.ReLU()
        if dropout:
            layers[f"dropout{number}"] = nn.Dropout(dropout)
        input_size = size
    layers["output"] = nn.Linear(input_size, num_classes)
    return nn.Sequential(layers)


def _sizes(sizes: Sequence[int]) -> bool:
    return all(isinstance(size, int) and size > 0 for size in sizes)


def _plain(value: float | Mapping[str, float]) -> float | dict[str, float]:
    return dict(value) if isinstance(value, Mapping) else value


def _expect(what: str, got: Any, holds: Callable[[Any], bool]) -> None:
    try:
        accepted = holds(got)
    except TypeError:  # a word where a number should be
        accepted = False
    if not accepted:
        raise ValueError(f"Expected {what}, got {got!r}")
