import copy
import math
import pickle

import pytest
import torch
from torch import Tensor

from sparse_lightning.nn.k_winners import KWinners, k_winners


def layer(features: int = 4, percent_on: float = 0.5, **options: float) -> KWinners:
    return KWinners(features, percent_on, **options)


def test_the_highest_units_pass_unchanged_and_the_others_are_zero():
    inputs = torch.tensor([[3.0, -1.0, 2.0, 4.0], [-5.0, -2.0, -9.0, -3.0]])
    expected = torch.tensor([[3.0, 0.0, 0.0, 4.0], [0.0, -2.0, 0.0, -3.0]])
    assert layer()(inputs).equal(expected)


def test_gradients_pass_the_winners_alone():
    inputs = torch.tensor([[3.0, -1.0, 2.0, 4.0]], requires_grad=True)
    (layer()(inputs) * torch.tensor([1.0, 2.0, 3.0, 4.0])).sum().backward()
    assert inputs.grad.tolist() == [[1.0, 0.0, 0.0, 4.0]]


def test_gradcheck():
    inputs = torch.randn(3, 10, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer(10, 0.3).eval(), inputs)


def test_preference_decides_and_never_shows_in_the_output():
    inputs, preference = torch.tensor([1.0, -2.0, 3.0]), torch.tensor([5.0, 6.0, 0.0])
    assert k_winners(inputs, 2, preference).tolist() == [1.0, -2.0, 0.0]
    assert k_winners(inputs, 0, preference).tolist() == [0.0, 0.0, 0.0]


def test_ties_are_cut_to_the_exact_count():
    assert (layer(100, 0.25)(torch.ones(8, 100)) != 0).sum(1).eq(25).all()


@pytest.mark.parametrize(
    ("features", "percent_on", "factor", "training", "evaluation"),
    [
        (100, 0.25, 1.5, 25, 37),
        (10, 0.25, 1.0, 2, 2),  # Python rounds a half to the even number, as the original does
        (10, 0.35, 1.0, 4, 4),
        (10, 0.9, 1.5, 9, 10),
        (10, 1.0, 0.0, 10, 0),
    ],
)
def test_more_units_win_in_evaluation(features, percent_on, factor, training, evaluation):
    module = layer(features, percent_on, k_inference_factor=factor)
    inputs = 1 + torch.rand(6, features)
    assert (module.k, module.k_inference) == (training, evaluation)
    assert (module(inputs) != 0).sum(1).eq(training).all()
    assert (module.eval()(inputs) != 0).sum(1).eq(evaluation).all()


def reference(inputs: list[Tensor], features: int, k: int, boost: float, period: int) -> tuple[list[Tensor], Tensor]:
    """Outputs and duty cycle of a training, unit by unit."""
    duty, seen, outputs = [0.0] * features, 0, []
    for batch in inputs:
        output = torch.zeros_like(batch)
        for sample, row in enumerate(batch.tolist()):
            boosted = [value * math.exp(-boost * duty[unit]) for unit, value in enumerate(row)]
            for unit in sorted(range(features), key=lambda unit: -boosted[unit])[:k]:
                output[sample, unit] = row[unit]
        seen += len(batch)
        span = min(period, seen)
        counts = [sum(value > 0 for value in column) for column in output.t().tolist()]
        duty = [(old * (span - len(batch)) + count) / span for old, count in zip(duty, counts, strict=True)]
        outputs.append(output)
    return outputs, torch.tensor(duty)


@pytest.mark.parametrize("boost", [0.0, 1.4, 10.0])
@pytest.mark.parametrize("period", [8, 30, 1000])
def test_training_agrees_with_a_slow_reference(boost, period):
    inputs = [torch.randn(size, 12) for size in (8, 8, 5, 8, 1, 8, 8)]
    module = layer(12, 0.25, boost_strength=boost, duty_cycle_period=period)
    expected, duty = reference(inputs, 12, 3, boost, period)
    for batch, output in zip(inputs, expected, strict=True):
        assert module(batch).equal(output)
    torch.testing.assert_close(module.duty_cycle, duty)
    assert module.samples_seen == sum(map(len, inputs))


def test_a_unit_that_wins_often_is_held_back():
    module = layer(2, 0.5, boost_strength=1.4)
    inputs = torch.tensor([[1.1, 1.0]])
    assert module(inputs).tolist() == [[pytest.approx(1.1), 0.0]]
    assert module.duty_cycle.tolist() == [1.0, 0.0]
    assert module(inputs).tolist() == [[0.0, 1.0]]
    assert module.duty_cycle.tolist() == [0.5, 0.5]


