"""The table of the layers, and what is logged."""

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel
from watching import Epochs

from sparse_lightning import HebbianGrowth, PruneRegrow
from sparse_lightning.callbacks.summary import summary_table, table, topology_metrics

NAMES = ("network.0.weight", "network.3.weight", "network.5.weight")


# The functions, by hand.


def test_a_table_has_its_columns_in_line():
    assert table([("a", "bb", "c"), ("11", "", "2"), ("1", "", "22")]) == "a   c\n11  2\n1   22"


def test_the_table_of_two_layers_by_hand():
    sizes = {"one.weight": (1, torch.Size((1, 4))), "two.weight": (2, torch.Size((2, 1)))}
    module = nn.ModuleDict({"one": nn.Linear(4, 1), "two": nn.Linear(1, 2), "norm": nn.LayerNorm(3)})
    lines = summary_table(
        sizes,
        {"two.weight": 1},
        ("Pruning()", "Growth()"),
        {"one.weight": "two"},
        {"emb.weight": "excluded", "tied.weight": "shared with an embedding", "old.weight": "excluded"},
        module,
    ).splitlines()
    assert [line.split() for line in lines[1:4]] == [
        ["one.weight", "1x4", "1", "4", "0.2500", "0", "Pruning()", "Growth()", "two"],
        ["two.weight", "2x1", "2", "2", "1.0000", "1", "Pruning()", "Growth()"],
        ["all", "3", "6", "0.5000", "1"],
    ]
    assert lines[5] == "Dense: emb, old (excluded); tied (shared with an embedding)"
    assert lines[6] == "Of all 15 parameters, 12 are active: 0.8000"


def test_measures_by_hand():
    sizes = {"one.weight": (1, torch.Size((4,))), "two.weight": (2, torch.Size((2,)))}
    one, two = ({name: sizes[name]} for name in sizes)
    assert topology_metrics([(one, {"one.weight": 1}), (two, {})]) == {
        "topology/density/one": 0.25,
        "topology/density/two": 1.0,
        "topology/density/all": 0.5,
        "topology/grown/one": 1.0,
        "topology/grown/two": 0.0,
        "topology/grown/all": 1.0,
    }


# Of a training.


def test_the_summary_says_what_stays_dense_and_how_dense_the_whole_model_is(fit, model, net):
    net[3].requires_grad_(False)
    callback = PruneRegrow(0.25, exclude="network.5")
    with pytest.raises(RuntimeError, match="Expected a model that fit or sparsify has set up"):
        callback.summary()
    fit(model(net), callback)
    *_, dense, whole = callback.summary().splitlines()
    assert dense == "Dense: network.3 (not trained); network.5 (excluded)"
    size = sum(parameter.numel() for parameter in net.parameters())
    assert whole == f"Of all {size:,} parameters, {size - 36:,} are active: {(size - 36) / size:.4f}"


def test_averages_are_listed_as_sparse_and_counted_so(fit, model, net):
    class Averaging(model):
        def __init__(self, network):
            super().__init__(network)
            self.average = AveragedModel(network)

        def on_train_batch_end(self, *args):
            self.average.update_parameters(self.network)

    module, callback = Averaging(net), PruneRegrow(0.25)
    fit(module, callback)
    *_, averages, whole = callback.summary().splitlines()
    assert averages == "Sparse as their sources: averages " + ", ".join(
        f"average.module.{layer}" for layer in (0, 3, 5)
    )
    size = sum(parameter.numel() for parameter in module.parameters())
    assert whole == f"Of all {size:,} parameters, {size - 204:,} are active: {(size - 204) / size:.4f}"
    assert int(sum((weight == 0).sum() for weight in module.average.parameters())) >= 102


def test_dead_connections_are_counted_by_layer(model, net):
    callback = PruneRegrow(0.5)
    callback.sparsify(module := model(net))
    assert callback.dead_connections(module) == dict.fromkeys(NAMES, 0)
    with torch.no_grad():
        net[0].weight[callback.masks[NAMES[0]].nonzero()[:5].unbind(1)] = 0.0
    assert callback.dead_connections(module) == {NAMES[0]: 5, NAMES[1]: 0, NAMES[2]: 0}
    row = callback.summary().splitlines()[1].split()
    assert row[:6] == [NAMES[0], "8x6", "24", "48", "0.5000", "5"]


def test_the_summary_says_where_activity_is_read(fit, model, net):
    callback = PruneRegrow(0.5, growth=HebbianGrowth(read_at={"network.3": "network.3"}))
    fit(model(net), callback, epochs=2)
    lines = [line.split() for line in callback.summary().splitlines()]
    assert lines[0][-3:] == ["activity", "read", "at"]
    assert {line[0]: line[-1] for line in lines[1:4]} == {
        NAMES[0]: "network.2",
        NAMES[1]: "network.3",
        NAMES[2]: "network.5",
    }


def test_logged_measures_by_hand(fit, model, data, record):
    class InTurn(PruneRegrow):
        """Prunes the first active connection and grows the first inactive one."""

        def prune_mask(self, layer):
            return layer.mask & (layer.mask.cumsum(1) == 1)

        def growth_scores(self, layer):
            return -torch.arange(4.0).view(1, 4)

    layer = nn.Linear(4, 1, bias=False)
    layer.weight.data = torch.tensor([[1.0, 1.0, 0.0, 0.0]])
    data.inputs = data.inputs[:, :4]
    # Active: 01, then 12, then 02, then 12.
    fit(model(layer), InTurn(density=0.5), logger=record, epochs=4)
    names = ("density", "grown")
    found = [[record.epochs[e].get(f"topology/{what}/all") for what in names] for e in range(4)]
    assert found == [[0.5, 0], [0.5, 1], [0.5, 1], [0.5, 1]]
    layers = [[record.epochs[e].get(f"topology/{what}/network") for what in names] for e in range(4)]
    assert layers == found


def test_measures_of_every_layer_are_logged_each_epoch(fit, model, net, record):
    callback = PruneRegrow(density=0.25)
    fit(model(net), callback, epochs := Epochs(callback), logger=record, epochs=4)
    for epoch, (before, masks) in enumerate(zip([epochs.masks[0], *epochs.masks], epochs.masks, strict=False)):
        logged = record.epochs[epoch]
        for name in NAMES:
            layer = name.removesuffix(".weight")
            assert logged[f"topology/density/{layer}"] == 0.25
            assert logged[f"topology/grown/{layer}"] == int((masks[name] & ~before[name]).sum())
        assert logged["topology/density/all"] == 0.25
        assert logged["topology/grown/all"] == sum(int((masks[n] & ~before[n]).sum()) for n in NAMES)


@pytest.mark.parametrize("order", [1, -1])
def test_the_first_of_two_callbacks_logs_for_both(fit, model, net, record, order):
    callbacks = [PruneRegrow({"network.[03]": 0.5}), PruneRegrow({"network.5": 0.25})][::order]
    fit(model(net), *callbacks, logger=record)
    logged = record.epochs[2]
    assert [logged[f"topology/density/network.{number}"] for number in (0, 3, 5)] == [0.5, 0.5, 0.25]
    assert logged["topology/density/all"] == pytest.approx((24 + 32 + 6) / 136)
