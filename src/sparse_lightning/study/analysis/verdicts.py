"""What a study says of the published conclusions, or of any arm beside another, in plain words."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from sparse_lightning.study.analysis.runs import PUBLISHED
from sparse_lightning.study.analysis.statistics import EARLY, FEWEST, Metric, direction, row_of

SUPPORTED, CONTRADICTED, OPEN, SETTLED = "supported", "contradicted", "not settled", "settled"
SPEED = ("val_acc_max_epoch", "epochs_to")
ABOUT = (0.15, 0.25)  # points, what rounds to the published 0.2


@dataclass(frozen=True)
class Verdict:
    """One statement, what became of it, and the figures behind it."""

    claim: str
    status: str
    figures: str


@dataclass(frozen=True)
class Conclusion:
    """A conclusion and the verdicts that it comes down to, with a remark where they need one."""

    title: str
    verdicts: Sequence[Verdict]
    remark: str = ""


def published(
    main: pd.DataFrame, topology: pd.DataFrame, metrics: Sequence[Metric], where: str = ""
) -> list[Conclusion]:
    """The three published conclusions on Hebbian growth, judged.

    Each was stated of its metric before these runs were made, so each stands on its own interval and test; Holm's
    correction, which is for looking over many metrics, is said beside.

    Args:
        main: Hebbian growth compared with random growth, by the main metrics.
        topology: The same, by the measures of the topology.
        metrics: All metrics that the two tables have.
        where: What else sets these arms apart from others of the study, ``"density 0.1"``.
    """
    by_name = {metric.name: metric for metric in metrics}
    titles = [f"{where}: {title}" if where else title for title in PUBLISHED["conclusions"]]

    def judge(claim: str, table: pd.DataFrame, name: str, expected: int) -> Verdict:
        row = row_of(table, name)
        found = direction(row, corrected=False)
        status = OPEN if not found else SUPPORTED if found == expected else CONTRADICTED
        return Verdict(claim, status, figures(row, by_name[name], corrected=False))

    best = row_of(main, "val_acc_max")
    accuracy = [
        judge("less accurate, by best validation accuracy", main, "val_acc_max", -1),
        judge("less accurate, by last validation accuracy", main, "val_acc_last", -1),
        judge("less accurate over the whole training, by the area under the curve", main, "val_acc_area", -1),
        Verdict("by about 0.2 points (0.15 to 0.25), at its best", *_size(best, by_name["val_acc_max"])),
    ]
    speed = [
        judge("faster by best epoch, as published", main, SPEED[0], -1),
        judge(f"faster by {by_name[SPEED[1]].title}", main, SPEED[1], -1),
    ]
    reason = [
        judge(f"connections concentrate early (epoch {EARLY}) on few input units", topology, "gini_in", 1),
        judge(f"connections concentrate early (epoch {EARLY}) on few output units", topology, "gini_out", 1),
        judge("fewer of the possible connections are ever tried", topology, "explored", -1),
        Verdict(
            "and that is why it is less accurate",
            OPEN,
            "the two arms differ in their rule of growth and in all that follows from it; what causes what, a "
            "comparison of the two cannot tell",
        ),
    ]
    return [
        Conclusion(titles[0], accuracy),
        Conclusion(titles[1], speed, f"{_agreement(speed, main.loc[list(SPEED), 'difference'])}{_noise(main)}"),
        Conclusion(titles[2], reason),
    ]


def general(title: str, table: pd.DataFrame, metrics: Sequence[Metric]) -> Conclusion:
    """One arm beside another, metric by metric: what is settled, after Holm's correction over them, and what is not."""
    verdicts = []
    for metric in metrics:
        row = row_of(table, metric.name)
        found = direction(row)
        claim = f"{metric.more if found > 0 else metric.less}, by {metric.title}" if found else metric.title
        verdicts.append(Verdict(claim, SETTLED if found else OPEN, figures(row, metric)))
    return Conclusion(title, verdicts)


def figures(row: "pd.Series[Any]", metric: Metric, corrected: bool = True) -> str:
    """The figures behind a verdict, and what keeps it open, in a sentence."""
    said = _estimate(row, metric)
    if not math.isnan(row["low"]):
        said += f", p = {probability(row['p'])}, {probability(row['p_holm'])} after Holm's correction"
    for prefix, words in (("", "of this arm"), ("reference_", "of the other")):
        if row[f"{prefix}censored"]:
            said += f"; {row[f'{prefix}censored']} of {row[f'{prefix}runs']} runs {words} never got there"
    return said + _why_open(row, corrected)


