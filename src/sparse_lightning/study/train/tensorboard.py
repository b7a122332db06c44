"""The TensorBoard events of a run: grouped scalars, hyperparameters, pictures of the topology."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from sparse_lightning.study.train.record import tag


class Board(TensorBoardLogger):
    """TensorBoard's events of one run: metrics under :func:`tag`, over epochs.

    Args:
        folder: The run's folder.
        purge_step: The epoch that a continued run trains first: events of this epoch and later ones are hidden.
    """

    def __init__(self, folder: str | Path, purge_step: int | None = None) -> None:
        super().__init__(save_dir=folder, name="", version="", default_hp_metric=False, purge_step=purge_step)

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing yet: TensorBoard takes them once, with the result."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log metrics over their epoch, which runs of any batch size share."""
        found = {tag(name): value for name, value in metrics.items() if name != "epoch"}
        super().log_metrics(found, int(metrics["epoch"]) if "epoch" in metrics else step)

    @rank_zero_only
    def log_result(self, settings: Mapping[str, Any], result: Mapping[str, float], swept: Collection[str] = ()) -> None:
        """Give the run its row in the table of hyperparameters and results.

        Args:
            settings: Hyperparameters, the same keys in every run. All but numbers are shown as words.
            result: The run's results, the same keys in every run.
            swept: The settings that differ between the runs of its study, by their last names; they come first.
        """
        metrics = {f"result/{name}": float(value) for name, value in result.items()}
        super().log_metrics(metrics, step=0)
        words = {name: _word(value) for name, value in settings.items()}
        experiment, *session = hparams(words, metrics)  # type: ignore[no-untyped-call]
        data = experiment.value[0].metadata.plugin_data
        content = HParamsPluginData.FromString(data.content)
        columns = list(content.experiment.hparam_infos)
        for setting in columns:
            setting.differs = setting.name.rpartition(".")[2] in swept
        columns.sort(key=lambda setting: not setting.differs)
        del content.experiment.hparam_infos[:]
        content.experiment.hparam_infos.extend(columns)
        data.content = content.SerializeToString()
        for summary in (experiment, *session):
            self.experiment.file_writer.add_summary(summary, 0)
        self.experiment.close()

    @rank_zero_only
    def log_masks(self, masks: Mapping[str, Tensor], epoch: int) -> None:
        """Show the topology: each layer's mask and degrees, and the map of pixels.

        The map shows how many connections each input of the first layer holds, where the inputs make a square; black
        is none, white is three times the mean or more. Masks of kernels show their degrees alone.

        Args:
            masks: The active connections by layer, boolean, (out, in, ...).
            epoch: The epoch.
        """
        board: SummaryWriter = self.experiment
        for number, (layer, mask) in enumerate(masks.items()):
            matrix = mask.reshape(len(mask), -1, *mask.shape[2:])
            inputs, outputs = matrix.transpose(0, 1).flatten(1).sum(1), matrix.flatten(1).sum(1)
            if number == 0 and (picture := pixel_map(inputs.cpu())) is not None:
                board.add_image("topology.pixels/connections", picture, epoch, dataformats="HW")
            if mask.ndim == 2:
                board.add_image(f"topology.masks/{layer}", 255 * mask.to(torch.uint8), epoch, dataformats="HW")
            board.add_histogram(f"topology.connections_of_an_input_unit/{layer}", inputs, epoch)
            board.add_histogram(f"topology.connections_of_an_output_unit/{layer}", outputs, epoch)

    def save(self) -> None:
        """Nothing beside the events: hyperparameters are in `config.yaml`."""


def _word(value: Any) -> float | str:
    if isinstance(value, float | int) and not isinstance(value, bool):
        return float(value)
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def pixel_map(connections: Tensor, zoom: int = 8) -> Tensor | None:
    """A grey picture of the connections of each input, 0 to 255, `zoom` dots per pixel; None if they make no square.

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