def test_evaluation_boosts_and_counts_nothing():
    module = layer(2, 0.5, boost_strength=1.4)
    module.duty_cycle.copy_(torch.tensor([0.9, 0.1]))
    assert module.eval()(torch.tensor([[1.1, 1.0]])).tolist() == [[0.0, 1.0]]
    assert module.duty_cycle.tolist() == pytest.approx([0.9, 0.1])
    assert module.samples_seen == 0


def test_negative_winners_do_not_count_as_active():
    module = layer()
    module(torch.tensor([[-1.0, -2.0, -3.0, 4.0]]))
    assert module.duty_cycle.tolist() == [0.0, 0.0, 0.0, 1.0]


def test_boost_decays_when_the_model_says_that_an_epoch_has_ended():
    module = layer(boost_strength=1.4, boost_strength_factor=0.7)
    module(torch.randn(3, 4))
    assert module.boost_strength.item() == pytest.approx(1.4)
    module.decay_boost()
    module.decay_boost()
    assert module.boost_strength.item() == pytest.approx(1.4 * 0.7**2)


def test_a_batch_larger_than_the_period_is_averaged_over_itself():
    module = layer(2, 0.5, duty_cycle_period=3)
    module(torch.tensor([[2.0, 1.0]] * 2))
    module(torch.tensor([[0.5, 9.0]] * 5))
    assert module.duty_cycle.tolist() == [0.0, 1.0]


def test_every_leading_dimension_holds_samples():
    inputs = torch.randn(2, 3, 4)
    one, other = layer(), layer()
    assert one(inputs).view(6, 4).equal(other(inputs.view(6, 4)))
    assert one.duty_cycle.equal(other.duty_cycle)
    assert layer()(inputs[0, 0]).shape == (4,)


def test_an_empty_batch_changes_nothing():
    module = layer()
    assert module(torch.empty(0, 4)).shape == (0, 4)
    assert module.duty_cycle.tolist() == [0.0] * 4
    assert module.samples_seen == 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_output_keeps_the_inputs_type_and_the_duty_cycle_its_own(dtype):
    module = layer()
    assert module(torch.randn(3, 4, dtype=dtype)).dtype == dtype
    assert module.duty_cycle.dtype == torch.float32


@pytest.mark.parametrize(
    "twin",
    [
        copy.deepcopy,
        lambda module: pickle.loads(pickle.dumps(module)),
        lambda module: [fresh := layer(12, 0.25), fresh.load_state_dict(module.state_dict())][0],
    ],
    ids=["deepcopy", "pickle", "state_dict"],
)
def test_a_copy_continues_where_the_layer_was(twin):
    module = layer(12, 0.25)
    module(torch.randn(5, 12))
    module.decay_boost()
    other = twin(module)
    inputs = torch.randn(5, 12)
    assert other(inputs).equal(module(inputs))
    assert other.duty_cycle.equal(module.duty_cycle)
    assert other.samples_seen == module.samples_seen == 10
    assert other.boost_strength == module.boost_strength


def test_the_repr_builds_the_layer():
    module = layer(100, 0.25, k_inference_factor=1.5, boost_strength=1.4, boost_strength_factor=0.7)
    module.decay_boost()
    built = eval(repr(module))
    assert repr(built) == repr(module)
    assert built.boost_strength.item() == pytest.approx(1.4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"features": 0}, "Expected features at least 1, got 0"),
        ({"percent_on": 0.0}, r"Expected percent_on in \(0, 1\], got 0.0"),
        ({"percent_on": 1.5}, r"Expected percent_on in \(0, 1\], got 1.5"),
        ({"percent_on": 0.1}, "Expected percent_on to let a unit of 4 win, got 0.1"),
        ({"k_inference_factor": -1.0}, "Expected k_inference_factor at least 0, got -1.0"),
        ({"boost_strength": -0.1}, "Expected boost_strength at least 0, got -0.1"),
        ({"boost_strength_factor": 1.1}, r"Expected boost_strength_factor in \[0, 1\], got 1.1"),
        ({"duty_cycle_period": 0}, "Expected duty_cycle_period at least 1, got 0"),
        ({"duty_cycle_period": 2.5}, "Expected duty_cycle_period at least 1, got 2.5"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        KWinners(**{"features": 4, "percent_on": 0.5, **arguments})


@pytest.mark.parametrize("shape", [(3, 5), (4, 3), ()])
def test_an_input_of_another_size_is_refused(shape):
    with pytest.raises(ValueError, match=r"Expected input of shape \(\.\.\., 4\)"):
        layer()(torch.randn(shape))
