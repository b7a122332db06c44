"""Checks of arguments: what was expected and what came, in one sentence."""

import difflib
import math
from collections.abc import Collection, Iterable, Mapping
from numbers import Integral, Real
from typing import Any, TypeVar

T = TypeVar("T")


def expect(condition: bool, expectation: str, got: Any, hint: str = "") -> None:
    """Raise a ValueError unless a condition holds.

    >>> expect(False, "density in (0, 1]", 80, "did you mean 0.8?")
    Traceback (most recent call last):
    ValueError: Expected density in (0, 1], got 80: did you mean 0.8?
    """
    if not condition:
        raise ValueError(with_hint(f"Expected {expectation}, got {got!r}", hint))


def with_hint(sentence: str, hint: str) -> str:
    """Return a sentence with a hint at its end, if there is one.

    >>> with_hint("got 80", "did you mean 0.8?"), with_hint("got 80", "")
    ('got 80: did you mean 0.8?', 'got 80')
    """
    return f"{sentence}: {hint}" if hint else sentence


def is_number(value: Any) -> bool:
    """Return whether a value is a finite real number, NumPy's included, and no boolean.

    >>> [is_number(value) for value in (1, 0.5, float("nan"), True, "1")]
    [True, True, False, False, False]
    """
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def is_share(value: Any) -> bool:
    """Return whether a value is a number in [0, 1].

    >>> [is_share(value) for value in (0, 0.5, 1.5, True)]
    [True, True, False, False]
    """
    return is_number(value) and 0 <= value <= 1


def is_integer(value: Any, minimum: int | None = None) -> bool:
    """Return whether a value is an integer, NumPy's included, no boolean, and at least `minimum`.

    >>> [is_integer(value, 1) for value in (1, 0, 1.0, True)]
    [True, False, False, False]
    """
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    return whole and (minimum is None or int(value) >= minimum)


def nearest(name: Any, choices: Iterable[str]) -> str:
    """Return a hint that names the choice nearest to `name`, or an empty string.

    >>> nearest("Hebbian", ["random", "hebbian"])
    "did you mean 'hebbian'?"
    """
    lower = {choice.lower(): choice for choice in choices}
    found = difflib.get_close_matches(str(name).lower(), lower, n=1)
    return f"did you mean {lower[found[0]]!r}?" if found else ""


def expect_one_of(argument: str, name: Any, choices: Collection[str]) -> None:
    """Raise a ValueError unless a name is one of some choices.

    >>> expect_one_of("optimizer", "adam", ["SGD", "Adam"])
    Traceback (most recent call last):
    ValueError: Expected optimizer to be one of SGD, Adam, got 'adam': did you mean 'Adam'?
    """
    expect(name in choices, f"{argument} to be one of {', '.join(choices)}", name, nearest(name, choices))


def named(argument: str, name: str, choices: Mapping[str, T]) -> T:
    """Look a name up among choices.

    Raises:
        ValueError: It is none of them; the nearest one is suggested.
    """
    expect_one_of(argument, name, choices)
    return choices[name]
