import gzip
import math
import sys
from functools import partial
from pathlib import Path
from urllib.error import URLError

import forked
import pytest
import torch
from torch import Tensor

from sparse_lightning import MNISTDataModule, SparseMLP
from sparse_lightning.datamodules import mnist
from sparse_lightning.datamodules.in_memory import Batches

FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
LABELS = FILES[1]
exactly = partial(torch.testing.assert_close, rtol=0, atol=0)


def ready(**options: object) -> MNISTDataModule:
    data = MNISTDataModule(**options)
    data.prepare_data()
    data.setup("fit")
    return data


def whole(loader: Batches) -> tuple[Tensor, Tensor]:
    images, labels = zip(*loader, strict=True)
    return torch.cat(images), torch.cat(labels)


def flipped(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def links(source: Path, folder: Path) -> Path:
    """A folder of links to each file of another one."""
    folder.mkdir(parents=True)
    for path in source.iterdir():
        (folder / path.name).symlink_to(path)
    return folder


def replace(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


@pytest.fixture(scope="session")
def packaged() -> MNISTDataModule:
    return ready()


@pytest.fixture
def package(tmp_path, monkeypatch) -> Path:
    """A copy of the packaged files that may be damaged."""
    folder = links(mnist.PACKAGED, tmp_path / "package")
    monkeypatch.setattr(mnist, "PACKAGED", folder)
    return folder


@pytest.fixture(scope="session")
def unpacked(tmp_path_factory) -> Path:
    """The packaged files as torchvision unpacks them."""
    folder = tmp_path_factory.mktemp("data")
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in FILES:
        (raw / name).write_bytes(gzip.decompress((mnist.PACKAGED / f"{name}.gz").read_bytes()))
    return folder


# MNIST itself.


def test_all_of_mnist_is_there(packaged):
    train, test = whole(packaged.train_dataloader()), whole(packaged.test_dataloader())
    assert train[0].shape == (60_000, 1, 28, 28)
    assert test[0].shape == (10_000, 1, 28, 28)
    assert (train[0].dtype, train[1].dtype) == (torch.float32, torch.int64)
    assert train[1].bincount().tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert test[1].bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert test[1][:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]


def test_pixels_are_normalised_by_the_published_constants(packaged):
    images, _ = whole(packaged.test_dataloader())
    raw = gzip.decompress((mnist.PACKAGED / "t10k-images-idx3-ubyte.gz").read_bytes())[16:]
    pixels = torch.frombuffer(bytearray(raw), dtype=torch.uint8).view(10_000, 1, 28, 28)
    torch.testing.assert_close(images.double(), (pixels.double() / 255 - 0.13062755) / 0.30810780, rtol=0, atol=1e-6)


def test_training_batches_are_of_128_and_the_short_last_one_is_kept(packaged):
    sizes = [len(labels) for _, labels in packaged.train_dataloader()]
    assert sizes == [128] * 468 + [96]
    assert len(packaged.train_dataloader()) == 469
    assert [len(labels) for _, labels in packaged.val_dataloader()] == [2000] * 5


def test_by_default_it_validates_on_the_test_images(packaged):
    for validation, test in zip(packaged.val_dataloader(), packaged.test_dataloader(), strict=True):
        torch.testing.assert_close(validation, test)


def test_it_is_read_once(packaged):
    first = packaged.train_dataloader().images
    packaged.setup("test")
    assert packaged.train_dataloader().images is first


@pytest.mark.parametrize("place", [200, 9_800, 19_400, 26_600])
def test_a_flipped_bit_in_the_package_is_found(package, place):
    path = package / f"{LABELS}.gz"
    replace(path, flipped(path.read_bytes(), place))
    with pytest.raises((OSError, ValueError), match=rf"\AExpected .* {path}, got"):
        mnist._packaged(LABELS)


def test_other_content_in_the_package_is_refused_in_one_sentence(package):
    path = package / f"{LABELS}.gz"
    replace(path, gzip.compress(flipped(gzip.decompress(path.read_bytes()), 1000)))
    with pytest.raises(ValueError, match=rf"\AExpected MNIST with SHA-256 65a50cbb\w+ in {path}, got \w+: .*damaged\Z"):
        ready()


@pytest.mark.parametrize("length", [0, 5, 1000, -1])
def test_a_truncated_file_in_the_package_is_found(package, length):
    path = package / f"{LABELS}.gz"
    replace(path, path.read_bytes()[:length])
    with pytest.raises((OSError, ValueError), match=rf"\AExpected .* {path}, got"):
        mnist._packaged(LABELS)


def test_a_file_missing_from_the_package_is_found(package):
    (package / f"{FILES[0]}.gz").unlink()
    with pytest.raises(
        OSError, match=rf"\AExpected to read MNIST from .*{FILES[0]}\.gz, got: .*Reinstall the package\.\Z"
    ):
        ready()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": 0.5}, "Expected seed to be an integer, got 0.5"),
        ({"batch_size": True}, "Expected batch_size of at least 1, got True"),
        ({"dataset": "CIFAR10"}, "Expected dataset to be one of MNIST, FashionMNIST, KMNIST, QMNIST, got 'CIFAR10'"),
        ({"dataset": "KMNIST"}, "Expected a data_dir for KMNIST, got None: only MNIST is in the package"),
        ({"batch_size": 0}, "Expected batch_size of at least 1, got 0"),
        ({"val_size": -1}, r"Expected val_size in \[0, 60000\), got -1"),
        ({"val_size": 60_000}, r"Expected val_size in \[0, 60000\), got 60000"),
    ],
)
def test_arguments_out_of_range_are_refused_in_one_sentence(arguments, message):
    with pytest.raises(ValueError, match=message):
        MNISTDataModule(**arguments)


