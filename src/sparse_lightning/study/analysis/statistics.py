"""Statistics of a study: runs of two arms, paired by their seed, compared metric by metric.

The two arms of a seed start from the same weights and the same connections and see the same batches, so what a seed
brings to both is not noise: everything is estimated on the differences within pairs.
"""

import math
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sparse_lightning.study.analysis.metrics import Metric

FEWEST = 6  # pairs: with fewer, no assignment of signs is rarer than 1 in 20, so no exact test can reach 5%
MOST = 1000  # pairs: whoever would need more has found no difference
LEVEL = 0.05
Numbers = NDArray[np.floating[Any]]


def differences(table: pd.DataFrame, arm: str, reference: str, metric: str) -> "pd.Series[float]":
    """The paired differences, arm minus reference, by seed; seeds that either arm lacks are left out."""
    left, right = (table[table["arm"] == name].set_index("pair")[metric].astype(float) for name in (arm, reference))
    return (left - right).dropna()


def interval(values: Numbers, others: float = math.inf) -> tuple[float, float]:
    """A 95% interval for the mean, by Student's t.

    A bootstrap of so few values is too narrow: over 8 draws from a normal distribution, 95% intervals of the BCa
    bootstrap held the mean in 88% of trials, these in 95%.

    NaN where there are fewer than two values, or all are equal: an interval of no width would claim what nobody knows.

    Args:
        values: The values.
        others: With a finite number, the interval is for the mean of so many values more (a prediction interval).

    >>> [round(end, 2) for end in interval(np.array([1.0, 2.0, 3.0]))]
    [-0.48, 4.48]
    >>> [round(end, 2) for end in interval(np.array([1.0, 2.0, 3.0]), others=3)]
    [-1.51, 5.51]
    """
    from scipy.stats import t

    if len(values) < 2 or not _spread(values):
        return math.nan, math.nan
    error = float(values.std(ddof=1)) * math.sqrt(1 / len(values) + 1 / others)
    half = float(t.ppf(1 - LEVEL / 2, len(values) - 1)) * error
    return float(values.mean()) - half, float(values.mean()) + half


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
    """Standardised difference: mean of paired differences over their standard deviation; NaN without spread."""
    return float(values.mean() / values.std(ddof=1)) if len(values) > 1 and _spread(values) else math.nan


def seeds_needed(effect: float, metrics: int = 1) -> float:
    """How many pairs would make such an effect significant with a power of 80%, by a two-sided paired t-test.

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
    pairs = np.arange(pairs_to_be_significant(metrics), MOST + 1)
    enough = pairs[TTestPower().power(effect, pairs, level) >= 0.8]
    return float(enough[0]) if len(enough) else math.inf


def pairs_to_be_significant(metrics: int = 1) -> int:
    """How many pairs it takes for the smallest p-value of :func:`paired_test`, times Holm's factor, to be below 5%.

    >>> pairs_to_be_significant(), pairs_to_be_significant(5)
    (6, 8)
    """
    return math.floor(math.log2(metrics / LEVEL)) + 2


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
    """Compare two arms: a row per metric, by its name.

    Args:
        table: What runs reached, as :func:`~sparse_lightning.study.analysis.metrics.outcomes` gives it.
        arm: The arm.
        reference: The one it is compared with.
        metrics: The metrics, which Holm's correction is over.

    Returns:
        Columns: `mean`, `sd`, `runs` of the arm, and `reference_mean`, `reference_sd`, `reference_runs`, over all runs
        of each; `censored` and `reference_censored`, for epochs to a threshold; over the pairs: `pairs`, `difference`
        (its mean) and `difference_sd`, `low` and `high` (95% interval), `p`, `p_holm`, `effect` (standardised
        difference), `seeds` (for 80% power), `few`, whether so few pairs cannot be significant after the correction,
        and `note`, why something is missing.
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
        effect = effect_size(paired)
        row |= {"pairs": len(paired), "difference": paired.mean() if len(paired) else math.nan}
        row |= dict(zip(("low", "high"), interval(paired), strict=True))
        row["difference_sd"] = paired.std(ddof=1) if len(paired) > 1 else math.nan
        row |= {"p": paired_test(paired), "effect": effect}
        row["note"] = _note(paired, metric)
        rows.append(row)
    tested = max(sum(not math.isnan(row["p"]) for row in rows), 1)
    for row, corrected in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row |= {"p_holm": corrected, "seeds": seeds_needed(row["effect"], tested)}
        row["few"] = row["pairs"] < pairs_to_be_significant(tested)
    return pd.DataFrame(rows).set_index("metric")


def _note(paired: Numbers, metric: Metric) -> str:
    if len(paired) == 0:
        return "no pair of runs has a value"
    if len(paired) == 1:
        return "one pair: no interval and no test"
    if not _spread(paired):
        return f"all {len(paired)} pairs differ by {metric.show(float(paired[0]), sign=True)}: no spread, no interval"
    return f"{len(paired)} pairs: too few for a test to reach 5%" if len(paired) < FEWEST else ""


def row_of(compared: pd.DataFrame, metric: str) -> "pd.Series[Any]":
    """The row of one metric in a comparison."""
    return cast("pd.Series[Any]", compared.loc[metric])


def direction(row: "pd.Series[Any]", corrected: bool = True) -> int:
    """Which way a difference is significant: 1 above zero, -1 below, 0 inconclusive.

    Significant is what at least six pairs show, with an interval that leaves out zero and a p-value below 5%.

    Args:
        row: One metric of a comparison.
        corrected: Ask it of the p-value after Holm's correction: right for whoever looks over all metrics for a
            difference, too strict for a statement about this metric that was made before.
    """
    if row["pairs"] < FEWEST or not row["p_holm" if corrected else "p"] < LEVEL:
        return 0
    return int(row["low"] > 0) - int(row["high"] < 0)


def probability(value: float) -> str:
    """A p-value as it is shown.

    >>> probability(0.0078125), probability(0.00001), probability(0.25)
    ('0.008', '< 0.001', '0.25')
    """
    if math.isnan(value):
        return "-"
    return "< 0.001" if value < 0.001 else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def seeds(value: float) -> str:
    """How many seeds, as it is shown."""
    return "-" if math.isnan(value) else "> 1000" if math.isinf(value) else f"{value:.0f}"


def _spread(values: Numbers) -> bool:
    """Whether values differ by more than the rounding of their subtraction."""
    return bool(np.ptp(values) > 1e-9 * max(1.0, float(np.abs(values).max())))
