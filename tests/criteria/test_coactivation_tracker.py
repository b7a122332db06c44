"""Counting in training, and the state of the counts."""

import copy
import pickle

import pytest
import torch
from criteria.tracker_reference import Reference, attached
from lightning.pytorch import Callback
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sparse_lightning import HebbianGrowth, PruneRegrow, SparseMLP
from sparse_lightning.criteria.coactivation import CoactivationTracker


def known(model: SparseMLP) -> dict[str, tuple[nn.Linear, nn.Module]]:
    """The layers of a SparseMLP of two hidden layers, and where their activities are to be read."""
    layers = model.network
    pairs = ((layers.linear1, layers.relu1), (layers.linear2, layers.relu2), (layers.output, layers.output))
    names = ("network.linear1.weight", "network.linear2.weight", "network.output.weight")
    return dict(zip(names, pairs, strict=True))


@pytest.fixture
def mlp() -> SparseMLP:
    return SparseMLP(input_size=6, num_classes=3, hidden_sizes=(8, 5), density=0.5)


def test_counts_stay_exact_beyond_what_a_float_can_count():
    layer = nn.Linear(1, 1, bias=False)
    layer.weight.data.fill_(1.0)
    tracker = attached(nn.Sequential(layer))
    for samples in (*[2**22] * 5, 1, 1, 1):
        layer(torch.ones(samples, 1))
        tracker.count()
    assert tracker.total("0.weight").item() == tracker.samples["0.weight"] == 5 * 2**22 + 3


def test_counts_go_on_beyond_what_32_bits_hold():
    tracker = attached(nn.Sequential(nn.Linear(1, 1)))
    name = "0.weight"
    tracker.load_state_dict({"counts": {name: torch.tensor([[2**31 - 2]])}, "samples": {name: 2**31 - 2}})
    network = nn.Sequential(nn.Linear(1, 1, bias=False))
    network[0].weight.data.fill_(1.0)
    tracker.attach(network, [name])
    network(torch.ones(5, 1))
    tracker.count()
    assert tracker.total(name).item() == tracker.samples[name] == 2**31 + 3


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_activation_checkpointing_counts_each_sample_once(use_reentrant):
    network = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU())
    tracker, inputs = attached(network), torch.randn(7, 6, requires_grad=True)
    network(inputs)
    tracker.count()
    expected = tracker.counts
    tracker.reset()
    checkpoint(network, inputs, use_reentrant=use_reentrant).sum().backward()
    tracker.count()
    assert tracker.samples == {"0.weight": 7, "2.weight": 7}
    torch.testing.assert_close(tracker.counts, expected)


def test_several_passes_count_together():
    network = nn.Sequential(nn.Linear(6, 5), nn.ReLU())
    tracker, reference = attached(network), Reference({"0.weight": (network[0], network[1])})
    for passes in (2, 3):
        for _ in range(passes):
            network(torch.randn(4, 6))
        tracker.count()
    torch.testing.assert_close(tracker.counts, reference.counts)


class ClearEachEpoch(Callback):
    def __init__(self, reference: Reference) -> None:
        self.reference = reference

    def on_train_epoch_start(self, *_: object) -> None:
        self.reference.clear()


@pytest.mark.filterwarnings("ignore:PruneRegrow will not rewire")
@pytest.mark.parametrize("epochs", [1, 2])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("validated", [False, True])
def test_training_counts_the_last_epoch_to_the_last_sample(trainer, data, precision, epochs, validated):
    mlp = SparseMLP(input_size=6, num_classes=3, hidden_sizes=(8, 5), density=0.5, count_validation=validated)
    reference = Reference(known(mlp), validation=validated)
    # The sanity check's batch comes before the first epoch's start, where all reference until then is cleared.
    trainer(max_epochs=epochs, precision=precision, callbacks=[ClearEachEpoch(reference)]).fit(mlp, data)
    tracker = mlp.prune_regrow.growth.coactivation
    assert sum(int(counts.sum()) for counts in reference.counts.values()) > 0
    torch.testing.assert_close(tracker.counts, reference.counts)
    assert set(tracker.samples.values()) == {40 if validated else 20}


def test_a_network_in_evaluation_mode_is_not_counted():
    network = nn.Sequential(nn.Linear(6, 5), nn.ReLU())
    tracker = attached(network)
    network.eval()(torch.randn(4, 6))
    tracker.count()
    assert tracker.samples == {"0.weight": 0}
    network.train()(torch.randn(4, 6))
    network.eval()(torch.randn(4, 6))
    tracker.count()
    assert tracker.samples == {"0.weight": 4}


class Stop(Callback):
    def on_train_batch_end(self, *_: object) -> None:
        raise InterruptedError


