"""The headline experiment: its three conclusions, judged by the runs, and the 42 columns of its table of runs."""

import math
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from sparse_lightning.study.analysis.experiments import HEADLINE, Conclusion, Verdict, load
from sparse_lightning.study.analysis.metrics import EARLY, Metric
from sparse_lightning.study.analysis.statistics import FEWEST, direction, probability, row_of, seeds

PACKAGED = Path(__file__).parents[3] / "datamodules" / "mnist_data"
PRUNING_CLASSES = {"HebbianPruning": "hebbian", "WeightedHebbianPruning": "weighted_hebbian", "MixedPruning": "mixed"}
SUPPORTED, CONTRADICTED, INCONCLUSIVE = "supported", "contradicted", "inconclusive"
SPEED = ("val_acc_max_epoch", "epochs_to")
ABOUT = (0.15, 0.25)  # percentage points, what rounds to the published 0.2
ARMS = ({"hebbian_grow": "true"}, {"hebbian_grow": "false"})  # the levels that the conclusions compare


def conclusions(main: pd.DataFrame, topology: pd.DataFrame, metrics: Sequence[Metric]) -> list[Conclusion]:
    """The three published conclusions on Hebbian growth, judged.

    Each was stated of its metric before these runs were made, so each is judged by its own interval and test; the
    p-value after Holm's correction, which is for looking over many metrics, stands beside.

    Args:
        main: Hebbian growth compared with random growth, by the main metrics of val_acc.
        topology: The same, by the measures of the topology.
        metrics: All metrics that the two tables have.
    """
    by_name = {metric.name: metric for metric in metrics}
    titles = load(HEADLINE).more["conclusions"]

    def judge(claim: str, table: pd.DataFrame, name: str, expected: int) -> Verdict:
        row = row_of(table, name)
        found = direction(row, corrected=False)
        status = INCONCLUSIVE if not found else SUPPORTED if found == expected else CONTRADICTED
        return Verdict(claim, status, figures(row, by_name[name]))

    accuracy = [
        judge("The best val_acc is lower.", main, "val_acc_max", -1),
        judge("The last val_acc is lower.", main, "val_acc_last", -1),
        judge("The mean val_acc over the training is lower.", main, "val_acc_area", -1),
        Verdict(
            "The best val_acc is lower by about 0.2 percentage points (0.15 to 0.25).",
            *_size(row_of(main, "val_acc_max"), by_name["val_acc_max"]),
        ),
    ]
    speed = [
        judge("The best epoch comes earlier (the published measure).", main, SPEED[0], -1),
        judge(f"It takes fewer {by_name[SPEED[1]].title}.", main, SPEED[1], -1),
    ]
    reason = [
        judge(f"In epoch {EARLY}, connections are concentrated on fewer input units.", topology, "gini_in", 1),
        judge(f"In epoch {EARLY}, connections are concentrated on fewer output units.", topology, "gini_out", 1),
        judge("Fewer of the possible connections are ever active.", topology, "explored", -1),
        Verdict(
            "This is the reason for the lower accuracy.",
            INCONCLUSIVE,
            "The arms differ in the growth rule and in everything that follows from it. A comparison of two arms "
            "cannot show which of these is the cause.",
        ),
    ]
    return [
        Conclusion(titles[0], accuracy),
        Conclusion(titles[1], speed, _agreement(speed, main)),
        Conclusion(titles[2], reason),
    ]


def figures(row: "pd.Series[Any]", metric: Metric) -> str:
    """The figures behind a verdict, and why it is inconclusive, in sentences."""
    words = _estimate(row, metric)
    if not math.isnan(row["low"]):
        words += f", p = {probability(row['p'])} ({probability(row['p_holm'])} after Holm's correction)"
    for prefix, arm in (("", "this arm"), ("reference_", "the other arm")):
        if row[f"{prefix}censored"]:
            words += f"; {row[f'{prefix}censored']} of {row[f'{prefix}runs']} runs of {arm} never reach it"
    return f"{words}.{_why_inconclusive(row)}"


def original_columns(frame: pd.DataFrame) -> pd.DataFrame:
    """The runs under the 42 column names of the published experiment, so that its analysis code runs unchanged.

    Times are in minutes, as there. A pruning fraction is missing where its criterion does not prune.
    """
    rows = [_original(row) for row in frame.to_dict("records")]
    return pd.DataFrame(rows, columns=load(HEADLINE).more["columns"], index=frame.index)


