"""Statistics of a study: runs of two arms, paired by their seed, compared metric by metric.

The two arms of a seed start from the same weights and the same connections and see the same batches, so what a seed
brings to both is not noise: everything is estimated on the differences within pairs.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

FEWEST = 6  # pairs: with fewer, no assignment of signs is rarer than 1 in 20, so no exact test can reach 5%
MOST = 1000  # pairs: who would need more has found no difference
EARLY = 5  # the epoch that 'early' is measured at, after five rewirings
LEVEL = 0.05
Numbers = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Metric:
    """Something that a run came to.

    Attributes:
        name: Its column.
        title: In words.
        unit: What differences are in.
        scale: What a value is multiplied by to be shown in that unit.
        digits: How many decimals are shown.
        more: What it means to have more of it.
        less: What it means to have less.
    """

    name: str
    title: str
    unit: str
    scale: float
    digits: int
    more: str
    less: str

    def show(self, value: float, sign: bool = False) -> str:
        """A value in its unit; a dash where there is none."""
        if value is None or math.isnan(value):
            return "-"
        return f"{value * self.scale:{'+' if sign else ''}.{self.digits}f}"


def main_metrics(accuracy: float) -> tuple[Metric, ...]:
    """The metrics that an arm is judged by; Holm's correction is over them."""
    better, worse = "more accurate", "less accurate"
    return (
        Metric("val_acc_max", "best validation accuracy", "points", 100, 3, better, worse),
        Metric("val_acc_last", "last validation accuracy", "points", 100, 3, better, worse),
        Metric("val_acc_max_epoch", "best epoch", "epochs", 1, 1, "later at its best", "earlier at its best"),
        Metric("epochs_to", f"epochs to {accuracy:.1%}", "epochs", 1, 1, "slower", "faster"),
        Metric("val_acc_area", "area under the validation curve", "points", 100, 3, better, worse),
    )


TOPOLOGY = (
    Metric("gini_in", f"Gini per input unit, epoch {EARLY}", "", 1, 3, "more concentrated", "less concentrated"),
    Metric("gini_out", f"Gini per output unit, epoch {EARLY}", "", 1, 3, "more concentrated", "less concentrated"),
    Metric("explored", "share ever active, last epoch", "points", 100, 1, "explores more", "explores less"),
    Metric("jaccard", "overlap of successive masks, mean", "", 1, 3, "moves less", "moves more"),
    Metric("survived_1", "survival of 1 pruning, mean", "points", 100, 1, "keeps more", "keeps less"),
    Metric("survived_2", "survival of 2 prunings, mean", "points", 100, 1, "keeps more", "keeps less"),
    Metric("survived_5", "survival of 5 prunings, mean", "points", 100, 1, "keeps more", "keeps less"),
)


def epochs_to(values: Sequence[float], accuracy: float, horizon: int) -> tuple[float, bool]:
    """How many epochs of training it took to reach an accuracy, and whether it was reached at all.

    A run that did not is censored: it is known only to need more than `horizon`, and counts as `horizon`. Means of
    this are restricted means (Royston and Parmar 2013): the epochs needed out of the first `horizon`. As all runs are
    followed that long, no run is dropped and nothing is assumed about what would have come later; the true difference
    between an arm with censored runs and one without is, if anything, larger.

    >>> epochs_to([0.5, 0.8, 0.7], 0.8, horizon=3), epochs_to([0.5, 0.8, 0.7], 0.9, horizon=3)
    ((2.0, True), (3.0, False))
    """
    found = np.flatnonzero(np.asarray(values[:horizon]) >= accuracy)
    return (float(found[0] + 1), True) if len(found) else (float(horizon), False)


def usual_accuracy(best: Mapping[str, Sequence[float]]) -> float:
    """The accuracy that convergence is measured at unless one is given.

    The highest one, in tenths of a point, that at least three quarters of the runs of each arm reach: high enough to
    be worth reaching, low enough that few runs are censored.

    >>> usual_accuracy({"a": [0.981, 0.9799, 0.9805, 0.9784], "b": [0.990, 0.991]})
    0.979
    """
    reached = [sorted(values, reverse=True)[math.ceil(0.75 * len(values)) - 1] for values in best.values()]
    return math.floor(round(min(reached) * 1000, 6)) / 1000