@pytest.mark.filterwarnings("ignore:PruneRegrow will not rewire")
@pytest.mark.parametrize("interrupted", [False, True])
def test_no_hook_is_left_behind(trainer, mlp, data, interrupted):
    run = trainer(max_epochs=1, callbacks=[Stop()] if interrupted else [])
    if interrupted:
        with pytest.raises(InterruptedError):
            run.fit(mlp, data)
    else:
        run.fit(mlp, data)
    assert not any(each._forward_hooks or each._forward_pre_hooks for each in mlp.modules())
    assert not any(optimizer._optimizer_step_post_hooks for optimizer in run.optimizers)
    before = copy.deepcopy(mlp.prune_regrow.growth.coactivation.counts)
    mlp.train()(torch.randn(4, 6))
    mlp.prune_regrow.growth.coactivation.count()
    torch.testing.assert_close(mlp.prune_regrow.growth.coactivation.counts, before)


def test_attaching_twice_counts_once():
    network = nn.Sequential(nn.Linear(6, 5), nn.ReLU())
    tracker, reference = attached(network), Reference({"0.weight": (network[0], network[1])})
    tracker.attach(network, {"0.weight": network[0]})
    network(torch.randn(4, 6))
    tracker.count()
    torch.testing.assert_close(tracker.counts, reference.counts)


@pytest.mark.parametrize("batches", [0, 1])
def test_a_copy_of_the_network_made_while_counting_runs_and_is_not_counted(batches):
    network = nn.Sequential(nn.Linear(6, 5), nn.ReLU())
    tracker = attached(network)
    for _ in range(batches):
        network(torch.randn(4, 6))
        tracker.count()
    copy.deepcopy(network)(torch.randn(4, 6))  # as weight averaging does
    tracker.count()
    assert tracker.samples == {"0.weight": 4 * batches}


def pickled(tracker: CoactivationTracker) -> CoactivationTracker:
    return pickle.loads(pickle.dumps(tracker))


def saved(tracker: CoactivationTracker) -> CoactivationTracker:
    other = CoactivationTracker(count_validation=tracker.counting.count_validation)
    other.load_state_dict(tracker.state_dict())
    return other


@pytest.mark.parametrize("carry", [copy.deepcopy, pickled, saved])
def test_a_copy_has_the_counts_and_goes_on_alone(carry):
    network = nn.Sequential(nn.Linear(6, 5), nn.ReLU())
    tracker = attached(network, count_validation=True)
    network(torch.randn(4, 6))
    tracker.count()
    other = carry(tracker)
    assert other.counting.count_validation
    torch.testing.assert_close(other.counts, tracker.counts)
    counted = tracker.counts["0.weight"].clone()
    assert counted.any()

    fresh = nn.Sequential(nn.Linear(6, 5), nn.ReLU())
    reference = Reference({"0.weight": (fresh[0], fresh[1])})
    other.attach(fresh, {"0.weight": fresh[0]})
    fresh(torch.randn(4, 6))
    other.count()
    assert tracker.counts["0.weight"].equal(counted)
    assert other.counts["0.weight"].equal(counted + reference.counts["0.weight"])
    assert other.samples == {"0.weight": 8}


def test_a_reset_starts_again_from_zero():
    network = nn.Sequential(nn.Linear(6, 5), nn.ReLU())
    tracker = attached(network)
    network(torch.randn(4, 6))
    tracker.count()
    tracker.reset()
    assert not tracker.counts["0.weight"].any()
    with pytest.raises(RuntimeError, match="got no call since the last reset"):
        tracker.total("0.weight")


