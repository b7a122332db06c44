"""One small study by every launcher of a cluster; that of this machine is tested with whole studies."""

from pathlib import Path

import forked
import pytest
from survival import command, differences

pytestmark = pytest.mark.slow
EPOCHS = 2


def launch(folder: Path, launcher: str) -> Path:
    line = [each for each in command(folder, EPOCHS, 1, f"hydra/launcher={launcher}") if "n_jobs" not in each]
    done = forked.run(line)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def sequential(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return launch(tmp_path_factory.mktemp("launchers") / "basic", "basic")


@pytest.mark.parametrize("launcher", ["submitit_local", "ray_cpu"])
def test_every_launcher_gives_the_results_of_one_run_after_another(sequential, tmp_path, launcher):
    pytest.importorskip(launcher.partition("_")[0])
    assert differences(sequential, launch(tmp_path, launcher)) == []
