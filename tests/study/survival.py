"""Starts a study again and again, kills its processes at random moments, and compares it with one left in peace.

    PYTHONPATH=tests python tests/study/survival.py FOLDER --kills 20 --seed 0

As a script it prints what it did and found; the tests call its functions. It reads `/proc`, so it needs Linux.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from watching import equal_states

TRAIN = Path(__file__).parents[2] / "scripts" / "train.py"
GRID = ["-m", "model.hebbian_grow=true,false", "hydra.launcher.n_jobs=2"]


def alone(epochs: int, batches: int = 60) -> list[str]:
    """The overrides of one run of the study."""
    size = [f"trainer.max_epochs={epochs}", f"trainer.limit_train_batches={batches}", "trainer.limit_val_batches=2"]
    return [*size, "model.lr_milestones=[2]", "model.dropout=0.1"]


def command(folder: Path, epochs: int, seeds: int, *more: str, batches: int = 60) -> list[str]:
    overrides = [*alone(epochs, batches), f"seed=range({seeds})", f"output_dir={folder}", "report.make=false"]
    return [sys.executable, str(TRAIN), *GRID, *overrides, *more]


def families() -> dict[int, int]:
    """The parent of every process."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has ended
            continue
    return parents


def descendants(pid: int) -> list[int]:
    parents, found = families(), [pid]
    for ancestor in found:
        found += [child for child, parent in parents.items() if parent == ancestor]
    return found[1:]


def holders(folder: Path) -> dict[Path, int]:
    """The runs that are being trained, and by which process."""
    found = {}
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            target = Path(os.readlink(link))
        except OSError:
            continue
        if target.name == ".lock" and folder in target.parents:
            found[target.parent] = int(link.parts[2])
    return found


def rows(run: Path) -> int:
    path = run / "metrics.csv"
    return path.read_text().count("\n") - 1 if path.exists() else 0


def results(folder: Path) -> dict[str, int]:
    """When each finished run's result was written, in nanoseconds."""
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("*/result.json")}


def moments(folder: Path, epochs: int, chance: random.Random) -> Iterator[str]:
    """Kinds of moments to kill at, those that are hard to hit first."""
    yield from ("writing a checkpoint", "in the last epoch")
    while True:
        yield chance.choice(("at random", "at random", "writing a checkpoint", "in the last epoch"))


def wait_for(moment: str, process: subprocess.Popen[bytes], folder: Path, epochs: int, chance: random.Random) -> int:
    """The process to kill, at its moment; 0 where the study has ended before."""
    until = time.monotonic() + chance.uniform(0, 2)
    while process.poll() is None:
        found = holders(folder) if moment != "writing a checkpoint" else {}
        if moment == "writing a checkpoint":
            for path in folder.glob("*/checkpoints/*.part"):
                if pid := holders(folder).get(path.parents[1]):
                    return pid
        elif moment == "in the last epoch":
            for run, pid in found.items():
                if rows(run) >= epochs - 1:
                    return pid
        elif found and time.monotonic() > until:
            if chance.random() < 0.6:
                return chance.choice(list(found.values()))
            return chance.choice([process.pid, *descendants(process.pid)])
        time.sleep(0.0002 if moment == "writing a checkpoint" else 0.005)  # the cores are for the study
    return 0


def torment(folder: Path, epochs: int, seeds: int, kills: int, seed: int = 0, **options: int) -> dict[str, Any]:
    """Start the study until it is done, killing processes meanwhile, and again in another folder until enough were.

    Returns:
        `studies`, their folders; `kills`, the moment of each; `starts`, their number; `trained again`, the runs whose
        result was written a second time.
    """
    chance, done, studies, starts = random.Random(seed), list[str](), list[Path](), 0
    kinds, finished, again = moments(folder, epochs, chance), dict[Path, int](), list[Path]()

    def check(study: Path) -> None:
        for name, when in results(study).items():
            if finished.setdefault(study / name, when) != when:
                again.append(study / name)

    while len(done) < kills:
        studies.append(folder / f"study{len(studies)}")
        status = -1
        while status != 0:
            starts += 1
            if starts > 10 * kills:
                raise AssertionError(f"Expected the studies to end, got {starts} starts")
            status = _attack(studies[-1], epochs, seeds, kills, chance, kinds, done, check, **options)
    return {"studies": studies, "kills": done, "starts": starts, "trained again": again}


def _attack(
    study: Path,
    epochs: int,
    seeds: int,
    kills: int,
    chance: random.Random,
    kinds: Iterator[str],
    done: list[str],
    check: Callable[[Path], None],
    **options: int,
) -> int:
    """One start of a study and the kills in it; the status that it left with."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command(study, epochs, seeds, **options), **quiet) as process:
        while process.poll() is None and len(done) < kills:
            kind = next(kinds)
            if pid := wait_for(kind, process, study, epochs, chance):
                check(study)
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
                done.append(f"{kind}, the first process" if pid == process.pid else kind)
    while holders(study):  # the processes of a killed one end by themselves
        time.sleep(0.1)
    check(study)
    return process.returncode


def differences(one: Path, other: Path) -> list[str]:
    """What differs between two studies' runs: metrics, results, weights, masks, statistics, optimizer."""
    found = []
    names = [{path.parent.name for path in folder.glob("*/config.yaml")} for folder in (one, other)]
    if names[0] != names[1]:
        found.append(f"runs: {sorted(names[0] ^ names[1])}")
    for name in sorted(names[0] & names[1]):
        runs = one / name, other / name
        metrics = [pd.read_csv(run / "metrics.csv").drop(columns="epoch_time") for run in runs]
        if not metrics[0].equals(metrics[1][metrics[0].columns]):
            found.append(f"{name}: metrics")
        kept = [json.loads((run / "result.json").read_text()) for run in runs]
        if any(kept[0][key] != kept[1][key] for key in ("epochs", "val_acc_max", "val_acc_max_epoch", "val_acc_last")):
            found.append(f"{name}: result")
        for which in ("last", "best"):
            saved = [torch.load(run / "checkpoints" / f"{which}.ckpt", weights_only=True) for run in runs]
            states = [
                {
                    part: each[part]
                    for part in ("epoch", "global_step", "state_dict", "optimizer_states", "lr_schedulers")
                }
                | each["callbacks"]
                for each in saved
            ]
            settings = [
                [own.pop("settings", None) for own in each.values() if isinstance(own, dict)] for each in states
            ]
            if settings[0] != settings[1]:
                found.append(f"{name}: settings in {which}.ckpt")
            try:
                equal_states(*states)
            except AssertionError as error:
                found.append(f"{name}: {which}.ckpt: {error}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    for name, default in (("kills", 20), ("seed", 0), ("epochs", 6), ("seeds", 4), ("batches", 150)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    peace, war = given.folder / "peace", given.folder / "war"
    subprocess.run(
        command(peace, given.epochs, given.seeds, batches=given.batches), check=True, stdout=subprocess.DEVNULL
    )
    happened = torment(war, given.epochs, given.seeds, given.kills, given.seed, batches=given.batches)
    kinds = pd.Series(happened["kills"]).value_counts()
    print(f"{len(happened['kills'])} kills in {happened['starts']} starts:", *map(str, kinds.items()), sep="\n  ")
    for study in happened["studies"]:
        found = differences(peace, study) or "none"
        print(f"{len(results(study))} of {2 * given.seeds} runs finished; differences: {found}")
    print(f"trained again after finishing: {happened['trained again'] or 'none'}")


if __name__ == "__main__":
    main()
