"""Schedules: factors in [0, 1] on the prune fraction, as functions of progress in [0, 1].

Progress comes as an exact fraction, so that a factor that is rational stays exact and counts lose no connection.
"""

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Literal

Schedule = Callable[[Fraction], float | Fraction]
ScheduleName = Literal["constant", "cosine", "linear"]


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
