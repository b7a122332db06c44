"""PruneRegrow beside the rest of Lightning: every criterion, interruption, averaging, compilation, architectures."""

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, StochasticWeightAveraging, WeightAveraging
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from torch import Tensor, nn

from sparse_lightning import HebbianGrowth, PruneRegrow, RigL, SparseMLP
from sparse_lightning.criteria.growth import GROWTH
from sparse_lightning.criteria.pruning import PRUNING

SGD = partial(torch.optim.SGD, lr=0.01, momentum=0.9, weight_decay=1e-4)
Adam = partial(torch.optim.Adam, lr=0.001)
AdamW = partial(torch.optim.AdamW, lr=0.001)


def convolutional() -> nn.Sequential:
    """Of six values: two convolutions of 12 and 48 weights, and two matrices of 120 and 15."""
    block = nn.Unflatten(1, (1, 6)), nn.Conv1d(1, 4, 3, padding=1), nn.BatchNorm1d(4), nn.ReLU(inplace=True)
    return nn.Sequential(
        *block, nn.Conv1d(4, 4, 3, padding=1), nn.Flatten(), nn.Linear(24, 5), nn.ReLU(), nn.Linear(5, 3)
    )


class Watch(Callback):
    """After every step sees that counts hold and nothing is off the masks; between steps, what each rewiring moved."""

    def __init__(self, callback: PruneRegrow) -> None:
        self.callback, self.moved = callback, 0
        self.before: dict[str, Tensor] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        counts = {name: int(mask.sum()) for name, mask in self.callback.masks.items()}
        self.before = {name: mask.clone() for name, mask in self.callback.masks.items()}

        def check(*_: Any) -> None:
            for name, mask in self.callback.masks.items():
                assert int(mask.sum()) == counts[name]
                assert not pl_module.get_parameter(name)[~mask].any()
                self.moved += int((mask & ~self.before[name]).sum())
                self.before[name] = mask.clone()

        for optimizer in trainer.optimizers:
            optimizer.register_step_post_hook(check)


