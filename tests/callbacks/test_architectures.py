"""Networks of other kinds, each in a few lines: residual, transformer, recurrent, experts, Hugging Face's."""

import copy
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from watching import Keep, Watch, active, equal_states

from sparse_lightning import HebbianGrowth, PruneRegrow, RigL

SGD = partial(torch.optim.SGD, lr=0.01, momentum=0.9, weight_decay=1e-4)
AdamW = partial(torch.optim.AdamW, lr=0.001)


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
    """For images of one channel."""
    stem = nn.Conv2d(1, 4, 3, 2, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU(inplace=True)
    blocks = Block(4, 4, 1), Block(4, 6, 2)
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))


@pytest.fixture
def images(data: Any) -> Any:
    """Sixteen images of 14 by 14 pixels, in batches of eight."""
    data.inputs, data.labels = torch.randn(16, 1, 14, 14), torch.zeros(16)
    return data


@pytest.mark.parametrize("growth", ["random", "hebbian"])
def test_a_resnet_trains_and_continues_to_the_bit(fit, model, images, tmp_path, growth):
    network = resnet()

    def train(*, checkpoint: int | None = None) -> list[Any]:
        callback = PruneRegrow(density=0.3, growth=growth, distribution="erk", every_n_steps=2)
        trained, watch = model(copy.deepcopy(network), SGD), Watch(callback)
        callbacks = [callback, watch, *([Keep(tmp_path)] if checkpoint is None else [])]
        path = None if checkpoint is None else tmp_path / f"{checkpoint}.ckpt"
        run = fit(trained, *callbacks, ckpt_path=path)
        assert watch.moved > 0
        return [trained.state_dict(), callback.state_dict(), run.optimizers[0].state_dict()]

    straight = train()
    equal_states(train(checkpoint=3), straight)


def test_the_summary_of_a_resnet_says_where_activity_is_read(fit, model, images):
    callback = PruneRegrow(density=0.3, growth=HebbianGrowth(read_at={"network.3.conv2": "network.3.relu"}))
    fit(model(resnet(), SGD), callback, epochs=2)
    lines = [line.split() for line in callback.summary().splitlines()]
    assert lines[0][-3:] == ["activity", "read", "at"]
    assert {line[0].removeprefix("network.").removesuffix(".weight"): line[-1] for line in lines[1:9]} == {
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
    assert lines[9][:4] == ["all", f"{round(0.3 * size):,}", f"{size:,}", f"{round(0.3 * size) / size:.4f}"]


def test_rigl_is_a_line_on_a_resnet(fit, model, images):
    callback = RigL(density=0.3, every_n_steps=2)
    fit(model(resnet(), SGD), callback, watch := Watch(callback), epochs=4)
    assert callback.rewirings == 3  # of 8 steps at 2, 4 and 6
    assert watch.moved > 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_a_compiled_resnet_has_the_same_masks(fit, model, images):
    network, found = resnet(), []
    for wrap in (lambda module: module, partial(torch.compile, backend="eager")):
        torch._dynamo.reset()
        callback, trained = PruneRegrow(density=0.3, growth="hebbian"), model(copy.deepcopy(network), SGD)
        fit(wrap(trained), callback, epochs=2)
        found.append(callback.state_dict())
    torch._dynamo.reset()
    equal_states(found[1], found[0])


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


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({}, ["attention.out_proj", "mlp.0", "mlp.2"]),
        ({"include": "*"}, ["attention.out_proj", "mlp.0", "mlp.2"]),
        ({"include": ["*", "*.embedding"]}, ["embedding", "attention.out_proj", "mlp.0", "mlp.2"]),
        ({"include": ["*.mlp.*", "*.in_proj_weight"]}, ["attention.in_proj_weight", "mlp.0", "mlp.2"]),
        ({"growth": "hebbian", "exclude": "*.out_proj"}, ["mlp.0", "mlp.2"]),
        ({"growth": "gradient"}, ["attention.out_proj", "mlp.0", "mlp.2"]),
    ],
)
def test_a_transformer_trains_with_its_tied_weight_taken_once_or_not_at_all(fit, model, options, names):
    network = Transformer()
    callback, trained = PruneRegrow(**{"density": 0.4} | options), model(network, AdamW)
    fit(trained, callback, watch := Watch(callback))
    assert [name.removeprefix("network.").removesuffix(".weight") for name in callback.masks] == names
    assert callback.rewirings == 2
    assert watch.moved > 0
    assert network.decoder.weight is network.embedding.weight
    assert ("shared with an embedding" in callback.summary()) == ("embedding" not in names)


