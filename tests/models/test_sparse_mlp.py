import copy
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from omegaconf import OmegaConf
from torch import Tensor, nn

from sparse_lightning import PruneRegrow, SparseMLP
from sparse_lightning.callbacks.presets import PRESETS
from sparse_lightning.datamodules.mnist import Batches, Order

small = partial(SparseMLP, input_size=6, num_classes=3, hidden_sizes=(8, 5), density=0.5)
exactly = partial(torch.testing.assert_close, rtol=0, atol=0)


def masks_of(mlp: SparseMLP) -> dict[str, Tensor]:
    return {name: mask.clone() for name, mask in mlp.prune_regrow.masks.items()}


def on_masks(mlp: SparseMLP) -> bool:
    return not any(mlp.get_parameter(name)[~mask].any() for name, mask in mlp.prune_regrow.masks.items())


class Masks(Callback):
    """Keeps the masks that each epoch trained with."""

    def __init__(self) -> None:
        self.epochs: list[dict[str, Tensor]] = []

    def on_train_epoch_end(self, trainer: object, pl_module: SparseMLP) -> None:
        self.epochs.append(masks_of(pl_module))


# As it is built.

NAMES = ("linear1", "linear2", "linear3", "output")


@pytest.mark.parametrize("method", PRESETS)
def test_a_method_by_name_is_its_preset(trainer, data, method):
    mlp = small(method=method, prune_fraction=0.4, seed=7)
    callback = mlp.prune_regrow
    assert type(callback) is PRESETS[method]
    assert (callback.density, callback.prune_fraction, callback.seed) == (0.5, 0.4, 7)
    trainer(max_epochs=2).fit(mlp, data)
    assert on_masks(mlp)


def test_it_is_sparse_from_its_construction_on_to_the_last_connection():
    mlp = SparseMLP()
    counts = [int((mlp.network.get_submodule(name).weight != 0).sum()) for name in NAMES]
    assert counts == [15680, 2000, 2000, 200]
    assert [int(mask.sum()) for mask in mlp.prune_regrow.masks.values()] == counts
    assert list(mlp.prune_regrow.masks) == [f"network.{name}.weight" for name in NAMES]
    assert on_masks(mlp)


def test_it_has_the_layers_and_the_default_weights_of_pytorch():
    torch.manual_seed(5)
    mlp = SparseMLP()
    torch.manual_seed(5)
    layers: list[nn.Module] = []
    for inputs in (784, 100, 100):
        layers += [nn.Linear(inputs, 100), nn.BatchNorm1d(100), nn.ReLU()]
    layers.append(nn.Linear(100, 10))
    assert [type(layer) for layer in mlp.network] == [type(layer) for layer in layers]
    for ours, plain in zip(mlp.network, layers, strict=True):
        for (name, parameter), expected in zip(ours.named_parameters(), plain.parameters(), strict=True):
            mask = parameter != 0 if name == "weight" and isinstance(ours, nn.Linear) else torch.tensor(1)
            assert parameter.equal(expected * mask)


def test_the_two_arms_of_a_seed_start_alike():
    arms = []
    for grow in (True, False):
        torch.manual_seed(3)
        arms.append(SparseMLP(hebbian_grow=grow, seed=3))
    exactly(arms[0].state_dict(), arms[1].state_dict())
    exactly(masks_of(arms[0]), masks_of(arms[1]))
    assert not masks_of(SparseMLP(seed=4))["network.output.weight"].equal(masks_of(arms[0])["network.output.weight"])


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({}, ["linear1", "norm1", "relu1", "linear2", "norm2", "relu2", "output"]),
        ({"batch_norm": False}, ["linear1", "relu1", "linear2", "relu2", "output"]),
        ({"dropout": 0.5, "hidden_sizes": [4]}, ["linear1", "norm1", "relu1", "dropout1", "output"]),
        ({"hidden_sizes": []}, ["output"]),
    ],
)
def test_layers_are_named_in_order(options, names):
    mlp = small(**options)
    assert [name for name, _ in mlp.network.named_children()] == names
    assert on_masks(mlp)


