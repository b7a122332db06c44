"""Sparse weights stored as their connections alone: the same training as with masks, in any model that allows it."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, WeightAveraging
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from watching import active

from sparse_lightning import (
    ACDC,
    CHT,
    DSR,
    GMP,
    MEST,
    SET,
    SNFS,
    CHTs,
    CHTss,
    DeepR,
    GradientGrowth,
    GraNet,
    HebbianRegrow,
    MomentumGrowth,
    PruneRegrow,
    RigL,
    SoftCannistraciHebbGrowth,
    SparseLinear,
    StaticSparse,
    dense_state_dict,
    sparsity_report,
    topology_of,
)
from sparse_lightning.callbacks.layout import pays
from sparse_lightning.functional import grow
from sparse_lightning.nn import sparse_linear

GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.randn(192, 12, generator=GENERATOR)
LABELS = IMAGES[:, :4].argmax(1)


def layers() -> nn.Module:
    return nn.Sequential(
        nn.Linear(12, 40), nn.BatchNorm1d(40), nn.ReLU(), nn.Linear(40, 30), nn.ReLU(), nn.Linear(30, 4)
    )


class SparseMean(torch.optim.RMSprop):
    """Keeps a momentum in a way of its own."""

    def __init__(self, weights: Any, lr: float) -> None:
        super().__init__(weights, lr, momentum=0.9)


class Net(LightningModule):
    """A small classifier that begins with the same weights every time."""

    def __init__(self, build: Callable[[], nn.Module] = layers, optimizer: str = "SGD") -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.network = build()
        self.optimizer = optimizer

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        options = {"momentum": 0.9, "weight_decay": 1e-4} if self.optimizer == "SGD" else {}
        kinds = {"SGD": torch.optim.SGD, "Adam": torch.optim.Adam, "SparseMean": SparseMean}
        return kinds[self.optimizer](self.parameters(), lr=0.05, **options)


def fit(model: LightningModule, *callbacks: Callback, epochs: int = 4, ckpt_path: Path | None = None, **options: Any):
    settings = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    trainer = Trainer(max_epochs=epochs, callbacks=list(callbacks), enable_model_summary=False, **settings | options)
    trainer.fit(model, DataLoader(TensorDataset(IMAGES, LABELS), 32), ckpt_path=ckpt_path)
    return trainer


METHODS = {
    "set": (SET, {}),
    "set by steps": (SET, {"every_n_steps": 5, "schedule": "cosine"}),
    "rigl": (RigL, {"every_n_steps": 5}),
    "hebbian": (HebbianRegrow, {}),
    "static": (StaticSparse, {}),
    "weighted": (PruneRegrow, {"pruning": "weighted_hebbian", "growth": "inverse_hebbian"}),
    "mixed": (PruneRegrow, {"pruning": "mixed", "initialization": "fan_in"}),
    "dsr": (DSR, {"every_n_steps": 5, "prune_fraction": 0.3}),
    "snfs": (SNFS, {}),
    "snfs that redistributes": (SNFS, {"counts": "momentum", "regrow": False}),
    "deep_r": (DeepR, {"l1": 0.01}),
    "gmp": (GMP, {"every_n_steps": 5}),
    "granet": (GraNet, {"every_n_steps": 5}),
    "mest": (MEST, {"initial_density": 0.6}),
    "cht": (CHT, {}),
    "chts": (CHTs, {}),
    "chtss": (CHTss, {"growth": SoftCannistraciHebbGrowth("ch3_l3p")}),
    "acdc": (ACDC, {"every_n_steps": 1}),
    "magnitude": (PruneRegrow, {"pruning": "magnitude", "initial": "magnitude", "regrow": True}),
}


@pytest.mark.parametrize("method", METHODS)
def test_masks_are_those_of_masked_training_and_weights_equal_up_to_rounding(method):
    kind, options = METHODS[method]
    models, callbacks = [], []
    for layout in ("masked", "csr"):
        callbacks.append(kind(density=0.3, layout=layout, seed=2, **options))
        models.append(Net(optimizer="SGD").double())
        fit(models[-1], callbacks[-1], precision="64-true")
    masked, csr = callbacks
    assert masked.rewirings == csr.rewirings >= (0 if method == "static" else 3)
    assert all(isinstance(models[1].network[place], SparseLinear) for place in (0, 3, 5))
    assert list(masked.masks) == list(csr.masks)
    assert all(masked.masks[name].equal(csr.masks[name]) for name in masked.masks)
    dense = dense_state_dict(models[1].state_dict())
    assert dense.keys() == models[0].state_dict().keys()
    for name, tensor in models[0].state_dict().items():
        torch.testing.assert_close(dense[name], tensor, atol=1e-9, rtol=1e-9)
    assert masked.dead_connections(models[0]) == csr.dead_connections(models[1])
    assert masked.summary() == csr.summary()


@pytest.mark.parametrize("method", [SET, SNFS])
def test_adam_follows_the_connections_too(method):
    models = [Net(lambda: nn.Sequential(nn.Linear(12, 30), nn.Tanh(), nn.Linear(30, 4)), "Adam") for _ in range(2)]
    for layout, model in zip(("masked", "csr"), models, strict=True):
        fit(model, method(density=0.3, layout=layout, seed=2))
    dense = dense_state_dict(models[1].state_dict())
    for name, tensor in models[0].state_dict().items():
        torch.testing.assert_close(dense[name], tensor, atol=1e-6, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
@pytest.mark.parametrize(
    "method", ["set", "rigl", "snfs", "deep_r", "hebbian", "gmp", "granet", "mest", "acdc", "cht", "chtss"]
)
def test_a_resumed_training_gives_the_same_bits(method, tmp_path):
    kind, options = METHODS[method]
    straight, callback = Net(), kind(density=0.3, layout="csr", seed=2, **options)
    save = ModelCheckpoint(tmp_path, "{epoch}", every_n_epochs=1, save_top_k=-1)
    fit(straight, callback, save, enable_checkpointing=True)
    resumed, again = Net(), kind(density=0.3, layout="csr", seed=2, **options)
    fit(resumed, again, save, enable_checkpointing=True, ckpt_path=tmp_path / "epoch=1.ckpt")
    assert again.rewirings == callback.rewirings
    for name, tensor in straight.state_dict().items():
        assert resumed.state_dict()[name].equal(tensor)


@pytest.mark.parametrize("layout", ["masked", "csr"])
def test_how_the_first_connections_are_chosen_is_logged_where_they_are_chosen_and_not_on_resume(
    layout, tmp_path, monkeypatch
):
    lines: list[str] = []
    monkeypatch.setattr("sparse_lightning.callbacks.topology.rank_zero_info", lines.append)
    fit(Net(), SET(density=0.3, layout=layout), epochs=2).save_checkpoint(tmp_path / "one.ckpt")
    fit(Net(), SET(density=0.3, layout=layout), epochs=3, ckpt_path=tmp_path / "one.ckpt")
    assert lines == [
        "The first connections are chosen by initial='auto': random for 3 weights. For loaded weights, "
        "initial='magnitude'."
    ]


def test_connections_of_a_checkpoint_are_not_logged_as_chosen(tmp_path, monkeypatch):
    fit(Net(), SET(density=0.3, layout="csr"), epochs=2).save_checkpoint(tmp_path / "one.ckpt")
    content = torch.load(tmp_path / "one.ckpt", weights_only=True)
    del content["callbacks"]
    torch.save(content, tmp_path / "bare.ckpt")
    lines: list[str] = []
    monkeypatch.setattr("sparse_lightning.callbacks.topology.rank_zero_info", lines.append)
    fit(Net(), SET(density=0.3, layout="csr"), epochs=4, ckpt_path=tmp_path / "bare.ckpt")
    assert lines == []


def test_a_checkpoint_becomes_the_bare_model_by_one_call(tmp_path):
    model, callback = Net(), SET(density=0.3, distribution="uniform", layout="csr")
    fit(model, callback).save_checkpoint(tmp_path / "last.ckpt", weights_only=True)
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    bare = Net()
    bare.load_state_dict(dense_state_dict(state))
    torch.testing.assert_close(bare.eval()(IMAGES), model.eval()(IMAGES))
    assert all(mask.equal(callback.masks[name]) for name, mask in topology_of(tmp_path / "last.ckpt").items())
    lines = sparsity_report(model).splitlines()
    assert lines == sparsity_report(state).splitlines()
    assert lines[1].split()[:5] == ["network.0.weight", "40x12", f"{active(callback.masks)[0]}", "480", "0.3000"]


def test_another_layout_than_the_checkpoints_is_refused(tmp_path):
    fit(Net(), SET(density=0.3)).save_checkpoint(tmp_path / "masked.ckpt")
    with pytest.raises(ValueError, match=r"Expected a checkpoint of layout='csr' for network\.0, .* layout='masked'"):
        fit(Net(), SET(density=0.3, layout="csr"), ckpt_path=tmp_path / "masked.ckpt")
    fit(Net(), SET(density=0.3, layout="csr")).save_checkpoint(tmp_path / "csr.ckpt")
    with pytest.raises(ValueError, match=r"got layout='masked' \(there 'csr'\)"):
        fit(Net(), SET(density=0.3), ckpt_path=tmp_path / "csr.ckpt")


def test_a_checkpoint_of_connections_is_tested_in_the_dense_model(tmp_path):
    trained = Net()
    fit(trained, SET(density=0.3, layout="csr")).save_checkpoint(tmp_path / "csr.ckpt")
    fresh = Net()
    settings = {"logger": False, "enable_progress_bar": False, "accelerator": "cpu"}
    trainer = Trainer(callbacks=[SET(density=0.3, layout="csr")], **settings)
    (outputs,) = trainer.predict(fresh, DataLoader(IMAGES, 192), ckpt_path=tmp_path / "csr.ckpt")
    torch.testing.assert_close(outputs, trained.eval()(IMAGES))
    assert type(fresh.network[0]) is nn.Linear
    assert not fresh._load_state_dict_pre_hooks  # nothing stays behind


def test_a_second_fit_goes_on_with_the_topology():
    model, callback = Net(), StaticSparse(density=0.3, layout="csr")
    fit(model, callback, epochs=1)
    before = {name: mask.clone() for name, mask in callback.masks.items()}
    fit(model, callback, epochs=1)
    assert all(mask.equal(before[name]) for name, mask in callback.masks.items())


def test_sparse_layers_of_the_model_itself_are_rewired_and_keep_their_number_of_connections():
    model = Net(lambda: nn.Sequential(SparseLinear(12, 50, 0.25), nn.ReLU(), nn.Linear(50, 4)))
    network, callback = model.network, SET(density=0.5, distribution="uniform")
    before = network[0].positions
    fit(model, callback)
    assert active(callback.masks) == [150, 100]
    assert not network[0].positions.equal(before)
    assert isinstance(network[2], nn.Linear)


def test_a_layer_that_stands_in_two_places_is_stored_once():
    shared = nn.Linear(40, 40)
    model = Net(lambda: nn.Sequential(nn.Linear(12, 40), shared, nn.ReLU(), shared, nn.Linear(40, 4)))
    fit(model, SET(density=0.2, layout="csr"))
    assert isinstance(model.network[1], SparseLinear)
    assert model.network[1] is model.network[3]


def test_given_masks_are_taken():
    mask = torch.rand(40, 12) < 0.4
    for network in (layers, lambda: nn.Sequential(SparseLinear(12, 40, 0.1), nn.ReLU(), nn.Linear(40, 4))):
        callback = StaticSparse(density=0.3, initial={"network.0.weight": mask}, layout="csr")
        fit(Net(network), callback, epochs=1)
        assert callback.masks["network.0.weight"].equal(mask)


class Tokens(nn.Module):
    """Three tokens of four features through a Transformer."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(4, 2, 16, dropout=0.0, batch_first=True)
        self.encoder, self.head = nn.TransformerEncoder(layer, 1), nn.Linear(4, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.encoder(images.view(-1, 3, 4)).mean(1))


