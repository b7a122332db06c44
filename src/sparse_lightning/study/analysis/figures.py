"""The figures of a report, drawn without pyplot: no global state, the same bytes for the same data.

Colours are those of Okabe and Ito (2008), told apart by the colour-blind and, with a line style each, in grey print.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from sparse_lightning.study.analysis.statistics import Metric, Numbers, differences, epochs_to, row_of

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
STYLES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))
TOPOLOGY = {
    "gini_in": "Gini coefficient,\nper input unit",
    "gini_out": "Gini coefficient,\nper output unit",
    "explored": "share of connections\never active",
    "jaccard": "overlap with the\nepoch before",
    "survived": "share of grown left\nafter 1 pruning",
    "survived_2": "share of grown left\nafter 2 prunings",
    "survived_5": "share of grown left\nafter 5 prunings",
}
_RC: dict[str, Any] = {
    "svg.hashsalt": "sparse_lightning",
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "figure.constrained_layout.use": True,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "legend.frameon": False,
    "axes.titlesize": 10.0,
    "axes.titlelocation": "left",
    "lines.linewidth": 1.6,
}
Curves = Mapping[str, pd.DataFrame]  # of each arm, by its title: its runs' metrics, with columns `epoch` and `run`


def style() -> Any:
    """The context that figures are drawn and saved in."""
    defaults: dict[Any, Any] = dict(mpl.rcParamsDefault)
    return mpl.rc_context(defaults | _RC | {"backend": "agg"})


def render(figure: Figure, kind: str) -> bytes:
    """A figure as ``"png"`` or ``"svg"``, without dates or versions in it."""
    buffer = io.BytesIO()
    FigureCanvasAgg(figure)
    nothing: dict[str, Any] = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
    figure.savefig(buffer, format=kind, dpi=150, metadata=nothing)
    return buffer.getvalue()


def learning_curves(curves: Curves) -> Figure:
    """Accuracy over epochs, training and validation: each arm's mean, and a band of one standard deviation."""
    figure = Figure(figsize=(9, 3.6))
    left, right = figure.subplots(1, 2)
    for axes, metric, title in ((left, "train_acc", "Training"), (right, "val_acc", "Validation")):
        lowest = []
        for number, (arm, rows) in enumerate(curves.items()):
            if metric in rows:
                mean = _line(axes, 100 * rows.pivot(index="epoch", columns="run", values=metric), number, arm)
                lowest.append(mean.iloc[min(1, len(mean) - 1)])
        if lowest:  # the first epoch would press all others together
            axes.set_ylim(bottom=min(lowest) - 0.3)
        axes.set(title=f"{title} accuracy (%)", xlabel="epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    right.legend(loc="lower right")
    return figure


def paired_differences(
    table: pd.DataFrame, pairs: Mapping[str, str], compared: Mapping[str, pd.DataFrame], metrics: Sequence[Metric]
) -> Figure:
    """Every pair's difference by metric, with their mean and its 95% interval.

    Args:
        table: What runs came to.
        pairs: For each arm the one it is compared with.
        compared: For each arm its comparison.
        metrics: The metrics, a panel each.
    """
    figure = Figure(figsize=(9, 1.7 + 0.75 * len(pairs)))
    panels = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    for panel, metric in zip(panels, metrics, strict=True):
        for number, (arm, reference) in enumerate(pairs.items()):
            values = metric.scale * differences(table, arm, reference, metric.name).to_numpy(dtype=float)
            row, height = row_of(compared[arm], metric.name), len(pairs) - number
            spread = height + 0.12 + 0.22 * np.linspace(0, 1, max(len(values), 1))[: len(values)]
            panel.plot(values, spread, "o", color=COLOURS[1], markersize=4.5, alpha=0.75, markeredgewidth=0)
            panel.plot([metric.scale * row["low"], metric.scale * row["high"]], [height - 0.12] * 2, "k-", linewidth=2)
            panel.plot(metric.scale * row["difference"], height - 0.12, "kD", markersize=5)
        panel.axvline(0, color="#666666", linewidth=0.9)
        panel.set(title=_two_lines(metric.title), xlabel=metric.unit)
        panel.set_ylim(0.5, len(pairs) + 0.6)
        panel.set_yticks([len(pairs) - number for number in range(len(pairs))], ["" for _ in pairs])
        panel.grid(visible=False, axis="y")
        panel.xaxis.set_major_locator(MaxNLocator(3))
        panel.title.set_fontsize(8.5)
    words = [_two_lines(f"{arm} less {reference}") for arm, reference in pairs.items()]
    panels[0].set_yticks([len(pairs) - number for number in range(len(pairs))], words)
    return figure


def speed(table: pd.DataFrame, curves: Curves, accuracy: float, horizon: int) -> Figure:
    """When each run is at its best, and how many epochs it takes to reach an accuracy, for all accuracies.

    Args:
        table: What runs came to, with `title`, the words of their arm.
        curves: The arms' metrics.
        accuracy: The accuracy that convergence is judged at.
        horizon: What a run counts as that does not get there.
    """
    figure = Figure(figsize=(9, 3.4))
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.2))
    for number, arm in enumerate(curves):
        values = table.loc[table["title"] == arm, "val_acc_max_epoch"].to_numpy(dtype=float)
        height = len(curves) - number
        left.plot(values, height + _stacked(values), "o", color=COLOURS[number % 7], markersize=6, alpha=0.8)
        left.plot([values.mean()] * 2, [height - 0.28, height - 0.08], color=COLOURS[number % 7], linewidth=3)
        left.annotate(f"mean {values.mean():.1f}", (values.mean(), height - 0.3), ha="center", va="top", fontsize=8)
    left.set_yticks([len(curves) - number for number in range(len(curves))], [_two_lines(arm) for arm in curves])
    left.set(title="Best epoch of each run", xlabel="epoch", ylim=(0.4, len(curves) + 0.7), xlim=(-0.5, horizon + 0.5))
    left.grid(visible=False, axis="y")

    best = max(rows["val_acc"].max() for rows in curves.values())
    levels = np.round(np.arange(best - 0.015, best, 0.001), 3)
    for number, (arm, rows) in enumerate(curves.items()):
        courses = [list(course) for _, course in rows.groupby("run")["val_acc"]]
        needed = pd.DataFrame([[epochs_to(course, level, horizon)[0] for course in courses] for level in levels])
        needed.index = pd.Index(100 * levels)
        _line(right, needed, number, arm)
        censored = [any(not epochs_to(course, level, horizon)[1] for course in courses) for level in levels]
        right.plot(
            100 * levels[censored], needed.mean(axis=1).to_numpy()[censored], "o", color=COLOURS[number % 7],
            markersize=5, markerfacecolor="white",
        )  # fmt: skip
    right.axvline(100 * accuracy, color="#666666", linewidth=0.9, linestyle=":")
    right.set(title="Epochs to an accuracy (hollow: some runs never reach it)", xlabel="validation accuracy (%)")
    right.set_ylim(0, 1.03 * horizon)  # room for the marks of runs that never get there
    right.legend(loc="upper left")
    return figure


