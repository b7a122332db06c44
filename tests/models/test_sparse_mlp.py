"""SparseMLP: its layers, its callback, its optimizer, its metrics, and what a checkpoint of it continues."""

import copy
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import LambdaCallback, ModelCheckpoint
from omegaconf import OmegaConf
from torch import Tensor, nn

from sparse_lightning import SET, PruneRegrow, SparseMLP
from sparse_lightning.datamodules.in_memory import Batches, Order
from sparse_lightning.models import sparse_mlp

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


# Layers and arguments.


def test_layers_and_initial_weights_are_those_of_pytorch():
    torch.manual_seed(5)
    mlp = SparseMLP()
    torch.manual_seed(5)
    layers: list[nn.Module] = []
    for inputs in (784, 100, 100):
        layers += [nn.Linear(inputs, 100), nn.BatchNorm1d(100), nn.ReLU()]
    layers.append(nn.Linear(100, 10))
    assert [type(layer) for layer in mlp.network] == [type(layer) for layer in layers]
    exactly(list(mlp.network.state_dict().values()), list(nn.Sequential(*layers).state_dict().values()))


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({}, ["linear1", "norm1", "relu1", "linear2", "norm2", "relu2", "output"]),
        ({"batch_norm": False}, ["linear1", "relu1", "linear2", "relu2", "output"]),
        ({"dropout": 0.5, "hidden_sizes": [4]}, ["linear1", "norm1", "relu1", "dropout1", "output"]),
        ({"activation": "kwinners", "hidden_sizes": [4]}, ["linear1", "norm1", "kwinners1", "output"]),
        ({"hidden_sizes": []}, ["output"]),
    ],
)
def test_layers_are_named_in_order(options, names):
    assert [name for name, _ in small(**options).network.named_children()] == names


@pytest.mark.parametrize("shape", [(2, 784), (2, 28, 28), (2, 1, 28, 28)])
def test_images_of_any_shape_give_a_logit_for_each_class(shape):
    assert SparseMLP()(torch.randn(shape)).shape == (2, 10)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_size": 0}, "Expected input_size to be an integer of at least 1, got 0"),
        ({"num_classes": 2.0}, "Expected num_classes to be an integer of at least 1, got 2.0"),
        ({"hidden_sizes": [100, 0]}, r"Expected hidden_sizes to be a list .* at least 1, got \[100, 0\]"),
        ({"hidden_sizes": 100}, r"Expected hidden_sizes to be a list .*, got 100"),
        ({"activation": "gelu"}, "Expected activation to be one of relu, kwinners, got 'gelu'"),
        ({"percent_on": 0}, r"Expected percent_on in \(0, 1\], got 0"),
        ({"boost_strength": -1}, "Expected boost_strength of at least 0, got -1"),
        ({"boost_strength_factor": 1.1}, r"Expected boost_strength_factor in \[0, 1\], got 1.1"),
        ({"k_inference_factor": "a"}, "Expected k_inference_factor of at least 0, got 'a'"),
        ({"dropout": 1.0}, r"Expected dropout in \[0, 1\), got 1.0"),
        ({"batch_norm": "no"}, "Expected batch_norm to be true or false, got 'no'"),
        ({"density": 0.0}, r"Expected density in \(0, 1\], got 0.0"),
        ({"density": 1.3}, r"Expected density in \(0, 1\], got 1.3"),
        ({"prune_fraction": 1.3}, r"Expected prune_fraction in \[0, 1\), got 1.3"),
        ({"hebbian_grow": "yes"}, "Expected hebbian_grow to be true, false or null, got 'yes'"),
        ({"pruning_early_stop": -1}, r"Expected pruning_early_stop .*, got -1"),
        ({"optimizer": "RMSprop"}, "Expected optimizer to be one of SGD, Adam, AdamW, got 'RMSprop'"),
        ({"learning_rate": 0.0}, "Expected learning_rate above 0, got 0.0"),
        ({"learning_rate": "fast"}, "Expected learning_rate above 0, got 'fast'"),
        ({"momentum": 1.0}, r"Expected momentum in \[0, 1\), got 1.0"),
        ({"nesterov": True, "momentum": 0}, "Expected nesterov with optimizer SGD and a momentum above 0, got True"),
        ({"nesterov": True, "optimizer": "Adam"}, "Expected nesterov with optimizer SGD"),
        ({"betas": [0.9]}, r"Expected betas to be two numbers in \[0, 1\), got \[0.9\]"),
        ({"weight_decay": -1e-4}, "Expected weight_decay of at least 0, got -0.0001"),
        ({"lr_schedule": "step"}, "Expected lr_schedule to be one of multistep, cosine, linear, constant, got 'step'"),
        ({"lr_interval": "batch"}, "Expected lr_interval to be one of epoch, step, got 'batch'"),
        ({"lr_milestones": [60, 30]}, r"Expected lr_milestones to be integers in rising order, got \[60, 30\]"),
        ({"lr_gamma": 0}, "Expected lr_gamma above 0, got 0"),
        ({"lr_final": 0.2}, r"Expected lr_final in \[0, learning_rate\], got 0.2"),
        ({"noise_level": 1.5}, r"Expected noise_level in \[0, 1\], got 1.5"),
        ({"seed": 0.5}, "Expected seed to be an integer, got 0.5"),
    ],
)
def test_arguments_out_of_range_are_refused_in_one_sentence(arguments, message):
    with pytest.raises(ValueError, match=message):
        SparseMLP(**arguments)


