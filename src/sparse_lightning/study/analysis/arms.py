"""The arms of a study, found from what varies: its factors, its arms, and which arm each one is compared with."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from sparse_lightning.functional.checks import expect, expect_one_of, nearest
from sparse_lightning.study.analysis.runs import CHOICE, CLASS, COURSE, FACTS, label
from sparse_lightning.study.train.record import DATA, INCIDENTAL

# Settings that may differ between runs of one arm: where a run is, and how it is run and watched.
_INCIDENTAL = (*INCIDENTAL, "ckpt_path", "threads", "experiment_name", "enable_progress_bar", "default_root_dir")
# Levels that others are naturally compared with, the first of them that a study has, in whatever case and folder.
_FIRST = ("false", "static", "staticsparse", "random", "randomregrow", "null", "none", "dense", "set")
_ALONE = "all runs"


@dataclass(frozen=True)
class Design:
    """What varies between the runs of a study, other than their seeds.

    Attributes:
        factors: The settings that differ between runs. That of a class, ``sparsity._target_``, is called ``sparsity``,
            and so is the choice of a file of the group ``sparsity``, which takes its place.
        arms: For each combination of their levels that was run its levels, ``{"density=0.1": {"density": "0.1"}}``.
        against: The level of one or more factors that others are compared with.
        inferred: Whether `against` was not given but chosen here.
        settings: For each arm all its settings, labelled, by the names of the table of runs.
        moved: Settings that differ too, but only along with a class or a file: what it sets, each in words.
        classes: The factors that are classes or files.
    """

    factors: tuple[str, ...] = ()
    arms: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    against: Mapping[str, str] = field(default_factory=dict)
    inferred: bool = True
    settings: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    moved: Mapping[str, str] = field(default_factory=dict)
    classes: tuple[str, ...] = ()

    @property
    def pairs(self) -> dict[str, str]:
        """For each arm with something to be compared with, that arm: the same levels except those of `against`.

        A setting that the other has not, such as an argument of the arm's own class, may differ too.

        Where no arm has such a one, because factors moved together, all are compared with the first that has the
        levels of `against`.
        """
        names = {frozenset(levels.items()): arm for arm, levels in self.arms.items()}
        wanted = {arm: names.get(frozenset({**lev, **self.against}.items())) for arm, lev in self.arms.items()}
        for arm in [arm for arm, other in wanted.items() if other is None]:
            near = {**self.arms[arm], **self.against}
            fits = [
                name
                for name, levels in self.arms.items()
                if self.against.items() <= levels.items() and all(lev in (near[f], "null") for f, lev in levels.items())
            ]
            wanted[arm] = fits[0] if len(fits) == 1 else None
        found = {arm: other for arm, other in wanted.items() if other is not None and other != arm}
        if not found and self.against:
            bases = [arm for arm, levels in self.arms.items() if self.against.items() <= levels.items()]
            found = {arm: bases[0] for arm in self.arms if bases and arm != bases[0]}
        return found

    def mixed(self, arm: str, reference: str) -> dict[str, str]:
        """The factors in which two arms differ besides that of `against`, in words, if they differ in that.

        Those that only one of the two has are left out.

        >>> arms = {"a": {"method": "SET", "epochs": "3"}, "b": {"method": "RigL", "epochs": "5"}}
        >>> Design(("method", "epochs"), arms, {"method": "SET"}).mixed("b", "a")
        {'epochs': '5, not 3'}
        """
        own, other = self.arms[arm], self.arms[reference]
        if all(own[name] == other[name] for name in self.against):
            return {}
        differing = [name for name in own if own[name] != other[name] and name not in self.against]
        return {name: f"{own[name]}, not {other[name]}" for name in differing if "null" not in (own[name], other[name])}

    def notes(self) -> Iterator[str]:
        """What a reader has to know of the arms, a sentence each."""
        against = ",".join(f"{factor}={level}" for factor, level in self.against.items())
        chosen = f"{against} (chosen by default)" if self.inferred else against
        if not self.factors:
            yield "The finished runs differ only in their seeds: there is one arm, and nothing to compare it with."
        elif not (pairs := self.pairs):
            yield f"No arm has a counterpart with {chosen}: nothing is compared."
        else:
            several = dict.fromkeys(name for pair in pairs.items() for name in self.mixed(*pair))
            differ = f"{' and '.join(several)} differ{'s' * (len(several) == 1)} too"
            rest = f"although {differ}" if several else "with all other settings equal"
            if self.moved and not several:
                belonging = " and ".join(name for name in self.factors if name in self.classes)
                rest = f"with equal settings except those that change along with {belonging} ({', '.join(self.moved)})"
            yield f"Each arm is compared with {chosen}, in pairs of runs with the same seed, {rest}."
            alone = [arm for arm in self.arms if arm not in {*pairs, *pairs.values()}]
            if alone:
                yield f"Not compared, because they have no counterpart: {'; '.join(alone)}."


def arrange(frame: pd.DataFrame, against: str | None = None) -> tuple[Design, pd.DataFrame, list[str]]:
    """Sort finished runs into arms and pairs.

    Args:
        frame: Runs, as :func:`~sparse_lightning.study.load_runs` gives them.
        against: The level to compare with, ``"hebbian_grow=false"``, or several, ``"density=0.2,optimizer=SGD"``. None
            takes of the first factor that has one the level false, static, random or null, or else the first factor's
            lowest level.

    Returns:
        The design; the finished runs with two more columns, `arm` and `pair`, the seed that runs are paired by; and a
        sentence for each run that is not among them because it repeats another.

    Raises:
        ValueError: `against` names no factor, or a level that no run has.
    """
    runs = frame[frame["status"] == "finished"].reset_index(drop=True)
    metrics = [name.removesuffix("_max_epoch") for name in map(str, runs) if name.endswith("_max_epoch")]
    outcomes = {*FACTS, *(f"{metric}_{what}" for metric in metrics for what in COURSE)}
    labels = runs[[name for name in runs if name not in outcomes]].map(label)
    own = [name for name in map(str, labels) if not name.startswith(CHOICE)]
    settings = [dict(zip(own, levels, strict=True)) for levels in labels[own].to_numpy().tolist()]
    seeds = [name for name in map(str, labels) if name.rpartition(".")[2] == "seed"]
    labels = _files(_objects(labels))
    factors, moved = _factors(labels[[name for name in labels if name not in seeds]])
    titles = _titles(factors)
    levels = {titles[name]: _short(name, labels[name]) for name in factors}
    rows = [{name: column[index] for name, column in levels.items()} for index in range(len(runs))]
    names = [",".join(f"{factor}={level}" for factor, level in row.items()) or _ALONE for row in rows]
    differing = _pairing(labels, seeds)
    runs = runs.assign(arm=names, pair=labels[differing].agg(",".join, axis=1) if len(runs) else [])
    chosen = _against(against, {name: list(dict.fromkeys(column)) for name, column in levels.items()})
    arms = dict(zip(names, rows, strict=True))
    order = {name: sorted(dict.fromkeys(column), key=_order) for name, column in levels.items()}
    place = {arm: [order[name].index(level) for name, level in own.items()] for arm, own in arms.items()}
    first = sorted(arms, key=lambda arm: (not chosen.items() <= arms[arm].items(), place[arm]))
    kinds = tuple(titles[name] for name in factors if _decides(name))
    groups = [",".join(row) for row in zip(*(levels[kind] for kind in kinds), strict=True)] or names
    words = {name: _moved(labels, name, groups) for name in moved if name != DATA}
    repeated = runs.duplicated(["arm", "pair"])
    notes = [
        f"{run['run']} is not counted: it repeats seed {run['pair']} of {run['arm']}."
        for _, run in runs[repeated].iterrows()
    ]
    of_arm = dict(zip(names, settings, strict=True))
    design = Design(tuple(levels), {arm: arms[arm] for arm in first}, chosen, against is None, of_arm, words, kinds)
    return design, runs[~repeated].reset_index(drop=True), notes


def numeric_factor(design: Design) -> str | None:
    """The factor with the most levels that are numbers, at least three of them; None if there is none.

    A level null, of an arm that has no such setting, does not count.

    >>> design = Design(("density", "method"), {str(n): {"density": str(n), "method": "SET"} for n in (0.1, 0.2, 0.5)})
    >>> numeric_factor(design)
    'density'
    """
    levels = {name: {arm[name] for arm in design.arms.values()} - {"null"} for name in design.factors}
    numeric = {name: len(found) for name, found in levels.items() if all(_order(each)[0] == 0 for each in found)}
    most = max(numeric, key=numeric.__getitem__, default=None)
    return most if most is not None and numeric[most] >= 3 else None


def _objects(labels: pd.DataFrame) -> pd.DataFrame:
    """Settings in which an object within a group is one, where its class alone does not tell the runs apart.

    There it takes the place of its arguments; elsewhere its class and its arguments stand alone.
    """
    for name in [name for name in map(str, labels) if name.endswith(CLASS) and name.count(".") > 1]:
        if name not in labels:  # it is part of an object that stands as a whole
            continue
        parent = name.removesuffix(CLASS)
        whole = parent if parent in labels else parent.rpartition(".")[2]
        objects = labels.loc[labels[name] != "null"]
        if labels[name].nunique() > 1 and (objects.groupby(name)[whole].nunique() > 1).any():
            labels = labels.drop(columns=[each for each in map(str, labels) if each.startswith(f"{parent}.")])
        else:
            stands = labels[name].where(labels[name] != "null", labels[whole])  # a class, or a word in its place
            labels = labels.assign(**{name: stands}).drop(columns=whole)
    return labels


def _files(labels: pd.DataFrame) -> pd.DataFrame:
    """Settings in which the file of a group stands for the class that it names, where every run was composed of one.

    A file that stands for several classes, because a run was given another, stands for none.
    """
    for name in [name for name in map(str, labels) if name.startswith(CHOICE)]:
        chosen, kind = labels[name], name.removeprefix(CHOICE) + CLASS
        known = kind in labels and "null" not in set(chosen) and chosen.nunique() > 1
        clear = known and (labels.groupby(name)[kind].nunique() == 1).all()
        labels = labels.drop(columns=kind if clear else name)
    return labels


def _decides(name: str) -> bool:
    """Whether a setting is a class or a file, which brings others with it."""
    return name.endswith(CLASS) or name.startswith(CHOICE)


def _follow(labels: pd.DataFrame, name: str, others: Sequence[str]) -> bool:
    """Whether a setting varies, and is the same wherever the others are."""
    return labels[name].nunique() > 1 and bool((labels.groupby(list(others))[name].nunique() == 1).all())


def _pairing(labels: pd.DataFrame, seeds: Sequence[str]) -> list[str]:
    """The seeds that runs are paired by: the run's own, and others that vary beside it."""
    varying = [name for name in seeds if labels[name].nunique() > 1]

    def follows(name: str) -> bool:
        given = labels[labels[name] != "null"]  # a class whose seed is not in the configuration is given the run's
        return name != "seed" and bool((given.groupby("seed")[name].nunique() <= 1).all())

    return [name for name in varying if "seed" not in varying or not follows(name)] or list(seeds[:1])


