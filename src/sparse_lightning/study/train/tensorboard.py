"""What TensorBoard shows of a study: grouped scalars, hyperparameters, pictures of the topology."""

import io
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

_TAGS = {
    "train_acc": "accuracy/training",
    "val_acc": "accuracy/validation",
    "test_acc": "accuracy/test",
    "train_loss": "loss/training",
    "val_loss": "loss/validation",
    "test_loss": "loss/test",
    "epoch_time": "time/seconds_an_epoch",
}


def tag(metric: str) -> str:
    """The tag of a metric, whose first part TensorBoard groups by.

    >>> tag("val_acc"), tag("topology/explored/all"), tag("topology/explored/network.linear1")
    ('accuracy/validation', 'topology/explored', 'topology.network.linear1/explored')
    """
    if not metric.startswith("topology/"):
        return _TAGS.get(metric, metric)
    _, what, layer = metric.split("/", 2)
    return f"topology/{what}" if layer == "all" else f"topology.{layer}/{what}"


class Board(TensorBoardLogger):
    """TensorBoard's events of one run: metrics under :func:`tag`, over epochs.

    Args:
        folder: The run's folder.
    """

    def __init__(self, folder: str | Path) -> None:
        super().__init__(save_dir=folder, name="", version="", default_hp_metric=False)

    @rank_zero_only
    def go_on(self, metrics: Mapping[str, str]) -> None:
        """Go on after an epoch: what was logged of later ones no longer counts, and nothing of this one is missing.

        Args:
            metrics: The row of that epoch in `metrics.csv`.
        """
        self._kwargs["purge_step"] = int(metrics["epoch"]) + 1
        self.log_metrics({name: float(value) for name, value in metrics.items() if value})

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing yet: TensorBoard takes them once, with the result."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Take metrics in; the step is their epoch, which runs of any batch size share."""
        found = {tag(name): value for name, value in metrics.items() if name != "epoch"}
        super().log_metrics(found, int(metrics["epoch"]) if "epoch" in metrics else step)

    @rank_zero_only
    def log_result(self, settings: Mapping[str, Any], result: Mapping[str, float], swept: Collection[str] = ()) -> None:
        """Give the run its row in the table of hyperparameters and results.

        Args:
            settings: Hyperparameters, the same keys in every run. All but numbers are shown as words.
            result: What the run came to, the same keys in every run.
            swept: The settings that differ between the runs of its study, which come first in the table.
        """
        metrics = {f"result/{name}": float(value) for name, value in result.items()}
        super().log_metrics(metrics, step=0)
        writer = self.experiment._get_file_writer()
        words = {name: _word(value) for name, value in settings.items()}
        experiment, *session = hparams(words, metrics)  # type: ignore[no-untyped-call]
        data = experiment.value[0].metadata.plugin_data
        content = HParamsPluginData.FromString(data.content)
        for setting in content.experiment.hparam_infos:
            setting.differs = setting.name in swept
        data.content = content.SerializeToString()
        for summary in (experiment, *session):
            writer.add_summary(summary, 0)
        self.experiment.close()

    @rank_zero_only
    def log_masks(self, masks: Mapping[str, Tensor], epoch: int) -> None:
        """Show the topology: each layer's mask and degrees, and the pixels' map.

        The map shows how many connections each input of the first layer holds, where those make a square; black is
        none, white is three times the mean or more.

        Args:
            masks: The active connections by layer, boolean, (out, in).
            epoch: The epoch.
        """
        board: SummaryWriter = self.experiment
        for number, (layer, mask) in enumerate(masks.items()):
            inputs = mask.sum(0, dtype=torch.int32).cpu()
            if number == 0 and (picture := pixel_map(inputs)) is not None:
                add_picture(board, "pixels/connections", picture, epoch)
            add_picture(board, f"masks/{layer}", mask.cpu(), epoch)
            board.add_histogram(f"connections_of_an_input_unit/{layer}", inputs, epoch)
            board.add_histogram(f"connections_of_an_output_unit/{layer}", mask.sum(1, dtype=torch.int32), epoch)

    def save(self) -> None:
        """Nothing beside the events: hyperparameters are in `config.yaml`."""


def add_picture(board: SummaryWriter, name: str, picture: Tensor, epoch: int) -> None:
    """Add a picture in one colour, boolean or of bytes: the writer's own way takes three, and several times as long."""
    content = io.BytesIO()
    Image.fromarray(picture.numpy()).save(content, "PNG", compress_level=1)
    height, width = picture.shape
    image = Summary.Image(height=height, width=width, colorspace=1, encoded_image_string=content.getvalue())
    board._get_file_writer().add_summary(Summary(value=[Summary.Value(tag=name, image=image)]), epoch)  # type: ignore[no-untyped-call]


def _word(value: Any) -> float | str:
    if isinstance(value, float | int) and not isinstance(value, bool):
        return float(value)
    return {True: "true", False: "false", None: "null"}[value] if value in (True, False, None) else str(value)


def pixel_map(connections: Tensor, zoom: int = 8) -> Tensor | None:
    """A grey picture of the connections of each input, 0 to 255, `zoom` dots a pixel; None if they make no square.

    >>> pixel_map(torch.tensor([0, 1, 1, 2]), zoom=1)
    tensor([[  0,  85],
            [ 85, 170]], dtype=torch.uint8)
    """
    side = round(len(connections) ** 0.5)
    if side * side != len(connections):
        return None
    grey = (connections.double() / (3 * connections.double().mean()).clamp(min=1e-9) * 255).clamp(max=255).round()
    square = grey.to(torch.uint8).view(side, side)
    return square.repeat_interleave(zoom, 0).repeat_interleave(zoom, 1)
