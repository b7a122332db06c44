"""What a study varies: its factors, its arms, and which arm each one is compared with."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from sparse_lightning.study.analysis.runs import OUTCOMES
from sparse_lightning.study.train.record import INCIDENTAL

# Settings that may differ between runs of one arm: where a run is, and how it is run and watched.
_INCIDENTAL = (*INCIDENTAL, "ckpt_path", "threads")
GROWTH = {"true": "Hebbian growth", "false": "random growth", "null": "no growth"}
_FIRST = ("false", "static", "random", "null")  # levels that others are naturally compared with
_ALONE = "all runs"


@dataclass(frozen=True)
class Design:
    """What varies between the runs of a study, other than their seeds.

    Attributes:
        factors: The settings that differ between runs.
        arms: For each combination of their levels that was run its levels, ``{"density=0.1": {"density": "0.1"}}``.
        against: The level of one or more factors that others are compared with.
        inferred: Whether `against` was not named but chosen here.
    """

    factors: tuple[str, ...]
    arms: Mapping[str, Mapping[str, str]]
    against: Mapping[str, str]
    inferred: bool

    @property
    def pairs(self) -> dict[str, str]:
        """For each arm with something to be compared with, that arm: the same levels but those of `against`.

        Where no arm has such a one, because factors moved together, all are compared with the first that has the
        levels of `against`.
        """
        names = {_key(levels): arm for arm, levels in self.arms.items()}
        wanted = {arm: names.get(_key({**levels, **self.against})) for arm, levels in self.arms.items()}
        found = {arm: other for arm, other in wanted.items() if other is not None and other != arm}
        if not found and (bases := [arm for arm, levels in self.arms.items() if self._is_base(levels)]):
            found = {arm: bases[0] for arm in self.arms if arm != bases[0]}
        return found

    def title(self, arm: str, leaving_out: str = "") -> str:
        """An arm in words, but for a factor left out.

        >>> arm = {"hebbian_grow": "true", "density": "0.1"}
        >>> Design(tuple(arm), {"a": arm}, {}, True).title("a")
        'Hebbian growth, density 0.1'
        """
        if not self.factors:
            return arm
        return ", ".join(
            GROWTH.get(level, level) if name == "hebbian_grow" else f"{name} {level}"
            for name, level in self.arms[arm].items()
            if name != leaving_out
        )

    @property
    def against_words(self) -> str:
        """`against` as it is said on the command line, and whether it was."""
        said = ",".join(f"{factor}={level}" for factor, level in self.against.items())
        return f"{said} (inferred)" if self.inferred else said

    def _is_base(self, levels: Mapping[str, str]) -> bool:
        return all(levels[factor] == level for factor, level in self.against.items())


def label(value: Any) -> str:
    """A level as it is written in a configuration.

    >>> [label(value) for value in (True, None, float("nan"), 0.10, 3.0, (100, 100), "SGD")]
    ['true', 'null', 'null', '0.1', '3', '[100, 100]', 'SGD']
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.12g}"
    return str(list(value)) if isinstance(value, tuple) else str(value)


def arrange(frame: pd.DataFrame, against: str | None = None) -> tuple[Design, pd.DataFrame, list[str]]:
    """Sort finished runs into arms and pairs.

    Args:
        frame: Runs, as :func:`~sparse_lightning.study.load_runs` gives them.
        against: The level to compare with, ``"hebbian_grow=false"``, or several, ``"density=0.2,optimizer=SGD"``. None
            takes of the first factor that has one the level false, random or null, or else the first factor's lowest.

    Returns:
        The design; the finished runs with two more columns, `arm` and `pair`, the seed that runs are paired by; and a
        sentence for each run that is not among them because it repeats another.

    Raises:
        ValueError: `against` names no factor, or a level that no run has.
    """
    runs = frame[frame["status"] == "finished"].reset_index(drop=True)
    columns = [str(name) for name in runs.columns if name not in OUTCOMES]
    labels = runs[columns].map(label)
    seeds = [name for name in columns if name.rpartition(".")[2] == "seed"]
    varying = [name for name in columns if name not in seeds and labels[name].nunique() > 1]
    factors = [name for name in varying if name.rpartition(".")[2] not in _INCIDENTAL]
    names = [",".join(f"{factor}={row[factor]}" for factor in factors) or _ALONE for row in labels.to_dict("records")]
    differing = [name for name in seeds if labels[name].nunique() > 1] or seeds[:1]
    runs = runs.assign(arm=names, pair=labels[differing].agg(",".join, axis=1) if len(runs) else [])
    chosen = _against(against, {name: list(dict.fromkeys(labels[name])) for name in factors})
    arms = {arm: {name: str(labels.loc[index, name]) for name in factors} for index, arm in enumerate(names)}
    first = sorted(arms, key=lambda arm: not all(arms[arm][name] == level for name, level in chosen.items()))
    repeated = runs.duplicated(["arm", "pair"])
    notes = [
        f"{run['run']} is not counted: it repeats seed {run['pair']} of {run['arm']}"
        for _, run in runs[repeated].iterrows()
    ]
    design = Design(tuple(factors), {arm: arms[arm] for arm in first}, chosen, inferred=against is None)
    return design, runs[~repeated].reset_index(drop=True), notes


def _against(said: str | None, levels: Mapping[str, list[str]]) -> dict[str, str]:
    if said is None:
        for factor, found in levels.items():
            for level in _FIRST:
                if level in found:
                    return {factor: level}
        return {factor: sorted(found, key=_order)[0] for factor, found in list(levels.items())[:1]}
    chosen = dict(part.partition("=")[::2] for part in said.split(","))
    for factor, level in chosen.items():
        short = {name.rpartition(".")[2]: name for name in levels} | {name: name for name in levels}
        if factor not in short and factor.rpartition(".")[2] in short:
            return _against(said.replace(factor, factor.rpartition(".")[2]), levels)
        if factor not in levels:
            raise ValueError(f"Expected a factor of the study ({', '.join(levels) or 'it has none'}), got {factor!r}")
        if level not in levels[factor]:
            raise ValueError(f"Expected {factor} to be one of {', '.join(levels[factor])}, got {level!r}")
    return chosen


def _key(levels: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(levels.items()))


def _order(level: str) -> tuple[int, float, str]:
    try:
        return 0, float(level), level
    except ValueError:
        return 1, 0.0, level
