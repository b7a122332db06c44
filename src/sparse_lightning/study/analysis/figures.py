"""The figures of a report, each small enough for a phone, drawn without pyplot: the same bytes for the same data.

Colours are those of Okabe and Ito (2008), told apart by the colour-blind and, with a line style each, in grey print.
"""

import io
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from sparse_lightning.study.analysis.findings import Findings
from sparse_lightning.study.analysis.metrics import TOPOLOGY, Metric, column, describe, epochs_to
from sparse_lightning.study.analysis.runs import load_degrees
from sparse_lightning.study.analysis.statistics import Numbers, differences, row_of

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
STYLES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))
_RC: dict[str, Any] = {
    "svg.hashsalt": "sparse_lightning",
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#d0d0d0",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "axes.facecolor": "none",
    "figure.constrained_layout.use": True,
    "legend.frameon": False,
    "axes.titlesize": 9.0,
    "axes.titlelocation": "left",
    "lines.linewidth": 1.6,
}


@dataclass(frozen=True)
class Picture:
    """A figure with its words: `alt` says what can be read off it."""

    name: str
    title: str
    caption: str
    alt: str
    figure: Figure


def draw(findings: Findings) -> Iterator[Picture]:
    """The figures that the runs have data for; to be drawn and rendered in :func:`style`."""
    if not findings.curves:
        return
    curves = findings.arm_curves()
    band = "Mean over the runs of an arm; the band is one standard deviation."
    for name in dict.fromkeys((findings.metric, findings.metric.replace("val_", "train_"))):
        if any(name in rows for rows in curves.values()):
            yield Picture(f"learning_curves_{name}", name, band, _ends(curves, name), learning_curve(curves, name))
    for metric in findings.main_metrics if findings.comparisons else ():
        words = (
            f"{metric.title}: "
            + "; ".join(
                f"{compared.arm} minus {compared.reference} is on average "
                f"{metric.show(row_of(compared.main, metric.name)['difference'], sign=True)} {metric.difference_unit}"
                for compared in findings.comparisons
            )
            + "."
        )
        caption = "A dot for each seed: arm minus reference. The diamond is the mean, the bar its 95% interval."
        yield Picture(
            f"differences_{metric.name}",
            f"Difference in {metric.title}",
            caption,
            words,
            paired_differences(findings, metric),
        )
    best = findings.main_metrics[3]
    means = findings.table.groupby("arm")[best.name].mean()
    words = f"{best.title}, mean: {'; '.join(f'{arm} {means[arm]:.1f}' for arm in curves)}."
    caption = "A dot for each run; the bar is the mean of the arm."
    yield Picture("best_epochs", best.title.capitalize(), caption, words, best_epochs(findings, best.name))
    means = findings.table.groupby("arm")["epochs_to"].mean()
    goal = findings.main_metrics[4].title
    words = f"{goal}, mean: {'; '.join(f'{arm} {means[arm]:.1f}' for arm in curves)}."
    caption = (
        f"Mean epochs of training until {findings.metric} is first reached. Hollow: some runs never reach it, and count "
        f"as the {findings.horizon} epochs. Dotted line: the threshold of the tables."
    )
    yield Picture("speed", f"Epochs to a {findings.metric}", caption, words, speed(findings, curves))
    for what, (title, unit, _) in TOPOLOGY.items():
        layers = [name.split("/", 2)[2] for name in _recorded(curves, column(what, ""))]
        layers = [layer for layer in layers if layer != "all"]
        if layers:
            words = _ends(curves, column(what, "all"), f"{title}, all layers")
            figure = topology(curves, what, layers, unit)
            yield Picture(f"topology_{what}", title[0].upper() + title[1:], f"By layer. {band}", words, figure)
    maps, epochs = input_maps(findings)
    if maps:
        caption = "Connections that each input pixel has, mean over the runs of an arm; darker is more."
        words = f"Maps of the connections of each input pixel after epochs {', '.join(map(str, epochs))}."
        yield Picture("pixels", "Connections of the input pixels", caption, words, pixel_maps(maps, epochs))


def style() -> Any:
    """The context that figures are drawn and saved in."""
    defaults: dict[Any, Any] = dict(mpl.rcParamsDefault)
    return mpl.rc_context(defaults | _RC | {"backend": "agg"})


def render(figure: Figure, kind: str) -> bytes:
    """A figure as ``"png"``, on white, or ``"svg"``, on nothing, without dates or versions in it."""
    buffer = io.BytesIO()
    FigureCanvasAgg(figure)
    nothing: dict[str, Any] = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
    colour = "none" if kind == "svg" else "white"
    figure.savefig(buffer, format=kind, dpi=150, metadata=nothing, facecolor=colour)
    return buffer.getvalue()


