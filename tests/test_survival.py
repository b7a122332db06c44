"""Studies that are killed, damaged, started twice or sent elsewhere, and what comes of them."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, SHORT, script
from survival import command, descendants, differences, holders, results, rows, torment

from sparse_lightning.study import load_runs
from sparse_lightning.study.record import write
from sparse_lightning.study.resume import BusyError, claimed, is_claimed, last_checkpoint

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are watched in /proc")
EPOCHS, SEEDS = 3, 4


def study(folder: Path, *more: str, seeds: int = SEEDS, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(folder, EPOCHS, seeds, *more), capture_output=True, text=True, check=False, **options)


@pytest.fixture(scope="module")
def peace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of eight runs that nothing has interrupted."""
    folder = tmp_path_factory.mktemp("study") / "peace"
    assert study(folder).returncode == 0
    return folder


def test_a_study_whose_processes_are_killed_again_and_again_ends_as_if_in_peace(peace, tmp_path):
    happened = torment(tmp_path, EPOCHS, SEEDS, kills=20)
    assert len(happened["kills"]) == 20
    assert {"writing a checkpoint", "in the last epoch"} <= set(happened["kills"])
    assert happened["trained again"] == []
    assert differences(peace, tmp_path) == []


def test_the_same_command_trains_nothing_twice_and_adds_what_is_new(peace, tmp_path):
    folder = shutil.copytree(peace, tmp_path / "study")
    before = results(folder)
    said = study(folder, "model.hebbian_grow=null", "seed=range(5)")
    assert said.returncode == 0
    assert len(results(folder)) == 13
    assert before.items() <= results(folder).items()
    assert "hebbian_grow=null,seed=4" in results(folder)
    assert set(load_runs(folder)["status"]) == {"finished"}


def test_another_configuration_is_refused_with_the_difference_and_force_trains_it_anew(peace, tmp_path):
    folder = shutil.copytree(peace, tmp_path / "study")
    before = results(folder)
    refused = study(folder, "model.density=0.1")
    assert refused.returncode == 1
    assert "got one with model.density=0.2, not 0.1. Say another output_dir, or force=true" in refused.stderr
    assert results(folder) == before
    one = folder / "hebbian_grow=true,seed=0"
    alone = ["trainer.max_epochs=1", *SHORT, "force=true", f"output_dir='{one}'"]
    script("train.py", *alone)
    assert len(list(one.glob("events.*"))) == 2
    assert rows(one) == 1


def test_other_data_are_refused(peace, tmp_path):
    run = shutil.copytree(peace / "hebbian_grow=true,seed=0", tmp_path / "run")
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("data_sha256: ", "data_sha256: 0"))
    settings = command(run, EPOCHS, 1)[4:]
    said = script(
        "train.py", "seed=0", *(each for each in settings if "seed" not in each and "n_jobs" not in each), check=False
    )
    assert said.returncode == 1
    assert "got one with data_sha256=0" in said.stderr


def test_a_run_that_raises_and_one_that_is_killed_leave_the_others_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
    done = study(tmp_path, "model._target_=failing.Failing", "model.hebbian_grow=true")
    assert done.returncode == 1
    frame = load_runs(tmp_path).set_index("seed")
    assert dict(frame["status"]) == {0: "finished", 1: "failed", 2: "failed", 3: "finished"}
    traceback = (tmp_path / "seed=1" / "error.txt").read_text()
    assert traceback.startswith("Traceback")
    assert traceback.endswith("RuntimeError: no luck in epoch 1\n")
    end = done.stdout[done.stdout.index("2 runs have not finished; the same command tries them again:") :]
    assert f"seed=1: RuntimeError: no luck in epoch 1 ({tmp_path / 'seed=1' / 'error.txt'})" in end
    assert "seed=2: Expected the process of the run to end by itself, got one that was killed (SIGKILL" in end
    assert (tmp_path / "report.html").exists()
    again = study(tmp_path, "model._target_=failing.Failing", "model.hebbian_grow=true")
    assert again.returncode == 1
    assert rows(tmp_path / "seed=1") == 1


