"""Published figures stand beside an arm only if every setting that matters is the published one."""

import math
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf
from scipy import stats
from studies import PUBLISHED, course, make_run, sweep

from sparse_lightning.study import load_runs, original_columns
from sparse_lightning.study.analysis import experiments
from sparse_lightning.study.analysis.experiments import HEADLINE, load
from sparse_lightning.study.analysis.findings import analyse
from sparse_lightning.study.analysis.report import format_report
from sparse_lightning.study.analysis.tables import cells_table, main_table

NAMES = sorted(path.stem for path in Path(experiments.__file__).parent.glob("*.json"))


def test_the_published_rows_stand_below_their_arms(study: Path) -> None:
    rows = {row[0]: list(row[1:]) for row in main_table(load_runs(study)).rows[2:]}
    assert list(rows) == ["hebbian_grow=true", "  published"]
    assert rows["  published"] == [
        "97.90 ± 0.10", "97.60 ± 0.20", "18.0", "97.80", "98.00", "97.40", "98.00", "8",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("setting", "value", "reason"),
    [
        ("trainer.max_epochs", 31, "max_epochs is 31, published 30"),
        ("model.density", 0.1, "density is 0.1, published 0.2"),
        ("model.hidden_sizes", [300, 100], "hidden_sizes is [300, 100], published [100, 100, 100]"),
        ("model.method", "set", "method is set, published without"),
        ("model.activation", "kwinners", "activation is kwinners, published relu"),
        ("model.hebbian_grow", None, "hebbian_grow is null, published"),
    ],
)
def test_the_setting_that_differs_from_the_published_one_is_named(
    setting: str, value: object, reason: str, tmp_path: Path
) -> None:
    for seed in range(2):
        make_run(tmp_path, course(0.97, seed, 30), seed, {"model.hebbian_grow": True, setting: value})
    findings = analyse([tmp_path])
    assert not findings.cells
    assert not findings.conclusions
    printed = " ".join(format_report(findings).split())
    assert f"The published figures are of other settings than all runs: {reason}" in printed


def test_what_differs_in_all_arms_is_reported_once(tmp_path: Path) -> None:
    for dropout in (0.1, 0.2):
        changed = {"model.hebbian_grow": True, "model.hidden_sizes": [300, 100], "model.dropout": dropout}
        make_run(tmp_path, course(0.97, 0, 30), 0, changed)
    printed = " ".join(format_report(analyse([tmp_path])).split())
    reason = "of other settings than these runs: hidden_sizes is [300, 100], published [100, 100, 100]."
    assert reason in printed
    assert printed.count("of other settings") == 1


def test_a_study_of_other_methods_that_names_no_experiment_is_not_compared_with_one(tmp_path: Path) -> None:
    for method in ("SET", "RigL"):
        make_run(tmp_path, course(0.97, 0, 30), 0, {"sparsity._target_": f"sparse_lightning.{method}"})
    assert "published" not in format_report(analyse([tmp_path]))


def test_the_settings_of_the_repository_are_the_published_ones() -> None:
    settings = {}
    for group, file in (("model", "sparse_mlp"), ("data", "mnist"), ("trainer", "default")):
        found = OmegaConf.load(Path(__file__).parents[3] / "conf" / group / f"{file}.yaml")
        settings |= {f"{group}.{key}": value for key, value in OmegaConf.to_container(found, resolve=False).items()}
    for name, value in PUBLISHED.items():
        assert settings.get(name, value) == value, name
    assert len(settings.keys() & PUBLISHED.keys()) > 15


def test_an_experiment_that_is_named_is_the_one_compared_with(tmp_path: Path) -> None:
    experiment = load("weighted_magnitude")
    base = {**experiment.settings, "experiment_name": experiment.name}
    for cell in (experiment.cells[0], experiment.cells[3]):
        for seed in range(3):
            make_run(tmp_path, course(0.97, seed, 30), seed, cell.settings, base=base)
    findings = analyse([tmp_path])
    assert [cell.value for cell, _ in findings.cells] == [0.977, 0.98]
    assert not findings.conclusions
    rows = cells_table(findings).rows
    assert rows[1][0] == "pruning=weighted_hebbian,prune_fraction=0.3"
    values = findings.table.loc[findings.table["arm"] == "prune_fraction=0.3", "val_acc_max"]
    half = stats.t.ppf(0.975, 2) * values.std() * math.sqrt(1 / 3 + 1 / experiment.cells[3].runs)
    assert rows[1][2:4] == ["98.000", f"{100 * values.mean():.3f}"]
    assert rows[1][5] == f"{100 * (values.mean() - half):.3f} to {100 * (values.mean() + half):.3f}"