@pytest.mark.parametrize("shape", [(2, 784), (2, 28, 28), (2, 1, 28, 28)])
def test_images_of_any_shape_give_a_logit_for_each_class(shape):
    assert SparseMLP()(torch.randn(shape)).shape == (2, 10)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_size": 0}, "Expected input_size above 0, got 0"),
        ({"num_classes": -1}, "Expected num_classes above 0, got -1"),
        ({"hidden_sizes": [100, 0]}, r"Expected hidden_sizes .* above 0, got \[100, 0\]"),
        ({"hidden_sizes": 100}, r"Expected hidden_sizes .* above 0, got 100"),
        ({"dropout": 1.0}, r"Expected dropout in \[0, 1\), got 1.0"),
        ({"density": 0.0}, r"Expected density in \(0, 1\], got 0.0"),
        ({"density": 1.3}, r"Expected density in \(0, 1\], got 1.3"),
        ({"density": {"network.linear9": 0.5}}, r"match 'network.linear9' in density, got only network.linear1, "),
        ({"prune_fraction": 1.3}, r"Expected prune_fraction in \[0, 1\), got 1.3"),
        ({"hebbian_grow": "yes"}, "Expected hebbian_grow to be true, false or null, got 'yes'"),
        ({"method": "SET"}, "Expected method to be null or one of set, rigl, snfs, hebbian, random, static, got 'SET'"),
        ({"optimizer": "RMSprop"}, "Expected optimizer to be one of SGD, Adam, AdamW, got 'RMSprop'"),
        ({"learning_rate": 0.0}, "Expected learning_rate above 0, got 0.0"),
        ({"learning_rate": "fast"}, "Expected learning_rate above 0, got 'fast'"),
        ({"momentum": 1.0}, r"Expected momentum in \[0, 1\), got 1.0"),
        ({"weight_decay": -1e-4}, "Expected weight_decay of at least 0, got -0.0001"),
        ({"lr_milestones": [60, 30]}, r"Expected lr_milestones in rising order, got \[60, 30\]"),
        ({"lr_gamma": 0}, "Expected lr_gamma above 0, got 0"),
        ({"pruning_early_stop": -1}, "Expected pruning_early_stop to be 0 or a number of drops, got -1"),
    ],
)
def test_arguments_out_of_range_are_refused_in_a_sentence(arguments, message):
    with pytest.raises(ValueError, match=message):
        SparseMLP(**arguments)


@pytest.mark.parametrize(
    ("options", "kind", "expected"),
    [
        ({}, torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-4}),
        ({"optimizer": "Adam", "learning_rate": 0.01}, torch.optim.Adam, {"lr": 0.01, "weight_decay": 1e-4}),
        ({"optimizer": "AdamW", "weight_decay": 0.0}, torch.optim.AdamW, {"lr": 0.1, "weight_decay": 0.0}),
    ],
)
def test_the_optimizer_is_the_one_asked_for(options, kind, expected):
    optimizer = small(**options).configure_optimizers()["optimizer"]
    assert type(optimizer) is kind
    assert {key: optimizer.param_groups[0][key] for key in expected} == expected


def test_the_learning_rate_drops_at_its_milestones(trainer, data):
    class Rates(Callback):
        seen: tuple[float, ...] = ()

        def on_train_batch_start(self, trainer: object, *_: object) -> None:
            self.seen = (*self.seen, trainer.optimizers[0].param_groups[0]["lr"])

    rates = Rates()
    trainer(max_epochs=4, callbacks=[rates]).fit(small(lr_milestones=[1, 3], lr_gamma=0.5), data)
    assert rates.seen == (0.1,) * 3 + (0.05,) * 6 + (0.025,) * 3


# In training.


@pytest.mark.parametrize("hebbian_grow", [True, False])
def test_it_rewires_as_often_as_epochs_follow_one_another(trainer, data, hebbian_grow):
    mlp, masks = small(hebbian_grow=hebbian_grow), Masks()
    first = masks_of(mlp)
    trainer(max_epochs=4, callbacks=[masks]).fit(mlp, data)
    exactly(masks.epochs[0], first)
    assert mlp.prune_regrow.rewirings == 3
    for before, after in zip(masks.epochs, masks.epochs[1:], strict=False):
        assert [int(mask.sum()) for mask in after.values()] == [24, 20, 8]
        assert all((after[name] & ~before[name]).any() for name in before)
    assert on_masks(mlp)


