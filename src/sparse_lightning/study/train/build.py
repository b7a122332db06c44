"""Objects from their configuration, with one sentence for each that cannot be built."""

import contextlib
import hashlib
import inspect
import pkgutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate

from sparse_lightning.functional.checks import expect, nearest
from sparse_lightning.study.train.record import is_own

_CRITERIA = {"GrowthCriterion": "growth", "PruningCriterion": "pruning", "CountCriterion": "counts"}
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def arguments(cls: type) -> tuple[list[str], bool]:
    """The names of a class's arguments, and whether it takes others too.

    Where a constructor takes ``**options``, they go on to the class that it inherits from.

    >>> arguments(Exception)
    ([], True)
    """
    found: dict[str, None] = {}
    for constructor in (vars(base)["__init__"] for base in cls.__mro__ if "__init__" in vars(base)):
        try:
            parameters = list(inspect.signature(constructor).parameters.values())[1:]
        except ValueError:  # written in C
            break
        found |= dict.fromkeys(each.name for each in parameters if each.kind in _NAMED)
        if not any(each.kind is each.VAR_KEYWORD for each in parameters):
            return list(found), False
    return list(found), True


def defaults_of(config: Mapping[str, Any], built: Mapping[str, object] = MappingProxyType({})) -> dict[str, Any]:
    """The arguments that a configuration leaves to the defaults of its classes, by dotted name.

    Those that are no numbers, words or lists of these are left out, as is `seed`, which each run is given. What a
    constructor passes on by ``**options``, for which it may have defaults of its own, is known only of what was built.

    Args:
        config: Objects by key, each with ``_target_`` and arguments.
        built: What was built of them, by key; a PruneRegrow has its `arguments`.

    >>> defaults_of({"model": {"_target_": "sparse_lightning.KWinners", "percent_on": 0.1}})["model.boost_strength"]
    1.0
    """
    found: dict[str, Any] = {}
    for key, nested in _targets(config, ""):
        with contextlib.suppress(ValueError, TypeError):  # no class, which `build` refuses; or one without a signature
            known = inspect.signature(target(nested, key)).parameters.values() if "_args_" not in nested else ()
            missing = {each.name: each.default for each in known if each.kind in _NAMED and each.name not in nested}
            found |= {f"{key}.{name}": value for name, value in missing.items() if name != "seed" and _is_plain(value)}
    for key, each in built.items():
        options = {name: value for name, value in getattr(each, "arguments", {}).items() if name not in config[key]}
        found |= {f"{key}.{name}": value for name, value in options.items() if name != "seed" and _is_plain(value)}
    return {name.removeprefix("."): value for name, value in found.items()}


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, str | bool | int | float)


def target(config: Mapping[str, Any], where: str, kind: type = object) -> type:
    """The class that a configuration names.

    Raises:
        ValueError: It names none that can be imported, or none of this kind; functions are not called.
    """
    path = config.get("_target_")
    try:
        found = pkgutil.resolve_name(str(path))
    except Exception as error:  # whatever the import of a module raises
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        hint = _importable(str(path), error)
        text = f"Expected {where}._target_ to name a class to import, got {path!r}: {reason}"
        raise ValueError(f"{text}; {hint}" if hint else text) from error
    if not (isinstance(found, type) and issubclass(found, kind)):
        what = "a class" if kind is object else f"a {kind.__name__}"
        bases = [each.__name__ for each in found.__mro__] if isinstance(found, type) else []
        argument = next((name for base, name in _CRITERIA.items() if base in bases), "")
        hint = f": give it to a method, as in '{where}.{argument}={{_target_:{path}}}'" if argument else ""
        raise ValueError(f"Expected {where}._target_ to name {what}, got {path!r}{hint}")
    return found


def _importable(path: str, error: Exception) -> str:
    """A hint for a class that cannot be imported: a name near to it, or where its module is looked for."""
    module, _, name = path.rpartition(".")
    if not module:
        return "write module.Class, as in sparse_lightning.SET"
    if isinstance(error, ModuleNotFoundError) and error.name == path.partition(".")[0]:
        return f"put the folder of {error.name} on PYTHONPATH"
    if isinstance(error, AttributeError):
        with contextlib.suppress(Exception):  # whatever the import of a module raises
            return nearest(name, dir(pkgutil.resolve_name(module)))
    return ""


def code_of(config: Mapping[str, Any]) -> dict[str, str]:
    """A hash of the file of each class that a configuration names and that is not of an installed package."""
    found = {}
    for key, nested in _targets(config, ""):
        with contextlib.suppress(ValueError, TypeError):  # no class, which `build` refuses; or one without a file
            path = Path(inspect.getsourcefile(target(nested, key)) or "")
            if is_own(path):
                found[str(nested["_target_"])] = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    return found


def build(config: Mapping[str, Any], where: str, kind: type, seed: int | None = None, **given: Any) -> Any:
    """Build an object from the class and the arguments in its configuration, and those inside it.

    Args:
        config: ``_target_`` and arguments.
        where: The key of the configuration, for messages.
        kind: What it has to be.
        seed: The seed to give to a class that takes one, where the configuration has none.
        given: More arguments, for a class that takes them.

    Raises:
        ValueError: A class cannot be imported, or does not take an argument, or refuses its value; the key is named.
    """
    for key, nested in _targets(config, where):
        taken, takes_others = arguments(target(nested, key))
        for name in nested:
            if not (str(name).startswith("_") or name in taken or takes_others):
                known = f"{key} to have arguments of {nested['_target_']} ({', '.join(taken)})"
                expect(False, known, name, nearest(name, taken))
    taken, _ = arguments(target(config, where, kind))
    given = {"seed": seed, **given} if seed is not None and "seed" not in config else given
    try:
        return instantiate(config, **{name: value for name, value in given.items() if name in taken})
    except InstantiationException as error:
        if isinstance(error.__cause__, ValueError):
            hint = _as_class(config, where, str(error.__cause__))
            raise ValueError(f"{where}: {error.__cause__}{hint}") from error.__cause__
        raise


def _as_class(config: Mapping[str, Any], where: str, message: str) -> str:
    """A hint for an argument that names a class, as a word, where a class with its arguments was meant."""
    for name, value in config.items():
        if isinstance(value, str) and "." in value and name != "_target_" and message.endswith(f"got {value!r}"):
            with contextlib.suppress(ValueError):
                target({"_target_": value}, f"{where}.{name}")
                return f"; a class is given as '{where}.{name}={{_target_:{value}}}'"
    return ""


def _targets(value: Any, key: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every configuration of an object in a value, with its key."""
    if isinstance(value, Mapping):
        if "_target_" in value:
            yield key, value
        for name, each in value.items():
            yield from _targets(each, f"{key}.{name}")
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for index, each in enumerate(value):
            yield from _targets(each, f"{key}[{index}]")
