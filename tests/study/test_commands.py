import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from sparse_lightning import __version__
from sparse_lightning.study import commands

ROOT = Path(__file__).parents[2]


def called(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/sparse-lightning", *words])
    commands.main()


@pytest.mark.parametrize("word", ["train", "report"])
def test_the_first_word_says_what_to_do_and_the_others_are_for_that(word, monkeypatch):
    seen = []
    monkeypatch.setattr(commands, word, lambda: seen.append(sys.argv))
    called(monkeypatch, word, "seed=1", "-m")
    assert seen == [[f"sparse-lightning {word}", "seed=1", "-m"]]


def test_without_words_it_says_how_it_is_used(monkeypatch, capsys):
    called(monkeypatch)
    assert "sparse-lightning report FOLDER" in capsys.readouterr().out
    called(monkeypatch, "--version")
    assert capsys.readouterr().out == f"sparse_lightning {__version__}\n"
    with pytest.raises(
        SystemExit,
        match="Expected sparse-lightning train or sparse-lightning report, got 'tarin': did you mean 'train'",
    ):
        called(monkeypatch, "tarin")


def test_the_command_is_installed_and_the_wheel_has_its_configuration():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["scripts"] == {"sparse-lightning": "sparse_lightning.study.commands:main"}
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"] == {"conf": "sparse_lightning/conf"}
    assert (commands.conf() / "config.yaml").is_file()


@pytest.mark.slow
def test_output_that_nobody_reads_to_its_end_is_no_error(tmp_path):
    train = [sys.executable, "-c", "from sparse_lightning.study.commands import main; main()", "train", "--help"]
    with subprocess.Popen(train, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