def test_without_growth_the_topology_never_moves(trainer, data):
    mlp = small(hebbian_grow=None)
    first = masks_of(mlp)
    trainer(max_epochs=3).fit(mlp, data)
    exactly(masks_of(mlp), first)
    assert on_masks(mlp)


def test_density_one_is_a_dense_network_with_no_callback(trainer, data):
    mlp = small(density=1, hebbian_grow=None)
    run = trainer(max_epochs=2)
    run.fit(mlp, data)
    assert all((parameter != 0).all() for name, parameter in mlp.named_parameters() if name.endswith("t.weight"))
    assert not any(isinstance(callback, PruneRegrow) for callback in run.callbacks)


def test_the_callback_is_built_once(trainer, data):
    mlp = small()
    for _ in range(2):
        run = trainer(max_epochs=2)
        run.fit(mlp, data)
        assert [c for c in run.callbacks if isinstance(c, PruneRegrow)] == [mlp.prune_regrow]
    assert mlp.prune_regrow.rewirings == 3


def test_a_second_prune_regrow_beside_its_own_is_refused(trainer, data):
    mlp = small()
    before = copy.deepcopy(mlp.state_dict())
    with pytest.raises(
        ValueError, match="Expected one PruneRegrow for each weight, got one in the Trainer's callbacks"
    ):
        trainer(max_epochs=1, callbacks=[PruneRegrow()]).fit(mlp, data)
    exactly(mlp.state_dict(), before)


def test_a_dense_one_takes_a_prune_regrow_of_the_users(trainer, data):
    mlp, callback = small(density=1), PruneRegrow(density={"network.linear*": 0.25})
    trainer(max_epochs=2, callbacks=[callback]).fit(mlp, data)
    assert [int(mask.sum()) for mask in callback.masks.values()] == [12, 10]


def test_pruning_stops_after_as_many_drops_as_it_was_told(trainer, data):
    mlp = small(lr_milestones=[2], pruning_early_stop=1)
    trainer(max_epochs=4).fit(mlp, data)
    assert mlp.prune_regrow.rewirings == 1


class Batched(Callback):
    """Keeps every training batch, with the logits and the loss that it gave."""

    def __init__(self, mlp: SparseMLP) -> None:
        self.batches: list[tuple[Tensor, Tensor, Tensor]] = []
        mlp.network.register_forward_hook(lambda part, args, output: setattr(self, "logits", output.detach()))

    def on_train_batch_end(
        self, trainer: object, pl_module: object, outputs: object, batch: object, *_: object
    ) -> None:
        self.batches.append((batch[0], batch[1], self.logits))


def measured(logits: Tensor, labels: Tensor) -> tuple[float, float]:
    """Mean loss and accuracy, an image at a time."""
    losses = [-row.double().log_softmax(0)[label].item() for row, label in zip(logits, labels, strict=True)]
    correct = [row.argmax().item() == label.item() for row, label in zip(logits, labels, strict=True)]
    return sum(losses) / len(losses), sum(correct) / len(correct)


@pytest.mark.parametrize("together", [1, 2, 3, 64])
def test_metrics_are_means_over_images_the_short_last_batch_included(trainer, data, record, monkeypatch, together):
    monkeypatch.setattr("sparse_lightning.models.sparse_mlp.TOGETHER", together)
    mlp = small()
    batched = Batched(mlp)
    trainer(max_epochs=3, callbacks=[batched], logger=record).fit(mlp, data)
    assert [len(labels) for _, labels, _ in batched.batches] == [8, 8, 4] * 3
    for epoch in range(3):
        own = batched.batches[3 * epoch : 3 * epoch + 3]
        expected = measured(torch.cat([logits for *_, logits in own]), torch.cat([labels for _, labels, _ in own]))
        logged = record.epochs[epoch]
        assert (logged["train_loss"], logged["train_acc"]) == pytest.approx(expected, rel=1e-5)
    logits = mlp.eval()(data.inputs)  # nothing is rewired after the last epoch, so these are the weights validated
    assert (logged["val_loss"], logged["val_acc"]) == pytest.approx(measured(logits, data.labels), rel=1e-5)
    assert 0 < logged["val_acc"] < 1


