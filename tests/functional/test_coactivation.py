import pytest
import torch
from functional.coactivation_reference import (
    index_by_index,
    outer_products,
    position_by_position,
    position_by_position_backwards,
)
from torch import nn

from sparse_lightning.functional.coactivation import (
    activity,
    add_coactivation_,
    coactivation,
    exact_counts,
    is_countable,
    sample_count,
    weight_shape,
)


def test_it_counts_the_samples_with_both_units_above_zero():
    inputs = torch.tensor([[1.0, 0.0, -1.0], [2.0, 3.0, 0.0], [0.5, -0.5, 0.5]])
    outputs = torch.tensor([[1.0, -1.0], [0.0, 1e-30], [9.0, 9.0]])
    counts = coactivation(inputs, outputs)
    assert counts.tolist() == [[2, 0, 1], [2, 1, 1]]
    assert counts.dtype == torch.int32


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(1,), (64,), (4, 7), (2, 3, 5)])
def test_it_equals_the_outer_product_of_every_sample(shape, dtype):
    inputs, outputs = torch.randn(*shape, 9).to(dtype), torch.randn(*shape, 4).to(dtype)
    assert coactivation(inputs, outputs).equal(outer_products(inputs, outputs))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_large_counts_are_exact_in_any_precision(dtype):
    ones = torch.ones(70_001, 2, dtype=dtype)  # bfloat16 has no integers of its own beyond 256
    assert coactivation(ones, ones).tolist() == [[70_001] * 2] * 2


CONVOLUTIONS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "one dimension": (nn.Conv1d(3, 4, 3), (2, 3, 9)),
    "two dimensions": (nn.Conv2d(3, 4, (3, 2)), (2, 3, 6, 5)),
    "three dimensions": (nn.Conv3d(2, 3, 2), (2, 2, 3, 4, 3)),
    "one by one": (nn.Conv2d(3, 4, 1), (2, 3, 4, 4)),
    "stride and padding": (nn.Conv2d(3, 4, 3, stride=2, padding=1), (2, 3, 7, 6)),
    "dilation": (nn.Conv2d(2, 4, 3, dilation=2, padding=(2, 1)), (2, 2, 7, 7)),
    "groups": (nn.Conv2d(4, 6, 3, groups=2, padding=1), (2, 4, 5, 5)),
    "depthwise": (nn.Conv2d(4, 4, 3, groups=4), (2, 4, 5, 5)),
    "same": (nn.Conv2d(2, 3, (4, 3), padding="same"), (2, 2, 6, 5)),
    "circular": (nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"), (2, 2, 5, 5)),
    "reflect": (nn.Conv1d(2, 3, 3, padding=2, padding_mode="reflect"), (2, 2, 7)),
    "a single image": (nn.Conv2d(2, 3, 3), (2, 5, 5)),
}
TRANSPOSED: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "one dimension": (nn.ConvTranspose1d(3, 4, 3), (2, 3, 6)),
    "stride and output padding": (nn.ConvTranspose2d(3, 4, 3, stride=2, padding=1, output_padding=1), (2, 3, 4, 5)),
    "groups and dilation": (nn.ConvTranspose2d(4, 6, 2, groups=2, dilation=2), (2, 4, 4, 3)),
    "three dimensions": (nn.ConvTranspose3d(2, 3, 2, stride=2), (1, 2, 2, 3, 2)),
}


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_a_convolution_counts_every_position(kind):
    layer, shape = CONVOLUTIONS[kind]
    inputs = torch.randn(shape)
    outputs = layer(inputs)
    counts = coactivation(inputs, outputs, layer)
    assert counts.equal(position_by_position(layer, inputs, outputs))
    assert counts.any()
    assert not counts.eq(counts.max()).all()


@pytest.mark.parametrize("kind", TRANSPOSED)
def test_a_transposed_convolution_counts_every_position(kind):
    layer, shape = TRANSPOSED[kind]
    inputs = torch.randn(shape)
    outputs = layer(inputs)
    counts = coactivation(inputs, outputs, layer)
    assert counts.equal(position_by_position_backwards(layer, inputs, outputs))
    assert counts.any()


