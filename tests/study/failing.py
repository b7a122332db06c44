"""Models that fail in their second epoch, for runs that must not take others with them."""

import os
import signal

from sparse_lightning import SparseMLP


class Failing(SparseMLP):
    """Seed 1 raises, seed 2 is killed, the others train."""

    def on_train_epoch_start(self) -> None:
        if self.current_epoch == 1 and self.hparams.seed == 1:
            raise RuntimeError("no luck in epoch 1")
        if self.current_epoch == 1 and self.hparams.seed == 2:
            os.kill(os.getpid(), signal.SIGKILL)