def outcomes(runs: pd.DataFrame, curves: Sequence[pd.DataFrame], accuracy: float, horizon: int) -> pd.DataFrame:
    """What each run came to: a row a run, `arm`, `pair`, `reached` and the columns that the metrics name.

    Args:
        runs: Runs with `arm` and `pair`.
        curves: The metrics of each of them, a row an epoch.
        accuracy: The accuracy that convergence is measured at, as a share.
        horizon: How many epochs it may take.
    """
    rows = []
    for (_, run), curve in zip(runs.iterrows(), curves, strict=True):
        values = curve["val_acc"].to_numpy(dtype=float)
        needed, reached = epochs_to(list(values), accuracy, horizon)
        row: dict[str, Any] = {"run": run["run"], "arm": run["arm"], "pair": run["pair"], "reached": reached}
        row |= {"val_acc_max": values.max(), "val_acc_last": values[-1], "val_acc_max_epoch": float(values.argmax())}
        row |= {"epochs_to": needed, "val_acc_area": _area(values[:horizon])}
        for name in ("gini_in", "gini_out"):
            course = curve.get(f"topology/{name}/all", pd.Series(dtype=float))
            row[name] = course.iloc[EARLY] if len(course) > EARLY else math.nan
        explored = curve.get("topology/explored/all", pd.Series(dtype=float)).dropna()
        row["explored"] = explored.iloc[-1] if len(explored) else math.nan
        for name, column in (
            ("jaccard", "jaccard"),
            ("survived_1", "survived"),
            *((f"survived_{n}",) * 2 for n in (2, 5)),
        ):
            row[name] = curve.get(f"topology/{column}/all", pd.Series(dtype=float)).mean()
        rows.append(row)
    return pd.DataFrame(rows)


def _area(values: Numbers) -> float:
    """The area under a curve by the trapezoidal rule, over its width: the mean height."""
    from scipy.integrate import trapezoid

    return float(trapezoid(values) / (len(values) - 1)) if len(values) > 1 else float(values[0])


def differences(table: pd.DataFrame, arm: str, reference: str, metric: str) -> "pd.Series[float]":
    """The paired differences, arm less reference, by seed; seeds that either arm lacks are left out."""
    sides = (table[table["arm"] == name].set_index("pair")[metric].astype(float) for name in (arm, reference))
    left, right = sides
    return (left - right).dropna()


def interval(values: Numbers) -> tuple[float, float]:
    """A 95% interval for the mean: bootstrap, bias-corrected and accelerated (Efron 1987), the same each time.

    NaN where there are fewer than two values, or all are equal: with no spread there is nothing to resample from, and
    an interval of no width would claim what nobody knows.
    """
    from scipy.stats import bootstrap

    if len(values) < 2 or not _spread(values):
        return math.nan, math.nan
    found = bootstrap((values,), np.mean, confidence_level=1 - LEVEL, method="BCa", rng=np.random.default_rng(0))
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def paired_test(values: Numbers) -> float:
    """The two-sided p-value of the mean paired difference: a permutation test over the signs of the differences.

    If the arms were alike, each difference would as likely have the other sign. Exact up to 13 pairs and drawn, the
    same each time, beyond. It is chosen over Wilcoxon's test because it tests what the interval estimates, the mean,
    and because ties and zeros, common among epochs, need no correction. With n pairs it cannot be below 2 / 2^n, so
    with fewer than six it never reaches 5%. NaN for fewer than two values.
    """
    from scipy.stats import permutation_test

    if len(values) < 2:
        return math.nan
    return float(permutation_test((values,), np.mean, permutation_type="samples", rng=np.random.default_rng(0)).pvalue)


def effect_size(values: Numbers) -> float:
    """Cohen's d_z: the mean paired difference over the standard deviation of the differences; NaN without spread."""
    return float(values.mean() / values.std(ddof=1)) if len(values) > 1 and _spread(values) else math.nan


