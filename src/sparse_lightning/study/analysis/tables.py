"""The tables of a report, each once as rows of text: for the screen, for the page, and for summary.csv."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from sparse_lightning.study.analysis.arms import arrange
from sparse_lightning.study.analysis.experiments import experiments_of
from sparse_lightning.study.analysis.findings import Comparison, Findings, dead_connections
from sparse_lightning.study.analysis.metrics import Metric, Mode, describe
from sparse_lightning.study.analysis.statistics import direction, interval, probability, row_of, seeds

FEWEST = 5  # pairs: with fewer, a standardised difference says nothing
SPREAD = ["min", "max", "mean", "std"]


@dataclass(frozen=True)
class Table:
    """A table as it is read: a title, headings, and rows whose first cell names them."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""

    def first(self, columns: int) -> "Table":
        """Its first columns alone, for a narrow screen."""
        return Table(self.title, self.headings[:columns], [row[:columns] for row in self.rows], self.caption)

    def __str__(self) -> str:
        lines = [self.headings, *self.rows]
        widths = [max(len(line[column]) for line in lines) for column in range(len(self.headings))]
        text = [
            "  ".join(cell.rjust(width) if index else cell.ljust(width) for index, (cell, width) in enumerate(cells))
            for cells in (list(zip(line, widths, strict=True)) for line in lines)
        ]
        return "\n".join([self.title, *(line.rstrip() for line in text)])


def summarize(frame: pd.DataFrame, metric: str = "val_acc", mode: Mode = "max") -> pd.DataFrame:
    """The runs by arm: mean epoch of the best value, min, max, mean and std of the best and the last one, and count.

    Args:
        frame: Runs, as :func:`~sparse_lightning.study.load_runs` gives them; those not finished are left out.
        metric: The metric, one that `frame` has columns of.
        mode: Whether its highest or its lowest value is the best.

    Returns:
        A row per arm, found from what varies; columns (metric, statistic); std with n - 1 in the denominator.
    """
    design, runs, _ = arrange(frame)
    best, last = f"{metric}_{mode}", f"{metric}_last"
    numbers = runs[[f"{best}_epoch", best, last]].astype(float).assign(count=1)
    how = {f"{best}_epoch": ["mean"], best: SPREAD, last: SPREAD, "count": ["sum"]}
    return numbers.groupby(runs["arm"]).agg(how).reindex(pd.Index(design.arms, name="arm"))


def published_figures(frame: pd.DataFrame) -> dict[str, dict[tuple[str, str], float]]:
    """For each arm the published figures that are about it alone, by metric and statistic."""
    done = frame[frame["status"] == "finished"]
    design, _, _ = arrange(frame)
    found: dict[str, dict[tuple[str, str], float]] = {}
    for experiment in experiments_of(done):
        for cell, arms in experiment.cells_of(design.settings):
            if len(arms) == 1:
                figures = found.setdefault(arms[0], {("count", "sum"): cell.runs or math.nan})
                figures[cell.metric, cell.statistic] = cell.value
    return found


def main_table(frame: pd.DataFrame, metric: str = "val_acc", mode: Mode = "max") -> Table:
    """:func:`summarize` as it is read, with the published figures below the arms that they are about."""
    ours, theirs = summarize(frame, metric, mode), published_figures(frame)
    base = describe(metric)
    shown = Metric(metric, metric, base.unit, 2 if base.unit else None)
    best, last = f"{metric}_{mode}", f"{metric}_last"
    rows = []
    columns = [(str(key[0]), str(key[1])) for key in ours.columns]
    for arm in map(str, ours.index):
        own = dict(zip(columns, map(float, ours.loc[arm]), strict=True))
        for name, found in ((arm, own), ("  published", theirs.get(arm, {}))):
            figures = {key: found.get(key, math.nan) for key in columns}
            means = [plus_minus(shown, figures[key, "mean"], figures[key, "std"]) for key in (best, last)]
            spread = [shown.show(figures[key, what]) for key in (best, last) for what in ("min", "max")]
            epoch, count = f"{figures[f'{best}_epoch', 'mean']:.1f}", f"{figures['count', 'sum']:.0f}"
            cells = [*means, epoch, *spread, count]
            rows += [[name, *(cell.replace("nan", "-") for cell in cells)]] if found else []
    headings = [
        "arm",
        f"best {metric}",
        f"last {metric}",
        "best epoch (from 0)",
        "best: min",
        "best: max",
        "last: min",
        "last: max",
        "runs",
    ]
    title = f"{metric}, {'in %, ' if base.unit else ''}by arm"
    caption = "Mean ± standard deviation over runs, the mean of the best epoch, and the lowest and highest values."
    return Table(title, headings, rows, caption)


def plus_minus(metric: Metric, mean: float, spread: float) -> str:
    """A mean ± a standard deviation, where there is one."""
    return metric.show(mean) if math.isnan(spread) else f"{metric.show(mean)} ± {metric.show(spread)}"