@pytest.mark.parametrize(("spread", "place"), [(0.0001, "outside"), (0.001, "inside")])
def test_a_published_figure_is_inside_where_a_mean_of_as_many_runs_is_expected(
    tmp_path: Path, spread: float, place: str
) -> None:
    experiment = load("weighted_magnitude")
    base = {**experiment.settings, "experiment_name": experiment.name}
    for seed in range(20):  # of a mean that differs from 0.98 by more than its own interval and the rounding
        accuracy = 0.9788 + (spread if seed % 2 else -spread)
        make_run(tmp_path, [accuracy] * 30, seed, experiment.cells[3].settings, base=base)
    (row,) = cells_table(analyse([tmp_path])).rows
    assert (row[2], row[4]) == ("98.000", place)


def test_a_figure_that_was_published_of_several_arms_together_needs_all_of_them(tmp_path: Path) -> None:
    experiment = load("hebbian_pruning")
    base = {**experiment.settings, "experiment_name": experiment.name, "model.activation": "relu"}
    levels = [{**experiment.cells[1].settings, "sparsity.growth": growth} for growth in ("random", "hebbian")]
    sweep(tmp_path / "random", levels[0], epochs=30)
    for seed in range(2):
        make_run(tmp_path / "alone", course(0.97, seed, 30), seed, levels[0], base=base)
        make_run(tmp_path / "both", course(0.97, seed, 30), seed, levels[0], base=base)
        make_run(tmp_path / "both", course(0.98, seed, 30), seed, levels[1], base=base)
    assert not analyse([tmp_path / "alone"]).cells
    findings = analyse([tmp_path / "both"])
    ((cell, arms),) = findings.cells
    assert (cell.value, len(arms)) == (0.974, 2)
    (row,) = cells_table(findings).rows
    assert row[6] == "4"
    assert "growth=random and hebbian" in row[0]
    assert all(not name.startswith("  published") for name, *_ in main_table(findings.frame).rows)


def test_one_run_beside_a_published_figure_is_neither_inside_nor_outside(tmp_path: Path) -> None:
    make_run(tmp_path, course(0.97, 0, 30), 0)
    assert {row[4] for row in cells_table(analyse([tmp_path])).rows} == {"not known"}


def test_an_unknown_experiment_is_compared_with_nothing(tmp_path: Path) -> None:
    make_run(tmp_path, course(0.97, 0, 30), 0, base={**PUBLISHED, "experiment_name": "mine"})
    assert "ublished figures" not in format_report(analyse([tmp_path]))
    with pytest.raises(ValueError, match=r"Expected experiment_name to be one of chtss_table7, .*, got 'mine'"):
        load("mine")


@pytest.mark.parametrize("name", NAMES)
def test_every_published_table_is_data_of_which_each_cell_can_be_matched(name: str) -> None:
    experiment = load(name)
    assert experiment.name == name
    for cell in experiment.cells:
        assert 0 < cell.value <= 1 or cell.metric.endswith("epoch")
        assert cell.metric in {"val_acc_max", "val_acc_last", "val_acc_max_epoch"}
        named = {**experiment.settings, **cell.settings}
        arms = {}
        for number, levels in enumerate(_combinations(cell.over)):
            arms[str(number)] = {key: experiments.label(value) for key, value in {**named, **levels}.items()}
        assert cell in [found for found, own in experiment.cells_of(arms) if set(own) == set(arms)]


def _combinations(over: object) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = [{}]
    for key, values in dict(over).items():  # type: ignore[call-overload]
        rows = [{**row, key: value} for row in rows for value in values]
    return rows


def test_the_tables_hold_the_published_figures() -> None:
    def values(name: str, **settings: object) -> list[float]:
        wanted = {key.replace("__", "."): value for key, value in settings.items()}
        cells = load(name).cells
        return [cell.value for cell in cells if wanted.items() <= cell.settings.items() and cell.statistic == "mean"]

    assert values("density", sparsity__density=0.01) == [0.634, 0.661, 0.295]
    assert values("hebbian_and_magnitude_pruning", sparsity__pruning__weight_fraction=0.0) == [
        0.976, 0.974, 0.971, 0.969, 0.966, 0.964,
    ]  # fmt: skip
    assert values("lenet_300_100", sparsity__density=0.05) == [0.9853, 0.9814, 0.9668]
    assert values("hebbian_pruning", model__activation="kwinners") == [0.975, 0.973, 0.97, 0.969, 0.969, 0.968]
    assert values(HEADLINE) == [24, 0.981, 0.979, 18, 0.979, 0.976]


