"""What TensorBoard shows of the arms of a study: means with bands of one standard deviation, and what tags mean."""

import hashlib
import io
import math
from collections.abc import Sequence
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard.summary import custom_scalars, scalar, text

from sparse_lightning.study.analysis.findings import Findings
from sparse_lightning.study.analysis.metrics import TOPOLOGY
from sparse_lightning.study.train.record import tag, write

ARMS, EVENTS = "arms", "events.out.tfevents.report"
BOUNDS = "~bounds of the arms"  # sorts last: what the bands are drawn from, not to be looked at by itself
_LONGEST = 150  # bytes of a folder's name


def write_arms(folder: Path, findings: Findings) -> list[Path]:
    """Write each arm's mean and mean ± one standard deviation as a TensorBoard run, the first with the charts' layout.

    Args:
        folder: The study's folder; the runs are in its folder `arms`.
        findings: What there is to show; without a finished run, nothing.

    Returns:
        The files written.
    """
    if not findings.curves:
        return []
    charts = _charts(findings)
    metrics = [metric for group in charts.values() for metric in group]
    margins = {
        title: {
            tag(metric): ["Margin", _band(metric)] for metric in reversed(group)
        }  # TensorBoard shows the last first
        for title, group in charts.items()
    }
    layout = custom_scalars(margins)  # type: ignore[no-untyped-call]
    about = text("about/tags", _about(findings))  # type: ignore[no-untyped-call]
    once = [(0, layout), (0, about)]  # in the first arm: a run of their own would be one without any curve
    written: list[Path] = []
    for arm, rows in findings.arm_curves().items():
        grouped = rows[["epoch", *(metric for metric in metrics if metric in rows)]].groupby("epoch")
        mean, spread = grouped.mean(), grouped.std().fillna(0.0)
        events: list[tuple[int, Summary]] = [] if written else once
        for metric in mean:
            bounds = (mean[metric], mean[metric] - spread[metric], mean[metric] + spread[metric])
            for name, values in zip(_band(str(metric)), bounds, strict=True):
                pairs = zip(values.index.tolist(), values.tolist(), strict=True)
                events += [(step, scalar(name, value)) for step, value in pairs if not math.isnan(value)]  # type: ignore[no-untyped-call]
        path = folder / ARMS / folder_name(arm) / EVENTS
        written.append(_write_events(path, sorted(events, key=lambda event: event[0])))
    for stale in set((folder / ARMS).rglob(EVENTS)) - set(written):  # of arms that are no longer there
        stale.unlink()
    return written


def folder_name(arm: str) -> str:
    """An arm as the name of a folder, cut where file systems would refuse it.

    >>> folder_name("data_dir=/data,seed=1"), len(folder_name("x" * 5000))
    ('data_dir=_data,seed=1', 150)
    """
    name = arm.replace("/", "_").replace("\0", "_")
    if len(name.encode()) <= _LONGEST:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:10]
    return f"{name.encode()[: _LONGEST - 11].decode(errors='ignore')}-{digest}"


def _charts(findings: Findings) -> dict[str, Sequence[str]]:
    """The metrics to show, by the titles of their groups: those that some run has."""
    recorded = {str(name) for curve in findings.curves for name in curve}
    both = dict.fromkeys((findings.metric, findings.metric.replace("val_", "train_"), "val_loss", "train_loss"))
    dead = sorted(name for name in recorded if name.startswith("topology/dead/"))
    groups = {
        "Metrics: mean and standard deviation of each arm": list(both),
        "Topology: mean and standard deviation of each arm": [f"topology/{what}/all" for what in TOPOLOGY],
        "Dead connections: mean and standard deviation of each arm": [
            name for name in dead if not name.endswith("/all")
        ],
    }
    shown = {title: [name for name in names if name in recorded] for title, names in groups.items()}
    return {title: names for title, names in shown.items() if names}


def _about(findings: Findings) -> str:
    """What the tags mean, as Markdown."""
    metric = findings.metric
    meanings = {
        f"{tag('train_acc')}, {tag('val_acc')}": "share of samples classified correctly",
        f"{tag('train_loss')}, {tag('val_loss')}": "mean loss of a sample",
        tag("epoch_time"): "seconds that an epoch took, with its validation",
        f"result/{metric}_{findings.mode}, result/{metric}_last": f"the best and the last {metric} of a finished run",
        f"result/{metric}_{findings.mode}_epoch, result/epochs": "the epoch of the best, from 0; the number of epochs",
        **{tag(f"topology/{what}/all"): f"{title}, in all layers" for what, (title, _, _) in TOPOLOGY.items()},
        tag("topology/dead/all"): "number of active connections that are exactly zero, in all layers",
        tag("topology/density/all"): "share of connections that are active, in all layers",
        "topology.LAYER/...": "the same in one layer; `grown`: how many connections the last rewiring grew",
        "topology.masks/LAYER": "which connections are active: rows are output units, columns input units",
        "topology.pixels/connections": "how many connections each input pixel has, from black, none, to white",
        "topology.connections_of_an_input_unit/LAYER": "histogram of connections over input units",
        "topology.connections_of_an_output_unit/LAYER": "histogram of connections over output units",
        f"{BOUNDS}/...": "the edges of the bands of the Custom Scalars tab",
    }
    return "\n".join(
        [
            "One run for each run of the study, over its epochs, and one below `arms/` for each arm, a combination of "
            "the settings that are compared: the mean over its runs. The Custom Scalars tab draws the arms with bands "
            "of one standard deviation. Single runs have no bands, so it reports missing tags for them; "
            "`tensorboard --logdir` of the folder `arms` shows the arms alone. Smoothing is best set to 0.",
            "",
            "| tag | meaning |",
            "| --- | --- |",
            *(f"| {name} | {meaning} |" for name, meaning in meanings.items()),
        ]
    )


def _band(metric: str) -> list[str]:
    """The tags of a mean and of its lower and upper bound."""
    name = tag(metric)
    return [name, f"{BOUNDS}/{name}/lower", f"{BOUNDS}/{name}/upper"]


def _write_events(path: Path, summaries: Sequence[tuple[int, Summary]]) -> Path:
    """An events file, the same bytes for the same summaries: its clock stands at the epochs."""
    buffer = io.BytesIO()
    writer = RecordWriter(buffer)
    writer.write(Event(wall_time=0.0, file_version="brain.Event:2").SerializeToString())
    for step, summary in summaries:
        writer.write(Event(wall_time=float(step), step=step, summary=summary).SerializeToString())
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, buffer.getvalue())
    return path
