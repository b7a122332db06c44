"""What a run is judged by: the metrics of a report, each a number per run that is read off its curve."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import pandas as pd

from sparse_lightning.study.analysis.runs import at_last_density
from sparse_lightning.study.train.record import is_share, read_degrees

EARLY = 5  # the epoch of the early measures, after five rewirings
Mode = Literal["max", "min"]
# The measures of the topology, under one name each wherever they are shown: name, unit, and what a run is judged by.
TOPOLOGY = {
    "dead": ("dead connections, share of the active ones", "%", "last"),
    "gini_in": ("Gini coefficient of connections per input unit", "", "early"),
    "gini_out": ("Gini coefficient of connections per output unit", "", "early"),
    "explored": ("connections active so far, share of the possible ones", "%", "last"),
    "jaccard": ("overlap of successive masks", "", "mean"),
    "survived": ("grown connections left after 1 rewiring", "%", "mean"),
    "survived_2": ("grown connections left after 2 rewirings", "%", "mean"),
    "survived_5": ("grown connections left after 5 rewirings", "%", "mean"),
}
_WHEN = {"early": f"epoch {EARLY}", "last": "last epoch", "mean": "mean over the epochs"}


@dataclass(frozen=True)
class Metric:
    """A number that a run is judged by.

    Attributes:
        name: Its column.
        title: In words.
        unit: The unit of its values: ``"%"`` for shares, ``"epochs"``, or empty.
        digits: How many decimals are shown; None for four significant digits.
    """

    name: str
    title: str
    unit: str = ""
    digits: int | None = None

    @property
    def scale(self) -> int:
        """What a value is multiplied by to be shown."""
        return 100 if self.unit == "%" else 1

    @property
    def difference_unit(self) -> str:
        """The unit of differences: percentage points where values are percentages."""
        return "percentage points" if self.unit == "%" else self.unit

    @property
    def heading(self) -> str:
        """The title with the unit, where it does not say it."""
        return f"{self.title} ({self.unit})" if self.unit and self.unit not in self.title else self.title

    def show(self, value: float | None, sign: bool = False) -> str:
        """A value in its unit; a dash where there is none.

        >>> Metric("val_acc_max", "best val_acc", "%", 2).show(0.98129), Metric("n", "n").show(-0.00012345, sign=True)
        ('98.13', '-0.0001234')
        """
        if value is None or math.isnan(value):
            return "-"
        form = ".4g" if self.digits is None else f".{self.digits}f"
        return f"{value * self.scale:{'+' if sign else ''}{form}}"


def describe(name: str) -> Metric:
    """A logged metric under its own name, shares in percent.

    >>> describe("val_acc").unit, describe("val_loss").unit, describe("topology/jaccard/all").title
    ('%', '', 'overlap of successive masks')
    """
    if name.startswith("topology/"):
        what = name.split("/")[1]
        title, unit, _ = TOPOLOGY.get(what, (name, "", ""))
        return Metric(name, title, unit, 1 if unit else 3)
    return Metric(name, name, "%", 3) if is_share(name) else Metric(name, name)


def main_metrics(metric: str, mode: Mode, threshold: float) -> tuple[Metric, ...]:
    """The metrics that an arm is judged by; Holm's correction is over them."""
    base = describe(metric)
    reached = f"{round(base.scale * threshold, 9):g}{base.unit}"
    return (
        replace(base, name=f"{metric}_{mode}", title=f"best {metric}"),
        replace(base, name=f"{metric}_last", title=f"last {metric}"),
        replace(base, name=f"{metric}_area", title=f"mean {metric} over the training"),
        Metric(f"{metric}_{mode}_epoch", f"epoch of the best {metric}", "", 1),
        Metric("epochs_to", f"epochs to {metric} {reached}", "epochs", 1),
    )


def topology_metrics() -> tuple[Metric, ...]:
    """The measures of the topology, over all layers together."""
    return tuple(
        Metric(what, f"{title}, {_WHEN[when]}", unit, 1 if unit else 3)
        for what, (title, unit, when) in TOPOLOGY.items()
    )


def default_threshold(best: Mapping[str, Sequence[float]], mode: Mode = "max") -> float:
    """The value of the metric that convergence is measured at unless one is given.

    The best one, to three significant digits, that at least three quarters of the runs of each arm reach: good enough
    to be worth reaching, while few runs are censored.

    >>> default_threshold({"a": [0.981, 0.9799, 0.9805, 0.9784], "b": [0.990, 0.991]})
    0.979
    >>> default_threshold({"a": [0.0654]}, "min"), default_threshold({"a": [0.06541]}, "min")
    (0.0654, 0.0655)
    """
    sign = 1 if mode == "max" else -1
    each = [sorted((sign * value for value in values), reverse=True) for values in best.values()]
    reached = sign * min(values[math.ceil(0.75 * len(values)) - 1] for values in each)
    digits = 2 - math.floor(math.log10(abs(reached))) if reached else 0
    scaled = round(reached * 10.0**digits, 6)
    return round((math.floor(scaled) if mode == "max" else math.ceil(scaled)) / 10.0**digits, max(digits, 0))


