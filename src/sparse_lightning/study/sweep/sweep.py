"""A multirun as one thing: its runs named by what differs, one bar for all of them, its table at the end."""

import hashlib
import re
import sys
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from hydra import compose
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict
from tqdm import tqdm

from sparse_lightning.study.train.record import CONFIG, DATA, ERROR, INCIDENTAL, METRICS, sentence
from sparse_lightning.study.train.resume import is_claimed, refuse_other, result_of


def run_name(overrides: Sequence[str], constant: Sequence[str]) -> str:
    """A run's name: its overrides without their groups, leaving out those that are constant.

    >>> run_name(["trainer.max_epochs=2", "model.hebbian_grow=True", "seed=3"], constant=["trainer.max_epochs"])
    'hebbian_grow=true,seed=3'
    """
    parts = [override.lstrip("+~").partition("=") for override in overrides]
    asked = [(key, value) for key, _, value in parts if key not in INCIDENTAL or key not in constant]
    telling = [(key, value) for key, value in asked if key not in constant] or asked
    keys = [key for key, _ in telling]
    last = [_last(key) for key in keys]
    names = [short if last.count(short) == 1 else key for key, short in zip(keys, last, strict=True)]
    values = [value.lower() if value in ("True", "False") else value.replace("/", "_") for _, value in telling]
    return _short(",".join(f"{name}={value}" for name, value in zip(names, values, strict=True))) or "run"


def study_folder(said: str | None, overrides: Sequence[str]) -> str:
    """The folder that was said, or one for what is asked for: the same for the same, and for more of what varies.

    >>> study_folder(None, ["model.hebbian_grow=true,false", "seed=range(8)", "trainer.max_epochs=3", "force=true"])
    'outputs/hebbian_grow+seed+max_epochs-3'
    """
    return said or f"outputs/{_study_name(overrides)}"


def _study_name(overrides: Sequence[str]) -> str:
    said = [each for each in overrides if _key(each) not in INCIDENTAL]
    parsed = OverridesParser.create().parse_overrides(said)
    parts = [
        _last(_key(text)) if each.is_sweep_override() else run_name([text], [])
        for each, text in zip(parsed, said, strict=True)
    ]
    # Nothing that a shell or Hydra would take for more than a name.
    return _short(re.sub(r"[^\w.+-]+", "-", "+".join(parts))) or "run"


def _short(name: str, most: int = 120) -> str:
    """A name that file systems take: the end of a long one becomes a hash of it."""
    return name if len(name) <= most else f"{name[: most - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


OmegaConf.register_new_resolver("run_name", run_name, replace=True)
OmegaConf.register_new_resolver("study_folder", study_folder, replace=True)


class StudyProgress(Callback):
    """Hydra's callback for a multirun, called in the process that launches it."""

    watch: ClassVar["Watch | None"] = None  # on the class: Hydra sends the callback itself to every process

    def on_multirun_start(self, config: DictConfig, config_name: str | None = None, **kwargs: Any) -> None:
        """Name the runs by what differs between them, see that they fit what is there, and begin to show how far."""
        try:
            self._begin(config, config_name)
        except Exception as error:
            sys.exit(f"Error: {sentence(error)}")  # Hydra makes a warning of it, and goes on

    def _begin(self, config: DictConfig, config_name: str | None) -> None:
        folder = Path(config.hydra.sweep.dir)
        overrides = _jobs(config)
        constant = _constant(config, overrides, {path.parent.name for path in folder.glob(f"*/{CONFIG}")})
        with open_dict(config):
            # Carried to every run as if it had been said on the command line.
            config.hydra.overrides.hydra += [
                f"hydra.job.config.override_dirname.exclude_keys=[{','.join(constant)}]",
                "hydra.sweep.dir='{}'".format(str(folder).replace("'", r"\'")),
            ]
        names = [run_name(job, constant) for job in overrides]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(
                f"Expected runs that differ by more than where they are, got several of {', '.join(twice)}"
            )
        if not config.force:
            _refuse_others(folder, dict(zip(names, overrides, strict=True)), config_name)
        default = config.trainer.max_epochs
        said = [dict(override.split("=", 1) for override in job) for job in overrides]
        lengths = [str(job.get("trainer.max_epochs", default)) for job in said]
        epochs = sum(map(int, lengths)) if all(map(str.isdecimal, lengths)) else 0
        before = sum(bool(result_of(folder / name)) for name in names) if not config.force else 0
        finished = f", {before} of them finished before" if before else ""
        print(
            f"{len(names) or 'Several'} runs in {folder}{finished}",
            f"To watch them: tensorboard --logdir {folder}",
            sep="\n",
            flush=True,
        )
        if StudyProgress.watch is not None:  # the multirun is taken up again
            StudyProgress.watch.stop()
        StudyProgress.watch = Watch(folder, names, epochs)
        StudyProgress.watch.start()


def _constant(config: DictConfig, jobs: Sequence[Sequence[str]], names: Collection[str]) -> list[str]:
    """The keys that do not tell the runs apart, neither from each other nor from those that are there already."""
    said = OverridesParser.create().parse_overrides(list(config.hydra.overrides.task))
    values: dict[str, set[str]] = {_key(each.input_line or ""): set() for each in said if not each.is_sweep_override()}
    for job in jobs:
        for override in job:
            values.setdefault(_key(override), set()).add(override.partition("=")[2])
    told = {part.partition("=")[0] for name in names for part in name.split(",")}
    constant = [key for key, several in values.items() if len(several) <= 1 and not {key, _last(key)} & told]
    return [*constant, *(key for key in INCIDENTAL if key not in values)]


