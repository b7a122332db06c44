import copy
from fractions import Fraction

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from watching import view

from sparse_lightning import (
    FixedDegreeGrowth,
    FixedRandomGrowth,
    GradientGrowth,
    GrowthCriterion,
    HebbianGrowth,
    PhasedGrowth,
    PruneRegrow,
    RandomGrowth,
    SoftGrowth,
)
from sparse_lightning.functional.grow import highest

COMBINED = [
    SoftGrowth("hebbian", power=0.5),
    FixedDegreeGrowth("hebbian", degrees_of="random"),
    FixedDegreeGrowth("random", degrees_of="hebbian"),
    FixedDegreeGrowth("gradient", degrees_of="hebbian"),
    PhasedGrowth("random", "hebbian", until=0.3),
]


class Given(GrowthCriterion):
    """Scores that are known."""

    def __init__(self, scores):
        self.given = scores

    def scores(self, layer):
        return self.given


class Net(LightningModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 4))

    def training_step(self, batch, _):
        inputs, labels = batch
        return nn.functional.cross_entropy(self.network(inputs), labels)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class StopAfter(Callback):
    def __init__(self, epochs):
        self.epochs = epochs

    def on_train_epoch_end(self, trainer, pl_module):
        trainer.should_stop = trainer.should_stop or trainer.current_epoch + 1 == self.epochs


def fit(growth, epochs=5, stop_after=None, ckpt_path=None, **options):
    generator = torch.Generator().manual_seed(0)
    data = TensorDataset(torch.randn(64, 12, generator=generator), torch.randint(4, (64,), generator=generator))
    sparse = PruneRegrow(0.3, growth=growth, seed=1)
    options = {"enable_checkpointing": False} | options
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(max_epochs=epochs, callbacks=[sparse, StopAfter(stop_after)], **quiet, **options)
    trainer.fit(Net(), DataLoader(data, 16), ckpt_path=ckpt_path)
    return sparse


def test_a_soft_draw_follows_the_power_of_the_scores():
    grown = torch.zeros(3)
    for seed in range(2000):
        layer = view(torch.zeros(1, 3), seed=seed)
        scores = SoftGrowth(Given(torch.tensor([[1.0, 4.0, 0.0]])), power=0.5).scores(layer)
        grown[highest(scores, 1, layer.positions, layer.generator)] += 1
    assert grown[2] == 0
    assert abs(grown[1] - 2000 * 2 / 3) < 5 * (2000 * 2 / 9) ** 0.5


def test_a_soft_draw_of_negative_scores_is_refused():
    with pytest.raises(ValueError, match=r"Expected scores of at least 0 from Given\(\), got -1"):
        SoftGrowth(Given(torch.tensor([[1.0, -1.0]]))).scores(view(torch.zeros(1, 2)))


def test_fixed_degrees_are_those_of_the_other_rule_and_pairs_those_of_the_first():
    mask = torch.eye(4, dtype=torch.bool)
    layer = view(mask.float(), mask)
    layer.aim(6)  # two more
    favoured = torch.zeros(4, 4).index_put((torch.tensor([0, 1]), torch.tensor([2, 3])), torch.tensor(9.0))
    wanted = torch.zeros(4, 4).index_put((torch.tensor([0, 1]), torch.tensor([3, 2])), torch.tensor(1.0))
    chosen = FixedDegreeGrowth(Given(wanted), degrees_of=Given(favoured)).scores(layer)
    assert chosen.nonzero().tolist() == [[0, 3], [1, 2]]


def test_phases_change_when_the_share_is_over():
    layer = view(torch.zeros(1, 2))
    growth = PhasedGrowth(Given(torch.tensor([[1.0, 0.0]])), Given(torch.tensor([[0.0, 1.0]])), until=0.2)
    for progress, first in ((Fraction(1, 10), True), (Fraction(1, 5), True), (Fraction(11, 50), False)):
        layer.progress = progress
        assert growth.scores(layer)[0, 0].item() == first


def test_five_epochs_of_thirty_are_hebbian_before_a_share_of_0_18(monkeypatch):
    asked = []
    for rule in (HebbianGrowth, RandomGrowth):
        scores = rule.scores
        monkeypatch.setattr(rule, "scores", lambda self, layer, s=scores, r=rule: (asked.append(r), s(self, layer))[1])
    fit(PhasedGrowth("hebbian", "random", until=0.18), epochs=30)
    assert asked == [HebbianGrowth] * 5 * 2 + [RandomGrowth] * 24 * 2


@pytest.mark.parametrize("growth", COMBINED, ids=repr)
def test_they_rewire_at_exact_counts_and_share_nothing_with_what_they_were_made_of(growth):
    sparse = fit(growth)
    assert sparse.rewirings == 4
    assert [int(mask.sum()) for mask in sparse.masks.values()] == [72, 24]
    assert not any(statistic.samples for statistic in growth.statistics.values())
    assert sparse.growth.statistics


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
@pytest.mark.parametrize("growth", COMBINED, ids=repr)
def test_a_resumed_training_grows_the_same(growth, tmp_path):
    whole = fit(growth)
    fit(growth, stop_after=3, enable_checkpointing=True, default_root_dir=tmp_path)
    (checkpoint,) = tmp_path.rglob("*.ckpt")
    resumed = fit(growth, ckpt_path=checkpoint, enable_checkpointing=True, default_root_dir=tmp_path)
    assert resumed.rewirings == 4
    assert all(mask.equal(whole.masks[name]) for name, mask in resumed.masks.items())


def test_a_part_that_reads_gradients_makes_the_whole_read_them():
    assert FixedDegreeGrowth(GradientGrowth()).reads_gradient
    assert not FixedDegreeGrowth("hebbian").reads_gradient


def test_wrong_arguments_are_refused_at_construction():
    with pytest.raises(ValueError, match=r"Expected growth to be one of .*, got 'hebian': did you mean 'hebbian'"):
        SoftGrowth("hebian")
    with pytest.raises(ValueError, match="Expected power above 0, got 0"):
        SoftGrowth(power=0)
    with pytest.raises(ValueError, match=r"Expected until in \[0, 1\], got 5"):
        PhasedGrowth("hebbian", "random", until=5)
    with pytest.raises(ValueError, match="Expected degrees_of to be a name or a GrowthCriterion, got 3"):
        FixedDegreeGrowth(degrees_of=3)
    assert FixedDegreeGrowth().unsuitable({"conv": torch.Size((2, 2, 3, 3))}) == {"conv": "is no matrix (out, in)"}


@pytest.mark.parametrize("growth", COMBINED, ids=repr)
def test_its_repr_builds_it(growth):
    names = {each.__name__: each for each in (*map(type, COMBINED), HebbianGrowth, RandomGrowth, GradientGrowth)}
    assert repr(eval(repr(growth), names)) == repr(growth) == repr(copy.deepcopy(growth))


def test_fixed_scores_are_the_same_at_every_rewiring_and_differ_by_seed_and_layer():
    weight = torch.zeros(4, 5)
    one, again = (FixedRandomGrowth().scores(view(weight, seed=seed)) for seed in (1, 2))
    assert one.equal(again)
    assert not one.equal(FixedRandomGrowth(1).scores(view(weight)))
    assert not one.equal(FixedRandomGrowth().scores(view(weight, name="other")))
    assert (repr(FixedRandomGrowth()), repr(FixedRandomGrowth(3))) == ("FixedRandomGrowth()", "FixedRandomGrowth(3)")
    with pytest.raises(ValueError, match="Expected seed to be an integer"):
        FixedRandomGrowth(0.5)
