import copy
import pickle
import subprocess
import sys
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import prune

from sparse_lightning.functional.csr import carry, random_positions
from sparse_lightning.nn import csr_linear as kernels
from sparse_lightning.nn.csr_linear import has_kernels
from sparse_lightning.nn.sparse_linear import SparseLinear, store_by_feature


def some_mask(out_features: int = 7, in_features: int = 5, density: float = 0.4) -> Tensor:
    return torch.rand(out_features, in_features, generator=torch.Generator().manual_seed(1)) < density


MASKS = {
    "sparse": some_mask(),
    "density 1": torch.ones(4, 6, dtype=torch.bool),
    "one connection": torch.zeros(4, 6, dtype=torch.bool).index_put_(
        (torch.tensor(2), torch.tensor(5)), torch.tensor(True)
    ),
    "no connection": torch.zeros(4, 6, dtype=torch.bool),
    "units without any": torch.tensor([[0, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0], [0, 1, 0, 0]]).bool(),
}


@pytest.fixture(params=MASKS.values(), ids=MASKS.keys())
def mask(request: pytest.FixtureRequest) -> Tensor:
    return request.param


@pytest.fixture(params=["kernels", "plain"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to compute: PyTorch's kernels, and what is used where it has none."""
    if request.param == "plain":
        monkeypatch.setattr(kernels, "has_kernels", lambda device_type, dtype: False)
        monkeypatch.setattr(kernels, "_PLAIN_ELEMENTS", 20)  # several chunks
    return request.param


@pytest.fixture
def first_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has the kernels tried anew, and forgets the outcome."""
    monkeypatch.setattr(kernels, "_tried", {})


def pair(mask: Tensor, dtype: torch.dtype = torch.float64, bias: bool = True) -> tuple[SparseLinear, nn.Linear]:
    """A sparse layer and the dense layer with the same weights, zero off the mask."""
    dense = nn.Linear(mask.shape[1], mask.shape[0], bias=bias, dtype=dtype)
    with torch.no_grad():
        dense.weight.mul_(mask)
    return SparseLinear.from_linear(dense, mask), dense


def gradients(layer: nn.Module, inputs: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """A layer's output, and the gradients of its input and of its parameters."""
    inputs = inputs.detach().requires_grad_()
    output = layer(inputs)
    weighting = torch.arange(output.numel(), dtype=torch.float64).sin().view(output.shape).to(output.dtype)
    layer.zero_grad()
    (output * weighting).sum().backward()
    return output.detach(), inputs.grad, {name: parameter.grad for name, parameter in layer.named_parameters()}


def assert_same_as_masked(
    sparse: SparseLinear, dense: nn.Linear, mask: Tensor, inputs: Tensor, **tolerance: float
) -> None:
    output, of_inputs, of_sparse = gradients(sparse, inputs)
    expected, expected_of_inputs, of_dense = gradients(dense, inputs)
    torch.testing.assert_close(output, expected, **tolerance)
    torch.testing.assert_close(of_inputs, expected_of_inputs, **tolerance)
    torch.testing.assert_close(of_sparse["values"], of_dense["weight"][mask], **tolerance)
    assert ("bias" in of_sparse) == ("bias" in of_dense)
    if "bias" in of_sparse:
        torch.testing.assert_close(of_sparse["bias"], of_dense["bias"], **tolerance)


@pytest.mark.parametrize("leading", [(), (0,), (1,), (20,), (3, 4), (2, 0), (2, 3, 4)], ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_outputs_and_gradients_are_those_of_a_masked_linear(mask, leading, bias, path):
    sparse, dense = pair(mask, bias=bias)
    assert_same_as_masked(sparse, dense, mask, torch.randn(*leading, mask.shape[1], dtype=torch.float64))


@pytest.mark.parametrize("batch", [1, 15, 16, 64, 513, 1100])
def test_every_kernel_and_block_computes_float32(batch, path):
    mask = some_mask(40, 30, 0.2)
    sparse, dense = pair(mask, torch.float32)
    assert_same_as_masked(sparse, dense, mask, torch.randn(batch, 30), rtol=1e-4, atol=1e-4)


def test_every_block_computes_float64():
    mask = some_mask(40, 30, 0.2)
    sparse, dense = pair(mask)
    assert_same_as_masked(sparse, dense, mask, torch.randn(700, 30, dtype=torch.float64))


def test_the_product_needs_no_mkl(monkeypatch):
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: False)
    monkeypatch.setattr(kernels, "_multiply_by_mkl", None)
    mask = some_mask(40, 30, 0.2)
    for dtype in (torch.float32, torch.float64):
        sparse, dense = pair(mask, dtype)
        assert_same_as_masked(sparse, dense, mask, torch.randn(3, 30, dtype=dtype))


@pytest.mark.parametrize("transposed_output", [True, False])
def test_gradcheck(mask, transposed_output, path):
    sparse, _ = pair(mask)
    sparse.transposed_output = transposed_output
    inputs = torch.randn(3, mask.shape[1], dtype=torch.float64, requires_grad=True)

    def output(inputs: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        return torch.func.functional_call(sparse, {"values": values, "bias": bias}, inputs)

    assert torch.autograd.gradcheck(output, (inputs, sparse.values, sparse.bias))


@pytest.mark.parametrize("strided", [lambda x: x.t().contiguous().t(), lambda x: x.repeat(2, 2)[::2, : x.shape[1]]])
def test_inputs_may_be_stored_in_any_way(strided):
    mask = some_mask()
    sparse, dense = pair(mask)
    inputs = strided(torch.randn(6, 5, dtype=torch.float64))
    assert not inputs.is_contiguous()
    assert_same_as_masked(sparse, dense, mask, inputs)


def test_only_a_transposed_output_is_not_contiguous():
    layer, inputs = SparseLinear(5, 7, 0.5), torch.randn(6, 5)
    assert layer(inputs).is_contiguous()
    layer.transposed_output = True
    assert layer(inputs).t().is_contiguous()
    assert layer(inputs.view(2, 3, 5)).is_contiguous()


@pytest.mark.parametrize("batch", [1, 6])
@pytest.mark.parametrize("inplace", [True, False])
def test_layers_that_store_by_feature_compute_the_same(inplace, batch):
    network = nn.Sequential(
        *(SparseLinear(5, 8, 0.5), nn.ReLU(inplace), nn.Dropout(0.0), SparseLinear(8, 8, 0.5), nn.ReLU(inplace)),
        *(SparseLinear(8, 8, 0.5), nn.LayerNorm(8), nn.ReLU(inplace), SparseLinear(8, 4, 0.5), nn.Linear(4, 2)),
    ).double()
    stored = copy.deepcopy(network)
    assert store_by_feature(stored) == (1 if inplace else 3)
    layers = [layer for layer in stored if isinstance(layer, SparseLinear)]
    assert [layer.transposed_output for layer in layers] == [not inplace, not inplace, False, True]
    inputs = torch.randn(batch, 5, dtype=torch.float64)
    for one, other in zip(gradients(network, inputs), gradients(stored, inputs), strict=True):
        torch.testing.assert_close(one, other)


def test_twenty_steps_of_momentum_train_the_weights_of_a_masked_network():
    masks = [some_mask(12, 6, 0.4), some_mask(3, 12, 0.5)]
    layers = [pair(mask) for mask in masks]
    sparse = nn.Sequential(layers[0][0], nn.ReLU(), layers[1][0])
    dense = nn.Sequential(layers[0][1], nn.ReLU(), layers[1][1])
    for linear, mask in zip((dense[0], dense[2]), masks, strict=True):
        prune.custom_from_mask(linear, "weight", mask)
    optimizers = [torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3) for net in (sparse, dense)]
    started = sparse[0].values.detach().clone()
    for _ in range(20):
        inputs, labels = torch.randn(9, 6, dtype=torch.float64), torch.randint(3, (9,))
        for net, optimizer in zip((sparse, dense), optimizers, strict=True):
            optimizer.zero_grad()
            F.cross_entropy(net(inputs), labels).backward()
            optimizer.step()
    assert (sparse[0].values - started).abs().max() > 0.1
    for index in (0, 2):
        torch.testing.assert_close(
            sparse[index].to_linear().weight, dense[index].weight_orig * dense[index].weight_mask
        )
        torch.testing.assert_close(sparse[index].bias, dense[index].bias)


def test_an_input_that_needs_no_gradient_costs_no_transposed_layout():
    layer = SparseLinear(5, 7, 0.5)
    layer(torch.randn(3, 5)).sum().backward()
    assert layer._permutation is None
    gradients(layer, torch.randn(3, 5))
    computed = layer._permutation
    gradients(layer, torch.randn(3, 5))
    assert layer._permutation is computed


def test_bfloat16_is_right_and_warns_once(first_time):
    mask = some_mask(40, 30, 0.2)
    sparse, dense = pair(mask, torch.float32)
    inputs = torch.randn(20, 30)
    with pytest.warns(UserWarning, match="no sparse kernels for bfloat16 on cpu"):
        sparse.bfloat16()(inputs.bfloat16())
    output, of_inputs, of_sparse = gradients(sparse, inputs.bfloat16())  # a second warning would be an error
    assert output.dtype == of_inputs.dtype == of_sparse["values"].dtype == torch.bfloat16
    expected, expected_of_inputs, of_dense = gradients(dense, inputs)
    torch.testing.assert_close(output.float(), expected, rtol=0.05, atol=0.05)
    torch.testing.assert_close(of_inputs.float(), expected_of_inputs, rtol=0.05, atol=0.05)
    torch.testing.assert_close(of_sparse["values"].float(), of_dense["weight"][mask], rtol=0.05, atol=0.2)


def test_float32_and_float64_have_kernels_and_no_warning(first_time):
    assert has_kernels("cpu", torch.float32)
    assert has_kernels("cpu", torch.float64)


def test_a_build_without_kernels_warns_and_computes(first_time, monkeypatch):
    def missing(*args: object, **kwargs: object) -> Tensor:
        raise RuntimeError("not implemented")

    monkeypatch.setattr(torch.sparse, "sampled_addmm", missing)
    mask = some_mask()
    sparse, dense = pair(mask)
    inputs = torch.randn(4, 5, dtype=torch.float64)
    with pytest.warns(UserWarning, match="no sparse kernels for float64 on cpu"):
        sparse(inputs)
    assert_same_as_masked(sparse, dense, mask, inputs)


@pytest.mark.parametrize("batch", [3, 40])
def test_autocast_computes_in_the_type_of_the_values(batch):
    layer = SparseLinear(5, 7, 0.5)
    inputs = torch.randn(batch, 5, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        output = layer(inputs.bfloat16())
        output.sum().backward()
    torch.testing.assert_close(output, layer(inputs.bfloat16().float()))
    assert output.dtype == layer.values.grad.dtype == torch.float32


def test_weight_is_the_csr_tensor_and_carries_gradients():
    mask = some_mask()
    sparse, dense = pair(mask)
    assert sparse.weight.layout == torch.sparse_csr
    assert sparse.weight.to_dense().equal(dense.weight)
    assert sparse.weight.values().data_ptr() == sparse.values.data_ptr()
    (sparse.weight @ torch.ones(5, 1, dtype=torch.float64)).sum().backward()
    assert sparse.values.grad.equal(torch.ones_like(sparse.values))


def test_topology_is_known_as_positions_mask_and_density():
    mask = some_mask()
    layer = SparseLinear(5, 7, mask=mask)
    assert layer.mask.equal(mask)
    assert layer.positions.equal(mask.flatten().nonzero().squeeze(1))
    assert layer.density == pytest.approx(mask.float().mean().item())
    assert SparseLinear(5, 7, positions=layer.positions).mask.equal(mask)


@pytest.mark.parametrize(("density", "nnz"), [(0.2, 15_680), (0.05, 3_920), (1, 78_400), (1e-9, 1)])
def test_density_sets_the_exact_number_of_connections(density, nnz):
    layer = SparseLinear(784, 100, density)
    assert len(layer.values) == len(layer.col_indices) == nnz
    assert layer.crow_indices.dtype == layer.col_indices.dtype == torch.int32


def test_a_generator_draws_the_same_layer_again():
    def layer(seed: int) -> SparseLinear:
        return SparseLinear(20, 30, 0.1, generator=torch.Generator().manual_seed(seed))

    assert layer(5).weight.to_dense().equal(layer(5).weight.to_dense())
    assert not layer(5).mask.equal(layer(6).mask)
    assert not layer(5).bias.equal(layer(6).bias)


def test_values_and_bias_are_drawn_for_the_units_own_fan_in():
    fan_in = torch.tensor([0, 1, 16, 400])
    layer = SparseLinear(400, 4, mask=torch.arange(400) < fan_in[:, None])
    units = layer.values.detach().split(fan_in.tolist())
    assert layer.bias[0] == 0
    for unit, bias, count in zip(units[1:], layer.bias[1:], fan_in[1:].tolist(), strict=True):
        assert unit.abs().max() <= count**-0.5
        assert bias.abs() <= count**-0.5
    assert units[3].abs().max() > 0.98 * 400**-0.5
    assert units[3].std().item() == pytest.approx((3 * 400) ** -0.5, rel=0.1)


def test_the_signal_survives_where_the_dense_initialisation_lets_it_die():
    def spread(layers: list[nn.Module]) -> float:
        network = nn.Sequential(*(module for layer in layers for module in (layer, nn.ReLU())))
        with torch.no_grad():
            return network(torch.randn(64, 784)).std(0).mean().item()

    sizes = [784, 600, 600, 600]
    sparse = [SparseLinear(i, o, 0.01, bias=False) for i, o in pairwise(sizes)]
    dense = [nn.Linear(i, o, bias=False) for i, o in pairwise(sizes)]
    masked = [SparseLinear.from_linear(layer, other.mask) for layer, other in zip(dense, sparse, strict=True)]
    assert spread(sparse) > 0.5 * spread(dense)
    assert spread(masked) < 0.02 * spread(dense)


def test_a_dense_layer_becomes_sparse_and_dense_again():
    linear = nn.Linear(5, 7, dtype=torch.float64).eval()
    mask = some_mask()
    back = SparseLinear.from_linear(linear, mask).to_linear()
    assert back.weight.equal(linear.weight * mask)
    assert back.bias.equal(linear.bias)
    assert not back.training
    assert back.weight.is_leaf


def test_from_linear_takes_the_weights_that_are_not_zero_and_copies_them():
    mask = some_mask()
    _, dense = pair(mask)
    dense.bias.requires_grad_(False)
    state = torch.get_rng_state()
    sparse = SparseLinear.from_linear(dense)
    assert torch.get_rng_state().equal(state)
    assert sparse.mask.equal(mask)
    assert sparse.values.requires_grad
    assert not sparse.bias.requires_grad
    with torch.no_grad():
        sparse.values.zero_()
    assert dense.weight.count_nonzero() == mask.count_nonzero()


@pytest.mark.parametrize(
    "twin",
    [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))],
    ids=["deepcopy", "pickle"],
)
def test_a_copy_is_a_layer_of_its_own(twin):
    layer = SparseLinear(5, 7, 0.5)
    gradients(layer, torch.randn(3, 5))  # with the transposed layout
    other = twin(layer)
    inputs = torch.randn(3, 5)
    assert other(inputs).equal(layer(inputs))
    before = layer.positions.clone()
    other.rewire(other.positions[:2], random_positions(35, 2, exclude=other.positions))
    other.load_state_dict(SparseLinear(5, 7, 0.2).state_dict())
    assert len(other.values) == 7
    assert layer.positions.equal(before)
    assert len(layer.values) == 18


def test_a_state_dict_brings_its_topology_and_trains_on():
    source, target = SparseLinear(5, 7, 0.5, dtype=torch.float64), SparseLinear(5, 7, 0.2, dtype=torch.float64)
    gradients(target, torch.randn(3, 5, dtype=torch.float64))
    parameter = target.values
    assert set(source.state_dict()) == {"values", "bias", "crow_indices", "col_indices", "shape"}
    target.load_state_dict(copy.deepcopy(source.state_dict()))
    assert target.values is parameter
    assert target.mask.equal(source.mask)
    _, dense = pair(source.mask)
    dense.load_state_dict(source.to_linear().state_dict())
    assert_same_as_masked(target, dense, source.mask, torch.randn(3, 5, dtype=torch.float64))


def test_a_state_dict_of_64_bit_indices_loads():
    source, target = SparseLinear(5, 7, 0.5), SparseLinear(5, 7, 0.5)
    state = {
        name: tensor if tensor.is_floating_point() else tensor.long() for name, tensor in source.state_dict().items()
    }
    target.load_state_dict(state)
    assert target.col_indices.dtype == torch.int32
    assert target.weight.to_dense().equal(source.weight.to_dense())


def test_a_topology_that_does_not_fit_is_refused_by_name():
    network = nn.Sequential(SparseLinear(5, 7, 0.5))
    for wrong in (SparseLinear(6, 7, 1), SparseLinear(5, 8, 0.5)):
        with pytest.raises(
            RuntimeError, match=r"Expected 0\.crow_indices and 0\.col_indices to fit a weight of \(7, 5\)"
        ):
            network.load_state_dict(nn.Sequential(wrong).state_dict())
    state = network.state_dict()
    state["0.col_indices"] = state["0.col_indices"].flip(0)
    with pytest.raises(RuntimeError, match=r"0\.col_indices to fit"):
        network.load_state_dict(state)


def test_a_state_dict_without_a_topology_is_reported_as_incomplete():
    layer = SparseLinear(5, 7, 0.5)
    state = layer.state_dict()
    del state["col_indices"]
    with pytest.raises(RuntimeError, match=r"Missing key.*col_indices"):
        layer.load_state_dict(state)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_rewired_layer_computes_and_trains_on_its_new_connections(dtype):
    layer = SparseLinear(9, 11, 0.3, dtype=dtype)
    gradients(layer, torch.randn(4, 9, dtype=dtype))
    parameter, weight = layer.values, layer.weight.to_dense().detach()
    pruned, grown = layer.positions[3:9], random_positions(99, 6, exclude=layer.positions)[torch.randperm(6)]
    layer.rewire(pruned, grown)
    expected = weight.flatten().index_fill(0, pruned, 0.0).view(11, 9)
    mask = layer.mask
    assert layer.values is parameter
    assert layer.values.grad is None
    assert layer.weight.to_dense().equal(expected)
    assert mask.flatten()[grown].all()
    assert not mask.flatten()[pruned].any()
    dense = layer.to_linear()
    inputs = torch.randn(4, 9, dtype=dtype)
    assert_same_as_masked(layer, dense, mask, inputs, rtol=1e-4, atol=1e-4)


def test_rewiring_says_how_optimizer_state_moves():
    layer = SparseLinear(9, 11, 0.3)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)
    layer(torch.randn(4, 9)).square().sum().backward()
    optimizer.step()
    momentum = optimizer.state[layer.values]["momentum_buffer"]
    dense = torch.zeros(99).index_copy(0, layer.positions, momentum)
    pruned, grown = layer.positions[::4], random_positions(99, 8, exclude=layer.positions)
    source = layer.rewire(pruned, grown)
    assert source.dtype == torch.int64
    moved = torch.zeros(99).index_copy(0, layer.positions, carry(momentum, source))
    assert moved.equal(dense.index_fill(0, pruned, 0.0))


