"""Arguments of callbacks: criteria by name or by instance, and the expression that builds a callback again."""

import copy
import inspect
from collections.abc import Mapping
from typing import Any, TypeVar

from sparse_lightning.criteria.base import Criterion
from sparse_lightning.functional.checks import expect, is_integer, named

C = TypeVar("C", bound=Criterion)
F = TypeVar("F")


def criterion(argument: str, value: str | C, choices: Mapping[str, type[C]], kind: Any) -> C:
    """Return a criterion by its name, or a copy of one that is given, so that no two callbacks share what it gathers.

    Raises:
        ValueError: It is neither a name nor a criterion of this kind.
    """
    if isinstance(value, str):
        return named(argument, value, choices)()
    hint = f"did you mean {value.__name__}()?" if isinstance(value, type) else ""
    expect(isinstance(value, kind), f"{argument} to be a name or a {kind.__name__}", value, hint)
    return copy.deepcopy(value)


def choice(argument: str, value: str | F, choices: Mapping[str, F]) -> F:
    """Return a function by its name, or one that is given.

    Raises:
        ValueError: There is none of that name.
    """
    return named(argument, value, choices) if isinstance(value, str) else value


def in_words(value: Any) -> str:
    """Return a name or a function in words that are the same in every process."""
    return f"{value.__module__}.{value.__qualname__}" if inspect.isfunction(value) else repr(value)


def own_arguments(local: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a constructor, from its ``locals()`` before any other name is bound."""
    return {name: value for name, value in local.items() if name not in ("self", "__class__")}


def by_steps_or_epochs(local: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a constructor that rewires by steps unless it is given epochs.

    >>> by_steps_or_epochs({"every_n_epochs": 2, "every_n_steps": 100})
    {'every_n_epochs': 2, 'every_n_steps': None}
    """
    arguments = own_arguments(local)
    return arguments if arguments["every_n_epochs"] is None else arguments | {"every_n_steps": None}


def check_options(early_stop: Any, optimizer_state: Any, regrow: Any, log_topology: Any, seed: Any) -> None:
    """Check those arguments of a PruneRegrow that no part of it takes.

    Raises:
        ValueError: One of them is out of its range.
    """
    expect(is_integer(early_stop, 0), "pruning_early_stop of at least 0", early_stop)
    expect(optimizer_state in ("reset", "keep"), "optimizer_state to be reset or keep", optimizer_state)
    expect(isinstance(regrow, bool), "regrow to be true or false", regrow)
    expect(isinstance(log_topology, bool), "log_topology to be true or false", log_topology)
    expect(seed is None or is_integer(seed), "seed to be an integer or None", seed)


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