def _estimate(row: "pd.Series[Any]", metric: Metric) -> str:
    if not row["pairs"]:
        return "no pair of finished runs has a record of it"
    said = f"difference {metric.show(row['difference'], sign=True)}{' ' if metric.unit else ''}{metric.unit}"
    if math.isnan(row["low"]):
        return f"{said}; {row['note']}"
    return f"{said} [{metric.show(row['low'], sign=True)}, {metric.show(row['high'], sign=True)}], {row['pairs']} pairs"


def probability(value: float) -> str:
    """A p-value as it is read.

    >>> probability(0.0078125), probability(0.00001), probability(0.25)
    ('0.008', '< 0.001', '0.25')
    """
    if math.isnan(value):
        return "-"
    return "< 0.001" if value < 0.001 else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def seeds(value: float) -> str:
    """How many seeds, as it is read."""
    return "-" if math.isnan(value) else "> 1000" if math.isinf(value) else f"{value:.0f}"


def _why_open(row: "pd.Series[Any]", corrected: bool) -> str:
    if math.isnan(row["low"]) or direction(row):
        return ""
    if direction(row, corrected):
        return "; on its own, not as one of several metrics"
    needed = f"; {seeds(row['seeds'])} seeds would settle such a difference, corrected, 4 times in 5"
    if row["pairs"] < FEWEST:
        return f"; too few runs to say: no test of {row['pairs']} pairs can reach 5%, it takes {FEWEST}"
    if row["low"] <= 0 <= row["high"]:
        return f"; the interval includes zero{needed}"
    return f"; the interval leaves out zero, but the test does not{needed}"


def _size(row: "pd.Series[Any]", metric: Metric) -> tuple[str, str]:
    """Whether accuracy is lower by what rounds to 0.2 points: the interval within, apart from it, or neither; why."""
    low, high, said = -100 * row["high"], -100 * row["low"], _estimate(row, metric)
    if math.isnan(low):
        return OPEN, said
    if row["pairs"] < FEWEST:
        return OPEN, f"{said}; too few runs to say: it takes {FEWEST} pairs"
    if ABOUT[0] <= low and high <= ABOUT[1]:
        return SUPPORTED, f"{said}; the interval is within"
    if high < ABOUT[0] or low > ABOUT[1]:
        return CONTRADICTED, f"{said}; the interval is outside"
    return OPEN, f"{said}; the interval is partly within"


def _agreement(speed: Sequence[Verdict], found: "pd.Series[float]") -> str:
    """Whether the two ways to judge speed agree, and where neither settles it, which way they point."""
    best, reaching = (verdict.status for verdict in speed)
    if best != reaching:
        return f"The two disagree: by best epoch this is {best}, by epochs to an accuracy {reaching}."
    if best != OPEN:
        return f"The two agree: by either this is {best}."
    slower, faster = all(value > 0 for value in found), all(value < 0 for value in found)
    pointed = "both point the other way" if slower else "both point that way" if faster else "nor do they point one way"
    return f"The two agree that this is not settled; {pointed}."


def _noise(main: pd.DataFrame) -> str:
    """How noisy the two ways to judge speed are, measured; nothing where that is not known."""
    best, reaching = main.loc[list(SPEED), "difference_sd"]
    if math.isnan(best) or math.isnan(reaching):
        return ""
    return f" From pair to pair, the one varies by {best:.1f} epochs, the other by {reaching:.1f} (standard deviation)."


def format_conclusions(conclusions: Sequence[Conclusion]) -> str:
    """Conclusions as text, wrapped."""
    import textwrap

    lines = []
    for number, conclusion in enumerate(conclusions, start=1):
        lines += textwrap.wrap(f"{number}. {conclusion.title}", 110, subsequent_indent="   ")
        for verdict in conclusion.verdicts:
            said = f"{verdict.status.upper()}: {verdict.claim}: {verdict.figures}"
            lines += textwrap.wrap(said, 110, initial_indent="   - ", subsequent_indent="     ")
        lines += textwrap.wrap(conclusion.remark, 110, initial_indent="   ", subsequent_indent="   ")
    return "\n".join(lines)


def is_published_question(levels: Mapping[str, str], other: Mapping[str, str]) -> bool:
    """Whether two arms are Hebbian and random growth, all else equal."""
    differing = {name for name in levels if levels[name] != other[name]}
    return differing == {"hebbian_grow"} and (levels["hebbian_grow"], other["hebbian_grow"]) == ("true", "false")