def test_density_of_a_layer_that_is_not_there_is_refused(trainer, data):
    with pytest.raises(ValueError, match=r"match 'network.linear9' in density, got only network.linear1, "):
        trainer(max_epochs=1).fit(small(density={"network.linear9": 0.5}), data)


def test_arguments_after_the_sizes_are_keyword_only():
    with pytest.raises(TypeError, match="positional"):
        SparseMLP(6, 3, (8, 5))


def test_repr_shows_the_arguments_that_differ_from_their_defaults():
    assert repr(small()).splitlines()[1].strip() == ("input_size=6, num_classes=3, hidden_sizes=[8, 5], density=0.5")


# Its PruneRegrow.


def test_weights_are_cut_when_a_trainer_sets_the_callback_up(trainer, data):
    mlp, counts = small(hebbian_grow=None), []
    dense = all((weight != 0).all() for weight in mlp.parameters() if weight.dim() == 2)
    count = LambdaCallback(
        on_train_start=lambda *_: counts.extend(int((w != 0).sum()) for w in mlp.parameters() if w.dim() == 2)
    )
    trainer(max_epochs=1, callbacks=[count]).fit(mlp, data)
    assert dense
    assert counts == [24, 20, 8]


def test_the_network_of_the_experiment_has_its_exact_counts_of_connections():
    mlp = SparseMLP()
    mlp.prune_regrow.sparsify(mlp)
    names = ("linear1", "linear2", "linear3", "output")
    assert {name: int(mask.sum()) for name, mask in masks_of(mlp).items()} == dict(
        zip((f"network.{name}.weight" for name in names), (15680, 2000, 2000, 200), strict=True)
    )
    assert on_masks(mlp)


def test_the_arms_of_a_seed_start_from_the_same_weights_and_masks():
    arms = []
    for grow in (True, False, None):
        torch.manual_seed(3)
        arms.append(small(hebbian_grow=grow, seed=3))
        arms[-1].prune_regrow.sparsify(arms[-1])
    other = small(seed=4)
    other.prune_regrow.sparsify(other)
    for arm in arms[1:]:
        exactly(arm.state_dict(), arms[0].state_dict())
        exactly(masks_of(arm), masks_of(arms[0]))
    assert not masks_of(other)["network.linear1.weight"].equal(masks_of(arms[0])["network.linear1.weight"])


