"""The statistics of a study, against SciPy called directly and values worked by hand."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from sparse_lightning.study.analysis.statistics import (
    TOPOLOGY,
    Metric,
    compare,
    differences,
    direction,
    effect_size,
    epochs_to,
    holm,
    interval,
    main_metrics,
    outcomes,
    paired_test,
    seeds_needed,
    usual_accuracy,
)

# Nine pairs with a tie and a zero.
ARM = [0.90, 0.91, 0.93, 0.90, 0.95, 0.92, 0.90, 0.94, 0.93]
REFERENCE = [0.92, 0.93, 0.94, 0.93, 0.95, 0.96, 0.94, 0.93, 0.98]
METRIC = Metric("val_acc_max", "best validation accuracy", "points", 100, 3, "more accurate", "less accurate")


def table(arm: dict[str, float], reference: dict[str, float]) -> pd.DataFrame:
    sides = (("a", arm), ("b", reference))
    rows = [(name, seed, value, True) for name, side in sides for seed, value in side.items()]
    return pd.DataFrame(rows, columns=["arm", "pair", "val_acc_max", "reached"])


def by_seed(values: list[float]) -> dict[str, float]:
    return {str(seed): value for seed, value in enumerate(values)}


def test_a_comparison_is_what_scipy_says_of_the_paired_differences() -> None:
    row = compare(table(by_seed(ARM), by_seed(REFERENCE)), "a", "b", [METRIC]).loc["val_acc_max"]
    paired = np.array(ARM) - np.array(REFERENCE)
    assert (row["mean"], row["sd"]) == pytest.approx((np.mean(ARM), np.std(ARM, ddof=1)))
    assert (row["reference_mean"], row["runs"], row["reference_runs"], row["pairs"]) == (
        pytest.approx(np.mean(REFERENCE)), 9, 9, 9,
    )  # fmt: skip
    assert row["difference"] == pytest.approx(paired.mean())
    expected = stats.bootstrap((paired,), np.mean, method="BCa", rng=np.random.default_rng(0)).confidence_interval
    assert (row["low"], row["high"]) == pytest.approx((expected.low, expected.high))
    assert row["effect"] == pytest.approx(stats.ttest_rel(ARM, REFERENCE).statistic / math.sqrt(9))
    assert row["p_holm"] == row["p"]  # a correction over one


def test_the_paired_test_counts_all_assignments_of_signs() -> None:
    paired = np.array([-3.0, -1.0, -1.0, 0.0, 2.0, -4.0])  # with a tie and a zero
    signs = np.array(np.meshgrid(*[[-1, 1]] * 6)).reshape(6, -1).T
    sums = signs @ paired
    assert paired_test(paired) == pytest.approx((np.abs(sums) >= abs(paired.sum())).mean())


def test_six_pairs_of_one_sign_are_the_fewest_that_reach_five_percent() -> None:
    assert paired_test(np.arange(1.0, 6.0)) == pytest.approx(2 / 2**5)
    assert paired_test(np.arange(1.0, 7.0)) == pytest.approx(2 / 2**6)


def test_holm_multiplies_the_smallest_by_how_many_there_are_and_never_turns_the_order_round() -> None:
    assert holm([0.04, 0.01, 0.03, 0.005]) == pytest.approx([0.06, 0.03, 0.06, 0.02])
    assert holm([]) == []


def test_the_number_of_seeds_has_the_power_asked_for_and_one_less_has_not() -> None:
    def power(effect: float, pairs: int, level: float) -> float:
        bound, shift = stats.t.ppf(1 - level / 2, pairs - 1), effect * math.sqrt(pairs)
        return float(stats.nct.sf(bound, pairs - 1, shift) + stats.nct.cdf(-bound, pairs - 1, shift))

    needed = int(seeds_needed(-0.6))
    assert power(0.6, needed, 0.05) >= 0.8 > power(0.6, needed - 1, 0.05)
    corrected = int(seeds_needed(-0.6, metrics=5))
    assert power(0.6, corrected, 0.01) >= 0.8 > power(0.6, corrected - 1, 0.01)
    assert (seeds_needed(9.0), seeds_needed(9.0, metrics=5), seeds_needed(1e-3)) == (6, 8, math.inf)
    assert math.isnan(seeds_needed(math.nan))


def test_a_seed_that_one_arm_lacks_counts_for_the_arm_but_not_for_the_difference() -> None:
    rows = table({"0": 0.9, "1": 0.8, "7": 0.1}, {"1": 0.7, "0": 0.9})
    assert differences(rows, "a", "b", "val_acc_max").to_dict() == pytest.approx({"0": 0.0, "1": 0.1})
    row = compare(rows, "a", "b", [METRIC]).loc["val_acc_max"]
    assert (row["runs"], row["reference_runs"], row["pairs"]) == (3, 2, 2)
    assert row["mean"] == pytest.approx(0.6)


def test_a_single_seed_has_a_difference_and_no_more() -> None:
    row = compare(table({"0": 0.9}, {"0": 0.8}), "a", "b", [METRIC]).loc["val_acc_max"]
    assert row["difference"] == pytest.approx(0.1)
    assert row[["low", "high", "p", "p_holm", "effect", "seeds", "sd"]].isna().all()
    assert row["note"] == "one pair: no interval and no test"
    assert direction(row) == 0


def test_no_pair_at_all_is_said() -> None:
    row = compare(table({"0": 0.9}, {"1": 0.8}), "a", "b", [METRIC]).loc["val_acc_max"]
    assert (row["pairs"], row["note"]) == (0, "no pair of runs has it")
    assert math.isnan(row["difference"])
    assert direction(row) == 0


@pytest.mark.parametrize("difference", [0.0, 0.1])
def test_differences_without_spread_have_no_interval_and_settle_nothing(difference: float) -> None:
    reference = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]
    rows = table(by_seed([value + difference for value in reference]), by_seed(reference))
    row = compare(rows, "a", "b", [METRIC]).loc["val_acc_max"]
    assert row["difference"] == pytest.approx(difference)
    assert row[["low", "high", "effect", "seeds"]].isna().all()
    assert row["p"] == pytest.approx(2 / 2**8 if difference else 1.0)
    assert row["note"] == f"all 8 pairs differ by +{100 * difference:.3f}: no spread, no interval"
    assert direction(row) == 0


def test_too_few_pairs_settle_nothing_however_clear() -> None:
    rows = table(by_seed([0.9, 0.91, 0.93, 0.95, 0.9]), by_seed([0.1, 0.11, 0.12, 0.1, 0.1]))
    row = compare(rows, "a", "b", [METRIC]).loc["val_acc_max"]
    assert row["low"] > 0
    assert row["note"] == "5 pairs: too few for a test to reach 5%"
    assert direction(row) == 0


def test_a_direction_is_settled_by_interval_and_corrected_test_together() -> None:
    settled = pd.Series({"pairs": 8, "low": 0.1, "high": 0.2, "p_holm": 0.04})
    assert direction(settled) == 1
    assert direction(pd.Series({**settled, "low": -0.2, "high": -0.1})) == -1
    assert direction(pd.Series({**settled, "p_holm": 0.06})) == 0
    assert direction(pd.Series({**settled, "low": -0.1})) == 0


def test_nothing_is_drawn_anew() -> None:
    paired = np.random.default_rng(1).normal(size=20)
    assert interval(paired) == interval(paired)
    assert paired_test(paired) == paired_test(paired)
    assert effect_size(paired) == pytest.approx(paired.mean() / paired.std(ddof=1))


def test_runs_that_never_reach_an_accuracy_are_censored_and_not_dropped() -> None:
    course = [0.5, 0.7, 0.69, 0.8]
    assert epochs_to(course, 0.7, horizon=4) == (2, True)
    assert epochs_to(course, 0.8, horizon=3) == (3, False)  # later than all runs were followed
    assert epochs_to(course, 0.9, horizon=4) == (4, False)
    assert usual_accuracy({"a": [0.98, 0.97, 0.96, 0.1]}) == 0.96
    assert usual_accuracy({"a": [0.9815]}) == 0.981


def test_what_a_run_came_to_is_read_off_its_curve() -> None:
    runs = pd.DataFrame({"run": ["r"], "arm": ["a"], "pair": ["0"]})
    curve = pd.DataFrame({"epoch": range(7), "val_acc": [0.5, 0.7, 0.9, 0.9, 0.8, 0.8, 0.85]})
    curve["topology/gini_in/all"] = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
    curve["topology/survived/all"] = [math.nan, math.nan, 0.2, 0.4, 0.2, 0.4, 0.3]
    row = outcomes(runs, [curve], accuracy=0.9, horizon=7).iloc[0]
    assert (row["val_acc_max"], row["val_acc_max_epoch"], row["val_acc_last"], row["epochs_to"]) == (0.9, 2, 0.85, 3)
    assert row["val_acc_area"] == pytest.approx((0.5 / 2 + 0.7 + 0.9 + 0.9 + 0.8 + 0.8 + 0.85 / 2) / 6)
    assert row["gini_in"] == 0.6
    assert row["survived_1"] == pytest.approx(0.3)
    assert math.isnan(row["explored"])
    assert {metric.name for metric in (*main_metrics(0.9), *TOPOLOGY)} <= set(row.index)
