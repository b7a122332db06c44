"""The arms of a study in TensorBoard: each arm's mean and standard deviation, and the layout of their charts."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard.summary import custom_scalars, scalar

from sparse_lightning.study.train.record import tag, write

ARMS, EVENTS = "arms", "events.out.tfevents.report"


def write_arms(folder: Path, curves: Mapping[str, pd.DataFrame], charts: Mapping[str, Sequence[str]]) -> list[Path]:
    """Write each arm's mean and mean ± one standard deviation as a TensorBoard run, and the layout of their charts.

    Args:
        folder: The study's folder; the runs are in its folder `arms`.
        curves: For each arm its runs' metrics, a row for each run and epoch, with a column `epoch`.
        charts: Metrics to show, in categories by title.

    Returns:
        The files written.
    """
    metrics = [metric for group in charts.values() for metric in group]
    written = []
    for arm, rows in curves.items():
        grouped = rows[["epoch", *(metric for metric in metrics if metric in rows)]].groupby("epoch")
        mean, spread = grouped.mean(), grouped.std().fillna(0.0)
        events = []
        for metric in mean.columns:
            bounds = (mean[metric], mean[metric] - spread[metric], mean[metric] + spread[metric])
            for name, values in zip(_band(metric), bounds, strict=True):
                known = values.notna()
                steps = zip(values.index[known].astype(int), values[known].astype(float), strict=True)
                events += [(int(step), scalar(name, value)) for step, value in steps]  # type: ignore[no-untyped-call]
        path = folder / ARMS / arm.replace("/", "_") / EVENTS
        written.append(_write_events(path, sorted(events, key=lambda event: event[0])))
    margins = {
        title: {_chart(metric): ["Margin", _band(metric)] for metric in group} for title, group in charts.items()
    }
    layout = custom_scalars(margins)  # type: ignore[no-untyped-call]
    return [*written, _write_events(folder / ARMS / EVENTS, [(0, layout)])]


def _band(metric: str) -> list[str]:
    """The tags of a mean and of its lower and upper bound."""
    name = tag(metric)
    return [name, f"margins_of_arms/{name}/lower", f"margins_of_arms/{name}/upper"]


def _chart(metric: str) -> str:
    return tag(metric).replace("/", ", ").replace("_", " ")


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
