"""How much of `prune_fraction` is left as training goes on: factors in [0, 1] over progress in [0, 1]."""

import math
from collections.abc import Callable


def constant(progress: float) -> float:
    """Always all of it (SET, Mocanu et al. 2018)."""
    return 1.0


def cosine(progress: float) -> float:
    """Half a cosine from 1 to 0 (RigL, Evci et al. 2020, equation 1).

    >>> [round(cosine(progress), 3) for progress in (0.0, 0.25, 0.5, 1.0)]
    [1.0, 0.854, 0.5, 0.0]
    """
    return (1 + math.cos(math.pi * progress)) / 2


def linear(progress: float) -> float:
    """A straight line from 1 to 0.

    >>> linear(0.25)
    0.75
    """
    return 1 - progress


SCHEDULES: dict[str, Callable[[float], float]] = {"constant": constant, "cosine": cosine, "linear": linear}