def seeds_needed(effect: float, metrics: int = 1) -> float:
    """How many pairs would settle such an effect 4 times in 5: 80% power of a two-sided paired t-test.

    At the level that Holm's correction asks of the smallest of `metrics` p-values, and no fewer than the exact test
    needs to get there. Infinite for more than a thousand; NaN for an unknown effect.

    >>> seeds_needed(1.0), seeds_needed(1.0, metrics=5), seeds_needed(5.0, metrics=5)
    (10.0, 16.0, 8.0)
    """
    from statsmodels.stats.power import TTestPower

    if math.isnan(effect):
        return math.nan
    level = LEVEL / metrics
    effect = min(abs(effect), 2.0)  # beyond that the fewest pairs are enough, and the noncentral t loses its digits
    pairs = np.arange(math.floor(math.log2(1 / level)) + 2, MOST + 1)
    enough = pairs[TTestPower().power(effect, pairs, level) >= 0.8]
    return float(enough[0]) if len(enough) else math.inf


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for how many there are (Holm 1979); those that are NaN stay so and do not count.

    >>> holm([0.01, float("nan"), 0.04, 0.03])
    [0.03, nan, 0.06, 0.06]
    """
    from statsmodels.stats.multitest import multipletests

    known = [value for value in p_values if not math.isnan(value)]
    corrected = iter(multipletests(known, method="holm")[1] if known else ())
    return [math.nan if math.isnan(value) else float(next(corrected)) for value in p_values]


def compare(table: pd.DataFrame, arm: str, reference: str, metrics: Sequence[Metric]) -> pd.DataFrame:
    """Compare two arms: a row a metric, by its name.

    Args:
        table: What runs came to, as :func:`outcomes` gives it.
        arm: The arm.
        reference: The one it is compared with.
        metrics: The metrics, which Holm's correction is over.

    Returns:
        Columns: `mean`, `sd`, `runs` of the arm, and `reference_mean`, `reference_sd`, `reference_runs`, over all runs
        of each; `censored` and `reference_censored`, for epochs to an accuracy; over the pairs: `pairs`, `difference`
        (its mean) and `difference_sd`, `low` and `high` (95% interval), `p`, `p_holm`, `effect` (d_z), `seeds` (for 80%
        power), and `note`, words on what could not be said.
    """
    rows = []
    for metric in metrics:
        row: dict[str, Any] = {"metric": metric.name}
        for prefix, name in (("", arm), ("reference_", reference)):
            runs = table[table["arm"] == name]
            values = runs[metric.name].astype(float).dropna()
            row |= {f"{prefix}mean": values.mean(), f"{prefix}sd": values.std(), f"{prefix}runs": len(values)}
            row[f"{prefix}censored"] = int((~runs["reached"]).sum()) if metric.name == "epochs_to" else 0
        paired = differences(table, arm, reference, metric.name).to_numpy(dtype=float)
        low, high = interval(paired)
        effect = effect_size(paired)
        row |= {"pairs": len(paired), "difference": paired.mean() if len(paired) else math.nan, "low": low}
        row |= {"high": high, "difference_sd": paired.std(ddof=1) if len(paired) > 1 else math.nan}
        row |= {"p": paired_test(paired), "effect": effect, "seeds": seeds_needed(effect, len(metrics))}
        row["note"] = _note(paired, metric)
        rows.append(row)
    for row, corrected in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row["p_holm"] = corrected
    return pd.DataFrame(rows).set_index("metric")


def _note(paired: Numbers, metric: Metric) -> str:
    if len(paired) == 0:
        return "no pair of runs has it"
    if len(paired) == 1:
        return "one pair: no interval and no test"
    if not _spread(paired):
        return f"all {len(paired)} pairs differ by {metric.show(float(paired[0]), sign=True)}: no spread, no interval"
    return f"{len(paired)} pairs: too few for a test to reach 5%" if len(paired) < FEWEST else ""


def row_of(compared: pd.DataFrame, metric: str) -> "pd.Series[Any]":
    """The row of one metric in a comparison."""
    return cast("pd.Series[Any]", compared.loc[metric])


def direction(row: "pd.Series[Any]", corrected: bool = True) -> int:
    """Which way a difference is settled: 1 above zero, -1 below, 0 not settled.

    Settled is what at least six pairs show, with an interval that leaves out zero and a p-value below 5%.

    Args:
        row: One metric of a comparison.
        corrected: Ask it of the p-value after Holm's correction: right for whoever looks over all metrics for a
            difference, too much for a statement about this metric that was made before.
    """
    if row["pairs"] < FEWEST or not row["p_holm" if corrected else "p"] < LEVEL:
        return 0
    return int(row["low"] > 0) - int(row["high"] < 0)


def _spread(values: Numbers) -> bool:
    """Whether values differ by more than the rounding of their subtraction."""
    return bool(np.ptp(values) > 1e-9 * max(1.0, float(np.abs(values).max())))
