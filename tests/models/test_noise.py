"""The noise of Numenta's experiments, and the extra pass over the validation images that measures with it."""

import copy

import pytest
import torch
from lightning.pytorch.callbacks import LambdaCallback
from torch import Tensor

from sparse_lightning import SparseMLP
from sparse_lightning.functional.masks import derived_generator
from sparse_lightning.models.noise import replace_pixels


@pytest.mark.parametrize(
    ("pixels", "fraction", "white", "black"),
    [(784, 0.15, 58, 59), (784, 0.1, 39, 39), (100, 0.29, 14, 15), (6, 0.5, 1, 2), (6, 0, 0, 0), (6, 1, 3, 3)],
)
def test_half_of_the_fraction_becomes_0_9_and_half_0_1(pixels, fraction, white, black):
    noised = replace_pixels(torch.full((20, pixels), 7.0), fraction, derived_generator(0))
    assert [(row == 0.9).sum().item() for row in noised] == [white] * 20
    assert [(row == 0.1).sum().item() for row in noised] == [black] * 20
    assert [(row == 7).sum().item() for row in noised] == [pixels - white - black] * 20


def test_every_image_gets_its_own_noise_and_every_pixel_is_as_likely():
    noised = replace_pixels(torch.zeros(4000, 1, 2, 4), 0.25, derived_generator(0))
    assert noised.shape == (4000, 1, 2, 4)
    for value in (0.9, 0.1):
        share = (noised == value).float().mean(0).flatten()
        torch.testing.assert_close(share, torch.full((8,), 1 / 8), rtol=0, atol=0.02)


def test_noise_leaves_the_images_and_pytorchs_random_state_as_they_are():
    images, state = torch.zeros(5, 8), torch.get_rng_state()
    first, again, other = (replace_pixels(images, 0.5, derived_generator(seed)) for seed in (0, 0, 1))
    assert not images.any()
    assert torch.get_rng_state().equal(state)
    assert first.equal(again)
    assert not first.equal(other)


def test_noise_of_an_empty_batch_is_an_empty_batch():
    assert replace_pixels(torch.zeros(0, 8), 0.5, derived_generator(0)).shape == (0, 8)


def linear(**options: object) -> SparseMLP:
    """A network of one layer whose logits are its two inputs."""
    mlp = SparseMLP(2, 2, hidden_sizes=[], density=1, **options)
    mlp.load_state_dict({"network.output.weight": torch.eye(2), "network.output.bias": torch.zeros(2)})
    return mlp


def loss(*logits: float) -> float:
    """The cross-entropy of logits whose first one is right."""
    return torch.tensor(logits).exp().sum().log().item() - logits[0]


def test_the_noise_pass_measures_the_validation_images_with_noise_by_hand(trainer):
    # Every pixel is replaced: one by 0.9, one by 0.1, whatever they were. Half of the images keep their class.
    images, labels = torch.tensor([[2.0, -2.0]]).repeat(64, 1), torch.zeros(64, dtype=torch.long)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images, labels), batch_size=16)
    (found,) = trainer().validate(linear(test_noise=True, noise_level=1.0), loader, verbose=False)
    assert (found["val_acc"], found["val_loss"]) == pytest.approx((1, loss(2, -2)), rel=1e-4)
    right = round(found["noise_acc"] * 64)
    assert 16 < right < 48
    assert found["noise_acc"] * 64 == pytest.approx(right)
    expected = (right * loss(0.9, 0.1) + (64 - right) * loss(0.1, 0.9)) / 64
    assert found["noise_loss"] == pytest.approx(expected, rel=1e-5)


def test_without_noise_its_metrics_are_those_of_the_validation(trainer, data):
    mlp = SparseMLP(6, 3, hidden_sizes=[8], test_noise=True, noise_level=0)
    (found,) = trainer().validate(mlp, data, verbose=False)
    assert (found["noise_acc"], found["noise_loss"]) == (found["val_acc"], found["val_loss"])
    (found,) = trainer().test(mlp, data, verbose=False)
    assert found.keys() == {"test_acc", "test_loss"}


def test_the_noise_pass_changes_nothing_else_and_is_drawn_anew_each_epoch(trainer, data, recorder):
    runs = []
    for noise in (False, True):
        torch.manual_seed(0)
        mlp = SparseMLP(6, 3, hidden_sizes=[8], dropout=0.25, test_noise=noise, noise_level=0.5)
        record, inputs = recorder(), []
        module = mlp.network.linear1
        module.register_forward_hook(lambda m, args, _, seen=inputs: None if m.training else seen.append(args[0]))
        trainer(max_epochs=3, logger=record, num_sanity_val_steps=0).fit(mlp, data)
        runs.append((copy.deepcopy(mlp.state_dict()), mlp.prune_regrow.masks, record.epochs, inputs))
    (plain, plain_masks, plain_epochs, _), (weights, masks, epochs, inputs) = runs
    torch.testing.assert_close(weights, plain, rtol=0, atol=0)
    torch.testing.assert_close(dict(masks), dict(plain_masks), rtol=0, atol=0)
    for epoch, metrics in epochs.items():
        assert {name: value for name, value in metrics.items() if "noise" not in name} == plain_epochs[epoch]
        assert {"noise_acc", "noise_loss"} <= metrics.keys()
    noised: list[Tensor] = [torch.cat(inputs[6 * epoch + 1 : 6 * epoch + 6 : 2]) for epoch in range(3)]
    assert [len(each) for each in noised] == [20] * 3
    assert not noised[0].equal(noised[1])
    assert not noised[1].equal(noised[2])


def test_ranks_draw_noise_of_their_own(trainer, data, monkeypatch):
    keys = []
    monkeypatch.setattr(
        "sparse_lightning.models.sparse_mlp.derived_generator", lambda *key: keys.append(key) or derived_generator(*key)
    )
    mlp = SparseMLP(6, 3, hidden_sizes=[8], seed=5, test_noise=True)
    rank = LambdaCallback(
        on_validation_batch_start=lambda run, *_: monkeypatch.setattr(type(run), "global_rank", property(lambda _: 1))
    )
    for callbacks in ([], [rank]):
        trainer(callbacks=callbacks).validate(mlp, data, verbose=False)
    assert keys == [(5, "noise", 0, batch, rank) for rank in (0, 1) for batch in range(3)]
