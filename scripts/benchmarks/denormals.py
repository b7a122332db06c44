"""A masked step whose optimizer holds denormal numbers: what the momentum of dead units' inactive weights decays to."""

import statistics
from functools import partial
from pathlib import Path

import torch
from benchmarks.measuring import Row, milliseconds
from torch import nn

WIDTH, BATCH, DENSITY, DEAD = 1568, 32, 0.2, 0.3
DENORMAL = 1e-42


def denormal_rows(rounds: int) -> list[Row]:
    """A step without denormal numbers, with them, and with them flushed to zero."""
    where = f"{WIDTH} x {WIDTH}, batch {BATCH}"
    base = Row("denormals", f"no dead units, {where}", partial(_step, dead=0.0, flush=False), rounds)
    named = f"{DEAD:.0%} dead units"
    rows = [
        Row("denormals", name, partial(_step, dead=DEAD, flush=flush), rounds, (base,))
        for name, flush in ((f"{named}, as it is", False), (f"{named}, flushed to zero", True))
    ]
    return [base, *rows]


def _step(seed: int, folder: Path, *, dead: float, flush: bool) -> dict[str, float]:
    """Forward, backward for input and weight, optimizer and mask; the median of some."""
    torch.manual_seed(seed)
    layer = nn.Linear(WIDTH, WIDTH)
    mask = torch.rand(WIDTH, WIDTH) < DENSITY
    layer.weight.data.mul_(mask)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4, fused=True)
    inputs, gradient = torch.randn(BATCH, WIDTH, requires_grad=True), torch.randn(BATCH, WIDTH)
    silent = round(dead * WIDTH)
    gradient[:, :silent] = 0  # units that are never active get no gradient

    def step() -> None:
        optimizer.zero_grad()
        layer(inputs).backward(gradient)
        optimizer.step()
        layer.weight.data.mul_(mask)

    for _ in range(5):
        step()
    momentum = optimizer.state[layer.weight]["momentum_buffer"]
    momentum[:silent] = torch.where(mask[:silent], momentum[:silent], DENORMAL)
    torch.set_flush_denormal(flush)
    try:
        return {"milliseconds": statistics.median(milliseconds(step) for _ in range(25))}
    finally:
        torch.set_flush_denormal(False)
