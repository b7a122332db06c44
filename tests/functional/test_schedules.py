import math
from fractions import Fraction

import pytest

from sparse_lightning.functional.masks import exact_fraction, floor_count
from sparse_lightning.functional.schedules import SCHEDULES, constant, cosine, linear

TENTHS = [Fraction(tenth, 10) for tenth in range(11)]


@pytest.mark.parametrize("name", ["cosine", "linear"])
def test_a_schedule_falls_from_one_to_zero(name):
    values = [SCHEDULES[name](progress) for progress in TENTHS]
    assert values == sorted(values, reverse=True)
    assert (values[0], values[5], values[10]) == pytest.approx((1.0, 0.5, 0.0))


def test_a_constant_schedule_stays_at_one():
    assert {constant(progress) for progress in TENTHS} == {1}


def test_half_a_cosine_is_the_published_one():
    # Evci et al. 2020, equation 1: alpha / 2 (1 + cos(t pi / T_end)).
    assert [cosine(progress) for progress in TENTHS] == [0.5 * (1 + math.cos(t * math.pi / 10)) for t in range(11)]


def test_a_linear_schedule_is_exact_so_that_counts_lose_no_connection():
    factors = [linear(Fraction(step, 6)) for step in range(7)]
    assert factors == [Fraction(6 - step, 6) for step in range(7)]
    assert floor_count(exact_fraction(0.3) * factors[5], 320) == 16
    assert floor_count(0.3 * (1 - 5 / 6), 320) == 16
