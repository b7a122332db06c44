"""The short way from batch to batch beside Lightning's own: what all hooks see of both, and what comes of it."""

import functools
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from conftest import SGD, Data, Model, Record
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import LambdaCallback, LearningRateMonitor
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.strategies import SingleDeviceStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException, SIGTERMException
from torch import Tensor, nn

from sparse_lightning import PruneRegrow
from sparse_lightning.study.train import loop
from sparse_lightning.study.train.training import shorten

# Said once more, so that one which the loop forgets is missed.
HOOKS = [
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
]
BATCHES = 10


class Onlooker(Callback):
    """Writes down everything that it is told, with what it can see then, and logs a number in each hook."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seen.append(("validated", trainer.global_step))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seen.append(("epoch", trainer.current_epoch, sorted(trainer.callback_metrics)))

    def look(self, hook: str, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        epoch_loop = trainer.fit_loop.epoch_loop
        values = {name: float(value) for name, value in trainer.callback_metrics.items()}
        progress = [*vars(epoch_loop.batch_progress.current).values(), epoch_loop.batch_progress.is_last_batch]
        weights = [float(parameter.detach().sum()) for parameter in pl_module.parameters()]
        slopes = [None if p.grad is None else float(p.grad.sum()) for p in pl_module.parameters()]
        step = [trainer.global_step, epoch_loop._batches_that_stepped, torch.is_grad_enabled(), trainer.training]
        self.seen.append((hook, pl_module._current_fx_name, plain(args), values, progress, weights, slopes, step))
        if hook != "on_before_optimizer_step":  # where Lightning lets nobody log
            pl_module.log(f"callback/{hook}", float(len(self.seen)), on_step=True, on_epoch=True, batch_size=2)


for hook in HOOKS:
    setattr(Onlooker, hook, lambda self, *args, _hook=hook: self.look(_hook, *args))


def plain(value: Any) -> Any:
    """A value that compares and prints."""
    if isinstance(value, Tensor):
        return (value.tolist(), value.requires_grad)
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, dict):
        return {name: plain(each) for name, each in value.items()}
    return value if isinstance(value, int | float | str | None) else type(value).__name__


class Loud(Model):
    """Writes down its own hooks too."""

    def __init__(self, network: nn.Module, **options: Any) -> None:
        super().__init__(network, **options)
        self.seen: list[Any] = []

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.seen.append(("end", plain(outputs), batch_idx, self._current_fx_name))
        self.log("module/end", float(batch_idx))

    def on_before_zero_grad(self, optimizer: Any) -> None:
        self.seen.append(("zero", self._current_fx_name))

    def on_after_backward(self) -> None:
        self.seen.append(("backward", self._current_fx_name))

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self.seen.append(("step", self._current_fx_name))

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        self.seen.append(("before", self.trainer.training))
        return [batch[0] + 1, batch[1]]

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return [2 * batch[0], batch[1]]


class Logs(Model):
    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        self.log("loss", loss, on_step=True, on_epoch=True)
        self.log("number", float(batch_idx), on_step=True, on_epoch=False)
        return loss


class Words(Model):
    def training_step(self, batch: list[Tensor]) -> dict[str, Any]:
        return {"loss": super().training_step(batch, 0), "size": len(batch[0])}


class Skips(Model):
    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor | None:
        return None if batch_idx in (2, 3) else super().training_step(batch, batch_idx)


class Stops(Callback):
    """Stops the training in the middle of its second epoch."""

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        trainer.should_stop = trainer.global_step == 14


class Fails(Callback):
    def on_before_backward(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step == 14:
            raise RuntimeError("enough")


class Manual(Model):
    automatic_optimization = False

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(super().training_step(batch, batch_idx))
        optimizer.step()


class Leaves(Model):
    def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
        return -1 if batch_idx == 5 else None


class Iterates(Model):
    def training_step(self, dataloader_iter: Any) -> Tensor:
        batch, index, _ = next(dataloader_iter)
        return super().training_step(batch, index)


class Unsized:
    """A loader that does not say how many batches it has."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def __iter__(self) -> Any:
        return iter(self.loader)


class Holes(Unsized):
    """A loader with a batch in which nothing was left."""

    def __len__(self) -> int:
        return BATCHES

    def __iter__(self) -> Any:
        return (None if index == 3 else batch for index, batch in enumerate(self.loader))


