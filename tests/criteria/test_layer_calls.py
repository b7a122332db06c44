"""Where the activity of a layer is read, and which layers can be counted."""

import copy
import sys
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from criteria.tracker_reference import Reference, attached
from functional.coactivation_reference import index_by_index, outer_products, position_by_position
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.prune import random_unstructured

from sparse_lightning.criteria.coactivation import CoactivationTracker

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
    "in two containers": (
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
    modules = dict(network.named_modules())
    pairs = {f"{layer}.weight": (modules[layer], modules[end]) for layer, end in ends.items()}
    tracker, reference = attached(network), Reference(pairs)
    for _ in range(3):  # in the first call all modules have hooks
        network(torch.randn(7, 6))
        tracker.count()
    assert tracker.read_at == {f"{layer}.weight": end for layer, end in ends.items()}
    torch.testing.assert_close(tracker.counts, reference.counts)
    assert set(tracker.samples.values()) == {21}


class SelfCounting(nn.Module):
    """A network that counts by itself what its layers receive and what their units become."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
        self.norm, self.relu = nn.BatchNorm1d(6), nn.ReLU()
        self.counts = {f"{name}.weight": torch.zeros(6, 6, dtype=torch.int32) for name in ("first", "second")}

    def add(self, name: str, inputs: Tensor, outputs: Tensor) -> None:
        self.counts[f"{name}.weight"] += outer_products(inputs, outputs)


class OneReLU(SelfCounting):
    """One ReLU serves both layers, one after the other."""

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.relu(self.norm(self.first(x)))
        output = self.relu(self.second(hidden))
        self.add("first", x, hidden)
        self.add("second", hidden, output)
        return output


class FunctionalReLU(SelfCounting):
    """The activation is a function, so the module before it is the last that can be read."""

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.relu(self.norm(self.first(x)))
        output = F.relu(self.second(hidden))
        self.add("first", x, hidden)
        self.add("second", hidden, output)
        return output


class Repeated(SelfCounting):
    """A layer runs twice in one pass, the second time on its own output."""

    def forward(self, x: Tensor) -> Tensor:
        once = self.relu(self.first(x))
        twice = self.relu(self.first(once))
        output = self.second(twice)
        self.add("first", x, once)
        self.add("first", once, twice)
        self.add("second", twice, output)
        return output


class Branches(SelfCounting):
    """Both layers run before the ReLU that they share."""

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.first(x), self.second(-x)
        left, right = self.relu(left), self.relu(right)
        self.add("first", x, left)
        self.add("second", -x, right)
        return left + right


class Twins(SelfCounting):
    """One layer runs on two inputs before the ReLU that follows both times."""

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.first(x), self.first(-x)
        left, right = self.relu(left), self.relu(right)
        output = self.second(left)
        self.add("first", x, left)
        self.add("first", -x, right)
        self.add("second", left, output)
        return output


class Residual(SelfCounting):
    """A layer's output goes to its activation and past it."""

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x)
        active = self.relu(hidden)
        output = self.second(active + hidden)
        self.add("first", x, active)
        self.add("second", active + hidden, output)
        return output


class Elsewhere(SelfCounting):
    """The ReLU runs on something else between a layer and its own turn."""

    def forward(self, x: Tensor) -> Tensor:
        hidden, aside = self.first(x), self.relu(-x)
        active = self.relu(hidden)
        output = self.second(active + aside)
        self.add("first", x, active)
        self.add("second", active + aside, output)
        return output


@pytest.mark.parametrize("kind", [OneReLU, FunctionalReLU, Repeated, Branches, Twins, Residual, Elsewhere])
def test_counts_are_exact_however_modules_are_shared(kind):
    network = kind()
    tracker = attached(network)
    for _ in range(3):
        network(torch.randn(7, 6))
        tracker.count()
    torch.testing.assert_close(tracker.counts, network.counts)


def test_an_activation_that_is_a_function_is_read_before_it():
    network = FunctionalReLU()
    tracker = attached(network)
    network(torch.randn(7, 6))
    tracker.count()
    assert tracker.read_at == {"first.weight": "norm", "second.weight": "second"}


