"""The command line of `scripts/train.py`: help in words, errors in sentences, a study's table at the end."""

import difflib
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException
from omegaconf import OmegaConf

from sparse_lightning.study.sweep.sweep import StudyProgress
from sparse_lightning.study.train.record import sentence
from sparse_lightning.study.train.resume import is_claimed

TRIES = 4  # times that a multirun is taken up, when its launcher breaks down or others leave runs behind

USAGE = """\
Trains a sparse MLP on MNIST that is pruned and regrown between epochs.

  python scripts/train.py                                               one run
  python scripts/train.py model.hebbian_grow=false seed=3               one run, two knobs turned
  python scripts/train.py --config-name study                           the published experiment, 16 runs
  python scripts/train.py -m model.hebbian_grow=true,false 'seed=range(8)'   the same, said in full
  python scripts/report.py FOLDER                                       the report of a folder of runs, at any time

Knobs are said as key=value. With -m a key takes several values, one run for each combination, on every core
(hydra.launcher.n_jobs=N for fewer).
"""


def command(main: Callable[[], object], conf: Path) -> None:
    """Run a Hydra `main` and leave the process: status 0, or 1 with one or two sentences on what went wrong.

    A multirun whose launcher breaks down, or of which another process has runs and leaves them, is taken up again.
    With HYDRA_FULL_ERROR=1 in the environment, errors come as tracebacks.

    Args:
        main: The function that `hydra.main` made.
        conf: The folder of configuration files, whose comments are the help.
    """
    OmegaConf.register_new_resolver("knobs", lambda: _help(conf), replace=True)
    traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises instead of printing
    failed = False
    try:
        for _ in range(TRIES):
            if _complete(main):
                break
            sys.argv[1:] = [said for said in sys.argv[1:] if not _forces(said)]
        failed = _finish()
    except KeyboardInterrupt:
        sys.exit(_stopped())
    except Exception as error:
        if traceback:
            raise
        said = _composition(error, conf) if isinstance(error, ConfigCompositionException) else sentence(error)
        print(f"Error: {said}", file=sys.stderr)
        failed = True
        _finish()
    sys.exit(failed)


def _complete(main: Callable[[], object]) -> bool:
    """Run `main`, and wait for runs that other processes have; whether there is nothing left that it could do."""
    try:
        main()
    except BrokenExecutor:
        print("A process of the launcher was killed; what it had in hand is taken up again.", file=sys.stderr)
        return False
    study = StudyProgress.watch
    if study is None or not study.unfinished():
        return True
    while any(map(is_claimed, study.unfinished())):
        time.sleep(1)
    return not study.unfinished()


def _stopped() -> str:
    study = StudyProgress.watch
    if study is None:
        return "Stopped."
    study.stop()
    return f"Stopped with {study.finished()} runs finished. The same command does the rest{_unforced()}."


def _forces(said: str) -> bool:
    return said.lstrip("+").startswith("force=")


def _unforced() -> str:
    return ", without force," if any(map(_forces, sys.argv[1:])) else ""


def _finish() -> bool:
    """The report of the multirun, if it was one; whether any of its runs is missing from it."""
    study = StudyProgress.watch
    if study is None:
        return False
    study.stop()
    from sparse_lightning.study import format_table, load_runs

    try:
        runs = load_runs(study.folder)
    except FileNotFoundError:
        return True
    try:
        from sparse_lightning.study.analysis.report import make_report

        said = make_report(study.folder)
    except Exception as error:  # whatever it is, the runs are there
        said = f"{format_table(runs)}\n\nThe report could not be made: {sentence(error)}"
    print("", said, "", study.folder, sep="\n")
    missing = study.missing()
    if missing:
        print(
            "",
            f"{len(missing)} runs have not finished; the same command{_unforced()} tries them again:",
            *missing,
            sep="\n",
        )
    return bool(missing)


def _composition(error: ConfigCompositionException, conf: Path) -> str:
    said = str(error)
    if unknown := re.search(r"Could not override '(.*)'", said):
        key = unknown.group(1)
        near = difflib.get_close_matches(key, list(_keys(conf)), n=1)
        return f"Expected a key of the configuration, got {key!r}." + (f" Did you mean {near[0]!r}?" if near else "")
    if several := re.search(r"Sweep parameters '(.*)' requires --multirun", said):
        return f"Expected one value for each key, got several in {several.group(1)!r}; -m runs them all"
    return " ".join(said.partition("Config search path")[0].split())


def _keys(conf: Path) -> Iterator[str]:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf.resolve()), version_base="1.3"):
        for key, value in compose("config").items():
            yield str(key)
            yield from (f"{key!s}.{name!s}" for name in value) if OmegaConf.is_dict(value) else ()


def _help(conf: Path) -> str:
    """Usage, and every knob with the words that stand beside it in its file."""
    parts = [USAGE]
    for path in sorted(conf.glob("*.yaml")) + sorted(conf.glob("*/*.yaml")) + sorted(conf.glob("hydra/*/*.yaml")):
        group = path.parent.relative_to(conf).as_posix().strip(".")
        lines = path.read_text(encoding="utf-8").splitlines()
        knobs = [match.groups() for line in lines if (match := re.match(r"(\w+): +(.+?) +# (.+)", line))]
        title = next((line[2:] for line in lines if line.startswith("# ")), "")
        parts.append(f"{group}={path.stem}" if group else f"--config-name {path.stem}")
        parts[-1] += f"   {title}" if title else ""
        parts += [
            f"  {group.replace('/', '.') + '.' if group else ''}{key}={value}\n      {words}"
            for key, value, words in knobs
        ] + [""]
    return "\n".join(parts).replace("$", "$$")  # Hydra makes a template of it