class Keep(Callback):
    """Saves a checkpoint after every step; last of the callbacks, as Lightning's own are."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        trainer.save_checkpoint(self.folder / f"{trainer.global_step}.ckpt")


# Every criterion with every other, and a run that was interrupted.

OPTIONS: dict[str, dict[str, Any]] = {
    "steps": {"every_n_steps": 4},
    "cosine": {"schedule": "cosine", "every_n_steps": 2, "stop": 0.75},
    "keep": {"optimizer_state": "keep"},
    "regrow": {"regrow": True, "every_n_steps": 3},
    "erk": {"distribution": "erk", "density": {"*": 0.4}},
}
CASES = [(pruning, growth, SGD, {}) for pruning in PRUNING for growth in GROWTH]
CASES += [("magnitude", growth, optimizer, {}) for growth in GROWTH for optimizer in (Adam, AdamW)]
CASES += [
    ("signed_magnitude", growth, SGD, options) for growth in ("hebbian", "gradient") for options in OPTIONS.values()
]


@pytest.mark.parametrize(("pruning", "growth", "optimizer", "options"), CASES)
def test_a_run_killed_in_an_epoch_continues_to_the_bit(
    trainer, model, data, record, tmp_path, pruning, growth, optimizer, options
):
    network = convolutional()

    def fit(*, checkpoint: int | None = None) -> list[Any]:
        chosen = {"density": 0.5, "prune_fraction": 0.5, "growth": growth, "pruning": pruning} | options
        callback, trained, logger = PruneRegrow(**chosen), model(copy.deepcopy(network), optimizer), type(record)()
        watch = Watch(callback)
        callbacks = [callback, watch, *([Keep(tmp_path)] if checkpoint is None else [])]
        run = trainer(max_epochs=4, callbacks=callbacks, logger=logger)
        run.fit(trained, data, ckpt_path=None if checkpoint is None else tmp_path / f"{checkpoint}.ckpt")
        assert watch.moved > 0
        metrics = {epoch: logger.epochs[epoch] for epoch in (2, 3)}
        return [trained.state_dict(), callback.state_dict(), run.optimizers[0].state_dict(), metrics]

    straight = fit()
    for step in (4, 6):  # in the middle of the second epoch, and at its end
        torch.testing.assert_close(fit(checkpoint=step), straight, rtol=0, atol=0)


# Steps that are skipped, accumulated, clipped, or taken by hand.


def skipping(model: type[LightningModule], steps: list[int]) -> type[LightningModule]:
    """A Model that trains by hand and takes only some steps."""

    class ByHand(model):
        automatic_optimization = False

        def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(super().training_step(batch, batch_idx))
            self.tried = getattr(self, "tried", -1) + 1
            if self.tried in steps:
                optimizer.step()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return SGD(self.parameters())

    return ByHand


def test_growth_by_gradient_waits_for_the_next_step_that_is_taken(trainer, model, data):
    class Look(PruneRegrow):
        def growth_scores(self, layer):
            self.when.append(self.model.tried)
            return super().growth_scores(layer)

    callback = Look(density=0.5, growth="gradient")
    callback.when, callback.model = [], skipping(model, [0, 1, 5, 6])(convolutional())
    trainer(max_epochs=3, callbacks=[callback]).fit(callback.model, data)
    # The second epoch begins with batch 3, whose step is left out as the next one's; the third with batch 6.
    assert callback.when == [5] * 4 + [6] * 4
    assert callback.rewirings == 2


@pytest.mark.parametrize(
    "options", [{"accumulate_grad_batches": 2}, {"gradient_clip_val": 0.01}, {"precision": "bf16-mixed"}]
)
@pytest.mark.parametrize("growth", ["hebbian", "gradient", "momentum"])
def test_accumulation_clipping_and_half_precision_change_nothing(trainer, model, data, growth, options):
    callback = PruneRegrow(density=0.5, growth=growth)
    watch = Watch(callback)
    trainer(max_epochs=4, callbacks=[callback, watch], **options).fit(model(convolutional(), SGD), data)
    assert callback.rewirings == 3
    assert watch.moved > 0


def test_two_optimizers_grow_by_their_gradients_each_when_it_steps(trainer, model, data):
    class Two(model):
        automatic_optimization = False

        def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
            first, second = self.optimizers()
            self.manual_backward(super().training_step(batch, batch_idx))
            first.step()
            if batch_idx == 2:
                second.step()
                second.zero_grad()
            first.zero_grad()

        def configure_optimizers(self) -> list[torch.optim.Optimizer]:
            return [SGD(self.network[:5].parameters()), AdamW(self.network[5:].parameters())]

    callback = PruneRegrow(density=0.5, growth="gradient")
    watch = Watch(callback)
    trained = Two(convolutional())
    trainer(max_epochs=3, callbacks=[callback, watch]).fit(trained, data)
    assert callback.rewirings == 2
    assert not callback._due
    assert watch.moved == 2 * sum(callback._grown.values())


# Averages of the weights.


class OnMasks(Callback):
    """Sees in each validation, which runs on the averaged weights, and after the fit that they are on the masks."""

    def __init__(self, callback: PruneRegrow) -> None:
        self.callback, self.seen = callback, 0

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        for name, mask in self.callback.masks.items():
            weight = pl_module.get_parameter(name)
            assert not weight[~mask].any()
            assert weight[mask].any()
            self.seen += 1


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("average", [WeightAveraging, partial(EMAWeightAveraging, decay=0.5)])
def test_averaged_weights_stay_on_the_masks_and_training_is_unharmed(trainer, model, net, data, average, first):
    def fit(*others: Callback) -> tuple[PruneRegrow, LightningModule, OnMasks]:
        callback, trained = PruneRegrow(density=0.3, growth="hebbian"), model(copy.deepcopy(net))
        seen = OnMasks(callback)
        callbacks = [*others, callback, seen] if first else [callback, seen, *others]
        run = trainer(max_epochs=4, callbacks=callbacks)
        run.fit(trained, data)
        run.validate(trained, data, verbose=False)
        return callback, trained, seen

    alone, averaged = fit(), fit(average())
    assert averaged[2].seen == alone[2].seen > 0
    torch.testing.assert_close(dict(averaged[0].masks), dict(alone[0].masks))  # training itself was the same
    for name, mask in averaged[0].masks.items():
        assert not averaged[1].get_parameter(name)[~mask].any()
        assert not averaged[1].get_parameter(name).equal(alone[1].get_parameter(name))


@pytest.mark.filterwarnings("ignore:Swapping scheduler")
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("norm", [True, False])
def test_stochastic_weight_averaging_ends_on_the_masks_without_another_rewiring(trainer, model, net, data, norm, first):
    network = net if norm else nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    callback = PruneRegrow(density=0.3)
    averaging = StochasticWeightAveraging(swa_lrs=0.01, swa_epoch_start=1)
    trained = model(network)
    trainer(max_epochs=5, callbacks=[averaging, callback] if first else [callback, averaging]).fit(trained, data)
    assert callback.rewirings == 4  # and none for the epoch that batch norm alone is given
    for name, mask in callback.masks.items():
        weight = trained.get_parameter(name)
        assert not weight[~mask].any()
        assert weight[mask].any()


# Compiled.

DYNAMO = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # it looks itself


@pytest.fixture
def compiled() -> Any:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield partial(torch.compile, backend="eager")
    torch._dynamo.reset()


@DYNAMO
@pytest.mark.parametrize("growth", ["random", "hebbian", "gradient"])
def test_a_compiled_model_trains_the_same_and_is_not_compiled_again_when_the_topology_moves(
    trainer, model, net, data, compiled, growth
):
    data.inputs, data.labels = data.inputs[:16], data.labels[:16]  # batches of one size

    class Recompilations(Callback):
        def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            if trainer.current_epoch == 1:
                torch._dynamo.config.error_on_recompile = True

    def fit(wrap: Callable[[LightningModule], Any]) -> tuple[LightningModule, PruneRegrow]:
        trained, callback = model(copy.deepcopy(net)), PruneRegrow(density=0.5, growth=growth)
        trainer(max_epochs=4, callbacks=[Recompilations(), callback], limit_val_batches=0).fit(wrap(trained), data)
        return trained, callback

    plain, sparse = fit(lambda module: module)
    try:
        torch._dynamo.config.error_on_recompile = False
        fast, other = fit(compiled)
    finally:
        torch._dynamo.config.error_on_recompile = False
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    assert other.rewirings == sparse.rewirings == 3
    torch.testing.assert_close(other.state_dict(), sparse.state_dict())
    torch.testing.assert_close(fast.state_dict(), plain.state_dict())


@DYNAMO
def test_a_compiled_sparse_mlp_is_not_compiled_again_for_its_metrics(trainer, data, compiled):
    data.inputs, data.labels, data.batch_size = data.inputs[:16], data.labels[:16], 2
    trainer(max_epochs=1, limit_val_batches=0).fit(compiled(SparseMLP(6, 3, hidden_sizes=(8,), density=0.5)), data)
    assert 0 < torch._dynamo.utils.counters["stats"]["unique_graphs"] < 8  # of eight batches


@DYNAMO
def test_a_model_compiled_in_part_is_counted_the_same(trainer, model, data, compiled):
    class Part(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner, self.head = inner, nn.Linear(5, 3)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.head(self.inner(inputs))

    network = Part(nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU()))
    twin = copy.deepcopy(network)
    twin.inner.compile(backend="eager")
    counts = []
    for each in (network, twin):
        callback = PruneRegrow(density=0.5, growth="hebbian")
        trainer(max_epochs=2, callbacks=[callback]).fit(model(each), data)
        counts.append(callback.state_dict())
    torch.testing.assert_close(counts[1], counts[0])


# Carried elsewhere.


def test_one_instance_starts_anew_on_a_model_of_other_shapes(trainer, model, net, data):
    callback = PruneRegrow(density=0.5, growth="hebbian")
    trainer(max_epochs=3, callbacks=[callback]).fit(model(net), data)
    other = model(convolutional())
    watch = Watch(callback)
    trainer(max_epochs=3, callbacks=[callback, watch]).fit(other, data)
    assert callback.rewirings == 2
    assert {name: mask.shape for name, mask in callback.masks.items()} == {
        name: weight.shape for name, weight in other.named_parameters() if name in callback.masks
    }
    assert len(callback.masks) == 4
    assert watch.moved > 0


@pytest.mark.parametrize("strategy", [FSDPStrategy, ModelParallelStrategy])
def test_a_strategy_that_shards_weights_is_refused_before_anything_is_done(model, net, strategy):
    before = copy.deepcopy(net.state_dict())
    trainer = SimpleNamespace(strategy=strategy(), callbacks=[])
    with pytest.raises(
        ValueError, match=f"Expected a strategy that keeps every weight whole .*, got {strategy.__name__}"
    ):
        PruneRegrow().setup(trainer, model(net), "fit")
    torch.testing.assert_close(net.state_dict(), before)


# Architectures.


class Block(nn.Module):
    """Two convolutions around which the input is added; one ReLU serves both."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width_in, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        self.down = nn.Conv2d(width_in, width, 1, stride, bias=False)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.relu(self.bn1(self.conv1(images)))
        return self.relu(self.bn2(self.conv2(hidden)) + self.down(images))


