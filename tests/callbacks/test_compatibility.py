"""What is refused before anything is done, what several callbacks share, and other people's Trainers."""

import copy
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy, ModelParallelStrategy
from torch import Tensor, nn
from watching import Watch, active, clones

from sparse_lightning import HebbianRegrow, PruneRegrow, RigL
from sparse_lightning.callbacks import compatibility

NAMES = ("network.0.weight", "network.3.weight", "network.5.weight")


def test_connections_whose_number_changes_are_refused_on_several_processes():
    for case in ((1, "csr", True), (2, "masked", True), (2, "csr", False)):
        compatibility.refuse_resizing(*case)
    with pytest.raises(
        ValueError, match=r"layout='masked' for numbers of connections that change on 2 processes, got layout='csr'"
    ):
        compatibility.refuse_resizing(2, "csr", True)


@pytest.mark.parametrize("strategy", [FSDPStrategy, ModelParallelStrategy])
def test_a_strategy_that_shards_weights_is_refused_before_anything_is_done(model, net, strategy):
    before = clones(net)
    trainer = SimpleNamespace(strategy=strategy(), callbacks=[])
    with pytest.raises(
        ValueError, match=f"Expected a strategy that keeps every weight whole .*, got {strategy.__name__}"
    ):
        PruneRegrow().setup(trainer, model(net), "fit")
    torch.testing.assert_close(net.state_dict(), before)
    compatibility.refuse_sharding(SimpleNamespace(strategy=DDPStrategy()))


def test_weights_that_two_have_chosen_are_refused():
    compatibility.refuse_shared_weights([["a", "b"], ["c"]])
    with pytest.raises(ValueError, match="Expected one PruneRegrow for each weight, got two for b"):
        compatibility.refuse_shared_weights([["a", "b"], {"b": 1}])


def test_two_on_the_same_weight_are_refused_before_anything_is_done(fit, model, net):
    first, second = PruneRegrow({"network.[03]": 0.5}), PruneRegrow({"network.[35]": 0.25})
    before = clones(net)
    with pytest.raises(ValueError, match=r"Expected one PruneRegrow for each weight, got two for network\.3\.weight"):
        fit(model(net), first, second, epochs=2)
    torch.testing.assert_close(net.state_dict(), before)


def test_two_for_all_layers_are_refused(fit, model, net):
    with pytest.raises((ValueError, RuntimeError), match="PruneRegrow"):
        fit(model(net), PruneRegrow(0.5), PruneRegrow(0.25), epochs=2)


def test_two_callbacks_of_one_configuration_but_other_exclusions_share_a_model(fit, model, net):
    first, second = PruneRegrow(0.25, exclude=["network.0", "network.3"]), PruneRegrow(0.5, exclude="network.5")
    fit(model(net), first, second, watch := Watch(second))
    assert (active(first.masks), active(second.masks)) == ([6], [24, 32])
    assert watch.moved > 0


@pytest.mark.parametrize("order", [1, -1])
def test_two_on_different_layers_work_and_are_saved_apart(fit, model, net, tmp_path, order):
    def pair() -> tuple[PruneRegrow, PruneRegrow]:
        return PruneRegrow({"network.[03]": 0.5}), PruneRegrow({"network.5": 0.25}, growth="hebbian")

    first, second = pair()
    trained = model(net)
    run = fit(trained, first, second, Watch(first), Watch(second))
    assert (active(first.masks), active(second.masks)) == ([24, 32], [6])
    assert (first.rewirings, second.rewirings) == (2, 2)
    run.save_checkpoint(tmp_path / "two.ckpt")
    again = pair()
    fit(trained, *again[::order], ckpt_path=tmp_path / "two.ckpt")
    for old, new in zip((first, second), again, strict=True):
        torch.testing.assert_close(dict(new.masks), dict(old.masks))


# Settings that changed.


@pytest.fixture
def saved(fit: Any, model: Any, net: Any, tmp_path: Any) -> Any:
    """A checkpoint after two epochs, and the model that it is of."""
    run = fit(trained := model(net), PruneRegrow(0.5, seed=3), epochs=2)
    run.save_checkpoint(tmp_path / "two.ckpt")
    return tmp_path / "two.ckpt", trained


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"density": 0.25}, "density"),
        ({"growth": "hebbian"}, "growth"),
        ({"pruning": "magnitude"}, "pruning"),
        ({"seed": 4}, "seed"),
        ({"distribution": "erk"}, "distribution"),
    ],
)
def test_a_changed_setting_is_refused_on_resume_with_both_values(fit, model, saved, changed, named):
    path, trained = saved
    callback = PruneRegrow(**{"density": 0.5, "seed": 3} | changed)
    with pytest.raises(ValueError, match=rf"Expected the settings of the checkpoint, got .*{named}.*without ckpt_path"):
        fit(trained, callback, epochs=4, ckpt_path=path)


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
@pytest.mark.parametrize(
    "changed", [{"include": "network.[03]"}, {"exclude": "network.5"}, {"density": {"network.0": 0.5}}]
)
def test_a_changed_selection_is_refused_on_resume(fit, model, saved, changed):
    path, trained = saved
    callback = PruneRegrow(**{"density": 0.5, "seed": 3} | changed)
    with pytest.raises(ValueError, match=r"Expected .*checkpoint.*(include|exclude|density)"):
        fit(trained, callback, epochs=4, ckpt_path=path)