def epochs_to(curve: "pd.Series[float]", threshold: float, horizon: int, mode: Mode = "max") -> tuple[float, bool]:
    """How many epochs of training it took to reach a value, and whether it was reached at all.

    A run that did not is censored: it is known only to need more than `horizon`, and counts as `horizon`. Means of
    this are restricted means (Royston and Parmar 2013): the epochs needed out of the first `horizon`. As all runs are
    followed that long, no run is dropped and nothing is assumed about what would have come later; the true difference
    between an arm with censored runs and one without is, if anything, larger.

    >>> curve = pd.Series([0.5, 0.8, 0.7])
    >>> epochs_to(curve, 0.8, horizon=3), epochs_to(curve, 0.9, horizon=3), epochs_to(curve, 0.6, 3, "min")
    ((2.0, True), (3.0, False), (1.0, True))
    """
    within = curve[curve.index < horizon]
    found = within.index[within >= threshold if mode == "max" else within <= threshold]
    return (float(found[0] + 1), True) if len(found) else (float(horizon), False)


def outcomes(
    runs: pd.DataFrame, curves: Sequence[pd.DataFrame], metric: str, mode: Mode, threshold: float, horizon: int
) -> pd.DataFrame:
    """What each run reached: a row per run, `run`, `arm`, `pair`, `reached` and the columns that the metrics name.

    Args:
        runs: Runs with `arm` and `pair`.
        curves: The metrics of each of them, a row per epoch.
        metric: The metric that they are judged by, NaN where an epoch has none.
        mode: Whether the highest or the lowest value is the best.
        threshold: The value that convergence is measured at.
        horizon: How many epochs it may take.
    """
    rows = []
    for (_, run), curve in zip(runs.iterrows(), curves, strict=True):
        values = curve.set_index("epoch")[metric].dropna()
        own = at_last_density(values, curve)
        best = cast(int, own.idxmax() if mode == "max" else own.idxmin())
        needed, reached = epochs_to(own, threshold, horizon, mode)
        row: dict[str, Any] = {"run": run["run"], "arm": run["arm"], "pair": run["pair"], "reached": reached}
        row |= {f"{metric}_{mode}": own[best], f"{metric}_last": values.iloc[-1]}
        row |= {f"{metric}_area": _area(values[values.index < horizon])}
        row |= {f"{metric}_{mode}_epoch": float(best), "epochs_to": needed}
        for what, (_, _, when) in TOPOLOGY.items():
            known = curve.set_index("epoch").get(column(what, "all"), pd.Series(dtype=float)).dropna()
            at = {"early": known.get(EARLY), "last": known.iloc[-1] if len(known) else None, "mean": known.mean()}[when]
            row[what] = math.nan if at is None else float(at)
        rows.append(row)
    return pd.DataFrame(rows)


def column(what: str, layer: str) -> str:
    """The column of a measure of the topology; of the dead connections it is their share, as tables show it."""
    return f"topology/{'dead_share' if what == 'dead' else what}/{layer}"


def with_dead_share(curve: pd.DataFrame, folder: str | Path) -> pd.DataFrame:
    """The metrics of a run with ``topology/dead_share/<layer>`` beside each ``topology/dead/<layer>``.

    The share is that of the active connections of the layer, which the run's record of connections counts. Without
    that record, or where it is damaged, there is no share.
    """
    try:
        degrees = read_degrees(Path(folder))
    except ValueError:
        return curve
    sides = {name.removesuffix("/in"): rows for name, rows in degrees.items() if name.endswith("/in")}
    active = {layer: rows.sum(axis=1, dtype=float) for layer, rows in sides.items() if len(rows) == len(curve)}
    dead = {layer: curve[f"topology/dead/{layer}"] for layer in active if f"topology/dead/{layer}" in curve}
    shares = {column("dead", layer): counts / np.maximum(active[layer], 1) for layer, counts in dead.items()}
    if dead:
        shares[column("dead", "all")] = sum(dead.values()) / np.maximum(sum(active[layer] for layer in dead), 1)
    return pd.concat([curve, pd.DataFrame(shares, index=curve.index)], axis=1)  # at once, however many layers


def _area(values: "pd.Series[float]") -> float:
    """The area under a curve by the trapezoidal rule, over its width: the mean height."""
    from scipy.integrate import trapezoid

    epochs = values.index.to_numpy(dtype=float)
    return float(trapezoid(values, epochs) / np.ptp(epochs)) if len(values) > 1 else float(values.iloc[0])
