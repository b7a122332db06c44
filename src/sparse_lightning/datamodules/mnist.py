"""MNISTDataModule: MNIST in memory, from the package itself or from torchvision."""

import gzip
import hashlib
import math
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from sparse_lightning.functional.masks import derived_generator

DATASETS = ("MNIST", "FashionMNIST", "KMNIST", "QMNIST")
PACKAGED = Path(__file__).with_name("mnist_data")
SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
# The mean and deviation that the published experiment normalised MNIST with; the others use their own.
MNIST_MEAN, MNIST_STD = 0.13062755, 0.30810780
EVALUATED = 2000  # images in a batch of evaluation


class MNISTDataModule(LightningDataModule):
    """MNIST or a data set of its shape, whole in memory, in normalised batches of (images, labels).

    Images are float32, (batch, 1, 28, 28), pixels / 255 less the mean over the deviation; labels are int64, (batch,).
    The order of the training images is decided by the seed and the epoch alone, whatever else draws random numbers.
    When training is distributed each rank sees its own images and no other's; of the training images the few that
    would leave the ranks uneven are left out, others in each epoch.

    Args:
        dataset: ``"MNIST"``, ``"FashionMNIST"``, ``"KMNIST"`` or ``"QMNIST"``.
        data_dir: Folder in torchvision's format, downloaded into where it is not there yet; None for the MNIST that
            is packaged with this library.
        batch_size: Images in a training batch, on each rank; evaluation takes at least 2000 at a time, which changes
            no accuracy.
        val_size: 0 validates on the test images, as the published experiment did; otherwise the last so many training
            images are held out for it, and the test images are kept for `test`.
        seed: Seed of the order of the training images.

    Raises:
        ValueError: An argument is out of its range, or the images found are not those of the data set.
        OSError: The images cannot be read, or cannot be downloaded.

    Example::

        Trainer(max_epochs=30).fit(SparseMLP(), MNISTDataModule(batch_size=128))
    """

    def __init__(
        self,
        dataset: str = "MNIST",
        data_dir: str | Path | None = None,
        batch_size: int = 128,
        val_size: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if dataset not in DATASETS:
            raise ValueError(f"Expected dataset to be one of {', '.join(DATASETS)}, got {dataset!r}")
        if data_dir is None and dataset != "MNIST":
            raise ValueError(f"Expected a data_dir for {dataset}, got None: only MNIST is packaged")
        if not (isinstance(batch_size, int) and batch_size >= 1):
            raise ValueError(f"Expected batch_size of at least 1, got {batch_size!r}")
        if not (isinstance(val_size, int) and 0 <= val_size < 60_000):
            raise ValueError(f"Expected val_size in [0, 60000), got {val_size!r}")
        if not isinstance(seed, int):
            raise ValueError(f"Expected seed to be a whole number, got {seed!r}")
        self.dataset = dataset
        self.data_dir = data_dir
        self.batch_size = batch_size
        self.val_size = val_size
        self.seed = seed
        self._parts: dict[str, tuple[Tensor, Tensor]] = {}
        self._scale = MNIST_MEAN, MNIST_STD

    def prepare_data(self) -> None:
        """Download what is missing from `data_dir`."""
        if self.data_dir is not None:
            _torchvision(self.dataset, self.data_dir, train=True, download=True)
            _torchvision(self.dataset, self.data_dir, train=False, download=True)

    def setup(self, stage: str) -> None:
        """Read the images, once."""
        if self._parts:
            return
        (images, labels), (test_images, test_labels) = (self._read(train) for train in (True, False))
        if self.val_size >= len(images):
            raise ValueError(f"Expected val_size below the {len(images)} training images, got {self.val_size}")
        if self.dataset != "MNIST":
            pixels = images.double() / 255
            self._scale = pixels.mean().item(), pixels.std().item()
        test, kept = (test_images, test_labels), len(images) - self.val_size
        held_out = images[kept:], labels[kept:]
        self._parts = {
            "train": (images[:kept], labels[:kept]),
            "val": held_out if self.val_size else test,
            "test": test,
        }

    def digest(self) -> str:
        """SHA-256 of all images and labels, by which runs on other data can be told."""
        if self.dataset == "MNIST":  # each file is checked when it is read
            return hashlib.sha256(" ".join(SHA256.values()).encode()).hexdigest()
        self.prepare_data()
        found = hashlib.sha256()
        for part in (*self._read(train=True), *self._read(train=False)):
            found.update(part.contiguous().numpy().tobytes())
        return found.hexdigest()

    def train_dataloader(self) -> "Batches":
        """The training images in a new order each epoch."""
        return self._batches("train", shuffle=True)

    def val_dataloader(self) -> "Batches":
        """The validation images in order."""
        return self._batches("val")

    def test_dataloader(self) -> "Batches":
        """The test images in order."""
        return self._batches("test")

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Move a batch; Lightning's own way asks much more of what a batch is, and takes longer than a layer."""
        return tuple(part.to(device) for part in batch)

    def _batches(self, part: str, shuffle: bool = False) -> "Batches":
        rank, ranks = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        size, seed = (self.batch_size, self.seed) if shuffle else (max(self.batch_size, EVALUATED), None)
        order = Order(len(self._parts[part][1]), size, seed, rank, ranks)
        return Batches(*self._parts[part], order, self._normalised)

    def _normalised(self, images: Tensor) -> Tensor:
        """A batch as a network takes it; images stay bytes until then, in a quarter of the memory and as fast."""
        mean, std = self._scale
        black = images.new_full((), -mean / std, dtype=torch.float32)
        return torch.add(black, images.unsqueeze(1), alpha=1 / (255 * std))  # in one pass

    def _read(self, train: bool) -> tuple[Tensor, Tensor]:
        """Images, uint8, (count, 28, 28), and labels, int64, (count,)."""
        if self.data_dir is not None:
            return _torchvision(self.dataset, self.data_dir, train)
        prefix = "train" if train else "t10k"
        images, labels = (_packaged(f"{prefix}-{what}-ubyte") for what in ("images-idx3", "labels-idx1"))
        return images, labels.long()


class Order:
    """The order in which one rank takes samples: index tensors, one a batch; shuffled by (seed, epoch) or as they lie.

    Lightning sets the epoch, as it does of any sampler.

    Args:
        count: Samples in all.
        batch_size: Samples in a batch.
        seed: Decides the order with the epoch; None takes the samples as they lie.
        rank: This rank; it takes every `ranks`-th sample of the order.
        ranks: How many ranks there are.

    >>> [batch.tolist() for batch in Order(5, batch_size=2)]
    [[0, 1], [2, 3], [4]]
    """

    def __init__(self, count: int, batch_size: int, seed: int | None = None, rank: int = 0, ranks: int = 1) -> None:
        self.count, self.batch_size, self.seed, self.rank, self.ranks = count, batch_size, seed, rank, ranks
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Take the order of this epoch from the next iteration on."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Batches in an epoch, the same on every rank."""
        share = self.count // self.ranks if self.seed is not None else math.ceil(self.count / self.ranks)
        return math.ceil(share / self.batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        """The batches of the epoch; a rank that has run out of samples to evaluate ends on an empty one."""
        if self.seed is None:
            own = torch.arange(self.rank, self.count, self.ranks)
        else:
            order = torch.randperm(self.count, generator=derived_generator(self.seed, "order", self.epoch))
            own = order[self.rank :: self.ranks][: self.count // self.ranks]
        batches = torch.split(own, self.batch_size)
        return iter(batches + (own[:0],) * (len(self) - len(batches)))


class Batches:
    """A loader of tensors in memory: what a DataLoader does, without its cost for each sample.

    It can be saved in the middle of an epoch and continued.

    Args:
        images: All images, (count, ...).
        labels: All labels, (count,).
        order: Says which samples make each batch.
        prepare: What is made of the images of a batch; None leaves them as they are.
    """

    batch_sampler = None  # Lightning looks for one beside `sampler`

    def __init__(
        self, images: Tensor, labels: Tensor, order: Order, prepare: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        self.images, self.labels, self.sampler, self.prepare = images, labels, order, prepare
        self._done = 0
        self._skip = 0

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self.sampler)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of an epoch, from where the loaded state stopped."""
        skip, self._skip = self._skip, 0
        for number, batch in enumerate(self.sampler):
            if number >= skip:
                self._done = number + 1
                images = self.images.index_select(0, batch)
                yield self.prepare(images) if self.prepare else images, self.labels.index_select(0, batch)

    def state_dict(self) -> dict[str, Any]:
        """How many batches of the epoch were given."""
        return {"done": self._done}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Begin the next iteration after the batches that were given."""
        self._skip = state["done"] % len(self)


def _packaged(name: str) -> Tensor:
    path, content = PACKAGED / f"{name}.gz", bytearray()
    try:
        with gzip.open(path) as file:
            while chunk := file.read(2**20):  # by pieces: at once it would be in memory three times
                content += chunk
    except (EOFError, OSError, zlib.error) as error:
        raise OSError(f"Expected to read MNIST from {path}, got: {error}. Reinstall the package.") from error
    _check(content, name, path)
    return _idx(content)


def _idx(content: bytearray) -> Tensor:
    """The tensor in an IDX file of bytes: its fourth byte counts the dimensions, big-endian sizes follow, then data."""
    dims = content[3]
    sizes = [int.from_bytes(content[4 + 4 * dim : 8 + 4 * dim]) for dim in range(dims)]
    return torch.frombuffer(content, dtype=torch.uint8, offset=4 + 4 * dims).view(sizes)


def _check(content: bytes | bytearray, name: str, path: Path) -> None:
    found = hashlib.sha256(content).hexdigest()
    if found != SHA256[name]:
        raise ValueError(f"Expected MNIST with SHA-256 {SHA256[name]} in {path}, got {found}: the file is damaged")


def _torchvision(dataset: str, data_dir: str | Path, train: bool, download: bool = False) -> tuple[Tensor, Tensor]:
    """Images, uint8, (count, 28, 28), and labels, int64, (count,), from a folder in torchvision's format."""
    from torchvision import datasets  # slow to import, and not needed for the packaged MNIST

    for name in SHA256 if dataset == "MNIST" else ():  # before torchvision stumbles over it
        path = Path(data_dir, "MNIST", "raw", name)
        if path.exists():
            _check(path.read_bytes(), name, path)
    try:
        found = getattr(datasets, dataset)(data_dir, train=train, download=download)
    except Exception as error:  # torchvision raises whatever its readers or the network do
        reason = " ... ".join(dict.fromkeys((str(error).strip().splitlines() or [""])[index] for index in (0, -1)))
        raise OSError(f"Expected {dataset} in {data_dir}, or to download it there, got: {reason}") from error
    images, labels = found.data, found.targets
    labels = labels[:, 0] if labels.dim() == 2 else labels  # QMNIST says much more of each digit
    if images.shape != (len(labels), 28, 28):
        raise ValueError(
            f"Expected {dataset} in {data_dir} with as many images as labels, got {len(images)} images "
            f"of {list(images.shape[1:])} and {len(labels)} labels"
        )
    return images, labels.long()
