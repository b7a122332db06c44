"""A training step with Hebbian growth against one with random growth, on networks of positions and tokens."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from benchmarks.measuring import Row, milliseconds
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import VisionTransformer, resnet18

from sparse_lightning import HebbianGrowth, PruneRegrow, RandomGrowth

STEPS = 20  # a multiple of the batches that are counted in turn


def coactivation_rows(rounds: int) -> list[Row]:
    """Steps with random growth, with Hebbian growth as it is by default, and with every batch counted."""
    rows = []
    for name, (build, images) in NETWORKS.items():
        base = Row("coactivation", f"{name}, random", _steps(build, images, RandomGrowth), rounds)
        ways = {"hebbian": HebbianGrowth, "hebbian, every batch": lambda: HebbianGrowth(every_n_batches=1)}
        rows += [base]
        rows += [
            Row("coactivation", f"{name}, {way}", _steps(build, images, growth), rounds, (base,))
            for way, growth in ways.items()
        ]
    return rows


def _lenet() -> nn.Module:
    features = nn.Sequential(nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU())
    head = nn.Sequential(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 10))
    return nn.Sequential(features, head)


def _vit() -> nn.Module:
    return VisionTransformer(32, 4, num_layers=4, num_heads=4, hidden_dim=128, mlp_dim=512, num_classes=10)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "LeNet-5, 128 of 28x28": (_lenet, (128, 1, 28, 28)),
    "ResNet-18, 32 of 32x32": (lambda: resnet18(num_classes=10), (32, 3, 32, 32)),
    "small ViT, 32 of 32x32": (_vit, (32, 3, 32, 32)),
}


def _steps(
    build: Callable[[], nn.Module], images: tuple[int, ...], growth: Callable[[], Any]
) -> Callable[[int, Path], dict[str, float]]:
    def measure(seed: int, folder: Path) -> dict[str, float]:
        torch.manual_seed(seed)
        network, callback = build(), PruneRegrow(density=0.2, growth=growth())
        optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
        callback.sparsify(network, [optimizer])
        training = callback._training
        training.statistics.attach(network, list(callback.masks), [optimizer])
        inputs, targets = torch.randn(images), torch.randint(10, images[:1])
        times = list(_timed(network, optimizer, training, inputs, targets))
        training.detach()
        return {"milliseconds a step": sum(times) / len(times)}

    return measure


def _timed(
    network: nn.Module, optimizer: torch.optim.Optimizer, training: Any, inputs: Tensor, targets: Tensor
) -> Iterator[float]:
    """The milliseconds of each step but the first ones, which find out where activity is read."""

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(network(inputs), targets).backward()
        optimizer.step()
        training.topology.masks.enforce()
        training.statistics.count()

    for _ in range(5):
        step()
    for _ in range(STEPS):
        yield milliseconds(step)
