"""The statistics of a study, against SciPy called directly and values worked by hand."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from sparse_lightning.study.analysis.metrics import (
    Metric,
    default_threshold,
    describe,
    epochs_to,
    main_metrics,
    outcomes,
    topology_metrics,
    with_dead_share,
)
from sparse_lightning.study.analysis.statistics import (
    compare,
    differences,
    direction,
    effect_size,
    holm,
    interval,
    paired_test,
    seeds_needed,
)

# Nine pairs with a tie and a zero.
ARM = [0.90, 0.91, 0.93, 0.90, 0.95, 0.92, 0.90, 0.94, 0.93]
REFERENCE = [0.92, 0.93, 0.94, 0.93, 0.95, 0.96, 0.94, 0.93, 0.98]
METRIC = Metric("val_acc_max", "best val_acc", "%", 3)


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
    expected = stats.ttest_rel(ARM, REFERENCE).confidence_interval()
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


def test_arms_without_a_pair_have_no_difference() -> None:
    row = compare(table({"0": 0.9}, {"1": 0.8}), "a", "b", [METRIC]).loc["val_acc_max"]
    assert (row["pairs"], row["note"]) == (0, "no pair of runs has a value")
    assert math.isnan(row["difference"])
    assert direction(row) == 0


@pytest.mark.parametrize("difference", [0.0, 0.1])
def test_differences_without_spread_have_no_interval_and_are_inconclusive(difference: float) -> None:
    reference = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]
    rows = table(by_seed([value + difference for value in reference]), by_seed(reference))
    row = compare(rows, "a", "b", [METRIC]).loc["val_acc_max"]
    assert row["difference"] == pytest.approx(difference)
    assert row[["low", "high", "effect", "seeds"]].isna().all()
    assert row["p"] == pytest.approx(2 / 2**8 if difference else 1.0)
    assert row["note"] == f"all 8 pairs differ by +{100 * difference:.3f}: no spread, no interval"
    assert direction(row) == 0


def test_too_few_pairs_are_inconclusive_however_clear() -> None:
    rows = table(by_seed([0.9, 0.91, 0.93, 0.95, 0.9]), by_seed([0.1, 0.11, 0.12, 0.1, 0.1]))
    row = compare(rows, "a", "b", [METRIC]).loc["val_acc_max"]
    assert row["low"] > 0
    assert row["note"] == "5 pairs: too few for a test to reach 5%"
    assert direction(row) == 0


def test_a_difference_is_significant_by_interval_and_corrected_test_together() -> None:
    significant = pd.Series({"pairs": 8, "low": 0.1, "high": 0.2, "p_holm": 0.04})
    assert direction(significant) == 1
    assert direction(pd.Series({**significant, "low": -0.2, "high": -0.1})) == -1
    assert direction(pd.Series({**significant, "p_holm": 0.06})) == 0
    assert direction(pd.Series({**significant, "low": -0.1})) == 0


def test_nothing_is_drawn_anew() -> None:
    paired = np.random.default_rng(1).normal(size=20)
    assert interval(paired) == interval(paired)
    assert paired_test(paired) == paired_test(paired)
    assert effect_size(paired) == pytest.approx(paired.mean() / paired.std(ddof=1))


def test_the_interval_of_a_mean_is_student_s() -> None:
    values = np.array(ARM)
    expected = stats.t.interval(0.95, 8, values.mean(), stats.sem(values))
    assert interval(values) == pytest.approx(expected)
    assert all(map(math.isnan, (*interval(values[:1]), *interval(np.ones(3)))))


def test_runs_that_never_reach_a_threshold_are_censored_and_not_dropped() -> None:
    course = pd.Series([0.5, 0.7, 0.69, 0.8])
    assert epochs_to(course, 0.7, horizon=4) == (2, True)
    assert epochs_to(course, 0.8, horizon=3) == (3, False)  # later than all runs were followed
    assert epochs_to(course, 0.9, horizon=4) == (4, False)
    assert epochs_to(1 - course, 0.31, 4, "min") == (2, True)
    assert epochs_to(course[course.index % 2 == 1], 0.75, horizon=4) == (4, True)  # measured in every second epoch


def test_the_default_threshold_is_reached_by_three_quarters_of_each_arm() -> None:
    assert default_threshold({"a": [0.98, 0.97, 0.96, 0.1]}) == 0.96
    assert default_threshold({"a": [0.9815]}) == 0.981
    assert default_threshold({"a": [0.031, 0.0312, 0.0305, 2.0]}, "min") == 0.0312
    assert default_threshold({"a": [1234.5]}) == 1230
    assert default_threshold({"a": [-1.2345]}) == -1.24
    assert default_threshold({"a": [0.0]}) == 0


@pytest.mark.parametrize("mode", ["max", "min"])
def test_what_a_run_reached_is_read_off_its_curve(mode: str) -> None:
    runs = pd.DataFrame({"run": ["r"], "arm": ["a"], "pair": ["0"]})
    sign = 1 if mode == "max" else -1
    values = sign * np.array([0.5, 0.7, 0.9, 0.9, 0.8, 0.8, 0.85])
    curve = pd.DataFrame({"epoch": range(7), "score": values})
    curve["topology/gini_in/all"] = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
    curve["topology/survived/all"] = [math.nan, math.nan, 0.2, 0.4, 0.2, 0.4, 0.3]
    row = outcomes(runs, [curve], "score", mode, sign * 0.9, horizon=7).iloc[0]
    found = row[[f"score_{mode}", f"score_{mode}_epoch", "score_last", "epochs_to"]]
    assert list(found) == [sign * 0.9, 2, sign * 0.85, 3]
    area = (0.5 / 2 + 0.7 + 0.9 + 0.9 + 0.8 + 0.8 + 0.85 / 2) / 6
    assert row["score_area"] == pytest.approx(sign * area)
    assert row["gini_in"] == 0.6
    assert row["survived"] == pytest.approx(0.3)
    assert math.isnan(row["explored"])
    assert {metric.name for metric in (*main_metrics("score", mode, 0.9), *topology_metrics())} <= set(row.index)


def test_accuracies_are_percentages_whose_differences_are_percentage_points() -> None:
    best, *_, reaching = main_metrics("val_acc", "max", 0.978)
    assert (best.heading, best.difference_unit, best.show(-0.00176, sign=True)) == (
        "best val_acc (%)", "percentage points", "-0.176",
    )  # fmt: skip
    assert reaching.title == "epochs to val_acc 97.8%"
    loss, *_, reaching = main_metrics("val_loss", "min", 0.0655)
    assert (loss.name, loss.heading, loss.difference_unit) == ("val_loss_min", "best val_loss", "")
    assert (loss.show(0.0612345), reaching.title) == ("0.06123", "epochs to val_loss 0.0655")
    assert describe("topology/dead_share/all").name == "topology/dead_share/all"
    assert describe("topology/explored/all").unit == "%"


def test_dead_connections_are_a_share_of_the_active_ones_of_their_layer(tmp_path: Path) -> None:
    degrees = {"a/in": np.array([[4, 6], [2, 8]], dtype=np.uint16), "b/in": np.array([[5], [5]], dtype=np.uint16)}
    np.savez(tmp_path / "connections.npz", **degrees)
    curve = pd.DataFrame({"epoch": [0, 1], "topology/dead/a": [0, 9], "topology/dead/b": [5, 0]})
    shares = with_dead_share(curve, tmp_path)
    assert list(shares["topology/dead_share/a"]) == [0, 0.9]
    assert list(shares["topology/dead_share/b"]) == [1, 0]
    assert list(shares["topology/dead_share/all"]) == pytest.approx([1 / 3, 0.6])
    assert list(with_dead_share(curve, tmp_path / "nowhere")) == list(curve)
    assert "topology/dead_share/all" not in with_dead_share(curve.drop(columns=list(curve)[1:]), tmp_path)