@pytest.mark.parametrize("hebbian_grow", [True, False])
def test_it_rewires_between_epochs_and_keeps_its_counts(trainer, data, hebbian_grow):
    mlp, masks = small(hebbian_grow=hebbian_grow), Masks()
    trainer(max_epochs=4, callbacks=[masks]).fit(mlp, data)
    assert mlp.prune_regrow.rewirings == 3
    for before, after in zip(masks.epochs, masks.epochs[1:], strict=False):
        assert [int(mask.sum()) for mask in after.values()] == [24, 20, 8]
        assert all((after[name] & ~before[name]).any() for name in before)
    assert on_masks(mlp)


def test_without_growth_the_topology_never_changes(trainer, data):
    mlp, masks = small(hebbian_grow=None), Masks()
    trainer(max_epochs=3, callbacks=[masks]).fit(mlp, data)
    exactly(masks.epochs[2], masks.epochs[0])
    assert on_masks(mlp)


def test_rewiring_stops_after_pruning_early_stop_drops_of_the_learning_rate(trainer, data):
    mlp = small(lr_milestones=[2], pruning_early_stop=1)
    trainer(max_epochs=4).fit(mlp, data)
    assert mlp.prune_regrow.rewirings == 1


def test_a_prune_regrow_of_the_user_takes_the_place_of_its_own_with_one_line_in_the_log(trainer, data, monkeypatch):
    lines: list[str] = []
    monkeypatch.setattr(sparse_mlp, "rank_zero_info", lines.append)
    mlp, callback = small(), SET(density={"network.linear*": 0.25}, distribution="uniform")
    run = trainer(max_epochs=2, callbacks=[callback])
    run.fit(mlp, data)
    assert [each for each in run.callbacks if isinstance(each, PruneRegrow)] == [callback]
    assert [int(mask.sum()) for mask in callback.masks.values()] == [12, 10]
    assert not mlp.prune_regrow.masks
    assert lines == ["SparseMLP: the Trainer's PruneRegrow is used in place of the model's own"]


def test_density_one_is_a_dense_network_without_a_callback(trainer, data):
    mlp, run = small(density=1), trainer(max_epochs=2)
    run.fit(mlp, data)
    assert all((weight != 0).all() for weight in mlp.parameters() if weight.dim() == 2)
    assert not any(isinstance(callback, PruneRegrow) for callback in run.callbacks)


def test_a_trainer_that_fits_several_models_has_the_callback_of_the_last_one(trainer, data):
    run = trainer(max_epochs=1)
    for mlp in (small(hebbian_grow=None), small(hebbian_grow=None, density=0.25), small(density=1)):
        for _ in range(2):
            run.fit_loop.epoch_progress.reset()
            run.fit(mlp, data)
            own = [] if mlp.hparams["density"] == 1 else [mlp.prune_regrow]
            assert [callback for callback in run.callbacks if isinstance(callback, PruneRegrow)] == own
    assert all((weight != 0).all() for weight in mlp.parameters() if weight.dim() == 2)


# Optimizers and schedules.


