"""What each of two processes runs in test_distributed.py; it leaves what it found in a file of its own."""

import copy
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from common import Model
from lightning.pytorch import Trainer
from test_architectures import resnet
from test_prune_regrow import SGD, convolutional
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from sparse_lightning import DSR, LayerView, LotteryTicket, PruneRegrow


def trainer(processes: int = 2, **options: Any) -> Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    devices = {"accelerator": "cpu", "devices": processes, "strategy": "ddp" if processes > 1 else "auto"}
    return Trainer(**quiet | devices | {"logger": False, "num_sanity_val_steps": 0} | options)


def loader(inputs: Tensor) -> DataLoader[Any]:
    return DataLoader(TensorDataset(inputs, torch.zeros(len(inputs))), batch_size=4)


def fit(network: nn.Module, callback: PruneRegrow, data: Any, epochs: int, **options: Any) -> dict[str, Any]:
    """Train a copy, and return what this process has in the end."""
    trained, save = Model(copy.deepcopy(network), SGD), options.pop("save", None)
    run = trainer(max_epochs=epochs, callbacks=[callback])
    run.fit(trained, data, **options)
    if save:
        run.save_checkpoint(save)
    return {"weights": trained.state_dict(), "callback": callback.state_dict()}


class ByRank(PruneRegrow):
    """Wrong: every process grows connections of its own."""

    def growth_scores(self, layer: LayerView) -> Tensor:
        return torch.rand(layer.weight.shape, generator=torch.Generator().manual_seed(torch.distributed.get_rank()))


def agreeing(folder: Path) -> dict[str, Any]:
    """Every kind of growth, a residual network, and a run continued."""
    torch.manual_seed(0)
    data, images = loader(torch.randn(24, 6)), loader(torch.randn(8, 1, 14, 14))
    network, found = convolutional(), {}
    for growth in ("random", "hebbian", "gradient", "momentum"):
        found[growth] = fit(network, PruneRegrow(density=0.5, growth=growth), data, 4)
    wide = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))
    layers = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
    for growth in ("random", "gradient", "momentum", "soft_cannistraci_hebb"):
        found[f"csr {growth}"] = fit(layers, PruneRegrow(density=0.5, growth=growth, layout="csr"), data, 4)
        falling = PruneRegrow(density=0.25, initial_density=0.75, growth=growth)
        found[f"falling {growth}"] = fit(layers, falling, data, 4)
    for initial in ("snip", "grasp"):  # each process chooses by its own batch, and scores are averaged
        found[initial] = fit(layers, PruneRegrow(density=0.25, initial=initial), data, 2)
    found["dsr"] = fit(layers, DSR(density=0.25, every_n_steps=2), data, 4)
    found["lottery ticket"] = fit(layers, LotteryTicket(density=0.25), data, 4)
    for structure, kept in (("fan_in", "random"), ("fan_in:0.6", "zero"), ("2:4", "last")):
        options = {"structure": structure, "grown_weights": kept, "exclude": "network.0"}
        found[structure] = fit(wide, PruneRegrow(density=0.5, growth="hebbian", **options), data, 4)
    found["resnet"] = fit(resnet(), PruneRegrow(density=0.3, growth="hebbian"), images, 2)
    fit(network, PruneRegrow(density=0.5, growth="hebbian"), data, 2, save=folder / "two.ckpt")
    callback = PruneRegrow(density=0.5, growth="hebbian")
    found["continued"] = fit(network, callback, data, 4, ckpt_path=folder / "two.ckpt")
    return found | {"still": still()}


def still(processes: int = 2) -> dict[str, Any]:
    """What is counted where nothing is learned, so that it does not matter which process sees which sample."""
    torch.manual_seed(0)
    data, network = loader(torch.randn(24, 6)), nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    callback = PruneRegrow(density=0.5, growth="hebbian")
    model = Model(network, lambda weights: SGD(weights, lr=0.0))
    trainer(processes, max_epochs=1, callbacks=[callback]).fit(model, data)
    return {"samples": dict(callback.growth.coactivation.samples), "callback": callback.state_dict()}


def apart(folder: Path) -> dict[str, Any]:
    """A rule that differs between the processes."""
    try:
        fit(convolutional(), ByRank(density=0.5), loader(torch.randn(24, 6)), 3)
    except RuntimeError as error:
        return {"error": str(error)}
    return {"error": None}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    case, folder = sys.argv[1], Path(sys.argv[2])
    found = {"agreeing": agreeing, "apart": apart}[case](folder)
    torch.save(found, folder / f"{case}-{torch.distributed.get_rank()}.pt")