def test_a_layer_that_joins_later_is_counted_from_then_on():
    network = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
    tracker = attached(network)
    reference = Reference({f"{n}.weight": (layer, layer) for n, layer in enumerate(network)})
    for step in range(4):
        hidden = network[0](torch.randn(5, 4))
        if step >= 2:
            network[1](hidden)
        tracker.count()
    torch.testing.assert_close(tracker.counts, reference.counts)
    assert tracker.samples == {"0.weight": 20, "1.weight": 10}


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
    twin, tracker = copy.deepcopy(network), CoactivationTracker()
    tracker.attach(network, ["0.weight", "4.weight", "6.weight"])
    expected = {name: torch.zeros_like(network.get_parameter(name), dtype=torch.int32) for name in tracker.counts}
    for _ in range(3):
        values = [torch.randn(2, 1, 8, 8)]
        for module in twin:
            values.append(module(values[-1].clone()))
        expected["0.weight"] += position_by_position(network[0], values[0], values[3])
        expected["4.weight"] += position_by_position(network[4], values[4], values[5])
        expected["6.weight"] += outer_products(values[6], values[7])
        network(values[0])
        tracker.count()
    assert tracker.read_at == {"0.weight": "2", "4.weight": "4", "6.weight": "6"}
    torch.testing.assert_close(tracker.counts, expected)


def test_activity_is_read_at_overrides():
    network = OneReLU()
    tracker = CoactivationTracker(read_at={"first": "norm", "second.weight": "second"})
    tracker.attach(network, ["first.weight", "second.weight"])
    first, second = torch.zeros(6, 6, dtype=torch.int32), torch.zeros(6, 6, dtype=torch.int32)
    for _ in range(3):
        inputs = torch.randn(7, 6)
        twin = copy.deepcopy(network)
        normed = twin.norm(twin.first(inputs))
        first += outer_products(inputs, normed)
        second += outer_products(normed.relu(), twin.second(normed.relu()))
        network(inputs)
        tracker.count()
    torch.testing.assert_close(tracker.counts, {"first.weight": first, "second.weight": second})
    assert tracker.read_at == {"first.weight": "norm", "second.weight": "second"}


@pytest.mark.parametrize(
    ("read_at", "message"),
    [
        ({"third": "norm"}, "Expected read_at to name layers that are sparse, got 'third'"),
        ({"first": "nrom"}, "Expected read_at to name a module of the model for 'first', got 'nrom'"),
    ],
)
def test_a_name_that_is_not_there_is_refused_before_training(read_at, message):
    with pytest.raises(ValueError, match=message):
        CoactivationTracker(read_at=read_at).attach(OneReLU(), ["first.weight", "second.weight"])


def test_a_module_of_other_units_is_refused_in_the_first_batch():
    network = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4))
    tracker = CoactivationTracker(read_at={"0": "1"})
    tracker.attach(network, ["0.weight", "1.weight"])
    with pytest.raises(ValueError, match=r"Expected '1' to return the units of '0.weight', \[7, 5\], got \[7, 4\]"):
        network(torch.randn(7, 6))


# Models as they are written elsewhere.


class Metered(nn.Module):
    """A metric is a module whose hash changes with its state."""

    def __init__(self) -> None:
        super().__init__()
        self.metric = pytest.importorskip("torchmetrics").classification.MulticlassAccuracy(4)
        self.layer, self.relu = nn.Linear(6, 4), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        logits = self.relu(self.layer(x))
        self.metric(logits, logits.argmax(-1))
        return logits


class Keywords(nn.Module):
    """Every module is called by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm, self.relu = nn.Linear(6, 4), nn.LayerNorm(4), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(input=self.norm(input=self.layer(input=x)))


class Rehashed(nn.Module):
    """The hash of the layer itself changes."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.relu = ChangingHash(6, 4), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.layer(x))


class ChangingHash(nn.Linear):
    def __hash__(self) -> int:
        return int(self.weight.sum().item() * 1e6)  # changes with every optimizer step


@pytest.mark.parametrize("build", [Metered, Keywords, Rehashed])
def test_a_layer_is_counted_however_its_model_is_written(build):
    network = build()
    tracker, reference = attached(network), Reference({"layer.weight": (network.layer, network.relu)})
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for _ in range(3):
        network(torch.randn(7, 6)).sum().backward()
        optimizer.step()
        tracker.count()
    assert tracker.read_at == {"layer.weight": "relu"}
    assert reference.counts["layer.weight"].any()
    torch.testing.assert_close(tracker.counts, reference.counts)


