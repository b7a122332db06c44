"""Train one run of an experiment, or with -m a grid of them; `--help` lists every key."""

from sparse_lightning.study.commands import train

if __name__ == "__main__":
    train()