def _factors(labels: pd.DataFrame) -> tuple[list[str], list[str]]:
    """The settings that split runs into arms, and those that differ too but only move along with others.

    These are the arguments of a class, which differ only where the class does, and the checksum of a named data set.
    """
    varying = [name for name in map(str, labels) if labels[name].nunique() > 1]
    varying = [name for name in varying if name.rpartition(".")[2] not in _INCIDENTAL]
    classes = [name for name in varying if _decides(name)]

    def follows(name: str) -> bool:
        around = [each for each in classes if each != name and name.startswith(f"{_group(each)}.")]
        within = (
            [other for other in varying if other != DATA] if name == DATA else around if name in classes else classes
        )
        return bool(within) and _follow(labels, name, within)

    moved = [name for name in varying if follows(name)]
    return [name for name in varying if name not in moved], moved


def _titles(factors: Sequence[str]) -> dict[str, str]:
    """What factors are called: a class by what it is in, others by their last names where these are their own."""
    last = {name: _group(name).rpartition(".")[2] for name in factors}
    taken = list(last.values())
    return {name: short if taken.count(short) == 1 else _group(name) for name, short in last.items()}


def _group(name: str) -> str:
    """A setting, or of a class or a file what it stands for."""
    return name.removeprefix(CHOICE).removesuffix(CLASS)


