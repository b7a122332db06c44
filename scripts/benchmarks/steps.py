"""Training steps on connections alone, against dense ones, masked ones and SparseLab's, by density and batch size."""

import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from benchmarks.measuring import Row, milliseconds, quiet_trainer
from benchmarks.processes import train
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from sparse_lightning import SET, PruneRegrow, SparseLinear, StaticSparse, to_csr
from sparse_lightning.nn.sparse_linear import store_by_feature
from sparse_lightning.study.train.record import read_metrics

DENSITIES = (0.01, 0.05, 0.1, 0.2)
SIZES = (784, 1568, 1568, 1568)


def step_rows(rounds: int, threads: int, batches: Sequence[int] = (32, 128)) -> list[Row]:
    """Whole steps of 784-1568-1568-1568-10, the last layer dense, and one rewiring of its layers."""
    rows = []
    for batch in batches:
        where = f"{threads} thread{'s'[: threads > 1]}, batch {batch}"
        step = partial(_steps, batch=batch, threads=threads)
        base = Row("step", f"dense, {where}", partial(step, build=dense), rounds)
        rows += [base, Row("step", f"masked, {where}", partial(step, build=dense, density=0.01), rounds, (base,))]
        for density in DENSITIES:
            csr = Row(
                "step", f"csr {density:.0%}, {where}", partial(step, build=sparse, density=density), rounds, (base,)
            )
            rows.append(csr)
            if _sparselab() is not None:
                name = f"SparseLab {density:.0%}, {where}"
                rows.append(Row("step", name, partial(step, build=sparselab, density=density), rounds, (csr,)))
            if batch == max(batches):
                rewiring = partial(_rewiring, batch=batch, threads=threads, density=density)
                rows.append(Row("step", f"rewiring, csr {density:.0%}, {where}", rewiring, rounds, (csr,)))
    return rows


def inference_rows(rounds: int, batches: Sequence[int] = (1, 128)) -> list[Row]:
    """The forward pass of 784-1568-1568-1568-10, on one thread, dense and after to_csr."""
    rows = []
    for batch in batches:
        for density in DENSITIES:
            pass_ = partial(_inference, batch=batch, density=density)
            base = Row("inference", f"dense, {density:.0%} nonzero, batch {batch}", pass_, rounds)
            csr = partial(pass_, convert=partial(to_csr, max_density=0.5))
            rows += [base, Row("inference", f"to_csr, {density:.0%} nonzero, batch {batch}", csr, rounds, (base,))]
    return rows


def trainer_rows(rounds: int) -> list[Row]:
    """What Lightning adds to a step on connections, in a loop by hand and in a Trainer."""
    base = Row("trainer", "by hand, csr 1%, batch 128", partial(_steps, build=sparse, density=0.01, batch=128), rounds)
    return [base, Row("trainer", "Trainer, csr 1%, batch 128", _trainer_steps, rounds, (base,))]


def train_rows(rounds: int) -> list[Row]:
    """The second epoch of scripts/train.py on three layers of 1568 units at 1%, masked and on connections."""

    def epoch(seed: int, folder: Path, layout: str) -> dict[str, float]:
        home = Path(tempfile.mkdtemp(dir=folder)) / "run"
        overrides = ["sparsity=set", "sparsity.density=0.01", "sparsity.initialization=fan_in", f"seed={seed}"]
        overrides += ["model.hidden_sizes=[1568,1568,1568]", "model.batch_norm=false", "trainer.max_epochs=2"]
        train(home, *overrides, f"sparsity.layout={layout}")
        last = read_metrics(home)[-1]
        return {"seconds per epoch": float(last["epoch_time"]), "val_acc": float(last["val_acc"])}

    base = Row("train.py", "masked", partial(epoch, layout="masked"), rounds)
    return [base, Row("train.py", "csr", partial(epoch, layout="csr"), rounds, (base,))]


# The networks.


def dense(density: float) -> nn.Sequential:
    """Linear layers."""
    return _network(nn.Linear)


def sparse(density: float) -> nn.Sequential:
    """This library's layers."""
    network = _network(partial(SparseLinear, density=density))
    store_by_feature(network)
    return network


@cache  # SparseLab confuses layers with those of networks that are gone: none may go
def sparselab(density: float) -> nn.Sequential:
    """SparseLab's layers."""
    library = _sparselab()
    return _network(lambda inputs, outputs: library.SparseLinear(inputs, outputs, sparsity=1 - density))


def _sparselab() -> Any:
    try:
        import sparselab as library
    except ImportError:
        return None
    return library