def test_the_linear_layers_of_a_transformer_are_stored_and_evaluated():
    models = [Net(Tokens) for _ in range(2)]
    callbacks = [HebbianRegrow(density=0.5, exclude="*out_proj", seed=1, layout=layout) for layout in ("masked", "csr")]
    for model, callback in zip(models, callbacks, strict=True):
        fit(model, callback)
        model.eval()
    assert isinstance(models[1].network.encoder.layers[0].linear1, SparseLinear)
    assert all(callbacks[0].masks[name].equal(callbacks[1].masks[name]) for name in callbacks[0].masks)
    with torch.no_grad():
        torch.testing.assert_close(models[1](IMAGES), models[0](IMAGES), atol=1e-4, rtol=1e-4)


class Images(nn.Module):
    """A convolution before a large Linear."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.wide, self.head = nn.Conv1d(1, 4, 3), nn.Linear(40, 8000), nn.Linear(8000, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(F.relu(self.wide(F.relu(self.conv(images[:, None])).flatten(1))))


def test_auto_stores_what_is_faster_and_says_what_not(caplog, capsys):
    model, callback = Net(Images), StaticSparse(density={"*wide": 0.02, "*": 0.5}, layout="auto")
    with caplog.at_level("INFO", logger="lightning.pytorch.utilities.rank_zero"):
        fit(model, callback, epochs=1)
    assert isinstance(model.network.wide, SparseLinear)
    assert isinstance(model.network.head, nn.Linear)
    layers = "csr for network.wide; masked for network.conv (a Conv1d), network.head ((4, 8000) at density 0.5"
    assert f"layout='auto', by batches of unknown size: {layers}" in caplog.text + capsys.readouterr().err
    assert list(callback.masks) == ["network.conv.weight", "network.wide.weight", "network.head.weight"]
    assert not pays(100 * 784, 15680)


class Sized(Net):
    """A model that says how many samples a batch has."""

    batch_size = 100


def test_auto_goes_by_the_batch_size_where_there_is_one(caplog, capsys):
    with caplog.at_level("INFO", logger="lightning.pytorch.utilities.rank_zero"):
        fit(Sized(), StaticSparse(density=0.5, layout="auto"), epochs=1)
    assert "layout='auto', by batches of 100: csr for none" in caplog.text + capsys.readouterr().err
    assert pays(1000**2, 150_000, batch_size=100)
    assert not pays(1000**2, 150_000, batch_size=512)
    assert not pays(1000**2, 150_000)


class Tied(nn.Module):
    """Two layers of one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(12, 12), nn.Linear(12, 12)
        self.two.weight = self.one.weight

    def forward(self, images: Tensor) -> Tensor:
        return self.two(self.one(images))[:, :4]


