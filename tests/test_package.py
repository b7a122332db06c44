import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import sparse_lightning

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def brought() -> dict[str, set[str]]:
    """What the package, and then the study, import that Lightning has not."""
    code = "import sys, {}; print(*sys.modules)\n" * 3
    code = code.format(
        "lightning.pytorch", "sparse_lightning", "sparse_lightning.study.cli, sparse_lightning.study.train.run"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lightning, package, study = ({*line.split()} for line in run.stdout.splitlines())
    return {"package": package - lightning, "study": study - lightning}


@pytest.mark.slow
def test_importing_the_package_brings_nothing_heavy_beside_lightning(brought: dict[str, set[str]]) -> None:
    # Lightning's torchmetrics takes matplotlib and torchvision along where they are installed.
    assert "sparse_lightning" in brought["package"]
    assert not brought["package"] & {"pandas", "matplotlib", "hydra", "omegaconf", "torchvision", "tensorboard"}


@pytest.mark.slow
def test_training_imports_what_reports_need_only_when_one_is_made(brought: dict[str, set[str]]) -> None:
    assert "sparse_lightning.study.cli" in brought["study"]
    assert not {name.partition(".")[0] for name in brought["study"]} & {"statsmodels", "matplotlib"}
    assert "scipy.stats" not in brought["study"]


def documented(public: object) -> set[str]:
    """The arguments, or attributes, that the docstrings of a function, or of a class and its bases, describe."""
    texts = [inspect.getdoc(each) or "" for each in (inspect.getmro(public) if inspect.isclass(public) else [public])]
    sections = [re.search(r"^(?:Args|Attributes):\n((?: +.*\n?|\n)+)", text, re.M) for text in texts]
    return {name for found in sections if found for name in re.findall(r"^ {4}(\w+):", found.group(1), re.M)}


@pytest.mark.parametrize("name", sparse_lightning.__all__)
def test_what_is_public_is_found_and_documented(name: str) -> None:
    public = getattr(sparse_lightning, name)
    assert name in dir(sparse_lightning)
    assert public.__doc__
    assert public.__doc__.strip().splitlines()[0].endswith((".", ":"))
    assert set(inspect.signature(public).parameters) - {"args", "kwargs"} <= documented(public)


def test_the_reference_has_all_that_is_public() -> None:
    pages = "\n".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs" / "reference").glob("*.md"))
    assert sorted(re.findall(r"^.. auto(?:class|function):: (\w+)$", pages, re.M)) == sorted(sparse_lightning.__all__)


def test_there_is_one_version() -> None:
    assert f"version: {sparse_lightning.__version__}\n" in (ROOT / "CITATION.cff").read_text()


@pytest.mark.parametrize("path", sorted((ROOT / "src").rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_each_module_says_what_belongs_in_it(path: Path) -> None:
    described = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert described
    assert described.splitlines()[0].strip()


def test_mnist_keeps_its_attribution() -> None:
    text = (ROOT / "src/sparse_lightning/datamodules/mnist_data/README.md").read_text()
    assert "Yann LeCun" in text
    assert "CC BY-SA 3.0" in text


def test_every_dependency_bound_has_its_reason() -> None:
    listed = re.search(r"^dependencies = \[\n(.*?)^\]", (ROOT / "pyproject.toml").read_text(), re.M | re.S)
    assert listed
    assert all(re.fullmatch(r' +"[\w-]+[<>=].*", +# .+', line) for line in listed.group(1).splitlines())
