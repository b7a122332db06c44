"""A training step of one layer, dense with a mask and on its connections: what ``layout="auto"`` goes by."""

import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from benchmarks.measuring import Row, milliseconds
from torch import Tensor, nn

from sparse_lightning import SparseLinear

WIDTHS = (64, 128, 256, 512, 1024, 2048)
BATCHES = (32, 128, 512)
DENSITIES = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3)


def layer_rows(rounds: int) -> list[Row]:
    """For each width and batch size the dense layer, and the sparse one at each density."""
    rows = []
    for width in WIDTHS:
        for batch in BATCHES:
            where = f"{width} x {width}, batch {batch}"
            base = Row("layer", f"masked, {where}", partial(_steps, build=_Masked, width=width, batch=batch), rounds)
            rows.append(base)
            for density in DENSITIES:
                build = partial(SparseLinear, density=density)
                csr = partial(_steps, build=build, width=width, batch=batch)
                rows.append(Row("layer", f"csr {density:.0%}, {where}", csr, rounds, (base,)))
    return rows


class _Masked(nn.Linear):
    """A Linear whose mask is enforced after each step."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.mask = torch.ones_like(self.weight)

    @torch.no_grad()
    def enforce(self) -> None:
        self.weight.mul_(self.mask)


def _steps(
    seed: int, folder: Path, *, build: Callable[[int, int], nn.Module], width: int, batch: int
) -> dict[str, float]:
    """Forward, backward for input and weight, optimizer and mask; the median of some."""
    torch.manual_seed(seed)
    layer = build(width, width)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4, fused=True)
    inputs = torch.randn(batch, width, requires_grad=True)
    gradient = torch.randn(batch, width)
    network = nn.Sequential(layer, nn.ReLU())

    def step() -> None:
        optimizer.zero_grad()
        output: Tensor = network(inputs)
        output.backward(gradient)
        optimizer.step()
        if isinstance(layer, _Masked):
            layer.enforce()

    for _ in range(5):
        step()
    return {"milliseconds": statistics.median(milliseconds(step) for _ in range(25))}