class Hooked(nn.Sequential):
    """A layer that is watched."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(12, 4))
        self[0].register_forward_hook(lambda *_: None)


class Own(nn.Linear):
    """A Linear of somebody else's."""


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (Images, r"network\.conv \(a Conv1d\)"),
        (Tied, r"network\.one \(its weight is shared\)"),
        (Hooked, r"network\.0 \(it has hooks\)"),
        (lambda: nn.Sequential(Own(12, 4)), r"network\.0 \(a Own\)"),
    ],
)
def test_a_layer_that_cannot_be_stored_is_refused_by_name_with_the_reason(network, reason):
    with pytest.raises(ValueError, match=rf"Expected layers that can be stored as csr, got {reason}"):
        fit(Net(network), StaticSparse(density=0.5, layout="csr"))


def test_what_csr_cannot_do_is_refused():
    with pytest.raises(ValueError, match=r"SGD or an Adam .* 'network\.0\.weight' with layout='csr', got SparseMean"):
        fit(Net(optimizer="SparseMean"), SNFS(density=0.3, layout="csr"))
    with pytest.raises(ValueError, match="Expected layout='masked' beside a callback that averages weights"):
        fit(Net(), SET(density=0.3, layout="csr"), WeightAveraging())
    with pytest.raises(ValueError, match="layout to be one of masked, csr, auto, got 'CSR': did you mean 'csr'"):
        SET(layout="CSR")


