"""Whole trainings: every criterion with every other, interruptions to the bit, compilation, copies."""

import copy
import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from watching import Epochs, Keep, Watch, active, equal_states, off_masks

from sparse_lightning import CHT, CHTs, PruneRegrow, SparseMLP
from sparse_lightning.criteria.growth import GROWTH
from sparse_lightning.criteria.pruning import PRUNING

SGD = partial(torch.optim.SGD, lr=0.01, momentum=0.9, weight_decay=1e-4)
Adam = partial(torch.optim.Adam, lr=0.001)
AdamW = partial(torch.optim.AdamW, lr=0.001)
NAMES = ("network.0.weight", "network.3.weight", "network.5.weight")


def convolutional() -> nn.Sequential:
    """Of six values: two convolutions of 12 and 48 weights, and two matrices of 120 and 15."""
    block = nn.Unflatten(1, (1, 6)), nn.Conv1d(1, 4, 3, padding=1), nn.BatchNorm1d(4), nn.ReLU(inplace=True)
    return nn.Sequential(
        *block, nn.Conv1d(4, 4, 3, padding=1), nn.Flatten(), nn.Linear(24, 5), nn.ReLU(), nn.Linear(5, 3)
    )


# A training that was interrupted continues to the bit.

OPTIONS: dict[str, dict[str, Any]] = {
    "steps": {"every_n_steps": 4},
    "cosine": {"schedule": "cosine", "every_n_steps": 2, "stop": 0.75},
    "keep": {"optimizer_state": "keep"},
    "regrow": {"regrow": True, "every_n_steps": 3},
    "erk": {"distribution": "erk", "density": {"*": 0.4}},
}
FAST = [("signed_magnitude", growth, SGD, {}) for growth in GROWTH if "cannistraci" not in growth]  # for matrices alone
FAST += [(pruning, "hebbian", AdamW, {}) for pruning in ("magnitude", "mixed")]
FAST += [("signed_magnitude", "gradient", SGD, OPTIONS["cosine"])]
SLOW = [
    (pruning, growth, SGD, {})
    for pruning in PRUNING
    for growth in GROWTH
    if pruning not in ("signed_magnitude", "chain_removal") and "cannistraci" not in growth
]
SLOW += [("magnitude", growth, Adam, {}) for growth in GROWTH if "cannistraci" not in growth]
SLOW += [
    ("signed_magnitude", growth, SGD, options) for growth in ("hebbian", "gradient") for options in OPTIONS.values()
]


@pytest.mark.parametrize(
    ("pruning", "growth", "optimizer", "options"),
    [*FAST, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)],
)
def test_a_training_killed_in_an_epoch_continues_to_the_bit(
    fit, model, record, tmp_path, pruning, growth, optimizer, options
):
    network = convolutional()

    def train(*, checkpoint: int | None = None) -> list[Any]:
        chosen = {"density": 0.5, "prune_fraction": 0.5, "growth": growth, "pruning": pruning} | options
        callback, trained, logger = PruneRegrow(**chosen), model(copy.deepcopy(network), optimizer), type(record)()
        watch = Watch(callback)
        callbacks = [callback, watch, *([Keep(tmp_path)] if checkpoint is None else [])]
        path = None if checkpoint is None else tmp_path / f"{checkpoint}.ckpt"
        run = fit(trained, *callbacks, epochs=4, logger=logger, ckpt_path=path)
        assert watch.moved > 0
        metrics = {epoch: logger.epochs[epoch] for epoch in (2, 3)}
        return [trained.state_dict(), callback.state_dict(), run.optimizers[0].state_dict(), metrics]

    straight = train()
    for step in (4, 6):  # in the middle of the second epoch, and at its end
        equal_states(train(checkpoint=step), straight)


def test_a_training_by_hand_with_two_optimizers_continues_to_the_bit(fit, model, net, tmp_path):
    class Two(model):
        automatic_optimization = False

        def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
            self.manual_backward(super().training_step(batch, batch_idx))
            for number, optimizer in enumerate(self.optimizers()):
                if number == 0 or batch_idx == 2:
                    optimizer.step()
                    optimizer.zero_grad()

        def configure_optimizers(self) -> list[torch.optim.Optimizer]:
            return [SGD(self.network[:3].parameters()), AdamW(self.network[3:].parameters())]

    def train(path: Any = None) -> list[Any]:
        callback = PruneRegrow(0.5, growth="gradient")
        trained = Two(copy.deepcopy(net))

        class AtTheEnd(Callback):
            def on_train_epoch_end(self, trainer: Trainer, *_: Any) -> None:
                if path is None and trainer.current_epoch == 1:
                    trainer.save_checkpoint(tmp_path / "two.ckpt")

        fit(trained, callback, AtTheEnd(), epochs=4, ckpt_path=path)
        return [trained.state_dict(), callback.state_dict()]

    straight = train()
    assert straight[1]["rewirings"]["number"] == 3
    equal_states(train(tmp_path / "two.ckpt"), straight)


# Accumulated, clipped, in half precision.


@pytest.mark.parametrize(
    "options", [{"accumulate_grad_batches": 2, "gradient_clip_val": 0.01}, {"precision": "bf16-mixed"}]
)
@pytest.mark.parametrize("growth", ["hebbian", "gradient", "momentum"])
def test_accumulation_clipping_and_half_precision_change_nothing(fit, model, growth, options):
    callback = PruneRegrow(density=0.5, growth=growth)
    fit(model(convolutional(), SGD), callback, watch := Watch(callback), epochs=4, **options)
    assert callback.rewirings == 3
    assert watch.moved > 0


