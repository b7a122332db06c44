"""Published experiments: each a table of figures as data, NAME.json, matched to the arms of a study by their settings.

A cell of such a table has `settings`, which an arm must have; `over`, settings whose levels it takes together;
`metric` and `statistic`; `value`, `spread` (standard deviation) and `runs` as published; and a `title` where its
settings would be long. The `settings` of the whole
table may be absent from a configuration, those of a cell may not, unless they are null.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd

from sparse_lightning.functional.checks import expect_one_of
from sparse_lightning.study.analysis.runs import label

HEADLINE = "hebbian_growth"  # also compared with where no experiment is named


@dataclass(frozen=True)
class Cell:
    """One published figure."""

    settings: Mapping[str, Any]
    metric: str
    statistic: str
    value: float
    resolution: float
    spread: float | None = None
    runs: int | None = None
    over: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    title: str = ""

    def words(self) -> str:
        """Its title, or its settings as overrides, with what it takes together."""
        if self.title:
            return self.title
        own = {name: label(value) for name, value in self.settings.items()}
        together = {name: " and ".join(map(label, levels)) for name, levels in self.over.items()}
        return ",".join(f"{_short(name)}={value}" for name, value in (own | together).items())

    def matching(self, differing: Mapping[str, Mapping[str, str]]) -> list[str]:
        """The arms whose runs it is about; none where a combination that it takes together was not run.

        Args:
            differing: For each arm with the settings of the table, all its settings.
        """
        arms = [arm for arm, settings in differing.items() if not list(_differing(self.settings, settings, True))]
        wanted = set(product(*(map(label, levels) for levels in self.over.values())))
        found = {arm: tuple(str(_level(differing[arm], name)) for name in self.over) for arm in arms}
        arms = [arm for arm in arms if found[arm] in wanted]
        return arms if {found[arm] for arm in arms} == wanted else []


@dataclass(frozen=True)
class Experiment:
    """A published experiment.

    Attributes:
        name: Its name, which ``experiment_name`` in a configuration says.
        title: What it is about.
        source: Where it was published.
        settings: The settings that all its cells share.
        cells: Its figures.
        more: Whatever else its file has.
    """

    name: str
    title: str
    source: str
    settings: Mapping[str, Any]
    cells: Sequence[Cell]
    more: Mapping[str, Any]

    def cells_of(self, arms: Mapping[str, Mapping[str, str]]) -> list[tuple[Cell, list[str]]]:
        """The cells that are about some arms, each with those arms."""
        alike = {arm: settings for arm, settings in arms.items() if not list(_differing(self.settings, settings))}
        found = ((cell, cell.matching(alike)) for cell in self.cells)
        return [(cell, own) for cell, own in found if own]

    def differences(self, settings: Mapping[str, str]) -> list[str]:
        """In which settings an arm differs from the cell that is nearest to it, in words."""
        own = list(_differing(self.settings, settings))
        return own + min((list(_differing(cell.settings, settings, True)) for cell in self.cells), key=len)


@dataclass(frozen=True)
class Verdict:
    """One statement, its status, and the figures behind it."""

    claim: str
    status: str
    figures: str


@dataclass(frozen=True)
class Conclusion:
    """A published conclusion and the verdicts on what it states, with a remark where they need one."""

    title: str
    verdicts: Sequence[Verdict]
    remark: str = ""


def names() -> list[str]:
    """The names of all published experiments."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.json"))


def load(name: str) -> Experiment:
    """An experiment by its name.

    Raises:
        ValueError: There is none of that name.
    """
    expect_one_of("experiment_name", name, names())
    content = json.loads(Path(__file__).with_name(f"{name}.json").read_text(encoding="utf-8"))
    resolution = content.pop("resolution")
    cells = [Cell(**{"resolution": resolution, **cell}) for cell in content.pop("cells")]
    title, source, settings = (content.pop(key) for key in ("title", "source", "settings"))
    return Experiment(content.pop("name"), title, source, settings, cells, content)


def experiments_of(frame: pd.DataFrame) -> list[Experiment]:
    """The published experiments that runs are to be compared with: those that they name, or else the headline."""
    return [load(name) for name in named_in(frame) or [HEADLINE] if name in names()]


def named_in(frame: pd.DataFrame) -> list[str]:
    """The experiments that runs name."""
    return list(frame["experiment_name"].dropna().unique()) if "experiment_name" in frame else []


def _differing(expected: Mapping[str, Any], settings: Mapping[str, str], required: bool = False) -> Iterator[str]:
    """Each setting that is not the expected one, in words."""
    for name, value in expected.items():
        found, wanted = _level(settings, name), label(value)
        if name.endswith("._target_"):  # a class can be imported from several modules
            found, wanted = found and found.rpartition(".")[2], wanted.rpartition(".")[2]
        if found is None and (not required or wanted == "null"):
            continue
        if found != wanted:
            shown = str(value) if isinstance(value, float) else wanted  # 1.0, all batches, and not 1
            published = "without" if shown == "null" else shown
            yield f"{_short(name)} is {'not set' if found is None else found}, published {published}"


def _level(settings: Mapping[str, str], name: str) -> str | None:
    """The level of a setting by its dotted name, or by its last name, where the table of runs has that."""
    short = name if name.endswith("._target_") else name.rpartition(".")[2]
    return settings.get(name, settings.get(short))


def _short(name: str) -> str:
    return name.removesuffix("._target_").rpartition(".")[2]