@pytest.mark.parametrize("stage", ["validate", "test"])
def test_validation_and_test_alone_measure_all_images_and_change_nothing(trainer, data, stage):
    mlp = small()
    before = copy.deepcopy(mlp.state_dict())
    (found,) = getattr(trainer(), stage)(mlp, data, verbose=False)
    prefix = {"validate": "val", "test": "test"}[stage]
    expected = measured(mlp.eval()(data.inputs), data.labels)
    assert (found[f"{prefix}_loss"], found[f"{prefix}_acc"]) == pytest.approx(expected, rel=1e-5)
    exactly(mlp.state_dict(), before)


def test_an_empty_batch_weighs_nothing(trainer, data):
    # The second of two ranks that share 17 images by fours runs out of them before its last batch.
    inputs, labels = data.inputs[:17], data.labels[:17]
    batches = Batches(inputs, labels, Order(17, 4, rank=1, ranks=2))
    assert [len(batch) for _, batch in batches] == [4, 4, 0]
    mlp = small()
    (found,) = trainer().validate(mlp, batches, verbose=False)
    expected = measured(mlp.eval()(inputs[1::2]), labels[1::2])
    assert (found["val_loss"], found["val_acc"]) == pytest.approx(expected, rel=1e-5)


def test_both_arms_of_a_seed_see_the_same_batches_and_a_seed_repeats_itself(trainer, data, record):
    def fit(grow: bool | None) -> tuple[list[Tensor], dict[str, Tensor]]:
        torch.manual_seed(0)
        mlp = small(hebbian_grow=grow)
        batched = Batched(mlp)
        trainer(max_epochs=3, callbacks=[batched]).fit(mlp, data)
        return [images for images, *_ in batched.batches], mlp.state_dict()

    hebbian, again, random, static = (fit(grow) for grow in (True, True, False, None))
    exactly(hebbian, again)
    exactly(hebbian[0], random[0])
    exactly(hebbian[0], static[0])
    assert not hebbian[1]["network.linear1.weight"].equal(random[1]["network.linear1.weight"])


# Carrying it elsewhere.


@pytest.fixture
def checkpoint(trainer, data, tmp_path) -> tuple[SparseMLP, Path]:
    """A model after three epochs and its checkpoint, in which an active weight happens to be exactly zero."""
    mlp = small()
    run = trainer(max_epochs=3)
    run.fit(mlp, data)
    weight, mask = mlp.network.linear2.weight.data, mlp.prune_regrow.masks["network.linear2.weight"]
    weight[tuple(mask.nonzero()[0])] = 0.0
    run.save_checkpoint(tmp_path / "three.ckpt")
    return mlp, tmp_path / "three.ckpt"


def test_a_loaded_checkpoint_is_the_network_that_was_saved(checkpoint):
    mlp, path = checkpoint
    torch.manual_seed(9)
    loaded = SparseMLP.load_from_checkpoint(path)
    exactly(loaded.state_dict(), mlp.state_dict())
    exactly(masks_of(loaded), masks_of(mlp))
    assert loaded.hparams == mlp.hparams


def test_a_checkpoint_holds_nothing_but_tensors_and_plain_values(checkpoint):
    assert torch.load(checkpoint[1], weights_only=True)["hyper_parameters"]["hidden_sizes"] == [8, 5]


def test_a_fit_of_a_loaded_checkpoint_continues_from_its_topology(trainer, data, checkpoint):
    mlp, path = checkpoint
    loaded, masks = SparseMLP.load_from_checkpoint(path, seed=7), Masks()
    trainer(max_epochs=2, callbacks=[masks]).fit(loaded, data)
    exactly(masks.epochs[0], masks_of(mlp))  # that one zero weight included
    assert loaded.prune_regrow.rewirings == 1
    assert on_masks(loaded)


def test_a_state_loaded_in_a_fresh_network_brings_its_topology(trainer, data):
    source, other, masks = small(seed=1), small(seed=2), Masks()
    other.load_state_dict(source.state_dict())
    trainer(max_epochs=2, callbacks=[masks]).fit(other, data)
    exactly(masks.epochs[0], masks_of(source))
    assert [int(mask.sum()) for mask in masks.epochs[1].values()] == [24, 20, 8]