def test_grown_values_follow_their_positions():
    layer = SparseLinear(3, 2, positions=torch.tensor([0, 4]))
    layer.rewire(torch.tensor([4]), torch.tensor([5, 1]), grown_values=torch.tensor([50.0, 10.0]))
    assert layer.positions.tolist() == [0, 1, 5]
    assert layer.values[1:].tolist() == [10.0, 50.0]
    layer.rewire(torch.tensor([0]), torch.tensor([2]), grown_values=7.0)
    assert layer.values.tolist() == [10.0, 7.0, 50.0]


def test_the_number_of_connections_may_change():
    layer, parameter = SparseLinear(9, 11, 0.3), None
    parameter = layer.values
    layer.rewire(layer.positions[:20], torch.empty(0, dtype=torch.int64))
    assert len(layer.values) == 10
    assert layer.values is parameter
    layer(torch.randn(4, 9)).sum().backward()
    assert layer.values.grad.shape == (10,)


def test_a_layer_moves_to_given_positions():
    layer, other = SparseLinear(9, 11, 0.3), SparseLinear(9, 11, 0.5)
    before, both = layer.weight.to_dense().detach(), layer.mask & other.mask
    source = layer.set_positions(other.positions, grown_values=2.0)
    assert layer.mask.equal(other.mask)
    assert layer.weight.to_dense().equal(before * both + 2.0 * (other.mask & ~both))
    assert (source >= 0).count_nonzero() == both.count_nonzero()
    with pytest.raises(ValueError, match="sorted distinct positions"):
        layer.set_positions(torch.tensor([4, 2]))