class Steps(Model):
    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        optimizer.step(closure=optimizer_closure)


class Clips(Model):
    def configure_gradient_clipping(self, optimizer: Any, *, gradient_clip_val: Any, **kwargs: Any) -> None:
        assert gradient_clip_val is None
        self.clip_gradients(optimizer, gradient_clip_val=0.01, gradient_clip_algorithm="value")


class ClipsBelow(Model):
    def clip_gradients(self, optimizer: Any, *args: Any, **kwargs: Any) -> None:
        torch.nn.utils.clip_grad_value_(self.parameters(), 0.01)


class OwnOptimizer(Model):
    """Has its optimizer wrapped already."""

    def configure_optimizers(self) -> Any:
        return LightningOptimizer(SGD(self.parameters()))


class LogsWithin(Model):
    """Logs wherever Lightning lets it."""

    def configure_gradient_clipping(self, optimizer: Any, **kwargs: Any) -> None:
        self.log("gradients", sum(float(p.grad.norm()) for p in self.parameters()), on_step=True, on_epoch=True)

    def backward(self, loss: Tensor) -> None:
        handle = loss.register_hook(lambda gradient: self.log("slope", float(gradient)))
        self.log("backward", float(loss.detach()))
        super().backward(loss)
        handle.remove()

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Any) -> None:
        self.log("zeroed", float(batch_idx), on_epoch=True)
        super().optimizer_zero_grad(epoch, batch_idx, optimizer)


class Erases(Callback):
    """Changes the loss when it has served, in place."""

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        self.loss = loss

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.loss.data.zero_()