def cells_table(findings: Findings) -> Table:
    """Published means beside ours: inside the interval where ours expect them, outside, or not known without one."""
    rows = []
    by_name = {metric.name: metric for metric in findings.main_metrics}
    for cell, arms in findings.cells:
        if cell.statistic != "mean" or cell.metric not in by_name:
            continue
        metric = by_name[cell.metric]
        values = findings.table.loc[findings.table["arm"].isin(arms), cell.metric].astype(float).dropna()
        low, high = interval(values.to_numpy(), cell.runs or math.inf)
        inside = low - cell.resolution <= cell.value <= high + cell.resolution
        span = "-" if math.isnan(low) else f"{metric.show(low)} to {metric.show(high)}"
        place = "not known" if math.isnan(low) else "inside" if inside else "outside"
        published = plus_minus(metric, cell.value, math.nan if cell.spread is None else cell.spread)
        ours = metric.show(values.mean())
        rows.append([cell.words(), metric.heading, published, ours, place, span, str(len(values))])
    headings = ["published for", "metric", "published", "ours", "published is", "expected within (95%)", "our runs"]
    caption = (
        "Published means beside those of these runs. Inside: the published mean, within its rounding, is where a mean "
        "of as many runs as published is expected, given ours (95% prediction interval, Student's t). Not known: one "
        "run, or no spread, and so no interval."
    )
    return Table("Published figures", headings, rows, caption)


def overview_table(findings: Findings) -> Table:
    """All comparisons by the best value of the metric, a row each."""
    rows, references = [], {compared.reference for compared in findings.comparisons}
    one, metric = len(references) == 1, findings.main_metrics[0]
    for compared in findings.comparisons:
        found = comparison_table(compared, [metric]).first(7).rows
        cells = found[0][1:] if found else ["-", "-", "no pairs", "0", "-", "-"]
        rows.append([compared.arm if one else f"{compared.arm} minus {compared.reference}", *cells])
    headings = [
        f"arm minus {min(references)}" if one else "arm minus reference",
        "difference",
        "95% interval",
        "result",
        "pairs",
        "p",
        "p (Holm)",
    ]
    caption = (
        "Means over pairs of runs with the same seed. Holm's correction is over the metrics of a comparison, of which "
        "this is the first, and not over these rows."
    )
    return Table(f"Differences in {metric.heading}", headings, rows, caption)


def comparison_table(compared: Comparison, shown: Sequence[Metric], topology: bool = False) -> Table:
    """A comparison as it is read: a row per metric."""
    rows = []
    for metric in shown:
        row = row_of(compared.topology if topology else compared.main, metric.name)
        sides = [plus_minus(metric, row[f"{side}mean"], row[f"{side}sd"]) for side in ("", "reference_")]
        span = f"{metric.show(row['low'], sign=True)} to {metric.show(row['high'], sign=True)}"
        scarce = row["pairs"] < FEWEST or math.isnan(row["effect"])
        effect, needed = ("-", "-") if scarce else (f"{row['effect']:+.2f}", seeds(row["seeds"]))
        if not row["pairs"]:
            continue
        open_ = "too few pairs" if row["few"] else "inconclusive"
        result = {0: open_, 1: "significant: higher", -1: "significant: lower"}[direction(row)]
        cells = [metric.show(row["difference"], sign=True), "-" if math.isnan(row["low"]) else span, result]
        tests = [str(row["pairs"]), probability(row["p"]), probability(row["p_holm"]), effect, needed]
        rows.append([metric.heading, *cells, *tests, *sides])
    headings = ["metric", "difference", "95% interval", "result", "pairs", "p", "p (Holm)", "standardised difference"]
    headings += ["pairs needed", "arm", "reference"]
    return Table(f"{compared.arm} minus {compared.reference}", headings, rows)


COMPARISON_CAPTION = (
    "Arm and reference: mean ± standard deviation over their runs. Difference: mean over pairs of runs with the same "
    "seed, with its 95% interval by Student's t; differences of percentages are in percentage points. p: permutation "
    "test of the signs; Holm's correction is over the rows of a table. Standardised difference: mean difference "
    "divided by the standard deviation of the differences. Pairs needed: for a power of 80% after the correction. "
    "Significant: corrected p below 5%, and an interval without zero. Too few pairs: no difference could be "
    "significant after the correction, however large; the interval holds for the metric alone."
)


def dead_table(findings: Findings) -> Table:
    """Dead connections by arm and layer."""
    share = Metric("", "", "%", 1)
    dead = dead_connections(findings)
    rows = [
        [row["arm"], row["layer"], f"{row['count']:.0f}", *map(share.show, row[["share", "most"]])]
        for _, row in dead.iterrows()
    ]
    caption = (
        "Dead connections are active and exactly zero at the end of an epoch: they got no gradient since they were "
        "grown. Counts and shares of the active connections of the layer, means over the runs of an arm."
    )
    headings = ["arm", "layer", "dead, last epoch", "share (%)", "largest share in any epoch (%)"]
    return Table("By arm and layer", headings, rows, caption)


def format_table(frame: pd.DataFrame, metric: str = "val_acc", mode: Mode = "max") -> str:
    """The main table as text, with the runs left out listed and why."""
    done = frame["status"] == "finished"
    lines = [str(main_table(frame, metric, mode))] if done.any() else []
    if not done.all():
        lines += ["", f"Left out, {(~done).sum()} of {len(frame)} runs:"]
        lines += [f"  {run['run']}: {run['error']}" for _, run in frame[~done].iterrows()]
    return "\n".join(lines)