def _network(layer: Callable[[int, int], nn.Module]) -> nn.Sequential:
    hidden = [each for sizes in pairwise(SIZES) for each in (layer(*sizes), nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(SIZES[-1], 10))


# The measurements.


def _steps(
    seed: int,
    folder: Path,
    *,
    build: Callable[[float], nn.Sequential],
    batch: int,
    density: float = 1.0,
    threads: int = 1,
) -> dict[str, float]:
    """The median of some steps, and the memory of weights, gradients, indices and momentum."""
    network, step, optimizer = _training(build, batch, density, threads, seed)
    took = statistics.median(milliseconds(step) for _ in range(15))
    tensors = [*network.state_dict(keep_vars=True).values(), *(b for b in network.buffers())]
    tensors += [weight.grad for weight in network.parameters() if weight.grad is not None]
    tensors += [each for state in optimizer.state.values() for each in state.values() if isinstance(each, Tensor)]
    held = {tensor.data_ptr(): tensor.nbytes for tensor in tensors}
    torch.set_num_threads(1)
    return {"milliseconds": took, "MiB": sum(held.values()) / 2**20}


def _inference(
    seed: int,
    folder: Path,
    *,
    batch: int,
    density: float,
    convert: Callable[[nn.Sequential], nn.Sequential] = nn.Sequential.eval,
) -> dict[str, float]:
    """The median of some forward passes."""
    torch.manual_seed(seed)
    network = dense(density)
    masked = StaticSparse(density, distribution="uniform", exclude=str(2 * len(SIZES) - 2), initialization="fan_in")
    masked.sparsify(network)
    network, images = convert(network), torch.randn(batch, SIZES[0])
    with torch.inference_mode():
        for _ in range(3):
            network(images)
        return {"milliseconds": statistics.median(milliseconds(lambda: network(images)) for _ in range(15))}


def _training(
    build: Callable[[float], nn.Sequential], batch: int, density: float, threads: int, seed: int
) -> tuple[nn.Sequential, Callable[[], None], torch.optim.Optimizer]:
    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    network = build(density)
    images, labels = torch.randn(batch, SIZES[0]), torch.randint(10, (batch,))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4, fused=True)
    masks = []
    if build is dense and density < 1:
        callback = StaticSparse(density=density, distribution="uniform", exclude=str(2 * len(SIZES) - 2))
        callback.sparsify(network)
        masks = [(network.get_parameter(name), mask.float()) for name, mask in callback.masks.items()]

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(network(images), labels).backward()
        optimizer.step()
        with torch.no_grad():
            for weight, mask in masks:
                weight.mul_(mask)

    for _ in range(3):
        step()
    return network, step, optimizer


def _rewiring(seed: int, folder: Path, *, batch: int, threads: int, density: float) -> dict[str, float]:
    """SET's rewiring of all layers with the optimizer's state, through the callback."""
    network, step, optimizer = _training(sparse, batch, density, threads, seed)
    callback = SET(density=density, include=[str(number) for number in range(0, 2 * len(SIZES) - 2, 2)])
    callback.sparsify(network)
    times = []
    for _ in range(3):
        times.append(milliseconds(lambda: callback.rewire([optimizer])))
        step()
    torch.set_num_threads(1)
    return {"milliseconds": statistics.median(times)}


class _Module(LightningModule):
    """The sparse network on one batch of noise."""

    def __init__(self) -> None:
        super().__init__()
        self.network = sparse(0.01)

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        return F.cross_entropy(self.network(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4, fused=True)


def _trainer_steps(seed: int, folder: Path) -> dict[str, float]:
    torch.manual_seed(seed)
    batches = [(torch.randn(128, SIZES[0]), torch.randint(10, (128,)))] * 200
    trainer = quiet_trainer(1, PruneRegrow(density=0.01, exclude="network.6"))
    return {
        "milliseconds": milliseconds(lambda: trainer.fit(_Module(), DataLoader(batches, batch_size=None)))
        / len(batches)
    }


def figure(records: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw time and memory of a step against density, as a picture."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator

    plt.switch_backend("agg")
    steps = {record["name"]: record for record in records if record["part"] == "step"}
    panels = [(batch, "milliseconds") for batch in (32, 128)] + [(128, "MiB")]
    picture, every = plt.subplots(1, len(panels), figsize=(10, 3.4), layout="constrained")
    colours = {"csr": "#0072b2", "SparseLab": "#d55e00"}
    for axes, (batch, unit) in zip(every, panels, strict=True):
        where = f", 1 thread, batch {batch}"
        axes.axhline(steps[f"dense{where}"][unit]["median"], color="#777777", linestyle="--", label="dense")
        for kind, colour in colours.items():
            if unit == "MiB" and kind == "SparseLab":
                continue  # it keeps its indices where they are not counted
            found = {density: steps.get(f"{kind} {density:.0%}{where}") for density in DENSITIES}
            points = {density: record[unit] for density, record in found.items() if record}
            if points:
                middle, low, high = ([each[end] for each in points.values()] for end in ("median", "min", "max"))
                axes.plot(list(points), middle, "o-", color=colour, label=kind)
                axes.fill_between(list(points), low, high, color=colour, alpha=0.2)
        ticks = {"xticks": DENSITIES, "xticklabels": [f"{density:.0%}" for density in DENSITIES]}
        title = f"a step, batch {batch}" if unit == "milliseconds" else "what a step holds"
        axes.set(xscale="log", yscale="log", xlabel="density", ylabel=unit, title=title, **ticks)
        axes.yaxis.set(major_locator=LogLocator(subs=(1, 2, 5)), major_formatter="{x:g}")
        axes.minorticks_off()
        axes.spines[["top", "right"]].set_visible(False)
    every[0].legend(frameon=False)
    picture.savefig(path, dpi=150)