def _original(row: Mapping[Hashable, Any]) -> dict[str, Any]:
    """A run in the terms of the published experiment."""

    def setting(name: str) -> Any:
        """A setting of the pruning, the sparsity, or else of the model."""
        places = ("sparsity.pruning.", "sparsity.", "model.", "")
        found = (row.get(f"{place}{name}") for place in places)
        return next((value for value in found if value is not None and value == value), None)

    growth, target = setting("growth"), setting("pruning._target_")
    pruning = PRUNING_CLASSES.get(str(target).rpartition(".")[2], setting("pruning") or "signed_magnitude")
    fraction, grows = setting("prune_fraction"), growth == "hebbian" if growth else setting("hebbian_grow")
    weights, coactivation = (None, fraction) if pruning == "hebbian" else (fraction, None)
    if pruning == "mixed":
        weights, coactivation = setting("weight_fraction") or fraction, setting("hebbian_fraction")
    moves = growth is not None or setting("hebbian_grow") is not None
    model = "DSNNWeightedMag" if pruning == "weighted_hebbian" else "DSNNMixedHeb" if moves else "SparseModel"
    schedules = {"multistep": "MultiStepLR", "cosine": "CosineAnnealingLR", "linear": "LinearLR"}
    network = str(row.get("model._target_", "SparseMLP")).rpartition(".")[2]
    return {
        **{str(key): value for key, value in row.items()},
        "Experiment Name": row["run"],
        "experiment_file_name": row["folder"],
        "trial_time": row["run_time"] / 60,
        "mean_epoch_time": row["mean_epoch_time"] / 60,
        "data_dir": setting("data_dir") or str(PACKAGED),
        "dataset_name": setting("dataset"),
        "debug_sparse": True,
        "debug_weights": True,
        "device": setting("accelerator"),
        "hebbian_grow": bool(grows),
        "hebbian_prune_perc": coactivation,
        "lr_scheduler": schedules.get(str(setting("lr_schedule") or "multistep")),
        "model": "BaseModel" if setting("density") == 1 else model,
        "network": "MLPHeb" if network == "SparseMLP" else network,
        "on_perc": setting("density"),
        "optim_alg": setting("optimizer"),
        "pruning_early_stop": setting("pruning_early_stop"),
        "test_noise": bool(setting("test_noise")),
        "use_kwinners": setting("activation") == "kwinners",
        "weight_prune_perc": weights,
    }


def _estimate(row: "pd.Series[Any]", metric: Metric) -> str:
    if not row["pairs"]:
        return "No pair of finished runs has a record of it"
    words = f"Difference {metric.show(row['difference'], sign=True)} {metric.difference_unit}".rstrip()
    if math.isnan(row["low"]):
        return f"{words}; {row['note']}"
    span = f"{metric.show(row['low'], sign=True)} to {metric.show(row['high'], sign=True)}"
    return f"{words} (95% interval {span}, {row['pairs']} pairs)"


def _why_inconclusive(row: "pd.Series[Any]") -> str:
    if math.isnan(row["low"]) or direction(row):
        return ""
    if direction(row, corrected=False):
        return " Significant as a single test, not as one of several metrics."
    if row["pairs"] < FEWEST:
        return f" Too few pairs: a test of {row['pairs']} pairs cannot reach 5%; it takes {FEWEST} pairs."
    reason = "includes zero" if row["low"] <= 0 <= row["high"] else "leaves out zero, but the test is above 5%"
    return f" The interval {reason}. About {seeds(row['seeds'])} pairs are needed for a power of 80%."


def _size(row: "pd.Series[Any]", metric: Metric) -> tuple[str, str]:
    """Whether accuracy is lower by what rounds to 0.2: the interval within, apart from it, or neither; and why."""
    low, high, words = -100 * row["high"], -100 * row["low"], _estimate(row, metric)
    if math.isnan(low):
        return INCONCLUSIVE, f"{words}."
    if row["pairs"] < FEWEST:
        return INCONCLUSIVE, f"{words}. Too few pairs: it takes {FEWEST} pairs."
    if ABOUT[0] <= low and high <= ABOUT[1]:
        return SUPPORTED, f"{words}. The interval is inside this range."
    if high < ABOUT[0] or low > ABOUT[1]:
        return CONTRADICTED, f"{words}. The interval is outside this range."
    return INCONCLUSIVE, f"{words}. The interval is partly inside this range."


def _agreement(speed: Sequence[Verdict], main: pd.DataFrame) -> str:
    """Whether the two measures of speed agree, and how noisy each is."""
    best, reaching = (verdict.status for verdict in speed)
    same = "The two measures agree" if best == reaching else "The two measures disagree"
    words = f"{same}: by the best epoch {best}, by the epochs to the threshold {reaching}."
    spread = main.loc[list(SPEED), "difference_sd"]
    if spread.isna().any():
        return words
    first, second = spread
    return f"{words} The standard deviation of their paired differences is {first:.1f} and {second:.1f} epochs."