def test_a_layer_used_late_is_read_after_its_activation():
    network = nn.ModuleDict({"first": nn.Linear(4, 4), "late": nn.Linear(4, 4), "relu": nn.ReLU()})
    tracker, reference = attached(network), Reference({"late.weight": (network["late"], network["relu"])})
    for step in range(5):
        hidden = network["first"](torch.randn(5, 4))
        if step >= 2:
            network["relu"](network["late"](hidden))
        tracker.count()
    assert tracker.read_at == {"first.weight": "first", "late.weight": "relu"}
    assert tracker.counts["late.weight"].equal(reference.counts["late.weight"])


def test_every_call_is_counted_where_it_ends_though_the_way_changes():
    network = nn.ModuleDict({"layer": nn.Linear(6, 4), "norm": nn.BatchNorm1d(4), "relu": nn.ReLU()})
    tracker, expected = attached(network), torch.zeros(4, 6, dtype=torch.int32)
    for step in range(6):
        inputs = torch.randn(5, 6)
        outputs = network["layer"](inputs)
        outputs = network["norm"](outputs) if step % 3 != 1 else outputs
        outputs = network["relu"](outputs) if step % 3 == 2 else outputs
        expected += outer_products(inputs, outputs)
        tracker.count()
    assert tracker.samples == {"layer.weight": 30}
    assert tracker.counts["layer.weight"].equal(expected)


def test_an_input_changed_in_place_between_two_layers_is_read_twice():
    network = nn.ModuleList([nn.Linear(4, 3), nn.Linear(4, 3)])
    tracker = attached(network)
    inputs = torch.randn(6, 4)
    first = outer_products(inputs, network[0](inputs))
    inputs.neg_()
    second = outer_products(inputs, network[1](inputs))
    tracker.count()
    torch.testing.assert_close(tracker.counts, {"0.weight": first, "1.weight": second})


def test_inference_tensors_are_counted():
    network = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    tracker, reference = attached(network, count_validation=True), Reference({"0.weight": (network[0], network[1])})
    for _ in range(2):
        with torch.inference_mode():
            network(torch.randn(4, 6))
        tracker.count()
    assert tracker.counts["0.weight"].equal(reference.counts["0.weight"])


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_a_scripted_activation_runs_and_the_layer_before_it_is_read():
    network = nn.Sequential(nn.Linear(6, 5), torch.jit.script(nn.ReLU()), nn.Linear(5, 4))
    tracker = attached(network)
    reference = Reference({f"{name}.weight": (network[name], network[name]) for name in (0, 2)})
    for _ in range(2):
        network(torch.randn(4, 6))
        tracker.count()
    torch.testing.assert_close(tracker.counts, reference.counts)


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_tracing_is_not_counted():
    network = nn.Sequential(nn.Linear(6, 5), nn.ReLU())
    tracker = attached(network)
    torch.jit.trace(network, torch.randn(4, 6), check_trace=False)
    tracker.count()
    assert tracker.samples == {"0.weight": 0}


def test_layers_with_one_weight_are_counted_together():
    network = nn.ModuleDict({"encoder": nn.Linear(5, 5), "decoder": nn.Linear(5, 5)})
    network["decoder"].weight = network["encoder"].weight
    network["again"] = network["encoder"]
    tracker = CoactivationTracker()
    tracker.attach(network, [name for name, weight in network.named_parameters() if weight.dim() > 1])
    expected = torch.zeros(5, 5, dtype=torch.int32)
    for _ in range(2):
        for name in ("encoder", "decoder", "again"):
            inputs = torch.randn(3, 5)
            expected += outer_products(inputs, network[name](inputs))
        tracker.count()
    torch.testing.assert_close(tracker.counts, {"encoder.weight": expected})
    assert tracker.samples == {"encoder.weight": 18}
    assert tracker.read_at == {"encoder.weight": "encoder, decoder"}


def test_an_embedding_tied_to_the_output_layer_counts_both_uses():
    network = nn.ModuleDict({"embedding": nn.Embedding(7, 4), "decoder": nn.Linear(4, 7, bias=False)})
    network["decoder"].weight = network["embedding"].weight
    tracker = CoactivationTracker()
    tracker.attach(network, ["embedding.weight"])
    indices = torch.randint(0, 7, (3, 5))
    embedded = network["embedding"](indices)
    expected = index_by_index(network["embedding"], indices, embedded)
    expected += outer_products(embedded, network["decoder"](embedded))
    tracker.count()
    assert tracker.counts["embedding.weight"].equal(expected)