def learning_curve(curves: Mapping[str, pd.DataFrame], name: str) -> Figure:
    """A metric over epochs, a line an arm."""
    figure, axes, scale = *_panel(len(curves)), describe(name).scale
    means = [_line(axes, rows, name, number, arm, scale) for number, (arm, rows) in enumerate(curves.items())]
    later = pd.concat([mean.iloc[min(1, len(mean) - 1) :] for mean in means if len(mean)])
    if later.max() > later.min():  # the first epoch would press all others together
        margin = 0.15 * (later.max() - later.min())
        axes.set_ylim(later.min() - margin, later.max() + margin)
    axes.set(xlabel="epoch", ylabel=describe(name).heading)
    _legend(figure, axes)
    return figure


def paired_differences(findings: Findings, metric: Metric) -> Figure:
    """Every pair's difference, with their mean and its 95% interval; a row for each comparison."""
    figure = Figure(figsize=(4.5, 1.4 + 0.55 * len(findings.comparisons)))
    axes = figure.subplots()
    heights = range(len(findings.comparisons), 0, -1)
    for compared, height in zip(findings.comparisons, heights, strict=True):
        values = metric.scale * differences(findings.table, compared.arm, compared.reference, metric.name).to_numpy()
        row = row_of(compared.main, metric.name)
        spread = height + 0.12 + 0.22 * np.linspace(0, 1, max(len(values), 1))[: len(values)]
        axes.plot(values, spread, "o", color=COLOURS[1], markersize=4.5, alpha=0.75, markeredgewidth=0)
        axes.plot([metric.scale * row["low"], metric.scale * row["high"]], [height - 0.12] * 2, "k-", linewidth=2)
        axes.plot(metric.scale * row["difference"], height - 0.12, "kD", markersize=5)
    axes.axvline(0, color="#666666", linewidth=0.9)
    axes.set(xlabel=metric.difference_unit or metric.title, ylim=(0.5, len(findings.comparisons) + 0.6))
    words = [f"{compared.arm} minus {compared.reference}" for compared in findings.comparisons]
    axes.set_yticks(list(heights), [textwrap.fill(_breakable(label), 24) for label in words], fontsize=7.5)
    axes.grid(visible=False, axis="y")
    return figure


def best_epochs(findings: Findings, name: str) -> Figure:
    """When each run is at its best."""
    arms = list(findings.design.arms)
    figure = Figure(figsize=(4.5, 1.2 + 0.5 * len(arms)))
    axes = figure.subplots()
    for number, arm in enumerate(arms):
        values = findings.table.loc[findings.table["arm"] == arm, name].to_numpy(dtype=float)
        height, colour = len(arms) - number, COLOURS[number % len(COLOURS)]
        stacked = [0.09 * int((values[:index] == value).sum()) for index, value in enumerate(values)]
        axes.plot(values, height + np.array(stacked), "o", color=colour, markersize=6, alpha=0.8)
        axes.plot([values.mean()] * 2, [height - 0.3, height - 0.1], color=colour, linewidth=3)
    axes.set_yticks(range(len(arms), 0, -1), [textwrap.fill(_breakable(arm), 24) for arm in arms], fontsize=7.5)
    axes.set(xlabel="epoch", ylim=(0.4, len(arms) + 0.7), xlim=(-0.5, findings.horizon - 0.5))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(visible=False, axis="y")
    return figure


def speed(findings: Findings, curves: Mapping[str, pd.DataFrame]) -> Figure:
    """How many epochs it takes to reach a value of the metric, for many values up to the best one."""
    figure, axes = _panel(len(curves))
    base, mode = describe(findings.metric), findings.mode
    values = pd.concat([rows.loc[rows["epoch"] > 0, findings.metric] for rows in curves.values()]).dropna()
    ends = values.quantile([0.1, 1.0] if mode == "max" else [0.9, 0.0]) if len(values) else [findings.threshold] * 2
    levels = np.linspace(*ends, 25)
    for number, (arm, rows) in enumerate(curves.items()):
        courses = [run.set_index("epoch")[findings.metric].dropna() for _, run in rows.groupby("run")]
        needed = [[epochs_to(course, level, findings.horizon, mode) for course in courses] for level in levels]
        mean = np.array([np.mean([epochs for epochs, _ in runs]) for runs in needed])
        missed = np.array([not all(reached for _, reached in runs) for runs in needed])
        colour, dash = COLOURS[number % len(COLOURS)], STYLES[number % len(STYLES)]
        axes.plot(base.scale * levels, mean, color=colour, linestyle=dash, label=arm)
        axes.plot(base.scale * levels[missed], mean[missed], "o", color=colour, markersize=4, markerfacecolor="white")
    axes.axvline(base.scale * findings.threshold, color="#666666", linewidth=0.9, linestyle=":")
    axes.set(xlabel=base.heading, ylabel="epochs", ylim=(0, 1.05 * findings.horizon))
    if mode == "min":
        axes.invert_xaxis()
    _legend(figure, axes)
    return figure


