"""One run as Hydra starts it: from a configuration to a folder, in a process of its own where there are several."""

import sys
import traceback
from contextlib import nullcontext
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from sparse_lightning.study.sweep.process import in_own_process
from sparse_lightning.study.sweep.sweep import StudyProgress
from sparse_lightning.study.train.record import ERROR, RESULT, Job, sentence, write
from sparse_lightning.study.train.resume import BusyError, OtherRunError, claimed, is_claimed


def run(cfg: DictConfig) -> float:
    """Train one run into Hydra's output folder and return its last validation accuracy, the objective of a search.

    A run that is there already, finished, is not trained again, and one that was interrupted continues. One that fails
    leaves its traceback in its folder. Alone it ends the process with a sentence on what went wrong; in a multirun,
    where each run has a process of its own, it returns 0, the least of accuracies, and the others go on.
    """
    hydra = HydraConfig.get()
    folder, alone = Path(hydra.runtime.output_dir), hydra.mode == RunMode.RUN
    job = Job(OmegaConf.to_yaml(cfg, resolve=True), folder, _swept(), alone)
    if alone:
        return attempt(job)
    try:
        return in_own_process(attempt, job, "sparse_lightning.study.train.training", StudyProgress.watch is None)
    except OSError as error:  # it was killed, or could not be begun
        if not (folder / RESULT).exists() and not is_claimed(folder):  # by another process, which has begun with it
            _note_failure(folder, sentence(error))
        return 0.0


def attempt(job: Job) -> float:
    """Do what is left to do of a run, and note a failure; see :func:`run`."""
    from sparse_lightning.study.train.training import is_first, train  # slow, and not for a process that only waits

    try:
        with claimed(job.folder) if is_first() else nullcontext():  # the others work for the first one
            return train(job)
    except (BusyError, OtherRunError) as error:
        if job.alone:
            sys.exit(f"Error: {sentence(error)}")
        if isinstance(error, OtherRunError):
            print(f"{job.folder.name}: {sentence(error)}", file=sys.stderr)
    except Exception as error:
        said = sentence(error)
        noted = _note_failure(job.folder, said, traceback.format_exc())
        if job.alone:
            sys.exit(f"Error: {said}" + (f"\nThe traceback is in {job.folder / ERROR}" if noted else ""))
    return 0.0


def _note_failure(folder: Path, said: str, details: str = "") -> bool:
    """Leave word of a failure in the run's folder, or where that cannot be written, on the screen."""
    try:
        write(folder / ERROR, f"{details}\n{said}\n".lstrip())
    except OSError:
        print(f"{folder.name}: {said}", file=sys.stderr, flush=True)
        return False
    return True


def _swept() -> frozenset[str]:
    """The settings that differ between the runs of this multirun, by their last names."""
    hydra = HydraConfig.get()
    said = {override.lstrip("+~").partition("=")[0] for override in hydra.overrides.task}
    return frozenset(key.rpartition(".")[2] for key in said - set(hydra.job.config.override_dirname.exclude_keys))