def _moved(labels: pd.DataFrame, name: str, groups: Sequence[str]) -> str:
    """Which level a setting that is not a factor has, in each class or arm."""
    found: dict[str, list[str]] = {}
    for group, level in dict(zip(groups, labels[name], strict=True)).items():
        found.setdefault(level, []).append(group)
    words = (f"{level} in {', '.join(where)}" for level, where in found.items())
    return f"{name}: {'; '.join(words)}."


def _short(name: str, levels: "pd.Series[Any]") -> list[str]:
    """The levels of a setting; classes by their last names, where those differ, and none where there is no class."""
    short = {level: "none" if level == "null" else level.rpartition(".")[2] for level in levels.unique()}
    if not name.endswith(CLASS) or len({*short.values()}) < len(short):
        return levels.tolist()
    return [short[level] for level in levels]


def _against(wanted: str | None, levels: Mapping[str, list[str]]) -> dict[str, str]:
    if wanted is None:
        for factor, found in levels.items():
            named = {level.rpartition("/")[2].lower(): level for level in reversed(found)}
            for level in _FIRST:
                if level in named:
                    return {factor: named[level]}
        return {factor: sorted(found, key=_order)[0] for factor, found in list(levels.items())[:1]}
    chosen = {}
    for pair in re.split(r",(?=[^,\]]+=)", wanted):
        factor, _, level = pair.partition("=")
        factor = factor if factor in levels else factor.rpartition(".")[2]
        known = f"a factor of the study ({', '.join(levels) or 'it has none'})"
        expect(factor in levels, known, factor, nearest(factor, levels))
        in_lower_case = {each.lower(): each for each in reversed(levels[factor])}
        level = level if level in levels[factor] else in_lower_case.get(level.lower(), level)
        expect_one_of(factor, level, levels[factor])
        chosen[factor] = level
    return chosen


def _order(level: str) -> tuple[int, float]:
    """Numbers by their size, then all else as it comes."""
    try:
        return 0, float(level)
    except ValueError:
        return 1, 0.0