class HeadOnly(Net):
    """Its optimizer holds the head alone."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.network[-1].parameters(), 0.1)


@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_gradients_of_all_connections_are_made_a_block_of_rows_at_a_time(monkeypatch, rows):
    models, callbacks, sizes = [], [], []
    highest = grow._highest_of_blocks

    def noting(blocks, *args):
        return highest((sizes.append(len(block)) or block for block in blocks), *args)

    monkeypatch.setattr(sparse_linear, "_BLOCK_NUMEL", 12 * rows)
    for layout in ("masked", "csr"):
        models.append(Net().double())
        callbacks.append(RigL(density=0.3, every_n_steps=5, layout=layout, seed=2, include="network.0"))
        if layout == "csr":
            monkeypatch.setattr(grow, "_highest_of_blocks", noting)
        fit(models[-1], callbacks[-1], precision="64-true")
    assert all(callbacks[0].masks[name].equal(callbacks[1].masks[name]) for name in callbacks[0].masks)
    assert callbacks[1].rewirings >= 3
    assert max(sizes) == min(rows, 40)


@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
def test_momentum_of_inactive_connections_is_that_of_masked_training(optimizer):
    found = {}
    for layout in ("masked", "csr"):
        callback = SNFS(density=0.3, layout=layout, seed=2, include="network.3")

        class Look(Callback):
            def on_train_batch_end(self, *_: Any, sparse: PruneRegrow = callback, layout: str = layout) -> None:
                if not sparse.growth.unreadable(["network.3.weight"]):  # once a step was taken
                    found.setdefault(layout, []).append(sparse.growth._momentum.of("network.3.weight").clone())

        fit(Net(optimizer=optimizer).double(), callback, Look(), precision="64-true", accumulate_grad_batches=2)
    assert len(found["csr"]) == 23
    for one, other in zip(found["masked"], found["csr"], strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=1e-9)


class TwoSteps(Net):
    """Two optimizer steps for each batch."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        for _ in range(2):
            self.optimizers().zero_grad()
            self.manual_backward(super().training_step(batch, batch_idx))
            self.optimizers().step()