def topology(curves: Mapping[str, pd.DataFrame], what: str, layers: Sequence[str], unit: str) -> Figure:
    """A measure of the topology over epochs, a panel for each layer."""
    rows = -(-len(layers) // 2)
    figure = Figure(figsize=(4.5, 0.9 + 1.5 * rows))
    grid = figure.subplots(rows, min(2, len(layers)), sharex=True, sharey=True, squeeze=False).ravel()
    for layer, axes in zip(layers, grid, strict=False):
        for number, (arm, each) in enumerate(curves.items()):
            _line(axes, each, column(what, layer), number, arm, 100 if unit == "%" else 1)
        axes.set_title(layer)
    for axes in grid[len(layers) :]:
        axes.set_visible(False)
    grid[0].set_ylim(bottom=0)
    figure.supxlabel("epoch", fontsize=9)
    figure.supylabel(unit, fontsize=9)
    _legend(figure, grid[0])
    return figure


def input_maps(findings: Findings, most: int = 4) -> tuple[dict[str, Numbers], list[int]]:
    """Each arm's mean map of the input's connections, (epochs, side, side), and which epochs those are.

    They are the first, the last, and some between, closer at first. Empty where inputs make no square, or no run has a
    record.
    """
    found: dict[str, list[Numbers]] = {}
    for _, run in findings.runs.iterrows():
        try:
            degrees = load_degrees(run["folder"])
        except ValueError:
            continue
        first = next((rows for name, rows in degrees.items() if name.endswith("/in")), None)
        if first is not None and len(first) >= findings.horizon:
            found.setdefault(run["arm"], []).append(first[: findings.horizon].astype(float))
    shapes = {rows.shape[1] for several in found.values() for rows in several}
    side = round(min(shapes, default=0) ** 0.5)
    if len(shapes) != 1 or side * side not in shapes:
        return {}, []
    epochs = sorted({int(epoch) for epoch in np.geomspace(1, findings.horizon, most).round().astype(int) - 1})
    shape = (len(epochs), side, side)
    arms = [arm for arm in findings.design.arms if arm in found]
    return {arm: np.mean(found[arm], axis=0)[epochs].reshape(shape) for arm in arms}, epochs


def pixel_maps(maps: Mapping[str, Numbers], epochs: Sequence[int]) -> Figure:
    """How many connections each input pixel has, a row for each arm, a column for each epoch."""
    figure = Figure(figsize=(4.5, 1.15 * len(maps) + 0.9))
    grid = figure.subplots(len(maps), len(epochs), squeeze=False)
    most = max(float(values.max()) for values in maps.values())
    for (arm, values), panels in zip(maps.items(), grid, strict=True):
        for axes, picture in zip(panels, values, strict=True):
            shown = axes.imshow(picture, cmap="Greys", vmin=0, vmax=most, interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(True)
        panels[0].set_ylabel(textwrap.fill(_breakable(arm), 18), fontsize=7)
    for axes, epoch in zip(grid[0], epochs, strict=True):
        axes.set_title(f"epoch {epoch}", loc="center")
    figure.colorbar(shown, ax=grid, label="connections", location="bottom", shrink=0.9, aspect=40)
    return figure


def _panel(lines: int) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(4.5, 2.9 + 0.16 * lines))
    axes = figure.subplots()
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure, axes


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    wide = max(map(len, labels), default=0) > 24
    figure.legend(handles, labels, loc="outside lower center", ncols=1 if wide else 2, fontsize=8)


def _line(axes: Axes, rows: pd.DataFrame, name: str, number: int, label: str, scale: float) -> "pd.Series[float]":
    """A mean with a band of one standard deviation over runs; a point where there is one epoch. Returns the mean."""
    if name not in rows or rows[name].isna().all():
        return pd.Series(dtype=float)
    wide = scale * rows.pivot(index="epoch", columns="run", values=name).dropna(how="all")
    mean, spread = wide.mean(axis=1), wide.std(axis=1).fillna(0.0)
    colour, dash = COLOURS[number % len(COLOURS)], STYLES[number % len(STYLES)]
    marker = "o" if len(mean) == 1 else ""
    axes.plot(mean.index, mean, color=colour, linestyle=dash, marker=marker, label=label)
    axes.fill_between(mean.index, mean - spread, mean + spread, color=colour, alpha=0.18, linewidth=0)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    return mean


def _recorded(curves: Mapping[str, pd.DataFrame], prefix: str) -> list[str]:
    names = (str(name) for rows in curves.values() for name in rows if rows[name].notna().any())
    return list(dict.fromkeys(name for name in names if name.startswith(prefix)))


def _ends(curves: Mapping[str, pd.DataFrame], name: str, title: str = "") -> str:
    """Where the lines of a figure end, in words."""
    shown = describe(name)
    means = {arm: rows.groupby("epoch")[name].mean().dropna() for arm, rows in curves.items() if name in rows}
    ends = "; ".join(f"{arm} {shown.show(mean.iloc[-1])}{shown.unit}" for arm, mean in means.items() if len(mean))
    return f"{title or shown.title} over epochs; at the last epoch: {ends}."


def _breakable(words: str) -> str:
    """Words that can be broken after each setting."""
    return words.replace(",", ", ")