def test_attention_whose_output_projection_calls_no_layer_is_left_alone_under_hebbian_growth(fit, model):
    callback = PruneRegrow(0.4, growth="hebbian")
    with pytest.warns(UserWarning, match=r"network\.attention\.out_proj kept their connections at a rewiring"):
        fit(model(Transformer(), AdamW), callback, watch := Watch(callback))
    assert watch.moved > 0


class Recurrent(nn.Module):
    """An LSTM over one step, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(6, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.lstm(inputs[:, None])[0][:, -1])


@pytest.mark.parametrize("growth", ["random", "gradient"])
def test_recurrent_weights_train_sparse(fit, model, growth):
    callback = PruneRegrow(0.4, growth=growth, include=["*.lstm.*", "*.head"])
    module = model(Recurrent())
    fit(module, callback, watch := Watch(callback))
    assert list(callback.masks) == ["network.lstm.weight_ih_l0", "network.lstm.weight_hh_l0", "network.head.weight"]
    assert watch.moved > 0
    assert module.network.lstm.bias_ih_l0.all()


class Experts(nn.Module):
    """Three experts whose weights are one tensor of three dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.gate = nn.Parameter(torch.randn(3, 6, 8)), nn.Linear(6, 3)
        self.down = nn.Parameter(torch.randn(3, 8, 4))

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = torch.einsum("bi,eio->beo", inputs, self.up).relu()
        return torch.einsum("beo,eoj,be->bj", hidden, self.down, self.gate(inputs).softmax(-1))


@pytest.mark.parametrize("growth", ["random", "gradient", "momentum"])
def test_stacked_experts_train_sparse(fit, model, growth):
    callback = PruneRegrow(0.25, growth=growth, include=["*.up", "*.down", "*.gate"])
    fit(model(Experts()), callback, watch := Watch(callback))
    assert active(callback.masks) == [36, *active(callback.masks)[1:]]
    assert set(callback.masks) == {"network.up", "network.down", "network.gate.weight"}
    assert watch.moved > 0


def test_a_bare_parameter_trains_sparse(fit, model):
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.matrix = nn.Parameter(torch.randn(6, 4))

        def forward(self, inputs: Tensor) -> Tensor:
            return inputs @ self.matrix

    callback = PruneRegrow(0.5, include="*.matrix")
    fit(model(Bare()), callback, watch := Watch(callback))
    assert active(callback.masks) == [12]
    assert watch.moved > 0


@pytest.mark.slow
def test_gpt2_trains_with_its_transposed_linears_sparse_and_its_tied_embedding_dense(fit, model, data):
    transformers = pytest.importorskip("transformers")
    sizes = {"n_embd": 8, "n_layer": 2, "n_head": 2, "vocab_size": 20, "n_positions": 8}

    class Language(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gpt = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes))

        def forward(self, tokens: Tensor) -> Tensor:
            return self.gpt(input_ids=tokens).logits

    data.inputs = torch.randint(0, 20, (20, 6))
    callback, module = PruneRegrow(0.25), model(Language(), AdamW)
    fit(module, callback, watch := Watch(callback))
    layers = {name.removeprefix("network.gpt.transformer.h.").removesuffix(".weight") for name in callback.masks}
    kinds = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    assert layers == {f"{block}.{kind}" for block in (0, 1) for kind in kinds}
    assert watch.moved > 0
    assert module.network.gpt.transformer.wte.weight.all()
    assert "network.gpt.transformer.wte (shared with an embedding)" in callback.summary()