@pytest.mark.parametrize(
    ("options", "kind", "expected"),
    [
        ({}, torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": False, "weight_decay": 1e-4}),
        ({"nesterov": True, "momentum": 0.5}, torch.optim.SGD, {"nesterov": True, "momentum": 0.5}),
        ({"optimizer": "Adam", "learning_rate": 0.01}, torch.optim.Adam, {"lr": 0.01, "weight_decay": 1e-4}),
        ({"optimizer": "AdamW", "betas": (0.5, 0.9)}, torch.optim.AdamW, {"lr": 0.1, "betas": (0.5, 0.9)}),
    ],
)
def test_the_optimizer_is_the_one_asked_for(options, kind, expected):
    optimizer = small(lr_schedule="constant", **options).configure_optimizers()
    assert type(optimizer) is kind
    assert {key: optimizer.param_groups[0][key] for key in expected} == expected


HALVED = [0.1, 0.075, 0.05, 0.025]
COSINE = [0.1, 0.1 * (2 + 2**0.5) / 4, 0.05, 0.1 * (2 - 2**0.5) / 4]


@pytest.mark.parametrize("automatic", [True, False])
@pytest.mark.parametrize(
    ("options", "rates"),
    [
        ({"lr_milestones": [1, 3], "lr_gamma": 0.5}, [0.1, 0.05, 0.05, 0.025]),
        ({"lr_schedule": "constant"}, [0.1] * 4),
        ({"lr_schedule": "linear"}, HALVED),
        ({"lr_schedule": "linear", "lr_final": 0.02}, [0.1, 0.08, 0.06, 0.04]),
        ({"lr_schedule": "cosine"}, COSINE),
    ],
)
@pytest.mark.parametrize("interval", ["epoch", "step"])
def test_the_learning_rate_follows_its_schedule_by_epoch_and_by_step(
    trainer, data, options, rates, interval, automatic
):
    found: list[float] = []
    note = LambdaCallback(on_train_batch_start=lambda run, *_: found.append(run.optimizers[0].param_groups[0]["lr"]))
    mlp = small(lr_interval=interval, **options)
    mlp.automatic_optimization = automatic
    lengths = {"max_epochs": 4} if interval == "epoch" else {"max_epochs": 2, "limit_train_batches": 2}
    trainer(callbacks=[note], **lengths).fit(mlp, data)
    assert found == pytest.approx(np.repeat(rates, 3 if interval == "epoch" else 1).tolist())


def test_a_schedule_that_falls_until_the_end_needs_a_trainer_with_one(trainer, data):
    with pytest.raises(ValueError, match="Expected a Trainer with max_epochs, for a learning rate that falls"):
        trainer(max_epochs=-1, max_steps=5).fit(small(lr_schedule="cosine"), data)


@pytest.mark.parametrize("algorithm", ["norm", "value"])
def test_the_trainer_clips_gradients(trainer, data, algorithm):
    mlp, largest = small(hebbian_grow=None), []
    note = LambdaCallback(
        on_before_zero_grad=lambda *_: largest.extend(
            float(weight.grad.abs().max()) for weight in mlp.parameters() if weight.grad is not None
        )
    )
    trainer(max_epochs=1, callbacks=[note], gradient_clip_val=1e-4, gradient_clip_algorithm=algorithm).fit(mlp, data)
    assert 0 < max(largest) <= 1e-4


# Metrics.


class Batched(Callback):
    """Keeps every training batch with the logits that it gave."""

    def __init__(self, mlp: SparseMLP) -> None:
        self.batches: list[tuple[Tensor, Tensor, Tensor]] = []
        mlp.network.register_forward_hook(lambda module, args, output: setattr(self, "logits", output.detach()))

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, *_: Any) -> None:
        self.batches.append((batch[0], batch[1], self.logits))


def measured(logits: Tensor, labels: Tensor) -> tuple[float, float]:
    """Mean loss and accuracy, one sample at a time."""
    losses = [-row.double().log_softmax(0)[label].item() for row, label in zip(logits, labels, strict=True)]
    correct = [row.argmax().item() == label.item() for row, label in zip(logits, labels, strict=True)]
    return sum(losses) / len(losses), sum(correct) / len(correct)


def test_metrics_are_means_over_samples_including_the_short_last_batch(trainer, data, record):
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
def test_validate_and_test_measure_all_samples(trainer, data, stage):
    mlp = small()
    (found,) = getattr(trainer(), stage)(mlp, data, verbose=False)
    prefix = {"validate": "val", "test": "test"}[stage]
    expected = measured(mlp.eval()(data.inputs), data.labels)
    assert (found[f"{prefix}_loss"], found[f"{prefix}_acc"]) == pytest.approx(expected, rel=1e-5)


