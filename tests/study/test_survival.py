"""Studies that are killed, damaged or started twice, and runs continued in folders where something is wrong."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import forked
import pytest
import torch
from common import ROOT
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from survival import alone, command, descendants, differences, holders, results, rows, torment

from sparse_lightning.study import load_runs
from sparse_lightning.study.sweep.launcher import finish, start
from sparse_lightning.study.sweep.names import run_name
from sparse_lightning.study.train.record import Job, result_of, write
from sparse_lightning.study.train.resume import RunLockedError, is_locked, last_checkpoint, locked
from sparse_lightning.study.train.run import attempt

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="processes are watched in /proc"),
]
EPOCHS, SEEDS, KILLS = 3, 2, 4  # survival.py itself does it with more
HEBBIAN = "hebbian_grow=true,seed=0"


def study(folder: Path, *more: str, seeds: int = 1) -> subprocess.CompletedProcess[str]:
    """Run the command for two arms of so many seeds."""
    return forked.run(command(folder, EPOCHS, seeds, *more))


@pytest.fixture(scope="module")
def peace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of four runs that nothing has interrupted."""
    folder = tmp_path_factory.mktemp("study") / "peace"
    assert study(folder, seeds=SEEDS).returncode == 0
    return folder


def copy_of(peace: Path, folder: Path, *names: str) -> Path:
    """Some runs of the study."""
    for name in names:
        shutil.copytree(peace / name, folder / name)
    return folder


# Whole studies, by the command.


def test_a_study_whose_processes_are_killed_again_and_again_ends_as_if_left_in_peace(peace, tmp_path):
    happened = torment(tmp_path, EPOCHS, SEEDS, kills=KILLS)
    assert len(happened["kills"]) == KILLS
    assert {"writing a checkpoint", "in the last epoch"} <= set(happened["kills"])
    assert happened["trained again"] == []
    for study in happened["studies"]:
        assert differences(peace, study) == []


def test_the_same_command_trains_nothing_twice_adds_new_runs_and_refuses_other_settings(peace, tmp_path):
    assert not (peace / "report.html").exists()  # report.make is false
    folder = copy_of(peace, tmp_path / "peace", HEBBIAN, "hebbian_grow=false,seed=0")
    before = results(folder)
    refused = study(folder, "model.density=0.1")
    assert refused.returncode == 1
    assert "got one with model.density=0.2, not 0.1. Choose another output_dir, or force=true" in refused.stderr
    assert results(folder) == before
    assert study(folder, "model.hebbian_grow=true,null", seeds=2).returncode == 0
    new = {"hebbian_grow=true,seed=1", "hebbian_grow=null,seed=0", "hebbian_grow=null,seed=1"}
    assert results(folder).keys() == before.keys() | new
    assert before.items() <= results(folder).items()
    assert (
        differences(
            copy_of(peace, tmp_path / "one", "hebbian_grow=true,seed=1"),
            copy_of(folder, tmp_path / "two", "hebbian_grow=true,seed=1"),
        )
        == []
    )


def test_a_run_that_raises_and_one_that_is_killed_leave_the_others_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
    done = study(tmp_path, "model._target_=failing.Failing", "model.hebbian_grow=true", "report.make=true", seeds=4)
    assert done.returncode == 1
    frame = load_runs(tmp_path).set_index("seed")
    assert dict(frame["status"]) == {0: "finished", 1: "failed", 2: "failed", 3: "finished"}
    traceback = (tmp_path / "seed=1" / "error.txt").read_text()
    assert traceback.startswith("Traceback")
    assert traceback.endswith("RuntimeError: no luck in epoch 1\n")
    assert (
        "2 of 4 runs have not finished; once what went wrong is put right, the same command tries them again."
        in done.stdout
    )
    assert done.stdout.count("RuntimeError: no luck in epoch 1") == 2  # as it ends, and among those left out
    assert done.stdout.count("Expected the process of the run to end by itself, got one that was killed (SIGKILL") == 2
    assert "seed=1  failed after 1 epoch: RuntimeError: no luck in epoch 1" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert (tmp_path / "report.html").exists()


@pytest.mark.parametrize("seconds", [0.0, 2.0])
def test_an_interrupt_while_processes_start_is_one_sentence(tmp_path, seconds):
    line = command(tmp_path, 50, 1)
    with subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True) as process:
        while not descendants(process.pid):  # its fork server, which imports PyTorch
            assert process.poll() is None
        time.sleep(seconds)
        os.killpg(process.pid, signal.SIGINT)
        os.kill(process.pid, signal.SIGINT)
        printed = process.stderr.read().decode()
    assert (process.returncode, printed) == (1, "Stopped with 0 of 2 runs finished. The same command does the rest.\n")


