"""k-winners as the activation of a SparseMLP."""

from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint

from sparse_lightning import SparseMLP


def layers(mlp: SparseMLP) -> list[Any]:
    return [layer for layer in mlp.network if type(layer).__name__ == "KWinners"]


def test_the_published_network_lets_25_of_100_units_win_and_37_in_evaluation():
    mlp = SparseMLP(activation="kwinners")
    images = torch.randn(8, 784)
    winners: list[list[int]] = []
    for layer in layers(mlp):
        layer.register_forward_hook(lambda _, __, output: winners.append((output != 0).sum(1).tolist()))
    mlp.train()(images)
    mlp.eval()(images)
    assert winners == [[25] * 8] * 3 + [[37] * 8] * 3
    assert [(float(layer.boost_strength), layer.boost_strength_factor) for layer in layers(mlp)] == [
        (pytest.approx(1.4), 0.7)
    ] * 3


def test_it_stands_after_batch_norm_in_place_of_relu():
    kinds = [type(layer).__name__ for layer in SparseMLP(activation="kwinners").network]
    assert kinds == ["Linear", "BatchNorm1d", "KWinners"] * 3 + ["Linear"]


def test_winners_keep_their_values_also_negative_ones():
    mlp = SparseMLP(1, 4, hidden_sizes=[4], activation="kwinners", percent_on=0.5, batch_norm=False)
    with torch.no_grad():
        mlp.network.linear1.weight.copy_(torch.tensor([[3.0], [-1], [-2], [-4]]))
        mlp.network.output.weight.copy_(torch.eye(4))
        for layer in (mlp.network.linear1, mlp.network.output):
            layer.bias.zero_()
    assert mlp.train()(torch.ones(1, 1)).tolist() == [[3, -1, 0, 0]]
    assert mlp.eval()(torch.ones(1, 1)).tolist()[0][3] == 0  # three of four win in evaluation


class Boosts(Callback):
    """Keeps the boost strength at each training batch and each validation."""

    def __init__(self) -> None:
        self.train: list[list[float]] = []
        self.validated: list[float] = []

    def on_train_epoch_start(self, trainer: object, pl_module: SparseMLP) -> None:
        self.train.append([])

    def on_train_batch_end(self, trainer: object, pl_module: SparseMLP, *_: object) -> None:
        self.train[-1].append(float(layers(pl_module)[0].boost_strength))

    def on_validation_epoch_end(self, trainer: object, pl_module: SparseMLP) -> None:
        self.validated.append(float(layers(pl_module)[0].boost_strength))


@pytest.mark.parametrize("automatic", [True, False])
def test_boost_decays_once_between_epochs_so_that_what_was_validated_is_what_is_saved(
    trainer, data, tmp_path, automatic
):
    mlp, boosts = SparseMLP(6, 3, hidden_sizes=[8], activation="kwinners", boost_strength_factor=0.5), Boosts()
    mlp.automatic_optimization = automatic
    keep = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
    run = trainer(max_epochs=3, callbacks=[boosts, keep], enable_checkpointing=True)
    run.fit(mlp, data)
    assert boosts.train == [[pytest.approx(1.4 * 0.5**epoch)] * 3 for epoch in range(3)]
    assert boosts.validated[-3:] == [pytest.approx(1.4 * 0.5**epoch) for epoch in range(3)]
    for epoch in range(3):
        saved = SparseMLP.load_from_checkpoint(tmp_path / f"epoch={epoch}.ckpt")
        assert float(layers(saved)[0].boost_strength) == boosts.train[epoch][0]


def test_hebbian_growth_counts_winners_above_zero_as_active(trainer, data):
    mlp, calls = SparseMLP(6, 3, hidden_sizes=[8], activation="kwinners", density=0.5), []
    for name in ("linear1", "kwinners1", "output"):
        module = mlp.network.get_submodule(name)
        module.register_forward_hook(
            lambda module, args, output: calls.append((args[0] > 0, output > 0)) if module.training else None
        )

    class Compare(Callback):
        def on_train_epoch_end(self, trainer: object, pl_module: SparseMLP) -> None:
            inputs, winners = (torch.cat([pair[end] for pair in calls[end::3]]).int() for end in (0, 1))
            logits = torch.cat([pair[1] for pair in calls[2::3]]).int()
            counts = pl_module.prune_regrow.growth.coactivation.counts
            assert counts["network.linear1.weight"].equal(winners.T @ inputs)
            assert counts["network.output.weight"].equal(logits.T @ winners)
            calls.clear()

    trainer(max_epochs=2, callbacks=[Compare()]).fit(mlp, data)
    assert mlp.prune_regrow.rewirings == 1
