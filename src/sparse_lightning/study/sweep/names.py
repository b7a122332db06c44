"""The names of runs and of their multirun: by what differs, and by what is asked for."""

import hashlib
import itertools
import re
from collections.abc import Collection, Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from sparse_lightning.study.train.record import INCIDENTAL


def key_of(override: str) -> str:
    """The key of an override.

    >>> key_of("+model.density=0.1")
    'model.density'
    """
    return override.lstrip("+~").partition("=")[0]


def sweep_with_groups(overrides: Sequence[str]) -> list[str]:
    """Overrides of which those of a group that is swept are swept too, over the one value that they have.

    Hydra reads what is not swept before it has chosen from the group, and would not find the key.

    >>> sweep_with_groups(["sparsity=set,rigl", "sparsity.density=0.1", "seed=1"])
    ['sparsity=set,rigl', 'sparsity.density=choice(0.1)', 'seed=1']
    """
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    swept = {each.key_or_group for each in parsed if each.is_sweep_override()}
    return [
        f"{text.partition('=')[0]}=choice({text.partition('=')[2]})"
        if each.key_or_group.partition(".")[0] in swept - {each.key_or_group} and not each.is_sweep_override()
        else text
        for each, text in zip(parsed, overrides, strict=True)
    ]


def _without_choice(overrides: Sequence[str]) -> list[str]:
    """Overrides as they were before :func:`sweep_with_groups`.

    >>> _without_choice(["sparsity.density=choice(0.1)", "seed=choice(1,2)"])
    ['sparsity.density=0.1', 'seed=choice(1,2)']
    """
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    single = [each.is_choice_sweep() and len(list(each.sweep_string_iterator())) == 1 for each in parsed]
    return [
        re.sub(r"=choice\((.*)\)$", r"=\1", text) if alone else text
        for text, alone in zip(overrides, single, strict=True)
    ]


def run_name(overrides: Sequence[str], constant: Sequence[str]) -> str:
    """A run's name: its overrides without their groups, and without those that are constant.

    >>> run_name(["trainer.max_epochs=2", "model.hebbian_grow=True", "seed=3"], constant=["trainer.max_epochs"])
    'hebbian_grow=true,seed=3'
    """
    pairs = [(key_of(override), override.partition("=")[2]) for override in overrides]
    asked = [(key, value) for key, value in pairs if key not in INCIDENTAL or key not in constant]
    differing = [(key, value) for key, value in asked if key not in constant] or asked
    last = [_last(key) for key, _ in differing]
    names = [key if last.count(_last(key)) > 1 else _last(key) for key, _ in differing]
    values = [value.lower() if value in ("True", "False") else value.replace("/", "_") for _, value in differing]
    return _short(",".join(f"{name}={value}" for name, value in zip(names, values, strict=True))) or "run"


def study_folder(folder: str | None, overrides: Sequence[str]) -> str:
    """The folder that was given, or one named by what is asked for, without the values that vary.

    >>> study_folder(None, ["model.hebbian_grow=true,false", "seed=range(8)", "trainer.max_epochs=3", "force=true"])
    'outputs/hebbian_grow+seed+max_epochs-3'
    """
    asked = [each for each in _without_choice(overrides) if key_of(each) not in INCIDENTAL]
    parsed = OverridesParser.create().parse_overrides(asked)
    words = [
        _last(key_of(text)) if each.is_sweep_override() else run_name([text], [])
        for each, text in zip(parsed, asked, strict=True)
    ]
    # Nothing that a shell or Hydra would take for more than a name.
    name = re.sub(r"[^\w.+-]+", "-", "+".join(words))
    return folder or f"outputs/{_short(name) or 'run'}"


def constant_keys(overrides: Sequence[str], jobs: Sequence[Sequence[str]], names: Collection[str]) -> list[str]:
    """The keys that do not tell runs apart, neither from each other nor from those that are there already.

    Args:
        overrides: The overrides of the multirun.
        jobs: The overrides of each run.
        names: The names of the runs that are there.
    """
    parsed = OverridesParser.create().parse_overrides(_without_choice(overrides))
    values: dict[str, set[str]] = {
        key_of(each.input_line or ""): set() for each in parsed if not each.is_sweep_override()
    }
    for job in jobs:
        for override in job:
            values.setdefault(key_of(override), set()).add(override.partition("=")[2])
    named = {pair.partition("=")[0] for name in names for pair in name.split(",")}
    constant = [key for key, several in values.items() if len(several) <= 1 and not {key, _last(key)} & named]
    return [*constant, *(key for key in INCIDENTAL if key not in values)]


def jobs_of(config: DictConfig) -> list[list[str]]:
    """The overrides of each run, as Hydra's basic sweeper makes them; none for another sweeper."""
    if not str(config.hydra.sweeper.get("_target_")).endswith("BasicSweeper"):
        return []
    params = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
    choices: dict[str, list[str]] = {}
    for override in OverridesParser.create().parse_overrides([*params, *config.hydra.overrides.task]):
        key = override.get_key_element()
        sweeps = override.is_sweep_override()
        values = list(override.sweep_string_iterator()) if sweeps else [override.get_value_element_as_str()]
        choices[key] = [f"{key}={value}" for value in values]  # of a key that is given twice, the last counts
    return [list(job) for job in itertools.product(*choices.values())]


def _last(key: str) -> str:
    return key.removesuffix("._target_").rpartition(".")[2]


def _short(name: str, most: int = 120) -> str:
    """A name that file systems accept, which count bytes: the end of a long one becomes a hash of it.

    >>> len(_short("重" * 90).encode()) <= 120
    True
    """
    content = name.encode(errors="replace")
    if len(content) <= most:
        return name
    return f"{content[: most - 9].decode(errors='ignore')}-{hashlib.sha256(content).hexdigest()[:8]}"


OmegaConf.register_new_resolver("run_name", run_name, replace=True)
OmegaConf.register_new_resolver("study_folder", study_folder, replace=True)