def topology(curves: Curves, layers: Sequence[str]) -> Figure:
    """Concentration, exploration and survival over epochs, a column a layer: each arm's mean and standard deviation."""
    recorded = {column for rows in curves.values() for column in rows if rows[column].notna().any()}
    shown = {
        what: title
        for what, title in TOPOLOGY.items()
        if any(f"topology/{what}/{layer}" in recorded for layer in layers)
    }
    figure = Figure(figsize=(2.5 * len(layers) + 1, 1.7 * len(shown) + 0.5))
    grid = figure.subplots(len(shown), len(layers), sharex=True, sharey="row", squeeze=False)
    for (what, title), panels in zip(shown.items(), grid, strict=True):
        for layer, axes in zip(layers, panels, strict=True):
            column = f"topology/{what}/{layer}"
            for number, (arm, rows) in enumerate(curves.items()):
                if column in rows and rows[column].notna().any():
                    wide = rows.pivot(index="epoch", columns="run", values=column).dropna(how="all")
                    _line(axes, wide, number, arm)
            axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        panels[0].set_ylim(bottom=0)  # of all, which share it
        panels[0].set_ylabel(title)
    for axes, layer in zip(grid[0], layers, strict=True):
        axes.set_title(layer)
    for axes in grid[-1]:
        axes.set_xlabel("epoch")
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=min(len(labels), 4) or 1)
    return figure


def pixel_maps(maps: Mapping[str, Numbers], epochs: Sequence[int]) -> Figure:
    """How many connections each input pixel holds, a row an arm, a column an epoch.

    Args:
        maps: For each arm the mean over its runs, (epochs, side, side), for just these epochs.
        epochs: The epochs.
    """
    figure = Figure(figsize=(1.35 * len(epochs) + 1.5, 1.45 * len(maps) + 0.5))
    grid = figure.subplots(len(maps), len(epochs), squeeze=False)
    most = max(float(values.max()) for values in maps.values())
    for (arm, values), panels in zip(maps.items(), grid, strict=True):
        for axes, picture in zip(panels, values, strict=True):
            shown = axes.imshow(picture, cmap="viridis", vmin=0, vmax=most, interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        panels[0].set_ylabel(_two_lines(arm))
    for axes, epoch in zip(grid[0], epochs, strict=True):
        axes.set_title(f"epoch {epoch}", loc="center")
    figure.colorbar(shown, ax=grid, label="connections of a pixel", shrink=0.9, pad=0.01)
    return figure


def _line(axes: Axes, wide: pd.DataFrame, number: int, label: str) -> "pd.Series[float]":
    """A mean with a band of one standard deviation, from a column a run; returns the mean."""
    mean, spread = wide.mean(axis=1), wide.std(axis=1).fillna(0.0)
    colour, dash = COLOURS[number % len(COLOURS)], STYLES[number % len(STYLES)]
    axes.plot(mean.index, mean, color=colour, linestyle=dash, label=label)
    axes.fill_between(mean.index, mean - spread, mean + spread, color=colour, alpha=0.18, linewidth=0)
    return mean


def _stacked(values: Numbers) -> Numbers:
    """Heights at which equal values stand on top of each other."""
    return np.array([0.09 * int((values[:index] == value).sum()) for index, value in enumerate(values)])


def _two_lines(words: str) -> str:
    """Words broken where they are nearest to halves."""
    parts = words.split()
    breaks = range(1, len(parts))
    best = min(breaks, key=lambda at: abs(len(" ".join(parts[:at])) - len(" ".join(parts[at:]))), default=0)
    return "\n".join(filter(None, (" ".join(parts[:best]), " ".join(parts[best:])))) if len(words) > 12 else words
