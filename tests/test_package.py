import re
import subprocess
import sys
from pathlib import Path

import sparse_lightning

ROOT = Path(__file__).parents[1]


def modules(imports: str) -> set[str]:
    code = f"import sys, {imports}; print(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_importing_the_package_brings_nothing_heavy_beside_lightning() -> None:
    # Lightning's torchmetrics takes matplotlib and torchvision along where they are installed.
    brought = modules("sparse_lightning") - modules("lightning.pytorch")
    assert not brought & {"pandas", "matplotlib", "hydra", "omegaconf", "torchvision", "tensorboard"}


def test_training_imports_what_reports_need_only_when_one_is_made() -> None:
    brought = modules("sparse_lightning.study.cli, sparse_lightning.study.train.run") - modules("lightning.pytorch")
    assert not {name.partition(".")[0] for name in brought} & {"statsmodels", "matplotlib"}
    assert "scipy.stats" not in brought


def test_what_the_package_offers_is_documented() -> None:
    assert all(getattr(sparse_lightning, name).__doc__ for name in sparse_lightning.__all__)


def test_mnist_keeps_its_attribution() -> None:
    said = (ROOT / "src/sparse_lightning/datamodules/mnist_data/README.md").read_text()
    assert "Yann LeCun" in said
    assert "CC BY-SA 3.0" in said


def test_every_dependency_bound_has_its_reason() -> None:
    listed = re.search(r"^dependencies = \[\n(.*?)^\]", (ROOT / "pyproject.toml").read_text(), re.M | re.S)
    assert listed
    assert all(re.fullmatch(r' +"[\w-]+[<>=].*", +# .+', line) for line in listed.group(1).splitlines())
