"""A real TensorBoard on a small real study, read back over HTTP."""

import json
import re
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

RUNS = {f"hebbian_grow={grow},seed={seed}" for grow in ("true", "false") for seed in (0, 1)}
ARMS = {"arms/hebbian_grow=true", "arms/hebbian_grow=false"}


@pytest.fixture(scope="module")
def board(grid: tuple[Path, str]) -> Iterator[str]:
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", grid[0], "--port", "0", "--host", "127.0.0.1"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        address = next(found[0] for line in process.stderr if (found := re.search(r"http://\S+:\d+/", line)))
        try:
            for _ in range(300):
                if set(ask(address, "runs")) >= RUNS | ARMS:
                    break
                time.sleep(0.1)
            yield address
        finally:
            process.kill()


def ask(address: str, what: str, data: dict[str, Any] | None = None, **query: str) -> Any:
    url = f"{address}data/{what}" + (f"?{urllib.parse.urlencode(query)}" if query else "")
    body = None if data is None else json.dumps(data).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.loads(response.read())


def test_runs_are_named_by_what_differs_and_the_report_was_made(grid: tuple[Path, str], board: str) -> None:
    assert set(ask(board, "runs")) == RUNS | ARMS
    assert (grid[0] / "report.html").exists()


def test_scalars_are_grouped_and_over_epochs(board: str) -> None:
    tags = ask(board, "plugin/scalars/tags")["hebbian_grow=true,seed=0"]
    groups = {name.partition("/")[0] for name in tags}
    layers = {f"topology.network.{layer}" for layer in ("linear1", "linear2", "linear3", "output")}
    assert groups == {"metrics", "topology", "result", *layers}
    values = ask(board, "plugin/scalars/scalars", run="hebbian_grow=true,seed=0", tag="metrics/val_acc")
    assert [step for _, step, _ in values] == [0, 1, 2]


def test_every_run_is_a_row_of_what_was_swept_and_of_results(grid: tuple[Path, str], board: str) -> None:
    experiment = ask(board, "plugin/hparams/experiment", {})
    columns = [info["name"] for info in experiment["hparamInfos"]]
    assert set(columns[:2]) == {info["name"] for info in experiment["hparamInfos"] if info["differs"]}
    assert set(columns[:2]) == {"hebbian_grow", "seed"}
    assert "sparsity" in columns  # the file that was chosen
    metrics = [metric["name"]["tag"] for metric in experiment["metricInfos"]]
    assert metrics == ["result/val_acc_max", "result/val_acc_max_epoch", "result/val_acc_last", "result/epochs"]
    wanted = {
        "allowedStatuses": ["STATUS_SUCCESS"],
        "colParams": [{"hparam": "hebbian_grow"}, {"metric": {"tag": metrics[0]}, "order": "ORDER_DESC"}],
        "startIndex": 0,
        "sliceSize": 10,
    }
    groups = ask(board, "plugin/hparams/session_groups", wanted)["sessionGroups"]
    assert {group["hparams"]["hebbian_grow"] for group in groups} == {"true", "false"}
    assert len({frozenset(group["hparams"]) for group in groups}) == 1
    best = [group["metricValues"][0]["value"] for group in groups]
    assert best == sorted(best, reverse=True)
    results = [json.loads((grid[0] / run / "result.json").read_text())["val_acc_max"] for run in RUNS]
    assert sorted(best) == pytest.approx(sorted(results))


def test_masks_and_the_map_of_pixels_are_pictures(board: str) -> None:
    tags = ask(board, "plugin/images/tags")["hebbian_grow=false,seed=1"]
    layers = {f"topology.masks/network.{layer}" for layer in ("linear1", "linear2", "linear3", "output")}
    pixels = "topology.pixels/connections"
    assert set(tags) == {pixels, *layers}
    found = ask(board, "plugin/images/images", run="hebbian_grow=false,seed=1", tag=pixels, sample="0")
    assert [picture["step"] for picture in found] == [0, 1, 2]
    with urllib.request.urlopen(f"{board}data/plugin/images/individualImage?{found[0]['query']}") as response:
        assert response.read().startswith(b"\x89PNG")
    histograms = ask(board, "plugin/histograms/tags")["hebbian_grow=false,seed=1"]
    assert "topology.connections_of_an_input_unit/network.linear1" in histograms
