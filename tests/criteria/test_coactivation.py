import copy
import itertools
import pickle
from collections.abc import Callable

import pytest
import torch
from lightning.pytorch import Callback
from torch import Tensor, nn
from torch.nn import functional as F

from sparse_lightning import PruneRegrow, SparseMLP
from sparse_lightning.criteria.coactivation import Coactivation, coactivation


def outer_products(inputs: Tensor, outputs: Tensor) -> Tensor:
    """The slow and obvious way: for each sample, which pairs of units were both above zero."""
    counts = torch.zeros(outputs.shape[-1], inputs.shape[-1], dtype=torch.int32)
    for given, made in zip(inputs.flatten(0, -2), outputs.flatten(0, -2), strict=True):
        counts += ((made > 0)[:, None] & (given > 0)).int()
    return counts


class Seen:
    """Counts, by hooks of its own, each layer's inputs against the outputs of a module said beforehand."""

    def __init__(self, pairs: dict[str, tuple[nn.Linear, nn.Module]], validation: bool = False) -> None:
        self.counts = {name: torch.zeros(layer.weight.shape, dtype=torch.int32) for name, (layer, _) in pairs.items()}
        self.validation = validation
        for name, (layer, end) in pairs.items():
            self.watch(name, layer, end)

    def watch(self, name: str, layer: nn.Linear, end: nn.Module) -> None:
        inputs: list[Tensor] = []

        def enter(part: nn.Module, args: tuple[Tensor, ...]) -> None:
            inputs.append(args[0].detach().clone())

        def leave(part: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            if inputs and (part.training or self.validation):
                self.counts[name] += outer_products(inputs.pop(), output.detach())

        layer.register_forward_pre_hook(enter)
        end.register_forward_hook(leave)

    def clear(self) -> None:
        for counts in self.counts.values():
            counts.zero_()


def attached(module: nn.Module, **options: bool) -> Coactivation:
    """A statistic that watches every Linear of a module."""
    statistic = Coactivation(**options)
    layers = {f"{name}.weight": part for name, part in module.named_modules() if isinstance(part, nn.Linear)}
    statistic.attach(module, layers)
    return statistic


def known(model: SparseMLP) -> dict[str, tuple[nn.Linear, nn.Module]]:
    """The layers of a SparseMLP of two hidden layers, and where their activities are to be read."""
    parts = model.network
    pairs = ((parts.linear1, parts.relu1), (parts.linear2, parts.relu2), (parts.output, parts.output))
    names = ("network.linear1.weight", "network.linear2.weight", "network.output.weight")
    return dict(zip(names, pairs, strict=True))


@pytest.fixture
def mlp() -> SparseMLP:
    return SparseMLP(input_size=6, num_classes=3, hidden_sizes=(8, 5), density=0.5)


# The function.


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
    ones = torch.ones(70_001, 2, dtype=dtype)  # bfloat16 has no whole numbers of its own beyond 256
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


def padded(layer: nn.Module, inputs: Tensor) -> Tensor:
    """The input with the layer's padding around it, written out."""
    if layer.padding == "same":
        before = [(d * (k - 1)) // 2 for k, d in zip(layer.kernel_size, layer.dilation, strict=True)]
        after = [d * (k - 1) - b for k, d, b in zip(layer.kernel_size, layer.dilation, before, strict=True)]
    else:
        before = after = list(layer.padding)
    around = [amount for pair in zip(reversed(before), reversed(after), strict=True) for amount in pair]
    return F.pad(inputs, around, mode="constant" if layer.padding_mode == "zeros" else layer.padding_mode)


def position_by_position(layer: nn.Module, inputs: Tensor, outputs: Tensor) -> Tensor:
    """The slow and obvious way: at each place of the output, where each tap of the kernel looks."""
    inputs, outputs = padded(layer, inputs.unsqueeze(0) if inputs.dim() == layer.weight.dim() - 1 else inputs), outputs
    outputs = outputs.unsqueeze(0) if outputs.dim() < inputs.dim() else outputs
    counts = torch.zeros(layer.weight.shape, dtype=torch.int32)
    width_out, width_in = layer.out_channels // layer.groups, layer.in_channels // layer.groups
    for sample, channel, *place in (outputs > 0).nonzero().tolist():
        for tap in itertools.product(*map(range, layer.kernel_size)):
            look = [p * s + t * d for p, s, t, d in zip(place, layer.stride, tap, layer.dilation, strict=True)]
            for number in range(width_in):
                value = inputs[(sample, channel // width_out * width_in + number, *look)]
                counts[(channel, number, *tap)] += int(value > 0)
    return counts


def position_by_position_backwards(layer: nn.Module, inputs: Tensor, outputs: Tensor) -> Tensor:
    """The same for a transposed convolution: at each place of the input, where each tap of the kernel writes."""
    counts = torch.zeros(layer.weight.shape, dtype=torch.int32)
    width_out, width_in = layer.out_channels // layer.groups, layer.in_channels // layer.groups
    for sample, channel, *place in (inputs > 0).nonzero().tolist():
        for tap in itertools.product(*map(range, layer.kernel_size)):
            offsets = zip(place, layer.stride, tap, layer.dilation, layer.padding, strict=True)
            write = [p * s + t * d - pad for p, s, t, d, pad in offsets]
            if all(0 <= w < size for w, size in zip(write, outputs.shape[2:], strict=True)):
                for number in range(width_out):
                    value = outputs[(sample, channel // width_in * width_out + number, *write)]
                    counts[(channel, number, *tap)] += int(value > 0)
    return counts


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


# Where a layer's activity is read.

CHAINS: dict[str, tuple[Callable[[], list[nn.Module]], dict[str, str]]] = {
    "relu after batch norm": (lambda: [nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU()], {"0": "2"}),
    "relu after layer norm": (lambda: [nn.Linear(6, 5), nn.LayerNorm(5), nn.ReLU()], {"0": "2"}),
    "in-place relu": (
        lambda: [nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(True), nn.Linear(5, 4), nn.ReLU(True)],
        {"0": "2", "3": "4"},
    ),
    "nothing after": (lambda: [nn.Linear(6, 5), nn.Linear(5, 4)], {"0": "0", "1": "1"}),
    "gelu": (lambda: [nn.Linear(6, 5), nn.GELU(), nn.Linear(5, 4), nn.Tanh()], {"0": "1", "2": "3"}),
    "batch norm after": (lambda: [nn.Linear(6, 5), nn.LeakyReLU(), nn.BatchNorm1d(5)], {"0": "2"}),
    "in parts": (
        lambda: [nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5)), nn.Sequential(nn.ReLU())],
        {"0.0": "1.0"},
    ),
    "dropout between": (lambda: [nn.Linear(6, 5), nn.Dropout(0.5), nn.ReLU()], {"0": "0"}),
    "dropout after": (lambda: [nn.Linear(6, 5), nn.ReLU(), nn.Dropout(0.5), nn.Linear(5, 4)], {"0": "1", "3": "3"}),
    "softmax": (lambda: [nn.Linear(6, 5), nn.Softmax(-1)], {"0": "0"}),
    "sigmoid": (lambda: [nn.Linear(6, 5), nn.Sigmoid()], {"0": "0"}),
    "softplus": (lambda: [nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Softplus()], {"0": "1"}),
    "another shape": (lambda: [nn.Linear(6, 4), nn.GLU(), nn.ReLU()], {"0": "0"}),
}


@pytest.mark.parametrize("chain", CHAINS)
def test_activity_is_read_after_normalisation_and_activation(chain):
    build, ends = CHAINS[chain]
    network = nn.Sequential(*build())
    parts = dict(network.named_modules())
    pairs = {f"{layer}.weight": (parts[layer], parts[end]) for layer, end in ends.items()}
    statistic, seen = attached(network), Seen(pairs)
    for _ in range(3):  # the first call is watched, those after it are hooked
        network(torch.randn(7, 6))
        statistic.count()
    assert statistic.read_at == {f"{layer}.weight": end for layer, end in ends.items()}
    torch.testing.assert_close(statistic.counts, seen.counts)
    assert set(statistic.samples.values()) == {21}


def test_units_of_tokens_count_each_token():
    network = nn.Sequential(nn.Linear(6, 5), nn.LayerNorm(5), nn.ReLU(), nn.Linear(5, 4))
    statistic = attached(network)
    seen = Seen({"0.weight": (network[0], network[2]), "3.weight": (network[3], network[3])})
    for _ in range(2):
        network(torch.randn(3, 7, 6))
        statistic.count()
    torch.testing.assert_close(statistic.counts, seen.counts)
    assert statistic.samples == {"0.weight": 42, "3.weight": 42}


class Told(nn.Module):
    """A network that says itself what went into its layers and what their units became."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
        self.norm, self.relu = nn.BatchNorm1d(6), nn.ReLU()
        self.counts = {f"{name}.weight": torch.zeros(6, 6, dtype=torch.int32) for name in ("first", "second")}

    def tell(self, name: str, inputs: Tensor, outputs: Tensor) -> None:
        self.counts[f"{name}.weight"] += outer_products(inputs, outputs)


class OneReLU(Told):
    """One ReLU serves both layers, one after the other."""

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.relu(self.norm(self.first(x)))
        output = self.relu(self.second(hidden))
        self.tell("first", x, hidden)
        self.tell("second", hidden, output)
        return output


class FunctionalReLU(Told):
    """The activation is a function, so the module before it is the last that can be read."""

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.relu(self.norm(self.first(x)))
        output = F.relu(self.second(hidden))
        self.tell("first", x, hidden)
        self.tell("second", hidden, output)
        return output


class Repeated(Told):
    """A layer runs twice in one pass, the second time on its own output."""

    def forward(self, x: Tensor) -> Tensor:
        once = self.relu(self.first(x))
        twice = self.relu(self.first(once))
        output = self.second(twice)
        self.tell("first", x, once)
        self.tell("first", once, twice)
        self.tell("second", twice, output)
        return output


class Branches(Told):
    """Both layers run before the ReLU that they share."""

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.first(x), self.second(-x)
        left, right = self.relu(left), self.relu(right)
        self.tell("first", x, left)
        self.tell("second", -x, right)
        return left + right


class Twins(Told):
    """One layer runs on two inputs before the ReLU that follows both times."""

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.first(x), self.first(-x)
        left, right = self.relu(left), self.relu(right)
        output = self.second(left)
        self.tell("first", x, left)
        self.tell("first", -x, right)
        self.tell("second", left, output)
        return output


class Residual(Told):
    """A layer's output goes to its activation and past it."""

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x)
        active = self.relu(hidden)
        output = self.second(active + hidden)
        self.tell("first", x, active)
        self.tell("second", active + hidden, output)
        return output


class Elsewhere(Told):
    """The ReLU runs on something else between a layer and its own turn."""

    def forward(self, x: Tensor) -> Tensor:
        hidden, aside = self.first(x), self.relu(-x)
        active = self.relu(hidden)
        output = self.second(active + aside)
        self.tell("first", x, active)
        self.tell("second", active + aside, output)
        return output


@pytest.mark.parametrize("kind", [OneReLU, FunctionalReLU, Repeated, Branches, Twins, Residual, Elsewhere])
def test_counts_are_exact_however_modules_are_shared(kind):
    network = kind()
    statistic = attached(network)
    for _ in range(3):
        network(torch.randn(7, 6))
        statistic.count()
    torch.testing.assert_close(statistic.counts, network.counts)


def test_an_activation_that_is_a_function_is_read_before_it():
    network = FunctionalReLU()
    statistic = attached(network)
    network(torch.randn(7, 6))
    statistic.count()
    assert statistic.read_at == {"first.weight": "norm", "second.weight": "second"}


def test_a_layer_that_joins_later_is_counted_from_then_on():
    network = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
    statistic = attached(network)
    seen = Seen({f"{n}.weight": (layer, layer) for n, layer in enumerate(network)})
    for step in range(4):
        hidden = network[0](torch.randn(5, 4))
        if step >= 2:
            network[1](hidden)
        statistic.count()
    torch.testing.assert_close(statistic.counts, seen.counts)
    assert statistic.samples == {"0.weight": 20, "1.weight": 10}


def test_counts_stay_exact_beyond_what_a_float_can_count():
    layer = nn.Linear(1, 1, bias=False)
    layer.weight.data.fill_(1.0)
    statistic = attached(nn.Sequential(layer))
    for samples in (*[2**22] * 5, 1, 1, 1):
        layer(torch.ones(samples, 1))
        statistic.count()
    assert statistic.total("0.weight").item() == statistic.samples["0.weight"] == 5 * 2**22 + 3


def test_counts_go_on_beyond_what_32_bits_hold():
    statistic = attached(nn.Sequential(nn.Linear(1, 1)))
    name = "0.weight"
    statistic.load_state_dict({"counts": {name: torch.tensor([[2**31 - 2]])}, "samples": {name: 2**31 - 2}})
    network = nn.Sequential(nn.Linear(1, 1, bias=False))
    network[0].weight.data.fill_(1.0)
    statistic.attach(network, [name])
    network(torch.ones(5, 1))
    statistic.count()
    assert statistic.total(name).item() == statistic.samples[name] == 2**31 + 3


def test_a_network_of_convolutions_is_counted_after_norm_and_activation():
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(True),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 5, 3),
        nn.Flatten(),
    )
    network.append(nn.Linear(20, 3))
    twin, statistic = copy.deepcopy(network), Coactivation()
    statistic.attach(network, ["0.weight", "4.weight", "6.weight"])
    expected = {name: torch.zeros_like(network.get_parameter(name), dtype=torch.int32) for name in statistic.counts}
    for _ in range(3):
        values = [torch.randn(2, 1, 8, 8)]
        for part in twin:
            values.append(part(values[-1].clone()))
        expected["0.weight"] += position_by_position(network[0], values[0], values[3])
        expected["4.weight"] += position_by_position(network[4], values[4], values[5])
        expected["6.weight"] += outer_products(values[6], values[7])
        network(values[0])
        statistic.count()
    assert statistic.read_at == {"0.weight": "2", "4.weight": "4", "6.weight": "6"}
    torch.testing.assert_close(statistic.counts, expected)


def test_activity_is_read_where_it_was_told():
    network = OneReLU()
    statistic = Coactivation(read_at={"start": "norm", "second.weight": "second"})
    statistic.attach(network, ["first.weight", "second.weight"])
    first, second = torch.zeros(6, 6, dtype=torch.int32), torch.zeros(6, 6, dtype=torch.int32)
    for _ in range(3):
        inputs = torch.randn(7, 6)
        twin = copy.deepcopy(network)
        normed = twin.norm(twin.first(inputs))
        first += outer_products(inputs, normed)
        second += outer_products(normed.relu(), twin.second(normed.relu()))
        network(inputs)
        statistic.count()
    torch.testing.assert_close(statistic.counts, {"first.weight": first, "second.weight": second})
    assert statistic.read_at == {"first.weight": "norm", "second.weight": "second"}


@pytest.mark.parametrize(
    ("read_at", "message"),
    [
        ({"third": "norm"}, "Expected read_at to name layers that are sparse, got 'third'"),
        ({"start": "nrom"}, "Expected read_at to name a module of the model for 'first', got 'nrom'"),
    ],
)
def test_a_name_that_is_not_there_is_refused_before_training(read_at, message):
    with pytest.raises(ValueError, match=message):
        Coactivation(read_at=read_at).attach(OneReLU(), ["first.weight", "second.weight"])


def test_a_module_of_other_units_is_refused_in_the_first_batch():
    network = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4))
    Coactivation(read_at={"0": "1"}).attach(network, ["0.weight", "1.weight"])
    with pytest.raises(ValueError, match=r"Expected '1' to give the units of '0.weight', \[7, 5\], got \[7, 4\]"):
        network(torch.randn(7, 6))


