"""Training on two processes: the same masks on each, statistics of both, and no silent divergence."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import distributed
import forked
import pytest
import torch
from watching import equal_states

pytestmark = pytest.mark.slow
SCRIPT = Path(__file__).with_name("distributed.py")


def run(case: str, folder: Path) -> list[dict[str, Any]]:
    """What each of the two processes found."""
    paths = [str(SCRIPT.parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, SCRIPT, case, folder]
    done = forked.run(command, env=environment, processes=2)
    found = [folder / f"{case}-{rank}.pt" for rank in range(2)]
    assert all(path.exists() for path in found), done.stderr
    return [torch.load(path, weights_only=True) for path in found]


@pytest.fixture(scope="module")
def agreeing(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return run("agreeing", tmp_path_factory.mktemp("agreeing"))


@pytest.mark.parametrize("growth", ["random", "hebbian", "gradient", "momentum", "resnet"])
def test_masks_weights_and_statistics_are_the_same_on_every_process(agreeing, growth):
    one, other = (found[growth] for found in agreeing)
    equal_states(other["callback"], one["callback"])
    assert one["callback"]["rewirings"]["number"] == (1 if growth == "resnet" else 3)
    assert sum(one["callback"]["rewirings"]["grown"].values()) > 0
    for name, mask in one["callback"]["masks"].items():
        for found in (one, other):
            assert not found["weights"][name][~mask].any()
        assert one["weights"][name].equal(other["weights"][name])


@pytest.mark.parametrize("growth", ["random", "gradient", "momentum", "soft_cannistraci_hebb"])
@pytest.mark.parametrize("way", ["csr", "falling"])
def test_connections_alone_and_a_density_that_falls_agree_on_every_process(agreeing, way, growth):
    one, other = (found[f"{way} {growth}"] for found in agreeing)
    equal_states(other, one)
    assert one["callback"]["rewirings"]["number"] == 3
    values = [one["weights"][name] for name in one["weights"] if name.endswith(".values")]
    masks = one["callback"]["masks"].values()
    counts = [len(each) for each in values] if "csr" in way else [int(mask.sum()) for mask in masks]
    assert counts == ([48, 24] if way == "csr" else [24, 12])


@pytest.mark.parametrize(
    ("method", "active"),
    [("snip", 36), ("grasp", 36), ("dsr", 36), ("lottery ticket", 36), ("fan_in", 76), ("fan_in:0.6", 76), ("2:4", 76)],
)
def test_first_batches_redistribution_rewinding_and_structure_agree_on_every_process(agreeing, method, active):
    one, other = (found[method] for found in agreeing)
    equal_states(other, one)
    assert sum(int(mask.sum()) for mask in one["callback"]["masks"].values()) == active
    assert one["callback"]["rewirings"]["number"] > 0


def test_a_run_on_two_processes_continues_to_the_bit(agreeing):
    for found in agreeing:
        equal_states(found["continued"], found["hebbian"])


@pytest.mark.filterwarnings(
    "ignore:You defined a `validation_step`",
    "ignore:The 'train_dataloader' does not have many",
    "ignore:PruneRegrow will not rewire in this training",
)
def test_two_processes_together_count_what_one_alone_would(agreeing):
    alone, (first, second) = distributed.still(processes=1), (found["still"] for found in agreeing)
    assert set(alone["samples"].values()) == {24}
    assert set(first["samples"].values()) == set(second["samples"].values()) == {12}
    assert first["callback"]["statistics"]["coactivation"]["samples"] == alone["samples"]
    counts = [found["callback"]["statistics"]["coactivation"]["counts"] for found in (alone, first, second)]
    assert any(count.any() for count in counts[0].values())
    for name, count in counts[0].items():
        assert all(count.equal(other[name].to(count.dtype)) for other in counts[1:])


def test_a_rule_that_differs_between_processes_stops_all_of_them_with_the_layers_named(tmp_path):
    for found in run("apart", tmp_path):
        assert found["error"].startswith("Expected the same masks on every process, got different ones of network.")


def test_the_command_on_two_processes_continues_after_a_kill_to_the_same_bits(tmp_path):
    from survival import TRAIN, alone, differences, holders, rows

    def line(folder: Path) -> list[str]:
        overrides = [*alone(epochs=3, batches=20), f"output_dir={folder}", "trainer.devices=2", "trainer.strategy=ddp"]
        return [sys.executable, str(TRAIN), *overrides]

    straight, killed = tmp_path / "straight" / "run", tmp_path / "killed" / "run"
    assert forked.run(line(straight), processes=2).returncode == 0
    with subprocess.Popen(line(killed), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while rows(killed) < 2:
            assert process.poll() is None
            time.sleep(0.02)
        process.kill()
    while holders(killed.parent):
        time.sleep(0.05)
    assert forked.run(line(killed), processes=2).returncode == 0
    assert differences(straight.parent, killed.parent) == []
