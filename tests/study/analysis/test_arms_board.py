"""A real TensorBoard on a small study with a report, read back over HTTP."""

import json
import re
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from studies import course, make_run

from sparse_lightning.study.analysis.findings import analyse
from sparse_lightning.study.analysis.tensorboard import BOUNDS, write_arms
from sparse_lightning.study.train.record import tag

pytestmark = pytest.mark.slow

CURVES = {grow: [course(0.9, seed, 3) for seed in (0, 1)] for grow in (True, False)}


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("study")
    for grow, curves in CURVES.items():
        for seed, values in enumerate(curves):
            make_run(folder, values, seed, {"model.hebbian_grow": grow}, more={"topology/dead/a": [seed, 2, 3]})
    write_arms(folder, analyse([folder]))
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", folder, "--port", "0", "--host", "127.0.0.1"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        address = next(found[0] for line in process.stderr if (found := re.search(r"http://\S+:\d+/", line)))
        try:
            for _ in range(300):
                if len(ask(address, "runs")) == 2:
                    break
                time.sleep(0.1)
            yield address
        finally:
            process.kill()


def ask(address: str, what: str, **query: str) -> Any:
    url = f"{address}data/{what}" + (f"?{urllib.parse.urlencode(query)}" if query else "")
    with urllib.request.urlopen(url, timeout=30) as response:
        return json.loads(response.read())


def test_arms_are_margin_charts(board: str) -> None:
    layout = ask(board, "plugin/custom_scalars/layout")
    (chart,) = (chart for chart in layout["category"][0]["chart"] if chart["title"] == tag("val_acc"))
    (series,) = chart["margin"]["series"]
    lines = {}
    for what in ("lower", "value", "upper"):
        query = {"run": "arms/hebbian_grow=true", "tag": series[what]}
        found = ask(board, "plugin/custom_scalars/scalars", **query)
        lines[what] = [value for _, _, value in found["tag_to_events"][series[what]]]
    one, other = CURVES[True]
    assert lines["value"] == pytest.approx([(a + b) / 2 for a, b in zip(one, other, strict=True)], abs=1e-6)
    spread = [abs(a - b) / 2**0.5 for a, b in zip(one, other, strict=True)]
    found = [value - low for value, low in zip(lines["value"], lines["lower"], strict=True)]
    assert found == pytest.approx(spread, abs=1e-6)


def test_dead_connections_are_charts_of_the_arms(board: str) -> None:
    groups = ask(board, "plugin/custom_scalars/layout")["category"]
    assert tag("topology/dead/a") in {chart["title"] for group in groups for chart in group["chart"]}


def test_tags_are_explained_in_words_and_the_edges_of_bands_stand_apart(board: str) -> None:
    (text,) = ask(board, "plugin/text/text", run="arms/hebbian_grow=false", tag="about/tags/text_summary")
    assert "overlap of successive masks" in text["text"]
    scalars = ask(board, "plugin/scalars/tags")
    edges = [name for name in scalars["arms/hebbian_grow=true"] if name.endswith(("/lower", "/upper"))]
    assert edges
    assert all(name.startswith(BOUNDS) for name in edges)