def test_it_is_the_gradient_of_the_linear_map_at_activity():
    layer = nn.Conv2d(3, 4, 3, padding=1, bias=False)
    inputs = torch.randn(2, 3, 6, 6)
    outputs = layer(inputs)
    (gradient,) = torch.autograd.grad(layer((inputs > 0).float()), layer.weight, (outputs > 0).float())
    assert coactivation(inputs, outputs, layer).equal(gradient.int())


def test_one_call_of_more_positions_than_a_float_counts_is_exact():
    layer = nn.Conv2d(1, 1, 1)
    ones = torch.ones(1, 1, 4097, 4096)
    assert coactivation(ones, ones, layer).item() == 4097 * 4096


def test_nothing_is_learned_through_it():
    inputs, outputs = torch.randn(3, 2, requires_grad=True), torch.randn(3, 2, requires_grad=True)
    assert not coactivation(inputs, outputs).requires_grad


@pytest.mark.parametrize("shape", [(), (7,), (3, 4)])
def test_an_embedding_counts_each_index_that_is_looked_up(shape):
    layer, indices = nn.Embedding(5, 3), torch.randint(0, 5, shape)
    counts = coactivation(indices, layer(indices), layer)
    assert counts.equal(index_by_index(layer, indices, layer(indices)))


LAYERS = {
    "linear": (nn.Linear(6, 4), (3, 6)),
    "embedding": (nn.Embedding(5, 3), (4, 2)),
    "convolution": (nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), (2, 4, 5, 6)),
    "same padding": (nn.Conv1d(2, 3, 4, padding="same"), (2, 2, 9)),
    "transposed": (nn.ConvTranspose2d(4, 6, 3, stride=2, output_padding=1, groups=2), (2, 4, 3, 4)),
}


def outputs_of(kind: str) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    layer, shape = LAYERS[kind]
    inputs = torch.randint(0, 5, shape) if kind == "embedding" else torch.randn(shape)
    return layer, inputs, layer(inputs)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("kind", LAYERS)
def test_what_a_layer_returns_is_countable(kind):
    layer, inputs, outputs = outputs_of(kind)
    assert is_countable(inputs, outputs, layer)
    assert weight_shape(layer) == tuple(layer.weight.shape)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("change", ["longer", "fewer samples", "complex", "other units"])
def test_what_a_layer_can_not_have_returned_is_not_countable(kind, change):
    layer, inputs, outputs = outputs_of(kind)
    unit = 1 if kind not in ("linear", "embedding") else outputs.dim() - 1
    changed = {
        "longer": torch.cat([outputs, outputs], -1),
        "fewer samples": outputs[:-1],
        "complex": outputs.to(torch.complex64),
        "other units": outputs.narrow(unit, 0, 1),
    }[change]
    assert not is_countable(inputs, changed, layer)


def test_other_kinds_of_layers_have_no_countable_weight():
    assert weight_shape(nn.LSTM(3, 4)) is None
    assert weight_shape(nn.LayerNorm(4)) is None


@pytest.mark.parametrize("samples", [10, 2**24 + 1, 2**31])
@pytest.mark.parametrize("kind", ["linear", "convolution", "embedding"])
def test_counts_are_added_in_place_in_every_type(kind, samples):
    layer, inputs, outputs = outputs_of(kind)
    counts = exact_counts(torch.ones(layer.weight.shape), samples)
    active = inputs if kind == "embedding" else activity(inputs)
    add_coactivation_(counts, active, activity(outputs), layer)
    assert counts.long().equal(1 + coactivation(inputs, outputs, layer).long())


@pytest.mark.parametrize(
    ("dtype", "samples", "wider"),
    [
        (torch.float32, 2**24, torch.float32),
        (torch.float32, 2**24 + 1, torch.int32),
        (torch.float32, 2**31, torch.int64),
        (torch.int32, 5, torch.int32),
        (torch.int32, 2**31, torch.int64),
    ],
)
def test_counts_change_their_type_before_it_ends(dtype, samples, wider):
    counts = torch.tensor([1, 2], dtype=dtype)
    widened = exact_counts(counts, samples)
    assert (widened.dtype, widened.tolist()) == (wider, [1, 2])
    assert (widened is counts) == (dtype == wider)


def test_a_position_of_a_convolution_is_a_sample():
    layer, inputs, outputs = outputs_of("convolution")
    assert sample_count(inputs, outputs, layer) == 2 * 3 * 3
    assert coactivation(torch.ones_like(inputs), torch.ones_like(outputs), layer).max() == 2 * 3 * 3
