"""Which figures a report has, with their words, and how they are rendered: the same bytes for the same data."""

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from sparse_lightning.study.analysis import plots
from sparse_lightning.study.analysis.arms import numeric_factor
from sparse_lightning.study.analysis.findings import Findings
from sparse_lightning.study.analysis.metrics import TOPOLOGY, Metric, column, describe
from sparse_lightning.study.analysis.statistics import row_of

MOST = 14  # arms: as many lines as differ in colour and dash
MOST_ROWS = 40  # comparisons in one figure
BAND = "Mean over the runs of an arm; the band is one standard deviation."
_RC: dict[str, Any] = {
    "svg.hashsalt": "sparse_lightning",
    "figure.dpi": 150,  # that of the PNG: letters are wider at some resolutions, and the layout has to know
    "font.size": 9.0,
    "axes.titlesize": 9.0,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "legend.frameon": False,
    "axes.grid": True,
    "grid.color": "#d0d0d0",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "figure.constrained_layout.use": True,
    "lines.linewidth": 1.6,
}


@dataclass(frozen=True)
class Picture:
    """A figure with its words; `alt` is what can be read off it."""

    name: str
    title: str
    caption: str
    alt: str
    figure: Figure


def draw(findings: Findings) -> Iterator[Picture]:
    """The figures that the runs have data for; to be drawn and rendered in :func:`style`.

    Of more arms than lines with a colour and dash of their own, there are only those by a numeric factor.
    """
    if not findings.curves:
        return
    if factor := numeric_factor(findings.design):
        best, last = findings.main_metrics[:2]
        for metric in (best, last):
            title = f"{metric.title[0].upper()}{metric.title[1:]} by {factor}"
            words = (f"{name or findings.metric}: {ends}" for name, ends in _levels(findings, factor, metric))
            figure = plots.by_level(findings, factor, metric)
            caption = "Mean over the runs of an arm; the band is its 95% interval."
            if len(figure.axes) > 1:
                caption += " The other arms are in grey."
            if figure.axes[0].get_yscale() == "function":
                caption += f" The axis is logarithmic in the error, 100% minus {findings.metric}."
            yield Picture(f"{metric.name}_by_{factor}", title, caption, f"{title}: {'; '.join(words)}", figure)
    several = any((pair.main["pairs"] > 1).any() for pair in findings.comparisons)
    if len(findings.design.arms) > MOST:
        if several and len(findings.comparisons) <= MOST_ROWS:
            yield _difference(findings, findings.main_metrics[0])
        return
    curves, table, horizon = findings.arm_curves(), findings.table, findings.horizon
    for name in dict.fromkeys((findings.metric, findings.metric.replace("val_", "train_"))):
        if any(name in rows for rows in curves.values()):
            alt = f"{name} over epochs; at the last epoch: {_ends(curves, name)}"
            caption = f"{BAND} The axis fits the epochs after the first."
            yield Picture(f"learning_curves_{name}", name, caption, alt, plots.learning_curve(curves, name))
    for metric in findings.main_metrics if several else ():  # one point is no figure
        yield _difference(findings, metric)
    _, _, _, best, reaching = findings.main_metrics
    average = table.groupby("arm")[[best.name, reaching.name]].mean()
    alt, caption = (
        _each(curves, average[best.name], best),
        "A dot for each run; the upright bar below is the mean of the arm.",
    )
    yield Picture(
        "best_epochs", best.title.capitalize(), caption, alt, plots.best_epochs(table, list(curves), best, horizon)
    )
    alt, title = _each(curves, average[reaching.name], reaching), f"Epochs to reach a {findings.metric}"
    caption = (
        f"Mean epochs of training until a value of {findings.metric} is reached. Hollow: some runs never reach it, and "
        f"count as {horizon} epochs. Dotted: the threshold of the tables, {reaching.title}."
    )
    yield Picture("speed", title, caption, alt, plots.speed(findings, curves))
    for what, (title, unit, _) in TOPOLOGY.items():
        names = dict.fromkeys(str(name) for rows in curves.values() for name in rows if rows[name].notna().any())
        layers = [name.split("/", 2)[2] for name in names if name.startswith(column(what, ""))]
        if layers := [layer for layer in layers if layer != "all"]:
            alt = f"{title}, over epochs; of all layers at the last epoch: {_ends(curves, column(what, 'all'))}"
            caption = f"By layer{', in %' if unit else ''}. {BAND}"
            figure = plots.topology(curves, what, layers)
            yield Picture(f"topology_{what}", title[0].upper() + title[1:], caption, alt, figure)
    maps, epochs = plots.input_maps(findings)
    if maps:
        caption = "Mean over the runs of an arm. Darker pixels have more connections; in dark mode, lighter ones."
        alt = f"Maps of the connections of the input pixels after epochs {', '.join(map(str, epochs))}"
        yield Picture("pixels", "Connections of the input pixels", caption, alt, plots.pixel_maps(maps, epochs))


def _difference(findings: Findings, metric: Metric) -> Picture:
    """The differences of all pairs in a metric."""
    caption = "A dot for each seed: arm minus reference. The diamond is their mean, the bar its 95% interval."
    title, words = f"Difference in {metric.title}", []
    for pair in findings.comparisons:
        row = row_of(pair.main, metric.name)
        found, low, high = (metric.show(row[name], sign=True) for name in ("difference", "low", "high"))
        words.append(f"{pair.arm} minus {pair.reference} {found} [{low}, {high}] {metric.difference_unit}".rstrip())
    figure = plots.paired_differences(findings, metric)
    return Picture(f"differences_{metric.name}", title, caption, f"{title}: {'; '.join(words)}", figure)


def style() -> Any:
    """The context that figures are drawn and saved in."""
    defaults: dict[Any, Any] = dict(mpl.rcParamsDefault)
    return mpl.rc_context(defaults | _RC | {"backend": "agg"})


def render(figure: Figure, kind: str) -> bytes:
    """A figure as ``"png"``, on white, or ``"svg"``, on nothing, without dates or versions in it."""
    buffer = io.BytesIO()
    FigureCanvasAgg(figure)
    if figure.get_layout_engine():  # once for both kinds: it takes as long as all else
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
    nothing: dict[str, Any] = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
    colour = "none" if kind == "svg" else "white"
    figure.savefig(buffer, format=kind, dpi=figure.dpi, metadata=nothing, facecolor=colour)
    return buffer.getvalue()


def _levels(findings: Findings, factor: str, metric: Metric) -> Iterator[tuple[str, str]]:
    """For each line of :func:`plots.by_level` its name and its first and last mean, in words."""
    for name, means in plots.means_by_level(findings, factor, metric).items():
        first, last = means.iloc[0], means.iloc[-1]
        yield (
            name,
            f"{metric.show(first['mean'])}{metric.unit} at {means.index[0]:g}, "
            f"{metric.show(last['mean'])}{metric.unit} at {means.index[-1]:g}",
        )


def _ends(curves: plots.Curves, name: str) -> str:
    """The mean of each arm at the last epoch, in words."""
    means = {arm: rows.groupby("epoch")[name].mean().dropna() for arm, rows in curves.items() if name in rows}
    return _each(means, pd.Series({arm: mean.iloc[-1] for arm, mean in means.items() if len(mean)}), describe(name))


def _each(arms: Mapping[str, Any], values: "pd.Series[float]", metric: Metric) -> str:
    unit = metric.unit if metric.unit == "%" else f" {metric.unit}".rstrip()
    return "; ".join(f"{arm} {metric.show(values[arm])}{unit}" for arm in arms if arm in values)