def test_a_replaced_layer_is_counted_from_the_next_reset_on():
    network = nn.Sequential(nn.Linear(6, 5), nn.ReLU())
    tracker = attached(network)
    network[0] = nn.Linear(6, 5)
    network(torch.randn(4, 6))
    tracker.count()
    assert tracker.uncounted(["0.weight"]) == ["0.weight"]
    tracker.reset()
    reference = Reference({"0.weight": (network[0], network[1])})
    network(torch.randn(4, 6))
    tracker.count()
    assert tracker.uncounted(["0.weight"]) == []
    torch.testing.assert_close(tracker.counts, reference.counts)


def attention(query: Tensor, key: Tensor, value: Tensor, **options: int) -> tuple[CoactivationTracker, nn.Module]:
    layer, tracker = nn.MultiheadAttention(4, 2, dropout=0.5, batch_first=True, **options), CoactivationTracker()
    nn.init.normal_(layer.in_proj_bias)
    tracker.attach(layer, [name for name, weight in layer.named_parameters() if weight.dim() > 1])
    for _ in range(2):
        layer(query, key, value=value)
        tracker.count()
    return tracker, layer


def test_self_attention_counts_its_input_projection():
    tokens = torch.randn(3, 5, 4)
    tracker, layer = attention(tokens, tokens, tokens)
    projected = F.linear(tokens, layer.in_proj_weight, layer.in_proj_bias)
    assert tracker.counts["in_proj_weight"].equal(2 * outer_products(tokens, projected))
    assert tracker.samples == {"in_proj_weight": 30}
    assert tracker.uncountable == ["out_proj.weight"]


@pytest.mark.parametrize("packed", [True, False])
def test_attention_between_sequences_counts_each_projection_on_its_own(packed):
    query, key, value = torch.randn(3, 5, 4), torch.randn(3, 7, 4 if packed else 6), torch.randn(3, 7, 4)
    tracker, layer = attention(query, key, value, **({} if packed else {"kdim": 6}))
    weights = (
        layer.in_proj_weight.split(4) if packed else (layer.q_proj_weight, layer.k_proj_weight, layer.v_proj_weight)
    )
    inputs = zip((query, key, value), weights, layer.in_proj_bias.split(4), strict=True)
    expected = [2 * outer_products(each, F.linear(each, weight, bias)) for each, weight, bias in inputs]
    names = ["q_proj_weight", "k_proj_weight", "v_proj_weight"]
    found = tracker.counts["in_proj_weight"].split(4) if packed else [tracker.counts[name] for name in names]
    for counts, other in zip(found, expected, strict=True):
        assert counts.equal(other)


def test_a_transformer_layer_is_counted_but_for_its_output_projection():
    network = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
    names = [name for name, weight in network.named_parameters() if weight.dim() > 1]
    tracker = CoactivationTracker()
    tracker.attach(network, names)
    network(torch.randn(2, 3, 4)).sum().backward()
    tracker.count()
    assert tracker.uncounted(names) == ["self_attn.out_proj.weight"]
    assert all(counts.any() for counts in tracker.counts.values())


