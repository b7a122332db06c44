"""The benchmark's arithmetic on made-up measurements, and the command on its smallest part."""

import json
from pathlib import Path

import benchmark
import pytest
import torch
from benchmarks import steps
from benchmarks.measuring import Row, measure, summarise, table
from common import script


@pytest.fixture(scope="module")
def measured() -> list[dict[str, object]]:
    """Two rows over three rounds and two, the second against the first, in records."""
    slow = iter([4.0, 2.0, 9.0])
    base = Row("part", "base", lambda seed, folder: {"seconds": next(slow), "val_acc": 0.5}, 3)
    quick = iter([2.0, 3.0])
    other = Row("part", "other", lambda seed, folder: {"seconds": next(quick), "val_acc": 0.25}, 2, (base,))
    return summarise(measure([base, other]))


def test_medians_are_over_rounds_and_ratios_within_them(measured):
    base, other = measured
    assert base["seconds"] == {"median": 4.0, "min": 2.0, "max": 9.0}
    assert base["ratio"] is None
    assert other["ratio"] == {"median": 1.0, "min": 0.5, "max": 1.5}  # 2 / 4 and 3 / 2
    assert (base["rounds"], other["rounds"]) == (3, 2)
    assert [each["seconds"] for each in other["measurements"]] == [2.0, 3.0]


def test_the_table_has_a_line_for_each_row(measured):
    assert table(measured).splitlines() == [
        "| part | seconds | val_acc | ratio | to | rounds |",
        "|---|---|---|---|---|---|",
        "| base | 4 (2 to 9) | 0.5000 |  |  | 3 |",
        "| other | 2.5 (2 to 3) | 0.2500 | 1 (0.5 to 1.5) | base | 2 |",
    ]


@pytest.mark.slow
def test_steps_of_every_kind_are_measured_and_drawn(tmp_path: Path):
    rows = [row for row in steps.step_rows(1, threads=1) if "SparseLab" not in row.name and "20%" not in row.name]
    records = summarise(measure([row for row in rows if row.part == "step"]))
    assert {record["name"].split(",")[0] for record in records} == {"dense", "masked", "rewiring"} | {
        f"csr {density}%" for density in (1, 5, 10)
    }
    assert all(record["milliseconds"]["min"] > 0 for record in records)
    steps.figure(records, tmp_path / "steps.png")
    assert (tmp_path / "steps.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_the_command_measures_a_part_and_leaves_what_it_found(tmp_path: Path):
    printed = script("benchmark.py", "--quick", "--only", "rewire", "--json", tmp_path / "found.json").stdout
    rows = json.loads((tmp_path / "found.json").read_text())["rows"]
    assert [row["name"] for row in rows[:3]] == ["topk, 10^5", "random, 10^5", "hebbian, 10^5"]
    assert all(row["milliseconds"]["min"] > 0 for row in rows)
    assert "| hebbian, 10^6 |" in printed


def test_a_part_that_there_is_not_is_refused(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["benchmark.py", "--only", "epoch,speed"])
    with pytest.raises(SystemExit, match="2"):
        benchmark.main()
    wanted = f"Expected parts among {', '.join(benchmark.PARTS)}, got 'speed'"
    assert wanted in capsys.readouterr().err


def test_masks_of_an_update_are_those_that_a_rewiring_by_rigl_makes(monkeypatch, capsys):
    from benchmarks import peers

    monkeypatch.setattr(peers, "SHAPES", ((10, 12), (8, 4, 3, 3)))
    for weight, mask, gradient, fraction in peers.cases(ties=False):
        masks = peers.ours(weight, mask, gradient, fraction)
        pruned = int(float(fraction) * int(mask.sum()) + 1e-9)
        kept = torch.zeros_like(mask).flatten()
        kept[weight.abs().flatten().topk(int(mask.sum()) - pruned).indices] = True
        grown = gradient.abs().flatten().masked_fill(kept, -1).topk(pruned).indices
        assert masks.equal(kept.index_fill(0, grown, True).view_as(mask))
    monkeypatch.setattr(peers, "SEEDS", 1)
    peers.main()
    assert "| sparsimony |" in capsys.readouterr().out