# From a folder in torchvision's format.


def test_a_folder_in_torchvisions_format_gives_the_same_tensors(packaged, unpacked):
    other = ready(data_dir=unpacked)
    for part in ("train_dataloader", "val_dataloader", "test_dataloader"):
        ours, theirs = getattr(packaged, part)(), getattr(other, part)()
        assert ours.images.equal(theirs.images)
        assert ours.labels.equal(theirs.labels)


@pytest.fixture
def offline(monkeypatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", fail)


@pytest.mark.parametrize("dataset", ["MNIST", "FashionMNIST", "KMNIST", "QMNIST"])
def test_a_missing_folder_that_cannot_be_downloaded_is_refused_in_one_sentence(tmp_path, offline, dataset):
    with pytest.raises(OSError, match=rf"\AExpected {dataset} in {tmp_path}, or to download it there, got: .+\Z"):
        ready(dataset=dataset, data_dir=tmp_path)


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_in_the_folder_is_refused(tmp_path, unpacked, name):
    raw = links(unpacked / "MNIST" / "raw", tmp_path / "MNIST" / "raw")
    replace(raw / name, flipped((raw / name).read_bytes(), 5000))
    with pytest.raises(
        ValueError, match=rf"\AExpected MNIST with SHA-256 \w+ in .*{name}, got \w+: the file is damaged\Z"
    ):
        ready(data_dir=tmp_path)


def test_a_truncated_file_in_the_folder_is_refused(tmp_path, unpacked):
    raw = links(unpacked / "MNIST" / "raw", tmp_path / "MNIST" / "raw")
    replace(raw / LABELS, (raw / LABELS).read_bytes()[:-100])
    with pytest.raises((OSError, ValueError), match=r"\AExpected MNIST .*, got.*\Z"):
        ready(data_dir=tmp_path)


def idx(values: Tensor) -> bytes:
    """An IDX file of bytes, or of big-endian 32-bit integers."""
    kind, size = (8, 1) if values.dtype == torch.uint8 else (12, 4)
    sizes = b"".join(n.to_bytes(4, "big") for n in values.shape)
    numbers = b"".join(int(value).to_bytes(size, "big") for value in values.flatten())
    return bytes([0, 0, kind, values.dim()]) + sizes + numbers


def made_up(folder: Path, dataset: str, train: int = 50, test: int = 20) -> dict[str, tuple[Tensor, Tensor]]:
    """Write a small data set in torchvision's format; return its images and labels."""
    raw = folder / dataset / "raw"
    raw.mkdir(parents=True)
    parts = {}
    for part, count in (("train", train), ("test", test)):
        images = torch.randint(20, 200, (count, 28, 28), dtype=torch.uint8)
        labels = torch.arange(count, dtype=torch.uint8) % 10
        parts[part] = images, labels.long()
        if dataset == "QMNIST":
            names = f"qmnist-{part}-images-idx3-ubyte", f"qmnist-{part}-labels-idx2-int"
            # The class, then seven numbers about the writer.
            labels = torch.cat([labels[:, None].int(), torch.randint(99, 999, (count, 7), dtype=torch.int32)], 1)
        else:
            prefix = {"train": "train", "test": "t10k"}[part]
            names = f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte"
        for name, values in zip(names, (images, labels), strict=True):
            (raw / name).write_bytes(idx(values))
    return parts


@pytest.mark.parametrize("dataset", ["FashionMNIST", "KMNIST", "QMNIST"])
def test_other_data_sets_are_read_and_normalised_by_their_own_mean_and_standard_deviation(tmp_path, offline, dataset):
    parts = made_up(tmp_path, dataset)
    data = ready(dataset=dataset, data_dir=tmp_path)
    pixels = parts["train"][0].double() / 255
    for part, loader in (("train", data.train_dataloader()), ("test", data.test_dataloader())):
        (images, labels), order = parts[part], torch.cat(list(loader.sampler))
        expected = (images.double() / 255 - pixels.mean()) / pixels.std()
        found = whole(loader)
        torch.testing.assert_close(found[0], expected[order].float().unsqueeze(1), rtol=0, atol=1e-5)
        assert found[1].equal(labels[order])
    assert whole(data.train_dataloader())[0].std().item() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("dataset", ["FashionMNIST", "QMNIST"])
def test_a_damaged_file_of_another_data_set_is_refused_in_one_sentence(tmp_path, offline, dataset):
    made_up(tmp_path, dataset)
    (path,) = (tmp_path / dataset / "raw").glob("*train-images*")
    whole = path.read_bytes()
    fewer = whole[:4] + (49).to_bytes(4, "big") + whole[8 : -28 * 28]
    for content in (whole[:-1000], whole[:10], b"", b"not an IDX file at all", fewer):
        path.write_bytes(content)
        with pytest.raises((OSError, ValueError), match=rf"\AExpected {dataset} in {tmp_path}.*, got.+\Z"):
            ready(dataset=dataset, data_dir=tmp_path)


# What is held out.


def test_the_last_training_images_are_held_out_and_the_test_images_kept(packaged):
    data = ready(val_size=5000)
    train, every = data.train_dataloader(), packaged.train_dataloader()
    validation, test = whole(data.val_dataloader()), whole(data.test_dataloader())
    assert train.images.equal(every.images[:55_000])
    assert train.labels.equal(every.labels[:55_000])
    assert validation[0].equal(data._normalise(every.images[55_000:]))
    assert validation[1].equal(every.labels[55_000:])
    assert test[0].equal(whole(packaged.test_dataloader())[0])
    assert sum(len(labels) for _, labels in train) == 55_000


def test_holding_out_more_images_than_there_are_is_refused(tmp_path, offline):
    made_up(tmp_path, "KMNIST")
    with pytest.raises(ValueError, match=r"Expected .*50.*got 60"):
        ready(dataset="KMNIST", data_dir=tmp_path, val_size=60)


# The order and the network.


def labels_of(data: MNISTDataModule, epoch: int) -> list[int]:
    loader = data.train_dataloader()
    loader.sampler.set_epoch(epoch)
    return torch.cat([labels for _, labels in loader]).tolist()


def test_the_seed_of_the_data_module_decides_the_order_of_each_epoch(packaged):
    again, other = (MNISTDataModule(seed=seed) for seed in (0, 1))
    again._splits = other._splits = packaged._splits
    first = labels_of(packaged, 0)
    assert labels_of(again, 0) == first != labels_of(other, 0)
    assert labels_of(packaged, 1) != first


def test_batches_in_lists_are_those_of_the_plain_loader_and_move_to_a_device(packaged):
    lists = MNISTDataModule()
    lists._splits, lists.batches_per_step = packaged._splits, 16
    loader = lists.train_dataloader()
    assert len(loader) == 30
    batches = [batch for each in loader for batch in lists.transfer_batch_to_device(each, torch.device("cpu"), 0)]
    exactly(batches, list(packaged.train_dataloader()))


def test_repr_builds_the_data_module():
    text = "MNISTDataModule(batch_size=64, val_size=5000)"
    assert repr(eval(text)) == text


def test_a_few_batches_of_mnist_train_a_network(trainer, packaged):
    mlp = SparseMLP()
    run = trainer(max_epochs=2, limit_train_batches=40, limit_val_batches=10)
    run.fit(mlp, packaged)
    assert run.callback_metrics["val_acc"] > 0.8
    assert [int(mask.sum()) for mask in mlp.prune_regrow.masks.values()] == [15680, 2000, 2000, 200]
    assert mlp.prune_regrow.rewirings == 1


# Two processes.

DISTRIBUTED = """
import sys

import torch
from lightning.pytorch import Callback, Trainer

from sparse_lightning import MNISTDataModule, SparseMLP

folder = sys.argv[1]
torch.set_num_threads(1)


class Watch(Callback):
    def __init__(self):
        self.epochs = []

    def on_train_start(self, trainer, mlp):
        self.start = mlp.prune_regrow.growth.coactivation.state_dict()["counts"]

    def on_train_epoch_start(self, trainer, mlp):
        self.epochs.append({"train": [], "val": []})

    def on_train_batch_end(self, trainer, mlp, outputs, batch, batch_idx):
        self.epochs[-1]["train"].extend(each[1] for each in (batch if isinstance(batch, list) else [batch]))

    def on_validation_batch_end(self, trainer, mlp, outputs, batch, batch_idx):
        self.epochs[-1]["val"].append(batch[1])

    def on_train_epoch_end(self, trainer, mlp):
        statistic = mlp.prune_regrow.growth.coactivation
        self.epochs[-1] |= {
            "masks": {name: mask.clone() for name, mask in mlp.prune_regrow.masks.items()},
            "counts": {name: counts.clone() for name, counts in statistic.counts.items()},
            "totals": {name: statistic.total(name).clone() for name in statistic.counts},
            "weights": {name: value.clone() for name, value in mlp.state_dict().items() if "weight" in name},
        }


def fit(epochs, checkpoint=None, batches=1):
    torch.manual_seed(0)
    watch, mlp = Watch(), SparseMLP(hidden_sizes=[16], num_classes=64, density=0.5)
    trainer = Trainer(
        accelerator="cpu", devices=2, strategy="ddp", max_epochs=epochs, callbacks=[watch], num_sanity_val_steps=0,
        logger=False, enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
    )
    data = MNISTDataModule(dataset="KMNIST", data_dir=folder, batch_size=4)
    mlp.automatic_optimization, data.batches_per_step = batches == 1, batches
    trainer.fit(mlp, data, ckpt_path=checkpoint)
    metrics = {name: value.item() for name, value in trainer.callback_metrics.items()}
    trainer.save_checkpoint(f"{folder}/{epochs}.ckpt")
    state = {name: each for name, each in mlp.prune_regrow.state_dict().items() if name != "settings"}
    return trainer, {"start": watch.start, "epochs": watch.epochs, "metrics": metrics, "state": state}


trainer, straight = fit(3)
fit(2)
trainer, continued = fit(3, f"{folder}/2.ckpt")
_, lists = fit(3, batches=3)
torch.save({"straight": straight, "continued": continued, "lists": lists}, f"{folder}/rank{trainer.global_rank}.pt")
"""


@pytest.mark.slow
def test_two_processes_share_the_images_and_train_one_network(tmp_path):
    # The label of an image is its index. Of 53 training images one is left over, and of 17 validation images one
    # process gets nine and the other eight, which is a batch of four less.
    made_up(tmp_path, "KMNIST", train=53, test=17)
    for prefix, count in (("train", 53), ("t10k", 17)):
        (tmp_path / "KMNIST" / "raw" / f"{prefix}-labels-idx1-ubyte").write_bytes(idx(torch.arange(count).byte()))
    script = tmp_path / "fit.py"
    script.write_text(DISTRIBUTED)
    run = forked.run([sys.executable, script, tmp_path], processes=2)
    assert run.returncode == 0, run.stderr
    ranks = [torch.load(tmp_path / f"rank{rank}.pt") for rank in (0, 1)]
    epochs = list(zip(*(rank["straight"]["epochs"] for rank in ranks), strict=True))
    assert len(epochs) == 3

    for pair in epochs:  # no process sees another's images
        train, validation = ([torch.cat(epoch[part]).tolist() for epoch in pair] for part in ("train", "val"))
        assert [len(share) for share in train] == [26, 26]
        assert len({*train[0], *train[1]}) == 52
        assert sorted(validation[0] + validation[1]) == list(range(17))

    for first, second in epochs:  # they count together, and so move alike
        exactly(first["masks"], second["masks"])
        exactly(first["weights"], second["weights"])
        for name, total in first["totals"].items():
            assert total.equal(second["totals"][name])
            assert total.equal(first["counts"][name] + second["counts"][name])
            assert not first["counts"][name].equal(second["counts"][name])
    masks = [first["masks"]["network.linear1.weight"] for first, _ in epochs]
    assert [int(mask.sum()) for mask in masks] == [6272] * 3
    assert not masks[0].equal(masks[1])

    metrics, others = (rank["straight"]["metrics"] for rank in ranks)  # over all images, whoever had them
    assert metrics == others
    assert metrics["val_acc"] * 17 == pytest.approx(round(metrics["val_acc"] * 17), abs=1e-4)
    assert metrics["train_acc"] * 52 == pytest.approx(round(metrics["train_acc"] * 52), abs=1e-4)
    assert not any(math.isnan(value) for value in metrics.values())

    for rank in ranks:  # and so they do when continued from a checkpoint
        straight, continued = rank["straight"], rank["continued"]
        exactly(continued["start"], straight["epochs"][1]["totals"])
        for part in ("masks", "weights", "totals"):
            exactly(continued["epochs"][-1][part], straight["epochs"][-1][part])
        exactly(continued["state"], straight["state"])

    for rank in ranks:  # and with a step for each batch of a list
        exactly(rank["lists"]["epochs"], rank["straight"]["epochs"])
