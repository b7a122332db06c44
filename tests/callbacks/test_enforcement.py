"""Inactive weights are zero after each step, in each validation and checkpoint and at the end, whatever is done."""

import copy
import inspect
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import BaseFinetuning, LearningRateFinder, ModelCheckpoint
from torch import Tensor, nn
from torch.optim import Optimizer
from watching import Epochs, Watch, active, clones, off_masks

from sparse_lightning import SET, PruneRegrow, RigL
from sparse_lightning.callbacks.masks import Masks, StepHook, is_off

SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=1e-4)
Adam = partial(torch.optim.Adam, lr=0.01)
AdamW = partial(torch.optim.AdamW, lr=0.01)
NO_OPTIMIZER = pytest.mark.filterwarnings("ignore:`LightningModule.configure_optimizers` returned `None`")
NAMES = ("network.0.weight", "network.3.weight", "network.5.weight")


# Masks alone.


def masks(layer: nn.Module, **rows: list[list[int]]) -> Masks:
    made = Masks()
    made.replace({name: torch.tensor(rows[name]).bool() for name in rows})
    made.bind(layer)
    return made


def test_inactive_weights_are_zeroed_and_active_ones_kept():
    layer = nn.Linear(2, 2)
    layer.weight.data = torch.tensor([[1.0, 2.0], [float("nan"), float("inf")]])
    held = masks(layer, weight=[[1, 0], [0, 0]])
    assert held.repair() == ["weight"]
    assert layer.weight.tolist() == [[1.0, 0.0], [0.0, 0.0]]
    assert held.repair() == []


def from_vector(module: nn.Module) -> None:
    nn.utils.vector_to_parameters(nn.utils.parameters_to_vector(module.parameters()), module.parameters())


@pytest.mark.parametrize(
    "replace",
    [
        lambda layer: setattr(layer.weight, "data", layer.weight.data.clone()),
        lambda layer: setattr(layer, "weight", nn.Parameter(layer.weight.detach().clone())),
        lambda layer: layer.to(torch.float64),
        lambda layer: nn.utils.vector_to_parameters(
            nn.utils.parameters_to_vector(layer.parameters()), layer.parameters()
        ),
    ],
)
def test_weights_are_found_by_name_whatever_replaces_them(replace):
    layer = nn.Linear(3, 2)
    held = masks(layer, weight=[[1, 0, 1], [0, 0, 1]])
    held.enforce()
    replace(layer)
    with torch.no_grad():
        layer.weight.add_(1)
    held.enforce()
    assert (layer.weight != 0).equal(held["weight"])


def test_a_layer_that_is_replaced_is_found_by_a_walk():
    net = nn.Sequential(nn.Linear(3, 2))
    held = Masks()
    held.replace({"0.weight": torch.tensor([[1, 0, 1], [0, 0, 1]]).bool()})
    held.bind(net)
    held.enforce()
    net[0] = nn.Linear(3, 2)
    assert held.repair() == ["0.weight"]
    assert (net[0].weight != 0).equal(held["0.weight"])


@pytest.mark.parametrize(("value", "off"), [(0.0, False), (-0.0, False), (1e-30, True), (float("nan"), True)])
def test_an_inactive_weight_is_off_its_mask_if_it_is_anything_but_zero(value, off):
    assert is_off(torch.tensor([1.0, value]), torch.tensor([True, False])) == off


def test_copies_of_masks_carry_no_model():
    held = masks(nn.Linear(2, 1), weight=[[1, 0]])
    copied = copy.deepcopy(held)
    assert copied.module is None
    assert copied["weight"].equal(held["weight"])
    assert copied["weight"] is not held["weight"]


# The hook on all optimizers alone.


def test_every_optimizer_calls_after_its_step_until_the_hook_is_detached():
    weights = [nn.Parameter(torch.ones(1)) for _ in range(2)]
    early, calls, hook = torch.optim.SGD([weights[0]], lr=0.1), [], StepHook()
    hook.attach(
        lambda optimizer: ["held"] if optimizer.param_groups[0]["params"][0] is not weights[1] else [],
        lambda optimizer, names: calls.append((optimizer, names)),
    )
    late, other = torch.optim.Adam([weights[0]]), torch.optim.SGD([weights[1]], lr=0.1)
    for optimizer in (early, late, other, early):
        optimizer.step()
    hook.detach()
    early.step()
    assert calls == [(early, ["held"]), (late, ["held"]), (early, ["held"])]
    assert not hook.attached