def test_the_state_loads_in_a_plain_sequential_of_the_same_names(checkpoint):
    mlp, _ = checkpoint
    plain = nn.Module()
    plain.network = nn.Sequential()
    for name, part in mlp.network.named_children():
        plain.network.add_module(name, copy.deepcopy(part))
        if hasattr(part, "reset_parameters"):
            plain.network[-1].reset_parameters()
    plain.load_state_dict(mlp.state_dict(), strict=True)
    images = torch.randn(5, 6)
    assert plain.eval().network(images).equal(mlp.eval()(images))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_sizes": (8, 6)}, r"checkpoint with network.linear2.weight of shape \[6, 8\], got \[5, 8\]"),
        ({"hidden_sizes": (8,)}, r"checkpoint with network.output.weight of shape \[3, 8\], got \[3, 5\]"),
        ({"num_classes": 4}, r"checkpoint with network.output.weight of shape \[4, 5\], got \[3, 5\]"),
        ({"batch_norm": False}, r"checkpoint with network.norm1.weight of shape none, got \[8\]"),
    ],
)
def test_a_checkpoint_of_another_architecture_is_refused_in_a_sentence(trainer, data, checkpoint, change, message):
    with pytest.raises(ValueError, match=message):
        trainer(max_epochs=4).fit(small(**change), data, ckpt_path=checkpoint[1])
    with pytest.raises(ValueError, match=r"\AExpected a checkpoint with .+, got .+\Z"):
        SparseMLP.load_from_checkpoint(checkpoint[1], **change)


def test_a_checkpoint_of_the_same_architecture_in_other_words_is_loaded(checkpoint):
    mlp, path = checkpoint
    exactly(SparseMLP.load_from_checkpoint(path, hidden_sizes=(8, 5)).state_dict(), mlp.state_dict())


@pytest.mark.parametrize(
    "options",
    [{"hidden_sizes": [8, 5]}, {"lr_milestones": [1]}, {"density": {"*.linear*": 0.5}}, {"prune_fraction": {"*": 0.2}}],
)
def test_settings_from_a_configuration_file_train_and_resume(trainer, data, tmp_path, options):
    options = {key: OmegaConf.create(value) for key, value in options.items()}
    run = trainer(max_epochs=2)
    run.fit(small(**options), data)
    run.save_checkpoint(tmp_path / "two.ckpt")
    again = small(**options)
    trainer(max_epochs=3).fit(again, data, ckpt_path=tmp_path / "two.ckpt")
    assert again.prune_regrow.rewirings == 2
    torch.load(tmp_path / "two.ckpt", weights_only=True)
    SparseMLP.load_from_checkpoint(tmp_path / "two.ckpt")


# A run that was interrupted is the run that was not: four epochs of three steps, stopped after some step, or at the end
# of some epoch right after its validation or after its last hook.


def four_epochs(trainer, data, folder, logger, options, save: str, checkpoint: Path | None = None) -> dict[str, object]:
    """All there is to know of a run, from the start or from a checkpoint on; `save` names one that it leaves behind."""
    torch.manual_seed(0 if checkpoint is None else 99)
    mlp, masks = small(lr_milestones=[2], **options), Masks()
    kind, number = save.split("=")
    when = {
        "step": {"filename": "{step}", "every_n_train_steps": int(number)},
        "validated-epoch": {"filename": "validated-{epoch}", "save_on_train_epoch_end": False},
        "ended-epoch": {"filename": "ended-{epoch}", "save_on_train_epoch_end": True},
    }[kind]
    keep = ModelCheckpoint(folder, save_top_k=-1, **when)
    run = trainer(max_epochs=4, logger=logger, callbacks=[masks, keep], enable_checkpointing=True)
    run.fit(mlp, data, ckpt_path=checkpoint)
    return {
        "weights": mlp.state_dict(),
        "rewiring": mlp.prune_regrow.state_dict(),
        "masks": masks.epochs[-1],
        "optimizer": run.optimizers[0].state_dict(),
        "schedule": run.lr_scheduler_configs[0].scheduler.state_dict(),
        "steps": run.global_step,
        "metrics": [logger.epochs.get(epoch) for epoch in (2, 3)],
    }


def straight_and_continued(trainer, data, folder, logs, options, start: str) -> list[dict[str, object]]:
    """The same run without and with an interruption."""
    straight = four_epochs(trainer, data, folder / "run", logs[0], options, start)
    checkpoint = (folder / "run" / f"{start}.ckpt").rename(folder / "start.ckpt")
    shutil.rmtree(folder / "run")  # as the continued run is to save there too
    return [straight, four_epochs(trainer, data, folder / "run", logs[1], options, start, checkpoint)]


