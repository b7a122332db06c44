"""Lightning's hooks of PruneRegrow: each asks whether something is due and calls a part for it."""

from abc import ABC, abstractmethod
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.hooks import RemovableHandle

from sparse_lightning.callbacks import compatibility
from sparse_lightning.callbacks.layout import adapt_state
from sparse_lightning.callbacks.sparse_training import SparseTraining
from sparse_lightning.callbacks.summary import topology_metrics


class SparseTrainingHooks(Callback, ABC):
    """Drives a :class:`~sparse_lightning.callbacks.sparse_training.SparseTraining` by a Trainer."""

    log_topology: bool
    _training: SparseTraining
    _adapting: RemovableHandle | None = None

    @abstractmethod
    def should_rewire(self, trainer: Trainer, pl_module: LightningModule) -> bool:
        """Return whether to rewire now."""

    @property
    @abstractmethod
    def _moves(self) -> bool:
        """Whether the topology ever moves."""

    @property
    @abstractmethod
    def _asks_the_clock(self) -> bool:
        """Whether the clock alone decides when to rewire."""

    @abstractmethod
    def _settings(self) -> dict[str, str]:
        """What a resumed run has to share with the one before, in words."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse strategies that shard weights, store weights as `layout` says, and load checkpoints of any layout."""
        compatibility.refuse_sharding(trainer)
        self._stop_adapting()
        self._adapting = pl_module.register_load_state_dict_pre_hook(adapt_state)  # type: ignore[no-untyped-call]
        if stage == "fit":
            self._training.store(trainer, pl_module)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the model sparse, once every layer is built and every checkpoint loaded."""
        chosen = [each._training.topology.choose(pl_module, trainer.optimizers).counts for each in all_of(trainer)]
        compatibility.refuse_shared_weights(chosen)
        if self._moves:
            self._training.refuse_endless(trainer)
        self._training.begin(trainer, pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Attach to optimizers and statistics."""
        self._training.attach(trainer, pl_module)
        if self._moves and self._asks_the_clock:
            self._training.warn_if_never_due(trainer, type(self).__name__)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Rewire where an epoch, or a step, has ended and another begins."""
        # Not in on_train_epoch_start, which Lightning leaves out when it resumes from the last batch of an epoch.
        self._training.before_batch(batch, batch_idx, lambda: self.should_rewire(trainer, pl_module))

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """Let the statistics take in the batch, and check what was changed after the optimizer's step."""
        self._training.after_batch()

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Check the weights before they are validated: here, past all that others do when a validation starts."""
        if batch_idx == dataloader_idx == 0:
            self._training.check()

    def on_validation_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """Let the statistics take in the batch, if they count validation."""
        self._training.statistics.count()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log each layer's density and grown connections; the first of several callbacks logs for all."""
        every = [each for each in all_of(trainer) if each.log_topology]
        if every and every[0] is self:
            found = [(each._training.topology.masks.sizes, each._training.rewirings.grown) for each in every]
            # With a size, which a training step that takes the loader itself does not give.
            pl_module.log_dict(topology_metrics(found), sync_dist=trainer.world_size > 1, batch_size=1)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Check the weights that are about to be saved."""
        self._training.check()

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint that another method or another selection has written."""
        states, present = checkpoint["callbacks"], {each.state_key for each in all_of(trainer)}
        if self.state_key not in states:
            unclaimed = {key: states[key] for key in states if key not in present}
            if state := compatibility.same_method(self._settings(), unclaimed):
                self.load_state_dict(state)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the weights, and detach."""
        self._training.end()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check once more what others have done at the end of a training."""
        self._stop_adapting()
        if stage == "fit":
            self._training.check_end(pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave no hook behind."""
        self._stop_adapting()
        self._training.detach()

    def _stop_adapting(self) -> None:
        if self._adapting is not None:
            self._adapting.remove()
            self._adapting = None

    def enforce(self) -> None:
        """Zero the inactive weights, after something other than an optimizer's step has changed them."""
        self._training.topology.masks.enforce()

    # State: a resumed run equals, to the bit, one that was never interrupted.

    def state_dict(self) -> dict[str, Any]:
        """Return masks, statistics, counters and settings; a collective operation when training is distributed."""
        return self._training.state_dict() | {"settings": self._settings()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a checkpoint.

        Raises:
            ValueError: Its weights have other names or shapes than the model's, or its settings are others.
        """
        compatibility.refuse_changed_settings(self._settings(), state_dict["settings"])
        self._training.load_state_dict(state_dict)


def all_of(trainer: Trainer) -> list[SparseTrainingHooks]:
    """Return all PruneRegrow callbacks of a Trainer."""
    return [callback for callback in trainer.callbacks if isinstance(callback, SparseTrainingHooks)]  # type: ignore[attr-defined]
