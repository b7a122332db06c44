"""MNISTDataModule: MNIST in memory, from the package itself or from torchvision."""

import gzip
import hashlib
import zlib
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from sparse_lightning.callbacks.arguments import build_repr
from sparse_lightning.datamodules.in_memory import Batches, Order
from sparse_lightning.functional.checks import expect, expect_one_of, is_integer

DatasetName = Literal["MNIST", "FashionMNIST", "KMNIST", "QMNIST"]
PACKAGED = Path(__file__).with_name("mnist_data")
SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
# The published experiment normalised MNIST with these; the other data sets are normalised with their own.
MNIST_MEAN, MNIST_STD = 0.13062755, 0.30810780
EVALUATION_BATCH_SIZE = 2000


class MNISTDataModule(LightningDataModule):
    """MNIST, or a data set of its shape, in memory, in normalised batches of (images, labels).

    Images are float32, (batch, 1, 28, 28): pixels / 255, minus the mean, over the standard deviation. Labels are int64,
    (batch,). The order of the training images depends on the seed and the epoch alone, not on PyTorch's random state.
    In distributed training each rank has images of its own. The few training images that would make the ranks uneven
    are left out, different ones in each epoch.

    Args:
        dataset: ``"MNIST"``, ``"FashionMNIST"``, ``"KMNIST"`` or ``"QMNIST"``.
        data_dir: Folder in torchvision's format, into which missing files are downloaded; None for the MNIST that this
            library contains. The other data sets need a folder.
        batch_size: Images in a training batch, on each rank. Evaluation takes at least 2000 at a time, which changes
            no metric.
        val_size: 0 validates on the test images, as the published experiment did. Otherwise so many images, the last
            ones of the training set, are held out for validation, and the test images are used by `test` alone.
        seed: Seed of the order of the training images.

    Attributes:
        batches_per_step: 1. With more, the training loader yields lists of up to so many batches, for a model that
            takes an optimizer step for each batch of a list, as :class:`~sparse_lightning.SparseMLP` does without
            automatic optimization.

    Raises:
        ValueError: An argument is out of its range, or the images are not those of the data set.
        OSError: The images cannot be read, or cannot be downloaded.

    Example::

        Trainer(max_epochs=30).fit(SparseMLP(), MNISTDataModule(batch_size=128))
    """

    def __init__(
        self,
        dataset: DatasetName = "MNIST",
        *,
        data_dir: str | Path | None = None,
        batch_size: int = 128,
        val_size: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        names = get_args(DatasetName)
        expect_one_of("dataset", dataset, names)
        needs_folder = data_dir is None and dataset != "MNIST"
        expect(not needs_folder, f"a data_dir for {dataset}", data_dir, "only MNIST is in the package")
        expect(is_integer(batch_size, 1), "batch_size of at least 1", batch_size)
        expect(is_integer(val_size, 0) and val_size < 60_000, "val_size in [0, 60000)", val_size)
        expect(is_integer(seed), "seed to be an integer", seed)
        self.dataset = dataset
        self.data_dir = data_dir
        self.batch_size, self.val_size, self.seed = int(batch_size), int(val_size), int(seed)
        self.batches_per_step = 1
        self._splits: dict[str, tuple[Tensor, Tensor]] = {}
        self._mean, self._std = MNIST_MEAN, MNIST_STD

    def prepare_data(self) -> None:
        """Download what is missing in `data_dir`."""
        if self.data_dir is not None:
            _torchvision(self.dataset, self.data_dir, train=True, download=True)
            _torchvision(self.dataset, self.data_dir, train=False, download=True)

    def setup(self, stage: str) -> None:
        """Read the images, once."""
        if self._splits:
            return
        (images, labels), test = self._read(train=True), self._read(train=False)
        size = len(images)
        expect(self.val_size < size, f"val_size below the number of training images, {size}", self.val_size)
        if self.dataset != "MNIST":
            pixels = images.double() / 255
            self._mean, self._std = pixels.mean().item(), pixels.std().item()
        kept = size - self.val_size
        held_out = images[kept:], labels[kept:]
        self._splits = {
            "train": (images[:kept], labels[:kept]),
            "val": held_out if self.val_size else test,
            "test": test,
        }

    def digest(self) -> str:
        """Return the SHA-256 of all images and labels, by which runs on different data can be distinguished."""
        if self.dataset == "MNIST":  # each file is checked when it is read
            return hashlib.sha256(" ".join(SHA256.values()).encode()).hexdigest()
        self.prepare_data()
        digest = hashlib.sha256()
        for tensor in (*self._read(train=True), *self._read(train=False)):
            digest.update(tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()

    def train_dataloader(self) -> Batches:
        """Return a loader of the training images, in a new order each epoch."""
        order = self._order("train", self.batch_size, self.seed)
        return Batches(*self._splits["train"], order, prepare=self._normalise, batches_per_step=self.batches_per_step)

    def val_dataloader(self) -> Batches:
        """Return a loader of the validation images, in sequence."""
        return self._evaluation_batches("val")

    def test_dataloader(self) -> Batches:
        """Return a loader of the test images, in sequence."""
        return self._evaluation_batches("test")

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Move a batch, or a list of batches, to a device."""
        # Lightning's own way takes longer than a layer, since it accepts any collection.
        if isinstance(batch, list):
            return [self.transfer_batch_to_device(each, device, dataloader_idx) for each in batch]
        return tuple(tensor.to(device) for tensor in batch)

    def __repr__(self) -> str:
        """Return the expression that builds this data module."""
        return build_repr(self, {})

    def _evaluation_batches(self, split: str) -> Batches:
        order = self._order(split, max(self.batch_size, EVALUATION_BATCH_SIZE), None)
        return Batches(*self._splits[split], order, prepare=self._normalise)

    def _order(self, split: str, batch_size: int, seed: int | None) -> Order:
        rank, ranks = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        return Order(len(self._splits[split][1]), batch_size, seed=seed, rank=rank, ranks=ranks)

    def _normalise(self, images: Tensor) -> Tensor:
        """Return images as a network takes them; until then they are bytes, a quarter of the memory."""
        black = images.new_full((), -self._mean / self._std, dtype=torch.float32)
        return torch.add(black, images.unsqueeze(1), alpha=1 / (255 * self._std))  # in one pass

    def _read(self, *, train: bool) -> tuple[Tensor, Tensor]:
        """Read images, uint8, (count, 28, 28), and labels, int64, (count,)."""
        if self.data_dir is not None:
            return _torchvision(self.dataset, self.data_dir, train=train)
        prefix = "train" if train else "t10k"
        images, labels = (_packaged(f"{prefix}-{kind}-ubyte") for kind in ("images-idx3", "labels-idx1"))
        return images, labels.long()


def _packaged(name: str) -> Tensor:
    """Read a file of the package."""
    path, content = PACKAGED / f"{name}.gz", bytearray()
    try:
        with gzip.open(path) as file:
            while chunk := file.read(2**20):  # in pieces: at once it would be in memory three times
                content += chunk
    except (EOFError, OSError, zlib.error) as error:
        raise OSError(f"Expected to read MNIST from {path}, got: {error}. Reinstall the package.") from error
    _check_digest(content, name, path)
    return _idx(content)


def _idx(content: bytearray) -> Tensor:
    """Return the tensor of an IDX file of bytes.

    The fourth byte is the number of dimensions; their sizes follow as big-endian 32-bit integers, then the values.
    """
    dims = content[3]
    sizes = [int.from_bytes(content[4 + 4 * dim : 8 + 4 * dim]) for dim in range(dims)]
    return torch.frombuffer(content, dtype=torch.uint8, offset=4 + 4 * dims).view(sizes)


def _check_digest(content: bytes | bytearray, name: str, path: Path) -> None:
    digest = hashlib.sha256(content).hexdigest()
    if digest != SHA256[name]:
        raise ValueError(f"Expected MNIST with SHA-256 {SHA256[name]} in {path}, got {digest}: the file is damaged")


def _torchvision(dataset: str, data_dir: str | Path, *, train: bool, download: bool = False) -> tuple[Tensor, Tensor]:
    """Read images, uint8, (count, 28, 28), and labels, int64, (count,), from a folder in torchvision's format."""
    from torchvision import datasets  # slow to import, and not needed for the packaged MNIST

    for name in SHA256 if dataset == "MNIST" else ():  # torchvision's own errors do not name the file
        path = Path(data_dir, "MNIST", "raw", name)
        if path.exists():
            _check_digest(path.read_bytes(), name, path)
    try:
        found = getattr(datasets, dataset)(data_dir, train=train, download=download)
    except Exception as error:  # torchvision raises whatever its readers or the network do
        lines = str(error).strip().splitlines() or [""]
        reason = " ... ".join(dict.fromkeys([lines[0], lines[-1]]))
        raise OSError(f"Expected {dataset} in {data_dir}, or to download it there, got: {reason}") from error
    images, labels = found.data, found.targets
    labels = labels[:, 0] if labels.dim() == 2 else labels  # QMNIST has eight numbers for each digit
    if images.shape != (len(labels), 28, 28):
        raise ValueError(
            f"Expected {dataset} in {data_dir} with as many images as labels, got {len(images)} images "
            f"of {list(images.shape[1:])} and {len(labels)} labels"
        )
    return images, labels.long()
