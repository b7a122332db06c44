"""What README, CONTRIBUTING and docs show, run: Python blocks, commands and links."""

import json
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from common import script as run_script
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from lightning.pytorch import Trainer
from omegaconf import OmegaConf

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
EXAMPLE = (ROOT / "examples/callback.py").read_text(encoding="utf-8")


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.S | re.M)


CALLBACK, SUBCLASSES = blocks(ROOT / "README.md", "python")


def commands(page: Path) -> Iterator[list[str]]:
    """The words of each command that starts a script of this repository."""
    for block in blocks(page, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            for command in line.split("&&"):
                words = shlex.split(command, comments=True)
                if any(word.startswith("scripts/") for word in words):
                    yield words[words.index("python") + 1 :]


def first_values(overrides: list[str]) -> Iterator[str]:
    """Overrides of this project's keys, with the first value of each that has several."""
    for override, text in zip(OverridesParser.create().parse_overrides(overrides), overrides, strict=True):
        if text.startswith("hydra"):
            continue  # of launchers and sweepers that may not be installed
        if not override.is_sweep_override():
            yield text
        elif override.is_choice_sweep() or override.is_range_sweep():
            yield f"{text.partition('=')[0]}={next(iter(override.sweep_string_iterator()))}"


@pytest.fixture
def names(
    trainer: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[dict[str, object]]:
    """What a reader has: a Trainer, which is quiet here, a model and data, in an empty folder."""
    monkeypatch.setattr("lightning.pytorch.Trainer", trainer)
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "example"}
    exec(EXAMPLE.removesuffix(CALLBACK), namespace)
    exec("from lightning.pytorch import Trainer\nfrom sparse_lightning import PruneRegrow", namespace)
    yield namespace
    torch.set_flush_denormal(False)  # which a page turns on


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 200


def without_dead(text: str) -> str:
    """A summary without its column of dead connections: their number depends on the machine's rounding."""
    return re.sub(r"(?m)(\d\.\d{4}) +\d+ *", r"\1 ", text)


def test_the_callback_prints_what_the_readme_shows(
    names: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    assert EXAMPLE.endswith(CALLBACK)
    exec(CALLBACK, names)
    shown, printed = blocks(ROOT / "README.md", "text")[0], capsys.readouterr().out
    assert without_dead(printed) == without_dead(shown)
    assert names["sparse"].rewirings == 9


REWIRINGS = {"GrowTheLonely": 5, "HalfThenHold": 5, "EveryThirdEpoch": 1}


@pytest.mark.parametrize(
    ("source", "rewirings_of"),
    [
        (CALLBACK + SUBCLASSES, {"GrowTheLonely": 5}),
        ((ROOT / "examples/own_method.py").read_text("utf-8"), REWIRINGS),
    ],
)
def test_subclasses_are_methods_of_their_own(
    source: str, rewirings_of: dict[str, int], names: dict[str, object], trainer: Callable[..., Trainer]
) -> None:
    exec(source, names)
    for subclass, rewirings in rewirings_of.items():
        sparse = names[subclass](density=0.1)
        trainer(max_epochs=6, callbacks=[sparse]).fit(names["YourModel"](), names["your_data"])
        assert sparse.rewirings == rewirings
    view = type("View", (), {"mask": torch.ones(2, 2), "kept": torch.tensor([[True, True], [True, False]])})
    full, lonely = names["GrowTheLonely"]().growth_scores(view)
    assert (lonely > full).all()
    if "HalfThenHold" in rewirings_of:
        assert [names["HalfThenHold"]().fraction_factor(progress) for progress in (0.0, 0.4, 0.6)] == [1.0, 1.0, 0.5]


def test_a_subclass_in_the_readme_is_at_most_ten_lines() -> None:
    assert max(len(each.strip().splitlines()) for each in SUBCLASSES.split("\n\n\n")) <= 10


@pytest.mark.filterwarnings("ignore:.* will not rewire in this training")
@pytest.mark.parametrize("page", [page for page in PAGES[1:] if blocks(page, "python")], ids=lambda page: page.stem)
def test_the_python_of_a_page_runs_and_prints_what_its_comments_show(page: Path, names: dict[str, object]) -> None:
    write_runs(Path("outputs/FOLDER"))
    for block in blocks(page, "python"):
        exec(block, names)
        for shown, expected in re.findall(r"^print\((.*)\)  # (\d+|[A-Z]\S*\))", block, re.M):
            assert str(eval(shown, names)) == expected


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_is_understood(page: Path) -> None:
    for script, *words in commands(page):
        assert (ROOT / script).exists()
        if script != "scripts/train.py" or "--help" in words:
            continue
        name = words[words.index("--config-name") + 1] if "--config-name" in words else "config"
        overrides = [word for word in words if "=" in word]
        if "--config-dir" in words:
            folder = ROOT / words[words.index("--config-dir") + 1]
            run_script("train.py", "--config-dir", folder, *first_values(overrides), "--cfg", "job")
            continue
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            compose(name, list(first_values(overrides)))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_every_page_is_found_from_the_readme() -> None:
    docs = ROOT / "docs"
    readme, index = ((folder / name).read_text("utf-8") for folder, name in ((ROOT, "README.md"), (docs, "index.md")))
    assert "](docs/index.md)" in readme
    for page in docs.rglob("*.md"):
        assert page.stem == "index" or f"\n{page.relative_to(docs).with_suffix('').as_posix()}\n" in index


def write_runs(study: Path) -> None:
    """Two finished runs of three epochs, as training leaves them."""
    for grow in (True, False):
        folder = study / f"hebbian_grow={str(grow).lower()},seed=0"
        folder.mkdir(parents=True)
        config = OmegaConf.merge(
            {"seed": 0, "output_dir": str(study)},
            *(
                {path.parent.name: OmegaConf.load(path)}
                for path in (ROOT / "conf").glob("*/*.yaml")
                if path.stem in ("sparse_mlp", "mnist", "default") and path.parent.name != "logger"
            ),
            {"model": {"hebbian_grow": grow}, "trainer": {"max_epochs": 3}},
        )
        (folder / "config.yaml").write_text(OmegaConf.to_yaml(config, resolve=True))
        rows = ["epoch,train_acc,val_acc,epoch_time", "0,0.9,0.91,1.0", "1,0.95,0.94,1.0", "2,0.97,0.93,1.0"]
        (folder / "metrics.csv").write_text("\n".join(rows) + "\n")
        result = {"epochs": 3, "val_acc_max": 0.94, "val_acc_max_epoch": 1, "val_acc_last": 0.93}
        (folder / "result.json").write_text(json.dumps(result))