def test_a_refused_rewiring_changes_nothing():
    layer = SparseLinear(3, 2, positions=torch.tensor([0, 4]))
    values = layer.values.detach().clone()
    for pruned, grown in [([1], [2]), ([0], [4]), ([0], [6]), ([0], [-1])]:
        with pytest.raises(ValueError, match="Expected"):
            layer.rewire(torch.tensor(pruned), torch.tensor(grown))
    assert layer.positions.tolist() == [0, 4]
    assert layer.values.equal(values)


def test_a_huge_layer_is_built_trained_and_rewired_by_indices():
    size, nnz = 500_000, 21_000  # its dense weight would take 1 TB
    layer = SparseLinear(size, size, nnz / size**2)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)
    before = layer.values.detach().clone()
    inputs = torch.randn(2, size, requires_grad=True)
    layer(inputs).square().sum().backward()
    optimizer.step()
    assert len(layer.values) == nnz
    assert (layer.values != before).float().mean() > 0.99
    assert inputs.grad.shape == inputs.shape
    layer.rewire(layer.positions[::3], random_positions(size**2, nnz // 3, exclude=layer.positions))
    assert len(layer.positions.unique()) == nnz


def test_the_repr_builds_the_layer():
    for layer in (SparseLinear(784, 300, 0.05), SparseLinear(13, 17, mask=some_mask(17, 13), bias=False)):
        built = eval(repr(layer))
        assert repr(built) == repr(layer)
        assert built.values.shape == layer.values.shape
    assert repr(SparseLinear(5, 7, 0.2, transposed_output=True)) == (
        "SparseLinear(in_features=5, out_features=7, density=0.2, bias=True, transposed_output=True)"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"in_features": 0, "density": 0.5}, "Expected in_features to be a positive integer, got 0"),
        ({"out_features": 2.5, "density": 0.5}, "Expected out_features to be a positive integer, got 2.5"),
        ({"density": 0}, r"Expected density in \(0, 1\], got 0"),
        ({"density": 1.3}, r"Expected density in \(0, 1\], got 1.3"),
        ({"density": float("nan")}, r"Expected density in \(0, 1\], got nan"),
        ({"density": "0.5"}, r"Expected density in \(0, 1\], got 0.5"),
        ({}, "Expected exactly one of density, mask and positions"),
        ({"density": 0.5, "mask": some_mask()}, "Expected exactly one of density, mask and positions"),
        ({"mask": some_mask().float()}, r"Expected a boolean mask of shape \(7, 5\), got torch.float32"),
        ({"mask": some_mask().t()}, r"Expected a boolean mask of shape \(7, 5\), got torch.bool of shape \(5, 7\)"),
        ({"positions": torch.tensor([35])}, r"Expected positions in \[0, 35\), got 35 to 35"),
    ],
)
def test_what_makes_no_layer_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        SparseLinear(**{"in_features": 5, "out_features": 7, **arguments})


