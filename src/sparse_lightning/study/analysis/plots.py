"""The plots of a report: arms, tables and curves in, Matplotlib figures out, each small enough for a phone.

Colours are those of Okabe and Ito (2008), distinct for the colour-blind and, with line styles, in grey print. In
place of their two light ones, which are pale on white, there are two dark ones of Paul Tol's.
"""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from sparse_lightning.study.analysis.findings import Findings
from sparse_lightning.study.analysis.metrics import TOPOLOGY, Metric, column, describe, epochs_to
from sparse_lightning.study.analysis.statistics import Numbers, differences, interval, row_of
from sparse_lightning.study.train.record import read_degrees

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#882255", "#999933", "#000000")
STYLES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))
WIDTH = 4.5  # inches, of every figure
LONGEST = 80  # letters of an arm in a figure
Curves = Mapping[str, pd.DataFrame]  # of each arm: the metrics of its runs, with columns `epoch` and `run`


def colour_and_dash(number: int) -> tuple[str, Any]:
    """The colour and the dash of a line; no two of the first 49 share both."""
    return COLOURS[number % len(COLOURS)], STYLES[(number + number // len(COLOURS)) % len(STYLES)]


def learning_curve(curves: Curves, name: str) -> Figure:
    """A metric over epochs, a line for each arm."""
    figure = Figure(figsize=(WIDTH, 2.8))
    axes, shown = figure.subplots(), describe(name)
    means = [_line(axes, rows, name, shown.scale, number, arm) for number, (arm, rows) in enumerate(curves.items())]
    later = pd.concat([mean.iloc[min(1, len(mean) - 1) :] for mean in means if len(mean)])
    if later.max() > later.min():  # the first epoch would press all others together
        margin = 0.15 * (later.max() - later.min())
        axes.set_ylim(later.min() - margin, later.max() + margin)
    axes.set(xlabel="epoch", ylabel=shown.heading)
    _legend(figure, axes)
    return figure


def means_by_level(findings: Findings, factor: str, metric: Metric) -> dict[str, pd.DataFrame]:
    """The mean of a metric, and the `low` and `high` end of its interval, by the levels of a numeric factor.

    One table for each combination of the other factors' levels, by its name, which is empty if there are none.
    """
    lines: dict[str, dict[float, tuple[float, float, float]]] = {}
    for arm, levels in findings.design.arms.items():
        values = findings.table.loc[findings.table["arm"] == arm, metric.name].dropna().to_numpy(dtype=float)
        if len(values) and levels[factor] != "null":
            others = {name: level for name, level in levels.items() if name != factor}
            rest = ",".join(others.values() if len(others) == 1 else (f"{k}={level}" for k, level in others.items()))
            lines.setdefault(rest, {})[float(levels[factor])] = (float(values.mean()), *interval(values))
    columns = ["mean", "low", "high"]
    return {name: pd.DataFrame.from_dict(of, "index", columns=columns).sort_index() for name, of in lines.items()}


def by_level(findings: Findings, factor: str, metric: Metric) -> Figure:
    """A metric by a numeric factor, such as accuracy by density: a line for each combination of the other factors.

    The highest line is the first in the legend. More lines than colours have a panel each, with the others in grey.
    Percentages of which the highest are near 100 have an axis by the logarithm of what is missing.
    """
    lines = {name: means * metric.scale for name, means in means_by_level(findings, factor, metric).items()}
    lines = dict(sorted(lines.items(), key=lambda each: -each[1]["mean"].mean()))
    panelled = len(lines) > len(COLOURS)
    figure, axes = (_panels if panelled else _lines)(lines)
    places = sorted({float(level) for means in lines.values() for level in means.index})
    if places[0] > 0 and places[-1] >= 8 * places[0]:
        axes.set_xscale("log")
        axes.minorticks_off()
    labelled = places if not panelled else places[:: max(1, len(places) // 2)]
    axes.set_xticks(places, [f"{place:g}" if place in labelled else "" for place in places])
    if panelled:
        figure.supxlabel(factor, fontsize=9)
        figure.supylabel(metric.heading, fontsize=9)
    else:
        axes.set(xlabel=factor, ylabel=metric.heading)
    heights = np.concatenate([line["mean"].to_numpy(dtype=float) for line in lines.values()])
    low, high = float(heights.min()), float(heights.max())
    if metric.unit == "%" and 90 < high < 100 and 100 - low > 4 * (100 - high):
        _scale_by_missing(axes, low, high, most=5 if panelled else 20)
    if any(lines) and not panelled:
        _legend(figure, axes)
    return figure


def _lines(lines: Mapping[str, pd.DataFrame]) -> tuple[Figure, Axes]:
    """Lines of `mean`, with bands from `low` to `high`, in one panel."""
    figure = Figure(figsize=(WIDTH, 2.8))
    axes = figure.subplots()
    for number, (name, shown) in enumerate(lines.items()):
        colour, dash = colour_and_dash(number)
        style = {"color": colour, "linestyle": dash, "marker": "o", "markersize": 3}
        axes.plot(shown.index, shown["mean"], label=_broken(name, 50), **style)
        axes.fill_between(shown.index, shown["low"], shown["high"], color=colour, alpha=0.12, linewidth=0)
    return figure, axes


def _panels(lines: Mapping[str, pd.DataFrame]) -> tuple[Figure, Axes]:
    """As :func:`_lines`, a panel for each line; the others are grey. The axes of the first stand for all."""
    columns, width = (3, 18) if max(map(len, lines)) <= 2 * 18 else (2, 25)  # letters
    count = -(-len(lines) // columns)  # at least two
    titles = [_broken(name, width) for name in lines]
    figure = Figure(figsize=(WIDTH, 0.5 + count * (1.0 + 0.16 * max(1 + title.count("\n") for title in titles))))
    grid = figure.subplots(count, columns, sharex=True, sharey=True)
    for axes, title, shown in zip(grid.ravel(), titles, lines.values(), strict=False):
        for other in lines.values():
            axes.plot(other.index, other["mean"], color="#999999", linewidth=0.5)
        axes.plot(shown.index, shown["mean"], color=COLOURS[0], marker="o", markersize=2.5)
        axes.fill_between(shown.index, shown["low"], shown["high"], color=COLOURS[0], alpha=0.25, linewidth=0)
        axes.set_title(title, fontsize=8)
    for axes in grid.ravel()[len(lines) :]:
        axes.set_visible(False)
    for axes in grid[-2, len(lines) - columns * count + columns :]:
        axes.tick_params(labelbottom=True)  # nothing is below
    return figure, grid[0, 0]


def paired_differences(findings: Findings, metric: Metric) -> Figure:
    """Every pair's difference, with their mean and its 95% interval; a row for each comparison."""
    pairs, scale = findings.comparisons, metric.scale
    references = {pair.reference for pair in pairs}
    one = len(references) == 1 and len(pairs) > 1  # then it is named once, below the figure
    axes = _rows([pair.arm if one else f"{pair.arm} minus {pair.reference}" for pair in pairs])
    for height, pair in zip(range(len(pairs), 0, -1), pairs, strict=True):
        values = scale * differences(findings.table, pair.arm, pair.reference, metric.name).to_numpy(dtype=float)
        row = scale * row_of(pair.main, metric.name)[["low", "high", "difference"]].astype(float)
        spread = height + 0.12 + 0.22 * np.linspace(0, 1, max(len(values), 1))[: len(values)]
        axes.plot(values, spread, "o", color=COLOURS[1], markersize=4.5, alpha=0.75, markeredgewidth=0)
        axes.plot(row[["low", "high"]], [height - 0.12] * 2, "k-", linewidth=2)
        axes.plot(row["difference"], height - 0.12, "kD", markersize=5)
    axes.axvline(0, color="#666666", linewidth=0.9)
    unit = metric.difference_unit or ("epochs" if "epoch" in metric.name else metric.title)
    axes.set(xlabel=_broken(f"{unit}, minus {pairs[0].reference}", 56) if one else unit)
    return _figure(axes)


def best_epochs(table: pd.DataFrame, arms: Sequence[str], best: Metric, horizon: int) -> Figure:
    """When each run is at its best."""
    axes = _rows(arms)
    for number, arm in enumerate(arms):
        values = table.loc[table["arm"] == arm, best.name].to_numpy(dtype=float)
        height, colour = len(arms) - number, COLOURS[number % len(COLOURS)]
        stacked = [0.09 * int((values[:index] == value).sum()) for index, value in enumerate(values)]
        axes.plot(values, height + np.array(stacked), "o", color=colour, markersize=6, alpha=0.8)
        axes.plot([values.mean()] * 2, [height - 0.3, height - 0.1], color=colour, linewidth=3)
    axes.set(xlabel="epoch", xlim=(-0.5, horizon - 0.5))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    return _figure(axes)


def speed(findings: Findings, curves: Curves) -> Figure:
    """How many epochs it takes to reach a value of the metric, for many values up to the best one."""
    figure = Figure(figsize=(WIDTH, 2.8))
    axes, shown, mode = figure.subplots(), describe(findings.metric), findings.mode
    values = pd.concat([rows[findings.metric] for rows in curves.values()]).dropna()
    easy, hard = values.quantile([0.1, 1.0] if mode == "max" else [0.9, 0.0])
    levels = np.linspace(float(easy), float(hard), 25)
    for number, (arm, rows) in enumerate(curves.items()):
        courses = [run.set_index("epoch")[findings.metric].dropna() for _, run in rows.groupby("run")]
        needed = [[epochs_to(course, level, findings.horizon, mode) for course in courses] for level in levels]
        mean = np.array([np.mean([epochs for epochs, _ in runs]) for runs in needed])
        missed = np.array([not all(reached for _, reached in runs) for runs in needed])
        colour, dash = colour_and_dash(number)
        axes.plot(shown.scale * levels, mean, color=colour, linestyle=dash, label=_broken(arm, 50))
        axes.plot(shown.scale * levels[missed], mean[missed], "o", color=colour, markersize=4, markerfacecolor="white")
    axes.axvline(shown.scale * findings.threshold, color="#444444", linewidth=1.6, linestyle=":")
    axes.set(xlabel=shown.heading, ylabel="epochs", ylim=(0, 1.05 * findings.horizon))
    axes.xaxis.set_inverted(mode == "min")
    _legend(figure, axes)
    return figure


def topology(curves: Curves, what: str, layers: Sequence[str]) -> Figure:
    """A measure of the topology over epochs, a panel for each layer."""
    count = -(-len(layers) // 2)
    figure = Figure(figsize=(WIDTH, 0.6 + 1.4 * count))
    grid = figure.subplots(count, min(2, len(layers)), sharex=True, sharey=True, squeeze=False)
    for layer, axes in zip(layers, grid.ravel(), strict=False):
        for number, (arm, rows) in enumerate(curves.items()):
            _line(axes, rows, column(what, layer), 100 if TOPOLOGY[what][1] else 1, number, arm)
        axes.set_title(layer)
    for axes in grid.ravel()[len(layers) :]:
        axes.set_visible(False)
    for axes in grid[-1]:
        axes.set_xlabel("epoch")
    grid[0, 0].set_ylim(0, 1.05 * max(axes.dataLim.y1 for axes in grid.ravel()[: len(layers)]) or 1)
    _legend(figure, grid[0, 0])
    return figure


def input_maps(findings: Findings, most: int = 4) -> tuple[dict[str, Numbers], list[int]]:
    """Each arm's mean map of the input's connections, (epochs, side, side), and which epochs those are.

    They are the first, the last, and some between, closer at first. Empty where inputs make no square, or no run has a
    record.
    """
    found: dict[str, list[Numbers]] = {}
    for _, run in findings.runs.iterrows():
        try:
            degrees = read_degrees(Path(run["folder"]))
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
    figure = Figure(figsize=(WIDTH, 1.35 * len(maps) + 0.9))
    grid = figure.subplots(len(maps), len(epochs), squeeze=False)
    most = max(float(values.max()) for values in maps.values())
    for (arm, values), panels in zip(maps.items(), grid, strict=True):
        for axes, picture in zip(panels, values, strict=True):
            shown = axes.imshow(picture, cmap="Greys", vmin=0, vmax=most, interpolation="nearest")
            axes.set(xticks=[], yticks=[])
        panels[0].set_ylabel(_broken(arm, 18), fontsize=8)
    for axes, epoch in zip(grid[0], epochs, strict=True):
        axes.set_title(f"epoch {epoch}", loc="center")
    figure.colorbar(shown, ax=grid, label="connections", location="bottom", shrink=0.9, aspect=40)
    return figure


def _scale_by_missing(axes: Axes, low: float, high: float, most: int) -> None:
    """Scale an axis of percentages by the logarithm of what is missing to 100, with at most so many ticks."""
    axes.set_yscale(
        "function",
        functions=(lambda y: -np.log10(np.maximum(100 - y, 1e-3)), lambda z: 100 - 10.0 ** -np.asarray(z)),
    )
    bottom, top = max(100 - 1.25 * (100 - low), 0), 100 - 0.85 * (100 - high)
    places = (0, 50, 70, 80, 85, 90, 93, 95, 96, 97, 98, 98.5, 99, 99.5, 99.8, 99.9, 99.95, 99.98, 99.99)
    within = [place for place in places if bottom <= place <= top]
    within = within[:: max(1, -(-len(within) // most))]
    axes.set_yticks(within, [f"{place:g}" for place in within])
    axes.minorticks_off()
    axes.set_ylim(bottom, top)


def _rows(names: Sequence[str]) -> Axes:
    """Axes with a row for each name, the first on top; a single one is named by the figure's title."""
    labels = [_broken(name, 24) for name in names]
    row = max(0.55, 0.2 + 0.14 * max(1 + label.count("\n") for label in labels))  # inches
    axes = Figure(figsize=(WIDTH, 1.1 + row * len(names))).subplots()
    axes.set_yticks(range(len(names), 0, -1), labels, fontsize=8.5)
    axes.set(ylim=(0.5, len(names) + 0.6), title="" if len(names) > 1 else _broken(names[0], 60))
    axes.tick_params(left=False, labelleft=len(names) > 1)
    axes.grid(visible=False, axis="y")
    return axes


def _figure(axes: Axes) -> Figure:
    figure = axes.get_figure(root=True)
    assert figure is not None
    return figure


def _legend(figure: Figure, axes: Axes) -> None:
    """A legend below the figure, which grows by its height."""
    handles, labels = axes.get_legend_handles_labels()
    columns = 1 if max(map(len, labels), default=0) > 22 else 2  # letters; half the width holds no more
    lines = sum(1 + label.count("\n") for label in labels) / columns
    figure.set_figheight(figure.get_figheight() + 0.16 * lines + 0.06 * len(labels) / columns)
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)


def _line(axes: Axes, rows: pd.DataFrame, name: str, scale: float, number: int, label: str) -> "pd.Series[float]":
    """A mean with a band of one standard deviation over runs; a point where there is one epoch. Returns the mean."""
    if name not in rows or rows[name].isna().all():
        return pd.Series(dtype=float)
    wide = scale * rows.pivot(index="epoch", columns="run", values=name).dropna(how="all")
    mean, spread = wide.mean(axis=1), wide.std(axis=1).fillna(0.0)
    colour, dash = colour_and_dash(number)
    axes.plot(
        mean.index, mean, color=colour, linestyle=dash, marker="o" if len(mean) == 1 else "", label=_broken(label, 50)
    )
    axes.fill_between(mean.index, mean - spread, mean + spread, color=colour, alpha=0.18, linewidth=0)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
    if len(mean) == 1:
        axes.set_xlim(mean.index[0] - 0.5, mean.index[0] + 0.5)  # so that no tick is between epochs
    return mean


def _broken(words: str, width: int) -> str:
    """An arm on several lines, broken after its settings, and cut where it would fill the figure."""
    spaced = _cut(words.replace(", ", ",").replace(",", ", ").replace("(", "( "))
    return textwrap.fill(spaced, width).replace("( ", "(")


def _cut(words: str) -> str:
    return words if len(words) <= LONGEST else f"{words[: LONGEST - 1]}…"