@pytest.mark.parametrize("group", [True, False])
def test_an_interrupt_stops_every_process_and_the_same_command_does_the_rest(peace, tmp_path, group):
    with subprocess.Popen(
        command(tmp_path, EPOCHS, SEEDS),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        while not holders(tmp_path):
            assert process.poll() is None
            time.sleep(0.05)
        every = [process.pid, *descendants(process.pid)]
        (os.killpg if group else os.kill)(process.pid, signal.SIGINT)
        said = process.stderr.read()
    assert process.returncode == 1
    assert "of 8 runs finished. The same command does the rest." in said
    assert "Traceback" not in said
    while any(Path(f"/proc/{pid}").exists() for pid in every):
        time.sleep(0.05)
    assert study(tmp_path).returncode == 0
    assert differences(peace, tmp_path) == []


def test_two_starts_at_once_train_each_run_once(peace, tmp_path):
    both = [subprocess.Popen(command(tmp_path, EPOCHS, SEEDS), stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert differences(peace, tmp_path) == []
    for run in tmp_path.glob("*/result.json"):
        assert len(list(run.parent.glob("events.*"))) == 2  # of the training, and of its result


def test_a_lock_is_let_go_of_when_its_process_dies(tmp_path):
    code = "from sparse_lightning.study.resume import claimed\nfrom pathlib import Path\n"
    code += f"with claimed(Path({str(tmp_path)!r})): print('mine', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"mine\n"
        assert is_claimed(tmp_path)
        with pytest.raises(BusyError, match="another process that is training it"), claimed(tmp_path):
            pass
        process.kill()
    with claimed(tmp_path):
        pass
    assert not is_claimed(tmp_path)


def interrupted(peace: Path, folder: Path) -> Path:
    """A run that was stopped after its last epoch but one."""
    settings = [each for each in command(folder, EPOCHS, 1)[4:] if "seed=" not in each and "n_jobs" not in each]
    with subprocess.Popen(
        [sys.executable, ROOT / "scripts" / "train.py", *settings], stdout=subprocess.DEVNULL
    ) as process:
        while rows(folder) < EPOCHS - 1 or not list(folder.glob("checkpoints/last.ckpt.previous")):
            assert process.poll() is None
        process.kill()
    return folder


def go_on(folder: Path, *more: str, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
    settings = [each for each in command(folder, EPOCHS, 1)[4:] if "seed=" not in each and "n_jobs" not in each]
    line = [sys.executable, ROOT / "scripts" / "train.py", *settings, *more]
    done = subprocess.run(line, capture_output=True, text=True, check=False, **options)
    assert not check or done.returncode == 0, done.stderr
    return done


def same_as_in_peace(peace: Path, folder: Path, tmp_path: Path) -> bool:
    one, other = tmp_path / "one", tmp_path / "other"
    shutil.copytree(peace / "hebbian_grow=true,seed=0", one / "run")
    shutil.copytree(folder, other / "run")
    return differences(one, other) == []


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage", [lambda path: path.write_bytes(path.read_bytes()[:-1000]), flip, lambda path: path.write_bytes(b"")]
)
def test_a_damaged_checkpoint_is_reported_and_the_one_before_is_used(peace, tmp_path, damage):
    run = interrupted(peace, tmp_path / "run")
    damage(run / "checkpoints" / "last.ckpt")
    assert "last.ckpt to be a checkpoint, got a damaged file" in go_on(run).stderr
    assert same_as_in_peace(peace, run, tmp_path)


def test_with_no_checkpoint_to_be_read_a_run_begins_anew(peace, tmp_path):
    run = interrupted(peace, tmp_path / "run")
    for path in (run / "checkpoints").iterdir():
        path.write_bytes(b"PK")
    assert last_checkpoint(run)[0] is None
    assert "going on from the start" in go_on(run).stderr
    assert same_as_in_peace(peace, run, tmp_path)


def test_damaged_metrics_stop_a_run_with_a_sentence(peace, tmp_path):
    run = interrupted(peace, tmp_path / "run")
    (run / "metrics.csv").write_text("what\never\n")
    done = go_on(run, check=False)
    assert done.returncode == 1
    assert "metrics.csv to have a row an epoch, got a damaged file; force=true trains the run anew" in done.stderr
    go_on(run, "force=true")
    assert same_as_in_peace(peace, run, tmp_path)


def test_a_disk_that_is_full_stops_a_run_with_a_sentence_and_it_goes_on_when_there_is_room(peace, tmp_path):
    def no_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))

    run = tmp_path / "run"
    done = go_on(run, check=False, preexec_fn=no_room)
    assert done.returncode == 1
    assert "Expected to be able to use" in done.stderr
    assert "File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(run.glob("**/*.part"))
    go_on(run)
    assert same_as_in_peace(peace, run, tmp_path)


def test_a_file_that_cannot_be_written_stays_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    write(path, "old")
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError(30, "Read-only file system")))
    with pytest.raises(OSError, match="Read-only"):
        write(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("launcher", ["basic", "submitit_local", "ray_cpu"])
def test_every_launcher_comes_to_the_same(peace, tmp_path, launcher):
    if launcher == "submitit_local":
        pytest.importorskip("submitit")
    if launcher == "ray_cpu":
        pytest.importorskip("ray")
    line = [each for each in command(tmp_path / "all", EPOCHS, 1) if "n_jobs" not in each]
    done = subprocess.run([*line, f"hydra/launcher={launcher}"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name in ("hebbian_grow=true", "hebbian_grow=false"):
        shutil.copytree(peace / f"{name},seed=0", tmp_path / "peace" / name)
    assert differences(tmp_path / "peace", tmp_path / "all") == []


def test_a_run_on_two_processes_continues_after_a_kill_to_the_same_bits(tmp_path):
    pair = ["trainer.devices=2", "trainer.strategy=ddp"]
    straight, killed = tmp_path / "straight" / "run", tmp_path / "killed" / "run"
    assert "distributed" not in go_on(straight, *pair).stderr
    for line in ([*go_on_line(killed), *pair],):
        with subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            while rows(killed) < 2:
                assert process.poll() is None
            process.kill()
    while holders(killed.parent):
        time.sleep(0.05)
    go_on(killed, *pair)
    assert differences(straight.parent, killed.parent) == []
    assert "Expected trainer.devices=1 in a multirun" in study(tmp_path / "grid", *pair, seeds=1).stdout


def go_on_line(folder: Path) -> list[str]:
    settings = [each for each in command(folder, EPOCHS, 1)[4:] if "seed=" not in each and "n_jobs" not in each]
    return [sys.executable, str(ROOT / "scripts" / "train.py"), *settings]


def test_checkpoints_hold_plain_values(peace):
    path, checkpoint, damaged = last_checkpoint(peace / "hebbian_grow=false,seed=1")
    assert path is not None
    assert (checkpoint["epoch"], damaged) == (EPOCHS - 1, [])
    assert torch.load(path, weights_only=True)["epoch"] == EPOCHS - 1
