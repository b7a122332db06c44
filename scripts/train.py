"""Train one run of an experiment, or with -m a grid of them; `--help` lists every key."""

import signal
import sys

if __name__ == "__main__":
    signal.signal(signal.SIGINT, lambda *_: sys.exit("Stopped."))  # also while modules are imported

from pathlib import Path

import hydra
from omegaconf import DictConfig

from sparse_lightning.study.cli import command
from sparse_lightning.study.sweep.launcher import run

CONF = Path(__file__).parent.parent / "conf"


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def main(cfg: DictConfig) -> float:
    return run(cfg)


if __name__ == "__main__":
    command(main, CONF)