@pytest.mark.parametrize("name", ["norm.weight", "attention.in_proj_weight", "attention.out_proj.weight"])
def test_a_weight_that_no_called_layer_has_is_refused_before_training(name):
    network = nn.ModuleDict({"norm": nn.LayerNorm(4), "attention": nn.MultiheadAttention(4, 2)})
    with pytest.raises(ValueError, match=f"Expected '{name}' to be the weight of a Linear or a convolution that is"):
        Coactivation().attach(network, [name])


def test_several_passes_count_together():
    network = nn.Sequential(nn.Linear(6, 5), nn.ReLU())
    statistic, seen = attached(network), Seen({"0.weight": (network[0], network[1])})
    for passes in (2, 3):
        for _ in range(passes):
            network(torch.randn(4, 6))
        statistic.count()
    torch.testing.assert_close(statistic.counts, seen.counts)


# In training.


class ClearEachEpoch(Callback):
    def __init__(self, seen: Seen) -> None:
        self.seen = seen

    def on_train_epoch_start(self, *_: object) -> None:
        self.seen.clear()


@pytest.mark.parametrize("epochs", [1, 2])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("validated", [False, True])
def test_training_counts_the_last_epoch_to_the_last_sample(trainer, data, precision, epochs, validated):
    mlp = SparseMLP(input_size=6, num_classes=3, hidden_sizes=(8, 5), density=0.5, count_validation=validated)
    seen = Seen(known(mlp), validation=validated)
    # The sanity check's batch comes before the first epoch's start, where all seen until then is cleared.
    trainer(max_epochs=epochs, precision=precision, callbacks=[ClearEachEpoch(seen)]).fit(mlp, data)
    statistic = mlp.prune_regrow.growth.coactivation
    assert sum(int(counts.sum()) for counts in seen.counts.values()) > 0
    torch.testing.assert_close(statistic.counts, seen.counts)
    assert set(statistic.samples.values()) == {40 if validated else 20}