class Metered(nn.Sequential):
    """A network that measures itself; a metric's hash changes whenever its state does."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
        self.accuracy = pytest.importorskip("torchmetrics").classification.MulticlassAccuracy(3)

    def forward(self, x: Tensor) -> Tensor:
        logits = self[2](self[1](self[0](x)))
        self.accuracy(logits, logits.argmax(-1))
        return logits


def test_training_beside_a_metric_counts_every_sample(trainer, model, data):
    callback = PruneRegrow(density=0.5, growth=HebbianGrowth())
    trainer(max_epochs=3, callbacks=[callback]).fit(model(Metered()), data)
    assert callback.rewirings == 2
    assert callback.growth.coactivation.samples == {"network.0.weight": 20, "network.2.weight": 20}


# Several ranks, and other models.


@pytest.mark.parametrize("ranks", [(0, 0), (0, 3), (2, 0)])
def test_a_weight_is_uncounted_only_if_no_rank_counted_it(monkeypatch, ranks):
    network, tracker = nn.Sequential(nn.Linear(6, 5)), CoactivationTracker()
    tracker.attach(network, ["0.weight"])
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda samples: samples.add_(ranks[1]))
    tracker.samples["0.weight"] = ranks[0]
    assert tracker.uncounted(["0.weight"]) == ([] if any(ranks) else ["0.weight"])


def test_counts_of_another_shape_start_again():
    tracker = CoactivationTracker()
    tracker.load_state_dict({"counts": {"0.weight": torch.ones(2, 2, dtype=torch.int32)}, "samples": {"0.weight": 4}})
    tracker.attach(nn.Sequential(nn.Linear(6, 5)), ["0.weight"])
    assert tracker.counts["0.weight"].shape == (5, 6)
    assert tracker.samples == {"0.weight": 0}


def test_the_repr_builds_an_equal_tracker():
    tracker = CoactivationTracker(count_validation=True, read_at={"0": "2"})
    assert eval(repr(tracker)) == tracker != CoactivationTracker()


# What is active, and which batches are counted.


def test_a_threshold_says_what_is_active():
    network, tracker = nn.Sequential(nn.Linear(1, 2, bias=False)), CoactivationTracker(threshold=0.5)
    network[0].weight.data = torch.tensor([[1.0], [0.6]])
    tracker.attach(network, ["0.weight"])
    network(torch.tensor([[0.4], [0.7], [2.0]]))  # the second unit: 0.24, 0.42, 1.2
    tracker.count()
    assert tracker.counts["0.weight"].tolist() == [[2], [1]]


@pytest.mark.parametrize(
    "layer", [nn.Linear(4, 4), nn.Conv1d(4, 4, 1), nn.Conv2d(4, 4, 1)], ids=lambda each: repr(each)[:6]
)
def test_winners_are_the_highest_units_of_each_sample(layer):
    tracker, units = CoactivationTracker(winners=0.25), torch.tensor([[1.0, 3.0, 2.0, -1.0], [5.0, 0.0, 0.0, 7.0]])
    layer.weight.data = torch.eye(4).view_as(layer.weight)
    layer.bias.data.zero_()
    tracker.attach(layer, ["weight"])
    layer(units if isinstance(layer, nn.Linear) else units.view(2, 4, *[1] * len(layer.kernel_size)))
    tracker.count()
    assert tracker.counts["weight"].flatten(1).tolist() == [[0] * 4, [0, 1, 0, 0], [0] * 4, [0, 0, 0, 1]]


@pytest.mark.parametrize(
    ("every", "shape", "counted"),
    [(1, (2, 3), 6), (3, (2, 3), 2), (None, (2, 3), 6), (None, (2, 5, 3), 2), (2, (2, 5, 3), 3)],
)
def test_one_of_several_batches_is_counted_and_the_first_after_a_reset(every, shape, counted):
    network, tracker = nn.Sequential(nn.Linear(3, 2), nn.ReLU()), CoactivationTracker(every_n_batches=every)
    tracker.attach(network, ["0.weight"])
    rows = torch.Size(shape[:-1]).numel()
    for _ in range(2):
        for _ in range(6):
            network(torch.randn(shape))
            tracker.count()
        assert tracker.samples == {"0.weight": rows * counted}
        tracker.reset()
    network(torch.randn(shape))
    tracker.count()
    assert tracker.samples == {"0.weight": rows}


def test_a_reset_within_a_batch_that_was_left_out_counts_the_next_one():
    network, tracker = nn.Sequential(nn.Linear(3, 2)), CoactivationTracker(every_n_batches=4)
    tracker.attach(network, ["0.weight"])
    for batch in range(4):
        network(torch.randn(1, 3))
        if batch == 2:
            tracker.reset()  # in the optimizer's step
        tracker.count()
    assert tracker.samples == {"0.weight": 1}


def test_a_saved_tracker_goes_on_with_the_batch_that_comes_next():
    trackers = [CoactivationTracker(every_n_batches=3) for _ in range(2)]
    network = nn.Sequential(nn.Linear(3, 2))
    trackers[0].attach(network, ["0.weight"])
    for batch in range(7):
        if batch == 2:
            trackers[1].load_state_dict(trackers[0].state_dict())
            trackers[0].detach()
            trackers[1].attach(network, ["0.weight"])
        network(torch.randn(1, 3))
        for each in trackers:
            each.count()
    assert [each.samples["0.weight"] for each in trackers] == [1, 3]


@pytest.mark.parametrize(
    "wrong", [{"threshold": float("nan")}, {"winners": 0.0}, {"winners": 1.5}, {"every_n_batches": 0}], ids=str
)
def test_options_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=f"Expected {next(iter(wrong))}"):
        HebbianGrowth(**wrong)