def test_how_noisy_the_two_measures_of_speed_are_is_measured_and_not_asserted(study: Path) -> None:
    findings = analyse([study])
    (compared,) = findings.comparisons
    runs = findings.table.pivot(index="pair", columns="arm", values="val_acc_max_epoch")
    paired = runs["hebbian_grow=true"] - runs["hebbian_grow=false"]
    assert compared.main.loc["val_acc_max_epoch", "difference_sd"] == pytest.approx(paired.std())
    other = compared.main.loc["epochs_to", "difference_sd"]
    expected = f"paired differences is {paired.std():.1f} and {other:.1f} epochs."
    assert findings.conclusions[1].remark.endswith(expected)


def test_too_few_pairs_are_inconclusive_and_reported_so(tmp_path: Path) -> None:
    sweep(tmp_path, {"model.hebbian_grow": True}, {"model.hebbian_grow": False}, epochs=30)
    conclusions = analyse([tmp_path]).conclusions
    assert {verdict.status for conclusion in conclusions for verdict in conclusion.verdicts} == {"inconclusive"}
    assert "a test of 2 pairs cannot reach 5%; it takes 6 pairs." in conclusions[0].verdicts[0].figures


def test_the_published_analysis_runs_unchanged_on_the_original_columns(study: Path) -> None:
    df = original_columns(load_runs(study))
    assert list(df.columns) == load(HEADLINE).more["columns"]
    df = df[df["epochs"] >= 30]
    assert df.groupby("model")["model"].count().to_dict() == {"DSNNMixedHeb": 16}
    table = df.groupby(["hebbian_grow"]).agg(
        {
            "val_acc_max_epoch": ["mean"],
            "val_acc_max": ["min", "max", "mean", "std"],
            "val_acc_last": ["min", "max", "mean", "std"],
            "model": ["count"],
        }
    )
    assert table.round(2).loc[True, ("val_acc_max", "max")] == 0.97
    assert (df["hebbian_prune_perc"].replace(np.nan, 0.0) == 0.0).all()
    assert (df["weight_prune_perc"].replace(np.nan, 0.0) == 0.3).all()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"model.hebbian_grow": True}, (True, 0.2, None, 0.3, "DSNNMixedHeb")),
        ({"model.hebbian_grow": None}, (False, 0.2, None, 0.3, "SparseModel")),
        ({"sparsity.pruning": "hebbian", "sparsity.growth": "hebbian"}, (True, 0.1, 0.4, None, "DSNNMixedHeb")),
        ({"sparsity.pruning": "weighted_hebbian"}, (False, 0.1, None, 0.4, "DSNNWeightedMag")),
        (
            {
                "sparsity.pruning._target_": "sparse_lightning.MixedPruning",
                "sparsity.pruning.hebbian_fraction": 0.6,
                "sparsity.pruning.weight_fraction": 0.2,
            },
            (False, 0.1, 0.6, 0.2, "DSNNMixedHeb"),
        ),
        ({"sparsity.growth": None, "sparsity.pruning": "signed_magnitude"}, (False, 0.1, None, 0.4, "SparseModel")),
    ],
)
def test_the_original_columns_hold_what_runs_have(
    settings: dict[str, object], expected: tuple[object, ...], tmp_path: Path
) -> None:
    own = {"sparsity._target_": "sparse_lightning.PruneRegrow", "sparsity.density": 0.1}
    own |= {
        "sparsity.prune_fraction": 0.4,
        "sparsity.growth": "random",
        "model.density": 1.0,
        "model.hebbian_grow": None,
    }
    sparse = any(name.startswith("sparsity") for name in settings)
    base = {**PUBLISHED, "trainer.accelerator": "cpu", **(own if sparse else {}), **settings}
    make_run(tmp_path, [0.9], 0, {}, base=base)
    table = original_columns(load_runs(tmp_path))
    names = ["hebbian_grow", "on_perc", "hebbian_prune_perc", "weight_prune_perc", "model"]
    found = tuple(None if value != value else value for value in table[names].iloc[0])
    assert found == expected
    rest = table.drop(columns=names).iloc[0]
    assert rest.notna().all(), rest
    assert (rest["lr_scheduler"], rest["network"], rest["device"]) == ("MultiStepLR", "MLPHeb", "cpu")
    assert Path(rest["data_dir"]).is_dir()


def test_kwinners_and_noise_are_in_the_original_columns(tmp_path: Path) -> None:
    make_run(tmp_path, [0.9], 0, {"model.activation": "kwinners", "model.test_noise": True})
    table = original_columns(load_runs(tmp_path))
    assert table[["use_kwinners", "test_noise"]].all(axis=None)