def test_an_empty_batch_weighs_nothing(trainer, data):
    # The second of two ranks that share 17 samples by fours has none left for its last batch.
    inputs, labels = data.inputs[:17], data.labels[:17]
    batches = Batches(inputs, labels, Order(17, 4, rank=1, ranks=2))
    assert [len(batch) for _, batch in batches] == [4, 4, 0]
    mlp = small()
    (found,) = trainer().validate(mlp, batches, verbose=False)
    expected = measured(mlp.eval()(inputs[1::2]), labels[1::2])
    assert (found["val_loss"], found["val_acc"]) == pytest.approx(expected, rel=1e-5)


def test_a_rank_that_never_has_a_sample_has_sums_to_reduce():
    mlp, checkpoint = small(), {}
    mlp._measure("val", torch.zeros(0, 6), torch.zeros(0, dtype=torch.long))
    mlp.on_save_checkpoint(checkpoint)
    assert checkpoint["metrics"] == {"val": [0, 0, 0]}


def test_what_a_subclass_does_to_the_loss_is_not_in_the_metric(trainer, data, record):
    class Penalised(SparseMLP):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            loss += 100
            return loss

    trainer(max_epochs=1, logger=record).fit(Penalised(6, 3, hebbian_grow=None), data)
    assert record.epochs[0]["train_loss"] < 10


def test_the_arms_of_a_seed_get_the_same_batches_and_a_seed_repeats_itself(trainer, data):
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


# Checkpoints.


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
    loaded = SparseMLP.load_from_checkpoint(path)
    exactly(loaded.state_dict(), mlp.state_dict())
    exactly(masks_of(loaded), masks_of(mlp))
    assert loaded.hparams == mlp.hparams


def test_a_fit_of_a_loaded_checkpoint_continues_from_its_topology(trainer, data, checkpoint):
    mlp, path = checkpoint
    loaded, masks = SparseMLP.load_from_checkpoint(path, seed=7), Masks()
    trainer(max_epochs=2, callbacks=[masks]).fit(loaded, data)
    exactly(masks.epochs[0], masks_of(mlp))  # including the active weight that is zero
    assert loaded.prune_regrow.rewirings == 1
    assert on_masks(loaded)


def test_the_weights_of_a_sparse_network_bring_its_topology(trainer, data):
    source, other, masks = small(seed=1), small(seed=2), Masks()
    source.prune_regrow.sparsify(source)
    other.load_state_dict(source.state_dict())
    trainer(max_epochs=2, callbacks=[masks]).fit(other, data)
    exactly(masks.epochs[0], masks_of(source))
    assert [int(mask.sum()) for mask in masks.epochs[1].values()] == [24, 20, 8]


def test_the_weights_load_in_a_plain_sequential_of_the_same_names(checkpoint):
    mlp, _ = checkpoint
    plain = nn.Module()
    plain.network = nn.Sequential()
    for name, layer in mlp.network.named_children():
        plain.network.add_module(name, copy.deepcopy(layer))
        if hasattr(layer, "reset_parameters"):
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
        ({"density": 0.25}, "checkpoint with 12 active connections of network.linear1.weight, got 24"),
    ],
)
def test_a_checkpoint_of_another_architecture_is_refused_in_one_sentence(trainer, data, checkpoint, change, message):
    with pytest.raises(ValueError, match=message):
        trainer(max_epochs=4).fit(small(**change), data, ckpt_path=checkpoint[1])
    with pytest.raises(ValueError, match=r"\AExpected a checkpoint .+, got .+\Z"):
        SparseMLP.load_from_checkpoint(checkpoint[1], **change)