@pytest.mark.parametrize("group", [True, False])
def test_an_interrupt_stops_every_process_and_says_how_to_continue(tmp_path, group):
    with subprocess.Popen(
        command(tmp_path, 50, 1), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        while not any(rows(run) > 1 for run in holders(tmp_path)):
            assert process.poll() is None
            time.sleep(0.05)
        every = [process.pid, *descendants(process.pid)]
        (os.killpg if group else os.kill)(process.pid, signal.SIGINT)
        printed = process.stderr.read()
    assert process.returncode == 1
    assert printed == "Stopped with 0 of 2 runs finished. The same command does the rest.\n"
    while any(Path(f"/proc/{pid}").exists() for pid in every):
        time.sleep(0.05)
    assert {path.name for path in tmp_path.glob("*/checkpoints/*")} >= {"last.ckpt"}


def test_two_starts_at_once_train_each_run_once(peace, tmp_path):
    folder, line = tmp_path / "study", command(tmp_path / "study", EPOCHS, 1)
    both = [subprocess.Popen(line, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    for grow in ("true", "false"):  # of one seed, which their names then leave out
        shutil.copytree(peace / f"hebbian_grow={grow},seed=0", tmp_path / "peace" / f"hebbian_grow={grow}")
    assert differences(tmp_path / "peace", folder) == []
    for run in folder.glob("*/result.json"):
        assert len(list(run.parent.glob("events.*"))) == 2  # of the training, and of its result


# Single runs, by what the command calls.


def train(folder: Path, *overrides: str, work: Callable[[Job], None] = attempt) -> bool:
    """Do what is left of the study's first run; whether it has finished then."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose(
            "config",
            [*alone(EPOCHS), f"logger.tensorboard.folder='{folder}'", *overrides],
        )
    folder.mkdir(exist_ok=True)
    job = Job(OmegaConf.to_yaml(cfg, resolve=True), folder, frozenset(), alone=False)
    if work is attempt:
        attempt(job)
    else:
        finish(start(job, work), job)
    return bool(result_of(folder)) and not (folder / "error.txt").exists()


def killed_in_the_last_epoch(job: Job) -> None:
    def kill() -> None:
        while rows(job.folder) < EPOCHS - 1 or not list(job.folder.glob("checkpoints/last.ckpt.previous")):
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=kill, daemon=True).start()
    attempt(job)


def on_a_full_disk(job: Job) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
    attempt(job)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed before its end, with two checkpoints."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    assert not train(folder, work=killed_in_the_last_epoch)
    assert "got one that was killed (SIGKILL" in (folder / "error.txt").read_text()
    return folder


@pytest.fixture
def run(stopped: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(stopped, tmp_path / HEBBIAN)


def ends_as_in_peace(peace: Path, run: Path) -> bool:
    whole = copy_of(peace, run.parent / "peace", HEBBIAN)
    one = run.parent / "one"
    shutil.move(run, one / HEBBIAN)
    return differences(whole, one) == []


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [cut, flip, empty])
def test_a_damaged_checkpoint_is_reported_and_the_one_before_is_used(peace, run, damage, capfd):
    damage(run / "checkpoints" / "last.ckpt")
    assert train(run)
    printed = capfd.readouterr().err
    assert "last.ckpt to be a checkpoint, got a damaged file" in printed
    assert "continuing after epoch" in printed
    assert ends_as_in_peace(peace, run)


def test_a_run_without_a_usable_checkpoint_starts_again(peace, run, capfd):
    for path in (run / "checkpoints").iterdir():
        path.write_bytes(b"PK")
    assert last_checkpoint(run)[0] is None
    assert train(run)
    assert "continuing from the start" in capfd.readouterr().err
    assert ends_as_in_peace(peace, run)


def test_damaged_metrics_stop_a_run_with_a_sentence_and_force_trains_it_again(peace, run):
    (run / "metrics.csv").write_text("what\never\n")
    assert not train(run)
    reason = (run / "error.txt").read_text().splitlines()[-1]
    assert reason.endswith("got a damaged file; force=true trains the run from the start")
    assert train(run, "force=true")
    assert ends_as_in_peace(peace, run)


def test_a_full_disk_stops_a_run_with_a_sentence_and_it_continues_when_there_is_space(peace, tmp_path):
    run = tmp_path / HEBBIAN
    assert not train(run, work=on_a_full_disk)
    reason = (run / "error.txt").read_text().splitlines()[-1]
    assert reason.startswith(f"Expected to be able to use {run / 'checkpoints'}")
    assert reason.endswith("got: File too large")
    assert not list(run.glob("**/*.part"))
    assert train(run)
    assert not (run / "error.txt").exists()
    assert ends_as_in_peace(peace, run)


def test_other_settings_and_other_data_are_refused_and_nothing_is_touched(run, capfd):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert not train(run, "model.density=0.1")
    assert "got one with model.density=0.2, not 0.1. Choose another output_dir, or force=true" in capfd.readouterr().err
    config = run / "config.yaml"
    before[config] = config.read_bytes().replace(b"data_sha256: ", b"data_sha256: 0")
    config.write_bytes(before[config])
    assert not train(run)
    assert "got one with data_sha256=0" in capfd.readouterr().err
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_run_on_several_devices_is_refused_in_a_multirun(tmp_path):
    assert not train(tmp_path / "run", "trainer.devices=2")
    assert "Expected trainer.devices=1 in a multirun" in (tmp_path / "run" / "error.txt").read_text()


def test_a_lock_is_released_when_its_process_dies(tmp_path):
    code = "from sparse_lightning.study.train.resume import locked\nfrom pathlib import Path\n"
    code += f"with locked(Path({str(tmp_path)!r})): print('mine', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"mine\n"
        assert is_locked(tmp_path)
        with pytest.raises(RunLockedError, match="another process that is training it"), locked(tmp_path):
            pass
        process.kill()
    with locked(tmp_path):
        pass
    assert not is_locked(tmp_path)


def test_a_file_that_cannot_be_written_stays_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    write(path, "old")
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError(30, "Read-only file system")))
    with pytest.raises(OSError, match="Read-only"):
        write(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_in_place_of_a_temporary_file_is_not_followed(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("theirs")
    (tmp_path / "result.json.part").symlink_to(elsewhere)
    write(tmp_path / "result.json", "ours")
    assert elsewhere.read_text() == "theirs"
    assert (tmp_path / "result.json").read_text() == "ours"
    assert not (tmp_path / "result.json").is_symlink()


# Folders in which something is of another run, or of another kind.


def lacking_keys(path: Path) -> None:
    torch.save({"state_dict": {}}, path)


def a_directory(path: Path) -> None:
    path.unlink()
    (path / "inside").mkdir(parents=True)


def of_another_run(path: Path) -> None:
    content = torch.load(path, weights_only=True)
    content["settings"]["seed"] = 1
    torch.save(content, path)


@pytest.mark.parametrize("damage", [lacking_keys, a_directory, of_another_run])
def test_a_checkpoint_of_another_kind_is_reported_and_the_one_before_is_used(peace, run, damage, capfd):
    damage(run / "checkpoints" / "last.ckpt")
    assert train(run)
    printed = capfd.readouterr().err
    assert f"Expected {run / 'checkpoints' / 'last.ckpt'} to be " in printed
    assert "continuing after epoch" in printed
    assert ends_as_in_peace(peace, run)


def test_a_run_whose_configuration_is_deleted_is_refused_to_another_and_continues_as_itself(peace, run, capfd):
    (run / "config.yaml").unlink()
    assert not train(run, "seed=5")
    assert "got one with model.seed=0, not 5" in capfd.readouterr().err
    assert not (run / "config.yaml").exists()
    assert train(run)
    assert ends_as_in_peace(peace, run)


@pytest.mark.parametrize("content", ["{}", '{"val_acc_last": "high"}', "[1, 2]", "[" * 100_000, '{"epochs": 3}'])
def test_a_result_of_another_shape_is_written_again(peace, run, content):
    (run / "result.json").write_text(content)
    assert train(run)
    assert ends_as_in_peace(peace, run)


def test_a_configuration_of_aliases_is_refused_at_once(run, capfd):
    bomb = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    bomb += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]
    (run / "config.yaml").write_text("\n".join(bomb))
    assert not train(run)
    assert "config.yaml to be a configuration, got a damaged file" in capfd.readouterr().err


def test_names_are_cut_by_their_bytes():
    name = run_name([f"model.name={'重' * 90}", "seed=1"], [])
    assert len(name.encode()) <= 120
    assert name != run_name([f"model.name={'重' * 90}", "seed=2"], [])


def test_a_diverged_run_is_named_and_the_status_says_so(tmp_path):
    done = study(tmp_path, "model.hebbian_grow=true,null", "model.learning_rate=1e30", "trainer.max_epochs=1")
    assert done.returncode == 1
    assert "2 of 2 runs diverged: hebbian_grow=true, hebbian_grow=null" in done.stdout
    result = json.loads((tmp_path / "hebbian_grow=null" / "result.json").read_text())
    assert result["diverged"].endswith("_loss is nan after 1 epoch")


@pytest.mark.parametrize(("kind", "seconds"), [(signal.SIGKILL, 0.0), (signal.SIGTERM, 2.0)])
def test_no_process_outlives_the_one_that_started_it(tmp_path, kind, seconds):
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command(tmp_path, 50, 1), start_new_session=True, **quiet) as process:
        while not descendants(process.pid):  # its fork server
            assert process.poll() is None
        time.sleep(seconds)
        started = descendants(process.pid)
        process.send_signal(kind)
    while any(Path(f"/proc/{pid}").exists() for pid in started):
        time.sleep(0.05)
    time.sleep(1)
    assert not holders(tmp_path)
