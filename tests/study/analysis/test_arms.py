"""Arms are found from what varies and never pooled: a row for each, in every kind of sweep."""

import itertools
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from matplotlib.text import Text
from studies import course, make_run, sweep

from sparse_lightning.study import format_table, load_runs, summarize
from sparse_lightning.study.analysis.arms import arrange, numeric_factor
from sparse_lightning.study.analysis.figures import MOST, draw, render, style
from sparse_lightning.study.analysis.findings import analyse, dead_connections
from sparse_lightning.study.analysis.plots import colour_and_dash, means_by_level
from sparse_lightning.study.analysis.report import format_report, make_report
from sparse_lightning.study.analysis.statistics import interval
from sparse_lightning.study.analysis.tensorboard import write_arms

SET = {"sparsity._target_": "sparse_lightning.SET", "sparsity.density": 0.2, "sparsity.prune_fraction": 0.3}
RIGL = {"sparsity._target_": "sparse_lightning.RigL", "sparsity.density": 0.2, "sparsity.update_every": 100}
NONE = {"sparsity": None}

SWEEPS: dict[str, tuple[list[Mapping[str, Any]], list[str]]] = {
    "one factor": (
        [{"model.prune_fraction": fraction} for fraction in (0.1, 0.3, 0.5)],
        ["prune_fraction=0.1", "prune_fraction=0.3", "prune_fraction=0.5"],
    ),
    "two factors": (
        [{"model.density": density, "model.hebbian_grow": grow} for density in (0.1, 0.2) for grow in (True, False)],
        [f"density={density},hebbian_grow={grow}" for density in (0.1, 0.2) for grow in ("true", "false")],
    ),
    "methods by name": (
        [{"model.method": method, "model.hebbian_grow": True} for method in ("set", "rigl")],
        ["method=set", "method=rigl"],
    ),
    "methods with arguments of their own": ([SET, RIGL, NONE], ["sparsity=SET", "sparsity=RigL", "sparsity=none"]),
    "methods and densities": (
        [{**method, "sparsity.density": density} for method in (SET, RIGL) for density in (0.05, 0.1)],
        [f"sparsity={method},density={density}" for method in ("SET", "RigL") for density in (0.05, 0.1)],
    ),
    "nested settings": (
        [{"sparsity.growth._target_": f"theirs.{name}", "sparsity.growth.power": 2} for name in ("Near", "Far")],
        ["growth=Near", "growth=Far"],
    ),
    "classes within classes": (
        [
            {**SET, "sparsity.counts": None},
            {"sparsity._target_": "sparse_lightning.SNFS", "sparsity.counts._target_": "theirs.Counts"},
        ],
        ["sparsity=SET", "sparsity=SNFS"],
    ),
    "a name or an object": (
        [
            {"sparsity.growth": "random"},
            *({"sparsity.growth._target_": "theirs.Near", "sparsity.growth.power": power} for power in (1.0, 2.5)),
        ],
        ["growth=random", "growth=Near(power=1)", "growth=Near(power=2.5)"],
    ),
    "an argument of an object": (
        [{"sparsity.growth._target_": "theirs.Near", "sparsity.growth.power": power} for power in (1.0, 2.5)],
        ["power=1", "power=2.5"],
    ),
    "lists": (
        [{"model.hidden_sizes": sizes} for sizes in ([100, 100], [300])],
        ["hidden_sizes=[100, 100]", "hidden_sizes=[300]"],
    ),
    "mappings": (
        [{"model.density": density} for density in (0.1, {"linear1": 0.2})],
        ["density=0.1", "density={linear1: 0.2}"],
    ),
    "a setting that only some runs have": (
        [{}, {"model.activation_boost": 1.4}],
        ["activation_boost=null", "activation_boost=1.4"],
    ),
    "data": (
        [{"data.dataset": name, "data_sha256": name * 3} for name in ("MNIST", "KMNIST")],
        ["dataset=MNIST", "dataset=KMNIST"],
    ),
    "no factor": ([{}], ["all runs"]),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", SWEEPS)
def test_every_arm_of_a_sweep_has_a_row_of_its_own_runs_everywhere(kind: str, tmp_path: Path) -> None:
    levels, arms = SWEEPS[kind]
    sweep(tmp_path, *levels)
    frame = load_runs(tmp_path)
    table = summarize(frame)
    assert set(table.index) == set(arms)
    assert (table["count", "sum"] == 2).all()
    findings = analyse([tmp_path])
    assert set(findings.arm_curves()) == set(arms)
    assert set(findings.table["arm"]) == set(arms)
    assert len(findings.comparisons) == (len(arms) // 2 if "factors" in kind or "and" in kind else len(arms) - 1)
    printed = format_report(findings)
    assert "nan" not in printed
    assert all(f"\n{arm} " in printed for arm in arms)
    assert {path.parent.name for path in write_arms(tmp_path, findings)} == set(arms)
    best = frame.groupby(frame["run"].str.rpartition(",seed")[0])["val_acc_max"].mean()
    assert sorted(table["val_acc_max", "mean"]) == pytest.approx(sorted(best))  # each from its own runs


def test_two_folders_reported_together_keep_their_arms_apart(tmp_path: Path) -> None:
    sweep(tmp_path / "one", SET, RIGL)
    sweep(tmp_path / "two", {"model.hebbian_grow": True}, {"model.hebbian_grow": False})
    table = summarize(load_runs(tmp_path / "one", tmp_path / "two"))
    assert list(table["count", "sum"]) == [2, 2, 2, 2]
    assert len(set(table.index)) == 4


@pytest.mark.slow
def test_one_seed_has_no_spread_and_no_nan_anywhere(tmp_path: Path) -> None:
    sweep(tmp_path, {"model.density": 0.1}, {"model.density": 0.2}, seeds=[3])
    printed = make_report(tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert re.search(r"\ndensity=0.2 +9\d\.\d\d +9", printed)
    assert "±" not in printed.split("\n\n")[0]
    assert "nan" not in printed
    assert "nan" not in re.sub('base64,[^"]*', "", page)
    assert "nan" not in (tmp_path / "summary.csv").read_text()


def test_unequal_seeds_count_for_the_arm_and_those_without_a_pair_are_named(tmp_path: Path) -> None:
    sweep(tmp_path, {"model.density": 0.1}, {"model.density": 0.2})
    make_run(tmp_path, course(0.9, 7), 7, {"model.density": 0.1})
    findings = analyse([tmp_path])
    assert list(summarize(findings.frame)["count", "sum"]) == [3, 2]
    (compared,) = findings.comparisons
    assert set(compared.main["pairs"]) == {2}
    assert "has no pair: seed 7, not finished in density=0.2" in format_report(findings)


def test_a_run_that_repeats_another_is_not_counted_and_named(small: Path, tmp_path: Path) -> None:
    make_run(tmp_path / "again", course(0.5, 0), 0)
    findings = analyse([small, tmp_path / "again"])
    assert list(summarize(findings.frame)["count", "sum"]) == [2, 2]
    assert "it repeats seed 0 of hebbian_grow=true." in " ".join(format_report(findings).split())


def test_arms_are_compared_all_else_equal(tmp_path: Path) -> None:
    grows = (True, False, None)
    sweep(tmp_path, *({"model.density": d, "model.hebbian_grow": g} for d in (0.1, 0.2) for g in grows))
    frame = load_runs(tmp_path)
    design, runs, notes = arrange(frame)
    assert (design.against, design.inferred, len(runs), notes) == ({"hebbian_grow": "false"}, True, 12, [])
    assert design.pairs["density=0.1,hebbian_grow=true"] == "density=0.1,hebbian_grow=false"
    assert len(design.pairs) == 4
    by_density, _, _ = arrange(frame, "model.density=0.2")
    assert by_density.pairs["density=0.1,hebbian_grow=null"] == "density=0.2,hebbian_grow=null"
    one, _, _ = arrange(frame, "density=0.2,hebbian_grow=false")
    assert set(one.pairs.values()) == {"density=0.2,hebbian_grow=false"}
    with pytest.raises(ValueError, match=r"Expected density to be one of 0\.1, 0\.2, got '0\.3'"):
        arrange(frame, "density=0.3")
    with pytest.raises(ValueError, match=r"Expected a factor of the study \(.*\), got 'dropout'"):
        arrange(frame, "dropout=0")


def test_the_arguments_of_a_class_are_no_factors_but_are_named(tmp_path: Path) -> None:
    sweep(tmp_path, SET, RIGL)
    design, _, _ = arrange(load_runs(tmp_path))
    assert design.factors == ("sparsity",)
    assert design.moved["update_every"] == "update_every: 100 in RigL; null in SET."
    words = " ".join(design.notes())
    assert "except those that change along with sparsity (sparsity.prune_fraction, update_every)." in words
    assert design.against == {"sparsity": "SET"}


def test_a_word_and_a_class_in_its_place_are_two_levels(tmp_path: Path) -> None:
    own = {"sparsity.growth._target_": "mine.Growth", "sparsity.growth.power": 2}
    method = {"sparsity._target_": "sparse_lightning.SET"}
    sweep(tmp_path, {**method, "sparsity.growth": "random"}, {**method, **own})
    design, _, _ = arrange(load_runs(tmp_path))
    assert design.pairs == {"growth=Growth": "growth=random"}
    assert "except those that change along with growth (sparsity.growth.power)." in " ".join(design.notes())


def test_an_object_within_an_object_is_part_of_it(tmp_path: Path) -> None:
    own = {"sparsity.growth._target_": "mine.Soft", "sparsity.growth.growth._target_": "mine.Growth"}
    method = {"sparsity._target_": "sparse_lightning.SET"}
    powers = [{**method, **own, "sparsity.growth.power": power} for power in (2, 4)]
    sweep(tmp_path, {**method, "sparsity.growth": "random"}, *powers)
    design, _, _ = arrange(load_runs(tmp_path))
    assert len(design.arms) == 3
    assert set(design.pairs.values()) == {"growth=random"}


def test_files_of_a_group_name_the_arms_where_every_run_chose_one(tmp_path: Path) -> None:
    static = {"sparsity._target_": "sparse_lightning.StaticSparse", "sparsity.initial": "random"}
    arms = {"static": static, "snip": {**static, "sparsity.initial": "snip"}, "own/set": SET}
    for number, (name, settings) in enumerate(arms.items()):
        for seed in range(2):
            make_run(tmp_path / name, course(0.9, 7 * number + seed), seed, settings, choices={"sparsity": name})
    design, _, _ = arrange(load_runs(tmp_path))
    assert design.factors == ("sparsity",)
    assert design.pairs == {"sparsity=own/set": "sparsity=static", "sparsity=snip": "sparsity=static"}
    assert design.moved["initial"] == "initial: null in own/set; snip in snip; random in static."
    make_run(tmp_path, course(0.9, 3), 2, RIGL, choices={"sparsity": "snip"})  # and another class: not that file
    assert "sparsity=StaticSparse,initial=random" in arrange(load_runs(tmp_path))[0].arms


def test_arms_that_never_rewired_and_too_few_pairs_are_named(tmp_path: Path) -> None:
    same, moved = [math.nan, *[1.0] * 7], [math.nan, *[0.5] * 7]
    for name, overlap in (("SET", moved), ("RigL", same)):
        for seed in range(6):
            settings = {"sparsity._target_": f"sparse_lightning.{name}"}
            more = {"topology/jaccard/all": overlap}
            make_run(tmp_path, course(0.9, seed), seed, settings, more=more)
    words = " ".join(format_report(analyse([tmp_path])).split())
    assert "the first connections are also the last: sparsity=RigL." in words
    assert "With 6 pairs no difference can be significant after the correction" in words
    assert "that takes 8 pairs" in words


def test_only_epochs_at_the_last_density_count_for_the_best(tmp_path: Path) -> None:
    accuracy, density = [0.90, 0.99, 0.94, 0.95, 0.93], [1.0, 0.5, 0.1, 0.1, 0.1]
    more = {"topology/density/all": density, "topology/dead/network.linear1": [60, 60, 1, 9, 2]}
    make_run(tmp_path, accuracy, 0, {"sparsity._target_": "sparse_lightning.GMP"}, more=more)
    make_run(
        tmp_path, accuracy, 0, {"sparsity._target_": "sparse_lightning.SET"}, more={"topology/density/all": [0.1] * 5}
    )
    found = analyse([tmp_path], threshold=0.92)
    dead = dead_connections(found).set_index("arm").loc["sparsity=GMP"]
    assert (dead["epoch"], dead["count"]) == (3, 2)
    table = found.table.set_index("arm")
    assert table["val_acc_max"].to_dict() == {"sparsity=GMP": 0.95, "sparsity=SET": 0.99}
    assert table["val_acc_max_epoch"].to_dict() == {"sparsity=GMP": 3, "sparsity=SET": 1}
    assert table["epochs_to"].to_dict() == {"sparsity=GMP": 3, "sparsity=SET": 2}
    assert summarize(found.frame)["val_acc_max", "mean"].to_dict() == {"sparsity=GMP": 0.95, "sparsity=SET": 0.99}
    assert "The density changes until epoch 2 in sparsity=GMP" in " ".join(format_report(found).split())


def test_runs_are_paired_by_their_own_seed_where_a_class_names_none(tmp_path: Path) -> None:
    for seed in range(3):
        own = {"sparsity._target_": "sparse_lightning.SET", "sparsity.seed": seed}
        make_run(tmp_path, course(0.9, seed), seed, own)
        make_run(tmp_path, course(0.9, 9 + seed), seed, {"sparsity._target_": "mine.Method"})
    (compared,) = analyse([tmp_path]).comparisons
    assert set(compared.main["pairs"]) == {3}


def test_values_of_an_own_argument_are_compared_with_a_method_that_has_none(tmp_path: Path) -> None:
    mine = {"sparsity._target_": "mine.Method", "sparsity.density": 0.2}
    sweep(tmp_path, *({**mine, "sparsity.power": power} for power in (1, 2)), SET)
    pairs = arrange(load_runs(tmp_path))[0].pairs
    assert sorted(pairs) == ["sparsity=Method,power=1", "sparsity=Method,power=2"]
    assert set(pairs.values()) == {"sparsity=SET,power=null"}


def test_factors_that_move_together_are_compared_and_named_as_such(tmp_path: Path) -> None:
    sweep(tmp_path, {"model.density": 0.1, "model.dropout": 0.0}, {"model.density": 0.2, "model.dropout": 0.5})
    design, _, _ = arrange(load_runs(tmp_path))
    assert design.pairs == {"dropout=0.5,density=0.2": "dropout=0,density=0.1"}
    assert "although density differs too" in " ".join(design.notes())
    warned = " ".join(analyse([tmp_path]).warnings)
    assert "A difference may come from density (0.2, not 0.1) as well as from dropout, in dropout=0.5" in warned


def test_an_argument_left_to_its_default_equals_one_that_is_given(tmp_path: Path) -> None:
    given = {"sparsity._target_": "mine.Method", "sparsity.density": 0.1, "sparsity.power": 1.0}
    left = {name: value for name, value in given.items() if name != "sparsity.power"} | {"model.width": 8}
    for seed in (0, 1):
        make_run(tmp_path, course(0.9, seed), seed, given | {"model.width": 4}, base={})
        make_run(tmp_path, course(0.9, seed), seed, left, base={}, defaults={"sparsity.power": 1.0})
    design, _, _ = arrange(load_runs(tmp_path))
    assert set(design.arms) == {"width=4", "width=8"}
    make_run(tmp_path, course(0.9, 2), 2, left, base={}, defaults={"sparsity.power": 2.0})
    assert "power" in arrange(load_runs(tmp_path))[0].factors
    make_run(tmp_path, course(0.9, 3), 3, left, base={}, defaults={"sparsity.power": 1.0, "sparsity.other": 5})
    assert "other" not in load_runs(tmp_path)  # no run gives it
    make_run(tmp_path, course(0.9, 4), 4, left, base={}, defaults=[5])
    assert load_runs(tmp_path)["status"].tolist().count("unreadable") == 1
    make_run(tmp_path, course(0.9, 5), 5, left, base={}, defaults={"trainer.max_epochs": 9, "no.such": 1})
    assert set(load_runs(tmp_path)["max_epochs"].dropna()) == {8}  # what has no class has no defaults


def test_a_run_without_noted_defaults_has_those_of_its_class(tmp_path: Path) -> None:
    given = {"sparsity._target_": "mine.Method", "sparsity.power": 1.0}
    old = {"sparsity._target_": "mine.Method", "model.width": 8}
    other = {"sparsity._target_": "mine.Other"}
    make_run(tmp_path, course(0.9, 0), 0, given, base={})
    make_run(tmp_path, course(0.9, 1), 1, old | {"model.width": 4}, base={}, defaults={"sparsity.power": 1.0})
    make_run(tmp_path, course(0.9, 2), 2, old, base={})
    make_run(tmp_path, course(0.9, 3), 3, other, base={})
    powers = load_runs(tmp_path).set_index("seed")["power"]
    assert powers[[0, 1, 2]].tolist() == [1.0, 1.0, 1.0]
    assert powers.isna()[3]


def test_an_object_with_and_without_a_default_is_one_level(tmp_path: Path) -> None:
    soft = {"sparsity._target_": "mine.Method", "sparsity.growth._target_": "mine.Soft"}
    for seed in (0, 1):
        make_run(tmp_path, course(0.9, seed), seed, soft | {"sparsity.growth.power": 2.0}, base={})
        arguments = {"sparsity.growth.power": 1.0, "sparsity.growth.base": 3}
        make_run(tmp_path, course(0.9, seed), seed, soft | dict(reversed(arguments.items())), base={})
        left = soft | {"model.width": 8}
        make_run(tmp_path, course(0.9, seed), seed, left, base={}, defaults=arguments)
    frame = load_runs(tmp_path)
    assert set(frame["growth"]) == {"Soft(base=3, power=2)", "Soft(base=3, power=1)"}


def test_classes_of_the_same_name_are_distinguished(tmp_path: Path) -> None:
    sweep(tmp_path, *({"sparsity._target_": f"{home}.SET"} for home in ("theirs", "ours")))
    assert set(arrange(load_runs(tmp_path))[0].arms) == {"sparsity=theirs.SET", "sparsity=ours.SET"}


def test_where_and_how_a_run_was_made_is_no_factor(tmp_path: Path) -> None:
    sweep(tmp_path, {"threads": 1}, {"threads": 2}, seeds=[0])
    make_run(tmp_path, course(0.9, 1), 1, {"trainer.log_every_n_steps": 7, "logger.csv.folder": "there"})
    design, runs, notes = arrange(load_runs(tmp_path))
    assert design.factors == ()
    assert (len(runs), len(notes)) == (2, 1)


def test_a_table_is_made_of_runs_of_a_model_that_is_not_ours(tmp_path: Path) -> None:
    for width in (1, 2):
        make_run(tmp_path, course(0.9, width), 0, {"model._target_": "their.Model", "model.width": width}, base={})
    printed = format_table(load_runs(tmp_path))
    assert "width=1" in printed
    assert "published figures" not in format_report(analyse([tmp_path])).lower()


@pytest.mark.slow
def test_a_factor_of_three_numbers_has_a_figure_and_many_arms_have_no_other(tmp_path: Path) -> None:
    densities = (0.1, 0.02, 0.5)
    sweep(tmp_path / "few", *({**method, "sparsity.density": each} for method in (SET, RIGL) for each in densities))
    found = analyse([tmp_path / "few"])
    assert numeric_factor(found.design) == "density"
    means = means_by_level(found, "density", found.main_metrics[0])
    assert list(means) == ["SET", "RigL"]
    assert means["SET"].index.tolist() == [0.02, 0.1, 0.5]
    runs = found.table[found.table["arm"] == "sparsity=SET,density=0.1"]["val_acc_max"]
    assert means["SET"].loc[0.1].tolist() == pytest.approx([runs.mean(), *interval(runs.to_numpy())])
    with style():
        names = [picture.name for picture in draw(found)]
    assert names[:3] == ["val_acc_max_by_density", "val_acc_last_by_density", "learning_curves_val_acc"]

    assert "logarithmic" not in next(iter(draw(found))).caption
    near = [{"model.density": each} for each in (0.01, 0.1, 0.5)]
    for settings, best in zip(near, (0.90, 0.97, 0.99), strict=True):
        make_run(tmp_path / "near", [best] * 3, 0, settings)
    (best, *_) = draw(analyse([tmp_path / "near"]))
    assert best.caption.endswith("logarithmic in the error, 100% minus val_acc.")
    heights = [best.figure.axes[0].transData.transform((0.1, value))[1] for value in (90, 97, 99.1)]
    assert heights[1] - heights[0] == pytest.approx(heights[2] - heights[1], rel=1e-2)  # 10, 3 and 0.9% missing

    for settings, best in zip(near, (0.9, 0.99995, 0.99999), strict=True):
        make_run(tmp_path / "nearly_all", [best] * 3, 0, settings)
    with style():
        (best, *_) = draw(analyse([tmp_path / "nearly_all"]))
        assert render(best.figure, "png")
    for settings in near:
        make_run(tmp_path / "all", [0.99996] * 3, 0, settings)
    with style():
        (best, *_) = draw(analyse([tmp_path / "all"]))
        assert render(best.figure, "png")

    rules = [{"model.rule": rule, "model.density": each} for rule in "abcdefgh" for each in (0.1, 0.2, 0.5)]
    sweep(tmp_path / "panels", *rules, seeds=[0])
    with style():
        (best, _) = draw(analyse([tmp_path / "panels"]))
    shown = [axes for axes in best.figure.axes if axes.get_visible()]
    assert {axes.get_title(loc="left") for axes in shown} == set("abcdefgh")
    assert {len(axes.lines) for axes in shown} == {9}  # its own, and all in grey
    assert "in grey" in best.caption
    assert len({colour_and_dash(number) for number in range(MOST)}) == MOST

    long = [each | {"model.rule": f"method_of_a_long_name_{each['model.rule'] * 20}"} for each in rules]
    sweep(tmp_path / "long", *long, seeds=[0])
    with style():
        (best, _) = draw(analyse([tmp_path / "long"]))
        render(best.figure, "png")
    shown = [axes for axes in best.figure.axes if axes.get_visible()]
    titles = [text for axes in shown for text in axes.findobj(Text) if text.get_text().startswith("method_of")]
    extents = [title.get_window_extent() for title in titles]
    assert len(extents) == 8
    assert not any(one.overlaps(other) for one, other in itertools.combinations(extents, 2))
    assert all(extent.x1 <= best.figure.bbox.x1 for extent in extents)

    sweep(tmp_path / "many", *({"model.density": 0.01 * (1 + number)} for number in range(15)), seeds=[0])
    with style():
        (best, last) = draw(analyse([tmp_path / "many"]))
    assert best.name == "val_acc_max_by_density"
    assert best.alt.startswith("Best val_acc by density: val_acc: 95.")
    assert last.alt.count("%") == 2


def test_two_numbers_or_a_word_are_no_numeric_factor(tmp_path: Path) -> None:
    sweep(tmp_path, *({"model.density": each} for each in (0.1, 0.2)), {"model.density": "much"}, seeds=[0])
    assert numeric_factor(analyse([tmp_path]).design) is None


def test_a_difference_is_mixed_only_where_the_reference_differs_in_what_is_compared(tmp_path: Path) -> None:
    pairs = ((0.1, 0.0), (0.2, 0.5), (0.3, 0.0))
    sweep(tmp_path, *({"model.density": density, "model.dropout": dropout} for density, dropout in pairs))
    (warned,) = (each for each in analyse([tmp_path]).warnings if "as well as" in each)
    assert (
        warned
        == "A difference may come from density (0.2, not 0.1) as well as from dropout, in dropout=0.5,density=0.2."
    )


def test_of_many_comparisons_one_may_have_no_pairs_yet(tmp_path: Path) -> None:
    arms = [{"model.width": width} for width in range(6)]
    sweep(tmp_path, *arms[:-1], seeds=[0])
    make_run(tmp_path, course(0.9, 1), 1, arms[-1])
    printed = make_report(tmp_path)
    assert re.search(r"\nwidth=5 +- +- +no pairs +0 ", printed)


def test_an_experiment_that_is_not_known_is_named(tmp_path: Path) -> None:
    sweep(tmp_path, *({"experiment_name": "headline", "model.width": width} for width in (1, 2)))
    notes = " ".join(analyse([tmp_path]).notes)
    assert "No published experiment is called headline: experiment_name may be chtss_table7, density, hebbian" in notes


def test_arms_with_the_same_metrics_are_named(tmp_path: Path) -> None:
    for seed in (0, 1):
        for width in (1, 2):
            make_run(tmp_path, course(0.9, seed), seed, {"model.width": width})
        make_run(tmp_path, course(0.9, seed + 2), seed, {"model.width": 3})
    warned = " ".join(analyse([tmp_path]).warnings)
    assert warned == "The same val_acc in every epoch, as if the settings had no effect: width=1 and width=2."


def test_the_defaults_of_different_classes_are_settings_that_differ(tmp_path: Path) -> None:
    for name, power in (("SET", 1.0), ("Mine", 2.0)):
        defaults = {"sparsity.power": power, "sparsity.same": 3}
        make_run(tmp_path, course(0.9, 0), 0, {"sparsity._target_": f"mine.{name}"}, defaults=defaults)
    design, _, _ = arrange(load_runs(tmp_path))
    assert set(design.arms) == {"sparsity=SET", "sparsity=Mine"}
    assert design.moved == {"power": "power: 2 in Mine; 1 in SET."}
