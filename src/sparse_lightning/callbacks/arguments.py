"""Arguments of callbacks: criteria by name or by instance, and the expression that builds a callback again."""

import copy
import inspect
from collections.abc import Mapping
from typing import Any, TypeVar

from sparse_lightning.criteria.base import Criterion
from sparse_lightning.functional.checks import expect, named

C = TypeVar("C", bound=Criterion)


def criterion(argument: str, value: str | C, choices: Mapping[str, type[C]], kind: Any) -> C:
    """Return a criterion by its name, or a copy of one that is given, so that no two callbacks share what it gathers.

    Raises:
        ValueError: It is neither a name nor a criterion of this kind.
    """
    if isinstance(value, str):
        return named(argument, value, choices)()
    expect(isinstance(value, kind), f"{argument} to be a name or a {kind.__name__}", value)
    return copy.deepcopy(value)


def build_repr(owner: object, arguments: Mapping[str, Any]) -> str:
    """Return the expression that builds an object: those arguments of its class that differ from their defaults."""
    parameters = list(inspect.signature(type(owner)).parameters.values())
    values = [
        (each, arguments[each.name] if each.name in arguments else getattr(owner, each.name, each.default))
        for each in parameters
    ]
    shown = [f"{each.name}={value!r}" for each, value in values if _differs(value, each.default)]
    return f"{type(owner).__name__}({', '.join(shown)})"


def _differs(value: Any, default: Any) -> bool:
    return type(value) is not type(default) or bool(value != default)
