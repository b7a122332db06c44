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

from sparse_lightning.functional.checks import nearest, with_hint
from sparse_lightning.study.train.record import is_own

_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class UnknownArgumentError(ValueError):
    """A configuration gives an argument that its class does not take.

    Attributes:
        key: The key of the configuration.
        name: The argument.
    """

    def __init__(self, key: str, kind: str, name: str, taken: Sequence[str]) -> None:
        self.key, self.name = key, name
        text = f"Expected {key} to have arguments of {kind} ({', '.join(taken)}), got {name!r}"
        super().__init__(with_hint(text, nearest(name, taken)))


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
        built: What was built of them, by key; a PruneRegrow has its `base_arguments`.

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
        passed_on = getattr(each, "base_arguments", {}).items()
        own = {*config[key], *inspect.signature(type(each)).parameters, "seed"}
        found |= {f"{key}.{name}": value for name, value in passed_on if name not in own and _is_plain(value)}
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
        text = f"Expected {where}._target_ to name a class to import, got {path!r} ({reason})"
        raise ValueError(with_hint(text, _importable(str(path), error))) from error
    if not (isinstance(found, type) and issubclass(found, kind)):
        what = "a class" if kind is object else f"a {kind.__name__}"
        argument = _decided_by(found)
        hint = f"give it to a method, as in '{where}.{argument}={{_target_:{path}}}'" if argument else ""
        raise ValueError(with_hint(f"Expected {where}._target_ to name {what}, got {path!r}", hint))
    return found


def _decided_by(found: Any) -> str:
    """The argument of a method that takes a criterion of this class; empty for any other class."""
    from sparse_lightning import CountCriterion, GrowthCriterion, PruningCriterion  # slow

    taken = {"growth": GrowthCriterion, "pruning": PruningCriterion, "counts": CountCriterion}
    return next((name for name, kind in taken.items() if isinstance(found, type) and issubclass(found, kind)), "")


def _importable(path: str, error: Exception) -> str:
    """A hint for a class that cannot be imported: a name near to it, or where its module is looked for."""
    module, _, name = path.rpartition(".")
    package = path.partition(".")[0]
    if not module:
        return "write module.Class, as in sparse_lightning.SET"
    if isinstance(error, ModuleNotFoundError) and error.name == package:
        return nearest(package, ["sparse_lightning"]) or f"put the folder of {package} on PYTHONPATH"
    owner = package if package == "sparse_lightning" else module
    with contextlib.suppress(Exception):  # whatever the import of a module raises
        found = pkgutil.resolve_name(owner)
        classes = [each for each in dir(found) if isinstance(getattr(found, each), type)]
        return nearest(name, classes).replace("'", f"'{owner}.", 1)
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
                raise UnknownArgumentError(key, nested["_target_"], str(name), taken)
    taken, _ = arguments(target(config, where, kind))
    given = {"seed": seed, **given} if seed is not None and "seed" not in config else given
    try:
        return instantiate(config, **{name: value for name, value in given.items() if name in taken})
    except InstantiationException as error:
        if isinstance(error.__cause__, ValueError):
            text = f"{where}: {error.__cause__}"
            raise ValueError(with_hint(text, _as_class(config, where, text))) from error.__cause__
        raise


def _as_class(config: Mapping[str, Any], where: str, message: str) -> str:
    """A hint for an argument that names a class, as a word, where a class with its arguments was meant."""
    for name, value in config.items():
        if isinstance(value, str) and "." in value and name != "_target_" and message.endswith(f"got {value!r}"):
            with contextlib.suppress(ValueError):
                if _decided_by(target({"_target_": value}, name)) == name:
                    return f"a class is given as '{where}.{name}={{_target_:{value}}}'"
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