def resnet() -> nn.Sequential:
    """For images of 28 by 28 pixels."""
    stem = nn.Conv2d(1, 4, 3, 2, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU(inplace=True)
    blocks = Block(4, 4, 1), Block(4, 6, 2)
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))


class Transformer(nn.Module):
    """Tokens embedded, attended to, passed through a small MLP, and decoded by the embedding's own weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 8)
        self.norm1, self.norm2 = nn.LayerNorm(8), nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))
        self.decoder = nn.Linear(8, 10, bias=False)
        self.decoder.weight = self.embedding.weight

    def forward(self, values: Tensor) -> Tensor:
        tokens = self.embedding(values.abs().mul(5).long().clamp(max=9))
        normed = self.norm1(tokens)
        tokens = tokens + self.attention(normed, normed, normed, need_weights=False)[0]
        return self.decoder(tokens + self.mlp(self.norm2(tokens)))


@pytest.fixture
def images(data):
    """Sixteen images of 28 by 28 pixels, in batches of eight."""
    data.inputs, data.labels = torch.randn(16, 1, 28, 28), torch.zeros(16)
    return data


@pytest.mark.parametrize("growth", ["random", "hebbian"])
def test_a_resnet_trains_and_continues_to_the_bit(trainer, model, images, tmp_path, growth):
    network = resnet()

    def fit(*, checkpoint: int | None = None) -> list[Any]:
        callback = PruneRegrow(density=0.3, growth=growth, distribution="erk", every_n_steps=2)
        trained, watch = model(copy.deepcopy(network), SGD), Watch(callback)
        callbacks = [callback, watch, *([Keep(tmp_path)] if checkpoint is None else [])]
        run = trainer(max_epochs=3, callbacks=callbacks)
        run.fit(trained, images, ckpt_path=None if checkpoint is None else tmp_path / f"{checkpoint}.ckpt")
        assert watch.moved > 0
        return [trained.state_dict(), callback.state_dict(), run.optimizers[0].state_dict()]

    straight = fit()
    torch.testing.assert_close(fit(checkpoint=3), straight, rtol=0, atol=0)


def test_the_summary_of_a_resnet_says_where_activity_is_read(trainer, model, images):
    callback = PruneRegrow(density=0.3, growth=HebbianGrowth(read_at={"network.3.conv2": "network.3.relu"}))
    trainer(max_epochs=1, callbacks=[callback]).fit(model(resnet(), SGD), images)
    lines = [line.split() for line in callback.summary().splitlines()]
    assert lines[0][-3:] == ["activity", "read", "at"]
    assert {line[0].removeprefix("network.").removesuffix(".weight"): line[-1] for line in lines[1:-1]} == {
        "0": "network.2",
        "3.conv1": "network.3.relu",
        "3.conv2": "network.3.relu",
        "3.down": "network.3.down",
        "4.conv1": "network.4.relu",
        "4.conv2": "network.4.bn2",
        "4.down": "network.4.down",
        "7": "network.7",
    }
    size = sum(mask.numel() for mask in callback.masks.values())
    assert lines[-1] == ["all", f"{round(0.3 * size):,}", f"{size:,}", f"{round(0.3 * size) / size:.4f}"]


@DYNAMO
def test_a_compiled_resnet_has_the_same_masks(trainer, model, images, compiled):
    network, found = resnet(), []
    for wrap in (lambda module: module, compiled):
        callback, trained = PruneRegrow(density=0.3, growth="hebbian"), model(copy.deepcopy(network), SGD)
        trainer(max_epochs=2, callbacks=[callback]).fit(wrap(trained), images)
        found.append(callback.state_dict())
    torch.testing.assert_close(found[1], found[0])


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({}, ["embedding", "attention.out_proj", "mlp.0", "mlp.2"]),
        ({"exclude": "*.embedding"}, ["attention.out_proj", "mlp.0", "mlp.2"]),
        ({"include": ["*.mlp.*", "*.in_proj_weight"]}, ["attention.in_proj_weight", "mlp.0", "mlp.2"]),
        ({"growth": "hebbian", "exclude": "*.out_proj"}, ["embedding", "mlp.0", "mlp.2"]),
        ({"growth": "gradient"}, ["embedding", "attention.out_proj", "mlp.0", "mlp.2"]),
    ],
)
def test_a_transformer_trains_with_its_tied_weight_taken_once(trainer, model, data, options, names):
    network = Transformer()
    callback, trained = PruneRegrow(**{"density": 0.4} | options), model(network, AdamW)
    watch = Watch(callback)
    trainer(max_epochs=3, callbacks=[callback, watch]).fit(trained, data)
    assert [name.removeprefix("network.").removesuffix(".weight") for name in callback.masks] == names
    assert callback.rewirings == 2
    assert watch.moved > 0
    assert network.decoder.weight is network.embedding.weight
    dense = set(dict(trained.named_parameters())) - set(callback.masks)
    assert "network.norm1.weight" in dense
    assert all(trained.get_parameter(name).detach().ne(0).any() for name in dense)


def test_attention_that_calls_no_layer_is_refused_before_training_where_coactivation_is_wanted(trainer, model, data):
    with pytest.raises(ValueError, match=r"Expected 'network.attention.out_proj.weight' to be the weight of .* called"):
        trainer(max_epochs=1, callbacks=[PruneRegrow(growth="hebbian")]).fit(model(Transformer()), data)


def test_rigl_is_a_line_on_a_resnet(trainer, model, images):
    callback = RigL(density=0.3, every_n_steps=2)
    watch = Watch(callback)
    trainer(max_epochs=4, callbacks=[callback, watch]).fit(model(resnet(), SGD), images)
    assert callback.rewirings == 3  # of 8 steps at 2, 4 and 6
    assert watch.moved > 0