def test_a_network_in_evaluation_mode_is_not_counted():
    network = nn.Sequential(nn.Linear(6, 5), nn.ReLU())
    statistic = attached(network)
    network.eval()(torch.randn(4, 6))
    statistic.count()
    assert statistic.samples == {"0.weight": 0}
    network.train()(torch.randn(4, 6))
    network.eval()(torch.randn(4, 6))
    statistic.count()
    assert statistic.samples == {"0.weight": 4}


def test_a_layer_that_is_never_called_is_named_when_its_turn_comes(trainer, model, data):
    unused = model(nn.Sequential(nn.Linear(6, 4)))
    unused.aside = nn.Linear(4, 4)
    with pytest.raises(RuntimeError, match=r"Expected the layer of 'aside\.weight' to have been called in training"):
        trainer(max_epochs=2, callbacks=[PruneRegrow(growth="hebbian")]).fit(unused, data)


class Stop(Callback):
    def on_train_batch_end(self, *_: object) -> None:
        raise InterruptedError


@pytest.mark.parametrize("interrupted", [False, True])
def test_no_hook_is_left_behind(trainer, mlp, data, interrupted):
    run = trainer(max_epochs=1, callbacks=[Stop()] if interrupted else [])
    if interrupted:
        with pytest.raises(InterruptedError):
            run.fit(mlp, data)
    else:
        run.fit(mlp, data)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in mlp.modules())
    assert not any(optimizer._optimizer_step_post_hooks for optimizer in run.optimizers)
    before = copy.deepcopy(mlp.prune_regrow.growth.coactivation.counts)
    mlp.train()(torch.randn(4, 6))
    mlp.prune_regrow.growth.coactivation.count()
    torch.testing.assert_close(mlp.prune_regrow.growth.coactivation.counts, before)