def test_an_optimizer_is_asked_anew_what_it_holds_when_a_group_joins():
    first, second = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    optimizer, calls, hook = torch.optim.SGD([first], lr=0.1), [], StepHook()
    hook.attach(lambda optimizer: [str(len(optimizer.param_groups))], lambda optimizer, names: calls.append(names))
    optimizer.step()
    optimizer.add_param_group({"params": [second]})
    optimizer.step()
    hook.detach()
    assert calls == [["1"], ["2"]]


# In trainings: optimizers.


@pytest.mark.parametrize("options", [{}, {"accumulate_grad_batches": 2}, {"precision": "bf16-mixed"}])
@pytest.mark.parametrize("optimizer", [SGD, AdamW])
def test_after_every_step(fit, model, net, optimizer, options):
    watch = Watch(callback := PruneRegrow(density=0.3))
    module = model(net, optimizer)
    fit(module, callback, watch, **options)
    assert watch.batches == 9
    assert watch.moved > 0
    assert any(module.get_parameter(name).grad[~mask].any() for name, mask in callback.masks.items())


class Lookahead(Optimizer):
    """Slow weights that are half way to those of an optimizer inside, each second step."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {})
        self.inner, self.steps = torch.optim.Adam(self.param_groups, lr=0.01), 0
        self.slow = [p.detach().clone() + 0.1 for group in self.param_groups for p in group["params"]]

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = self.inner.step(closure)
        self.steps += 1
        if self.steps % 2 == 0:
            for slow, weight in zip(self.slow, self.param_groups[0]["params"], strict=True):
                slow.lerp_(weight, 0.5)
                weight.copy_(slow)
        return loss


class ScheduleFree(Optimizer):
    """Averages outside of the weights: eval() puts the average in their place, train() takes it back."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {})
        self.weights = [p for group in self.param_groups for p in group["params"]]
        self.average = [p.detach().clone() + 0.1 for p in self.weights]  # off the masks from the first
        self.training = [p.detach().clone() for p in self.weights]

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for weight, average in zip(self.weights, self.average, strict=True):
            weight.sub_(weight.grad, alpha=0.1)
            average.lerp_(weight, 0.2)
        return loss

    @torch.no_grad()
    def swap(self, taken: list[Tensor], given: list[Tensor]) -> None:
        for weight, keep, put in zip(self.weights, taken, given, strict=True):
            keep.copy_(weight)
            weight.copy_(put)

    def eval(self) -> None:
        self.swap(self.training, self.average)

    def train(self) -> None:
        self.swap(self.average, self.training)


