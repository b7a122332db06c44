"""Train one run of the experiment, or with -m a grid of them; `--help` has every knob."""

from pathlib import Path

import hydra
from omegaconf import DictConfig

from sparse_lightning.study.cli import command
from sparse_lightning.study.train.run import run

CONF = Path(__file__).parent.parent / "conf"


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def main(cfg: DictConfig) -> float:
    return run(cfg)


if __name__ == "__main__":
    command(main, CONF)
