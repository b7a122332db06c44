"""How a training in spawned or forked processes hands its state to the process that started them."""

import multiprocessing
import tempfile
import uuid
import weakref
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer


class Handoff:
    """A file through which the first of several processes sends a state to the process that started them.

    Strategies such as ``ddp_spawn`` train copies of a callback in processes of their own and bring back the weights
    alone. Copies of this object know the same file; the one that was made first removes it.
    """

    def __init__(self) -> None:
        self._path = Path(tempfile.gettempdir(), f"sparse_lightning-{uuid.uuid4().hex}")
        weakref.finalize(self, self._path.unlink, missing_ok=True)

    def send(self, trainer: Trainer, state: dict[str, Any]) -> None:
        """Send a state, if this is the first of several processes that another one has started."""
        started = multiprocessing.parent_process() is not None
        if started and trainer.world_size > 1 and trainer.is_global_zero:
            torch.save(state, self._path)

    def receive(self) -> dict[str, Any] | None:
        """Return the state that was sent, once; None if there is none."""
        if multiprocessing.parent_process() is not None or not self._path.exists():
            return None
        state: dict[str, Any] = torch.load(self._path, weights_only=True)
        self._path.unlink()
        return state