@pytest.mark.parametrize(
    "options",
    [
        {"hidden_sizes": OmegaConf.create([8, 5]), "lr_milestones": OmegaConf.create([1])},
        {"density": OmegaConf.create({"*.linear*": 0.5}), "prune_fraction": OmegaConf.create({"*": 0.2})},
        {"hidden_sizes": np.array([8, 5]).tolist(), "dropout": np.float32(0.25), "seed": np.int64(3)},
    ],
)
def test_settings_of_omegaconf_and_numpy_train_resume_and_are_saved_as_plain_values(trainer, data, tmp_path, options):
    run = trainer(max_epochs=2)
    run.fit(small(**options), data)
    run.save_checkpoint(tmp_path / "two.ckpt")
    again = small(**options)
    trainer(max_epochs=4).fit(again, data, ckpt_path=tmp_path / "two.ckpt")
    assert again.prune_regrow.rewirings == 3
    saved = torch.load(tmp_path / "two.ckpt", weights_only=True)["hyper_parameters"]
    assert {type(value) for value in saved.values()} <= {int, float, bool, str, list, dict}
    assert SparseMLP.load_from_checkpoint(tmp_path / "two.ckpt").hparams == again.hparams


# A run that was interrupted is the run that was not: four epochs of three steps, interrupted after some step, or at the
# end of some epoch, right after its validation or after its last hook.


def four_epochs(trainer, data, folder, logger, options, save: str, checkpoint: Path | None = None) -> dict[str, Any]:
    """All that can be observed of a run, from the start or from a checkpoint on; `save` names one that it writes."""
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
        "rewiring": {name: each for name, each in mlp.prune_regrow.state_dict().items() if name != "settings"},
        "masks": masks.epochs[-1],
        "optimizer": run.optimizers[0].state_dict(),
        "schedule": run.lr_scheduler_configs[0].scheduler.state_dict(),
        "steps": run.global_step,
        "metrics": [logger.epochs.get(epoch) for epoch in (2, 3)],
    }


def straight_and_continued(trainer, data, folder, logs, options, start: str) -> list[dict[str, Any]]:
    """The same run without and with an interruption."""
    straight = four_epochs(trainer, data, folder / "run", logs[0], options, start)
    checkpoint = (folder / "run" / f"{start}.ckpt").rename(folder / "start.ckpt")
    shutil.rmtree(folder / "run")  # as the continued run saves there too
    return [straight, four_epochs(trainer, data, folder / "run", logs[1], options, start, checkpoint)]


ARMS = {
    "hebbian": {"hebbian_grow": True},
    "random": {"hebbian_grow": False},
    "leaky": {"hebbian_grow": True, "count_validation": True},
    "adam": {"optimizer": "Adam", "learning_rate": 0.01, "pruning_early_stop": 1},
    "kwinners": {"activation": "kwinners", "percent_on": 0.5, "test_noise": True, "noise_level": 0.5},
}
# Inside an epoch; at an epoch's very last step, after which Lightning leaves its validation out; after an epoch.
INSIDE, LAST = ("step=1", "step=4", "step=5"), ("step=6", "step=9")
AFTER = ("validated-epoch=0", "validated-epoch=1", "ended-epoch=0", "ended-epoch=1")


@pytest.mark.parametrize(
    ("arm", "start"),
    [
        *(("hebbian", start) for start in (*INSIDE, *LAST, *AFTER)),
        *((arm, start) for arm in ("random", "kwinners") for start in (INSIDE[2], LAST[0], AFTER[1], AFTER[3])),
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


def test_metrics_of_an_epoch_continued_halfway_are_of_the_whole_epoch(trainer, data, recorder, tmp_path):
    logs = recorder(), recorder()
    straight_and_continued(trainer, data, tmp_path, logs, {}, "step=5")
    assert logs[1].epochs[1] == logs[0].epochs[1]


def test_saving_checkpoints_changes_nothing(trainer, data, recorder, tmp_path):
    torch.manual_seed(0)
    mlp = small(lr_milestones=[2])
    trainer(max_epochs=4).fit(mlp, data)
    exactly(four_epochs(trainer, data, tmp_path, recorder(), {}, save="step=1")["weights"], mlp.state_dict())