ARMS = {
    "hebbian": {"hebbian_grow": True},
    "random": {"hebbian_grow": False},
    "leaky": {"hebbian_grow": True, "count_validation": True},
    "adam": {"hebbian_grow": True, "optimizer": "Adam", "learning_rate": 0.01, "pruning_early_stop": 1},
}
# Inside an epoch; at an epoch's very last step, after which Lightning leaves its validation out; after an epoch.
INSIDE, LAST = ("step=1", "step=4", "step=5"), ("step=6", "step=9")
AFTER = ("validated-epoch=0", "validated-epoch=1", "ended-epoch=0", "ended-epoch=1")


@pytest.mark.parametrize(
    ("arm", "start"),
    [
        *((arm, start) for arm in ("hebbian", "random") for start in (*INSIDE, *LAST, *AFTER)),
        *(("leaky", start) for start in (INSIDE[2], *AFTER)),
        *(("adam", start) for start in (INSIDE[2], LAST[0], AFTER[3])),
    ],
)
def test_a_continued_run_is_to_the_bit_the_run_that_was_never_interrupted(
    trainer, data, recorder, tmp_path, arm, start
):
    logs = recorder(), recorder()
    straight, continued = straight_and_continued(trainer, data, tmp_path, logs, ARMS[arm], start)
    if start == LAST[1]:  # the metrics of epoch 2 are left out with its validation
        del straight["metrics"][0], continued["metrics"][0]
    exactly(continued, straight)


@pytest.mark.parametrize("together", [1, 64])
def test_metrics_of_an_epoch_continued_halfway_are_of_the_whole_epoch(
    trainer, data, recorder, tmp_path, monkeypatch, together
):
    monkeypatch.setattr("sparse_lightning.models.sparse_mlp.TOGETHER", together)
    logs = recorder(), recorder()
    straight_and_continued(trainer, data, tmp_path, logs, {}, "step=5")
    assert logs[1].epochs[1] == logs[0].epochs[1]


def test_saving_checkpoints_changes_nothing(trainer, data, recorder, tmp_path):
    torch.manual_seed(0)
    mlp = small(lr_milestones=[2])
    trainer(max_epochs=4).fit(mlp, data)
    exactly(four_epochs(trainer, data, tmp_path, recorder(), {}, save="step=1")["weights"], mlp.state_dict())


@pytest.mark.parametrize("algorithm", ["norm", "value"])
def test_the_trainer_clips_gradients(trainer, data, algorithm):
    mlp, largest = small(), []

    class Largest(Callback):
        def on_before_zero_grad(self, trainer: object, pl_module: SparseMLP, optimizer: object) -> None:
            gradients = [weight.grad for weight in pl_module.parameters() if weight.grad is not None]
            largest.extend(float(gradient.abs().max()) for gradient in gradients)

    trainer(max_epochs=1, callbacks=[Largest()], gradient_clip_val=1e-4, gradient_clip_algorithm=algorithm).fit(
        mlp, data
    )
    assert 0 < max(largest) <= 1e-4


def test_gradients_are_let_go_of_before_the_next_ones():
    mlp = small()
    optimizer = mlp.configure_optimizers()["optimizer"]
    mlp(torch.ones(4, 6)).sum().backward()
    mlp.optimizer_zero_grad(0, 0, optimizer)
    assert all(parameter.grad is None for parameter in mlp.parameters())


def test_a_rank_that_never_has_an_image_has_sums_to_reduce():
    mlp = small()
    mlp._measure("val", torch.zeros(0, 6), torch.zeros(0, dtype=torch.long))
    checkpoint = {}
    mlp.on_save_checkpoint(checkpoint)
    assert checkpoint["metrics"] == {"val": [0, 0, 0]}


def test_what_a_subclass_does_to_the_loss_is_not_in_the_metric(trainer, data, record):
    class Penalised(SparseMLP):
        def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
            loss = super().training_step(batch, batch_idx)
            loss += 100
            return loss

    mlp = Penalised(6, 3, hidden_sizes=(8,), density=0.5)
    trainer(max_epochs=1, logger=record).fit(mlp, data)
    assert record.epochs[0]["train_loss"] < 10
