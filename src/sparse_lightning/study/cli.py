"""The command line of training: help with words, errors as sentences, the report of a study at its end."""

import difflib
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException, MissingConfigException, OverrideParseException
from omegaconf import OmegaConf

from sparse_lightning import __version__
from sparse_lightning.functional.checks import nearest, with_hint
from sparse_lightning.study.sweep.names import key_of, sweep_with_groups
from sparse_lightning.study.sweep.progress import StudyProgress, failed, reason
from sparse_lightning.study.train.record import program, result_of, sentence
from sparse_lightning.study.train.resume import is_locked
from sparse_lightning.study.train.run import GROUPS, KEYS

TRIES = 4  # how often a multirun is started, when its launcher breaks down or other processes leave runs behind

USAGE = """\
Trains a sparse MLP on MNIST that is pruned and regrown between epochs, or any LightningModule on any data.

  {train}                                               one run
  {train} model.hebbian_grow=false seed=3               one run with two overrides
  {train} --config-name study                           the published experiment, 16 runs
  {train} -m model.hebbian_grow=true,false 'seed=range(8)'   the same, by overrides
  {train} -m sparsity=set,rigl,static 'seed=range(4)'   methods of the literature
  {report} FOLDER                                       the report of a folder of runs, at any time

Overrides are key=value; group=name chooses one of a group's files, and --config-dir FOLDER adds files of your own.
With -m a key may have several values, and each combination is a run, on every core (hydra.launcher.n_jobs=N for fewer).

Below are the files of each group, and then its keys with their defaults. A | B are the defaults of different files; a
key with (only FILE) is in that file alone.
"""


