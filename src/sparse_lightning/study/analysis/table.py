"""The published table, made again from runs and set beside the published figures."""

from typing import Any

import pandas as pd

from sparse_lightning.study.analysis.runs import PUBLISHED

ARMS = {True: "hebbian", False: "random", None: "static"}
SPREAD = ["min", "max", "mean", "std"]
METRICS = ("val_acc_max", "val_acc_last")


def summarize(frame: pd.DataFrame) -> pd.DataFrame:
    """The published table by arm: mean best epoch, then min, max, mean and std of best and last val_acc, and count.

    Args:
        frame: Runs, as :func:`~sparse_lightning.study.load_runs` gives them; those not finished are left out.

    Returns:
        A row an arm (hebbian, random, static), columns (metric, statistic); std with n - 1 in the denominator.
    """
    done = frame[frame["status"] == "finished"]
    if "hebbian_grow" not in done:
        return pd.DataFrame()
    arm = done["hebbian_grow"].astype(object).where(done["hebbian_grow"].notna(), None).map(ARMS.get).rename("arm")
    numbers = done[["val_acc_max_epoch", *METRICS]].astype(float).assign(count=1)
    spread = dict.fromkeys(METRICS, SPREAD)
    return numbers.groupby(arm).agg({"val_acc_max_epoch": ["mean"], **spread, "count": ["sum"]})


def published_table() -> pd.DataFrame:
    """The published figures, in the shape of :func:`summarize`."""
    rows = {
        arm: {("val_acc_max_epoch", "mean"): row["val_acc_max_epoch"]}
        | {(metric, name): row[metric][name] for metric in METRICS for name in SPREAD}
        | {("count", "sum"): row["count"]}
        for arm, row in PUBLISHED["table"].items()
    }
    return pd.DataFrame.from_dict(rows, orient="index")


def format_table(frame: pd.DataFrame) -> str:
    """:func:`summarize` beside the published figures, as text, with the runs left out listed and why."""
    lines = []
    ours, theirs = summarize(frame), published_table()
    if not ours.empty:
        lines += [_HEAD]
        for arm, row in ours.iterrows():
            lines.append(_line(str(arm), [float(value) for value in row]))
            if arm in theirs.index:
                lines.append(_line("  published", theirs.loc[[str(arm)]].astype(float).to_numpy()[0].tolist()))
    differing = _differences(frame[frame["status"] == "finished"])
    if differing:
        lines += ["", f"These runs are not the published experiment: {'; '.join(differing)}."]
    left_out = frame[frame["status"] != "finished"]
    if not left_out.empty:
        lines += ["", f"Left out, {len(left_out)} of {len(frame)} runs:"]
        for _, run in left_out.iterrows():
            lines.append(f"  {run['run']}: {left_out_because(run)}")
    return "\n".join(lines)


def left_out_because(run: "pd.Series[Any]") -> str:
    """Why a run is not counted."""
    return str(run["error"]) if pd.notna(run["error"]) else f"not finished, {run['epochs']} epochs so far"


_WIDTHS = (10, *[8] * 8, 7)
_HEAD = (
    f"{'':11}{'best':>10}{'best val_acc':^32}{'last val_acc':^32}\n"
    f"{'arm':11}{'epoch':>10}{''.join(f'{name:>8}' for name in SPREAD * 2)}{'runs':>7}"
)


def _line(name: str, values: list[float]) -> str:
    formats = [".1f", *[".4f"] * 8, ".0f"]
    cells = (f"{value:>{width}{form}}" for value, width, form in zip(values, _WIDTHS, formats, strict=True))
    return f"{name:11}{''.join(cells)}"


def _differences(frame: pd.DataFrame) -> list[str]:
    """Settings in which some run differs from the published experiment."""
    theirs = PUBLISHED["config"]
    expected = {
        "dataset": theirs["dataset_name"],
        "hidden_sizes": tuple(theirs["hidden_sizes"]),
        "batch_norm": theirs["batch_norm"],
        "density": theirs["on_perc"],
        "prune_fraction": theirs["weight_prune_perc"],
        "optimizer": theirs["optim_alg"],
        "learning_rate": theirs["learning_rate"],
        "momentum": theirs["momentum"],
        "weight_decay": theirs["weight_decay"],
        "lr_milestones": tuple(theirs["lr_milestones"]),
        "lr_gamma": theirs["lr_gamma"],
        "pruning_early_stop": theirs["pruning_early_stop"],
        "batch_size": theirs["batch_size_train"],
        "max_epochs": theirs["epochs"],
        "dropout": 0.0,
        "limit_train_batches": 1.0,
        "limit_val_batches": 1.0,
        "accumulate_grad_batches": 1,
        "precision": "32-true",
        "input_size": theirs["input_size"],
        "val_size": 0,
    }
    found = []
    for name, value in expected.items():
        others = [str(other) for other in dict.fromkeys(frame[name]) if other != value] if name in frame else []
        if others:
            found.append(f"{name}={' or '.join(others)}, not {value}")
    return found
