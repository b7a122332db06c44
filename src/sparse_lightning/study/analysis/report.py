"""A report: folders of runs in; tables, verdicts, figures, a page and TensorBoard's margins out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sparse_lightning.study.analysis import statistics
from sparse_lightning.study.analysis.design import Design, arrange
from sparse_lightning.study.analysis.margins import write_arms
from sparse_lightning.study.analysis.runs import load_metrics, load_runs
from sparse_lightning.study.analysis.statistics import Metric, Numbers
from sparse_lightning.study.analysis.table import format_table, left_out_because, published_table, summarize
from sparse_lightning.study.analysis.verdicts import (
    Conclusion,
    format_conclusions,
    general,
    is_published_question,
    probability,
    published,
    seeds,
)
from sparse_lightning.study.train.record import read_degrees, write

PAGE, SUMMARY, FIGURES = "report.html", "summary.csv", "figures"
CHARTS = {
    "Accuracy: mean and standard deviation of each arm": ("val_acc", "train_acc"),
    "Loss: mean and standard deviation of each arm": ("val_loss", "train_loss"),
    "Topology: mean and standard deviation of each arm": tuple(
        f"topology/{what}/all" for what in ("gini_in", "gini_out", "explored", "jaccard", "survived")
    ),
}


@dataclass(frozen=True)
class Report:
    """All that a report says, before it is written.

    Attributes:
        frame: All runs, a row each.
        design: What varies.
        runs: Those that count, with `arm`, `pair` and `title`, the words of their arm.
        curves: The metrics of each of those, a row an epoch.
        table: What each of them came to, with `title`.
        metrics: The main metrics.
        main: For each arm that has something to be compared with, the comparison by the main metrics.
        topology: The same by the measures of the topology.
        conclusions: The verdicts.
        accuracy: The accuracy that convergence is measured at.
        horizon: The epochs that it may take.
        notes: What a reader has to know, a sentence each.
    """

    frame: pd.DataFrame
    design: Design
    runs: pd.DataFrame
    curves: Sequence[pd.DataFrame]
    table: pd.DataFrame
    metrics: Sequence[Metric]
    main: Mapping[str, pd.DataFrame]
    topology: Mapping[str, pd.DataFrame]
    conclusions: Sequence[Conclusion]
    accuracy: float
    horizon: int
    notes: Sequence[str]

    @property
    def titles(self) -> dict[str, str]:
        """The arms in words, the reference first."""
        return {arm: self.design.title(arm) for arm in self.design.arms}

    def arm_curves(self) -> dict[str, pd.DataFrame]:
        """The metrics of all runs of each arm, by its title; `run` tells them apart."""
        each = [curve.assign(run=index) for index, curve in enumerate(self.curves)]
        of_arm = {
            title: [curve for curve, own in zip(each, self.runs["arm"], strict=True) if own == arm]
            for arm, title in self.titles.items()
        }
        return {title: pd.concat(found, ignore_index=True) for title, found in of_arm.items()}


def analyse(folders: Sequence[str | Path], against: str | None = None, accuracy: float | None = None) -> Report:
    """Read runs and compare their arms.

    Args:
        folders: Folders of runs, taken together.
        against: The level that others are compared with, ``"hebbian_grow=false"``; None infers it.
        accuracy: The validation accuracy, a share in (0, 1], that convergence is measured at; None for the highest that
            most runs reach.

    Raises:
        FileNotFoundError: There is no run.
        ValueError: `against` is no level of the study, or `accuracy` no share.
    """
    if accuracy is not None and not 0 < accuracy <= 1:
        raise ValueError(f"Expected accuracy in (0, 1], got {accuracy}")
    frame = load_runs(*folders)
    if not (frame["status"] == "finished").any():
        empty = Design((), {}, {}, inferred=True)
        nothing = pd.DataFrame()
        return Report(frame, empty, nothing, [], nothing, (), {}, {}, [], 0.0, 0, ["No run has finished yet."])
    design, runs, notes = arrange(frame, against)
    curves = [load_metrics(folder) for folder in runs["folder"]]
    horizon = min(len(curve) for curve in curves)
    best = {
        arm: [curve["val_acc"][:horizon].max() for curve, own in zip(curves, runs["arm"], strict=True) if own == arm]
        for arm in design.arms
    }
    chosen = statistics.usual_accuracy(best) if accuracy is None else accuracy
    runs = runs.assign(title=[design.title(arm) for arm in runs["arm"]])
    table = statistics.outcomes(runs, curves, chosen, horizon).assign(title=runs["title"])
    metrics = statistics.main_metrics(chosen)
    main = {arm: statistics.compare(table, arm, other, metrics) for arm, other in design.pairs.items()}
    topology = {arm: statistics.compare(table, arm, other, statistics.TOPOLOGY) for arm, other in design.pairs.items()}
    conclusions: list[Conclusion] = []
    for arm, other in design.pairs.items():
        if is_published_question(design.arms[arm], design.arms[other]):
            where = design.title(arm, leaving_out="hebbian_grow")
            conclusions += published(main[arm], topology[arm], (*metrics, *statistics.TOPOLOGY), where)
        else:
            conclusions.append(general(f"{design.title(arm)} beside {design.title(other)}", main[arm], metrics))
    notes += _notes(design, runs, table, metrics, horizon, accuracy is None)
    return Report(frame, design, runs, curves, table, metrics, main, topology, conclusions, chosen, horizon, notes)


def make_report(*folders: str | Path, against: str | None = None, accuracy: float | None = None) -> str:
    """Make the report of some folders of runs, in the first of them, and return it as text.

    Writes `report.html`, `summary.csv`, `figures/` and `arms/`, and touches nothing else. The same runs give the same
    bytes. Arguments and errors are those of :func:`analyse`.
    """
    from sparse_lightning.study.analysis.page import page

    report = analyse(folders, against, accuracy)
    home = Path(folders[0])
    drawn = draw(report)
    for name, kinds in drawn.items():
        for kind, content in kinds.items():
            (home / FIGURES).mkdir(exist_ok=True)
            write(home / FIGURES / f"{name}.{kind}", content)
    if report.curves:
        write_arms(home, dict(zip(report.titles, report.arm_curves().values(), strict=True)), CHARTS)
    write(home / SUMMARY, summary(report).to_csv(index=False, float_format="%.10g", lineterminator="\n"))
    write(home / PAGE, page(report, {name: kinds["svg"] for name, kinds in drawn.items()}, home))
    return "\n".join([format_report(report), "", f"The report is in {home / PAGE}"])


def format_report(report: Report) -> str:
    """A report as text: the published table, the verdicts, the comparisons, and notes."""
    parts = [format_table(report.frame)]
    if report.conclusions:
        parts += ["", "Verdicts", format_conclusions(report.conclusions)]
    for arm, compared in report.main.items():
        other = report.titles[report.design.pairs[arm]]
        parts += ["", f"{report.titles[arm]} less {other}, by seed", _comparison(compared, report.metrics)]
    if report.notes:
        parts += ["", *report.notes]
    return "\n".join(parts)


def summary(report: Report) -> pd.DataFrame:
    """Every figure of the tables, one a row: `table`, `arm`, `reference`, `metric`, `figure`, `value`, in shares."""
    rows: list[tuple[Any, ...]] = []
    for kind, tables in (("accuracy and speed", report.main), ("topology", report.topology)):
        for arm, compared in tables.items():
            for name, row in compared.iterrows():
                rows += [(kind, arm, report.design.pairs[arm], name, figure, value) for figure, value in row.items()]
    if report.curves:
        metrics = (*report.metrics, *statistics.TOPOLOGY)
        for arm in report.design.arms:
            runs = report.table[report.table["arm"] == arm]
            for metric in metrics:
                spread = runs[metric.name].agg(["min", "max", "mean", "std", "count"])
                rows += [("arms", arm, "", metric.name, name, value) for name, value in spread.items()]
                rows += [("runs", arm, "", metric.name, run["run"], run[metric.name]) for _, run in runs.iterrows()]
    ours, theirs = summarize(report.frame), published_table()
    for source, table in (("found", ours), ("published", theirs[theirs.index.isin(ours.index)])):
        rows += [
            (f"beside the published table, {source}", arm, "", *column, table.loc[arm, column])
            for arm in table.index
            for column in table.columns
        ]
    return pd.DataFrame(rows, columns=["table", "arm", "reference", "metric", "figure", "value"])


def draw(report: Report) -> dict[str, dict[str, bytes]]:
    """The figures that the runs have data for, by name and by kind, png and svg."""
    if not report.curves:
        return {}
    from sparse_lightning.study.analysis import figures

    curves, drawn = report.arm_curves(), {}
    with figures.style():
        drawn["learning_curves"] = figures.learning_curves(curves)
        if report.main:
            pairs = {report.titles[arm]: report.titles[other] for arm, other in report.design.pairs.items()}
            main = {report.titles[arm]: compared for arm, compared in report.main.items()}
            table = report.table.assign(arm=report.table["title"])
            drawn["differences"] = figures.paired_differences(table, pairs, main, report.metrics)
        drawn["speed"] = figures.speed(report.table, curves, report.accuracy, report.horizon)
        found = dict.fromkeys(
            str(column).split("/", 2)[2]
            for curve in report.curves
            for column in curve
            if str(column).startswith("topology/explored/") and not str(column).endswith("/all")
        )
        if found:
            drawn["topology"] = figures.topology(curves, list(found))
        maps, epochs = pixel_maps(report)
        if maps:
            drawn["pixels"] = figures.pixel_maps(maps, epochs)
        return {name: {kind: figures.render(figure, kind) for kind in ("png", "svg")} for name, figure in drawn.items()}


def pixel_maps(report: Report, most: int = 7) -> tuple[dict[str, Numbers], list[int]]:
    """Each arm's mean map of the input's connections, (epochs, side, side), and which epochs those are.

    They are the first, the last, and some between, closer at first. Empty where inputs make no square, or no run has a
    record.
    """
    found: dict[str, list[Numbers]] = {}
    for (_, run), title in zip(report.runs.iterrows(), report.runs["title"], strict=True):
        try:
            degrees = read_degrees(Path(run["folder"]))
        except ValueError:
            continue
        first = next((rows for name, rows in degrees.items() if name.endswith("/in")), None)
        if first is not None and len(first) >= report.horizon:
            found.setdefault(title, []).append(first[: report.horizon].astype(float))
    shapes = {rows.shape[1] for several in found.values() for rows in several}
    side = round(min(shapes, default=0) ** 0.5)
    if len(shapes) != 1 or side * side not in shapes:
        return {}, []
    spaced = np.geomspace(1, report.horizon, most).round().astype(int) - 1
    epochs = sorted({int(epoch) for epoch in spaced})
    maps = {
        title: np.mean(found[title], axis=0)[epochs].reshape(len(epochs), side, side)
        for title in report.titles.values()
        if title in found
    }
    return maps, epochs


def left_out(frame: pd.DataFrame) -> list[tuple[str, str]]:
    """The runs that do not count, and why."""
    return [(run["run"], left_out_because(run)) for _, run in frame[frame["status"] != "finished"].iterrows()]


HEADINGS = ("", "arm", "reference", "difference", "95% interval", "p", "p (Holm)", "d_z", "seeds", "pairs")


def cells(compared: pd.DataFrame, metrics: Sequence[Metric]) -> list[tuple[str, ...]]:
    """A comparison as it is read: a row a metric, under :data:`HEADINGS`."""
    rows = []
    for metric in metrics:
        row = statistics.row_of(compared, metric.name)
        sides = [f"{metric.show(row[f'{side}mean'])} ± {metric.show(row[f'{side}sd'])}" for side in ("", "reference_")]
        span = f"{metric.show(row['low'], sign=True)} to {metric.show(row['high'], sign=True)}"
        effect = "-" if np.isnan(row["effect"]) else f"{row['effect']:+.2f}"
        rows.append(
            (
                f"{metric.title} ({metric.unit})" if metric.unit and metric.unit not in metric.title else metric.title,
                *sides,
                metric.show(row["difference"], sign=True),
                "-" if np.isnan(row["low"]) else span,
                probability(row["p"]),
                probability(row["p_holm"]),
                effect,
                seeds(row["seeds"]),
                str(row["pairs"]),
            )
        )
    return rows


def _comparison(compared: pd.DataFrame, metrics: Sequence[Metric]) -> str:
    lines = [HEADINGS, *cells(compared, metrics)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADINGS))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if not column else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _notes(
    design: Design, runs: pd.DataFrame, table: pd.DataFrame, metrics: Sequence[Metric], horizon: int, usual: bool
) -> list[str]:
    notes = []
    if not design.factors:
        notes.append("These runs differ in nothing but their seed: one arm, and nothing to compare it with.")
    elif not design.pairs:
        notes.append(f"No arm has a counterpart with {design.against_words}: nothing is compared.")
    else:
        notes.append(f"Compared with {design.against_words}, all other settings equal, in pairs of one seed.")
        alone = [design.title(arm) for arm in design.arms if arm not in {*design.pairs, *design.pairs.values()}]
        if alone:
            notes.append(f"Not compared, having no counterpart: {'; '.join(alone)}.")
    for arm, other in design.pairs.items():
        ours, theirs = (set(runs.loc[runs["arm"] == name, "pair"]) for name in (arm, other))
        for missing, where in ((theirs - ours, arm), (ours - theirs, other)):
            if missing:
                said = ", ".join(sorted(missing, key=lambda seed: (len(seed), seed)))
                notes.append(f"Without a pair, and so not in the differences: seed {said}, not finished in {where}.")
    if len(design.pairs) > 1:
        notes.append("Holm's correction is over the metrics of each comparison, not over the comparisons.")
    accuracy = next(metric for metric in metrics if metric.name == "epochs_to")
    how = "the highest that three quarters of each arm's runs reach, in tenths of a point" if usual else "as asked for"
    missed = int((~table["reached"]).sum())
    censored = (
        f"{missed} of {len(table)} runs never reach it; they are censored: known to need more than the {horizon} "
        f"epochs that all runs have, and counted as {horizon}."
    )
    notes.append(f"{accuracy.title.capitalize()}: {how}. {censored if missed else 'All runs reach it.'}")
    notes.append("Epochs are counted from 0, as published; epochs to an accuracy is how many were trained until then.")
    return notes
