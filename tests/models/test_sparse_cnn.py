"""The convolutional network: its layers, its training, what it refuses."""

import pytest
import torch
from lightning.pytorch import Trainer

from sparse_lightning import MNISTDataModule, PruneRegrow, SparseCNN


def test_it_is_lenet_with_relu():
    shapes = {name: tuple(each.shape) for name, each in SparseCNN().named_parameters() if each.dim() > 1}
    assert shapes == {
        "network.conv1.weight": (6, 1, 5, 5),
        "network.conv2.weight": (16, 6, 5, 5),
        "network.linear1.weight": (120, 784),
        "network.linear2.weight": (84, 120),
        "network.output.weight": (10, 84),
    }
    names = [name for name, _ in SparseCNN(channels=[4], hidden_sizes=[8], batch_norm=True).network.named_children()]
    assert names == ["conv1", "conv_norm1", "conv_relu1", "pool1", "flatten", "linear1", "norm1", "relu1", "output"]


@pytest.mark.parametrize("shape", [(3, 1, 28, 28), (3, 784)])
def test_images_may_be_flat(shape):
    torch.manual_seed(0)
    model, images = SparseCNN(), torch.randn(3, 1, 28, 28)
    assert model(images.view(shape)).equal(model(images))
    assert model(images).shape == (3, 10)


@pytest.mark.parametrize("own", [True, False])
def test_it_trains_with_its_own_rewiring_or_another_and_loads_again(trainer, tmp_path, own):
    model = SparseCNN(channels=[4], hidden_sizes=[8], density=0.3, hebbian_grow=True)
    callbacks = [] if own else [PruneRegrow(density=0.5)]
    run: Trainer = trainer(max_epochs=2, callbacks=callbacks, limit_train_batches=4, limit_val_batches=1)
    run.fit(model, MNISTDataModule())
    sparse = model.prune_regrow if own else callbacks[0]
    assert sparse.rewirings == 1
    counts = {name: int(mask.sum()) for name, mask in sparse.masks.items()}
    assert counts["network.conv1.weight"] == (30 if own else 50)
    assert {"train_loss", "train_acc", "val_loss", "val_acc"} <= run.callback_metrics.keys()
    run.save_checkpoint(tmp_path / "cnn.ckpt")
    loaded = SparseCNN.load_from_checkpoint(tmp_path / "cnn.ckpt")
    assert repr(loaded) == repr(model)
    images = torch.randn(2, 1, 28, 28)
    assert loaded.eval()(images).equal(model.eval()(images))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"channels": [0]}, r"Expected channels to be integers of at least 1, got \[0\]"),
        ({"image_size": 0}, "Expected image_size to be an integer of at least 1, got 0"),
        ({"image_size": 3, "channels": [4, 4]}, "Expected images that can be halved 2 times, got 3"),
        ({"learning_rate": -1.0}, "Expected learning_rate above 0, got -1.0"),
    ],
)
def test_arguments_out_of_range_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        SparseCNN(**wrong)
