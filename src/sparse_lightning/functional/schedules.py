"""Schedules, as functions of progress in [0, 1]: of the prune fraction, and of the density.

Progress comes as an exact fraction, so that a result that is rational stays exact and counts lose no connection.
"""

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Literal

Schedule = Callable[[Fraction], float | Fraction]
ScheduleName = Literal["constant", "cosine", "linear"]
DensityScheduleName = Literal["cubic", "linear", "sigmoid", "steps", "alternating", "geometric"]


def constant(progress: Fraction) -> Fraction:
    """Return 1 (SET, Mocanu et al. 2018)."""
    return Fraction(1)


def cosine(progress: float | Fraction) -> float:
    """Return half a cosine that falls from 1 to 0 (RigL, Evci et al. 2020, equation 1).

    >>> [round(cosine(progress), 3) for progress in (0.0, 0.25, 0.5, 1.0)]
    [1.0, 0.854, 0.5, 0.0]
    """
    return (1 + math.cos(math.pi * progress)) / 2


def linear(progress: Fraction) -> Fraction:
    """Return a straight line from 1 to 0.

    >>> linear(Fraction(5, 6))
    Fraction(1, 6)
    """
    return 1 - progress


SCHEDULES: dict[str, Schedule] = {"constant": constant, "cosine": cosine, "linear": linear}


def cubic_descent(progress: Fraction) -> Fraction:
    """Return how far a density is on its way, fast at first: 1 - (1 - t)^3 (Zhu & Gupta 2017, equation 1; GraNet).

    >>> cubic_descent(Fraction(1, 2))
    Fraction(7, 8)
    """
    return 1 - (1 - progress) ** 3


def linear_descent(progress: Fraction) -> Fraction:
    """Return how far a density is on its way: as far as the training."""
    return progress


def sigmoid_descent(progress: float | Fraction) -> float:
    """Return how far a density is on its way, slow at both ends: a logistic curve of steepness 6 (CHTss).

    Zhang et al. 2025, "Brain network science modelling of sparse neural networks enables Transformers and LLMs to
    perform as fully connected". Different from there, it is stretched so that it begins at 0 and ends at 1.

    >>> [round(sigmoid_descent(t), 3) for t in (0, 0.25, 0.5, 1)]
    [0.0, 0.149, 0.5, 1.0]
    """
    low, high = _logistic(-3.0), _logistic(3.0)
    return (_logistic(6.0 * (float(progress) - 0.5)) - low) / (high - low)


def steps_descent(progress: Fraction) -> Fraction:
    """Return how far a density is on its way, in three equal steps (as MEST's elastic mutation lowers its memory).

    >>> [steps_descent(Fraction(n, 6)) for n in (1, 2, 5, 6)]
    [Fraction(0, 1), Fraction(1, 3), Fraction(2, 3), Fraction(1, 1)]
    """
    return Fraction(math.floor(3 * progress), 3)


def alternating_descent(progress: Fraction) -> Fraction:
    """Return 0 in dense and 1 in sparse phases of 5% of the training, the first 10% dense, the last 15% sparse (AC/DC).

    Peste et al. 2021, "AC/DC: Alternating Compressed/DeCompressed Training of Deep Neural Networks".

    >>> [int(alternating_descent(Fraction(n, 100))) for n in (0, 9, 10, 15, 20, 80, 85, 100)]
    [0, 0, 1, 0, 1, 1, 1, 1]
    """
    phase = math.floor((progress - Fraction(1, 10)) * 20)
    return Fraction(int(progress >= Fraction(85, 100) or (phase >= 0 and phase % 2 == 0)))


def geometric_descent(progress: Fraction) -> Fraction:
    """Return how far the logarithm of a density is on its way: as far as the training.

    The same share of the connections goes at each rewiring (Frankle & Carbin 2019, "The Lottery Ticket Hypothesis").
    Of all schedules this one alone is of the logarithm.
    """
    return progress


def _logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x))


DENSITY_SCHEDULES: dict[str, Schedule] = {
    "cubic": cubic_descent,
    "linear": linear_descent,
    "sigmoid": sigmoid_descent,
    "steps": steps_descent,
    "alternating": alternating_descent,
    "geometric": geometric_descent,
}
