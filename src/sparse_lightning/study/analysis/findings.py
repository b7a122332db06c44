"""The findings of a report: folders of runs read, sorted into arms and compared, before anything is written."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd

from sparse_lightning.study.analysis import experiments, metrics, statistics
from sparse_lightning.study.analysis.arms import Design, arrange
from sparse_lightning.study.analysis.experiments import HEADLINE, Cell, Conclusion, Experiment, hebbian_growth
from sparse_lightning.study.analysis.metrics import Metric, Mode, column
from sparse_lightning.study.analysis.runs import at_last_density, last_change_epoch, load_metrics, load_runs

FEW = 4  # settings: an arm that differs from the published one in more is of another experiment
MANY_DEAD = 0.5  # the share of a layer's active connections from which on dead ones are warned of


@dataclass(frozen=True)
class Comparison:
    """An arm compared with another, in pairs of runs with the same seed."""

    arm: str
    reference: str
    main: pd.DataFrame
    topology: pd.DataFrame


@dataclass(frozen=True)
class Findings:
    """All that a report says.

    Attributes:
        frame: All runs, a row each.
        metric: The metric that runs are judged by.
        mode: Whether its highest or its lowest value is the best.
        design: What varies.
        runs: The runs that count, with `arm` and `pair`.
        curves: The metrics of each of those, a row per epoch.
        table: What each of them reached.
        threshold: The value of the metric that convergence is measured at.
        horizon: The epochs that it may take.
        comparisons: Each arm that has something to be compared with.
        cells: Published figures, each with the arms that it is about.
        conclusions: Published conclusions, judged.
        warnings: What must not be overlooked, a sentence each.
        notes: What a reader has to know, a sentence each.
    """

    frame: pd.DataFrame
    metric: str
    mode: Mode
    design: Design = field(default_factory=Design)
    runs: pd.DataFrame = field(default_factory=pd.DataFrame)
    curves: Sequence[pd.DataFrame] = ()
    table: pd.DataFrame = field(default_factory=pd.DataFrame)
    threshold: float = 0.0
    horizon: int = 0
    comparisons: Sequence[Comparison] = ()
    cells: Sequence[tuple[Cell, list[str]]] = ()
    conclusions: Sequence[Conclusion] = ()
    warnings: Sequence[str] = ()
    notes: Sequence[str] = ("No run has finished yet.",)

    @property
    def main_metrics(self) -> tuple[Metric, ...]:
        """The metrics that arms are judged by."""
        return metrics.main_metrics(self.metric, self.mode, self.threshold)

    @property
    def topology_metrics(self) -> tuple[Metric, ...]:
        """The measures of the topology that some run has a record of."""
        return tuple(metric for metric in metrics.topology_metrics() if self.table[metric.name].notna().any())

    def arm_curves(self) -> dict[str, pd.DataFrame]:
        """The metrics of all runs of each arm; `run` tells the runs apart."""
        each = [curve.assign(run=index) for index, curve in enumerate(self.curves)]
        return {
            arm: pd.concat([curve for curve, own in zip(each, self.runs["arm"], strict=True) if own == arm])
            for arm in self.design.arms
        }


def analyse(
    folders: Sequence[str | Path],
    *,
    against: str | None = None,
    metric: str | None = None,
    mode: Mode | None = None,
    threshold: float | None = None,
) -> Findings:
    """Read runs and compare their arms.

    Args:
        folders: Folders of runs, taken together.
        against: The level that others are compared with, ``"hebbian_grow=false"``; None chooses it.
        metric: The metric that runs are judged by, any column of their `metrics.csv`; None for ``report.metric`` of
            their configuration, or val_acc.
        mode: Whether its highest (``"max"``) or its lowest value is the best; None for ``report.mode``, or
            ``"min"`` for a loss and ``"max"`` for all else.
        threshold: The value of the metric that convergence is measured at; None for the best that most runs reach.

    Raises:
        FileNotFoundError: There is no run, or none that has the metric.
        ValueError: `against` is no level of the study.
    """
    frame = load_runs(*folders, metric=metric, mode=mode)
    done = frame[frame["status"] == "finished"]
    if done.empty:
        return Findings(frame, metric or "val_acc", mode or "max", warnings=list(_diverged(frame)))
    if done["metric"].nunique() > 1:
        return analyse(folders, against=against, metric=done["metric"].iloc[0], mode=mode, threshold=threshold)
    metric, mode = str(done["metric"].iloc[0]), cast(Mode, done["mode"].iloc[0])
    design, runs, notes = arrange(frame, against)
    curves = [metrics.with_dead_share(load_metrics(folder), folder) for folder in runs["folder"]]
    values = [at_last_density(curve.set_index("epoch")[metric].dropna(), curve) for curve in curves]
    horizon = min(int(curve.index.max()) + 1 for curve in values)
    best: dict[str, list[float]] = {arm: [] for arm in design.arms}
    for arm, curve in zip(runs["arm"], values, strict=True):
        within = curve[curve.index < horizon] if curve.index.min() < horizon else curve
        best[arm].append(within.max() if mode == "max" else within.min())
    chosen = metrics.default_threshold(best, mode) if threshold is None else threshold
    table = metrics.outcomes(runs, curves, metric, mode, chosen, horizon)
    found = Findings(frame, metric, mode, design, runs, curves, table, chosen, horizon)
    comparisons = [
        Comparison(
            arm,
            other,
            statistics.compare(table, arm, other, found.main_metrics),
            statistics.compare(table, arm, other, found.topology_metrics or metrics.topology_metrics()),
        )
        for arm, other in design.pairs.items()
    ]
    known = experiments.experiments_of(done)
    cells = [cell for experiment in known for cell in experiment.cells_of(design.settings)]
    found = replace(found, comparisons=comparisons, cells=cells)
    return replace(
        found,
        conclusions=_conclusions(found, known),
        warnings=[*_diverged(frame), *_mixed(found), *_without_effect(found), *_dead(found)],
        notes=[
            *notes,
            *design.notes(),
            *_too_few(found),
            *_unpaired(found),
            *_unchanged(found),
            *_changing(found),
            *_published(found, known),
            *_explained(found, threshold),
        ],
    )


def dead_connections(findings: Findings) -> pd.DataFrame:
    """Dead connections by arm and layer, means over the runs of an arm; shares are of the layer's active connections.

    Columns: `arm`, `layer`; `count` and `share` at the last epoch; `most`, the largest share, and `epoch`, when.
    """
    rows = []
    for arm, curve in findings.arm_curves().items():
        means = curve.drop(columns="run").groupby("epoch").mean()
        # What a dense phase grows is dead at first.
        means = means[means.index >= last_change_epoch(means.reset_index())]
        for name in means:
            layer = str(name).removeprefix("topology/dead/")
            if layer in (name, "all") or means[name].dropna().empty:
                continue
            share = means.get(column("dead", layer), pd.Series(np.nan, index=means.index)).fillna(np.nan)
            most = int(np.nanargmax(share)) if share.notna().any() else 0
            rows.append(
                (arm, layer, means[name].dropna().iloc[-1], share.iloc[-1], share.iloc[most], int(means.index[most]))
            )
    return pd.DataFrame(rows, columns=["arm", "layer", "count", "share", "most", "epoch"])


def _conclusions(found: Findings, known: Sequence[Experiment]) -> list[Conclusion]:
    """The published conclusions of the headline experiment, where its two arms were run as published."""
    if HEADLINE not in {experiment.name for experiment in known} or (found.metric, found.mode) != ("val_acc", "max"):
        return []
    published = {arm for _, arms in found.cells for arm in arms}
    both = (*found.main_metrics, *metrics.topology_metrics())
    conclusions: list[Conclusion] = []
    for compared in found.comparisons:
        levels = [found.design.arms[arm].items() for arm in (compared.arm, compared.reference)]
        differing = (dict(levels[0] - levels[1]), dict(levels[1] - levels[0]))
        if differing == hebbian_growth.ARMS and {compared.arm, compared.reference} <= published:
            topology = statistics.compare(found.table, compared.arm, compared.reference, metrics.topology_metrics())
            conclusions += hebbian_growth.conclusions(compared.main, topology, both)
    return conclusions


def _diverged(frame: pd.DataFrame) -> list[str]:
    runs = frame[frame["status"] == "diverged"]
    named = "; ".join(f"{run['run']} ({run['error']})" for _, run in runs.iterrows())
    return [f"{len(runs)} of {len(frame)} runs diverged and are not counted: {named}."] if named else []


def _without_effect(found: Findings) -> list[str]:
    """Which arms have the metric of another in every epoch of every pair."""
    courses: dict[str, dict[str, pd.Series[float]]] = {arm: {} for arm in found.design.arms}
    for arm, pair, curve in zip(found.runs["arm"], found.runs["pair"], found.curves, strict=True):
        courses[arm][pair] = curve[found.metric]

    def same(one: str, other: str) -> bool:
        pairs = courses[one].keys() & courses[other].keys()
        return bool(pairs) and all(courses[one][pair].equals(courses[other][pair]) for pair in pairs)

    groups: dict[str, list[str]] = {}
    for arm in courses:
        groups.setdefault(next((first for first in groups if same(first, arm)), arm), []).append(arm)
    named = "; ".join(" and ".join(arms) for arms in groups.values() if len(arms) > 1)
    return [f"The same {found.metric} in every epoch, as if the settings had no effect: {named}."] if named else []


def _mixed(found: Findings) -> list[str]:
    """Which comparisons cannot tell the effect of one setting from that of another."""
    arms: dict[str, list[str]] = {}
    for compared in found.comparisons:
        if words := found.design.mixed(compared.arm, compared.reference):
            named = " and ".join(f"{name} ({values})" for name, values in words.items())
            arms.setdefault(named, []).append(compared.arm)
    against = " and ".join(found.design.against)
    return [
        f"A difference may come from {named} as well as from {against}, in {together(each, found.design)}."
        for named, each in arms.items()
    ]


def _dead(found: Findings) -> list[str]:
    dead = dead_connections(found)
    return [
        f"More than half of the active connections of {row['layer']} are dead in {row['arm']}: {row['most']:.0%} are "
        f"exactly zero in epoch {row['epoch']:.0f} (mean over its runs)."
        for _, row in dead[dead["most"] > MANY_DEAD].iterrows()
    ]


def _unpaired(found: Findings) -> list[str]:
    missing: dict[str, list[str]] = {}
    for compared in found.comparisons:
        sides = (compared.arm, compared.reference)
        ours, theirs = (set(found.runs.loc[found.runs["arm"] == arm, "pair"]) for arm in sides)
        for seeds, arm in ((theirs - ours, compared.arm), (ours - theirs, compared.reference)):
            if seeds:
                named = ", ".join(sorted(seeds, key=lambda seed: (len(seed), seed)))
                missing.setdefault(f"seed{'s' if len(seeds) > 1 else ''} {named}", []).append(arm)
    return [
        f"Not in the differences, because it has no pair: {seeds}, not finished in {together(arms, found.design)}."
        for seeds, arms in missing.items()
    ]


def _unchanged(found: Findings) -> list[str]:
    """Which arms never rewired, by the record of their masks."""
    arms = [
        arm
        for arm, curve in found.arm_curves().items()
        if set(curve.get(column("jaccard", "all"), pd.Series(dtype=float)).dropna()) == {1.0}
    ]
    named = together(arms, found.design)
    return [f"Never rewired, so that the first connections are also the last: {named}."] if arms else []


def _changing(found: Findings) -> list[str]:
    """Which arms have a density that changes, and which of their epochs count."""
    last: dict[str, int] = {}
    for arm, curve in zip(found.runs["arm"], found.curves, strict=True):
        last[arm] = max(last.get(arm, 0), last_change_epoch(curve))
    epochs = sorted({epoch for epoch in last.values() if epoch})
    if not epochs:
        return []
    each = ((together([arm for arm in last if last[arm] == epoch], found.design), epoch) for epoch in epochs)
    named = ", and until ".join(f"epoch {epoch} in {arms}" for arms, epoch in each)
    return [
        f"The density changes until {named}: the best {found.metric}, and the epochs to a value, are of the epochs "
        "since."
    ]


def together(arms: Sequence[str], design: Design) -> str:
    """Arms in words; all arms of one level of a factor by that level alone.

    >>> design = Design(("a", "b"), {f"a={a},b={b}": {"a": a, "b": b} for a in "12" for b in "12"})
    >>> together(["a=1,b=1", "a=1,b=2", "a=2,b=2"], design)
    'a=1; a=2,b=2'
    """
    left, named = list(arms), []
    for factor in design.factors if len(design.factors) > 1 else ():
        for level in dict.fromkeys(levels[factor] for levels in design.arms.values()):
            own = [arm for arm, levels in design.arms.items() if levels[factor] == level]
            if len(own) > 1 and set(own) <= set(left):
                named.append(f"{factor}={level}")
                left = [arm for arm in left if arm not in own]
    return "; ".join([*named, *left])


def _too_few(found: Findings) -> list[str]:
    """Whether there are so few pairs that no difference can be significant, however large."""
    pairs = max((int(compared.main["pairs"].max()) for compared in found.comparisons), default=0)
    enough = statistics.pairs_to_be_significant(len(found.main_metrics))
    if not 1 < pairs < enough:
        return []
    return [
        f"With {pairs} pairs no difference can be significant after the correction, however large: "
        f"that takes {enough} pairs. An interval holds with any number of pairs, but for one metric alone."
    ]


def _published(found: Findings, known: Sequence[Experiment]) -> list[str]:
    """Why published figures do not stand beside an arm."""
    matched = {arm for _, arms in found.cells for arm in arms}
    named = experiments.named_in(found.frame)
    reasons: dict[str, list[str]] = {}
    for experiment in known:
        differing = {arm: _shown(experiment.differences(each)) for arm, each in found.design.settings.items()}
        shared = [
            words for words in next(iter(differing.values())) if all(words in each for each in differing.values())
        ]
        for arm, own in differing.items():
            replaced = any(words.startswith(("model is", "sparsity is")) for words in own)
            foreign = not named and (len(own) > FEW or replaced)
            if arm not in matched and not foreign:
                reasons.setdefault(f"{'; '.join(shared or own) or 'not all of its arms were run'}.", []).append(arm)
    every = len(found.design.arms)
    beside = {
        reason: "these runs" if len(arms) == every > 1 else together(arms, found.design)
        for reason, arms in reasons.items()
    }
    published = experiments.names()
    unknown, choice = ", ".join(name for name in named if name not in published), ", ".join(published)
    return [
        *([f"No published experiment is called {unknown}: experiment_name may be {choice}."] if unknown else []),
        *(f"The published figures are of other settings than {arms}: {reason}" for reason, arms in beside.items()),
    ]


def _shown(differences: list[str]) -> list[str]:
    """Differences without those of the model's own sparsity, where another takes its place."""
    if not any(words.startswith("sparsity is") for words in differences):
        return differences
    replaced = ("density is", "prune_fraction is", "hebbian_grow is")
    return [words for words in differences if not words.startswith(replaced)]


def _explained(found: Findings, threshold: float | None) -> list[str]:
    """How the threshold of convergence was chosen, who misses it, and how epochs are counted."""
    reaching = next(metric for metric in found.main_metrics if metric.name == "epochs_to")
    how = "as given" if threshold is not None else "the best value that three quarters of each arm's runs reach"
    missed = int((~found.table["reached"]).sum())
    never = "never reaches it and counts" if missed == 1 else "never reach it and count"
    censored = f"{missed} of {len(found.table)} runs {never} as {found.horizon} epochs, which all runs have (censored)."
    notes = [f"{reaching.title.capitalize()}: {how}. {censored if missed else 'All runs reach it.'}"]
    if len(found.comparisons) > 1:
        notes.append("Holm's correction is over the metrics of each comparison, not over the comparisons.")
    return [*notes, "The first epoch is epoch 0. Epochs to a value: how many were trained when it was reached."]