def test_numpy_numbers_are_numbers():
    numpy = pytest.importorskip("numpy")
    assert len(SparseLinear(numpy.int64(10), numpy.int32(20), numpy.float32(0.5)).values) == 100


@pytest.mark.parametrize("shape", [(3, 4), (5, 3), ()])
def test_an_input_of_another_size_is_refused(shape):
    with pytest.raises(ValueError, match=r"Expected input of shape \(\.\.\., 5\)"):
        SparseLinear(5, 7, 0.5)(torch.randn(shape))


def test_an_input_of_another_type_is_refused():
    with pytest.raises(ValueError, match=r"Expected input of torch.float32, got torch.float64"):
        SparseLinear(5, 7, 0.5)(torch.randn(3, 5, dtype=torch.float64))


@pytest.mark.slow
def test_the_first_layer_of_a_process_gives_no_warning():
    code = (
        "import torch; from sparse_lightning.nn.sparse_linear import SparseLinear;"
        "SparseLinear(5, 7, 0.5)(torch.ones(3, 5)).sum().backward()"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # Dynamo's own
def test_a_compiled_layer_computes_the_same_and_follows_a_rewiring():
    layer = SparseLinear(9, 11, 0.3)
    compiled, inputs = torch.compile(layer, backend="eager"), torch.randn(4, 9)
    torch.testing.assert_close(compiled(inputs), layer(inputs))
    layer.rewire(layer.positions[:5], random_positions(99, 5, exclude=layer.positions))
    torch.testing.assert_close(compiled(inputs), layer(inputs))