class HalfSteps(Optimizer):
    """Sharpness-aware minimisation, whose optimizer is inside and whose own step is never called."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {})
        self.inner = torch.optim.SGD(self.param_groups, lr=0.1)

    @torch.no_grad()
    def climb(self) -> None:
        for weight in self.param_groups[0]["params"]:
            self.state[weight]["climbed"] = 0.05 * weight.grad
            weight.add_(self.state[weight]["climbed"])

    @torch.no_grad()
    def descend(self) -> None:
        for weight in self.param_groups[0]["params"]:
            weight.sub_(self.state[weight]["climbed"])
        self.inner.step()


def test_an_optimizer_within_another_is_met_whichever_steps(fit, model, net):
    fit(model(net, Lookahead), callback := PruneRegrow(0.3), watch := Watch(callback))
    assert watch.moved > 0


def test_two_half_steps_by_hand(fit, model, net):
    class ByHand(model):
        automatic_optimization = False

        def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
            optimizer = self.optimizers()
            for half in (optimizer.climb, optimizer.descend):
                optimizer.zero_grad()
                self.manual_backward(super().training_step(batch, batch_idx))
                half()

        def configure_optimizers(self) -> Optimizer:
            return HalfSteps(self.parameters())

    fit(ByHand(net), callback := PruneRegrow(0.3), watch := Watch(callback))
    assert watch.moved > 0


@pytest.mark.filterwarnings("ignore:Inactive connections of")
def test_an_optimizer_that_swaps_in_an_average_to_evaluate(fit, model, net, tmp_path):
    class Swapping(model):
        def configure_optimizers(self) -> Optimizer:
            return ScheduleFree(self.parameters())

        def on_validation_model_eval(self) -> None:
            super().on_validation_model_eval()
            self.optimizers().optimizer.eval()

        def on_validation_model_train(self) -> None:
            super().on_validation_model_train()
            self.optimizers().optimizer.train()

    callback = PruneRegrow(0.3)
    watch = Watch(callback)
    fit(Swapping(net), callback, watch, limit_val_batches=1.0, num_sanity_val_steps=0, epochs=4)
    assert watch.validations == 12
    assert watch.moved > 0


def test_an_optimizer_made_anew_in_training(fit, model, net):
    class Anew(model):
        def on_train_epoch_start(self) -> None:
            if self.current_epoch:
                self.trainer.strategy.setup_optimizers(self.trainer)

    fit(Anew(net), callback := PruneRegrow(0.3), watch := Watch(callback))
    assert watch.moved > 0


@NO_OPTIMIZER
@pytest.mark.parametrize("kept", [True, False])
def test_an_optimizer_that_lightning_does_not_know(fit, model, net, kept):
    made: list[Optimizer] = []

    class Own(model):
        automatic_optimization = False

        def __init__(self, network: nn.Module) -> None:
            super().__init__(network)
            made.append(SGD(network.parameters()))
            if kept:
                self.own = made[0]

        def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
            made[0].zero_grad()
            super().training_step(batch, batch_idx).backward()
            made[0].step()

        def configure_optimizers(self) -> None:
            return None

    fit(Own(net), callback := PruneRegrow(0.3), watch := Watch(callback))
    assert sum(active(callback.masks)) == 41
    assert watch.moved > 0


@pytest.mark.parametrize("growth", ["random", "gradient", "momentum"])
def test_two_optimizers_by_hand_that_step_at_different_times(fit, model, net, growth):
    class Two(model):
        automatic_optimization = False

        def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
            first, second = self.optimizers()
            self.manual_backward(super().training_step(batch, batch_idx))
            first.step()
            if batch_idx == 1:
                second.step()
                second.zero_grad()
            first.zero_grad()

        def configure_optimizers(self) -> list[Optimizer]:
            return [SGD(self.network[:3].parameters()), AdamW(self.network[3:].parameters())]

    callback = PruneRegrow(0.5, growth=growth)
    fit(Two(net), callback, watch := Watch(callback))
    assert callback.rewirings == 2
    assert watch.moved > 0


def test_a_closure_that_is_evaluated_several_times_a_step(fit, model, net):
    fit(
        model(net, partial(torch.optim.LBFGS, lr=0.1, max_iter=3)),
        callback := PruneRegrow(0.3),
        watch := Watch(callback),
    )
    assert watch.moved > 0


# In trainings: what happens to the weights themselves.


class Does(Callback):
    """Does something to the module at one of Lightning's hooks."""

    def __init__(self, hook: str, do: Any) -> None:
        setattr(self, hook, lambda trainer, module, *args: do(trainer, module))


def replace_storage(trainer: Trainer, module: LightningModule) -> None:
    for weight in module.parameters():
        weight.data = weight.data.clone()


def replace_from_vector(trainer: Trainer, module: LightningModule) -> None:
    from_vector(module)


@torch.no_grad()
def add_noise(trainer: Trainer, module: LightningModule) -> None:
    for weight in module.parameters():
        weight.add_(0.1)


def initialise(trainer: Trainer, module: LightningModule) -> None:
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            layer.reset_parameters()


@pytest.mark.parametrize("hook", ["on_train_epoch_end", "on_train_batch_end", "on_train_batch_start"])
@pytest.mark.parametrize("do", [replace_storage, replace_from_vector])
def test_weights_whose_storage_is_replaced(fit, model, net, do, hook):
    callback = PruneRegrow(0.3)
    fit(model(net), Does(hook, do), callback, watch := Watch(callback))
    assert watch.moved > 0


def test_convolutions_in_another_memory_format(fit, model, data):
    data.inputs = torch.randn(20, 2, 6, 6)
    network = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(16, 3))
    last = Does("on_train_epoch_start", lambda trainer, module: module.to(memory_format=torch.channels_last))
    fit(model(network), last, callback := PruneRegrow(0.3), watch := Watch(callback))
    assert network[2].weight.is_contiguous(memory_format=torch.channels_last)
    assert watch.moved > 0


@pytest.mark.parametrize("order", [1, -1])
def test_weights_made_anew_at_the_start_of_a_fit(fit, model, net, order):
    callback = PruneRegrow(0.3)
    callbacks = [Does("on_fit_start", initialise), callback][::order]
    watch = Watch(callback)
    fit(model(net), *callbacks, watch)
    assert watch.moved > 0


