"""SparseCNN, a small convolutional network for images, trained as SparseMLP is."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from sparse_lightning.functional.checks import expect, is_integer
from sparse_lightning.models.mlp import build_mlp
from sparse_lightning.models.optimization import OptimizerName, ScheduleName
from sparse_lightning.models.sparse_mlp import SparseMLP


class SparseCNN(SparseMLP):
    """A convolutional network for classification that trains sparse: LeNet-5 (LeCun et al. 1998) with ReLU by default.

    For each number of channels there is a convolution of 5 x 5 with padding 2, ReLU and max pooling by 2, and for each
    hidden size a Linear and ReLU; the output layer is Linear. With `batch_norm` each of them is normalised before its
    ReLU. The layers are named ``network.conv1`` ... ``network.linear1`` ... ``network.output``. All else is as in
    :class:`~sparse_lightning.SparseMLP`.

    Args:
        image_size: Height and width of the images.
        image_channels: Channels of the images.
        num_classes: Number of classes.
        channels: Channels of each convolution.
        hidden_sizes: Units of each hidden layer after them.
        batch_norm: Whether to normalise each hidden layer before its activation.
        dropout: Fraction of hidden units dropped in training, in [0, 1).
        density: Fraction of connections that are active, in (0, 1]; or by layer name.
        prune_fraction: Fraction of the active connections replaced between epochs, in [0, 1); or by layer name.
        hebbian_grow: True grows by Hebbian coactivation, False at random, None never changes the topology.
        optimizer: ``"SGD"``, ``"Adam"`` or ``"AdamW"``.
        learning_rate: Initial learning rate, above 0.
        momentum: SGD: momentum, in [0, 1).
        weight_decay: Weight decay, at least 0.
        lr_schedule: ``"multistep"``, ``"cosine"``, ``"linear"`` or ``"constant"``.
        seed: Seed of masks and rewirings.

    Raises:
        ValueError: An argument is out of its range.

    Example::

        Trainer(max_epochs=3).fit(SparseCNN(hebbian_grow=None), MNISTDataModule())
    """

    def __init__(
        self,
        image_size: int = 28,
        image_channels: int = 1,
        num_classes: int = 10,
        *,
        channels: Sequence[int] = (6, 16),
        hidden_sizes: Sequence[int] = (120, 84),
        batch_norm: bool = False,
        dropout: float = 0.0,
        density: float | Mapping[str, float] = 0.2,
        prune_fraction: float | Mapping[str, float] = 0.3,
        hebbian_grow: bool | None = True,
        optimizer: OptimizerName = "SGD",
        learning_rate: float = 0.05,
        momentum: float = 0.9,
        weight_decay: float = 1e-4,
        lr_schedule: ScheduleName = "cosine",
        seed: int = 0,
    ) -> None:
        for name, value in (("image_size", image_size), ("image_channels", image_channels)):
            expect(is_integer(value, 1), f"{name} to be an integer of at least 1", value)
        valid = all(is_integer(each, 1) for each in channels)
        expect(valid, "channels to be integers of at least 1", list(channels))
        expect(image_size >> len(channels) > 0, f"images that can be halved {len(channels)} times", image_size)
        super().__init__(
            image_channels * image_size**2,
            num_classes,
            hidden_sizes=hidden_sizes,
            batch_norm=batch_norm,
            dropout=dropout,
            density=density,
            prune_fraction=prune_fraction,
            hebbian_grow=hebbian_grow,
            optimizer=optimizer,
            learning_rate=learning_rate,
            momentum=momentum,
            weight_decay=weight_decay,
            lr_schedule=lr_schedule,
            seed=seed,
        )

    def build_network(self) -> nn.Sequential:
        """Return the layers."""
        of: Any = self.hparams
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        before, size = of["image_channels"], of["image_size"]
        for number, channels in enumerate(of["channels"], start=1):
            layers[f"conv{number}"] = nn.Conv2d(before, channels, 5, padding=2)
            if of["batch_norm"]:
                layers[f"conv_norm{number}"] = nn.BatchNorm2d(channels)
            layers[f"conv_relu{number}"] = nn.ReLU()
            layers[f"pool{number}"] = nn.MaxPool2d(2)
            before, size = channels, size // 2
        layers["flatten"] = nn.Flatten()
        head = build_mlp(
            before * size**2, of["num_classes"], of["hidden_sizes"], batch_norm=of["batch_norm"], dropout=of["dropout"]
        )
        return nn.Sequential(layers | OrderedDict(head.named_children()))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, (batch, num_classes), of images, (batch, image_channels, image_size, image_size)."""
        sizes = self.hparams["image_channels"], self.hparams["image_size"], self.hparams["image_size"]
        logits: Tensor = self.network(images.reshape(-1, *sizes))
        return logits
