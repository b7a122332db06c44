"""The short way from one batch to the next, for networks so small that Lightning's own takes as long as their step."""

from collections.abc import Callable
from functools import partial
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.loops.fetchers import _DataFetcher, _DataLoaderIterDataFetcher
from lightning.pytorch.loops.optimization.automatic import Closure, ClosureResult
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.plugins import Precision
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.strategies import SingleDeviceStrategy
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor

HOOKS = (
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
)


class ShortLoop(_TrainingEpochLoop):
    """Lightning's loop over the batches of an epoch, with a shorter way from one to the next.

    Nearly all that Lightning adds to the step of a small network is to ask everyone, a dozen times a step, whether they
    have something to do. Here that is asked once for all batches up to the next at which something else is due: the
    last of the epoch or of the training, or one that is validated after. Those, and the first one, are Lightning's own.
    The batches between call the hooks that somebody has written, in the same order and to the same results. Hooks,
    settings and optimizers that change while they run count from Lightning's next batch on.

    Out of the ordinary, every batch is Lightning's: with a strategy, a precision plugin or a profiler of any other kind
    than the default, manual optimization, accumulated gradients, schedules that move within an epoch, loaders that are
    of unknown length or handed to the step whole, validation by the clock or across epochs, or a model that has its own
    `on_train_batch_start` or `optimizer_step`.
    """

    @classmethod
    def install(cls, trainer: Trainer) -> None:
        """Have a trainer fit with this loop; to be called before it does."""
        theirs = trainer.fit_loop.epoch_loop
        trainer.fit_loop.epoch_loop = cls(trainer, theirs.min_steps, theirs.max_steps)

    def advance(self, data_fetcher: _DataFetcher) -> None:
        """Take a batch as Lightning does, and those that follow as long as nothing else is due."""
        super().advance(data_fetcher)
        if self.restarting or not self._is_ordinary(data_fetcher):
            return
        step = _ShortStep(self, data_fetcher)
        for _ in range(self._until_due(data_fetcher)):
            if self.trainer.should_stop or self.trainer.received_sigterm:
                return
            self._batches_that_stepped += 1
            step()

    def _is_ordinary(self, data_fetcher: _DataFetcher) -> bool:
        trainer, module = self.trainer, self.trainer.lightning_module
        own_way = (_is_written(hook, module, LightningModule) for hook in ("on_train_batch_start", "optimizer_step"))
        return (
            type(trainer.strategy) is SingleDeviceStrategy
            and type(trainer.precision_plugin) is Precision
            and type(trainer.profiler) is PassThroughProfiler
            and bool(module.automatic_optimization)
            and not self.automatic_optimization._skip_backward
            and not isinstance(trainer.optimizers[0], LightningOptimizer)
            and not any(own_way)
            and trainer.accumulate_grad_batches == 1
            and all(schedule.interval == "epoch" for schedule in trainer.lr_scheduler_configs)
            and not isinstance(data_fetcher, _DataLoaderIterDataFetcher)
            # It must be known which batch of this epoch is the last, and which are validated after.
            and data_fetcher.length is not None
            and trainer.check_val_every_n_epoch is not None
            and trainer.val_check_batch is not None
            and trainer.strategy.model is module
        )

    def _until_due(self, data_fetcher: _DataFetcher) -> int:
        """How many batches come before the next at which something else is due."""
        done, trainer = self.batch_progress.current.ready, self.trainer
        assert data_fetcher.length is not None  # which would not be ordinary
        left = min(trainer.num_training_batches - done, data_fetcher.length - data_fetcher.fetched)
        due = min(left, -done % trainer.val_check_batch)
        return int(due if self.max_steps == -1 else min(due, self.max_steps - self.global_step)) - 1