class Told:
    """A hook that is an object."""

    def __init__(self) -> None:
        self.told = 0

    def __call__(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        self.told += 1
        pl_module.log("told", float(self.told), batch_size=1)


class Wrapped(Callback):
    """A hook wrapped about Lightning's own, and one that is none."""

    on_before_zero_grad = None

    @functools.wraps(Callback.on_train_batch_end)
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        pl_module.log("wrapped", float(trainer.global_step), batch_size=1)


class Signalled(Callback):
    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        trainer._signal_connector.received_sigterm = trainer.global_step == 14


class Wordless(Model):
    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        return {"size": 2} if batch_idx == 3 else loss


class Lossless(Wordless):
    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        return {"loss": None} if batch_idx == 3 else super().training_step(batch, 0)


class Quiet(PassThroughProfiler):
    """Of another kind than Lightning's."""


class OneDevice(SingleDeviceStrategy):
    """Of another kind than Lightning's."""


def schedule(interval: str) -> Callable[..., Any]:
    def build(optimizer: Any) -> dict[str, Any]:
        return {"scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.9), "interval": interval}

    return build


# What is trained, how, and how many of the batches the short way takes.
ORDINARY: dict[str, tuple[Callable[..., Model], dict[str, Any], int]] = {
    "plain": (Model, {}, 3 * (BATCHES - 2)),
    "a model with hooks": (Loud, {}, 3 * (BATCHES - 2)),
    "metrics of each step": (Logs, {"log_every_n_steps": 3}, 3 * (BATCHES - 2)),
    "a mapping, no index": (Words, {}, 3 * (BATCHES - 2)),
    "skipped batches": (Skips, {}, 3 * (BATCHES - 2)),
    "clipped by norm": (Model, {"gradient_clip_val": 0.01}, 3 * (BATCHES - 2)),
    "clipped below": (ClipsBelow, {}, 3 * (BATCHES - 2)),
    "clipped by the model": (Clips, {}, 3 * (BATCHES - 2)),
    "metrics of each hook": (LogsWithin, {}, 3 * (BATCHES - 2)),
    "a loss that is changed": (Model, {"callbacks": [Erases()]}, 3 * (BATCHES - 2)),
    "hooks of other kinds": (Model, {"callbacks": [Wrapped()]}, 3 * (BATCHES - 2)),
    "a hook that is an object": (Model, {"callbacks": lambda: [LambdaCallback(on_after_backward=Told())]}, 24),
    "no loss": (Wordless, {}, 3),
    "a loss that is none": (Lossless, {}, 3),
    "a signal to end": (Model, {"callbacks": [Signalled()]}, (BATCHES - 2) + 3),
    "a quick try": (Model, {"fast_dev_run": 4}, 2),
    "Adam": (partial(Model, optimizer=torch.optim.Adam), {}, 3 * (BATCHES - 2)),
    "LBFGS": (partial(Model, optimizer=partial(torch.optim.LBFGS, lr=0.01, max_iter=3)), {}, 3 * (BATCHES - 2)),
    "a rate of each epoch": (partial(Model, schedule=schedule("epoch")), {}, 3 * (BATCHES - 2)),
    "validation in between": (Model, {"val_check_interval": 4}, 3 * (2 + 2 + 0)),
    "validation each batch": (Model, {"val_check_interval": 1}, 0),
    "validation every second epoch": (Model, {"check_val_every_n_epoch": 2}, 3 * (BATCHES - 2)),
    "no validation": (Model, {"limit_val_batches": 0}, 3 * (BATCHES - 2)),
    "steps, not epochs": (Model, {"max_epochs": -1, "max_steps": 17}, (BATCHES - 2) + 5),
    "one batch": (Model, {"limit_train_batches": 1}, 0),
    "two batches": (Model, {"limit_train_batches": 2}, 0),
    "three batches": (Model, {"limit_train_batches": 3}, 3),
    "a share of them": (Model, {"limit_train_batches": 0.5}, 3 * (BATCHES // 2 - 2)),
    "stopped in between": (Model, {"callbacks": [Stops()]}, (BATCHES - 2) + 3),
    "stopped, but not before its time": (Model, {"callbacks": [Stops()], "min_epochs": 3}, 3 * (BATCHES - 2) - 1),
    "a failure": (Model, {"callbacks": [Fails()]}, (BATCHES - 2) + 4),
}
EXTRAORDINARY: dict[str, tuple[Callable[..., Model], dict[str, Any]]] = {
    "manual optimization": (Manual, {}),
    "an epoch that is left": (Leaves, {}),
    "an optimizer that is wrapped": (OwnOptimizer, {}),
    "a step of the model's own": (Steps, {}),
    "accumulated gradients": (Model, {"accumulate_grad_batches": 3}),
    "another precision": (Model, {"precision": "bf16-mixed"}),
    "a profiler": (Model, {"profiler": "simple"}),
    "another profiler": (Model, {"profiler": Quiet()}),
    "another strategy": (Model, {"strategy": OneDevice(), "accelerator": "auto"}),
    "a rate of each step": (partial(Model, schedule=schedule("step")), {}),
    "the loader itself": (Iterates, {}),
    "validation by the clock": (Model, {"val_check_interval": "00:01:00:00", "check_val_every_n_epoch": None}),
    "validation across epochs": (Model, {"check_val_every_n_epoch": None, "val_check_interval": 7}),
}


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The batches that went the short way, by their number."""
    taken: list[int] = []
    original = loop._ShortStep.__call__

    def counted(self: Any) -> None:
        taken.append(self.loop.batch_idx + 1)
        original(self)

    monkeypatch.setattr(loop._ShortStep, "__call__", counted)
    return taken


def fit(
    build: Callable[..., Model], options: dict[str, Any], net: nn.Module, data: Data, *, short: bool, **how: Any
) -> Any:
    """All there is to see of three epochs of it."""
    torch.manual_seed(0)
    for layer in net:
        if hasattr(layer, "reset_parameters"):
            layer.reset_parameters()
    logger, onlooker, lit = Steplog(), Onlooker(), build(net)
    settings = {"max_epochs": 3, "accelerator": "cpu", "log_every_n_steps": 1, "num_sanity_val_steps": 0} | options
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    added = options.get("callbacks", list)
    own = [
        PruneRegrow(0.5, growth="hebbian"),
        onlooker,
        LearningRateMonitor(),
        *(added() if callable(added) else added),
    ]
    trainer = Trainer(**settings | quiet | {"logger": logger, "callbacks": own})
    if short:
        shorten(trainer)
    failed = None
    try:
        trainer.fit(lit, datamodule=data, **how)
    except (RuntimeError, MisconfigurationException, SIGTERMException) as error:
        failed = type(error), str(error)
    saved = {name: value.clone() for name, value in lit.state_dict().items()}
    progress = trainer.fit_loop.state_dict()
    return onlooker.seen, getattr(lit, "seen", None), logger.lines, plain(saved), progress, failed, trainer.global_step


class Steplog(Record):
    """Keeps each line that is logged, with its step."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[Any] = []

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.lines.append((step, dict(metrics)))


@pytest.fixture
def batches(data: Data) -> Data:
    """The samples in ten batches of two."""
    return Data(data.inputs, data.labels, batch_size=2)


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`", "ignore:You have overridden")
@pytest.mark.parametrize("case", ORDINARY)
def test_the_short_way_does_what_lightning_does_in_the_same_order(case, net, batches, short):
    build, options, expected = ORDINARY[case]
    theirs = fit(build, options, net, batches, short=False)
    assert not short
    ours = fit(build, options, net, batches, short=True)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine == other
    assert len(short) == expected
    assert 0 not in short


@pytest.mark.filterwarnings("ignore:You are using the `dataloader_iter`", "ignore:Found `dataloader_iter`")
@pytest.mark.parametrize("case", EXTRAORDINARY)
def test_what_is_out_of_the_ordinary_goes_lightnings_way(case, net, batches, short):
    build, options = EXTRAORDINARY[case]
    theirs, ours = (fit(build, options, net, batches, short=each) for each in (False, True))
    for mine, other in zip(ours, theirs, strict=True):
        assert mine == other
    assert not short


def test_a_loader_of_unknown_length_goes_lightnings_way(net, batches, short, monkeypatch):
    loader = batches.train_dataloader()
    monkeypatch.setattr(batches, "train_dataloader", lambda: Unsized(loader))
    theirs, ours = (fit(Model, {}, net, batches, short=each) for each in (False, True))
    assert ours == theirs
    assert not short


class Shrinks:
    """Ten batches, and six from the second epoch on."""

    def __init__(self, loader: Any) -> None:
        self.loader, self.count = loader, BATCHES

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Any:
        batches = list(self.loader)[: self.count]
        self.count = 6
        return iter(batches)


def test_a_loader_that_shrinks_ends_its_epochs(net, batches, short, monkeypatch):
    seen = []
    for way in (False, True):
        loader = Shrinks(batches.train_dataloader())
        monkeypatch.setattr(batches, "train_dataloader", lambda loader=loader: loader)
        seen.append(fit(partial(Model, schedule=schedule("epoch")), {}, net, batches, short=way))
        monkeypatch.undo()
    assert seen[0] == seen[1]
    assert seen[0][0][-2] == ("validated", seen[0][-1])


@pytest.mark.filterwarnings("ignore:train_dataloader yielded None", "ignore:Expected a batch of train_dataloader")
def test_a_batch_that_is_none_is_left_out(net, batches, short, monkeypatch):
    loader = batches.train_dataloader()
    monkeypatch.setattr(batches, "train_dataloader", lambda: Holes(loader))
    theirs, ours = (fit(Model, {}, net, batches, short=each) for each in (False, True))
    assert ours == theirs
    assert ours[-1] == 3 * (BATCHES - 1)
    assert len(short) == 3 * (BATCHES - 2)


@pytest.mark.parametrize(("version", "kind"), [("2.6.7", loop.ShortLoop), ("2.7.0", _TrainingEpochLoop)])
def test_the_short_way_is_for_the_version_of_lightning_that_it_stands_on(monkeypatch, trainer, version, kind):
    monkeypatch.setattr("sparse_lightning.study.train.training.version", lambda package: version)
    run = trainer()
    shorten(run)
    assert type(run.fit_loop.epoch_loop) is kind


@pytest.mark.parametrize("step", [1, 4, 9, 10, 11, 15])
def test_a_run_continued_the_short_way_is_the_one_that_was_never_interrupted(step, net, batches, short, tmp_path):
    class Saves(Callback):
        def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
            if trainer.global_step == step:
                trainer.save_checkpoint(tmp_path / "last.ckpt")

    straight = fit(Model, {"callbacks": [Saves()]}, net, batches, short=True)
    whole = len(short)
    path = tmp_path / "last.ckpt"
    theirs, ours = (fit(Model, {}, net, batches, short=each, ckpt_path=path) for each in (False, True))
    assert ours == theirs
    assert ours[3] == straight[3]
    assert whole < len(short) < 2 * whole