def test_attaching_twice_counts_once():
    network = nn.Sequential(nn.Linear(6, 5), nn.ReLU())
    statistic, seen = attached(network), Seen({"0.weight": (network[0], network[1])})
    statistic.attach(network, {"0.weight": network[0]})
    network(torch.randn(4, 6))
    statistic.count()
    torch.testing.assert_close(statistic.counts, seen.counts)


@pytest.mark.parametrize("batches", [0, 1])
def test_a_copy_of_the_network_made_while_counting_runs_and_is_not_counted(batches):
    network = nn.Sequential(nn.Linear(6, 5), nn.ReLU())
    statistic = attached(network)
    for _ in range(batches):
        network(torch.randn(4, 6))
        statistic.count()
    copy.deepcopy(network)(torch.randn(4, 6))  # as weight averaging does
    statistic.count()
    assert statistic.samples == {"0.weight": 4 * batches}


# State.


def pickled(statistic: Coactivation) -> Coactivation:
    return pickle.loads(pickle.dumps(statistic))


def saved(statistic: Coactivation) -> Coactivation:
    other = Coactivation(statistic.count_validation)
    other.load_state_dict(statistic.state_dict())
    return other


@pytest.mark.parametrize("carry", [copy.deepcopy, pickled, saved])
def test_a_copy_has_the_counts_and_goes_on_alone(carry):
    network = nn.Sequential(nn.Linear(6, 5), nn.ReLU())
    statistic = attached(network, count_validation=True)
    network(torch.randn(4, 6))
    statistic.count()
    other = carry(statistic)
    assert other.count_validation
    torch.testing.assert_close(other.counts, statistic.counts)
    counted = statistic.counts["0.weight"].clone()
    assert counted.any()

    fresh = nn.Sequential(nn.Linear(6, 5), nn.ReLU())
    seen = Seen({"0.weight": (fresh[0], fresh[1])})
    other.attach(fresh, {"0.weight": fresh[0]})
    fresh(torch.randn(4, 6))
    other.count()
    assert statistic.counts["0.weight"].equal(counted)
    assert other.counts["0.weight"].equal(counted + seen.counts["0.weight"])
    assert other.samples == {"0.weight": 8}


def test_a_reset_starts_again_from_zero():
    network = nn.Sequential(nn.Linear(6, 5), nn.ReLU())
    statistic = attached(network)
    network(torch.randn(4, 6))
    statistic.count()
    statistic.reset()
    assert not statistic.counts["0.weight"].any()
    with pytest.raises(RuntimeError, match="no call was seen"):
        statistic.total("0.weight")


def test_a_layer_called_by_keyword_later_does_not_stop_training():
    network = nn.Sequential(nn.Linear(6, 5), nn.ReLU())
    statistic = attached(network)
    network(torch.randn(4, 6))
    statistic.count()
    network[1](input=network[0](input=torch.randn(4, 6)))
    statistic.count()
    assert statistic.samples == {"0.weight": 4}