@pytest.mark.parametrize("order", [1, -1])
def test_layers_replaced_at_the_start_of_a_fit(fit, model, net, order):
    def replace(trainer: Trainer, module: LightningModule) -> None:
        module.network[3] = nn.Linear(8, 8)
        trainer.strategy.setup_optimizers(trainer)

    callback = PruneRegrow(0.3)
    fit(model(net), *[Does("on_fit_start", replace), callback][::order], watch := Watch(callback))
    assert set(callback.masks) == set(NAMES)
    assert watch.moved > 0


@pytest.mark.parametrize("hook", ["on_train_batch_end", "on_train_epoch_end"])
def test_noise_after_a_step_is_put_right_before_what_is_kept_and_warned_of_once(fit, model, net, tmp_path, hook):
    callback = PruneRegrow(0.3)
    keep = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)
    seen: list[int] = []
    look = Does("on_validation_batch_end", lambda trainer, module: seen.append(off_masks(module, callback.masks)))
    module = model(net)
    with pytest.warns(UserWarning, match="Inactive connections of network.0, network.3, network.5") as warned:
        fit(
            module,
            Does(hook, add_noise),
            callback,
            keep,
            look,
            limit_val_batches=1.0,
            num_sanity_val_steps=0,
            enable_checkpointing=True,
        )
    (message,) = (str(each.message) for each in warned if "Inactive connections" in str(each.message))
    assert "noise" in message
    assert seen == [0] * 9
    assert off_masks(module, callback.masks) == 0
    for path in tmp_path.glob("*.ckpt"):
        saved = torch.load(path, weights_only=True)
        for name, mask in saved["callbacks"][callback.state_key]["masks"].items():
            assert not saved["state_dict"][name][~mask].any()


def test_weights_that_diverge_are_zero_off_their_masks_too(fit, model, net):
    module = model(net, partial(torch.optim.SGD, lr=1e30))
    callback = PruneRegrow(0.3, growth=None)
    fit(module, callback, epochs=2)
    weight = module.network[0].weight
    assert not weight.isfinite().all()
    assert (weight[~callback.masks[NAMES[0]]] == 0).all()


def test_a_learning_rate_finder_in_mid_training(fit, model, net):
    class Finder(LearningRateFinder):
        def on_fit_start(self, *args: Any) -> None: ...

        def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            if trainer.current_epoch == 1:
                self.lr_find(trainer, pl_module)

    class Rated(model):
        lr = 0.1

        def configure_optimizers(self) -> Optimizer:
            return torch.optim.SGD(self.parameters(), lr=self.lr)

    callback = PruneRegrow(0.3)
    watch = Watch(callback)
    module = Rated(net)
    finder = Finder(num_training_steps=4, early_stop_threshold=None)
    fit(module, finder, callback, watch, epochs=4)
    assert watch.batches == 12
    assert len(finder.optimal_lr.results["loss"]) == 4
    assert off_masks(module, callback.masks) == 0
    assert watch.moved > 0


# Frozen and thawed.


class Thaw(BaseFinetuning):
    """Freezes the second layer before the training and thaws it in its second epoch."""

    def freeze_before_training(self, pl_module: LightningModule) -> None:
        self.freeze(pl_module.network[3])

    def finetune_function(self, pl_module: LightningModule, epoch: int, optimizer: Optimizer) -> None:
        if epoch == 1:
            self.unfreeze_and_add_param_group(pl_module.network[3], optimizer, lr=0.1)


def trained_only(parameters: Any) -> Optimizer:
    return SGD([parameter for parameter in parameters if parameter.requires_grad])


@pytest.mark.parametrize("order", [1, -1])
def test_a_layer_thawed_for_the_first_time_becomes_sparse_like_the_rest(fit, model, net, order):
    callback = PruneRegrow(0.25)
    module, epochs = model(net, trained_only), Epochs(callback)
    fit(module, *[Thaw(), callback][::order], epochs, epochs=4)
    assert set(callback.masks) == set(NAMES)
    assert [NAMES[1] in masks for masks in epochs.masks] == [False, True, True, True]
    # In the order of the model's parameters, whenever they came.
    assert list(callback.masks) == list(NAMES)
    assert int(module.network[3].weight.count_nonzero()) <= int(callback.masks[NAMES[1]].sum()) == 16
    assert not epochs.masks[1][NAMES[1]].equal(epochs.masks[3][NAMES[1]])
    assert off_masks(module, callback.masks) == 0


def test_a_group_that_joins_an_optimizer_in_an_epoch(fit, model, net):
    def join(trainer: Trainer, module: LightningModule) -> None:
        if trainer.global_step == 4:
            trainer.optimizers[0].add_param_group({"params": list(module.network[5].parameters())})

    callback = PruneRegrow(0.25)
    first = lambda parameters: SGD(list(parameters)[:-2])  # noqa: E731
    module = model(net, first)
    fit(module, Does("on_train_batch_start", join), callback, watch := Watch(callback), epochs=4)
    assert list(callback.masks) == list(NAMES)
    assert int(callback.masks[NAMES[2]].sum()) == 6
    assert watch.moved > 0