class _ShortStep:
    """A batch from its loading to its end, with all looked up before that does not change from one to the next."""

    def __init__(self, loop: _TrainingEpochLoop, data_fetcher: _DataFetcher) -> None:
        self.loop, self.trainer, self.data_fetcher = loop, loop.trainer, data_fetcher
        self.module, self.optimizer = loop.trainer.lightning_module, loop.trainer.optimizers[0]
        self.attributes = vars(self.module)  # set past the module's search for parameters, which takes long
        self.takes_index = is_param_in_hook_signature(self.module.training_step, "batch_idx", min_args=2)
        clipping = ("configure_gradient_clipping", "clip_gradients")
        own_clipping = any(_is_written(hook, self.module, LightningModule) for hook in clipping)
        self.clips = own_clipping or loop.trainer.gradient_clip_val is not None
        source = loop.trainer._data_connector._datahook_selector
        transfer = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")
        self.before, self.move, self.after = (getattr(source.get_instance(hook), hook) for hook in transfer)
        self.hooks = {hook: self._written(hook) for hook in HOOKS}

    def __call__(self) -> None:
        """Take a batch."""
        trainer, results, connector = self.trainer, self.loop._results, self.trainer._logger_connector
        progress = self.loop.batch_progress
        batch, *_ = next(self.data_fetcher)
        index = self.loop.batch_idx + 1
        batch = self.after(self.move(self.before(batch, 0), trainer.strategy.root_device, 0), 0)
        progress.increment_ready()
        connector._first_loop_iter = False
        results.batch, results.batch_size, results.dataloader_idx = batch, None, None
        outputs = None
        if batch is None:
            self.loop._warning_cache.warn("Expected a batch of train_dataloader, got None: it is left out")
        else:
            self._call("on_train_batch_start", batch, index)
            progress.increment_started()
            outputs = self._optimize(batch, index)
        progress.increment_processed()
        self._call("on_train_batch_end", outputs, batch, index)
        logged = any(True for _ in results.valid_items())
        if logged:
            connector.on_batch_end()
        results.batch = None
        progress.increment_completed()
        if logged:
            connector.update_train_step_metrics()

    def _optimize(self, batch: Any, index: int) -> dict[str, Any]:
        """A step of the optimizer; returns what the model gave, the loss without its graph."""
        trainer, optimizer = self.trainer, self.optimizer
        steps = self.loop.automatic_optimization.optim_progress.optimizer.step
        arguments = (batch, index) if self.takes_index else (batch,)
        given = Closure(partial(self._train, arguments), self._backward, partial(self._zero_grad, index))

        def closure() -> Any:
            loss = given()
            self._call("on_before_optimizer_step", optimizer)
            if self.clips:
                self._within(
                    "configure_gradient_clipping",
                    self.module.configure_gradient_clipping,
                    optimizer,
                    gradient_clip_val=trainer.gradient_clip_val,
                    gradient_clip_algorithm=trainer.gradient_clip_algorithm,
                )
            return loss

        steps.increment_ready()
        self._within("optimizer_step", optimizer.step, closure=closure)
        steps.increment_completed()
        result = given.consume_result()
        return {} if result.loss is None else result.asdict()

    def _train(self, arguments: tuple[Any, ...]) -> ClosureResult:
        output = self._within("training_step", self.module.training_step, *arguments)
        # A loss alone goes on as it is, where Lightning goes on with a copy, divided by one.
        return ClosureResult(output) if isinstance(output, Tensor) else ClosureResult.from_training_step_output(output)

    def _zero_grad(self, index: int) -> None:
        progress = self.loop.automatic_optimization.optim_progress.optimizer.zero_grad
        epoch = self.trainer.current_epoch
        progress.increment_ready()
        self._call("on_before_zero_grad", self.optimizer)
        progress.increment_started()
        self._within("optimizer_zero_grad", self.module.optimizer_zero_grad, epoch, index, self.optimizer)
        progress.increment_completed()

    def _backward(self, loss: Tensor) -> None:
        self._call("on_before_backward", loss)
        self._within("backward", self.module.backward, loss)
        self._call("on_after_backward")

    def _written(self, hook: str) -> list[Callable[..., Any]]:
        """What is to be called for a hook: what callbacks do, then what the model does."""
        callbacks = [callback for callback in self.trainer.callbacks if _is_written(hook, callback, Callback)]
        written = [partial(getattr(callback, hook), self.trainer, self.module) for callback in callbacks]
        own = [getattr(self.module, hook)] if _is_written(hook, self.module, LightningModule) else []
        return [*written, *own]

    def _call(self, hook: str, *args: Any) -> None:
        for each in self.hooks[hook]:
            self._within(hook, each, *args)

    def _within(self, hook: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call what belongs to a hook, by whose name Lightning tells what is logged where."""
        outer = self.attributes["_current_fx_name"]
        self.attributes["_current_fx_name"] = hook
        result = function(*args, **kwargs)
        self.attributes["_current_fx_name"] = outer
        return result


def _is_written(hook: str, owner: Any, base: type) -> bool:
    """Whether there is anything to call for a hook but what Lightning's own class has, which does nothing."""
    method = getattr(owner, hook)
    return callable(method) and getattr(method, "__func__", None) is not getattr(base, hook)