class TransposedLinear(nn.Module):
    """As Hugging Face's Conv1D: y = x W + b."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 4))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


def test_a_linear_layer_of_transposed_weight_is_counted_transposed(monkeypatch):
    library = SimpleNamespace(Conv1D=TransposedLinear)
    monkeypatch.setitem(sys.modules, "transformers.pytorch_utils", library)
    network = nn.Sequential(TransposedLinear(), nn.ReLU())
    tracker = CoactivationTracker()
    tracker.attach(network, ["0.weight"])
    expected = torch.zeros(6, 4, dtype=torch.int32)
    for _ in range(2):
        inputs = torch.randn(2, 5, 6)
        expected += outer_products(inputs, network(inputs)).T
        tracker.count()
    torch.testing.assert_close(tracker.counts, {"0.weight": expected})


def test_the_conv1d_of_transformers_is_counted_transposed():
    library = pytest.importorskip("transformers.pytorch_utils")
    layer, tracker, inputs = library.Conv1D(4, 6), CoactivationTracker(), torch.randn(2, 5, 6)
    tracker.attach(layer, ["weight"])
    expected = outer_products(inputs, layer(inputs)).T
    tracker.count()
    torch.testing.assert_close(tracker.counts, {"weight": expected})


PARAMETRIZED: dict[str, tuple[Callable[[nn.Module], nn.Module], str]] = {
    "weight norm": (nn.utils.parametrizations.weight_norm, "0.parametrizations.weight.original1"),
    "spectral norm": (nn.utils.parametrizations.spectral_norm, "0.parametrizations.weight.original"),
    "pruned": (lambda layer: random_unstructured(layer, "weight", 0.5), "0.weight_orig"),
}


@pytest.mark.parametrize("build", [lambda: nn.Linear(6, 5), lambda: nn.Conv1d(6, 5, 3)])
@pytest.mark.parametrize("kind", PARAMETRIZED)
def test_the_parameter_behind_a_computed_weight_is_counted(kind, build):
    parametrize, name = PARAMETRIZED[kind]
    network = nn.Sequential(parametrize(build()), nn.ReLU())
    inputs = torch.randn(4, 6) if isinstance(network[0], nn.Linear) else torch.randn(4, 6, 7)
    tracker = CoactivationTracker()
    tracker.attach(network, [name])
    outputs = network(inputs)
    tracker.count()
    layer = network[0] if isinstance(network[0], nn.Conv1d) else None
    expected = position_by_position(layer, inputs, outputs) if layer else outer_products(inputs, outputs)
    torch.testing.assert_close(tracker.counts, {name: expected})


# What can not be counted.


class PaddingConvolution(nn.Conv2d):
    """Pads the image itself, as ports from TensorFlow do."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (0, 1, 0, 1)))


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize(
    ("build", "shape", "names"),
    [
        (lambda: nn.LSTM(4, 3), (5, 2, 4), ["weight_ih_l0", "weight_hh_l0"]),
        (lambda: nn.GRU(4, 3), (5, 2, 4), ["weight_ih_l0", "weight_hh_l0"]),
        (lambda: nn.LayerNorm(4), (2, 4), ["weight"]),
        (lambda: torch.jit.script(nn.Linear(4, 3)), (2, 4), ["weight"]),
        (lambda: torch.jit.script(nn.Sequential(nn.Linear(4, 3), nn.ReLU())), (2, 4), ["0.weight"]),
        (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)), (2, 4), ["parametrizations.weight.original0"]),
    ],
)
def test_a_weight_of_another_kind_is_listed_and_stops_nothing(build, shape, names):
    network, tracker = build(), CoactivationTracker()
    tracker.attach(network, names)
    assert tracker.uncountable == names
    network(torch.randn(shape))
    tracker.count()
    tracker.reset()
    assert tracker.counts == {}
    assert tracker.uncounted(names) == names
    with pytest.raises(RuntimeError, match=f"Expected the layer of '{names[0]}' to have been called in training as a"):
        tracker.total(names[0])


def test_a_layer_that_does_more_than_its_linear_map_is_listed_and_stops_nothing():
    network = nn.Sequential(PaddingConvolution(2, 3, 2), nn.ReLU(), nn.Conv2d(3, 2, 2))
    tracker = CoactivationTracker()
    tracker.attach(network, ["0.weight", "2.weight"])
    for _ in range(2):
        network(torch.randn(2, 2, 5, 5))
        tracker.count()
    assert tracker.uncounted(["0.weight", "2.weight"]) == ["0.weight"]


def test_a_layer_whose_weight_is_used_as_a_tensor_is_listed():
    network = nn.ModuleDict({"called": nn.Linear(4, 4), "used": nn.Linear(4, 4), "unused": nn.Linear(4, 4)})
    tracker = attached(network)
    F.linear(network["called"](torch.randn(2, 4)), network["used"].weight)
    tracker.count()
    assert tracker.uncountable == []
    assert tracker.uncounted(["used.weight", "called.weight", "unused.weight"]) == ["used.weight", "unused.weight"]


def test_only_a_layer_with_an_output_of_its_own_can_be_read_elsewhere():
    network = nn.Sequential(nn.MultiheadAttention(4, 2))
    with pytest.raises(ValueError, match="read_at to name layers with an output of their own, got '0"):
        CoactivationTracker(read_at={"0.in_proj_weight": "0"}).attach(network, ["0.in_proj_weight"])