# Compiled.

DYNAMO = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # it looks itself


@pytest.fixture
def compiled() -> Any:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield partial(torch.compile, backend="eager")
    torch._dynamo.reset()


@pytest.mark.slow
@DYNAMO
@pytest.mark.parametrize("growth", ["random", "hebbian", "gradient"])
def test_a_compiled_model_trains_the_same_and_is_not_compiled_again_when_the_topology_moves(
    fit, model, net, data, compiled, growth
):
    data.inputs, data.labels = data.inputs[:16], data.labels[:16]  # batches of one size

    class Recompilations(Callback):
        def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            if trainer.current_epoch == 1:
                torch._dynamo.config.error_on_recompile = True

    def train(wrap: Callable[[LightningModule], Any]) -> tuple[LightningModule, PruneRegrow]:
        trained, callback = model(copy.deepcopy(net)), PruneRegrow(density=0.5, growth=growth)
        fit(wrap(trained), Recompilations(), callback, epochs=4)
        return trained, callback

    plain, sparse = train(lambda module: module)
    try:
        torch._dynamo.config.error_on_recompile = False
        fast, other = train(compiled)
    finally:
        torch._dynamo.config.error_on_recompile = False
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    assert other.rewirings == sparse.rewirings == 3
    equal_states(other.state_dict(), sparse.state_dict())
    torch.testing.assert_close(fast.state_dict(), plain.state_dict())


@pytest.mark.slow
@DYNAMO
@pytest.mark.filterwarnings("ignore:PruneRegrow will not rewire in this training")  # in a single epoch
def test_a_compiled_sparse_mlp_is_not_compiled_again_for_its_metrics(trainer, data, compiled):
    data.inputs, data.labels, data.batch_size = data.inputs[:16], data.labels[:16], 2
    module = SparseMLP(6, 3, hidden_sizes=(8,), density=0.5)
    trainer(max_epochs=1, limit_val_batches=0).fit(compiled(module), data)
    assert 0 < torch._dynamo.utils.counters["stats"]["unique_graphs"] < 8  # of eight batches


@pytest.mark.slow
@DYNAMO
def test_a_model_of_which_a_module_is_compiled_is_counted_the_same(fit, model, compiled):
    class Outer(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner, self.head = inner, nn.Linear(5, 3)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.head(self.inner(inputs))

    network = Outer(nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU()))
    twin = copy.deepcopy(network)
    twin.inner.compile(backend="eager")
    counts = []
    for each in (network, twin):
        callback = PruneRegrow(density=0.5, growth="hebbian")
        fit(model(each), callback, epochs=2)
        counts.append(callback.state_dict())
    equal_states(counts[1], counts[0])


# Copies, and fits that follow each other.


def pickled(callback: PruneRegrow) -> PruneRegrow:
    return pickle.loads(pickle.dumps(callback))


@pytest.mark.parametrize("growth", ["random", "hebbian"])
@pytest.mark.parametrize("carry", [copy.deepcopy, pickled])
def test_a_copy_works_before_and_after_a_fit(fit, model, net, carry, growth):
    callback = carry(PruneRegrow(density=0.5, growth=growth))
    trained = model(net)
    fit(trained, callback, epochs=2)
    other, copied = carry(callback), copy.deepcopy(trained)
    fit(trained, callback, epochs=2)
    assert other.rewirings == 1
    fit(copied, other, epochs=2)
    assert other.rewirings == callback.rewirings == 3
    torch.testing.assert_close(dict(other.masks), dict(callback.masks))
    equal_states(copied.state_dict(), trained.state_dict())


def test_a_second_fit_goes_on_from_the_first_with_exact_counts(fit, model, net):
    callback = PruneRegrow(density=0.5, growth="hebbian")
    trained, epochs, watch = model(net), Epochs(callback), Watch(callback)
    for _ in range(2):
        fit(trained, callback, epochs, watch, epochs=2)
    assert callback.rewirings == 3
    assert [active(masks) for masks in epochs.masks] == [[24, 32, 12]] * 4
    for before, after in zip(epochs.masks, epochs.masks[1:], strict=False):
        assert all((after[name] & ~before[name]).any() for name in NAMES)


def test_a_fit_from_the_weights_of_a_checkpoint_takes_other_settings(fit, model, net, tmp_path):
    first = PruneRegrow(0.5)
    run = fit(trained := model(net), first, epochs=2)
    run.save_checkpoint(tmp_path / "half.ckpt")
    other = model(copy.deepcopy(net))
    other.load_state_dict(torch.load(tmp_path / "half.ckpt", weights_only=True)["state_dict"])
    callback = PruneRegrow(0.25, growth="hebbian", initial="magnitude")
    fit(other, callback, epochs := Epochs(callback))
    assert active(callback.masks) == [12, 16, 6]
    for name, mask in epochs.masks[0].items():
        assert not (mask & ~first.masks[name]).any()
    assert off_masks(trained, first.masks) == 0


def test_a_method_whose_needs_a_model_cannot_meet_is_refused_by_name(fit, model):
    net = nn.Sequential(nn.Unflatten(1, (1, 6)), nn.Conv1d(1, 2, 3), nn.Flatten(), nn.Linear(8, 3))
    with pytest.raises(ValueError, match=r"CannistraciHebbGrowth.*'network.1.weight' is no matrix.*exclude"):
        fit(model(net), CHTs(0.5))
    with pytest.raises(ValueError, match="has no sparse layer beside it"):
        fit(model(nn.Sequential(nn.Linear(6, 3))), CHT(0.5))