def command(main: Callable[[], object], conf: Path) -> None:
    """Run a Hydra `main` and exit: with status 0, or 1 and one or two sentences on what is wrong.

    A multirun whose launcher breaks down, or of which another process leaves runs behind, is started again. With
    HYDRA_FULL_ERROR=1 in the environment, errors are tracebacks.

    Args:
        main: The function that `hydra.main` made.
        conf: The folder of configuration files, whose comments are the help.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if "--version" in sys.argv[1:]:
        print(f"sparse_lightning {__version__}")
        sys.exit()
    OmegaConf.register_new_resolver("help_text", lambda: _help(conf), replace=True)
    traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises instead of printing
    try:
        sys.argv[1:] = [_in_the_case_of_files(word, conf) for word in sys.argv[1:]]
        _refuse_keys_as_options()
        _refuse_parts_as_configs(conf)
        if {"-m", "--multirun"} & set(sys.argv):
            _sweep_with_groups()
        for _ in range(TRIES):
            main()
            if _is_complete():
                break
            sys.argv[1:] = [override for override in sys.argv[1:] if key_of(override) != "force"]
        incomplete = _report()
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the key may be pressed more than once
        sys.exit(_stopped())
    except SystemExit as end:
        if StudyProgress.watch:
            StudyProgress.watch.stop()
            StudyProgress.watch.remove_unused()
        if StudyProgress.refused is None:
            raise
        sys.exit(f"Error: {explain(StudyProgress.refused, conf)}" if not traceback else end.code)
    except BrokenPipeError:  # what reads the output has ended, as in `--help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if traceback:
            raise
        print(f"Error: {explain(error, conf)}", file=sys.stderr)
        _report()
        incomplete = True
    sys.exit(incomplete)


def _in_the_case_of_files(word: str, conf: Path) -> str:
    """An override that chooses from a group, such as sparsity=SET,RigL, with the names of its files."""
    group, _, names = word.partition("=")
    folders = [folder / group for folder in (conf, _own_conf()) if folder and group in GROUPS]
    files = [path.relative_to(folder).with_suffix("") for folder in folders for path in folder.rglob("*.yaml")]
    known = {path.as_posix().lower(): path.as_posix() for path in reversed(files)} | {
        path.as_posix(): path.as_posix() for path in files
    }
    chosen = [known.get(name, known.get(name.lower(), name)) for name in names.split(",")]
    return f"{group}={','.join(chosen)}" if files else word


def _refuse_keys_as_options() -> None:
    """Refuse a key that is given as an option, such as --seed 3 or --model.density=0.1.

    Raises:
        ValueError: One is.
    """
    for word in sys.argv[1:]:
        key, _, value = word.lstrip("-").partition("=")
        if word.startswith("-") and key.partition(".")[0] in KEYS:
            raise ValueError(_as_override(word, key, value))


def _as_override(given: str, key: str, value: str = "") -> str:
    """The sentence on a key that is not given as key=value; without a value, that may be the word that follows."""
    following = sys.argv[sys.argv.index(given) + 1 :][:1] if given in sys.argv else []
    after = [word for word in following if word[:1] != "-" and "=" not in word]
    return f"Expected overrides as key=value, got {given!r}; write {key}={value or ''.join(after) or 'VALUE'}"


def _refuse_parts_as_configs(conf: Path) -> None:
    """Refuse a file of a group as the whole configuration, such as --config-name experiment/headline.

    Raises:
        ValueError: It is one.
    """
    group, _, name = (_option("--config-name", "-cn") or "").rpartition("/")
    if group and (conf / group / f"{name.removesuffix('.yaml')}.yaml").exists():
        raise ValueError(f"Expected --config-name to be a whole configuration, got a part of one; write {group}={name}")


def _own_conf() -> Path | None:
    """The folder of --config-dir, if it is given."""
    folder = _option("--config-dir", "-cd")
    return Path(folder).resolve() if folder else None


def _option(*names: str) -> str | None:
    """The value of an option of the command, by any of its names; None if it is not given."""
    given = dict(zip(sys.argv, sys.argv[1:], strict=False)) | dict(
        each.split("=", 1) for each in sys.argv if "=" in each
    )
    return next((given[name] for name in names if name in given), None)


def _sweep_with_groups() -> None:
    given = sys.argv[1:]
    try:
        changed = iter(sweep_with_groups([word for word in given if "=" in word and word[0] != "-"]))
    except OverrideParseException:
        return  # Hydra reports it
    sys.argv[1:] = [next(changed) if "=" in word and word[0] != "-" else word for word in given]


def explain(error: Exception, conf: Path) -> str:
    """An error in a sentence, with the nearest key where one does not exist."""
    text = str(error)
    if isinstance(error, OverrideParseException):
        given = str(error.override)
        if "=" not in given:
            return _as_override(given, given)
        return f"Expected overrides as key=value, got {given!r}, which cannot be read: {text.splitlines()[0]}"
    if missing := re.search(r"Could not find '(.*)/(.*)'", text) or re.search(r"Could not load '(.*)/(.*)'", text):
        group, name = missing.groups()
        options = sorted(
            line.strip() for line in text.partition("Available options")[2].splitlines()[1:] if line.strip()
        )
        options = [option for option in options if re.fullmatch(r"[\w.-]+", option)]
        return _one_of(group, name, options)
    if missing := re.search(r"Cannot find primary config '(.*?)'", text):
        return _one_of("--config-name", missing[1], sorted(path.stem for path in conf.glob("*.yaml")))
    if unknown := re.search(r"Could not override '(.*?)'", text):
        key = unknown[1]
        keys, group = _keys(conf), key.partition(".")[0]
        if group == "sparsity" and "sparsity.density" not in keys:
            return f"Expected sparsity=NAME to choose what has {key!r}, as in sparsity=set; +{key} adds an argument"
        if key in keys:
            alone = "sweep it in a command of its own, into the same output_dir"
            return f"Expected a key that every {group} of the sweep has, got {key!r}; {alone}"
        if own := [each.partition(".")[2] for each in keys if each.startswith(f"{group}.")]:
            return f"Expected a key of {group} ({', '.join(own)}), got {key!r}{suggest(key, keys)}"
        return f"Expected a key of the configuration, got {key!r}{suggest(key, keys)}"
    if there := re.search(r"Could not append to config. An item is already at '(.*?)'", text):
        return f"Expected {there[1]}=VALUE without the +, since the configuration has that key"
    if missing := re.search(r"Additional config directory '(.*)' not found", text):
        return f"Expected --config-dir to be a folder, got {missing[1]}"
    several = re.search(r"Sweep parameters '(.*)' requires --multirun|Ambiguous value for argument '(.*)'", text)
    if several:
        return f"Expected one value for each key, got several in {several[1] or several[2]!r}; -m runs them all"
    if isinstance(error, ConfigCompositionException | MissingConfigException):
        return " ".join(text.partition("Config search path")[0].split())
    return sentence(error)


def suggest(key: str, keys: list[str]) -> str:
    """The key that was meant, perhaps: the same last name elsewhere, its initials, or a similar one.

    >>> keys = ["model", "model.learning_rate", "model.lr_gamma", "model.hebbian_grow", "logger"]
    >>> [suggest(key, keys) for key in ("model.lr", "model.hebian_grow", "trainer.logger")]
    [". Did you mean 'model.learning_rate'?", ". Did you mean 'model.hebbian_grow'?", ". Did you mean 'logger'?"]
    >>> suggest("epochs", ["trainer", "trainer.max_epochs"]), suggest("data.num_train", ["data", "trainer"])
    (". Did you mean 'trainer.max_epochs'?", '')
    """
    group, _, leaf = key.rpartition(".")
    names = {each: each.rpartition(".")[2] for each in sorted(keys, key=lambda each: each.rpartition(".")[0] != group)}
    same = [each for each, name in names.items() if name == leaf]
    initials = [each for each, name in names.items() if "".join(word[0] for word in name.split("_")) == leaf]
    beside = [name for each, name in names.items() if each.rpartition(".")[0] == group]
    near = difflib.get_close_matches(leaf, beside, n=1)
    near = near or difflib.get_close_matches(leaf, names.values(), n=1, cutoff=0.8)  # in another group
    near += [name for name in names.values() if leaf in name.split("_") or name in leaf.split("_")]
    similar = [each for each, name in names.items() if name in near]
    longer = [each for each, name in names.items() if name.startswith(leaf)]
    found = [*same, *initials, *similar, *longer]
    return f". Did you mean {found[0]!r}?" if found else ""


def _one_of(what: str, name: str, options: list[str]) -> str:
    """The sentence on a name that is none of these."""
    meant = "none" if name.lower() in ("dense", "off") and "none" in options else name
    return with_hint(f"Expected {what} to be one of {', '.join(options)}, got {name!r}", nearest(meant, options))


def _is_complete() -> bool:
    """Wait for runs that other processes train; whether all have ended."""
    study = StudyProgress.watch
    while study and any(map(is_locked, study.unfinished())):
        time.sleep(1)
    return not study or not study.unfinished()


def _stopped() -> str:
    study = StudyProgress.watch
    if study is None:
        return "Stopped."
    study.stop()
    runs = study.runs()
    done = len(runs) - len(study.missing())
    return f"Stopped with {done} of {len(runs)} runs finished. The same command{_unforced()} does the rest."


def _unforced() -> str:
    return ", without force," if any(key_of(override) == "force" for override in sys.argv[1:]) else ""


def _report() -> bool:
    """Make the report of the multirun, if it was one; whether any of its runs failed or diverged."""
    study = StudyProgress.watch
    if study is None:
        return False
    study.stop()
    missing, runs = study.missing(), study.runs()
    diverged = [path for path in runs if result_of(path).get("diverged")]
    shown = ""
    if len(missing) < len(runs) and not study.report:
        print("", study.folder, sep="\n")
    elif len(missing) < len(runs):
        print("Making the report ...", flush=True)
        try:
            from sparse_lightning.study.analysis.report import make_report

            shown = make_report(study.folder)
        except Exception as error:  # whatever it is, the runs are there
            shown = f"The report could not be made: {sentence(error)}"
        print("", shown, "", study.folder, sep="\n")
    if missing:
        once = "once what went wrong is put right, " if all(map(failed, missing)) else ""
        again = f"{once}the same command{_unforced()} tries them again"
        print("", f"{len(missing)} of {len(runs)} runs have not finished; {again}.", sep="\n")
        for text in dict.fromkeys(text for text in map(reason, missing) if text not in shown):
            same = [path for path in missing if reason(path) == text]
            more = f" and {len(same) - 1} more" if len(same) > 1 else ""
            print(f"  {same[0].name}{more}: {text} ({same[0]})")
    if diverged:
        print(
            "", f"{len(diverged)} of {len(runs)} runs diverged: {', '.join(path.name for path in diverged)}", sep="\n"
        )
    return bool(missing or diverged)


def _keys(conf: Path) -> list[str]:
    """The keys of the configuration, with the groups that the command chooses, as far as it can be read.

    Of the files of a group that is swept the first counts.
    """
    chosen = [each.partition(",")[0] for each in sys.argv[1:] if key_of(each) in GROUPS]
    if folder := _own_conf():
        chosen.append(f"hydra.searchpath=['file://{folder}']")
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf.resolve()), version_base="1.3"):
        try:
            config = compose("config", chosen)
        except Exception:  # what is wrong with it is not what this is asked for
            config = compose("config")
    groups = {str(key): value if OmegaConf.is_dict(value) else {} for key, value in config.items()}
    own = [f"{key}.{name}" for key, names in groups.items() for name in names if not str(name).startswith("_")]
    return [*groups, *own]


def _place(group: str) -> int:
    """Where a group stands in the help: those that most overrides are of come first."""
    return ("sparsity", "model", "data", "trainer", "experiment", "callbacks", "logger", group).index(group)


def _described(lines: Iterable[str]) -> Iterator[tuple[str, str, str]]:
    """The keys of a YAML file that have words beside them: dotted name, value, words.

    >>> list(_described(["seed: 0  # decides", "report:", "  metric: val_acc  # judges", "  other: 1"]))
    [('seed', '0', 'decides'), ('report.metric', 'val_acc', 'judges')]
    """
    around: list[tuple[int, str]] = []
    for line in lines:
        if match := re.match(r"( *)(\w+):(?: +(.+?))?(?: +# (.+))?$", line):
            indent, key, value, words = match.groups()
            around = [*(each for each in around if each[0] < len(indent)), (len(indent), key)]
            if value and words:
                yield ".".join(name for _, name in around), value, words


def _help(conf: Path) -> str:
    """Usage, and every key with the words beside it in its file."""
    train = program()
    sections = [USAGE.format(train=train, report=train.replace("train", "report"))]
    folders = sorted(path for path in conf.rglob("*") if path.is_dir())
    for folder in (conf, *sorted(folders, key=lambda path: _place(path.relative_to(conf).parts[0]))):
        paths, group = sorted(folder.glob("*.yaml")), folder.relative_to(conf).as_posix().strip(".")
        choice = f"{group}=" if "/" not in group or group.startswith("hydra/") else f"{group.replace('/', '=', 1)}/"
        names = [f"{choice}{path.stem}" if group else f"--config-name {path.stem}" for path in paths]
        values: dict[str, dict[str, str]] = {}  # of each key, by file
        descriptions: dict[str, str] = {}
        default = {"model": "sparse_mlp", "sparsity": "set"}.get(group)  # whose words count first
        texts = {path: path.read_text(encoding="utf-8").splitlines() for path in paths}
        for path in sorted(paths, key=lambda each: each.stem != default):
            for key, value, words in _described(texts[path]):
                values.setdefault(key, {})[path.stem] = value
                descriptions.setdefault(key, words)
        for name, lines in zip(names, texts.values(), strict=True):
            title = next((line[2:] for line in lines if line.startswith("# ") and not line.startswith("# @")), "")
            sections.append(f"{name:<{max(map(len, names))}}  {title}".rstrip())
        prefix = f"{group.replace('/', '.')}." if group else ""
        for key, words in descriptions.items():
            found = values[key]
            only = f"  (only {', '.join(found)})" if group and 2 * len(found) <= len(paths) else ""
            sections.append(f"  {prefix}{key}={' | '.join(dict.fromkeys(found.values()))}{only}\n      {words}")
        if any(len({*found.values()}) > 1 for found in values.values()):
            sections.append(f"  A | B: files differ; {train} {choice}NAME --cfg job shows the values of one")
        sections += [""] if paths else []
    return "\n".join(sections).replace("$", "$$")  # Hydra makes a template of it
