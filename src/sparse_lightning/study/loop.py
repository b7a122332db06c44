"""The short way from one batch to the next, for networks so small that Lightning's own takes as long as their step."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loops.fetchers import _DataFetcher, _DataLoaderIterDataFetcher
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.plugins import Precision
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.strategies import SingleDeviceStrategy
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature


class ShortLoop(_TrainingEpochLoop):
    """Lightning's loop over the batches of an epoch, with a shorter way from one to the next.

    Nearly all that Lightning adds to the step of a small network is to ask everyone, a dozen times a step, whether they
    have something to do. Here that is asked once. The first batch of an epoch, the last, and any that is validated
    after are Lightning's; for those between, the same hooks are called in the same order, to the same results, where
    somebody has written one. Out of the ordinary, every batch is Lightning's: on several devices, in other precisions
    than 32 bits, with a profiler, manual optimization, accumulated gradients, or schedules that move within an epoch.
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
        for _ in range(self._until_due()):
            if self.trainer.should_stop or self.trainer.received_sigterm:
                return
            self._batches_that_stepped += 1
            step()

    def _is_ordinary(self, data_fetcher: _DataFetcher) -> bool:
        trainer, module = self.trainer, self.trainer.lightning_module
        return (
            type(trainer.strategy) is SingleDeviceStrategy
            and type(trainer.precision_plugin) is Precision
            and isinstance(trainer.profiler, PassThroughProfiler)
            and module.automatic_optimization
            and not any(is_overridden(hook, module) for hook in ("on_train_batch_start", "optimizer_step"))
            and trainer.accumulate_grad_batches == 1
            and all(schedule.interval == "epoch" for schedule in trainer.lr_scheduler_configs)
            # Where the next thing is due is known: at a batch of this epoch, whose number of batches is known.
            and trainer.check_val_every_n_epoch is not None
            and trainer.val_check_batch is not None
            and trainer.num_training_batches != float("inf")
            and not isinstance(data_fetcher, _DataLoaderIterDataFetcher)
        )

    def _until_due(self) -> int:
        """How many batches come before one that ends the epoch or the training, or is validated after."""
        done, trainer = self.batch_progress.current.ready, self.trainer
        due = min(trainer.num_training_batches - done, -done % trainer.val_check_batch)
        return int(due if self.max_steps == -1 else min(due, self.max_steps - self.global_step)) - 1


class _ShortStep:
    """A batch from its loading to its end, with all looked up before that does not change from one to the next."""

    def __init__(self, loop: _TrainingEpochLoop, data_fetcher: _DataFetcher) -> None:
        self.loop, self.trainer, self.data_fetcher = loop, loop.trainer, data_fetcher
        self.module, self.optimizer = loop.trainer.lightning_module, loop.trainer.optimizers[0]
        self.attributes = vars(self.module)  # set past the module's search for parameters, which takes long
        self.takes_index = is_param_in_hook_signature(self.module.training_step, "batch_idx", min_args=2)
        source = loop.trainer._data_connector._datahook_selector
        transfer = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")
        self.before, self.move, self.after = (getattr(source.get_instance(hook), hook) for hook in transfer)
        hooks = ("on_train_batch_start", "on_before_zero_grad", "on_before_backward", "on_after_backward")
        self.hooks = {hook: self._written(hook) for hook in (*hooks, "on_before_optimizer_step", "on_train_batch_end")}

    def __call__(self) -> None:
        """Take a batch."""
        trainer, results, connector = self.trainer, self.loop._results, self.trainer._logger_connector
        progress, steps = self.loop.batch_progress, self.loop.automatic_optimization.optim_progress.optimizer.step
        batch, *_ = next(self.data_fetcher)
        index = self.loop.batch_idx + 1
        batch = self.after(self.move(self.before(batch, 0), trainer.strategy.root_device, 0), 0)
        progress.increment_ready()
        connector._first_loop_iter = False
        results.batch, results.batch_size, results.dataloader_idx = batch, None, None
        self._call("on_train_batch_start", batch, index)
        progress.increment_started()
        steps.increment_ready()
        outputs = self._optimize(batch, index)
        steps.increment_completed()
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
        outputs: dict[str, Any] = {}
        trainer, module, optimizer = self.trainer, self.module, self.optimizer
        zeroings = self.loop.automatic_optimization.optim_progress.optimizer.zero_grad

        def closure() -> Any:
            with torch.enable_grad():
                self.attributes["_current_fx_name"] = "training_step"
                output = module.training_step(*((batch, index) if self.takes_index else (batch,)))
                self.attributes["_current_fx_name"] = None
                loss = output["loss"] if isinstance(output, Mapping) else output
                zeroings.increment_ready()
                self._call("on_before_zero_grad", optimizer)
                zeroings.increment_started()
                module.optimizer_zero_grad(trainer.current_epoch, index, optimizer)
                zeroings.increment_completed()
                if loss is not None:  # none skips the batch
                    self._call("on_before_backward", loss)
                    module.backward(loss)
                    self._call("on_after_backward")
                    outputs.update(output if isinstance(output, Mapping) else {}, loss=loss.detach())
            self._call("on_before_optimizer_step", optimizer)
            module.configure_gradient_clipping(optimizer, trainer.gradient_clip_val, trainer.gradient_clip_algorithm)
            return loss

        optimizer.step(closure)
        return outputs

    def _written(self, hook: str) -> list[Callable[..., Any]]:
        """What is to be called for a hook: what callbacks do, then what the model does."""
        written: list[Callable[..., Any]] = [
            partial(getattr(callback, hook), self.trainer, self.module)
            for callback in self.trainer.callbacks
            if is_overridden(hook, callback)
        ]
        return [*written, getattr(self.module, hook)] if is_overridden(hook, self.module) else written

    def _call(self, hook: str, *args: Any) -> None:
        for each in self.hooks[hook]:
            self.attributes["_current_fx_name"] = hook  # by which Lightning tells what is logged where
            each(*args)
            self.attributes["_current_fx_name"] = None
