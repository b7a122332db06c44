"""Averages of weights stay on the masks of their source, whoever keeps them."""

import copy
from functools import partial
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import EMAWeightAveraging, StochasticWeightAveraging, WeightAveraging
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from watching import Watch, off_masks

from sparse_lightning import PruneRegrow


def decayed(average: Tensor, weight: Tensor, count: Any) -> Tensor:
    return 0.9 * average + 0.1 * weight


class OnMasks(Callback):
    """Asserts in each validation, which runs on the averaged weights, that they are on the masks."""

    def __init__(self, callback: PruneRegrow) -> None:
        self.callback, self.looked = callback, 0

    def on_validation_batch_end(self, trainer: Any, pl_module: LightningModule, *_: Any) -> None:
        assert off_masks(pl_module, self.callback.masks) == 0
        assert all(pl_module.get_parameter(name).detach()[mask].any() for name, mask in self.callback.masks.items())
        self.looked += 1


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("average", [WeightAveraging, partial(EMAWeightAveraging, decay=0.5)])
def test_averaged_weights_stay_on_the_masks_and_training_is_unharmed(trainer, model, net, data, average, first):
    def fit(*others: Callback) -> tuple[PruneRegrow, LightningModule, OnMasks]:
        callback, trained = PruneRegrow(density=0.3, growth="hebbian"), model(copy.deepcopy(net))
        look = OnMasks(callback)
        callbacks = [*others, callback, look] if first else [callback, look, *others]
        run = trainer(max_epochs=4, callbacks=callbacks)
        run.fit(trained, data)
        run.validate(trained, data, verbose=False)
        return callback, trained, look

    alone, averaged = fit(), fit(average())
    assert averaged[2].looked == alone[2].looked > 0
    torch.testing.assert_close(dict(averaged[0].masks), dict(alone[0].masks))  # training itself was the same
    assert off_masks(averaged[1], averaged[0].masks) == 0
    for name in averaged[0].masks:
        assert not averaged[1].get_parameter(name).equal(alone[1].get_parameter(name))


@pytest.mark.filterwarnings("ignore:Swapping scheduler")
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("norm", [True, False])
def test_stochastic_weight_averaging_ends_on_the_masks_without_another_rewiring(fit, model, net, norm, first):
    network = net if norm else nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    callback = PruneRegrow(density=0.3)
    averaging = StochasticWeightAveraging(swa_lrs=0.01, swa_epoch_start=1)
    trained = model(network)
    fit(trained, *([averaging, callback] if first else [callback, averaging]), epochs=5)
    assert callback.rewirings == 4  # and none for the epoch that batch norm alone is given
    assert off_masks(trained, callback.masks) == 0
    assert all(trained.get_parameter(name).detach()[mask].any() for name, mask in callback.masks.items())


@pytest.mark.parametrize("hook", ["on_train_batch_end", "on_train_epoch_end"])
@pytest.mark.parametrize("whole", [True, False])
def test_an_average_within_the_model_follows_its_source(fit, model, net, hook, whole):
    class Averaged(model):
        def __init__(self, network: nn.Sequential) -> None:
            super().__init__(network)
            source = network if whole else network[3]
            self.average = AveragedModel(source, avg_fn=decayed)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.network.parameters(), lr=0.1)

        def update(self, *_: Any) -> None:
            self.average.update_parameters(self.network if whole else self.network[3])

    setattr(Averaged, hook, Averaged.update)
    module, callback = Averaged(net), PruneRegrow(0.3)
    fit(module, callback, watch := Watch(callback), epochs=4)
    assert not any(name.startswith("average") for name in callback.masks)
    assert watch.moved > 0
    masks = dict(callback.masks) if whole else {"network.3.weight": callback.masks["network.3.weight"]}
    source = "network" if whole else "network.3"
    assert off_masks(module, masks, source, "average.module") == 0


def test_a_module_that_only_looks_like_an_average_is_left_alone(fit, model, net):
    class Wrapped(model):
        def __init__(self, network: nn.Sequential) -> None:
            super().__init__(network)
            self.other = nn.Module()
            self.other.module = copy.deepcopy(network).requires_grad_(False)
            self.before = copy.deepcopy(self.other.module.state_dict())

    module = Wrapped(net)
    fit(module, PruneRegrow(0.3))
    torch.testing.assert_close(module.other.module.state_dict(), module.before)