@pytest.mark.parametrize(
    "make",
    [
        lambda: SET(0.3),
        lambda: RigL(0.3, every_n_steps=2, schedule="constant", stop=None),
        lambda: PruneRegrow(0.3, growth="hebbian"),
    ],
)
def test_frozen_in_mid_training_a_layer_stays_as_it_is_and_thawed_it_is_rewired_again(fit, model, net, make):
    def freeze(trainer: Trainer, module: LightningModule) -> None:
        if trainer.current_epoch in (2, 5):
            module.network[3].requires_grad_(trainer.current_epoch == 5)
            kept.append(clones(module.network[3]))

    kept: list[dict[str, Tensor]] = []
    callback = make()
    module, epochs = model(net), Epochs(callback)
    fit(module, callback, Does("on_train_epoch_start", freeze), epochs, epochs=8)
    torch.testing.assert_close(kept[0], kept[1], rtol=0, atol=0)
    second = [masks[NAMES[1]] for masks in epochs.masks]
    assert second[2].equal(second[4])
    assert any(not before.equal(after) for before, after in pairwise(second[4:]))
    assert not epochs.masks[2][NAMES[0]].equal(epochs.masks[4][NAMES[0]])


def test_a_layer_frozen_from_the_start_is_left_alone(fit, model, net):
    net[0].weight.requires_grad_(False)
    before = net[0].weight.clone()
    fit(model(net), callback := PruneRegrow(0.5))
    assert list(callback.masks) == list(NAMES[1:])
    assert net[0].weight.equal(before)


# What is kept.


class Validated(Callback):
    """Keeps the weights that each validation ran with."""

    def __init__(self) -> None:
        self.weights: list[dict[str, Tensor]] = []

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.weights.append({name: pl_module.get_parameter(name).detach().clone() for name in NAMES})


@pytest.mark.parametrize("late", [False, True])
def test_a_checkpoint_has_the_weights_and_masks_that_were_validated(fit, model, net, tmp_path, late):
    callback, validated = PruneRegrow(density=0.5), Validated()
    epochs = Epochs(callback)
    keep = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1, save_on_train_epoch_end=late)
    options = {"enable_checkpointing": True, "num_sanity_val_steps": 0, "limit_val_batches": 1.0}
    fit(model(net), callback, epochs, validated, keep, **options)
    for epoch, (masks, weight) in enumerate(zip(epochs.masks, validated.weights, strict=True)):
        saved = torch.load(tmp_path / f"epoch={epoch}.ckpt", weights_only=True)
        torch.testing.assert_close(saved["callbacks"][callback.state_key]["masks"], masks)
        torch.testing.assert_close({name: saved["state_dict"][name] for name in NAMES}, weight, rtol=0, atol=0)


def test_biases_and_norms_stay_dense(fit, model, net):
    trained = model(net)
    dense = {name: parameter != 0 for name, parameter in trained.named_parameters() if name not in NAMES}
    fit(trained, PruneRegrow(density=0.1), epochs=2)
    assert all(trained.get_parameter(name)[nonzero].all() for name, nonzero in dense.items())


def test_the_state_loads_in_a_model_that_knows_nothing_of_this(fit, model, net):
    callback, trained = PruneRegrow(density=0.25), model(copy.deepcopy(net))
    names = list(trained.state_dict())
    fit(trained, callback, epochs=2)
    assert list(trained.state_dict()) == names
    net.load_state_dict(trained.network.state_dict(), strict=True)
    inputs = torch.randn(5, 6)
    assert net.eval()(inputs).equal(trained.network.eval()(inputs))
    assert off_masks(model(net), callback.masks) == 0


def test_no_hook_is_left_behind(fit, model, net):
    hooks = inspect.getmodule(Optimizer)._global_optimizer_post_hooks
    before = len(hooks)
    module = model(net)
    fit(module, PruneRegrow(0.5, growth="hebbian"))

    class Fails(model):
        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            raise KeyError("a fault of the user's")

    with pytest.raises(KeyError, match="a fault"):
        fit(Fails(copy.deepcopy(net)), PruneRegrow(0.5, growth="hebbian", initial="nonzero"))
    assert len(hooks) == before
    assert not any(layer._forward_hooks for layer in module.modules())
