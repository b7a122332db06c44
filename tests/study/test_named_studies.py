"""Each published table has a study by its name, whose arms are the published ones."""

from pathlib import Path

import pandas as pd
import pytest
from common import ROOT, SHORT, script
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from sparse_lightning.study.analysis import experiments
from sparse_lightning.study.analysis.experiments import load
from sparse_lightning.study.analysis.runs import flat, label
from sparse_lightning.study.sweep.names import jobs_of
from sparse_lightning.study.train.record import result_of
from sparse_lightning.study.train.run import prepare

FILES = {path.stem: OmegaConf.load(path) for path in (ROOT / "conf" / "experiment").glob("*.yaml")}
NAMES = sorted(name for name, content in FILES.items() if "experiment_name" in content)  # those that were published
TABLES = sorted(path.stem for path in Path(experiments.__file__).parent.glob("*.json"))
ROWS = {"headline": 2, "hebbian_pruning": 24, "hebbian_and_magnitude_pruning": 18, "weighted_magnitude": 6} | {
    "density": 24,
    "lenet_300_100": 7,
    "chtss_table7": 9,
}


def configurations(name: str, *only: str) -> list[DictConfig]:
    """The configuration of each arm of a study that has these overrides, for the first of its seeds."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        study = compose("config", [f"experiment={name}"], return_hydra_config=True)
        study.hydra.overrides.task = [f"experiment={name}"]
        jobs = [job for job in jobs_of(study) if {"seed=0", *only} <= {*job}]
        found = [compose("config", job) for job in jobs]
    for config, job in zip(found, jobs, strict=True):
        config.logger = {}
        prepare(config, job)
    return found


def test_every_published_table_has_a_study() -> None:
    assert {FILES[name].experiment_name for name in NAMES} == set(TABLES)


@pytest.mark.slow
def test_the_arms_that_take_hebbian_growth_apart_differ_in_growth_alone() -> None:
    configs = configurations("hebbian_why")
    growths = [OmegaConf.to_container(config.sparsity).pop("growth") for config in configs]
    assert [growth if isinstance(growth, str) else growth["_target_"].rpartition(".")[2] for growth in growths] == [
        *("random", "hebbian", "FixedDegreeGrowth", "FixedDegreeGrowth"),
        *("SoftGrowth", "SoftGrowth", "SoftGrowth", "PhasedGrowth", "PhasedGrowth", "FixedRandomGrowth"),
    ]
    for config in configs:
        config.sparsity.growth = None
        assert config == configs[0]


@pytest.mark.slow
def test_the_methods_side_by_side_differ_in_sparsity_alone() -> None:
    configs = configurations("methods", "sparsity.density=0.05")
    assert len({config.sparsity._target_ for config in configs}) >= 12
    for config in configs:
        assert config.sparsity.distribution == "erdos_renyi"
        config.sparsity = None
        assert config == configs[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_published_figure_stands_beside_an_arm_of_its_study(name: str) -> None:
    configs = configurations(name)
    settings = [flat(OmegaConf.to_container(config, resolve=True)) for config in configs]
    arms = {str(number): {key: label(value) for key, value in each} for number, each in enumerate(settings)}
    assert len(arms) == ROWS[name]
    published = load(configs[0].experiment_name)
    cells = published.cells_of(arms)
    assert [cell for cell, _ in cells] == list(published.cells)
    assert {arm for _, own in cells for arm in own} == set(arms)


@pytest.mark.slow
def test_a_named_study_runs_by_one_command_and_takes_overrides(tmp_path: Path) -> None:
    short = ["trainer.max_epochs=2", "sparsity.prune_fraction=0.0,0.3", "seed=range(1)", *SHORT, "logger=csv"]
    done = script("train.py", "-m", "experiment=weighted_magnitude", *short, f"output_dir={tmp_path}")
    results = [result_of(path.parent) for path in tmp_path.glob("*/result.json")]
    assert [result["epochs"] for result in results] == [2, 2]
    assert len(pd.read_csv(tmp_path / "summary.csv")) > 10
    assert "max_epochs is 2, published 30" in " ".join(done.stdout.split())
    command = results[0]["command"]
    assert command.startswith("python scripts/train.py -m experiment=weighted_magnitude trainer.max_epochs=2 ")
    assert "'seed=range(1)'" in command
    assert "experiment=weighted_magnitude" in (tmp_path / "report.html").read_text()
