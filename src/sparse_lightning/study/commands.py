"""The commands `sparse-lightning train` and `sparse-lightning report`, which `scripts/` call too."""

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sparse_lightning import __version__
from sparse_lightning.functional.checks import nearest, with_hint

if TYPE_CHECKING:
    from omegaconf import DictConfig

USAGE = """\
usage: sparse-lightning train [options] [overrides]    train one run of an experiment, or with -m a grid of them
       sparse-lightning report FOLDER [options]        make the report of a folder of runs
       sparse-lightning --version

`sparse-lightning train --help` lists every key, `sparse-lightning report --help` every option."""


def main() -> None:
    """The installed command: its first word says what to do, the others are for that."""
    from sparse_lightning.study.train.record import INSTALLED

    known = {"train": train, "report": report}
    word = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if word in known:
        sys.argv[:2] = [INSTALLED.replace("train", word)]
        known[word]()
    elif word in ("--help", "-h"):
        print(USAGE)
    elif word == "--version":
        print(f"sparse_lightning {__version__}")
    else:
        refused = f"Error: Expected sparse-lightning train or sparse-lightning report, got {word!r}"
        sys.exit(f"{with_hint(refused, nearest(word, known))}\n\n{USAGE}")


def train() -> None:
    """Train one run of an experiment, or with -m a grid of them; ends the process."""
    signal.signal(signal.SIGINT, lambda *_: sys.exit("Stopped."))  # also while modules are imported
    import hydra

    from sparse_lightning.study.cli import command

    command(hydra.main(version_base="1.3", config_path=str(conf()), config_name="config")(_task), conf())


def _task(cfg: "DictConfig") -> float:
    from sparse_lightning.study.sweep.launcher import run

    return run(cfg)


def report() -> None:
    """Make the report of folders of runs, in the first of them: tables, verdicts, figures, a page; print its tables."""
    import argparse

    from sparse_lightning.study.analysis.report import make_report

    parser = argparse.ArgumentParser(prog=Path(sys.argv[0]).name, description=(report.__doc__ or ""))
    parser.add_argument("folder", nargs="+", help="folder of a multirun, of one run, or of several of them")
    parser.add_argument("--against", metavar="FACTOR=LEVEL", help="the arms to compare with; chosen if not given")
    parser.add_argument(
        "--metric", help="column of metrics.csv that runs are judged by; default: report.metric, val_acc"
    )
    parser.add_argument("--mode", choices=["max", "min"], help="whether its highest or its lowest value is the best")
    parser.add_argument("--threshold", type=float, help="value of the metric that convergence is measured at")
    options = vars(parser.parse_args())
    try:
        print(make_report(*options.pop("folder"), **options))
    except (OSError, ValueError) as error:
        sys.exit(f"Error: {error}")


def conf() -> Path:
    """The folder of configuration files: in the installed package, or at the top of a checkout."""
    package = Path(__file__).parents[1]
    installed = package / "conf"
    return installed if installed.is_dir() else package.parents[1] / "conf"