@pytest.mark.parametrize(("model", "options"), [(TwoSteps, {}), (Net, {"gradient_clip_val": 0.01})])
def test_momentum_follows_the_steps_that_are_taken(model, options):
    models = [model().double() for _ in range(2)]
    callbacks = [SNFS(density=0.3, layout=layout, seed=2, regrow=False) for layout in ("masked", "csr")]
    for module, callback in zip(models, callbacks, strict=True):
        fit(module, callback, epochs=2, precision="64-true", **options)
    growths = [callback.growth for callback in callbacks]
    assert callbacks[1].rewirings == 1
    if not options:  # clipping by the norm of fewer gradients clips less
        assert all(callbacks[0].masks[name].equal(callbacks[1].masks[name]) for name in callbacks[0].masks)
    assert all(isinstance(growth, MomentumGrowth) for growth in growths)


def test_gradients_clipped_by_value_are_refused_for_momentum():
    with pytest.raises(ValueError, match=r"Expected 'network\.0\.weight' to be stepped by the gradient of its last"):
        fit(
            Net(),
            SNFS(density=0.3, layout="csr"),
            gradient_clip_val=1e-3,
            gradient_clip_algorithm="value",
        )


def test_scores_of_a_subclass_of_the_gradient_are_asked():
    class Opposite(GradientGrowth):
        asked = 0

        def scores(self, layer: Any) -> Tensor:
            type(self).asked += 1
            return -super().scores(layer)

    fit(Net(), RigL(density=0.3, every_n_steps=5, growth=Opposite(), layout="csr"))
    assert Opposite.asked > 0