def _key(override: str) -> str:
    return override.lstrip("+~").partition("=")[0]


def _last(key: str) -> str:
    return key.rpartition(".")[2]


def _refuse_others(folder: Path, jobs: Mapping[str, Sequence[str]], config_name: str | None) -> None:
    """See that the runs of these names that are there have the settings and the data that are asked for.

    Raises:
        OtherRunError: One has others.
    """
    digests: dict[tuple[Any, Any], str | None] = {}
    for name, overrides in jobs.items():
        if (folder / name / CONFIG).exists():
            asked = compose(config_name, list(overrides))
            with open_dict(asked):
                for key in ("logger", "output_dir"):  # only a run can resolve them
                    asked.pop(key, None)
                refuse_other(folder / name, asked)
                data = asked.data.get("dataset"), asked.data.get("data_dir")
                if data not in digests:
                    digests[data] = getattr(instantiate(asked.data), "digest", lambda: None)()
                if digests[data]:
                    asked[DATA] = digests[data]
            refuse_other(folder / name, asked)


class Watch(threading.Thread):
    """Shows one bar for all runs of a multirun, and a line as each one ends.

    Args:
        folder: The folder of the multirun.
        names: The names of its runs; empty for all that come to be in the folder.
        epochs: How many epochs they will have in all.
    """

    def __init__(self, folder: Path, names: Sequence[str], epochs: int) -> None:
        super().__init__(daemon=True)
        self.folder, self.names, self.epochs = folder, names, epochs
        self._over = threading.Event()

    @property
    def folders(self) -> list[Path]:
        """The folders of the runs that have one."""
        return [path for path in self._every() if (path / CONFIG).exists()]

    def _every(self) -> list[Path]:
        named = [self.folder / name for name in self.names]
        return named or [path.parent for path in self.folder.glob(f"*/{CONFIG}")]

    def unfinished(self) -> list[Path]:
        """The folders of those that have neither a result nor an error, or that another process has."""
        return [path for path in self._every() if _ending(path) is None or is_claimed(path)]

    def finished(self) -> str:
        """How many of its runs have finished, of how many."""
        done = sum(bool(result_of(path)) for path in self.folders)
        return f"{done} of {len(self.names) or len(self.folders)}"

    def missing(self) -> list[str]:
        """A line for each run without a result: why, and where to look."""
        return [f"  {path.name}: {_why(path)}" for path in self._every() if not result_of(path)]

    def stop(self) -> None:
        """Show what has ended last, and no more."""
        self._over.set()
        self.join()

    def run(self) -> None:
        """Look at the folder twice a second."""
        started, over = time.monotonic(), False
        ended = {path for path in self.folders if _ending(path)}
        before = sum(map(_epochs, self.folders))
        with tqdm(
            total=self.epochs or None,
            initial=before,
            unit="epoch",
            disable=not sys.stderr.isatty(),
            leave=False,
            smoothing=0,
        ) as bar:
            while not over:
                over = self._over.wait(0.5)  # and look once more after the end
                epochs = {path: _epochs(path) for path in self.folders}
                done = sum(epochs.values())
                ended = {path for path in ended if _ending(path)}  # a run that had failed may be tried again
                for folder in epochs.keys() - ended:
                    if line := _ending(folder):
                        ended.add(folder)
                        left = (time.monotonic() - started) / max(done - before, 1) * (self.epochs - done)
                        runs = len(self.names)
                        number = f"{len(ended):{len(str(runs))}}/{runs}" if runs else len(ended)
                        bar.write(f"[{number}] {folder.name}  {line}{_left(left)}")
                        sys.stdout.flush()
                bar.update(done - bar.n)


def _jobs(config: DictConfig) -> list[list[str]]:
    """The overrides of each run, as Hydra's basic sweeper will make them; none for another sweeper."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    if not str(config.hydra.sweeper.get("_target_")).endswith(BasicSweeper.__name__):
        return []
    said = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
    overrides = OverridesParser.create().parse_overrides([*said, *config.hydra.overrides.task])
    return BasicSweeper.split_arguments(overrides, max_batch_size=None)[0]


def _epochs(folder: Path) -> int:
    path = folder / METRICS
    try:
        return max(path.read_bytes().count(b"\n") - 1, 0)
    except OSError:
        return 0


def _ending(folder: Path) -> str | None:
    """How a run ended, in a few words; None if it has not."""
    if result := result_of(folder):
        return (
            f"best {result['val_acc_max']:.4f} (epoch {result['val_acc_max_epoch']})  last {result['val_acc_last']:.4f}"
        )
    if (folder / ERROR).exists():
        return f"failed: see {folder / ERROR}"
    return None


def _why(folder: Path) -> str:
    """Why a run has no result, and where to look."""
    path = folder / ERROR
    if path.exists():
        lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines() or [f"{ERROR} is empty"]
        return f"{lines[-1]} ({path})"
    return f"stopped after {_epochs(folder)} epochs ({folder})"


def _left(seconds: float) -> str:
    if seconds <= 0:
        return ""
    return f"  about {seconds / 60:.0f} min left" if seconds >= 90 else f"  about {seconds:.0f} s left"
