"""SparseMLP, the network of the experiment as a LightningModule."""

import inspect
from collections.abc import Mapping, Sequence
from functools import partial
from numbers import Integral, Real
from typing import Any, Literal, cast, get_args
from weakref import WeakSet

import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LRScheduler

from sparse_lightning.callbacks.prune_regrow import PruneRegrow
from sparse_lightning.criteria.growth import HebbianGrowth
from sparse_lightning.functional.checks import expect, expect_one_of, is_integer, is_number
from sparse_lightning.functional.densities import uniform
from sparse_lightning.functional.masks import derived_generator
from sparse_lightning.models.metrics import EpochMetrics
from sparse_lightning.models.mlp import build_mlp
from sparse_lightning.models.noise import replace_pixels
from sparse_lightning.models.optimization import (
    Interval,
    OptimizerName,
    ScheduleName,
    build_optimizer,
    build_schedule,
    training_length,
)
from sparse_lightning.nn.k_winners import KWinners

Batch = tuple[Tensor, Tensor]
Activation = Literal["relu", "kwinners"]
_FALLING = ("cosine", "linear")  # schedules that need to know the length of the training
_OWN: WeakSet[Callback] = WeakSet()  # the callbacks that models, not users, have given to a Trainer


class SparseMLP(LightningModule):
    """A multilayer perceptron for classification that trains sparse.

    Each hidden layer is Linear, BatchNorm1d, activation and Dropout; the output layer is Linear. The layers are named
    ``network.linear1``, ``network.linear2`` ... ``network.output``. They have PyTorch's default initialisation.

    The model brings a :class:`~sparse_lightning.PruneRegrow` of its own, `prune_regrow`, which cuts the weights when a
    Trainer sets it up, keeps them sparse and rewires them. Where the Trainer's callbacks have a PruneRegrow already,
    that one takes its place, and `density`, `prune_fraction`, `hebbian_grow`, `pruning_early_stop` and
    `count_validation` are not used.

    Logs ``train_loss``, ``train_acc``, ``val_loss`` and ``val_acc`` once an epoch, with `test_noise` ``noise_loss`` and
    ``noise_acc`` too, and ``test_loss`` and ``test_acc``. Losses are mean cross-entropies, accuracies fractions.

    The model optimizes automatically. With ``automatic_optimization = False`` it takes its steps itself, and a batch
    may then be a list of batches with a step for each, which spares a small network most of Lightning's time between
    two steps and gives the same weights. Lightning clips no gradients then, and DDP synchronises buffers, as batch
    norm's running statistics, once a list.

    Args:
        input_size: Features of a sample once flattened.
        num_classes: Number of classes.
        hidden_sizes: Units of each hidden layer.
        activation: ``"relu"``, or ``"kwinners"`` for :class:`~sparse_lightning.nn.k_winners.KWinners`.
        percent_on: k-winners: fraction of the units that win in training, in (0, 1].
        k_inference_factor: k-winners: how many times as many win in evaluation, at least 0.
        boost_strength: k-winners: how strongly units that win often are held back, at least 0.
        boost_strength_factor: k-winners: what the boost strength is multiplied by between epochs, in [0, 1].
        batch_norm: Whether to normalise each hidden layer before its activation.
        dropout: Fraction of hidden units dropped in training, in [0, 1).
        density: Fraction of connections that are active, in (0, 1]; or by layer name. 1 is a dense network without
            a PruneRegrow.
        prune_fraction: Fraction of the active connections replaced between epochs, in [0, 1); or by layer name.
        hebbian_grow: True grows by Hebbian coactivation, False at random, None never changes the topology.
        pruning_early_stop: Stop rewiring after this many drops of the learning rate; 0 never stops.
        count_validation: Whether validation samples, noised ones included, count in the coactivation too: a leak that
            the published experiment had, for reproducing it.
        optimizer: ``"SGD"``, ``"Adam"`` or ``"AdamW"``.
        learning_rate: Initial learning rate, above 0.
        momentum: SGD: momentum, in [0, 1).
        nesterov: SGD: whether momentum is Nesterov's.
        betas: Adam and AdamW: decay rates of the running means of the gradient and its square, each in [0, 1).
        weight_decay: Weight decay, at least 0.
        lr_schedule: ``"multistep"``, ``"cosine"``, ``"linear"`` or ``"constant"``.
        lr_interval: Whether the schedule counts by ``"epoch"`` or by optimizer ``"step"``.
        lr_milestones: Multistep: epochs, or steps, at whose start the learning rate is multiplied by `lr_gamma`.
        lr_gamma: Multistep: that factor, above 0.
        lr_final: Cosine and linear: learning rate at the end of the training, in [0, learning_rate].
        test_noise: Whether to validate a second time, with noise on the images; see
            :func:`~sparse_lightning.models.noise.replace_pixels`.
        noise_level: Fraction of the pixels that the noise replaces, in [0, 1].
        seed: Seed of masks, rewirings and noise. Weights come from PyTorch's random state, as in any module.

    Raises:
        ValueError: An argument is out of its range, or a checkpoint is of another architecture.

    Example::

        Trainer(max_epochs=30).fit(SparseMLP(hebbian_grow=True), MNISTDataModule())
    """

    def __init__(
        self,
        input_size: int = 784,
        num_classes: int = 10,
        *,
        hidden_sizes: Sequence[int] = (100, 100, 100),
        activation: Activation = "relu",
        percent_on: float = 0.25,
        k_inference_factor: float = 1.5,
        boost_strength: float = 1.4,
        boost_strength_factor: float = 0.7,
        batch_norm: bool = True,
        dropout: float = 0.0,
        density: float | Mapping[str, float] = 0.2,
        prune_fraction: float | Mapping[str, float] = 0.3,
        hebbian_grow: bool | None = True,
        pruning_early_stop: int = 0,
        count_validation: bool = False,
        optimizer: OptimizerName = "SGD",
        learning_rate: float = 0.1,
        momentum: float = 0.9,
        nesterov: bool = False,
        betas: Sequence[float] = (0.9, 0.999),
        weight_decay: float = 1e-4,
        lr_schedule: ScheduleName = "multistep",
        lr_interval: Interval = "epoch",
        lr_milestones: Sequence[int] = (30, 60, 90),
        lr_gamma: float = 0.1,
        lr_final: float = 0.0,
        test_noise: bool = False,
        noise_level: float = 0.15,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        # A checkpoint holds plain values, also where a configuration file or NumPy gave others.
        self.hparams.update({name: _plain(value) for name, value in self.hparams.items()})
        _check(self.hparams)
        self.network = self.build_network()
        hebbian = HebbianGrowth(count_validation=count_validation)
        self.prune_regrow = PruneRegrow(
            density=self.hparams["density"],
            prune_fraction=self.hparams["prune_fraction"],
            growth=None if hebbian_grow is None else hebbian if hebbian_grow else "random",
            pruning_early_stop=self.hparams["pruning_early_stop"],
            seed=self.hparams["seed"],
        )
        self._metrics = EpochMetrics()

    def build_network(self) -> nn.Sequential:
        """Return the layers; a subclass with others has them here."""
        of = self.hparams
        options: dict[str, Any] = {}
        if of["activation"] == "kwinners":
            names = ("percent_on", "k_inference_factor", "boost_strength", "boost_strength_factor")
            options["activation"] = partial(KWinners, **{name: of[name] for name in names})
        sizes = of["input_size"], of["num_classes"], of["hidden_sizes"]
        return build_mlp(*sizes, batch_norm=of["batch_norm"], dropout=of["dropout"], **options)

    @property
    def schedule_needs_steps(self) -> bool:
        """Whether the schedule of the learning rate needs to know how many optimizer steps the training has."""
        return self.hparams["lr_interval"] == "step" and self.hparams["lr_schedule"] in _FALLING

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, (batch, num_classes), of images, (batch, ...), of `input_size` values each."""
        logits: Tensor = self.network(images.flatten(1))
        return logits

    def configure_callbacks(self) -> list[Callback]:
        """Return this model's own PruneRegrow, unless it is dense or the Trainer has another one already."""
        callbacks: list[Callback] = self.trainer.callbacks  # type: ignore[attr-defined]
        for callback in [each for each in callbacks if each in _OWN]:
            callbacks.remove(callback)  # of a SparseMLP that this Trainer had before
        if any(isinstance(each, PruneRegrow) for each in callbacks):
            rank_zero_info("SparseMLP: the Trainer's PruneRegrow is used in place of the model's own")
            return []
        if self.hparams["density"] == 1:
            return []
        _OWN.add(self.prune_regrow)
        return [self.prune_regrow]

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return the optimizer and the schedule of its learning rate."""
        of = self.hparams
        names = ("learning_rate", "weight_decay", "momentum", "nesterov", "betas")
        optimizer = build_optimizer(of["optimizer"], self.parameters(), **{name: of[name] for name in names})
        falls = of["lr_schedule"] in _FALLING
        schedule = build_schedule(
            of["lr_schedule"],
            optimizer,
            milestones=of["lr_milestones"],
            gamma=of["lr_gamma"],
            final=of["lr_final"],
            length=training_length(self.trainer, of["lr_interval"]) if falls else 0,
        )
        if schedule is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": of["lr_interval"]}}

    def setup(self, stage: str) -> None:
        """Start the metrics from zero."""
        self._metrics = EpochMetrics()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Start an epoch of training before its first batch."""
        if batch_idx == 0:
            self._begin_epoch()

    def training_step(self, batch: Batch | Sequence[Batch], batch_idx: int) -> Tensor | None:
        """Return the loss of a batch; or, without automatic optimization, take a step for each batch of a list."""
        is_list = not isinstance(batch[0], Tensor)
        if self.automatic_optimization:
            expect(not is_list, "automatic_optimization=False for batches in lists", True)
            return self._measure("train", *cast(Batch, batch))
        batches = cast(Sequence[Batch], batch if is_list else [batch])
        by_step = self.hparams["lr_interval"] == "step"
        held = is_list and self.schedule_needs_steps
        expect(not held, "lr_interval='epoch' for batches in lists with this lr_schedule", "step")
        optimizer = cast(LightningOptimizer, self.optimizers())
        schedule = cast(LRScheduler | None, self.lr_schedulers())
        for images, labels in batches:
            optimizer.zero_grad()
            self.manual_backward(self._measure("train", images, labels))
            optimizer.step()
            if schedule is not None and by_step:
                schedule.step()
        if schedule is not None and not by_step and self.trainer.is_last_batch:
            schedule.step()
        return None

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Measure a batch, and with `test_noise` once more with noise on its images."""
        images, labels = batch
        self._measure("val", images, labels)
        if self.hparams["test_noise"]:
            trainer = self.trainer
            key = ("noise", trainer.current_epoch, batch_idx, trainer.global_rank)
            generator = derived_generator(self.hparams["seed"], *key)
            self._measure("noise", replace_pixels(images, self.hparams["noise_level"], generator), labels)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Measure a batch."""
        self._measure("test", *batch)

    def on_train_epoch_end(self) -> None:
        """Log the training metrics of the epoch."""
        self._log_epoch("train")

    def on_validation_epoch_end(self) -> None:
        """Log the validation metrics of the epoch."""
        self._log_epoch("val")
        if "noise" in self._metrics.stages:
            self._log_epoch("noise")

    def on_test_epoch_end(self) -> None:
        """Log the test metrics."""
        self._log_epoch("test")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the metrics of an unfinished epoch, and whether the model's own PruneRegrow trains it."""
        checkpoint["metrics"] = self._metrics.state_dict(self._sum_over_ranks)
        callbacks = [] if self._trainer is None else self.trainer.callbacks  # type: ignore[attr-defined]
        checkpoint["own_prune_regrow"] = self.prune_regrow in callbacks

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Load the masks, which the weights alone do not hold, and the metrics of an unfinished epoch."""
        ours, theirs = self.state_dict(), checkpoint["state_dict"]
        for name in [*ours, *theirs]:
            shapes = [list(state[name].shape) if name in state else "none" for state in (ours, theirs)]
            if shapes[0] != shapes[1]:
                raise ValueError(f"Expected a checkpoint with {name} of shape {shapes[0]}, got {shapes[1]}")
        state = checkpoint.get("callbacks", {}).get(self.prune_regrow.state_key)
        if state and checkpoint.get("own_prune_regrow", True):  # else it is another's, which loads it itself
            self._check_density(state["masks"])
            self.prune_regrow.start_from(state["masks"])
        is_first = self._trainer is None or self.trainer.is_global_zero
        self._metrics.load_state_dict(checkpoint.get("metrics", {}), is_first=is_first)

    def extra_repr(self) -> str:
        """Return the arguments that differ from their defaults."""
        parameters = inspect.signature(type(self)).parameters
        own = {name: value for name, value in self.hparams.items() if name in parameters}
        changed = (f"{name}={value!r}" for name, value in own.items() if value != _plain(parameters[name].default))
        return ", ".join(changed)

    def _begin_epoch(self) -> None:
        """Start an epoch of training: the boost of k-winners decays, except before the very first one."""
        # Not at the epoch's end, where the network saved would not be the one that was validated.
        for layer in self.network:
            if isinstance(layer, KWinners) and layer.samples_seen:
                layer.decay_boost()
        # Lightning does not end an epoch that it resumes after its last batch.
        self._metrics.discard("train")

    def _measure(self, stage: str, images: Tensor, labels: Tensor) -> Tensor:
        """Return the mean cross-entropy of a batch, and add it to the metrics of a stage."""
        logits = self(images)
        loss = F.cross_entropy(logits, labels)
        self._metrics.update(stage, loss, logits, labels)
        return loss

    def _check_density(self, masks: Mapping[str, Tensor]) -> None:
        density = self.hparams["density"]
        if not isinstance(density, dict):
            counts = uniform({name: mask.shape for name, mask in masks.items()}, density)
            for name, mask in masks.items():
                active = int(mask.sum())
                holds = active == counts[name]
                expect(holds, f"a checkpoint with {counts[name]} active connections of {name}", active)

    def _sum_over_ranks(self, values: Sequence[float]) -> Sequence[float]:
        if self._trainer is None or self.trainer.world_size == 1:
            return values
        local = torch.tensor(values, dtype=torch.float64, device=self.device)
        return cast(list[float], cast(Tensor, self.trainer.strategy.reduce(local, reduce_op="sum")).tolist())

    def _log_epoch(self, stage: str) -> None:
        metrics = self._metrics.finish(stage, self._sum_over_ranks)
        self.log_dict(metrics, prog_bar=True, sync_dist=self.trainer.world_size > 1)


def _check(of: Mapping[str, Any]) -> None:
    """Check the arguments that are not checked where they are used."""
    for name in ("input_size", "num_classes"):
        expect(is_integer(of[name], 1), f"{name} to be an integer of at least 1", of[name])
    sizes = of["hidden_sizes"]
    valid = isinstance(sizes, list) and all(is_integer(size, 1) for size in sizes)
    expect(valid, "hidden_sizes to be a list of integers of at least 1", sizes)
    for name, choices in CHOICES.items():
        expect_one_of(name, of[name], choices)
    for name in ("batch_norm", "count_validation", "nesterov", "test_noise"):
        expect(isinstance(of[name], bool), f"{name} to be true or false", of[name])
    grow = of["hebbian_grow"]
    expect(grow is None or isinstance(grow, bool), "hebbian_grow to be true, false or null", grow)
    for name in ("dropout", "momentum"):
        expect(is_number(of[name]) and 0 <= of[name] < 1, f"{name} in [0, 1)", of[name])
    expect(is_number(of["percent_on"]) and 0 < of["percent_on"] <= 1, "percent_on in (0, 1]", of["percent_on"])
    for name in ("boost_strength_factor", "noise_level"):
        expect(is_number(of[name]) and 0 <= of[name] <= 1, f"{name} in [0, 1]", of[name])
    for name in ("k_inference_factor", "boost_strength", "weight_decay"):
        expect(is_number(of[name]) and of[name] >= 0, f"{name} of at least 0", of[name])
    for name in ("learning_rate", "lr_gamma"):
        expect(is_number(of[name]) and of[name] > 0, f"{name} above 0", of[name])
    final, betas, milestones = of["lr_final"], of["betas"], of["lr_milestones"]
    expect(is_number(final) and 0 <= final <= of["learning_rate"], "lr_final in [0, learning_rate]", final)
    pair = isinstance(betas, list) and len(betas) == 2 and all(is_number(beta) and 0 <= beta < 1 for beta in betas)
    expect(pair, "betas to be two numbers in [0, 1)", betas)
    integers = isinstance(milestones, list) and all(is_integer(each, 0) for each in milestones)
    rising = integers and milestones == sorted(set(milestones))
    expect(rising, "lr_milestones to be integers in rising order", milestones)
    has_momentum = of["optimizer"] == "SGD" and of["momentum"] > 0
    expect(not of["nesterov"] or has_momentum, "nesterov with optimizer SGD and a momentum above 0", of["nesterov"])
    expect(is_integer(of["seed"]), "seed to be an integer", of["seed"])


CHOICES = {
    "activation": get_args(Activation),
    "optimizer": get_args(OptimizerName),
    "lr_schedule": get_args(ScheduleName),
    "lr_interval": get_args(Interval),
}


def _plain(value: Any) -> Any:
    """Return a value of Python's own types: a dict, a list, a number."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(each) for each in value]
    if isinstance(value, bool):
        return value
    return int(value) if isinstance(value, Integral) else float(value) if isinstance(value, Real) else value