def test_a_layer_that_no_optimizer_trains_is_refused():
    with pytest.raises(ValueError, match=r"Expected an optimizer for network\.0, network\.3, got none: exclude them"):
        fit(HeadOnly(), SET(density=0.3, layout="csr"))


@pytest.mark.parametrize("layout", ["masked", "csr"])
def test_fan_in_scales_fresh_weights_to_their_actual_inputs(layout):
    plain, scaled = Net(), Net()
    for model, initialization in ((plain, "dense"), (scaled, "fan_in")):
        callback = StaticSparse(density=0.3, distribution="uniform", initialization=initialization, layout=layout)
        fit(model, callback, epochs=1, limit_train_batches=0)
        fit(model, callback, epochs=1, limit_train_batches=0)  # scaled once only
    weights = [dense_state_dict(model.state_dict())["network.3.weight"] for model in (plain, scaled)]
    inputs = (weights[0] != 0).sum(1, keepdim=True)
    torch.testing.assert_close(weights[1], weights[0] * (40 / inputs).sqrt())
    loaded = Net()
    loaded.load_state_dict(dense_state_dict(scaled.state_dict()))
    again = StaticSparse(density=0.3, distribution="uniform", initialization="fan_in", layout=layout)
    fit(loaded, again, epochs=1, limit_train_batches=0)
    assert dense_state_dict(loaded.state_dict())["network.3.weight"].equal(weights[1])


def wide() -> nn.Module:
    sizes = (12, 300, 300, 300, 4)
    return nn.Sequential(*[each for pair in pairwise(sizes) for each in (nn.Linear(*pair), nn.ReLU())][:-1])


def test_a_signal_that_may_die_is_warned_of_and_fan_in_keeps_it():
    with pytest.warns(UserWarning, match="the signal may die .* initialization='fan_in' scales them"):
        fit(Net(wide), StaticSparse(density=0.01, distribution="uniform"), epochs=1, limit_train_batches=1)
    outputs = []
    for density, initialization in ((1.0, "dense"), (0.05, "fan_in")):
        model, callback = Net(wide), StaticSparse(density, distribution="uniform", initialization=initialization)
        callback.sparsify(model)
        outputs.append(float(model(IMAGES).detach().std()))
    assert 0.2 < outputs[1] / outputs[0] < 5


def test_memory_goes_with_connections():
    # A dense weight, mask or score would take 10^10 elements a layer: no machine of a laptop's size could hold one.
    size, connections = 100_000, 50_000
    sparse = [
        SparseLinear(12, size, positions=torch.arange(size) * 12),
        nn.ReLU(),
        SparseLinear(size, size, connections / size**2),
        nn.ReLU(),
        SparseLinear(size, 4, 0.5),
    ]
    model = Net(lambda: nn.Sequential(*sparse))
    callback = SET(prune_fraction=0.3, every_n_steps=1)
    before = sparse[2].positions
    trainer = fit(model, callback, epochs=1, limit_train_batches=2)
    assert callback.rewirings == 1
    assert len(sparse[2].positions) == connections
    assert not sparse[2].positions.equal(before)
    assert trainer.callback_metrics["topology/density/network.2"] == pytest.approx(connections / size**2)