@pytest.mark.parametrize("changed", [{"prune_fraction": 0.1}, {"schedule": "linear"}, {"log_topology": False}])
def test_what_may_change_in_a_training_may_change_on_resume(fit, saved, changed):
    path, trained = saved
    callback = PruneRegrow(0.5, seed=3, **changed)
    fit(trained, callback, watch := Watch(callback), epochs=4, ckpt_path=path)
    assert callback.rewirings == 3
    assert watch.moved > 0


def test_a_state_of_other_layers_is_refused(model, net):
    callback, other = PruneRegrow(), PruneRegrow()
    callback.sparsify(model(net))
    other.sparsify(model(nn.Sequential(nn.Linear(6, 9))))
    with pytest.raises(ValueError, match=r"Expected a checkpoint with 'network\.\d\.weight' of shape"):
        callback.load_state_dict(other.state_dict())


# Beside others.


class Metered(LightningModule):
    """A module with a torchmetrics metric, whose hash changes as it counts."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        torchmetrics = pytest.importorskip("torchmetrics")
        self.network = network
        self.accuracy = torchmetrics.classification.MulticlassAccuracy(3)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        logits = self.network(batch[0])
        self.accuracy(logits, batch[1])
        self.log("acc", self.accuracy, on_step=False, on_epoch=True)
        return nn.functional.cross_entropy(logits, batch[1])

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None: ...

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_hebbian_growth_beside_torchmetrics(fit, net):
    fit(Metered(net), callback := HebbianRegrow(0.3), watch := Watch(callback))
    assert watch.moved > 0


def test_the_trainer_of_the_other_name_of_lightning(data):
    other = pytest.importorskip("pytorch_lightning")

    class Other(other.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            return self.network(batch[0]).logsumexp(-1).mean()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    callback, module = HebbianRegrow(0.3), Other()
    timer = other.callbacks.Timer("00:00:10:00")
    other.Trainer(max_epochs=3, callbacks=[callback, timer], logger=False, accelerator="cpu", **quiet).fit(
        module, data.train_dataloader()
    )
    assert callback.rewirings == 2
    assert not any(module.get_parameter(name)[~mask].any() for name, mask in callback.masks.items())


@pytest.mark.parametrize(
    "preset", ["SET", "RigL", "SNFS", "HebbianRegrow", "RandomRegrow", "StaticSparse", "PruneRegrow"]
)
def test_callbacks_are_configured_by_their_signature(preset):
    jsonargparse = pytest.importorskip("jsonargparse")
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Callback, "callback")
    arguments = {"density": 0.05, "every_n_steps": 2, "schedule": "linear", "exclude": "head", "seed": 1}
    config = parser.parse_args(
        [f"--callback=sparse_lightning.{preset}", *(f"--callback.{name}={value}" for name, value in arguments.items())]
    )
    built = getattr(parser, "instantiate", parser.instantiate_classes)(config).callback
    assert type(built).__name__ == preset
    assert {name: getattr(built, name) for name in arguments} == arguments


def test_a_wrong_choice_is_refused_by_a_configuration():
    jsonargparse = pytest.importorskip("jsonargparse")
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Callback, "callback")
    with pytest.raises(jsonargparse.ArgumentError, match="optimizer_state"):
        parser.parse_args(["--callback=sparse_lightning.RigL", "--callback.optimizer_state=forget"])


def test_its_own_logging_can_be_turned_off(fit, model, net, record):
    fit(model(net), RigL(0.5, every_n_steps=2, log_topology=False), logger=record)
    assert not any(name.startswith("topology") for logged in record.epochs.values() for name in logged)


def test_masks_cannot_be_replaced_from_outside(model, net):
    callback = PruneRegrow()
    callback.sparsify(model(net))
    assert isinstance(callback.masks, Mapping)
    with pytest.raises(TypeError):
        callback.masks[NAMES[0]] = torch.ones(8, 6, dtype=torch.bool)


def test_one_instance_starts_anew_on_a_model_of_other_shapes(fit, model, net, data):
    callback = PruneRegrow(density=0.5, growth="hebbian")
    fit(model(net), callback)
    other = model(nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3)))
    fit(other, callback, watch := Watch(callback))
    assert callback.rewirings == 2
    assert {name: list(mask.shape) for name, mask in callback.masks.items()} == {
        "network.0.weight": [12, 6],
        "network.2.weight": [3, 12],
    }
    assert watch.moved > 0


def test_a_model_that_was_frozen_whole_is_trained_without_masks(fit, model, net):
    class Nothing(model):
        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD([copy.deepcopy(self.network[0].weight).requires_grad_()], lr=0.1)

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            return self.network(batch[0]).sum()

    before = clones(net[0])
    fit(Nothing(net), callback := PruneRegrow(0.3))
    assert not callback.masks
    torch.testing.assert_close(net[0].state_dict(), before)
